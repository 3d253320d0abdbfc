"""Fetch a data set into the data folder, where there is a network. Nothing unchecked is ever put there.

A file is downloaded (by pooch) into a temporary folder beside its place, its checksum is compared with the known one, and only
then is it moved. A file that is already there is left alone. Sets with other terms of use (ImageNet) are not downloaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets import MNIST_SHA256, TAR_MD5
from experiments.image_files import DataError, check_digest, read


@dataclass(frozen=True)
class Remote:
    """A file: where it is, where it goes in the data folder, its checksum (of the unpacked bytes if ``unpacked``)."""

    url: str
    place: str
    digest: str
    algorithm: str = "sha256"
    unpacked: bool = False


MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz"
REMOTES: dict[str, tuple[Remote, ...]] = {
    "mnist": tuple(
        Remote(f"{MNIST_URL}/{name}.gz", f"mnist/{name}.gz", digest, unpacked=True)
        for name, digest in MNIST_SHA256.items()
    ),
    "cifar10": (Remote(f"{CIFAR_URL}/cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz", TAR_MD5["cifar10"], "md5"),),
    "cifar100": (
        Remote(f"{CIFAR_URL}/cifar-100-binary.tar.gz", "cifar-100-binary.tar.gz", TAR_MD5["cifar100"], "md5"),
    ),
}


def download(name: str, folder: Path, remotes: Mapping[str, Sequence[Remote]] = REMOTES) -> list[Path]:
    """Put the files of a data set into the data folder; returns those that are new.

    Raises ``DataError`` (one line) if the set cannot be downloaded, the network fails or a checksum is wrong.

    >>> download("imagenet32", Path("data"))
    Traceback (most recent call last):
    experiments.image_files.DataError: imagenet32 cannot be downloaded, only mnist, cifar10, cifar100; see `experiments.datasets`
    for the files to put into the data folder
    """
    if name not in remotes:
        raise DataError(
            f"{name} cannot be downloaded, only {', '.join(remotes)}; see `experiments.datasets` for the files to put into the "
            "data folder"
        )
    missing = [remote for remote in remotes[name] if not (folder / remote.place).exists()]
    for remote in missing:
        _fetch(remote, folder / remote.place)
    return [folder / remote.place for remote in missing]


def _fetch(remote: Remote, place: Path) -> None:
    import pooch

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            # the checksum is compared here, because pooch can only compare that of the packed file
            found = Path(pooch.retrieve(remote.url, known_hash=None, fname=place.name, path=scratch))
            data = read(found) if remote.unpacked else found.read_bytes()
            check_digest(data, remote.url, remote.digest, remote.algorithm)
            os.replace(found, place)
    except OSError as error:  # of the disk; the errors of requests are OSErrors too
        raise DataError(f"{remote.url} cannot be downloaded to {place}: {error}") from error
