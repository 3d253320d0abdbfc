"""Cloning keeps the function; gradients at RE ∩ CE are tangent to the leaf, over Q and for every sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import given

from lop_theory.architectures import init_params, mlp, random_dag, residual_mlp
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.cloned import clone, cloned_leaf, cloned_manifold, redistribute
from lop_theory.dag import Dag
from lop_theory.exact import exact_hessian
from lop_theory.forward import evaluate, gradient
from lop_theory.partition import (
    UnitPartition,
    block_constant,
    block_pairs,
    column_equitable,
    equitable_residuals,
    row_equitable,
    valid_cloning_structure,
)
from tests.lop_theory.equitable_strategies import ClonedPoint, cloned_points
from tests.reference import equitable as reference
from tests.reference.equitable import fraction


def exact_gradient(dag: Dag, theta: Any, x: Any, y: Any) -> np.ndarray:
    found: np.ndarray = gradient(dag, theta, x, y, "mse_sum", RATIONALS)
    return found


@given(cloned_points())
def test_clone_and_redistribution_keep_every_activation(point: ClonedPoint) -> None:
    """By the edge-by-edge oracle: h of every copy is h of its original."""
    assert block_constant(point.dag, point.tiled, point.partition)
    for sample in point.x:
        _, base = reference.forward(point.base, point.base_theta, sample)
        for theta in (point.tiled, point.theta):
            _, wide = reference.forward(point.dag, theta, sample)
            assert all(wide[u] == base[j] for j, block in enumerate(point.partition.blocks) for u in block)


@given(cloned_points())
def test_redistributed_weights_are_equitable_and_on_the_manifold(point: ClonedPoint) -> None:
    dag, theta, partition = point.dag, point.theta, point.partition
    assert valid_cloning_structure(dag, partition) == ()
    assert row_equitable(dag, theta, partition) and column_equitable(dag, theta, partition)
    manifold = cloned_manifold(dag, partition)
    assert (
        manifold.contains(theta)
        and manifold.contains(point.tiled)
        and cloned_leaf(dag, theta, partition).contains(theta)
    )
    assert cloned_leaf(dag, theta, partition).contains(point.tiled) == bool((theta == point.tiled).all())


@given(cloned_points())
def test_manifold_membership_is_row_and_column_equitability(point: ClonedPoint) -> None:
    """A point with one weight moved: the equations and the definition agree."""
    dag, partition = point.dag, point.partition
    manifold = cloned_manifold(dag, partition)
    for k in range(0, dag.num_params, 5):
        moved = point.theta.copy()
        moved[k] = moved[k] + 1
        both = row_equitable(dag, moved, partition) and column_equitable(dag, moved, partition)
        assert manifold.contains(moved) == both


@given(cloned_points())
def test_gradients_of_every_sample_are_tangent_to_the_leaf(point: ClonedPoint) -> None:
    """Barriers Theorem 2.1(2) repaired, sample by sample, with the oracle's gradient and the library's."""
    leaf = cloned_leaf(point.dag, point.theta, point.partition)
    manifold = cloned_manifold(point.dag, point.partition)
    edges = list(zip(point.dag.source.tolist(), point.dag.target.tolist()))
    for x, y in zip(point.x, point.y):
        _, by_edge = reference.edge_gradients(point.dag, point.theta, x, y)
        grad = exact_gradient(point.dag, point.theta, x[None], y[None])
        assert [by_edge[e] for e in edges] == [fraction(v) for v in grad[point.dag.param]]
        for pair in block_pairs(point.dag, point.partition):
            assert len({fraction(grad[k]) for k in point.dag.param[pair.edges]}) == 1
        assert (leaf.normal_part(grad) == 0).all() and (manifold.normal_part(grad) == 0).all()


@given(cloned_points(("quadratic", "square")))
def test_gradient_steps_stay_on_the_leaf(point: ClonedPoint) -> None:
    leaf, theta = cloned_leaf(point.dag, point.theta, point.partition), point.theta
    for k in range(2):
        theta = theta - exact_gradient(point.dag, theta, point.x + k, point.y) / 32
        assert leaf.contains(theta) and cloned_manifold(point.dag, point.partition).contains(theta)


@given(cloned_points())
def test_dimensions(point: ClonedPoint) -> None:
    """Leaf: one per pair. Manifold, complete pairs: (m−1)(n−1) + 1 each."""
    pairs = block_pairs(point.dag, point.partition)
    sizes = point.partition.sizes
    assert cloned_leaf(point.dag, point.theta, point.partition).dim == len(pairs) == point.base.num_params
    expected = sum((sizes[p.source] - 1) * (sizes[p.target] - 1) + 1 for p in pairs)
    assert cloned_manifold(point.dag, point.partition).dim == expected


def test_weight_decay_leaves_the_leaf_but_not_the_manifold() -> None:
    """RE ∩ CE is linear: scaling stays (Remark 2.3 says that weight decay may break it)."""
    net = mlp([1, 2, 2, 1], "quadratic", bias=False)
    blocks = UnitPartition.of(net, [[1, 2], [3, 4]])
    theta = rational_array([1, 1, 3, -1, -1, 3, 1, 1])
    assert not block_constant(net, theta, blocks)
    assert cloned_manifold(net, blocks).contains(theta / 2) and not cloned_leaf(net, theta, blocks).contains(theta / 2)


def test_the_hessian_vanishes_along_redistributions() -> None:
    """h and δ do not notice Z, so neither does the gradient: H Z = 0 (not only Zᵀ H Z = 0)."""
    base = mlp([1, 1, 1, 1], "quadratic")
    wide, theta, blocks = clone(base, [1, 1, 1, -1, 2, 1], 3)
    theta = redistribute(wide, theta, blocks, np.random.default_rng(0))
    z = redistribute(wide, theta, blocks, np.random.default_rng(1)) - theta
    assert (z != 0).any()
    h = exact_hessian(wide, theta, [[1], [2]], [[0], [1]])
    assert all(sum((h[i, k] * z[k] for k in range(wide.num_params)), fmpq(0)) == 0 for i in range(wide.num_params))
    assert any(h[i, k] != 0 for i in range(wide.num_params) for k in range(wide.num_params))


# -- layout and number systems -----------------------------------------------------------------------------------------


def test_cloning_an_mlp_gives_the_layout_of_the_wider_mlp() -> None:
    wide, theta, partition = clone(mlp([2, 2, 1, 1], "tanh"), [0, 1, 2, 3, 4, 5, 6, 12, 8, 9, 10], {3: 2, 4: 3, 5: 2})
    expected = mlp([2, 5, 2, 1], "tanh")
    for name in ("source", "target", "param", "outputs"):
        assert getattr(wide, name).tolist() == getattr(expected, name).tolist()
    assert wide.activations == expected.activations
    assert partition.blocks == ((0,), (1,), (2,), (3, 4), (5, 6, 7), (8, 9), (10,))
    assert theta[:4].tolist() == [0, 1, 0, 1]  # inputs are not divided
    assert theta[15:20].tolist() == [3, 3, 4, 4, 4]  # W2 = (6, 12), divided by the sizes 2 and 3 of the sources


def test_multiplicity_one_is_the_same_network() -> None:
    base = random_dag(np.random.default_rng(5), 2, 4, 2)
    theta = list(range(base.num_params))
    same, weights, _ = clone(base, theta, 1)
    assert weights.tolist() == theta
    assert (same.source[np.argsort(same.param)] == base.source[np.argsort(base.param)]).all()
    assert (same.target[np.argsort(same.param)] == base.target[np.argsort(base.param)]).all()


def test_float_clones_compute_the_same_function(generator: torch.Generator) -> None:
    base = mlp([3, 4, 4, 2], "tanh")
    theta = init_params(base, generator)
    wide, weights, blocks = clone(base, theta, [1, 2, 3, 2, 1, 4, 1, 2])
    moved = redistribute(wide, weights, blocks, generator)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    expected = evaluate(base, theta, x).output
    for parameters in (weights, moved):
        assert parameters.dtype == torch.float64
        torch.testing.assert_close(evaluate(wide, parameters, x).output, expected, rtol=0, atol=1e-13)
    residuals = equitable_residuals(wide, moved, blocks)
    assert residuals.row < 1e-13 and residuals.column < 1e-13 and residuals.block_constant > 0.1
    assert cloned_manifold(wide, blocks).contains(moved, tolerance=1e-12)
    leaf = cloned_leaf(wide, moved, blocks)
    assert leaf.contains(moved)  # differences of floats are taken exactly
    grad = gradient(wide, moved, x, torch.zeros(7, 2, dtype=torch.float64), "mse")
    assert float(leaf.normal_part(grad).norm()) < 1e-13 < float(leaf.tangent_part(grad).norm())


def test_numpy_floats_stay_numpy_floats() -> None:
    wide, weights, blocks = clone(mlp([1, 1, 1]), np.array([1.0, 2.0, 3.0, 4.0]), 2)
    assert isinstance(weights, np.ndarray) and weights.dtype == np.float64
    assert redistribute(wide, weights, blocks, np.random.default_rng(0)).dtype == np.float64


def test_redistribution_moves_only_pairs_with_two_sources_and_two_targets(generator: torch.Generator) -> None:
    wide, theta, blocks = clone(mlp([2, 1, 1], "relu"), [1, 1, 1, 1, 1], 3)
    assert (redistribute(wide, theta, blocks, generator) == theta).all()


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("multiplicity", "message"),
    [
        (0, "multiplicity 0 of unit 2"),
        ({2: 1.5}, "multiplicity 1.5 of unit 2"),
        ({0: 2}, "unit 0 is not hidden"),
        ({4: 2}, "unit 4 is not hidden"),
        ([2], "1 multiplicities for 2 hidden units"),
    ],
)
def test_bad_multiplicities_are_refused(multiplicity: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clone(mlp([1, 2, 1]), [0] * 7, multiplicity)


def test_fixed_weights_are_refused() -> None:
    net = residual_mlp(1, 2, 1, 1)
    theta, blocks = [0] * net.num_params, UnitPartition.of(net, [])
    for call in (
        lambda: clone(net, theta, 2),
        lambda: cloned_manifold(net, blocks),
        lambda: cloned_leaf(net, theta, blocks),
        lambda: redistribute(net, theta, blocks, np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match="fixed weight"):
            call()


def test_the_manifold_of_singletons_is_everything() -> None:
    net = mlp([1, 2, 1])
    manifold = cloned_manifold(net, UnitPartition.of(net, []))
    assert manifold.dim == net.num_params and manifold.equations == ()
