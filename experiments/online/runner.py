"""Runs on an online stream (bit flipping, slowly-changing regression): initial state, the loop over records, exact resume.

A run is a pure function of its :class:`Online` configuration. Parameters, measurements and file contents do not depend on
the number of threads, on how many seeds run together, or on where a run was killed and started again.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.checkpoints import load_parts, open_run, save_part
from experiments.online import kernels as K
from experiments.online.config import (
    ACTIVATIONS,
    ADAM_EPS,
    ALGORITHMS,
    BETA1,
    BETA2,
    CBP,
    FLIPS,
    LEAK,
    OPTIMIZERS,
    Online,
)
from experiments.online.measures import measure

__all__ = [
    "COLUMNS", "Record", "Records", "State", "diverged", "identity", "initial_state", "make_rule", "probe_inputs", "records",
    "run", "stream",
]  # fmt: skip

LANES = 16  # float32 numbers in the widest vector register
REPLICAS_TOGETHER = 128  # H = 5 in float32: 54 kB of weights; fewer are slower per replica, more leave the caches

FloatArray = NDArray[np.float64]


class State(NamedTuple):
    """Everything that changes during a run; replicas are the last axis of every array."""

    learner: K.Learner
    first: K.Learner  # Adam's moments; empty for SGD
    second: K.Learner
    units: K.Units


class Records(NamedTuple):
    """All records of a run: ``values[name]`` [R, S] after ``steps`` [R] steps of the replicas with these ``seeds`` [S].

    "online_loss" is the mean squared error before the update over the interval that ends there; the rest is of that moment.
    """

    steps: NDArray[np.int64]
    seeds: NDArray[np.int64]
    values: dict[str, FloatArray]


def diverged(held: Records) -> dict[int, int]:
    """Seeds whose loss stopped being finite, with the step of the record that showed it first.

    >>> diverged(Records(np.array([10, 20]), np.array([7, 8]), {"online_loss": np.array([[1.0, 1.0], [1.0, np.inf]])}))
    {8: 20}
    """
    bad = ~np.isfinite(held.values["online_loss"])
    return {int(held.seeds[s]): int(held.steps[np.argmax(bad[:, s])]) for s in np.flatnonzero(bad.any(axis=0))}


# -- what a configuration stands for ---------------------------------------------------------------------------------------


def stream(config: Online, seeds: NDArray[np.int64]) -> K.Stream:
    """The target nets and the keys of the inputs of these seeds.

    >>> made = stream(Online(), np.arange(3))
    >>> made.signs.shape, np.unique(made.quorum).tolist()
    ((100, 3), [15, 16])
    """
    units, bits = config.target_units, config.bits
    sigma = -1 if config.stream == "bit-flipping" else 1
    quorum_of = {b: math.floor(config.beta * (bits + 1) - (1 + sigma / 2) * b) + 1 for b in (-1, 1)}
    numbers = _numbers(seeds, K.TARGET, 3 * units + 1)  # [3U + 1, S]: signs, biases, outer weights, outer bias
    coin = np.where(numbers >> np.uint64(63), 1, -1)
    return K.Stream(
        slow_key=_keys(seeds, K.SLOW),
        fast_key=_keys(seeds, K.FAST),
        signs=np.ascontiguousarray(numbers[:units] >> np.uint64(64 - bits)),
        quorum=np.where(coin[units : 2 * units] == 1, quorum_of[1], quorum_of[-1]),
        out=np.ascontiguousarray(coin[2 * units : 3 * units]),
        out_bias=np.ascontiguousarray(coin[3 * units]),
    )


def initial_state(config: Online, seeds: NDArray[np.int64]) -> State:
    """Kaiming-uniform weights, zero biases, and nothing remembered.

    >>> [a.shape for a in initial_state(Online(), np.arange(3)).learner]
    [(5, 21, 3), (5, 3), (5, 3), (3,)]
    """
    dtype, count = np.dtype(config.dtype), len(seeds)
    hidden, inputs = config.hidden, config.inputs
    unit = 2 * ((_numbers(seeds, K.INIT, hidden * inputs + hidden) >> np.uint64(11)) * 2.0**-53) - 1  # in [−1, 1)
    linear = config.activation == "linear"
    w2 = np.ones((hidden, count)) if linear else math.sqrt(3 / hidden) * unit[hidden * inputs :]
    learner = K.Learner(
        w1=(config.init_bound * unit[: hidden * inputs]).reshape(hidden, inputs, count).astype(dtype),
        b1=np.zeros((hidden, count), dtype),
        w2=w2.astype(dtype),
        b2=np.zeros(count, dtype),
    )
    first, second = (K.Learner(*(np.zeros(a.shape if config.optimizer == "adam" else (0,) * a.ndim, dtype) for a in learner))
               for _ in range(2))  # fmt: skip
    units = K.Units(
        steps=np.zeros((hidden, count), np.int64),
        age=np.zeros((hidden, count), np.int64),
        utility=np.zeros((hidden, count), dtype),
        mean=np.zeros((hidden, count), dtype),
        due=np.zeros(count),
        replaced=np.zeros(count, np.int64),
        reset_key=_keys(seeds, K.RESET),
    )
    return State(learner, first, second, units)


def make_rule(config: Online) -> K.Rule:
    """The learning rule as the kernels take it: codes, floats of the learner's dtype, and tables of bias corrections.

    >>> make_rule(Online(algorithm="cbp", decay=0.5, dtype="float64")).averaged[:3].tolist()    # 1 − η^a; entry 0 is never used
    [1.0, 0.5, 0.75]
    """
    scalar = np.dtype(config.dtype).type

    def one_minus_power(base: float) -> FloatArray:
        """1 − base^t for t = 0 … until it is 1 in float64 (t = 0 is never used)."""
        length = math.ceil(math.log(2.0**-54) / math.log(base)) + 2
        powers = -np.expm1(np.arange(length) * math.log(base))
        return np.where(np.arange(length) == 0, 1.0, powers)

    decay = config.decay or CBP["decay"]  # plain backprop has none and never asks
    corrections = one_minus_power(BETA1), one_minus_power(BETA2)
    first = np.ones(len(corrections[1]))
    first[: len(corrections[0])] = corrections[0]
    return K.Rule(
        activation=ACTIVATIONS.index(config.activation),
        optimizer=OPTIMIZERS.index(config.optimizer),
        algorithm=ALGORITHMS[config.algorithm],
        cbp_from=config.cbp_from,
        train_readout=config.activation != "linear",
        maturity=config.maturity or 0,
        replacement_rate=config.replacement_rate or 0.0,
        one=scalar(1),
        leak=scalar(LEAK),
        step_size=scalar(config.step_size),
        weight_decay=scalar(config.weight_decay or 0.0),
        beta1_complement=scalar(1 - BETA1),
        beta2=scalar(BETA2),
        adam_eps=scalar(ADAM_EPS),
        decay=scalar(decay),
        tiny=scalar(1e-10),
        init_bound=scalar(config.init_bound),
        adam_step=(config.step_size / first).astype(config.dtype),
        adam_root=(1 / np.sqrt(corrections[1])).astype(config.dtype),
        averaged=one_minus_power(decay).astype(config.dtype),
    )


def probe_inputs(config: Online, seeds: NDArray[np.int64]) -> NDArray[np.floating]:
    """The probe x [N, I, S]: uniform inputs, or those of the stream at random times; the same during the whole run.

    >>> probe_inputs(Online(probe=4), np.arange(3)).shape
    (4, 21, 3)
    """
    x = np.ones((config.probe, config.inputs, len(seeds)), config.dtype)
    numbers = _numbers(seeds, K.PROBE, config.probe)
    flip, width = FLIPS.index(config.flip), config.bits - config.slow
    for s in range(len(seeds)):
        words = numbers[:, s] >> np.uint64(64 - config.bits)
        if config.probe_from == "stream":
            slow_key, fast_key = _keys(seeds[s : s + 1], K.SLOW)[0], _keys(seeds[s : s + 1], K.FAST)[0]
            for n, t in enumerate((numbers[:, s] % np.uint64(config.steps)).tolist()):
                fast = K.number(fast_key, np.uint64(t)) >> (64 - width)
                words[n] = K.slow_bits(slow_key, t // config.flip_period, config.slow, flip) | (fast << config.slow)
        x[:, : config.bits, s] = (words[:, None] >> np.arange(config.bits, dtype=np.uint64)) & np.uint64(1)
    return x


def _keys(seeds: NDArray[np.int64], purpose: np.uint64) -> NDArray[np.uint64]:
    return np.array([K.key(np.uint64(seed), purpose) for seed in seeds], np.uint64)


def _numbers(seeds: NDArray[np.int64], purpose: np.uint64, count: int) -> NDArray[np.uint64]:
    """The first ``count`` random numbers [count, S] of this purpose."""
    starts = _keys(seeds, purpose)
    return np.array([[K.number(start, np.uint64(n)) for start in starts] for n in range(count)], np.uint64)


# -- the run ---------------------------------------------------------------------------------------------------------------


class _Block:
    """Some of the replicas: the unit of work of one thread.

    The last replica is repeated until their number is a multiple of ``LANES``: rows of 32 take less time than rows of 30.
    """

    def __init__(self, config: Online, seeds: NDArray[np.int64], state: State) -> None:
        self.count = len(seeds)
        lanes = np.pad(np.arange(self.count), (0, -self.count % LANES), mode="edge")
        self.config, self.padded, self.rule = config, _select(state, lanes), make_rule(config)
        self.stream, self.probe = stream(config, seeds[lanes]), probe_inputs(config, seeds[lanes])
        self.shape = (config.bits, config.slow, config.flip_period, FLIPS.index(config.flip))

    @property
    def state(self) -> State:
        """Without the repetitions."""
        return _select(self.padded, np.arange(self.count))

    def advance(self, start: int, stop: int) -> dict[str, FloatArray]:
        """Train from step ``start`` to ``stop``, then measure."""
        learner, first, second, units = self.padded
        loss = np.zeros(len(learner.b2))
        K.advance(self.stream, self.shape, learner, first, second, units, self.rule, start, stop, loss)
        z = np.empty((len(self.probe), *learner.b1.shape), learner.b1.dtype)
        h = np.empty_like(z)
        K.hidden(learner, self.probe, self.rule, z, h)
        own = np.s_[..., : self.count]
        return {
            "online_loss": loss[own] / (stop - start),
            **measure(z[own], h[own], learner.w1[own], learner.w2[own]),
            "replaced": units.replaced[own].astype(np.float64),
        }


class Record(NamedTuple):
    """Measurements ``values[name]`` [S] after ``step`` steps; ``seconds`` of wall time, NaN if it was not made now.

    All measurements are NaN from the record on whose loss is not finite: that replica has diverged.
    """

    step: int
    values: dict[str, FloatArray]
    seconds: float


def records(
    config: Online, directory: Path | None = None, *, threads: int = 1, save_every: int | None = None
) -> Iterator[Record]:
    """Run, or go on with what ``directory`` holds of this very run; yields all records, those of earlier calls first.

    ``save_every``: records between checkpoints (default: a twentieth of the run). Neither it nor ``threads`` changes a bit.
    Raises :class:`Failure` if the directory holds another run or a damaged file.

    >>> [(record.step, record.values["online_loss"].shape) for record in records(Online(steps=2000, every=1000, seeds=3))]
    [(1000, (3,)), (2000, (3,))]
    """
    with open_run(directory, identity(config)):
        yield from _records(config, directory, threads, save_every)


def _records(config: Online, directory: Path | None, threads: int, save_every: int | None) -> Iterator[Record]:
    """:func:`records` while the folder is held."""
    seeds = np.arange(config.seed, config.seed + config.seeds)
    with ThreadPoolExecutor(threads) as pool:
        rows, done, state = {name: list[FloatArray]() for name in COLUMNS}, 0, initial_state(config, seeds)
        if directory is not None:
            rows, arrays, done = load_parts(directory, COLUMNS, _flatten(state))
            state = _unflatten(state, arrays)
        stored = len(rows["online_loss"])  # perhaps more than the state has seen: these are computed again
        rows = {name: column[:done] for name, column in rows.items()}
        for r in range(done):
            yield Record((r + 1) * config.every, {name: column[r] for name, column in rows.items()}, math.nan)
        ended = ~np.isfinite(rows["online_loss"][-1]) if done else np.zeros(len(seeds), bool)
        blocks = _blocks(config, seeds, state, threads)
        save_every = save_every or max(1, config.records // 20)
        while done < config.records:
            start, began = done * config.every, time.perf_counter()
            results = list(pool.map(lambda block: block.advance(start, start + config.every), blocks))  # noqa: B023
            values = {name: np.concatenate([result[name] for result in results]) for name in COLUMNS}
            ended |= ~np.isfinite(values["online_loss"])
            for name in COLUMNS:
                rows[name].append(np.where(ended, np.nan, values[name]))
            done += 1
            if directory is not None and (done % save_every == 0 or done == config.records):
                part = {name: np.array(rows[name][stored:]).reshape(-1, len(seeds)) for name in COLUMNS}
                save_part(directory, done, part, _flatten(_join([block.state for block in blocks])))
                stored = max(stored, done)
            yield Record(done * config.every, {n: rows[n][-1] for n in COLUMNS}, time.perf_counter() - began)


def _blocks(config: Online, seeds: NDArray[np.int64], state: State, threads: int) -> list[_Block]:
    """All replicas, in blocks of similar size: at least one for each thread, none too large for the caches."""
    cuts = np.array_split(np.arange(len(seeds)), max(threads, math.ceil(len(seeds) / REPLICAS_TOGETHER)))
    return [_Block(config, seeds[cut], _select(state, cut)) for cut in cuts if len(cut)]


def identity(config: Online) -> dict[str, Any]:
    """What must be the same for a run to go on: configuration and versions (its rounding depends on the compiler).

    >>> sorted(identity(Online())["versions"])
    ['llvmlite', 'numba', 'numpy', 'python']
    """
    versions = {name: metadata.version(name) for name in ("llvmlite", "numba", "numpy")}
    return {**asdict(config), "versions": versions | {"python": platform.python_version()}}


def run(
    config: Online,
    directory: Path | None = None,
    *,
    threads: int = 1,
    save_every: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Records:
    """All of :func:`records` at once; ``progress(done, all)`` is called after each record that is made now.

    >>> held = run(Online(steps=2000, every=1000, seeds=2))
    >>> held.values["online_loss"].shape, held.steps.tolist()
    ((2, 2), [1000, 2000])
    """
    rows: dict[str, list[FloatArray]] = {name: [] for name in COLUMNS}
    for done, record in enumerate(records(config, directory, threads=threads, save_every=save_every), start=1):
        for name in COLUMNS:
            rows[name].append(record.values[name])
        if progress is not None and not math.isnan(record.seconds):
            progress(done, config.records)
    steps, seeds = config.every * np.arange(1, config.records + 1), np.arange(config.seed, config.seed + config.seeds)
    return Records(steps, seeds, {name: np.stack(column) for name, column in rows.items()})


COLUMNS = (
    "online_loss", "effective_rank_z", "effective_rank_h", "dead_fraction", "duplicate_fraction_z", "duplicate_fraction_h",
    "mean_abs_w1", "mean_abs_w2", "replaced",
)  # fmt: skip


# -- states as flat dictionaries, and as blocks of replicas ----------------------------------------------------------------


def _flatten(state: State) -> dict[str, NDArray[Any]]:
    return {f"{part}.{name}": a for part, group in state._asdict().items() for name, a in group._asdict().items()}


def _unflatten(like: State, arrays: dict[str, NDArray[Any]]) -> State:
    groups = [
        type(group)(*(arrays[f"{part}.{name}"] for name in group._fields)) for part, group in like._asdict().items()
    ]
    return State(*groups)


def _select(state: State, replicas: NDArray[np.int64]) -> State:
    """A contiguous copy of some replicas (the kernels are fast on contiguous rows only)."""
    return _unflatten(state, {name: np.ascontiguousarray(a[..., replicas]) if a.size else a.copy()
                              for name, a in _flatten(state).items()})  # fmt: skip


def _join(states: list[State]) -> State:
    parts = [_flatten(state) for state in states]
    return _unflatten(states[0], {name: np.concatenate([p[name] for p in parts], axis=-1) for name in parts[0]})
