r"""Quantities of a polynomial φ on standard Gaussian pre-activations, by Stein's identity; no Hermite polynomial occurs.

For a standard Gaussian pair (X, Y) of correlation r, E[X g] = E[∂g/∂X] + r E[∂g/∂Y] gives

    E[X^a Y^b] = (a − 1) E[X^(a−2) Y^b] + b r E[X^(a−1) Y^(b−1)],

so that E[φ(X) φ(Y)] is a rational function of rational coefficients and r. A finite law (points of equal mass) and the
transform E cos(sZ) = exp(−s²/2) complete the list. None of them depends on the network of the witness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from proofs_checks.recheck_core.network import check_list
from proofs_checks.recheck_core.numbers import Number, WitnessError, lift, parse_rational


@lru_cache(maxsize=4096)
def mixed_moment(a: int, b: int, r: Fraction) -> Fraction:
    """E[X^a Y^b] of a standard Gaussian pair of correlation r.

    >>> mixed_moment(2, 2, Fraction(1, 2)), mixed_moment(0, 4, Fraction(0))    # 1 + 2 r², 3
    (Fraction(3, 2), Fraction(3, 1))
    """
    if a == 0:
        return Fraction(0) if b % 2 else Fraction(1) if b == 0 else (b - 1) * mixed_moment(0, b - 2, r)
    total = Fraction(0)
    if a > 1:
        total += (a - 1) * mixed_moment(a - 2, b, r)
    if b:
        total += b * r * mixed_moment(a - 1, b - 1, r)
    return total


def second_moment(phi: list[Fraction], r: Fraction) -> Fraction:
    """E[φ(X) φ(Y)]; (Eφ)² at r = 0 and Eφ² at r = 1.

    >>> second_moment([Fraction(0), Fraction(1)], Fraction(1, 3))
    Fraction(1, 3)
    """
    terms = [(a, c) for a, c in enumerate(phi) if c]
    return sum((c * d * mixed_moment(a, b, r) for a, c in terms for b, d in terms), Fraction(0))


def _coefficients(args: Mapping[str, Any], place: str) -> list[Fraction]:
    raw = check_list(args["coefficients"], f"{place}.coefficients")
    return [parse_rational(value, f"{place}.coefficients[{k}]") for k, value in enumerate(raw)]


def _correlation_argument(args: Mapping[str, Any], place: str) -> Fraction:
    r = parse_rational(args["r"], f"{place}.r")
    if not -1 <= r <= 1:
        raise WitnessError(f"{place}.r", args["r"], "a correlation lies between -1 and 1", "give such a number")
    return r


def _variance(phi: list[Fraction], place: str) -> Fraction:
    variance = second_moment(phi, Fraction(1)) - second_moment(phi, Fraction(0))
    if not variance:
        raise WitnessError(f"{place}.coefficients", [str(c) for c in phi], "phi is constant", "give one that varies")
    return variance


def _moment(args: Mapping[str, Any], place: str) -> Number:
    return second_moment(_coefficients(args, place), _correlation_argument(args, place))


def _correlation(args: Mapping[str, Any], place: str) -> Number:
    """Corr(φ(X), φ(Y))."""
    phi, r = _coefficients(args, place), _correlation_argument(args, place)
    return (second_moment(phi, r) - second_moment(phi, Fraction(0))) / _variance(phi, place)


def _slope(args: Mapping[str, Any], place: str) -> Number:
    """The derivative of r ↦ Corr(φ(X), φ(Y)) at 0, (E φ′)² / Var φ."""
    phi = _coefficients(args, place)
    mean_slope = sum((k * c * mixed_moment(0, k - 1, Fraction(0)) for k, c in enumerate(phi) if k), Fraction(0))
    return mean_slope**2 / _variance(phi, place)


def _law_covariance(args: Mapping[str, Any], place: str) -> Number:
    """Cov(φ(X), φ(Y)) for (X, Y) uniform on the listed points."""
    phi, values = _coefficients(args, place), []
    for k, raw in enumerate(check_list(args["points"], f"{place}.points")):
        pair = [parse_rational(v, f"{place}.points[{k}]") for v in check_list(raw, f"{place}.points[{k}]")]
        if len(pair) != 2:
            raise WitnessError(f"{place}.points[{k}]", raw, "a point is a pair", "give two numbers")
        values.append([sum((c * v**n for n, c in enumerate(phi)), Fraction(0)) for v in pair])
    if not values:
        raise WitnessError(f"{place}.points", values, "a law needs a point", "give at least one")
    mean = [sum(column, Fraction(0)) / len(values) for column in zip(*values, strict=True)]
    return sum((u * v for u, v in values), Fraction(0)) / len(values) - mean[0] * mean[1]


def _cosine(args: Mapping[str, Any], place: str) -> Number:
    """E cos(sZ) = exp(−s²/2), a ball."""
    s = parse_rational(args["frequency"], f"{place}.frequency")
    return lift(-s * s / 2).exp()


Compute = Callable[[Mapping[str, Any], str], Number]

_COMPUTATIONS: dict[str, tuple[tuple[str, ...], Compute]] = {
    # name                     arguments                  computation
    "gaussian_moment": (("coefficients", "r"), _moment),
    "gaussian_correlation": (("coefficients", "r"), _correlation),
    "gaussian_slope": (("coefficients",), _slope),
    "gaussian_cosine": (("frequency",), _cosine),
    "law_covariance": (("coefficients", "points"), _law_covariance),
}


def _of_no_network(compute: Compute) -> Callable[[Any, Mapping[str, Any], str], Number]:
    return lambda point, args, place: compute(args, place)


GAUSSIAN_QUANTITIES = {
    name: (arguments, _of_no_network(compute)) for name, (arguments, compute) in _COMPUTATIONS.items()
}
