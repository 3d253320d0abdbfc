"""Spectral Collapse, curvature (2): what the ranks of the Kronecker factors say about the rank of a block, and what not.

Ranks are over Q, of one layer at a time; a network with a fixed readout makes the block of a layer its whole Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.dag import Dag
from lop_theory.kronecker import LayerFactors, kfac_factors
from lop_theory.rank import exact_rank
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.jacobian_probes import rational_output
from proofs_checks.claims.kronecker import Rooted, rooted
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import integers_array, mlp_instances, widths

_EQ1 = Source(
    "2509.22335", "v1", "Eqs. 5-6 (poster Eq. 1)", "inference from feature rank, reconstructed from the poster"
)
_OURS = Source("2509.22335", "v1", "Eqs. 5-6 (poster Eq. 1)", "ours")


def _evidence(
    holds: bool, observed: Any, predicted: Any, note: str, document: Callable[[], dict[str, Any]] | None = None
) -> Evidence:
    verdict = Verdict.HOLDS if holds else Verdict.FAILS
    return Evidence(verdict, observed, predicted, None, note, None if holds else document)


# -- does a higher rank of the features raise the rank of the block? -------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Richer:
    """One trained ReLU layer with weights [h, I] and a fixed readout of ones, on plain and on richer inputs.

    The richer inputs differ in the first coordinate, which no weight reads: gates and signals are the same.
    """

    weights: np.ndarray
    plain: np.ndarray
    rich: np.ndarray

    def __repr__(self) -> str:
        return f"Richer(weights {self.weights.tolist()}, inputs {self.plain.tolist()} and {self.rich.tolist()})"

    def net(self, x: np.ndarray) -> Instance:
        """Targets f − 1: the error signals are then ∂f/∂z. (The residual part of the Hessian is zero anyway.)"""
        instance = Instance(_readout_of_ones(*self.weights.shape), self.weights.ravel(), x, np.zeros((len(x), 1)))
        return replace(instance, y=(rational_output(instance) - 1).astype(np.float64))

    @cached_property
    def layers(self) -> tuple[LayerFactors, LayerFactors]:
        found: list[LayerFactors] = []
        for x in (self.plain, self.rich):
            net = self.net(x)
            found += kfac_factors(net.dag, net.theta, net.x, "mse_sum")
        return found[0], found[1]

    @cached_property
    def ranks(self) -> tuple[list[int], ...]:
        """[plain, rich] ranks of the features A, the signals G and the block B."""
        return tuple(
            [exact_rank(rows) for rows in pair]
            for pair in zip(*[(layer.a, layer.g[:, 0], layer.rows) for layer in self.layers], strict=True)
        )


@lru_cache(maxsize=64)
def _readout_of_ones(units: int, inputs: int) -> Dag:
    """I inputs, h trained ReLU units without bias, one output that sums them with fixed weights."""
    hidden, last = inputs + np.arange(units), inputs + units
    source = [*np.tile(np.arange(inputs), units), *hidden]
    target = [*np.repeat(hidden, inputs), *[last] * units]
    param = [*range(units * inputs), *[-1] * units]
    fixed = {units * inputs + k: 1 for k in range(units)}
    return Dag(
        inputs,
        False,
        ("relu",) * units + ("identity",),
        np.array(source),
        np.array(target),
        np.array(param),
        np.array([last]),
        fixed,
    )


def check_richer(instance: Richer) -> Evidence:
    """Does the rank of the exact block rise with the rank of the features?"""
    features, signals, block = instance.ranks
    note = f"rank A {features[0]} → {features[1]}, rank G {signals[0]} → {signals[1]}, block {block[0]} → {block[1]}"
    return _evidence(
        block[1] > block[0],
        block,
        features,
        note,
        lambda: _richer_witness(instance, note, ("block", "rich"), "<=", ("block", "plain")),
    )


def _richer_witness(
    instance: Richer, note: str, left: tuple[str, str], op: str, right: tuple[str, str]
) -> dict[str, Any]:
    """Ranks of both blocks (Hessians of the trained layer) and of both feature matrices (linear regression)."""
    networks = {}
    for name, x in (("plain", instance.plain), ("rich", instance.rich)):
        networks[f"block_{name}"] = network_document(instance.net(x))
        networks[f"features_{name}"] = network_document(regression(x))

    def rank(what: str, name: str) -> dict[str, Any]:
        return quantity("hessian_rank", f"{what}_{name}")

    samples = range(len(instance.rich))
    hidden = [int(v) for v in instance.net(instance.rich).dag.hidden]
    inputs = range(instance.rich.shape[1])
    same_inputs = [
        assertion(
            quantity("value", f"block_{name}", unit=i, sample=n),
            "==",
            quantity("value", f"features_{name}", unit=i, sample=n),
        )
        for name in ("plain", "rich")
        for n in samples
        for i in inputs
    ]
    signals = [
        [quantity("adjoint", f"block_{name}", unit=v, sample=n) for name in ("plain", "rich")]
        for v in hidden
        for n in samples
    ]
    same_signals = [assertion(plain, "==", rich) for plain, rich in signals]
    claimed = assertion(rank(*left), op, rank(*right))
    richer = assertion(rank("features", "rich"), ">", rank("features", "plain"))
    return witness(note, networks, [claimed, richer, *same_inputs, *same_signals])


def regression(x: np.ndarray) -> Instance:
    """Linear regression without bias on the rows of x: its Hessian is xᵀx."""
    inputs = x.shape[1]
    dag = Dag(
        inputs, False, ("identity",), np.arange(inputs), np.full(inputs, inputs), np.arange(inputs), np.array([inputs])
    )
    return Instance(dag, np.zeros(inputs), x, np.zeros((len(x), 1)))


def _rises_as_much(instance: Richer) -> Evidence:
    """Is the rank of the block at least that of the features?"""
    features, _, block = instance.ranks
    note = f"rank A = {features[1]}, rank of the block {block[1]}"
    return _evidence(
        block[1] >= features[1],
        block,
        features,
        note,
        lambda: _richer_witness(instance, note, ("block", "rich"), "<", ("features", "rich")),
    )


def _product_rank(instance: Richer) -> Evidence:
    """Is the rank of the block that of A ⊗ G?"""
    features, signals, block = instance.ranks
    note = f"rank A · rank G = {features[1]} · {signals[1]}, rank of the block {block[1]}"
    return _evidence(block[1] == features[1] * signals[1], block, features, note)


@st.composite
def _richer(draw: DrawFn) -> Richer:
    """Plain inputs ±v, so that rank A = 1; the richer ones have a first coordinate that is not a multiple of the signs.

    Weights are even but for the last one, which is odd, as is the last input: no pre-activation is ever zero.
    """
    units, inputs, samples = draw(st.integers(1, 3)), draw(st.integers(2, 3)), draw(st.integers(2, 4))
    weights = 2 * integers_array(draw, (units, inputs), 2)
    weights[:, 0], weights[:, -1] = 0, weights[:, -1] + 1
    signs = 1 - 2 * (integers_array(draw, (samples,), 1) < 0).astype(int)
    v = integers_array(draw, (inputs,), 2)
    v[0], v[-1] = 0, 1
    rich = np.outer(signs, v)
    rich[0, 0] = 1
    return Richer(weights, np.outer(signs, v), rich)


RANK_DIRECTION = Claim(
    id="spectral.kfac.rank-direction",
    title="A higher feature rank raises the rank of the Gauss–Newton block (as printed)",
    source=_EQ1,
    kind="remark",
    statement=r"\operatorname{rank} A' > \operatorname{rank} A,\; \operatorname{rank} G' \ge \operatorname{rank} G "
    r"\;\Rightarrow\; \operatorname{rank} H_{GGN}^{(\ell)\prime} > \operatorname{rank} H_{GGN}^{(\ell)}",
    quantifier="for all",
    assumptions=(
        Assumption("richer-features", "rank A rises", lambda r: r.ranks[0][1] > r.ranks[0][0]),
        Assumption("signals-kept", "rank G does not fall", lambda r: r.ranks[1][1] >= r.ranks[1][0]),
    ),
    instances=_richer(),
    check=check_richer,
    expected=Verdict.FAILS,
    proof="rank(A ⊗ G) = rank A · rank G is the rank of the approximation. The block itself is a sum of N·C terms "
    "(a ⊗ g)(a ⊗ g)ᵀ, whose rank is the number of independent pairs: with two samples and one output it is at most two, "
    "whatever the features. A unit that is open on one sample only sees one input.",
    mutants=(
        Mutant("as-high", "the rank of the block is at least rank A", _rises_as_much),
        Mutant("product", "the rank of the block is rank A · rank G", _product_rank),
    ),
)


def check_rank_bound(instance: Rooted) -> Evidence:
    """rank B ≤ min(rank A · rank G, Σ_n rank G_n) for every layer; ``margin`` is the smallest slack."""
    slack = [layer.rank_bound - exact_rank(layer.rows) for layer in instance.layers]
    return Evidence(
        Verdict.HOLDS if min(slack) >= 0 else Verdict.FAILS, slack, ">= 0", min(slack), f"slack by layer {slack}"
    )


def _layer_ranks(instance: Rooted, wrong: Callable[[int, int, int, LayerFactors], bool], text: str) -> Evidence:
    for layer in instance.layers:
        A, G, B = (exact_rank(m) for m in (layer.A, layer.G, layer.rows))
        if wrong(A, G, B, layer):
            return _evidence(False, B, text, f"rank A = {A}, rank G = {G}, rank B = {B}: not {text}")
    return _evidence(True, None, text, text)


def _at_most_larger(instance: Rooted) -> Evidence:
    return _layer_ranks(instance, lambda A, G, B, layer: max(A, G) < B, "rank B <= max(rank A, rank G)")


def _equals_product(instance: Rooted) -> Evidence:
    return _layer_ranks(instance, lambda A, G, B, layer: A * G != B, "rank B = rank A · rank G")


def _at_most_samples(instance: Rooted) -> Evidence:
    return _layer_ranks(instance, lambda A, G, B, layer: len(layer.a) < B, "rank B <= N")


def _prove_rank_bound() -> str:
    """g ⊗ a = (P_G ⊗ P_A)(g ⊗ a) entry by entry; see ``prove_mixed_product``."""
    prove_mixed_product()
    g, a, k, b = sympy.symbols("g a k b")
    assert sympy.expand((g * a) * (k * b) - (g * k) * (a * b)) == 0  # (g gᵀ ⊗ a aᵀ)_(ij),(kl) = (g ⊗ a)_ij (g ⊗ a)_kl
    return (
        "every term is the square of g ⊗ a, of rank at most one, and P g = g, Q a = a for the projectors on the ranges of G "
        "and A give (P ⊗ Q)(g ⊗ a) = g ⊗ a: range B lies in range G ⊗ range A"
    )


def prove_mixed_product() -> str:
    """((A ⊗ B)(C ⊗ D))_(ir),(js) = Σ_kl a_ik b_rl c_kj d_ls: one term of the double sum, whatever the sizes."""
    a, b, c, d = sympy.symbols("a b c d")
    assert sympy.expand((a * b) * (c * d) - (a * c) * (b * d)) == 0
    return "(A ⊗ B)(C ⊗ D) = AC ⊗ BD, because the double sum of (a_ik c_kj)(b_rl d_ls) is the product of two sums"


RANK_BOUND = Claim(
    id="spectral.kfac.rank-direction.repaired",
    title="Ranks of the Kronecker factors bound the rank of the block from above",
    source=_OURS,
    kind="theorem",
    statement=r"\operatorname{rank} H_{GGN}^{(\ell)} \le \min\Big(\operatorname{rank} A \cdot \operatorname{rank} G,\; "
    r"\sum_{n: a_n \ne 0} \operatorname{rank} G_n\Big)",
    quantifier="for all",
    assumptions=(),
    instances=rooted(),
    check=check_rank_bound,
    expected=Verdict.HOLDS,
    proof="Each of its terms (g gᵀ) ⊗ (a aᵀ) has its range in range G ⊗ range A, and rank is subadditive. So raising the "
    "rank of the features raises an upper bound, and the other bound, the number of live samples and classes, stays.",
    attained=rooted(mlp_instances(widths((0, 1), 2, 2, 2), samples=(3, 4), bound=2)),
    mutants=(
        Mutant("larger", "rank B <= max(rank A, rank G)", _at_most_larger),
        Mutant("product", "rank B = rank A · rank G", _equals_product),
        Mutant("samples", "rank B <= N", _at_most_samples),
    ),
    certificates=(
        Certificate(
            "ranges", "range B ⊆ range G ⊗ range A, any sizes", Strength.SYMBOLIC, Scope.ALL, _prove_rank_bound
        ),
    ),
    depends_on=("spectral.kfac.eq1.repaired",),
    repairs="spectral.kfac.rank-direction",
)

CLAIMS = (RANK_DIRECTION, RANK_BOUND)
