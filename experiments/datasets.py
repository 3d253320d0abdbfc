"""Image data sets: the digits that come with scikit-learn, or files in a data folder, never anything unchecked.

The default, ``digits``, needs no network and no file. Every other set is read from a data folder (``--data FOLDER``, else
the environment variable ``LOP_DATA``), in a sub-folder of its own:

==========================  ==============================================================================  ================
name                        files in the data folder                                                        checked by
==========================  ==============================================================================  ================
``digits``                  none: 1,797 images 8 × 8, comes with scikit-learn
``mnist``                   ``mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte``, raw or ``.gz``          sha256 (raw)
``cifar10``, ``cifar100``   the *binary* version: ``cifar-10-batches-bin/*.bin``, ``cifar-100-binary/*.bin``
                            or their archives ``cifar-{10,100}-binary.tar.gz``                              counts, md5
``cifar10_subset``          ``cifar10_subset/cifar10_subset.npz``: 200 + 50 images per class                sha256
``tiny_imagenet``           ``tiny-imagenet-200/`` as distributed: 500 + 50 images per class, 64 × 64      number of files
``tiny_imagenet_subset``    ``tiny_imagenet_subset/tiny_imagenet_subset.npz``: 100 + 25 per class, 64 × 64  sha256
``tiny_imagenet_32``        the same, averaged 2 × 2 to 32 × 32                                             sha256
``imagenet32``              ``imagenet32/0.npy`` … ``999.npy``, [700, 3, 32, 32] per class                  header and size
==========================  ==============================================================================  ================

Data sets are never part of this package; some may not be redistributed (Tiny ImageNet: research use only).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.image_files import (
    ClassFiles,
    DataError,
    Jpegs,
    check_digest,
    parse_cifar,
    parse_idx,
    read,
    read_npz,
    read_tar,
)

VARIABLE = "LOP_DATA"

MNIST_SHA256 = {  # of the unpacked files: the same bytes may be compressed in many ways
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
NPZ_SHA256 = {
    "cifar10_subset": "f1b505bcb85b8e29e7c678877018596bed72597a7ccb3426342cea2749bbb227",
    "tiny_imagenet_subset": "94a86c64dc3c4467aa50f2e44f103ed547a81de3ae384c1ca72647a7d2e02671",
}
TAR_MD5 = {  # as published on the CIFAR page
    "cifar10": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar100": "03b5dce01913d631647c71ecec9e9cb8",
}
CIFAR_TRAIN, CIFAR_TEST = 50_000, 10_000
TINY_IMAGENET = (200, 100_000, 10_000)  # classes, training images, validation images
IMAGENET_TRAIN = 600  # of the 700 images of a class; the other 100 are for testing (Nature 632:768)


class MissingData(DataError):
    """The data are not there; the line says what to put where. A figure that needs them is *not run*."""


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set of images.

    x            [N, C, H, W] uint8 or float32; an array, or ``ClassFiles``/``Jpegs``, which read rows on demand
    y            [N] int64, classes 0 … num_classes − 1
    test         [N] bool, true for the images that are for testing only
    scale        the number that a raw value is divided by (16 for the digits, 255 for other uint8 images, 1 for float32)
    names        one per class
    fingerprint  sha256 of the bytes that were read, to be kept beside results; "unchecked" where the files have none
    """

    name: str
    x: Any = field(repr=False)
    y: NDArray[np.int64] = field(repr=False)
    test: NDArray[np.bool_] = field(repr=False)
    scale: float
    names: tuple[str, ...] = field(repr=False)
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.x.shape
        return channels, height, width

    @cached_property
    def _of_class(self) -> dict[bool, list[NDArray[np.int64]]]:
        """Row numbers by part and class, in the order of the files: a stable sort by class keeps that order."""
        parts = {part: np.flatnonzero(self.test == part) for part in (False, True)}
        ends = {part: np.cumsum(np.bincount(self.y[rows], minlength=self.num_classes)) for part, rows in parts.items()}
        return {
            part: np.split(rows[np.argsort(self.y[rows], kind="stable")], ends[part][:-1])
            for part, rows in parts.items()
        }

    def rows(self, class_id: int | None = None, test: bool = False) -> NDArray[np.int64]:
        """Row numbers of the training (or test) images, of one class or of all, in the order of the files."""
        return np.flatnonzero(self.test == test) if class_id is None else self._of_class[test][class_id]


def digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, [1797, 1, 8, 8], values 0 … 16; every sixth of a class is for testing.

    >>> images = digits()
    >>> images.x.shape, images.x.max().item(), images.rows().size, images.rows(test=True).size
    ((1797, 1, 8, 8), 16, 1501, 296)
    """
    from sklearn.datasets import load_digits  # takes a second to import: only where it is needed

    bunch = load_digits()
    x, y = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
    test = np.zeros(len(y), bool)
    for c in range(10):
        test[np.flatnonzero(y == c)[5::6]] = True
    print_ = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    return Images("digits", x, y, test, 16.0, tuple("0123456789"), print_)


def data_folder(option: str | Path | None = None) -> Path | None:
    """The data folder: the option if given, else ``LOP_DATA``, else none. A folder that does not exist is an error."""
    chosen = option or os.environ.get(VARIABLE)
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise DataError(f"data folder {folder} is not a folder; correct {'--data' if option else VARIABLE}")
    return folder


def load(name: str = "digits", folder: str | Path | None = None) -> Images:
    """The data set of this name. Raises ``DataError`` (``MissingData`` if it is just not there) with one line.

    >>> load("digits").num_classes
    10
    >>> load("minst")
    Traceback (most recent call last):
    ValueError: data set 'minst' is unknown; choose one of digits, mnist, cifar10, cifar100, cifar10_subset, tiny_imagenet,
    tiny_imagenet_subset, tiny_imagenet_32, imagenet32
    """
    if name == "digits":
        return digits()
    if name not in READERS:
        raise ValueError(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    root = data_folder(folder)
    if root is None:
        raise MissingData(
            f"{name} needs a data folder: put {WANTED[name]} into it and give --data FOLDER or set {VARIABLE}=FOLDER"
        )
    return READERS[name](root)


def _missing(name: str, root: Path, found: str = "") -> MissingData:
    return MissingData(f"{name} is not in the data folder {root}{found}: put {WANTED[name]} there")


# -- readers ------------------------------------------------------------------------------------------------------------


def _mnist(root: Path) -> Images:
    arrays, summary = [], hashlib.sha256()
    for name, digest in MNIST_SHA256.items():
        candidates = [root / "mnist" / name, root / "mnist" / f"{name}.gz"]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise _missing("mnist", root)
        data = read(path)
        array = parse_idx(data, path, 3 if "images" in name else 1)  # before the checksum: it says what is wrong
        check_digest(data, path, digest)
        arrays.append(array)
        summary.update(data)
    x, y = np.concatenate(arrays[0::2])[:, None], np.concatenate(arrays[1::2]).astype(np.int64)
    return Images("mnist", x, y, np.arange(len(y)) >= len(arrays[1]), 255.0, tuple("0123456789"), summary.hexdigest())


def _cifar(root: Path, classes: int) -> Images:
    name, stem = f"cifar{classes}", f"cifar-{classes}"
    parts = (
        ["train.bin", "test.bin"]
        if classes == 100
        else [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    )
    label_file = "fine_label_names.txt" if classes == 100 else "batches.meta.txt"
    folder = root / ("cifar-100-binary" if classes == 100 else "cifar-10-batches-bin")
    archive = root / f"{stem}-binary.tar.gz"
    if all((folder / part).is_file() for part in parts):
        files = {part: read(folder / part) for part in parts}
        words = read(folder / label_file) if (folder / label_file).is_file() else b""
    elif archive.is_file():
        files = read_tar(archive, [*parts, label_file], TAR_MD5[name])
        words = files.pop(label_file)
    else:
        python = [path for path in (root / f"{stem}-python", root / f"{stem}-python.tar.gz") if path.exists()]
        found = (
            f" ({python[0].name} is the Python version: pickles, which can run code, are not read)" if python else ""
        )
        raise _missing(name, root, found)
    train, test = b"".join(files[part] for part in parts[:-1]), files[parts[-1]]
    x, y = parse_cifar(train, folder, classes, CIFAR_TRAIN // classes)
    x_test, y_test = parse_cifar(test, folder / parts[-1], classes, CIFAR_TEST // classes)
    names = tuple(words.decode(errors="replace").split())
    names = names if len(names) == classes else tuple(f"class {c}" for c in range(classes))
    is_test = np.arange(CIFAR_TRAIN + CIFAR_TEST) >= CIFAR_TRAIN
    digest = hashlib.sha256(train + test).hexdigest()
    return Images(name, np.concatenate([x, x_test]), np.concatenate([y, y_test]), is_test, 255.0, names, digest)


def _cifar10_subset(root: Path) -> Images:
    arrays = _npz("cifar10_subset", "cifar10_subset", root)
    x = np.ascontiguousarray(arrays["x"].transpose(0, 3, 1, 2))
    return _of_npz("cifar10_subset", "cifar10_subset", x, arrays)


def _tiny_imagenet_subset(root: Path, halve: bool) -> Images:
    """The npz keeps the original JPEG files: image i is header[header_id[i]] + payload[offsets[i] : offsets[i+1]]."""
    name = "tiny_imagenet_32" if halve else "tiny_imagenet_subset"
    arrays = _npz(name, "tiny_imagenet_subset", root)
    headers = [arrays[f"header{i}"].tobytes() for i in range(int(arrays["header_id"].max()) + 1)]
    payload, offsets, header_id = arrays["payload"].tobytes(), arrays["offsets"].tolist(), arrays["header_id"].tolist()
    x = Jpegs(
        lambda i: headers[header_id[i]] + payload[offsets[i] : offsets[i + 1]],
        count=len(header_id),
        size=32 if halve else 64,
        halve=halve,
        where=root / "tiny_imagenet_subset" / "tiny_imagenet_subset.npz",
    )
    return _of_npz(name, "tiny_imagenet_subset", x, arrays)


def _tiny_imagenet(root: Path) -> Images:
    """The folder as it is distributed: 500 training images per class; the 50 validation images per class are for testing."""
    folder = root / "tiny-imagenet-200"
    if not (folder / "wnids.txt").is_file():
        raise _missing("tiny_imagenet", root)
    wnids = sorted(read(folder / "wnids.txt").decode().split())
    paths: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        found = sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        paths, labels = paths + found, labels + [label] * len(found)
    train = len(paths)
    for line in read(folder / "val" / "val_annotations.txt").decode().splitlines():
        file, wnid = line.split("\t")[:2]
        paths.append(folder / "val" / "images" / file)
        labels.append(wnids.index(wnid))
    if (found_sizes := (len(wnids), train, len(paths) - train)) != TINY_IMAGENET:
        raise DataError(
            f"{folder} has (classes, training, validation images) = {found_sizes}, expected {TINY_IMAGENET}: incomplete; unpack "
            "it again"
        )
    x = Jpegs(lambda i: read(paths[i]), len(paths), 64, halve=False, where=folder)
    y, test = np.array(labels, np.int64), np.arange(len(paths)) >= train
    return Images("tiny_imagenet", x, y, test, 255.0, tuple(wnids), "unchecked")


def _npz(name: str, stem: str, root: Path) -> Any:
    path = root / stem / f"{stem}.npz"
    if not path.is_file():
        raise _missing(name, root)
    return read_npz(path, NPZ_SHA256[stem])


def _of_npz(name: str, stem: str, x: Any, arrays: Any) -> Images:
    names = tuple(str(word) for word in arrays["names"])
    return Images(name, x, arrays["y"].astype(np.int64), arrays["split"] == 1, 255.0, names, NPZ_SHA256[stem])


def _imagenet32(root: Path) -> Images:
    folder = root / "imagenet32"
    files: list[Path] = []
    while (path := folder / f"{len(files)}.npy").is_file():
        files.append(path)
    if len(files) < 2:
        raise _missing("imagenet32", root)
    x = ClassFiles(files)
    if x.per_class <= IMAGENET_TRAIN:
        raise DataError(
            f"{folder}/0.npy has {x.per_class} images; {IMAGENET_TRAIN} to train and some to test are needed"
        )
    y = np.repeat(np.arange(len(files)), x.per_class)
    test = np.tile(np.arange(x.per_class) >= IMAGENET_TRAIN, len(files))
    names = tuple(f"class {c}" for c in range(len(files)))
    return Images("imagenet32", x, y, test, 255.0 if x.dtype == np.uint8 else 1.0, names, "unchecked")


READERS: dict[str, Callable[[Path], Images]] = {
    "mnist": _mnist,
    "cifar10": lambda root: _cifar(root, 10),
    "cifar100": lambda root: _cifar(root, 100),
    "cifar10_subset": _cifar10_subset,
    "tiny_imagenet": _tiny_imagenet,
    "tiny_imagenet_subset": lambda root: _tiny_imagenet_subset(root, halve=False),
    "tiny_imagenet_32": lambda root: _tiny_imagenet_subset(root, halve=True),
    "imagenet32": _imagenet32,
}
DATASETS = ("digits", *READERS)
WANTED = {  # what to put into the data folder
    "mnist": "the four files mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
    "cifar10": "the binary version, cifar-10-binary.tar.gz or its folder cifar-10-batches-bin/,",
    "cifar100": "the binary version, cifar-100-binary.tar.gz or its folder cifar-100-binary/,",
    "cifar10_subset": "cifar10_subset/cifar10_subset.npz",
    "tiny_imagenet": "Tiny ImageNet as it is distributed, unpacked as tiny-imagenet-200/,",
    "tiny_imagenet_subset": "tiny_imagenet_subset/tiny_imagenet_subset.npz",
    "tiny_imagenet_32": "tiny_imagenet_subset/tiny_imagenet_subset.npz",
    "imagenet32": "one file of 32×32 images per class, imagenet32/0.npy, imagenet32/1.npy, …, each [700, 3, 32, 32],",
}
