"""ε-rank at the start of a task against accuracy on it: the published estimator and the eigenvalues, side by side, at every ε.

The published ε is the one of a hundred levels that maximises R² on the plotted points. Here R² is shown for all levels, pooled and
within methods (see ``spectral_points``), for three readings of the same Hessian: the published estimator, the share of eigenvalues
beyond ±ε, and the share of N (C − 1) that the Gauss–Newton matrix has beyond ε. The nets are small (P < 3000), so that all
eigenvalues are computed and nothing is estimated but what the published code estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.intervals import Interval, mean_interval, paired_interval, point
from experiments.figures.record import Columns, Context, Data, Figure, Source, grid, labels
from experiments.paper.spectral_methods import methods
from experiments.paper.spectral_points import null_rank, r_squared, r_squared_within
from experiments.run_config import Run

if TYPE_CHECKING:
    from experiments.run_curvature import LiveNet

LEVELS = np.geomspace(1e-4, 10, 31)
PUBLISHED_EPS = 0.01  # of the published figure for permuted MNIST; LEVELS holds it
READINGS = {"published": "published estimator", "counted": "eigenvalues of $H$", "gauss_newton": "Gauss–Newton"}
CHOSEN = ("bp", "l2", "er", "l2-er", "cbp", "cbp-published-spectral", "spectral")


def compute(context: Context) -> Data:
    """One table per method: a row for every seed and every task at whose start the spectrum was looked at."""
    size: dict[str, Any] = context.choose(
        smoke={"size": "smoke", "tasks": 3, "seeds": 1, "hidden": (6, 6)},
        teach={"size": "digits", "tasks": 60, "seeds": 3, "hidden": (16, 16, 16)},
        paper={"size": "paper", "tasks": 800, "seeds": 5, "hidden": (1000, 1000, 1000)},
    )
    examples, every = context.choose(smoke=(40, 1), teach=(150, 6), paper=(2000, 10))
    due = list(range(every, size["tasks"], every))  # task 0 is dropped, as published
    size |= {"measure_every": 0}
    runs = methods(size.pop("size"), CHOSEN, **size)
    return {"starts": context.stacked(_starts, [(label, runs[label], due, examples, every) for label in runs])}


def _starts(context: Context, label: str, config: Run, due: list[int], examples: int, every: int) -> dict[str, Any]:
    """The table of one method; its key is the configuration with all else that the rows depend on."""
    import torch

    from experiments.paper.spectral_starts import levels_row, task_starts

    def look(net: LiveNet, seed: int, task: int) -> Mapping[str, Any]:
        return levels_row(net, torch.Generator().manual_seed(1_000_003 * seed + task), LEVELS)

    def rows() -> dict[str, list[Any]]:
        found = list(task_starts(config, look, due, examples, context.data))
        return {name: [row[name] for row in found] for name in found[0]}

    key = {"config": repr(config), "examples": examples, "every": every, "levels": len(LEVELS)}
    return context.table(f"spectral-starts-{label}", rows, **key)


def _level(eps: float) -> int:
    return int(np.abs(np.log(LEVELS / eps)).argmin())


def measure(data: Data) -> Mapping[str, Interval]:
    """R² pooled, within and by method, changes of the shares over a run, and how much of the published axis the range explains."""
    table, k = data["starts"], _level(PUBLISHED_EPS)
    found: dict[str, Interval] = {}

    y, group = table["accuracy"], table["label"]
    for reading in READINGS:
        x = table[f"{reading}_{k}"]
        found[f"r_squared[{reading}]"] = point(r_squared(x, y), len(x))
        found[f"r_squared_within[{reading}]"] = point(r_squared_within(x, y, group), len(x))
        for label in labels(table):
            own = group == label
            found[f"r_squared[{reading} {label}]"] = point(r_squared(x[own], y[own]), own.sum())
            values = grid(table, f"{reading}_{k}", label)
            third = max(1, len(values) // 3)
            found[f"share_{reading}[{label}]"] = mean_interval(values.mean(axis=0))
            found[f"share_{reading}_last[{label}]"] = mean_interval(values[-third:].mean(axis=0))
            found[f"share_{reading}_change[{label}]"] = paired_interval(
                values[-third:].mean(axis=0), values[:third].mean(axis=0)
            )
    found["r_squared[range]"] = point(r_squared(np.log(_span(table)), y), len(y))
    null = np.array([null_rank(float(span), PUBLISHED_EPS, 8)[0] for span in _span(table)])
    found["explained_by_range[published]"] = point(r_squared(null, table[f"published_{k}"]), len(y))
    found["explained_by_count[published]"] = point(r_squared(table[f"counted_{k}"], table[f"published_{k}"]), len(y))
    return found


def _span(table: Columns) -> NDArray[np.float64]:
    span: NDArray[np.float64] = table["lambda_max"] - table["lambda_min"]
    return span


# -- drawing ---------------------------------------------------------------------------------------------------------------


def draw(data: Data, canvas: Canvas) -> None:
    """Three scatters at the published ε; R² at every ε, pooled and within; the published axis against the range."""
    table, found = data["starts"], measure(data)
    canvas.set_size_inches(style.PAGE, 4.9)
    axes = canvas.subplots(2, 3)
    k = _level(PUBLISHED_EPS)
    for ax, (reading, name) in zip(axes[0], READINGS.items()):
        _scatter(ax, table[f"{reading}_{k}"], table["accuracy"], table)
        pooled, within = found[f"r_squared[{reading}]"].mean, found[f"r_squared_within[{reading}]"].mean
        ax.set_title(f"{name}, ε = {PUBLISHED_EPS:g}\n$R^2$ pooled {pooled:.2f}, within {within:.2f}")
        ax.set(xlabel="share beyond ±ε", ylabel="online accuracy")
    for ax, (title, measured) in zip(axes[1], (("pooled", _pooled), ("within methods", _within))):
        for reading, color, line in zip(READINGS, (style.VERMILION, style.BLACK, style.BLUE), ("-", "--", ":")):
            values = [measured(table[f"{reading}_{j}"], table) for j in range(len(LEVELS))]
            ax.plot(LEVELS, values, color=color, ls=line, label=READINGS[reading])
        ax.axvline(PUBLISHED_EPS, color=style.GREY, lw=0.7, ls=":")
        ax.set(xscale="log", ylim=(-0.02, 1), xlabel="ε", ylabel=f"$R^2$ {title}", title=f"every ε: $R^2$ {title}")
    axes[1][0].legend(loc="upper left")
    _axis_against_range(axes[1][2], table, k, found)
    handles, names = axes[0][0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside upper center", ncols=7, markerscale=1.5)


def _pooled(x: NDArray[np.float64], table: Columns) -> float:
    return r_squared(x, table["accuracy"])


def _within(x: NDArray[np.float64], table: Columns) -> float:
    return r_squared_within(x, table["accuracy"], table["label"])


def _scatter(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], table: Columns) -> None:
    for label in labels(table):
        own, look = table["label"] == label, style.look(label)
        face = "none" if look.line != "-" else look.color  # hollow: what shares a colour with another method
        ax.plot(x[own], y[own], look.marker, color=look.color, mfc=face, mew=0.5, ms=3, alpha=0.7, label=look.name)


def _axis_against_range(ax: Axes, table: Columns, k: int, found: Mapping[str, Interval]) -> None:
    span = _span(table)
    _scatter(ax, span, table[f"published_{k}"], table)
    spans = np.geomspace(span.min(), span.max(), 25)
    ax.plot(spans, [null_rank(float(s), PUBLISHED_EPS, 8)[0] for s in spans], color=style.BLACK, label="_null")
    explained = found["explained_by_range[published]"].mean
    ax.set(xscale="log", xlabel="range $λ_{max} − λ_{min}$", ylabel="published estimator",
           title=f"line: a Hessian of rank two\n($R^2$ with the points: {explained:.2f})")  # fmt: skip
    ax.xaxis.set_minor_formatter(NullFormatter())


FIGURE = Figure(
    id="spectral_fig5_epsilon_rank",
    title="ε-rank at task starts against accuracy: published estimator and eigenvalues",
    source=Source("2509.22335", "v3", "Figures 5 and 6"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={
        "smoke": "10 s",
        "teach": "4 min on 2 cores (digits, 64-16-16-16-10, 60 tasks, 3 seeds, 7 methods)",
        "paper": "950 GPU hours as published; beyond 3000 parameters the count is that of Ritz weights",
    },
    needs=lambda scale: "mnist" if scale == "paper" else None,
)
