"""The chain of ranks: 1 ≤ stable ≤ participation ≤ effective ≤ rank, for the singular values of one matrix.

Folklore of the loss-of-plasticity literature, in which these names are often exchanged. For an integer matrix M with Gram
matrix G = MᵀM everything but the entropy is exact:

* participation ratio (tr G)² / tr G² and rank are rationals;
* λ_max is algebraic: comparisons with it count roots of the characteristic polynomial, which has only real roots, so
  that Descartes' rule of signs is exact;
* the effective rank is transcendental: balls over certified root enclosures; equality (a flat spectrum) is seen exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
from flint import arb, ctx, fmpq, fmpq_poly, fmpz_mat
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.dag import Dag
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import integers_array

BITS = 128


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The squared singular values of an integer matrix ``rows`` [m, n], held exactly by their polynomial."""

    rows: np.ndarray

    def __repr__(self) -> str:
        return f"Spectrum({self.rows.astype(int).tolist()})"

    @cached_property
    def matrix(self) -> fmpz_mat:
        return fmpz_mat(self.rows.astype(int).tolist())

    @cached_property
    def gram(self) -> fmpz_mat:
        return self.matrix.transpose() * self.matrix

    @cached_property
    def rank(self) -> int:
        return int(self.matrix.rank())

    @cached_property
    def trace(self) -> fmpq:
        """Σ σ² = tr G."""
        return _trace(self.gram)

    @cached_property
    def trace2(self) -> fmpq:
        """Σ σ⁴ = tr G²."""
        return _trace(self.gram * self.gram)

    @property
    def participation(self) -> fmpq:
        return self.trace**2 / self.trace2

    def beyond(self, level: fmpq) -> int:
        """#{i : σ_i² > level}: sign changes of det(t + level − G), all of whose roots t are real (Descartes)."""
        shifted = fmpq_poly(self.gram.charpoly())(fmpq_poly([level, 1]))
        signs = [c > 0 for c in shifted.coeffs() if c != 0]
        return sum(a != b for a, b in pairwise(signs))

    def is_root(self, level: fmpq) -> bool:
        return bool(fmpq_poly(self.gram.charpoly())(level) == 0)

    @cached_property
    def roots(self) -> list[tuple[arb, int]]:
        """The distinct positive σ², as certified enclosures with multiplicities."""
        found: list[Any] = self.gram.charpoly().complex_roots()  # pairs (acb, multiplicity); a root at 0 is exact
        return [(root.real, count) for root, count in found if root != 0]

    @property
    def is_flat(self) -> bool:
        """Are all positive singular values equal? (Then all ranks of the chain but 1 are equal.)"""
        return len(self.roots) == 1

    def entropy_rank(self, power: int = 1) -> arb:
        """exp H(p) with p ∝ σ^power: the effective rank for power 1."""
        weights = [(root.sqrt() ** power, count) for root, count in self.roots]
        total = sum((w * count for w, count in weights), arb(0))
        return (-sum((count * w / total * (w / total).log() for w, count in weights), arb(0))).exp()


def _trace(matrix: fmpz_mat) -> fmpq:
    return fmpq(sum(int(matrix[i, i]) for i in range(matrix.nrows())))


# -- the links of the chain ------------------------------------------------------------------------------------------------


def one_to_stable(s: Spectrum) -> bool:
    """1 ≤ tr G / λ_max: no root exceeds tr G."""
    return s.rank >= 1 and s.beyond(s.trace) == 0


def stable_to_participation(s: Spectrum) -> bool:
    """tr G / λ_max ≤ (tr G)² / tr G²: λ_max ≥ c with c = tr G² / tr G, that is a root at c or beyond it."""
    c = s.trace2 / s.trace
    return s.is_root(c) or s.beyond(c) > 0


def participation_to_effective(s: Spectrum) -> bool | None:
    """(tr G)² / tr G² ≤ exp H(p), strictly unless the spectrum is flat."""
    return True if s.is_flat else _less(arb(s.participation), s.entropy_rank())


def effective_to_rank(s: Spectrum) -> bool | None:
    """exp H(p) ≤ r, strictly unless the spectrum is flat."""
    return True if s.is_flat else _less(s.entropy_rank(), arb(s.rank))


def _less(left: arb, right: arb) -> bool | None:
    """left < right, ``None`` where the balls overlap."""
    return True if left < right else False if left > right else None


LINKS = {
    "1 ≤ stable": one_to_stable,
    "stable ≤ participation": stable_to_participation,
    "participation ≤ effective": participation_to_effective,
    "effective ≤ rank": effective_to_rank,
}


def check_chain(s: Spectrum) -> Evidence:
    """All links. ``margin`` is 0 where the spectrum is flat with more than one value: the last three are then equalities."""
    if s.rank == 0:
        # Whatever values are given to 0/0: the chain would bound 1 by the rank, which is 0.
        return Evidence(
            Verdict.FAILS,
            0,
            ">= 1",
            None,
            "the zero matrix has rank 0 < 1",
            lambda: _witness(s, "rank 0 < 1", [assertion(_RANK, "<", 1)]),
        )
    before, ctx.prec = ctx.prec, BITS
    try:
        answers = {text: link(s) for text, link in LINKS.items()}
    finally:
        ctx.prec = before
    broken = [text for text, answer in answers.items() if answer is False]
    if broken:
        return Evidence(Verdict.FAILS, s.participation, s.rank, None, f"{', '.join(broken)} fails; rank {s.rank}")
    undecided = [text for text, answer in answers.items() if answer is None]
    verdict = Verdict.UNDECIDED if undecided else Verdict.HOLDS
    margin = 0 if s.is_flat and s.rank > 1 else None
    return Evidence(verdict, s.participation, s.rank, margin, f"participation {s.participation}, rank {s.rank}")


# -- witnesses: a linear net whose Hessian is the Gram matrix --------------------------------------------------------------

_RANK = quantity("hessian_rank")


def _witness(s: Spectrum, statement: str, assertions: list[dict[str, Any]]) -> dict[str, Any]:
    """Linear regression without bias on the rows of M: the Hessian of ½ Σ (w·x − y)² is MᵀM, of the same rank as M."""
    inputs = s.rows.shape[1]
    dag = Dag(
        inputs, False, ("identity",), np.arange(inputs), np.full(inputs, inputs), np.arange(inputs), np.array([inputs])
    )
    instance = Instance(dag, np.zeros(inputs), s.rows, np.zeros((len(s.rows), 1)))
    return witness(f"{s!r}: {statement}", {"net": network_document(instance)}, assertions)


def _traces(s: Spectrum) -> tuple[dict[str, Any], dict[str, Any]]:
    """tr G and tr G² as expressions in entries of the Hessian."""
    size = range(s.rows.shape[1])
    entry = [[quantity("hessian", i=i, j=j) for j in size] for i in size]
    return {"sum": [entry[i][i] for i in size]}, {
        "sum": [{"product": [entry[i][j], entry[i][j]]} for i in size for j in size]
    }


# -- mutants ---------------------------------------------------------------------------------------------------------------


def _swapped(link: Callable[[Spectrum], bool | None], text: str) -> Callable[[Spectrum], Evidence]:
    """The link the other way round: refuted where it is strict. (Entropies have no witness in rational quantities.)"""

    def check(s: Spectrum) -> Evidence:
        before, ctx.prec = ctx.prec, BITS
        try:
            strict = not s.is_flat and link(s)
        finally:
            ctx.prec = before
        return Evidence(Verdict.FAILS if strict else Verdict.HOLDS, s.participation, s.rank, None, text)

    return check


def _rank_at_most_participation(s: Spectrum) -> Evidence:
    if s.participation >= s.rank:
        return Evidence(Verdict.HOLDS)
    trace, trace2 = _traces(s)
    smaller = assertion({"product": [trace, trace]}, "<", {"product": [_RANK, trace2]})
    note = f"participation {s.participation} < rank {s.rank}"
    return Evidence(Verdict.FAILS, s.participation, s.rank, None, note, lambda: _witness(s, note, [smaller]))


def _participation_at_most_stable(s: Spectrum) -> Evidence:
    """Refuted if λ_max > c = tr G² / tr G; a rational v with vᵀGv > c vᵀv shows it."""
    c = s.trace2 / s.trace
    if s.beyond(c) == 0:
        return Evidence(Verdict.HOLDS)

    def document() -> dict[str, Any]:
        top = np.linalg.eigh(s.rows.T @ s.rows)[1][:, -1]
        v = [str(round(float(value) * 1000)) for value in top]
        trace, trace2 = _traces(s)
        length = sum(int(value) ** 2 for value in v)
        larger = assertion(
            {"product": [trace, quantity("quadratic_form", v=v)]}, ">", {"product": [trace2, str(length)]}
        )
        return _witness(s, "(tr G)² / tr G² > tr G |v|² / v'Gv >= stable rank", [larger])

    return Evidence(Verdict.FAILS, s.participation, None, None, "participation > stable", document)


def _centred_rank(s: Spectrum) -> Evidence:
    """Mixing matrices: the uncentred participation ratio against the rank after the column means are subtracted."""
    rows = len(s.rows) * s.rows - s.rows.sum(axis=0)  # times m: integers
    centred = Spectrum(rows)
    if s.participation <= centred.rank:
        return Evidence(Verdict.HOLDS)
    note = f"participation {s.participation} > rank {centred.rank} of the centred matrix"

    def document() -> dict[str, Any]:
        trace, trace2 = _traces(s)
        larger = assertion({"product": [trace, trace]}, ">", {"product": [str(centred.rank), trace2]})
        both = _witness(s, note, [larger, assertion(quantity("hessian_rank", net="centred"), "==", centred.rank)])
        both["networks"]["centred"] = _witness(centred, "", [])["networks"]["net"]
        return both

    return Evidence(Verdict.FAILS, s.participation, centred.rank, None, note, document)


# -- instances -------------------------------------------------------------------------------------------------------------


@st.composite
def _matrices(draw: DrawFn, zero: bool = False) -> Spectrum:
    """Integer matrices up to 4 × 4, not zero unless ``zero``; shrinks towards 1 × 1."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if zero:
        return Spectrum(np.zeros(shape))
    rows = integers_array(draw, shape, 4)
    if not rows.any():
        rows[0, 0] = 1.0
    return Spectrum(rows)


@st.composite
def _flat_matrices(draw: DrawFn) -> Spectrum:
    """A multiple of a partial permutation matrix with at least two ones."""
    size = draw(st.integers(2, 4))
    order = draw(st.permutations(range(size)))
    rows = np.zeros((size, draw(st.integers(size, 4))))
    rows[np.arange(size), order] = draw(st.integers(1, 3))
    return Spectrum(rows)


# -- proofs ----------------------------------------------------------------------------------------------------------------


def _prove_first_links() -> str:
    """q ∝ σ²: q_i ≤ Σ q = 1, and q_i² ≤ q_max q_i term by term, for any number of terms."""
    q, gap = sympy.symbols("q gap", nonnegative=True)  # q_max = q + gap
    assert sympy.expand((q + gap) * q - q**2) == sympy.expand(gap * q)
    return "Σ q² <= q_max Σ q = q_max <= 1, because q_max q_i - q_i² = (q_max - q_i) q_i >= 0: 1 <= stable <= participation"


def _prove_tangent() -> str:
    """log t ≤ t − 1, and the two Jensen steps that use it, term by term."""
    t, Q, r, q, p = sympy.symbols("t Q r q p", positive=True)
    gap = t - 1 - sympy.log(t)
    assert sympy.simplify(sympy.diff(gap, t) - (t - 1) / t) == 0 and gap.subs(t, 1) == 0  # falls before 1, rises after
    # Σ q log(q/Q) ≤ Σ q (q/Q − 1) = Σ q²/Q − Σ q = 0 for Q = Σ q²; Σ p log(1/(r p)) ≤ Σ (1/r − p) = 0 over r terms.
    assert sympy.expand(q * (q / Q - 1) - (q**2 / Q - q)) == 0
    assert sympy.expand(p * (1 / (r * p) - 1) - (1 / r - p)) == 0
    return "log t <= t - 1 gives 1/Σq² <= exp H(q) (at t = q_i / Σq²) and exp H(p) <= r (at t = 1/(r p_i))"


def _prove_entropy_falls() -> str:
    """H(p_β) for p_β ∝ σ^β has derivative −β Var_β(log σ) ≤ 0, for any number of terms."""
    beta = sympy.symbols("beta", positive=True)
    Z = sympy.Function("Z")(beta)  # Z = Σ σ^β, Z′ = Σ σ^β log σ, Z″ = Σ σ^β (log σ)²
    entropy = sympy.log(Z) - beta * sympy.diff(Z, beta) / Z
    variance = sympy.diff(Z, beta, 2) / Z - (sympy.diff(Z, beta) / Z) ** 2
    assert sympy.simplify(sympy.diff(entropy, beta) + beta * variance) == 0
    s, u, log_s, log_u = sympy.symbols(
        "s u l k", real=True
    )  # one ordered pair (i, j) and its mirror image in Z″Z − Z′²
    pair = s * log_s**2 * u - s * log_s * u * log_u
    mirror = u * log_u**2 * s - u * log_u * s * log_s
    assert sympy.expand(pair + mirror - s * u * (log_s - log_u) ** 2) == 0
    x = sympy.symbols("x", positive=True)  # −Σ p log p = log Z − β Z′/Z, because log p = β log σ − log Z
    assert (
        sympy.simplify(sympy.expand_log(sympy.log(x**beta / Z), force=True) - (beta * sympy.log(x) - sympy.log(Z))) == 0
    )
    return "dH/dβ = -β (Z''Z - Z'²)/Z² with Z''Z - Z'² = ½ΣΣ σ_i^β σ_j^β (log σ_i - log σ_j)² >= 0: H(q) <= H(p)"


_STEPS = (
    Certificate("first-links", "1 <= stable <= participation", Strength.SYMBOLIC, Scope.ALL, _prove_first_links),
    Certificate(
        "tangent", "participation <= exp H(q), effective <= rank", Strength.SYMBOLIC, Scope.ALL, _prove_tangent
    ),
    Certificate(
        "entropy-falls", "exp H(q) <= exp H(p), the effective rank", Strength.SYMBOLIC, Scope.ALL, _prove_entropy_falls
    ),
)

_MATRICES: SearchStrategy[Spectrum] = _matrices()

CHAIN = Claim(
    id="ranks.chain",
    title="1 ≤ stable ≤ participation ≤ effective ≤ rank",
    source=Source("2509.22335", "v1", "ranks of features and Hessians", "folklore; the complete chain is ours"),
    kind="folklore",
    statement=r"1 \le \frac{\sum\sigma_i^2}{\sigma_1^2} \le \frac{(\sum\sigma_i^2)^2}{\sum\sigma_i^4} "
    r"\le \exp\Big(-\sum p_i \log p_i\Big) \le \operatorname{rank} M,\quad p_i = \frac{\sigma_i}{\sum\sigma_j}",
    quantifier="for all",
    assumptions=(Assumption("nonzero", "the matrix is not zero", lambda s: bool(s.rows.any())),),
    instances=_MATRICES,
    check=check_chain,
    expected=Verdict.HOLDS,
    proof="Let q ∝ σ². 1/Σq² lies between 1/max q and exp H(q) (Jensen). Entropy falls along p ∝ σ^β, so H(q) <= H(p) from "
    "β = 2 to β = 1, and H(p) <= log r. The last three are equalities exactly for a flat spectrum, the first for rank one. "
    "All are about one matrix: centring its columns, or squaring its singular values, gives another one.",
    without={"nonzero": _matrices(zero=True)},
    attained=_flat_matrices(),
    mutants=(
        Mutant(
            "effective-first",
            "effective <= participation",
            _swapped(participation_to_effective, "participation < effective"),
        ),
        Mutant("rank-first", "rank <= effective", _swapped(effective_to_rank, "effective < rank")),
        Mutant("participation-first", "participation <= stable", _participation_at_most_stable),
        Mutant("rank-is-participation", "rank <= participation", _rank_at_most_participation),
        Mutant("centred", "participation <= rank of the centred matrix", _centred_rank),
    ),
    certificates=_STEPS,
)

CLAIMS = (CHAIN,)
