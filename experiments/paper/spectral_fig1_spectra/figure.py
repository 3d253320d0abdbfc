"""Spectra of the Hessian at the start of an early and of a late task, backprop against L2-ER: as published, and with error bars.

Left, what the paper shows: Ritz values of one random vector under a Gaussian whose width grows with the range. Middle, without
a kernel: eigenvalues per quarter of a decade, counted by Ritz weights, with the standard error over probes. Right, the number of
eigenvalues beyond ±ε for every ε, with the bracket that is proved for each probe (Chebyshev, Markov, Stieltjes) and one standard
error: what a finite number of Lanczos steps can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from experiments.figures import style
from experiments.figures.intervals import Interval, mean_interval
from experiments.figures.record import Columns, Context, Data, Figure, Source, grid, labels
from experiments.paper.spectral_methods import methods
from experiments.run_config import Run

if TYPE_CHECKING:
    from experiments.run_curvature import LiveNet

CHOSEN = ("bp", "l2-er")
LEVELS = np.geomspace(1e-4, 100, 25)
EDGES = np.geomspace(1e-4, 1000, 29)
LEVEL = 1.0  # at which the change over a run is measured
DEFLATE, STEPS, PROBES = 8, 80, 4


def compute(context: Context) -> Data:
    """``starts``: extreme eigenvalues at task starts; ``counts``, ``bins``, ``density``: the spectra of the first seed, long."""
    size, due, examples = context.choose(
        smoke=({"size": "smoke", "tasks": 4, "seeds": 1, "hidden": (8, 8)}, [1, 3], 40),
        teach=({"size": "digits", "tasks": 80, "seeds": 3}, [1, 5, 10, 20, 40, 79], 300),
        paper=({"size": "paper", "tasks": 400, "seeds": 5}, [1, 50, 100, 200, 300, 399], 2000),
    )
    runs = methods(size.pop("size"), CHOSEN, **size, measure_every=0)
    whole = context.stacked(_table, [(label, config, due, examples) for label, config in runs.items()])
    return {
        part: {name: whole[name][whole["part"] == part] for name in ("label", "seed", "task", *columns)}
        for part, columns in PARTS.items()
    }


PARTS = {  # the columns a, b, c, … of one long table stand for these
    "starts": ("a", "b", "c"),  # λ_min, λ_max, accuracy
    "counts": ("a", "b", "c", "d", "e"),  # ε, count, stderr, lower, upper
    "bins": ("a", "b", "c", "d"),  # edges, count, error
    "density": ("a", "b"),  # x, density
}


def _table(context: Context, label: str, config: Run, due: list[int], examples: int) -> dict[str, Any]:
    """All parts of one method below each other; the key is the configuration with all else that the rows depend on."""
    key = {"config": repr(config), "due": due, "examples": examples, "lanczos": [DEFLATE, STEPS, PROBES]}
    return context.table(f"spectral-spectra-{label}", lambda: _rows(label, config, due, examples, context.data), **key)


def _rows(label: str, config: Run, due: list[int], examples: int, data: Any) -> dict[str, list[Any]]:
    import torch

    from experiments.paper.spectral_starts import binned, published_density, published_nodes, spectrum_of, task_starts

    rows: list[tuple[Any, ...]] = []

    def look(net: LiveNet, seed: int, task: int) -> Mapping[str, Any]:
        draw = torch.Generator().manual_seed(1_000_003 * seed + task)
        found = spectrum_of(net, draw, STEPS, PROBES, DEFLATE)
        here, nan = (label, seed, task), float("nan")
        for eps in LEVELS:
            count = found.epsilon_rank(float(eps))
            rows.append(("counts", *here, eps, count.value, count.stderr, count.lower, count.upper))
        rows.extend(
            ("bins", *here, low, high, n, e, nan) for low, high, n, e in zip(EDGES, EDGES[1:], *binned(found, EDGES))
        )
        if seed == config.seed:
            rows.extend(
                ("density", *here, x, y, nan, nan, nan) for x, y in zip(*published_density(*published_nodes(net, draw)))
            )
        return {"low": found.extreme("min").value, "high": found.extreme("max").value}

    for row in task_starts(config, look, due, examples, data):
        rows.append(
            ("starts", label, row["seed"], row["task"], row["low"], row["high"], row["accuracy"], np.nan, np.nan)
        )
    return dict(zip(("part", "label", "seed", "task", *"abcde"), (list(column) for column in zip(*rows))))


def _beyond(data: Data, label: str) -> Any:
    """Eigenvalues beyond ±LEVEL, [T, R]."""
    counts = data["counts"]
    own = np.isclose(counts["a"], LEVEL)
    return grid({name: column[own] for name, column in counts.items()}, "b", label)


def measure(data: Data) -> Mapping[str, Interval]:
    """Range and count at the first and last task start that was looked at, and their relative changes, paired by seed."""
    found: dict[str, Interval] = {}
    starts = data["starts"]
    for label in labels(starts):
        span = grid(starts, "b", label) - grid(starts, "a", label)
        for name, values in (("range", span), ("beyond_1", _beyond(data, label))):
            found[f"{name}_first[{label}]"] = mean_interval(values[0])
            found[f"{name}_last[{label}]"] = mean_interval(values[-1])
            kept = np.divide(values[-1], values[0], out=np.full(len(values[0]), np.nan), where=values[0] > 0)
            found[f"{name}_kept[{label}]"] = mean_interval(kept)
            found[f"{name}_change[{label}]"] = mean_interval(kept - 1)
    return found


# -- drawing ---------------------------------------------------------------------------------------------------------------


def draw(data: Data, canvas: Canvas) -> None:
    """A row of three panels per method; below, range and count over tasks."""
    canvas.set_size_inches(style.PAGE, 6.4)
    top, bottom = canvas.subfigures(2, 1, height_ratios=[2, 1])
    axes = top.subplots(2, 3)
    seed = data["density"]["seed"].min()
    top_count = 3 * max(1.0, data["counts"]["b"].max())
    for row, label in zip(axes, CHOSEN):
        tasks = np.unique(data["density"]["task"])
        for task, color in ((tasks[0], style.BLUE), (tasks[-1], style.VERMILION)):
            parts = {name: _own(table, label, seed, task) for name, table in data.items()}
            _draw_spectrum(row, parts, color, f"start of task {task + 1}")
        row[0].set(ylabel=f"{style.look(label).name}\ndensity", yscale="log", ylim=(1e-7, 300))
        row[1].set(xscale="log", yscale="log", ylabel="eigenvalues per bin", ylim=(0.3, None))
        row[2].set(xscale="log", yscale="log", ylabel="eigenvalues beyond ±ε", ylim=(0.5, top_count))
        row[0].legend(loc="upper right")
    for ax, title in zip(
        axes[0], ("published: one probe, smoothed", "Ritz weights, bars: ± 1 s.e.", "band: proved bracket ± 1 s.e.")
    ):
        ax.set_title(title)
    for ax, name in zip(axes[1], ("λ", "|λ|", "ε")):
        ax.set_xlabel(name)
    left, right = bottom.subplots(1, 2)
    starts = data["starts"]
    for label in CHOSEN:
        tasks = np.unique(starts["task"][starts["label"] == label]) + 1
        style.curve(left, tasks, grid(starts, "b", label) - grid(starts, "a", label), label)
        style.curve(right, tasks, _beyond(data, label), label)
    left.set(xlabel="task", ylabel="range $λ_{max} − λ_{min}$", ylim=(0, None))
    right.set(xlabel="task", ylabel=f"eigenvalues beyond ±{LEVEL:g}", ylim=(0, None))
    left.legend()
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _own(table: Columns, label: str, seed: int, task: int) -> Columns:
    own = (table["label"] == label) & (table["seed"] == seed) & (table["task"] == task)
    return {name: column[own] for name, column in table.items()}


def _draw_spectrum(row: Any, parts: Data, color: str, name: str) -> None:
    density, bins, counts = parts["density"], parts["bins"], parts["counts"]
    panel: Axes = row[0]
    panel.plot(density["a"], density["b"], color=color, lw=0.7, alpha=0.75, label=name)
    seen = bins["c"] > 0
    middle = np.sqrt(bins["a"] * bins["b"])[seen]
    row[1].errorbar(middle, bins["c"][seen], yerr=bins["d"][seen], fmt="o", ms=2.5, lw=0.7, color=color)
    row[2].plot(counts["a"], counts["b"], color=color)
    low, high = counts["d"] - counts["c"], counts["e"] + counts["c"]
    row[2].fill_between(counts["a"], np.maximum(low, 1e-3), high, color=color, alpha=0.2, lw=0)


FIGURE = Figure(
    id="spectral_fig1_spectra",
    title="Spectra of the Hessian at task starts: smoothed as published, and counted with error bars",
    source=Source("2509.22335", "v3", "Figures 1 and 2"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={
        "smoke": "8 s",
        "teach": "2 min on 2 cores (digits, 80 tasks, 3 seeds, 2 methods)",
        "paper": "about 240 GPU hours: 2 methods × 5 seeds × 400 tasks of 60,000 updates, and 1,900 products with H per spectrum",
    },
    needs=lambda scale: "mnist" if scale == "paper" else None,
)
