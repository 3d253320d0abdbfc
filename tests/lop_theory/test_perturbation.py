"""Noise on gradients and weights, masks on units."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from lop_theory.algorithms.base import Context, generators, gradients, mlp_context, mlp_forward, mlp_init
from lop_theory.algorithms.descent import sgd
from lop_theory.algorithms.perturbation import (
    dropout_masks,
    gradient_noise,
    initial_like,
    noisy_sgd,
    shrink_and_perturb,
)

F64 = torch.float64


def noise(relative, scale, shape, step=0, decay=1.0, seeds=(0, 1)):
    """(noise, gradient) of one update with step size 1 from 0: θ = −(g + noise)."""
    g = torch.randn(len(seeds), *shape, generator=torch.Generator().manual_seed(9), dtype=F64)
    rule, params = noisy_sgd(1.0, scale, decay, relative=relative), (torch.zeros_like(g),)
    (moved,), _ = rule.update(params, (g,), rule.init(params), Context(None, None, None, step, generators(seeds)))
    return -moved - g, g


@given(st.integers(1, 50), st.integers(0, 3), st.floats(0.01, 2))
def test_relative_in_norm_means_what_it_says(d, step, decay):
    extra, g = noise("norm", 0.25, (d,), step, decay)
    expected = 0.25 * decay**step * g.flatten(1).norm(dim=1)
    torch.testing.assert_close(extra.flatten(1).norm(dim=1), expected, rtol=1e-9, atol=1e-12)


def test_as_coded_the_noise_is_larger_by_the_root_of_the_dimension():
    """(‖noise‖ / σ‖g‖)² is χ² with d degrees of freedom: inside its two-sided 10⁻⁹ quantiles, and far above 1."""
    for shape in ((20, 30), (1000,)):
        d = math.prod(shape)
        extra, g = noise("coordinate", 0.01, shape)
        squares = (extra.flatten(1).norm(dim=1) / (0.01 * g.flatten(1).norm(dim=1))) ** 2
        low, high = chi2.ppf([1e-9, 1 - 1e-9], d)
        assert (squares > low).all() and (squares < high).all() and low > 300


def test_no_gradient_no_noise_and_decay_zero_is_one_noisy_step():
    params = (torch.zeros(1, 4, dtype=F64),)
    rule = gradient_noise(sgd(1.0), 1.0)
    ctx = Context(None, None, None, 0, generators([0]))
    assert torch.equal(rule.update(params, params, rule.init(params), ctx)[0][0], params[0])
    assert noise("coordinate", 1.0, (3,), step=0, decay=0.0)[0].abs().min() > 0
    assert noise("coordinate", 1.0, (3,), step=1, decay=0.0)[0].abs().max() == 0
    with pytest.raises(ValueError, match="relative = 'percent'"):
        noisy_sgd(0.1, relative="percent")


def test_shrink_and_perturb_is_affine_in_a_fresh_network():
    params = mlp_init([4, 3, 2], generators([1, 2]))
    fresh = mlp_init([4, 3, 2], generators([5, 6]))
    rule = shrink_and_perturb(torch.tensor([0.5, 0.25]), 0.125, every=3)
    for step, acts in ((0, False), (1, False), (2, True), (3, False), (5, True)):
        ctx = Context(None, None, None, step, generators([5, 6]))
        after, _ = rule.update(params, params, (), ctx)
        for p, f, q in zip(params, fresh, after, strict=True):
            shrunk = p * torch.tensor([0.5, 0.25], dtype=F64).reshape(2, *[1] * (p.ndim - 1))
            torch.testing.assert_close(q, shrunk + 0.125 * f if acts else p, rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match="every = 0"):
        shrink_and_perturb(0.9, 0.1, every=0)


def test_the_initial_distribution_has_the_variance_of_kaiming():
    """Var U(−b, b) = b²/3 = 2 / fan-in; the bound is nearly reached and never passed."""
    (W, b) = initial_like((torch.ones(1, 200, 50, dtype=F64), torch.ones(1, 200, dtype=F64)), generators([3]))
    assert float(W.abs().max()) <= math.sqrt(6 / 50) < 1.001 * float(W.abs().max())
    assert abs(float(W.var()) - 2 / 50) < 0.001 and not b.any()


def test_dropout_masks_have_mean_one_and_act_on_hidden_units():
    params = mlp_init([4, 300, 5, 2], generators([1, 2]))
    masks = dropout_masks([300, 5], 7, 0.25, generators([0, 1]))
    assert [tuple(m.shape) for m in masks] == [(2, 7, 300), (2, 7, 5)]
    kept = (masks[0] != 0).double().mean()
    assert abs(float(kept) - 0.75) < 6 * math.sqrt(0.75 * 0.25 / masks[0].numel())
    assert set(masks[0].unique().tolist()) == {0.0, 1 / 0.75}
    x = torch.ones(7, 4, dtype=F64)
    trace = mlp_forward(params, x, masks=masks)
    first = mlp_forward(params, x).h[0] * masks[0]
    assert torch.equal(trace.h[0], first)
    ones = dropout_masks([300, 5], 7, 0.0, generators([0, 1]))
    assert torch.equal(mlp_forward(params, x, masks=ones).output, mlp_forward(params, x).output)
    dropped = tuple(torch.zeros_like(m) for m in masks)
    grads = gradients(params, mlp_context(params, x, torch.zeros(7, 2, dtype=F64), masks=dropped))
    assert not grads[0].any() and not grads[2].any()


@pytest.mark.parametrize("arguments", [([3], 2, 1.0), ([3], 2, -0.1), ([0], 2, 0.5), ([3], 0, 0.5)])
def test_masks_without_units_or_samples_are_refused(arguments):
    with pytest.raises(ValueError):
        dropout_masks(*arguments, generators([0]))
