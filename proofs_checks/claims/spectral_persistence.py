"""Spectral Collapse, the limits of the dead-unit bound (3): do dead units stay dead when the task changes?

Lemma 6.3 gives a margin under which they do. Its text is reconstructed; only the one-sided distance of the new inputs to
the old ones enters. Everything is an integer and norms enter squared, so that every comparison is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.dag import Dag
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import integers_array

_SOURCE = Source("2509.22335", "v1", "Lemma 6.3", "reconstructed from reviews")


@dataclass(frozen=True)
class Shift:
    """A ReLU unit w·x + b with integer weights, inputs of the old and of the new task, and a margin γ."""

    w: tuple[int, ...]
    b: int
    margin: int
    old: tuple[tuple[int, ...], ...]
    new: tuple[tuple[int, ...], ...]

    def z(self, points: Sequence[Sequence[int]]) -> list[int]:
        return [sum(w * x for w, x in zip(self.w, point, strict=True)) + self.b for point in points]

    @property
    def norm2(self) -> int:
        """‖w‖²."""
        return sum(w * w for w in self.w)

    @property
    def distance2(self) -> int:
        """The squared one-sided distance: max over new inputs of the min over old ones."""
        return one_sided2(self.new, self.old)


def _squared(p: Sequence[int], q: Sequence[int]) -> int:
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def one_sided2(far: Sequence[Sequence[int]], near: Sequence[Sequence[int]]) -> int:
    """max over p in ``far`` of min over q in ``near`` of |p − q|²."""
    return max(min(_squared(p, q) for q in near) for p in far)


def _has_margin(shift: Shift) -> bool:
    return shift.margin > 0 and max(shift.z(shift.old)) <= -shift.margin


def _small_shift(shift: Shift) -> bool:
    return shift.norm2 * shift.distance2 < shift.margin**2


def check_persistence(shift: Shift) -> Evidence:
    """Is the unit strictly dead on the new inputs, with z ≤ −γ + ‖w‖ d? ``margin`` is 0 where this is an equality."""
    return _check_persistence(shift, "the lemma says dead")


def _check_persistence(shift: Shift, text: str) -> Evidence:
    highest = max(shift.z(shift.new))
    rise = highest + shift.margin
    slack = shift.norm2 * shift.distance2 - rise * abs(rise) if shift.distance2 else None  # no shift: nothing to attain
    note = f"highest new pre-activation {highest}, γ² = {shift.margin**2}, |w|² d² = {shift.norm2 * shift.distance2}; {text}"
    if highest < 0:
        return Evidence(Verdict.HOLDS, highest, "< 0", slack, note)
    return Evidence(Verdict.FAILS, highest, "< 0", slack, note, lambda: _shift_witness(shift, note))


def _shift_witness(shift: Shift, note: str) -> dict[str, Any]:
    """One ReLU unit and a linear output of weight 1; samples are the old inputs, then the new ones."""
    inputs, points = len(shift.w), [*shift.old, *shift.new]
    dag = Dag(
        inputs,
        True,
        ("relu", "identity"),
        source=np.arange(inputs + 2),
        target=np.array([inputs + 1] * (inputs + 1) + [inputs + 2]),
        param=np.array([*range(inputs + 1), -1]),
        outputs=np.array([inputs + 2]),
        fixed={inputs + 1: 1},
    )
    instance = Instance(dag, np.array([*shift.w, shift.b], float), np.array(points, float), np.zeros((len(points), 1)))
    at = [quantity("preactivation", unit=inputs + 1, sample=n) for n in range(len(points))]
    first = len(shift.old)
    before = [assertion(z, "<=", max(shift.z(shift.old))) for z in at[:first]]
    alive = assertion({"max": at[first:]}, ">=", 0)

    def squared(n: int, m: int) -> dict[str, Any]:
        axes = [[quantity("value", unit=i, sample=k) for k in (n, m)] for i in range(inputs)]
        steps = [{"sum": [a, {"product": ["-1", b]}]} for a, b in axes]
        return {"sum": [{"product": [step, step]} for step in steps]}

    distance2 = {"max": [{"min": [squared(n, m) for m in range(first)]} for n in range(first, len(points))]}
    measured = assertion(distance2, "==", shift.distance2)
    return witness(
        f"{note}, but it is not strictly dead", {"net": network_document(instance)}, [alive, *before, measured]
    )


def _other_side(shift: Shift) -> Evidence:
    """Uses the distance of the old inputs to the new ones."""
    if shift.norm2 * one_sided2(shift.old, shift.new) >= shift.margin**2:
        return Evidence(Verdict.HOLDS, note="assumption of the mutant not met")
    return _check_persistence(shift, "distance of the old inputs to the new ones")


def _double_margin(shift: Shift) -> Evidence:
    if shift.norm2 * shift.distance2 >= (2 * shift.margin) ** 2:
        return Evidence(Verdict.HOLDS, note="assumption of the mutant not met")
    return _check_persistence(shift, "|w| d < 2γ")


def _largest_weight(shift: Shift) -> Evidence:
    if max(w * w for w in shift.w) * shift.distance2 >= shift.margin**2:
        return Evidence(Verdict.HOLDS, note="assumption of the mutant not met")
    return _check_persistence(shift, "max |w_i| d < γ")


def _converse(shift: Shift) -> Evidence:
    """A unit that is moved at least as far as its margin allows comes alive."""
    if _small_shift(shift) or max(shift.z(shift.new)) >= 0:
        return Evidence(Verdict.HOLDS, note="dead for a good reason, or alive")
    return Evidence(
        Verdict.FAILS, note=f"|w|² d² = {shift.norm2 * shift.distance2} ≥ γ² = {shift.margin**2}, but still dead"
    )


@st.composite
def _shifts(draw: DrawFn, rule: Callable[[Shift, DrawFn], Shift], inputs: tuple[int, int] = (1, 3)) -> Shift:
    """Integer weights and inputs; ``rule`` then chooses γ and b."""
    size = draw(st.integers(*inputs))
    w = _points(draw, 1, size, 4)[0]
    old = _points(draw, draw(st.integers(1, 3)), size, 4)
    moves = _points(draw, draw(st.integers(1, 3)), size, 3)
    new = tuple(tuple(a + b for a, b in zip(old[k % len(old)], move, strict=True)) for k, move in enumerate(moves))
    return rule(Shift(w, 0, 1, old, new), draw)


def _points(draw: DrawFn, count: int, size: int, bound: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(v) for v in row) for row in integers_array(draw, (count, size), bound))


def _lowered(shift: Shift, margin: int, slack: int = 0) -> Shift:
    """γ = ``margin`` and the largest bias (less ``slack``) with z ≤ −γ on the old inputs."""
    return replace(shift, margin=margin, b=-margin - slack - max(shift.z(shift.old)))


def _sufficient(shift: Shift, draw: DrawFn) -> Shift:
    return _lowered(shift, isqrt(shift.norm2 * shift.distance2) + 1 + draw(st.integers(0, 2)), draw(st.integers(0, 2)))


def _any_margin(shift: Shift, draw: DrawFn) -> Shift:
    return _lowered(shift, 1 + draw(st.integers(0, 20)), 0)


def _insufficient(shift: Shift, draw: DrawFn) -> Shift:
    """γ = 1 + something at most ‖w‖ d: nothing is promised. Where ‖w‖ d < 1 a unit weight and a unit step are added."""
    if shift.norm2 * shift.distance2 < 1:
        old = shift.old
        aside = (max(p[0] for p in old) + 1, *old[0][1:])
        shift = replace(shift, w=(1, *shift.w[1:]), new=(*shift.new, aside))
    reach = isqrt(shift.norm2 * shift.distance2)
    return _lowered(shift, 1 + draw(st.integers(0, reach - 1)))


def _without_margin(shift: Shift, draw: DrawFn) -> Shift:
    """γ as the shift needs it, but the bias is too high by at least one."""
    held = _sufficient(shift, draw)
    highest = max(held.z(held.old))
    return replace(held, b=held.b - highest - held.margin + 1 + draw(st.integers(0, held.margin)))


@st.composite
def _aligned(draw: DrawFn, excess: int = 1) -> Shift:
    """The inputs move along w, so that z rises by exactly ‖w‖ d = step ‖w‖²: equality, whether ‖w‖ is whole or not.

    γ = ‖w‖ d + excess, or a little more if excess > 0.
    """
    w = draw(st.sampled_from([(1,), (1, 1), (3, 4), (2, 1, 2)]))
    step = draw(st.integers(1, 3))
    shift = Shift(w, 0, 1, ((0,) * len(w),), (tuple(step * a for a in w),))
    return _lowered(shift, step * shift.norm2 + excess + draw(st.integers(0, 2 * excess)))


def _prove_lemma() -> str:
    """Cauchy–Schwarz from bilinearity alone, for u = w and v = x' − x; the lemma is one line from there (``proof``)."""
    A, B, C = sympy.symbols("A B C", real=True)  # A = |u|², B = u·v, C = |v|²
    square = sympy.expand(C**2 * A - 2 * C * B * B + B**2 * C)  # |C u − B v|² ≥ 0
    assert sympy.expand(square - C * (A * C - B**2)) == 0  # hence B² ≤ A C
    return (
        "|Cu - Bv|² = C(AC - B²) >= 0, hence w·(x' - x) <= |w| |x' - x| in any dimension, and z(x') <= -γ + |w| d < 0"
    )


PERSISTENCE = Claim(
    id="spectral.persistence",
    title="Dead units persist across a small task shift",
    source=_SOURCE,
    kind="lemma",
    statement=r"\max_{x \in D}(w^\top x + b) \le -\gamma,\; \gamma > 0,\; \|w\|_2\, d < \gamma,\; "
    r"d = \sup_{x' \in D'}\inf_{x \in D}\|x - x'\| "
    r"\;\Rightarrow\; w^\top x' + b \le -\gamma + \|w\|_2 d < 0 \;\; \forall x' \in D'",
    quantifier="for all",
    assumptions=(
        Assumption("margin", "on the old inputs the pre-activation is at most −γ, with γ > 0", _has_margin),
        Assumption("small-shift", "‖w‖ times the one-sided distance is less than γ", _small_shift),
    ),
    instances=_shifts(_sufficient),
    check=check_persistence,
    expected=Verdict.HOLDS,
    proof="Take an old input x nearest to x'. By Cauchy-Schwarz w·x' + b <= (w·x + b) + ‖w‖ ‖x' - x‖ <= -γ + ‖w‖ d. Only "
    "the one-sided distance is needed (the printed Hausdorff distance is larger). At ‖w‖ d = γ the unit may sit exactly on "
    "the kink. For a deeper layer read x as the input of the layer.",
    without={"margin": _shifts(_without_margin), "small-shift": _shifts(_insufficient)},
    attained=_aligned(),
    mutants=(
        Mutant(
            "other-side", "the distance of the old inputs to the new ones suffices", _other_side, _shifts(_any_margin)
        ),
        Mutant("double-margin", "‖w‖ d < 2γ suffices", _double_margin, _shifts(_any_margin)),
        Mutant("largest-weight", "max |w_i| may replace ‖w‖₂", _largest_weight, _aligned(excess=0)),
        Mutant("converse", "if ‖w‖ d >= γ then the unit comes alive", _converse, _shifts(_any_margin)),
    ),
    certificates=(
        Certificate("cauchy-schwarz", "the lemma in any dimension", Strength.SYMBOLIC, Scope.ALL, _prove_lemma),
    ),
)

CLAIMS = (PERSISTENCE,)
