"""The derivative of a gradient step by interpolation, and the elementwise gradient against the library's."""

import dataclasses
import math

import numpy as np
import pytest
from flint import fmpq, fmpq_poly

from lop_theory.arithmetic import FLOATS, rational_array
from lop_theory.forward import gradient
from lop_theory.partition import block_constant
from proofs_checks.claim import Verdict
from proofs_checks.claims import rounding
from proofs_checks.claims.barriers_graphs import network, partition_of
from proofs_checks.claims.barriers_stability import manifold_of
from proofs_checks.claims.barriers_trajectories import RATE, exact_gradient_at
from proofs_checks.instances import Instance

DEGREE = 6  # of ∇L along a line, for one layer of squares: f is cubic in θ, L of degree six


def _square_pair() -> Instance:
    net = network(1, False, ("square", "square", "identity"), ((0, 1), (0, 2), (1, 3), (2, 3)), 1)
    extra = {"partition": partition_of(net, ((1, 2),)), "steps": 2}
    x, y = np.array([[1.0], [-2.0]]), np.array([[3.0], [1.0]])
    return Instance(net, rational_array([1, 1, 2, 2]), x, y, extra=extra)


def _step_slope(instance: Instance, theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """d/dt at 0 of step(θ + t · direction), from DEGREE + 1 exact values: Lagrange's polynomials, differentiated."""
    nodes = list(range(DEGREE + 1))
    values = [p - RATE * exact_gradient_at(instance, p) for p in (theta + t * direction for t in nodes)]
    slope = values[0] * 0
    for t, value in zip(nodes, values, strict=True):
        basis = fmpq_poly([1])
        for other in nodes:
            if other != t:
                basis = basis * fmpq_poly([-other, 1]) / fmpq(t - other)
        slope = slope + basis.derivative()(fmpq(0)) * value
    return slope


def test_the_jacobian_of_two_steps_is_the_interpolated_derivative():
    instance = _square_pair()
    steps = rounding.exact_steps(instance)
    for direction in [*steps.parts[0].normal.T, *steps.parts[0].tangent.T]:
        first = _step_slope(instance, steps.points[0], direction)
        both = _step_slope(instance, steps.points[1], first)
        assert (both == steps.jacobian @ direction).all()
    assert rounding.check_growth(instance).verdict is Verdict.HOLDS


@pytest.mark.parametrize("copies", [2, 3])
def test_the_elementwise_gradient_is_the_gradient(copies):
    instance = rounding.saddle(0) if copies == 3 else rounding.pair_of(rounding.saddle(0))
    expected = gradient(instance.dag, instance.theta, instance.x, instance.y, "mse", FLOATS)
    np.testing.assert_allclose(rounding.ordered_gradient(instance, instance.theta), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_the_centre_of_a_saddle_is_critical_and_the_start_is_on_the_manifold(seed):
    instance = rounding.saddle(seed)
    centre = gradient(instance.dag, instance.extra["centre"], instance.x, instance.y, "mse", FLOATS)
    assert np.abs(centre).max() < 1e-14
    assert manifold_of(instance).contains(instance.theta)
    assert not block_constant(instance.dag, instance.theta, instance.extra["partition"])
    across, along = instance.extra["curvatures"]
    assert across[0] < 0 and -across[0] >= across[-1] and -along[0] <= -rounding.MILD * across[0]


def test_copies_compute_their_base_and_pairs_are_block_constant():
    base = rounding.saddle(1).extra["base"]
    x = np.array([[0.5, -0.25], [1.0, 0.75]])
    for copies, off in ((1, False), (2, False), (3, False), (3, True)):
        net = rounding._network(base, copies, off, x, base.output(x))
        at_centre = gradient(net.dag, net.extra["centre"], x, net.y, "mse", FLOATS)
        np.testing.assert_allclose(at_centre, 0, atol=1e-14)  # the residual is zero
    assert block_constant(net.dag, base.cloned(3), net.extra["partition"])


def test_a_wrong_rate_is_noticed():
    instance = rounding.saddle(0)
    run = rounding.descend(instance)
    value, vector = rounding.leading(instance, run)
    observed, predicted = run.rate(vector), math.log(1 - instance.extra["rate"] * value)
    assert observed == pytest.approx(predicted, rel=rounding.TOLERANCE)
    off_by_a_tenth = rounding._compare(instance, run, 1.1 * predicted, "a wrong rate")
    assert off_by_a_tenth.verdict is Verdict.FAILS


def test_a_run_that_never_leaves_rounding_level_is_undecided_or_refutes():
    held = rounding.saddle(0, off=False)
    assert rounding.check_escape(held).verdict is Verdict.FAILS  # block constant: it is due to escape and does not
    slow = dataclasses.replace(held, extra={**held.extra, "rate": held.extra["rate"] / 50})
    assert rounding.check_escape(slow).verdict is Verdict.UNDECIDED
