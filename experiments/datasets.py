"""Image data sets: the digits that come with scikit-learn, or files in a data folder, never anything unchecked.

The default, ``digits``, needs no network and no file. Every other set is read from a data folder (``--data FOLDER``, else
the environment variable ``LOP_DATA``), in a sub-folder of its own; ``lop data`` says what is there, ``lop data fetch`` downloads:

==========================  ==============================================================================  ================
name                        files in the data folder                                                        checked by
==========================  ==============================================================================  ================
``digits``                  none: 1,797 images 8 × 8, comes with scikit-learn
``mnist``                   ``mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte``, raw or ``.gz``          sha256 (raw)
``cifar10``, ``cifar100``   the *binary* version: ``cifar-10-batches-bin/*.bin``, ``cifar-100-binary/*.bin``
                            or their archives ``cifar-{10,100}-binary.tar.gz``                              counts, md5
``cifar10_subset``          ``cifar10_subset/cifar10_subset.npz``: 200 + 50 images per class                sha256
``tiny_imagenet``           ``tiny-imagenet-200.zip`` as distributed, 500 + 50 images per class, 64 × 64,   md5
                            or unpacked, ``tiny-imagenet-200/``                                             number of files
``tiny_imagenet_subset``    ``tiny_imagenet_subset/tiny_imagenet_subset.npz``: 100 + 25 per class, 64 × 64  sha256
``tiny_imagenet_32``        the same, averaged 2 × 2 to 32 × 32                                             sha256
``imagenet32``              ``imagenet32/0.npy`` … ``999.npy``, [700, 3, 32, 32] per class                  header and size
==========================  ==============================================================================  ================

Data sets are never part of this package; some may not be redistributed (Tiny ImageNet: research use only). A process reads a
set once: whoever asks for it again gets the same arrays, which are read-only.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections import deque
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
    Zipped,
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
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # of the zip, as the loaders of several libraries have it
IMAGENET_TRAIN = 600  # of the 700 images of a class; the other 100 are for testing (Nature 632:768)


class MissingData(DataError):
    """The data are not there; the line says what to put where. A figure that needs them is *not run*.

    ``found`` says what is there instead, if that explains something.
    """

    def __init__(self, message: str, found: str = "") -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set of images.

    x            [N, C, H, W] uint8 or float32; an array, or ``ClassFiles``/``Jpegs``, which read rows (not slices) on demand
    y            [N] int64, classes 0 … num_classes − 1
    test         [N] bool, true for the images that are for testing only
    scale        the number that a raw value is divided by (16 for the digits, 255 for other uint8 images, 1 for float32)
    names        one per class
    fingerprint  checksum of the bytes that were read, to be kept beside results; "unchecked" where the files have none
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
    def _of_part(self) -> dict[bool, NDArray[np.int64]]:
        """Row numbers of the training (False) and the test images (True), read-only: all replicas share them."""
        return {part: _read_only(np.flatnonzero(self.test == part)) for part in (False, True)}

    @cached_property
    def _of_class(self) -> dict[bool, list[NDArray[np.int64]]]:
        """Row numbers by part and class, in the order of the files: a stable sort by class keeps that order."""
        ends = {
            part: np.cumsum(np.bincount(self.y[rows], minlength=self.num_classes))
            for part, rows in self._of_part.items()
        }
        return {
            part: np.split(_read_only(rows[np.argsort(self.y[rows], kind="stable")]), ends[part][:-1])
            for part, rows in self._of_part.items()
        }

    def rows(self, class_id: int | None = None, test: bool = False) -> NDArray[np.int64]:
        """Row numbers of the training (or test) images, of one class or of all, in the order of the files; read-only."""
        return self._of_part[test] if class_id is None else self._of_class[test][class_id]


def _read_only(array: Any) -> Any:
    if isinstance(array, np.ndarray):  # what reads on demand gives new arrays anyway
        array.setflags(write=False)
    return array


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
    if name not in SETS:
        raise ValueError(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    wanted = SETS[name]
    root = data_folder(folder) if wanted.files else Path()
    if root is None:
        raise MissingData(
            f"{name} needs a data folder: put {wanted.wanted} into it and give --data FOLDER or set {VARIABLE}=FOLDER; "
            "`lop data` says more"
        )
    with _ONE_AT_A_TIME:  # threads that want the same set wait for one reading
        key = (name, *_state_of_files(root, wanted.files))
        images = _IN_USE.get(key)
        if images is None:
            images = wanted.reader(root.absolute())  # some files are read later, perhaps from another working folder
            for array in (images.x, images.y, images.test):
                _read_only(array)
            _IN_USE[key] = images
        if images in _LATEST:
            _LATEST.remove(images)
        _LATEST.append(images)
    return images


# One copy of a set in memory as long as anything uses it, and the latest two in any case: a sweep that only checks many
# configurations drops the streams of each. The key holds the state of the files, so that other files are read anew.
_IN_USE: weakref.WeakValueDictionary[tuple[Any, ...], Images] = weakref.WeakValueDictionary()
_LATEST: deque[Images] = deque(maxlen=2)
_ONE_AT_A_TIME = threading.Lock()


def _state_of_files(root: Path, patterns: tuple[str, ...]) -> list[Any]:
    """The folder, then path, time of change, size and number of each file: equal lists, same contents."""
    state: list[Any] = [str(root.resolve())]
    try:
        for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
            about = path.stat()
            state.append((str(path.relative_to(root)), about.st_mtime_ns, about.st_size, about.st_ino))
    except OSError as error:
        raise DataError(f"{root} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return state


def _missing(name: str, root: Path, found: str = "") -> MissingData:
    explained = f" ({found})" if found else ""
    return MissingData(
        f"{name} is not in the data folder {root}{explained}: put {SETS[name].wanted} there; `lop data` says more",
        found,
    )


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
        lacking = [part for part in parts if not (folder / part).is_file()]
        python = [path for path in (root / f"{stem}-python", root / f"{stem}-python.tar.gz") if path.exists()]
        found = ""
        if folder.is_dir():
            found = f"{folder.name}/ lacks {', '.join(lacking)}"
        elif python:
            found = f"{python[0].name} is the Python version: pickles, which can run code, are not read"
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
    """As it is distributed: 500 training images per class; the 50 validation images per class are for testing."""
    fetch: Callable[[str], bytes]
    where, fingerprint = root / "tiny-imagenet-200", "unchecked"
    if (where / "wnids.txt").is_file():
        members = [path.relative_to(where).as_posix() for path in where.glob("*/**/*.JPEG")]
        fetch = _reader_below(where)
    elif (where := root / "tiny-imagenet-200.zip").is_file():
        fetch = zipped = Zipped(where, TINY_IMAGENET_MD5, "tiny-imagenet-200/")
        members, fingerprint = zipped.members, f"md5:{TINY_IMAGENET_MD5}"
    else:
        raise _missing("tiny_imagenet", root)
    wnids = sorted(fetch("wnids.txt").decode(errors="replace").split())
    label = {wnid: i for i, wnid in enumerate(wnids)}
    at_hand = {member for member in members if member.endswith(".JPEG")}
    train = sorted((label[parts[1]], m) for m in at_hand if (parts := m.split("/"))[0] == "train" and parts[1] in label)
    lines = [line.split("\t") for line in fetch("val/val_annotations.txt").decode(errors="replace").splitlines()]
    test = [(label[line[1]], f"val/images/{line[0]}") for line in lines if len(line) > 1 and line[1] in label]
    test = [(c, member) for c, member in test if member in at_hand]
    if (found := (len(wnids), len(train), len(test))) != TINY_IMAGENET:
        raise DataError(
            f"{where} has (classes, training, validation images) = {found}, expected {TINY_IMAGENET}: incomplete or corrupt; "
            "unpack it again"
        )
    labels, paths = zip(*train, *test)
    x = Jpegs(lambda i: fetch(paths[i]), len(paths), 64, halve=False, where=where)
    is_test = np.arange(len(paths)) >= len(train)
    return Images("tiny_imagenet", x, np.array(labels, np.int64), is_test, 255.0, tuple(wnids), fingerprint)


def _reader_below(folder: Path) -> Callable[[str], bytes]:
    return lambda member: read(folder / member)


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


@dataclass(frozen=True)
class DataSet:
    """How to get a data set.

    reader   gives its images from the data folder
    files    the files (and folders) that it reads, as patterns below the data folder; none for a set that needs none
    wanted   what to put into the data folder, to be read after "put"
    checked  by what the reader knows that the files are right
    terms    licence or terms of use
    """

    reader: Callable[[Path], Images]
    files: tuple[str, ...]
    wanted: str
    checked: str
    terms: str


_CIFAR_TERMS = "none stated (Krizhevsky 2009)"
_IMAGENET_TERMS = "ImageNet terms of access: research only, not to be redistributed"
_TINY_FILES = ("wnids.txt", "val/val_annotations.txt", "val/images", "train", "train/*/images")
SETS: dict[str, DataSet] = {
    "digits": DataSet(
        lambda root: digits(), (), "nothing", "comes with scikit-learn",
        "CC BY 4.0 (UCI, optical recognition of handwritten digits)",
    ),
    "mnist": DataSet(
        _mnist, tuple(f"mnist/{name}{ending}" for name in MNIST_SHA256 for ending in ("", ".gz")),
        "the four files mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]", "sha256", "CC BY-SA 3.0",
    ),
    "cifar10": DataSet(
        lambda root: _cifar(root, 10), ("cifar-10-batches-bin/*", "cifar-10-binary.tar.gz"),
        "the binary version, cifar-10-binary.tar.gz or its folder cifar-10-batches-bin/,",
        "md5 of the archive; size and number of images per class of its folder", _CIFAR_TERMS,
    ),
    "cifar100": DataSet(
        lambda root: _cifar(root, 100), ("cifar-100-binary/*", "cifar-100-binary.tar.gz"),
        "the binary version, cifar-100-binary.tar.gz or its folder cifar-100-binary/,",
        "md5 of the archive; size and number of images per class of its folder", _CIFAR_TERMS,
    ),
    "cifar10_subset": DataSet(
        _cifar10_subset, ("cifar10_subset/cifar10_subset.npz",), "cifar10_subset/cifar10_subset.npz", "sha256", _CIFAR_TERMS,
    ),
    "tiny_imagenet": DataSet(
        _tiny_imagenet, ("tiny-imagenet-200.zip", *(f"tiny-imagenet-200/{name}" for name in _TINY_FILES)),
        "Tiny ImageNet as it is distributed, tiny-imagenet-200.zip or unpacked as tiny-imagenet-200/,",
        "md5 of the zip; number of files of its folder", _IMAGENET_TERMS,
    ),
    "tiny_imagenet_subset": DataSet(
        lambda root: _tiny_imagenet_subset(root, halve=False), ("tiny_imagenet_subset/tiny_imagenet_subset.npz",),
        "tiny_imagenet_subset/tiny_imagenet_subset.npz", "sha256", _IMAGENET_TERMS,
    ),
    "tiny_imagenet_32": DataSet(
        lambda root: _tiny_imagenet_subset(root, halve=True), ("tiny_imagenet_subset/tiny_imagenet_subset.npz",),
        "tiny_imagenet_subset/tiny_imagenet_subset.npz", "sha256", _IMAGENET_TERMS,
    ),
    "imagenet32": DataSet(
        _imagenet32, ("imagenet32/*.npy",),
        "one file of 32×32 images per class, imagenet32/0.npy, imagenet32/1.npy, …, each [700, 3, 32, 32],",
        "header and size of every file", _IMAGENET_TERMS,
    ),
}  # fmt: skip
DATASETS = tuple(SETS)
