"""Helpers of the claims on resets, against the library and against recomputed matrices."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from lop_theory.algorithms.base import generators, gradients, mlp_context
from lop_theory.algorithms.continual_backprop import continual_backprop
from lop_theory.algorithms.descent import sgd
from lop_theory.algorithms.resets import dormancy, replace_units
from lop_theory.architectures import mlp
from lop_theory.exact import exact_hessian
from proofs_checks.claims.cbp_schedule import Layer, Signal, simulate
from proofs_checks.claims.fresh_units import coupling, in_params, out_params
from proofs_checks.claims.replacement import activations_of, as_params, as_theta, contribution, replace_on_dag
from proofs_checks.claims.unit_resets import dormant_units
from proofs_checks.instances import Instance
from proofs_checks.strategies import odd_biases


def instance(seed: int, dims: list[int], **extra: object) -> Instance:
    rng = np.random.default_rng(seed)
    dag = mlp(dims)
    theta = odd_biases(dag, rng.integers(-2, 3, size=dag.num_params).astype(float))
    x, y = (rng.integers(-3, 4, size=(5, n)).astype(float) for n in (dims[0], dims[-1]))
    return Instance(dag, theta, x, y, extra=extra)


@pytest.mark.parametrize("dims", [[2, 3, 2], [2, 3, 4, 1], [1, 2, 3, 2, 2]])
def test_replacing_on_a_dag_is_the_library_s_replacement(dims):
    """The library with its own draws, then the DAG with the weights that the library drew."""
    case, rng = instance(1, dims), np.random.default_rng(2)
    params = as_params(case.dag, case.theta)
    assert np.array_equal(as_theta(params), case.theta)
    masks = [torch.tensor(rng.random((1, n)) < 0.5) for n in dims[1:-1]]
    values = [torch.tensor(rng.integers(0, 4, size=(1, n)).astype(float)) for n in dims[1:-1]]
    wanted = as_theta(replace_units(params, masks, generators([3]), transfer=values))
    flags, means = torch.cat(masks, dim=1)[0], torch.cat(values, dim=1)[0]
    chosen = {int(v): float(m) for v, m, f in zip(case.dag.hidden, means, flags, strict=True) if f}
    np.testing.assert_allclose(replace_on_dag(case.dag, case.theta, chosen, wanted), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("seed", range(6))
def test_the_exact_schedule_is_the_library_s(seed):
    """A net whose contribution utilities of a minibatch are the given numbers: identity inputs, weights one."""
    rng = np.random.default_rng(seed)
    units, maturity, numerator = 3, int(rng.integers(0, 3)), int(rng.integers(1, 8))
    rows = rng.permuted(np.tile(np.arange(1, units + 1), (12, 1)), axis=1)  # no ties
    events = simulate(Layer(tuple(map(tuple, rows.tolist())), numerator, maturity))
    rule = continual_backprop(sgd(0.0), numerator / 8, maturity, 0.0, "contribution")
    ones = (torch.eye(units)[None], torch.zeros(1, units), torch.ones(1, 1, units), torch.zeros(1, 1))
    ones = tuple(p.double() for p in ones)
    state, g = rule.init(ones), generators([0])
    for row, event in zip(rows, events, strict=True):
        x = torch.tensor(row, dtype=torch.float64)[None]
        ctx = mlp_context(ones, x, torch.zeros(1, 1, dtype=torch.float64), generator=g)
        _, state = rule.update(
            ones, gradients(ones, ctx), state, ctx
        )  # always on the same net: utilities stay as given
        assert tuple((state.age[0][0] == 0).nonzero().flatten().tolist()) == tuple(sorted(event.replaced))


def test_weights_of_the_corrected_average():
    signal = Signal((3, 1, 4, 1, 5), 3)
    eta, u = Fraction(1, 3), Fraction(0)
    for y in signal.values:
        previous, u = u, eta * u + (1 - eta) * y
    corrected, printed = u / (1 - eta**5), previous / (1 - eta**5)
    assert sum(w * y for w, y in zip(signal.weights(), signal.values, strict=True)) == corrected
    assert sum(w * y for w, y in zip(signal.weights(1), signal.values, strict=True)) == printed


@pytest.mark.parametrize(("dims", "layer"), [([2, 3, 2], 1), ([2, 3, 2, 1], 1), ([2, 3, 2, 1], 2)])
def test_coupling_is_a_block_of_the_hessian(dims, layer):
    """A = ∂²L / ∂(outgoing) ∂(incoming) of a unit with zero outgoing weights."""
    case = instance(4, dims)
    unit = int(case.dag.blocks[layer + 1].units[0])
    case.theta[out_params(case, unit)] = 0
    hessian = exact_hessian(case.dag, case.theta, case.x, case.y)
    rows, columns = out_params(case, unit), in_params(case, unit)
    block = [[float(hessian[int(i), int(j)].p) for j in columns] for i in rows]
    assert np.array_equal(coupling(case, unit), block)


@pytest.mark.parametrize("threshold", [Fraction(0), Fraction(1, 2), Fraction(5, 4)])
def test_dormant_units_are_those_of_the_library(threshold):
    case = instance(5, [2, 4, 4, 1], threshold=threshold, layers=[1, 2])
    h = activations_of(case.dag, case.theta, case.x)
    found = []
    for layer in (1, 2):
        units = case.dag.blocks[layer + 1].units
        scores = dormancy(torch.tensor(h[:, units])[None])[0]
        found += units[(scores <= float(threshold)).numpy()].tolist()
    assert dormant_units(case) == found


def test_contribution_is_exact():
    case = instance(6, [2, 3, 2])
    h = activations_of(case.dag, case.theta, case.x)
    out = as_params(case.dag, case.theta)[2][0].abs().sum(dim=0)
    for k, v in enumerate(case.dag.hidden.tolist()):
        assert float(contribution(case)[v]) == pytest.approx(float(np.abs(h[:, v]).sum() * out[k]))
