"""Disjoint class groups: the classes are dealt out in groups, each task learns one (Continual Tiny ImageNet, arXiv 2510.00304).

Labels are positions in the random order of the classes, so task t uses the outputs t·k … t·k + k − 1 of one large head, and the
cross-entropy looks at those only. (The published code labels by class number and masks the logits: the same up to a
renaming of outputs.) The authors set the head to zero at the start of every task.
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
class ClassGroups(StreamConfig):
    """``group`` classes per task, no class twice.

    Of each class as many images are for training as the smallest class has: tasks of all seeds are of one size.
    """

    keep_last: bool = True
    group: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(group=self.group)


PROTOCOLS = {
    "published": ClassGroups(
        data="tiny_imagenet", tasks=40, epochs=500, batch=128, group=5, probe=128,
        source="arXiv 2510.00304, continual Tiny ImageNet, as run: 500 epochs (the paper prints 500 steps) of 20 steps",
    ),
    "reduced-tiny-imagenet": ClassGroups(
        data="tiny_imagenet_32", tasks=40, epochs=20, batch=32, group=5, probe=128,
    ),
    "reduced": ClassGroups(data="digits", tasks=5, epochs=10, batch=8, group=2, probe=128),
}  # fmt: skip


class ClassGroupsStream(Stream[ClassGroups]):
    """Input [C, H, W]; tasks · group outputs, those of the group active.

    >>> from experiments.datasets import digits
    >>> stream = ClassGroupsStream(PROTOCOLS["reduced"], digits(), seed=0)
    >>> stream.task(1).active.tolist(), sorted(c for t in range(5) for c in stream.classes(t))
    ([2, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    stream_id = 5

    def __init__(self, config: ClassGroups, images: Images | None, seed: int) -> None:
        super().__init__(config, images, seed)
        self.data = required(images, config)
        if self.num_outputs > self.data.num_classes:
            raise ValueError(
                f"{config.tasks} tasks of {config.group} classes need {self.num_outputs} classes, but {self.data.name} has "
                f"{self.data.num_classes}; give fewer tasks or smaller groups"
            )
        self.per_class = smallest_class(self.data)
        self._check_sizes(config.group * self.per_class)
        self.order = self._permutation(self.data.num_classes, CLASSES)

    @property
    def num_outputs(self) -> int:
        return self.config.tasks * self.config.group

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.data.shape

    def classes(self, t: int) -> list[int]:
        """The classes of task t."""
        return self.order[t * self.config.group : (t + 1) * self.config.group].tolist()

    def _task(self, t: int) -> Task:
        first = t * self.config.group
        train = class_split(self.data, self.classes(t), slice(0, self.per_class), first_label=first)
        test = class_split(self.data, self.classes(t), test=True, first_label=first)
        return self._make(t, train, test, active=np.arange(first, first + self.config.group))
