"""The linearised ReLU network as the published code writes it, trained step by step with automatic differentiation."""

import torch


def output(W: torch.Tensor, W0: torch.Tensor, readout: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """f [N, O] = A (relu(W0 x) + 1[W0 x > 0] ∘ (W − W0) x), one sample at a time."""
    rows = []
    for sample in x:
        start = W0 @ sample
        rows.append(readout @ (torch.relu(start) + (start > 0) * ((W - W0) @ sample)))
    return torch.stack(rows)


def squared_loss(
    W: torch.Tensor, W0: torch.Tensor, readout: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    return 0.5 * (output(W, W0, readout, x) - y).square().sum()


def train(
    W0: torch.Tensor, readout: torch.Tensor, x: torch.Tensor, y: torch.Tensor, eta: float, steps: int
) -> list[float]:
    """The losses L_0 … L_K of gradient descent from W0."""
    W, losses = W0.clone(), []
    for _ in range(steps + 1):
        losses.append(float(squared_loss(W, W0, readout, x, y)))
        W = W - eta * torch.func.grad(squared_loss)(W, W0, readout, x, y)
    return losses
