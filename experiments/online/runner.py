"""Runs of bit flipping: configuration, initial state, the loop over records, and checkpoints that resume to the last bit.

A run is a pure function of its :class:`Online` configuration. Parameters, measurements and file contents do not depend on
the number of threads, on how many seeds run together, or on where a run was killed and started again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.online import kernels as K
from experiments.online.checkpoints import load_parts, open_run, save_part
from experiments.online.config import ACTIVATIONS, ADAM_EPS, ALGORITHMS, BETA1, BETA2, FLIPS, LEAK, OPTIMIZERS, Online
from experiments.online.measures import measure

__all__ = ["State", "Table", "diverged", "initial_state", "make_rule", "probe_inputs", "run", "stream"]

REPLICAS_TOGETHER = 128  # H = 5 in float32: 54 kB of weights; fewer are slower per replica, more leave the caches

FloatArray = NDArray[np.float64]


class State(NamedTuple):
    """Everything that changes during a run; replicas are the last axis of every array."""

    learner: K.Learner
    first: K.Learner  # Adam's moments; empty for SGD
    second: K.Learner
    units: K.Units


class Table(NamedTuple):
    """Measurements ``values[name]`` [R, S] after ``steps`` [R] steps of the replicas with these ``seeds`` [S].

    "loss" is the mean squared error before the update over the interval that ends there; the rest is of that moment.
    """

    steps: NDArray[np.int64]
    seeds: NDArray[np.int64]
    values: dict[str, FloatArray]

    def rows(self) -> Iterator[tuple[int, int, str, float]]:
        """(seed, step, metric, value), sorted."""
        for s, seed in enumerate(self.seeds.tolist()):
            for r, step in enumerate(self.steps.tolist()):
                for name in sorted(self.values):
                    yield seed, step, name, float(self.values[name][r, s])

    def mean_between(self, name: str, start: float, stop: float) -> FloatArray:
        """Mean [S] of a metric over the records whose steps lie in (start, stop], given as shares of the run."""
        last = self.steps[-1]
        chosen = (self.steps > start * last) & (self.steps <= stop * last)
        return self.values[name][chosen].mean(axis=0)


def diverged(table: Table) -> dict[int, int]:
    """Seeds whose loss stopped being finite, with the step of the record that showed it first.

    >>> diverged(Table(np.array([10, 20]), np.array([7, 8]), {"loss": np.array([[1.0, 1.0], [1.0, np.inf]])}))
    {8: 20}
    """
    bad = ~np.isfinite(table.values["loss"])
    return {int(table.seeds[s]): int(table.steps[np.argmax(bad[:, s])]) for s in np.flatnonzero(bad.any(axis=0))}


# -- what a configuration stands for ---------------------------------------------------------------------------------------


def stream(config: Online, seeds: NDArray[np.int64]) -> K.Stream:
    """The target nets and the keys of the inputs of these seeds.

    >>> made = stream(Online(), np.arange(3))
    >>> made.signs.shape, np.unique(made.quorum).tolist()
    ((100, 3), [15, 16])
    """
    units, bits = config.target_units, config.bits
    sigma = -1 if config.protocol == "bit-flipping" else 1
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

    >>> make_rule(Online(decay=0.5, dtype="float64")).averaged[:3].tolist()    # 1 − η^a; entry 0 is never used
    [1.0, 0.5, 0.75]
    """
    scalar = np.dtype(config.dtype).type

    def one_minus_power(base: float) -> FloatArray:
        """1 − base^t for t = 0 … until it is 1 in float64 (t = 0 is never used)."""
        length = math.ceil(math.log(2.0**-54) / math.log(base)) + 2
        powers = -np.expm1(np.arange(length) * math.log(base))
        return np.where(np.arange(length) == 0, 1.0, powers)

    corrections = one_minus_power(BETA1), one_minus_power(BETA2)
    first = np.ones(len(corrections[1]))
    first[: len(corrections[0])] = corrections[0]
    return K.Rule(
        activation=ACTIVATIONS.index(config.activation),
        optimizer=OPTIMIZERS.index(config.optimizer),
        algorithm=ALGORITHMS.index(config.algorithm),
        cbp_from=config.cbp_from,
        train_readout=config.activation != "linear",
        maturity=config.maturity,
        replacement_rate=config.replacement_rate,
        one=scalar(1),
        leak=scalar(LEAK),
        step_size=scalar(config.step_size),
        weight_decay=scalar(config.weight_decay),
        beta1_complement=scalar(1 - BETA1),
        beta2=scalar(BETA2),
        adam_eps=scalar(ADAM_EPS),
        decay=scalar(config.decay),
        tiny=scalar(1e-10),
        init_bound=scalar(config.init_bound),
        adam_step=(config.step_size / first).astype(config.dtype),
        adam_root=(1 / np.sqrt(corrections[1])).astype(config.dtype),
        averaged=one_minus_power(config.decay).astype(config.dtype),
    )


def probe_inputs(config: Online, seeds: NDArray[np.int64]) -> NDArray[np.floating]:
    """The probe x [N, I, S]: uniform inputs, or those of the stream at random times; the same during the whole run.

    >>> probe_inputs(Online(probe_size=4), np.arange(3)).shape
    (4, 21, 3)
    """
    x = np.ones((config.probe_size, config.inputs, len(seeds)), config.dtype)
    numbers = _numbers(seeds, K.PROBE, config.probe_size)
    flip, width = FLIPS.index(config.flip), config.bits - config.slow
    for s in range(len(seeds)):
        words = numbers[:, s] >> np.uint64(64 - config.bits)
        if config.probe == "stream":
            slow_key, fast_key = _keys(seeds[s : s + 1], K.SLOW)[0], _keys(seeds[s : s + 1], K.FAST)[0]
            for n, t in enumerate((numbers[:, s] % np.uint64(config.steps)).tolist()):
                fast = K.number(fast_key, np.uint64(t)) >> (64 - width)
                words[n] = K.slow_bits(slow_key, t // config.period, config.slow, flip) | (fast << config.slow)
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
    """Some of the replicas: the unit of work of one thread."""

    def __init__(self, config: Online, seeds: NDArray[np.int64], state: State) -> None:
        self.config, self.state, self.rule = config, state, make_rule(config)
        self.stream, self.probe = stream(config, seeds), probe_inputs(config, seeds)
        self.shape = (config.bits, config.slow, config.period, FLIPS.index(config.flip))

    def advance(self, start: int, stop: int) -> dict[str, FloatArray]:
        """Train from step ``start`` to ``stop``, then measure."""
        learner, first, second, units = self.state
        loss = np.zeros(len(learner.b2))
        K.advance(self.stream, self.shape, learner, first, second, units, self.rule, start, stop, loss)
        z = np.empty((len(self.probe), *learner.b1.shape), learner.b1.dtype)
        h = np.empty_like(z)
        K.hidden(learner, self.probe, self.rule, z, h)
        return {
            "loss": loss / (stop - start),
            **measure(z, h, learner.w1, learner.w2),
            "replaced": units.replaced.astype(np.float64),
        }


def run(
    config: Online,
    directory: Path | None = None,
    *,
    threads: int = 1,
    save_every: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Run, or go on with what ``directory`` holds of this very run; returns the whole table.

    ``save_every``: records between checkpoints (default: a twentieth of the run); ``progress(done, all)`` is called
    after each record. None of these, nor ``threads``, changes a bit of the table. Raises :class:`Failure` if the
    directory holds another run or a damaged file.

    >>> table = run(Online(steps=2000, every=1000, seeds=2))
    >>> table.values["loss"].shape, table.steps.tolist()
    ((2, 2), [1000, 2000])
    """
    seeds = np.arange(config.first_seed, config.first_seed + config.seeds)
    records, names = config.steps // config.every, [*_METRICS]
    rows: dict[str, list[FloatArray]] = {name: [] for name in names}
    state = initial_state(config, seeds)
    if directory is not None:
        open_run(directory, asdict(config))
        rows, arrays = load_parts(directory, rows, _flatten(state))
        state = _unflatten(state, arrays)
    done = saved = len(rows["loss"])
    save_every = save_every or max(1, records // 20)
    cuts = np.array_split(np.arange(len(seeds)), max(threads, math.ceil(len(seeds) / REPLICAS_TOGETHER)))
    blocks = [_Block(config, seeds[cut], _select(state, cut)) for cut in cuts if len(cut)]
    with ThreadPoolExecutor(threads) as pool:
        while done < records:
            start = done * config.every
            results = list(pool.map(lambda block: block.advance(start, start + config.every), blocks))  # noqa: B023
            for name in names:
                rows[name].append(np.concatenate([result[name] for result in results]))
            done += 1
            if directory is not None and (done % save_every == 0 or done == records):
                part = {name: np.stack(rows[name][saved:done]) for name in names}
                save_part(directory, saved, done, part, _flatten(_join([block.state for block in blocks])))
                saved = done
            if progress is not None:
                progress(done, records)
    steps = config.every * np.arange(1, records + 1)
    return Table(steps, seeds, {name: np.stack(rows[name]) for name in names})


_METRICS = (
    "loss", "effective_rank_z", "effective_rank_h", "dead_fraction", "duplicate_fraction_z", "duplicate_fraction_h",
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
