"""What figures about streams of images have in common: their data, their quantities, and panels over tasks.

=====================  =================================================================================================
quantity               of a method, one value per seed
=====================  =================================================================================================
``C_task1[m]``         column C in the first task (the first that was measured)
``C_peak[m]``          the best mean over seeds of any task (no interval: it is a maximum)
``C_first[m]``         mean over the first tenth of the tasks, at least one
``C_last[m]``          mean over the last tenth
``C_change[m]``        last − first, paired by seed
``C_kept[m]``          last / first
``C_last[a - b]``      difference of the last tenth between two methods, paired by seed: they saw the same tasks
=====================  =================================================================================================

Columns: ``accuracy`` (online), ``dead_units``, ``weight`` (mean of |w|) and ``effective_rank`` (share of the width, mean over
layers). All but the first are measured at the end of a task, on its images, and may be measured in some tasks only; the papers
measure before a task, on its new images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.intervals import Interval, blocks, mean_interval, paired_interval, point
from experiments.figures.record import Context, Data, grid, labels, long_table

__all__ = ["PANELS", "Panel", "stream_data", "stream_measures", "draw_panels"]

FloatArray = NDArray[np.float64]
POINTS = 50  # at most this many points per curve; each is the mean of a block of tasks


class Panel(NamedTuple):
    """A column, the title of its panel, and the factor from its unit to that of the title."""

    table: str
    column: str
    title: str
    factor: float = 1.0


PANELS = (
    Panel("tasks", "accuracy", "online accuracy (%)", 100),
    Panel("features", "dead_units", "dead units (%)", 100),
    Panel("features", "weight", "mean |w|"),
    Panel("features", "effective_rank", "effective rank (% of width)", 100),
)
KEYS = ("label", "seed", "task")


def stream_data(context: Context, configs: Mapping[str, Any], accuracy: str = "online_accuracy") -> Data:
    """Run the configurations, one per method, and keep the four columns of the panels for every task and seed."""
    tables = context.runs(configs)
    first = next(iter(configs.values()))
    ranks = [f"effective_rank_h{l}" for l in range(1, len(first.hidden) + 1)]
    raw = long_table(tables, [accuracy, "dead_fraction", "mean_abs_weight", *ranks])
    raw["dead_units"], raw["weight"] = raw["dead_fraction"], raw["mean_abs_weight"]
    raw["effective_rank"] = np.mean([raw[name] / width for name, width in zip(ranks, first.hidden)], axis=0)
    due = (raw["task"] + 1) % first.measure_every == 0
    return {
        "tasks": {name: raw[name] for name in KEYS} | {"accuracy": raw[accuracy]},
        "features": {name: raw[name][due] for name in (*KEYS, *(p.column for p in PANELS[1:]))},
    }


def tenth(tasks: int) -> int:
    """Tasks in the first or last tenth of a run.

    >>> tenth(200), tenth(4)
    (20, 1)
    """
    return max(1, tasks // 10)


def stream_measures(data: Data) -> dict[str, Interval]:
    """All quantities of the module docstring."""
    made: dict[str, Interval] = {}
    for panel in PANELS:
        table, column, last = data[panel.table], panel.column, dict[str, FloatArray]()
        for method in labels(table):
            values = grid(table, column, method)
            k = tenth(len(values))
            start, last[method] = values[:k].mean(axis=0), values[-k:].mean(axis=0)
            peak = float(np.nanmax([mean_interval(row).mean for row in values]))
            made |= {
                f"{column}_task1[{method}]": mean_interval(values[0]),
                f"{column}_peak[{method}]": point(peak, values.shape[1]),
                f"{column}_first[{method}]": mean_interval(start),
                f"{column}_last[{method}]": mean_interval(last[method]),
                f"{column}_change[{method}]": paired_interval(last[method], start),
                f"{column}_kept[{method}]": mean_interval(
                    np.divide(last[method], start, where=start > 0, out=start * np.nan)
                ),
            }
        for a, b in permutations(last, 2):
            made[f"{column}_last[{a} - {b}]"] = paired_interval(last[a], last[b])
    return made


def draw_panels(data: Data, canvas: Canvas, panels: Sequence[Panel] = PANELS) -> None:
    """One panel per column over tasks: means over blocks of tasks and seeds, bands for 95 % intervals over seeds."""
    canvas.set_size_inches(style.PAGE, 2.3)
    axes = canvas.subplots(1, len(panels))
    for ax, panel in zip(axes, panels):
        table = data[panel.table]
        tasks = np.unique(table["task"]) + 1.0
        for method in labels(table):
            values = panel.factor * grid(table, panel.column, method)
            size = -(-len(values) // POINTS)
            style.curve(ax, blocks(tasks, size), blocks(values, size), method)
        ax.set_title(panel.title)
        ax.set_xlabel("task")
        if panel.column != "accuracy":
            ax.set_ylim(bottom=0)
    style.legend_below(canvas, axes[0])
