"""Activations: value, slope and curvature in every number system that the library computes in.

An activation is one of three kinds, and its kind says how exactly it can be treated:

===================  =======================================================  ==========================
kind                 given by                                                 exact over the rationals?
===================  =======================================================  ==========================
piecewise linear     breakpoints, and slope and intercept of each piece       yes, off the breakpoints
polynomial           coefficients, constant term first                        yes
smooth               f, f', f'' for tensors and for balls (``flint.arb``)     no: rigorous balls only
===================  =======================================================  ==========================

A piece of slope zero is a *saturated region*: there f is constant, so f' = f'' = 0 **exactly**. Smooth saturation (tanh at
z = 20) is not: f' > 0 in exact arithmetic although float64 rounds it to 0 (see the claim ``spectral.numerically-dead``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch
from flint import arb, fmpq

Scalar = Any  # fmpq, Fraction, int or arb
TensorMap = Callable[[torch.Tensor], torch.Tensor]
ScalarMap = Callable[[Scalar], Scalar]


class KinkError(ValueError):
    """A pre-activation sits exactly on a breakpoint, where the derivative does not exist."""


@dataclass(frozen=True, eq=False)
class Activation:
    """One activation function. Build it with :func:`piecewise_linear`, :func:`polynomial` or :func:`smooth`.

    ``tensor`` and ``ball`` hold the triples (f, f', f'') acting elementwise on tensors and on one ``flint.arb``.
    ``breakpoints`` (ascending, exact), ``slopes`` and ``intercepts`` describe a piecewise linear f, ``coefficients`` a
    polynomial one; both are empty for a smooth one. ``symbolic`` maps a SymPy symbol to f of it.

    >>> get_activation("hard_tanh").saturated_pieces
    ((None, Fraction(-1, 1), Fraction(-1, 1)), (Fraction(1, 1), None, Fraction(1, 1)))
    """

    name: str
    tensor: tuple[TensorMap, TensorMap, TensorMap]
    ball: tuple[ScalarMap, ScalarMap, ScalarMap]
    symbolic: Callable[[sympy.Expr], sympy.Expr]
    breakpoints: tuple[Fraction, ...] = ()
    slopes: tuple[Fraction, ...] = ()
    intercepts: tuple[Fraction, ...] = ()
    coefficients: tuple[Fraction, ...] = ()

    @property
    def is_piecewise_linear(self) -> bool:
        return bool(self.slopes)

    @property
    def is_exact(self) -> bool:
        """Can f, f' and f'' be evaluated over the rationals?"""
        return bool(self.slopes or self.coefficients)

    @cached_property
    def is_integral(self) -> bool:
        """Do f, f' and f'' map integers to integers?"""
        numbers = (*self.breakpoints, *self.slopes, *self.intercepts, *self.coefficients)
        return self.is_exact and all(c.denominator == 1 for c in numbers)

    @property
    def saturated_pieces(self) -> tuple[tuple[Fraction | None, Fraction | None, Fraction], ...]:
        """Open intervals (low, high) on which f is constant, each with that constant; ``None`` is an infinite end."""
        if not self.is_piecewise_linear:
            return ()
        ends = (None, *self.breakpoints, None)
        pieces = zip(pairwise(ends), self.slopes, self.intercepts, strict=True)
        return tuple((low, high, c) for (low, high), slope, c in pieces if slope == 0)

    def saturated(self, z: torch.Tensor) -> torch.Tensor:
        """Boolean tensor: is z strictly inside a saturated region?

        >>> get_activation("relu").saturated(torch.tensor([-1.0, 0.0, 2.0])).tolist()
        [True, False, False]
        """
        inside = torch.zeros_like(z, dtype=torch.bool)
        for low, high, _ in self.saturated_pieces:
            above = z > float(low) if low is not None else torch.ones_like(inside)
            below = z < float(high) if high is not None else torch.ones_like(inside)
            inside |= above & below
        return inside

    def piece(self, z: Scalar) -> int:
        """Index of the linear piece that contains the rational z; :class:`KinkError` on a breakpoint."""
        index = 0
        for b in self.breakpoints:
            at = fmpq(b.numerator, b.denominator)
            if z == at:
                raise KinkError(
                    f"pre-activation {z} is on the kink of {self.name} at {b}; the derivative does not exist there; "
                    "move a bias or an input so that every pre-activation is off the breakpoints"
                )
            index += z > at
        return index

    def exact(self, z: Scalar, order: int) -> Scalar:
        """The derivative of the given order (0, 1 or 2) at the rational number z, as a rational number."""
        if self.is_piecewise_linear:
            if order == 0:
                index = sum(z > fmpq(b.numerator, b.denominator) for b in self.breakpoints)
                return _q(self.slopes[index]) * z + _q(self.intercepts[index])
            return _q(self.slopes[self.piece(z)]) if order == 1 else fmpq(0)
        if self.coefficients:
            total = fmpq(0)
            for power in range(len(self.coefficients) - 1, order - 1, -1):
                total = total * z + _q(self.coefficients[power]) * math.perm(power, order)
            return total
        raise ValueError(
            f"activation {self.name!r} is not rational; use a piecewise linear or polynomial one, or balls"
        )


def _q(value: Fraction) -> fmpq:
    return fmpq(value.numerator, value.denominator)


def piecewise_linear(
    name: str, breakpoints: Sequence[Fraction | int], slopes: Sequence[Fraction | int], value_at_first: Fraction | int
) -> Activation:
    """A continuous piecewise linear f: slopes left to right, and its value at the first breakpoint (at 0 if none)."""
    b = tuple(Fraction(v) for v in breakpoints)
    s = tuple(Fraction(v) for v in slopes)
    intercepts = [Fraction(value_at_first) - s[0] * (b[0] if b else 0)]
    for k, at in enumerate(b):
        intercepts.append(intercepts[-1] + (s[k] - s[k + 1]) * at)
    jumps = [(float(at), float(s[k + 1] - s[k]), s[k + 1] == 0) for k, at in enumerate(b)]
    first_slope, first_intercept = float(s[0]), float(intercepts[0])

    def value(z: torch.Tensor) -> torch.Tensor:
        out = first_slope * z + first_intercept if (first_slope or first_intercept or not jumps) else None
        for at, jump, _ in jumps:
            part = torch.relu(z - at if at else z)
            part = part if jump == 1.0 else jump * part
            out = part if out is None else out + part
        assert out is not None
        return out

    def slope(z: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(z, first_slope)
        for at, jump, saturates in jumps:  # on a breakpoint: the flat side, as torch does for relu, hardtanh and relu6
            out = out + jump * (z >= at if saturates else z > at).to(z.dtype)
        return out

    def ball_value(z: Scalar) -> Scalar:
        index = _ball_piece(name, b, z)
        return _ball(s[index]) * z + _ball(intercepts[index])

    def symbolic(t: sympy.Expr) -> sympy.Expr:
        lines = [sympy.Rational(k) * t + sympy.Rational(c) for k, c in zip(s, intercepts, strict=True)]
        cases = [(line, t < sympy.Rational(at)) for line, at in zip(lines, b, strict=False)]
        return sympy.Piecewise(*cases, (lines[-1], True))

    return Activation(
        name,
        (value, slope, torch.zeros_like),
        (ball_value, lambda z: _ball(s[_ball_piece(name, b, z)]), lambda z: arb(0)),
        symbolic,
        breakpoints=b,
        slopes=s,
        intercepts=tuple(intercepts),
    )


def _ball(value: Fraction) -> arb:
    return arb(_q(value))


def _ball_piece(name: str, breakpoints: Sequence[Fraction], z: arb) -> int:
    index = 0
    for at in breakpoints:
        if z > _ball(at):
            index += 1
        elif not z < _ball(at):
            raise KinkError(
                f"pre-activation {z} of {name} is not proved to be off the breakpoint {at}; raise the precision"
            )
    return index


def polynomial(name: str, coefficients: Sequence[Fraction | int]) -> Activation:
    """f(z) = sum_k coefficients[k] z^k."""
    exact = tuple(Fraction(c) for c in coefficients)

    def derivative(order: int) -> Callable[[Any, Callable[[Fraction], Any]], Any]:
        rows = [c * math.perm(k, order) for k, c in enumerate(exact)][order:]

        def horner(z: Any, lift: Callable[[Fraction], Any]) -> Any:
            total = 0 * z + lift(rows[-1]) if rows else 0 * z
            for c in reversed(rows[:-1]):
                total = total * z + lift(c)
            return total

        return horner

    h0, h1, h2 = derivative(0), derivative(1), derivative(2)
    return Activation(
        name,
        (lambda z: h0(z, float), lambda z: h1(z, float), lambda z: h2(z, float)),
        (lambda z: h0(z, _ball), lambda z: h1(z, _ball), lambda z: h2(z, _ball)),
        lambda t: sum(sympy.Rational(c) * t**k for k, c in enumerate(exact)),
        coefficients=exact,
    )


def smooth(
    name: str,
    tensor: tuple[TensorMap, TensorMap, TensorMap],
    ball: tuple[ScalarMap, ScalarMap, ScalarMap],
    symbolic: Callable[[sympy.Expr], sympy.Expr],
) -> Activation:
    """A transcendental activation, given by its derivatives up to order two."""
    return Activation(name, tensor, ball, symbolic)


_SQRT1_2, _DENSITY = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


def _phi(z: torch.Tensor) -> torch.Tensor:
    return _DENSITY * torch.exp(-z * z / 2)


def _Phi(z: torch.Tensor) -> torch.Tensor:
    return 0.5 * torch.erfc(-z * _SQRT1_2)


def _ball_phi(z: arb) -> arb:
    return (-z * z / 2).exp() / (2 * arb.pi()).sqrt()


def _ball_Phi(z: arb) -> arb:
    return (-z / arb(2).sqrt()).erfc() / 2


def _ball_sigmoid(z: arb) -> arb:
    return 1 / (1 + (-z).exp())


def _sym_sigmoid(t: sympy.Expr) -> sympy.Expr:
    return 1 / (1 + sympy.exp(-t))


def _ball_sech2(z: arb) -> arb:
    return 1 / z.cosh() ** 2  # 1 - tanh^2 would cancel to a ball around 0 at large |z|


# Rules, aligned to be read by eye:  name            f                         f'                              f''
_TABLE: dict[str, Activation] = {
    a.name: a
    for a in (
        piecewise_linear("identity", (), (1,), 0),
        piecewise_linear("relu", (0,), (0, 1), 0),
        piecewise_linear("hard_tanh", (-1, 1), (0, 1, 0), -1),
        piecewise_linear("relu6", (0, 6), (0, 1, 0), 0),
        piecewise_linear("abs", (0,), (-1, 1), 0),
        polynomial("square", (0, 0, 1)),
        polynomial("cube", (0, 0, 0, 1)),
        polynomial("quadratic", (0, 1, Fraction(1, 2))),
        smooth(
            "tanh",
            (torch.tanh, lambda z: 1 / torch.cosh(z) ** 2, lambda z: -2 * torch.tanh(z) / torch.cosh(z) ** 2),
            (lambda z: z.tanh(), _ball_sech2, lambda z: -2 * z.tanh() * _ball_sech2(z)),
            sympy.tanh,
        ),
        smooth(
            "sigmoid",
            (
                torch.sigmoid,
                lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
                lambda z: torch.sigmoid(z) * torch.sigmoid(-z) * -torch.tanh(z / 2),
            ),
            (
                _ball_sigmoid,
                lambda z: _ball_sigmoid(z) * _ball_sigmoid(-z),
                lambda z: -_ball_sigmoid(z) * _ball_sigmoid(-z) * (z / 2).tanh(),
            ),
            _sym_sigmoid,
        ),
        smooth(
            "softplus",
            (
                torch.nn.functional.softplus,
                torch.sigmoid,
                lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
            ),
            (lambda z: z.exp().log1p(), _ball_sigmoid, lambda z: _ball_sigmoid(z) * _ball_sigmoid(-z)),
            lambda t: sympy.log(1 + sympy.exp(t)),
        ),
        smooth(
            "gelu",
            (lambda z: z * _Phi(z), lambda z: _Phi(z) + z * _phi(z), lambda z: (2 - z * z) * _phi(z)),
            (
                lambda z: z * _ball_Phi(z),
                lambda z: _ball_Phi(z) + z * _ball_phi(z),
                lambda z: (2 - z * z) * _ball_phi(z),
            ),
            lambda t: t * (1 + sympy.erf(t / sympy.sqrt(2))) / 2,
        ),
        smooth(
            "erf",
            (
                torch.erf,
                lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z),
                lambda z: -4 / math.sqrt(math.pi) * z * torch.exp(-z * z),
            ),
            (
                lambda z: z.erf(),
                lambda z: 2 / arb.pi().sqrt() * (-z * z).exp(),
                lambda z: -4 / arb.pi().sqrt() * z * (-z * z).exp(),
            ),
            sympy.erf,
        ),
        smooth(
            "sin",
            (torch.sin, torch.cos, lambda z: -torch.sin(z)),
            (lambda z: z.sin(), lambda z: z.cos(), lambda z: -z.sin()),
            sympy.sin,
        ),
        smooth(
            "silu",
            (
                torch.nn.functional.silu,
                lambda z: torch.sigmoid(z) * (1 + z * torch.sigmoid(-z)),
                lambda z: torch.sigmoid(z) * torch.sigmoid(-z) * (2 - z * torch.tanh(z / 2)),
            ),
            (
                lambda z: z * _ball_sigmoid(z),
                lambda z: _ball_sigmoid(z) * (1 + z * _ball_sigmoid(-z)),
                lambda z: _ball_sigmoid(z) * _ball_sigmoid(-z) * (2 - z * (z / 2).tanh()),
            ),
            lambda t: t * _sym_sigmoid(t),
        ),
    )
}


@lru_cache(maxsize=64)
def get_activation(name: str) -> Activation:
    """The activation of that name; ``"leaky_relu"`` has slope 0.01 and ``"leaky_relu:1/8"`` the slope you give.

    A slope written as a decimal is the *float* of that decimal, which is a dyadic rational, so that what is proved
    exactly is proved for the function that tensors compute.

    >>> get_activation("relu").exact(fmpq(-3, 2), 0)
    0
    >>> get_activation("swish9")
    Traceback (most recent call last):
        ...
    ValueError: unknown activation 'swish9'; known are abs, cube, erf, gelu, hard_tanh, identity, leaky_relu[:SLOPE], ...
    """
    if name in _TABLE:
        return _TABLE[name]
    base, _, argument = name.partition(":")
    if base == "leaky_relu":
        try:
            slope = Fraction(argument) if "/" in argument else Fraction(float(argument or "0.01"))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(
                f"slope {argument!r} of leaky_relu is not a number; write leaky_relu:0.01 or leaky_relu:1/8"
            ) from None
        return piecewise_linear(name, (0,), (slope, 1), 0)
    known = ", ".join(sorted([*_TABLE, "leaky_relu[:SLOPE]"]))
    raise ValueError(f"unknown activation {name!r}; known are {known}")


def on_kink(name: str, z: np.ndarray | torch.Tensor) -> Any:
    """Elementwise: is z exactly on a breakpoint of that activation?"""
    hit: Any = np.zeros(z.shape, dtype=bool) if isinstance(z, np.ndarray) else torch.zeros_like(z, dtype=torch.bool)
    for at in get_activation(name).breakpoints:
        hit = hit | (z == float(at))
    return hit
