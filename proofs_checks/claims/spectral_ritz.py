r"""Spectral Collapse, measurement (2): Ritz weights, which do measure the ε-rank, and how far they reach.

Everything is rational (``krylov.py``), but for irrational Ritz values, which are balls.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from math import prod
from typing import Any

import numpy as np
import sympy
from flint import fmpq, fmpq_mat, fmpq_poly
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.krylov import (
    Krylov,
    Probed,
    Vector,
    dot,
    gram_network,
    krylov,
    level,
    random_gram,
    rational_roots,
    rational_vector,
    reflection,
    saddle_network,
    vectors,
)
from proofs_checks.instances import assertion, quantity, witness

BITS = 128
_SOURCE = Source("2509.22335", "v3", "Lanczos of fixed order 16 … 100", "limit of the estimator, ours")


@st.composite
def with_basis(draw: DrawFn, steps: int | None = None) -> Probed:
    """A Gram net and an orthogonal basis of probes. Shrinks towards P = 2, unit vectors and the zero matrix."""
    size = draw(st.integers(2, 5))
    network = random_gram(draw, size)
    basis = reflection(vectors(draw, size))
    return Probed(network, tuple(map(rational_vector, basis)), size if steps is None else steps, level(draw))


@st.composite
def _one_direction(draw: DrawFn) -> Probed:
    """A diagonal Hessian that is not a multiple of I, probed along one axis only: exhausted, but not isotropic."""
    size = draw(st.integers(2, 4))
    a = vectors(draw, size, 0, 3)
    a[0], a[1] = 0, 1 + draw(st.integers(0, 2))
    network = gram_network(np.diag(a))
    axis = np.eye(size, dtype=np.int64)[draw(st.integers(0, size - 1))]
    return Probed(network, (rational_vector(axis),), size, fmpq(1, 2))


def _isotropic(p: Probed) -> bool:
    """(1/k) Σ v vᵀ/|v|² = I/P: every direction is seen equally."""
    total = fmpq_mat(p.size, p.size)
    for v in p.probes:
        column = fmpq_mat(p.size, 1, list(v))
        total = total + column * column.transpose() * (1 / dot(column, column))
    share = fmpq(len(p.probes), p.size)
    return all(total[i, j] == (share if i == j else 0) for i in range(p.size) for j in range(p.size))


_ISOTROPIC = Assumption("isotropic", "the mean of v v'/|v|² over the probes is I/P", _isotropic)
_EXHAUSTED = Assumption(
    "exhausted", "every probe runs until its Krylov space is exhausted", lambda p: all(k.exhausted for k in p.runs)
)


# -- the Ritz estimator ----------------------------------------------------------------------------------------------------

Weighing = Callable[[Krylov, fmpq], fmpq | None]


def _ritz_share(run: Krylov, eps: fmpq) -> fmpq | None:
    """Σ w_j over |θ_j| > ε."""
    return None if run.quadrature is None else sum((w for t, w in run.quadrature if abs(t) > eps), fmpq(0))


def _node_share(run: Krylov, eps: fmpq) -> fmpq | None:
    """The number of Ritz values beyond ε, over their number: the weights left out."""
    if run.quadrature is None:
        return None
    return fmpq(sum(abs(t) > eps for t, _ in run.quadrature), len(run.quadrature))


def _check_ritz(p: Probed, share: Weighing = _ritz_share, probes: int | None = None) -> Evidence:
    """P times the mean share over the probes, against the ε-rank."""
    shares = [share(run, p.eps) for run in p.runs[:probes]]
    if any(s is None for s in shares):
        return Evidence(Verdict.UNDECIDED, note="a Ritz value is irrational")
    estimate = p.size * sum((s for s in shares if s is not None), fmpq(0)) / len(shares)
    note = f"estimate {estimate}, ε-rank {p.epsilon_rank} at ε = {p.eps}"
    if estimate == p.epsilon_rank:
        return Evidence(Verdict.HOLDS, str(estimate), p.epsilon_rank, 0, note)
    plain = all(len(run.alphas) == 1 for run in p.runs[:probes])
    return Evidence(
        Verdict.FAILS,
        str(estimate),
        p.epsilon_rank,
        None,
        note,
        (lambda: _one_step_witness(p, p.probes[:probes], note)) if plain else None,
    )


def _one_step_witness(p: Probed, probes: tuple[Vector, ...], note: str) -> dict[str, Any]:
    """After one step the only Ritz value is v'Hv/|v|², of weight one: all or nothing for each probe."""
    lines, votes = [], 0
    for v, run in zip(probes, p.runs, strict=False):
        form = quantity("quadratic_form", v=[str(c) for c in v])
        length2 = sum((c * c for c in v), fmpq(0))
        votes += abs(run.alphas[0]) > p.eps
        lines.append(assertion(form, ">" if abs(run.alphas[0]) > p.eps else "<=", p.eps * length2))
    estimate = assertion(p.counted(), "!=", fmpq(p.size * votes, len(probes)))
    return witness(note, {"net": p.network()}, [*lines, estimate])


def check_ritz(p: Probed) -> Evidence:
    """P · mean over probes of Σ w_j 1{|θ_j| > ε} = #{i : |λ_i| > ε}."""
    return _check_ritz(p)


def _first_probe(p: Probed) -> Evidence:
    return _check_ritz(p, probes=1)


def _without_weights(p: Probed) -> Evidence:
    return _check_ritz(p, _node_share)


def _prove_moments() -> str:
    """Moments of the sphere: q = g/|g| for Gaussian g in R^P; |g| is independent of q."""
    P, r = sympy.symbols("P r", positive=True)
    # E|g|² = P, E|g|⁴ = P(P + 2) (chi-squared), E g_i² = 1, E g_i⁴ = 3, E g_i² g_j² = 1.
    second, fourth, mixed = 1 / P, 3 / (P * (P + 2)), 1 / (P * (P + 2))
    assert sympy.simplify(P * fourth + P * (P - 1) * mixed - 1) == 0 and sympy.simplify(P * second - 1) == 0
    mean = P * r * second  # of P Σ_{i ≤ r} q_i²
    variance = sympy.simplify(P**2 * (r * fourth + r * (r - 1) * mixed) - mean**2)
    assert mean == r and sympy.simplify(variance - 2 * r * (P - r) / (P + 2)) == 0
    return "for q uniform on the sphere P |E q|² has mean r = rank E and variance 2 r (P - r)/(P + 2)"


def _prove_exhausted() -> str:
    """A Qᵀ = Qᵀ T gives A^k Qᵀ = Qᵀ T^k by induction, hence f(T)_11 = q_1ᵀ f(A) q_1 for every polynomial f."""
    A, Q, T = sympy.symbols("A Q T", commutative=False)
    k = sympy.symbols("k", integer=True, positive=True)
    step = A * (Q * T**k) - Q * T ** (k + 1)  # from A^k Q = Q T^k to A^(k+1) Q = Q T^(k+1)
    assert sympy.expand(step - (A * Q - Q * T) * T**k) == 0
    P = sympy.symbols("P", integer=True, positive=True)
    E = sympy.MatrixSymbol("E", P, P)
    assert sympy.trace(E * sympy.Identity(P) / P).doit() == sympy.trace(E) / P
    return (
        "f(T)_11 = q' f(A) q for polynomials f, and the indicator of |λ| > ε is one on a finite spectrum: a probe gives q'Eq; "
        "its mean is tr(E · mean qq') = tr(E I/P) = rank E / P"
    )


RITZ = Claim(
    id="spectral.eps-rank.ritz",
    title="Ritz weights beyond ε count the eigenvalues beyond ε",
    source=Source("2509.22335", "v3", "normalized ε-rank", "repair, ours"),
    kind="ours",
    statement=r"\frac{P}{k} \sum_{v} \sum_j w_j^{(v)} \, 1\{|\theta_j^{(v)}| > \varepsilon\} = \#\{i : |\lambda_i| > \varepsilon\}",
    quantifier="for all",
    assumptions=(_ISOTROPIC, _EXHAUSTED),
    instances=with_basis(),
    check=check_ritz,
    expected=Verdict.HOLDS,
    proof="When the Krylov space of v is exhausted, the Ritz values are the eigenvalues that v sees and w_j = |E_j v|²/|v|². "
    "So a probe gives v'Ev/|v|² for the projector E on the eigenvectors beyond ε, and isotropic probes give tr E / P in the "
    "mean: the ε-rank, exactly. A random direction is isotropic in expectation: unbiased, with variance 2 r (P - r)/(P + 2).",
    without={"isotropic": _one_direction(), "exhausted": with_basis(steps=1)},
    mutants=(
        Mutant("one-probe", "the first probe alone", _first_probe),
        Mutant("unweighted", "Ritz values counted without their weights", _without_weights),
    ),
    certificates=(
        Certificate(
            "exhausted", "a probe gives q'Eq, the mean tr E / P", Strength.SYMBOLIC, Scope.ALL, _prove_exhausted
        ),
        Certificate("sphere", "variance of a random probe", Strength.SYMBOLIC, Scope.ALL, _prove_moments),
    ),
    repairs="spectral.normalized-eps-rank",
    cost=1.5,
)


# -- small levels ----------------------------------------------------------------------------------------------------------


@st.composite
def unexhausted(draw: DrawFn) -> Probed:
    """A singular Gram net and a probe that sees at least two eigenvalues, stopped before exhaustion."""
    size = draw(st.integers(2, 5))
    a = vectors(draw, size, 0, 3)
    a[0], a[1] = 0, 1 + abs(a[1])
    mirror = reflection(vectors(draw, size))
    v = mirror @ (1 + vectors(draw, size, 0, 2))  # no component along an eigenvector vanishes
    distinct = len(set((a**2).tolist()))
    return Probed(
        gram_network(np.diag(a) @ mirror), (rational_vector(v),), draw(st.integers(1, distinct - 1)), fmpq(1, 2)
    )


@st.composite
def _exhausted_in_kernel(draw: DrawFn) -> Probed:
    size = draw(st.integers(2, 4))
    a = vectors(draw, size, 0, 3)
    a[0] = 0
    return Probed(gram_network(np.diag(a)), (rational_vector(np.eye(size, dtype=np.int64)[0]),), 1, fmpq(1, 2))


@st.composite
def _saddles(draw: DrawFn) -> Probed:
    """[[0, −c], [−c, 0]] and an axis: one step finds the Ritz value 0, and the space is not exhausted."""
    axis = (fmpq(1), fmpq(0)) if draw(st.booleans()) else (fmpq(0), fmpq(1))
    return Probed(saddle_network(1 + draw(st.integers(0, 5))), (axis,), 1, fmpq(1, 2))


def _is_psd(p: Probed) -> bool:
    """No negative eigenvalue: det(t + H) has no positive root."""
    mirrored = p.hessian.charpoly()(fmpq_poly([0, -1]))
    signs = [c > 0 for c in mirrored.coeffs() if c != 0]
    return all(a == b for a, b in pairwise(signs))


def check_small(p: Probed) -> Evidence:
    """All Ritz values of an unexhausted probe are > 0, that is p_m(0) ≠ 0: at small ε the estimate is P."""
    return _check_small(p, lambda last: bool(last(fmpq(0)) != 0), "0 is no Ritz value")


def _check_small(p: Probed, holds: Callable[[fmpq_poly], bool], text: str) -> Evidence:
    rank = int(p.hessian.rank())
    note = f"rank {rank} of {p.size}, {len(p.runs[0].alphas)} steps; {text}"
    if all(holds(run.polynomials[1]) for run in p.runs):
        return Evidence(Verdict.HOLDS, p.size, rank, None, note)
    plain = all(len(run.alphas) == 1 for run in p.runs)
    return Evidence(
        Verdict.FAILS, None, rank, None, f"fails: {note}", (lambda: _zero_witness(p, note)) if plain else None
    )


def _zero_witness(p: Probed, note: str) -> dict[str, Any]:
    form = quantity("quadratic_form", v=[str(c) for c in p.probes[0]])
    return witness(f"one step finds the Ritz value 0: {note}", {"net": p.network()}, [assertion(form, "==", 0)])


def _counts_rank(p: Probed) -> Evidence:
    """At ε → 0 the share is at most rank/P: refuted whenever no Ritz value is 0, as then everything is counted."""
    rank, run = int(p.hessian.rank()), p.runs[0]
    if run.polynomials[1](fmpq(0)) == 0:
        return Evidence(Verdict.HOLDS)
    note = f"all of P = {p.size} counted, rank {rank}, {len(run.alphas)} steps"

    def document() -> dict[str, Any]:
        positive = assertion(quantity("quadratic_form", v=[str(c) for c in p.probes[0]]), ">", 0)
        return witness(note, {"net": p.network()}, [positive, assertion(quantity("hessian_rank"), "<", p.size)])

    return Evidence(Verdict.FAILS, p.size, rank, None, note, document if len(run.alphas) == 1 else None)


def _rank_steps_suffice(p: Probed) -> Evidence:
    """As many steps as the rank are enough to see the kernel."""
    rank = int(p.hessian.rank())
    return _counts_rank(Probed(p.instance, p.probes, rank, p.eps))


def _ritz_above_gap(p: Probed) -> Evidence:
    """No Ritz value lies between 0 and the smallest positive eigenvalue: refuted by one step, at the Rayleigh quotient."""
    gap = min(t for t in rational_roots(p.hessian.charpoly()) if t > 0)
    alpha = krylov(p.hessian, p.probes[0], 1).alphas[0]
    if not 0 < alpha < gap:
        return Evidence(Verdict.HOLDS)
    note = f"Ritz value {alpha} between 0 and the smallest positive eigenvalue {gap}"

    def document() -> dict[str, Any]:
        v = p.probes[0]
        form = quantity("quadratic_form", v=[str(c) for c in v])
        length2 = sum((c * c for c in v), fmpq(0))
        level = (alpha + gap) / 2  # H has no eigenvalue in (0, level]: its rank is its ε-rank there
        lines = [assertion(form, ">", 0), assertion(form, "<", level * length2)]
        same = assertion(quantity("epsilon_rank", level=str(level)), "==", quantity("hessian_rank"))
        return witness(note, {"net": p.network()}, [*lines, same])

    return Evidence(Verdict.FAILS, str(alpha), str(gap), None, note, document)


def _prove_hankel() -> str:
    """p_m(0) = (−1)^m det[∫ t^{i+j+1}] / det[∫ t^{i+j}], and the upper determinant is Σ_S Π w λ Π (λ − λ')² ≥ 0."""
    for m, n in ((1, 2), (2, 3), (2, 4), (3, 4)):
        points = sympy.symbols(f"x1:{n + 1}", positive=True)
        masses = sympy.symbols(f"w1:{n + 1}", positive=True)

        def moment(k: int, points: Any = points, masses: Any = masses) -> sympy.Expr:
            return sum(w * x**k for x, w in zip(points, masses, strict=True))

        hankel = sympy.Matrix(m, m, lambda i, j, moment=moment: moment(i + j + 1)).det(method="berkowitz")
        binet = sum(
            prod(masses[s] * points[s] for s in chosen)
            * prod([(points[a] - points[b]) ** 2 for a, b in combinations(chosen, 2)], start=sympy.Integer(1))
            for chosen in combinations(range(n), m)
        )
        assert sympy.expand(hankel - binet) == 0
    return "det[∫ t^(i+j+1) dμ] = Σ_S Π w λ Π (λ - λ')² > 0 as soon as μ has m positive points (m = 1, 2, 3)"


SMALL = Claim(
    id="spectral.slq-small-eps",
    title="Before exhaustion, Lanczos counts every eigenvalue of a singular Hessian at small ε",
    source=_SOURCE,
    kind="ours",
    statement=r"H \succeq 0,\ m < \dim \mathcal{K}(H, v):\quad \theta_1 > 0,\ \text{hence } "
    r"\hat r_\varepsilon = P \text{ for } \varepsilon < \theta_1, \text{ whatever the rank}",
    quantifier="for all",
    assumptions=(
        Assumption("semidefinite", "H has no negative eigenvalue", _is_psd),
        Assumption("unexhausted", "the Krylov space is not exhausted", lambda p: not any(k.exhausted for k in p.runs)),
    ),
    instances=unexhausted(),
    check=check_small,
    expected=Verdict.HOLDS,
    proof="Let p_m(0) = 0, p_m = t q with deg q = m - 1. Then 0 = ⟨p_m, q⟩ = ∫ t q² dμ, so q vanishes on the positive points of "
    "μ; there are at least m of them, as μ has more than m points (m + 1 ≤ grade, at most one is 0). So q = 0: contradiction. "
    "A Hessian of rank 2 needs only three steps, but one with a bulk is never exhausted: see the Christoffel bracket.",
    without={"semidefinite": _saddles(), "unexhausted": _exhausted_in_kernel()},
    mutants=(
        Mutant("counts-rank", "at small ε the estimate is at most the rank", _counts_rank),
        Mutant("rank-steps", "as many steps as the rank show the kernel", _rank_steps_suffice),
        Mutant("gap", "no Ritz value lies below the smallest positive eigenvalue", _ritz_above_gap),
    ),
    certificates=(Certificate("hankel", "m = 1, 2, 3", Strength.SYMBOLIC, Scope.LIST, _prove_hankel),),
    depends_on=("spectral.eps-rank.ritz",),
)


CLAIMS = (RITZ, SMALL)
