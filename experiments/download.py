"""Fetch a data set into the data folder, where there is a network. Nothing unchecked is ever put there.

A file is downloaded (by pooch) into a temporary folder beside its place, its checksum is compared with the known one, and only
then is it moved. A file that is already there is left alone. Nothing is downloaded unless ``lop data fetch`` asks for it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.datasets import MNIST_SHA256, SETS, TAR_MD5, TINY_IMAGENET_MD5
from experiments.image_files import DataError, check_digest, check_file, gunzip

SCRATCH = ".fetching-"  # start of the name of a temporary folder
HOUR = 3600.0  # seconds without a change: the process that made a temporary folder is gone


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
TINY_IMAGENET_URL = "http://cs231n.stanford.edu"
REMOTES: dict[str, tuple[Remote, ...]] = {
    "mnist": tuple(
        Remote(f"{MNIST_URL}/{name}.gz", f"mnist/{name}.gz", digest, unpacked=True)
        for name, digest in MNIST_SHA256.items()
    ),
    "cifar10": (Remote(f"{CIFAR_URL}/cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz", TAR_MD5["cifar10"], "md5"),),
    "cifar100": (
        Remote(f"{CIFAR_URL}/cifar-100-binary.tar.gz", "cifar-100-binary.tar.gz", TAR_MD5["cifar100"], "md5"),
    ),
    "tiny_imagenet": (
        Remote(f"{TINY_IMAGENET_URL}/tiny-imagenet-200.zip", "tiny-imagenet-200.zip", TINY_IMAGENET_MD5, "md5"),
    ),
}


def download(
    name: str,
    folder: Path,
    remotes: Mapping[str, Sequence[Remote]] = REMOTES,
    report: Callable[[str], None] = lambda line: None,
    progress: Any = False,
) -> list[Path]:
    """Put the files of a data set into the data folder; returns those that are new. ``report`` gets a line before each file.

    ``progress`` is what pooch accepts as ``progressbar``. Raises ``DataError`` (one line) if the set cannot be downloaded,
    pooch is not installed, the network fails or a checksum is wrong; what was finished before stays.

    >>> download("imagenet32", Path("data"))
    Traceback (most recent call last):
    experiments.image_files.DataError: imagenet32 cannot be downloaded, only mnist, cifar10, cifar100, tiny_imagenet:
    put one file of 32×32 images per class, imagenet32/0.npy, imagenet32/1.npy, …, each [700, 3, 32, 32], into data
    """
    if name not in remotes:
        raise DataError(f"{name} cannot be downloaded, only {', '.join(remotes)}: {_by_hand(name, folder)}")
    missing = [remote for remote in remotes[name] if not (folder / remote.place).exists()]
    for remote in missing:
        report(f"fetching {remote.url} to {folder / remote.place}")
        _fetch(name, remote, folder, progress)
    return [folder / remote.place for remote in missing]


def _by_hand(name: str, folder: Path) -> str:
    return f"put {SETS[name].wanted} into {folder}"


def _fetch(name: str, remote: Remote, folder: Path, progress: Any) -> None:
    try:
        import pooch
    except ImportError as error:
        raise DataError(
            f"{name} cannot be downloaded without pooch: pip install 'lop-theory[data]', or {_by_hand(name, folder)}"
        ) from error
    pooch.get_logger().setLevel(logging.WARNING)  # it suggests to write the checksum into the code
    # the file as it is: a server must not unpack it on the way
    downloader = pooch.HTTPDownloader(progressbar=progress, chunk_size=2**16, headers={"Accept-Encoding": "identity"})
    place = folder / remote.place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(place.parent)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place.parent) as scratch:
            # the checksum is compared here, because pooch can only compare that of the packed file
            found = Path(pooch.retrieve(remote.url, None, place.name, scratch, downloader=downloader))
            if remote.unpacked:
                check_digest(gunzip(found.read_bytes(), remote.url), remote.url, remote.digest, remote.algorithm)
            else:
                check_file(found, remote.digest, remote.algorithm, remote.url)
            os.replace(found, place)
    except OSError as error:  # of the disk; the errors of requests are OSErrors too
        raise DataError(
            f"{remote.url} cannot be fetched: {_cause(error)}; try again, or {_by_hand(name, folder)}"
        ) from error


def _remove_leftovers(folder: Path) -> None:
    """What a process that was killed has left; a younger folder may belong to another process."""
    for left in folder.glob(f"{SCRATCH}*"):
        newest = max((path.stat().st_mtime for path in (left, *left.glob("*"))), default=0.0)
        if time.time() - newest > HOUR:
            shutil.rmtree(left, ignore_errors=True)


def _cause(error: OSError) -> str:
    """The cause in a few words; the messages of requests hold the state of its connections."""
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, exceptions.RequestException):
        return "no connection"
    return f"{place}: {error.strerror}" if (place := error.filename) and error.strerror else str(error)
