"""The points of the Spectral Collapse figures, and what a scatter of ε-rank against accuracy says: R² pooled and within methods.

The authors give no table of numbers. Their figures are vector graphics, so the coordinates can be read off exactly; the file
``spectral_figures.csv`` in the data folder holds them (figure, panel, title, method, x, y). It is never part of this package.

**R² of groups.** Pooled R² mixes two questions: do methods with a high ε-rank do well (between), and does *one* method do
well at the tasks that start with a high ε-rank (within)? Only the second is what a cause would show. With sums over groups g,

    within:  R² of (x − x̄_g, y − ȳ_g);        label:  Σ_g n_g (ȳ_g − ȳ)² / Σ (y − ȳ)²,                              (1)

the last being the share of the variance of y that the name of the method explains by itself, without any measurement.

**The null model.** The published estimator puts a Gaussian of variance s² = 10⁻⁵ max(1, λ_max − λ_min) on every Ritz value
and integrates over |x| > ε, across the gap. For a Hessian of rank two nearly all mass is one Gaussian at 0, so the result is

    P(|N(0, s²)| > ε) + 2ε · density(ε) = erfc(ε/(s√2)) + √(2/π) (ε/s) e^{−ε²/2s²} = P(χ²_3 > ε²/s²),                (2)

a function of the range λ_max − λ_min alone, in which no rank occurs. (Proof of the last equality: differentiate both sides
by u = ε/s; both give −√(2/π) u² e^{−u²/2}.) Where the grid of 10,000 points is coarser than s, the value also depends on
where 0 falls between two grid points: :func:`null_rank` gives the whole interval.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from experiments.datasets import VARIABLE, MissingData, data_folder
from experiments.image_files import check_digest, read

__all__ = [
    "METHODS",
    "PUBLISHED",
    "published_points",
    "r_squared",
    "r_squared_within",
    "share_of_label",
    "null_rank",
    "null_limit",
]

FloatArray = NDArray[np.float64]

PUBLISHED = "spectral_figures.csv"
SHA256 = "7a982b34c3e1f1b9dc1795eacd662e2bfc6e4daa504dac74355a8206c35afa3d"
METHODS = {  # name in the figures → label here; their CBP is the one that replaces the units of largest utility
    "BP": "bp", "L2": "l2", "ER": "er", "L2-ER": "l2-er", "CBP": "cbp-published-spectral", "LN-L2": "ln-l2",
    "Spectral": "spectral", "RESET": "reset",
}  # fmt: skip
POINTS = 10_000  # of the published grid


def published_points(folder: str | Path | None) -> dict[str, NDArray[Any]]:
    """Columns figure, panel, label (as in ``METHODS``), x and y of all curves and points, [N] each.

    Raises :class:`MissingData` where the file is not in the data folder, ``DataError`` where it is another file.
    """
    root = data_folder(folder)
    path = None if root is None else root / PUBLISHED
    if path is None or not path.is_file():
        raise MissingData(
            f"the points of the published figures are not at hand: put {PUBLISHED} into the data folder "
            f"({root or f'--data FOLDER or {VARIABLE}=FOLDER'})"
        )
    content = read(path)
    check_digest(content, path, SHA256)
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    columns: dict[str, NDArray[Any]] = {
        "figure": np.array([row["figure"] for row in rows], dtype=object),
        "panel": np.array([row["panel"] for row in rows], dtype=object),
        "label": np.array([METHODS[row["method"]] for row in rows], dtype=object),
    }
    return columns | {name: np.array([float(row[name]) for row in rows]) for name in ("x", "y")}


# -- how much of y does x explain ------------------------------------------------------------------------------------------


def r_squared(x: FloatArray, y: FloatArray) -> float:
    """R² of the least-squares line, the squared correlation; NaN if x or y does not vary or there are fewer than 3 points.

    >>> round(r_squared(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])), 12)
    1.0
    """
    kept = np.isfinite(x) & np.isfinite(y)
    u, v = x[kept], y[kept]
    if kept.sum() < 3:
        return float("nan")
    u, v = u - u.mean(), v - v.mean()
    scale = float(u @ u) * float(v @ v)
    return float(u @ v) ** 2 / scale if scale > 0 else float("nan")


def r_squared_within(x: FloatArray, y: FloatArray, groups: NDArray[Any]) -> float:
    """R² after the mean of its group is taken from every point, formula (1): one slope, an intercept per group.

    >>> x, y, groups = np.array([0.0, 1.0, 10.0, 11.0]), np.array([0.0, 0.0, 5.0, 5.0]), np.array(["a", "a", "b", "b"])
    >>> round(r_squared(x, y), 2), r_squared_within(x, y + [0.0, 1.0, 1.0, 0.0], groups)
    (0.99, 0.0)
    """
    u, v = np.array(x, float), np.array(y, float)
    for group in set(groups.tolist()):
        own = groups == group
        u[own] -= np.nanmean(u[own])
        v[own] -= np.nanmean(v[own])
    return r_squared(u, v)


def share_of_label(y: FloatArray, groups: NDArray[Any]) -> float:
    """The share of the variance of y that the group explains, formula (1).

    >>> share_of_label(np.array([1.0, 1.0, 3.0, 3.0]), np.array(["a", "a", "b", "b"]))
    1.0
    """
    kept = np.isfinite(y)
    values, names = y[kept], groups[kept]
    means = {group: values[names == group].mean() for group in set(names.tolist())}
    return float(np.var([means[group] for group in names.tolist()]) / np.var(values))


# -- the null model --------------------------------------------------------------------------------------------------------


def null_rank(span: float, eps: float, places: int = 50) -> tuple[float, float, float]:
    """ "Normalized ε-rank" of a Hessian of rank two with λ_max − λ_min = ``span``: mean, 5 % and 95 % quantile over where 0 falls.

    The two eigenvalues carry a millionth of the mass each; 0 is put at ``places`` places between two points of the grid.

    >>> [round(value, 3) for value in null_rank(88.5, 0.04)]     # published for a spectrum with this range: 0.537
    [0.532, 0.532, 0.54]
    """
    from lop_theory.spectrum import published_normalized_epsilon_rank  # with torch: only where it is needed

    step = (span + 0.02) / (POINTS - 1)
    lows = -span / 10 - step * (np.arange(places) + 0.5) / places
    shares = [1e-6, 1 - 2e-6, 1e-6]
    values = [published_normalized_epsilon_rank([[low, 0.0, low + span]], [shares], eps) for low in lows]
    low, high = np.quantile(values, [0.05, 0.95])
    return float(np.mean(values)), float(low), float(high)


def null_limit(span: float, eps: float) -> float:
    """Formula (2), the limit of a fine grid: P(χ²_3 > ε²/s²) with s² = 10⁻⁵ max(1, span).

    >>> round(null_limit(2.0, 0.01), 3), round(null_limit(200.0, 0.01), 3)
    (0.172, 0.997)
    """
    return float(gammaincc(1.5, eps**2 / (2e-5 * max(1.0, span))))
