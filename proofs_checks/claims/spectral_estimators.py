r"""Spectral Collapse, measurement (1): the "normalized ε-rank" of a smoothed density, as the published code computes it.

ν_ε(H) is what ``published_normalized_epsilon_rank`` returns for the exact eigenvalues with equal weights: the mean of what
Lanczos sees with many probes and enough steps, so that nothing is left but the estimator itself. The null model has the
spectrum ±c_1, …, ±c_k of a linear net with one input and k hidden units, each with its own output, at θ = 0, where
∂²/∂u_i∂v_i ½ (u_i v_i − c_i)² = −c_i. Checks compare floats with a guard band; witnesses are re-checked in balls.

What does measure the ε-rank is in ``spectral_ritz``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.dag import Dag
from lop_theory.spectrum import published_normalized_epsilon_rank
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness

_SOURCE = Source(
    "2509.22335", "v3", "normalized ε-rank", "as coded: analysis/plot_epsilon_rank.py and the density it reads"
)
_GUARD = 1e-6  # floats closer than this to a threshold decide nothing
_POINTS = 10_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """A Hessian with the eigenvalues ±c_i, P = 2k, and a level ε > 0 from the range [0.01, 1] that the paper searches."""

    values: tuple[fmpq, ...]
    eps: fmpq

    def __repr__(self) -> str:
        return f"Pairs(±{[str(c) for c in self.values]}, eps={self.eps})"

    @property
    def eigenvalues(self) -> list[fmpq]:
        return [sign * c for c in self.values for sign in (1, -1)]

    @property
    def share(self) -> fmpq:
        """rank_ε(H) / P, exactly."""
        return fmpq(sum(c > self.eps for c in self.values), len(self.values))

    @cached_property
    def published(self) -> float:
        return self._published(bridge=True)

    @cached_property
    def two_sides(self) -> float:
        return self._published(bridge=False)

    def _published(self, bridge: bool) -> float:
        nodes = [float(t.p) / float(t.q) for t in self.eigenvalues]
        weights = np.full(len(nodes), 1 / len(nodes))
        level = float(self.eps.p) / float(self.eps.q)
        return published_normalized_epsilon_rank([nodes], [weights], level, bridge=bridge, points=_POINTS)

    def network(self) -> dict[str, Any]:
        k = len(self.values)
        hidden, outputs = np.arange(1, k + 1), np.arange(k + 1, 2 * k + 1)
        dag = Dag(
            1,
            False,
            ("identity",) * (2 * k),
            source=np.concatenate([np.zeros(k, dtype=np.int64), hidden]),
            target=np.concatenate([hidden, outputs]),
            param=np.arange(2 * k),
            outputs=outputs,
        )
        return network_document(Instance(dag, np.zeros(2 * k), np.ones((1, 1)), np.array([self.values], dtype=object)))

    def measured(self, net: str = "net", sides: bool = False) -> dict[str, Any]:
        """ν_ε as a quantity of the independent checker."""
        spectrum = [str(t) for t in self.eigenvalues]
        arguments = {"eigenvalues": spectrum, "level": str(self.eps), "points": _POINTS, "sides": int(sides)}
        return quantity("smoothed_epsilon_rank", net, **arguments)

    def counted(self, net: str = "net") -> dict[str, Any]:
        """The exact ε-rank as a quantity of the independent checker."""
        return quantity("epsilon_rank", net, level=str(self.eps))


def _decide(violated: float, evidence: Callable[[Verdict], Evidence]) -> Evidence:
    """``violated`` > 0 refutes; within the guard band floats leave it open."""
    verdict = Verdict.UNDECIDED if abs(violated) <= _GUARD else Verdict.FAILS if violated > 0 else Verdict.HOLDS
    return evidence(verdict)


def _near_share(pairs: Pairs, value: float, sides: bool) -> Evidence:
    """Is the value within 1/2 of the share of eigenvalues beyond ε? The weakest sense in which it could measure it."""
    share = float(pairs.share.p) / float(pairs.share.q)
    note = f"{value:.4f}, but {pairs.share} of the eigenvalues lie beyond ε = {pairs.eps}"

    def document() -> dict[str, Any]:
        sign, side = ("1", "-1") if value > share else ("-1", "1")
        size = str(2 * len(pairs.values))
        both = {"sum": [{"product": [sign, size, pairs.measured(sides=sides)]}, {"product": [side, pairs.counted()]}]}
        return witness(note, {"net": pairs.network()}, [assertion(both, ">", len(pairs.values))])

    return _decide(
        abs(value - share) - 0.5, lambda verdict: Evidence(verdict, value, share, None, note, witness=document)
    )


def check_published(pairs: Pairs) -> Evidence:
    """|ν_ε − rank_ε / P| ≤ 1/2."""
    return _near_share(pairs, pairs.published, sides=False)


def _sides_measure(pairs: Pairs) -> Evidence:
    """The same without the trapezoid across the gap: the kernel alone is enough to refute it."""
    return _near_share(pairs, pairs.two_sides, sides=True)


def _same_rank_same_value(pair: tuple[Pairs, Pairs]) -> Evidence:
    """Two Hessians of one size and of the same ε-rank have values within 1/2: only the scale of c_1 differs."""
    first, second = pair
    gap = abs(first.published - second.published)
    note = f"rank_ε {first.share} and {second.share} of P, values {first.published:.4f} and {second.published:.4f}"

    def document() -> dict[str, Any]:
        low, high = sorted((("net", first), ("other", second)), key=lambda item: item[1].published)
        rise = {"sum": [high[1].measured(high[0]), {"product": ["-1", low[1].measured(low[0])]}]}
        lines = [assertion(first.counted("net"), "==", second.counted("other")), assertion(rise, ">", fmpq(1, 2))]
        return witness(note, {"net": first.network(), "other": second.network()}, lines)

    if first.share != second.share:
        return Evidence(Verdict.HOLDS, note="different ε-ranks")
    return _decide(gap - 0.5, lambda verdict: Evidence(verdict, gap, 0, None, note, witness=document))


def _more_rank_more_value(pair: tuple[Pairs, Pairs]) -> Evidence:
    """A larger ε-rank has the larger value."""
    first, second = sorted(pair, key=lambda pairs: pairs.share)
    note = f"rank_ε {first.share} < {second.share} of P, values {first.published:.4f} and {second.published:.4f}"

    def document() -> dict[str, Any]:
        lines = [
            assertion(first.counted("net"), "<", second.counted("other")),
            assertion(first.measured("net"), ">", second.measured("other")),
        ]
        return witness(note, {"net": first.network(), "other": second.network()}, lines)

    if first.share == second.share:
        return Evidence(Verdict.HOLDS, note="equal ε-ranks")
    drop = first.published - second.published
    return _decide(drop, lambda verdict: Evidence(verdict, drop, 0, None, note, witness=document))


# -- the trapezoid across the gap ------------------------------------------------------------------------------------------


def check_gap(pairs: Pairs) -> Evidence:
    """ν_ε ≤ 1, as every share must be."""
    return _at_most(pairs, 1)


def _at_most(pairs: Pairs, bound: int) -> Evidence:
    note = f"a share of {pairs.published:.4f} > {bound} at ε = {pairs.eps}; {pairs.share} of the eigenvalues lie beyond"

    def document() -> dict[str, Any]:
        return witness(note, {"net": pairs.network()}, [assertion(pairs.measured(), ">", bound)])

    slack = pairs.published - bound
    return _decide(slack, lambda verdict: Evidence(verdict, pairs.published, bound, None, note, witness=document))


def _nothing_beyond(pairs: Pairs) -> Evidence:
    """ν_ε ≤ 1 at least where no eigenvalue lies beyond ε."""
    if pairs.share != 0:
        return Evidence(Verdict.HOLDS, note="some eigenvalue lies beyond ε")
    found = _at_most(pairs, 1)
    if found.witness is None:
        return found
    base = found.witness

    def document() -> dict[str, Any]:
        plain = base()
        return {**plain, "assertions": [*plain["assertions"], assertion(pairs.counted(), "==", 0)]}

    return Evidence(found.verdict, found.observed, found.predicted, None, found.note, witness=document)


def _at_most_ten(pairs: Pairs) -> Evidence:
    return _at_most(pairs, 10)


@dataclass(frozen=True, eq=False)
class Sampled:
    """Density values on a grid of distinct ascending points, and a level."""

    grid: tuple[int, ...]
    density: tuple[int, ...]
    level: int

    def __repr__(self) -> str:
        return f"Sampled(grid={list(self.grid)}, density={list(self.density)}, level={self.level})"

    def trapezoids(self, kept: Callable[[int, int], bool]) -> fmpq:
        """The sum over the kept cells (a, b) of the grid."""
        cells = pairwise(zip(self.grid, self.density, strict=True))
        return sum((fmpq((b - a) * (p + q), 2) for (a, p), (b, q) in cells if kept(a, b)), fmpq(0))

    @property
    def whole(self) -> fmpq:
        return self.trapezoids(lambda a, b: True)

    @property
    def two_sides(self) -> fmpq:
        return self.trapezoids(lambda a, b: a > self.level or b < -self.level)

    @property
    def one_rule(self) -> fmpq:
        """One rule over the points beyond the level, as published."""
        places = [(x, p) for x, p in zip(self.grid, self.density, strict=True) if abs(x) > self.level]
        return sum((fmpq((b - a) * (p + q), 2) for (a, p), (b, q) in pairwise(places)), fmpq(0))


def check_two_sides(sampled: Sampled) -> Evidence:
    """0 ≤ integral over the two sides ≤ integral over the whole grid; ``margin`` is what lies between."""
    return _between(sampled, sampled.two_sides, "two sides")


def _between(sampled: Sampled, value: fmpq, name: str) -> Evidence:
    whole = sampled.whole
    verdict = Verdict.HOLDS if 0 <= value <= whole else Verdict.FAILS
    return Evidence(verdict, str(value), str(whole), whole - value, f"{name}: {value}, whole grid: {whole}")


def _one_rule(sampled: Sampled) -> Evidence:
    return _between(sampled, sampled.one_rule, "one rule")


def _rectangles(sampled: Sampled) -> Evidence:
    """Right-hand rectangles on the two sides instead."""
    value = sum(
        (
            fmpq((b - a) * q)
            for a, (b, q) in zip(sampled.grid, list(zip(sampled.grid, sampled.density, strict=True))[1:], strict=False)
            if a > sampled.level or b < -sampled.level
        ),
        fmpq(0),
    )
    return _between(sampled, value, "rectangles")


# -- instances -------------------------------------------------------------------------------------------------------------

_EPS = (fmpq(1, 100), fmpq(1, 50), fmpq(1, 25), fmpq(1, 10), fmpq(1, 2), fmpq(1))


@st.composite
def _null_models(draw: DrawFn) -> Pairs:
    """Rank two: ±c far beyond every ε, and zeros. Shrinks towards three pairs and c = 3."""
    k = draw(st.integers(3, 6))
    c = fmpq(draw(st.sampled_from((3, 10, 30, 100, 300, 1000))))
    return Pairs((c, *[fmpq(0)] * (k - 1)), draw(st.sampled_from(_EPS)))


@st.composite
def _near_level(draw: DrawFn) -> Pairs:
    """c_i a few quarters of ε: mass on both sides of the gap. Shrinks towards c = 0, one pair."""
    eps = draw(st.sampled_from(_EPS))
    quarters = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    return Pairs(tuple(eps * fmpq(n, 4) for n in quarters), eps)


@st.composite
def _one_scale_apart(draw: DrawFn) -> tuple[Pairs, Pairs]:
    """Two Hessians of one size and level; the first has rank two, the second ``rank`` pairs, on another scale."""
    k, eps = draw(st.integers(3, 6)), draw(st.sampled_from(_EPS))
    rank = draw(st.integers(1, 2))
    first, second = (fmpq(draw(st.sampled_from((2, 10, 100, 1000)))) for _ in range(2))
    return (
        Pairs((first, *[fmpq(0)] * (k - 1)), eps),
        Pairs((*[second] * rank, *[fmpq(0)] * (k - rank)), eps),
    )


@st.composite
def _sampled(draw: DrawFn, lowest: int = 0, inside: bool = True) -> Sampled:
    """Small integer grids and densities. Without ``inside`` no grid point is within the level and no cell crosses it."""
    level = draw(st.integers(1, 3))
    points = draw(st.sets(st.integers(-6, 6), min_size=2, max_size=8))
    if not inside:
        points = {level + 1 + abs(x) for x in points} | {level + 1, level + 2}
    grid = tuple(sorted(points))
    density = draw(st.lists(st.integers(lowest, 5), min_size=len(grid), max_size=len(grid)))
    return Sampled(grid, tuple(density), level)


@st.composite
def _negative_density(draw: DrawFn) -> Sampled:
    """One negative value beyond the level."""
    return Sampled((-4, -3, 3, 4), (0, 0, draw(st.integers(-3, -1)), draw(st.integers(0, 3))), draw(st.integers(1, 2)))


def _prove_cells() -> str:
    """whole − two sides is the sum of the cells that were left out; every cell is (b − a)(p + q)/2."""
    width, p, q = sympy.symbols("width p q", nonnegative=True)
    cell = width * (p + q) / 2
    assert cell.is_nonnegative
    kept = sympy.symbols("k1:5", nonnegative=True)
    left = sympy.symbols("l1:5", nonnegative=True)
    assert sympy.expand(sum(kept) + sum(left) - sum(kept)).is_nonnegative
    return "each cell (b - a)(p + q)/2 >= 0, and the two sides are a subset of the cells of the whole grid"


NORMALIZED = Claim(
    id="spectral.normalized-eps-rank",
    title="The normalized ε-rank of a smoothed density measures the ε-rank (as published)",
    source=_SOURCE,
    kind="definition",
    statement=r"\Big|\nu_\varepsilon(H) - \tfrac1P \#\{i : |\lambda_i| > \varepsilon\}\Big| \le \tfrac12 "
    r"\quad\text{for every symmetric } H \text{ and } \varepsilon \in [0.01, 1]",
    quantifier="for all",
    assumptions=(),
    instances=_null_models(),
    check=check_published,
    expected=Verdict.FAILS,
    proof="The kernel has the standard deviation s = sqrt(1e-5 (λ_max - λ_min)), so a point mass at 0 has the share "
    "erfc(ε / (s √2)) beyond ±ε: a function of the range alone, 1/2 when λ_max - λ_min = (ε/0.6745)²/1e-5. A Hessian of "
    "rank two, nearly all of whose spectrum is that point mass, returns more than 9/10 when c is large. The value is a proxy "
    "of sharpness. Equality with the share is not asked for: even 1/2 is exceeded.",
    mutants=(
        Mutant("two-sides", "the same without the trapezoid across the gap", _sides_measure),
        Mutant(
            "same-rank", "equal ε-ranks give values within 1/2 of each other", _same_rank_same_value, _one_scale_apart()
        ),
        Mutant("monotone", "a larger ε-rank gives a larger value", _more_rank_more_value, _one_scale_apart()),
    ),
    cost=3.0,
)

GAP = Claim(
    id="spectral.trapezoid-gap",
    title="The normalized ε-rank is a share, at most 1 (as published)",
    source=_SOURCE,
    kind="definition",
    statement=r"\nu_\varepsilon(H) = \frac{\mathrm{trapz}(\rho[|x| > \varepsilon])}{\mathrm{trapz}(\rho)} \le 1",
    quantifier="for all",
    assumptions=(),
    instances=_near_level(),
    check=check_gap,
    expected=Verdict.FAILS,
    proof="The rule is applied to the remaining grid points as if they were consecutive: across the hole it adds the "
    "trapezoid ε (ρ(-ε) + ρ(ε)). Where density is high at ±ε that exceeds what was cut out: up to ε/(s √(2π)), about 90 at ε = 1. "
    "Published points exceed 1 (1.164 and 1.030, read off the figures).",
    mutants=(
        Mutant("empty", "at most 1 where no eigenvalue lies beyond ε", _nothing_beyond),
        Mutant("ten", "at most 10", _at_most_ten),
    ),
    cost=3.0,
)

TWO_SIDES = Claim(
    id="spectral.trapezoid-gap.two-sides",
    title="Integrated on either side of the gap, the share is between 0 and 1",
    source=Source("2509.22335", "v3", "normalized ε-rank", "repair, ours"),
    kind="ours",
    statement=r"0 \le \mathrm{trapz}(\rho[x > \varepsilon]) + \mathrm{trapz}(\rho[x < -\varepsilon]) \le \mathrm{trapz}(\rho)",
    quantifier="for all",
    assumptions=(Assumption("density", "the density is nowhere negative", lambda s: min(s.density) >= 0),),
    instances=_sampled(),
    check=check_two_sides,
    expected=Verdict.HOLDS,
    proof="The two sums run over a subset of the cells of the whole grid, and no cell has negative area. It repairs the "
    "integral, not the smoothing: the value still is not an ε-rank (mutant two-sides of spectral.normalized-eps-rank).",
    without={"density": _negative_density()},
    attained=_sampled(inside=False),
    mutants=(
        Mutant("one-rule", "one rule across the gap, as published", _one_rule),
        Mutant("rectangles", "right-hand rectangles instead of trapezoids", _rectangles),
    ),
    certificates=(Certificate("cells", "cell by cell", Strength.SYMBOLIC, Scope.ALL, _prove_cells),),
    repairs="spectral.trapezoid-gap",
)

CLAIMS = (NORMALIZED, GAP, TWO_SIDES)
