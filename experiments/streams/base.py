"""What a task is, and how it is drawn: every task is a pure function of (seed, t).

Task t of a stream never depends on which tasks were asked for before, on the process, on the order of access, nor on any
global state. Each random decision has a *path* of its own (stream, purpose, t, k); the words drawn for it come from a
PCG64 generator that is seeded with the seed and that path. Only the raw 64-bit words of the generator are used: numpy
promises never to change those, while it may change how its methods turn words into permutations.

A ``Split`` holds no images, only row numbers into a data set that all tasks and all replicas share: memory stays flat over a
thousand tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from experiments.datasets import Images

SHUFFLES = ("epoch", "task", "never")
ORDER, PROBE, SUBSET = 0, 1, 2  # purposes that streams have in common; their own start at 16
OWN = 16


def words(n: int, seed: int, *path: int) -> NDArray[np.uint64]:
    """n random 64-bit words for this seed and path; the first n of more words are the same words.

    >>> bool((words(3, 0, 1, 2) == words(9, 0, 1, 2)[:3]).all()), bool((words(3, 0, 1, 2) == words(3, 0, 1, 3)).any())
    (True, False)
    """
    sequence = np.random.SeedSequence(seed, spawn_key=path)  # a spawn key is kept apart from the entropy before it
    return np.random.PCG64(sequence).random_raw(n)


def permutation(n: int, seed: int, *path: int) -> NDArray[np.int64]:
    """A uniformly random permutation of 0 … n − 1, [n] int64: the order of n random words.

    Two of n words agree with probability below n² 2⁻⁶⁵ (1e-10 for n = 60,000), so the order is uniform to that precision.

    >>> sorted(permutation(5, 0, 1).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(words(n, seed, *path), kind="stable").astype(np.int64)


def check_counts(**counts: int | None) -> None:
    """Each number counts something and must be at least 1; None stands for all."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} = {count}; it counts something and must be at least 1")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What all streams have in common.

    data       name of the data set (``experiments.datasets``); streams without images ignore it
    tasks      number of tasks
    epochs     passes over the training examples of a task
    batch      examples per step
    shuffle    a new order each "epoch", one for the "task", or "never" (the order of the data)
    keep_last  whether an incomplete last batch of an epoch is a step as well
    probe      training examples that are drawn, for measurements at the start of a task (0: none)
    source     the protocol that this is, with its paper; empty for one's own
    """

    data: str = "digits"
    tasks: int = 10
    epochs: int = 1
    batch: int = 1
    shuffle: str = "epoch"
    keep_last: bool = False
    probe: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        check_counts(tasks=self.tasks, epochs=self.epochs, batch=self.batch)
        if self.probe < 0:
            raise ValueError(f"probe = {self.probe}; give a number of examples, 0 for none")
        if self.shuffle not in SHUFFLES:
            raise ValueError(f"shuffle = {self.shuffle!r} is unknown; choose one of {', '.join(SHUFFLES)}")


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of a task, by reference: example i is ``source[rows[i]]`` with target ``y[i]``.

    source  [N, ...] uint8 or float32, shared; anything with ``shape``, ``dtype`` and ``source[rows]``
    rows    [n] int64
    y       [n] int64 labels, which are positions of outputs; or [n, 1] float32 values
    scale   raw values are divided by it
    pixels  [d] int64, or None: the input is the flattened example in this order of pixels
    """

    source: Any
    rows: NDArray[np.int64]
    y: NDArray[Any]
    scale: float = 1.0
    pixels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (d,) with an order of pixels, else that of the source, such as (C, H, W)."""
        return tuple(self.source.shape[1:]) if self.pixels is None else (len(self.pixels),)

    def x(self, chosen: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """The inputs of the chosen examples (default: all), [k, *shape] float32, a new array."""
        raw = self.source[self.rows[chosen]]
        if self.pixels is not None:
            raw = raw.reshape(len(raw), int(np.prod(raw.shape[1:])))[:, self.pixels]
        return raw.astype(np.float32) / np.float32(self.scale)

    def part(self, chosen: NDArray[np.int64] | slice) -> Split:
        """Only the chosen examples."""
        return Split(self.source, self.rows[chosen], self.y[chosen], self.scale, self.pixels)


@dataclass(frozen=True, eq=False)
class Task:
    """Task ``index`` of a stream: its examples, and the order in which they come.

    train, test, validation  examples; a part that the protocol lacks is empty
    probe                    ``config.probe`` random training examples
    active                   [k] int64, the outputs that count: the loss and the accuracy look at these only
    num_outputs              outputs that the network has, over the whole stream
    """

    index: int
    seed: int
    stream_id: int
    config: StreamConfig
    train: Split
    test: Split
    validation: Split
    probe: Split
    active: NDArray[np.int64]
    num_outputs: int

    def order(self, epoch: int = 0) -> NDArray[np.int64]:
        """Positions in ``train`` in the order in which this epoch presents them, [n] int64."""
        if self.config.shuffle == "never":
            return np.arange(len(self.train))
        turn = epoch if self.config.shuffle == "epoch" else 0
        return permutation(len(self.train), self.seed, self.stream_id, ORDER, self.index, turn)

    def batches(self, epoch: int = 0) -> list[NDArray[np.int64]]:
        """The steps of an epoch: positions in ``train``, each [batch] int64; the last one may be shorter if it is kept."""
        order, size = self.order(epoch), self.config.batch
        end = len(order) if self.config.keep_last else len(order) - len(order) % size
        return [order[start : start + size] for start in range(0, end, size)]


Config = TypeVar("Config", bound=StreamConfig)


class Stream(ABC, Generic[Config]):
    """A sequence of tasks: ``task(t)`` is a pure function of (seed, t) and of the data.

    A stream of another seed shares the data, so replicas cost no memory. Everything that can be wrong with a configuration
    on these data raises ``ValueError`` here, before anything runs.
    """

    stream_id: ClassVar[int]
    loss: ClassVar[str] = "cross_entropy"  # a kind of ``lop_theory.forward``

    def __init__(self, config: Config, images: Images | None, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed = {seed}; give a whole number that is at least 0")
        self.config, self.images, self.seed = config, images, seed

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Outputs that the network needs."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    def task(self, t: int) -> Task:
        """Task t, 0 ≤ t < tasks."""
        if not 0 <= t < self.config.tasks:
            raise IndexError(
                f"task {t} of a stream of {self.config.tasks}; give a number from 0 to {self.config.tasks - 1}"
            )
        return self._task(t)

    @abstractmethod
    def _task(self, t: int) -> Task: ...

    # -- shared by the streams ---------------------------------------------------------------------------------------------

    def _permutation(self, n: int, purpose: int, t: int = 0) -> NDArray[np.int64]:
        return permutation(n, self.seed, self.stream_id, purpose, t)

    def _words(self, n: int, purpose: int, t: int = 0) -> NDArray[np.uint64]:
        return words(n, self.seed, self.stream_id, purpose, t)

    def _make(
        self,
        t: int,
        train: Split,
        test: Split | None = None,
        validation: Split | None = None,
        active: NDArray[np.int64] | None = None,
    ) -> Task:
        """A task from its parts. Missing parts are empty, all outputs are active, the probe is drawn from ``train``."""
        nothing = train.part(slice(0, 0))
        chosen = self._permutation(len(train), PROBE, t)[: self.config.probe] if self.config.probe else slice(0, 0)
        return Task(
            t,
            self.seed,
            self.stream_id,
            self.config,
            train,
            nothing if test is None else test,
            nothing if validation is None else validation,
            train.part(chosen),
            np.arange(self.num_outputs) if active is None else active,
            self.num_outputs,
        )

    def _check_sizes(self, examples: int) -> None:
        """A task has this many training examples: enough for a step and for the probe."""
        if examples < self.config.batch and not self.config.keep_last:
            raise ValueError(
                f"batch = {self.config.batch}, but a task has {examples} training examples; give a smaller batch"
            )
        if examples < self.config.probe:
            raise ValueError(
                f"probe = {self.config.probe}, but a task has {examples} training examples; give a smaller probe"
            )


def required(images: Images | None, config: StreamConfig) -> Images:
    """The data of a stream of images."""
    if images is None:
        raise ValueError(f"this stream needs images: give the data set {config.data!r}")
    return images


def class_split(
    images: Images, classes: Sequence[int], chosen: slice = slice(None), test: bool = False, first_label: int = 0
) -> Split:
    """Of each class the ``chosen`` of its images, in the order of the files; labels ``first_label``, + 1, … in order of classes."""
    rows = [images.rows(c, test)[chosen] for c in classes]
    y = np.repeat(np.arange(len(rows)) + first_label, [len(part) for part in rows])
    return Split(images.x, np.concatenate(rows), y, images.scale)


def smallest_class(images: Images, test: bool = False) -> int:
    """Images in the smallest class."""
    return min(len(images.rows(c, test)) for c in range(images.num_classes))
