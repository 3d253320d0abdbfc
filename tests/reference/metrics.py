"""Slow, independent routes to ``lop_theory.metrics``: one replica, one number at a time, from the sentence that defines it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Matrix = Sequence[Sequence[float]]  # N rows (inputs) of n numbers (units)


def column(h: Matrix, unit: int) -> list[float]:
    return [row[unit] for row in h]


def units(h: Matrix) -> list[list[float]]:
    return [column(h, u) for u in range(len(h[0]))]


def share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def dead_fraction(h: Matrix, of_probe: float, silence: float) -> float:
    return share([share([abs(v) < silence for v in unit]) > of_probe for unit in units(h)])


def rarely_active_fraction(h: Matrix, of_probe: float) -> float:
    return share([share([v != 0 for v in unit]) < of_probe for unit in units(h)])


def dormant_fraction(h: Matrix, tau: float) -> float:
    sizes = [sum(map(abs, unit)) / len(unit) for unit in units(h)]
    mean = sum(sizes) / len(sizes)
    return share([mean == 0 or size / mean <= tau for size in sizes])


def saturated_fraction(slope: Matrix, level: float, of_probe: float) -> float:
    return share([share([abs(v) < level for v in unit]) > of_probe for unit in units(slope)])


def signal_saturated_fraction(h: Matrix, signal: Matrix, level: float, of_probe: float) -> float:
    flags = []
    for unit, error in zip(units(h), units(signal), strict=True):
        size = max(sum(map(abs, unit)) / len(unit), 1e-12)
        flags.append(share([abs(g) / size < level for g in error]) > of_probe)
    return share(flags)


def duplicate_fraction(h: Matrix, cosine: float) -> float:
    def cosine_of(a: list[float], b: list[float]) -> float:
        size = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
        return sum(v * w for v, w in zip(a, b, strict=True)) / size if size else 0.0

    columns = units(h)
    return share([any(cosine_of(columns[j], columns[k]) > cosine for k in range(j + 1, len(columns)))
                  for j in range(len(columns))])  # fmt: skip


def centred(h: Matrix) -> list[list[float]]:
    means = [sum(unit) / len(unit) for unit in units(h)]
    return [[v - m for v, m in zip(row, means, strict=True)] for row in h]


def gram_eigenvalues(h: Matrix) -> list[float]:
    """σ², by the eigenvalues of the smaller Gram matrix: no singular value decomposition."""
    a = torch.tensor(h, dtype=torch.float64)
    gram = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0).tolist()


def effective_rank(h: Matrix) -> float:
    sigma = [math.sqrt(s) for s in gram_eigenvalues(h)]
    shares = [s / sum(sigma) for s in sigma]
    return math.prod(p**-p for p in shares if p > 0)


def stable_rank(h: Matrix) -> float:
    return sum(v * v for row in h for v in row) / gram_eigenvalues(h)[0]


def participation_ratio(h: Matrix) -> float:
    squares = gram_eigenvalues(h)
    return sum(squares) ** 2 / sum(s * s for s in squares)


def srank(h: Matrix, delta: float) -> int:
    sigma = [math.sqrt(s) for s in gram_eigenvalues(h)]
    return next(k for k in range(1, len(sigma) + 1) if sum(sigma[:k]) >= (1 - delta) * sum(sigma) * (1 - 1e-12))


def epsilon_rank(h: Matrix, eps: float) -> int:
    return sum(s / len(h) > eps for s in gram_eigenvalues(h))


def one_step_gain(hessian: torch.Tensor, theta: torch.Tensor, noise: torch.Tensor, rate: float) -> float:
    """E[L(θ) − L(θ − η ĝ)] for L = ½ θᵀHθ and ĝ = Hθ + a row of ``noise`` [K, P], each row equally likely."""

    def loss(t: torch.Tensor) -> float:
        return float(t @ hessian @ t) / 2

    after = [loss(theta - rate * (hessian @ theta + row)) for row in noise]
    return loss(theta) - sum(after) / len(after)
