"""One look for all figures: a colour-blind-safe colour, a line and a marker per algorithm, bands for intervals, print sizes.

The colours are those of Okabe and Ito, which stay apart for all common kinds of colour blindness; line and marker tell
apart what shares a colour, also in grey. Nothing here changes global state: drawing happens inside ``rc()``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import ArrayLike

from experiments.figures.intervals import mean_interval

__all__ = ["COLUMN", "PAGE", "Look", "look", "rc", "canvas", "curve", "legend_below", "LOOKS"]

COLUMN, PAGE = 3.4, 7.0  # inches: widths of one column and of a page

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#777777"


class Look(NamedTuple):
    """How a label is drawn and named."""

    name: str
    color: str
    marker: str
    line: str = "-"


LOOKS = {
    "bp":                     Look("backprop",             VERMILION, "o"),
    "sgd":                    Look("SGD",                  VERMILION, "o"),
    "adam":                   Look("Adam",                 BLACK,     "v"),
    "momentum":               Look("momentum",             BLACK,     "^", "--"),
    "l2":                     Look("L2",                   ORANGE,    "s"),
    "ln-l2":                  Look("layer norm + L2",      BLACK,     ">", ":"),
    "l2-init":                Look("L2-init",              ORANGE,    "D", "--"),
    "er":                     Look("ER",                   GREEN,     "^", "--"),
    "l2-er":                  Look("L2-ER",                GREEN,     "^"),
    "cbp":                    Look("continual backprop",   BLUE,      "P"),
    "cbp-published-spectral": Look("CBP as published",     BLUE,      "X", "--"),
    "cbp-published-bitflip":  Look("CBP as published",     SKY,       "X", "--"),
    "shrink-and-perturb":     Look("shrink and perturb",   PURPLE,    "d"),
    "l2+noise":               Look("L2 + noise",           PURPLE,    "d"),
    "redo":                   Look("ReDo",                 SKY,       "p"),
    "noisy-sgd":              Look("noisy SGD",            PURPLE,    "*", ":"),
    "weight-clipping":        Look("weight clipping",      GREY,      "h", "--"),
    "spectral":               Look("spectral reg.",        SKY,       "h", "--"),
    "head-reset":             Look("head reset",           GREY,      "<", ":"),
    "reset":                  Look("full reset",           GREY,      "o", "-."),
    "dropout":                Look("dropout",              YELLOW,    "<"),
    "layer-norm":             Look("layer norm",           BLACK,     ">", ":"),
    "batch-norm":             Look("batch norm",           BLACK,     "<", "-."),
    "relu":                   Look("ReLU",                 VERMILION, "o"),
    "leaky-relu":             Look("leaky ReLU",           ORANGE,    "s"),
    "tanh":                   Look("tanh",                 BLUE,      "P"),
    "sigmoid":                Look("sigmoid",              SKY,       "d"),
    "elu":                    Look("ELU",                  GREEN,     "^"),
    "swish":                  Look("Swish",                PURPLE,    "*"),
    "linear":                 Look("linear",               BLACK,     "", "--"),
}  # fmt: skip

RC = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.grid": True, "grid.alpha": 0.25,
    "grid.linewidth": 0.5, "savefig.dpi": 200, "pdf.fonttype": 42, "svg.hashsalt": "lop", "font.family": "DejaVu Sans",
}  # fmt: skip


def rc() -> AbstractContextManager[None]:
    """The settings of all figures, for a ``with`` block."""
    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, "backend": "agg", **RC}
    return matplotlib.rc_context(settings)


def canvas(width: float = PAGE, height: float = 2.2) -> Canvas:
    """An empty canvas without a window; inside ``rc()``."""
    return Canvas(figsize=(width, height), layout="constrained")


def look(label: str) -> Look:
    """The look of a label; one that is unknown is drawn in black under its own name.

    >>> look("cbp").name, look("my own").name
    ('continual backprop', 'my own')
    """
    return LOOKS.get(label, Look(label, BLACK, "."))


def curve(ax: Axes, x: ArrayLike, values: ArrayLike, label: str, name: str | None = None, **more: Any) -> None:
    """The mean of values [T, R] over seeds against x [T], with a band for its 95 % interval; about eight markers."""
    grid = np.asarray(values, float)
    intervals = [mean_interval(row) for row in grid]
    shown, ends = look(label), np.array([i.ends for i in intervals])
    style = {"color": shown.color, "linestyle": shown.line, "marker": shown.marker, "label": name or shown.name}
    ax.plot(x, [i.mean for i in intervals], markevery=max(1, len(grid) // 8), **{**style, **more})
    ax.fill_between(
        np.asarray(x, float), ends[:, 0], ends[:, 1], color=more.get("color", shown.color), alpha=0.18, lw=0
    )


def legend_below(canvas: Canvas, ax: Axes, columns: int = 6) -> None:
    """One legend for all panels, below them, where it covers no data."""
    handles, names = ax.get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=min(columns, max(1, len(names))))
