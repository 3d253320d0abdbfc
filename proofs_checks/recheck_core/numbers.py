"""Two number systems, rationals and balls, behind one small interface; and the errors of the checker.

A *number* is an ``int`` or a ``fractions.Fraction`` (exact), or a ``flint.arb`` ball: a midpoint and a radius that
provably enclose one real number.  Comparisons of balls answer ``True`` only when the answer is certain, so code that
acts on ``True`` alone stays rigorous; a question that a ball is too wide to answer raises :class:`Undecided`, and the
caller asks again with more bits.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import isqrt
from typing import Any, Protocol, TypeAlias

Number: TypeAlias = Any  # int | Fraction | flint.arb; flint is imported only when a ball is needed, and has no stubs

_RATIONAL = re.compile(r"[+-]?\d+(/\d+)?")


class WitnessError(ValueError):
    """A malformed witness: the message names the field, the value, the rule and the fix.

    >>> print(WitnessError("networks.net.x", [], "the batch needs a sample", "give N >= 1 rows"))
    networks.net.x = []: the batch needs a sample; fix: give N >= 1 rows
    """

    def __init__(self, field: str, value: object, rule: str, fix: str) -> None:
        text = repr(value)
        shown = text if len(text) <= 80 else text[:77] + "..."
        super().__init__(f"{field} = {shown}: {rule}; fix: {fix}")


class Undecided(Exception):
    """The enclosures are too wide to answer at the current precision."""


def parse_rational(text: object, field: str) -> Fraction:
    """The rational number written as ``"num"`` or ``"num/den"`` (JSON integers are accepted, floats never).

    >>> parse_rational("-3/6", "theta[0]")
    Fraction(-1, 2)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return Fraction(text)
    if not isinstance(text, str) or not _RATIONAL.fullmatch(text):
        raise WitnessError(field, text, "a number is an exact rational", 'write it as a string "num" or "num/den"')
    try:
        return Fraction(text)
    except (ZeroDivisionError, ValueError) as error:  # "1/0", or more digits than Python converts
        raise WitnessError(
            field, text, f"not a rational number ({error})", 'write it as "num/den", den != 0'
        ) from error


class Field(Protocol):
    """What the checker asks of a number system (+, - and * are the numbers' own)."""

    is_exact: bool

    def number(self, value: Fraction | int) -> Number: ...

    def divide(self, numerator: Number, denominator: Number) -> Number: ...

    def sign(self, value: Number) -> int: ...


class Rationals:
    """Exact rational arithmetic; whole numbers stay ``int``, which is several times faster than ``Fraction``.

    >>> Rationals().divide(1, 3) * 3 == 1
    True
    """

    is_exact = True

    def number(self, value: Fraction | int) -> Number:
        return value.numerator if value.denominator == 1 else value

    def divide(self, numerator: Number, denominator: Number) -> Number:
        return self.number(Fraction(numerator) / Fraction(denominator))

    def sign(self, value: Number) -> int:
        return (value > 0) - (value < 0)


class Balls:
    """Arb balls at the precision of ``flint.ctx`` when an operation runs.

    >>> Balls().sign(Balls().number(Fraction(-1, 3)))
    -1
    """

    is_exact = False

    def number(self, value: Fraction | int) -> Number:
        import flint

        return flint.arb(flint.fmpq(value.numerator, value.denominator))

    def divide(self, numerator: Number, denominator: Number) -> Number:
        if self.sign(denominator) == 0:
            raise ZeroDivisionError("division by zero")
        return lift(numerator) / lift(denominator)  # two ints would divide to a float

    def sign(self, value: Number) -> int:
        for answer, certain in ((1, value > 0), (-1, value < 0), (0, value == 0)):
            if certain:
                return answer
        raise Undecided("the sign of a number is not decided")


def is_certainly_equal(left: Number, right: Number) -> bool:
    """Whether two numbers are proved equal; not the negation of ``!=``, which for balls means proved different.

    >>> is_certainly_equal(Fraction(1, 3), Fraction(2, 6))
    True
    """
    return bool(left == right)


def lift(value: Number) -> Number:
    """The ball of an exact number; a ball is returned as it is.

    >>> lift(2) == 2
    True
    """
    return Balls().number(value) if isinstance(value, (int, Fraction)) else value


def match(left: Number, right: Number) -> tuple[Number, Number]:
    """Both numbers in one number system: exact when both are, balls otherwise.

    >>> match(1, Fraction(1, 2))
    (1, Fraction(1, 2))
    """
    exact = isinstance(left, (int, Fraction)) and isinstance(right, (int, Fraction))
    return (left, right) if exact else (lift(left), lift(right))


def rational_sqrt(value: Fraction) -> Fraction | None:
    """The square root of a rational number if it is rational, else None.

    >>> rational_sqrt(Fraction(4, 9)), rational_sqrt(Fraction(2)), rational_sqrt(Fraction(-1))
    (Fraction(2, 3), None, None)
    """
    if value < 0:
        return None
    root = Fraction(isqrt(value.numerator), isqrt(value.denominator))
    return root if root * root == value else None


def show(value: Number) -> str:
    """Short text of a number; a ball is shown with its radius.

    >>> show(Fraction(1, 3))
    '1/3'
    """
    text = str(value) if isinstance(value, (int, Fraction)) else value.str(10)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
