"""Strategies and predicates of the nullity claims against float linear algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from lop_theory.architectures import mlp
from lop_theory.gates import gate_pattern
from proofs_checks.claim import Verdict
from proofs_checks.claims.nullity_book import BOUND, book, found_groups, redistributed
from proofs_checks.claims.nullity_exact import EXACT, check_exact, planted, separated, tripled_targets
from proofs_checks.instances import Instance
from proofs_checks.strategies import hidden_values


@settings(max_examples=10, deadline=None)
@given(planted("mse_sum"))
def test_every_cause_is_planted(instance):
    gates = gate_pattern(instance.dag, instance.theta, instance.x)
    assert len(gates.dead_units) == 1 and len(gates.constant_units) == 2
    assert found_groups(instance)["clones"]
    own = book(instance)
    assert own["closed"] > 0 and own["dependent"] > 0 and own.certified
    assert separated(instance)


@settings(max_examples=10, deadline=None)
@given(tripled_targets())
def test_tripled_targets_have_a_direction_without_a_name(instance):
    assert check_exact(instance).verdict is Verdict.FAILS
    z = hidden_values(instance.dag, instance.theta, instance.x)
    assert (instance.y == 3 * z[:, instance.dag.outputs]).all()


@settings(max_examples=10, deadline=None)
@given(redistributed())
def test_redistributed_networks_are_equitable(instance):
    assert len(book(replace(instance, extra={})).entries) == 8
    assert all(len(block) > 1 for block in instance.extra["partition"].blocks if set(block) <= set(instance.dag.hidden))


@pytest.mark.parametrize("seed", range(6))
def test_separation_is_the_rank_of_the_features(seed):
    rng = np.random.default_rng(seed)
    net = mlp([2, 3, 1])
    theta, x = rng.standard_normal(net.num_params), rng.standard_normal((4 + 4 * seed, 2))
    instance = Instance(net, theta, x, np.zeros((len(x), 1)))
    is_open = [column for column in (hidden_values(net, theta, x)[:, net.hidden] > 0).T if column.any()]
    patterns = {column.tobytes(): column for column in is_open}.values()
    features = np.concatenate(
        [*(p[:, None] * np.c_[x, np.ones(len(x))] for p in patterns), np.ones((len(x), 1))], axis=1
    )
    always = sum(bool(p.all()) for p in patterns)
    assert separated(instance) == (always < 2 and np.linalg.matrix_rank(features) == features.shape[1] - always)


def test_a_live_network_is_an_instance():
    rng = np.random.default_rng(0)
    net = mlp([4, 5, 3])
    live = Instance(
        net, rng.standard_normal(net.num_params), rng.standard_normal((60, 4)), rng.integers(0, 3, 60), "cross_entropy"
    )
    assert all(assumption.holds(live) for assumption in EXACT.assumptions)
    assert BOUND.check(live).margin == 0
    assert check_exact(live).verdict is Verdict.HOLDS
