"""Dag: levels, tiles and graph conversion against their definitions, and every refusal."""

from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lop_theory.architectures import from_module, init_params, mlp, random_dag, residual_mlp
from lop_theory.dag import CONSTANT_BLOCK, Dag, NotADagError
from lop_theory.forward import evaluate
from tests.reference import autodiff


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    """A random DAG of 1-3 inputs, 0-6 hidden units and 1-3 outputs. Shrinks towards one weight."""
    sizes = [draw(st.integers(*bounds)) for bounds in ((1, 3), (0, 6), (1, 3))]
    density, bias, seed = draw(st.sampled_from((0.0, 0.5, 1.0))), draw(st.booleans()), draw(st.integers(0, 999))
    return random_dag(np.random.default_rng(seed), *sizes, activation="tanh", density=density, bias=bias)


EXAMPLES = {
    "mlp": mlp([2, 3, 2]),
    "residual": residual_mlp(2, 3, 2, 1),
    "conv": from_module(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.ReLU()), (1, 3, 3))[0],
    "outputs at two depths": Dag(1, False, ("tanh", "tanh"), [0, 1], [1, 2], [0, 1], [2, 1]),
}


@given(dags())
def test_level_is_the_longest_path(dag: Dag) -> None:
    longest: dict[int, int] = {}
    graph = dag.to_networkx()
    for v in nx.topological_sort(graph):
        longest[v] = max((longest[u] + 1 for u in graph.predecessors(v)), default=0)
    assert dag.level.tolist() == [longest[v] for v in range(dag.num_units)]
    assert dag.depth == nx.dag_longest_path_length(graph)


def edges_of_tiles(dag: Dag) -> list[tuple[int, int, int]]:
    found = []
    for tile in dag.tiles:
        for r, c in np.argwhere((tile.index >= 0) | (tile.fixed != 0 if tile.fixed is not None else False)):
            found.append((dag.blocks[tile.source].units[c], dag.blocks[tile.target].units[r], tile.index[r, c]))
    return sorted((int(a), int(b), int(p)) for a, b, p in found)


def check_tiles(dag: Dag) -> None:
    assert edges_of_tiles(dag) == sorted(zip(dag.source.tolist(), dag.target.tolist(), dag.param.tolist(), strict=True))
    assert [t.target for t in dag.tiles] == sorted(t.target for t in dag.tiles)
    assert all(t.source < t.target for t in dag.tiles)
    for tile in dag.tiles:
        if tile.start is not None:
            assert np.array_equal(tile.index, tile.start + np.arange(tile.index.size).reshape(tile.index.shape))
    units = np.concatenate([block.units for block in dag.blocks])
    assert sorted(units.tolist()) == list(range(dag.num_units))


@given(dags())
def test_tiles_hold_every_edge_once(dag: Dag) -> None:
    check_tiles(dag)


@pytest.mark.parametrize("name", EXAMPLES)
def test_tiles_hold_every_edge_once_with_fixed_weights_and_ties(name: str) -> None:
    check_tiles(EXAMPLES[name])


def test_the_tiles_of_an_mlp_are_dense_and_in_parameter_order() -> None:
    assert [(t.start, t.index.shape, t.source == CONSTANT_BLOCK) for t in EXAMPLES["mlp"].tiles] == [
        (0, (3, 2), False), (6, (3, 1), True), (9, (2, 3), False), (15, (2, 1), True),
    ]  # fmt: skip


@given(dags())
def test_edges_of_a_unit(dag: Dag) -> None:
    graph = dag.to_networkx()
    for v in range(dag.num_units):
        assert sorted(dag.source[dag.incoming(v)].tolist()) == sorted(graph.predecessors(v))
        assert sorted(dag.target[dag.outgoing(v)].tolist()) == sorted(graph.successors(v))
    assert dag.params_of(np.arange(len(dag.source))).tolist() == list(range(dag.num_params))
    assert set(dag.hidden.tolist()) | set(dag.outputs.tolist()) == set(range(dag.first_computed, dag.num_units))


def same_function(first: Dag, second: Dag) -> bool:
    generator = torch.Generator().manual_seed(0)
    theta = init_params(first, generator)
    x = torch.randn(4, first.num_inputs, generator=generator, dtype=torch.float64)
    return torch.allclose(autodiff.outputs(first, theta, x), evaluate(second, theta, x).output, rtol=1e-12)


@given(dags())
def test_networkx_and_back_is_the_same_network(dag: Dag) -> None:
    back = Dag.from_networkx(dag.to_networkx())
    assert back.num_params == dag.num_params and back.activations == dag.activations
    assert same_function(dag, back)


@pytest.mark.parametrize("name", ["mlp", "residual", "conv"])
def test_networkx_keeps_fixed_weights_and_ties(name: str) -> None:
    back = Dag.from_networkx(EXAMPLES[name].to_networkx())
    assert back.is_tied == EXAMPLES[name].is_tied and same_function(EXAMPLES[name], back)


def test_from_networkx_fills_in_what_is_not_said() -> None:
    graph = nx.DiGraph()
    graph.add_node("one", kind="constant")
    graph.add_edges_from([("x", "a"), ("one", "a"), ("a", "y")])
    graph.add_edge("x", "y", param=-1, weight=Fraction(1, 3))
    dag = Dag.from_networkx(graph)
    assert (dag.num_inputs, dag.has_constant, dag.num_params, dag.activations) == (1, True, 3, ("relu", "identity"))
    assert list(dag.fixed.values()) == [Fraction(1, 3)]
    out = evaluate(dag, torch.tensor([2.0, 1.0, 10.0]), torch.tensor([[3.0]])).output
    assert out.item() == pytest.approx(10 * (1.0 * 3 + 2) + 3 / 3)  # edges in node order: the bias of a comes first


def test_order_of_outputs_is_kept() -> None:
    dag = EXAMPLES["outputs at two depths"]
    theta, x = torch.tensor([0.5, -2.0], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    inner = torch.tanh(0.5 * x)
    torch.testing.assert_close(evaluate(dag, theta, x).output, torch.cat([torch.tanh(-2 * inner), inner], 1))


GOOD = dict(num_inputs=1, has_constant=True, activations=("relu", "identity"), source=[0, 1, 2, 1], target=[2, 2, 3, 3],
            param=[0, 1, 2, 3], outputs=[3])  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inputs": 0}, "num_inputs is 0; a network needs at least one input unit"),
        ({"param": [0, 1, 2]}, r"lengths \(4, 4, 3\); give one entry per edge"),
        ({"target": [2, 2, 9, 3]}, r"an edge leaves the units 0 … 3"),
        ({"source": [-1, 1, 2, 1]}, r"an edge leaves the units 0 … 3"),
        ({"target": [1, 2, 3, 3]}, "edge 0 → 1 ends in an input or in the constant"),
        ({"source": [0, 1, 2, 0], "target": [2, 2, 3, 2]}, "two edges join the same pair of units; merge"),
        ({"source": [0, 1, 0, 1], "target": [3, 3, 3, 3]}, r"units \[2\] have no incoming edge"),
        ({"param": [0, 1, 2, 5]}, r"parameters \[0, 1, 2, 5\] are used; indices must be 0, 1, … without gaps"),
        ({"param": [0, 1, 2, -1]}, r"edges \[3\] have param −1 but no fixed weight"),
        ({"outputs": []}, r"outputs \[\]; name at least one, all computed units"),
        ({"outputs": [0]}, r"outputs \[0\]; name at least one, all computed units \(2 … 3\)"),
        ({"outputs": [3, 3]}, r"outputs \[3, 3\] repeat"),
        ({"activations": ("relu", "swish9")}, "unknown activation 'swish9'; known are"),
    ],
)
def test_refused_networks(change: dict, message: str) -> None:
    Dag(**GOOD)
    with pytest.raises(ValueError, match=message):
        Dag(**{**GOOD, **change})


def test_edges_that_go_backwards_are_no_dag() -> None:
    with pytest.raises(NotADagError, match=r"edge 3 → 2 does not go forward.*use Dag.from_networkx"):
        Dag(**{**GOOD, "source": [0, 1, 3, 1], "target": [2, 2, 2, 3]})


def test_cycles_are_named() -> None:
    with pytest.raises(NotADagError, match=r"not a DAG \(\[\('a', 'b'\), \('b', 'a'\)\]\).*remove it"):
        Dag.from_networkx(nx.DiGraph([("x", "a"), ("a", "b"), ("b", "a")]))
    with pytest.raises(NotADagError, match="an undirected graph"):
        Dag.from_networkx(nx.Graph([("x", "y")]))


def test_two_constants_are_refused() -> None:
    graph = nx.DiGraph([("x", "y"), ("p", "y"), ("q", "y")])
    graph.nodes["p"]["kind"] = graph.nodes["q"]["kind"] = "constant"
    with pytest.raises(ValueError, match=r"2 constant nodes \['p', 'q'\].*merge them"):
        Dag.from_networkx(graph)
