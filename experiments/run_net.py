"""The net of a run: forward pass for training and for evaluation, backward pass, error signals of single examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.run_config import Run
from lop_theory.activations import get_activation
from lop_theory.algorithms.base import LayerTrace, Params, mlp_forward
from lop_theory.algorithms.normalization import NormTrace, norm_backward, norm_forward

__all__ = ["backward", "error_signals", "evaluate", "forward", "output_signal"]


def forward(config: Run, params: Params, x: Tensor, masks: Sequence[Tensor] | None = None) -> NormTrace:
    """The pass on a minibatch x [R, N, d]: dropout ``masks`` [R, N, n_l] as given, statistics of the minibatch."""
    if config.norm == "none":
        return NormTrace(mlp_forward(params, x, config.activation, masks), (), (), (), ())
    return norm_forward(params, x, config.activation, config.norm, masks)


def evaluate(config: Run, params: Params, running: Params, x: Tensor) -> LayerTrace:
    """The pass for evaluation: no dropout, running statistics."""
    if config.norm == "none":
        return mlp_forward(params, x, config.activation)
    return norm_forward(params, x, config.activation, config.norm, running=running).trace


def backward(
    config: Run, params: Params, x: Tensor, passed: NormTrace, delta: Tensor, masks: Sequence[Tensor] | None = None
) -> Params:
    """∂ loss / ∂ params from δ_L = ∂ loss / ∂ output [R, B, O]: ∂W_l = δ_lᵀ h_{l−1}, ∂b_l = Σ δ_l, δ_{l−1} = (δ_l W_l) φ′(z_{l−1}).

    Twice as fast as a recorded graph: no bookkeeping, and every product is written in the layout of its weight.
    """
    if config.norm != "none":
        return norm_backward(params, x, passed, delta, config.activation, config.norm, masks)
    (z, h, _), slope = passed.trace, get_activation(config.activation).tensor[1]
    grads: list[Tensor] = []
    for l in reversed(range(len(params) // 2)):
        grads += [delta.sum(dim=1), delta.mT @ (h[l - 1] if l else x)]
        if l:
            delta = (delta @ params[2 * l]).mul_(slope(z[l - 1]))
            delta = delta if masks is None else delta * masks[l - 1]
    return tuple(reversed(grads))


def output_signal(output: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """δ_L = softmax(output + mask) − one-hot(y) [R, N, O]: ∂/∂output of the cross-entropy of each example (not of the mean).

    >>> output_signal(torch.zeros(1, 1, 2), torch.tensor([[1]])).tolist()
    [[[0.5, -0.5]]]
    """
    delta = torch.softmax(output if mask is None else output + mask, dim=2)
    own = y.unsqueeze(2)
    return delta.scatter_add(2, own, torch.full_like(own, -1, dtype=delta.dtype))


def error_signals(params: Params, trace: LayerTrace, delta: Tensor, activation: str) -> list[Tensor]:
    """δ_l [R, N, n_l] of all layers l = 1 … L, from δ_L = ``delta``: δ_{l−1} = (δ_l W_l) φ′(z_{l−1}).

    >>> z = torch.ones(1, 1, 1)
    >>> params = (z, z[0], 3 * z, z[0])
    >>> [d.item() for d in error_signals(params, LayerTrace((z,), (z,), z), 2 * z, "relu")]
    [6.0, 2.0]
    """
    slope = get_activation(activation).tensor[1]
    signals = [delta]
    for l in reversed(range(1, len(params) // 2)):
        signals.append((signals[-1] @ params[2 * l]) * slope(trace.z[l - 1]))
    return signals[::-1]
