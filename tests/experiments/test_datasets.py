"""Data sets: every defect of a file is one line, nothing is unpickled, and what is read equals an independent reading."""

import functools
import gc
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments import datasets, download, image_files
from experiments.datasets import DATASETS, SETS, DataError, MissingData, data_folder, digits, load
from experiments.errors import Failure
from experiments.image_files import ClassFiles, Jpegs, Zipped, average_2x2, parse_cifar, parse_idx
from experiments.streams import open_streams, protocol

REAL = os.environ.get("LOP_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="set LOP_DATA to the data folder to test real files")


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("LOP_DATA", raising=False)


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message and isinstance(caught.value, Failure)
    return message


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


# -- digits, the folder ---------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_with_a_stratified_test_part():
    from sklearn.datasets import load_digits

    images, bunch = digits(), load_digits()
    assert np.array_equal(images.x.reshape(-1, 64), bunch.data) and np.array_equal(images.y, bunch.target)
    assert images.x.dtype == np.uint8 and images.y.dtype == np.int64
    for c in range(10):
        train, test = images.rows(c), images.rows(c, test=True)
        assert set(images.y[train]) == set(images.y[test]) == {c} and not set(train) & set(test)
        assert len(test) == (len(train) + len(test)) // 6
    assert sorted([*images.rows(), *images.rows(test=True)]) == list(range(1797))
    assert load().fingerprint == images.fingerprint


def test_folder_is_the_option_then_the_variable(tmp_path, monkeypatch):
    assert data_folder() is None
    monkeypatch.setenv("LOP_DATA", str(tmp_path))
    (tmp_path / "b").mkdir()
    assert data_folder() == tmp_path and data_folder(tmp_path / "b") == tmp_path / "b"
    with pytest.raises(DataError) as caught:
        data_folder(tmp_path / "c")
    assert "correct --data" in one_line(caught)
    monkeypatch.setenv("LOP_DATA", str(tmp_path / "c"))
    with pytest.raises(DataError) as caught:
        load("mnist")
    assert "correct LOP_DATA" in one_line(caught)


@pytest.mark.parametrize("name", DATASETS[1:])
def test_absent_data_say_what_to_put_where(name, tmp_path):
    for folder, words in [(None, "--data FOLDER or set LOP_DATA"), (tmp_path, f"data folder {tmp_path}")]:
        with pytest.raises(MissingData) as caught:
            load(name, folder)
        line = one_line(caught)
        assert name in line and SETS[name].wanted in line and words in line


# -- MNIST ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Four small files in the layout of MNIST, with the checksums that belong to them."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(12, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
    }
    (tmp_path / "mnist").mkdir()
    for name, array in arrays.items():
        monkeypatch.setitem(datasets.MNIST_SHA256, name, hashlib.sha256(idx(array)).hexdigest())
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path, arrays


def test_mnist_raw_and_packed_are_the_same(mnist):
    folder, arrays = mnist
    packed = load("mnist", folder)
    assert packed.x.shape == (17, 1, 28, 28) and packed.test.tolist() == [False] * 12 + [True] * 5
    assert np.array_equal(packed.x[packed.rows(), 0], arrays["train-images-idx3-ubyte"])
    assert packed.y[packed.rows(test=True)].tolist() == [0, 1, 2, 3, 4]
    for name, array in arrays.items():
        (folder / "mnist" / f"{name}.gz").unlink()
        (folder / "mnist" / name).write_bytes(idx(array))
    raw = load("mnist", folder)
    assert np.array_equal(raw.x, packed.x) and raw.fingerprint == packed.fingerprint


def damage(data: bytes, kind: str) -> bytes:
    if kind == "cut archive":
        return data[:-20]
    if kind == "not an archive":
        return b"<html>404</html>"
    raw = bytearray(gzip.decompress(data))
    if kind == "cut inside":
        return gzip.compress(bytes(raw[:-3]))
    if kind == "wrong header":
        raw[2] = 0x0D
    if kind == "one bit":
        raw[-1] ^= 1
    return gzip.compress(bytes(raw))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "kind, words",
    [
        ("cut archive", "is corrupt or truncated"),
        ("not an archive", "is corrupt or truncated"),
        ("cut inside", "truncated or padded"),
        ("wrong header", "is not an IDX file"),
        ("one bit", "has sha256"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(mnist, name, kind, words):
    path = mnist[0] / "mnist" / f"{name}.gz"
    path.write_bytes(damage(path.read_bytes(), kind))
    with pytest.raises(DataError) as caught:
        load("mnist", mnist[0])
    line = one_line(caught)
    assert words in line and name in line and "fetch it again" in line


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_idx_round_trip_and_every_prefix_is_refused(shape, random):
    array = np.array([random.randrange(256) for _ in range(int(np.prod(shape)))], np.uint8).reshape(shape)
    data = idx(array)
    assert np.array_equal(parse_idx(data, "f", array.ndim), array)
    with pytest.raises(DataError):
        parse_idx(data[: random.randrange(len(data))], "f", array.ndim)
    with pytest.raises(DataError):
        parse_idx(data + b"\0", "f", array.ndim)


# -- one copy in memory ---------------------------------------------------------------------------------------------------


@pytest.fixture
def readings(monkeypatch):
    """The names of the files that are read, in order."""
    names: list[str] = []

    def counting(path: Path, *rest):
        names.append(path.name)
        return image_files.read(path, *rest)

    monkeypatch.setattr(datasets, "read", counting)
    return names


def test_a_set_is_read_once_and_shared_by_streams(mnist, readings, monkeypatch):
    folder, _ = mnist
    config = replace(protocol("permuted-images", "published"), tasks=3, probe=0)
    streams = [open_streams("permuted-images", config, [seed], folder)[0] for seed in range(30)]
    assert len(readings) == 4 and load("mnist", folder) is streams[0].images
    monkeypatch.chdir(folder)
    assert load("mnist", Path()) is streams[0].images  # the same folder by another name
    tasks = [stream.task(t) for stream in streams for t in range(3)]
    assert {id(task.train.source) for task in tasks} == {id(streams[0].images.x)}
    assert {id(task.train.rows) for task in tasks} == {id(streams[0].images.rows())}
    assert len(readings) == 4


def test_shared_arrays_are_read_only(mnist):
    images = load("mnist", mnist[0])
    for array in (images.x, images.y, images.test, images.rows(), images.rows(3), images.rows(test=True), load().x):
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0
    task = open_streams("permuted-images", seeds=[0])[0].task(0)
    task.train.x()[:] = 0  # a batch is a new array
    assert load().x.max() == 16


def test_changed_files_are_read_again_and_defects_are_not_kept(mnist, readings, monkeypatch):
    folder, arrays = mnist
    name = "train-labels-idx1-ubyte"
    path = folder / "mnist" / f"{name}.gz"
    before, good = load("mnist", folder), path.read_bytes()
    path.write_bytes(good[:-9])
    for _ in range(2):
        with pytest.raises(DataError):
            load("mnist", folder)
    labels = np.roll(arrays[name], 1)
    monkeypatch.setitem(datasets.MNIST_SHA256, name, hashlib.sha256(idx(labels)).hexdigest())
    path.write_bytes(gzip.compress(idx(labels)))
    after = load("mnist", folder)
    assert after is not before and after.y[:12].tolist() == labels.tolist() and before.y[0] == arrays[name][0]
    path.unlink()
    with pytest.raises(MissingData):
        load("mnist", folder)
    assert len(readings) > 8


def test_memory_is_bounded_by_what_is_in_use(tmp_path, monkeypatch):
    read = []

    def small(root: Path) -> datasets.Images:
        read.append(root.name)
        y = np.zeros(4, np.int64)
        return datasets.Images("small", np.zeros((4, 1, 2, 2), np.uint8), y, y > 0, 1.0, ("0",), "")

    monkeypatch.setitem(datasets.SETS, "small", datasets.DataSet(small, ("*",), "nothing", "", ""))
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    held = load("small", folders[0])
    gone = weakref.ref(load("small", folders[1]))
    assert load("small", folders[1]) is gone()  # nobody holds it, but it is one of the latest two
    for folder in folders[2:]:
        load("small", folder)
    gc.collect()
    assert gone() is None and load("small", folders[0]) is held and read == ["a", "b", "c", "d"]
    assert len({id(load("small", folder)) for folder in folders[:2]}) == 2 and read == ["a", "b", "c", "d", "b"]


def test_threads_that_want_the_same_set_read_it_once(mnist, readings):
    found: list[datasets.Images] = []
    threads = [threading.Thread(target=lambda: found.append(load("mnist", mnist[0]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(map(id, found))) == 1 and len(readings) == 4


# -- CIFAR ------------------------------------------------------------------------------------------------------------------


def cifar_bytes(images: np.ndarray, labels: np.ndarray, coarse: bool) -> bytes:
    return b"".join(
        (b"\x07" if coarse else b"") + bytes([int(c)]) + image.tobytes() for image, c in zip(images, labels)
    )


@pytest.fixture(params=[10, 100])
def cifar(request, tmp_path, monkeypatch):
    """A small CIFAR in the binary layout: two training and one test image per class."""
    classes, rng = request.param, np.random.default_rng(1)
    monkeypatch.setattr(datasets, "CIFAR_TRAIN", 2 * classes)
    monkeypatch.setattr(datasets, "CIFAR_TEST", classes)
    x = rng.integers(0, 256, (3 * classes, 3, 32, 32), dtype=np.uint8)
    y = np.concatenate([rng.permutation(np.arange(2 * classes) % classes), np.arange(classes)])
    parts = np.array_split(np.arange(2 * classes), 1 if classes == 100 else 5)
    names = ["train.bin"] if classes == 100 else [f"data_batch_{i}.bin" for i in range(1, 6)]
    files = {name: cifar_bytes(x[rows], y[rows], classes == 100) for name, rows in zip(names, parts)}
    test = slice(2 * classes, None)
    files["test.bin" if classes == 100 else "test_batch.bin"] = cifar_bytes(x[test], y[test], classes == 100)
    labels = "fine_label_names.txt" if classes == 100 else "batches.meta.txt"
    files[labels] = "\n".join(f"name{c}" for c in range(classes)).encode()
    return classes, files, x, y, tmp_path


def unpacked(classes: int, files: dict[str, bytes], root: Path) -> Path:
    folder = root / ("cifar-100-binary" if classes == 100 else "cifar-10-batches-bin")
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_cifar_folder_and_archive_are_the_same(cifar, monkeypatch, tmp_path_factory):
    classes, files, x, y, root = cifar
    unpacked(classes, files, root)
    images = load(f"cifar{classes}", root)
    assert np.array_equal(images.x, x) and np.array_equal(images.y, y) and images.names[3] == "name3"
    assert images.test.sum() == classes
    other = tmp_path_factory.mktemp("archive")
    archive = other / f"cifar-{classes}-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"some-folder/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(DataError) as caught:
        load(f"cifar{classes}", other)
    assert "has md5" in one_line(caught)
    monkeypatch.setitem(datasets.TAR_MD5, f"cifar{classes}", hashlib.md5(archive.read_bytes()).hexdigest())
    packed = load(f"cifar{classes}", other)
    assert np.array_equal(packed.x, x) and packed.fingerprint == images.fingerprint and packed.names == images.names


def test_truncated_or_mislabelled_cifar_is_refused(cifar):
    classes, files, _, _, root = cifar
    folder = unpacked(classes, files, root)
    name = "test.bin" if classes == 100 else "test_batch.bin"
    for data, words in [
        (files[name][:-1], "bytes, expected"),
        (bytes([classes, classes]) + files[name][2:], "does not hold"),
    ]:
        (folder / name).write_bytes(data)
        with pytest.raises(DataError) as caught:
            load(f"cifar{classes}", root)
        assert words in one_line(caught) and name in str(caught.value)


def test_a_cifar_folder_that_lacks_a_file_says_which(cifar):
    classes, files, _, _, root = cifar
    name = "test.bin" if classes == 100 else "data_batch_3.bin"
    (unpacked(classes, files, root) / name).unlink()
    with pytest.raises(MissingData) as caught:
        load(f"cifar{classes}", root)
    assert f"lacks {name})" in one_line(caught) and "binary version" in str(caught.value)


def test_cifar_labels_are_the_fine_ones():
    data = bytes([19, 0]) + bytes(3072) + bytes([3, 1]) + bytes(3072)
    with pytest.raises(DataError):  # two images are not one of each of 100 classes
        parse_cifar(data, "f", 100, 1)
    rows = b"".join(bytes([99 - c, c]) + bytes([c]) * 3072 for c in range(100))
    x, y = parse_cifar(rows, "f", 100, 1)
    assert y.tolist() == list(range(100)) and x[7].min() == x[7].max() == 7


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_are_never_read(tmp_path, monkeypatch):
    sprung = tmp_path / "sprung"
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(MissingData) as caught:
        load("cifar100", tmp_path)
    assert "Python version" in one_line(caught) and "binary version" in str(caught.value)
    (tmp_path / "imagenet32").mkdir()
    for c in range(2):
        np.save(tmp_path / "imagenet32" / f"{c}.npy", np.array([Trap(sprung)], object), allow_pickle=True)
    with pytest.raises(DataError):
        load("imagenet32", tmp_path)
    (tmp_path / "cifar10_subset").mkdir()
    path = tmp_path / "cifar10_subset" / "cifar10_subset.npz"
    np.savez(path, x=np.array([Trap(sprung)], object))
    monkeypatch.setitem(datasets.NPZ_SHA256, "cifar10_subset", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError):
        load("cifar10_subset", tmp_path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap works
    assert sprung.exists()


# -- ImageNet ---------------------------------------------------------------------------------------------------------------


def jpeg(size: int, rng: np.random.Generator, grey: bool = False) -> bytes:
    small = rng.integers(0, 256, (size // 8, size // 8) if grey else (size // 8, size // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((size, size)).save(out, "JPEG", quality=90)
    return out.getvalue()


def test_jpegs_are_decoded_once_and_halved_by_the_mean():
    rng = np.random.default_rng(2)
    files = [jpeg(64, rng, grey=i == 1) for i in range(4)]
    asked = []

    def fetch(i: int) -> bytes:
        asked.append(i)
        return files[i]

    plain = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1) for data in files])
    large, small = Jpegs(files.__getitem__, 4, 64, False, "f"), Jpegs(fetch, 4, 32, True, "f")
    assert np.array_equal(large[np.array([3, 1])], plain[[3, 1]])
    assert (large[np.array([1])][0] == large[np.array([1])][0, :1]).all()  # grey: three equal channels
    mean = plain.astype(float).reshape(4, 3, 32, 2, 32, 2).mean((3, 5))
    assert np.array_equal(small[np.array([0, 2, 0])], np.floor(mean + 0.5).astype(np.uint8)[[0, 2, 0]])
    assert np.array_equal(small[np.arange(4)], np.floor(mean + 0.5)) and sorted(asked) == [0, 0, 1, 2, 3]


def test_average_stays_between_the_extremes_and_is_exact_on_constants():
    x = np.random.default_rng(3).integers(0, 256, (2, 3, 6, 4), dtype=np.uint8)
    halved, blocks = average_2x2(x), x.reshape(2, 3, 3, 2, 2, 2)
    assert (halved >= blocks.min((3, 5))).all() and (halved <= blocks.max((3, 5))).all()
    assert (average_2x2(np.full((1, 1, 4, 4), 255, np.uint8)) == 255).all()


@pytest.mark.parametrize("data, words", [(b"GIF89a", "is not a complete JPEG"), (None, "is not a complete JPEG")])
def test_bad_jpegs_are_named(data, words):
    good = jpeg(64, np.random.default_rng(4))
    with pytest.raises(DataError) as caught:
        Jpegs(lambda i: good[: len(good) // 2] if data is None else data, 9, 64, False, "file")[np.array([5])]
    assert words in one_line(caught) and "file: image 5" in str(caught.value)
    with pytest.raises(DataError, match="expected 32×32"):
        Jpegs(lambda i: good, 9, 32, False, "file")[np.array([5])]


def test_tiny_imagenet_subset_joins_header_and_payload(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    files = [jpeg(64, rng) for _ in range(4)]
    cut = 100
    folder = tmp_path / "tiny_imagenet_subset"
    folder.mkdir()
    np.savez(
        folder / "tiny_imagenet_subset.npz",
        payload=np.frombuffer(b"".join(data[cut:] for data in files), np.uint8),
        offsets=np.cumsum([0, *(len(data) - cut for data in files)]),
        header_id=np.arange(4, dtype=np.uint8),
        **{f"header{i}": np.frombuffer(data[:cut], np.uint8) for i, data in enumerate(files)},
        y=np.array([0, 0, 1, 1], np.int16),
        split=np.array([0, 1, 0, 1], np.uint8),
        names=np.array(["fish", "bird"]),
    )
    digest = hashlib.sha256((folder / "tiny_imagenet_subset.npz").read_bytes()).hexdigest()
    with pytest.raises(DataError, match="has sha256"):
        load("tiny_imagenet_32", tmp_path)
    monkeypatch.setitem(datasets.NPZ_SHA256, "tiny_imagenet_subset", digest)
    large, small = load("tiny_imagenet_subset", tmp_path), load("tiny_imagenet_32", tmp_path)
    plain = np.stack([np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1) for data in files])
    assert np.array_equal(large.x[np.arange(4)], plain) and small.shape == (3, 32, 32)
    assert np.array_equal(small.x[np.arange(4)], average_2x2(plain))
    assert large.rows(1).tolist() == [2] and large.rows(1, test=True).tolist() == [3]


@pytest.fixture
def tiny(tmp_path):
    """Tiny ImageNet as it is distributed, with three classes of two training images and one validation image."""
    rng, folder = np.random.default_rng(6), tmp_path / "tiny-imagenet-200"
    wnids = ["n3", "n1", "n2"]  # labels are in sorted order
    for wnid in wnids:
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for i in range(2):
            (folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG").write_bytes(jpeg(64, rng))
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(wnids))
    (folder / "val" / "val_annotations.txt").write_text(
        "".join(f"v{i}.JPEG\t{w}\t0\t0\t9\t9\n" for i, w in enumerate(wnids))
    )
    for i in range(3):
        (folder / "val" / "images" / f"v{i}.JPEG").write_bytes(jpeg(64, rng))
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "test" / "images" / "test_0.JPEG").write_bytes(b"is not read")
    return folder


def test_full_tiny_imagenet_folder(tiny, tmp_path, monkeypatch):
    folder = tiny
    with pytest.raises(DataError, match="incomplete"):
        load("tiny_imagenet", tmp_path)
    monkeypatch.setattr(datasets, "TINY_IMAGENET", (3, 6, 3))
    images = load("tiny_imagenet", tmp_path)
    assert images.y.tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 1] and images.names == ("n1", "n2", "n3")
    direct = np.asarray(Image.open(folder / "val" / "images" / "v0.JPEG")).transpose(2, 0, 1)
    assert np.array_equal(images.x[images.rows(2, test=True)][0], direct)


def test_tiny_imagenet_zip_is_the_folder(tiny, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets, "TINY_IMAGENET", (3, 6, 3))
    other = tmp_path_factory.mktemp("zip")
    archive = other / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(tiny.parent.rglob("*"), reverse=True):
            out.write(path, path.relative_to(tiny.parent).as_posix())
    with pytest.raises(DataError) as caught:
        load("tiny_imagenet", other)
    assert "has md5" in one_line(caught)
    monkeypatch.setattr(datasets, "TINY_IMAGENET_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    packed, loose = load("tiny_imagenet", other), load("tiny_imagenet", tiny.parent)
    assert np.array_equal(packed.y, loose.y) and np.array_equal(packed.test, loose.test) and packed.names == loose.names
    assert np.array_equal(packed.x[np.arange(9)], loose.x[np.arange(9)])
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(DataError, match="has md5"):
        load("tiny_imagenet", other)


def test_forked_processes_read_a_zip_on_their_own(tmp_path):
    path = tmp_path / "a.zip"
    contents = {f"top/{i}": np.random.default_rng(i).bytes(200_000) for i in range(20)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in contents.items():
            out.writestr(name, data)
    zipped = Zipped(path, hashlib.md5(path.read_bytes()).hexdigest(), "top/")
    read_all = "all(zipped(str(i)) == np.random.default_rng(i).bytes(200_000) for _ in range(3) for i in range(20))"
    program = f"""
import os, sys
from pathlib import Path
import numpy as np
from experiments.image_files import Zipped
zipped = Zipped(Path({str(path)!r}), {hashlib.md5(path.read_bytes()).hexdigest()!r}, "top/")
child = os.fork()
good = {read_all}
if child == 0:
    os._exit(0 if good else 1)
sys.exit(0 if good and os.waitpid(child, 0)[1] == 0 else 1)
"""
    assert zipped.members == [str(i) for i in range(20)] and zipped("7") == contents["top/7"]
    if hasattr(os, "fork"):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    with pytest.raises(DataError) as caught:
        zipped("20")
    assert "20 cannot be read" in one_line(caught)


@pytest.mark.parametrize(
    "file, text, words",
    [
        ("val/val_annotations.txt", "v0.JPEG n1\n\n", "= (3, 6, 0)"),  # blanks in place of tabs
        ("val/val_annotations.txt", "v0.JPEG\tn9\nv1.JPEG\tn1\n", "= (3, 6, 1)"),  # no such class
        ("val/val_annotations.txt", "v9.JPEG\tn1\nv1.JPEG\tn1\n", "= (3, 6, 1)"),  # no such file
        ("val/val_annotations.txt", None, "val_annotations.txt cannot be read: no such file"),
        ("wnids.txt", "n1\nn2", "= (2, 4, 2)"),
        ("train/n1/images/n1_0.JPEG", None, "= (3, 5, 3)"),
        ("val/images/v2.JPEG", None, "= (3, 6, 2)"),
    ],
)
def test_an_incomplete_tiny_imagenet_is_one_line_before_anything_runs(tiny, monkeypatch, file, text, words):
    monkeypatch.setattr(datasets, "TINY_IMAGENET", (3, 6, 3))
    (tiny / file).unlink() if text is None else (tiny / file).write_text(text)
    with pytest.raises(DataError) as caught:
        load("tiny_imagenet", tiny.parent)
    assert words in one_line(caught) and "tiny-imagenet-200" in str(caught.value)


@pytest.mark.parametrize("last", [False, True])
def test_class_files_look_like_one_array(tmp_path, last, monkeypatch):
    rng = np.random.default_rng(7)
    arrays = [rng.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8) for _ in range(3)]
    folder = tmp_path / "imagenet32"
    folder.mkdir()
    for c, array in enumerate(arrays):
        np.save(folder / f"{c}.npy", array.transpose(0, 2, 3, 1) if last else array)
    with pytest.raises(DataError, match="600 to train"):
        load("imagenet32", tmp_path)
    monkeypatch.setattr(datasets, "IMAGENET_TRAIN", 4)
    images = load("imagenet32", tmp_path)
    rows = rng.permutation(15)
    assert np.array_equal(images.x[rows], np.concatenate(arrays)[rows]) and images.shape == (3, 32, 32)
    assert images.rows(1).tolist() == [5, 6, 7, 8] and images.rows(1, test=True).tolist() == [9]
    path = folder / "1.npy"
    whole = path.read_bytes()
    for data, words in [(whole[:-100], "corrupt or truncated"), (b"nothing", "corrupt or truncated")]:
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            load("imagenet32", tmp_path)
        assert words in one_line(caught) and "1.npy" in str(caught.value)
    for array, words in [
        (np.zeros((5, 32, 32), np.uint8), "has shape (5, 32, 32)"),
        (np.zeros((5, 3, 32, 32)), "has dtype float64"),
        (np.zeros((4, 3, 32, 32), np.uint8), "all classes must agree"),
    ]:
        np.save(path, array)
        with pytest.raises(DataError) as caught:
            ClassFiles([folder / "0.npy", path])
        assert words in one_line(caught) or last


# -- download ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of this machine, for a folder of its own."""
    monkeypatch.setenv("NO_PROXY", "*")
    root = tmp_path / "server"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def test_download_checks_before_it_places_and_never_overwrites(server, tmp_path):
    pytest.importorskip("pooch")
    root, url = server
    (root / "a.gz").write_bytes(gzip.compress(b"right", mtime=0))
    (root / "b.gz").write_bytes(b"wrong")
    good = download.Remote(f"{url}/a.gz", "set/a.gz", hashlib.sha256(b"right").hexdigest(), unpacked=True)
    bad = download.Remote(f"{url}/b.gz", "set/b.gz", hashlib.sha256(b"right").hexdigest())
    gone = download.Remote(f"{url}/c.gz", "set/c.gz", "0" * 64)
    folder = tmp_path / "data"
    assert download.download("mnist", folder, {"mnist": [good]}) == [folder / "set" / "a.gz"]
    assert gzip.decompress((folder / "set" / "a.gz").read_bytes()) == b"right"
    (folder / "set" / "a.gz").write_bytes(b"mine")
    assert download.download("mnist", folder, {"mnist": [good]}) == []
    assert (folder / "set" / "a.gz").read_bytes() == b"mine"
    for remote, words in [(bad, "has sha256"), (gone, "the server answers 404")]:
        with pytest.raises(DataError) as caught:
            download.download("mnist", folder, {"mnist": [remote]})
        assert words in str(caught.value) and remote.url in str(caught.value)
    assert [path.name for path in (folder / "set").iterdir()] == ["a.gz"]  # no bad file, no scratch folder


# -- the real files ---------------------------------------------------------------------------------------------------------


@needs_data
def test_real_mnist(tmp_path):
    images = load("mnist", REAL)
    assert images.x.shape == (70_000, 1, 28, 28) and images.test.sum() == 10_000
    # the class counts that the literature gives for the 60,000 training images
    known = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert [len(images.rows(c)) for c in range(10)] == known
    (tmp_path / "mnist").mkdir()
    for path in (Path(REAL) / "mnist").iterdir():
        (tmp_path / "mnist" / path.name).write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    assert "corrupt or truncated" in one_line(caught)


@needs_data
def test_real_cifar10_subset():
    images = load("cifar10_subset", REAL)
    assert images.shape == (3, 32, 32) and images.names[6] == "frog"
    assert {(len(images.rows(c)), len(images.rows(c, test=True))) for c in range(10)} == {(200, 50)}


@needs_data
def test_real_tiny_imagenet():
    large, small = load("tiny_imagenet_subset", REAL), load("tiny_imagenet_32", REAL)
    assert {(len(large.rows(c)), len(large.rows(c, test=True))) for c in range(200)} == {(100, 25)}
    rows = np.random.default_rng(8).choice(25_000, 60, replace=False)
    assert np.array_equal(small.x[rows], average_2x2(large.x[rows]))
    assert len({image.tobytes() for image in large.x[rows]}) == 60
