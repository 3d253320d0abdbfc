"""Activations of a witness: value, first and second derivative, and their flat pieces, from their definitions.

Piecewise activations are given by their kinks and one polynomial (or exponential) per piece, so that the piece, and
with it every derivative, follows from signs of ``z - kink`` alone.  At a kink only the derivatives on which both
neighbours agree exist; asking for another one is an error, never a convention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from proofs_checks.recheck_core.numbers import Field, Number, WitnessError, is_certainly_equal, parse_rational

Derivatives = tuple[Number, Number, Number]
"""f(z), f'(z), f''(z)."""

Piece = Callable[[Number, Field], Derivatives]


class UndefinedDerivative(WitnessError):
    """A derivative was asked at a kink, where it does not exist."""


@dataclass(frozen=True)
class Activation:
    """One activation: ``pieces[k]`` holds between ``kinks[k-1]`` and ``kinks[k]``; ``flat`` lists constant pieces."""

    name: str
    pieces: tuple[Piece, ...]
    kinks: tuple[int, ...] = ()
    flat: frozenset[int] = frozenset()
    rational: bool = True

    def piece_of(self, z: Number, field: Field) -> tuple[int, bool]:
        """(index of the piece that holds z, whether z is exactly its lower kink)."""
        piece = 0
        for kink in self.kinks:
            side = field.sign(z - kink)
            if side < 0:
                break
            piece += 1
            if side == 0:
                return piece, True
        return piece, False

    def flat_piece(self, z: Number, field: Field) -> int | None:
        """The index of the flat piece with z strictly inside, else None."""
        piece, on_kink = self.piece_of(z, field)
        return piece if piece in self.flat and not on_kink else None

    def derivatives(self, z: Number, field: Field, order: int, place: str) -> Derivatives:
        """f, f', f'' at z; those up to ``order`` are guaranteed to exist, else :class:`UndefinedDerivative`.

        >>> from proofs_checks.recheck_core.numbers import Rationals
        >>> make_activation("relu", "").derivatives(Fraction(1, 2), Rationals(), 2, "unit 1")
        (Fraction(1, 2), 1, 0)
        """
        piece, on_kink = self.piece_of(z, field)
        right = self.pieces[piece](z, field)
        if on_kink:
            left = self.pieces[piece - 1](z, field)
            for degree in range(1, order + 1):
                if not is_certainly_equal(left[degree], right[degree]):
                    rule = f"derivative {degree} of {self.name} at its kink z = {self.kinks[piece - 1]} is undefined"
                    raise UndefinedDerivative(place, z, rule, "move the data or the parameters off the kink")
        return right


def _constant(c: int) -> Piece:
    return lambda z, field: (field.number(c), 0, 0)


def _linear(slope: int | Fraction) -> Piece:
    return lambda z, field: (field.number(slope) * z, field.number(slope), 0)


def _tanh(z: Number, field: Field) -> Derivatives:
    value, slope = z.tanh(), z.sech() ** 2
    return value, slope, -2 * value * slope


def _sigmoid(z: Number, field: Field) -> Derivatives:
    value = 1 / (1 + (-z).exp())
    slope = value / (1 + z.exp())  # s (1 - s) without cancellation
    return value, slope, slope * (1 - 2 * value)


def _softplus(z: Number, field: Field) -> Derivatives:
    value, slope, _ = _sigmoid(z, field)
    return z.exp().log1p(), value, slope


def _silu(z: Number, field: Field) -> Derivatives:
    value, slope, curvature = _sigmoid(z, field)
    return z * value, value + z * slope, 2 * slope + z * curvature


def _gelu(z: Number, field: Field) -> Derivatives:
    import flint

    root_half = (flint.arb(1) / 2).sqrt()
    distribution = (-z * root_half).erfc() / 2  # of the standard normal law
    density = (-z * z / 2).exp() * root_half / flint.arb.pi().sqrt()
    return z * distribution, distribution + z * density, density * (2 - z * z)


def _erf(z: Number, field: Field) -> Derivatives:
    import flint

    slope = 2 * (-z * z).exp() / flint.arb.pi().sqrt()
    return z.erf(), slope, -2 * z * slope


def _sin(z: Number, field: Field) -> Derivatives:
    return z.sin(), z.cos(), -z.sin()


def _exponential(z: Number, field: Field) -> Derivatives:
    return z.expm1(), z.exp(), z.exp()


def _square(z: Number, field: Field) -> Derivatives:
    return z * z, 2 * z, 2


def _cube(z: Number, field: Field) -> Derivatives:
    return z * z * z, 3 * z * z, 6 * z


def _quadratic(z: Number, field: Field) -> Derivatives:
    return z + field.number(Fraction(1, 2)) * z * z, 1 + z, 1


_OUTER = frozenset({0, 2})

_TABLE = {
    activation.name: activation
    for activation in (
        #          name         pieces                                         kinks    flat pieces
        Activation("identity", (_linear(1),)),
        Activation("relu", (_constant(0), _linear(1)), (0,), frozenset({0})),
        Activation("relu6", (_constant(0), _linear(1), _constant(6)), (0, 6), _OUTER),
        Activation("hard_tanh", (_constant(-1), _linear(1), _constant(1)), (-1, 1), _OUTER),
        Activation("abs", (_linear(-1), _linear(1)), (0,)),
        Activation("square", (_square,)),
        Activation("cube", (_cube,)),
        Activation("quadratic", (_quadratic,)),
        Activation("tanh", (_tanh,), rational=False),
        Activation("sigmoid", (_sigmoid,), rational=False),
        Activation("softplus", (_softplus,), rational=False),
        Activation("silu", (_silu,), rational=False),
        Activation("gelu", (_gelu,), rational=False),
        Activation("erf", (_erf,), rational=False),
        Activation("sin", (_sin,), rational=False),
        Activation("elu", (_exponential, _linear(1)), (0,), rational=False),
    )
}


def make_activation(text: object, place: str) -> Activation:
    """The activation with this name; ``"leaky_relu:SLOPE"`` carries its slope as a rational.

    >>> from proofs_checks.recheck_core.numbers import Rationals
    >>> make_activation("leaky_relu:1/100", "").derivatives(-3, Rationals(), 2, "")
    (Fraction(-3, 100), Fraction(1, 100), 0)
    """
    if isinstance(text, str) and text.startswith("leaky_relu:"):
        slope = parse_rational(text.removeprefix("leaky_relu:"), place)
        flat = frozenset({0}) if slope == 0 else frozenset()
        return Activation(text, (_linear(slope), _linear(1)), (0,), flat)
    if not isinstance(text, str) or text not in _TABLE:
        known = ", ".join([*_TABLE, "leaky_relu:SLOPE"])
        raise WitnessError(place, text, "unknown activation", f"use one of {known}")
    return _TABLE[text]
