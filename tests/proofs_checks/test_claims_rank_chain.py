"""The exact spectrum of an integer matrix, against float singular values."""

import numpy as np
import pytest
from flint import fmpq

from lop_theory.rank import effective_rank, participation_ratio
from proofs_checks.claims.rank_chain import Spectrum


@pytest.mark.parametrize("seed", range(8))
def test_spectrum_agrees_with_singular_values(seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-3, 4, size=rng.integers(1, 5, size=2)).astype(float)
    rows[0, 0] = 2.0
    s, squares = Spectrum(rows), np.linalg.svd(rows, compute_uv=False) ** 2
    assert s.rank == np.linalg.matrix_rank(rows)
    assert sum(count for _, count in s.roots) == s.rank
    assert float(s.participation.p) / float(s.participation.q) == pytest.approx(participation_ratio(rows))
    assert float(s.entropy_rank().mid()) == pytest.approx(effective_rank(rows))
    for level in (fmpq(1, 3), fmpq(7, 3), fmpq(31, 3)):  # thirds are no eigenvalues of integer matrices
        assert s.beyond(level) == (squares > float(level.p) / float(level.q)).sum()


def test_flat_spectrum_is_seen_exactly():
    assert Spectrum(np.array([[3.0, 4.0], [-4.0, 3.0]])).is_flat
    assert not Spectrum(np.array([[3.0, 4.0], [-4.0, 2.0]])).is_flat
    assert Spectrum(np.array([[5.0, 0.0]])).is_root(fmpq(25))
