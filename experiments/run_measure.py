"""When what is measured: the start of a task, before its first update, and its end.

Everything is measured replica by replica, on whole sets, and changes nothing but the columns: no parameter and no generator of the
run. What a configuration turns off costs nothing.

===========  ===================================================================  ============================
group        due                                                                  module
===========  ===================================================================  ============================
accuracies   always                                                               this one
features …   start and end of every ``measure_every``-th task                     ``run_metrics``, ``run_clones``
curvature    start of task 0, ``curvature_every``, 2 · ``curvature_every``, …     ``run_curvature``
claims       start of task 0, ``claims_every``, 2 · ``claims_every``, …           ``run_claims``
===========  ===================================================================  ============================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.run_clones import measure_clone_r2, relative_normal_part
from experiments.run_config import Run
from experiments.run_curvature import LiveNet, live_net, measure_curvature
from experiments.run_metrics import (
    dead_on_all,
    frozen_normal_update,
    measure_features,
    measure_start,
    measure_weights,
)
from experiments.run_net import error_signals, evaluate, output_signal
from experiments.run_program import Program
from experiments.run_state import Arrays, Learner
from experiments.run_update import inactive
from experiments.streams import Split, Task
from experiments.streams.base import words
from lop_theory.algorithms.base import LayerTrace, Params
from lop_theory.algorithms.normalization import split_affine

__all__ = ["Opening", "measure", "measure_start_of_task"]

PROBE = 500  # training examples that are measured where the protocol has no probe
CURVATURE_WORDS = 1 << 20  # path of the random numbers of Lanczos: no stream has this number


@dataclass(frozen=True)
class Opening:
    """What the end of a task needs of its start: parameters by replica, and its units that were dead; rows of the claims."""

    params: dict[int, Params] = field(default_factory=dict)
    dead: dict[int, list[Tensor]] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Passes:
    """Forward and backward pass of one replica on the probe: inputs, trace, error signals of single examples."""

    params: Params
    x: Tensor
    y: Tensor
    trace: LayerTrace
    signals: list[Tensor]


# -- the start of a task ---------------------------------------------------------------------------------------------------


def measure_start_of_task(program: Program, learner: Learner, tasks: Sequence[Task], values: Arrays) -> Opening:
    """Write the columns of the start of a task."""
    config, t = program.config, tasks[0].index
    opening = Opening()
    curvature, claims = _due(config.curvature_every, t), _due(config.claims_every, t)
    if config.norm != "none" or not (_measured(config, t) or curvature or claims):
        return opening
    for params, running, r in _replicas(learner):
        passes = _passes(params, running, tasks[r], config)
        if passes is None:
            continue
        if _measured(config, t):
            _measure_opening(config, passes, r, tasks[r].config.batch, values, opening)
        net = _live_net(passes, tasks[r], config) if curvature or claims else None
        if net is not None and curvature:
            source = torch.Generator().manual_seed(
                int(words(1, config.seed + r, CURVATURE_WORDS, t)[0] >> np.uint64(1))
            )
            size = sum(p[0].numel() for p in params)
            _write(values, r, measure_curvature(net, config.curvature_eps, source, size))
        if net is not None and claims:
            from experiments.run_claims import judge_run  # with the property testing library: only where it is needed

            opening.claims.extend(judge_run(net, config.seed + r, t, config.cloned))
    return opening


def _measure_opening(config: Run, passes: _Passes, r: int, batch: int, values: Arrays, opening: Opening) -> None:
    """Gradient and dead units of one replica; its parameters are kept for the end of the task."""
    dead = dead_on_all(passes.trace, config.activation)
    opening.params[r], opening.dead[r] = passes.params, dead
    _write(values, r, measure_start(passes.x, passes.trace, passes.signals, dead, batch))
    if config.cloned > 1:
        grads: list[Tensor] = []
        for h, delta in zip((passes.x, *passes.trace.h), passes.signals):
            grads += [delta.mT @ h, delta.sum(dim=1)]
        values["cloned_normal_gradient"][r] = relative_normal_part(tuple(grads), config.cloned)[0]


def _live_net(passes: _Passes, task: Task, config: Run) -> LiveNet:
    chosen = slice(0, config.curvature_examples)
    return live_net(passes.params, config.activation, passes.x[0, chosen], passes.y[0, chosen], task.active)


# -- the end of a task -----------------------------------------------------------------------------------------------------


def measure(program: Program, learner: Learner, tasks: Sequence[Task], values: Arrays, opening: Opening) -> None:
    """Write the columns of the end of a task."""
    config = program.config
    for params, running, r in _replicas(learner):
        task = tasks[r]
        values["final_train_accuracy"][r] = _accuracy(params, running, task.train, task, config)
        values["final_test_accuracy"][r] = _accuracy(params, running, task.test, task, config)
        if not _measured(config, task.index):
            continue
        passes = _passes(params, running, task, config)
        if passes is None:
            continue
        params = passes.params
        _write(values, r, measure_features(passes.trace, config.activation, config.eps))
        _write(values, r, measure_weights(split_affine(params)[0]))
        if config.cloned > 1:
            _write(values, r, measure_clone_r2(passes.trace.h, passes.signals[:-1], config.cloned))
            values["cloned_distance"][r] = relative_normal_part(params, config.cloned)[0]
        if r in opening.params:
            before = opening.params[r]
            values["frozen_normal_update"][r] = frozen_normal_update(before, params, opening.dead[r])[0]
            if config.cloned > 1:
                step = tuple(b - a for a, b in zip(before, params))
                values["cloned_normal_update"][r] = relative_normal_part(step, config.cloned)[0]


def _accuracy(params: Params, running: Params, split: Split, task: Task, config: Run) -> float:
    """Share of the examples that are right; NaN if there are none."""
    mask, right = inactive(task, config.device), 0
    for start in range(0, len(split), 1000):
        chosen = slice(start, start + 1000)
        output = evaluate(config, params, running, _inputs(split, chosen, config).to(config.device)).output[0]
        answers = (output if mask is None else output + mask).argmax(dim=1)
        right += int((answers.cpu().numpy() == split.y[chosen]).sum())
    return right / len(split) if len(split) else float("nan")


# -- helpers ---------------------------------------------------------------------------------------------------------------


def _measured(config: Run, t: int) -> bool:
    """Are features and weights measured in task t?"""
    return config.measure_every > 0 and (t + 1) % config.measure_every == 0


def _due(every: int, t: int) -> bool:
    """Is task t one of 0, ``every``, 2 · ``every``, …, at whose start curvature or claims are due?"""
    return every > 0 and t % every == 0


def _replicas(learner: Learner) -> list[tuple[Params, Params, int]]:
    """Parameters and running statistics [1, …], and number, of each replica that is alive."""

    def one(tensors: Params, place: int) -> Params:
        return tuple(t[place : place + 1] for t in tensors)

    return [(one(learner.params, i), one(learner.running, i), int(r)) for i, r in enumerate(learner.alive)]


def _passes(params: Params, running: Params, task: Task, config: Run) -> _Passes | None:
    """Of the probe of the task, or of its first training examples; None if the output is not finite. On the CPU.

    Error signals are those of a net without normalisation: with it there are none, and what needs them stays empty.
    """
    params, running = tuple(p.cpu() for p in params), tuple(p.cpu() for p in running)
    probe = task.probe if len(task.probe) else task.train.part(slice(0, PROBE))
    x, y = _inputs(probe, slice(None), config).unsqueeze(0), torch.from_numpy(probe.y).unsqueeze(0)
    trace = evaluate(config, params, running, x)
    if not bool(torch.isfinite(trace.output).all()):
        return None
    if config.norm != "none":
        return _Passes(params, x, y, trace, [])
    delta = output_signal(trace.output, y, inactive(task))
    return _Passes(params, x, y, trace, error_signals(params, trace, delta, config.activation))


def _write(values: Arrays, r: int, columns: dict[str, NDArray[np.float64]] | dict[str, float]) -> None:
    """Values of one replica, each a number or an array [1]."""
    for name, value in columns.items():
        values[name][r] = np.asarray(value).item()


def _inputs(split: Split, chosen: slice, config: Run) -> Tensor:
    x = split.x(chosen)
    return torch.from_numpy(x.reshape(len(x), -1)).to(getattr(torch, config.dtype))
