r"""Barriers, base networks: the quotient of a cloned network, its training, and the dimensions of manifold and leaf.

*Base copy*: one unit per block, one edge per block pair. The printed weights divide the sum of a block by the number of
sources; the weights that work divide by the number of targets. With them a cloned network *is* its base network at other
learning rates. *Dimensions*: a trajectory stays in the leaf θ_0 + BC, one dimension per base edge; the manifold RE ∩ CE
around it is much larger.

The instances are block networks (see ``barriers_graphs``) whose outputs are singletons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.arithmetic import rational_array, to_fmpq
from lop_theory.cloned import cloned_leaf
from lop_theory.dag import Dag
from lop_theory.partition import BlockPair, UnitPartition, block_pairs
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.barriers_cloning import BIREGULAR, CE, RE, SHARED_ACTIVATION, equations_at_start
from proofs_checks.claims.barriers_graphs import (
    SMOOTH,
    block_networks,
    equitable_subspace,
    equitable_weights,
    network,
    partition_of,
)
from proofs_checks.claims.barriers_proofs import LUMPED as LUMPED_PROOF
from proofs_checks.claims.barriers_trajectories import (
    RATE,
    by_unit,
    exact_error_signals,
    exact_gradient_at,
    exact_pass,
    training,
    trajectory,
)
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array

BARRIERS = "2510.00304"
Divisor = Callable[[UnitPartition, BlockPair], int]


# -- instances -------------------------------------------------------------------------------------------------------


@st.composite
def cloned_networks(
    draw: DrawFn,
    *,
    rows: bool = True,
    columns: bool = True,
    mixed: bool = False,
    irregular: bool = False,
) -> Instance:
    """A block network with singleton outputs, trained with or without momentum; keywords as in :func:`block_networks`.

    Splitting a block of outputs would make a matching into it irregular, so the edges into outputs are completed.
    """
    instance = draw(block_networks(mixed=mixed, irregular=irregular))
    dag, outputs = instance.dag, set(instance.dag.outputs.tolist())
    blocks = tuple(b for b in instance.extra["partition"].blocks if not outputs & set(b))
    if not irregular:
        edges = set(zip(dag.source.tolist(), dag.target.tolist(), strict=True))
        edges |= {(w, v) for u, v in edges if v in outputs for block in blocks if u in block for w in block}
        ordered = tuple(sorted(edges, key=lambda e: (e[1], e[0])))
        dag = network(dag.num_inputs, dag.has_constant, dag.activations, ordered, len(outputs))
    partition = partition_of(dag, blocks)
    theta = equitable_weights(draw, dag, partition, rows, columns)
    momentum = draw(st.sampled_from((fmpq(0), fmpq(1, 2))))
    return replace(instance, dag=dag, theta=theta, extra={"partition": partition, "steps": 2, "momentum": momentum})


@st.composite
def _paired_outputs(draw: DrawFn) -> Instance:
    """Two hidden copies and two output copies with equal targets, one sample: C1 – C5, but the outputs are one block."""
    dag = network(1, False, ("square",) * 2 + ("identity",) * 2, ((0, 1), (0, 2), *product((1, 2), (3, 4))), 2)
    partition = partition_of(dag, ((1, 2), (3, 4)))
    theta = equitable_weights(draw, dag, partition)
    x, y = (np.array([[float(draw(st.integers(0, 3)))]]) for _ in "xy")
    return Instance(dag, theta, x, np.repeat(y, 2, axis=1), extra={"partition": partition, "steps": 2})


@st.composite
def two_copies(draw: DrawFn) -> Instance:
    """input → two copies → output with block-constant weights and one sample: the smallest clone."""
    name = draw(st.sampled_from(SMOOTH))
    dag = network(1, False, (name, name, "identity"), ((0, 1), (0, 2), (1, 3), (2, 3)), 1)
    first, second, x, y = integers_array(draw, (4,), 3)
    theta = rational_array([first, first, second, second])
    extra = {"partition": partition_of(dag, ((1, 2),)), "steps": 1}
    return Instance(dag, theta, np.array([[x]]), np.array([[y]]), extra=extra)


# -- base networks ---------------------------------------------------------------------------------------------------


def targets(partition: UnitPartition, pair: BlockPair) -> int:
    """The divisor of the base weights that works."""
    return partition.sizes[pair.target]


def sources(partition: UnitPartition, pair: BlockPair) -> int:
    """The divisor of the base weights as printed."""
    return partition.sizes[pair.source]


def base_instance(instance: Instance, divisor: Divisor) -> Instance:
    """One unit per block, the weight of a pair the sum of its weights over ``divisor``; data of the blocks' first units.

    Like ``partition.quotient``, but defined without C2 and C3, so that their absence can be examined.
    """
    dag, partition = instance.dag, instance.extra["partition"]
    pairs, heads = block_pairs(dag, partition), [b[0] for b in partition.blocks]
    blocks = partition.block_of
    base = Dag(
        sum(u < dag.num_inputs for u in heads),
        dag.has_constant,
        tuple(dag.activation(u) for u in heads if u >= dag.first_computed),
        np.array([p.source for p in pairs]),
        np.array([p.target for p in pairs]),
        np.arange(len(pairs)),
        np.array(list(dict.fromkeys(blocks[dag.outputs].tolist()))),
    )
    theta = rational_array(instance.theta)
    weights = np.array([theta[dag.param[p.edges]].sum() / divisor(partition, p) for p in pairs], dtype=object)
    inputs = [u for u in heads if u < dag.num_inputs]
    columns = [int(np.flatnonzero(dag.outputs == u)[0]) for u in heads if u in dag.outputs]
    return Instance(base, weights, instance.x[:, inputs], instance.y[:, columns], instance.kind)


def lumped_factors(instance: Instance) -> np.ndarray:
    """|E_ij| / |S_j|² per base edge [base P], over Q: |S_i|/|S_j| for complete pairs."""
    partition = instance.extra["partition"]
    return np.array(
        [fmpq(len(p.edges), partition.sizes[p.target] ** 2) for p in block_pairs(instance.dag, partition)], dtype=object
    )


def base_trajectory(instance: Instance, base: Instance, factors: np.ndarray) -> list[np.ndarray]:
    """[θ̃_0, …, θ̃_steps]: the training of ``instance`` on its base network with rate · factors."""
    extra = instance.extra
    rate, momentum, decay = (
        to_fmpq(extra.get(k, d)) for k, d in (("rate", RATE), ("momentum", 0), ("weight_decay", 0))
    )
    path, velocity = [base.theta], rational_array(np.zeros(len(base.theta)))
    for _ in range(extra["steps"]):
        velocity = momentum * velocity + exact_gradient_at(base, path[-1]) + decay * path[-1]
        path.append(path[-1] - rate * factors * velocity)
    return path


# -- what can fail ---------------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    """A difference between clone and base: text, witness lines, and further base networks that the lines speak of."""

    text: str
    lines: list[dict[str, Any]]
    networks: dict[str, Instance]


def unequal_values(
    instance: Instance, base: Instance, only: Callable[[Instance, int], bool] | None = None
) -> Gap | None:
    """A unit (of those selected by ``only``) with h(v) ≠ h̃(block of v)."""
    full, small = (by_unit(i.dag, exact_pass(i).h) for i in (instance, base))
    for v, values in sorted(full.items()):
        j = int(instance.extra["partition"].block_of[v])
        if only is not None and not only(instance, v):
            continue
        for n, value in enumerate(values):
            if value != small[j][n]:
                line = assertion(quantity("value", unit=v, sample=n), "!=", quantity("value", "base", unit=j, sample=n))
                return Gap(f"unit {v} has h = {value}, its base unit {j} has {small[j][n]}", [line], {})
    return None


def unequal_signals(instance: Instance, base: Instance, shared: bool) -> Gap | None:
    """A unit with δ(v) ≠ δ̃ / |S_v| (``shared``) or δ(v) ≠ δ̃ (not)."""
    full, small = (exact_error_signals(i, exact_pass(i)) for i in (instance, base))
    partition = instance.extra["partition"]
    for v, signals in sorted(full.items()):
        j = int(partition.block_of[v])
        size = partition.sizes[j] if shared else 1
        for n, signal in enumerate(signals):
            if size * signal != small[j][n]:
                left = {"product": [str(size), quantity("adjoint", unit=v, sample=n)]}
                line = assertion(left, "!=", quantity("adjoint", "base", unit=j, sample=n))
                return Gap(f"{size}·δ of unit {v} is {size * signal}, δ of its base unit is {small[j][n]}", [line], {})
    return None


def unequal_weights(instance: Instance, base: Instance, factors: np.ndarray) -> Gap | None:
    """A step after which an incoming sum of the clone is not the weight of the base network."""
    path, base_path = trajectory(instance), base_trajectory(instance, base, factors)
    dag, partition = instance.dag, instance.extra["partition"]
    for k, (theta, weights) in enumerate(zip(path, base_path, strict=True)):
        for e, pair in enumerate(block_pairs(dag, partition)):
            for v in partition.blocks[pair.target]:
                params = dag.param[pair.edges[dag.target[pair.edges] == v]]
                total = theta[params].sum() if len(params) else fmpq(0)
                if total == weights[e]:
                    continue
                form = [str(int(p in params)) for p in range(len(theta))]
                left = quantity("form_after", coefficients=form, **training(instance, k))
                lines, networks = _replay_base(instance, base, base_path[: k + 1], factors)
                lines.append(assertion(left, "!=", _weight(k, e)))
                text = f"after {k} steps the incoming sum of unit {v} is {total}, the base weight is {weights[e]}"
                return Gap(text, lines, networks)
    return None


def _name(k: int) -> str:
    return f"base{k}" if k else "base"


def _weight(k: int, index: int) -> dict[str, Any]:
    """Weight ``index`` of the base network after k steps, as an expression."""
    return quantity("param_after", _name(k), index=index, steps=0, rate="0", rule={"name": "sgd"})


def _replay_base(
    instance: Instance, base: Instance, path: list[np.ndarray], factors: np.ndarray
) -> tuple[list[dict[str, Any]], dict[str, Instance]]:
    """The base trajectory for the checker, which knows one rate per step only: a network per step, and the lines

    θ̃_{k+1} = θ̃_k − rate · factor · (∂L/∂θ̃ + λ θ̃_k) + μ (θ̃_k − θ̃_{k−1}).
    """
    extra, lines = instance.extra, []
    rate, momentum, decay = (
        to_fmpq(extra.get(k, d)) for k, d in (("rate", RATE), ("momentum", 0), ("weight_decay", 0))
    )
    for k, e in product(range(len(path) - 1), range(len(factors))):
        r = rate * factors[e]
        terms: list[dict[str, Any]] = [
            {"product": [number(1 - r * decay + (momentum if k else 0)), _weight(k, e)]},
            {"product": [number(-r), quantity("gradient", _name(k), index=e)]},
        ]
        terms += [{"product": [number(-momentum), _weight(k - 1, e)]}] if k and momentum != 0 else []
        lines.append(assertion(_weight(k + 1, e), "==", {"sum": terms}))
    return lines, {_name(k): replace(base, theta=theta) for k, theta in enumerate(path)}


def _checker(divisor: Divisor, *parts: Callable[[Instance, Instance], Gap | None]) -> Callable[[Instance], Evidence]:
    """A check that compares the clone with its base network."""

    def check(instance: Instance) -> Evidence:
        base = base_instance(instance, divisor)
        gap = next((g for part in parts if (g := part(instance, base)) is not None), None)
        if gap is None:
            return Evidence(Verdict.HOLDS)

        def document() -> dict[str, Any]:
            networks = {"net": network_document(instance), "base": network_document(base)}
            networks |= {name: network_document(net) for name, net in gap.networks.items()}
            return witness(gap.text, networks, [*equations_at_start(instance), *gap.lines])

        return Evidence(Verdict.FAILS, note=gap.text, witness=document)

    return check


def _equal_signals(instance: Instance, base: Instance) -> Gap | None:
    return unequal_signals(instance, base, shared=False)


def _shared_signals(instance: Instance, base: Instance) -> Gap | None:
    return unequal_signals(instance, base, shared=True)


def _lumped(instance: Instance, base: Instance) -> Gap | None:
    return unequal_weights(instance, base, lumped_factors(instance))


def _one_rate(instance: Instance, base: Instance) -> Gap | None:
    return unequal_weights(instance, base, np.full(len(base.theta), fmpq(1), dtype=object))


def _outputs_only(instance: Instance, base: Instance) -> Gap | None:
    return unequal_values(instance, base, lambda i, v: v in i.dag.outputs)


def _first_block_only(instance: Instance, base: Instance) -> Gap | None:
    return unequal_values(instance, base, lambda i, v: v == i.dag.first_computed)


def _with_decay(instance: Instance) -> Instance:
    return replace(instance, extra={**instance.extra, "weight_decay": fmpq(1, 2)})


# -- base copy -------------------------------------------------------------------------------------------------------

CLONED = cloned_networks()
SMALL: SearchStrategy[Instance] = st.one_of(two_copies(), CLONED)
SINGLE_OUTPUTS = Assumption(
    "singleton outputs",
    "every output is a block of its own",
    lambda i: all(len(b) == 1 for b in i.extra["partition"].blocks if b[0] in i.dag.outputs),
)

BASE_AS_PRINTED = Claim(
    id="barriers.base-copy",
    title="The base network, as printed",
    source=Source(BARRIERS, "v1", "Remark A.3 (v2: A.2)"),
    kind="remark",
    statement=r"Let the base network have one unit $\tilde v$ per block and weights "
    r"$\tilde w_{ij} = \frac{1}{|S_i|}\sum_{u\in S_i, v\in S_j} w_{uv}$. If $\theta$ is row and column equitable, then "
    r"$h(v) = h(\tilde v)$ and $\delta(v) = \delta(\tilde v)$.",
    quantifier="for all",
    assumptions=(RE, CE, SHARED_ACTIVATION, BIREGULAR, SINGLE_OUTPUTS),
    instances=SMALL,
    check=_checker(sources, unequal_values, _equal_signals),
    expected=Verdict.FAILS,
    proof="The pre-activation of v adds up the incoming weights of v, which is the block sum divided by the number of "
    "*targets*. One input and two clones: the printed weight is 2w. And the clones of a unit share its error signal: each "
    "has 1/|S_v| of it.",
    mutants=(
        Mutant(
            "same function", "with the printed weights at least the outputs agree", _checker(sources, _outputs_only)
        ),
        Mutant(
            "first block",
            "with the printed weights at least the first unit agrees",
            _checker(sources, _first_block_only),
        ),
        Mutant("equal signals", "with the corrected weights δ(v) = δ(ṽ)", _checker(targets, _equal_signals)),
    ),
)

LUMPED = Claim(
    id="barriers.lumped-dynamics",
    title="A clone is its base network at other learning rates",
    source=Source(BARRIERS, "v1", "Remark A.3, repaired", "ours"),
    kind="ours",
    statement=r"Let $\tilde w_{ij}$ be the common column sum $\frac{1}{|S_j|}\sum_{u\in S_i, v\in S_j} w_{uv}$. Under C1 – C5 "
    r"with singleton outputs $h(v) = h(\tilde v)$ and $\delta(v) = \delta(\tilde v)/|S_v|$, and $k$ steps of gradient descent "
    r"with rate $\eta$, with or without momentum, are $k$ steps on the base network with rate $\eta\,|E_{ij}|/|S_j|^2$ for "
    r"the edge $ij$: $\eta\,|S_i|/|S_j|$ for complete pairs.",
    quantifier="for all",
    assumptions=(RE, CE, SHARED_ACTIVATION, BIREGULAR, SINGLE_OUTPUTS),
    instances=CLONED,
    check=_checker(targets, unequal_values, _shared_signals, _lumped),
    expected=Verdict.HOLDS,
    proof="z_v = Σ_i (column sum) h̃_i. Backward Σ_v w_uv δ_v = Σ_j (row sum) δ̃_j/|S_j| = Σ_j w̃_ij δ̃_j / |S_i|, because "
    "|S_i| · row sum = |S_j| · column sum. A step moves the block sum by −η |E_ij| (δ̃_j/|S_j|) h̃_i, so w̃_ij by "
    "−η |E_ij|/|S_j|² · ∂L/∂w̃_ij, and θ stays equitable. Momentum is linear in past gradients.",
    without={
        "RE": cloned_networks(rows=False),
        "CE": cloned_networks(columns=False),
        "shared activation": cloned_networks(mixed=True),
        "biregular": cloned_networks(irregular=True),
        "singleton outputs": _paired_outputs(),
    },
    mutants=(
        Mutant(
            "one rate", "the base network is trained at the rate η of the clone", _checker(targets, _one_rate), SMALL
        ),
        Mutant(
            "printed weights",
            "the same with the printed base weights",
            _checker(sources, unequal_values, _lumped),
            SMALL,
        ),
        Mutant("equal signals", "δ(v) = δ(ṽ)", _checker(targets, _equal_signals), SMALL),
        Mutant(
            "weight decay",
            "the same rates reproduce training with coupled weight decay (which would need one rate for the decay)",
            _checker(targets, _lumped),
            two_copies().map(_with_decay),
        ),
    ),
    certificates=(LUMPED_PROOF,),
    depends_on=("barriers.thm2.1.cloned.repaired",),
    repairs="barriers.base-copy",
    cost=2,
)


# -- dimensions ------------------------------------------------------------------------------------------------------


def base_edges(instance: Instance) -> int:
    """The number of pairs of blocks that an edge joins, counted on the edges."""
    dag, block = instance.dag, instance.extra["partition"].block_of
    return len({(int(block[u]), int(block[v])) for u, v in zip(dag.source, dag.target, strict=True)})


def pair_dimension(edges: list[tuple[Any, Any]], rows: int, columns: int) -> int:
    """|E| − m − n + c + 1 for a biregular edge set with c connected components; (m−1)(n−1) + 1 if it is complete."""
    graph = nx.Graph([(("u", u), ("v", v)) for u, v in edges])
    return len(edges) - rows - columns + int(nx.number_connected_components(graph)) + 1


def manifold_dimension(instance: Instance) -> int:
    """dim (RE ∩ CE) by :func:`pair_dimension`, summed over the block pairs."""
    dag, partition = instance.dag, instance.extra["partition"]
    return sum(
        pair_dimension(
            list(zip(dag.source[p.edges].tolist(), dag.target[p.edges].tolist(), strict=True)),
            partition.sizes[p.source],
            partition.sizes[p.target],
        )
        for p in block_pairs(dag, partition)
    )


def _exact_dimension(instance: Instance) -> int:
    """P − rank of the equations, over Q."""
    return equitable_subspace(instance.dag, instance.extra["partition"]).dim


def _compare(
    observed: Callable[[Instance], int], predicted: Callable[[Instance], Any]
) -> Callable[[Instance], Evidence]:
    """Equality of two dimensions. The checker of witnesses has no dimensions: see :func:`_off_leaf` for one that it has."""

    def check(instance: Instance) -> Evidence:
        seen, said = observed(instance), predicted(instance)
        verdict = Verdict.HOLDS if seen == said else Verdict.FAILS
        return Evidence(verdict, seen, said, said - seen, f"dimension {seen}, predicted {said}")

    return check


def _leaf_dimension(instance: Instance) -> int:
    return cloned_leaf(instance.dag, rational_array(instance.theta), instance.extra["partition"]).dim


def _off_leaf(instance: Instance) -> Evidence:
    """Mutant: dim (RE ∩ CE) = number of base edges = dim BC. A point of RE ∩ CE that is not block constant refutes it."""
    theta, params = rational_array(instance.theta), instance.dag.param
    pairs = (
        q for p in block_pairs(instance.dag, instance.extra["partition"]) for q in pairwise(params[p.edges].tolist())
    )
    unequal = next(((i, j) for i, j in pairs if theta[i] != theta[j]), None)
    if unequal is None:
        return Evidence(Verdict.HOLDS)

    def document() -> dict[str, Any]:
        text = "θ satisfies RE and CE and is not in BC, whose dimension is the number of base edges: RE ∩ CE is larger"
        left, right = (quantity("param_after", index=k, **training(instance, 0)) for k in unequal)
        lines = [*equations_at_start(instance), assertion(left, "!=", right)]
        return witness(text, {"net": network_document(instance)}, lines)

    return replace(_compare(_exact_dimension, base_edges)(instance), witness=document)


def _largest_block(instance: Instance) -> int:
    return int(max(instance.extra["partition"].sizes))


def _complete_formula(instance: Instance) -> int:
    """(m − 1)(n − 1) + 1 per pair, whatever its edges."""
    partition = instance.extra["partition"]
    return sum(
        (partition.sizes[p.source] - 1) * (partition.sizes[p.target] - 1) + 1
        for p in block_pairs(instance.dag, partition)
    )


_SIZES = tuple(product(range(1, 7), repeat=2))


def _complete_pair(m: int, n: int) -> Instance:
    """m units, fed by one input, joined completely to n units."""
    edges = [(0, u) for u in range(1, m + 1)] + [(u, v) for v in range(m + 1, m + n + 1) for u in range(1, m + 1)]
    dag = network(1, False, ("square",) * m + ("identity",) * n, tuple(edges), n)
    blocks = (tuple(range(1, m + 1)), tuple(range(m + 1, m + n + 1)))
    extra = {"partition": partition_of(dag, blocks)}
    return Instance(dag, np.zeros(dag.num_params), np.zeros((1, 1)), np.zeros((1, n)), extra=extra)


def _prove_leaf() -> str:
    for m, n in _SIZES:
        assert _leaf_dimension(_complete_pair(m, n)) == base_edges(_complete_pair(m, n)) == 2
    return (
        "the equations of a leaf have rank P − 2 over Q for complete pairs of m × n units after one input, 1 ≤ m, n ≤ 6"
    )


def _prove_manifold() -> str:
    """The rank of the equations, and an explicit basis: 1 and the (m−1)(n−1) elementary exchanges at the corner (0, 0)."""
    for m, n in _SIZES:
        assert _exact_dimension(_complete_pair(m, n)) - 1 == (m - 1) * (n - 1) + 1
        basis = [np.ones((m, n), dtype=int)]
        for i, j in product(range(1, m), range(1, n)):
            exchange = np.zeros((m, n), dtype=int)
            exchange[0, 0] = exchange[i, j] = 1
            exchange[0, j] = exchange[i, 0] = -1
            assert not exchange.sum(axis=0).any() and not exchange.sum(axis=1).any()
            basis.append(exchange)
        # after 1 the exchanges are independent: exchange (i, j) is the only one with a non-zero entry at (i, j)
        assert len(basis) == (m - 1) * (n - 1) + 1
    return (
        "for complete m × n pairs, 1 ≤ m, n ≤ 6: rank over Q of the equations, and a basis of that many exchanges and 1"
    )


DIMENSION = Claim(
    id="barriers.dimension",
    title="The dimension of a leaf",
    source=Source(
        BARRIERS, "v1", "Remark A.2 (v2: A.1)", "the number of blocks *of the weight matrix*, read as block pairs"
    ),
    kind="remark",
    statement=r"The leaf $\theta + BC$ in which a cloned network is trained has one dimension for every edge of the base "
    r"network, that is, for every ordered pair of blocks joined by an edge.",
    quantifier="for all",
    assumptions=(),
    instances=st.one_of(block_networks(), block_networks(irregular=True)),
    check=_compare(_leaf_dimension, base_edges),
    expected=Verdict.HOLDS,
    proof="The 0/1 vectors of the edge sets of the block pairs span BC, and have disjoint supports. No condition on the "
    "edges or the weights is used.",
    mutants=(
        Mutant(
            "one in n²",
            "with blocks of size n the dimension is P/n² (inputs, outputs and biases are not cloned, so it is larger)",
            _compare(_leaf_dimension, lambda i: fmpq(i.dag.num_params, _largest_block(i) ** 2)),
        ),
        Mutant(
            "number of blocks",
            "the dimension of a leaf is the number of blocks of units",
            _compare(_leaf_dimension, lambda i: len(i.extra["partition"].blocks)),
        ),
        Mutant("manifold", "the leaf is all of RE ∩ CE", _compare(_leaf_dimension, _exact_dimension), block_networks()),
    ),
    certificates=(
        Certificate(
            "ranks", "exact rank of the equations, by size", Strength.EXACT_CERTIFICATE, Scope.LIST, _prove_leaf
        ),
    ),
)

MANIFOLD_DIMENSION = Claim(
    id="barriers.dimension.manifold",
    title="The dimension of the cloned manifold",
    source=Source(BARRIERS, "v1", "Remark A.2, for the manifold itself", "ours"),
    kind="ours",
    statement=r"$\dim(RE \cap CE) = \sum_{ij} \left(|E_{ij}| - |S_i| - |S_j| + c_{ij} + 1\right)$ over the joined block pairs, "
    r"$c_{ij}$ the number of connected components of the edge set: $(m-1)(n-1) + 1$ for a complete $m \times n$ pair.",
    quantifier="for all",
    assumptions=(BIREGULAR,),
    instances=block_networks(),
    check=_compare(_exact_dimension, manifold_dimension),
    expected=Verdict.HOLDS,
    proof="The matrices on E with zero row and column sums are the cycle space of a bipartite graph, of dimension "
    "|E| − m − n + c. A matrix with equal row sums a and equal column sums b has m a = n b, so it is such a matrix plus a "
    "multiple of the 0/1 matrix of E, whose sums are equal because E is biregular, and not zero.",
    without={"biregular": block_networks(irregular=True)},
    mutants=(
        Mutant("base edges", "the dimension is the number of base edges", _off_leaf),
        Mutant(
            "every pair complete",
            "(m−1)(n−1) + 1 also for pairs that are not complete",
            _compare(_exact_dimension, _complete_formula),
        ),
        Mutant(
            "without constants",
            "the block-constant direction does not count",
            _compare(_exact_dimension, lambda i: manifold_dimension(i) - base_edges(i)),
        ),
    ),
    certificates=(
        Certificate(
            "ranks", "exact rank and a basis, by size", Strength.EXACT_CERTIFICATE, Scope.LIST, _prove_manifold
        ),
    ),
    depends_on=("barriers.dimension",),
)

CLAIMS: tuple[Claim, ...] = (BASE_AS_PRINTED, LUMPED, DIMENSION, MANIFOLD_DIMENSION)
