"""Binary class pairs: each task tells two classes apart (Continual ImageNet, Nature 632:768).

The text draws the pairs without replacement. The published code reads a stored order of the 1,000 classes, takes successive
pairs of it, and starts again from the beginning when it is used up: with an order of 1,000 classes the pairs of task t and
of task t + 500 are the same. Both are here: ``pairs="distinct"`` and ``pairs="cyclic"``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.datasets import Images
from experiments.streams.base import (
    OWN,
    Stream,
    StreamConfig,
    Task,
    check_counts,
    class_split,
    required,
    smallest_class,
)

PAIRS, SIDES = OWN, OWN + 1


@dataclass(frozen=True, kw_only=True)
class ClassPairs(StreamConfig):
    """``train_per_class`` and ``test_per_class`` images of each class, the first in the files (None: all)."""

    pairs: str = "distinct"
    train_per_class: int | None = None
    test_per_class: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs not in ("distinct", "cyclic"):
            raise ValueError(f"pairs = {self.pairs!r} is unknown; choose one of distinct, cyclic")
        check_counts(train_per_class=self.train_per_class, test_per_class=self.test_per_class)


PROTOCOLS = {
    "published": ClassPairs(
        data="imagenet32", tasks=2000, epochs=250, batch=100, train_per_class=600, test_per_class=100, probe=1000,
        source="Nature 632:768, Continual ImageNet (text: distinct pairs); head zeroed at each task",
    ),
    "published-code": ClassPairs(
        data="imagenet32", tasks=2000, epochs=250, batch=100, train_per_class=600, test_per_class=100, probe=1000,
        pairs="cyclic", source="Nature 632:768, code of Continual ImageNet (pairs repeat every 500 tasks)",
    ),
    "published-spectral": ClassPairs(
        data="imagenet32", tasks=2000, epochs=20, batch=100, train_per_class=600, test_per_class=100, probe=200,
        pairs="cyclic", source="arXiv 2509.22335, Continual ImageNet; head kept",
    ),
    "reduced-tiny-imagenet": ClassPairs(data="tiny_imagenet_32", tasks=500, epochs=10, batch=20, probe=200),
    "reduced": ClassPairs(data="digits", tasks=45, epochs=5, batch=8, train_per_class=120, probe=200),
}  # fmt: skip


class ClassPairsStream(Stream[ClassPairs]):
    """Input [C, H, W]; two outputs: 0 is the first class of the pair, 1 the second.

    >>> from experiments.datasets import digits
    >>> stream = ClassPairsStream(PROTOCOLS["reduced"], digits(), seed=0)
    >>> len({frozenset(stream.pair(t)) for t in range(45)}), len(stream.task(0).train)
    (45, 240)
    """

    stream_id = 3

    def __init__(self, config: ClassPairs, images: Images | None, seed: int) -> None:
        super().__init__(config, images, seed)
        self.data = required(images, config)
        classes = self.data.num_classes
        if classes < 2:
            raise ValueError(f"{self.data.name} has {classes} classes; a pair needs 2")
        possible = classes * (classes - 1) // 2
        if config.pairs == "distinct" and config.tasks > possible:
            raise ValueError(
                f"tasks = {config.tasks}, but {classes} classes have {possible} distinct pairs; give at most that many tasks, "
                "or pairs='cyclic'"
            )
        for part, wanted, test in (("training", config.train_per_class, False), ("test", config.test_per_class, True)):
            smallest = smallest_class(self.data, test)
            if wanted is not None and wanted > smallest:
                raise ValueError(
                    f"{wanted} {part} images per class are wanted, but the smallest class of {self.data.name} has {smallest}; "
                    "give at most that many"
                )
        self._check_sizes(2 * (config.train_per_class or smallest_class(self.data)))
        if config.pairs == "cyclic":
            self._order = self._permutation(classes, PAIRS)
            self._pairs = self._order[: classes - classes % 2].reshape(-1, 2)
        else:
            chosen = self._permutation(possible, PAIRS)[: config.tasks]
            pairs = np.stack(np.triu_indices(classes, 1), axis=1)[chosen]
            swap = (self._words(config.tasks, SIDES) & np.uint64(1)).astype(
                bool
            )  # which of the two is class 0 is random
            self._pairs = np.where(swap[:, None], pairs[:, ::-1], pairs)

    @property
    def num_outputs(self) -> int:
        return 2

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.data.shape

    def pair(self, t: int) -> tuple[int, int]:
        """The two classes of task t."""
        first, second = self._pairs[t % len(self._pairs)].tolist()
        return first, second

    def _task(self, t: int) -> Task:
        pair = self.pair(t)
        train = class_split(self.data, pair, slice(self.config.train_per_class))
        return self._make(t, train, class_split(self.data, pair, slice(self.config.test_per_class), test=True))
