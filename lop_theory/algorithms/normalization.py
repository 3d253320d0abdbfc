r"""Layer and batch normalisation of a layered net with a replica axis: forward, backward, running statistics.

Between a linear map and its activation, in every hidden layer, on inputs h_{l−1} [R, N, n_{l−1}]:

    z = W h + b        ẑ = (z − μ) / s,  s = √(v + ε)        a = γ ẑ + β        h = φ(a) · mask

======  ==================================================================  =====================================
norm    μ and v (mean and *biased* variance, ε = 10⁻⁵)                      source
======  ==================================================================  =====================================
layer   of the units of one example: over axis 2 of z [R, N, n]             Ba, Kiros & Hinton, 1607.06450
batch   of one unit on the minibatch: over axis 1                           Ioffe & Szegedy, 1502.03167
======  ==================================================================  =====================================

For evaluation batch normalisation takes *running* statistics instead: after every minibatch of N examples
m ← 0.9 m + 0.1 μ and u ← 0.9 u + 0.1 v N/(N − 1), as ``torch.nn.BatchNorm1d`` does.

**Backward.** With g = ∂L/∂a: ∂L/∂γ = Σ_n g ẑ and ∂L/∂β = Σ_n g. Let q = g γ = ∂L/∂ẑ, and let ⟨·⟩ be the mean over the axis of the
norm, so that ⟨ẑ⟩ = 0. From dẑ = (dz − ⟨dz⟩ − ẑ ⟨ẑ dz⟩) / s, whose linear map is symmetric, follows

    ∂L/∂z = (q − ⟨q⟩ − ẑ ⟨q ẑ⟩) / s.

(ds = ⟨(z − μ) dz⟩ / s = ⟨ẑ dz⟩ because ε is constant.)

**Parameters** of a normalised net are (W_1, b_1, …, W_L, b_L, γ_1, β_1, …, γ_{L−1}, β_{L−1}), γ_l and β_l [R, n_l]: gains and
shifts come after the layers, so that layer l has the same place with and without them (:func:`split_affine`). A new unit has
gain 1 and shift 0. A replaced unit has no influence on the next layer, but under layer normalisation it still shares the
statistics of its own layer; batch normalisation keeps the running statistics of its predecessor until they have decayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lop_theory.activations import get_activation
from lop_theory.algorithms.base import LayerTrace, Params

__all__ = [
    "NORMS",
    "NormTrace",
    "norm_backward",
    "norm_forward",
    "running_start",
    "running_update",
    "split_affine",
    "with_affine",
]

NORMS = {"layer": 2, "batch": 1}
"""name → the axis of z [R, N, n] that mean and variance are taken over."""
EPS, MOMENTUM = 1e-5, 0.1


def split_affine(params: Params) -> tuple[Params, Params]:
    """(W_1, b_1, …, W_L, b_L) and (γ_1, β_1, …): the tensors up to the last pair with a weight [R, n, m, …], and the rest.

    >>> net, affine = split_affine(with_affine((torch.zeros(1, 3, 2), torch.zeros(1, 3), torch.zeros(1, 1, 3), torch.zeros(1, 1))))
    >>> len(net), [tuple(p.shape) for p in affine]
    (4, [(1, 3), (1, 3)])
    """
    weights = [k for k, p in enumerate(params) if p.ndim >= 3]
    end = weights[-1] + 2 if weights else len(params)
    return params[:end], params[end:]


def with_affine(params: Params) -> Params:
    """The parameters with gains 1 and shifts 0 for each hidden layer.

    >>> with_affine((torch.zeros(1, 2, 2), torch.zeros(1, 2), torch.zeros(1, 1, 2), torch.zeros(1, 1)))[4:]
    (tensor([[1., 1.]]), tensor([[0., 0.]]))
    """
    return (*params, *(t for bias in params[1:-2:2] for t in (torch.ones_like(bias), torch.zeros_like(bias))))


class NormTrace(NamedTuple):
    """A forward pass: the trace with a_l in place of z_l; per hidden layer ẑ [R, N, n], and s, μ, v with size 1 in their axis."""

    trace: LayerTrace
    unit: Params
    scale: Params
    mean: Params
    variance: Params


def norm_forward(
    params: Params,
    x: Tensor,
    activation: str = "relu",
    norm: str = "layer",
    masks: Sequence[Tensor] | None = None,
    running: Params | None = None,
) -> NormTrace:
    """Forward pass of R normalised nets on x [N, n_0] (the same for all) or [R, N, n_0].

    ``masks`` multiply the hidden activations, [R, N, n_l] each (dropout); ``running``: statistics for evaluation, which batch
    normalisation uses in place of those of the batch.

    >>> params = with_affine((torch.eye(2)[None], torch.zeros(1, 2), torch.ones(1, 1, 2), torch.zeros(1, 1)))
    >>> norm_forward(params, torch.tensor([[1.0, 3.0]]), "identity").trace.h[0]
    tensor([[[-1.0000,  1.0000]]])
    """
    (net, affine), phi = split_affine(params), get_activation(activation).tensor[0]
    axis, given = NORMS[norm], running if norm == "batch" else None
    h = x.expand(params[0].shape[0], *x.shape[-2:])
    rows: list[tuple[Tensor, ...]] = []
    for l in range(len(net) // 2 - 1):
        z = torch.baddbmm(net[2 * l + 1].unsqueeze(1), h, net[2 * l].mT)
        if given:
            mean, variance = given[2 * l].unsqueeze(1), given[2 * l + 1].unsqueeze(1)
        else:
            mean = z.mean(dim=axis, keepdim=True)
            variance = (z - mean).square().mean(dim=axis, keepdim=True)
        scale = (variance + EPS).sqrt()
        unit = (z - mean) / scale
        a = unit * affine[2 * l].unsqueeze(1) + affine[2 * l + 1].unsqueeze(1)
        h = phi(a) if masks is None else phi(a) * masks[l]
        rows.append((a, h, unit, scale, mean, variance))
    output = torch.baddbmm(net[-1].unsqueeze(1), h, net[-2].mT)
    z_all, h_all, *rest = tuple(zip(*rows, strict=True)) if rows else ((),) * 6
    return NormTrace(LayerTrace(z_all, h_all, output), *rest)


def norm_backward(
    params: Params,
    x: Tensor,
    passed: NormTrace,
    delta: Tensor,
    activation: str = "relu",
    norm: str = "layer",
    masks: Sequence[Tensor] | None = None,
) -> Params:
    """∂ loss / ∂ params from δ_L = ∂ loss / ∂ output [R, N, O], for a pass with statistics of the batch; see the module docstring.

    >>> params = with_affine((torch.eye(2)[None], torch.zeros(1, 2), torch.ones(1, 1, 2), torch.zeros(1, 1)))
    >>> x = torch.tensor([[[1.0, 3.0]]])
    >>> grads = norm_backward(params, x, norm_forward(params, x, "identity"), torch.ones(1, 1, 1), "identity")
    >>> grads[1].abs().max().item() < 1e-6, grads[4], grads[5]     # the sum of ẑ does not move; ∂γ = ẑ; ∂β = 1
    (True, tensor([[-1.0000,  1.0000]]), tensor([[1., 1.]]))
    """
    (net, affine), slope = split_affine(params), get_activation(activation).tensor[1]
    (a, h, _), axis = passed.trace, NORMS[norm]
    grads, gains = [torch.empty(0)] * len(net), [torch.empty(0)] * len(affine)
    for l in reversed(range(len(net) // 2)):
        grads[2 * l], grads[2 * l + 1] = delta.mT @ (h[l - 1] if l else x), delta.sum(dim=1)
        if l:
            g = (delta @ net[2 * l]).mul_(slope(a[l - 1]))
            g = g if masks is None else g * masks[l - 1]
            unit, scale = passed.unit[l - 1], passed.scale[l - 1]
            gains[2 * l - 2], gains[2 * l - 1] = (g * unit).sum(dim=1), g.sum(dim=1)
            q = g * affine[2 * l - 2].unsqueeze(1)
            shared = q.mean(dim=axis, keepdim=True) + unit * (q * unit).mean(dim=axis, keepdim=True)
            delta = (q - shared) / scale
    return (*grads, *gains)


def running_start(params: Params) -> Params:
    """Running statistics before the first minibatch: (m_1, u_1, m_2, …), mean 0 and variance 1, [R, n_l] each.

    >>> running_start((torch.zeros(1, 2, 2), torch.zeros(1, 2), torch.zeros(1, 1, 2), torch.zeros(1, 1)))
    (tensor([[0., 0.]]), tensor([[1., 1.]]))
    """
    net, _ = split_affine(params)
    return tuple(t for bias in net[1:-2:2] for t in (torch.zeros_like(bias), torch.ones_like(bias)))


def running_update(running: Params, passed: NormTrace) -> Params:
    """The running statistics after a minibatch that was normalised with its own; N ≥ 2 examples.

    >>> params = with_affine((torch.ones(1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1, 1), torch.zeros(1, 1)))
    >>> passed = norm_forward(params, torch.tensor([[0.0], [2.0]]), norm="batch")    # mean 1, unbiased variance 2
    >>> running_update(running_start(params), passed)
    (tensor([[0.1000]]), tensor([[1.1000]]))
    """
    count = passed.trace.output.shape[1]
    if count < 2:
        raise ValueError("1 example has no variance: batch normalisation needs batches of at least 2")
    new: list[Tensor] = []
    for l, (mean, variance) in enumerate(zip(passed.mean, passed.variance, strict=True)):
        new.append((1 - MOMENTUM) * running[2 * l] + MOMENTUM * mean.squeeze(1))
        new.append((1 - MOMENTUM) * running[2 * l + 1] + MOMENTUM * count / (count - 1) * variance.squeeze(1))
    return tuple(new)
