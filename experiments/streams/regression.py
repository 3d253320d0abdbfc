"""Slowly-changing regression, also called bit flipping: a fixed target network, inputs that change one bit at a time.

An input has m bits. The first f are slow: they stay as they are for T examples (a task), then one of them, drawn at random,
flips. The other m − f are drawn anew for every example. The target is a fixed random network of n threshold units,

    y = c + Σ_i v_i · [w_i·x + b_i > β(m + 1) − S_i],        w_ij, b_i, v_i, c = ±1 with equal probability,

where S_i is meant to be the number of negative weights of unit i. With N_i of the m weights negative, w_i·x + N_i is the number of
bits that *match* the weights (1 where w_ij = 1, 0 where w_ij = −1), so with S_i = N_i + o + s·b_i

    unit i fires  ⇔  matches_i(x) > β(m + 1) − o − (1 + s) b_i.

The sources differ in how they count the bias, and that decides how hard the problem is (m = 20, β = .7):

===========  ==========================  =====  =====  ====================  =========================================
``count``    source                      o      s      fires from … matches  S_i
===========  ==========================  =====  =====  ====================  =========================================
"nature"     Nature 632:768, code        0      ½      14 (b=1), 17 (b=−1)   (m − Σ_j w_ij + b_i)/2
"barriers"   arXiv 2510.00304, code      0      −½     15, 16                (m − Σ_j w_ij − b_i)/2
"text"       both papers, text           ½      −½     14, 15                negative weights, the bias among them
===========  ==========================  =====  =====  ====================  =========================================

The published curves come from the codes: an online linear learner with step size .01 has error .89 under "nature", as
published (.88 to .92), but .52 under "barriers" and 1.2 under "text". β(m + 1) = 14.7 is far from every half-integer, so the
comparison is not touched by rounding.

Only 2^(m−f) = 32 different inputs occur within a task: a task is a table of 32 inputs and targets, and the numbers of the
rows that come, one after the other. A compiled learner needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.datasets import Images
from experiments.streams.base import OWN, Split, Stream, StreamConfig, Task, check_counts

TARGET, START, FLIPS, CODES = OWN, OWN + 1, OWN + 2, OWN + 3

COUNTS = {"nature": (0.0, 0.5), "barriers": (0.0, -0.5), "text": (0.5, -0.5)}  # o, s
MAX_FAST = 16  # the table of a task has 2^fast rows


@dataclass(frozen=True, kw_only=True)
class BitFlipping(StreamConfig):
    """m = ``inputs``, f = ``slow``, T = ``period``, n = ``units``; ``flip`` "one" slow bit, or redraw "all" of them.

    ``constant`` appends an input that is always 1, as the learner of arXiv 2510.00304 has it beside its own bias.
    """

    data: str = ""
    shuffle: str = "never"
    inputs: int = 20
    slow: int = 15
    period: int = 10_000
    units: int = 100
    beta: float = 0.7
    flip: str = "one"
    count: str = "nature"
    constant: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(inputs=self.inputs, period=self.period, units=self.units)
        if not 0 <= self.slow <= self.inputs or self.inputs - self.slow > MAX_FAST:
            raise ValueError(
                f"slow = {self.slow} of {self.inputs} input bits; give a number from {max(0, self.inputs - MAX_FAST)} to "
                f"{self.inputs} (at most {MAX_FAST} fast bits: their 2^{MAX_FAST} patterns are tabulated)"
            )
        if not 0 < self.beta < 1:
            raise ValueError(f"beta = {self.beta}; give a fraction between 0 and 1")
        if self.flip not in ("one", "all"):
            raise ValueError(f"flip = {self.flip!r} is unknown; choose one of one, all")
        if self.count not in COUNTS:
            raise ValueError(f"count = {self.count!r} is unknown; choose one of {', '.join(COUNTS)}")
        if self.shuffle != "never":
            raise ValueError(f"shuffle = {self.shuffle!r}; the examples of this stream come in time order: use 'never'")


PROTOCOLS = {
    "published": BitFlipping(
        tasks=300, source="Nature 632:768, Extended Data Fig. 2b: 3 million examples, one bit flips"
    ),
    "published-readme": BitFlipping(
        tasks=100, flip="all", source="Nature 632:768, figure of the code: 1 million examples, all slow bits redrawn"
    ),
    "published-5m": BitFlipping(tasks=500, flip="all", source="Nature 632:768, code: 5 million examples, all redrawn"),
    "published-barriers": BitFlipping(
        tasks=500,
        count="barriers",
        constant=True,
        probe=128,
        source="arXiv 2510.00304, Figs. B.1 and B.2: 5 million examples, one bit flips",
    ),
    "reduced": BitFlipping(tasks=40, probe=128),
}


class BitFlippingStream(Stream[BitFlipping]):
    """Input [m] of zeros and ones; one output; y [T, 1] float32, a whole number.

    >>> stream = BitFlippingStream(PROTOCOLS["published"], None, seed=0)
    >>> task = stream.task(7)
    >>> task.train.x().shape, task.train.y.shape, stream.inputs(7).shape, stream.targets(7).shape
    ((10000, 20), (10000, 1), (32, 20), (32,))
    >>> [int((stream.slow_bits(t) != stream.slow_bits(t + 1)).sum()) for t in range(3)]
    [1, 1, 1]
    """

    stream_id = 6
    loss = "mse"

    def __init__(self, config: BitFlipping, images: Images | None = None, seed: int = 0) -> None:
        super().__init__(config, images, seed)
        self._check_sizes(config.period)
        m, n = config.inputs, config.units
        signs = 2.0 * (self._words(n * (m + 2) + 1, TARGET) >> np.uint64(63)).astype(np.float64) - 1
        self.w, self.b, self.v, self.c = (
            signs[: n * m].reshape(n, m),
            signs[n * m : -n - 1],
            signs[-n - 1 : -1],
            signs[-1],
        )
        offset, share = COUNTS[config.count]
        self.threshold = config.beta * (m + 1) - offset - (1 + share) * self.b
        """[n]: unit i fires when more bits than this match its weights."""
        fast = m - config.slow
        patterns = np.arange(2**fast)[:, None] >> np.arange(fast) & 1
        self.patterns = patterns.astype(np.float32)
        """[2^(m−f), m − f]: the values of the fast bits; bit j of the row number is fast bit j."""
        # matches = w·x + N, split into the part of the fast bits, the same in all tasks, and that of the slow ones
        self._fast = self.patterns @ self.w[:, config.slow :].T + (self.w < 0).sum(1)

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.config.inputs + self.config.constant,)

    def slow_bits(self, t: int) -> NDArray[np.float32]:
        """The slow bits in task t, [f]: those of task 0, each flipped as often as it was drawn in tasks 1 … t."""
        f = self.config.slow
        start = (self._words(f, START, t if self.config.flip == "all" else 0) >> np.uint64(63)).astype(np.int64)
        if self.config.flip == "all" or f == 0:
            return start.astype(np.float32)
        drawn = (self._words(t, FLIPS) % np.uint64(f)).astype(np.int64)
        return ((start + np.bincount(drawn, minlength=f)) % 2).astype(np.float32)

    def inputs(self, t: int) -> NDArray[np.float32]:
        """The inputs that occur in task t, [2^(m−f), m], or one column more with a constant."""
        rows = len(self.patterns)
        slow = np.broadcast_to(self.slow_bits(t), (rows, self.config.slow))
        return np.concatenate([slow, self.patterns, np.ones((rows, int(self.config.constant)), np.float32)], axis=1)

    def targets(self, t: int) -> NDArray[np.float32]:
        """Their targets, [2^(m−f)]."""
        matches = self._fast + self.w[:, : self.config.slow] @ self.slow_bits(t)
        return ((matches > self.threshold) @ self.v + self.c).astype(np.float32)

    def codes(self, t: int) -> NDArray[np.int64]:
        """Row numbers of the examples of task t in time order, [T]; uniform and independent."""
        count = self.config.period
        sixteen_bits = self._words(-(-count // 4), CODES, t).astype("<u8").view("<u2")[:count]
        return (sixteen_bits & (len(self.patterns) - 1)).astype(np.int64)

    def _task(self, t: int) -> Task:
        codes = self.codes(t)
        return self._make(t, Split(self.inputs(t), codes, self.targets(t)[codes][:, None]))
