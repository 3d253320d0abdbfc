r"""Strategies: networks whose units are partitioned into blocks, with weights that are row or column equitable.

A *block network* has one or two hidden blocks between inputs and outputs, with optional skips and biases. As drawn by
default it satisfies C1 – C5 of the repaired cloning theorem; each keyword drops one condition and keeps the others:
``irregular`` removes edges between blocks, ``inner`` adds edges inside a block, ``mixed`` gives a block two activations,
``unequal_inputs`` and ``unequal_outputs`` put different data on one block, ``rows`` or ``columns`` = False drops RE or CE.
A *tangled network* has arbitrary edges and blocks: they may overlap in the order of the units and in cycles.

Weights are integer combinations of a rational basis of {θ : RE, CE}, so the equations hold exactly and every solution is
reached. Everything shrinks towards few units, complete pairs, zero weights and one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import random_dag
from lop_theory.arithmetic import rational_array
from lop_theory.cloned import clone, redistribute
from lop_theory.dag import Dag
from lop_theory.manifolds import AffineSubspace, Equation
from lop_theory.partition import UnitPartition, block_pairs
from proofs_checks.instances import Instance
from proofs_checks.strategies import integers_array

SMOOTH = ("quadratic", "square", "cube")
Edge = tuple[int, int]
Blocks = tuple[tuple[int, ...], ...]


# -- choices ----------------------------------------------------------------------------------------------------------


def _integers(draw: DrawFn, count: int, bound: int, room: int = 32) -> np.ndarray:
    """``count`` integers from a draw of ``room`` bytes or more: a smaller network then reads the same bytes when shrinking."""
    return integers_array(draw, (max(room, count),), bound)[:count]


# -- networks --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def network(inputs: int, constant: bool, activations: tuple[str, ...], edges: tuple[Edge, ...], outputs: int) -> Dag:
    """The network with these edges; parameter k sits on the k-th edge and the last ``outputs`` units are the outputs."""
    source, target = (np.array(side) for side in zip(*edges, strict=True))
    units = inputs + constant + len(activations)
    return Dag(inputs, constant, activations, source, target, np.arange(len(edges)), np.arange(units - outputs, units))


@lru_cache(maxsize=4096)
def partition_of(dag: Dag, blocks: Blocks) -> UnitPartition:
    """The partition with these blocks and singletons."""
    return UnitPartition.of(dag, blocks)


@lru_cache(maxsize=4096)
def equitable_subspace(dag: Dag, partition: UnitPartition, rows: bool = True, columns: bool = True) -> AffineSubspace:
    """{θ : RE (if ``rows``), CE (if ``columns``)}; a unit without an edge in a pair has the sum 0.

    >>> net = network(1, False, ("square", "square", "identity"), ((0, 1), (0, 2), (1, 3), (2, 3)), 1)
    >>> blocks = partition_of(net, ((1, 2),))
    >>> [equitable_subspace(net, blocks, r, c).dim for r, c in ((True, True), (True, False), (False, False))]
    [2, 3, 4]
    """
    equations: list[Equation] = []
    for pair in block_pairs(dag, partition):
        for ends, block, wanted in ((dag.source, pair.source, rows), (dag.target, pair.target, columns)):
            sums = [dag.param[pair.edges[ends[pair.edges] == u]].tolist() for u in partition.blocks[block]]
            if wanted:
                head = dict.fromkeys(sums[0], 1)
                equations += [({**head, **dict.fromkeys(other, -1)}, 0) for other in sums[1:]]
    return AffineSubspace.from_equations(dag.num_params, equations)


@lru_cache(maxsize=4096)
def _basis(dag: Dag, partition: UnitPartition, rows: bool, columns: bool) -> np.ndarray:
    return equitable_subspace(dag, partition, rows, columns).tangent_basis(exact=True)


def equitable_weights(
    draw: DrawFn, dag: Dag, partition: UnitPartition, rows: bool = True, columns: bool = True
) -> np.ndarray:
    """θ [P] over Q with RE and/or CE, from the strategy's choices."""
    basis = _basis(dag, partition, rows, columns)
    return basis @ rational_array(_integers(draw, basis.shape[1], 3)) if basis.shape[1] else basis.sum(axis=1)


# -- block networks --------------------------------------------------------------------------------------------------


def _connect(flags: int, blocks: Sequence[Sequence[int]], computed: int, constant: int | None) -> list[Edge]:
    """A chain through the blocks; bits of ``flags`` add skips and biases and thin pairs of one size to perfect matchings."""
    edges: list[Edge] = []
    hidden_blocks = [k for k, block in enumerate(blocks) if block[0] >= computed]
    for j in hidden_blocks:
        for i in range(j):
            place = 2 * (6 * j + i)
            chained = blocks[i][0] != constant and (i == j - 1 or j == hidden_blocks[0])
            if not chained and not flags >> place & 1:
                continue
            if len(blocks[i]) == len(blocks[j]) > 1 and flags >> (place + 1) & 1:
                edges += list(zip(blocks[i], blocks[j], strict=True))
            else:
                edges += [(u, v) for v in blocks[j] for u in blocks[i]]
    return edges


def _thin(draw: DrawFn, edges: list[Edge], computed: int, last: int) -> list[Edge]:
    """Remove some edges, but leave every computed unit an incoming and every hidden unit an outgoing edge."""
    drop = _integers(draw, len(edges), 1)
    kept = list(edges)
    for (u, v), flag in zip(edges, drop, strict=True):
        fed = sum(b == v for _, b in kept) > 1
        heard = u < computed or u >= last or sum(a == u for a, _ in kept) > 1
        if flag and fed and heard:
            kept.remove((u, v))
    return kept


def _add_inner(draw: DrawFn, blocks: Sequence[Sequence[int]]) -> list[Edge]:
    """Some edges u → v with u < v inside blocks."""
    pairs = [(u, v) for block in blocks for k, v in enumerate(block) for u in block[:k]]
    return [pair for pair, flag in zip(pairs, _integers(draw, len(pairs), 1), strict=True) if flag]


_ENDS = st.sampled_from(((1, False), (2, False), (2, True)))  # number of inputs or outputs, and: do two form a block?


@st.composite
def block_networks(
    draw: DrawFn,
    *,
    rows: bool = True,
    columns: bool = True,
    irregular: bool = False,
    inner: bool = False,
    mixed: bool = False,
    unequal_inputs: bool = False,
    unequal_outputs: bool = False,
    activations: tuple[str, ...] = SMOOTH,
    steps: int = 2,
) -> Instance:
    """A block network at an equitable θ, with data; see the module for the keywords."""
    inputs, paired_inputs = (2, True) if unequal_inputs else draw(_ENDS)
    outputs, paired_outputs = (2, True) if unequal_outputs else draw(_ENDS)
    constant = draw(st.booleans())
    first = inputs + constant
    sizes = [draw(st.integers(2, 4 if inner else 3)), draw(st.integers(0, 3))]
    sizes = sizes[: 1 + (sizes[1] > 0)]
    names = [draw(st.sampled_from(activations)) for _ in sizes]
    flags = int.from_bytes(draw(st.binary(min_size=9, max_size=9)))
    starts = np.cumsum([first, *sizes])
    hidden = [tuple(range(int(a), int(a) + n)) for a, n in zip(starts, sizes, strict=False)]
    last = int(starts[-1])
    ends = tuple(range(last, last + outputs))
    in_blocks = [tuple(range(inputs))] if paired_inputs else [(u,) for u in range(inputs)]
    out_blocks = [ends] if paired_outputs else [(v,) for v in ends]
    fixed = [(inputs,)] if constant else []
    edges: list[Edge] = []
    for out in out_blocks:  # outputs are not joined to one another
        edges += _connect(flags, [*in_blocks, *fixed, *hidden, out], first, inputs if constant else None)
    edges = list(dict.fromkeys(edges))
    edges = _thin(draw, edges, first, last) if irregular else edges
    edges += _add_inner(draw, hidden) if inner else []
    units = [name for name, block in zip(names, hidden, strict=True) for _ in block]
    if mixed:
        units[1] = "identity" if units[1] != "identity" else "square"
    ordered = tuple(sorted(edges, key=lambda e: (e[1], e[0])))
    dag = network(inputs, constant, (*units, *["identity"] * outputs), ordered, outputs)
    partition = partition_of(dag, (*in_blocks, *hidden, *out_blocks))
    theta = equitable_weights(draw, dag, partition, rows, columns)
    x, y = _data(draw, inputs, outputs)
    if paired_inputs and not unequal_inputs:
        x[:, 1] = x[:, 0]
    if paired_outputs and not unequal_outputs:
        y[:, 1] = y[:, 0]
    return Instance(dag, theta, x, y, extra={"partition": partition, "steps": steps})


def _data(draw: DrawFn, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 3))
    x, y = _integers(draw, n * inputs, 3, room=6), _integers(draw, n * outputs, 4, room=6)
    return x.reshape(n, inputs), y.reshape(n, outputs)


@st.composite
def redistributed_clones(draw: DrawFn, steps: int = 2) -> Instance:
    """A random DAG with biases, each hidden unit split into up to three copies, moved by weights with zero row and column sums."""
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    activation = draw(st.sampled_from(SMOOTH[:2]))
    base = random_dag(
        generator, draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2)), activation, 0.6
    )
    weights = rational_array(_integers(draw, base.num_params, 3))
    copies = [(2, 3, 1)[c % 3] for c in _integers(draw, len(base.hidden), 1, room=2).astype(int).tolist()]
    dag, theta, partition = clone(base, weights, copies)
    theta = redistribute(dag, theta, partition, generator, bound=2)
    x, y = _data(draw, base.num_inputs, base.num_outputs)
    return Instance(dag, theta, x, y, extra={"partition": partition, "steps": steps})


# -- tangled networks ------------------------------------------------------------------------------------------------


@st.composite
def tangled_networks(
    draw: DrawFn,
    *,
    rows: bool = False,
    columns: bool = True,
    mixed: bool = False,
    unequal_inputs: bool = False,
    activations: tuple[str, ...] = (*SMOOTH, "relu", "hard_tanh"),
) -> Instance:
    """Hidden units with arbitrary forward edges, thrown into two blocks at random: any DAG, any partition."""
    inputs = 2 if unequal_inputs else draw(st.integers(1, 2))
    count = draw(st.integers(2, 5))
    last = inputs + count
    names = [draw(st.sampled_from(activations)) for _ in range(2)]
    flags = draw(st.integers(0, 31))
    labels = [flags >> k & 1 for k in range(count)]
    blocks = [tuple(inputs + k for k in range(count) if labels[k] == c) for c in (0, 1)]
    in_blocks = [tuple(range(inputs))] if inputs == 2 else []
    pairs = [(u, v) for v in range(inputs, last + 1) for u in range(v)]
    chosen = [p for p, flag in zip(pairs, _integers(draw, len(pairs), 1), strict=True) if flag]
    fed = {v for _, v in chosen}
    chosen += [(0 if v < last else last - 1, v) for v in range(inputs, last + 1) if v not in fed]
    units = [names[c] for c in labels]
    if mixed:
        units[1 if labels[1] == labels[0] else 0] = "identity"
    dag = network(inputs, False, (*units, "identity"), tuple(sorted(chosen, key=lambda e: (e[1], e[0]))), 1)
    partition = partition_of(dag, (*in_blocks, *(b for b in blocks if b)))
    theta = equitable_weights(draw, dag, partition, rows, columns)
    x, y = _data(draw, inputs, 1)
    if inputs == 2 and not unequal_inputs:
        x[:, 1] = x[:, 0]
    return Instance(dag, theta, x, y, extra={"partition": partition})
