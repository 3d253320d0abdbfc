"""Slowly-changing regression with ReLU and step size .01: continual backprop by replacement rate, L2 by strength, backprop.

The stream is that of the code's figure (all slow bits drawn anew). The code means a maturity of 100 but reads another key of
its configuration, so that it runs with 10; both are here.
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

RATES = ("1e-6", "1e-5", "1e-4", "1e-3", "1e-2")
DECAYS = ("1e-4", "1e-3", "1e-2", "1e-1")
SHOWN = {"bp": "bp", "l2 1e-2": "l2", "cbp 1e-4": "cbp"}  # label → look


def configs(context: Context) -> dict[str, Online]:
    """The runs by label: "bp", "l2 STRENGTH", "cbp RATE" (maturity 100) and "cbp10 RATE" (maturity 10)."""
    every = context.choose(smoke=2_000, teach=20_000, paper=20_000)
    common = {
        "stream": "slowly-changing-regression",
        "flip": "all",
        "steps": every * context.choose(smoke=2, teach=25, paper=50),
        "every": every,
        "flip_period": context.choose(smoke=1_000, teach=10_000, paper=10_000),
        "seeds": context.choose(smoke=4, teach=30, paper=100),
    }
    made = {"bp": Online(**common)}
    made |= {f"l2 {text}": Online(algorithm="l2", weight_decay=float(text), **common) for text in DECAYS}
    for name, maturity in (("cbp", 100), ("cbp10", 10)):
        for text in RATES:
            made[f"{name} {text}"] = Online(algorithm="cbp", replacement_rate=float(text), maturity=maturity, **common)
    return made


def compute(context: Context) -> Data:
    """All runs."""
    return {"records": records(context.runs(configs(context)), ["online_loss", "dead_fraction", "replaced"])}


def measure(data: Data) -> dict[str, Interval]:
    """``error_end``: mean squared error over the last tenth; ``dead_end``: share of units that are silent then."""
    table, made = data["records"], {}
    end = {label: during(table, "online_loss", label, 0.9, 1.0) for label in labels(table)}
    for label, values in end.items():
        made[f"error_end[{label}]"] = mean_interval(values)
        made[f"error_change[{label}]"] = paired_interval(values, grid(table, "online_loss", label)[0])
        made[f"dead_end[{label}]"] = mean_interval(during(table, "dead_fraction", label, 0.9, 1.0))
    for a, b in permutations(end, 2):
        made[f"error_end[{a} - {b}]"] = paired_interval(end[a], end[b])
    return made


def draw(data: Data, canvas: Canvas) -> None:
    """Left: error over time of the best setting of each method; right: error at the end over rate or strength."""
    table = data["records"]
    left, right = canvas.subplots(1, 2)
    for label, look in SHOWN.items():
        _, _, value = label.partition(" ")
        name = style.look(look).name + (f", {'λ' if look == 'l2' else 'ρ'} = {value}" if value else "")
        style.curve(left, steps(table, label) / 1e6, grid(table, "online_loss", label), look, name)
    left.set(xlabel="examples (millions)", ylabel="squared error", xlim=(0, None), ylim=(0.4, 1.9))
    left.legend(loc="upper left")
    end = {label: measured for label, measured in measure(data).items() if label.startswith("error_end[")}
    for method, values, look, name in (
        ("l2", DECAYS, "l2", "L2, over λ"),
        ("cbp", RATES, "cbp", "continual backprop, maturity 100, over ρ"),
        ("cbp10", RATES, "cbp-published-bitflip", "continual backprop, maturity 10, over ρ"),
    ):
        points = [end[f"error_end[{method} {value}]"] for value in values]
        shown = style.look(look)
        bars = [[p.mean - p.ends[0] for p in points], [p.ends[1] - p.mean for p in points]]
        right.errorbar([float(v) for v in values], [p.mean for p in points], bars, color=shown.color, marker=shown.marker,
                       linestyle=shown.line, capsize=2, label=name)  # fmt: skip
    plain = end["error_end[bp]"]
    right.axhspan(*plain.ends, color=style.look("bp").color, alpha=0.18, lw=0)
    right.axhline(plain.mean, color=style.look("bp").color, label="backprop")
    right.set(xscale="log", xlabel="replacement rate ρ per step, or L2 strength λ", ylabel="squared error, last tenth")
    right.set_ylim(bottom=0.4, top=2.1)
    right.legend(loc="upper left")


FIGURE = Figure(
    id="cbp_regression_rates",
    title="Slowly-changing regression: continual backprop and L2 against backprop",
    source=Source("2306.13812", "code", "slowly-changing regression, ReLU, SGD, step size .01"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={
        "smoke": "5 s",
        "teach": "1 min on 2 cores",
        "paper": "4 min on 2 cores (1.5 billion examples)",
    },
)
