"""The training loop: ``run(config, directory)`` yields the rows of a run on a stream of images, task by task.

All replicas advance together: every parameter is [R, …], one batched program trains R networks on R streams. Replica r
computes what a run of its seed alone computes, up to rounding. A run is a pure function of its configuration and the data; on a
CPU a run that was killed and started again in the same folder gives the same rows, bit for bit.

====================  ==================================================================================================
column                value
====================  ==================================================================================================
seed, task            of the replica; counted from 0
online_accuracy       share of the examples of the task that were right before the update that learned from them, in that very
                      pass: with dropout, and with the statistics of the minibatch
online_loss           mean cross-entropy before the update
final_train_accuracy  at the end of the task, on its training examples; final_test_accuracy: on its test examples, if any
diverged_at           update whose loss, gradient or result was not finite; the replica ends there, the others go on
reason                which of these, a position in ``REASONS``
seconds               wall time of the task, all replicas together
====================  ==================================================================================================

and those of ``run_metrics``, ``run_clones``, ``run_curvature``, on the probe of the task (or on its first 500 training examples);
``run_measure`` says when. The claims of ``run_claims`` are judged at the start of tasks; their rows are kept apart.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.checkpoints import load_parts, open_run, save_part
from experiments.run_claim_rows import CLAIMS, pack, stack
from experiments.run_config import Run
from experiments.run_layered import Totals, applies, train_compiled
from experiments.run_measure import measure, measure_start_of_task
from experiments.run_program import Program, prepare
from experiments.run_state import Arrays, Learner, freeze, start, thaw
from experiments.run_update import REASONS, Batch, differentiate, drop, dropout, finite, minibatches, update
from experiments.streams import Task

__all__ = ["REASONS", "run", "train_task"]

Row = dict[str, float]


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
    with open_run(directory, program.identity):
        yield from _advance(program, directory, save_every or max(1, config.tasks // 20))


def _advance(program: Program, directory: Path | None, save_every: int) -> Iterator[Row]:
    """The rows on disk, then task after task, with a checkpoint after every ``save_every`` of them."""
    config, learner, done, saved = program.config, start(program), 0, 0
    if directory is not None:
        held, state, done = load_parts(directory, program.columns, freeze(learner))
        learner, saved = thaw(program, state) if done else learner, len(held["seconds"])
        for t in range(done):
            yield from _rows(config, t, {name: column[t] for name, column in held.items()})
        del held
    pending: list[Arrays] = []  # rows of the tasks since the last checkpoint; none that are on disk already
    for t in range(done, config.tasks):
        learner, frozen, values = train_task(program, learner, [stream.task(t) for stream in program.streams])
        pending += [values] if t >= saved else []
        if directory is not None and ((t + 1) % save_every == 0 or t + 1 == config.tasks):
            part = {name: np.array([values[name] for values in pending]) for name in program.columns}
            if config.claims_every:
                part |= {CLAIMS: stack([values[CLAIMS] for values in pending])}
            save_part(directory, t + 1, part, frozen)
            saved, pending = max(saved, t + 1), []
        yield from _rows(config, t, values)


def train_task(program: Program, learner: Learner, tasks: Sequence[Task]) -> tuple[Learner, Arrays, Arrays]:
    """One task of all replicas: the learner after it, the same as arrays, and the row of the task by column, [R] each."""
    config, began = program.config, time.perf_counter()
    values: Arrays = {name: np.full(config.seeds, np.nan) for name in program.columns}
    opening = measure_start_of_task(program, learner, tasks, values)
    totals = (train_compiled if applies(program) else _train_batched)(program, learner, tasks, values)
    drop(program, learner, finite(learner.params), 3, values)
    values["online_accuracy"][learner.alive] = totals.right[learner.alive] / max(totals.examples, 1)
    values["online_loss"][learner.alive] = totals.loss[learner.alive] / max(totals.examples, 1)
    measure(program, learner, tasks, values, opening)
    if config.claims_every:
        values[CLAIMS] = pack(opening.claims)
    values["seconds"][:] = time.perf_counter() - began
    frozen = freeze(learner)  # and thawed, as after a restart: layout in memory, too, decides how products round
    return thaw(program, frozen), frozen, values


def _train_batched(program: Program, learner: Learner, tasks: Sequence[Task], values: Arrays) -> Totals:
    """The updates of one task, all replicas in one program."""
    config = program.config
    right, loss, examples = np.zeros(config.seeds), np.zeros(config.seeds), 0
    recent: deque[Tensor] = deque(maxlen=config.er_every or 1)
    draw = dropout(program, tasks[0].index)
    for x, y in minibatches(tasks, getattr(torch, config.dtype), config.device):
        recent.append(x)
        batch = Batch(tasks[0], x, y, draw(y.shape[1]), recent)
        now = differentiate(program, learner, batch)
        if not now.fine.all():
            drop(program, learner, now.fine, now.reason, values)
            now = differentiate(program, learner, batch)
        if not len(learner.alive):
            break
        right[learner.alive] += now.right
        loss[learner.alive] += now.loss * y.shape[1]
        examples += y.shape[1]
        update(program, learner, batch, now, values)
        learner.step += 1
    return Totals(right, loss, examples)


def _rows(config: Run, t: int, values: Arrays) -> Iterator[Row]:
    for r in range(config.seeds):
        columns = {name: float(column[r]) for name, column in values.items() if name != CLAIMS}
        yield {"seed": config.seed + r, "task": t, **columns}
