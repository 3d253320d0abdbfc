"""How much an activation decorrelates Gaussian pre-activations, and the two bounds on it: the printed one and the best one.

Left: x² − K(x)² against γ x²(1 − x²), as printed, and (1 − α) x²(1 − x²), with the best constant. Right: the gain of the
Rényi-2 rank along C(λ) = (1 − λ) I + λ C, C a dense random correlation matrix. The formulas are in lop_theory.rank_gain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.intervals import Interval, point
from experiments.figures.record import Context, Data, Figure, Source

__all__ = ["FIGURE"]

ACTIVATIONS: dict[str, Any] = {"relu": "relu", "tanh": "tanh", "gelu": "gelu", "sigmoid": "sigmoid", "He2": (-1, 0, 1)}
NAMES = {"gelu": "GELU", "He2": "He₂(z) = z² − 1"}
DIMENSION, RANK = 20, 5


def compute(context: Context) -> Data:
    """Gaps on [−1, 1], gains along λ, and α = K'(0) of each activation."""
    points = context.choose(smoke=41, teach=201, paper=401)
    gap = context.table("rank_gain_gap", lambda: _gaps(points), points=points, version=1)
    gain = context.table(
        "rank_gain_path", lambda: _path(points), points=points, dimension=DIMENSION, rank=RANK, version=1
    )
    return {"gap": gap, "gain": gain}


def _gaps(points: int) -> dict[str, list[Any]]:
    from lop_theory.gaussian_kernel import gaussian_kernel

    columns: dict[str, list[Any]] = {name: [] for name in ("label", "x", "gap", "alpha")}
    for label, phi in ACTIVATIONS.items():
        kernel = gaussian_kernel(phi)
        for x in np.linspace(-1, 1, points):
            values = (label, float(x), float(x**2 - kernel(x) ** 2), _number(kernel.slope_at_zero))
            for column, value in zip(columns.values(), values):
                column.append(value)
    return columns


def _path(points: int) -> dict[str, list[Any]]:
    from lop_theory.gaussian_kernel import gaussian_kernel
    from lop_theory.rank_gain import gain_bound, rank_gain, sharp_gain_bound

    factors = np.random.default_rng(0).standard_normal((DIMENSION, RANK))
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    dense = factors @ factors.T
    np.fill_diagonal(dense, 1.0)
    columns: dict[str, list[Any]] = {name: [] for name in ("label", "share", "gain", "printed", "best")}
    for label, phi in ACTIVATIONS.items():
        kernel = gaussian_kernel(phi)
        alpha = _number(kernel.slope_at_zero)
        for share in np.linspace(0, 1, points):
            C = np.clip((1 - share) * np.eye(DIMENSION) + share * dense, -1, 1)
            row = (rank_gain(kernel, C), gain_bound(alpha, C), sharp_gain_bound(alpha, C))
            for column, value in zip(columns.values(), (label, float(share), *map(float, row))):
                column.append(value)
    return columns


def _number(value: Any) -> float:
    """A Fraction, or the middle of a ball whose radius is far below float64."""
    return float(value.mid()) if hasattr(value, "mid") else float(value)


def measure(data: Data) -> dict[str, Interval]:
    """α, γ; the least gap / (x²(1 − x²)) on the grid minus its bound; the gain at λ = 1; the least (gain − 1) / (bound − 1)."""
    made = {}
    for label in ACTIVATIONS:
        gap, gain = _of(data, "gap", label), _of(data, "gain", label)
        alpha, x = float(gap["alpha"][0]), gap["x"]
        inside = (np.abs(x) > 1e-3) & (np.abs(x) < 1 - 1e-3)
        quotient = gap["gap"][inside] / (x**2 * (1 - x**2))[inside]
        made[f"alpha[{label}]"] = point(alpha)
        made[f"gamma[{label}]"] = point((1 - alpha) / (1 + alpha))
        made[f"gap_above_printed[{label}]"] = point(float(quotient.min()) - (1 - alpha) / (1 + alpha))
        made[f"gap_above_best[{label}]"] = point(float(quotient.min()) - (1 - alpha))
        some = gain["share"] > 0.05  # at λ = 0 gain and bounds are 1
        for bound in ("printed", "best"):
            quotient = (gain["gain"][some] - 1) / (gain[bound][some] - 1)
            made[f"gain_over_{bound}[{label}]"] = point(float(quotient.min()))
        made[f"gain[{label}]"] = point(float(gain["gain"][-1]))
    return made


def _of(data: Data, table: str, label: str) -> dict[str, NDArray[np.float64]]:
    chosen = data[table]["label"] == label
    return {name: column[chosen] for name, column in data[table].items() if name != "label"}


def draw(data: Data, canvas: Canvas) -> None:
    """Solid: the quantity; dotted: the printed bound; dashed: the bound with the best constant."""
    canvas.set_size_inches(style.PAGE, 3.2)
    left, right = canvas.subplots(1, 2)
    for label, color in zip(ACTIVATIONS, (style.VERMILION, style.BLUE, style.GREEN, style.SKY, style.BLACK)):
        gap, gain = _of(data, "gap", label), _of(data, "gain", label)
        name, alpha, x = NAMES.get(label, style.look(label).name), gap["alpha"][0], gap["x"]
        curve = x**2 * (1 - x**2)
        left.plot(x, gap["gap"], color=color, label=name)
        left.plot(x, (1 - alpha) / (1 + alpha) * curve, color=color, linestyle=":")
        left.plot(x, (1 - alpha) * curve, color=color, linestyle="--", linewidth=0.8)
        right.plot(gain["share"], gain["gain"], color=color)
        right.plot(gain["share"], gain["printed"], color=color, linestyle=":")
        right.plot(gain["share"], gain["best"], color=color, linestyle="--", linewidth=0.8)
    for text, line in (("printed bound", ":"), ("bound with the best constant", "--")):
        left.plot([], [], color="0.4", linestyle=line, label=text)
    left.set(xlabel="correlation x", ylabel="x² − K(x)²")
    right.set(xlabel="λ in C(λ) = (1 − λ) I + λ C", ylabel="gain of the Rényi-2 rank")
    style.legend_below(canvas, left, columns=4)


FIGURE = Figure(
    id="barriers_figA1_rank_gain",
    title="The gain of rank through an activation, and its bounds",
    source=Source("2510.00304", "v2", "Figure A.1"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={"smoke": "5 s", "teach": "5 s", "paper": "10 s"},
)
