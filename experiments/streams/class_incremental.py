"""Class-incremental: every task adds new classes, all classes seen so far stay (CIFAR-100 in steps of 5).

Labels are positions in a random order of the classes, so the seen classes are the first outputs and the logits of the others
are cut off. Unlike in the other streams a later task is larger and harder; the reference is a network that is trained on the
same task from new initial weights.
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

CLASSES = OWN


@dataclass(frozen=True, kw_only=True)
class ClassIncremental(StreamConfig):
    """``new_classes`` more in each task; the first ``validation_per_class`` training images of a class are held out.

    Of each class as many images are for training as the smallest class has: tasks of all seeds are of one size.
    """

    new_classes: int = 5
    validation_per_class: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(new_classes=self.new_classes)
        if self.validation_per_class < 0:
            raise ValueError(f"validation_per_class = {self.validation_per_class}; give a number of images, 0 for none")


PROTOCOLS = {
    "published": ClassIncremental(
        data="cifar100", tasks=20, epochs=200, batch=90, new_classes=5, validation_per_class=50, probe=1000,
        source="Nature 632:768, class-incremental CIFAR-100: 450 / 50 / 100 images per class",
    ),
    "published-spectral": ClassIncremental(
        data="cifar100", tasks=20, epochs=200, batch=100, new_classes=5, probe=500, shuffle="task",
        source="arXiv 2509.22335, Incremental CIFAR-100: one order of the examples per task",
    ),
    "reduced-cifar10": ClassIncremental(
        data="cifar10_subset", tasks=5, epochs=20, batch=20, new_classes=2, validation_per_class=20, probe=200
    ),
    "reduced": ClassIncremental(
        data="digits", tasks=5, epochs=10, batch=8, new_classes=2, validation_per_class=20, probe=200
    ),
}  # fmt: skip


class ClassIncrementalStream(Stream[ClassIncremental]):
    """Input [C, H, W]; outputs for all classes that ever come, the first (t + 1) · new_classes active in task t.

    >>> from experiments.datasets import digits
    >>> stream = ClassIncrementalStream(PROTOCOLS["reduced"], digits(), seed=0)
    >>> [stream.task(t).active.tolist() for t in (0, 1)], stream.num_outputs
    ([[0, 1], [0, 1, 2, 3]], 10)
    """

    stream_id = 4

    def __init__(self, config: ClassIncremental, images: Images | None, seed: int) -> None:
        super().__init__(config, images, seed)
        self.data = required(images, config)
        if self.num_outputs > self.data.num_classes:
            raise ValueError(
                f"{config.tasks} tasks of {config.new_classes} new classes need {self.num_outputs} classes, but "
                f"{self.data.name} has {self.data.num_classes}; give fewer tasks or fewer new classes"
            )
        held_out = config.validation_per_class
        smallest = smallest_class(self.data)
        if held_out >= smallest:
            raise ValueError(
                f"validation_per_class = {held_out}, but the smallest class of {self.data.name} has {smallest} training "
                "images; give a smaller number"
            )
        self._check_sizes((smallest - held_out) * config.new_classes)
        self.per_class = smallest
        self.order = self._permutation(self.data.num_classes, CLASSES)

    @property
    def num_outputs(self) -> int:
        return self.config.tasks * self.config.new_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.data.shape

    def _task(self, t: int) -> Task:
        seen = (t + 1) * self.config.new_classes
        held_out = self.config.validation_per_class
        classes = self.order[:seen].tolist()
        train = class_split(self.data, classes, slice(held_out, self.per_class))
        validation = class_split(self.data, classes, slice(0, held_out))
        return self._make(t, train, class_split(self.data, classes, test=True), validation, np.arange(seen))
