r"""Barriers, stability of the manifolds: Definition A.2 as printed is empty for both mechanisms, and what is true instead.

For an affine M with normal basis N and tangent basis T, H_NN = Nᵀ H N and H_NT = Nᵀ H T. Definition A.2 calls M stable if
vᵀ H v > 0 for all normal v ≠ 0, unstable if < 0, a saddle if both signs occur. Cloned units always have normal directions
along which the network does not change at all (what one copy sends more, another sends less), and frozen units have
H_NN = 0. All Hessians are exact, over Q.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import sympy
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from lop_theory.exact import exact_hessian
from lop_theory.frozen import frozen_manifold
from lop_theory.manifolds import AffineSubspace, from_matrix
from lop_theory.partition import UnitPartition, block_pairs
from lop_theory.stability import Stability, StabilityKind, classify_stability, normal_hessian_blocks
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.barriers_graphs import (
    block_networks,
    equitable_subspace,
    equitable_weights,
    network,
    partition_of,
)
from proofs_checks.claims.barriers_quotients import two_copies
from proofs_checks.claims.barriers_trajectories import exact_gradient_at
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array, kill_units, mlp_instances

BARRIERS = "2510.00304"
NEARBY = fmpq(1, 1 << 20)  # a step along M that changes no sign of a pre-activation


# -- manifolds -------------------------------------------------------------------------------------------------------


def manifold_of(instance: Instance) -> AffineSubspace:
    """M_C for a partition, M_F for frozen units, else the hyperplane through θ with the given normal."""
    extra = instance.extra
    if "partition" in extra:
        return equitable_subspace(instance.dag, extra["partition"])
    if "frozen" in extra:
        return frozen_manifold(instance.dag, rational_array(instance.theta), extra["frozen"])
    normal = rational_array(extra["normal"])
    level = sum((a * t for a, t in zip(normal, rational_array(instance.theta), strict=True)), fmpq(0))
    return AffineSubspace.from_equations(len(normal), [(dict(enumerate(normal)), level)])


class Curvature(NamedTuple):
    """Bases [P, c], [P, P − c] and the exact blocks of the Hessian."""

    normal: np.ndarray
    tangent: np.ndarray
    hessian: np.ndarray
    nn: np.ndarray
    nt: np.ndarray

    @property
    def kind(self) -> Stability:
        return classify_stability(self.nn)


def curvature(instance: Instance) -> Curvature:
    """The Hessian at θ and its blocks on the manifold of the instance."""
    manifold = manifold_of(instance)
    matrix = exact_hessian(instance.dag, instance.theta, instance.x, instance.y, instance.kind)
    nn, nt = normal_hessian_blocks(manifold, matrix)
    hessian = from_matrix(matrix)
    return Curvature(manifold.normal_basis(exact=True), manifold.tangent_basis(exact=True), hessian, nn, nt)


def outgoing_differences(instance: Instance) -> list[np.ndarray]:
    """For copies u, u' and a target block: 1 on the edges from u into it, −1 on those from u'. Vectors [P] over Q."""
    dag, partition = instance.dag, instance.extra["partition"]
    found = []
    for pair in block_pairs(dag, partition):
        for u, w in pairwise(partition.blocks[pair.source]):
            vector = rational_array(np.zeros(dag.num_params))
            for unit, sign in ((u, 1), (w, -1)):
                vector[dag.param[pair.edges[dag.source[pair.edges] == unit]]] = fmpq(sign)
            found.append(vector)
    return found


# -- instances -------------------------------------------------------------------------------------------------------


@st.composite
def cloned_complete(draw: DrawFn) -> Instance:
    """A block network on M_C whose joined blocks are completely joined."""
    instance = draw(block_networks())
    dag, partition = instance.dag, instance.extra["partition"]
    edges = {
        (u, v)
        for pair in block_pairs(dag, partition)
        for u, v in product(partition.blocks[pair.source], partition.blocks[pair.target])
    }
    ordered = tuple(sorted(edges, key=lambda e: (e[1], e[0])))
    complete = network(dag.num_inputs, dag.has_constant, dag.activations, ordered, dag.num_outputs)
    blocks = partition_of(complete, partition.blocks)
    theta = equitable_weights(draw, complete, blocks)
    return replace(instance, dag=complete, theta=theta, extra={"partition": blocks})


@st.composite
def _matched(draw: DrawFn) -> Instance:
    """input → {1, 2} = {3, 4} → output, the middle pair a perfect matching."""
    dag = network(1, False, ("square",) * 4 + ("identity",), ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)), 1)
    partition = partition_of(dag, ((1, 2), (3, 4)))
    x, y = integers_array(draw, (2,), 3)
    theta = equitable_weights(draw, dag, partition)
    return Instance(dag, theta, np.array([[x]]), np.array([[y]]), extra={"partition": partition})


@st.composite
def frozen_relu(draw: DrawFn) -> Instance:
    """A ReLU net in which one or two units of the first hidden layer are dead on the data."""
    instance = draw(mlp_instances(samples=(1, 4)))
    units = instance.dag.blocks[2].units.tolist()[: draw(st.integers(1, 2))]
    theta = kill_units(instance.dag, instance.theta, instance.x, units)
    return replace(instance, theta=theta, extra={"frozen": units})


@st.composite
def _clones_in_use(draw: DrawFn) -> Instance:
    """Two copies with weights and an input that are not zero."""
    instance = draw(two_copies())
    nonzero = [np.where(a == 0, 1, a) for a in (instance.theta, instance.x)]
    return replace(instance, theta=rational_array(nonzero[0]), x=nonzero[1])


def _silent_inputs(instance: Instance) -> Instance:
    """With incoming weights zero: for z² the cross block of H_NN vanishes, and H_NN is semidefinite."""
    return replace(instance, theta=np.concatenate([rational_array([0, 0]), instance.theta[2:]]))


@st.composite
def tangent_at_a_point(draw: DrawFn) -> Instance:
    """A net and a hyperplane through θ whose normal is orthogonal to ∇L(θ): tangent at θ, in general not beside it."""
    dag = mlp([1, 1, 1], "square", bias=False)
    theta, (x, y) = integers_array(draw, (2,), 3), integers_array(draw, (2,), 3)
    instance = Instance(dag, theta, np.array([[x]]), np.array([[y]]))
    slopes = exact_gradient_at(instance, rational_array(theta))
    normal = [slopes[1], -slopes[0]] if any(slopes) else [fmpq(1), fmpq(0)]
    return replace(instance, extra={"normal": normal})


# -- checks ----------------------------------------------------------------------------------------------------------


def _form(left: Iterable[Any], right: Iterable[Any]) -> dict[str, Any]:
    return quantity("bilinear_form", u=[number(a) for a in left], v=[number(a) for a in right])


def _normality(instance: Instance, vectors: np.ndarray) -> list[dict[str, Any]]:
    """θ is on M, as witness lines: every normal vector n has n·θ equal to its constant value on M."""
    theta = rational_array(instance.theta)
    rule: dict[str, Any] = {"steps": 0, "rate": "0", "rule": {"name": "sgd"}}
    return [
        assertion(quantity("form_after", coefficients=[number(a) for a in n], **rule), "==", (n * theta).sum())
        for n in vectors.T
    ]


def _document(instance: Instance, text: str, lines: list[dict[str, Any]], vectors: np.ndarray) -> Callable[[], Any]:
    return lambda: witness(text, {"net": network_document(instance)}, [*_normality(instance, vectors), *lines])


def _check_trichotomy(instance: Instance) -> Evidence:
    """Definition A.2: positive definite, negative definite, or both signs. Its witness lists the entries of H_NN."""
    parts = curvature(instance)
    kind = parts.kind
    decided = (StabilityKind.POSITIVE_DEFINITE, StabilityKind.NEGATIVE_DEFINITE, StabilityKind.SADDLE)
    if kind.kind in decided:
        return Evidence(Verdict.HOLDS, observed=str(kind.kind))
    text = f"H_NN is {kind.kind}: {kind.positive} positive, {kind.negative} negative, {kind.nullity} zero eigenvalues"
    columns = list(parts.normal.T)
    lines = [
        assertion(_form(columns[i], columns[j]), "==", parts.nn[i, j])
        for i in range(len(columns))
        for j in range(i + 1)
    ]
    return Evidence(Verdict.FAILS, str(kind.kind), note=text, witness=_document(instance, text, lines, parts.normal))


def _nonzero(
    instance: Instance, parts: Curvature, left: Iterable[np.ndarray], right: Iterable[np.ndarray], name: str
) -> Evidence | None:
    """A pair of vectors with uᵀ H v ≠ 0."""
    rows, columns = list(left), list(right)
    for u in rows:
        image = u @ parts.hessian
        for v in columns:
            value = (image * v).sum()
            if value != 0:
                text = f"{name} has an entry {value}"
                line = assertion(_form(u, v), "!=", 0)
                return Evidence(
                    Verdict.FAILS, value, note=text, witness=_document(instance, text, [line], parts.normal)
                )
    return None


def _check_repaired(instance: Instance) -> Evidence:
    """H_NT = 0; for M_C a zero block of H_NN, so that it is not definite; for M_F H_NN = 0."""
    parts = curvature(instance)
    broken = _nonzero(instance, parts, parts.normal.T, parts.tangent.T, "H_NT") if (parts.nt != 0).any() else None
    if broken is None and "partition" in instance.extra:
        flat = outgoing_differences(instance)
        broken = _nonzero(instance, parts, flat, flat, "the block of outgoing differences")
        kind = parts.kind.kind
        if broken is None and kind in (StabilityKind.POSITIVE_DEFINITE, StabilityKind.NEGATIVE_DEFINITE):
            return Evidence(Verdict.FAILS, str(kind), note=f"H_NN is {kind}")
    if broken is None and "frozen" in instance.extra:
        broken = _nonzero(instance, parts, parts.normal.T, parts.normal.T, "H_NN")
    return broken or Evidence(Verdict.HOLDS, observed=str(parts.kind.kind))


def _flat(side: str) -> Callable[[Instance], Evidence]:
    """Mutants: H_NN = 0, H_TT = 0."""

    def check(instance: Instance) -> Evidence:
        parts = curvature(instance)
        basis = parts.normal.T if side == "N" else parts.tangent.T
        return _nonzero(instance, parts, basis, basis, f"H_{side}{side}") or Evidence(Verdict.HOLDS)

    return check


def _is(*kinds: StabilityKind) -> Callable[[Instance], Evidence]:
    """Mutants: H_NN is of one of these kinds. Refuted by a normal v with vᵀ H v of a sign that they exclude, or zero."""

    def check(instance: Instance) -> Evidence:
        parts = curvature(instance)
        kind = parts.kind.kind
        if kind in kinds:
            return Evidence(Verdict.HOLDS)
        text = f"H_NN is {kind}"
        columns = list(parts.normal.T)
        lines = [
            assertion(_form(u, v), "==", parts.nn[i, j]) for i, u in enumerate(columns) for j, v in enumerate(columns)
        ]
        return Evidence(Verdict.FAILS, str(kind), note=text, witness=_document(instance, text, lines, parts.normal))

    return check


# -- assumptions -----------------------------------------------------------------------------------------------------


def _tangent_along(instance: Instance) -> bool:
    """Is ∇L tangent at θ and at points of M beside it, one in each direction of a basis of M and its opposite?"""
    manifold, theta = manifold_of(instance), rational_array(instance.theta)
    normal, tangent = manifold.normal_basis(exact=True), manifold.tangent_basis(exact=True)
    points = [theta, *(theta + s * NEARBY * t for t in tangent.T for s in (1, -1))]
    return all(not (normal.T @ exact_gradient_at(instance, p) != 0).any() for p in points)


def _complete(instance: Instance) -> bool:
    if "partition" not in instance.extra:
        return True
    partition = instance.extra["partition"]
    sizes = partition.sizes
    return all(len(p.edges) == sizes[p.source] * sizes[p.target] for p in block_pairs(instance.dag, partition))


TANGENT = Assumption("tangency along M", "∇L is tangent to M at θ and beside θ on M, not only at θ", _tangent_along)
COMPLETE = Assumption("complete pairs", "joined blocks of a cloned network are completely joined", _complete)


# -- symbolic proof --------------------------------------------------------------------------------------------------

_PROVED = (
    # text, inputs, units, edges, blocks
    ("1-{2}-1", 1, 3, ((0, 1), (0, 2), (1, 3), (2, 3)), ((1, 2),)),
    ("1-{3}-2", 1, 5, ((0, 1), (0, 2), (0, 3), *product((1, 2, 3), (4, 5))), ((1, 2, 3),)),
    ("1-{2}-{2}-1", 1, 5, ((0, 1), (0, 2), *product((1, 2), (3, 4)), (3, 5), (4, 5)), ((1, 2), (3, 4))),
    (
        "1-{2}-{3}-1 with a skip",
        1,
        6,
        ((0, 1), (0, 2), *product((1, 2), (3, 4, 5)), *((u, 6) for u in range(6) if u)),
        ((1, 2), (3, 4, 5)),
    ),
)


def _prove_flat() -> str:
    """f(θ + Σ t_k d_k) = f(θ) for θ ∈ RE ∩ CE and the outgoing differences d_k, with unknown activations."""
    for _, inputs, computed, edges, blocks in _PROVED:
        edges = tuple(sorted(edges, key=lambda e: (e[1], e[0])))
        outputs = computed + inputs - max(u for u, _ in edges) - 1
        dag = network(inputs, False, ("square",) * (computed - outputs) + ("identity",) * outputs, edges, outputs)
        partition: UnitPartition = partition_of(dag, blocks)
        instance = Instance(dag, np.zeros(dag.num_params), np.zeros((1, inputs)), np.zeros((1, outputs)))
        moves = outgoing_differences(replace(instance, extra={"partition": partition}))
        basis = equitable_subspace(dag, partition).tangent_basis(exact=True)
        coordinates, sizes = (sympy.symbols(f"{n}0:{k}") for n, k in (("a", basis.shape[1]), ("t", len(moves))))
        start = [sum(sympy.Rational(str(c)) * a for c, a in zip(row, coordinates, strict=True)) for row in basis]
        moved = [w + sum(int(d[p].p) * t for d, t in zip(moves, sizes, strict=True)) for p, w in enumerate(start)]
        before, after = (_outputs(dag, partition, theta) for theta in (start, moved))
        assert moves and all(sympy.expand(a - b) == 0 for a, b in zip(before, after, strict=True))
    return (
        f"for {'; '.join(row[0] for row in _PROVED)}: the outputs do not change along the span of the outgoing differences, "
        "from every θ in RE ∩ CE, with any activations; so these directions carry a zero block of H_NN"
    )


def _outputs(dag: Any, partition: UnitPartition, theta: list[Any]) -> list[Any]:
    h: dict[int, Any] = {u: sympy.Symbol(f"x{u}") for u in range(dag.first_computed)}
    for v in range(dag.first_computed, dag.num_units):
        z = sympy.expand(sum(theta[dag.param[e]] * h[int(dag.source[e])] for e in dag.incoming(v)))
        h[v] = z if v in dag.outputs else sympy.Function(f"f{partition.block_of[v]}")(z)
    return [h[int(v)] for v in dag.outputs]


# -- claims ----------------------------------------------------------------------------------------------------------

CLONED, FROZEN = cloned_complete(), frozen_relu()
SMALL_CLONED = st.one_of(two_copies(), CLONED)

AS_PRINTED = Claim(
    id="barriers.stability",
    title="Stable, unstable or saddle, as printed",
    source=Source(BARRIERS, "v1", "Definition A.2", "read as a classification of the manifolds of Theorem 2.1"),
    kind="definition",
    statement=r"Every manifold of cloned or frozen units is stable ($v^\top H v > 0$ for all normal $v \neq 0$), unstable "
    r"($< 0$) or a saddle (both signs occur).",
    quantifier="for all",
    assumptions=(TANGENT, COMPLETE),
    instances=st.one_of(FROZEN, _clones_in_use()),
    check=_check_trichotomy,
    expected=Verdict.FAILS,
    proof="For frozen units H_NN = 0: none of the three. For cloned units there are always normal directions of curvature "
    "zero, so stable and unstable never occur; where the cross block vanishes too, H_NN can be semidefinite or zero.",
    mutants=(
        Mutant(
            "frozen alone",
            "manifolds of frozen units are stable, unstable or saddles",
            _check_trichotomy,
            FROZEN,
        ),
        Mutant(
            "clones are stable",
            "a cloned manifold is stable wherever H_NN ≠ 0",
            _is(StabilityKind.POSITIVE_DEFINITE, StabilityKind.FLAT),
            SMALL_CLONED,
        ),
        Mutant(
            "clones are saddles",
            "a cloned manifold is a saddle wherever H_NN ≠ 0",
            _is(StabilityKind.SADDLE, StabilityKind.FLAT),
            two_copies().map(_silent_inputs),
        ),
    ),
)

REPAIRED = Claim(
    id="barriers.stability.repaired",
    title="The Hessian across an affine manifold",
    source=Source(BARRIERS, "v1", "Definition A.2, Remark A.7, repaired", "ours: six kinds, with the nullity"),
    kind="ours",
    statement=r"If $\nabla L$ is tangent to the affine manifold $M$ along $M$, then $N^\top H T = 0$ at every point of $M$. "
    r"On $M_C$ with complete pairs the outgoing differences of copies span a zero block of $N^\top H N$, which is therefore "
    r"never definite: the kinds are positive or negative semidefinite, saddle and flat. On $M_F$ of dead units "
    r"$N^\top H N = 0$.",
    quantifier="for all",
    assumptions=(TANGENT, COMPLETE),
    instances=st.one_of(SMALL_CLONED, FROZEN),
    check=_check_repaired,
    expected=Verdict.HOLDS,
    proof="Differentiate Nᵀ∇L(θ) = 0 along M. Copies have equal h, so what one sends more and another less into the whole "
    "target block changes no pre-activation, even along a combination of such moves through several layers: the loss is "
    "constant there. A dead unit stays dead nearby, so its incoming parameters do not enter the loss at all.",
    without={"tangency along M": tangent_at_a_point(), "complete pairs": _matched()},
    mutants=(
        Mutant("flat clones", "H_NN = 0 on M_C", _flat("N"), SMALL_CLONED),
        Mutant("flat inside", "H_TT = 0", _flat("T"), SMALL_CLONED),
        Mutant(
            "stable clones",
            "M_C is positive definite unless H_NN = 0",
            _is(StabilityKind.POSITIVE_DEFINITE, StabilityKind.FLAT),
            SMALL_CLONED,
        ),
    ),
    certificates=(
        Certificate(
            "flat directions",
            "the outputs are constant along outgoing differences, with unknown activations",
            Strength.SYMBOLIC,
            Scope.LIST,
            _prove_flat,
        ),
    ),
    depends_on=("barriers.thm2.1.cloned.repaired",),
    repairs="barriers.stability",
    cost=2,
)

CLAIMS: tuple[Claim, ...] = (AS_PRINTED, REPAIRED)
