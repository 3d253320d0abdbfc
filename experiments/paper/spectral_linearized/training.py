"""The linearised ReLU network on a stream of permuted images: training, and what theory says at the start of a task.

The net of ``lop_theory.linearized``: f(W) = A (1[W₀x > 0] ∘ W x), gates frozen at W₀, readout A frozen, only W trains. On one task
f = J θ with constant J, so every Hessian is Jᵀ S J with S = ∂²ℓ/∂f². Two losses:

* cross-entropy: S = diag p − p pᵀ shrinks as logits grow, so the spectrum moves with W ("spectral collapse");
* squared error, the control: S = 1. The spectrum at a task start is that of J Jᵀ of a fresh permutation, whatever was learnt.

At a task start, on N examples with M = J Jᵀ / N: the loss-weighted kernel S^½ M S^½ (its non-zero eigenvalues are those of the
Hessian), and K steps of full-batch gradient descent on the squared error, trained and by the closed formulas (3) and (4) there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.run_update import minibatches
from experiments.streams import Stream
from lop_theory.algorithms.base import generators
from lop_theory.gram import loss_factor
from lop_theory.linearized import linearize, linearized_kernel, necessary_loss, squared_loss_after

__all__ = ["Arm", "draw_net", "train", "theory_at_start"]

STEPS = 50  # of full-batch gradient descent, in the check of the closed formulas


@dataclass(frozen=True)
class Arm:
    """One arm: ``loss`` (cross_entropy or mse), weight decay λ in g + λ W, ``rank`` of W₀ (0: full), and the size of the net."""

    loss: str
    weight_decay: float
    rank: int
    width: int
    step_size: float


def draw_net(arm: Arm, inputs: int, outputs: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """W₀ [R, h, I] and readout A [R, O, h], float32, one replica per seed; entries have variances 1/I and 1/h (LeCun).

    Rank k: W₀ = U V / √(k I) with standard normal U [h, k] and V [k, I], which has the same variance.

    >>> W0, A = draw_net(Arm("mse", 0.0, 2, 50, 0.1), 30, 10, [0])
    >>> W0.shape, A.shape, int(torch.linalg.matrix_rank(W0[0]))
    (torch.Size([1, 50, 30]), torch.Size([1, 10, 50]), 2)
    """
    first, readout = [], []
    for g in generators(list(seeds)):
        if arm.rank:
            factors = torch.randn(arm.width, arm.rank, generator=g), torch.randn(arm.rank, inputs, generator=g)
            first.append(factors[0] @ factors[1] / (arm.rank * inputs) ** 0.5)
        else:
            first.append(torch.randn(arm.width, inputs, generator=g) / inputs**0.5)
        readout.append(torch.randn(outputs, arm.width, generator=g) / arm.width**0.5)
    return torch.stack(first), torch.stack(readout)


def train(
    arm: Arm, streams: Sequence[Stream], tasks: int, due: Sequence[int], examples: int
) -> Iterator[dict[str, float]]:
    """Rows: seed, task, online accuracy of that task, and what :func:`theory_at_start` says of the tasks ``due`` (else NaN)."""
    W0, A = draw_net(arm, streams[0].input_shape[0], streams[0].num_outputs, [stream.seed for stream in streams])
    W = W0.clone()
    for t in range(tasks):
        current = [stream.task(t) for stream in streams]
        seen: list[dict[str, float]] = [{} for _ in streams]
        if t in due:
            for r, task in enumerate(current):
                x, y = (torch.from_numpy(part) for part in (task.train.x(slice(0, examples)), task.train.y[:examples]))
                seen[r] = theory_at_start(arm, W0[r].double(), A[r].double(), W[r].double(), x.double(), y)
        right, count = torch.zeros(len(streams)), 0
        for x, y in minibatches(current, torch.float32):
            gates = (x @ W0.mT > 0).to(x.dtype)
            f = (gates * (x @ W.mT)) @ A.mT
            right, count = right + (f.argmax(2) == y).sum(1), count + y.shape[1]
            signal = (f.softmax(2) if arm.loss == "cross_entropy" else f) - torch.nn.functional.one_hot(y, f.shape[2])
            grad = (gates * (signal @ A)).mT @ x / y.shape[1]
            W = W - arm.step_size * (grad + arm.weight_decay * W)
        for r, stream in enumerate(streams):
            yield {
                "seed": stream.seed,
                "task": t,
                "accuracy": float(right[r]) / count,
                **dict.fromkeys(THEORY, float("nan")),
                **seen[r],
            }


THEORY = ("lambda_max", "share", "kernel_lambda_max", "initial", "trained", "closed", "bound")


def theory_at_start(arm: Arm, W0: Tensor, A: Tensor, W: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
    """At W [h, I], on x [N, I], in float64; M = J Jᵀ / N, η = 1/λ_max(M), K = ``STEPS``, ε = 1/(2ηK) for the squared error.

    ===================  =============================================================================================
    lambda_max           of the Hessian of the loss of the arm
    share                of its N·O possible eigenvalues beyond 10⁻³ times the largest of M: a level that does not move with S
    kernel_lambda_max    λ_max of M, which does not depend on the loss
    initial, trained     squared error ½‖r‖²/N at W and after K steps of gradient descent on W
    closed               the same as ``trained`` by formula (3), from the kernel alone
    bound                formula (4): what no K steps can go below, from the residual outside the eigenvalues above ε
    ===================  =============================================================================================
    """
    model = linearize(W0, A, x)
    samples, outputs = len(x), len(A)
    kernel = linearized_kernel(W0, A, x) / samples
    values, vectors = torch.linalg.eigh(kernel)
    top = float(values[-1])
    if arm.loss == "cross_entropy":
        root = loss_factor(model.output(W), "cross_entropy") * samples**0.5  # of S for one example
        blocks = kernel.reshape(samples, outputs, samples, outputs)
        weighted = torch.einsum("nab,namc,mcd->nbmd", root, blocks, root).reshape(kernel.shape)
        hessian_values = torch.linalg.eigvalsh(weighted)
    else:
        hessian_values = values
    eta, eps = 1 / top, top / (2 * STEPS)
    residual = (model.output(W) - torch.nn.functional.one_hot(y, outputs)).ravel()
    slow = (vectors.mT @ residual)[values <= eps].square().sum()
    return {
        "lambda_max": float(hessian_values[-1]),
        "share": float((hessian_values > 1e-3 * top).double().mean()),
        "kernel_lambda_max": top,
        "initial": float(residual.square().sum() / (2 * samples)),
        "trained": _descend(model.gates, A, W, x, y, eta),
        "closed": float(squared_loss_after(kernel, residual, eta, STEPS)) / samples,
        "bound": float(necessary_loss(eta, eps, STEPS, slow)) / samples,
    }


def _descend(gates: Tensor, A: Tensor, W: Tensor, x: Tensor, y: Tensor, eta: float) -> float:
    """The squared error ½‖f − y‖²/N after ``STEPS`` steps on W, without any kernel."""
    target = torch.nn.functional.one_hot(y, len(A))
    for _ in range(STEPS):
        residual = (gates * (x @ W.mT)) @ A.mT - target
        W = W - eta * (gates * (residual @ A)).mT @ x / len(x)
    residual = (gates * (x @ W.mT)) @ A.mT - target
    return float(residual.square().sum() / (2 * len(x)))
