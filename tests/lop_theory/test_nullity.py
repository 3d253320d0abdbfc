"""The nullity book against a polynomial oracle, exact Hessians, closed forms, and its errors."""

from __future__ import annotations

from dataclasses import replace

import flint
import numpy as np
import pytest
import torch

from lop_theory.alike import groups
from lop_theory.architectures import mlp, random_dag
from lop_theory.arithmetic import FLOATS
from lop_theory.certified_rank import certified_rank
from lop_theory.cloned import clone, redistribute
from lop_theory.exact import exact_hessian
from lop_theory.forward import run_forward
from lop_theory.gates import gate_pattern
from lop_theory.modular import exact_forward, modular_hessian, primes_for
from lop_theory.nullity import MECHANISMS, null_directions, nullity_book, redistributions, residue_directions
from lop_theory.partition import UnitPartition
from lop_theory.rank import exact_rank
from tests.reference.autodiff import hessian
from tests.reference.nullity import generic_nullity


def layer(rng, inputs, hidden, outputs, samples, kind="mse_sum", activation="relu"):
    """One hidden layer on integers, pre-activations odd; live units are open on part of the batch."""
    dag = mlp([inputs, hidden, outputs], activation)
    theta = rng.choice([-4.0, -2.0, 2.0, 4.0], dag.num_params)
    biases = dag.param[(dag.source == dag.constant) & np.isin(dag.target, dag.hidden)]
    theta[biases] = 2 * rng.integers(-10, 10, hidden) + 1
    x = rng.integers(-20, 21, (samples, inputs)).astype(float)
    y = (
        rng.integers(0, outputs, samples)
        if kind == "cross_entropy"
        else rng.integers(-50, 51, (samples, outputs)) * 1.0
    )
    return dag, theta, x, y


def incoming(dag, k):
    return dag.param[dag.incoming(int(dag.hidden[k]))]


def bias(dag, k):
    unit = int(dag.hidden[k])
    return dag.param[(dag.source == dag.constant) & (dag.target == unit)]


def outgoing(dag, k):
    return dag.param[dag.outgoing(int(dag.hidden[k]))]


@pytest.mark.parametrize("seed", range(6))
def test_the_book_is_the_generic_nullity_of_one_layer(seed):
    rng = np.random.default_rng(seed)
    dag, theta, x, y = layer(rng, 1, 4, 1 + seed % 2, 12)
    theta[incoming(dag, 1)] = theta[incoming(dag, 0)]  # a clone
    theta[bias(dag, 2)] = -999  # a dead unit
    book = nullity_book(dag, theta, x, y)
    oracle = generic_nullity(dag, [int(t) for t in theta], x.astype(int).tolist(), y.astype(int).tolist())
    assert book.certified
    assert book.total == oracle
    assert book["closed"] + book["silent"] == 2 + dag.num_outputs


@pytest.mark.parametrize("seed", range(8))
def test_every_direction_is_null_and_counted_once(seed):
    rng = np.random.default_rng(seed)
    dag = [mlp([1, 2, 2, 1]), random_dag(rng, 2, 3, 2), mlp([2, 3, 2], "square"), mlp([2, 2, 2, 2], "abs")][seed % 4]
    theta = 2.0 * rng.integers(-2, 3, dag.num_params)
    theta[dag.param[(dag.source == dag.constant) & np.isin(dag.target, dag.hidden)]] += 1
    dag, theta, _ = clone(dag, theta, {int(dag.hidden[0]): 2})
    x, y = rng.integers(-5, 6, (6, dag.num_inputs)) * 1.0, rng.integers(-9, 10, (6, dag.num_outputs)) * 1.0
    bases = null_directions(dag, theta, x, y)
    columns = [b for basis in bases.values() for b in basis.transpose().tolist()]
    matrix = flint.fmpq_mat(len(columns), dag.num_params, [v for c in columns for v in c])
    assert matrix * exact_hessian(dag, theta, x, y) == flint.fmpq_mat(len(columns), dag.num_params)
    book = nullity_book(dag, theta, x, y)
    assert book.total == exact_rank(matrix)
    assert book.certified
    prime = next(primes_for(dag, len(x)))
    assert len(residue_directions(dag, theta, x, y, "mse_sum", prime)) == book.total


@pytest.mark.parametrize("seed", range(4))
def test_directions_of_cross_entropy_are_null_modulo_a_prime(seed):
    dag, theta, x, y = layer(np.random.default_rng(seed), 2, 4, 3, 30, "cross_entropy")
    theta[incoming(dag, 1)] = theta[incoming(dag, 0)]
    prime = next(primes_for(dag, len(x)))
    basis = residue_directions(dag, theta, x, y, "cross_entropy", prime)
    matrix = modular_hessian(dag, exact_forward(dag, theta, x), y, "cross_entropy", prime).astype(np.int64)
    assert len(basis) == nullity_book(dag, theta, x, y, "cross_entropy").total > 0
    assert not ((basis @ (matrix % prime)) % prime).any()


@pytest.mark.parametrize(("inputs", "outputs", "copies"), [(1, 1, 2), (3, 1, 2), (1, 4, 3), (2, 2, 3)])
def test_generic_clones_cost_the_difference_of_fan_in_and_fan_out(inputs, outputs, copies):
    """Collinear outgoing weights, rank A = min(O, I + 1): m copies cost (m − 1)(O + I + 1 − 2 rank A)."""
    dag, theta, x, y = layer(np.random.default_rng(3), inputs, copies + 1, outputs, 60)
    for k in range(1, copies):
        theta[incoming(dag, k)] = theta[incoming(dag, 0)]
        theta[outgoing(dag, k)] = (k + 1) * theta[outgoing(dag, 0)]
    book = nullity_book(dag, theta, x, y)
    assert book["clones"] == book.total == (copies - 1) * abs(inputs + 1 - outputs)
    assert exact_rank(exact_hessian(dag, theta, x, y)) == book.predicted_rank


def test_clones_with_independent_outgoing_weights_cost_less():
    """O ≤ I + 1 leaves a = 0, V b = 0, A b = 0: (m − rank V)(I + 1 − O)."""
    dag, theta, x, y = layer(np.random.default_rng(3), 3, 4, 2, 60)
    for k in range(1, 3):
        theta[incoming(dag, k)] = theta[incoming(dag, 0)]
    theta[[p for k in range(3) for p in outgoing(dag, k)]] = [2, 4, -2, 2, 4, 4]
    book = nullity_book(dag, theta, x, y)
    assert book["clones"] == book.total == (3 - 2) * (3 + 1 - 2)
    assert exact_rank(exact_hessian(dag, theta, x, y)) == book.predicted_rank


def test_dead_units_under_softmax():
    """k dead units of h: k (I + O + 1) + (h − k + 1)."""
    dag, theta, x, y = layer(np.random.default_rng(1), 2, 4, 3, 60, "cross_entropy")
    theta[bias(dag, 3)] = -999
    book = nullity_book(dag, theta, x, y, "cross_entropy")
    assert (book.total, book["softmax shift"]) == ((2 + 3 + 1) + (4 - 1 + 1), 4)


@pytest.mark.parametrize("outputs", [1, 2])
def test_rescaling_is_null_at_zero_residual_only(outputs):
    dag, theta, x, y = layer(np.random.default_rng(5), 2, 3, outputs, 60)
    fitted = run_forward(FLOATS, dag, theta, x).output
    assert nullity_book(dag, theta, x, y).total == 0
    book = nullity_book(dag, theta, x, fitted)
    assert book["single units"] == book.total == 3
    assert exact_rank(exact_hessian(dag, theta, x, fitted)) == book.predicted_rank


def test_new_and_muted_units():
    """Outgoing weights 0, or (softmax) all equal: I + 1 − rank A directions."""
    dag, theta, x, y = layer(np.random.default_rng(7), 3, 3, 2, 60)
    theta[outgoing(dag, 0)] = 0
    assert nullity_book(dag, theta, x, y)["single units"] == 3 + 1 - 2
    dag, theta, x, y = layer(np.random.default_rng(7), 3, 3, 2, 60, "cross_entropy")
    theta[[p for k in range(3) for p in outgoing(dag, k)]] = [2, 2, 2, 4, -2, 4]
    book = nullity_book(dag, theta, x, y, "cross_entropy")
    assert (book["single units"], book["softmax shift"]) == (3 + 1 - 1, 4)
    assert book.certified
    assert (
        certified_rank(dag, *(torch.from_numpy(a) for a in (theta, x, y)), "cross_entropy").lower == book.predicted_rank
    )


def test_units_that_are_always_on_share_the_bias_of_the_output():
    """Two parallel units that are on for the whole batch: b moves within ker A, the bias of the output makes up for it."""
    net = mlp([1, 2, 3])
    theta = np.array([1.0, 2.0, 99.0, 101.0, 1, 2, 3, 1, 5, -1, 7, 8, 9])
    x, y = np.arange(8.0)[:, None], np.random.default_rng(0).integers(-9, 10, (8, 3)) * 1.0
    book = nullity_book(net, theta, x, y)
    oracle = generic_nullity(net, [int(t) for t in theta], x.astype(int).tolist(), y.astype(int).tolist())
    assert book["same gates"] == book.total == oracle > 0


def test_the_book_closes_the_interval_of_a_cloned_network():
    rng = np.random.default_rng(2)
    dag, theta, x, y = layer(rng, 6, 4, 3, 80, "cross_entropy")
    dag, theta, _ = clone(dag, theta, 2)
    book = nullity_book(dag, theta, x, y, "cross_entropy")
    interval = certified_rank(dag, *(torch.from_numpy(np.asarray(a)) for a in (theta, x, y)), "cross_entropy")
    assert book.certified and interval.lower == book.predicted_rank < interval.upper


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_redistributions_are_null_for_every_activation(activation):
    base, rng = mlp([2, 2, 2, 1], activation), np.random.default_rng(4)
    dag, theta, partition = clone(base, [int(v) for v in 4 * rng.integers(-3, 4, base.num_params)], 2)
    theta = redistribute(dag, theta, partition, torch.Generator().manual_seed(1))
    moves = redistributions(dag, theta, partition)
    assert len(moves) == 4  # (2 − 1)(2 − 1) for each pair of classes
    x, y = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    weights = np.asarray(theta, dtype=object).astype(float) / 8
    found = hessian(dag, *(torch.from_numpy(a) for a in (weights, x, y)), "mse_sum").numpy()
    assert np.abs(found).max() > 1e-3
    assert np.abs(found @ moves.astype(float).T).max() < 1e-10 * np.abs(found).max()
    assert nullity_book(dag, theta, x, y, partition=partition)["redistribution"] == 4


def test_groups_need_weights_of_their_own():
    net = mlp([1, 2, 1])
    x = [[1], [2]]
    free = groups(net, [1, 1, 1, 1, 2, 3, 0], gate_pattern(net, [1, 1, 1, 1, 2, 3, 0], x))
    assert [g.units for g in free["clones"]] == [(2, 3)]
    tied = replace(net, param=np.array([0, 0, 1, 1, 2, 3, 4]))
    assert not any(groups(tied, [1, 1, 2, 3, 0], gate_pattern(tied, [1, 1, 2, 3, 0], x)).values())


def test_smooth_networks_have_the_structural_entries():
    rng = np.random.default_rng(0)
    dag = mlp([2, 3, 2], "tanh")
    book = nullity_book(
        dag, rng.standard_normal(dag.num_params), rng.standard_normal((9, 2)), np.arange(9) % 2, "cross_entropy"
    )
    assert (book.total, book["softmax shift"]) == (4, 4)
    assert [entry.name for entry in book.entries] == list(MECHANISMS)


def test_bad_input_is_named():
    net, x, y = mlp([1, 2, 1]), [[1], [2]], [[0], [1]]
    with pytest.raises(ValueError, match="do not|does not describe clones"):
        nullity_book(net, [1, 2, 1, 1, 2, 3, 0], x, y, partition=UnitPartition.of(net, [[2, 3]]))
    with pytest.raises(ValueError, match="unknown loss 'mae'"):
        nullity_book(net, [1, 1, 1, 1, 2, 3, 0], x, y, "mae")
    with pytest.raises(ValueError, match="targets have shape"):
        nullity_book(net, [1, 1, 1, 1, 2, 3, 0], x, [[0, 1]])
