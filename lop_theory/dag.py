r"""Networks as computational DAGs: units, weighted edges that point to parameters, and an activation per unit.

Units are numbered in topological order: ``0 … I−1`` are inputs, unit ``I`` is the constant one if the network has biases
(a bias is an edge from it), then come the computed units. For a computed unit v with incoming edges e = (u → v)

    z_v = Σ_e  w_e h_u,      h_v = f_v(z_v),      w_e = θ[param_e]   or the fixed weight of e where param_e = −1.

A parameter index that repeats is weight tying (a convolution). Source: *Barriers* (arXiv 2510.00304) §2, with biases
written as edges, and with tying and fixed weights added.

For computation the units are grouped into *blocks* of equal depth (longest path from a source), and the edges between
two blocks into *tiles*, dense matrices of parameter indices: one matrix product per tile. Block 0 holds the inputs,
block 1 the constant, and blocks 2, 3, … the computed units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np

from lop_theory.activations import get_activation

INPUT_BLOCK, CONSTANT_BLOCK, FIRST_COMPUTED_BLOCK = 0, 1, 2


class NotADagError(ValueError):
    """The graph has a directed cycle, or its units are not numbered in topological order."""


@dataclass(frozen=True)
class Block:
    """Units of equal depth. ``activations`` pairs an activation name with the positions (in ``units``) that use it."""

    units: np.ndarray
    activations: tuple[tuple[str, np.ndarray], ...] = ()

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class Tile:
    """All edges from block ``source`` to block ``target``.

    ``index`` [n_target, n_source] is the parameter of each edge; −1 where there is none or where the weight is fixed.
    ``fixed`` [n_target, n_source] holds the fixed weights (exact 0 elsewhere), or is ``None``.
    ``start``: if the tile is dense and its parameters are start, start+1, … in row-major order, else ``None``.
    """

    source: int
    target: int
    index: np.ndarray
    fixed: np.ndarray | None
    start: int | None


@dataclass(frozen=True, eq=False)
class Dag:
    """A network. Arrays ``source``, ``target``, ``param`` have one entry per edge; ``outputs`` lists the output units.

    ``activations`` names the activation of each computed unit, in unit order. ``fixed`` gives the weight of the edges
    whose ``param`` is −1 (ignored elsewhere), as numbers that every number system can read (int, float or Fraction).

    >>> net = Dag(1, True, ("relu", "identity"), source=[0, 1, 2, 1], target=[2, 2, 3, 3], param=[0, 1, 2, 3], outputs=[3])
    >>> net.num_params, net.num_units, net.depth
    (4, 4, 2)
    """

    num_inputs: int
    has_constant: bool
    activations: tuple[str, ...]
    source: np.ndarray
    target: np.ndarray
    param: np.ndarray
    outputs: np.ndarray
    fixed: Mapping[int, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("source", "target", "param", "outputs"):
            array = np.array(getattr(self, name), dtype=np.int64)
            array.setflags(write=name == "outputs")  # networks are shared and cached
            object.__setattr__(self, name, array)
        object.__setattr__(self, "activations", tuple(self.activations))
        object.__setattr__(self, "fixed", dict(self.fixed or {}))
        _validate(self)

    # -- sizes ---------------------------------------------------------------------------------------------------------
    @property
    def first_computed(self) -> int:
        return self.num_inputs + int(self.has_constant)

    @property
    def constant(self) -> int | None:
        """The constant-one unit, or ``None`` if the network has no biases."""
        return self.num_inputs if self.has_constant else None

    @property
    def num_units(self) -> int:
        return self.first_computed + len(self.activations)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    @cached_property
    def num_params(self) -> int:
        """P, the length of θ."""
        return int(self.param.max(initial=-1)) + 1

    @cached_property
    def is_tied(self) -> bool:
        """Does some parameter sit on more than one edge?"""
        trainable = self.param[self.param >= 0]
        return len(trainable) != self.num_params

    @property
    def hidden(self) -> np.ndarray:
        """Computed units that are not outputs."""
        computed = np.arange(self.first_computed, self.num_units)
        return computed[~np.isin(computed, self.outputs)]

    def activation(self, unit: int) -> str:
        """Name of the activation of a computed unit."""
        return self.activations[unit - self.first_computed]

    def incoming(self, unit: int) -> np.ndarray:
        """Edge numbers that end in the unit."""
        return np.flatnonzero(self.target == unit)

    def outgoing(self, unit: int) -> np.ndarray:
        """Edge numbers that start in the unit."""
        return np.flatnonzero(self.source == unit)

    def params_of(self, edges: np.ndarray) -> np.ndarray:
        """The distinct trainable parameters on the given edges, sorted."""
        found = np.unique(self.param[edges])
        return found[found >= 0]

    # -- blocks and tiles ----------------------------------------------------------------------------------------------
    @cached_property
    def level(self) -> np.ndarray:
        """Depth of every unit [num_units]: 0 for inputs and the constant, else one more than its deepest source."""
        level = np.zeros(self.num_units, dtype=np.int64)
        order = np.argsort(self.target, kind="stable")
        sources, bounds = self.source[order], np.searchsorted(self.target[order], np.arange(self.num_units + 1))
        for v in range(self.first_computed, self.num_units):
            level[v] = 1 + level[sources[bounds[v] : bounds[v + 1]]].max()
        return level

    @property
    def depth(self) -> int:
        """Number of computed blocks."""
        return int(self.level.max(initial=0))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Inputs, constant, then the computed units by depth."""
        units = np.arange(self.num_units)
        blocks = [Block(units[: self.num_inputs]), Block(units[self.num_inputs : self.first_computed])]
        for depth in range(1, self.depth + 1):
            members = units[self.level == depth]
            names = [self.activation(int(v)) for v in members]
            groups = tuple((n, np.array([k for k, m in enumerate(names) if m == n])) for n in dict.fromkeys(names))
            blocks.append(Block(members, groups))
        return tuple(blocks)

    @cached_property
    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        """(block, position in the block) of every unit."""
        block, position = np.zeros(self.num_units, dtype=np.int64), np.zeros(self.num_units, dtype=np.int64)
        for b, members in enumerate(self.blocks):
            block[members.units], position[members.units] = b, np.arange(len(members))
        return block, position

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Every pair of blocks joined by an edge, ordered by target, then source, the constant last."""
        block, position = self._place
        key = block[self.target] * len(self.blocks) + block[self.source]
        tiles = []
        for k in np.flatnonzero(np.bincount(key)):
            target, source = divmod(int(k), len(self.blocks))
            edges = np.flatnonzero(key == k)
            shape = (len(self.blocks[target]), len(self.blocks[source]))
            rows, columns = position[self.target[edges]], position[self.source[edges]]
            index = np.full(shape, -1, dtype=np.int64)
            index[rows, columns] = self.param[edges]
            fixed = None
            if (self.param[edges] < 0).any():
                fixed = np.zeros(shape, dtype=object)
                for e, r, c in zip(edges, rows, columns, strict=True):
                    if self.param[e] < 0:
                        fixed[r, c] = self.fixed[int(e)]  # type: ignore[index]
            dense = fixed is None and np.array_equal(index.ravel(), index.flat[0] + np.arange(index.size))
            tiles.append(
                Tile(source, target, index, fixed, int(index.flat[0]) if dense and index.flat[0] >= 0 else None)
            )
        return tuple(sorted(tiles, key=lambda t: (t.target, t.source == CONSTANT_BLOCK, t.source)))

    @cached_property
    def tiles_into(self) -> dict[int, tuple[Tile, ...]]:
        """Tiles by target block."""
        return {b: tuple(t for t in self.tiles if t.target == b) for b in range(len(self.blocks))}

    @cached_property
    def output_places(self) -> tuple[tuple[int, np.ndarray, np.ndarray], ...]:
        """(block, positions in the block, positions among the outputs), for each block that holds outputs."""
        block, position = self._place
        where = block[self.outputs]
        return tuple((int(b), position[self.outputs[where == b]], np.flatnonzero(where == b)) for b in np.unique(where))

    # -- networkx ------------------------------------------------------------------------------------------------------
    def to_networkx(self) -> nx.DiGraph:
        """The network as a graph: node attributes ``kind`` (input, constant, unit), ``activation``, ``output``; edge
        attributes ``param`` (−1: fixed) and, where fixed, ``weight``."""
        graph = nx.DiGraph()
        for v in range(self.num_units):
            kind = "input" if v < self.num_inputs else "constant" if v < self.first_computed else "unit"
            graph.add_node(v, kind=kind, output=False)
            if kind == "unit":
                graph.nodes[v]["activation"] = self.activation(v)
        for o in self.outputs:
            graph.nodes[int(o)]["output"] = True
        for e, (u, v, p) in enumerate(
            zip(self.source.tolist(), self.target.tolist(), self.param.tolist(), strict=True)
        ):
            extra = {"weight": self.fixed[e]} if p < 0 else {}  # type: ignore[index]
            graph.add_edge(u, v, param=p, **extra)
        return graph

    @staticmethod
    def from_networkx(graph: nx.DiGraph) -> Dag:
        """Read a directed acyclic graph as a network.

        Nodes without incoming edges are inputs, unless their ``kind`` is ``"constant"``. Missing attributes default to:
        ``activation`` relu (identity for nodes without outgoing edges), ``output`` true for nodes without outgoing
        edges, ``param`` the next free index in the order of the graph's edges. Units are numbered topologically, ties
        by the order of the graph's nodes. Raises :class:`NotADagError` on a cycle and names it.

        >>> g = nx.DiGraph([("x", "a"), ("x", "b"), ("a", "y"), ("b", "y")])
        >>> net = Dag.from_networkx(g)
        >>> net.num_inputs, net.num_params, net.activations
        (1, 4, ('relu', 'relu', 'identity'))
        """
        if not graph.is_directed() or not nx.is_directed_acyclic_graph(graph):
            found = nx.find_cycle(graph) if graph.is_directed() else "an undirected graph"
            raise NotADagError(
                f"the graph is not a DAG ({found}); a network is evaluated in topological order; remove it"
            )
        return _from_networkx(graph)


def _from_networkx(graph: nx.DiGraph) -> Dag:
    roots = [v for v in graph if graph.in_degree(v) == 0]
    constants = [v for v in roots if graph.nodes[v].get("kind") == "constant"]
    if len(constants) > 1:
        raise ValueError(
            f"{len(constants)} constant nodes {constants}; a network has at most one constant-one unit; merge them"
        )
    rank = {v: k for k, v in enumerate(graph)}
    computed = [v for v in nx.lexicographical_topological_sort(graph, key=rank.__getitem__) if graph.in_degree(v)]
    order = [*(v for v in roots if v not in constants), *constants, *computed]
    number = {v: k for k, v in enumerate(order)}
    sinks = {v for v in computed if graph.out_degree(v) == 0}
    default = {v: "identity" if v in sinks else "relu" for v in computed}
    outputs = [number[v] for v in computed if graph.nodes[v].get("output", v in sinks)]
    edges = list(graph.edges(data=True))
    taken = {d["param"] for _, _, d in edges if d.get("param", -1) >= 0}
    free = (k for k in range(len(edges) + len(taken) + 1) if k not in taken)
    param, fixed = [], {}
    for e, (_, _, data) in enumerate(edges):
        if "param" in data and data["param"] < 0:
            fixed[e] = data.get("weight", 1)
        param.append(data["param"] if "param" in data else next(free))
    return Dag(
        num_inputs=len(roots) - len(constants),
        has_constant=bool(constants),
        activations=tuple(graph.nodes[v].get("activation", default[v]) for v in computed),
        source=np.array([number[u] for u, _, _ in edges], dtype=np.int64),
        target=np.array([number[v] for _, v, _ in edges], dtype=np.int64),
        param=np.array(param, dtype=np.int64),
        outputs=np.array(outputs, dtype=np.int64),
        fixed=fixed,
    )


def _validate(dag: Dag) -> None:
    edges = len(dag.source)
    if dag.num_inputs < 1:
        raise ValueError(f"num_inputs is {dag.num_inputs}; a network needs at least one input unit")
    if not len(dag.target) == len(dag.param) == edges:
        lengths = (edges, len(dag.target), len(dag.param))
        raise ValueError(f"source, target and param have lengths {lengths}; give one entry per edge to each")
    if edges and (dag.source.min() < 0 or dag.target.max() >= dag.num_units):
        raise ValueError(f"an edge leaves the units 0 … {dag.num_units - 1}; every edge joins two of them")
    backwards = np.flatnonzero(dag.source >= dag.target)
    if len(backwards):
        e = backwards[0]
        raise NotADagError(
            f"edge {dag.source[e]} → {dag.target[e]} does not go forward; units are numbered in topological order "
            "(source < target); use Dag.from_networkx to number them"
        )
    if (dag.target < dag.first_computed).any():
        e = int(np.argmax(dag.target < dag.first_computed))
        raise ValueError(
            f"edge {dag.source[e]} → {dag.target[e]} ends in an input or in the constant; these are not computed"
        )
    missing = (
        np.flatnonzero(np.bincount(dag.target, minlength=dag.num_units)[dag.first_computed :] == 0) + dag.first_computed
    )
    if len(missing):
        raise ValueError(f"units {_some(missing)} have no incoming edge; a computed unit needs at least one")
    pairs = np.sort(dag.source * dag.num_units + dag.target)  # sorting is ~20x faster than np.unique at 10^6 edges
    if (pairs[1:] == pairs[:-1]).any():
        raise ValueError("two edges join the same pair of units; merge them into one")
    used = np.sort(dag.param[dag.param >= 0])
    if len(used) and (used[0] != 0 or (np.diff(used) > 1).any()):
        raise ValueError(
            f"parameters {_some(np.unique(used))} are used; indices must be 0, 1, … without gaps (−1: fixed weight)"
        )
    unset = [e for e in np.flatnonzero(dag.param < 0) if int(e) not in dag.fixed]  # type: ignore[operator]
    if unset:
        raise ValueError(f"edges {_some(unset)} have param −1 but no fixed weight; give one in `fixed`")
    if not len(dag.outputs) or dag.outputs.min() < dag.first_computed or dag.outputs.max() >= dag.num_units:
        raise ValueError(
            f"outputs {dag.outputs.tolist()}; name at least one, all computed units ({dag.first_computed} … {dag.num_units - 1})"
        )
    if len(np.unique(dag.outputs)) != len(dag.outputs):
        raise ValueError(f"outputs {dag.outputs.tolist()} repeat; list every output unit once")
    for name in dict.fromkeys(dag.activations):
        get_activation(name)


def _some(values: Sequence[Any] | np.ndarray) -> str:
    shown = [int(v) for v in values[:6]]
    return str(shown)[:-1] + (", …]" if len(values) > 6 else "]")
