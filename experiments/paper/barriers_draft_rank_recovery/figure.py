"""An activation gives features of low rank their full rank back: singular values, and exact ranks.

Left, the draft's experiment: X = U V with Gaussian factors of rank 10 has 50 columns, and φ(X) has numerical rank 50 at the
level 10⁻⁶ σ_max. Right, what is true without a level: ranks over Q of φ(X) for small integer factors, in integer
arithmetic. Only polynomials of low degree fall short: (uᵀv)^k is an inner product in the symmetric power, of dimension
C(r + k − 1, k).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from experiments.figures import style
from experiments.figures.intervals import mean_interval
from experiments.figures.record import Context, Data, Figure, Interval, Source, grid

__all__ = ["FIGURE"]

COLUMNS, RANK, LEVEL = 50, 10, 1e-6
SMOOTH: dict[str, tuple[str, str, str]] = {  # label → name in lop_theory, name in the figure, colour
    "relu": ("relu", "ReLU", style.VERMILION),
    "tanh": ("tanh", "tanh", style.BLUE),
    "sigmoid": ("sigmoid", "sigmoid", style.SKY),
    "gelu": ("gelu", "GELU", style.GREEN),
    "silu": ("silu", "Swish", style.PURPLE),
}
EXACT: dict[str, tuple[Callable[[NDArray[np.int64]], NDArray[np.int64]], str, str]] = {
    "relu": (lambda x: np.maximum(x, 0), "ReLU", style.VERMILION),
    "abs": (np.abs, "|z|", style.PURPLE),
    "square": (lambda x: x**2, "z²", style.BLACK),
    "cube": (lambda x: x**3, "z³", style.ORANGE),
    "identity": (lambda x: x, "z", style.GREY),
}
EXACT_COLUMNS, EXACT_ROWS, EXACT_RANKS = 30, 60, range(1, 11)


def compute(context: Context) -> Data:
    """Singular values for each seed, and exact ranks."""
    rows, seeds = context.choose(smoke=1000, teach=10_000, paper=10_000), context.choose(smoke=2, teach=3, paper=10)
    values = context.table("rank_recovery_values", lambda: _values(rows, seeds), examples=rows, seeds=seeds, version=1)
    ranks = context.table("rank_recovery_exact", lambda: _exact_ranks(seeds), seeds=seeds, version=1)
    return {"values": values, "ranks": ranks}


def _values(rows: int, seeds: int) -> dict[str, list[Any]]:
    import torch

    from lop_theory.activations import get_activation

    columns: dict[str, list[Any]] = {name: [] for name in ("label", "seed", "task", "value")}
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        X = generator.standard_normal((rows, RANK)) @ generator.standard_normal((RANK, COLUMNS))
        for label in ("identity", *SMOOTH):
            phi = get_activation(SMOOTH[label][0] if label in SMOOTH else "identity").tensor[0]
            sigma = np.linalg.svd(phi(torch.from_numpy(X)).numpy(), compute_uv=False)
            for number, value in enumerate(sigma / sigma[0]):
                for column, entry in zip(columns.values(), (label, seed, number, float(value))):
                    column.append(entry)
    return columns


def _exact_ranks(seeds: int) -> dict[str, list[Any]]:
    from lop_theory.rank import exact_rank

    columns: dict[str, list[Any]] = {name: [] for name in ("label", "seed", "task", "rank")}
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        left, right = generator.integers(-9, 10, (EXACT_ROWS, 10)), generator.integers(-9, 10, (10, EXACT_COLUMNS))
        for rank in EXACT_RANKS:
            X = left[:, :rank] @ right[:rank]
            for label, (phi, _, _) in EXACT.items():
                for column, entry in zip(columns.values(), (label, seed, rank, exact_rank(phi(X)))):
                    column.append(entry)
    return columns


def measure(data: Data) -> dict[str, Interval]:
    """``hard_rank``: singular values above 10⁻⁶ σ_max; ``exact_rank`` at rank 5; ``excess``: most over the polynomial bound."""
    made = {}
    for label in ("identity", *SMOOTH):
        made[f"hard_rank[{label}]"] = mean_interval((grid(data["values"], "value", label) > LEVEL).sum(axis=0))
    inner = np.array(EXACT_RANKS)
    for label in EXACT:
        ranks = grid(data["ranks"], "rank", label)
        made[f"exact_rank[{label}]"] = mean_interval(ranks[inner == 5][0])
        degree = {"identity": 1, "square": 2, "cube": 3}.get(label)
        if degree:
            bound = np.array([min(EXACT_COLUMNS, math.comb(r + degree - 1, degree)) for r in inner])
            made[f"excess[{label}]"] = mean_interval((ranks - bound[:, None]).max(axis=0))
    return made


def draw(data: Data, canvas: Canvas) -> None:
    """Left: singular values of the first seed; right: mean exact rank over seeds."""
    canvas.set_size_inches(style.PAGE, 2.8)
    left, right = canvas.subplots(1, 2)
    curves = {"identity": ("before φ", style.GREY)} | {
        label: (name, color) for label, (_, name, color) in SMOOTH.items()
    }
    for label, (name, color) in curves.items():
        sigma = grid(data["values"], "value", label)[:, 0]
        left.plot(np.arange(1, COLUMNS + 1), np.maximum(sigma, 1e-17), color=color, label=name)
    left.axhline(LEVEL, color="0.4", linewidth=0.8, linestyle=":")
    left.set(yscale="log", xlabel="number of the singular value", ylabel="σ / σ_max")
    left.legend(ncols=2, loc="center right")
    for (label, (_, name, color)), marker in zip(EXACT.items(), "oPsD."):
        right.plot(
            list(EXACT_RANKS), grid(data["ranks"], "rank", label).mean(axis=1), color=color, marker=marker, label=name
        )
    right.axhline(EXACT_COLUMNS, color="0.4", linewidth=0.8, linestyle=":")
    right.set(xlabel="rank of X", ylabel=f"exact rank of φ(X), {EXACT_COLUMNS} columns", ylim=(0, EXACT_COLUMNS + 2))
    right.legend(loc="center right")


FIGURE = Figure(
    id="barriers_draft_rank_recovery",
    title="An activation recovers the hard rank of features",
    source=Source("2510.00304", "draft of June 2025", "hard rank"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={"smoke": "3 s", "teach": "10 s", "paper": "15 s"},
)
