"""One update of all replicas: minibatch, forward and backward pass, algorithm; replicas that diverge end here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.errors import Failure
from experiments.run_net import backward, forward
from experiments.run_program import Program
from experiments.run_state import Arrays, Learner, select
from experiments.streams import Task
from experiments.streams.base import words
from lop_theory.algorithms.base import Context, Params, generators, mlp_loss
from lop_theory.algorithms.normalization import running_update
from lop_theory.algorithms.perturbation import dropout_masks

__all__ = ["REASONS", "Batch", "differentiate", "drop", "dropout", "finite", "inactive", "minibatches", "update"]

REASONS = ("", "loss not finite", "gradient not finite", "weights not finite", "update not finite")
BLOCK = 256  # minibatches that are gathered at once
DROPOUT_WORDS = 1 << 21  # path of the random numbers of dropout: no stream has this number


@dataclass(frozen=True)
class Batch:
    """What one update learns from, for all replicas of the run: inputs x [R, B, d], labels y [R, B] of a task (of replica 0: the
    tasks of all have the same outputs), dropout masks [R, B, n_l], and the inputs of the last minibatches."""

    task: Task
    x: Tensor
    y: Tensor
    masks: tuple[Tensor, ...] | None = None
    recent: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Pass:
    """Of one minibatch: correct answers, loss, gradients, context, new running statistics of batch normalisation, and which
    replicas are finite (else the reason), all over alive ones."""

    right: NDArray[np.float64]
    loss: NDArray[np.float64]
    grads: Params
    context: Context
    running: Params
    fine: NDArray[np.bool_]
    reason: int


def minibatches(
    tasks: Sequence[Task], dtype: torch.dtype, device: str | torch.device = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """The updates of a task for all replicas: x [R, B, d] and y [R, B], each replica in its own order.

    >>> from experiments.streams import open_streams
    >>> [stream] = open_streams("permuted-images")
    >>> x, y = next(minibatches([stream.task(0)], torch.float32))
    >>> tuple(x.shape), tuple(y.shape)
    ((1, 8, 64), (1, 8))
    """
    for epoch in range(tasks[0].config.epochs):
        orders = [task.batches(epoch) for task in tasks]
        for start in range(0, len(orders[0]), BLOCK):
            block = orders[0][start : start + BLOCK]
            chosen = [np.concatenate(order[start : start + BLOCK]) for order in orders]
            inputs = [task.train.x(c).reshape(len(c), -1) for task, c in zip(tasks, chosen)]
            x = torch.stack([torch.from_numpy(part).to(dtype) for part in inputs])  # aligns memory; numpy does not
            y = torch.stack([torch.from_numpy(task.train.y[c]) for task, c in zip(tasks, chosen)])
            sizes = [len(batch) for batch in block]
            yield from zip(x.to(device).split(sizes, 1), y.to(device).split(sizes, 1))


def dropout(program: Program, t: int) -> Callable[[int], tuple[Tensor, ...] | None]:
    """Draws the masks of the minibatches of task t, given their number of examples; None without dropout.

    The numbers of replica r depend on its seed and on t only, so that a checkpoint after a task need not hold them.
    """
    config = program.config
    if config.dropout == 0:
        return lambda count: None
    seeds = range(config.seed, config.seed + config.seeds)
    sources = generators([int(words(1, seed, DROPOUT_WORDS, t)[0] >> np.uint64(1)) for seed in seeds], config.device)
    dtype = getattr(torch, config.dtype)
    return lambda count: dropout_masks(config.hidden, count, config.dropout, sources, dtype)


def differentiate(program: Program, learner: Learner, batch: Batch) -> Pass:
    """Forward and backward pass. The regulariser's batch is the inputs of the last ``er_every`` minibatches, without dropout."""
    config, params, alive = program.config, learner.params, learner.alive
    whole = len(alive) == len(batch.x)
    x, y = (batch.x, batch.y) if whole else (batch.x[alive], batch.y[alive])
    masks = batch.masks if whole or batch.masks is None else tuple(mask[alive] for mask in batch.masks)
    absent = inactive(batch.task, x.device)

    def features(params: Params) -> tuple[Tensor, ...]:
        held = torch.cat(list(batch.recent), dim=1)
        return forward(config, params, held if whole else held[alive]).trace.h

    def counted(output: Tensor) -> Tensor:
        return output if absent is None else output + absent

    passed = forward(config, params, x, masks)
    logs = torch.log_softmax(counted(passed.trace.output), dim=2)
    own = y.unsqueeze(2)
    losses = -logs.gather(2, own).squeeze(2).mean(dim=1).double().cpu().numpy()
    right = (logs.argmax(dim=2) == y).sum(dim=1).double().cpu().numpy()
    delta = logs.exp().scatter_add_(2, own, torch.full_like(own, -1, dtype=logs.dtype)).div_(y.shape[1])
    grads = backward(config, params, x, passed, delta, masks)
    context = Context(
        loss=lambda p: mlp_loss(counted(forward(config, p, x, masks).trace.output), y, "cross_entropy"),
        features=features,
        trace=passed.trace,
        step=learner.step,
        generator=learner.generator,
    )
    running = running_update(learner.running, passed) if learner.running else ()
    valued = np.isfinite(losses)
    fine, reason = (finite(grads), 2) if valued.all() else (valued, 1)
    return Pass(right, losses, grads, context, running, fine, reason)


def inactive(task: Task, device: str | torch.device = "cpu") -> Tensor | None:
    """0 for the outputs that count and −∞ for the others, [O]; None if all count."""
    if len(task.active) == task.num_outputs:
        return None
    return torch.full((task.num_outputs,), -torch.inf).index_fill(0, torch.from_numpy(task.active), 0.0).to(device)


def finite(tensors: Params) -> NDArray[np.bool_]:
    """Which replicas have finite entries only: 0 · x is 0 for these and NaN else, and so is the sum."""
    if math.isfinite(float(sum(t.detach().sum() for t in tensors))):
        return np.ones(len(tensors[0]), bool)  # nearly always; a sum that overflows is looked at more closely
    total = sum((t.detach() * 0).flatten(1).sum(dim=1) for t in tensors)
    return np.isfinite(torch.as_tensor(total).cpu().numpy())


def update(program: Program, learner: Learner, batch: Batch, now: Pass, values: Arrays) -> None:
    """One update of all replicas. If it meets an overflow (decompositions refuse to go on), each replica tries alone."""
    try:
        _apply(program, learner, now)
        return
    except (ValueError, torch.linalg.LinAlgError) as error:
        if isinstance(error, ValueError) and "not finite" not in str(error):
            raise
    fine = np.ones(len(learner.alive), bool)
    for i in range(len(fine)):
        part = select(program, learner, np.array([i]))
        try:
            _apply(program, part, differentiate(program, part, batch))
        except (ValueError, torch.linalg.LinAlgError):
            fine[i] = False
    if fine.all():
        raise Failure("replicas can be updated one by one but not together: give --seeds 1 and one run per seed")
    drop(program, learner, fine, 4, values)
    if len(learner.alive):
        _apply(program, learner, differentiate(program, learner, batch))


def _apply(program: Program, learner: Learner, now: Pass) -> None:
    params, state = program.algorithm.update(learner.params, now.grads, learner.state, now.context)
    learner.params, learner.state, learner.running = params, state, now.running


def drop(program: Program, learner: Learner, fine: NDArray[np.bool_], reason: int, values: Arrays) -> None:
    """Let the replicas that are not fine end here, with the reason; the others keep what they have."""
    if fine.all():
        return
    ended = learner.alive[~fine]
    values["diverged_at"][ended], values["reason"][ended] = learner.step, reason
    vars(learner).update(vars(select(program, learner, np.flatnonzero(fine))))
