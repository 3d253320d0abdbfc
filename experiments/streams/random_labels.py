"""Random labels: a fixed set of images, and in every task new labels that have nothing to do with them.

The network can only memorise, so the training accuracy at the end of a task measures plasticity and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.datasets import Images
from experiments.streams.base import OWN, SUBSET, Split, Stream, StreamConfig, Task, check_counts, required

LABELS = OWN


@dataclass(frozen=True, kw_only=True)
class RandomLabels(StreamConfig):
    """``examples`` training images, chosen once per seed.

    ``balanced``: every class gets the same number of images (up to one), in random order, so that guessing the most frequent
    label gains nothing; otherwise each label is drawn on its own, as published.
    """

    examples: int = 1200
    balanced: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(examples=self.examples)


PROTOCOLS = {
    "published": RandomLabels(
        data="mnist", tasks=50, epochs=400, batch=16, examples=1200, source="arXiv 2308.11958, Random Label MNIST"
    ),
    "published-cifar": RandomLabels(
        data="cifar10", tasks=50, epochs=400, batch=16, examples=1200, source="arXiv 2308.11958, Random Label CIFAR"
    ),
    "reduced": RandomLabels(data="digits", tasks=30, epochs=40, batch=16, examples=320, balanced=True, probe=320),
}


class RandomLabelsStream(Stream[RandomLabels]):
    """Input [C, H, W]; one output per class of the data.

    >>> from experiments.datasets import digits
    >>> task = RandomLabelsStream(PROTOCOLS["reduced"], digits(), seed=0).task(0)
    >>> np.bincount(task.train.y).tolist()
    [32, 32, 32, 32, 32, 32, 32, 32, 32, 32]
    """

    stream_id = 2

    def __init__(self, config: RandomLabels, images: Images | None, seed: int) -> None:
        super().__init__(config, images, seed)
        self.data = required(images, config)
        pool = self.data.rows()
        if config.examples > len(pool):
            raise ValueError(
                f"examples = {config.examples}, but {self.data.name} has {len(pool)} training images; give at most that many"
            )
        self._check_sizes(config.examples)
        self._rows = pool[self._permutation(len(pool), SUBSET)[: config.examples]]

    @property
    def num_outputs(self) -> int:
        return self.data.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.data.shape

    def _task(self, t: int) -> Task:
        n, classes = len(self._rows), self.num_outputs
        if self.config.balanced:
            y = self._permutation(n, LABELS, t) % classes
        else:  # the bias of the remainder is below classes · 2⁻⁶⁴
            y = (self._words(n, LABELS, t) % np.uint64(classes)).astype(np.int64)
        return self._make(t, Split(self.data.x, self._rows, y, self.data.scale))
