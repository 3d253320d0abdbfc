"""Spectral Collapse, curvature (3): ranks and effective ranks of Kronecker products and of block-diagonal matrices.

The instances have planted singular values: X = diag(s) Q with s whole numbers and Q a rational orthogonal matrix, so that
p_i = s_i/Σs is rational. The effective rank is transcendental or not, but always erank^D = Π (D/s)^s with D = Σ s, a rational
number: equalities of effective ranks are decided exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np
import sympy
from flint import arb, ctx, fmpq, fmpq_mat, fmpq_poly
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import rational_array
from lop_theory.linearized import exact_epsilon_rank
from lop_theory.rank import exact_rank
from proofs_checks.claim import Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.jacobian_probes import times, total
from proofs_checks.claims.kronecker_ranks import prove_mixed_product, regression
from proofs_checks.instances import assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array

_OURS = Source("2509.22335", "v1", "Eqs. 5-6 (poster Eq. 1)", "ours")
_FOLKLORE = Source("2509.22335", "v1", "Eqs. 5-6 (poster Eq. 1)", "folklore")


def _evidence(
    holds: bool, observed: Any, predicted: Any, note: str, document: Callable[[], dict[str, Any]] | None = None
) -> Evidence:
    verdict = Verdict.HOLDS if holds else Verdict.FAILS
    return Evidence(verdict, observed, predicted, None, note, None if holds else document)


# -- Kronecker products ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Planted:
    """X = diag(s) Q [n, n] with whole singular values s ≥ 0 and Q rational orthogonal, so that XᵀX has the eigenvalues s²."""

    s: tuple[int, ...]
    X: np.ndarray

    def __repr__(self) -> str:
        return f"Planted(s = {self.s}, X = {[[str(v) for v in row] for row in self.X]})".replace("'", "")


def reflection(v: np.ndarray) -> np.ndarray:
    """I − 2vvᵀ/vᵀv [n, n], exact; the identity for v = 0."""
    v = rational_array(v.astype(int))
    square = v @ v
    identity = rational_array(np.eye(len(v), dtype=int))
    return identity if square == 0 else identity - np.outer(v, v) * (fmpq(2) / square)


@st.composite
def planted(draw: DrawFn, zero: bool = False, size: int = 3, largest: int = 4) -> Planted:
    """Singular values up to ``largest``; not all zero unless ``zero``. Shrinks towards a 1 × 1 matrix."""
    n = draw(st.integers(1, size))
    s = [draw(st.integers(0, largest)) for _ in range(n)]
    if not any(s) and not zero:
        s[0] = 1
    Q = reflection(integers_array(draw, (n,), 2))
    return Planted(tuple(s), rational_array(s)[:, None] * Q)


_PAIRS = st.tuples(planted(), planted())
Pair = tuple[Planted, Planted]


def _matrix(values: np.ndarray) -> fmpq_mat:
    return fmpq_mat(len(values), values.shape[1], values.ravel().tolist())


def has_singular_values(X: np.ndarray, s: Sequence[int]) -> bool:
    """Is det(t − XᵀX) = Π (t − s²)?"""
    M = _matrix(X)
    expected = prod((fmpq_poly([-(v * v), 1]) for v in s), start=fmpq_poly([1]))
    return bool(fmpq_poly((M.transpose() * M).charpoly().coeffs()) == expected)


def _gram(X: np.ndarray) -> fmpq_mat:
    return _matrix(X).transpose() * _matrix(X)


@dataclass(frozen=True, eq=False)
class Counted:
    """Two planted matrices and a level ε, a square of a rational."""

    pair: Pair
    root: fmpq

    def __repr__(self) -> str:
        return f"Counted({self.pair[0]!r}, {self.pair[1]!r}, ε = {self.level})"

    @property
    def level(self) -> fmpq:
        return self.root * self.root

    @cached_property
    def product(self) -> np.ndarray:
        """X ⊗ Y, whose Gram matrix is A ⊗ G."""
        return np.kron(self.pair[0].X, self.pair[1].X)

    @cached_property
    def ranks(self) -> tuple[int, int, int]:
        """Ranks of A, G and A ⊗ G, by elimination."""
        return exact_rank(self.pair[0].X), exact_rank(self.pair[1].X), exact_rank(self.product)

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Eigenvalues of A, G and A ⊗ G beyond ε, by Descartes."""
        a, g, k = (exact_epsilon_rank(_gram(X), self.level) for X in (self.pair[0].X, self.pair[1].X, self.product))
        return a, g, k


@st.composite
def _counted(draw: DrawFn) -> Counted:
    pair = draw(st.tuples(planted(True), planted(True)))
    return Counted(pair, fmpq(draw(st.integers(1, 12)), 2))


def check_kron_rank(instance: Counted) -> Evidence:
    """rank(A ⊗ G) = rank A · rank G, and the eigenvalues beyond ε are the products beyond ε."""
    a, g, k = instance.ranks
    pairs = sum((s * t) ** 2 > instance.level for s, t in product(instance.pair[0].s, instance.pair[1].s))
    note = f"ranks {a} · {g} and {k}; {pairs} products and {instance.counts[2]} eigenvalues beyond ε"
    return _evidence(k == a * g and instance.counts[2] == pairs, k, a * g, note)


def _rank_adds(instance: Counted) -> Evidence:
    a, g, k = instance.ranks
    note = f"ranks {a} + {g}, but {k}"
    return _evidence(
        k == a + g,
        k,
        a + g,
        note,
        lambda: _counted_witness(instance, note, lambda rank: ({"sum": [rank("A"), rank("G")]}, "!=", rank("AG"))),
    )


def _counts_multiply(instance: Counted) -> Evidence:
    a, g, k = instance.counts
    note = f"{a} · {g} eigenvalues of the factors beyond ε = {instance.level}, but {k} of the product"

    def count(name: str) -> dict[str, Any]:
        return quantity("epsilon_rank", name, level=str(instance.level))

    return _evidence(
        k == a * g,
        k,
        a * g,
        note,
        lambda: _counted_witness(instance, note, lambda _: (times(count("A"), count("G")), "!=", count("AG"))),
    )


def _counted_witness(instance: Counted, note: str, claimed: Callable[[Any], tuple[Any, str, Any]]) -> dict[str, Any]:
    """Three linear regressions, the third on the Kronecker product of the inputs of the others, entry by entry."""
    X, Y = instance.pair[0].X, instance.pair[1].X
    nets = {"A": regression(X), "G": regression(Y), "AG": regression(instance.product)}
    entries = [
        assertion(
            times(quantity("value", "A", unit=j, sample=i), quantity("value", "G", unit=m, sample=k)),
            "==",
            quantity("value", "AG", unit=j * len(Y) + m, sample=i * len(Y) + k),
        )
        for i, j, k, m in product(range(len(X)), range(len(X)), range(len(Y)), range(len(Y)))
    ]
    refuted = assertion(*claimed(lambda name: quantity("hessian_rank", name)))
    return witness(note, {name: network_document(net) for name, net in nets.items()}, [refuted, *entries])


def _prove_kron_rank() -> str:
    prove_mixed_product()
    u, v, alpha, beta = sympy.symbols("u v alpha beta")
    assert sympy.expand((alpha * u) * (beta * v) - alpha * beta * (u * v)) == 0  # (A ⊗ G)(u ⊗ v) = Au ⊗ Gv
    r, t = sympy.symbols("r t", integer=True, positive=True)
    assert sympy.summation(sympy.summation(1, (sympy.Symbol("j"), 1, t)), (sympy.Symbol("i"), 1, r)) == r * t
    return (
        "A = P D Q and G = P' D' Q' with invertible P, Q and D of r ones give A ⊗ G = (P ⊗ P')(D ⊗ D')(Q ⊗ Q'), D ⊗ D' of "
        "r·r' ones; orthonormal eigenvectors u, v give the orthonormal eigenvectors u ⊗ v with eigenvalue αβ"
    )


KRON_RANK = Claim(
    id="spectral.kron-rank",
    title="Rank and ε-rank of a Kronecker product",
    source=_FOLKLORE,
    kind="folklore",
    statement=r"\operatorname{rank}(A \otimes G) = \operatorname{rank} A \cdot \operatorname{rank} G,\quad "
    r"\operatorname{rank}_\varepsilon(A \otimes G) = \#\{(i, j) : |\alpha_i \beta_j| > \varepsilon\}",
    quantifier="for all",
    assumptions=(),
    instances=_counted(),
    check=check_kron_rank,
    expected=Verdict.HOLDS,
    proof="(A ⊗ G)(u ⊗ v) = Au ⊗ Gv, so eigenvalues multiply and bases go to bases. The ε-rank counts products: it is not the "
    "product of two ε-ranks.",
    mutants=(
        Mutant("adds", "rank(A ⊗ G) = rank A + rank G", _rank_adds),
        Mutant("counts-multiply", "rank_ε(A ⊗ G) = rank_ε A · rank_ε G", _counts_multiply),
    ),
    certificates=(
        Certificate("mixed-product", "both formulas, any sizes", Strength.SYMBOLIC, Scope.ALL, _prove_kron_rank),
    ),
)


# -- effective ranks -------------------------------------------------------------------------------------------------------

BITS = 128


def erank_power(s: Sequence[int], power: int) -> fmpq:
    """erank^power for singular values s with sum D, a rational number if D divides ``power``: (Π (D/s)^s)^(power/D)."""
    D = sum(s)
    return prod((fmpq(D, v) ** (v * power // D) for v in s if v), start=fmpq(1))


def erank(s: Sequence[int]) -> arb:
    """An enclosure of the effective rank."""
    D = arb(sum(s))
    return (-sum((arb(v) / D * (arb(v) / D).log() for v in s if v), arb(0))).exp()


def check_kron_erank(pair: Pair) -> Evidence:
    """erank(A ⊗ G)^{DE} = (erank A · erank G)^{DE}, D and E the sums of the singular values; all rational."""
    (s, t), matrix = (p.s for p in pair), np.kron(pair[0].X, pair[1].X)
    products = [a * b for a, b in product(s, t)]
    power = sum(s) * sum(t)
    whole = erank_power(products, power)
    same = has_singular_values(matrix, products) and whole == erank_power(s, power) * erank_power(t, power)
    return _evidence(same, None, None, f"singular values {products} of the product")


def _in_balls(work: Callable[[Any], tuple[arb, arb, str]]) -> Callable[[Any], Evidence]:
    """Refutes an equality by two disjoint balls."""

    def check(instance: Any) -> Evidence:
        before, ctx.prec = ctx.prec, BITS
        try:
            left, right, text = work(instance)
            apart = bool(left < right or left > right)
        finally:
            ctx.prec = before
        note = f"{text}: {float(left.mid()):.6g} against {float(right.mid()):.6g}"
        return Evidence(Verdict.FAILS if apart else Verdict.HOLDS, note=note)

    return check


def _erank_expression(name: str, size: int) -> dict[str, Any]:
    """The effective rank of the inputs of a linear regression, computed by the checker."""
    return quantity("effective_rank", name, layers=[list(range(size))], power=1)


def _with_witness(
    check: Callable[[Any], Evidence],
    parts: Callable[[Any], list[Planted]],
    claimed: Callable[[Any, list[Any]], list[Any]],
) -> Callable[[Any], Evidence]:
    """Adds a witness: the whole (a product of two parts, or a block diagonal) against ``claimed`` of the parts."""

    def checked(instance: Any) -> Evidence:
        evidence = check(instance)
        if evidence.verdict is not Verdict.FAILS:
            return evidence
        blocks = parts(instance)
        whole = np.kron(blocks[0].X, blocks[1].X) if isinstance(instance, tuple) else _block_diagonal(blocks)
        names = [f"part_{k}" for k in range(len(blocks))]
        sides = [_erank_expression(name, len(b.s)) for name, b in zip(names, blocks, strict=True)]

        def document() -> dict[str, Any]:
            nets = {"whole": network_document(regression(whole))}
            nets |= {name: network_document(regression(b.X)) for name, b in zip(names, blocks, strict=True)}
            refuted = claimed(_erank_expression("whole", whole.shape[1]), sides)
            return witness(evidence.note, nets, [*refuted, *_entries_of_whole(instance, blocks, names)])

        return replace(evidence, witness=document)

    return checked


def _not_the_sum(whole: Any, sides: list[Any]) -> list[dict[str, Any]]:
    return [assertion(whole, "!=", total(sides))]


def _not_the_mean(whole: Any, sides: list[Any]) -> list[dict[str, Any]]:
    return [assertion(whole, "!=", times(number(fmpq(1, len(sides))), total(sides)))]


def _beyond_each(whole: Any, sides: list[Any]) -> list[dict[str, Any]]:
    """Not their maximum, as it exceeds each of them (the maximum of two overlapping balls would be undecided)."""
    return [assertion(whole, ">", side) for side in sides]


def _entries_of_whole(instance: Any, blocks: Sequence[Planted], names: Sequence[str]) -> list[dict[str, Any]]:
    """Every entry of the whole matrix follows from those of the parts."""

    def entry(name: str, row: int, column: int) -> dict[str, Any]:
        return quantity("value", name, unit=column, sample=row)

    if isinstance(instance, tuple):
        (m, n), size = (len(b.s) for b in blocks), range
        return [
            assertion(entry("whole", i * n + k, j * n + l), "==", times(entry(names[0], i, j), entry(names[1], k, l)))
            for i, j, k, l in product(size(m), size(m), size(n), size(n))
        ]
    found, place = [], [(k, i) for k, b in enumerate(blocks) for i in range(len(b.s))]
    for (row, (k, i)), (column, (l, j)) in product(enumerate(place), enumerate(place)):
        found.append(assertion(entry("whole", row, column), "==", entry(names[k], i, j) if k == l else 0))
    return found


def _products(pair: Pair) -> list[int]:
    return [a * b for a, b in product(pair[0].s, pair[1].s)]


@_in_balls
def _erank_adds(pair: Pair) -> tuple[arb, arb, str]:
    return erank(_products(pair)), erank(pair[0].s) + erank(pair[1].s), "erank(A ⊗ G) and erank A + erank G"


@_in_balls
def _erank_is_largest(pair: Pair) -> tuple[arb, arb, str]:
    larger = max((erank(p.s) for p in pair), key=lambda v: float(v.mid()))
    return erank(_products(pair)), larger, "erank(A ⊗ G) and the larger factor"


def _prove_kron_erank() -> str:
    """−Σ_ij p_i q_j log(p_i q_j), term by term, with Σ p = Σ q = 1."""
    p, q = sympy.symbols("p q", positive=True)
    P1, Q1, HP, HQ = sympy.symbols("P1 Q1 HP HQ")  # Σp, Σq, −Σ p log p, −Σ q log q
    term = sympy.expand(sympy.expand_log(-p * q * sympy.log(p * q)))
    assert sympy.simplify(term - (q * (-p * sympy.log(p)) + p * (-q * sympy.log(q)))) == 0
    assert (Q1 * HP + P1 * HQ).subs({P1: 1, Q1: 1}) == HP + HQ
    return "σ(A ⊗ G) = {α_i β_j}, so p_ij = p_i q_j and H(p ⊗ q) = H(p) Σq + H(q) Σp = H(p) + H(q), any sizes"


KRON_ERANK = Claim(
    id="spectral.kron-erank",
    title="Effective ranks of Kronecker factors multiply",
    source=_OURS,
    kind="ours",
    statement=r"\operatorname{erank}(A \otimes G) = \operatorname{erank} A \cdot \operatorname{erank} G "
    r"\text{ for non-zero } A, G,\; \operatorname{erank} = \exp\Big(-\sum p_i \log p_i\Big),\; p = \sigma/\textstyle\sum\sigma",
    quantifier="for all",
    assumptions=(),
    instances=_PAIRS,
    check=check_kron_erank,
    expected=Verdict.HOLDS,
    proof="The singular values of A ⊗ G are the products, so that p ⊗ q is a product distribution, and entropy is additive on "
    "those. The logarithm of the effective rank of an approximated block is therefore a sum over its two factors: it can be "
    "kept by the features alone while the signals collapse, and the other way round.",
    mutants=(
        Mutant("adds", "erank(A ⊗ G) = erank A + erank G", _with_witness(_erank_adds, list, _not_the_sum)),
        Mutant(
            "largest",
            "erank(A ⊗ G) = max(erank A, erank G)",
            _with_witness(_erank_is_largest, list, _beyond_each),
        ),
    ),
    certificates=(
        Certificate("entropy-adds", "the formula, any sizes", Strength.SYMBOLIC, Scope.ALL, _prove_kron_erank),
    ),
    depends_on=("spectral.kron-rank",),
)


def _block_diagonal(blocks: Sequence[Planted]) -> np.ndarray:
    size = sum(len(b.s) for b in blocks)
    whole = rational_array(np.zeros((size, size), dtype=int))
    start = 0
    for b in blocks:
        whole[start : start + len(b.s), start : start + len(b.s)] = b.X
        start += len(b.s)
    return whole


def check_blockdiag(blocks: Sequence[Planted]) -> Evidence:
    """erank^T = Π_l (T/T_l)^{T_l} erank(B_l)^{T_l} with T_l = tr|B_l|, T = Σ T_l; all rational."""
    everything = [v for b in blocks for v in b.s]
    T, parts = sum(everything), [sum(b.s) for b in blocks]
    chain = prod(
        (fmpq(T, k) ** k * erank_power(b.s, k) for k, b in zip(parts, blocks, strict=True) if k), start=fmpq(1)
    )
    same = has_singular_values(_block_diagonal(blocks), everything) and erank_power(everything, T) == chain
    return _evidence(same, None, None, f"singular values by block {[b.s for b in blocks]}")


@_in_balls
def _blocks_add(blocks: Sequence[Planted]) -> tuple[arb, arb, str]:
    parts = sum((erank(b.s) for b in blocks if any(b.s)), arb(0))
    return erank([v for b in blocks for v in b.s]), parts, "erank of the whole and the sum over blocks"


@_in_balls
def _blocks_mean(blocks: Sequence[Planted]) -> tuple[arb, arb, str]:
    parts = sum((erank(b.s) for b in blocks if any(b.s)), arb(0)) / len(blocks)
    return erank([v for b in blocks for v in b.s]), parts, "erank of the whole and the mean over blocks"


@_in_balls
def _no_mixing_entropy(blocks: Sequence[Planted]) -> tuple[arb, arb, str]:
    everything = [v for b in blocks for v in b.s]
    log = sum((arb(sum(b.s)) / sum(everything) * erank(b.s).log() for b in blocks if any(b.s)), arb(0))
    return erank(everything), log.exp(), "erank of the whole and the weighted geometric mean"


def _prove_blockdiag() -> str:
    """−π p log(π p) = −p π log π + π (−p log p), term by term, with Σ p = 1 in each block."""
    pi, p = sympy.symbols("pi_l p", positive=True)
    term = sympy.expand_log(-pi * p * sympy.log(pi * p))
    assert sympy.simplify(term - (p * (-pi * sympy.log(pi)) + pi * (-p * sympy.log(p)))) == 0
    return "summed over the block: −π log π + π H(p); summed over the blocks: H(π) + Σ π_l H(p_l), any number of blocks"


BLOCKDIAG_ERANK = Claim(
    id="spectral.blockdiag-erank",
    title="Effective rank of a block-diagonal matrix",
    source=_OURS,
    kind="ours",
    statement=r"\log \operatorname{erank}(\operatorname{diag}(B_1, B_2, \dots)) = H(\pi) + "
    r"\sum_\ell \pi_\ell \log \operatorname{erank} B_\ell,\quad \pi_\ell = \|B_\ell\|_* / \textstyle\sum_k \|B_k\|_* "
    r"\text{ (zero blocks omitted)}",
    quantifier="for all",
    assumptions=(),
    instances=st.lists(planted(size=2, largest=3), min_size=1, max_size=3),
    check=check_blockdiag,
    expected=Verdict.HOLDS,
    proof="The chain rule of entropy. The effective rank of a layer-wise approximation is neither the sum nor the mean of the "
    "layers' effective ranks (the mean is what the regulariser maximises): layers count by their share of the trace.",
    mutants=(
        Mutant(
            "sum", "it is the sum of the effective ranks of the blocks", _with_witness(_blocks_add, list, _not_the_sum)
        ),
        Mutant("mean", "it is their mean", _with_witness(_blocks_mean, list, _not_the_mean)),
        Mutant("no-mixing", "without H(π): the weighted geometric mean", _no_mixing_entropy),
    ),
    certificates=(
        Certificate("chain-rule", "the formula, any blocks", Strength.SYMBOLIC, Scope.ALL, _prove_blockdiag),
    ),
)

CLAIMS = (KRON_RANK, KRON_ERANK, BLOCKDIAG_ERANK)
