"""Equitable weights, structure conditions and quotients, against the definitions edge by edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import given
from hypothesis import strategies as st

from lop_theory.architectures import mlp, random_dag, residual_mlp
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.dag import Dag
from lop_theory.forward import error_signals, gradient, loss_derivatives, run_forward
from lop_theory.partition import (
    UnitPartition,
    biregular,
    block_constant,
    block_pairs,
    column_equitable,
    equitable_residuals,
    find_irregular,
    lumped_rates,
    printed_quotient,
    quotient,
    row_equitable,
    valid_cloning_structure,
)
from tests.lop_theory.equitable_strategies import ClonedPoint, cloned_points
from tests.reference import equitable as reference
from tests.reference.equitable import fraction


def units_of(dag: Dag, by_block: Any) -> np.ndarray:
    """[N, num_units] from values by block of equal depth; units without a value get 0."""
    out = None
    for b, values in by_block.items():
        out = np.full((len(values), dag.num_units), 0, dtype=object) if out is None else out
        out[:, dag.blocks[b].units] = values
    return out


def run(dag: Dag, theta: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact (h, δ at z, gradient), units in the columns."""
    theta, x, y = rational_array(theta), rational_array(x), rational_array(y)
    found = run_forward(RATIONALS, dag, theta, x)
    _, delta = error_signals(RATIONALS, dag, found, loss_derivatives(RATIONALS, found.output, y, "mse_sum")[0])
    return units_of(dag, found.h), units_of(dag, delta), gradient(dag, theta, x, y, "mse_sum", RATIONALS)


def spread_in_blocks(values: np.ndarray, partition: UnitPartition) -> Any:
    return max((values[:, list(b)].max(axis=1) - values[:, list(b)].min(axis=1)).max() for b in partition.blocks)


# -- residuals and predicates ------------------------------------------------------------------------------------------


@st.composite
def weighted_partitions(draw: st.DrawFn) -> tuple[Dag, list[int], UnitPartition]:
    """A random DAG, small integer weights and a random partition; shrinks towards one hidden unit and weights 0."""
    dag = random_dag(np.random.default_rng(draw(st.integers(0, 10_000))), 2, draw(st.integers(1, 4)), 2, "square", 0.6)
    theta = draw(st.lists(st.integers(-1, 1), min_size=dag.num_params, max_size=dag.num_params))
    labels = draw(st.lists(st.integers(0, 2), min_size=dag.num_units, max_size=dag.num_units))
    kinds = [0 if u < dag.num_inputs else 1 if u < dag.first_computed else 2 for u in range(dag.num_units)]
    groups: dict[tuple[int, int], list[int]] = {}
    for u, key in enumerate(zip(kinds, labels)):
        groups.setdefault(key, []).append(u)
    return dag, theta, UnitPartition.of(dag, groups.values())


@given(weighted_partitions())
def test_residuals_and_predicates_are_those_of_the_definition(case: tuple[Dag, list[int], UnitPartition]) -> None:
    dag, theta, partition = case
    expected = reference.equitable_residuals(dag, theta, partition.blocks)
    found = equitable_residuals(dag, theta, partition)
    assert tuple(fraction(v) for v in found) == expected
    assert equitable_residuals(dag, torch.tensor(theta, dtype=torch.float64), partition) == tuple(map(float, expected))
    predicates = (row_equitable, column_equitable, block_constant)
    assert [p(dag, theta, partition) for p in predicates] == [value == 0 for value in expected]
    assert biregular(dag, partition) == reference.is_biregular(dag, partition.blocks)


def test_predicates_of_floats_are_exact() -> None:
    net = mlp([1, 3, 1], bias=False)
    blocks = UnitPartition.of(net, [[1, 2, 3]])
    theta = torch.tensor([1.0, 1.0, 1.0 + 2**-52, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert not column_equitable(net, theta, blocks) and row_equitable(net, theta, blocks)
    assert equitable_residuals(net, theta, blocks) == (0.0, 2**-52, 2**-52)


def test_block_pairs_list_every_edge_once() -> None:
    net = random_dag(np.random.default_rng(3), 2, 4, 2)
    partition = UnitPartition.of(net, [[3, 5], [0, 1]])
    pairs = block_pairs(net, partition)
    assert sorted(np.concatenate([p.edges for p in pairs]).tolist()) == list(range(len(net.source)))
    for p in pairs:
        assert set(net.source[p.edges].tolist()) <= set(partition.blocks[p.source])
        assert set(net.target[p.edges].tolist()) <= set(partition.blocks[p.target])


# -- the necessity of each condition: hand-derived values with f(z) = z + z²/2 -----------------------------------------


def free_net(num_inputs: int, activations: str, edges: list[tuple[int, int]], outputs: list[int]) -> Dag:
    """A network without biases, edge k with parameter k."""
    source, target = zip(*edges)
    return Dag(num_inputs, False, tuple(activations.split()), source, target, range(len(edges)), outputs)


FAN = [(0, 1), (0, 2), (1, 3), (2, 3)]


def test_without_ce_forward_equality_fails_and_re_does_not_save_it() -> None:
    """Version 1 of Theorem A.2 (RE ⇒ equal forward): z = 1, 2 gives h = 1 + 1/2 and 2 + 2."""
    net = free_net(1, "quadratic quadratic identity", FAN, [3])
    blocks = UnitPartition.of(net, [[1, 2]])
    theta = [1, 2, 1, 1]
    assert row_equitable(net, theta, blocks) and not column_equitable(net, theta, blocks)
    assert run(net, theta, [[1]], [[0]])[0][0, 1:3].tolist() == [fmpq(3, 2), 4]


def test_without_re_error_signals_differ_and_a_step_destroys_ce() -> None:
    """h = 3/2 twice, f = 3/2 + 2 · 3/2 = 9/2, δ = w · 9/2 · f'(1) = 9 and 18; a step of 1/10 moves by 9/10 more."""
    net = free_net(1, "quadratic quadratic identity", FAN, [3])
    blocks = UnitPartition.of(net, [[1, 2]])
    theta = rational_array([1, 1, 1, 2])
    h, delta, grad = run(net, theta, [[1]], [[0]])
    assert column_equitable(net, theta, blocks) and not row_equitable(net, theta, blocks)
    assert h[0, 1] == h[0, 2] == fmpq(3, 2) and delta[0, 1:3].tolist() == [9, 18]
    assert equitable_residuals(net, theta - grad / 10, blocks).column == fmpq(9, 10)


def test_without_biregularity_equal_gradients_leave_the_manifold() -> None:
    """u1→v1, u1→v2, u2→v1 of weights 0, 1, 1: RE and CE hold, h and δ are equal, all three edges have the gradient
    105/8 · 3/2 = 315/16, and after a step of 1/100 the row sums differ by one of them: 315/1600."""
    net = free_net(1, "quadratic " * 4 + "identity", [(0, 1), (0, 2), (1, 3), (1, 4), (2, 3), (3, 5), (4, 5)], [5])
    blocks = UnitPartition.of(net, [[1, 2], [3, 4]])
    theta = rational_array([1, 1, 0, 1, 1, 1, 1])
    h, delta, grad = run(net, theta, [[1]], [[0]])
    assert row_equitable(net, theta, blocks) and column_equitable(net, theta, blocks)
    assert spread_in_blocks(h, blocks) == 0 == spread_in_blocks(delta, blocks)
    assert grad[2:5].tolist() == [fmpq(315, 16)] * 3
    after = theta - grad / 100
    assert equitable_residuals(net, after, blocks)[:2] == (fmpq(315, 1600),) * 2
    assert spread_in_blocks(run(net, after, [[1]], [[0]])[0], blocks) > 0
    assert not biregular(net, blocks)
    pair = find_irregular(net, blocks)
    assert pair is not None and [blocks.blocks[pair.source], blocks.blocks[pair.target]] == [(1, 2), (3, 4)]
    assert [v.condition for v in valid_cloning_structure(net, blocks)] == ["C3"]
    with pytest.raises(ValueError, match="not biregular"):
        quotient(net, theta, blocks)


def test_with_edges_inside_a_block_equal_gradients_leave_the_manifold() -> None:
    """Six edges in a block of four: h = 3/2, f = 6, δ = 6 · f'(1) = 12 and the gradient of all six is 18. Column sums
    then move by 0, 1, 2, 3 of them: 3 · 18/100 after a step of 1/100."""
    inside = [(1, 3), (2, 4), (1, 4), (2, 3), (1, 2), (3, 4)]
    edges = [(0, k) for k in range(1, 5)] + inside + [(k, 5) for k in range(1, 5)]
    net = free_net(1, "quadratic " * 4 + "identity", edges, [5])
    blocks = UnitPartition.of(net, [[1, 2, 3, 4]])
    theta = rational_array([1, 1, 1, 1, 1, 1, -1, -1, 0, 0, 1, 1, 1, 1])
    h, delta, grad = run(net, theta, [[1]], [[0]])
    assert row_equitable(net, theta, blocks) and column_equitable(net, theta, blocks)
    assert spread_in_blocks(h, blocks) == 0 == spread_in_blocks(delta, blocks)
    assert grad[4:10].tolist() == [18] * 6
    assert equitable_residuals(net, theta - grad / 100, blocks)[:2] == (fmpq(54, 100),) * 2
    assert valid_cloning_structure(net, blocks) == (("C3", "edges inside block [1, 2, 3, 4]"),)


def test_without_equal_inputs_clones_differ() -> None:
    net = free_net(2, "quadratic quadratic identity", [(0, 2), (1, 3), (0, 3), (1, 2), (2, 4), (3, 4)], [4])
    blocks = UnitPartition.of(net, [[0, 1], [2, 3]])
    theta = [1, 1, 0, 0, 1, 1]
    assert row_equitable(net, theta, blocks) and column_equitable(net, theta, blocks)
    assert run(net, theta, [[1, 2]], [[0]])[0][0, 2:4].tolist() == [fmpq(3, 2), 4]
    assert spread_in_blocks(run(net, theta, [[2, 2]], [[0]])[0], blocks) == 0
    assert [v.condition for v in valid_cloning_structure(net, blocks)] == ["C4"]
    assert valid_cloning_structure(net, blocks, equal_inputs=True) == ()


def test_without_a_shared_activation_clones_differ() -> None:
    net = free_net(1, "quadratic square identity", FAN, [3])
    blocks = UnitPartition.of(net, [[1, 2]])
    assert block_constant(net, [1, 1, 1, 1], blocks)
    assert run(net, [1, 1, 1, 1], [[1]], [[0]])[0][0, 1:3].tolist() == [fmpq(3, 2), 1]
    assert [v.condition for v in valid_cloning_structure(net, blocks)] == ["C2"]
    with pytest.raises(ValueError, match="one activation"):
        quotient(net, [1, 1, 1, 1], blocks)


def test_without_equal_output_adjoints_the_gradient_is_not_block_constant() -> None:
    """f = 1 twice, y = 0 and 1: the edge gradients are 1 and 0."""
    net = free_net(1, "identity identity", [(0, 1), (0, 2)], [1, 2])
    blocks = UnitPartition.of(net, [[1, 2]])
    assert run(net, [1, 1], [[1]], [[0, 1]])[2].tolist() == [1, 0]
    assert [v.condition for v in valid_cloning_structure(net, blocks)] == ["C4"]
    assert valid_cloning_structure(net, blocks, equal_outputs=True) == ()
    mixed = free_net(1, "identity identity", [(0, 1), (0, 2), (1, 2)], [2])
    found = valid_cloning_structure(mixed, UnitPartition.of(mixed, [[1, 2]]), equal_outputs=True)
    assert [v.condition for v in found] == ["C3", "C4"]


def test_an_incomplete_biregular_pair_is_enough() -> None:
    """A six-cycle between two blocks of three: each unit has two edges. Steps stay on RE ∩ CE, off block-constant."""
    ring = [(1, 4), (1, 5), (2, 5), (2, 6), (3, 6), (3, 4)]
    edges = [(0, k) for k in (1, 2, 3)] + ring + [(k, 7) for k in (4, 5, 6)]
    net = free_net(1, "quadratic " * 6 + "identity", edges, [7])
    blocks = UnitPartition.of(net, [[1, 2, 3], [4, 5, 6]])
    theta = rational_array([1, 1, 1, 2, -1, 2, -1, 2, -1, 1, 1, 1])
    assert valid_cloning_structure(net, blocks) == () and not block_constant(net, theta, blocks)
    base, weights = quotient(net, theta, blocks)
    rates = lumped_rates(net, blocks)
    assert [str(r) for r in rates] == ["1/3", "2/3", "3"]  # |E|/|S_j|² = 3/9, 6/9, 3/1
    for _ in range(2):
        assert row_equitable(net, theta, blocks) and column_equitable(net, theta, blocks)
        grad, base_grad = run(net, theta, [[1]], [[2]])[2], run(base, weights, [[1]], [[2]])[2]
        theta, weights = theta - grad / 1000, weights - base_grad * rational_array(rates) / 1000
        assert quotient(net, theta, blocks)[1].tolist() == weights.tolist()


# -- quotient ----------------------------------------------------------------------------------------------------------


@given(cloned_points())
def test_quotient_has_the_same_activations_and_split_error_signals(point: ClonedPoint) -> None:
    """h(v) = h̃ and δ(v) = δ̃/|S_v|; block j of a clone is base unit j."""
    base, weights = quotient(point.dag, point.theta, point.partition)
    assert (base.source.tolist(), base.target.tolist()) == (point.base.source.tolist(), point.base.target.tolist())
    assert weights.tolist() == point.base_theta.tolist()
    h, delta, _ = run(point.dag, point.theta, point.x, point.y)
    base_h, base_delta, _ = run(base, weights, point.x, point.y)
    block, sizes = point.partition.block_of, np.array(point.partition.sizes, dtype=object)
    assert (h == base_h[:, block]).all()
    assert (delta * sizes[block] == base_delta[:, block]).all()


@given(cloned_points(("quadratic", "square")))
def test_lumped_dynamics_is_gradient_descent_with_scaled_rates(point: ClonedPoint) -> None:
    theta, (base, weights) = point.theta, quotient(point.dag, point.theta, point.partition)
    rates = rational_array(lumped_rates(point.dag, point.partition))
    for _ in range(2):
        grad = run(point.dag, theta, point.x, point.y)[2]
        base_grad = run(base, weights, point.x, point.y)[2]
        theta, weights = theta - grad / 64, weights - base_grad * rates / 64
        assert quotient(point.dag, theta, point.partition)[1].tolist() == weights.tolist()


def test_the_printed_quotient_is_not_a_base() -> None:
    """1-2-1, in-weights 3, out-weights 2: f = 2 · 2 · (3x)² = 36 at x = 1; printed weights 6 and 2 give 2 · 36 = 72."""
    net = free_net(1, "square square identity", FAN, [3])
    blocks = UnitPartition.of(net, [[1, 2]])
    theta = [3, 3, 2, 2]
    base, weights = printed_quotient(net, theta, blocks)
    assert run(net, theta, [[1]], [[0]])[0][0, 3] == 36
    assert run(base, weights, [[1]], [[0]])[0][0, 2] == 72
    assert run(*quotient(net, theta, blocks), [[1]], [[0]])[0][0, 2] == 36


def test_quotient_of_a_tensor_is_a_tensor() -> None:
    net = mlp([1, 2, 1], "square")
    theta = torch.tensor([3.0, 3.0, 1.0, 1.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    weights = quotient(net, theta, UnitPartition.of(net, [[2, 3]]))[1]
    assert isinstance(weights, torch.Tensor) and weights.tolist() == [3.0, 1.0, 4.0, 0.0]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([[2, 3], [3, 4]], "units [3] appear twice"),
        ([[2, 9]], "units [9] do not exist"),
        ([[0, 2]], "mixes computed and input units"),
        ([[0, 1]], "mixes constant and input units"),
        ([[]], "a block is empty"),
    ],
)
def test_bad_blocks_are_refused(blocks: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        UnitPartition.of(mlp([1, 3, 1]), blocks)


def test_a_partition_that_does_not_cover_is_refused() -> None:
    with pytest.raises(ValueError, match="do not cover 0 … 3"):
        UnitPartition([[0], [3, 1]])
    with pytest.raises(ValueError, match="the partition has 3 units, the network 5"):
        equitable_residuals(mlp([1, 2, 1]), [0] * 7, UnitPartition([[0], [1], [2]]))


def test_tied_and_fixed_weights_are_refused() -> None:
    tied = Dag(1, False, ("identity", "identity"), [0, 0], [1, 2], [0, 0], [1, 2])
    with pytest.raises(ValueError, match="2 edges share 1 parameters"):
        equitable_residuals(tied, [1], UnitPartition.of(tied, []))
    fixed = residual_mlp(1, 2, 1, 1)
    with pytest.raises(ValueError, match="has a fixed weight"):
        quotient(fixed, [0] * fixed.num_params, UnitPartition.of(fixed, []))
    assert valid_cloning_structure(fixed, UnitPartition.of(fixed, []))[0].condition == "C1"


def test_theta_of_the_wrong_length_or_not_finite_is_refused() -> None:
    net = mlp([1, 2, 1])
    blocks = UnitPartition.of(net, [])
    with pytest.raises(ValueError, match="P = 7"):
        equitable_residuals(net, [0] * 6, blocks)
    with pytest.raises(ValueError, match="NaN"):
        equitable_residuals(net, torch.full((7,), float("nan"), dtype=torch.float64), blocks)
