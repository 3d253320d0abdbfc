r"""Barriers, rank gain (2): how much is gained? The quartic gap, the bound of v2, and its best constant.

With α = K'(0) and x = |r| the kernel that gains least is Q(x) = αx + (1 − α)x², because w ↦ Σ w_k x^k is largest when all weight
beyond w_1 sits on k = 2. So every bound is a polynomial identity in (x, α), replayed by SymPy for all parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.gaussian_kernel import at_bits
from lop_theory.rank_gain import decorrelation, gain_bound, gamma, sharp_gain_bound
from proofs_checks.claim import Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.gaussian_units import (
    BARRIERS,
    CENTRED,
    CORRELATION,
    GAUSSIAN,
    NONLINEAR,
    Phi,
    Units,
    affine,
    correlations,
    decided,
    entry,
    inner_correlations,
    pair_matrix,
    pairs_of_units,
    plus,
    polynomials,
    radial,
    refuted,
    slope_of,
    square_sum,
    squares,
    times,
    units,
)
from proofs_checks.claims.rank_gain_kernel import MEHLER, RATIO, not_definite
from proofs_checks.instances import assertion, number, quantity

V2 = "v2"


def _slope_line(phi: Phi, alpha: Any) -> dict[str, Any]:
    return assertion(quantity("gaussian_slope", coefficients=[number(c) for c in phi]), "==", alpha)


# -- the quartic gap -------------------------------------------------------------------------------------------------------

Constant = Callable[[Any], Any]  # a function of α


def _gap_check(constant: Constant, text: str, power: int = 4) -> Callable[[Units], Evidence]:
    """r² − K(r)² ≥ c(α) r²(1 − r²); with ``power`` 2 the factor 1 − r² is left out."""

    def check(u: Units) -> Evidence:
        r, alpha = u.r, slope_of(u.phi)
        bound = at_bits(lambda: constant(alpha) * r * r * ((1 - r * r) if power == 4 else 1))
        gap = at_bits(lambda: r * r - u.k * u.k)
        note = f"r = {r}, K = {u.k}: r² − K² = {gap}, {text} gives {bound}"
        evidence = decided(at_bits(lambda: gap - bound), observed=gap, predicted=bound, note=note)

        def lines() -> list[dict[str, Any]]:
            k = entry(u, 0, 1)
            return [_slope_line(u.phi, alpha), assertion(plus(times(r, r), times(-1, k, k)), "<", bound)]

        return refuted(u, evidence, note, lines)

    return check


def _printed_constant(alpha: Any) -> Any:
    return (1 - alpha) / (1 + alpha)


def prove_extremal() -> str:
    """|K| ≤ Q: with w_1 = α, Q(x) − Σ w_k x^k = Σ_(k≥3) w_k x²(1 − x^(k−2))."""
    x, w, j = sympy.symbols("x w j", positive=True)
    n = sympy.symbols("n", integer=True, nonnegative=True)  # k = n + 3
    geometric = sympy.summation(x**j, (j, 0, n))
    branch = geometric.args[-1][0] if isinstance(geometric, sympy.Piecewise) else geometric
    assert sympy.simplify(w * x**2 * (1 - x) * branch - w * (x**2 - x ** (n + 3))) == 0
    return "Q(x) - Σ w_k x^k = Σ_(k>=3) w_k (x² - x^k), every term w_k x² (1 - x)(1 + ... + x^(k-3)) >= 0: |K(r)| <= Q(|r|)"


def prove_quartic() -> str:
    """Identities (2) and (3) of ``lop_theory.rank_gain``, for all x and α."""
    x, a = sympy.symbols("x alpha")
    gap = x**2 - (a * x + (1 - a) * x**2) ** 2
    printed = gap - (1 - a) / (1 + a) * x**2 * (1 - x**2)
    sharp = gap - (1 - a) * x**2 * (1 - x**2)
    assert sympy.simplify(printed - a * (1 - a) * x**2 * (1 - x) * (2 + a - a * x) / (1 + a)) == 0
    assert sympy.expand(sharp - a * (1 - a) * x**2 * (1 - x) ** 2) == 0
    return (
        "x² - Q² - γx²(1 - x²) = α(1 - α)x²(1 - x)(2 + α(1 - x))/(1 + α) >= 0 and "
        "x² - Q² - (1 - α)x²(1 - x²) = α(1 - α)x²(1 - x)² >= 0 on [0, 1]²"
    )


def prove_best() -> str:
    """The quotient for K = Q tends to 1 − α at x = 1, so no larger constant works."""
    x, a = sympy.symbols("x alpha", positive=True)
    quotient = (x**2 - (a * x + (1 - a) * x**2) ** 2) / (x**2 * (1 - x**2))
    assert sympy.simplify(quotient - (1 - a) * (1 + a * (1 - x) / (1 + x))) == 0
    assert sympy.limit(quotient, x, 1) == 1 - a
    return (
        "K = Q (φ = √α He_1 + √((1 - α)/2) He_2): gap/(x²(1 - x²)) = (1 - α)(1 + α(1 - x)/(1 + x)) -> 1 - α as x -> 1"
    )


EXTREMAL = Certificate("extremal", "αx + (1 − α)x² gains least", Strength.SYMBOLIC, Scope.ALL, prove_extremal)
QUARTIC = Certificate("quartic", "both identities, all parameters", Strength.SYMBOLIC, Scope.ALL, prove_quartic)
BEST = Certificate("best", "1 − α cannot be improved", Strength.SYMBOLIC, Scope.ALL, prove_best)


@st.composite
def _second_hermite(draw: DrawFn) -> Units:
    """φ = c (z² − 1) + e: K(r) = r², α = 0, and the bound is an equality for every r."""
    return Units((draw(st.integers(-2, 2)), 0, draw(st.integers(1, 3))), pair_matrix(draw(inner_correlations())))


@st.composite
def _near_one(draw: DrawFn) -> Units:
    """z² + m z at correlations near 1, where the best constant is approached."""
    bottom = draw(st.sampled_from((100, 1000, 10000)))
    return Units((0, draw(st.integers(1, 3)), 1), pair_matrix(Fraction(bottom - 1, bottom)))


_ANY = pairs_of_units(st.one_of(inner_correlations(zero=True), st.sampled_from((Fraction(1), Fraction(-1)))))
_POLYNOMIAL_PAIRS = pairs_of_units(phi=polynomials())
_GAP_MUTANTS = (
    Mutant("appendix", "γ = K'(0), as v2's A.2 defines it", _gap_check(lambda a: a, "γ = α"), _POLYNOMIAL_PAIRS),
    Mutant("one", "γ = 1 for every nonlinear φ", _gap_check(lambda a: fmpq(1), "γ = 1"), _POLYNOMIAL_PAIRS),
    Mutant("quadratic", "r² − K² ≥ γ r²", _gap_check(_printed_constant, "γ r²", power=2), _POLYNOMIAL_PAIRS),
)

QUARTIC_GAP = Claim(
    id="barriers.quartic-gap",
    title="The universal quartic gap",
    source=Source(BARRIERS, V2, "Lemma A.1"),
    kind="lemma",
    statement=r"\alpha = K_\varphi'(0),\ \gamma = \tfrac{1-\alpha}{1+\alpha}: \quad "
    r"r^2 - K_\varphi(r)^2 \ge \gamma\, r^2 (1 - r^2), \quad |r| \le 1",
    quantifier="for all",
    assumptions=(NONLINEAR, GAUSSIAN),
    instances=_ANY,
    check=_gap_check(_printed_constant, "γ"),
    expected=Verdict.HOLDS,
    proof="|K(r)| <= Q(|r|), and x² - Q² - γx²(1 - x²) factors into non-negative terms. For affine φ it says 0 >= 0. The "
    "appendix calls K'(0) itself γ(a, b): with that constant the inequality is false.",
    without={"nonlinear": pairs_of_units(phi=affine()), "gaussian": radial()},
    attained=_second_hermite(),
    mutants=_GAP_MUTANTS,
    certificates=(MEHLER, EXTREMAL, QUARTIC),
    depends_on=("barriers.lemA.1.repaired",),
)

QUARTIC_GAP_SHARP = Claim(
    id="barriers.quartic-gap.sharp",
    title="The quartic gap with its best constant 1 − K'(0)",
    source=Source(BARRIERS, V2, "Lemma A.1", "constant improved; ours"),
    kind="ours",
    statement=r"r^2 - K_\varphi(r)^2 \ge (1 - K_\varphi'(0))\, r^2 (1 - r^2), \text{ and no larger constant serves all }"
    r"\varphi \text{ of the same } K_\varphi'(0)",
    quantifier="for all",
    assumptions=(NONLINEAR, GAUSSIAN),
    instances=_ANY,
    check=_gap_check(lambda a: 1 - a, "1 − α"),
    expected=Verdict.HOLDS,
    proof="x² - Q² - (1 - α)x²(1 - x²) = α(1 - α)x²(1 - x)². The kernel Q itself shows that 1 - α is best. 1 - α = (1 + α)γ.",
    without={"nonlinear": pairs_of_units(phi=affine()), "gaussian": radial()},
    attained=_second_hermite(),
    mutants=(
        Mutant(
            "one-percent",
            "constant 1.01 (1 − α)",
            _gap_check(lambda a: (1 - a) * 101 / 100, "1.01(1 − α)"),
            _near_one(),
        ),
        Mutant("square", "constant 1 − α²", _gap_check(lambda a: 1 - a * a, "1 − α²"), _near_one()),
    ),
    certificates=(MEHLER, EXTREMAL, QUARTIC, BEST),
    depends_on=("barriers.quartic-gap",),
)


# -- Theorem 3.1 of v2 -------------------------------------------------------------------------------------------------------


def _bound_check(bound: Callable[[Any, np.ndarray], Any], text: str) -> Callable[[Units], Evidence]:
    """er_2 ratio ≥ bound(α, C)."""

    def check(u: Units) -> Evidence:
        alpha = slope_of(u.phi)
        promised = bound(alpha, u.C)
        ratio = at_bits(lambda: square_sum(u.C) / square_sum(u.image))
        note = f"gain {ratio}, {text} {promised}"
        evidence = decided(at_bits(lambda: ratio - promised), observed=ratio, predicted=promised, note=note)

        def lines() -> list[dict[str, Any]]:
            below = assertion(number(square_sum(u.C)), "<", times(promised, squares(u)))
            return [_slope_line(u.phi, alpha), below]

        return refuted(u, evidence, note, lines)

    return check


def _plain_sum(u: Units) -> Evidence:
    """As the theorem, with Ψ = Σ C_ij² instead of Σ C_ij²(1 − C_ij²)."""

    def bound(alpha: Any, C: np.ndarray) -> Any:
        return at_bits(lambda: 1 + gamma(alpha) * (square_sum(C) - len(C)) / square_sum(C))

    return _bound_check(bound, "Σ C_ij² for Ψ:")(u)


def _strict_when_vanishing(u: Units) -> Evidence:
    """The printed last sentence: the gain exceeds 1 when Ψ vanishes."""
    if decorrelation(u.C) != 0:
        return Evidence(Verdict.HOLDS, note="Ψ > 0")
    gap = at_bits(lambda: square_sum(u.C) - square_sum(u.image))
    evidence = decided(gap, strict=True, note="Ψ = 0 and the gain is 1")
    return refuted(u, evidence, evidence.note, lambda: [assertion(squares(u), ">=", square_sum(u.C))])


def _appendix_bound(alpha: Any, C: np.ndarray) -> Any:
    return at_bits(lambda: 1 + alpha * decorrelation(C) / square_sum(C))


def prove_geometric() -> str:
    """1/(1 − u) = 1 + u + u²/(1 − u)."""
    u, before, delta = sympy.symbols("u before delta")
    assert sympy.simplify(1 / (1 - u) - (1 + u) - u**2 / (1 - u)) == 0
    assert sympy.simplify(before / (before - delta) - 1 / (1 - delta / before)) == 0
    return "summing the gap over i != j, ‖C‖² - ‖K(C)‖² >= cΨ, and ‖C‖²/‖K(C)‖² >= 1/(1 - u) >= 1 + u with u = cΨ/‖C‖² in [0, 1)"


GEOMETRIC = Certificate("geometric", "from the gap to the gain", Strength.SYMBOLIC, Scope.ALL, prove_geometric)

_UNITS, _POLYNOMIAL_UNITS = units(), units(phi=polynomials())
_WITHOUT = {
    "nonlinear": units(phi=affine()),
    "gaussian": radial(),
    "centred": units(phi=polynomials(), centred=False),
    "correlation": not_definite(),
}
_ASSUMPTIONS = (NONLINEAR, CORRELATION, GAUSSIAN, CENTRED)
_BOUND_MUTANTS = (
    Mutant(
        "appendix",
        "γ = K'(0), as v2's A.2 defines it",
        _bound_check(_appendix_bound, "1 + αΨ/‖C‖² ="),
        _POLYNOMIAL_UNITS,
    ),
    Mutant("plain-sum", "Ψ = Σ C_ij²", _plain_sum, _POLYNOMIAL_UNITS),
    Mutant("vanishing", "strict when Ψ vanishes (printed last sentence)", _strict_when_vanishing, _POLYNOMIAL_UNITS),
)


@st.composite
def _second_hermite_units(draw: DrawFn) -> Units:
    return Units((0, 0, draw(st.integers(1, 3))), draw(correlations()))


THEOREM_31_V2 = Claim(
    id="barriers.thm3.1.v2",
    title="Rank gain at least 1 + γΨ/‖C‖²",
    source=Source(BARRIERS, V2, "Theorem 3.1"),
    kind="theorem",
    statement=r"\frac{er_2(K_\varphi(C))}{er_2(C)} \ge 1 + \gamma_\varphi \frac{\Psi(C)}{\|C\|_F^2}, \quad "
    r"\Psi(C) = \sum_{i \ne j} C_{ij}^2 (1 - C_{ij}^2),\ \gamma_\varphi = \tfrac{1 - K'(0)}{1 + K'(0)}",
    quantifier="for all",
    assumptions=_ASSUMPTIONS,
    instances=_UNITS,
    check=_bound_check(gain_bound, "1 + γΨ/‖C‖² ="),
    expected=Verdict.HOLDS,
    proof="The quartic gap summed over pairs, then 1/(1 - u) >= 1 + u. Equality only at u = 0. The last printed sentence (strict "
    "when Ψ vanishes and φ is linear) has its condition inverted; it is among the mutants.",
    without=_WITHOUT,
    mutants=_BOUND_MUTANTS,
    certificates=(MEHLER, EXTREMAL, QUARTIC, RATIO, GEOMETRIC),
    depends_on=("barriers.quartic-gap",),
    cost=1.5,
)

THEOREM_31_V2_SHARP = Claim(
    id="barriers.thm3.1.v2.sharp",
    title="Rank gain at least 1/(1 − (1 − K'(0))Ψ/‖C‖²)",
    source=Source(BARRIERS, V2, "Theorem 3.1", "constant and form improved; ours"),
    kind="ours",
    statement=r"\frac{er_2(K_\varphi(C))}{er_2(C)} \ge \Big(1 - (1 - K_\varphi'(0)) \frac{\Psi(C)}{\|C\|_F^2}\Big)^{-1}, "
    r"\text{ an equality for } \varphi = He_2 \text{ and every } C",
    quantifier="for all",
    assumptions=_ASSUMPTIONS,
    instances=_UNITS,
    check=_bound_check(sharp_gain_bound, "1/(1 − (1 − α)Ψ/‖C‖²) ="),
    expected=Verdict.HOLDS,
    proof="The sharp quartic gap summed over pairs. For He_2 K(r) = r², so ‖C‖² - ‖K(C)‖² = Ψ exactly.",
    without=_WITHOUT,
    attained=_second_hermite_units(),
    mutants=(
        Mutant(
            "larger",
            "1.01 (1 − α) in place of 1 − α",
            _bound_check(
                lambda a, C: at_bits(lambda: 1 / (1 - (1 - a) * decorrelation(C) * 101 / (100 * square_sum(C)))),
                "1.01:",
            ),
            st.one_of(_near_one(), _second_hermite_units()),
        ),
        *_BOUND_MUTANTS[1:],
    ),
    certificates=(MEHLER, EXTREMAL, QUARTIC, RATIO, GEOMETRIC),
    depends_on=("barriers.quartic-gap.sharp", "barriers.thm3.1.v2"),
    cost=1.5,
)


CLAIMS = (
    QUARTIC_GAP,
    QUARTIC_GAP_SHARP,
    THEOREM_31_V2,
    THEOREM_31_V2_SHARP,
)
