r"""Spectral Collapse, measurement (3): the error of a count by Lanczos, and where Lanczos ends.

Spectral measures, p_k and ω are rational (``krylov.py``); irrational Ritz values and their weights are balls.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import sympy
from flint import arb, arb_poly, ctx, fmpq, fmpz_poly
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from proofs_checks.claim import Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.krylov import (
    Krylov,
    Probed,
    gram_network,
    krylov,
    level,
    rational_roots,
    rational_vector,
    reflection,
    vectors,
)
from proofs_checks.claims.spectral_ritz import unexhausted, with_basis

BITS = 128


# -- the bracket -----------------------------------------------------------------------------------------------------------


def christoffel(run: Krylov, x: fmpq) -> fmpq:
    """ω(x) = 1 / Σ_{k<m} p_k(x)² / (β_1² ⋯ β_k²), for a probe of length one."""
    before, now, norm2, total = fmpq(0), fmpq(1), fmpq(1), fmpq(0)
    for k, alpha in enumerate(run.alphas):
        total += now * now / norm2
        beta2 = run.betas2[k] if k < len(run.betas2) else fmpq(0)
        before, now = now, (x - alpha) * now - (run.betas2[k - 1] if k else fmpq(0)) * before
        norm2 *= beta2
    return 1 / total


def mass_below(run: Krylov, x: fmpq) -> arb:
    """Σ w_j over θ_j ≤ x, as a ball; the Ritz values are the certified roots of p_m, all real and simple."""
    before, last = run.polynomials
    scale = arb(prod(run.betas2, start=fmpq(1)))
    slope, weight = (arb_poly(list(p.coeffs())) for p in (last.derivative(), before))
    total = arb(0)
    roots: list[Any] = fmpz_poly(list(last.numer())).complex_roots()
    for root, _ in roots:
        theta = root.real
        if not (theta > arb(x) or theta <= arb(x)):
            return arb(0, 1)  # x may be a Ritz value: nothing is known
        if theta <= arb(x):
            total += scale / (slope(theta) * weight(theta))
    return total


def check_bracket(p: Probed) -> Evidence:
    """|Ritz mass up to ε − spectral mass up to ε| ≤ ω(ε), for each probe."""
    return _check_bracket(p, fmpq(1))


def _check_bracket(p: Probed, factor: fmpq) -> Evidence:
    before, ctx.prec = ctx.prec, BITS
    try:
        verdict, note = Verdict.HOLDS, ""
        for v, run in zip(p.probes, p.runs, strict=True):
            full = krylov(p.hessian, v, p.size + 1).quadrature
            if full is None:
                return Evidence(Verdict.UNDECIDED, note="irrational eigenvalues")
            truth = sum((w for t, w in full if t <= p.eps), fmpq(0))
            gap, bound = abs(mass_below(run, p.eps) - arb(truth)), arb(factor * christoffel(run, p.eps))
            if gap > bound:
                note = f"masses up to {p.eps} differ by {gap.str(5)} > {bound.str(5)} after {len(run.alphas)} steps"
                return Evidence(Verdict.FAILS, gap.str(10), bound.str(10), None, note)
            if not gap <= bound:
                verdict, note = Verdict.UNDECIDED, "the balls overlap"
    finally:
        ctx.prec = before
    return Evidence(verdict, note=note)


def _half_bracket(p: Probed) -> Evidence:
    return _check_bracket(p, fmpq(1, 2))


def _no_error(p: Probed) -> Evidence:
    return _check_bracket(p, fmpq(0))


def _steps_alone(p: Probed) -> Evidence:
    """The share errs by at most 1/(2m), whatever the spectrum: a bulk of evenly spread nodes would do."""
    worst = Verdict.HOLDS
    for run in p.runs:
        if christoffel(run, p.eps) * 2 * len(run.alphas) > 1:
            found = _check_bracket(p, 1 / (2 * len(run.alphas) * christoffel(run, p.eps)))
            if found.verdict is Verdict.FAILS:
                return found
            worst = found.verdict if found.verdict is not Verdict.HOLDS else worst
    return Evidence(worst)


def _prove_kernel() -> str:
    """The two touching polynomials differ by K(t)²/K(x)², and ∫ K(t)² dμ = K(x): the width is 1/K(x) = ω(x)."""
    t, x, a1, a2, a3, b1, b2 = sympy.symbols("t x a1 a2 a3 b1 b2")  # b_k = β_k², any Jacobi matrix
    p: list[sympy.Expr] = [sympy.Integer(1), t - a1]
    p.append(sympy.expand((t - a2) * p[1] - b1 * p[0]))
    p.append(sympy.expand((t - a3) * p[2] - b2 * p[1]))
    norms = [sympy.Integer(1), b1, b1 * b2]
    for m in (1, 2, 3):
        kernel = sum(p[k] * p[k].subs(t, x) / norms[k] for k in range(m))
        darboux = (p[m] * p[m - 1].subs(t, x) - p[m - 1] * p[m].subs(t, x)) / norms[m - 1]
        assert sympy.simplify((t - x) * kernel - darboux) == 0  # m real simple zeros, x among them, besides those of K
    w = sympy.symbols("w0:3")  # orthogonality ∫ p_j p_k = norms[k] δ_jk turns ∫ K² into Σ p_k(x)²/norms[k]
    assert sympy.expand(sum((w[k] / norms[k]) ** 2 * norms[k] - w[k] ** 2 / norms[k] for k in range(3))) == 0
    return "(t - x) K(t) = [p_m(t) p_m-1(x) - p_m-1(t) p_m(x)]/h (Christoffel-Darboux) and ∫K² = K(x), for m = 1, 2, 3"


@st.composite
def _any_steps(draw: DrawFn) -> Probed:
    """A Gram net, one probe without vanishing components, one to three steps, any half-integer level."""
    size = draw(st.integers(2, 5))
    mirror = reflection(vectors(draw, size))
    v = mirror @ (1 + vectors(draw, size, 0, 2))
    network = gram_network(np.diag(vectors(draw, size, 0, 3)) @ mirror)
    return Probed(network, (rational_vector(v),), draw(st.integers(1, 3)), level(draw))


@st.composite
def _lopsided(draw: DrawFn) -> Probed:
    """One large eigenvalue, the rest 0, and all components equal: one step puts the whole mass on the wrong side of 1/2."""
    size = draw(st.integers(3, 5))
    network = gram_network(np.diag([0] * (size - 1) + [3]))
    return Probed(network, ((fmpq(1),) * size,), 1, fmpq(1, 2))


BRACKET = Claim(
    id="spectral.ritz-bracket",
    title="The share of Ritz weights up to a level errs by at most the Christoffel function there",
    source=Source(
        "2509.22335", "v3", "Lanczos of fixed order 16 … 100", "Chebyshev, Markov and Stieltjes; repair, ours"
    ),
    kind="ours",
    statement=r"\Big|\sum_{\theta_j \le x} w_j - \mu(-\infty, x]\Big| \le \omega(x) = \Big(\sum_{k<m} p_k(x)^2\Big)^{-1}",
    quantifier="for all",
    assumptions=(),
    instances=_any_steps(),
    check=check_bracket,
    expected=Verdict.HOLDS,
    proof="Let ξ_1 < … < ξ_m be the zeros of (t - x) K(t), K(t) = Σ p_k(t) p_k(x): by Christoffel-Darboux a combination of p_m and "
    "p_m-1, so real and simple. Hermite interpolation gives a polynomial of degree 2m - 2 above the step 1{t <= x} and one below "
    "1{t < x} (Rolle counts the zeros); they differ by (K(t)/K(x))², of integral ω(x). Both measures have the same moments up to "
    "2m - 1, so both masses lie between the same two integrals. This is the error that a count by Lanczos can be given.",
    mutants=(
        Mutant("half", "half the Christoffel function", _half_bracket, _lopsided()),
        Mutant("none", "no error at all", _no_error),
        Mutant("steps", "at most 1/(2m), whatever the spectrum", _steps_alone),
    ),
    certificates=(Certificate("kernel", "m = 1, 2, 3", Strength.SYMBOLIC, Scope.LIST, _prove_kernel),),
    depends_on=("spectral.slq-small-eps",),
    cost=1.5,
)


# -- the end of the Krylov space -------------------------------------------------------------------------------------------


def check_breakdown(p: Probed) -> Evidence:
    """The Krylov space ends after at most rank H + 1 steps; ``margin`` 0 where it takes that many."""
    return _check_breakdown(p, 1)


def _check_breakdown(p: Probed, extra: int) -> Evidence:
    rank = int(p.hessian.rank())
    grades = [len(krylov(p.hessian, v, p.size + 1).alphas) for v in p.probes]
    margin = rank + extra - max(grades)
    verdict = Verdict.HOLDS if margin >= 0 else Verdict.FAILS
    return Evidence(verdict, max(grades), rank + extra, margin, f"{max(grades)} steps, rank {rank} of {p.size}")


def _breakdown_at_rank(p: Probed) -> Evidence:
    return _check_breakdown(p, 0)


def _breakdown_at_distinct(p: Probed) -> Evidence:
    """After as many steps as there are distinct non-zero eigenvalues."""
    distinct = sum(t != 0 for t in rational_roots(p.hessian.charpoly()))
    grades = [len(krylov(p.hessian, v, p.size + 1).alphas) for v in p.probes]
    verdict = Verdict.HOLDS if max(grades) <= distinct else Verdict.FAILS
    return Evidence(
        verdict, max(grades), distinct, None, f"{max(grades)} steps, {distinct} distinct non-zero eigenvalues"
    )


def _prove_krylov() -> str:
    """H^k v = H (H^{k−1} v) lies in the range of H for k ≥ 1: K(H, v) ⊂ span(v) + range H."""
    size, k = sympy.symbols("P k", integer=True, positive=True)
    h, v = sympy.MatrixSymbol("H", size, size), sympy.MatrixSymbol("v", size, 1)
    if (h**k * v - h * (h ** (k - 1) * v)).doit() != sympy.ZeroMatrix(size, 1):
        raise AssertionError("the symbolic proof breaks at H^k v = H (H^{k−1} v)")
    return (
        "H^k v = H (H^{k−1} v) for k ≥ 1: the Krylov space lies in span(v) + range H, of dimension rank H + 1 at most"
    )


BREAKDOWN = Claim(
    id="spectral.lanczos-breakdown",
    title="At rank r the Krylov space is exhausted after r + 1 steps",
    source=Source("2509.22335", "v3", "Lanczos without breakdown test", "folklore"),
    kind="folklore",
    statement=r"\dim \mathcal{K}(H, v) \le \operatorname{rank} H + 1",
    quantifier="for all",
    assumptions=(),
    instances=with_basis(),
    check=check_breakdown,
    expected=Verdict.HOLDS,
    proof="The minimal polynomial of v divides t Π (t - λ) over the distinct non-zero eigenvalues, at most rank H of them. The "
    "next β is then 0, and code without a test divides rounding by rounding. A collapsed Hessian gets there within the "
    "fixed order of 16 … 100 steps.",
    attained=unexhausted(),
    mutants=(
        Mutant("rank", "after r steps", _breakdown_at_rank, unexhausted()),
        Mutant(
            "distinct", "after one step for each distinct non-zero eigenvalue", _breakdown_at_distinct, unexhausted()
        ),
    ),
    certificates=(Certificate("krylov", "any size", Strength.SYMBOLIC, Scope.CLASS, _prove_krylov),),
)


CLAIMS = (BRACKET, BREAKDOWN)
