"""Task streams by name, each with its published protocols and a reduced one that runs in minutes on two cores.

>>> sorted(STREAMS)
['bit-flipping', 'class-groups', 'class-incremental', 'class-pairs', 'permuted-images', 'random-labels']
>>> [stream] = open_streams("permuted-images", seeds=[0])
>>> stream.task(0).train.shape
(64,)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.datasets import Images, load
from experiments.streams import (
    class_groups,
    class_incremental,
    class_pairs,
    permuted_images,
    random_labels,
    regression,
)
from experiments.streams.base import Split, Stream, StreamConfig, Task

__all__ = ["STREAMS", "Kind", "Split", "Stream", "StreamConfig", "Task", "open_streams", "protocol"]


@dataclass(frozen=True)
class Kind:
    """A stream class with the class of its configuration and its named protocols; "reduced" and "published" always exist."""

    config: type[StreamConfig]
    stream: type[Stream[Any]]
    protocols: dict[str, StreamConfig]


STREAMS = {
    "permuted-images": Kind(
        permuted_images.PermutedImages, permuted_images.PermutedImagesStream, dict(permuted_images.PROTOCOLS)
    ),
    "random-labels": Kind(random_labels.RandomLabels, random_labels.RandomLabelsStream, dict(random_labels.PROTOCOLS)),
    "class-pairs": Kind(class_pairs.ClassPairs, class_pairs.ClassPairsStream, dict(class_pairs.PROTOCOLS)),
    "class-incremental": Kind(
        class_incremental.ClassIncremental, class_incremental.ClassIncrementalStream, dict(class_incremental.PROTOCOLS)
    ),
    "class-groups": Kind(class_groups.ClassGroups, class_groups.ClassGroupsStream, dict(class_groups.PROTOCOLS)),
    "bit-flipping": Kind(regression.BitFlipping, regression.BitFlippingStream, dict(regression.PROTOCOLS)),
}


def _kind(name: str) -> Kind:
    if name not in STREAMS:
        raise ValueError(f"stream {name!r} is unknown; choose one of {', '.join(STREAMS)}")
    return STREAMS[name]


def protocol(stream: str, name: str = "reduced") -> StreamConfig:
    """The named protocol of a stream.

    >>> protocol("permuted-images", "published").tasks
    800
    """
    known = _kind(stream).protocols
    if name not in known:
        raise ValueError(f"protocol {name!r} of {stream} is unknown; choose one of {', '.join(known)}")
    return known[name]


def open_streams(
    name: str, config: StreamConfig | None = None, seeds: Iterable[int] = (0,), folder: str | Path | None = None
) -> list[Stream[Any]]:
    """One stream per seed, all on one copy of the data; the default configuration is the reduced protocol.

    Raises ``ValueError`` for a configuration that does not fit the data, and ``DataError`` for missing or corrupt data.
    """
    kind = _kind(name)
    config = protocol(name) if config is None else config
    if type(config) is not kind.config:
        raise TypeError(f"the configuration of {name} is a {kind.config.__name__}, not a {type(config).__name__}")
    images: Images | None = load(config.data, folder) if config.data else None
    return [kind.stream(config, images, seed) for seed in seeds]
