"""Bit flipping: effective rank, duplicate units and loss for 5, 10, 50 and 100 hidden units, with SGD and after the switch.

Bars are of the last 2 % of a phase: SGD before the switch at half of the steps, SGD at the end of a run without a switch, and
continual backprop at the end, by the rule of the algorithm and by that of the published code. Labels are "PHASE WIDTH".
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.intervals import mean_interval, paired_interval
from experiments.figures.online_panels import during, records
from experiments.figures.record import Context, Data, Figure, Interval, Source
from experiments.online.config import Online

__all__ = ["FIGURE"]

WIDTHS = (5, 10, 50, 100)
SWITCH, LAST = 0.5, 0.02
PHASES = {  # name → run, end of the phase as a share of the run, look, hatch, name in the legend
    "sgd": ("bp", SWITCH, "bp", "", "SGD, before the switch"),
    "sgd-long": ("bp", 1.0, "bp", "///", "SGD, no switch, end"),
    "cbp-published-bitflip": ("cbp-published-bitflip", 1.0, "cbp-published-bitflip", "", "CBP as published, end"),
    "cbp": ("cbp", 1.0, "cbp", "", "CBP, end"),
}
PANELS = {
    "rank_pre": ("effective_rank_z", "effective rank,\npre-activations"),
    "rank_post": ("effective_rank_h", "effective rank,\nactivations"),
    "duplicates": ("duplicate_fraction_z", "duplicates,\npre-activations"),
    "loss": ("online_loss", "squared error"),
}


def configs(context: Context) -> dict[str, Online]:
    """The runs by "ALGORITHM WIDTH"; a record is 2 % of a run of 5 million steps."""
    made = {}
    for width in WIDTHS:
        for algorithm in ("bp", "cbp-published-bitflip", "cbp"):
            made[f"{algorithm} {width}"] = Online(
                algorithm=algorithm,
                switch=None if algorithm == "bp" else SWITCH,
                hidden=width,
                steps=context.choose(smoke=4_000, teach=500_000, paper=5_000_000),
                flip_period=context.choose(smoke=500, teach=10_000, paper=10_000),
                every=context.choose(smoke=1_000, teach=10_000, paper=100_000),
                seed=30,
                seeds=context.choose(smoke=4, teach=16, paper=32),
                probe_from="stream",
            )
    return made


def compute(context: Context) -> Data:
    """All runs."""
    columns = [column for column, _ in PANELS.values()]
    return {"records": records(context.runs(configs(context)), columns)}


def _bars(data: Data, column: str) -> dict[str, NDArray[Any]]:
    """Label "PHASE WIDTH" → mean [R] over the last part of the phase."""
    return {
        f"{phase} {width}": during(data["records"], column, f"{run} {width}", end - LAST, end)
        for phase, (run, end, *_) in PHASES.items()
        for width in WIDTHS
    }


def measure(data: Data) -> dict[str, Interval]:
    """Each bar, and the difference of any two of one width (paired by seed)."""
    made = {}
    for quantity, (column, _) in PANELS.items():
        bars = _bars(data, column)
        for label, values in bars.items():
            made[f"{quantity}[{label}]"] = mean_interval(values)
        for a, b in permutations(bars, 2):
            if a.split()[1] == b.split()[1]:
                made[f"{quantity}[{a} - {b}]"] = paired_interval(bars[a], bars[b])
    return made


def draw(data: Data, canvas: Canvas) -> None:
    """A panel per quantity, a group of bars per width."""
    canvas.set_size_inches(style.PAGE, 4.4)
    axes = canvas.subplots(2, 2)
    width = 0.8 / len(PHASES)
    for ax, (column, name) in zip(axes.flat, PANELS.values()):
        bars = _bars(data, column)
        for k, (phase, (_, _, look, hatch, title)) in enumerate(PHASES.items()):
            intervals = [mean_interval(bars[f"{phase} {n}"]) for n in WIDTHS]
            ends = np.array([[i.mean - i.ends[0] for i in intervals], [i.ends[1] - i.mean for i in intervals]])
            ax.bar(np.arange(len(WIDTHS)) + (k - 1.5) * width, [i.mean for i in intervals], width, yerr=ends,
                   color=style.look(look).color, alpha=0.6 if hatch else 1.0, hatch=hatch, edgecolor="white",
                   error_kw={"elinewidth": 0.8, "capsize": 1.5}, label=title)  # fmt: skip
        ax.set(xticks=range(len(WIDTHS)), xticklabels=[str(n) for n in WIDTHS], xlabel="hidden units", ylabel=name)
        ax.grid(axis="x", visible=False)
    style.legend_below(canvas, axes[0, 0], columns=len(PHASES))


FIGURE = Figure(
    id="barriers_figB2_width",
    title="Bit flipping: effective rank, duplicate units and loss over the width",
    source=Source("2510.00304", "v2", "Figure B.2"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={"smoke": "10 s", "teach": "2 min on 2 cores", "paper": "10 min on 2 cores (1.9 billion examples)"},
)
