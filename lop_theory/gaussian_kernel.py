r"""The correlation kernel of an activation: K_φ(r) = Corr(φ(X), φ(Y)) for a standard Gaussian pair of correlation r.

*Barriers* (arXiv 2510.00304 v1, Lemma A.1): with the Hermite coefficients a_k of φ and Varφ = Σ_(k≥1) a_k² > 0,

    K_φ(r) = Σ_(k≥1) w_k r^k,    w_k = a_k² / Σ_(l≥1) a_l² ≥ 0,    Σ w_k = 1.                                        (1)

Proof (Mehler). e^(sX − s²/2) = Σ sᵏ He_k(X) / k! and E e^(sX + tY) = e^((s² + 2rst + t²)/2) give Σ_(j,k) s^j t^k E[He_j He_k] /
(j! k!) = e^(rst), that is E[h_j(X) h_k(Y)] = r^k if j = k, else 0. ∎

Three ways to a value, the first that applies:

* polynomial φ: the weights are rational and finite in number, so is K(r) at rational r;
* closed form (``CLOSED``): for one kink at 0 (ReLU, leaky ReLU, |z|), sign, erf, sin, GELU;
* partial sum of (1) with 0 ≤ remainder(|r|) ≤ (1 − Σ_(k≤n) w_k) |r|^(n+1): for the rest, in floats or balls.

*Closed forms* of Cov(φ(X), φ(Y)), with A(r) = (2/π)(√(1 − r²) + r arcsin r − 1) for |z|: slopes s₋, s₊ at one kink at 0 are
(s₊ + s₋)/2 · z + (s₊ − s₋)/2 · |z|, an odd and an even part, which are uncorrelated. For GELU, Stein's identity turns
E[XΦ(X) YΦ(Y)] into B + r E[Φ(X)Φ(Y)] with B = E[p(X)p(Y)] = 1/(2π√(4 − r²)) and E[ΦΦ] = 1/4 + arcsin(r/2)/(2π).

*Signs.* K(0) = 0, K(1) = 1. K(−1) = Σ_even w_k − Σ_odd w_k is −1 if φ − Eφ is odd, +1 if it is even, and strictly between
otherwise. K'(0) = w_1 = (Eφ')²/Varφ ≤ 1. K'(1) = Σ k w_k = E[φ'²]/Varφ ≥ 1, and equality in either means φ is affine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq

from lop_theory.activations import Activation
from lop_theory.hermite import (
    Polynomial,
    as_activation,
    hermite_balls,
    hermite_expansion,
    hermite_weights,
    mean_square_slope,
)

__all__ = ["GaussianKernel", "gaussian_kernel", "CLOSED", "BITS"]

BITS = 128
SERIES_ORDER, CLOSED_ORDER = 40, 8  # with a closed form the weights are only looked at, not summed


class _OnArrays:
    pi, sqrt, arcsin, sinh = np.pi, staticmethod(np.sqrt), staticmethod(np.arcsin), staticmethod(np.sinh)


class _OnBalls:
    @property
    def pi(self) -> arb:
        return arb.pi()

    def sqrt(self, x: arb) -> arb:
        return x.sqrt()

    def arcsin(self, x: arb) -> arb:
        return x.asin()

    def sinh(self, x: arb) -> arb:
        return x.sinh()


Covariance = Callable[[Any, Any], Any]  # (r, functions) -> Cov(φ(X), φ(Y)), up to one positive factor


def _absolute(r: Any, f: Any) -> Any:
    return 2 / f.pi * (f.sqrt(1 - r * r) + r * f.arcsin(r) - 1)


def _gelu(r: Any, f: Any) -> Any:
    return 1 / (2 * f.pi * f.sqrt(4 - r * r)) + r / 4 + r * f.arcsin(r / 2) / (2 * f.pi) - 1 / (4 * f.pi)


# Rules, aligned to be read by eye:  φ      Cov(φ(X), φ(Y)) up to a factor
CLOSED: dict[str, Covariance] = {
    "sign": lambda r, f: f.arcsin(r),
    "erf":  lambda r, f: f.arcsin(2 * r / 3),
    "sin":  lambda r, f: f.sinh(r),
    "gelu": _gelu,
}  # fmt: skip


def _one_kink(activation: Activation) -> Covariance | None:
    """The closed form of slopes s₋, s₊ at a single kink at 0; the value at the kink is a constant and drops out."""
    if activation.breakpoints != (Fraction(0),):
        return None
    odd, even = (((activation.slopes[1] + sign * activation.slopes[0]) / 2) ** 2 for sign in (1, -1))
    scale = odd.denominator * even.denominator  # a common factor is free, and integers are exact in both systems
    p, q = int(odd * scale), int(even * scale)
    return lambda r, f: p * r + q * _absolute(r, f)


@dataclass(frozen=True, eq=False)
class GaussianKernel:
    """K_φ. ``weights`` w_0 = 0, w_1 … w_n as fractions (polynomial φ) or balls; ``tail`` encloses 1 − Σ w.

    ``parity``: +1 (−1) if φ − Eφ is known to be even (odd), else 0. ``mean_share`` = (Eφ)² / Eφ², what centring removes.
    ``slope_at_one`` = K'(1) = E[φ'²] / Varφ in float64, infinite where φ jumps.
    """

    name: str
    weights: tuple[Any, ...]
    tail: Any
    parity: int
    mean_share: Any
    slope_at_one: float
    closed: Covariance | None = None

    @property
    def is_polynomial(self) -> bool:
        return isinstance(self.mean_share, Fraction)

    @property
    def is_linear(self) -> bool:
        """Is φ affine? Then K(r) = r, and nothing is gained."""
        return self.is_polynomial and self.weights[1:2] == (Fraction(1),)

    @property
    def slope_at_zero(self) -> Any:
        """α = K'(0) = w_1: a Fraction for a polynomial, else a ball.

        >>> gaussian_kernel("quadratic").slope_at_zero, gaussian_kernel("relu").slope_at_zero.str(5, radius=False)
        (Fraction(2, 3), '0.73347')
        """
        return self.weights[1]

    def __call__(self, r: Any) -> Any:
        """K(r) in float64, elementwise; |r| ≤ 1 (ValueError otherwise), with rounding of size 1e-12 allowed and clipped.

        >>> float(gaussian_kernel("abs")(0.6).round(6)), float(gaussian_kernel("cube")(0.5).round(6))
        (0.326037, 0.35)
        """
        x = np.asarray(r, dtype=np.float64)
        if not bool((np.abs(x) <= 1 + 1e-12).all()):
            raise ValueError(f"correlations must lie between -1 and 1, got {r}; pass a correlation matrix")
        x = np.clip(x, -1.0, 1.0)
        if self.closed is not None:
            return self.closed(x, _OnArrays) / self.closed(np.float64(1.0), _OnArrays)
        weights = [_midpoint(w) for w in self.weights]
        # What is left of (1) goes to the next power of the right parity: off by at most tail · |r|^(n+1), exact at r = 1.
        skip = self.parity != 0 and (-1) ** len(weights) != self.parity
        return np.polynomial.polynomial.polyval(x, [*weights, *[0.0] * skip, _midpoint(self.tail)])

    def enclose(self, r: fmpq | Fraction | int) -> fmpq | arb:
        """K(r) at a rational r: exact where it is rational by form (polynomials; r = 0, 1; r = −1 with parity), else a ball.

        >>> gaussian_kernel("quadratic").enclose(Fraction(1, 2)), gaussian_kernel("tanh").enclose(-1)
        (5/12, -1)
        >>> gaussian_kernel("relu").enclose(-1).str(8, radius=False)    # −1/(π − 1)
        '-0.46694221'
        """
        exact = r if isinstance(r, fmpq) else fmpq(Fraction(r).numerator, Fraction(r).denominator)
        if not -1 <= exact <= 1:
            raise ValueError(f"correlations must lie between -1 and 1, got {r}; pass a correlation matrix")
        if self.is_polynomial:
            total = fmpq(0)
            for w in reversed(self.weights):
                total = total * exact + fmpq(w.numerator, w.denominator)
            return total
        if exact in (0, 1) or (exact == -1 and self.parity):
            return fmpq(1) if exact == -1 and self.parity > 0 else exact
        return at_bits(lambda: self._ball(exact))

    def _ball(self, r: fmpq) -> arb:
        x = arb(r)
        if self.closed is not None:
            functions = _OnBalls()
            return self.closed(x, functions) / self.closed(arb(1), functions)
        total = arb(0)
        for w in reversed(self.weights):
            total = total * x + w
        rest = self.tail.abs_upper() * abs(x) ** len(self.weights)
        return total + (rest * arb(0, 1) if r < 0 else rest * arb(0.5, 0.5))

    def uncentred(self, r: Any) -> Any:
        """E[φ(X)φ(Y)] / E[φ²] in float64: what an uncentred measurement sees; equals K only if Eφ = 0.

        >>> float(gaussian_kernel("relu").uncentred(0.0).round(6))    # 1/π: uncorrelated units look correlated
        0.31831
        """
        share = _midpoint(self.mean_share)
        return share + (1 - share) * self(r)


def _midpoint(value: Any) -> float:
    return float(value.mid() if isinstance(value, arb) else value)


def at_bits(compute: Callable[[], Any]) -> Any:
    before, ctx.prec = ctx.prec, BITS
    try:
        return compute()
    finally:
        ctx.prec = before


def gaussian_kernel(phi: str | Activation | Polynomial, order: int | None = None) -> GaussianKernel:
    """K_φ of an activation of the table, of ``"sign"``, of any :class:`Activation`, or of a polynomial (coefficients).

    ``order`` is the number of weights: 40 by default, 8 where a closed form makes the series idle. Raises ValueError if φ
    is constant.

    >>> kernel = gaussian_kernel((-1, 0, 1))    # He_2: K(r) = r²
    >>> [str(w) for w in kernel.weights], kernel.enclose(Fraction(-2, 3)), kernel.parity
    (['0', '0', '1'], 4/9, 1)
    >>> gaussian_kernel("hard_tanh").enclose(Fraction(1, 2)).str(6, radius=False)
    '0.461516'
    """
    return _kernel(phi if isinstance(phi, str | Activation) else tuple(Fraction(c) for c in phi), order)


@lru_cache(maxsize=512)
def _kernel(phi: str | Activation | tuple[Fraction, ...], order: int | None) -> GaussianKernel:
    if phi == "sign":
        return _sign_kernel(order or CLOSED_ORDER)
    activation = as_activation(phi)
    coefficients = activation.coefficients or (
        activation.intercepts + activation.slopes if not activation.breakpoints else ()
    )
    if coefficients:
        return _polynomial_kernel(activation.name, coefficients)
    closed = CLOSED.get(activation.name) or _one_kink(activation)
    return at_bits(lambda: _ball_kernel(activation, order or (CLOSED_ORDER if closed else SERIES_ORDER), closed))


def _polynomial_kernel(name: str, coefficients: tuple[Fraction, ...]) -> GaussianKernel:
    weights = hermite_weights(coefficients)
    odd, even = sum(weights[1::2], Fraction(0)), sum(weights[2::2], Fraction(0))
    text = name if name != "polynomial" else "polynomial " + ", ".join(str(c) for c in coefficients)
    b = hermite_expansion(coefficients)
    squares, factorial = Fraction(0), 1
    for k, c in enumerate(b):
        factorial *= max(k, 1)
        squares += factorial * c**2
    slope = float(sum((k * w for k, w in enumerate(weights)), Fraction(0)))
    return GaussianKernel(text, weights, Fraction(0), int(not odd) - int(not even), b[0] ** 2 / squares, slope)


def _ball_kernel(activation: Activation, order: int, closed: Covariance | None) -> GaussianKernel:
    a, second = hermite_balls(activation, order, BITS)
    variance = second - a[0] ** 2
    if not variance > 0:
        raise ValueError(
            f"{activation.name} has no variance under N(0, 1) (ball {variance}): no correlation is defined"
        )
    weights = (arb(0), *(c * c / variance for c in a[1:]))
    tail = 1 - sum(weights, arb(0))
    slope = mean_square_slope(activation) / _midpoint(variance)
    return GaussianKernel(activation.name, weights, tail, _parity(activation), a[0] ** 2 / second, slope, closed)


def _sign_kernel(order: int) -> GaussianKernel:
    """(2/π) arcsin r: w_k = (2/π) (k − 1)!! / (k!! k) at odd k."""

    def build() -> GaussianKernel:
        weights, w = [arb(0)], 2 / arb.pi()
        for k in range(1, order + 1):
            weights.append(w / k if k % 2 else arb(0))
            w = w * k / (k + 1) if k % 2 else w
        return GaussianKernel("sign", tuple(weights), 1 - sum(weights, arb(0)), -1, arb(0), np.inf, CLOSED["sign"])

    return at_bits(build)


_ODD = ("tanh", "sigmoid", "erf", "sin")  # sigmoid − 1/2 is odd


def _parity(activation: Activation) -> int:
    """+1 or −1 where φ − Eφ is even or odd; 0 elsewhere. Slopes decide it for piecewise linear φ with symmetric kinks."""
    if not activation.is_piecewise_linear:
        return -1 if activation.name in _ODD else 0
    b, s = activation.breakpoints, activation.slopes
    if b != tuple(-x for x in reversed(b)):
        return 0
    return -1 if s == s[::-1] else 1 if s == tuple(-x for x in reversed(s)) else 0
