"""Permuted images: the same images and labels in every task, the pixels in a new random order.

All tasks are equally hard, and nothing of one helps with the next; only what learning does to the network changes. The
permutation of task t is drawn afresh. The published codes permute the images of the task before once more; the composition
of independent uniform permutations is again uniform and independent of the earlier ones, so both have the same law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.datasets import Images
from experiments.streams.base import OWN, SUBSET, Split, Stream, StreamConfig, Task, check_counts, required

PIXELS = OWN


@dataclass(frozen=True, kw_only=True)
class PermutedImages(StreamConfig):
    """``examples`` of the training images (None: all), chosen once per seed; ``part`` "all" trains on the test images too."""

    shuffle: str = "task"
    examples: int | None = None
    part: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part not in ("train", "all"):
            raise ValueError(f"part = {self.part!r} is unknown; choose one of train, all")
        check_counts(examples=self.examples)


PROTOCOLS = {
    "published": PermutedImages(
        data="mnist",
        tasks=800,
        batch=1,
        probe=2000,
        source="Nature 632:768, Online Permuted MNIST: 48 million examples",
    ),
    "published-spectral": PermutedImages(
        data="mnist",
        tasks=800,
        batch=1,
        probe=2000,
        source="arXiv 2509.22335, Permuted MNIST (its code trains 58,000 images)",
    ),
    "published-l2-init": PermutedImages(
        data="mnist", tasks=500, batch=16, examples=10_000, source="arXiv 2308.11958, Permuted MNIST"
    ),
    "reduced-mnist": PermutedImages(data="mnist", tasks=100, batch=16, examples=10_000, probe=2000),
    "reduced": PermutedImages(data="digits", tasks=200, batch=8, part="all", probe=500),
}


class PermutedImagesStream(Stream[PermutedImages]):
    """Input [d] with d = C·H·W; ten or so outputs, one per class.

    >>> from experiments.datasets import digits
    >>> stream = PermutedImagesStream(PROTOCOLS["reduced"], digits(), seed=0)
    >>> task = stream.task(3)
    >>> task.train.x(task.batches()[0]).shape, len(task.batches())
    ((8, 64), 224)
    """

    stream_id = 1

    def __init__(self, config: PermutedImages, images: Images | None, seed: int) -> None:
        super().__init__(config, images, seed)
        self.data = required(images, config)
        pool = self.data.rows() if config.part == "train" else np.arange(len(self.data.y))
        if config.examples is not None:
            if config.examples > len(pool):
                raise ValueError(
                    f"examples = {config.examples}, but {self.data.name} has {len(pool)} images; give at most that many"
                )
            pool = pool[self._permutation(len(pool), SUBSET)[: config.examples]]
        self._check_sizes(len(pool))
        self._train = pool
        self._test = self.data.rows(test=True) if config.part == "train" else pool[:0]

    @property
    def num_outputs(self) -> int:
        return self.data.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (int(np.prod(self.data.shape)),)

    def _task(self, t: int) -> Task:
        pixels = self._permutation(self.input_shape[0], PIXELS, t)
        train, test = (
            Split(self.data.x, rows, self.data.y[rows], self.data.scale, pixels) for rows in (self._train, self._test)
        )
        return self._make(t, train, test)
