r"""Cloned networks: split units into copies, move along the flat directions, and the manifolds on which clones stay.

* :func:`clone` replaces a hidden unit u by m_u copies; the weight of (copy of u) → (copy of v) is w_uv / m_u, so the
  incoming sum of every copy of v is that of v and the function is unchanged.
* :func:`redistribute` adds, per block pair, a matrix Z with zero row and column sums: h and δ do not notice.
* :func:`cloned_manifold` is {θ : RE and CE}, a *linear* subspace; :func:`cloned_leaf` is θ + BC, where a trajectory of
  gradient steps stays, because the gradient at a point of RE ∩ CE is block constant.

Source: *Barriers* (arXiv 2510.00304) Theorem 2.1(2), repaired by the conditions of
:func:`~lop_theory.partition.valid_cloning_structure`.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lop_theory.arithmetic import Array, to_fmpq
from lop_theory.dag import Dag
from lop_theory.manifolds import AffineSubspace, Equation, Generator, as_vector, is_exact
from lop_theory.partition import UnitPartition, block_pairs, require_free_weights

Multiplicity = int | Mapping[int, int] | Sequence[int]


class Clone(NamedTuple):
    """A cloned network, its parameters, and the partition whose blocks are the copies of one unit each."""

    dag: Dag
    theta: Array
    partition: UnitPartition


def clone(dag: Dag, theta: Any, multiplicity: Multiplicity) -> Clone:
    """Replace hidden unit u by m_u copies with the same function (Barriers §2.5, block-constant cloning).

    ``multiplicity``: one number for all hidden units, a mapping {unit: m_u} (1 where absent), or a sequence over
    ``dag.hidden``. Inputs, the constant and the outputs are kept. Parameters keep their layout: cloning an ``mlp``
    gives the parameter order of the wider ``mlp``, and multiplicity 1 gives the same network. Block j of the partition
    holds the copies of unit j. θ' is in the number system of θ; with floats, w/m_u is exact if m_u is a power of two.

    Raises ``ValueError`` for tied or fixed weights, multiplicities below 1, and units that are not hidden.

    >>> from lop_theory.architectures import mlp
    >>> wide, weights, blocks = clone(mlp([1, 1, 1]), [3, 1, 4, 7], 2)
    >>> wide.num_params, weights.tolist(), blocks.blocks
    (7, [3, 3, 1, 1, 2, 2, 7], ((0,), (1,), (2, 3), (4,)))
    """
    require_free_weights(dag, "cloning")
    theta = as_vector(theta, dag.num_params)
    copies = _multiplicities(dag, multiplicity)
    first = np.concatenate([[0], np.cumsum(copies)])
    source, target, original = _copied_edges(dag, copies, first)
    wide = Dag(
        dag.num_inputs,
        dag.has_constant,
        tuple(name for v, name in enumerate(dag.activations, dag.first_computed) for _ in range(copies[v])),
        source,
        target,
        np.arange(len(source)),
        first[dag.outputs],
    )
    divisor = copies[dag.source[original]]
    values = theta[dag.param[original]]
    if isinstance(theta, torch.Tensor):
        weights = values / torch.as_tensor(divisor, dtype=theta.dtype, device=theta.device)
    else:
        weights = values / (divisor.astype(object) if is_exact(theta) else divisor)
    return Clone(wide, weights, UnitPartition(range(first[u], first[u + 1]) for u in range(dag.num_units)))


def redistribute(
    dag: Dag, theta: Any, partition: UnitPartition, generator: Generator, bound: int = 3, scale: float = 1.0
) -> Array:
    """θ + Z for a random Z whose row and column sums vanish in every block pair (Barriers, Remark 2.2).

    θ stays (or is not made) row and column equitable, and leaves the block-constant weights if some pair has m, n ≥ 2.
    For exact θ, Z has small integer entries (coefficients in [−bound, bound]); for floats it is normal with standard
    deviation ``scale``, and its sums vanish up to rounding.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 2, 1], bias=False)                                          # unit 0 → 1, 2 → 3, 4 → 5
    >>> blocks = UnitPartition.of(net, [[1, 2], [3, 4]])
    >>> redistribute(net, [1, 1, 0, 0, 0, 0, 5, 5], blocks, torch.Generator().manual_seed(1)).tolist()
    [1, 1, -3, 3, 3, -3, 5, 5]
    """
    theta = as_vector(theta, dag.num_params)
    move = _zero_sums(dag, partition).random_point(generator, exact=is_exact(theta), bound=bound, scale=scale)
    if isinstance(theta, torch.Tensor):
        return theta + move.to(theta)
    return theta + (move if is_exact(theta) else move.numpy().astype(theta.dtype))


def cloned_manifold(dag: Dag, partition: UnitPartition) -> AffineSubspace:
    """{θ : row and column equitable}, a linear subspace of R^P (Barriers, M_C of Theorem 2.1(2)).

    A complete pair of m sources and n targets has dimension (m−1)(n−1) + 1: a matrix with equal row and equal column
    sums is a constant plus a matrix of zero row and column sums.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 3, 1], bias=False)
    >>> cloned_manifold(net, UnitPartition.of(net, [[1, 2], [3, 4, 5]])).dim              # 1 + (1·2 + 1) + 1
    5
    """
    require_free_weights(dag, "the cloned manifold")
    equations: list[Equation] = []
    for rows in _pair_sums(dag, partition):
        equations += [({**head, **{k: -1 for k in row}}, 0) for head, *rest in [rows] for row in rest]
    return AffineSubspace.from_equations(dag.num_params, equations)


def cloned_leaf(dag: Dag, theta: Any, partition: UnitPartition) -> AffineSubspace:
    """θ + BC: move all edges of a block pair by the same amount (Barriers, M_D(w)). dim = number of block pairs.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 3, 1], bias=False)
    >>> cloned_leaf(net, list(range(11)), UnitPartition.of(net, [[1, 2], [3, 4, 5]])).dim
    3
    """
    require_free_weights(dag, "the cloned leaf")
    theta = as_vector(theta, dag.num_params)
    equations: list[Equation] = []
    for pair in block_pairs(dag, partition):
        head, *rest = (int(k) for k in dag.param[pair.edges])
        equations += [({k: 1, head: -1}, _value(theta, k) - _value(theta, head)) for k in rest]
    return AffineSubspace.from_equations(dag.num_params, equations)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _value(theta: Array, k: int) -> Any:
    """θ_k as an exact number, so that differences of floats are not rounded."""
    return to_fmpq(theta[k])


def _multiplicities(dag: Dag, multiplicity: Multiplicity) -> np.ndarray:
    """m_u for every unit [num_units]; 1 for units that are not hidden."""
    hidden = [int(u) for u in dag.hidden]
    if isinstance(multiplicity, int | np.integer):
        wanted: dict[int, Any] = dict.fromkeys(hidden, multiplicity)
    elif isinstance(multiplicity, Mapping):
        wanted = dict(multiplicity)
    else:
        if len(multiplicity) != len(hidden):
            raise ValueError(
                f"{len(multiplicity)} multiplicities for {len(hidden)} hidden units; give one for each of {hidden}"
            )
        wanted = dict(zip(hidden, multiplicity))
    copies = np.ones(dag.num_units, dtype=np.int64)
    for unit, m in wanted.items():
        if unit not in hidden:
            raise ValueError(f"unit {unit} is not hidden, so it is not cloned; the hidden units are {hidden}")
        if isinstance(m, bool) or not isinstance(m, numbers.Integral) or m < 1:
            raise ValueError(
                f"multiplicity {m!r} of unit {unit} is not a whole number ≥ 1; use 1 to keep a unit as it is"
            )
        copies[unit] = int(m)
    return copies


def _copied_edges(dag: Dag, copies: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source copy, target copy and original edge of every new edge, in the order of their parameters.

    A dense tile keeps its row-major layout (all copies of its targets × all copies of its sources); the copies of any
    other edge stand together.
    """
    edge_of = np.empty(dag.num_params, dtype=np.int64)
    edge_of[dag.param] = np.arange(len(dag.param))
    dense = {t.start: t for t in dag.tiles if t.start is not None}
    columns: list[tuple[int, int, int]] = []
    k = 0
    while k < dag.num_params:
        size = dense[k].index.size if k in dense else 1
        edges = edge_of[k : k + size]
        copied = [
            (int(first[dag.source[e]]) + a, int(first[dag.target[e]]) + b, int(e))
            for e in edges
            for b in range(copies[dag.target[e]])
            for a in range(copies[dag.source[e]])
        ]
        columns += sorted(copied, key=lambda c: (c[1], c[0])) if size > 1 else copied
        k += size
    source, target, original = np.array(columns, dtype=np.int64).T
    return source, target, original


def _pair_sums(dag: Dag, partition: UnitPartition) -> Iterator[list[dict[int, int]]]:
    """For every block pair its row sums, then its column sums, each sum as {parameter: 1}."""
    for pair in block_pairs(dag, partition):
        for units, block in ((dag.source, pair.source), (dag.target, pair.target)):
            ends = units[pair.edges]
            yield [dict.fromkeys(dag.param[pair.edges[ends == u]].tolist(), 1) for u in partition.blocks[block]]


def _zero_sums(dag: Dag, partition: UnitPartition) -> AffineSubspace:
    """{Z : all row and column sums of all block pairs are 0}."""
    require_free_weights(dag, "redistribution")
    return AffineSubspace.from_equations(
        dag.num_params, [(row, 0) for rows in _pair_sums(dag, partition) for row in rows]
    )
