"""The file formats of the image data sets: IDX, the CIFAR binary version, JPEG files (loose, zip or npz), one .npy per class.

Each reader checks what it reads (size, header, range of labels, checksum where one is known) before it returns anything, and
turns every defect into a ``DataError`` of one line: the file, what is wrong, what to do. Nothing here unpickles: a pickle
can run code when it is read. Images are channels first, [N, C, H, W].
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.errors import Failure

IDX_UNSIGNED_BYTE = 0x08
CIFAR_PIXELS = 3 * 32 * 32


class DataError(Failure, ValueError):
    """A data file that cannot be used: one line that names the file, the defect and the fix."""


def read(path: Path, unpack: bool = True) -> bytes:
    """The bytes of a file, unpacked if its name ends in ``.gz`` (and ``unpack`` is true)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return gunzip(data, path) if unpack and path.suffix == ".gz" else data


def gunzip(data: bytes, where: str | Path) -> bytes:
    """Unpack gzip.

    >>> gunzip(gzip.compress(b"abc"), "f")
    b'abc'
    >>> gunzip(b"<html>", "f")
    Traceback (most recent call last):
    experiments.image_files.DataError: f is corrupt or truncated (Not a gzipped file (b'<h')); fetch it again
    """
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{where} is corrupt or truncated ({error}); fetch it again") from error


def check_digest(data: bytes, where: str | Path, expected: str, algorithm: str = "sha256") -> None:
    """Refuse bytes whose checksum is not the known one.

    >>> check_digest(b"abc", "f", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    >>> check_digest(b"abd", "f", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    Traceback (most recent call last):
    experiments.image_files.DataError: f has sha256 a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9,
    expected ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad: another file, or a corrupt one; fetch it again
    """
    _compare(hashlib.new(algorithm, data, usedforsecurity=False).hexdigest(), where, expected, algorithm)


def check_file(path: Path, expected: str, algorithm: str = "sha256", where: str | Path = "") -> None:
    """The same for a file of any size, which may be named otherwise in the message."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    _compare(found, where or path, expected, algorithm)


def _compare(found: str, where: str | Path, expected: str, algorithm: str) -> None:
    if found != expected:
        raise DataError(
            f"{where} has {algorithm} {found}, expected {expected}: another file, or a corrupt one; fetch it again"
        )


def parse_idx(data: bytes, where: str | Path, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, big-endian sizes, then the items.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "labels", 1).tolist()
    [7, 8, 9]
    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7]), "labels", 1)
    Traceback (most recent call last):
    experiments.image_files.DataError: labels holds 1 bytes of items, its header announces 3: truncated or padded; fetch it again
    """
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes([0, 0, IDX_UNSIGNED_BYTE, dimensions]):
        raise DataError(f"{where} is not an IDX file of unsigned bytes with {dimensions} dimensions; fetch it again")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    announced = int(np.prod(shape, dtype=object))
    if len(data) - start != announced:
        raise DataError(
            f"{where} holds {len(data) - start} bytes of items, its header announces {announced}: truncated or padded; "
            "fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def parse_cifar(
    data: bytes, where: str | Path, classes: int, per_class: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 3, 32, 32] and fine labels [N] of the CIFAR binary version, with ``per_class`` images of each class.

    A row is the label (CIFAR-10) or the coarse and the fine label (CIFAR-100), then 1,024 bytes each of red, green and blue.
    The format has no header and no checksum, so the size, the range and the count of every class are checked.
    """
    label_bytes = 2 if classes == 100 else 1
    width = label_bytes + CIFAR_PIXELS
    expected = classes * per_class * width
    if len(data) != expected:
        raise DataError(
            f"{where} has {len(data)} bytes, expected {expected}: truncated or another file; fetch it again"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, width)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    counts = np.bincount(labels, minlength=classes)
    if len(counts) > classes or (counts != per_class).any():
        raise DataError(
            f"{where} does not hold {per_class} images of each of {classes} classes: corrupt; fetch it again"
        )
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), labels


def read_tar(path: Path, names: Sequence[str], md5: str) -> dict[str, bytes]:
    """The files ``names`` of a tar archive by their last path component; nothing is extracted to disk."""
    data = read(path, unpack=False)
    check_digest(data, path, md5, "md5")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        opened = {name: archive.extractfile(members[name]) for name in names}
        return {name: stream.read() for name, stream in opened.items() if stream is not None}


def read_npz(path: Path, sha256: str) -> Mapping[str, NDArray]:
    """The arrays of an npz file with a known checksum."""
    data = read(path)
    check_digest(data, path, sha256)
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


class Zipped:
    """The files of a zip archive with a known checksum, read one at a time; nothing is extracted to disk.

    ``members`` are the paths below ``top``; ``zipped(member)`` gives the bytes of one.
    """

    def __init__(self, path: Path, md5: str, top: str) -> None:
        check_file(path, md5, "md5")
        self.path, self.top = path, top
        self._archive, self._process = zipfile.ZipFile(path), os.getpid()
        self.members = [name.removeprefix(top) for name in self._archive.namelist() if name.startswith(top)]

    def __call__(self, member: str) -> bytes:
        if os.getpid() != self._process:  # a forked process would share the position in the file with its parent
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        try:
            return self._archive.read(self.top + member)
        except (KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path}: {member} cannot be read ({error}); fetch it again") from error


def decode_jpeg(data: bytes, where: str, size: int) -> NDArray[np.uint8]:
    """Decode one complete JPEG file into [3, size, size]; a grey image gets three equal channels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where} is not a complete JPEG ({error}); fetch it again") from error
    if pixels.shape != (size, size, 3):
        raise DataError(f"{where} is {pixels.shape[1]}×{pixels.shape[0]}, expected {size}×{size}; fetch it again")
    return pixels.transpose(2, 0, 1)


def average_2x2(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve height and width of [N, C, H, W]: the mean of each 2 × 2 block, rounded half up.

    >>> average_2x2(np.array([[[[0, 1], [1, 0]]]], np.uint8)).tolist()  # ½ rounds to 1
    [[[[1]]]]
    """
    n, channels, height, width = x.shape
    blocks = x.reshape(n, channels, height // 2, 2, width // 2, 2)
    return ((blocks.sum((3, 5), dtype=np.uint16) + 2) // 4).astype(np.uint8)


class Jpegs:
    """JPEG files that look like one array [N, 3, size, size] uint8; each is decoded when it is first asked for, and kept.

    ``fetch(i)`` gives the bytes of file i, which is ``size`` × ``size``, or 2·size × 2·size to be averaged 2 × 2 if ``halve``.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, fetch: Callable[[int], bytes], count: int, size: int, halve: bool, where: str | Path) -> None:
        self.fetch, self.halve, self.where = fetch, halve, where
        self.shape = (count, 3, size, size)
        self._pixels = np.empty(self.shape, np.uint8)  # memory is used only where something is written
        self._known = np.zeros(count, bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of these row numbers, [len(rows), 3, size, size]."""
        rows = np.asarray(rows)
        size = self.shape[-1] * (2 if self.halve else 1)
        for i in rows[~self._known[rows]].tolist():
            image = decode_jpeg(self.fetch(i), f"{self.where}: image {i}", size)
            self._pixels[i] = average_2x2(image[None])[0] if self.halve else image
            self._known[i] = True
        return self._pixels[rows]


class ClassFiles:
    """Images of many classes, one .npy file per class, that look like one array [classes · per_class, 3, 32, 32].

    Row r is image r mod per_class of file r div per_class. Only the rows that are asked for are read, so a thousand classes
    (2 GB) cost no memory; the operating system caches the files. Files may be channels first or channels last.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        first = self._open(0)
        self.per_class, self.dtype = len(first), first.dtype
        for i, path in enumerate(self.files):
            array = self._open(i)
            if array.shape != first.shape or array.dtype != first.dtype:
                raise DataError(
                    f"{path} has shape {array.shape} and dtype {array.dtype}, {self.files[0].name} has {first.shape} and "
                    f"{first.dtype}; all classes must agree"
                )
        self.shape = (len(self.files) * self.per_class, 3, 32, 32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray:
        """The images of these row numbers, [len(rows), 3, 32, 32]."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = rows // self.per_class
        for i in np.unique(owner):
            chosen = owner == i
            images = self._open(int(i))[rows[chosen] % self.per_class]
            out[chosen] = images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2)
        return out

    def _open(self, i: int) -> NDArray:
        path = self.files[i]
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is corrupt or truncated ({error}); fetch it again") from error
        if array.ndim != 4 or array.shape[1:] not in ((3, 32, 32), (32, 32, 3)):
            raise DataError(
                f"{path} has shape {array.shape}; a class of 32×32 images is [n, 3, 32, 32] or [n, 32, 32, 3]"
            )
        if array.dtype not in (np.uint8, np.float32):
            raise DataError(f"{path} has dtype {array.dtype}; give uint8 (0…255) or float32")
        return array
