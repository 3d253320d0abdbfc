r"""Regularisers: what is added to the gradient of an optimiser, or taken as a step of its own.

======================= ================================================ ========================================== ==========
algorithm               minimises, besides the loss                      gradient                                   source
======================= ================================================ ========================================== ==========
l2                      ½ λ ‖θ‖²                                         λ θ                                        folklore
l2_init                 ½ λ ‖θ − θ₀‖²                                    λ (θ − θ₀)                                 2308.11958
spectral_regularization λ Σ_W (σ_max(W)^k − 1)² + λ Σ_b ‖b‖²             2λk(σᵏ − 1)σᵏ⁻¹ u vᵀ, 2λ b                 2406.06811
effective_rank_penalty  −c · reading(F_1, …, F_L)                        analytic, see effective_rank_gradient      2509.22335
l2_er                   the last as a step of its own, with l2           as the published code runs it              2509.22335
l2_er_printed           the last added to the loss, with l2              as the objective is printed                2509.22335
weight_clipping         – (projection: |θ| ≤ κ s after the step)         –                                          2407.01704
======================= ================================================ ========================================== ==========

All but the last take the optimiser as their first argument and keep its state in ``inner``; the penalties are *coupled*:
an adaptive optimiser rescales their gradient too.

**The effective rank and its gradient.** For features F = U diag(σ) Vᵀ [N, d], S = Σσ, p = σ/S and H = −Σ p ln p the
effective rank is e^H (Roy & Vetterli 2007). With F = F(t), dσ_i = u_iᵀ dF v_i, and Σ_j (∂H/∂p_j) (∂p_j/∂σ_i) gives

    ∂H/∂σ_i = −(ln p_i + H) / S,        ∂erank/∂F = U diag(−erank · (ln p_i + H) / S) Vᵀ.

1. Σ_i σ_i ∂H/∂σ_i = 0, so ⟨∂erank/∂F, F⟩ = 0: the effective rank is blind to scale and controls no norm.
2. The coefficient grows like −ln p_i as p_i → 0: at a rank-deficient F the effective rank has no derivative in directions
   that raise the rank. The published code writes ln(p + 10⁻⁸) (``smoothing``). Here zero singular values get coefficient 0,
   which is the derivative within the matrices of the same rank; their singular vectors are not determined by F.
3. For a ReLU unit that is dead on the batch the feature is 0 around θ, so the gradient at its parameters is exactly 0.

For the second moments C = FᵀF/N, whose singular values are σ²/N, p ∝ σ² and the coefficient is multiplied by 2σ_i
(``power=2``): σ² ln σ² → 0 has derivative 0, and this effective rank is differentiable wherever F ≠ 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lop_theory.algorithms.base import (
    Algorithm,
    Context,
    Params,
    Pull,
    Scalar,
    Stateless,
    chain,
    check_scalar,
    forget,
    gradients,
    per_replica,
)

__all__ = [
    "effective_ranks",
    "effective_rank_gradient",
    "rank_of_sum",
    "mean_of_ranks",
    "sum_of_ranks",
    "published_rank",
    "InnerState",
    "AnchoredState",
    "l2",
    "l2_init",
    "effective_rank_penalty",
    "effective_rank_step",
    "l2_er",
    "l2_er_printed",
    "spectral_regularization",
    "weight_clipping",
]

Features: TypeAlias = tuple[Tensor, ...]
Reading: TypeAlias = Callable[[Features], Tensor]

PUBLISHED_SMOOTHING = 1e-8


# -- effective rank --------------------------------------------------------------------------------------------------------


def _shares(sigma: Tensor, power: int, smoothing: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, ln(p + smoothing), H and the total of σ^power; the terms with p = 0 are 0. All zero where σ = 0."""
    weights = sigma**power
    total = weights.sum(dim=-1, keepdim=True)
    p = weights / total.where(total > 0, torch.ones_like(total))
    logs = (p + smoothing).where(p > 0, torch.ones_like(p)).log()
    return p, logs, -(p * logs).sum(dim=-1, keepdim=True), total


def _positive(sigma: Tensor, shape: torch.Size) -> Tensor:
    """Singular values that are not zero up to rounding: above max(N, d) · eps · σ_1."""
    level = max(shape[-2:]) * torch.finfo(sigma.dtype).eps * sigma.amax(dim=-1, keepdim=True)
    return sigma > level


class _EffectiveRank(torch.autograd.Function):
    """erank [...] of F [..., N, d], with the analytic gradient of the module docstring."""

    @staticmethod
    def forward(ctx: Any, F: Tensor, power: int, smoothing: float) -> Tensor:
        U, sigma, Vh = torch.linalg.svd(F, full_matrices=False)
        kept = _positive(sigma, F.shape)
        sigma = sigma * kept
        p, logs, entropy, total = _shares(sigma, power, smoothing)
        # ∂H/∂p_i = −ln(p_i + δ) − p_i/(p_i + δ); minus its mean under p, because Σ p = 1
        inner = -logs - p / (p + smoothing).where(kept, torch.ones_like(p))
        slope = (inner - (p * inner).sum(dim=-1, keepdim=True)) * kept
        slope = slope * power * sigma ** (power - 1) / total.where(total > 0, torch.ones_like(total))
        rank = entropy.exp()
        ctx.save_for_backward(U * (rank * slope).unsqueeze(-2) @ Vh)
        return rank.squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad[..., None, None] * slope, None, None


def effective_ranks(F: Tensor, power: int = 1, smoothing: float = 0.0, of_zero: float | None = None) -> Tensor:
    """Effective rank e^H [...] of each matrix F [..., N, d], p ∝ σ^power; differentiable once, by the analytic gradient.

    ``smoothing`` δ: H = −Σ p ln(p + δ), as in published code (10⁻⁸). ``of_zero``: value of a zero matrix, whose effective
    rank is undefined (gradient 0 there).

    Raises ``ValueError`` for an empty or not finite F, for a zero matrix unless ``of_zero`` is given, and for a power
    other than 1 or 2.

    >>> effective_ranks(torch.diag(torch.tensor([2.0, 2.0, 0.0])))
    tensor(2.)
    >>> effective_ranks(torch.zeros(4, 3))
    Traceback (most recent call last):
    ...
    ValueError: effective rank undefined, because 1 of 1 feature matrices is zero (a dead layer); pass of_zero=1.0 or skip it
    """
    if F.ndim < 2 or 0 in F.shape:
        raise ValueError(f"features of shape {tuple(F.shape)}: a matrix [..., N, d] with N, d ≥ 1 is needed")
    if power not in (1, 2):
        raise ValueError(f"power = {power}: 1 for the singular values of F, 2 for those of FᵀF")
    zero = (F == 0).flatten(-2).all(dim=-1)
    if bool(zero.any()) and of_zero is None:
        raise ValueError(
            f"effective rank undefined, because {int(zero.sum())} of {zero.numel()} feature matrices is zero "
            "(a dead layer); pass of_zero=1.0 or skip it"
        )
    if not bool(torch.isfinite(F).all()):
        raise ValueError("features with an entry that is not finite: the run has diverged; lower its step size")
    ranks: Tensor = _EffectiveRank.apply(F, power, smoothing)
    return ranks if of_zero is None else ranks.masked_fill(zero, of_zero)


def effective_rank_gradient(F: Tensor, power: int = 1, smoothing: float = 0.0) -> Tensor:
    """∂erank/∂F [..., N, d] (module docstring); 0 in the directions of zero singular values.

    >>> F = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> gradient = effective_rank_gradient(F)
    >>> bool((gradient * F).sum().abs() < 1e-15), bool(gradient[1, 1] > 0 > gradient[0, 0])
    (True, True)
    """
    leaf = F.detach().requires_grad_()
    with torch.enable_grad():
        total = effective_ranks(leaf, power, smoothing).sum()
    return torch.autograd.grad(total, leaf)[0]


# -- the printed objective, min E[ℓ] − erank(Σ_l E[a_l a_lᵀ]) + λ ‖θ‖², and what runs ---------------------------------------


def rank_of_sum(features: Features) -> Tensor:
    """Reading 1, literally: erank(Σ_l C_l) [R] with C_l = F_lᵀF_l / N_l. Defined only if all layers have one width.

    Σ_l C_l = GᵀG for the rows of all F_l / √N_l stacked into G, so no product is formed.

    >>> one = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])    # two layers of rank 1, orthogonal
    >>> rank_of_sum(one), mean_of_ranks(one), sum_of_ranks(one)
    (tensor([2.]), tensor([1.]), tensor([2.]))
    """
    sizes = sorted({F.shape[-1] for F in features})
    if len(sizes) != 1:
        raise ValueError(
            f"Σ_l E[a_l a_lᵀ] is undefined, because the layers have widths {sizes}: matrices of different sizes have no "
            "sum; use mean_of_ranks or sum_of_ranks"
        )
    return effective_ranks(torch.cat([F / math.sqrt(F.shape[-2]) for F in features], dim=-2), power=2, of_zero=1.0)


def mean_of_ranks(features: Features) -> Tensor:
    """Reading 2: (1/L) Σ_l erank(C_l) [R]; it does not depend on the scales of the layers."""
    return sum_of_ranks(features) / len(features)


def sum_of_ranks(features: Features) -> Tensor:
    """Reading 3: Σ_l erank(C_l) [R], L times the mean."""
    return torch.stack([effective_ranks(F, power=2, of_zero=1.0) for F in features]).sum(dim=0)


def published_rank(features: Features) -> Tensor:
    """What the published code maximises: (1/L) Σ_l erank(F_l) [R], on σ instead of σ², uncentred, smoothed.

    A layer that is zero counts 1, as there. (Reinforcement learning: one mean for the actor and one for the critic.)

    >>> published_rank((torch.diag(torch.tensor([2.0, 1.0])).unsqueeze(0),))
    tensor([1.8899])
    """
    ranks = [effective_ranks(F, smoothing=PUBLISHED_SMOOTHING, of_zero=1.0) for F in features]
    return torch.stack(ranks).mean(dim=0)


def _ascent(reading: Reading, params: Params, ctx: Context) -> Params:
    """∂ reading(features) / ∂ params; 0 for parameters that no feature depends on (the head)."""
    leaves = [p.detach().requires_grad_() for p in params]
    with torch.enable_grad():
        total = reading(ctx.features(tuple(leaves))).sum()
    if not total.requires_grad:
        return tuple(torch.zeros_like(p) for p in params)
    return torch.autograd.grad(total, leaves, materialize_grads=True, allow_unused=True)


# -- added to the gradient -------------------------------------------------------------------------------------------------


class InnerState(NamedTuple):
    """The state of the optimiser inside."""

    inner: Any


def _penalized(name: str, optimizer: Algorithm, slope: Callable[[Params, Context], Params]) -> Algorithm:
    """The optimiser on g + slope(θ)."""

    def update(params: Params, grads: Params, state: InnerState, ctx: Context) -> tuple[Params, InnerState]:
        total = tuple(g + s for g, s in zip(grads, slope(params, ctx), strict=True))
        params, inner = optimizer.update(params, total, state.inner, ctx)
        return params, InnerState(inner)

    return Algorithm(f"{name}({optimizer.name})", lambda params: InnerState(optimizer.init(params)), update)


def l2(optimizer: Algorithm, weight_decay: Scalar) -> Algorithm:
    """Weight decay in the gradient, g + λ θ on all parameters: minimises the loss plus ½ λ ‖θ‖².

    >>> from lop_theory.algorithms.descent import sgd
    >>> rule, params = l2(sgd(0.1), 1.0), (torch.ones(1, 1),)
    >>> rule.update(params, (torch.zeros(1, 1),), rule.init(params), None)[0]
    (tensor([[0.9000]]),)
    """
    check_scalar("weight_decay", weight_decay)

    def update(params: Params, grads: Params, state: InnerState, ctx: Context) -> tuple[Params, InnerState]:
        pulls = (Pull(weight_decay),) * len(params)
        params, inner = optimizer.update_pulled(params, grads, state.inner, ctx, pulls)
        return params, InnerState(inner)

    return Algorithm(f"l2({optimizer.name})", lambda params: InnerState(optimizer.init(params)), update)


class AnchoredState(NamedTuple):
    """The parameters θ₀ at ``init``, and the state of the optimiser inside."""

    anchor: Params
    inner: Any

    def forget(self, masks: Params) -> AnchoredState:
        """The anchor is no memory of training: it stays."""
        return AnchoredState(self.anchor, forget(self.inner, masks))


def l2_init(optimizer: Algorithm, strength: Scalar) -> Algorithm:
    """Decay towards the initial parameters, g + λ (θ − θ₀) (Kumar, Marklund & Van Roy 2023, 2308.11958).

    >>> from lop_theory.algorithms.descent import sgd
    >>> rule, start = l2_init(sgd(0.5), 1.0), (torch.ones(1, 1),)
    >>> rule.update((torch.full((1, 1), 3.0),), (torch.zeros(1, 1),), rule.init(start), None)[0]
    (tensor([[2.]]),)
    """
    check_scalar("strength", strength)

    def update(params: Params, grads: Params, state: AnchoredState, ctx: Context) -> tuple[Params, AnchoredState]:
        pulls = tuple(Pull(strength, start) for start in state.anchor)
        params, inner = optimizer.update_pulled(params, grads, state.inner, ctx, pulls)
        return params, AnchoredState(state.anchor, inner)

    def init(params: Params) -> AnchoredState:
        return AnchoredState(tuple(p.clone() for p in params), optimizer.init(params))

    return Algorithm(f"l2_init({optimizer.name})", init, update)


def effective_rank_penalty(optimizer: Algorithm, strength: Scalar, reading: Reading = published_rank) -> Algorithm:
    """The optimiser on loss − c · reading(features): the effective rank *added* to the objective, in every update.

    ``reading``: :func:`rank_of_sum`, :func:`mean_of_ranks`, :func:`sum_of_ranks` or :func:`published_rank`.
    """
    check_scalar("strength", strength)

    def slope(params: Params, ctx: Context) -> Params:
        return tuple(-per_replica(strength, g) * g for g in _ascent(reading, params, ctx))

    return _penalized("effective_rank_penalty", optimizer, slope)


def effective_rank_step(
    lr: Scalar, every: int, reading: Reading = published_rank, before: Algorithm | None = None
) -> Algorithm:
    """θ ← θ + η_er ∂reading/∂θ by plain gradient ascent in one of every U = ``every`` updates, beside the optimiser.

    Alone it ascends in updates U − 1, 2U − 1, … (published code, permuted MNIST: U steps, then one ascent on the inputs
    of all U minibatches, which ``ctx.features`` must then hold). With ``before`` it ascends first in updates 0, U, …, and
    then runs that optimiser on the gradient *at the new parameters* (published code of the other benchmarks).
    """
    check_scalar("lr", lr)
    if every < 1:
        raise ValueError(f"every = {every}: the number of minibatches between two ascents is at least 1")

    def ascend(params: Params, ctx: Context) -> Params:
        slopes = _ascent(reading, params, ctx)
        return tuple(p + per_replica(lr, p) * g for p, g in zip(params, slopes, strict=True))

    def after(params: Params, grads: Params, state: Stateless, ctx: Context) -> tuple[Params, Stateless]:
        return (ascend(params, ctx) if (ctx.step + 1) % every == 0 else params), state

    def first(params: Params, grads: Params, state: InnerState, ctx: Context) -> tuple[Params, InnerState]:
        if ctx.step % every == 0:
            params = ascend(params, ctx)
            grads = gradients(params, ctx)
        params, inner = optimizer.update(params, grads, state.inner, ctx)
        return params, InnerState(inner)

    if before is None:
        return Algorithm("effective_rank_step", lambda params: Stateless(), after)
    optimizer = before
    name = f"effective_rank_step({optimizer.name})"
    return Algorithm(name, lambda params: InnerState(optimizer.init(params)), first)


def l2_er(
    optimizer: Algorithm, weight_decay: Scalar, er_lr: Scalar, every: int, ascend_first: bool = False
) -> Algorithm:
    """L2-ER as the published code runs it: coupled weight decay in the optimiser, and an ascent of its own on the mean
    effective rank of the features, by plain SGD with its own step size, once in ``every`` minibatches.

    The ascent does not pass through the optimiser: no momentum, no preconditioning, no weight decay. Per update it weighs
    er_lr / (lr · every) against the loss. Published: permuted MNIST er_lr 10⁻², weight_decay 10⁻³, every 100.

    >>> from lop_theory.algorithms.descent import sgd
    >>> l2_er(sgd(0.01), weight_decay=1e-3, er_lr=1e-2, every=100).name
    'l2(sgd) then effective_rank_step'
    """
    decayed = l2(optimizer, weight_decay)
    if ascend_first:
        return effective_rank_step(er_lr, every, before=decayed)
    return chain(decayed, effective_rank_step(er_lr, every))


def l2_er_printed(
    optimizer: Algorithm, lam: Scalar, strength: Scalar = 1.0, reading: Reading = rank_of_sum
) -> Algorithm:
    """L2-ER as its objective is printed: the optimiser on E[ℓ] − c · reading + λ ‖θ‖² (gradient 2 λ θ), in every update.

    >>> from lop_theory.algorithms.descent import sgd
    >>> l2_er_printed(sgd(0.01), lam=5e-4).name
    'l2(effective_rank_penalty(sgd))'
    """
    return l2(effective_rank_penalty(optimizer, strength, reading), 2 * lam)


# -- weights ---------------------------------------------------------------------------------------------------------------


def _top_pair(W: Tensor) -> tuple[Tensor, Tensor]:
    """σ_max [R] and u vᵀ [R, m, n] of W, from the smaller Gram matrix (squaring costs accuracy at the bottom only).

    Where σ_max is not simple this is one of several subgradients of it; where W = 0 it is 0.
    """
    if W.shape[-2] > W.shape[-1]:
        sigma, outer = _top_pair(W.mT)
        return sigma, outer.mT
    u = torch.linalg.eigh(W @ W.mT).eigenvectors[..., -1]
    wu = (W.mT @ u.unsqueeze(-1)).squeeze(-1)
    sigma = wu.norm(dim=-1)
    v = wu / sigma.where(sigma > 0, torch.ones_like(sigma)).unsqueeze(-1)
    return sigma, u.unsqueeze(-1) * v.unsqueeze(-2)


def spectral_regularization(optimizer: Algorithm, strength: Scalar, k: int = 2) -> Algorithm:
    """Pull σ_max of every weight matrix to 1: λ Σ_W (σ_max(W)ᵏ − 1)² + λ Σ_b ‖b‖² (Lewandowski et al., 2406.06811).

    Parameters [R, n] are biases, [R, out, in, …] weights, flattened to [out, in · …]. (Published code of 2509.22335 has
    (σ_max² − 2)² instead, whose minimum is σ_max = √2.)

    >>> from lop_theory.algorithms.descent import sgd
    >>> rule, params = spectral_regularization(sgd(0.05), 1.0), (torch.diag(torch.tensor([2.0, 0.5])).unsqueeze(0),)
    >>> for _ in range(50):
    ...     params, _ = rule.update(params, (torch.zeros(1, 2, 2),), rule.init(params), None)
    >>> params[0]
    tensor([[[1.0000, 0.0000],
             [0.0000, 0.5000]]])
    """
    check_scalar("strength", strength)
    if k < 1:
        raise ValueError(f"k = {k}: the exponent of σ_max is at least 1; the paper takes 2")

    def slope(params: Params, ctx: Context) -> Params:
        slopes = []
        for p in params:
            if p.ndim <= 2:
                slopes.append(2 * per_replica(strength, p) * p)
                continue
            sigma, outer = _top_pair(p.flatten(2))
            factor = per_replica(2 * k * (sigma**k - 1) * sigma ** (k - 1), p)
            slopes.append(per_replica(strength, p) * factor * outer.reshape(p.shape))
        return tuple(slopes)

    return _penalized("spectral_regularization", optimizer, slope)


def uniform_bounds(params: Params) -> tuple[float, ...]:
    """1/√fan-in for each weight [R, out, in, …], and for the bias [R, out] after it: torch's default initial bounds.

    >>> uniform_bounds((torch.zeros(2, 3, 4), torch.zeros(2, 3)))
    (0.5, 0.5)
    """
    bounds: list[float] = []
    for k, p in enumerate(params):
        if p.ndim > 2:
            bounds.append(1 / math.sqrt(p[0, 0].numel()))
        elif bounds:
            bounds.append(bounds[-1])
        else:
            raise ValueError(
                f"parameter {k} of shape {tuple(p.shape)} is a bias before any weight: pass bounds yourself"
            )
    return tuple(bounds)


def weight_clipping(kappa: Scalar, bounds: Sequence[float] | None = None) -> Algorithm:
    """θ ← clamp(θ, −κ s, κ s) with s the bound of the initial distribution (Elsayed et al., 2407.01704).

    Stands behind the optimiser in a :func:`~lop_theory.algorithms.base.chain`. ``bounds``: s for each parameter, by
    default :func:`uniform_bounds`.

    >>> rule = weight_clipping(1.0)
    >>> params = (torch.tensor([[[3.0, 0.5, -9.0, 0.0]]]), torch.tensor([[1.0]]))
    >>> rule.update(params, params, Stateless(), None)[0]
    (tensor([[[ 0.5000,  0.5000, -0.5000,  0.0000]]]), tensor([[0.5000]]))
    """
    check_scalar("kappa", kappa)
    if bounds is not None:
        for k, bound in enumerate(bounds):
            check_scalar(f"bounds[{k}]", bound)

    def update(params: Params, grads: Params, state: Stateless, ctx: Context) -> tuple[Params, Stateless]:
        limits = uniform_bounds(params) if bounds is None else bounds
        clipped = []
        for p, bound in zip(params, limits, strict=True):
            limit = per_replica(kappa, p) * torch.full_like(p, bound)
            clipped.append(torch.clamp(p, -limit, limit))
        return tuple(clipped), state

    return Algorithm("weight_clipping", lambda params: Stateless(), update)
