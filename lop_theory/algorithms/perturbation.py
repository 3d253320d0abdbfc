r"""Perturbations: noise on gradients, noise on weights, masks on units.

===================== ============================================================ ======================================
function              one update                                                   ‖noise‖² / (σ λᵗ ‖g‖)², mean
===================== ============================================================ ======================================
gradient_noise        per parameter tensor g ∈ R^d: g + σ λᵗ ‖g‖ ξ (as coded)       d
  relative="norm"     g + σ λᵗ ‖g‖ ξ / ‖ξ‖ (as described)                           1, always
shrink_and_perturb    θ ← a θ + s ε, ε from the initial distribution               –
dropout_masks         h ← h · m, m = 0 with probability p, else 1/(1 − p)          –
===================== ============================================================ ======================================

ξ is standard normal, t = ``ctx.step``. E‖ξ‖² = d: "noise of 0.01 relative to the gradient norm" in the first form is
0.01 √d times the gradient, 4 times for a 784 × 200 matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from lop_theory.algorithms.base import (
    Algorithm,
    Context,
    Params,
    Scalar,
    Stateless,
    check_scalar,
    normal_like,
    per_replica,
)
from lop_theory.algorithms.descent import momentum, sgd
from lop_theory.algorithms.normalization import split_affine
from lop_theory.algorithms.regularizers import InnerState

__all__ = ["gradient_noise", "noisy_sgd", "initial_like", "shrink_and_perturb", "dropout_masks"]

Draw: TypeAlias = Callable[[Params, Sequence[torch.Generator]], Params]


def _length(tensor: Tensor) -> Tensor:
    """‖·‖ of each replica [R]: several times as quick as ``torch.linalg.vector_norm``, which does not use vectors here."""
    return tensor.flatten(1).square().sum(dim=1).sqrt()


def gradient_noise(optimizer: Algorithm, scale: Scalar, decay: Scalar = 1.0, relative: str = "coordinate") -> Algorithm:
    """The optimiser on a noisy gradient (Joudaki et al., 2510.00304: σ = 0.01, λ = 0.99; tensors one by one).

    ``relative``: "coordinate" gives every coordinate the standard deviation σ λᵗ ‖g‖, as the published code and formula
    do; "norm" gives the noise the norm σ λᵗ ‖g‖, as the text says. λ = 0 is noise in step 0 only. No gradient, no noise.

    >>> from lop_theory.algorithms.base import Context, generators
    >>> params, grads = (torch.zeros(1, 400, dtype=torch.float64),), (torch.full((1, 400), 0.05, dtype=torch.float64),)
    >>> ctx = Context(None, None, None, step=0, generator=generators([0]))       # ‖g‖ = 1, d = 400
    >>> for relative in ("norm", "coordinate"):
    ...     rule = gradient_noise(sgd(1.0), 0.01, relative=relative)
    ...     (moved,), _ = rule.update(params, grads, rule.init(params), ctx)
    ...     print(f"{float((moved + 0.05).norm()):.0e}")
    1e-02
    2e-01
    """
    check_scalar("scale", scale)
    check_scalar("decay", decay)
    if relative not in ("coordinate", "norm"):
        raise ValueError(f"relative = {relative!r}: the noise is relative per 'coordinate' (as coded) or in 'norm'")

    def noisy(g: Tensor, xi: Tensor, step: int) -> Tensor:
        size = per_replica(_length(g), g)
        if relative == "norm":
            length = per_replica(_length(xi), xi)
            size = size / length.where(length > 0, torch.ones_like(length))
        factor = (per_replica(scale, g) * per_replica(decay, g) ** step) * size
        return xi.mul_(factor).add_(g)  # in place: xi was drawn for this

    def update(params: Params, grads: Params, state: InnerState, ctx: Context) -> tuple[Params, InnerState]:
        draws = normal_like(grads, ctx.generator)
        total = tuple(noisy(g, xi, ctx.step) for g, xi in zip(grads, draws, strict=True))
        params, inner = optimizer.update(params, total, state.inner, ctx)
        return params, InnerState(inner)

    name = f"gradient_noise({optimizer.name})"
    return Algorithm(name, lambda params: InnerState(optimizer.init(params)), update)


def noisy_sgd(
    lr: Scalar, scale: Scalar = 0.01, decay: Scalar = 0.99, mu: Scalar = 0.0, relative: str = "coordinate"
) -> Algorithm:
    """NoisySGD of 2510.00304. Its text says "without momentum" (μ = 0); its configurations have μ = 0.9.

    >>> noisy_sgd(0.01).name, noisy_sgd(0.01, mu=0.9).name
    ('gradient_noise(sgd)', 'gradient_noise(momentum)')
    """
    plain = not isinstance(mu, Tensor) and mu == 0
    return gradient_noise(sgd(lr) if plain else momentum(lr, mu), scale, decay, relative)


# -- weights ---------------------------------------------------------------------------------------------------------------


def initial_like(params: Params, generator: Sequence[torch.Generator]) -> Params:
    """A fresh Kaiming-uniform draw (bound √(6 / fan-in); biases 0, gains 1, shifts 0), replica r from ``generator[r]``: on a
    layered net what :func:`~lop_theory.algorithms.base.mlp_init` draws from the same generators.

    >>> from lop_theory.algorithms.base import generators, mlp_init
    >>> params = mlp_init([3, 2, 1], generators([5]))
    >>> all(torch.equal(a, b) for a, b in zip(params, initial_like(params, generators([5]))))
    True
    """
    fresh, first = [], len(split_affine(params)[0])
    for k, p in enumerate(params):
        new = torch.full_like(p, float(k >= first and k % 2 == 0))
        if p.ndim > 2:
            bound = math.sqrt(6 / p[0, 0].numel())
            for row, source in zip(new, generator, strict=True):
                row.uniform_(-bound, bound, generator=source)
        fresh.append(new)
    return tuple(fresh)


def shrink_and_perturb(shrink: Scalar, noise: Scalar, every: int = 1, draw: Draw = initial_like) -> Algorithm:
    """θ ← a θ + s ε after every ``every`` updates (Ash & Adams 2020, 1910.08475); stands behind the optimiser in a chain.

    ``draw``: :func:`initial_like` as in the paper, or :func:`~lop_theory.algorithms.base.normal_like` for N(0, 1) on every
    weight and bias (the per-update variant of 2306.13812, with weight decay in place of the shrinking).

    >>> from lop_theory.algorithms.base import Context, generators
    >>> rule, ctx = shrink_and_perturb(0.5, 0.0), Context(None, None, None, 0, generators([0]))
    >>> rule.update((torch.ones(1, 1, 2),), (torch.ones(1, 1, 2),), Stateless(), ctx)[0]
    (tensor([[[0.5000, 0.5000]]]),)
    """
    check_scalar("shrink", shrink)
    check_scalar("noise", noise)
    if every < 1:
        raise ValueError(f"every = {every}: the number of updates between two perturbations is at least 1")

    def update(params: Params, grads: Params, state: Stateless, ctx: Context) -> tuple[Params, Stateless]:
        if (ctx.step + 1) % every:
            return params, state
        rows = zip(params, draw(params, ctx.generator), strict=True)
        return tuple(per_replica(shrink, p) * p + per_replica(noise, p) * e for p, e in rows), state

    return Algorithm("shrink_and_perturb", lambda params: Stateless(), update)


# -- units -----------------------------------------------------------------------------------------------------------------


def dropout_masks(
    widths: Sequence[int],
    samples: int,
    p: float,
    generator: Sequence[torch.Generator],
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, ...]:
    """Inverted dropout: one mask [R, N, n] for each hidden width n, 0 with probability p and 1/(1 − p) else (mean 1).

    For the argument ``masks`` of :func:`~lop_theory.algorithms.base.mlp_forward`.

    >>> from lop_theory.algorithms.base import generators
    >>> (mask,) = dropout_masks([1000], 1, 0.2, generators([0]))
    >>> mask.unique().tolist(), round(float(mask.mean()))
    ([0.0, 1.25], 1)
    """
    check_scalar("p", p, 0.0, 1.0)
    if samples < 1 or any(n < 1 for n in widths) or not generator:
        raise ValueError(f"widths {list(widths)}, {samples} samples, {len(generator)} replicas: all must be at least 1")
    masks = []
    for n in widths:
        uniform = [torch.rand(samples, n, generator=g, dtype=dtype, device=g.device) for g in generator]
        masks.append((torch.stack(uniform) >= p).to(dtype) / (1 - p))
    return tuple(masks)
