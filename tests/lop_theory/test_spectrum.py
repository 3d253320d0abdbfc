"""Counting by Ritz weights: exact when exhausted, bracketed always, error bars of the right size; the published estimator."""

import math

import numpy as np
import pytest
import torch

from lop_theory.architectures import init_params, mlp
from lop_theory.hessian import hessian
from lop_theory.lanczos import lanczos
from lop_theory.rank import effective_rank, epsilon_rank
from lop_theory.spectrum import (
    Quadrature,
    estimate_spectrum,
    hessian_spectrum,
    published_normalized_epsilon_rank,
)
from tests.lop_theory.test_lanczos import draw, rotated
from tests.reference.spectral_measure import published_by_loops, share_beyond, spectral_measure


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def diagonal(values):
    d = torch.as_tensor(values, dtype=torch.float64)
    return lambda V: d[:, None] * V


LEVELS = np.geomspace(1e-3, 5, 40)


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_quadrature_is_exact_on_polynomials_of_degree_below_2m(steps):
    A, v = rotated(np.linspace(-1, 2, 40)), draw(40, seed=1)
    q = Quadrature.of(lanczos(A.__matmul__, v, steps))
    values, weights = spectral_measure(A.numpy(), v.numpy())
    for degree in range(2 * steps):
        assert q.weights @ q.nodes**degree == pytest.approx(weights @ values**degree, rel=1e-9, abs=1e-10)
    degree = 2 * steps  # the next one is not integrated exactly, and always too low
    assert q.weights @ q.nodes**degree < weights @ values**degree


def test_christoffel_function_at_the_nodes_is_the_weight():
    A, v = rotated(np.linspace(-1, 2, 40)), draw(40, seed=1)
    q = Quadrature.of(lanczos(A.__matmul__, v, 9))
    assert np.allclose(q.christoffel(q.nodes), q.weights, rtol=1e-8)
    assert q.christoffel(np.array([1e30])).tolist() == [0.0] or q.christoffel(np.array([1e30]))[0] < 1e-200


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_bracket_holds_for_each_probe(seed, steps):
    """The share of the exact spectral measure beyond ε lies in the bracket at every level."""
    values = np.concatenate([[4.0, -3.0], np.linspace(-0.5, 1.5, 38), np.zeros(20)])
    A, v = rotated(values, seed), draw(60, seed=seed + 10)
    q = Quadrature.of(lanczos(A.__matmul__, v, steps))
    truth = np.array([share_beyond(*spectral_measure(A.numpy(), v.numpy()), level) for level in LEVELS])
    value, lower, upper = q.share_beyond(LEVELS)
    assert (lower <= truth + 1e-10).all() and (truth <= upper + 1e-10).all()
    assert (lower <= value).all() and (value <= upper).all()
    if steps == 20:  # and it says something: narrow above the bulk
        assert (upper - lower)[LEVELS > 2].max() < 1e-3


def test_bracket_shrinks_with_steps():
    A, v = rotated(np.linspace(-1, 1, 100)), draw(100, seed=2)
    widths = []
    for steps in (5, 20, 60):
        _, lower, upper = Quadrature.of(lanczos(A.__matmul__, v, steps)).share_beyond(np.array([0.5]))
        widths.append(float(upper[0] - lower[0]))
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_exhausted_probe_sees_the_measure_exactly():
    A, v = rotated([5.0, 5.0, -2.0, 0.3, *[0.0] * 46]), draw(50, seed=3)
    q = Quadrature.of(lanczos(A.__matmul__, v, 30))
    assert q.exhausted
    for level in (1e-6, 0.1, 1.0, 3.0, 10.0):
        truth = share_beyond(*spectral_measure(A.numpy(), v.numpy()), level)
        assert np.allclose(q.share_beyond(np.array([level])), truth, atol=1e-12)


def test_count_is_unbiased_with_the_stated_error():
    """Known rank 12 of 60 over 400 single probes: mean and spread against 2 r (P − r)/(P + 2); both sides."""
    size, rank = 60, 12
    values = np.concatenate([np.linspace(1, 3, rank), np.zeros(size - rank)])
    counts = np.concatenate(
        [
            [size * q.share_beyond(np.array([0.5]))[0, 0] for q in found.quadratures]
            for found in [estimate_spectrum(diagonal(values), size, steps=20, probes=400, generator=generator(4))]
        ]
    )
    sd = math.sqrt(2 * rank * (size - rank) / (size + 2))
    assert abs(counts.mean() - rank) < 4 * sd / math.sqrt(len(counts))
    assert 0.85 < counts.std() / sd < 1.15


@pytest.mark.parametrize("quantity", ["trace", "effective_rank"])
def test_standard_errors_have_the_right_size(quantity):
    values = np.concatenate([np.linspace(1, 3, 30), np.linspace(-0.5, 0.5, 70)])
    truth = {"trace": values.sum(), "effective_rank": effective_rank(np.diag(values))}[quantity]
    scores = []
    for seed in range(100):
        found = estimate_spectrum(diagonal(values), 100, steps=25, probes=2, generator=generator(seed))
        value, stderr = getattr(found, quantity)()
        scores.append((value - truth) / stderr)
    assert 0.8 < np.sqrt(np.mean(np.square(scores))) < 1.25


def test_deflation_counts_outliers_exactly_and_removes_their_variance():
    values = np.concatenate([[1000.0, 500.0, -200.0, 100.0, 50.0], np.zeros(2995)])
    plain = estimate_spectrum(diagonal(values), 3000, steps=30, probes=1, generator=generator(5))
    found = estimate_spectrum(diagonal(values), 3000, steps=30, probes=1, deflate=10, generator=generator(5))
    assert found.epsilon_rank(0.1) == (5.0, 0.0, 5.0, 5.0) and found.epsilon_rank(150.0).value == 3
    assert found.trace().value == pytest.approx(values.sum()) and found.trace().stderr < 1e-6
    assert np.sort(found.eigenvalues).tolist() == pytest.approx(sorted(values[:5]))
    assert plain.epsilon_rank(0.1).stderr > 1 and plain.trusted_range() is None
    low, high = found.trusted_range()
    assert low < 1e-8 and 500 < high < 1000
    assert found.extreme() == pytest.approx((1000.0, 0.0), abs=1e-8)
    assert found.extreme("min").value == pytest.approx(-200.0)


def test_deflating_everything_needs_no_probe():
    found = estimate_spectrum(rotated([3.0, -2.0]).__matmul__, 2, probes=2, deflate=2, generator=generator())
    assert found.complement == 0 and found.epsilon_rank(2.5) == (1.0, 0.0, 1.0, 1.0)
    assert found.trace() == pytest.approx((1.0, 0.0))


def test_a_multiple_eigenvalue_is_left_to_the_probes():
    values = [10.0] * 30 + [0.0] * 70
    found = estimate_spectrum(diagonal(values), 100, steps=10, probes=60, deflate=5, generator=generator(6))
    assert len(found.eigenvalues) == 1
    value, stderr, _, _ = found.epsilon_rank(1.0)
    assert abs(value - 30) < 4 * stderr < 6


def test_trusted_range_on_many_scales():
    """Log-uniform over six decades, full rank: counts are within the tolerance where trusted, and wrong below."""
    values = 10.0 ** -np.linspace(0, 6, 2000)
    found = estimate_spectrum(diagonal(values), 2000, steps=100, probes=8, deflate=10, generator=generator(7))
    low, high = found.trusted_range(0.2)
    assert 1e-5 < low < 1e-2 < 0.3 < high
    for level in np.geomspace(low, high, 30):
        count = found.epsilon_rank(level)
        truth = (values > level).sum()
        assert abs(count.value - truth) <= 0.2 * count.value + 3 * count.stderr
        assert count.lower - 3 * count.stderr <= truth <= count.upper + 3 * count.stderr
    small = found.epsilon_rank(1e-5)
    assert small.value == pytest.approx(2000) and (values > 1e-5).sum() < 1700 and small.lower < 1700


def test_result_does_not_depend_on_the_grouping_of_probes(monkeypatch):
    A = rotated(np.linspace(0, 1, 50))
    together = estimate_spectrum(A.__matmul__, 50, steps=10, probes=3, generator=generator(8))
    monkeypatch.setattr("lop_theory.spectrum._BASIS_BYTES", 1)
    alone = estimate_spectrum(A.__matmul__, 50, steps=10, probes=3, generator=generator(8))
    for a, b in zip(together.nodes, alone.nodes, strict=True):
        assert np.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_hessian_of_a_network(kind):
    dag = mlp([4, 9, 7, 3], "tanh")
    theta, x = init_params(dag, generator(9)), draw(30, 4, seed=10)
    y = torch.arange(30) % 3 if kind == "cross_entropy" else draw(30, 3, seed=11)
    H = hessian(dag, theta, x, y, kind)
    found = hessian_spectrum(dag, theta, x, y, kind, steps=60, probes=10, deflate=20, generator=generator(12))
    eigen = np.linalg.eigvalsh(H.numpy())
    assert found.extreme().value == pytest.approx(eigen[-1]) and found.extreme("min").value == pytest.approx(eigen[0])
    assert len(found.eigenvalues) >= 5
    for eps in (1e-3, 1e-2, 1e-1):
        _, stderr, lower, upper = found.epsilon_rank(eps)
        assert lower - 4 * stderr - 1e-9 < epsilon_rank(H, eps) < upper + 4 * stderr + 1e-9
    trace = found.trace()
    assert abs(trace.value - eigen.sum()) < 4 * trace.stderr
    rank = found.effective_rank()
    assert abs(rank.value - effective_rank(H)) < 4 * rank.stderr < 0.5 * rank.value


def test_zero_matrix():
    found = estimate_spectrum(lambda V: 0 * V, 30, probes=2, deflate=3, generator=generator())
    assert found.epsilon_rank(1e-9).value == 0 and found.exhausted and found.trusted_range() is None
    with pytest.raises(ValueError, match="zero to rounding"):
        found.effective_rank()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimension": 0}, "dimension = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"probes": 0}, "probes = 0"),
        ({"deflate": 6}, "deflate = 6"),
    ],
)
def test_bad_sizes_are_named(change, message):
    arguments = {"dimension": 5, "generator": generator(), **change}
    with pytest.raises(ValueError, match=message):
        estimate_spectrum(lambda V: V, **arguments)


def test_bad_levels_are_named():
    found = estimate_spectrum(lambda V: V, 5, generator=generator())
    for eps in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="eps"):
            found.epsilon_rank(eps)
        with pytest.raises(ValueError, match="eps"):
            published_normalized_epsilon_rank(found.nodes, found.weights, eps)
    with pytest.raises(ValueError, match="end is"):
        found.extreme("top")
    with pytest.raises(ValueError, match="one array per probe"):
        published_normalized_epsilon_rank([], [], 0.1)
    with pytest.raises(ValueError, match="one array per probe"):
        published_normalized_epsilon_rank([[1.0, 2.0]], [[1.0]], 0.1)


# -- the published estimator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "eps"), [(1.0, 0.01), (30.0, 0.04), (2000.0, 0.1)])
def test_published_estimator_against_loops(scale, eps):
    nodes, weights = np.array([-0.2, 0.0, 0.01, 0.7, 1.0]) * scale, np.array([0.1, 0.6, 0.1, 0.1, 0.1])
    ours = published_normalized_epsilon_rank([nodes], [weights], eps)
    assert ours == pytest.approx(published_by_loops(nodes, weights, eps), rel=1e-9)


def test_null_model_exposes_the_published_estimator():
    """A rank-2 Hessian of a million parameters: its value is set by the range of the spectrum alone (digest, 88.5 -> .708)."""
    weights = [1e-6, 1 - 2e-6, 1e-6]
    values = {
        top: published_normalized_epsilon_rank([[-0.1 * top, 0.0, 0.9 * top]], [weights], 0.03)
        for top in (1.0, 22.0, 88.5, 400.0, 6000.0)
    }
    assert list(values.values()) == sorted(values.values())
    assert values[1.0] < 1e-4 and values[6000.0] > 0.99
    assert values[88.5] == pytest.approx(0.708, abs=0.005)
    ours = estimate_spectrum(
        diagonal([-8.85, 79.65] + [0.0] * 1998), 2000, steps=20, probes=4, deflate=2, generator=generator()
    )
    assert ours.epsilon_rank(0.03).value == 2


def test_bridge_over_the_gap():
    """Mass just outside ±ε: one rule across the hole counts the hole as well. Two sides do not."""
    nodes, weights = [-0.0105, 0.0105], [0.5, 0.5]
    bridged = published_normalized_epsilon_rank([nodes], [weights], 0.01)
    sides = published_normalized_epsilon_rank([nodes], [weights], 0.01, bridge=False)
    s = math.sqrt(1e-5)

    def beyond(t):  # of N(t, s²), in closed form
        return (math.erfc((0.01 - t) / (s * math.sqrt(2))) + math.erfc((0.01 + t) / (s * math.sqrt(2)))) / 2

    def density(x):
        return sum(math.exp(-((x - t) ** 2) / (2 * s * s)) for t in nodes) / (2 * s * math.sqrt(2 * math.pi))

    assert sides == pytest.approx(beyond(0.0105), rel=0.01)
    assert bridged - sides == pytest.approx(0.01 * (density(0.01) + density(-0.01)), rel=0.01)
    assert bridged > 1.7
