"""Slowly-changing regression: the error of backprop over time, for every activation and step size.

Three rows: the paper's stream, on which one slow bit flips per period; the stream of the figure in the README of its code,
on which all slow bits are drawn anew; and Adam on the latter. Labels are "VARIANT ACTIVATION STEP-SIZE".
"""

from __future__ import annotations

from itertools import permutations

from matplotlib.figure import Figure as Canvas

from experiments.figures import style
from experiments.figures.intervals import mean_interval, paired_interval
from experiments.figures.online_panels import during, records, steps
from experiments.figures.record import Context, Data, Figure, Interval, Source, grid, labels
from experiments.online.config import ACTIVATIONS, Online

__all__ = ["FIGURE"]

STEP_SIZES = (0.01, 0.003, 0.001)
VARIANTS = {"one": "SGD, one bit flips", "all": "SGD, all bits redrawn", "adam": "Adam, all bits redrawn"}


def configs(context: Context) -> dict[str, Online]:
    """The runs by label. A record is a bin of the published curves: 40,000 examples, in the README's figure 20,000."""
    made = {}
    for variant in VARIANTS:
        bin_size = 40_000 if variant == "one" else 20_000
        every = context.choose(smoke=2_000, teach=bin_size, paper=bin_size)
        bins = context.choose(smoke=2, teach=25, paper=75 if variant == "one" else 50)
        for activation in ACTIVATIONS:
            for step_size in STEP_SIZES:
                made[f"{variant} {activation} {step_size:g}"] = Online(
                    stream="slowly-changing-regression",
                    flip="one" if variant == "one" else "all",
                    optimizer="adam" if variant == "adam" else "sgd",
                    activation=activation,
                    hidden=1 if activation == "linear" else 5,
                    step_size=step_size,
                    flip_period=context.choose(smoke=1_000, teach=10_000, paper=10_000),
                    steps=bins * every,
                    every=every,
                    seeds=context.choose(smoke=4, teach=30, paper=100),
                )
    return made


def compute(context: Context) -> Data:
    """All runs."""
    return {"records": records(context.runs(configs(context)), ["online_loss"])}


def measure(data: Data) -> dict[str, Interval]:
    """``error_start``: first bin; ``error_end``: last tenth; ``error_change``: end − start; differences within a variant."""
    table, made = data["records"], {}
    start = {label: grid(table, "online_loss", label)[0] for label in labels(table)}
    end = {label: during(table, "online_loss", label, 0.9, 1.0) for label in labels(table)}
    for label in end:
        made[f"error_start[{label}]"] = mean_interval(start[label])
        made[f"error_end[{label}]"] = mean_interval(end[label])
        made[f"error_change[{label}]"] = paired_interval(end[label], start[label])
    for a, b in permutations(end, 2):
        if a.split()[0] == b.split()[0]:
            made[f"error_end[{a} - {b}]"] = paired_interval(end[a], end[b])
    return made


def draw(data: Data, canvas: Canvas) -> None:
    """A row per variant, a column per step size, a curve per activation."""
    table = data["records"]
    canvas.set_size_inches(style.PAGE, 5.8)
    axes = canvas.subplots(len(VARIANTS), len(STEP_SIZES), sharey=True, squeeze=False)
    for row, (variant, name) in zip(axes, VARIANTS.items()):
        for ax, step_size in zip(row, STEP_SIZES):
            for activation in ACTIVATIONS:
                label = f"{variant} {activation} {step_size:g}"
                style.curve(ax, steps(table, label) / 1e6, grid(table, "online_loss", label), activation)
            ax.set_title(f"{name}, step size {step_size:g}")
            ax.set_xlim(left=0)
            ax.set_ylim(0.3, 1.7)
        row[0].set_ylabel("squared error")
    for ax in axes[-1]:
        ax.set_xlabel("examples (millions)")
    style.legend_below(canvas, axes[0, 0], columns=len(ACTIVATIONS))


FIGURE = Figure(
    id="cbp_edfig2b_regression",
    title="Slowly-changing regression: error by activation and step size",
    source=Source("2306.13812", "Nature 632:768", "Extended Data Figure 2b"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={
        "smoke": "20 s",
        "teach": "3 min on 2 cores",
        "paper": "10 min on 2 cores (10.5 billion examples)",
    },
)
