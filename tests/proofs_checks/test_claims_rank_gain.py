"""Helpers of the rank-gain claims: every sample of a strategy is what its docstring says, and rational κ bounds are right."""

from fractions import Fraction

import numpy as np
import pytest
from flint import fmpq
from hypothesis import given, settings

from lop_theory.gaussian_kernel import gaussian_kernel
from lop_theory.rank_gain import kappa
from proofs_checks.claims.gaussian_units import (
    Units,
    correlations,
    is_correlation,
    mixtures,
    pair_matrix,
    radial,
    show,
    units,
)
from proofs_checks.claims.rank_gain_orders import kappa_interval
from proofs_checks.claims.rank_gain_spectra import _pivots


@settings(max_examples=60, deadline=None)
@given(correlations())
def test_correlation_matrices_are_correlation_matrices(C):
    assert is_correlation(Units((0, 0, 1), C))


@settings(max_examples=40, deadline=None)
@given(mixtures())
def test_mixtures_have_two_weights_and_kappa_is_enclosed(phi):
    weights = gaussian_kernel(phi).weights
    assert sum(w != 0 for w in weights) <= 2 and sum(weights) == 1
    low, high = (int(v.p) / int(v.q) for v in kappa_interval(phi))
    fine = kappa(gaussian_kernel(phi))
    assert low <= fine[1] + 1e-12 and fine[0] <= high + 1e-12


@settings(max_examples=20, deadline=None)
@given(radial())
def test_radial_pairs_are_uncorrelated_with_unit_variance(u):
    x, y = (np.array([p[k] for p in u.points]) for k in (0, 1))
    assert x.sum() == y.sum() == (x * y).sum() == 0 and (x * x).sum() == len(x)
    values = [[float(sum(c * z**n for n, c in enumerate(u.phi))) for z in column] for column in (x, y)]
    if np.std(values[0]) > 0:
        assert int(u.k.p) / int(u.k.q) == pytest.approx(np.corrcoef(values)[0, 1], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(units(centred=False))
def test_uncentred_image_is_the_second_moment_matrix(u):
    floats = np.vectorize(lambda v: int(v.p) / int(v.q) if isinstance(v, fmpq) else float(v.mid()))(u.image)
    assert floats == pytest.approx(u.kernel.uncentred(np.vectorize(lambda v: int(v.p) / int(v.q))(u.C)), abs=1e-9)


def test_pivots_stop_at_a_singular_minor():
    assert [p > 0 for p in _pivots(pair_matrix(Fraction(1, 2)))] == [True, True]
    assert [p > 0 for p in _pivots(pair_matrix(1))] == [True, False]


def test_show():
    assert [show(p) for p in ((0, 0, 1), (-1, 0, 2), (0, -1), (0, 0), "relu")] == [
        "z^2",
        "-1 + 2 z^2",
        "-z",
        "0",
        "relu",
    ]
