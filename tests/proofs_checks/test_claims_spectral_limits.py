"""Helpers of the claims on the limits of the dead-unit bound, against independent computations."""

import numpy as np
import pytest
from flint import arb
from scipy.spatial.distance import directed_hausdorff

from lop_theory.architectures import mlp
from lop_theory.exact import ball_hessian
from proofs_checks.claims.spectral_limits import eigenvalues_beyond, numerically_dead, proved_rank
from proofs_checks.claims.spectral_persistence import one_sided2
from proofs_checks.instances import Instance


@pytest.mark.parametrize("seed", range(5))
def test_eigenvalues_beyond_a_level(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(6, 6))
    matrix += matrix.T
    balls = np.array([[arb(v) for v in row] for row in matrix], dtype=object)
    for level in (0.0, 0.5, 2.0):
        assert eigenvalues_beyond(balls, level, 128) == (np.abs(np.linalg.eigvalsh(matrix)) > level).sum()


def test_eigenvalues_beyond_is_undecided_on_a_tie():
    assert eigenvalues_beyond(np.array([[arb(1, 1e-20)]], dtype=object), 1.0, 128) is None


def test_a_saturated_unit_has_zero_float_rows_and_full_rank():
    """tanh 3-5-2, P = 32: from bias 20 on, 1 − tanh² rounds to 0, but the Hessian has rank 32, not 32 − 6."""
    rng = np.random.default_rng(0)
    dag = mlp([3, 5, 2], "tanh")
    theta, x, y = (np.round(8 * rng.normal(size=s)) / 8 for s in (dag.num_params, (20, 3), (20, 2)))
    theta[:3], theta[15] = np.array([1, -1, 2]) / 8, 24.0
    instance = Instance(dag, theta, x, y)
    assert numerically_dead(instance) == [int(dag.hidden[0])]
    assert proved_rank(instance, 31) == dag.num_params == 32
    assert eigenvalues_beyond(ball_hessian(dag, theta, x, y, "mse_sum", 128), 1e-12, 128) == 26


def test_one_sided_distance_is_the_directed_hausdorff_distance():
    rng = np.random.default_rng(1)
    far, near = rng.integers(-5, 6, size=(4, 3)), rng.integers(-5, 6, size=(6, 3))
    expected = directed_hausdorff(far, near)[0] ** 2
    assert one_sided2(far.tolist(), near.tolist()) == pytest.approx(expected)
    assert one_sided2(near.tolist(), far.tolist()) != one_sided2(far.tolist(), near.tolist())
