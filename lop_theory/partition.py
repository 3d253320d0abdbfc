r"""Partitions of the units of a network, equitable weights, and the quotient (base) network.

Edge convention: w_uv is the weight of u → v. For two blocks S_i (sources) and S_j (targets) with an edge between them,

==================  =====================================================================  =========================
``row_equitable``   Σ_{v∈S_j} w_uv is the same for all sources u ∈ S_i (outgoing sums)      with CE: equal δ in a block
``column_equitable``  Σ_{u∈S_i} w_uv is the same for all targets v ∈ S_j (incoming sums)    equal h in a block
``block_constant``  w_uv is the same for all edges of the pair                             the leaf directions
==================  =====================================================================  =========================

In the layout W[out, in] of PyTorch, column sums are over ``dim=1`` and row sums over ``dim=0``. A pair is *biregular*
if all its sources have the same number of edges into S_j and all its targets the same number from S_i.

Source: *Barriers* (arXiv 2510.00304) §2, Theorem 2.1(2) and its appendix. The theorem as printed omits four conditions
(:func:`valid_cloning_structure`), its first version exchanges the roles of rows and columns, and its base weights
divide by the wrong block size (:func:`quotient` against :func:`printed_quotient`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from flint import fmpq

from lop_theory.arithmetic import Array, rational_array
from lop_theory.dag import Dag
from lop_theory.manifolds import as_vector, is_exact


@dataclass(frozen=True)
class UnitPartition:
    """Disjoint blocks that cover the units 0 … n−1, ordered by their smallest unit, each in ascending order.

    Use :meth:`of` for the partition of a network: it adds the singletons left out and checks the kinds of units.

    >>> UnitPartition([[3, 1], [0], [2]]).blocks
    ((0,), (1, 3), (2,))
    """

    blocks: tuple[tuple[int, ...], ...]

    def __init__(self, blocks: Iterable[Iterable[int]]) -> None:
        ordered = tuple(sorted(tuple(sorted(int(u) for u in block)) for block in blocks))
        if any(not block for block in ordered):
            raise ValueError("a block is empty; every block holds at least one unit; leave it out")
        units = sorted(u for block in ordered for u in block)
        repeated = sorted({u for u, nxt in pairwise(units) if u == nxt})
        if repeated:
            raise ValueError(f"units {repeated} appear twice; blocks are disjoint; list every unit once")
        if units != list(range(len(units))):
            missing = sorted(set(range(max(units) + 1)) - set(units))[:8] if units[0] >= 0 else "below 0"
            raise ValueError(
                f"the blocks do not cover 0 … {units[-1]} (missing: {missing}); use UnitPartition.of(dag, blocks)"
            )
        object.__setattr__(self, "blocks", ordered)

    @staticmethod
    def of(dag: Dag, blocks: Iterable[Iterable[int]]) -> UnitPartition:
        """The partition of the units of ``dag`` with these blocks; units that are not named become singletons.

        Raises ``ValueError`` if blocks overlap, name a unit that does not exist, or mix inputs, the constant and
        computed units.

        >>> from lop_theory.architectures import mlp
        >>> UnitPartition.of(mlp([1, 2, 1]), [[2, 3]]).blocks      # 0 input, 1 constant, 2 3 hidden, 4 output
        ((0,), (1,), (2, 3), (4,))
        """
        given = [tuple(int(u) for u in block) for block in blocks]
        named = {u for block in given for u in block}
        outside = sorted(u for u in named if not 0 <= u < dag.num_units)
        if outside:
            raise ValueError(f"units {outside} do not exist; this network has units 0 … {dag.num_units - 1}")
        for block in given:
            kinds = sorted({_kind(dag, u) for u in block})
            if len(kinds) > 1:
                raise ValueError(
                    f"block {list(block)} mixes {' and '.join(kinds)} units; a block has one kind; split it"
                )
        return UnitPartition([*given, *([u] for u in range(dag.num_units) if u not in named)])

    @property
    def num_units(self) -> int:
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """|S_j| for every block."""
        return tuple(len(block) for block in self.blocks)

    @cached_property
    def block_of(self) -> np.ndarray:
        """The block number of every unit [num_units]."""
        out = np.empty(self.num_units, dtype=np.int64)
        for j, block in enumerate(self.blocks):
            out[list(block)] = j
        return out

    @cached_property
    def place_of(self) -> np.ndarray:
        """The position of every unit in its block [num_units]."""
        out = np.empty(self.num_units, dtype=np.int64)
        for block in self.blocks:
            out[list(block)] = np.arange(len(block))
        return out


class BlockPair(NamedTuple):
    """An ordered pair of blocks (numbers in the partition) and the edges from the first to the second."""

    source: int
    target: int
    edges: np.ndarray


class EquitableResiduals(NamedTuple):
    """Largest spread (maximum − minimum) over all block pairs of: row sums, column sums, and the weights themselves."""

    row: Any
    column: Any
    block_constant: Any


class Violation(NamedTuple):
    """A condition (``C1`` … ``C4``) of the corrected cloning theorem that does not hold, and where."""

    condition: str
    message: str


def block_pairs(dag: Dag, partition: UnitPartition) -> tuple[BlockPair, ...]:
    """Every ordered pair of blocks joined by an edge, in the order of the pairs' first parameters.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])
    >>> [(p.source, p.target, len(p.edges)) for p in block_pairs(net, UnitPartition.of(net, [[2, 3]]))]
    [(0, 2, 2), (1, 2, 2), (2, 3, 2), (1, 3, 1)]
    """
    _check_bound(dag, partition)
    key = partition.block_of[dag.source] * len(partition.blocks) + partition.block_of[dag.target]
    order = np.argsort(dag.param, kind="stable")
    names, first, inverse = np.unique(key[order], return_index=True, return_inverse=True)
    members = [order[np.flatnonzero(inverse == k)] for k in range(len(names))]
    pairs = [BlockPair(*divmod(int(name), len(partition.blocks)), edges) for name, edges in zip(names, members)]
    return tuple(pairs[k] for k in np.argsort(first))


# -- equitable weights -------------------------------------------------------------------------------------------------


def equitable_residuals(dag: Dag, theta: Any, partition: UnitPartition) -> EquitableResiduals:
    """How far θ is from RE, CE and BC. Exact θ gives ``fmpq`` residuals, tensors and float arrays give floats.

    Raises ``ValueError`` for tied or fixed weights, where an edge is not free to be compared.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])                                           # θ = W1 (2), b1 (2), W2 (2), b2
    >>> equitable_residuals(net, [1, 1, 0, 0, 5, 7, 0], UnitPartition.of(net, [[2, 3]]))
    EquitableResiduals(row=2, column=0, block_constant=2)
    """
    require_free_weights(dag, "equitability")
    array = as_vector(theta, dag.num_params)
    values = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
    zero = fmpq(0) if is_exact(values) else 0.0
    row, column, constant = [zero], [zero], [zero]
    for pair in block_pairs(dag, partition):
        matrix = pair_weights(dag, values, partition, pair)
        row.append(_spread(matrix.sum(axis=1)))
        column.append(_spread(matrix.sum(axis=0)))
        constant.append(_spread(values[dag.param[pair.edges]]))
    return EquitableResiduals(max(row), max(column), max(constant))


def row_equitable(dag: Dag, theta: Any, partition: UnitPartition) -> bool:
    """RE: in every pair all sources have the same outgoing sum. Decided over Q; floats are read as dyadic rationals.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])
    >>> row_equitable(net, [1, 2, 0, 0, 5, 5, 0], UnitPartition.of(net, [[2, 3]]))
    True
    """
    return _exact_residuals(dag, theta, partition).row == 0


def column_equitable(dag: Dag, theta: Any, partition: UnitPartition) -> bool:
    """CE: in every pair all targets have the same incoming sum. Decided over Q; floats are read as dyadic rationals.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])
    >>> column_equitable(net, [1, 2, 0, 0, 5, 5, 0], UnitPartition.of(net, [[2, 3]]))
    False
    """
    return _exact_residuals(dag, theta, partition).column == 0


def block_constant(dag: Dag, theta: Any, partition: UnitPartition) -> bool:
    """BC: in every pair all edges have the same weight. Decided over Q; floats are read as dyadic rationals.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])
    >>> block_constant(net, [2, 2, 0, 0, 5, 5, 0], UnitPartition.of(net, [[2, 3]]))
    True
    """
    return _exact_residuals(dag, theta, partition).block_constant == 0


def pair_weights(dag: Dag, theta: np.ndarray, partition: UnitPartition, pair: BlockPair) -> np.ndarray:
    """The weights of a pair as a matrix [|S_i|, |S_j|], rows = sources, columns = targets, 0 where there is no edge."""
    shape = (partition.sizes[pair.source], partition.sizes[pair.target])
    matrix = np.full(shape, fmpq(0), dtype=object) if is_exact(theta) else np.zeros(shape, dtype=theta.dtype)
    rows, columns = partition.place_of[dag.source[pair.edges]], partition.place_of[dag.target[pair.edges]]
    matrix[rows, columns] = theta[dag.param[pair.edges]]
    return matrix


# -- structure ---------------------------------------------------------------------------------------------------------


def find_irregular(dag: Dag, partition: UnitPartition) -> BlockPair | None:
    """The first ordered block pair whose edge set is neither empty nor biregular, or ``None``.

    >>> net = Dag(1, False, ("square", "square", "identity"), [0, 0, 1, 2, 1], [1, 2, 3, 3, 2], range(5), [3])
    >>> pair = find_irregular(net, UnitPartition.of(net, [[1, 2]]))       # the edge 1 → 2 lies inside the block
    >>> pair.source, pair.target, pair.edges.tolist()
    (1, 1, [4])
    """
    for pair in block_pairs(dag, partition):
        out_degree = np.bincount(partition.place_of[dag.source[pair.edges]], minlength=partition.sizes[pair.source])
        in_degree = np.bincount(partition.place_of[dag.target[pair.edges]], minlength=partition.sizes[pair.target])
        if len(set(out_degree.tolist())) > 1 or len(set(in_degree.tolist())) > 1:
            return pair
    return None


def biregular(dag: Dag, partition: UnitPartition) -> bool:
    """C3: is the edge set of every ordered block pair empty or biregular?

    A non-empty pair inside one block is never biregular in a DAG: its first unit would need an incoming edge.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])
    >>> biregular(net, UnitPartition.of(net, [[2, 3]]))
    True
    """
    return find_irregular(dag, partition) is None


def valid_cloning_structure(
    dag: Dag, partition: UnitPartition, *, equal_inputs: bool = False, equal_outputs: bool = False
) -> tuple[Violation, ...]:
    """The conditions of the corrected cloning theorem (Barriers, Theorem 2.1(2) repaired) that fail; empty if none.

    * C1 a DAG in which every edge has its own parameter, and a partition of its units;
    * C2 one activation per block;
    * C3 the edge set of every ordered block pair is empty or biregular (so there is no edge inside a block);
    * C4 inputs in a block get equal data and outputs in a block have equal loss gradients. Blocks of one unit satisfy
      this always; ``equal_inputs`` or ``equal_outputs`` states that the data of larger blocks do.

    With these, at θ that is row and column equitable (C5): h and δ are equal within blocks, the gradient is block
    constant, and every gradient step stays on RE ∩ CE, for every data set.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([2, 2, 1])
    >>> [v.condition for v in valid_cloning_structure(net, UnitPartition.of(net, [[3, 4], [0, 1]]))]
    ['C4']
    """
    found = []
    if dag.is_tied or (dag.param < 0).any():
        found.append(Violation("C1", "some weights are tied or fixed; the theorem needs one free weight per edge"))
    outputs = set(dag.outputs.tolist())
    for block in partition.blocks:
        if len(block) == 1:
            continue
        if block[0] < dag.num_inputs:
            if not equal_inputs:
                found.append(Violation("C4", f"inputs {list(block)} form a block; their data must be equal"))
            continue
        names = sorted({dag.activation(u) for u in block})
        if len(names) > 1:
            found.append(Violation("C2", f"units {list(block)} use {', '.join(names)}; a block has one activation"))
        inside = [u for u in block if u in outputs]
        if inside and len(inside) < len(block):
            found.append(Violation("C4", f"units {list(block)} mix outputs and hidden units"))
        elif inside and not equal_outputs:
            found.append(Violation("C4", f"outputs {list(block)} form a block; their loss gradients must be equal"))
    pair = find_irregular(dag, partition)
    if pair is not None:
        source, target = list(partition.blocks[pair.source]), list(partition.blocks[pair.target])
        where = f"edges inside block {source}" if source == target else f"edges {source} → {target} are not biregular"
        found.append(Violation("C3", where))
    return tuple(sorted(found))


# -- quotient ----------------------------------------------------------------------------------------------------------


def quotient(dag: Dag, theta: Any, partition: UnitPartition) -> tuple[Dag, Array]:
    r"""The base network, one unit per block, with the *target-normalised* weights

        w̃_ij = (1/|S_j|) Σ_{u∈S_i, v∈S_j} w_uv                          (the common column sum if θ is CE)

    Base unit j is block j and base parameter k belongs to ``block_pairs(dag, partition)[k]``. If θ is column equitable
    then h(v) = h̃(block of v); if also row equitable and the outputs are singletons, δ(v) = δ̃ / |S_v|. By induction:
    z_v = Σ_i Σ_{u∈S_i} w_uv h̃_i = Σ_i w̃_ij h̃_i, and Σ_v w_uv δ_v = Σ_j (row sum) δ̃_j/|S_j| =
    Σ_j (w̃_ij/|S_i|) δ̃_j, because |S_i| · row sum = |S_j| · column sum. θ̃ is in the number system of θ.

    Raises ``ValueError`` if C2 or C3 fails (the base network is then not defined), or for tied or fixed weights.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1], "square")
    >>> base, weights = quotient(net, [3, 3, 1, 1, 2, 2, 0], UnitPartition.of(net, [[2, 3]]))
    >>> base.activations, weights.tolist()                            # y = 2 (3x+1)² + 2 (3x+1)² = 4 (3x+1)²
    (('square', 'identity'), [3, 1, 4, 0])
    """
    base, pairs = _base(dag, partition)
    return base, _pair_sums(dag, theta, pairs, [partition.sizes[p.target] for p in pairs])


def printed_quotient(dag: Dag, theta: Any, partition: UnitPartition) -> tuple[Dag, Array]:
    r"""As :func:`quotient`, weights as *printed*, w̃_ij = (1/|S_i|) Σ w_uv (Barriers, Remark A.3): **not** a base.

    It divides by the source size. Kept to be refuted: it agrees with the corrected one only where |S_i| = |S_j|.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1], "square")
    >>> printed_quotient(net, [3, 3, 1, 1, 2, 2, 0], UnitPartition.of(net, [[2, 3]]))[1].tolist()
    [6, 2, 2, 0]
    """
    base, pairs = _base(dag, partition)
    return base, _pair_sums(dag, theta, pairs, [partition.sizes[p.source] for p in pairs])


def lumped_rates(dag: Dag, partition: UnitPartition) -> tuple[Fraction, ...]:
    r"""Learning-rate factor of every base parameter in the lumped dynamics: |E_ij|/|S_j|² (complete: |S_i|/|S_j|).

    One gradient step of rate η on the clone, from a row and column equitable θ with singleton outputs, is *exactly* one
    step on the base network with rate η · factor for each parameter: w̃_ij moves by
    −(η/|S_j|) Σ_{E_ij} δ_v h_u = −(η/|S_j|) |E_ij| (δ̃_j/|S_j|) h̃_i.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])
    >>> [str(r) for r in lumped_rates(net, UnitPartition.of(net, [[2, 3]]))]      # w1, b1, w2, b2
    ['1/2', '1/2', '2', '1']
    """
    _, pairs = _base(dag, partition)
    return tuple(Fraction(len(p.edges), partition.sizes[p.target] ** 2) for p in pairs)


def _base(dag: Dag, partition: UnitPartition) -> tuple[Dag, tuple[BlockPair, ...]]:
    """The quotient graph. C3 makes the order of smallest units topological: min S_j has a source in S_i."""
    require_free_weights(dag, "the quotient")
    pairs = block_pairs(dag, partition)
    broken = [v for v in valid_cloning_structure(dag, partition) if v.condition in ("C2", "C3")]
    if broken:
        raise ValueError(
            f"the quotient network is not defined: {broken[0].message} ({broken[0].condition}); split the block"
        )
    blocks = partition.blocks
    base = Dag(
        sum(block[0] < dag.num_inputs for block in blocks),
        dag.has_constant,
        tuple(dag.activation(block[0]) for block in blocks if block[0] >= dag.first_computed),
        np.array([p.source for p in pairs]),
        np.array([p.target for p in pairs]),
        np.arange(len(pairs)),
        np.array(list(dict.fromkeys(partition.block_of[dag.outputs].tolist()))),
    )
    return base, pairs


def _pair_sums(dag: Dag, theta: Any, pairs: Sequence[BlockPair], sizes: Sequence[int]) -> Array:
    theta = as_vector(theta, dag.num_params)
    sums = [theta[dag.param[p.edges]].sum() / size for p, size in zip(pairs, sizes)]
    if isinstance(theta, torch.Tensor):
        return torch.stack(sums)
    return np.array(sums, dtype=theta.dtype)


# -- helpers -----------------------------------------------------------------------------------------------------------


def require_free_weights(dag: Dag, what: str) -> None:
    """Raise ``ValueError`` if an edge shares its parameter with another edge or has a fixed weight."""
    fixed = np.flatnonzero(dag.param < 0)
    if len(fixed):
        e = int(fixed[0])
        raise ValueError(
            f"edge {dag.source[e]} → {dag.target[e]} has a fixed weight; {what} is defined for networks whose "
            "every edge has its own trainable weight; give the edge a parameter"
        )
    if dag.is_tied:
        raise ValueError(
            f"{len(dag.param)} edges share {dag.num_params} parameters; {what} is defined for networks whose "
            "every edge has its own trainable weight; untie them"
        )


def _check_bound(dag: Dag, partition: UnitPartition) -> None:
    if partition.num_units != dag.num_units:
        raise ValueError(
            f"the partition has {partition.num_units} units, the network {dag.num_units}; "
            "use UnitPartition.of(dag, blocks)"
        )


def _exact_residuals(dag: Dag, theta: Any, partition: UnitPartition) -> EquitableResiduals:
    return equitable_residuals(dag, rational_array(as_vector(theta, dag.num_params)), partition)


def _spread(values: np.ndarray) -> Any:
    return values.max() - values.min()


def _kind(dag: Dag, unit: int) -> str:
    return "input" if unit < dag.num_inputs else "constant" if unit < dag.first_computed else "computed"
