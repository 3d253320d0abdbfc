"""Effective rank as a penalty: values, gradient, the three readings, the two algorithms; and the other regularisers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lop_theory.algorithms import regularizers as reg
from lop_theory.algorithms.base import generators, gradients, mlp_context, mlp_init
from lop_theory.algorithms.descent import adam, momentum, sgd
from lop_theory.rank import effective_rank

F64 = torch.float64


def by_autodiff(F, power, smoothing):
    """The effective rank and its gradient by automatic differentiation of singular values."""
    leaf = F.clone().requires_grad_()
    weights = torch.linalg.svdvals(leaf) ** power
    p = weights / weights.sum(-1, keepdim=True)
    ranks = torch.exp(-(p * (p + smoothing).log()).sum(-1))
    return ranks.detach(), torch.autograd.grad(ranks.sum(), leaf)[0]


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**16), st.sampled_from([1, 2]), st.sampled_from([0.0, 1e-8])
)
def test_value_and_gradient_agree_with_autodiff(n, d, seed, power, smoothing):
    F = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    ranks, slope = by_autodiff(F, power, smoothing)
    torch.testing.assert_close(reg.effective_ranks(F, power, smoothing), ranks, rtol=1e-12, atol=1e-12)
    ours = reg.effective_rank_gradient(F, power, smoothing)
    scale = max(1.0, float(slope.abs().max()))
    torch.testing.assert_close(ours, slope, rtol=0, atol=1e-12 * scale)
    assert (
        (ours * F).sum((1, 2)).abs() < 1e-6 * smoothing**0.5 + 1e-12 * scale * F.abs().sum()
    ).all()  # blind to scale
    torch.testing.assert_close(reg.effective_ranks(1e3 * F, power, smoothing), ranks, rtol=1e-12, atol=0)


def test_the_gradient_survives_close_and_tiny_singular_values():
    """Automatic differentiation through singular *vectors* divides by differences of singular values; this does not."""
    draw = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, 4, generator=draw, dtype=F64)).Q for n in (6, 4))
    sigma = torch.tensor([1.0, 1.0, 1.0 - 1e-13, 1e-7], dtype=F64)
    F = (U * sigma) @ V.T
    _, slope = by_autodiff(F, 1, 0.0)
    torch.testing.assert_close(reg.effective_rank_gradient(F), slope, rtol=1e-7, atol=1e-7)  # u₄, v₄ to ε/σ₄
    assert torch.autograd.gradcheck(reg.effective_ranks, F[None, :, :3].clone().requires_grad_())


@given(st.integers(0, 2**16), st.integers(1, 3))
def test_value_is_that_of_the_rank_module(seed, rank):
    draw = torch.Generator().manual_seed(seed)
    F = torch.randn(5, rank, generator=draw, dtype=F64) @ torch.randn(rank, 4, generator=draw, dtype=F64)
    assert math.isclose(float(reg.effective_ranks(F)), effective_rank(F), rel_tol=1e-9)
    second = F.T @ F / 5
    assert math.isclose(float(reg.effective_ranks(F, power=2)), effective_rank(second), rel_tol=1e-6)


def test_at_deficient_rank_it_is_the_derivative_along_matrices_of_that_rank(generator):
    A, B, dA = (torch.randn(s, generator=generator, dtype=F64) for s in ((5, 2), (2, 4), (5, 2)))
    t = 1e-5
    ends = [effective_rank((A + s * dA) @ B) for s in (t, -t)]
    slope = float((reg.effective_rank_gradient(A @ B) * (dA @ B)).sum())
    assert abs((ends[0] - ends[1]) / (2 * t) - slope) < 1e-7 * max(1.0, abs(slope))
    # the power-2 rank is differentiable there in all directions
    E = torch.randn(5, 4, generator=generator, dtype=F64)
    ends = [float(reg.effective_ranks(A @ B + s * E, power=2)) for s in (t, -t)]
    slope = float((reg.effective_rank_gradient(A @ B, power=2) * E).sum())
    assert abs((ends[0] - ends[1]) / (2 * t) - slope) < 1e-3 * max(1.0, abs(slope))


@pytest.mark.parametrize(
    ("F", "message"),
    [
        (torch.zeros(2, 3), "undefined, because 1 of 1 feature matrices is zero"),
        (torch.stack([torch.eye(2), torch.zeros(2, 2)]), "undefined, because 1 of 2 feature matrices is zero"),
        (torch.zeros(0, 3), "with N, d ≥ 1"),
        (torch.ones(3), "with N, d ≥ 1"),
        (torch.tensor([[math.nan, 1.0]]), "not finite"),
    ],
)
def test_undefined_effective_ranks_are_named(F, message):
    with pytest.raises(ValueError, match=message):
        reg.effective_ranks(F)
    with pytest.raises(ValueError, match="power = 3"):
        reg.effective_ranks(torch.eye(2), power=3)


def test_a_zero_matrix_has_the_given_value_and_gradient_zero():
    F = torch.stack([torch.zeros(2, 2), torch.diag(torch.tensor([2.0, 1.0]))]).double().requires_grad_()
    ranks = reg.effective_ranks(F, of_zero=1.0)
    (slope,) = torch.autograd.grad(ranks.sum(), F)
    assert ranks[0] == 1 and (slope[0] == 0).all() and (slope[1].diagonal() != 0).all()


# -- three readings --------------------------------------------------------------------------------------------------------


def test_readings_against_their_definitions(generator):
    features = tuple(torch.randn(1, n, 4, generator=generator, dtype=F64) for n in (6, 6, 9))
    moments = [(F[0].T @ F[0] / F.shape[1]).numpy() for F in features]
    each = [effective_rank(C) for C in moments]
    assert math.isclose(float(reg.rank_of_sum(features)), effective_rank(np.sum(moments, axis=0)), rel_tol=1e-10)
    assert math.isclose(float(reg.mean_of_ranks(features)), float(np.mean(each)), rel_tol=1e-10)
    assert math.isclose(float(reg.sum_of_ranks(features)), float(np.sum(each)), rel_tol=1e-10)
    published = float(np.mean([effective_rank(F[0]) for F in features]))
    assert math.isclose(float(reg.published_rank(features)), published, rel_tol=1e-6)  # smoothing 1e-8


def test_a_large_healthy_layer_hides_a_collapsed_one():
    """Four equal singular values of size 10 beside one of size 1: sum 3.96…, mean (4 + 1)/2."""
    healthy, collapsed = 10 * torch.eye(4, dtype=F64)[None], torch.zeros(1, 4, 4, dtype=F64)
    collapsed[0, 0, 0] = 1.0
    p = np.array([101.0, 100, 100, 100]) / 401
    assert math.isclose(float(reg.rank_of_sum((healthy, collapsed))), math.exp(-(p * np.log(p)).sum()), rel_tol=1e-12)
    assert math.isclose(float(reg.mean_of_ranks((healthy, collapsed))), 2.5, rel_tol=1e-12)


def test_the_printed_sum_is_undefined_for_unequal_widths():
    with pytest.raises(ValueError, match=r"widths \[2, 3\]: matrices of different sizes have no sum"):
        reg.rank_of_sum((torch.ones(1, 4, 2), torch.ones(1, 4, 3)))


# -- L2-ER -----------------------------------------------------------------------------------------------------------------


def problem(seed=0, widths=(3, 6, 5, 2), replicas=2):
    draw = torch.Generator().manual_seed(seed)
    params = mlp_init(widths, generators(range(seed, seed + replicas)))
    x, y = (torch.randn(8, n, generator=draw, dtype=F64) for n in (widths[0], widths[-1]))
    return params, x, y


def moved(params, x, scale):
    """params + scale · ∂ published_rank, by automatic differentiation of everything."""
    leaves = [p.clone().requires_grad_() for p in params]
    total = sum(by for F in mlp_context(params, x, x).features(tuple(leaves)) for by in values(F)) / 2
    slopes = torch.autograd.grad(total, leaves[:-2])
    return tuple(p + scale * s for p, s in zip(params, slopes, strict=False)) + params[-2:]


def values(F):
    p = torch.linalg.svdvals(F)
    p = p / p.sum(-1, keepdim=True)
    return torch.exp(-(p * (p + 1e-8).log()).sum(-1))


def close(a, b):
    return all(torch.allclose(p, q, rtol=1e-9, atol=1e-11) for p, q in zip(a, b, strict=True))


def test_l2_er_as_published_is_a_step_of_its_own():
    """Updates 0 and 1 are those of the optimiser with weight decay; update 2 adds an ascent at the parameters it left."""
    params, x, y = problem()
    rule, plain = reg.l2_er(momentum(0.1), 0.01, 0.5, every=3), reg.l2(momentum(0.1), 0.01)
    state, bare = rule.init(params), plain.init(params)
    other = params
    for step in range(3):
        ctx = mlp_context(params, x, y, step=step)
        grads = gradients(params, ctx)
        params, state = rule.update(params, grads, state, ctx)
        other, bare = plain.update(other, grads, bare, ctx)
        assert all(torch.equal(p, q) for p, q in zip(params, other, strict=True)) == (step < 2)
    assert close(params, moved(other, x, 0.5))
    assert all(
        torch.equal(p, q) for p, q in zip(params[-2:], other[-2:], strict=True)
    )  # ER says nothing about the head


def test_l2_er_may_ascend_first_and_then_uses_fresh_gradients():
    params, x, y = problem()
    ctx = mlp_context(params, x, y, step=0)
    rule = reg.l2_er(sgd(0.1), 0.0, 0.5, every=3, ascend_first=True)
    ours, _ = rule.update(params, gradients(params, ctx), rule.init(params), ctx)
    up = moved(params, x, 0.5)
    expected = tuple(p - 0.1 * g for p, g in zip(up, gradients(up, ctx), strict=True))
    assert close(ours, expected)


def test_printed_and_published_updates_differ():
    """Even with the same reading, coefficient and period 1: the ascent is taken elsewhere, and not preconditioned."""
    params, x, y = problem()
    ctx = mlp_context(params, x, y)
    grads = gradients(params, ctx)
    for optimizer, gap in ((sgd(0.1), 1e-4), (adam(0.1), 1e-2)):
        printed = reg.l2_er_printed(optimizer, 0.05, strength=1.0, reading=reg.published_rank)
        published = reg.l2_er(optimizer, 0.1, 0.1, every=1)
        a, _ = printed.update(params, grads, printed.init(params), ctx)
        b, _ = published.update(params, grads, published.init(params), ctx)
        assert max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True)) > gap


def test_a_step_of_the_penalty_raises_the_effective_rank():
    params, x, y = problem()
    ctx = mlp_context(params, x, y)
    zero = tuple(torch.zeros_like(p) for p in params)
    rule = reg.effective_rank_penalty(sgd(1e-3), 1.0)
    after, _ = rule.update(params, zero, rule.init(params), ctx)
    before, later = reg.published_rank(ctx.features(params)), reg.published_rank(ctx.features(after))
    assert (later > before).all()


def test_the_gradient_at_a_dead_unit_is_exactly_zero():
    """And live units move: the statement is not empty."""
    params, x, y = problem()
    params[1][:, 0] = -100.0
    rule = reg.effective_rank_penalty(sgd(1.0), 1.0)
    zero = tuple(torch.zeros_like(p) for p in params)
    after, _ = rule.update(params, zero, rule.init(params), mlp_context(params, x, y))
    assert torch.equal(after[0][:, 0], params[0][:, 0]) and torch.equal(after[1][:, 0], params[1][:, 0])
    assert torch.equal(after[2][:, :, 0], params[2][:, :, 0])
    assert (after[0][:, 1:] != params[0][:, 1:]).any(dim=(1, 2)).all()


def test_a_net_without_hidden_layers_or_gradient_is_left_alone():
    params = (torch.zeros(1, 4, 3, dtype=F64), torch.full((1, 4), -1.0, dtype=F64))
    params += (torch.ones(1, 1, 4, dtype=F64), torch.zeros(1, 1, dtype=F64))
    rule = reg.effective_rank_step(1.0, 1)  # all units dead: the feature matrix is 0, its effective rank is taken as 1
    after, _ = rule.update(params, params, (), mlp_context(params, torch.ones(2, 3, dtype=F64), torch.ones(2, 1)))
    assert all(torch.equal(p, q) for p, q in zip(params, after, strict=True))
    with pytest.raises(ValueError, match="every = 0"):
        reg.effective_rank_step(1.0, 0)


# -- the others ------------------------------------------------------------------------------------------------------------


def test_l2_init_contracts_to_the_start():
    """Without a loss θ_t − θ₀ = (1 − ηλ)ᵗ (θ − θ₀)."""
    start, far = (torch.zeros(2, 3, dtype=F64),), (torch.ones(2, 3, dtype=F64),)
    rule = reg.l2_init(sgd(0.1), torch.tensor([1.0, 2.0]))
    state, params = rule.init(start), far
    for _ in range(7):
        params, state = rule.update(params, start, state, None)
    expected = torch.tensor([0.9, 0.8], dtype=F64)[:, None].expand(2, 3) ** 7
    torch.testing.assert_close(params[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 2, 2), (1, 1)])
def test_spectral_regularization_follows_its_penalty(k, shape, generator):
    params = (torch.randn(2, *shape, generator=generator, dtype=F64), torch.randn(2, 3, generator=generator, dtype=F64))
    leaves = [p.clone().requires_grad_() for p in params]
    sigma = torch.linalg.matrix_norm(leaves[0].flatten(2), ord=2)
    slopes = torch.autograd.grad(((sigma**k - 1) ** 2).sum() + (leaves[1] ** 2).sum(), leaves)
    rule = reg.spectral_regularization(sgd(1.0), torch.tensor([1.0, 0.5]), k)
    after, _ = rule.update(params, tuple(torch.zeros_like(p) for p in params), rule.init(params), None)
    for p, slope, new in zip(params, slopes, after, strict=True):
        scale = torch.tensor([1.0, 0.5], dtype=F64).reshape(2, *[1] * (p.ndim - 1))
        torch.testing.assert_close(new, p - scale * slope, rtol=1e-10, atol=1e-10)


def test_spectral_regularization_leaves_a_zero_matrix():
    rule, params = reg.spectral_regularization(sgd(1.0), 1.0), (torch.zeros(1, 2, 3, dtype=F64),)
    after, _ = rule.update(params, params, rule.init(params), None)
    assert torch.equal(after[0], params[0])
    with pytest.raises(ValueError, match="k = 0"):
        reg.spectral_regularization(sgd(1.0), 1.0, k=0)


def test_weight_clipping_clips_to_its_bounds_and_no_further(generator):
    params = (torch.randn(2, 4, 9, generator=generator, dtype=F64), torch.randn(2, 4, generator=generator, dtype=F64))
    rule = reg.weight_clipping(torch.tensor([1.0, 2.0]))
    once, _ = rule.update(params, params, (), None)
    for p, q in zip(params, once, strict=True):
        for r, limit in ((0, 1 / 3), (1, 2 / 3)):
            torch.testing.assert_close(q[r], p[r].clamp(-limit, limit), rtol=1e-15, atol=0)
            assert math.isclose(float(q[r].abs().max()), limit, rel_tol=1e-15)  # something was clipped
    twice, _ = rule.update(once, params, (), None)
    assert all(torch.equal(p, q) for p, q in zip(once, twice, strict=True))
    with pytest.raises(ValueError, match="a bias before any weight"):
        rule.update((params[1],), (params[1],), (), None)
    with pytest.raises(ValueError, match=r"bounds\[0\] = -1.0"):
        reg.weight_clipping(1.0, (-1.0,))
