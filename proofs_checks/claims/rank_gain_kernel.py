r"""Barriers, rank gain (1): the kernel K_φ, the exact ratio of Rényi ranks, majorization, layers, and rank recovery.

Lemmas A.1 to A.3 and Theorem A.1 of v1 say *strictly* where C = I gives equality; Theorem 3.1 of v1 says it with care. Checks are
exact for polynomial φ and use balls for the others. Everything printed follows from two facts that are replayed here: Mehler's
formula K(r) = Σ w_k r^k, and that Hadamard products of Gram matrices are Gram matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import to_fmpq
from lop_theory.gaussian_kernel import at_bits
from lop_theory.rank_gain import is_positive_semidefinite
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.gaussian_units import (
    BARRIERS,
    CENTRED,
    CORRELATION,
    GAUSSIAN,
    NONLINEAR,
    Phi,
    Units,
    activations,
    affine,
    corr,
    decided,
    document,
    entry,
    inner_correlations,
    pair_matrix,
    pairs_of_units,
    plus,
    polynomials,
    radial,
    refuted,
    renyi2,
    show,
    sign,
    slope_of,
    square_sum,
    squares,
    times,
    units,
)
from proofs_checks.instances import assertion, quantity
from proofs_checks.recheck_core.gaussian import second_moment

V1 = "v1"


# -- Lemma A.1: |K(r)| < |r| ---------------------------------------------------------------------------------------------


def check_contraction(u: Units) -> Evidence:
    """|K(r)| < |r|."""
    r, k = u.r, u.k
    gap = at_bits(lambda: abs(r) - abs(k))
    evidence = decided(gap, strict=True, observed=k, predicted=r, note=f"K({r}) = {k}")
    return refuted(u, evidence, "|K| is not below |r|", lambda: [_magnitude(u, ">=", {"abs": str(r)})])


def _magnitude(u: Units, op: str, right: Any) -> dict[str, Any]:
    return assertion({"abs": entry(u, 0, 1)}, op, right)


def _below(power: Callable[[Units, Any], Any], text: str) -> Callable[[Units], Evidence]:
    """|K(r)| ≤ some other function of |r|."""

    def check(u: Units) -> Evidence:
        bound = at_bits(lambda: power(u, abs(u.r)))
        evidence = decided(at_bits(lambda: bound - abs(u.k)), note=f"|K({u.r})| = |{u.k}|, {text} = {bound}")
        return refuted(u, evidence, f"|K(r)| > {text}", lambda: [_magnitude(u, ">", str(bound))])

    return check


def _even(u: Units) -> Evidence:
    flipped = Units(u.phi, pair_matrix(-u.r))
    gap = at_bits(lambda: -abs(u.k - flipped.k))
    evidence = decided(gap, note=f"K({u.r}) = {u.k}, K({-u.r}) = {flipped.k}")
    return refuted(u, evidence, "K(r) != K(-r)", lambda: [assertion(corr(u.phi, u.r), "!=", corr(u.phi, -u.r))])


def prove_mehler() -> str:
    """E[e^(sX − s²/2) e^(tY − t²/2)] = e^(rst) by the Gaussian moment generating function."""
    s, t, r = sympy.symbols("s t r")
    mgf = (s**2 + 2 * r * s * t + t**2) / 2  # log E e^(sX + tY): half the quadratic form of [[1, r], [r, 1]]
    form = sympy.Matrix([[s, t]]) * sympy.Matrix([[1, r], [r, 1]]) * sympy.Matrix([s, t])
    assert sympy.expand(form[0] / 2 - mgf) == 0
    assert sympy.expand(mgf - s**2 / 2 - t**2 / 2 - r * s * t) == 0
    return (
        "both generating functions e^(sX - s²/2) = Σ s^k He_k(X)/k! give Σ s^j t^k E[He_j(X) He_k(Y)]/(j! k!) = e^(rst): the "
        "coefficient is r^k/k! if j = k, else 0, so E[h_j(X) h_k(Y)] = δ_jk r^k and K(r) = Σ w_k r^k with w_k >= 0, Σ w_k = 1"
    )


def prove_contraction() -> str:
    """x − Σ w_k x^k = Σ_(k≥2) w_k x(1 − x)(1 + x + … + x^(k−2)) with w_1 = 1 − Σ_(k≥2) w_k, term by term for every k."""
    x, w, j = sympy.symbols("x w j", positive=True)
    n = sympy.symbols("n", integer=True, nonnegative=True)  # k = n + 2
    geometric = sympy.summation(x**j, (j, 0, n))
    branch = geometric.args[-1][0] if isinstance(geometric, sympy.Piecewise) else geometric  # x != 1
    assert sympy.simplify(w * x * (1 - x) * branch - w * (x - x ** (n + 2))) == 0
    return (
        "|K(r)| <= K(|r|) and, for x = |r|, x - K(x) = Σ_(k>=2) w_k (x - x^k) = Σ w_k x (1 - x)(1 + ... + x^(k-2)): every term is "
        ">= 0, and > 0 where w_k > 0 and 0 < x < 1; φ nonlinear means that some such w_k is positive"
    )


MEHLER = Certificate("mehler", "the expansion of K", Strength.SYMBOLIC, Scope.ALL, prove_mehler)
CONTRACTION = Certificate("contraction", "term by term, every k", Strength.SYMBOLIC, Scope.ALL, prove_contraction)

_INTERIOR = Assumption("interior", "|r| < 1", lambda u: abs(u.r) < 1)
_CORRELATED = Assumption("correlated", "r ≠ 0", lambda u: u.r != 0 or u.points is not None)
_POLYNOMIAL_PAIRS = pairs_of_units(phi=polynomials())
_LEMMA_MUTANTS = (
    Mutant("square", "|K(r)| ≤ r²", _below(lambda u, x: x * x, "r²"), _POLYNOMIAL_PAIRS),
    Mutant("slope", "|K(r)| ≤ K'(0) |r|", _below(lambda u, x: slope_of(u.phi) * x, "K'(0)|r|"), _POLYNOMIAL_PAIRS),
    Mutant("even", "K(−r) = K(r)", _even, _POLYNOMIAL_PAIRS),
)

LEMMA_A1 = Claim(
    id="barriers.lemA.1",
    title="The kernel shrinks every correlation, as printed",
    source=Source(BARRIERS, V1, "Lemma A.1"),
    kind="lemma",
    statement=r"\varphi \text{ nonlinear: } K_\varphi(0) = 0,\; K_\varphi(1) = 1,\; |K_\varphi(r)| < |r| \text{ for all } |r| < 1",
    quantifier="for all",
    assumptions=(NONLINEAR, _INTERIOR),
    instances=pairs_of_units(inner_correlations(zero=True), polynomials()),
    check=check_contraction,
    expected=Verdict.FAILS,
    proof="At r = 0 both sides are 0, as the same lemma says: the inequality is strict only for 0 < |r| < 1.",
    mutants=_LEMMA_MUTANTS,
)


@st.composite
def _affine_pair(draw: DrawFn) -> Units:
    return Units(draw(affine()), pair_matrix(draw(inner_correlations())))


LEMMA_A1_REPAIRED = Claim(
    id="barriers.lemA.1.repaired",
    title="The kernel shrinks every correlation that is not 0 or ±1",
    source=Source(BARRIERS, V1, "Lemma A.1", "repaired"),
    kind="lemma",
    statement=r"\varphi \text{ nonlinear: } |K_\varphi(r)| < |r| \text{ for all } 0 < |r| < 1",
    quantifier="for all",
    assumptions=(NONLINEAR, _INTERIOR, _CORRELATED, GAUSSIAN),
    instances=pairs_of_units(),
    check=check_contraction,
    expected=Verdict.HOLDS,
    proof="Mehler: K(r) = Σ w_k r^k with w_k >= 0 and Σ w_k = 1, so |K(r)| <= Σ w_k |r|^k < |r| as soon as some w_k with k >= 2 is "
    "positive. Outside the Gaussian law uncorrelated pre-activations may have |X| = |Y|, and then K(0) = 1 for φ = z².",
    without={
        "nonlinear": _affine_pair(),
        "interior": pairs_of_units(st.sampled_from((Fraction(1), Fraction(-1)))),
        "correlated": pairs_of_units(st.just(Fraction(0))),
        "gaussian": radial(),
    },
    mutants=_LEMMA_MUTANTS,
    certificates=(MEHLER, CONTRACTION),
    repairs="barriers.lemA.1",
)


# -- Lemma A.2: K(C) is the correlation matrix of φ(Z) ---------------------------------------------------------------------

VARIES = Assumption("varies", "Var φ > 0", lambda u: any(u.phi[1:]))


def check_correlation_matrix(u: Units) -> Evidence:
    """Corr(φ(Z_i), φ(Z_j)), by Stein's identity (or from the points), is K(C_ij); and K(C) is a correlation matrix."""
    if not any(u.phi[1:]):
        same = assertion(_moment(u.phi, "1"), "==", _moment(u.phi, "0"))
        note = f"φ = {show(u.phi)} has variance 0, so that no correlation is defined"
        return Evidence(Verdict.FAILS, note=note, witness=lambda: document(note, [same]))
    phi = [Fraction(c) for c in u.phi]
    mean2 = second_moment(phi, Fraction(0))
    variance = second_moment(phi, Fraction(1)) - mean2
    image = replace(u, points=None).image
    for (i, j), r in np.ndenumerate(u.C):
        direct = u.image[i, j] if u.points else to_fmpq((second_moment(phi, _fraction(r)) - mean2) / variance)
        if direct != image[i, j]:
            note = f"Corr(φ(Z_{i}), φ(Z_{j})) = {direct}, K({r}) = {image[i, j]}"
            evidence = Evidence(Verdict.FAILS, direct, image[i, j], note=note)
            return refuted(u, evidence, note, lambda: [assertion(entry(u, 0, 1), "!=", corr(u.phi, u.r))])
    if not is_positive_semidefinite(image):
        note = "K(C) has a negative eigenvalue"
        evidence = Evidence(Verdict.FAILS, note=note)
        return refuted(u, evidence, note, lambda: [_negative_form(u, image)])
    return Evidence(Verdict.HOLDS, note="K(C) is a correlation matrix, equal to that of φ(Z)")


def _fraction(r: fmpq) -> Fraction:
    return Fraction(int(r.p), int(r.q))


def _moment(phi: Phi, r: str) -> dict[str, Any]:
    return quantity("gaussian_moment", coefficients=[str(c) for c in phi], r=r)


def _negative_form(u: Units, matrix: np.ndarray) -> dict[str, Any]:
    """vᵀ K(C) v < 0 at a rounded eigenvector v."""
    floats = np.array([[int(x.p) / int(x.q) for x in row] for row in matrix])
    v = [round(float(x) * 100) for x in np.linalg.eigh(floats)[1][:, 0]]
    size = range(len(v))
    return assertion(plus(*(times(v[i] * v[j], entry(u, i, j)) for i in size for j in size)), "<", 0)


def _image_dominates(u: Units) -> Evidence:
    """K(C) − C is positive semidefinite."""
    excess = u.image - u.C
    verdict = Verdict.HOLDS if is_positive_semidefinite(excess) else Verdict.FAILS
    evidence = Evidence(verdict, note="K(C) − C has a negative eigenvalue")

    def minor() -> list[dict[str, Any]]:
        # The diagonal is 0, so that a non-zero entry off it makes a 2 × 2 minor negative.
        i, j = next((i, j) for (i, j), v in np.ndenumerate(excess) if v != 0)
        return [assertion(entry(u, i, j), "!=", u.C[i, j])]

    return refuted(u, evidence, "a diagonal of zeros and an entry that is not zero", minor)


def _sign_blind(u: Units) -> Evidence:
    """K(C) = K(|C|) entrywise."""
    for i in range(len(u.C)):
        for j in range(i):
            r = u.C[i, j]
            if u.kernel.enclose(abs(r)) != u.image[i, j]:
                evidence = Evidence(
                    Verdict.FAILS, note=f"K({r}) = {u.image[i, j]}, K({abs(r)}) = {u.kernel.enclose(abs(r))}"
                )
                line = assertion(corr(u.phi, r), "!=", corr(u.phi, abs(r)))
                return refuted(u, evidence, "K depends on the sign", lambda line=line: [line])
    return Evidence(Verdict.HOLDS)


def prove_schur() -> str:
    """(C ∘ R) as a quadratic form: with C = UUᵀ, R = VVᵀ every summand is one of Σ_(k,l) (Σ_i y_i u_ik v_il)²."""
    yi, yj, uik, ujk, vil, vjl = sympy.symbols("y_i y_j u_ik u_jk v_il v_jl")
    assert sympy.expand(yi * yj * (uik * ujk) * (vil * vjl) - (yi * uik * vil) * (yj * ujk * vjl)) == 0
    return (
        "yᵀ(C∘R)y = Σ_ij y_i y_j Σ_k u_ik u_jk Σ_l v_il v_jl = Σ_kl (Σ_i y_i u_ik v_il)² >= 0, summand by summand, for any sizes: "
        "Hadamard powers of C are positive semidefinite with unit diagonal, and so is every convex combination of them"
    )


SCHUR = Certificate("schur", "Hadamard products of Gram matrices", Strength.SYMBOLIC, Scope.ALL, prove_schur)


@st.composite
def _indefinite(draw: DrawFn) -> Units:
    """Three units of correlations ±1 or ±r, some of which no random vector has; affine φ keep them."""
    r = draw(st.sampled_from((Fraction(1), Fraction(2, 3))))
    signs = [draw(st.sampled_from((-1, 1))) for _ in range(2)]
    C = np.full((3, 3), fmpq(1), dtype=object)
    for (i, j), s in zip(((0, 1), (0, 2), (1, 2)), (*signs, -signs[0] * signs[1]), strict=True):
        C[i, j] = C[j, i] = to_fmpq(s * r)
    return Units(draw(st.one_of(affine(), polynomials())), C)


LEMMA_A2 = Claim(
    id="barriers.lemA.2",
    title="The correlation matrix of the activations is K(C)",
    source=Source(BARRIERS, V1, "Lemma A.2"),
    kind="lemma",
    statement=r"Z \sim N(0, C): \operatorname{Corr}(\varphi(Z_i), \varphi(Z_j)) = K_\varphi(C_{ij}) = \sum_k w_k C_{ij}^k, \quad "
    r"K_\varphi(C) = \sum_k w_k C^{\circ k} \succeq 0 \text{ with unit diagonal}",
    quantifier="for all",
    assumptions=(VARIES, CORRELATION, GAUSSIAN),
    instances=units(phi=st.one_of(polynomials(), affine())),
    check=check_correlation_matrix,
    expected=Verdict.HOLDS,
    proof="Mehler's formula for each pair; Schur's product theorem for the matrix. The check computes the left side by Stein's "
    "identity, without Hermite polynomials. For an indefinite C there is no Z, and φ affine shows that K(C) need not be PSD.",
    without={
        "varies": units(phi=st.sampled_from(((1, 0), (0, 0)))),
        "correlation": _indefinite(),
        "gaussian": radial(),
    },
    mutants=(
        Mutant("dominates", "K(C) ⪰ C", _image_dominates, units(phi=polynomials())),
        Mutant("sign-blind", "K(C) = K(|C|)", _sign_blind, units(phi=polynomials())),
    ),
    certificates=(MEHLER, SCHUR),
)


# -- Lemma A.3 and Theorems A.1, 3.1: sums of squares ----------------------------------------------------------------------


def _ratio(u: Units) -> Any:
    """er_2 after / er_2 before, each from its definition."""
    return at_bits(lambda: renyi2(u.image) / renyi2(u.C))


def _some_below_one(u: Units) -> bool:
    return any(abs(r) < 1 for r, _ in u.pairs)


def _shrunk(u: Units, strict: bool, text: str) -> Evidence:
    """Σ K(C_ij)² ≤ Σ C_ij², strictly if asked."""
    gap = at_bits(lambda: square_sum(u.C) - square_sum(u.image))
    note = f"‖C‖² = {square_sum(u.C)}, ‖K(C)‖² = {square_sum(u.image)}; {text}"
    return refuted(u, decided(gap, strict, note=note), note, lambda: _sum_lines(u, ">=" if strict else ">"))


def _sum_lines(u: Units, op: str) -> list[dict[str, Any]]:
    return [assertion(squares(u), op, square_sum(u.C))]


def check_sum_printed(u: Units) -> Evidence:
    """As printed: strict if some |C_ij| < 1."""
    return _shrunk(u, _some_below_one(u), "some |C_ij| < 1" if _some_below_one(u) else "all |C_ij| = 1")


def criterion(u: Units) -> bool:
    """Every off-diagonal C_ij is 0 or 1, or −1 where φ − Eφ is odd or even (``gain_is_one`` adds affine φ)."""
    allowed = (0, 1, -1) if u.kernel.parity else (0, 1)
    return all(r in allowed for r, _ in u.pairs)


def check_sum_repaired(u: Units) -> Evidence:
    """Equality exactly under the criterion."""
    if criterion(u):
        gap = at_bits(lambda: square_sum(u.C) - square_sum(u.image))
        evidence = decided(
            at_bits(lambda: -abs(gap)), note=f"‖C‖² = {square_sum(u.C)}, ‖K(C)‖² = {square_sum(u.image)}"
        )
        return refuted(u, evidence, evidence.note, lambda: [assertion(squares(u), "!=", square_sum(u.C))])
    return _shrunk(u, True, "some C_ij is neither 0 nor 1 nor (with parity) −1")


def _two_sided(other: Callable[[Units], bool], text: str) -> Callable[[Units], Evidence]:
    """Equality iff another criterion."""

    def check(u: Units) -> Evidence:
        gap = sign(at_bits(lambda: square_sum(u.C) - square_sum(u.image)))
        if gap is None:
            return Evidence(Verdict.UNDECIDED)
        if (gap == 0) == other(u):
            return Evidence(Verdict.HOLDS)
        note = f"{text} is {other(u)}, ‖C‖² = {square_sum(u.C)}, ‖K(C)‖² = {square_sum(u.image)}"
        op = "==" if gap == 0 else "<"
        return refuted(u, Evidence(Verdict.FAILS, note=note), note, lambda: _sum_lines(u, op))

    return check


def _all_zero_or_one(u: Units) -> bool:
    return all(abs(r) in (0, 1) for r, _ in u.pairs)


def _entrywise(u: Units) -> Evidence:
    kept = [
        (i, j)
        for i, j in zip(*np.triu_indices(len(u.C), 1), strict=True)
        if sign(at_bits(lambda i=i, j=j: abs(u.C[i, j]) - abs(u.image[i, j]))) == 0
    ]
    if not kept:
        return Evidence(Verdict.HOLDS)
    i, j = kept[0]
    evidence = Evidence(Verdict.FAILS, note=f"|K({u.C[i, j]})| = {abs(u.C[i, j])}")
    return refuted(u, evidence, evidence.note, lambda: [assertion({"abs": entry(u, i, j)}, "==", abs(u.C[i, j]))])


_CRITERIA = (
    Mutant("no-parity", "equality iff all |C_ij| ∈ {0, 1}", _two_sided(_all_zero_or_one, "all |C_ij| in {0, 1}")),
    Mutant(
        "identity-only",
        "equality iff C = I",
        _two_sided(lambda u: all(r == 0 for r, _ in u.pairs), "C = I"),
    ),
    Mutant("entrywise", "every off-diagonal |C_ij| shrinks strictly", _entrywise),
)


@st.composite
def not_definite(draw: DrawFn) -> Units:
    """Entries between −1 and 1 that no random vector has."""
    u = draw(_indefinite())
    return Units(draw(activations()), u.C)


_WITHOUT = {
    "nonlinear": units(phi=affine()),
    "gaussian": radial(),
    "centred": units(phi=polynomials(), centred=False),
    "correlation": not_definite(),
}
_GAIN_ASSUMPTIONS = (NONLINEAR, CORRELATION, GAUSSIAN, CENTRED)

LEMMA_A3 = Claim(
    id="barriers.lemA.3",
    title="The sum of squared correlations shrinks, as printed",
    source=Source(BARRIERS, V1, "Lemma A.3"),
    kind="lemma",
    statement=r"\sum_{i\ne j} K_\varphi(C_{ij})^2 \le \sum_{i\ne j} C_{ij}^2, \text{ strictly if some } |C_{ij}| < 1",
    quantifier="for all",
    assumptions=(NONLINEAR, CORRELATION),
    instances=units(phi=polynomials()),
    check=check_sum_printed,
    expected=Verdict.FAILS,
    proof="C = I: every |C_ij| is 0 < 1, and both sums are 0.",
    mutants=_CRITERIA,
    depends_on=("barriers.lemA.1",),
)

LEMMA_A3_REPAIRED = Claim(
    id="barriers.lemA.3.repaired",
    title="The sum of squared correlations shrinks, with the exact case of equality",
    source=Source(BARRIERS, V1, "Lemma A.3", "repaired; criterion ours"),
    kind="lemma",
    statement=r"\sum_{i\ne j} K_\varphi(C_{ij})^2 \le \sum_{i\ne j} C_{ij}^2, \text{ with equality iff every } C_{ij} "
    r"\in \{0, 1\}, \text{ or } C_{ij} = -1 \text{ and } \varphi - E\varphi \text{ is odd or even}",
    quantifier="for all",
    assumptions=_GAIN_ASSUMPTIONS,
    instances=units(),
    check=check_sum_repaired,
    expected=Verdict.HOLDS,
    proof="Entry by entry: strict for 0 < |r| < 1; equal at 0 and 1; at −1 K(−1) = Σ_even w − Σ_odd w, which is ±1 iff one "
    "parity carries all weight. Positive semidefiniteness is not used: entries between −1 and 1 suffice.",
    without=_WITHOUT,
    mutants=_CRITERIA,
    certificates=(MEHLER, CONTRACTION),
    depends_on=("barriers.lemA.1.repaired",),
    cost=1.5,
    repairs="barriers.lemA.3",
)


def check_gain_printed(u: Units) -> Evidence:
    """The identity for er_2, ratio ≥ 1, and > 1 whenever some |C_ij| < 1."""
    return _check_gain(u, _some_below_one(u), "some |C_ij| < 1" if _some_below_one(u) else "")


def check_gain_repaired(u: Units) -> Evidence:
    """The identity for er_2, ratio ≥ 1, and = 1 exactly under the criterion."""
    ratio = _ratio(u)
    if criterion(u):
        evidence = decided(at_bits(lambda: -abs(ratio - 1)), observed=ratio, note=f"ratio {ratio}, predicted 1")
        return refuted(u, evidence, evidence.note, lambda: [assertion(squares(u), "!=", square_sum(u.C))])
    return _check_gain(u, True, "the criterion of equality does not hold")


def check_gain_main(u: Units) -> Evidence:
    """The identity, ratio ≥ 1, and = 1 only if all |C_ij| ∈ {0, 1}."""
    return _check_gain(u, not _all_zero_or_one(u), "some |C_ij| is neither 0 nor 1")


def _check_gain(u: Units, strict: bool, text: str) -> Evidence:
    ratio = _ratio(u)
    size = len(u.C)
    off = [
        at_bits(lambda values=values: size + 2 * sum(v * v for v in values)) for values in zip(*u.pairs, strict=True)
    ]
    identity = sign(at_bits(lambda: ratio - off[0] / off[1]))
    note = f"er_2 ratio {ratio}; {text}"
    if identity not in (0, None):
        return Evidence(Verdict.FAILS, ratio, off, note=f"the identity for er_2 fails: {note}")
    evidence = decided(at_bits(lambda: ratio - 1), strict, observed=ratio, predicted=">= 1", note=note)
    return refuted(u, evidence, note, lambda: _sum_lines(u, ">=" if strict else ">"))


def prove_ratio() -> str:
    """((tr K)²/‖K‖²) / ((tr C)²/‖C‖²) = ‖C‖²/‖K‖² for equal traces d, and ‖·‖² = d + off-diagonal squares."""
    d, before, after = sympy.symbols("d before after", positive=True)
    ratio = (d**2 / (d + after)) / (d**2 / (d + before))
    assert sympy.simplify(ratio - (d + before) / (d + after)) == 0
    assert sympy.simplify((d + before) / (d + after) - 1 - (before - after) / (d + after)) == 0
    return "er_2 ratio = (d + Σ C_ij²)/(d + Σ K(C_ij)²), and ratio - 1 has the sign of Σ C_ij² - Σ K(C_ij)²"


RATIO = Certificate("ratio", "the ratio of Rényi ranks", Strength.SYMBOLIC, Scope.ALL, prove_ratio)
_RATIO_STATEMENT = (
    r"\frac{er_2(K_\varphi(C))}{er_2(C)} = "
    r"\frac{d + \sum_{i\ne j} C_{ij}^2}{d + \sum_{i\ne j} K_\varphi(C_{ij})^2} \ge 1"
)


def _reversed(u: Units) -> Evidence:
    """The gain is at most 1."""
    gap = at_bits(lambda: square_sum(u.image) - square_sum(u.C))
    evidence = decided(gap, note=f"er_2 ratio {_ratio(u)} > 1")
    return refuted(u, evidence, evidence.note, lambda: _sum_lines(u, "<"))


_GAIN_MUTANTS = (*_CRITERIA[:2], Mutant("reversed", "the gain is at most 1", _reversed))

THEOREM_A1 = Claim(
    id="barriers.thmA.1",
    title="Rank gain, appendix version, as printed",
    source=Source(BARRIERS, V1, "Theorem A.1"),
    kind="theorem",
    statement=_RATIO_STATEMENT + r", \text{ and } > 1 \text{ whenever some } |C_{ij}| < 1,\ i \ne j",
    quantifier="for all",
    assumptions=(NONLINEAR, CORRELATION),
    instances=units(phi=polynomials()),
    check=check_gain_printed,
    expected=Verdict.FAILS,
    proof="C = I has |C_ij| = 0 < 1 and ratio 1: uncorrelated units gain nothing.",
    mutants=_GAIN_MUTANTS,
    depends_on=("barriers.lemA.3",),
)

THEOREM_A1_REPAIRED = Claim(
    id="barriers.thmA.1.repaired",
    title="Rank gain with the exact case of equality",
    source=Source(BARRIERS, V1, "Theorem A.1", "repaired; criterion ours"),
    kind="theorem",
    statement=_RATIO_STATEMENT + r", \text{ and } = 1 \text{ iff every } C_{ij} \in \{0, 1\}, \text{ or } C_{ij} = -1 "
    r"\text{ and } \varphi - E\varphi \text{ is odd or even}",
    quantifier="for all",
    assumptions=_GAIN_ASSUMPTIONS,
    instances=units(),
    check=check_gain_repaired,
    expected=Verdict.HOLDS,
    proof="Traces are d before and after; the sums of squares are Lemma A.3 as repaired.",
    without=_WITHOUT,
    mutants=_GAIN_MUTANTS,
    certificates=(MEHLER, CONTRACTION, RATIO),
    depends_on=("barriers.lemA.3.repaired",),
    cost=1.5,
    repairs="barriers.thmA.1",
)

THEOREM_31_V1 = Claim(
    id="barriers.thm3.1.v1",
    title="Rank gain, main text of v1",
    source=Source(BARRIERS, V1, "Theorem 3.1"),
    kind="theorem",
    statement=_RATIO_STATEMENT + r", \text{ and } = 1 \text{ only if all } |C_{ij}| \in \{0, 1\}",
    quantifier="for all",
    assumptions=_GAIN_ASSUMPTIONS,
    instances=units(),
    check=check_gain_main,
    expected=Verdict.HOLDS,
    proof="True as 'only if'. The converse, which prose and v2 suggest, fails at C_ij = −1: for z + z²/2 K(−1) = −1/3 and the "
    "gain is 9/5 (ReLU: 1.642). Uncentred second moments are not covered: at C = I they lose rank.",
    without=_WITHOUT,
    mutants=_GAIN_MUTANTS,
    certificates=(MEHLER, CONTRACTION, RATIO),
    depends_on=("barriers.lemA.3.repaired",),
    cost=1.5,
)

CLAIMS = (
    LEMMA_A1,
    LEMMA_A1_REPAIRED,
    LEMMA_A2,
    LEMMA_A3,
    LEMMA_A3_REPAIRED,
    THEOREM_A1,
    THEOREM_A1_REPAIRED,
    THEOREM_31_V1,
)
