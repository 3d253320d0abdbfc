"""Helpers of the claims on L2-ER and gradient noise, against slower computations."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from lop_theory.rank import effective_rank
from proofs_checks.claims import effective_ranks, noise_scale, regularizer_steps, regularizers
from proofs_checks.instances import Instance
from proofs_checks.recheck_core.effective_rank import entropy_rank, gram
from proofs_checks.strategies import layer_units


def instance(seed=0, dims=(2, 3, 3, 1), samples=4):
    draw, dag = np.random.default_rng(seed), mlp(list(dims))
    theta = draw.integers(-2, 3, dag.num_params).astype(float)
    return Instance(dag, theta, draw.integers(-3, 4, (samples, dims[0])).astype(float), np.zeros((samples, dims[-1])))


@given(st.integers(0, 2**16), st.sampled_from([1, 2]))
def test_effective_rank_against_float_and_checker(seed, power):
    rows = np.random.default_rng(seed).integers(-3, 4, (3, 4)).astype(float)
    if rows.any():
        ours = effective_ranks.effective(rational_array(rows) / 3, power)
        matrix = rows if power == 1 else rows.T @ rows
        assert math.isclose(float(ours), effective_rank(matrix), rel_tol=1e-9)
        independent = entropy_rank(gram([[int(v) for v in row] for row in rows]), power)
        assert math.isclose(float(ours), float(independent), rel_tol=1e-14)


def test_features_are_the_hidden_activations():
    net = instance()
    h = torch.from_numpy(net.x)
    params = regularizer_steps._params(net)
    for k, F in enumerate(effective_ranks.features(net)):
        h = torch.relu(h @ params[2 * k][0].T + params[2 * k + 1][0])
        assert np.array_equal(F.astype(float), h.numpy())
    assert torch.equal(torch.cat([p.flatten() for p in params]), torch.from_numpy(net.theta))


def test_alive_layers_fire_on_every_sample():
    for seed in range(20):
        net = instance(seed)
        theta = effective_ranks.alive(net.dag, net.theta, net.x)
        lifted = Instance(net.dag, theta, net.x, net.y)
        assert all((F[:, 0] > 0).all() for F in effective_ranks.features(lifted))


def test_readings_by_their_definition():
    net = instance(3)
    net = Instance(net.dag, effective_ranks.alive(net.dag, net.theta, net.x), net.x, net.y)
    values = regularizers.readings(net)
    moments = [F.astype(float).T @ F.astype(float) for F in effective_ranks.features(net)]
    assert math.isclose(float(values.total), effective_rank(sum(moments)), rel_tol=1e-9)
    assert math.isclose(float(values.sum), sum(effective_rank(C) for C in moments), rel_tol=1e-9)


def test_a_difference_quotient_is_a_derivative():
    """diag(1, s): erank = exp h(1/(1 + s)), whose derivative in s has a closed form."""
    d = regularizers.Direction(np.diag([1.0, 3.0]), np.diag([0.0, 1.0]))
    p = np.array([0.25, 0.75])
    H = -(p * np.log(p)).sum()
    assert math.isclose(regularizers.quotient(d), -math.exp(H) * (math.log(0.75) + H) / 4, rel_tol=1e-12)


def test_tensors_partition_the_parameters():
    net = instance()
    parts = list(noise_scale.tensors(net))
    assert sorted(k for part in parts for k in part) == list(range(net.dag.num_params))
    assert [len(p) for p in parts] == [6, 3, 9, 3, 3, 1]


def test_scaling_touches_the_weights_of_one_layer_only():
    net = Instance(mlp([2, 2, 2, 1], bias=False), np.arange(1.0, 11.0), np.ones((1, 2)), np.zeros((1, 1)))
    net = Instance(net.dag, net.theta, net.x, net.y, extra={"layer": 2, "factor": 3})
    changed = regularizers._scaled_theta(net).astype(float) / net.theta
    into = net.dag.param[np.isin(net.dag.target, layer_units(net.dag, 2))]
    assert set(np.flatnonzero(changed == 3)) == set(into.tolist()) and set(changed) == {1.0, 3.0}
