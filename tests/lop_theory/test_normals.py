"""Normal numbers from keys: their distribution, their independence, and the elementary functions they are made of."""

import numpy as np
import pytest
from scipy import stats

from lop_theory.algorithms.normals import normals

KEYS = np.random.default_rng(1).integers(0, 2**63, 40).astype(np.uint64)
MASK = (1 << 64) - 1


def splitmix(key: int, n: int) -> int:
    """Number n of SplitMix64 started at key, in Python's integers."""
    z = (key + (n + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize(("dtype", "bits", "tolerance"), [("float64", 53, 4e-16), ("float32", 24, 1e-6)])
def test_box_muller_with_the_functions_of_numpy(dtype: str, bits: int, tolerance: float) -> None:
    """An independent route: Python's integers, numpy's logarithm, cosine and sine, in float64."""
    n = 200
    ours = normals(KEYS[:3], 2 * n, dtype)
    for row, key in zip(ours, KEYS[:3]):
        for k in range(n):
            first, second = splitmix(int(key), 2 * k), splitmix(int(key), 2 * k + 1)
            size = np.sqrt(-2 * np.log(((first >> (64 - bits)) + 1) * 2.0**-bits))
            theta = (((second << 2 & MASK) >> (64 - bits)) * 2.0**-bits - 0.5) * np.pi / 2
            pair = (np.cos(theta), np.sin(theta))[:: -1 if second >> 62 & 1 else 1]
            sign = -1 if second >> 63 else 1
            assert row[k] == pytest.approx(sign * size * pair[0], rel=20 * tolerance, abs=20 * tolerance)
            assert row[n + k] == pytest.approx(sign * size * pair[1], rel=20 * tolerance, abs=20 * tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distribution(dtype: str) -> None:
    """Kolmogorov-Smirnov, and moments and correlations within five standard errors: of neighbours, pairs and keys."""
    x = normals(KEYS, 10_000, dtype).astype(np.float64)
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-4
    size = x.size**0.5
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - mean) < 5 * variance**0.5 / size
    for a, b in ((x[:, 1:], x[:, :-1]), (x[:, :256], x[:, 256:512]), (x[1:], x[:-1])):
        assert abs((a * b).mean()) < 5 / a.size**0.5
        assert abs((a**2 * b**2).mean() - 1) < 5 * 8**0.5 / a.size**0.5  # Var(a² b²) = 9 − 1
    assert np.abs(x).max() > 4


@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 1025])
def test_every_length(count: int) -> None:
    x = normals(KEYS, count, "float32")
    assert x.shape == (40, count) and bool(np.isfinite(x).all()) and len(np.unique(x)) > 0.99 * x.size - 1


def test_a_later_start_is_a_part_of_the_whole() -> None:
    """Pairs 256 … of a key: number 512 is the cosine of pair 256."""
    np.testing.assert_array_equal(normals(KEYS, 1024, "float64")[:, 512:], normals(KEYS, 512, "float64", pair=256))
