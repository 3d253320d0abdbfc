r"""Barriers, rank gain (3), beyond er_2: the whole spectrum, many layers, and full rank from a singular matrix.

The spectrum of K(C) is majorized by that of C, so that every Rényi rank grows, not er_2 alone. Iterated over layers, K drives every
correlation other than ±1 to 0. The rank-recovery proposition stands in the draft of June 2025 only.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import sympy
from flint import arb, fmpq, fmpq_mat
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.gaussian_kernel import at_bits
from lop_theory.rank_gain import correlation_matrix, majorizes
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.gaussian_units import (
    BARRIERS,
    CENTRED,
    CORRELATION,
    GAUSSIAN,
    NONLINEAR,
    Phi,
    Units,
    affine,
    corr,
    decided,
    entry,
    inner_correlations,
    pair_matrix,
    pairs_of_units,
    plus,
    polynomials,
    radial,
    refuted,
    show,
    slope_of,
    square_sum,
    squares,
    times,
    units,
)
from proofs_checks.claims.rank_gain_kernel import CONTRACTION, MEHLER, SCHUR
from proofs_checks.instances import assertion, number, quantity

# -- majorization --------------------------------------------------------------------------------------------------------------


def check_majorized(u: Units) -> Evidence:
    """λ(K(C)) ≺ λ(C), exactly: certified root enclosures of the characteristic polynomials."""
    answer = majorizes(u.C, u.image)
    note = f"λ(K(C)) ≺ λ(C): {answer}"
    if answer is None:
        return Evidence(Verdict.UNDECIDED, note=note)
    same = answer and bool((u.C == u.image).all())
    evidence = Evidence(Verdict.HOLDS if answer else Verdict.FAILS, margin=0 if same else None, note=note)
    # Majorization implies ‖K(C)‖² ≤ ‖C‖²: where that fails, the checker sees it.
    if answer or square_sum(u.image) <= square_sum(u.C):
        return evidence
    return refuted(u, evidence, "‖K(C)‖ > ‖C‖", lambda: [assertion(squares(u), ">", square_sum(u.C))])


def _reversed(u: Units) -> Evidence:
    """λ(C) ≺ λ(K(C))."""
    answer = majorizes(u.image, u.C)
    verdict = Verdict.UNDECIDED if answer is None else Verdict.HOLDS if answer else Verdict.FAILS
    evidence = Evidence(verdict, note="the spectrum of K(C) is flatter")
    if square_sum(u.image) >= square_sum(u.C):
        return evidence
    return refuted(u, evidence, "‖K(C)‖ < ‖C‖", lambda: [assertion(squares(u), "<", square_sum(u.C))])


def _always_moves(u: Units) -> Evidence:
    """The spectrum changes unless C = I."""
    if not any(r != 0 for r, _ in u.pairs) or not bool((u.C == u.image).all()):
        return Evidence(Verdict.HOLDS)
    lines = [assertion(squares(u), "==", square_sum(u.C)), assertion(square_sum(u.C), ">", len(u.C))]
    return refuted(u, Evidence(Verdict.FAILS, note="K(C) = C ≠ I"), "K(C) = C", lambda: lines)


def _by_slope(u: Units) -> Evidence:
    """λ(K(C)) ≺ λ(αC + (1 − α)I), as if K were linear with slope α = K'(0)."""
    alpha = slope_of(u.phi)
    target = alpha * u.C
    for i in range(len(target)):
        target[i, i] = fmpq(1)
    answer = majorizes(target, u.image)
    verdict = Verdict.UNDECIDED if answer is None else Verdict.HOLDS if answer else Verdict.FAILS
    evidence = Evidence(verdict, note="K(C) has a steeper spectrum than αC + (1 − α)I")
    if square_sum(u.image) <= square_sum(target):
        return evidence
    slope = assertion(quantity("gaussian_slope", coefficients=[number(c) for c in u.phi]), "==", alpha)
    return refuted(u, evidence, evidence.note, lambda: [slope, assertion(squares(u), ">", square_sum(target))])


def prove_doubly_stochastic() -> str:
    """S_ij = Σ_l (y_iᵀ D_l u_j)² has row and column sums Σ_l |D_l y|² = 1 by completeness; replayed summand by summand."""
    yk, yn, ck, v_k, v_n = sympy.symbols("y_k y_n c_kn v_lk v_ln")
    # C ∘ R with R = Σ_l v_l v_lᵀ is Σ_l D_l C D_l: entry (k, n), and its quadratic form
    assert sympy.expand(yk * (ck * (v_k * v_n)) * yn - (yk * v_k) * ck * (v_n * yn)) == 0
    # Σ_l |D_l y|² = Σ_k y_k² Σ_l v_lk² = Σ_k y_k² R_kk = |y|², as R_kk = 1
    assert sympy.expand((v_k * yk) ** 2 - yk**2 * v_k**2) == 0
    return (
        "K(C) = Σ_l D_l C D_l with Σ_l D_l² = diag(R) = I. With C u_j = λ_j u_j and K(C) y_i = μ_i y_i: μ_i = Σ_j S_ij λ_j, "
        "S_ij = Σ_l (y_iᵀ D_l u_j)² >= 0; Σ_j S_ij = Σ_l |D_l y_i|² = 1 and Σ_i S_ij = Σ_l |D_l u_j|² = 1. A doubly stochastic "
        "image is majorized (Hardy, Littlewood, Pólya)"
    )


@st.composite
def _signs(draw: DrawFn) -> Units:
    """Symmetric matrices of ±1 with unit diagonal, mostly indefinite."""
    size = draw(st.integers(3, 4))
    C = np.full((size, size), fmpq(1), dtype=object)
    for i, j in zip(*np.triu_indices(size, 1), strict=True):
        C[i, j] = C[j, i] = fmpq(draw(st.sampled_from((-1, 1))))
    return Units(draw(polynomials()), C)


_POLYNOMIAL_UNITS = units(phi=polynomials())

MAJORIZATION = Claim(
    id="barriers.rank-majorization",
    title="The spectrum after φ is majorized by the spectrum before: every Rényi rank grows",
    source=Source(BARRIERS, "v1", "Theorem 3.1", "strengthened; ours"),
    kind="ours",
    statement=r"\lambda(K_\varphi(C)) \prec \lambda(C); \text{ hence } \exp H_\alpha \text{ grows for every Rényi order } \alpha "
    r"\in [0, \infty], \text{ also the Shannon effective rank, } \operatorname{tr}/\lambda_{max} \text{ and } \det",
    quantifier="for all",
    assumptions=(CORRELATION, GAUSSIAN, CENTRED),
    instances=units(phi=st.one_of(polynomials(), affine())),
    check=check_majorized,
    expected=Verdict.HOLDS,
    proof="K(C) = C∘R, R = Σ w_k C^(∘(k−1)) a correlation matrix: a unital, trace-preserving map, so λ(K(C)) = Sλ(C) with S doubly "
    "stochastic. Rényi entropies are Schur concave. Here, unlike for er_2, C must be positive semidefinite.",
    without={
        "correlation": _signs(),
        "gaussian": radial(),
        "centred": units(phi=polynomials(), centred=False),
    },
    mutants=(
        Mutant("reversed", "λ(C) ≺ λ(K(C))", _reversed, _POLYNOMIAL_UNITS),
        Mutant("always", "the spectrum changes unless C = I", _always_moves, _POLYNOMIAL_UNITS),
        Mutant("slope", "λ(K(C)) ≺ λ(αC + (1 − α)I)", _by_slope, _POLYNOMIAL_UNITS),
    ),
    certificates=(
        MEHLER,
        SCHUR,
        Certificate("doubly-stochastic", "the map of spectra", Strength.SYMBOLIC, Scope.ALL, prove_doubly_stochastic),
    ),
    depends_on=("barriers.lemA.2",),
    cost=2.0,
)


# -- many layers ---------------------------------------------------------------------------------------------------------------

LAYERS = 3


def orbit(u: Units, layers: int = LAYERS) -> list[Any]:
    """r, K(r), K(K(r)), … with the measured map (centred or not)."""
    values = [u.r]
    for _ in range(layers):
        values.append(Units(u.phi, pair_matrix(values[-1]), u.centred).k)
    return values


def check_iterates(u: Units) -> Evidence:
    """|K^L(r)| ≤ β^L |r| with β = α + (1 − α)|r| < 1, and 1 − K(x) ≥ (1 + (1 − α)x)(1 − x) for x = |r|, 1 + (1 − α)x > 1."""
    alpha, x, values = slope_of(u.phi), abs(u.r), orbit(u)
    beta = alpha + (1 - alpha) * x
    note = f"r, K(r), … = {[_short(v) for v in values]}, β = {beta}"
    if not beta < 1:
        evidence = Evidence(Verdict.FAILS, note=f"{note}: β is not below 1, the bound does not contract")
        return refuted(u, evidence, evidence.note, lambda: [assertion({"abs": entry(u, 0, 1)}, ">=", x)])
    for n, value in enumerate(values):
        evidence = decided(beta**n * x - abs(value), note=note)
        if evidence.verdict is not Verdict.HOLDS:
            return refuted(
                u, evidence, f"|K^{n}(r)| > β^{n}|r|", lambda n=n: _orbit_lines(u, values, n, ">", beta**n * x)
            )
    repelled = 1 - u.kernel.enclose(x) - (1 + (1 - alpha) * x) * (1 - x)
    return decided(repelled, note=note)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 30 else f"{int(value.p) / int(value.q):.6f}"


def _orbit_lines(u: Units, values: list[Any], n: int, op: str, bound: Any) -> list[dict[str, Any]]:
    """Each step of the orbit up to n, then the comparison of its last value."""
    steps = [
        assertion(entry(Units(u.phi, pair_matrix(a), u.centred), 0, 1), "==", b) for a, b in pairwise(values[: n + 1])
    ]
    return [*steps, assertion({"abs": str(values[n])}, op, bound)]


def _rate(bound: Callable[[Any, Any, int], Any], text: str) -> Callable[[Units], Evidence]:
    """|K^L(r)| ≤ bound(α, |r|, L)."""

    def check(u: Units) -> Evidence:
        alpha, values = slope_of(u.phi), orbit(u)
        for n, value in enumerate(values):
            limit = bound(alpha, abs(u.r), n)
            if abs(value) > limit:
                evidence = Evidence(
                    Verdict.FAILS, note=f"|K^{n}({u.r})| = {_short(abs(value))} > {text} = {_short(limit)}"
                )
                return refuted(u, evidence, evidence.note, lambda n=n, v=limit: _orbit_lines(u, values, n, ">", v))
        return Evidence(Verdict.HOLDS)

    return check


def _clones_emerge(u: Units) -> Evidence:
    """Depth alone pulls positive correlations up: K(|r|) ≥ |r|."""
    x = abs(u.r)
    v = Units(u.phi, pair_matrix(x))
    evidence = decided(v.k - x, note=f"K({x}) = {v.k}")
    return refuted(v, evidence, evidence.note, lambda: [assertion(corr(u.phi, x), "<", x)])


def prove_rates() -> str:
    """Both rates from Q(x) = αx + (1 − α)x², for all x and α, and 1 − x^k ≥ 1 − x² for k ≥ 2."""
    x, y, a = sympy.symbols("x y alpha", positive=True)
    q = a * x + (1 - a) * x**2
    assert sympy.expand(q - x * (a + (1 - a) * x)) == 0
    assert sympy.expand((a + (1 - a) * x) - (a + (1 - a) * y) - (1 - a) * (x - y)) == 0  # β grows with x
    assert sympy.expand(1 - q - (1 + (1 - a) * x) * (1 - x)) == 0
    return (
        "|K(r)| <= Q(|r|) = β(|r|)|r| and β is non-decreasing, so |K^L(r)| <= β^L |r| by induction; 1 - K(x) >= 1 - Q(x) = "
        "(1 + (1 - α)x)(1 - x): 0 attracts, 1 repels, for every nonlinear φ"
    )


_SMALL = polynomials(degree=(2, 3))
_OPEN = Assumption("interior", "|r| < 1", lambda u: abs(u.r) < 1)


@st.composite
def _uncentred_pair(draw: DrawFn) -> Units:
    return Units(draw(_SMALL), pair_matrix(draw(inner_correlations(zero=True))), centred=False)


ITERATION = Claim(
    id="barriers.kernel-iteration",
    title="Over layers every correlation but ±1 goes to 0",
    source=Source(BARRIERS, "v1", "after Theorem 3.1", "multi-layer consequence; ours"),
    kind="ours",
    statement=r"\beta = \alpha + (1 - \alpha)|r| < 1,\ \alpha = K_\varphi'(0): \quad |K_\varphi^{L}(r)| \le \beta^L |r|, \quad "
    r"1 - K_\varphi(x) \ge (1 + (1 - \alpha)x)(1 - x),\ x = |r|",
    quantifier="for all",
    assumptions=(NONLINEAR, _OPEN, CENTRED),
    instances=pairs_of_units(inner_correlations(zero=True), _SMALL),
    check=check_iterates,
    expected=Verdict.HOLDS,
    proof="The fixed points of K are 0 (attracting, rate K'(0) < 1), 1 (repelling, rate K'(1) > 1) and, for odd φ, −1 (repelling). "
    "If pre-activations stay Gaussian, centred and normalised, depth alone decorrelates; without centring (ReLU as it is "
    "used) 1 attracts instead. So clones need a cause other than the nonlinearity.",
    without={
        "nonlinear": pairs_of_units(phi=affine()),
        "interior": pairs_of_units(st.sampled_from((Fraction(1), Fraction(-1))), _SMALL),
        "centred": _uncentred_pair(),
    },
    mutants=(
        Mutant("slope-rate", "|K^L(r)| ≤ α^L |r|", _rate(lambda a, x, n: a**n * x, "α^L |r|")),
        Mutant("double", "|K^L(r)| ≤ |r|^(L+1)", _rate(lambda a, x, n: x ** (n + 1), "|r|^(L+1)")),
        Mutant("clones", "K(x) ≥ x on [0, 1]: depth alone makes clones", _clones_emerge),
    ),
    certificates=(
        MEHLER,
        CONTRACTION,
        Certificate("rates", "both rates, all parameters", Strength.SYMBOLIC, Scope.ALL, prove_rates),
    ),
    depends_on=("barriers.lemA.1.repaired", "barriers.quartic-gap"),
    cost=2.0,
)


# -- rank recovery (draft) -----------------------------------------------------------------------------------------------------

_PLANE = (
    (1, 0, 1),
    (0, 1, 1),
    (3, 4, 5),
    (4, -3, 5),
    (5, 12, 13),
    (12, -5, 13),
    (-3, 4, 5),
)  # (x, y, length), no two parallel


def _plane_gram(chosen: list[tuple[int, int, int]]) -> np.ndarray:
    return correlation_matrix([[Fraction(a * c + b * d, m * n) for c, d, n in chosen] for a, b, m in chosen])


def check_full_rank(u: Units) -> Evidence:
    """Is E[φ(Z)φ(Z)ᵀ] positive definite? Exact determinant for polynomials, pivots in balls otherwise."""
    M = Units(u.phi, u.C, centred=False).image
    size = len(M)
    singular = "two units are equal" if any(r == 1 for r, _ in u.pairs) else ""
    if u.kernel.is_polynomial:
        determinant = fmpq_mat([list(row) for row in M]).det()
        singular = "the determinant is 0" if determinant == 0 else ""
    elif not singular:
        if all(p > 0 for p in at_bits(lambda: _pivots(M))):
            return Evidence(Verdict.HOLDS, note="every pivot is proved positive")
        opposite = u.kernel.parity > 0 and any(r == -1 for r, _ in u.pairs)
        singular = "two units are equal, as φ is even" if opposite else ""
        if not singular:
            return Evidence(Verdict.UNDECIDED, note="a pivot is not decided")
    if not singular:
        return Evidence(Verdict.HOLDS, note="the determinant is not 0")
    note = f"E[φφᵀ] of {show(u.phi)} on {size} units is singular: {singular}"
    uncentred = Units(u.phi, u.C, centred=False)
    evidence = Evidence(Verdict.FAILS, note=note)
    return (
        refuted(uncentred, evidence, note, lambda: [assertion(_leibniz(uncentred), "==", 0)]) if size < 5 else evidence
    )


def _pivots(matrix: np.ndarray) -> list[Any]:
    """Pivots of LDLᵀ in balls, without exchanges; it stops at the first that is not proved positive."""
    rows = [[arb(v) for v in row] for row in matrix]
    pivots = []
    for k in range(len(rows)):
        pivots.append(rows[k][k])
        if not rows[k][k] > 0:
            return pivots
        for i in range(k + 1, len(rows)):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return pivots


def _leibniz(u: Units) -> dict[str, Any]:
    """det of the measured matrix, for the checker."""
    size = len(u.C)
    terms = []
    for order in permutations(range(size)):
        sign = (-1) ** sum(order[i] > order[j] for i in range(size) for j in range(i + 1, size))
        terms.append(times(sign, *(entry(u, i, j) for i, j in enumerate(order))))
    return plus(*terms)


def prove_dominance() -> str:
    """|C_ij| ≤ ρ < 1: for (d − 1)ρ^k < 1 the power C^(∘k) is diagonally dominant, hence positive definite."""
    a, b, rho = sympy.symbols("a b rho", positive=True)
    # one pair: a² + b² − 2ρ a b ≥ (1 − ρ)(a² + b²), as their difference is ρ(a − b)²
    assert sympy.expand(a**2 + b**2 - 2 * rho * a * b - (1 - rho) * (a**2 + b**2) - rho * (a - b) ** 2) == 0
    y = sympy.symbols("y0:5", positive=True)  # all pairs: every y_i² is in d − 1 of them, here d = 5
    pairs = sum(y[i] ** 2 + y[j] ** 2 for i in range(5) for j in range(i))
    assert sympy.expand(pairs - 4 * sum(v**2 for v in y)) == 0
    return (
        "yᵀC^(∘k)y >= Σ y_i² - 2ρ^k Σ_(i<j)|y_i y_j| >= (1 - (d - 1)ρ^k)|y|² > 0 for large k; a φ that is not a polynomial has "
        "a_k != 0 for arbitrarily large k, and E[φφᵀ] = Σ a_k² C^(∘k) is at least that term"
    )


@st.composite
def _planar(draw: DrawFn, phi: st.SearchStrategy[Phi], size: tuple[int, int] = (3, 4), repeat: bool = False) -> Units:
    """Unit vectors of the plane, no two parallel: C is singular and |C_ij| < 1. ``repeat`` adds a copy or the opposite of one."""
    chosen = draw(st.lists(st.sampled_from(_PLANE), min_size=size[0], max_size=size[1], unique=True))
    if repeat:
        x, y, n = chosen[0]
        s = draw(st.sampled_from((1, -1)))
        chosen = [*chosen[: size[1] - 1], (s * x, s * y, n)]
    return Units(draw(phi), _plane_gram(chosen))


_TRANSCENDENTAL = st.sampled_from(("relu", "abs", "sign", "erf", "sin", "gelu"))
_ANTIPODAL = _planar(st.sampled_from(("abs", "relu")), (2, 3), repeat=True)


def _opposite_allowed(u: Units) -> Evidence:
    """|C_ij| = 1 is harmless if C_ij = −1."""
    return check_full_rank(u) if all(r != 1 for r, _ in u.pairs) else Evidence(Verdict.HOLDS)


RANK_RECOVERY = Claim(
    id="barriers.rank-recovery",
    title="A nonlinearity that is not a polynomial restores full rank",
    source=Source(BARRIERS, "draft of June 2025", "Proposition on full rank", "dropped from v1 on"),
    kind="proposition",
    statement=r"\varphi \text{ not a polynomial},\ C_{ii} = 1,\ |C_{ij}| < 1 \Rightarrow E[\varphi(Z)\varphi(Z)^\top] \succ 0, "
    r"\text{ even if } C \text{ is singular}",
    quantifier="for all",
    assumptions=(
        Assumption("not-polynomial", "φ is not a polynomial", lambda u: isinstance(u.phi, str)),
        Assumption("distinct", "|C_ij| < 1 for i ≠ j", lambda u: all(abs(r) < 1 for r, _ in u.pairs)),
    ),
    instances=_planar(_TRANSCENDENTAL),
    check=check_full_rank,
    expected=Verdict.HOLDS,
    proof="E[φφᵀ] = Σ a_k² C^(∘k), every term positive semidefinite, and C^(∘k) is positive definite for large k. The draft's "
    "constants mix Hermite conventions; the conclusion stands. A polynomial of degree D fails once d exceeds the number "
    "of monomials of degree up to D in rank C variables.",
    without={
        "not-polynomial": _planar(st.one_of(affine(), polynomials(degree=(2, 2)))),
        "distinct": _ANTIPODAL,
    },
    mutants=(
        Mutant("nonlinear", "any nonlinear φ will do", check_full_rank, _planar(polynomials(degree=(2, 2)), (4, 4))),
        Mutant("opposite", "C_ij = −1 is allowed", _opposite_allowed, _ANTIPODAL),
    ),
    certificates=(
        MEHLER,
        SCHUR,
        Certificate("dominance", "a large Hadamard power", Strength.SYMBOLIC, Scope.ALL, prove_dominance),
    ),
    depends_on=("barriers.lemA.2",),
)

CLAIMS = (MAJORIZATION, ITERATION, RANK_RECOVERY)
