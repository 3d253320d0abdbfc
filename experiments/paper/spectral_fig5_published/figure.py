"""Figures 5 and 6 re-analysed: what the published points of ε-rank against accuracy say, and what the ε-rank axis is."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.intervals import Interval, point
from experiments.figures.record import Columns, Context, Data, Figure, Source, labels
from experiments.paper.spectral_points import null_rank, published_points, r_squared, r_squared_within, share_of_label

PANELS = {  # name here: (figure and panel in the file, title, ε)
    "imagenet": ("epsilon_hessian_rank", "0", "Continual ImageNet", 0.03),
    "mnist": ("scatterplots", "1", "Permuted MNIST", 0.01),
    "cifar": ("scatterplots", "0", "Incremental CIFAR, 10 tasks", 0.04),
    "cifar20": ("incremental_cifar_full_20_tasks", "0", "Incremental CIFAR, 20 tasks", 0.04),
}
# λ_max − λ_min of the four spectra that the published code ships with its Figure 1
SHIPPED = {"bp task 50": 6072.0, "bp task 300": 88.5, "l2-er task 50": 1349.0, "l2-er task 300": 1269.0}
MARKS = {
    "bp task 50": ("o", "backprop, task 50"),
    "bp task 300": ("v", "backprop, task 300"),
    "l2-er task 50": ("P", "L2-ER, task 50"),
    "l2-er task 300": ("X", "L2-ER, task 300"),
}
PLACES = 50
LEVELS = (0.03, 0.04, 0.08, 0.1)
SPANS = np.geomspace(1, 1e4, 41)


def compute(context: Context) -> Data:
    """Points by panel, and the null model on a grid of ranges and at the ranges of the shipped spectra."""
    raw = published_points(context.data)
    parts = []
    for panel, (figure, place, _, _) in PANELS.items():
        own = (raw["figure"] == figure) & (raw["panel"] == place)
        parts.append(
            {"panel": np.full(own.sum(), panel, object), **{name: raw[name][own] for name in ("label", "x", "y")}}
        )
    points = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    levels = sorted({0.01, *LEVELS})
    null = context.table("spectral-null", lambda: _null([("", span) for span in SPANS], levels, 20), places=20)
    shipped = context.table("spectral-shipped", lambda: _null([*SHIPPED.items()], LEVELS, PLACES), places=PLACES)
    return {"points": points, "null": null, "shipped": shipped}


def _null(spans: Any, levels: Any, places: int) -> dict[str, list[Any]]:
    rows = [(name, span, eps, *null_rank(float(span), eps, places)) for name, span in spans for eps in levels]
    return dict(zip(("label", "span", "eps", "mean", "low", "high"), (list(column) for column in zip(*rows))))


def _panel(points: Columns, panel: str) -> dict[str, NDArray[Any]]:
    own = points["panel"] == panel
    return {name: column[own] for name, column in points.items()}


def measure(data: Data) -> Mapping[str, Interval]:
    """R² pooled, within methods and method by method; what the label explains; means; the null model."""
    found: dict[str, Interval] = {}

    for panel in PANELS:
        part = _panel(data["points"], panel)
        x, y, group = part["x"], part["y"], part["label"]
        found[f"r_squared[{panel}]"] = point(r_squared(x, y), len(x))
        found[f"r_squared_within[{panel}]"] = point(r_squared_within(x, y, group), len(x))
        found[f"explained[{panel} epsilon-rank]"] = point(r_squared(x, y), len(x))
        found[f"explained[{panel} name of the method]"] = point(share_of_label(y, group), len(x))
        found[f"largest_share[{panel}]"] = point(x.max(), len(x))
        for label in labels(part):
            own = group == label
            found[f"r_squared[{panel} {label}]"] = point(r_squared(x[own], y[own]), own.sum())
            found[f"mean_share[{panel} {label}]"] = point(x[own].mean(), own.sum())
            found[f"mean_accuracy[{panel} {label}]"] = point(y[own].mean(), own.sum())
    rows = data["shipped"]
    for name, eps, mean, low, high in zip(*(rows[c] for c in ("label", "eps", "mean", "low", "high"))):
        found[f"null_rank[{name} eps {eps:g}]"] = Interval(float(mean), float(low), float(high), PLACES)
    return found


# -- drawing ---------------------------------------------------------------------------------------------------------------


def draw(data: Data, canvas: Canvas) -> None:
    """Three scatters; below, R² by method, and the null model with the values of the shipped spectra on it."""
    canvas.set_size_inches(style.PAGE, 4.9)
    top, bottom = canvas.subfigures(2, 1, height_ratios=[1, 0.95])
    axes = dict(zip(("imagenet", "mnist", "cifar"), top.subplots(1, 3)))
    axes |= dict(zip(("within", "null"), bottom.subplots(1, 2, width_ratios=[1, 2.2])))
    found = measure(data)
    for panel in ("imagenet", "mnist", "cifar"):
        _draw_points(axes[panel], _panel(data["points"], panel), panel, found)
    _draw_within(axes["within"], found, labels(_panel(data["points"], "imagenet")))
    _draw_null(axes["null"], data)
    handles, names = axes["imagenet"].get_legend_handles_labels()
    top.legend(handles, names, loc="outside upper center", ncols=7, markerscale=1.6)


def _draw_points(ax: Axes, part: Columns, panel: str, found: Mapping[str, Interval]) -> None:
    for label in labels(part):
        own, look = part["label"] == label, style.look(label)
        hollow = (
            {"mfc": "none", "mew": 0.5} if look.line != "-" else {"mew": 0}
        )  # tells ER from L2-ER, which share a colour
        ax.plot(
            part["x"][own], part["y"][own], look.marker, color=look.color, ms=2.4, alpha=0.6, label=look.name, **hollow
        )
    ax.axvline(1, color=style.GREY, lw=0.7, ls=":")
    _, _, title, eps = PANELS[panel]
    pooled, within = found[f"r_squared[{panel}]"].mean, found[f"r_squared_within[{panel}]"].mean
    ax.set_title(f"{title}\n$R^2$ pooled {pooled:.3f}, within {within:.3f}")
    ax.set_xlabel(f"normalized ε-rank, ε = {eps:g}")
    ax.set_ylabel("accuracy − RESET" if panel == "cifar" else "accuracy")


def _draw_within(ax: Axes, found: Mapping[str, Interval], names: list[str]) -> None:
    shades = {"imagenet": style.BLACK, "mnist": style.BLUE, "cifar": style.ORANGE}
    marks = {"imagenet": "o", "mnist": "s", "cifar": "^"}
    for shift, (panel, color) in zip((0.22, 0, -0.22), shades.items()):
        values = [found[f"r_squared[{panel} {name}]"].mean for name in names]
        ax.plot(
            values, np.arange(len(names)) + shift, marks[panel], color=color, ms=4, label=PANELS[panel][2].split(",")[0]
        )
        ax.axvline(found[f"r_squared[{panel}]"].mean, color=color, lw=0.9, ls="--")
    ax.set_yticks(range(len(names)), [style.look(name).name for name in names])
    ax.set(xlim=(-0.03, 1), xlabel="$R^2$ within (dashed: pooled)")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.3, 1.0), ncols=1, handletextpad=0.2, borderpad=0.1)


def _draw_null(ax: Axes, data: Data) -> None:
    null = data["null"]
    colors = dict(zip((0.01, *LEVELS), (style.BLACK, style.VERMILION, style.BLUE, style.GREEN, style.PURPLE)))
    for eps, color in colors.items():
        own = null["eps"] == eps
        ax.plot(null["span"][own], null["mean"][own], color=color, label=f"ε = {eps:g}")
        ax.fill_between(null["span"][own], null["low"][own], null["high"][own], color=color, alpha=0.1, lw=0)
    for (name, eps), value in _shipped_values().items():
        ax.plot(SHIPPED[name], value, MARKS[name][0], color=colors[eps], ms=6, mec="white", mew=0.5)
    for name, (marker, shown) in MARKS.items():
        ax.plot([], [], marker, color=style.GREY, ms=6, label=f"{shown}:\nrange {SHIPPED[name]:,.0f}")
    ax.set(xscale="log", xlabel="range of the spectrum, $λ_{max} − λ_{min}$", ylabel="normalized ε-rank",
           title="Lines: a Hessian of rank two (the true share is 0).\nMarkers: the four shipped spectra, colour by ε")  # fmt: skip
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _shipped_values() -> dict[tuple[str, float], float]:
    """(spectrum, ε) → what the published estimator gives for the shipped spectra, from the expectations of this figure."""
    with (Path(__file__).parent / "expected.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "null_rank"]
    split = [(row["label"].rsplit(" eps ", 1), float(row["published"])) for row in rows]
    return {(name, float(eps)): value for (name, eps), value in split}


FIGURE = Figure(
    id="spectral_fig5_published",
    title="ε-rank against accuracy: the published points, pooled and within methods, and the null model of the axis",
    source=Source("2509.22335", "v3", "Figures 5 and 6"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={"smoke": "5 s", "teach": "5 s", "paper": "5 s"},
)
