"""The bridge between ``run`` and :mod:`experiments.layered_kernel`: when the compiled step applies, and one task of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.run_program import Program
from experiments.run_state import Arrays, Learner, select
from experiments.streams import Task
from lop_theory.algorithms.base import Params
from lop_theory.algorithms.continual_backprop import CbpState
from lop_theory.algorithms.descent import MomentState, VelocityState
from lop_theory.algorithms.resets import kaiming_bound

__all__ = ["Totals", "applies", "train_compiled"]

ALGORITHMS = ("bp", "momentum", "adam", "l2", "cbp")
BATCH, PARAMETERS = 16, 300_000  # with more than one example: what matrix products do better, and what leaves the cache
BLOCK = 256  # minibatches that are gathered at once

Flat = NDArray[np.floating]


@dataclass(frozen=True)
class Totals:
    """Of a task: right answers and summed loss of all replicas [R] (those that diverged: whatever), and examples each."""

    right: NDArray[np.float64]
    loss: NDArray[np.float64]
    examples: int


def applies(program: Program) -> bool:
    """Whether the compiled step is made for this run and faster than batched matrix products.

    >>> from experiments.run_config import Run
    >>> from experiments.run_program import prepare
    >>> [applies(prepare(Run(stream="permuted-images", batch=batch, tasks=1))) for batch in (1, 8, 64)]
    [True, True, False]
    """
    config, widths = program.config, program.widths
    plain = (config.device, config.activation, config.norm, config.dropout, config.cloned) == (
        "cpu",
        "relu",
        "none",
        0,
        1,
    )
    if not plain or config.algorithm not in ALGORITHMS:
        return False
    assert config.step_size is not None
    if config.algorithm == "l2" and (config.optimizer != "sgd" or config.step_size * (config.weight_decay or 0) > 0.1):
        return False
    batch, size = program.streams[0].config.batch, sum((a + 1) * b for a, b in pairwise(widths))
    return batch == 1 or (batch <= BATCH and size <= PARAMETERS)


# -- layouts -----------------------------------------------------------------------------------------------------------------


def _pack(tensors: Params, r: int) -> Flat:
    """Weights (transposed) and biases of replica r, layer after layer [P]."""
    return np.concatenate([t[r].numpy().T.ravel() for t in tensors]) if tensors else np.zeros(0, np.float32)


def _unpack(flats: list[Flat], like: Params) -> Params:
    """Inverse of :func:`_pack`, all replicas."""
    if not like:
        return like
    parts, begin = [], 0
    for t in like:
        own = [flat[begin : begin + t[0].numel()] for flat in flats]
        arrays = [f.reshape(tuple(t.shape[:0:-1])).T for f in own]
        parts.append(torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).clone())  # torch aligns memory
        begin += t[0].numel()
    return tuple(parts)


def _inner(state: Any) -> Any:
    """The state of the optimiser."""
    return _inner(state.inner) if hasattr(state, "inner") else state


def _with_inner(state: Any, new: Any) -> Any:
    return state._replace(inner=_with_inner(state.inner, new)) if hasattr(state, "inner") else new


def _moments(state: Any) -> tuple[Params, Params]:
    if isinstance(state, MomentState):
        return state.first, state.second
    return (state.velocity if isinstance(state, VelocityState) else ()), ()


def _units(state: Any, r: int, kernel: Any) -> Any:
    """The kernel's view of Continual Backprop's state of replica r."""
    if not isinstance(state, CbpState):
        return None
    flat = {
        name: np.concatenate([t[r].numpy() for t in getattr(state, name)])
        for name in ("utility", "mean", "power", "age")
    }
    counts = {name: np.array([int(t[r]) for t in getattr(state, name)], np.int64) for name in ("offered", "paid")}
    chosen, scratch = (
        np.zeros(len(flat["age"]), np.bool_),
        {n: np.zeros_like(flat["mean"]) for n in ("transfer", "into", "out")},
    )
    return kernel.Units(**flat, **counts, chosen=chosen, **scratch)


def _with_units(state: CbpState, units: list[Any]) -> CbpState:
    ends = np.cumsum([t.shape[1] for t in state.age])[:-1]
    flat = {
        name: tuple(
            torch.from_numpy(np.stack(rows)) for rows in zip(*(np.split(getattr(u, name), ends) for u in units))
        )
        for name in ("utility", "mean", "power", "age")
    }
    counts = {
        name: tuple(torch.from_numpy(np.array(column)) for column in zip(*(getattr(u, name) for u in units)))
        for name in ("offered", "paid")
    }
    return state._replace(**flat, **counts)


def _rule(program: Program, kernel: Any) -> Any:
    config, own = program.config, np.dtype(program.config.dtype).type
    beta1, beta2, eta = 0.9, 0.999, config.decay or 0.0  # those of lop_theory.algorithms.descent.adam
    return kernel.Rule(
        optimizer={"sgd": kernel.SGD, "momentum": kernel.MOMENTUM, "adam": kernel.ADAM}[str(config.optimizer)],
        step_size=own(config.step_size),
        weight_decay=own(config.weight_decay or 0.0),
        mu=own(0.9),
        beta1=beta1,
        beta2=beta2,
        beta1_complement=own(1 - beta1),
        beta2_complement=own(1 - beta2),
        beta2_own=own(beta2),
        adam_eps=own(1e-8),
        replaces=config.algorithm == "cbp",
        replacement_rate=float(config.replacement_rate or 0.0),
        maturity=float(config.maturity or 0),
        decay=own(eta),
        decay_complement=own(1 - eta),
        one=own(1),
    )


# -- a task ------------------------------------------------------------------------------------------------------------------


@dataclass
class _Replica:
    """What one thread works on."""

    net: Any
    units: Any
    generator: torch.Generator
    task: Task
    made: int  # updates that Adam has counted
    right: int = 0
    loss: float = 0.0
    examples: int = 0
    updates: int = 0
    status: int = 0


def _blocks(task: Task, dtype: str) -> Iterator[tuple[Flat, NDArray[np.int64], int]]:
    """Inputs [N, d], labels [N] and minibatch size of BLOCK updates at a time, epoch after epoch."""
    for epoch in range(task.config.epochs):
        order = task.batches(epoch)
        for start in range(0, len(order), BLOCK):
            chosen = np.concatenate(order[start : start + BLOCK])
            x = np.ascontiguousarray(task.train.x(chosen).reshape(len(chosen), -1), dtype)
            yield x, np.ascontiguousarray(task.train.y[chosen], np.int64), len(order[0])


def _advance(replica: _Replica, rule: Any, dtype: str, kernel: Any) -> None:
    """All updates of the task, in place; stops where loss or gradient is not finite."""
    counted = np.ascontiguousarray(replica.task.active, np.int64)
    for x, y, batch in _blocks(replica.task, dtype):
        count, done = -(-len(x) // batch), 0
        losses, rights = np.zeros(count), np.zeros(count, np.int64)
        while done < count:
            done, status = kernel.train(
                replica.net, replica.units, rule, x, y, batch, counted, done, replica.made, losses, rights
            )
            if status in (kernel.LOSS, kernel.GRADIENT):
                replica.updates, replica.status = replica.updates + done, status
                return
            if status == kernel.REPLACE:
                kernel.release(replica.net, replica.units, _fresh(replica))
        sizes = np.full(count, batch)
        sizes[-1] = len(x) - batch * (count - 1)
        replica.loss += float(losses @ sizes)
        replica.right += int(rights.sum())
        replica.examples += len(x)
        replica.updates, replica.made = replica.updates + count, replica.made + count


def _fresh(replica: _Replica) -> Flat:
    """Incoming weights of the chosen units, one unit after the other, as ``resets.fresh_rows`` draws them."""
    widths, begin, parts = replica.net.widths, 0, []
    dtype = torch.from_numpy(replica.net.theta[:0]).dtype
    for fan_in, width in zip(widths[:-2].tolist(), widths[1:-1].tolist()):
        count = int(replica.units.chosen[begin : begin + width].sum())
        if count:
            bound = kaiming_bound(fan_in)
            rows = torch.empty(count, fan_in, dtype=dtype).uniform_(-bound, bound, generator=replica.generator)
            parts.append(rows.numpy().ravel())
        begin += width
    return np.concatenate(parts) if parts else replica.net.theta[:0].copy()


def train_compiled(program: Program, learner: Learner, tasks: Sequence[Task], values: Arrays) -> Totals:
    """One task of all replicas that are alive, as the loop of ``run`` does it; replicas that diverge are dropped."""
    from experiments import layered_kernel as kernel  # half a second of numba, for runs that need it

    config, state = program.config, learner.state
    if not len(learner.alive):
        return Totals(np.zeros(config.seeds), np.zeros(config.seeds), 0)
    optimizer = _inner(state)
    rule, parts = _rule(program, kernel), (learner.params, *_moments(optimizer))
    dtype, widths = np.dtype(config.dtype), np.array(program.widths, np.int64)
    replicas = []
    for place, r in enumerate(learner.alive):
        theta, first, second = (np.ascontiguousarray(_pack(part, place), dtype) for part in parts)
        units = _units(state, place, kernel) or kernel.empty_units(dtype)
        made = int(optimizer.updates[0][place].item()) if isinstance(optimizer, MomentState) else learner.step
        replicas.append(
            _Replica(kernel.Net(widths, theta, first, second), units, learner.generator[place], tasks[r], made)
        )
    threads = min(torch.get_num_threads(), os.cpu_count() or 1, len(replicas))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(lambda replica: _advance(replica, rule, config.dtype, kernel), replicas))
    _write_back(learner, replicas, optimizer)
    totals = Totals(np.zeros(config.seeds), np.zeros(config.seeds), max(r.examples for r in replicas))
    totals.right[learner.alive] = [replica.right for replica in replicas]
    totals.loss[learner.alive] = [replica.loss for replica in replicas]
    fine = np.array([replica.status == 0 for replica in replicas])
    ended = learner.alive[~fine]
    failed = [replica for replica in replicas if replica.status]
    values["diverged_at"][ended] = [learner.step + replica.updates for replica in failed]
    values["reason"][ended] = [replica.status for replica in failed]
    learner.step += max(replica.updates for replica in replicas)
    if len(ended):
        vars(learner).update(vars(select(program, learner, np.flatnonzero(fine))))
    return totals


def _write_back(learner: Learner, replicas: list[_Replica], optimizer: Any) -> None:
    """Parameters and state of the learner from what the kernel left."""
    learner.params = _unpack([replica.net.theta for replica in replicas], learner.params)
    if isinstance(optimizer, MomentState):
        first = _unpack([replica.net.first for replica in replicas], optimizer.first)
        second = _unpack([replica.net.second for replica in replicas], optimizer.second)
        made = torch.tensor([replica.made for replica in replicas])
        updates = tuple(made.reshape(t.shape) for t in optimizer.updates)
        optimizer = MomentState(first, second, updates)
    elif isinstance(optimizer, VelocityState):
        optimizer = VelocityState(_unpack([replica.net.first for replica in replicas], optimizer.velocity))
    learner.state = _with_inner(learner.state, optimizer)
    if isinstance(learner.state, CbpState):
        learner.state = _with_units(learner.state, [replica.units for replica in replicas])
