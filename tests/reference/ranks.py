"""Slow, independent routes to every rank of ``lop_theory.rank``: textbook elimination, Descartes' rule, plain sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import sympy

Rows = Sequence[Sequence[Any]]


def rank_over_q(rows: Rows) -> int:
    """Row echelon form in Fractions, one entry at a time."""
    table = [[Fraction(entry) for entry in row] for row in rows]
    rank = 0
    for column in range(len(table[0]) if table else 0):
        pivot = next((i for i in range(rank, len(table)) if table[i][column] != 0), None)
        if pivot is None:
            continue
        table[rank], table[pivot] = table[pivot], table[rank]
        for i in range(rank + 1, len(table)):
            factor = table[i][column] / table[rank][column]
            table[i] = [a - factor * b for a, b in zip(table[i], table[rank])]
        rank += 1
    return rank


def rank_modulo(rows: Rows, p: int) -> int:
    """Row echelon form over F_p, with inverses modulo p; p divides no denominator."""
    fractions = [[Fraction(entry) for entry in row] for row in rows]
    table = [[f.numerator * pow(f.denominator, -1, p) % p for f in row] for row in fractions]
    rank = 0
    for column in range(len(table[0]) if table else 0):
        pivot = next((i for i in range(rank, len(table)) if table[i][column]), None)
        if pivot is None:
            continue
        table[rank], table[pivot] = table[pivot], table[rank]
        inverse = pow(table[rank][column], -1, p)
        for i in range(rank + 1, len(table)):
            factor = table[i][column] * inverse
            table[i] = [(a - factor * b) % p for a, b in zip(table[i], table[rank])]
        rank += 1
    return rank


def rank_by_sympy(rows: Rows) -> int:
    """Sympy's rank of the same rationals."""
    return int(sympy.Matrix([[sympy.Rational(Fraction(entry)) for entry in row] for row in rows]).rank())


def exact_inertia(rows: Rows) -> tuple[int, int, int]:
    """(positive, negative, zero) of a rational symmetric matrix, exactly.

    All roots of its characteristic polynomial are real, and then Descartes' rule of signs is an equality: the number of
    positive roots is the number of sign changes of the coefficients. Coefficients by Faddeev–LeVerrier in Fractions.
    """
    n = len(rows)
    H = [[Fraction(entry) for entry in row] for row in rows]
    M = [[Fraction(0)] * n for _ in range(n)]
    coefficients = [Fraction(1)]  # of λⁿ, λⁿ⁻¹, …
    for k in range(1, n + 1):
        for i in range(n):
            M[i][i] += coefficients[-1]
        M = [[sum((H[i][l] * M[l][j] for l in range(n)), Fraction(0)) for j in range(n)] for i in range(n)]
        coefficients.append(-sum((M[i][i] for i in range(n)), Fraction(0)) / k)
    reflected = [c * (-1) ** (n - k) for k, c in enumerate(coefficients)]
    positive, negative = _sign_changes(coefficients), _sign_changes(reflected)
    return positive, negative, n - positive - negative


def _sign_changes(coefficients: Sequence[Fraction]) -> int:
    signs = [c > 0 for c in coefficients if c != 0]
    return sum(a != b for a, b in pairwise(signs))


def exact_epsilon_rank(rows: Rows, eps: Fraction) -> int:
    """#{|λ| > eps} of a rational symmetric matrix, exactly: inertia of H − eps I and of H + eps I."""
    below = [[Fraction(entry) - eps * (i == j) for j, entry in enumerate(row)] for i, row in enumerate(rows)]
    above = [[Fraction(entry) + eps * (i == j) for j, entry in enumerate(row)] for i, row in enumerate(rows)]
    return exact_inertia(below)[0] + exact_inertia(above)[1]


def epsilon_rank_by_eigenvalues(H: Any, eps: float) -> int:
    """#{|λ| > eps} from a symmetric eigensolver."""
    return sum(abs(value) > eps for value in np.linalg.eigvalsh(np.asarray(H, dtype=np.float64)).tolist())


def entropic_ranks(sigma: Sequence[float]) -> dict[str, float]:
    """stable_rank, participation_ratio and effective_rank of given singular values by plain accurate sums."""
    positive = [s for s in sigma if s > 0]
    p = [s / math.fsum(positive) for s in positive]
    squares = [s * s for s in positive]
    return {
        "stable_rank": math.fsum(squares) / max(squares),
        "participation_ratio": math.fsum(squares) ** 2 / math.fsum(s * s for s in squares),
        "effective_rank": math.exp(-math.fsum(x * math.log(x) for x in p)),
    }


def srank_by_counting(sigma: Sequence[Fraction], delta: Fraction) -> int:
    """Smallest k whose k largest of the given (exact) singular values hold at least the share 1 − delta."""
    ordered = sorted(sigma, reverse=True)
    return next(k for k in range(1, len(ordered) + 1) if sum(ordered[:k]) >= (1 - delta) * sum(ordered))
