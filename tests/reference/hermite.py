"""Correlations of activations of Gaussian pairs by brute force: the trapezoidal rule in two dimensions, and Stein's recursion.

Nothing of Hermite polynomials or Mehler's formula is used: the pair is (X, r X + √(1 − r²) U) with independent X and U.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np


def grid(step: float = 0.01, reach: float = 9.0) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the trapezoidal rule for E f(Z): exponentially accurate for analytic f, O(step²) at kinks."""
    z = np.arange(-reach, reach + step / 2, step)
    return z, step * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def correlation(phi: Callable[[np.ndarray], np.ndarray], r: float, step: float = 0.02) -> float:
    """Corr(φ(X), φ(Y)) by integration over X and U."""
    z, weight = grid(step)
    x = z[:, None] + 0 * z[None, :]
    y = r * z[:, None] + math.sqrt(1 - r * r) * z[None, :]
    mass = weight[:, None] * weight[None, :]
    mean = float(weight @ phi(z))
    variance = float(weight @ phi(z) ** 2) - mean**2
    return (float((mass * phi(x) * phi(y)).sum()) - mean**2) / variance


def coefficient(phi: Callable[[np.ndarray], np.ndarray], k: int) -> float:
    """E[φ(Z) h_k(Z)] by the trapezoidal rule, with h_k from numpy's Hermite series."""
    z, weight = grid()
    he = np.polynomial.hermite_e.hermeval(z, [0.0] * k + [1.0]) / math.sqrt(math.factorial(k))
    return float(weight @ (phi(z) * he))


def gaussian_moment(n: int) -> int:
    """E Zⁿ: (n − 1)!! for even n."""
    return 0 if n % 2 else math.prod(range(1, n, 2))


def polynomial_correlation(coefficients: Sequence[Fraction], r: Fraction, complement: Fraction) -> Fraction:
    """Corr(φ(X), φ(rX + sU)) exactly, with s² + r² = 1 and s = ``complement`` rational: the binomial theorem alone."""

    def product(a: int, b: int) -> Fraction:
        return sum(
            (
                math.comb(b, j) * r**j * complement ** (b - j) * gaussian_moment(a + j) * gaussian_moment(b - j)
                for j in range(b + 1)
            ),
            Fraction(0),
        )

    terms = list(enumerate(coefficients))
    mean = sum((c * gaussian_moment(k) for k, c in terms), Fraction(0))
    second = sum((c * d * gaussian_moment(a + b) for a, c in terms for b, d in terms), Fraction(0))
    cross = sum((c * d * product(a, b) for a, c in terms for b, d in terms), Fraction(0))
    return Fraction(cross - mean**2) / Fraction(second - mean**2)
