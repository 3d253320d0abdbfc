r"""Gradient descent: SGD, momentum, Nesterov, Adam, AdamW, in the form in which torch.optim defines them.

============  =============================================  ==================================================  ================
algorithm     state                                          step                                                torch.optim
============  =============================================  ==================================================  ================
sgd           –                                              θ ← θ − η g                                         SGD
momentum      v ← μ v + g                                    θ ← θ − η v                                         SGD(momentum)
nesterov      v ← μ v + g                                    θ ← θ − η (g + μ v)                                 SGD(nesterov)
adam          m ← m + (1−β₁)(g − m),                         θ ← θ − η/(1−β₁ᵗ) · m / (√s/√(1−β₂ᵗ) + ε)           Adam
              s ← β₂ s + (1−β₂) g², t ← t + 1
adamw         the same                                       θ ← (1 − η λ) θ, then Adam                          AdamW
============  =============================================  ==================================================  ================

Buffers start at 0, so the first momentum step is η g, without dampening. ε stands outside the root and after the bias
correction. Every hyper-parameter is a float or a tensor [R]. The order of operations is torch's, except that products and
sums are rounded one by one (no fused multiply-add), so that a replica does not depend on its neighbours: after one step
from the same state the two agree to a few units in the last place.

Coupled weight decay (g + λ θ before the step) is :func:`~lop_theory.algorithms.regularizers.l2` around any of these. It
costs SGD, momentum and Adam no pass of its own (``pulled`` of :class:`~lop_theory.algorithms.base.Algorithm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lop_theory.algorithms.base import (
    Algorithm,
    Context,
    Params,
    Pull,
    Pulls,
    Scalar,
    Stateless,
    check_scalar,
    per_replica,
)

__all__ = ["VelocityState", "MomentState", "sgd", "momentum", "nesterov", "adam", "adamw"]


@cache
def elementwise() -> Any:
    """The compiled updates; loading them takes half a second, so that it waits for the first update."""
    from lop_theory.algorithms import elementwise

    elementwise.keep_freed_memory()
    return elementwise


FEW = 16384  # numbers that fit the fastest memory: two operations of torch are as quick as one compiled


def _compiles(pull: Pull | None, *tensors: Tensor) -> bool:
    anchor = () if pull is None or pull.anchor is None else (pull.anchor,)
    return bool(elementwise().applies(*tensors, *anchor))


def _each(params: Params, pulls: Pulls | None) -> Sequence[Pull | None]:
    """One pull for each parameter, or None for each."""
    return pulls or [None] * len(params)


def _subtract(params: Params, rate: Scalar, steps: Params, pulls: Pulls | None = None) -> Params:
    """θ − η s, as (−η) s + θ, which rounds the same: one new tensor each, and ``steps`` may be the caller's gradients."""

    def row(p: Tensor, s: Tensor, pull: Pull | None) -> Tensor:
        if p.numel() > FEW and _compiles(pull, p, s):
            return elementwise().subtract(p, s, rate, pull)
        return ((s if pull is None else pull.added(p, s)) * -per_replica(rate, p)).add_(p)

    return tuple(row(*each) for each in zip(params, steps, _each(params, pulls), strict=True))


def _cleared(tensors: Params, masks: Params) -> Params:
    return tuple(t.masked_fill(mask, 0) for t, mask in zip(tensors, masks, strict=True))


def sgd(lr: Scalar) -> Algorithm:
    """Gradient descent θ − η g on whatever minibatch gave g.

    >>> rule = sgd(0.5)
    >>> rule.update((torch.ones(1, 2),), (torch.tensor([[1.0, 2.0]]),), Stateless(), None)[0]
    (tensor([[0.5000, 0.0000]]),)
    """
    check_scalar("lr", lr)

    def update(
        params: Params, grads: Params, state: Stateless, ctx: Context, pulls: Pulls | None = None
    ) -> tuple[Params, Stateless]:
        return _subtract(params, lr, grads, pulls), state

    return Algorithm("sgd", lambda params: Stateless(), update, pulled=update)


# -- momentum --------------------------------------------------------------------------------------------------------------


class VelocityState(NamedTuple):
    """Velocity v, one tensor per parameter, of its shape."""

    velocity: Params

    def forget(self, masks: Params) -> VelocityState:
        """Zero velocity under the masks."""
        return VelocityState(_cleared(self.velocity, masks))


def _zeros(params: Params) -> Params:
    return tuple(torch.zeros_like(p) for p in params)


def _with_velocity(name: str, lr: Scalar, mu: Scalar, ahead: bool) -> Algorithm:
    check_scalar("lr", lr)
    check_scalar("mu", mu, 0.0, 1.0)

    def row(p: Tensor, g: Tensor, v: Tensor, pull: Pull | None) -> Params:
        if not ahead and _compiles(pull, p, g, v):
            pair: Params = elementwise().momentum_step(p, g, v, lr, mu, pull)
            return pair
        g = g if pull is None else pull.added(p, g)
        v = (per_replica(mu, v) * v).add_(g)
        step = (per_replica(mu, v) * v).add_(g) if ahead else v
        return *_subtract((p,), lr, (step,)), v

    def update(
        params: Params, grads: Params, state: VelocityState, ctx: Context, pulls: Pulls | None = None
    ) -> tuple[Params, VelocityState]:
        rows = [row(*each) for each in zip(params, grads, state.velocity, _each(params, pulls), strict=True)]
        new, velocity = zip(*rows, strict=True)
        return new, VelocityState(velocity)

    return Algorithm(name, lambda params: VelocityState(_zeros(params)), update, pulled=update)


def momentum(lr: Scalar, mu: Scalar = 0.9) -> Algorithm:
    """Heavy ball: v ← μ v + g, θ ← θ − η v (Polyak 1964, in torch's scaling).

    >>> rule, params = momentum(1.0, 0.5), (torch.zeros(1, 1),)
    >>> state = rule.init(params)
    >>> for _ in range(2):
    ...     params, state = rule.update(params, (torch.ones(1, 1),), state, None)
    >>> params, state.velocity
    ((tensor([[-2.5000]]),), (tensor([[1.5000]]),))
    """
    return _with_velocity("momentum", lr, mu, ahead=False)


def nesterov(lr: Scalar, mu: Scalar = 0.9) -> Algorithm:
    """Nesterov momentum in torch's form: v ← μ v + g, θ ← θ − η (g + μ v).

    >>> rule, params = nesterov(1.0, 0.5), (torch.zeros(1, 1),)
    >>> rule.update(params, (torch.ones(1, 1),), rule.init(params), None)[0]
    (tensor([[-1.5000]]),)
    """
    return _with_velocity("nesterov", lr, mu, ahead=True)


# -- Adam ------------------------------------------------------------------------------------------------------------------


class MomentState(NamedTuple):
    """First and second moments, and the number t of updates that they average (int64).

    ``updates`` has one tensor per parameter: of its shape if weights count for themselves, else [R, 1, …, 1].
    """

    first: Params
    second: Params
    updates: Params

    def forget(self, masks: Params) -> MomentState:
        """Zero moments under the masks; there the bias correction starts again, if weights count for themselves.

        With one count per replica t stays: after long training the corrections are 1, and the first step of a new weight
        is (1 − β₁) / √(1 − β₂) times that of a new Adam (3.2 times, at the defaults).
        """
        updates = self.updates
        if all(t.shape == mask.shape for t, mask in zip(updates, masks, strict=True)):
            updates = _cleared(updates, masks)
        return MomentState(_cleared(self.first, masks), _cleared(self.second, masks), updates)


def _excess(beta: Scalar, count: Tensor, like: Tensor) -> Tensor:
    """1 − βᵗ for a count t [R, ...], each power by Python's float ``**`` as torch.optim takes it.

    There are few different counts (one, unless weights were reset), so each power is computed once.
    """
    if count.numel() == count.shape[0]:
        counts = count.flatten().tolist()
        betas = beta.tolist() if isinstance(beta, Tensor) else [beta] * len(counts)
        values = torch.tensor([1 - b**t for b, t in zip(betas, counts, strict=True)], dtype=torch.float64)
        return values.reshape(count.shape).to(like)
    distinct, where = torch.unique(count, return_inverse=True)
    betas = beta.tolist() if isinstance(beta, Tensor) else [beta]
    table = torch.tensor([[1 - b**t for t in distinct.tolist()] for b in betas], dtype=torch.float64).to(like)
    if len(betas) == 1:
        return table[0][where]
    return table.gather(1, where.flatten(1)).reshape(count.shape)


def _adam_step(
    p: Tensor, g: Tensor, m: Tensor, s: Tensor, t: Tensor, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    t = t + 1
    first, second = (per_replica(beta, p) for beta in betas)
    m = (g - m).mul_(1 - first).add_(m)  # operations in place are on new tensors: memory traffic is what replicas cost
    scratch = (g * g).mul_(1 - second)
    s = (second * s).add_(scratch)
    rate = per_replica(lr, p) / _excess(betas[0], t, p)
    root = torch.sqrt(s, out=scratch).div_(_excess(betas[1], t, p).sqrt_()).add_(per_replica(eps, p))
    return torch.div(m, root, out=root).mul_(-rate).add_(p), m, s, t


def _moments(per_weight_count: bool) -> Any:
    def init(params: Params) -> MomentState:
        shapes = [p.shape if per_weight_count else (p.shape[0], *[1] * (p.ndim - 1)) for p in params]
        updates = tuple(
            torch.zeros(shape, dtype=torch.int64, device=p.device) for shape, p in zip(shapes, params, strict=True)
        )
        return MomentState(_zeros(params), _zeros(params), updates)

    return init


def adam(
    lr: Scalar,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    per_weight_count: bool = False,
) -> Algorithm:
    """Adam (Kingma & Ba 2015, Algorithm 1), with ε where torch puts it.

    ``per_weight_count``: keep t for each weight, so that :func:`~lop_theory.algorithms.base.forget` can restart the bias
    correction of new weights (Continual Backprop with Adam, 2306.13812 App. D). Costs two look-ups per weight.

    >>> rule, params = adam(0.1), (torch.zeros(1, 2),)
    >>> rule.update(params, (torch.tensor([[3.0, -1e-3]]),), rule.init(params), None)[0]    # −η sign(g), nearly
    (tensor([[-0.1000,  0.1000]]),)
    """
    return _adam("adam", lr, betas, eps, 0.0, per_weight_count)


def adamw(
    lr: Scalar,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    per_weight_count: bool = False,
) -> Algorithm:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): θ ← (1 − η λ) θ first, then Adam's step.

    >>> rule, params = adamw(0.1, weight_decay=0.5), (torch.ones(1, 1),)
    >>> rule.update(params, (torch.zeros(1, 1),), rule.init(params), None)[0]
    (tensor([[0.9500]]),)
    """
    check_scalar("weight_decay", weight_decay)
    return _adam("adamw", lr, betas, eps, weight_decay, per_weight_count)


def _adam(
    name: str, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, weight_decay: Scalar, per_weight_count: bool
) -> Algorithm:
    check_scalar("lr", lr)
    check_scalar("beta1", betas[0], 0.0, 1.0)
    check_scalar("beta2", betas[1], 0.0, 1.0)
    check_scalar("eps", eps)
    decays = isinstance(weight_decay, Tensor) or weight_decay > 0
    compiled = cache(lambda: elementwise().AdamStep(lr, betas, eps))

    def row(p: Tensor, g: Tensor, m: Tensor, s: Tensor, t: Tensor, pull: Pull | None) -> Params:
        if not per_weight_count and _compiles(pull, p, g, m, s):
            return *compiled()(p, g, m, s, t + 1, pull), t + 1
        return _adam_step(p, g if pull is None else pull.added(p, g), m, s, t, lr, betas, eps)

    def update(
        params: Params, grads: Params, state: MomentState, ctx: Context, pulls: Pulls | None = None
    ) -> tuple[Params, MomentState]:
        if decays:
            params = tuple(p * (1 - per_replica(lr, p) * per_replica(weight_decay, p)) for p in params)
        parts = params, grads, state.first, state.second, state.updates, _each(params, pulls)
        rows = [row(*each) for each in zip(*parts, strict=True)]
        new, first, second, updates = zip(*rows, strict=True)
        return new, MomentState(first, second, updates)

    # AdamW's own decay moves θ before the step, and a pull is taken at θ before both
    return Algorithm(name, _moments(per_weight_count), update, pulled=None if decays else update)
