r"""Hermite coefficients of an activation under the standard Gaussian: exact, in closed form, by quadrature, in balls.

He_k are the probabilists' Hermite polynomials, h_k = He_k / √k! an orthonormal basis of L²(N(0, 1)), p the density and Φ the
distribution function of N(0, 1). The coefficients of φ are a_k = E[φ(Z) h_k(Z)], so that φ = Σ a_k h_k and Eφ² = Σ a_k².

===================== ==================================================================== =============
φ                     a_k                                                                  arithmetic
===================== ==================================================================== =============
polynomial            zⁿ = Σ_j n! / (2ʲ j! (n − 2j)!) He_(n−2j)                            rational
piecewise linear      (1) below                                                            balls
sin                   e^(−1/2) (−1)^((k−1)/2) / √k!   for odd k                             balls
other smooth φ        E[φ h_k] by rigorous integration, tail by (2)                        balls
any φ                 Gauss–Hermite quadrature                                             float64
===================== ==================================================================== =============

(1) By Stein's identity √k! a_k = E[φ^(j)(Z) He_(k−j)(Z)]. A continuous piecewise linear φ with jumps J_b of its slope at b has
φ'' = Σ_b J_b δ_b, hence √k! a_k = Σ_b J_b p(b) He_(k−2)(b) for k ≥ 2, a_1 = Eφ′ = s_0 + Σ_b J_b Φ(−b), and, with the first
piece s_0 z + c_0, a_0 = c_0 + Σ_b J_b (p(b) − b Φ(−b)).

(2) If |φ(z)| ≤ 1 + |z|, then T = E[φ² ; |Z| > L] ≤ 8 (L + 1/L) p(L) for L ≥ 1, because (1 + z)² ≤ 4z² and
∫_L^∞ z² p = L p(L) + Φ(−L) ≤ (L + 1/L) p(L); and |E[φ h_k ; |Z| > L]| ≤ √T by Cauchy–Schwarz, for every k.

Used for the kernels of *Barriers* (arXiv 2510.00304), Lemma A.1: see :mod:`lop_theory.gaussian_kernel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flint import acb, arb, ctx, fmpq
from scipy.special import roots_hermitenorm

from lop_theory.activations import Activation, get_activation, polynomial

__all__ = [
    "hermite_polynomial",
    "hermite_expansion",
    "hermite_weights",
    "normalised_hermite",
    "gauss_hermite",
    "hermite_coefficients",
    "hermite_balls",
    "mean_square_slope",
]

Polynomial = Sequence[int | Fraction]

_REACH = 18  # rigorous integrals run over [−18, 18]; √T of (2) is then below 1e-34


# -- polynomials, exactly --------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def hermite_polynomial(k: int) -> tuple[int, ...]:
    """Coefficients of He_k, constant term first, by He_(k+1) = z He_k − k He_(k−1).

    >>> [hermite_polynomial(k) for k in (0, 2, 3)]
    [(1,), (-1, 0, 1), (0, -3, 0, 1)]
    """
    if k < 0:
        raise ValueError(f"degree {k} of a Hermite polynomial is negative; give k >= 0")
    if k < 2:
        return ((1,), (0, 1))[k]
    one, two = hermite_polynomial(k - 1), hermite_polynomial(k - 2)
    return tuple(a - (k - 1) * b for a, b in zip((0, *one), (*two, 0, 0), strict=True))


def hermite_expansion(coefficients: Polynomial) -> tuple[Fraction, ...]:
    """The b_k with Σ_n c_n zⁿ = Σ_k b_k He_k(z): exact; a_k = √k! b_k.

    >>> [str(b) for b in hermite_expansion((0, 1, Fraction(1, 2)))]    # z + z²/2 = 1/2 + He_1 + He_2 / 2
    ['1/2', '1', '1/2']
    """
    out = [Fraction(0)] * len(coefficients)
    for n, c in enumerate(coefficients):
        for j in range(n // 2 + 1):
            out[n - 2 * j] += Fraction(c) * (
                math.factorial(n) // (2**j * math.factorial(j) * math.factorial(n - 2 * j))
            )
    return tuple(out)


def hermite_weights(coefficients: Polynomial) -> tuple[Fraction, ...]:
    """w_k = a_k² / Σ_(l≥1) a_l² for k ≥ 1, and w_0 = 0: the weights of the kernel of a polynomial, rational.

    Raises ValueError for a constant polynomial, whose variance is 0.

    >>> [str(w) for w in hermite_weights((0, 1, Fraction(1, 2)))]    # a_1² = 1, a_2² = 2!/4
    ['0', '2/3', '1/3']
    """
    squares = [math.factorial(k) * b**2 for k, b in enumerate(hermite_expansion(coefficients))]
    variance = sum(squares[1:], Fraction(0))
    if not variance:
        raise ValueError(
            f"the polynomial {[str(c) for c in coefficients]} is constant: its variance is 0 and no correlation is "
            "defined; give one that varies"
        )
    return (Fraction(0), *(s / variance for s in squares[1:]))


# -- quadrature in float64 -------------------------------------------------------------------------------------------


def normalised_hermite(z: np.ndarray, order: int) -> np.ndarray:
    """h_0(z) … h_order(z) as rows [order + 1, *z.shape]; √(k+1) h_(k+1) = z h_k − √k h_(k−1).

    >>> normalised_hermite(np.array([2.0]), 2).ravel().round(4).tolist()
    [1.0, 2.0, 2.1213]
    """
    rows = np.zeros((order + 1, *z.shape))
    rows[0] = 1.0
    for k in range(order):
        rows[k + 1] = (z * rows[k] - (math.sqrt(k) * rows[k - 1] if k else 0.0)) / math.sqrt(k + 1)
    return rows


def gauss_hermite(phi: Callable[[np.ndarray], np.ndarray], order: int, nodes: int = 256) -> np.ndarray:
    """a_0 … a_order of any function by Gauss–Hermite quadrature, exact for polynomials of degree ≤ 2 nodes − 1 − order.

    It converges fast for functions analytic in a wide strip and slowly across kinks. Needs order < nodes.

    >>> gauss_hermite(lambda z: z**3, 3, 8)[1::2].round(6).tolist()    # z³ = He_3 + 3 He_1
    [3.0, 2.44949]
    """
    if not 0 <= order < nodes:
        raise ValueError(f"order {order} must be at least 0 and below the number of nodes, {nodes}; give more nodes")
    z, mass = roots_hermitenorm(nodes)
    weighted = np.asarray(phi(z), dtype=np.float64) * mass / math.sqrt(2 * math.pi)
    values: np.ndarray = normalised_hermite(z, order) @ weighted
    return values


def hermite_coefficients(phi: str | Activation | Polynomial, order: int, nodes: int = 256) -> np.ndarray:
    """a_0 … a_order in float64: exact or closed form where there is one, Gauss–Hermite for other smooth activations.

    ``phi``: a name, an :class:`Activation`, or polynomial coefficients.

    >>> hermite_coefficients("relu", 4).round(6).tolist()    # 1/√(2π), 1/2, 1/√(4π), 0, …
    [0.398942, 0.5, 0.282095, 0.0, -0.081434]
    """
    if isinstance(phi, str | Activation) and not _has_closed_coefficients(as_activation(phi)):
        value = as_activation(phi).tensor[0]
        return gauss_hermite(lambda z: value(torch.from_numpy(z)).numpy(), order, nodes)
    return np.array([float(a.mid()) for a in hermite_balls(phi, order)[0]])


def mean_square_slope(phi: str | Activation | Polynomial, nodes: int = 256) -> float:
    """E[φ'(Z)²] in float64: from the pieces of a piecewise linear φ, else by Gauss–Hermite quadrature.

    >>> mean_square_slope("relu"), round(mean_square_slope("cube"), 9)    # P(Z > 0), E (3 Z²)²
    (0.5, 27.0)
    """
    activation = as_activation(phi)
    if activation.is_piecewise_linear:
        ends = [1.0, *(float(_upper_tail(ball(b))) for b in activation.breakpoints), 0.0]
        return sum(float(s) ** 2 * (ends[k] - ends[k + 1]) for k, s in enumerate(activation.slopes))
    slope = activation.tensor[1]
    return float(gauss_hermite(lambda z: slope(torch.from_numpy(z)).numpy() ** 2, 0, nodes)[0])


# -- balls -----------------------------------------------------------------------------------------------------------


def as_activation(phi: str | Activation | Polynomial) -> Activation:
    """The activation that a name, an activation or a coefficient sequence stands for."""
    if isinstance(phi, Activation):
        return phi
    if isinstance(phi, str):
        return get_activation(phi)
    return polynomial("polynomial", tuple(phi))


def _has_closed_coefficients(activation: Activation) -> bool:
    return activation.is_exact or activation.name == "sin"


def hermite_balls(phi: str | Activation | Polynomial, order: int, bits: int = 128) -> tuple[list[arb], arb]:
    """Enclosures of a_0 … a_order and of E[φ²]: rigorous for every activation of the table.

    A smooth activation must satisfy |φ(z)| ≤ 1 + |z|, which (2) needs; every one of the table does.

    >>> a, second = hermite_balls("tanh", 1)
    >>> a[0].contains(0), a[1].str(6, radius=False), second.str(6, radius=False)
    (True, '0.605706', '0.394294')
    """
    activation = as_activation(phi)
    before, ctx.prec = ctx.prec, bits
    try:
        if activation.coefficients:
            return _of_polynomial(activation.coefficients, order)
        if activation.is_piecewise_linear:
            return _of_piecewise_linear(activation, order)
        if activation.name == "sin":
            return _of_sine(order)
        return _of_smooth(activation, order)
    finally:
        ctx.prec = before


def ball(value: Fraction | int) -> arb:
    """The ball of a rational number at the current precision."""
    exact = Fraction(value)
    return arb(fmpq(exact.numerator, exact.denominator))


def _root_factorial(k: int) -> arb:
    return arb(math.factorial(k)).sqrt()


def _of_polynomial(coefficients: Sequence[Fraction], order: int) -> tuple[list[arb], arb]:
    b = hermite_expansion(coefficients)
    second = ball(sum((math.factorial(k) * c**2 for k, c in enumerate(b)), Fraction(0)))
    return [ball(b[k]) * _root_factorial(k) if k < len(b) else arb(0) for k in range(order + 1)], second


def _density(z: arb) -> arb:
    return (-z * z / 2).exp() / (2 * arb.pi()).sqrt()


def _upper_tail(z: arb) -> arb:
    """Φ(−z)."""
    return (z / arb(2).sqrt()).erfc() / 2


def _of_piecewise_linear(activation: Activation, order: int) -> tuple[list[arb], arb]:
    """Formula (1); E[φ²] from the pieces: ∫_l^u z² p = Φ(u) − Φ(l) + l p(l) − u p(u)."""
    s, c = activation.slopes, activation.intercepts
    kinks = [(ball(b), ball(s[k + 1] - s[k])) for k, b in enumerate(activation.breakpoints)]
    rows = [arb(0)] * (order + 1)
    for b, jump in kinks:
        he_before, he = arb(0), arb(1)  # He_(k−3)(b), He_(k−2)(b)
        for k in range(2, order + 1):
            rows[k] += jump * _density(b) * he / _root_factorial(k)
            he_before, he = he, b * he - (k - 2) * he_before
    rows[0] = ball(c[0]) + sum((jump * (_density(b) - b * _upper_tail(b)) for b, jump in kinks), arb(0))
    if order >= 1:
        rows[1] = ball(s[0]) + sum((jump * _upper_tail(b) for b, jump in kinks), arb(0))
    ends = [(arb(1), arb(0), arb(0)), *((_upper_tail(b), _density(b), b * _density(b)) for b, _ in kinks)]
    ends.append((arb(0), arb(0), arb(0)))
    second = arb(0)
    for k, (slope, intercept) in enumerate(zip(map(ball, s), map(ball, c), strict=True)):
        mass, first, third = (left - right for left, right in zip(ends[k], ends[k + 1], strict=True))
        second += slope**2 * (mass + third) + 2 * slope * intercept * first + intercept**2 * mass
    return rows, second


def _of_sine(order: int) -> tuple[list[arb], arb]:
    """√k! a_k = E[sin^(k)(Z)] = ± e^(−1/2) for odd k, and E sin² = (1 − e^(−2)) / 2."""
    half = (arb(-1) / 2).exp()
    rows = [half * (-1) ** (k // 2) / _root_factorial(k) if k % 2 else arb(0) for k in range(order + 1)]
    return rows, (1 - arb(-2).exp()) / 2


def _of_smooth(activation: Activation, order: int) -> tuple[list[arb], arb]:
    """Rigorous integrals over [−L, L], and the tail bound (2) as the radius of what is left out."""
    value = _complex_value(activation)
    polynomials = [hermite_polynomial(k)[::-1] for k in range(order + 1)]

    def weight(z: acb) -> acb:
        return (-z * z / 2).exp() / (2 * arb.pi()).sqrt()

    def coefficient(k: int) -> arb:
        def integrand(z: acb, analytic: bool) -> acb:
            he = acb(0)
            for c in polynomials[k]:
                he = he * z + c
            return value(z, analytic) * he * weight(z)

        return acb.integral(integrand, -_REACH, _REACH).real / _root_factorial(k)

    reach = arb(_REACH)
    tail = 8 * (reach + 1 / reach) * _density(reach)
    radius = arb(0, float(tail.sqrt().upper()) * 1.0001)
    second = acb.integral(lambda z, analytic: value(z, analytic) ** 2 * weight(z), -_REACH, _REACH).real
    return [coefficient(k) + radius for k in range(order + 1)], second + arb(0, float(tail.upper()) * 1.0001)


def _complex_value(activation: Activation) -> Callable[[Any, bool], Any]:
    """φ on complex balls for ``acb.integral``; it must not be finite across a branch cut, which only softplus has."""
    if activation.name == "softplus":
        return lambda z, analytic: (1 + z.exp()).log(analytic)
    return lambda z, analytic: activation.ball[0](z)
