"""Bit flipping with 5 hidden units: loss and effective rank when SGD is switched to continual backprop.

Two rules: that of the algorithm, and that of the published code. Two measurements of the rank: of the pre-activations, which
is what the published code logs, and of the activations. Labels are "bp", and "RULE SHARE" with the share of the run at the switch.
"""

from __future__ import annotations

from itertools import permutations

from matplotlib.figure import Figure as Canvas

from experiments.figures import style
from experiments.figures.intervals import mean_interval, paired_interval
from experiments.figures.online_panels import during, records, steps
from experiments.figures.record import Context, Data, Figure, Interval, Source, grid, labels
from experiments.online.config import Online

__all__ = ["FIGURE"]

SWITCHES = (0.25, 0.5, 0.75)
RULES = ("cbp-published-bitflip", "cbp")
PANELS = {
    "online_loss": "squared error",
    "effective_rank_z": "effective rank,\npre-activations",
    "effective_rank_h": "effective rank,\nactivations",
}
QUANTITIES = {"loss": "online_loss", "rank_pre": "effective_rank_z", "rank_post": "effective_rank_h"}
LAST = 0.02  # share of the run that is "just before the switch" or "the end": 100,000 steps of 5 million


def configs(context: Context) -> dict[str, Online]:
    """The runs by label; the published script has seeds 30 to 99."""
    every = context.choose(smoke=1_000, teach=50_000, paper=50_000)
    common = {
        "steps": every * context.choose(smoke=4, teach=40, paper=100),
        "every": every,
        "flip_period": context.choose(smoke=500, teach=10_000, paper=10_000),
        "seed": 30,
        "seeds": context.choose(smoke=4, teach=32, paper=70),
        "probe_from": "stream",
    }
    made = {"bp": Online(**common)}
    for rule in RULES:
        for switch in SWITCHES:
            made[f"{rule} {switch:g}"] = Online(algorithm=rule, switch=switch, **common)
    return made


def compute(context: Context) -> Data:
    """All runs."""
    return {"records": records(context.runs(configs(context)), list(PANELS))}


def measure(data: Data) -> dict[str, Interval]:
    """``Q_start``, ``Q_before`` (the switch, of backprop), ``Q_end``, and ``Q_gain`` = end − before, paired by seed."""
    table, made = data["records"], {}
    for quantity, column in QUANTITIES.items():
        end = {label: during(table, column, label, 1 - LAST, 1) for label in labels(table)}
        start = grid(table, column, "bp")[0]
        made[f"{quantity}_start[bp]"] = mean_interval(start)
        made[f"{quantity}_gain[bp]"] = paired_interval(end["bp"], start)
        for label, values in end.items():
            made[f"{quantity}_end[{label}]"] = mean_interval(values)
        for switch in SWITCHES:
            before = during(table, column, "bp", switch - LAST, switch)
            made[f"{quantity}_before[{switch:g}]"] = mean_interval(before)
            for rule in RULES:
                made[f"{quantity}_gain[{rule} {switch:g}]"] = paired_interval(end[f"{rule} {switch:g}"], before)
        for a, b in permutations(end, 2):
            made[f"{quantity}_end[{a} - {b}]"] = paired_interval(end[a], end[b])
    return made


def draw(data: Data, canvas: Canvas) -> None:
    """A row per measurement, a column per time of the switch."""
    table = data["records"]
    canvas.set_size_inches(style.PAGE, 5.0)
    axes = canvas.subplots(len(PANELS), len(SWITCHES), sharex=True, sharey="row")
    for row, (column, name) in zip(axes, PANELS.items()):
        for ax, switch in zip(row, SWITCHES):
            millions = steps(table, "bp") / 1e6
            for look in ("bp", *RULES):
                label = look if look == "bp" else f"{look} {switch:g}"
                after = millions > switch * millions[-1] if look != "bp" else millions > 0
                style.curve(ax, millions[after], grid(table, column, label)[after], look)
            ax.axvline(switch * millions[-1], color="0.4", linewidth=0.8, linestyle=":")
            ax.set_xlim(left=0)
        row[0].set_ylabel(name)
    for ax, switch in zip(axes[0], SWITCHES):
        ax.set_title(f"switch after {switch:.0%} of the steps")
    for ax in axes[-1]:
        ax.set_xlabel("steps (millions)")
    style.legend_below(canvas, axes[0, 0])


FIGURE = Figure(
    id="barriers_figB1_switch",
    title="Bit flipping: loss and effective rank when SGD is switched to continual backprop",
    source=Source("2510.00304", "v2", "Figure B.1"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={"smoke": "5 s", "teach": "1 min on 2 cores", "paper": "4 min on 2 cores (2.5 billion examples)"},
)
