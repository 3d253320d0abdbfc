"""Helpers of the claims on curvature against independent routes: probes, effective ranks, Krylov spaces, tables of draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from flint import fmpq

from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from lop_theory.rank import effective_rank
from proofs_checks.claims.gradient_steps import krylov_basis
from proofs_checks.claims.jacobian_probes import Probes
from proofs_checks.claims.kronecker import softmax_root
from proofs_checks.claims.kronecker_products import Planted, erank, erank_power, has_singular_values, reflection
from proofs_checks.claims.persistence_bound import Draws, is_independent
from proofs_checks.claims.residual_part import jacobian, parts
from proofs_checks.instances import Instance, assertion, witness
from proofs_checks.recheck import recheck
from tests.reference import autodiff

NET = Instance(
    mlp([2, 2, 2]),
    np.array([2.0, -2, 4, 2, 1, -1, 2, 1, -1, 3, 0, 1]),
    np.array([[1.0, 2.0], [-1.0, 1.0]]),
    np.array([[1.0, 0.0], [2.0, -1.0]]),
)


def test_probes_are_the_jacobian() -> None:
    theta, x = torch.from_numpy(NET.theta), torch.from_numpy(NET.x)
    J = torch.func.jacrev(lambda t: autodiff.outputs(NET.dag, t, x).reshape(-1))(theta).numpy()
    assert (jacobian(NET).astype(float) == J).all()
    probes = Probes(NET)
    entries = [(n, o, i) for n, o in probes.pairs for i in range(NET.dag.num_params)]
    wanted = [assertion(probes.jacobian(n, o, i), "==", J[2 * n + o, i]) for n, o, i in entries]
    wanted += [assertion(probes.gauss_newton(0, 3), "==", (J.T @ J)[0, 3])]
    assert recheck(
        {**witness("", probes.networks, wanted + probes.assertions), "claim": "t", "role": "mutant"}
    ).confirmed


def test_parts_add_up() -> None:
    H, B, R = parts(NET)
    assert H == B + R
    assert parts(replace(NET, y=np.zeros_like(NET.y)))[1] == B  # the Gauss–Newton matrix does not see the targets


@pytest.mark.parametrize("s", [(1,), (2, 1), (3, 3, 1), (4, 0, 2)])
def test_effective_ranks_three_ways(s: tuple[int, ...]) -> None:
    value = effective_rank(np.diag(np.array(s, dtype=float)))
    assert float(erank(s).mid()) == pytest.approx(value, rel=1e-12)
    power = sum(s)
    exact = erank_power(s, power)
    assert math.log(int(exact.p)) - math.log(int(exact.q)) == pytest.approx(power * math.log(value), abs=1e-9)


def test_planted_singular_values() -> None:
    Q = reflection(np.array([1.0, 2.0, -1.0]))
    assert (Q @ Q.T == np.eye(3, dtype=int)).all()
    planted = Planted((3, 1, 0), rational_array([3, 1, 0])[:, None] * Q)
    assert has_singular_values(planted.X, planted.s) and not has_singular_values(planted.X, (3, 1, 1))


def test_softmax_root_squares_to_the_loss_hessian() -> None:
    root = softmax_root(["2/7", "3/7", "6/7"])
    p = rational_array(["4/49", "9/49", "36/49"])
    assert ((root @ root.T) == np.diag(p) - np.outer(p, p)).all()


def test_krylov_space_is_the_span_of_the_components() -> None:
    M = rational_array(np.diag([1, 1, 2, 5]))
    assert krylov_basis(M, rational_array([1, 1, 0, 0])).shape == (4, 1)
    assert krylov_basis(M, rational_array([1, 0, 1, 1])).shape == (4, 3)


def test_tables_of_draws() -> None:
    coins = Draws(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), fmpq(0))
    together = Draws(np.array([[0, 0], [1, 1]]), fmpq(1, 2))
    assert is_independent(coins) and not is_independent(together)
    assert (coins.probability, coins.expected) == (fmpq(1, 4), 1)
    assert (together.probability, together.expected) == (fmpq(1, 2), 1)
