r"""Proofs that update rules stay on RE ∩ CE: one step of the rule itself, computed on *classes* of arrays.

Every array that a rule handles has one entry per parameter, and belongs to one of four nested classes, for a partition of the
units whose block pairs are biregular (every unit of a pair has equally many edges):

=============  =====================================================================================
class          what its arrays have in common
=============  =====================================================================================
``CONSTANT``   one number for all parameters
``BLOCK``      BC: one number for each block pair
``EQUITABLE``  RE ∩ CE: in each block pair equal row sums and equal column sums
``ANY``        nothing
=============  =====================================================================================

What an operation makes of classes is proved by :func:`prove_lemmas`, for all sizes. A rule that is run on classes instead of
numbers then shows what it does to *all* arrays of these classes: this is abstract interpretation, and a proof by induction if
θ and every state come out in a class no larger than they went in. The gradient is in ``BLOCK`` by the cloning theorem.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
from flint import fmpq
from sympy import MatrixSymbol, OneMatrix

from lop_theory.arithmetic import RATIONALS
from proofs_checks.claim import Certificate, Scope, Strength, require
from proofs_checks.claims.optimizer_rules import Calculus, Rule

NAMES = ("constant", "block constant", "equitable", "any")


@dataclass(frozen=True, order=True)
class ArrayClass:
    """One of the four classes; arithmetic gives the smallest class that is proved to hold the result.

    >>> BLOCK * BLOCK + EQUITABLE, EQUITABLE * EQUITABLE, EQUITABLE / BLOCK
    (equitable, any, equitable)
    """

    size: int

    def __repr__(self) -> str:
        return NAMES[self.size]

    def __add__(self, other: Any) -> ArrayClass:
        return max(self, _class_of(other))

    def __mul__(self, other: Any) -> ArrayClass:
        """A factor per block pair keeps each class; a product of two equitable arrays has none."""
        small, large = sorted((self, _class_of(other)))
        return large if small <= BLOCK else ANY

    def __truediv__(self, other: Any) -> ArrayClass:
        return self * _class_of(other).mapped()

    def mapped(self) -> ArrayClass:
        """The class of φ(a), entry by entry, for any φ."""
        return self if self <= BLOCK else ANY

    def __neg__(self) -> ArrayClass:
        return self

    __radd__ = __sub__ = __rsub__ = __add__
    __rmul__ = __mul__


CONSTANT, BLOCK, EQUITABLE, ANY = map(ArrayClass, range(4))


def _class_of(value: Any) -> ArrayClass:
    """A number is a constant array."""
    return value if isinstance(value, ArrayClass) else CONSTANT


@dataclass(frozen=True)
class ClassCalculus(Calculus):
    """The elementwise maps of the rules, over classes."""

    def sign(self, a: ArrayClass) -> ArrayClass:
        return a.mapped()

    def clamp(self, a: ArrayClass, bound: fmpq) -> ArrayClass:
        return a.mapped()

    def larger(self, a: ArrayClass, b: ArrayClass) -> ArrayClass:
        return (a + b).mapped()

    def norm_factor(self, g: ArrayClass, bound: fmpq) -> ArrayClass:
        return CONSTANT


CLASSES = ClassCalculus(RATIONALS, ArrayClass.mapped, lambda c: CONSTANT)


# -- proofs ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def prove_lemmas() -> str:
    """The rows of :class:`ArrayClass`, for one block pair with m sources, n targets and the 0/1 matrix E of its edges."""
    m, n = sympy.symbols("m n", integer=True, positive=True)
    edges, w, v = (MatrixSymbol(name, m, n) for name in "EWV")
    b, q, s, r, c, r2, c2 = sympy.symbols("b q s r c r2 c2")
    ones_m, ones_n = OneMatrix(m, 1), OneMatrix(n, 1)
    rows = {edges * ones_n: q * ones_m, w * ones_n: r * ones_m, v * ones_n: r2 * ones_m}
    columns = {ones_m.T * edges: s * ones_n.T, ones_m.T * w: c * ones_n.T, ones_m.T * v: c2 * ones_n.T}
    for combination, row, column, what in (
        (b * edges, b * q, b * s, "a block-constant matrix b E is equitable, since E is biregular"),
        (w + v, r + r2, c + c2, "sums of equitable matrices are equitable"),
        (b * w, b * r, b * c, "multiples in a pair of an equitable matrix are equitable"),
    ):
        right, left = (combination * ones_n).expand(), (ones_m.T * combination).expand()
        for known, value in rows.items():
            right = right.subs(known, value)
        for known, value in columns.items():
            left = left.subs(known, value)
        require((right - row * ones_m).expand().doit() == sympy.ZeroMatrix(m, 1), f"rows: {what}")
        require((left - column * ones_n.T).expand().doit() == sympy.ZeroMatrix(1, n), f"columns: {what}")
    return (
        "for a pair with a biregular 0/1 matrix E of any size: b E is equitable, sums of equitable matrices and multiples b W "
        "are equitable; and by definition φ(b E) on the edges is φ(b) E, for any elementwise φ"
    )


def prove_stays(rule: Rule) -> str:
    """Classes of the states that a step does not leave, from zero on; raises if θ leaves its own with them.

    >>> from proofs_checks.claims.optimizer_rules import RULES
    >>> prove_stays(next(r for r in RULES if r.name == "momentum-l2"))[:71]
    'θ equitable, g block constant, states equitable → θ equitable, states e'
    """
    lemmas = prove_lemmas()
    start = EQUITABLE if rule.stays == "equitable" else BLOCK
    states = (CONSTANT,) * rule.states
    for _ in range(1 + rule.states * len(NAMES)):  # classes only grow: by then they stay what they are
        theta, after = rule.step(CLASSES, CONSTANT, start, BLOCK, states)
        require(theta <= start, f"{rule.name}: θ {start!r} → {theta!r}, with states {states!r}")
        states = tuple(max(old, new) for old, new in zip(states, after, strict=True))
    held = f", states {', '.join(map(repr, states))}" if states else ""
    return (
        f"θ {start!r}, g {BLOCK!r}{held} → θ {start!r}{held}: the rule itself, run on classes of arrays. States start at 0, and "
        f"g is block constant at every equitable θ (barriers.thm2.1.cloned.repaired; a mask that is constant on blocks "
        f"multiplies θ and g by a number per pair), so by induction every step stays. Lemmas: {lemmas}"
    )


def stays_certificate(rule: Rule) -> Certificate:
    """The proof for one row of the table."""
    text = "one step on classes of arrays, any sizes; then induction over the steps"
    return Certificate("class of the step", text, Strength.SYMBOLIC, Scope.CLASS, lambda: prove_stays(rule))


def prove_trapping() -> str:
    """a θ + φ(g, state) on classes, with a number a for each block pair."""
    after = BLOCK * EQUITABLE + (BLOCK + BLOCK).mapped()
    require(after <= EQUITABLE, f"a θ + φ(g, state) is {after!r}")
    require(EQUITABLE.mapped() == ANY, "an elementwise map of θ")
    return (
        f"a θ + φ(g, state) is {after!r} for any φ, also with a number a for each block pair. Lemmas: {prove_lemmas()}"
    )


TRAPPING = Certificate(
    "class of the step", "one step on classes of arrays, any sizes", Strength.SYMBOLIC, Scope.CLASS, prove_trapping
)
