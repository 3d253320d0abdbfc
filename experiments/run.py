"""The training loop: ``run(config, directory)`` yields the rows of a run on a stream of images, task by task.

All replicas advance together: every parameter is [R, …], one batched program trains R networks on R streams. Replica r
computes what a run of its seed alone computes, up to rounding. A run is a pure function of its configuration and the data; on a
CPU a run that was killed and started again in the same folder gives the same rows, bit for bit.

====================  ==================================================================================================
column                value
====================  ==================================================================================================
seed, task            of the replica; counted from 0
online_accuracy       share of the examples of the task that were right before the update that learned from them
online_loss           mean cross-entropy before the update
final_train_accuracy  at the end of the task, on its training examples; final_test_accuracy: on its test examples, if any
diverged_at           update whose loss, gradient or result was not finite; the replica ends there, the others go on
reason                which of these, a position in ``REASONS``
seconds               wall time of the task, all replicas together
====================  ==================================================================================================

and those of ``run_metrics``, on the probe of the task (or on its first 500 training examples), at the end of the task.
"""

from __future__ import annotations

import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.datasets import DataError
from experiments.errors import Failure
from experiments.online.checkpoints import load_parts, open_run, save_part
from experiments.run_algorithms import make_algorithm
from experiments.run_config import Run, as_json
from experiments.run_metrics import feature_columns, measure_features, measure_weights
from experiments.streams import Split, Stream, StreamConfig, Task, open_streams, protocol
from lop_theory.activations import get_activation
from lop_theory.algorithms.base import (
    Algorithm,
    Context,
    LayerTrace,
    Params,
    flatten,
    generators,
    mlp_forward,
    mlp_init,
    mlp_loss,
    restore,
)

__all__ = ["REASONS", "Program", "prepare", "run", "minibatches"]

REASONS = ("", "loss not finite", "gradient not finite", "weights not finite", "update not finite")
BLOCK = 256  # minibatches that are gathered at once
PROBE = 500  # training examples that are measured where the protocol has no probe

Row = dict[str, float]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Program:
    """A configuration with all that it needs to run: one stream per replica, the algorithm, the widths of the net."""

    config: Run
    streams: tuple[Stream[Any], ...]
    algorithm: Algorithm
    widths: tuple[int, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the measurements, in the order of the module docstring."""
        names = ["online_accuracy", "online_loss", "final_train_accuracy", "final_test_accuracy"]
        return [*names, *feature_columns(len(self.widths) - 2), "diverged_at", "reason", "seconds"]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on: configuration, data and versions (its rounding depends on these)."""
        images = self.streams[0].images
        versions = {name: metadata.version(name) for name in ("torch", "numpy", "scipy")}
        return {
            **as_json(self.config),
            "data_sha256": images.fingerprint if images else "",
            "versions": versions | {"python": platform.python_version()},
        }


@dataclass
class Learner:
    """All that changes: parameters and state of the replicas that are alive (positions [A]), and updates made so far."""

    params: Params
    state: Any
    generator: tuple[torch.Generator, ...]
    alive: NDArray[np.int64]
    step: int = 0


# -- the loop --------------------------------------------------------------------------------------------------------------


def run(
    config: Run, directory: Path | None = None, *, data: str | Path | None = None, save_every: int | None = None
) -> Iterator[Row]:
    """Run, or go on with what ``directory`` holds of this very run; yields one row per task and replica, old ones first.

    ``data``: data folder; ``save_every``: tasks between checkpoints (default: a twentieth of the run), which changes no row.
    Raises :class:`Failure` before any training for a configuration that does not fit the data, another run in the
    directory, or a damaged file.

    >>> rows = list(run(Run(stream="permuted-images", tasks=1, seeds=2, examples=80, hidden=(8,))))
    >>> [(row["seed"], row["task"], 0 < row["online_accuracy"] < 1) for row in rows]
    [(0, 0, True), (1, 0, True)]
    """
    program = prepare(config, data)
    learner, columns = _start(program), _load(program, directory)
    done = saved = len(columns.rows["seconds"])
    learner = _thaw(program, columns.state) if done else learner
    for t in range(done):
        yield from _rows(config, t, {name: column[t] for name, column in columns.rows.items()})
    pending: list[Arrays] = []
    save_every = save_every or max(1, config.tasks // 20)
    for t in range(done, config.tasks):
        began, tasks = time.perf_counter(), [stream.task(t) for stream in program.streams]
        values = {name: np.full(config.seeds, np.nan) for name in program.columns}
        right, loss, examples = np.zeros(config.seeds), np.zeros(config.seeds), 0
        recent: deque[Tensor] = deque(maxlen=config.er_every or 1)
        for x, y in minibatches(tasks, getattr(torch, config.dtype)):
            recent.append(x)
            now = _differentiate(program, learner, tasks[0], x, y, recent)
            if not now.fine.all():
                _drop(program, learner, now.fine, now.reason, values)
                now = _differentiate(program, learner, tasks[0], x, y, recent)
            if not len(learner.alive):
                break
            right[learner.alive] += now.right
            loss[learner.alive] += now.loss * y.shape[1]
            examples += y.shape[1]
            _update(program, learner, now, lambda part: _differentiate(program, part, tasks[0], x, y, recent), values)  # noqa: B023
            learner.step += 1
        _drop(program, learner, _finite(learner.params), 3, values)
        values["online_accuracy"][learner.alive] = right[learner.alive] / max(examples, 1)
        values["online_loss"][learner.alive] = loss[learner.alive] / max(examples, 1)
        _measure(program, learner, tasks, values)
        values["seconds"][:] = time.perf_counter() - began
        frozen = _freeze(learner)
        learner = _thaw(program, frozen)  # as after a restart: layout in memory, too, decides how products round
        pending.append(values)
        if directory is not None and ((t + 1) % save_every == 0 or t + 1 == config.tasks):
            part = {name: np.stack([v[name] for v in pending]) for name in program.columns}
            save_part(directory, saved, t + 1, part, frozen)
            saved, pending = t + 1, []
        yield from _rows(config, t, values)


def _rows(config: Run, t: int, values: Arrays) -> Iterator[Row]:
    for r in range(config.seeds):
        yield {"seed": config.seed + r, "task": t, **{name: float(column[r]) for name, column in values.items()}}


# -- before the loop -------------------------------------------------------------------------------------------------------


def prepare(config: Run, data: str | Path | None = None) -> Program:
    """Open the streams and the algorithm; raises :class:`Failure` for what cannot run.

    >>> prepare(Run(stream="permuted-images")).widths
    (64, 100, 100, 100, 10)
    >>> prepare(Run(stream="permuted-images", algorithm="cbp", tasks=1, maturity=10**6))
    Traceback (most recent call last):
    ...
    experiments.errors.Failure: maturity = 1000000; the run has 224 updates, so that no unit would ever be replaced: lower it
    """
    try:
        seeds = range(config.seed, config.seed + config.seeds)
        streams = open_streams(config.stream, _stream_config(config), seeds, data)
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        raise Failure(str(error)) from error
    if streams[0].loss != "cross_entropy":
        raise Failure(
            f"stream {config.stream!r} is a regression: it has a runner of its own; choose a stream of images"
        )
    for t in (0, config.tasks - 1):
        sizes = sorted({len(stream.task(t).train) for stream in streams})
        if len(sizes) > 1:
            raise Failure(
                f"task {t} has {sizes[0]} to {sizes[-1]} examples, depending on the seed, so that replicas cannot advance "
                "together: give --seeds 1, or data with classes of one size"
            )
    counts = [len(streams[0].task(t).batches()) * streams[0].config.epochs for t in (0, config.tasks - 1)]
    total = max(counts) * config.tasks
    if config.maturity is not None and config.maturity >= total:
        raise Failure(
            f"maturity = {config.maturity}; the run has {total} updates, so that no unit would ever be replaced: lower it"
        )
    if config.period == 0 and len(set(counts)) > 1:
        raise Failure(
            f"period = 0 is a task, but tasks have {counts[0]} to {counts[1]} updates: give a number of updates"
        )
    widths = (int(np.prod(streams[0].input_shape)), *config.hidden, streams[0].num_outputs)
    return Program(config, tuple(streams), make_algorithm(config, counts[0]), widths)


def _stream_config(config: Run) -> StreamConfig:
    base = protocol(config.stream, config.protocol)
    probe = config.probe if config.probe or not config.examples else min(base.probe, config.examples)
    options = {"data": config.dataset, "batch": config.batch, "epochs": config.epochs, "examples": config.examples}
    given = {name: value for name, value in {**options, "probe": probe}.items() if value is not None}
    for name in given:
        if not hasattr(base, name):
            raise ValueError(f"{name} = {given[name]}; stream {config.stream!r} has no such option: leave it out")
    return replace(base, tasks=config.tasks, source="", **given)  # type: ignore[arg-type]


def _start(program: Program) -> Learner:
    config = program.config
    generator = generators(range(config.seed, config.seed + config.seeds))
    params = mlp_init(program.widths, generator, getattr(torch, config.dtype))
    return Learner(params, program.algorithm.init(params), generator, np.arange(config.seeds))


# -- one update ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pass:
    """Of one minibatch: correct answers, loss, gradients, context, and which replicas are finite, all over alive ones."""

    right: NDArray[np.float64]
    loss: NDArray[np.float64]
    grads: Params
    context: Context
    fine: NDArray[np.bool_]
    reason: int


def minibatches(tasks: Sequence[Task], dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """The updates of a task for all replicas: x [R, B, d] and y [R, B], each replica in its own order.

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
            x = torch.stack(
                [torch.from_numpy(part).to(dtype) for part in inputs]
            )  # torch aligns memory, numpy does not
            y = torch.stack([torch.from_numpy(task.train.y[c]) for task, c in zip(tasks, chosen)])
            sizes = [len(batch) for batch in block]
            yield from zip(x.split(sizes, 1), y.split(sizes, 1))


def _differentiate(
    program: Program, learner: Learner, task: Task, x: Tensor, y: Tensor, recent: deque[Tensor]
) -> _Pass:
    """Forward and backward pass. The regulariser's batch is the inputs of the last ``er_every`` minibatches of this task."""
    activation, alive = program.config.activation, learner.alive
    whole = len(alive) == len(x)
    x, y = (x, y) if whole else (x[alive], y[alive])
    mask = _inactive(task)

    def features(params: Params) -> tuple[Tensor, ...]:
        held = torch.cat(list(recent), dim=1)
        return mlp_forward(params, held if whole else held[alive], activation).h

    def output(trace: LayerTrace) -> Tensor:
        return trace.output if mask is None else trace.output + mask

    trace = mlp_forward(learner.params, x, activation)
    logs = torch.log_softmax(output(trace), dim=2)
    own = y.unsqueeze(2)
    losses = -logs.gather(2, own).squeeze(2).mean(dim=1).double().numpy()
    right = (logs.argmax(dim=2) == y).sum(dim=1)
    delta = logs.exp().scatter_add_(2, own, torch.full_like(own, -1, dtype=logs.dtype)).div_(y.shape[1])
    grads = _backward(learner.params, x, trace, delta, get_activation(activation).tensor[1])
    context = Context(
        loss=lambda p: mlp_loss(output(mlp_forward(p, x, activation)), y, "cross_entropy"),
        features=features,
        trace=trace,
        step=learner.step,
        generator=learner.generator,
    )
    finite, fine = np.isfinite(losses), _finite(grads)
    reason = 1 if not finite.all() else 2
    return _Pass(right.double().numpy(), losses, grads, context, finite if reason == 1 else fine, reason)


def _backward(params: Params, x: Tensor, trace: LayerTrace, delta: Tensor, slope: Callable[[Tensor], Tensor]) -> Params:
    """∂ loss / ∂ params from δ_L = ∂ loss / ∂ output [R, B, O]: ∂W_l = δ_lᵀ h_{l−1}, ∂b_l = Σ δ_l, δ_{l−1} = (δ_l W_l) φ′(z_{l−1}).

    Twice as fast as a recorded graph: no bookkeeping, and every product is written in the layout of its weight.
    """
    grads: list[Tensor] = []
    for l in reversed(range(len(params) // 2)):
        grads += [delta.sum(dim=1), delta.mT @ (trace.h[l - 1] if l else x)]
        if l:
            delta = (delta @ params[2 * l]).mul_(slope(trace.z[l - 1]))
    return tuple(reversed(grads))


def _inactive(task: Task) -> Tensor | None:
    """0 for the outputs that count and −∞ for the others, [O]; None if all count."""
    if len(task.active) == task.num_outputs:
        return None
    return torch.full((task.num_outputs,), -torch.inf).index_fill(0, torch.from_numpy(task.active), 0.0)


def _finite(tensors: Params) -> NDArray[np.bool_]:
    """Which replicas have finite entries only: 0 · x is 0 for these and NaN else, and so is the sum."""
    if math.isfinite(float(sum(t.detach().sum() for t in tensors))):
        return np.ones(len(tensors[0]), bool)  # nearly always; a sum that overflows is looked at more closely
    total = sum((t.detach() * 0).flatten(1).sum(dim=1) for t in tensors)
    return np.isfinite(torch.as_tensor(total).numpy())


def _update(
    program: Program, learner: Learner, now: _Pass, differentiate: Callable[[Learner], _Pass], values: Arrays
) -> None:
    """One update of all replicas. If it meets an overflow (decompositions refuse to go on), each replica tries alone."""
    try:
        learner.params, learner.state = program.algorithm.update(learner.params, now.grads, learner.state, now.context)
        return
    except (ValueError, torch.linalg.LinAlgError) as error:
        if isinstance(error, ValueError) and "not finite" not in str(error):
            raise
    fine = np.ones(len(learner.alive), bool)
    for i in range(len(fine)):
        part = _part(program, learner, np.array([i]))
        try:
            alone = differentiate(part)
            program.algorithm.update(part.params, alone.grads, part.state, alone.context)
        except (ValueError, torch.linalg.LinAlgError):
            fine[i] = False
    if fine.all():
        raise Failure("replicas can be updated one by one but not together: give --seeds 1 and one run per seed")
    _drop(program, learner, fine, 4, values)
    if len(learner.alive):
        now = differentiate(learner)
        learner.params, learner.state = program.algorithm.update(learner.params, now.grads, learner.state, now.context)


def _part(program: Program, learner: Learner, chosen: NDArray[np.int64]) -> Learner:
    """Some of the replicas that are alive, by position."""
    index = torch.from_numpy(chosen)
    params = tuple(p[index] for p in learner.params)
    state = {name: tensor[index] for name, tensor in flatten(learner.state).items()}
    sources = tuple(learner.generator[i] for i in chosen)
    return Learner(params, restore(program.algorithm.init(params), state), sources, learner.alive[chosen], learner.step)


def _drop(program: Program, learner: Learner, fine: NDArray[np.bool_], reason: int, values: Arrays) -> None:
    """Let the replicas that are not fine end here, with the reason; the others keep what they have."""
    if fine.all():
        return
    ended = learner.alive[~fine]
    values["diverged_at"][ended], values["reason"][ended] = learner.step, reason
    vars(learner).update(vars(_part(program, learner, np.flatnonzero(fine))))


# -- measurements ----------------------------------------------------------------------------------------------------------


def _measure(program: Program, learner: Learner, tasks: Sequence[Task], values: Arrays) -> None:
    """Write the columns of the end of a task, replica by replica: these see whole sets, and need no batching."""
    config = program.config
    due = config.measure_every > 0 and (tasks[0].index + 1) % config.measure_every == 0
    for place, r in enumerate(learner.alive):
        params, task = tuple(p[place : place + 1] for p in learner.params), tasks[r]
        values["final_train_accuracy"][r] = _accuracy(params, task.train, task, config)
        values["final_test_accuracy"][r] = _accuracy(params, task.test, task, config)
        if not due:
            continue
        probe = task.probe if len(task.probe) else task.train.part(slice(0, PROBE))
        trace = mlp_forward(params, _inputs(probe, slice(None), config), config.activation)
        if bool(torch.isfinite(trace.output).all()):
            for name, column in (measure_features(trace.h, config.eps) | measure_weights(params)).items():
                values[name][r] = column[0]


def _accuracy(params: Params, split: Split, task: Task, config: Run) -> float:
    """Share of the examples that are right; NaN if there are none."""
    mask, right = _inactive(task), 0
    for start in range(0, len(split), 1000):
        chosen = slice(start, start + 1000)
        output = mlp_forward(params, _inputs(split, chosen, config), config.activation).output[0]
        answers = (output if mask is None else output + mask).argmax(dim=1)
        right += int((answers.numpy() == split.y[chosen]).sum())
    return right / len(split) if len(split) else float("nan")


def _inputs(split: Split, chosen: slice, config: Run) -> Tensor:
    x = split.x(chosen)
    return torch.from_numpy(x.reshape(len(x), -1)).to(getattr(torch, config.dtype))


# -- checkpoints -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    rows: dict[str, list[NDArray[np.float64]]]
    state: Arrays


def _load(program: Program, directory: Path | None) -> _Held:
    """What the folder holds of this run: rows by column, and the last state."""
    rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in program.columns}
    if directory is None:
        return _Held(rows, {})
    open_run(directory, program.identity)
    return _Held(*load_parts(directory, rows, _freeze(_start(program))))


def _freeze(learner: Learner) -> Arrays:
    """The learner as arrays."""
    tensors = flatten((learner.params, learner.state))
    states = [g.get_state().numpy() for g in learner.generator]
    return {name: tensor.contiguous().numpy() for name, tensor in tensors.items()} | {
        "generator": np.stack(states) if states else np.zeros((0, 1), np.uint8),
        "alive": learner.alive,
        "step": np.array([learner.step]),
    }


def _thaw(program: Program, arrays: Arrays) -> Learner:
    """The learner from its arrays; inverse of :func:`_freeze`."""
    tensors = {name: torch.from_numpy(array).clone() for name, array in arrays.items()}
    generator, alive, step = (tensors.pop(name) for name in ("generator", "alive", "step"))
    params = tuple(tensors[f"0.{k}"] for k in range(2 * len(program.widths) - 2))
    like = (params, program.algorithm.init(params))
    params, state = restore(like, tensors)
    sources = tuple(torch.Generator() for _ in alive)
    for source, held in zip(sources, generator):
        source.set_state(held.clone())  # torch 2.13 crashes on a view that does not start at its storage
    return Learner(params, state, sources, alive.numpy(), int(step[0]))
