"""Helpers of the Barriers claims on manifolds, frozen and cloned units, against independent computations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory.architectures import mlp
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.cloned import cloned_manifold
from lop_theory.forward import gradient, loss
from lop_theory.partition import UnitPartition, column_equitable, row_equitable, valid_cloning_structure
from proofs_checks.claim import Verdict
from proofs_checks.claims import barriers_frozen, barriers_manifolds, barriers_proofs
from proofs_checks.claims.barriers_cloning import CHECK_CLONING
from proofs_checks.claims.barriers_graphs import block_networks, equitable_subspace, network, tangled_networks
from proofs_checks.claims.barriers_trajectories import Equation, trajectory
from proofs_checks.instances import Instance
from proofs_checks.recheck import recheck

FEW = settings(max_examples=25, deadline=None)


def test_trajectory_is_that_of_torch_sgd() -> None:
    net = mlp([2, 3, 1], "quadratic")
    rng = np.random.default_rng(0)
    theta, x, y = (rng.integers(-2, 3, s).astype(float) / 4 for s in (net.num_params, (3, 2), (3, 1)))
    extra = {"steps": 3, "rate": fmpq(1, 16), "momentum": fmpq(1, 2), "weight_decay": fmpq(1, 8)}
    exact = trajectory(Instance(net, theta, x, y, extra=extra))[-1]
    p = torch.from_numpy(theta).requires_grad_()
    optimizer = torch.optim.SGD([p], lr=1 / 16, momentum=1 / 2, weight_decay=1 / 8)
    for _ in range(3):
        optimizer.zero_grad()
        loss(net, p, torch.from_numpy(x), torch.from_numpy(y), "mse_sum").backward()
        optimizer.step()
    np.testing.assert_allclose(p.detach().numpy(), exact.astype(float), rtol=1e-12, atol=1e-12)


@given(barriers_manifolds.affine_manifolds())
@FEW
def test_sample_gradients_add_up_to_the_gradient(instance: Instance) -> None:
    theta = rational_array(instance.theta)
    whole = gradient(instance.dag, theta, instance.x, instance.y, "mse_sum", RATIONALS)
    per_sample = barriers_manifolds.sample_gradients(instance, theta)
    assert (per_sample.sum(axis=0) == whole).all()
    first = gradient(instance.dag, theta, instance.x[:1], instance.y[:1], "mse_sum", RATIONALS)
    assert (per_sample[0] == first).all()


def test_slope_of_an_equation_is_its_directional_derivative() -> None:
    equation = Equation({0: fmpq(3), 2: fmpq(-1)}, fmpq(7), {1: fmpq(2), 2: fmpq(-5)})
    theta, v, t = rational_array([2, -3, 5]), rational_array([1, 4, -2]), fmpq(1, 3)
    forward, back = equation.value(theta + t * v), equation.value(theta - t * v)
    assert (forward - back) / (2 * t) == equation.slope(theta, v)  # exact for a quadratic


@given(block_networks())
@FEW
def test_block_networks_satisfy_the_theorem_by_construction(instance: Instance) -> None:
    partition = instance.extra["partition"]
    assert not valid_cloning_structure(instance.dag, partition, equal_inputs=True, equal_outputs=True)
    assert row_equitable(instance.dag, instance.theta, partition)
    assert column_equitable(instance.dag, instance.theta, partition)


@given(st.one_of(block_networks(), tangled_networks(), block_networks(irregular=True, inner=True)))
@FEW
def test_equitable_subspace_is_the_cloned_manifold(instance: Instance) -> None:
    partition = instance.extra["partition"]
    mine, other = equitable_subspace(instance.dag, partition), cloned_manifold(instance.dag, partition)
    assert mine.dim == other.dim
    assert all(other.contains(column) for column in mine.tangent_basis(exact=True).T)


def test_the_example_of_two_pairs_joined_by_three_edges() -> None:
    """{u1, u2} → {v1, v2} with edges u1v1, u1v2, u2v1 of weights 0, 1, 1: RE, CE and all values agree; a step breaks them."""
    edges = ((0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (3, 5), (4, 5))
    net = network(1, False, ("quadratic",) * 4 + ("identity",), edges, 1)
    partition = UnitPartition.of(net, [[1, 2], [3, 4]])
    theta = rational_array([1, 1, 0, 1, 1, 1, 1])
    instance = Instance(net, theta, np.ones((1, 1)), np.zeros((1, 1)), extra={"partition": partition, "steps": 1})
    assert row_equitable(net, theta, partition) and column_equitable(net, theta, partition)
    evidence = CHECK_CLONING(instance)
    assert evidence.verdict is Verdict.FAILS and "after step 1" in evidence.note
    assert evidence.witness is not None
    document = {**evidence.witness(), "claim": "barriers.thm2.1.cloned", "role": "counterexample", "variant": ""}
    assert recheck(document).confirmed
    complete = replace(instance, extra={"partition": UnitPartition.of(net, [[1, 2]]), "steps": 2})
    assert CHECK_CLONING(complete).verdict is Verdict.FAILS  # u1 has two edges downstream, u2 one


def test_the_example_of_a_unit_that_comes_back() -> None:
    """x → h → v → y with a skip h → y; a = w = 1, b = −3, target 16: v is dead, and alive after a few steps of size 1/20."""
    net = barriers_frozen.skip_network(1, 1, 1, "relu")
    theta = rational_array([1, 0, -3, 1, 0, 1, 1])  # h: weight, bias; v: bias, weight; y: bias, skip, weight
    extra = {"frozen": (3,), "steps": 4, "rate": fmpq(1, 20)}
    instance = Instance(net, theta, np.ones((1, 1)), np.full((1, 1), 16.0), extra=extra)
    evidence = barriers_frozen.check_printed(instance)
    assert evidence.verdict is Verdict.FAILS and evidence.witness is not None
    document = {**evidence.witness(), "claim": "barriers.thm2.1.frozen", "role": "counterexample", "variant": ""}
    assert recheck(document).confirmed
    assert barriers_frozen.check_printed(replace(instance, extra={**extra, "steps": 1})).verdict is Verdict.HOLDS


def test_the_symbolic_proof_refuses_a_network_that_is_not_biregular() -> None:
    net = network(1, False, ("square", "square", "identity"), ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3)), 1)
    with pytest.raises(AssertionError, match="one step"):
        barriers_proofs._prove_on(net, UnitPartition.of(net, [[1, 2]]))
