"""Diagnostics against slow oracles, their bounds and invariances, and what is undefined."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lop_theory import metrics, rank
from tests.reference import metrics as reference

VALUES = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.25, 1.0, 3.0])


def features(replicas: int = 2) -> st.SearchStrategy[np.ndarray]:
    """[R, N, n] of a few simple numbers, many of them 0, so that units are silent, equal or opposite; shrinks towards zeros."""
    shapes = st.tuples(st.just(replicas), st.integers(1, 7), st.integers(1, 5))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=VALUES))


def nonzero() -> st.SearchStrategy[np.ndarray]:
    return features().filter(lambda h: bool(np.abs(h).max(axis=(1, 2)).min() > 0))


def each(function, h, *more):
    return [function(matrix.tolist(), *more) for matrix in h]


# -- shares of units -------------------------------------------------------------------------------------------------------


@given(features())
def test_shares_of_units_are_counted_as_their_sentences_say(h):
    slope = np.abs(h) / 3
    assert metrics.dead_fraction(h, 0.6, 1e-7).tolist() == pytest.approx(each(reference.dead_fraction, h, 0.6, 1e-7))
    assert metrics.rarely_active_fraction(h, 0.4).tolist() == pytest.approx(
        each(reference.rarely_active_fraction, h, 0.4)
    )
    assert metrics.dormant_fraction(h, 0.3137).tolist() == pytest.approx(each(reference.dormant_fraction, h, 0.3137))
    assert metrics.saturated_fraction(slope, 0.2, 0.5).tolist() == pytest.approx(
        each(reference.saturated_fraction, slope, 0.2, 0.5)
    )
    assert metrics.duplicate_fraction(h, 0.93).tolist() == pytest.approx(each(reference.duplicate_fraction, h, 0.93))


@given(features())
def test_the_published_saturation_scales_with_the_loss(h):
    """Why it is only for comparison: a thousandth of the loss and (nearly) everything is called saturated."""
    signal = np.flip(h, axis=2) * 0.1
    expected = [reference.signal_saturated_fraction(a.tolist(), g.tolist(), 0.0217, 0.5) for a, g in zip(h, signal)]
    assert metrics.signal_saturated_fraction(h, signal, 0.0217, 0.5).tolist() == pytest.approx(expected)
    assert (metrics.signal_saturated_fraction(h, 0 * signal) == 1).all()


def test_a_share_is_strict():
    """ "More than 95 %": 19 of 20 silent inputs are not enough, 20 are."""
    h = np.zeros((1, 20, 2))
    h[0, 0, 0] = 1.0
    assert metrics.dead_fraction(h).tolist() == [0.5]
    assert metrics.rarely_active_fraction(h).tolist() == [0.5]  # active on 5 %, which is not below 1 %


def test_a_layer_of_zeros_is_wholly_dead_and_dormant_and_has_no_duplicates():
    zeros = np.zeros((1, 4, 3))
    assert metrics.dead_fraction(zeros) == metrics.dormant_fraction(zeros) == metrics.rarely_active_fraction(zeros) == 1
    assert metrics.duplicate_fraction(zeros) == 0


def test_copies_count_once_less_and_opposites_do_not_count(generator):
    one = torch.randn(1, 9, 1, generator=generator, dtype=torch.float64).numpy()
    assert metrics.duplicate_fraction(np.concatenate([one] * 5, axis=2)).tolist() == [4 / 5]
    assert metrics.duplicate_fraction(np.concatenate([one, -one], axis=2)).tolist() == [0]


# -- ranks -----------------------------------------------------------------------------------------------------------------


@given(nonzero())
def test_ranks_against_eigenvalues_of_the_gram_matrix(h):
    sigma = metrics.singular_values(h)
    close = {"rel": 1e-5, "abs": 1e-5}  # the oracle squares σ, so that it has half of the digits
    assert metrics.effective_ranks(sigma).tolist() == pytest.approx(each(reference.effective_rank, h), **close)
    assert metrics.stable_ranks(sigma).tolist() == pytest.approx(each(reference.stable_rank, h), **close)
    assert metrics.participation_ratios(sigma).tolist() == pytest.approx(
        each(reference.participation_ratio, h), **close
    )
    assert metrics.epsilon_ranks(sigma, h.shape[1], 0.1037).tolist() == each(reference.epsilon_rank, h, 0.1037)
    assert metrics.tolerance_ranks(sigma, h.shape[1:]).tolist() == [np.linalg.matrix_rank(a) for a in h]


@given(nonzero())
def test_ranks_are_those_of_the_rank_module(h):
    """One definition: replica by replica the same as for a single matrix."""
    sigma = metrics.singular_values(h)
    assert metrics.effective_ranks(sigma).tolist() == pytest.approx([rank.effective_rank(a) for a in h])
    assert metrics.stable_ranks(sigma).tolist() == pytest.approx([rank.stable_rank(a) for a in h])
    assert metrics.participation_ratios(sigma).tolist() == pytest.approx([rank.participation_ratio(a) for a in h])
    assert metrics.sranks(sigma, 0.0737).tolist() == [rank.srank(a, 0.0737) for a in h]
    for ours, theirs in zip(metrics.numerical_ranks(sigma, h.shape[1:]), map(rank.numerical_rank, h)):
        assert ours == theirs.rank if rank.rank_is_decided(theirs) else math.isnan(ours)


@given(features())
def test_centred_ranks_are_those_of_the_features_without_their_mean(h):
    plain = np.array([reference.centred(a.tolist()) for a in h])
    found = metrics.centred_participation_ratios(h)
    for a, value in zip(plain, found):
        if np.abs(a).max() < 1e-12:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(reference.participation_ratio(a.tolist()), rel=1e-9)
    assert np.allclose(metrics.singular_values(h, centred=True), metrics.singular_values(plain), atol=1e-9)


@given(nonzero(), st.integers(1, 4))
def test_ranks_do_not_see_scale_and_the_epsilon_rank_does(h, power):
    sigma = metrics.singular_values(h)
    for function in (metrics.effective_ranks, metrics.stable_ranks, metrics.participation_ratios):
        assert np.allclose(function(sigma * 10.0**-power), function(sigma), rtol=1e-12)
    assert metrics.epsilon_ranks(sigma * 1e-6, h.shape[1], 0.1).tolist() == [0.0, 0.0]


def test_an_offset_hides_the_rank_of_uncentred_features(generator):
    """Isotropic features of rank 5 with a large common mean: uncentred they look like rank 1, centred like rank 5."""
    h = torch.randn(1, 2000, 5, generator=generator, dtype=torch.float64).numpy() + 100
    assert metrics.participation_ratios(metrics.singular_values(h)) < 1.01
    assert metrics.centred_participation_ratios(h) > 4.9


def test_the_three_stable_ranks_of_the_literature_are_three_numbers():
    """A spike over a flat tail of 100 values (the digest's table: 1.00 against 86)."""
    sigma = np.array([[100.0] + [1.0] * 100])
    stable, srank = metrics.stable_ranks(sigma)[0], metrics.sranks(sigma)[0]
    assert stable == pytest.approx(1.01) and srank == 99
    assert {metrics.ALIASES[name] for name in metrics.ALIASES if name.startswith("stable rank")} == {
        "stable_ranks", "centred_participation_ratios", "sranks"}  # fmt: skip


# -- undefined -------------------------------------------------------------------------------------------------------------


def test_ranks_of_zero_features_are_undefined_unless_a_convention_is_named():
    sigma = metrics.singular_values(np.zeros((1, 3, 2)))
    for function in (metrics.effective_ranks, metrics.stable_ranks, metrics.participation_ratios, metrics.sranks):
        assert math.isnan(function(sigma)[0]) and function(sigma, of_zero=0.0)[0] == 0.0
    assert metrics.tolerance_ranks(sigma, (3, 2)) == metrics.numerical_ranks(sigma, (3, 2)) == 0
    assert math.isnan(metrics.centred_participation_ratios(np.ones((1, 3, 2)))[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_value_and_leaves_the_others_alone(bad, generator):
    h = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64).relu().numpy()
    spoiled = h.copy()
    spoiled[1, 2, 3] = bad
    sigma, clean = metrics.singular_values(spoiled), metrics.singular_values(h)
    found = {
        **{f.__name__: (f(spoiled), f(h)) for f in (metrics.dead_fraction, metrics.rarely_active_fraction,
           metrics.dormant_fraction, metrics.saturated_fraction, metrics.duplicate_fraction,
           metrics.centred_participation_ratios)},
        **{f.__name__: (f(sigma), f(clean)) for f in (metrics.effective_ranks, metrics.stable_ranks,
           metrics.participation_ratios, metrics.sranks)},
        "epsilon": (metrics.epsilon_ranks(sigma, 6, 0.1), metrics.epsilon_ranks(clean, 6, 0.1)),
        "tolerance": (metrics.tolerance_ranks(sigma, (6, 4)), metrics.tolerance_ranks(clean, (6, 4))),
        "numerical": (metrics.numerical_ranks(sigma, (6, 4)), metrics.numerical_ranks(clean, (6, 4))),
        "signal": (metrics.signal_saturated_fraction(h, spoiled), metrics.signal_saturated_fraction(h, h)),
    }  # fmt: skip
    for name, (with_bad, without) in found.items():
        assert np.isnan(with_bad).tolist() == [False, True, False], name
        assert with_bad[[0, 2]].tolist() == without[[0, 2]].tolist(), name


def test_shapes_that_are_no_features_are_refused():
    with pytest.raises(ValueError, match="give \\[R, N, n\\]"):
        metrics.dead_fraction(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="batch = 0"):
        metrics.gradient_reliability(np.ones(1), np.ones((1, 2)), 0)


def test_every_alias_and_every_row_of_the_table_is_a_function():
    for name in metrics.ALIASES.values():
        assert inspect.isfunction(getattr(metrics, name))
    listed = {line.split()[0] for line in metrics.__doc__.splitlines() if line.strip()}
    helpers = {"singular_values", "example_gradient_squares"}
    functions = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert functions - helpers <= listed


# -- weights and gradients -------------------------------------------------------------------------------------------------


def test_norms_of_weights(generator):
    weights = [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]
    flat = torch.cat([w.flatten(1) for w in weights], dim=1)
    arrays = [w.numpy() for w in weights]
    assert metrics.weight_norm(arrays).tolist() == pytest.approx(flat.norm(dim=1).tolist())
    assert metrics.gradient_norm(arrays).tolist() == metrics.weight_norm(arrays).tolist()
    assert metrics.mean_abs_weight(arrays).tolist() == pytest.approx(flat.abs().mean(dim=1).tolist())


def test_gradients_of_examples_have_these_norms(generator):
    """Against autograd, one example at a time."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    z = net[0](x)
    z.retain_grad()
    output = net[2](net[1](z))
    output.retain_grad()
    torch.nn.functional.cross_entropy(output, y, reduction="sum").backward()
    inputs = [x[None].numpy(), net[1](z).detach()[None].numpy()]
    found = metrics.example_gradient_squares(inputs, [z.grad[None].numpy(), output.grad[None].numpy()])
    for i in range(6):
        grads = torch.autograd.grad(
            torch.nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]), net.parameters()
        )
        assert found[0, i] == pytest.approx(sum(float(g.square().sum()) for g in grads), rel=1e-12)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=VALUES), st.integers(1, 3))
def test_reliability_is_the_second_moment_of_minibatch_gradients(examples, batch):
    """All minibatches of B examples, drawn independently, are listed."""
    choices = np.stack(np.meshgrid(*[np.arange(len(examples))] * batch), axis=-1).reshape(-1, batch)
    second = np.square(examples[choices].mean(axis=1)).sum(axis=1).mean()
    norm = np.array([np.linalg.norm(examples.mean(axis=0))])
    squares = np.square(examples).sum(axis=1)[None]
    found = metrics.gradient_reliability(norm, squares, batch)[0]
    if second == 0:
        assert math.isnan(found) and metrics.optimization_readiness(norm, np.array([found]))[0] == 0
    else:
        assert 0 <= found <= 1 + 1e-12
        assert found == pytest.approx(norm[0] ** 2 / second, rel=1e-9, abs=1e-12)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 9), st.integers(1, 5))
def test_readiness_bounds_the_gain_of_the_best_step_and_isotropic_curvature_attains_it(curvatures, spread, seed):
    """2505.09044 in the derived form: β-smooth quadratics; equality where all curvatures are β."""
    draw = np.random.default_rng(seed)
    theta = torch.from_numpy(draw.integers(1, 5, len(curvatures)).astype(np.float64))
    noise = torch.from_numpy(draw.integers(-spread, spread + 1, (4, len(curvatures))).astype(np.float64))
    noise = torch.cat([noise, -noise])  # the mean of ĝ is g
    for hessian in (
        torch.diag(torch.tensor(curvatures, dtype=torch.float64)),
        max(curvatures) * torch.eye(len(theta), dtype=torch.float64),
    ):
        gradient = hessian @ theta
        second = float((gradient + noise).square().sum(dim=1).mean())
        norm, beta = np.array([float(gradient.norm())]), max(curvatures)
        readiness = metrics.optimization_readiness(norm, norm**2 / second)[0]
        gain = reference.one_step_gain(hessian, theta, noise, rate=norm[0] ** 2 / (beta * second))
        assert gain >= readiness / (2 * beta) - 1e-9
    assert gain == pytest.approx(readiness / (2 * beta), rel=1e-9)


@given(nonzero())
def test_the_chain_of_ranks(h):
    sigma = metrics.singular_values(h)
    assume(bool((sigma[:, 0] > 1e-6).all()))
    chain = [
        np.ones(2),
        metrics.stable_ranks(sigma),
        metrics.participation_ratios(sigma),
        metrics.effective_ranks(sigma),
    ]
    for low, high in pairwise(chain):
        assert (low <= high * (1 + 1e-12)).all()
