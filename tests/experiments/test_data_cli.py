"""`lop data`: what is at hand, what to put where, and fetching from a server of this machine: nothing unchecked gets a name."""

import gzip
import hashlib
import http.server
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import data_cli, datasets, download
from experiments.cli import main
from experiments.datasets import DATASETS, SETS, load


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("LOP_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    """A small MNIST, packed, by file name; its checksums are the known ones."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(12, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
    }
    for name, array in arrays.items():
        monkeypatch.setitem(datasets.MNIST_SHA256, name, hashlib.sha256(idx(array)).hexdigest())
    return {f"{name}.gz": gzip.compress(idx(array)) for name, array in arrays.items()}


class Server:
    """Serves ``files``; a name in ``broken`` announces its whole size, sends half of it and hangs up, or waits if ``slow``."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.broken, self.slow, self.asked = dict(files), set[str](), False, list[str]()
        server, self.half_sent = self, threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                server.asked.append(name)
                if name not in server.files:
                    return self.send_error(404, "Not Found")
                data = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if name not in server.broken:
                    self.wfile.write(data)
                else:
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    server.half_sent.set()
                    time.sleep(20 if server.slow else 0)

            def log_message(self, *_args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads, self.http.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(files, monkeypatch):
    pytest.importorskip("pooch")
    made = Server(files)
    remotes = tuple(
        download.Remote(f"{made.url}/{name}.gz", f"mnist/{name}.gz", digest, unpacked=True)
        for name, digest in datasets.MNIST_SHA256.items()
    )
    monkeypatch.setitem(download.REMOTES, "mnist", remotes)
    yield made
    made.http.shutdown()
    made.http.server_close()


def lop(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main(["data", *map(str, arguments)])
    return status, *capsys.readouterr()


def refused(capsys, *arguments: object) -> str:
    """The last line on stderr of a call that fails; lines before it tell what is fetched."""
    status, _, err = lop(capsys, *arguments)
    *before, line = err.splitlines()
    assert status == 2 and line.startswith("lop: ") and all(told.startswith("fetching ") for told in before)
    return line


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# -- lop data --------------------------------------------------------------------------------------------------------------


def test_the_list_says_for_every_set_what_to_put_where_and_its_terms(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "download", None)  # nothing is fetched unasked
    for arguments, words in [((), "none; give --data FOLDER or set LOP_DATA"), (("--data", tmp_path), str(tmp_path))]:
        status, out, err = lop(capsys, *arguments)
        assert status == 0 and not err and out.startswith(f"data folder: {words}")
        blocks = {block.split(":")[0]: block for block in out.replace("\n  ", "\t").splitlines()[1:]}
        assert set(blocks) == set(DATASETS) and "ready, 1,797 images 1×8×8 in 10 classes" in blocks["digits"]
        for name in DATASETS[1:]:
            assert "not at hand" in blocks[name] and SETS[name].wanted.rstrip(",") in blocks[name]
            assert SETS[name].terms in blocks[name] and (f"lop data fetch {name}" in blocks[name]) == (
                name in download.REMOTES
            )
    assert below(tmp_path) == []


def test_the_list_checks_what_is_there(capsys, tmp_path, files):
    (tmp_path / "mnist").mkdir()
    for name, data in files.items():
        (tmp_path / "mnist" / name).write_bytes(data)
    (tmp_path / "cifar-100-python").mkdir()
    out = lop(capsys, "--data", tmp_path)[1]
    assert "mnist: ready, 17 images 1×28×28 in 10 classes" in out and f"in       {tmp_path / 'mnist'}" in out
    assert "but      cifar-100-python is the Python version" in out
    data = bytearray(gzip.decompress(files["t10k-images-idx3-ubyte.gz"]))
    data[-1] ^= 1
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(data)))
    status, out, _ = lop(capsys, "--data", tmp_path)
    assert status == 0 and "mnist: NOT USABLE" in out and "t10k-images-idx3-ubyte.gz has sha256" in out


def test_a_folder_that_is_not_there_is_an_error(capsys, tmp_path):
    assert "is not a folder; correct --data" in refused(capsys, "--data", tmp_path / "none")


# -- lop data fetch --------------------------------------------------------------------------------------------------------


def test_fetch_makes_the_folder_checks_and_fetches_only_what_is_missing(capsys, tmp_path, server, files, monkeypatch):
    folder = tmp_path / "new" / "data"
    status, out, err = lop(capsys, "fetch", "mnist", "--data", folder)
    assert status == 0 and out == f"mnist: fetched 4 files to {folder}, 17 images; CC BY-SA 3.0\n"
    assert err.count("fetching ") == 4 and server.url in err
    assert below(folder) == ["mnist", *sorted(f"mnist/{name}" for name in files)]
    assert load("mnist", folder).y[:3].tolist() == [0, 1, 2]
    assert lop(capsys, "fetch", "mnist", "digits", "mnist", "--data", folder)[1] == (
        "mnist: already at hand\ndigits: already at hand\n"
    )
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("LOP_DATA", str(folder))
    assert lop(capsys, "fetch", "mnist")[0] == 0 and server.asked[4:] == ["t10k-labels-idx1-ubyte.gz"]


def test_the_folder_may_be_named_before_or_after_fetch(capsys, tmp_path, server):
    assert lop(capsys, "--data", tmp_path, "fetch", "mnist")[0] == 0 and len(below(tmp_path)) == 5
    assert lop(capsys, "--data", tmp_path / "other", "fetch", "mnist", "--data", tmp_path)[0] == 0
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "kind, words",
    [
        ("other content", "has sha256"),
        ("cut archive", "is corrupt or truncated"),
        ("no archive", "is corrupt or truncated"),
        ("broken off", "the connection broke off"),
        ("gone", "the server answers 404 Not Found"),
    ],
)
def test_nothing_unchecked_is_placed(capsys, tmp_path, server, kind, words):
    name = "t10k-images-idx3-ubyte.gz"
    good = server.files[name]
    bad = {"other content": gzip.compress(b"x" * 99), "cut archive": good[:-9], "no archive": b"<html>sorry</html>"}
    if kind == "gone":
        del server.files[name]
    elif kind == "broken off":
        server.broken.add(name)
    else:
        server.files[name] = bad[kind]
    line = refused(capsys, "fetch", "mnist", "--data", tmp_path)
    assert words in line and f"{server.url}/{name}" in line and ".fetching" not in line
    finished = ["mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz"]
    assert below(tmp_path) == ["mnist", *finished]  # what was good stays; no part of the bad one, no scratch folder
    server.files[name], server.broken = good, set()
    assert lop(capsys, "fetch", "mnist", "--data", tmp_path)[0] == 0 and len(server.asked) == 3 + 2


def test_what_is_there_is_never_overwritten(capsys, tmp_path, server):
    (tmp_path / "mnist").mkdir()
    mine = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    mine.write_bytes(b"mine")
    line = refused(capsys, "fetch", "mnist", "--data", tmp_path)
    assert str(mine) in line and "move it away first" in line and mine.read_bytes() == b"mine" and not server.asked


def test_no_network_no_pooch_no_source_and_no_folder_are_one_line_each(capsys, tmp_path, server, monkeypatch):
    server.http.shutdown()
    server.http.server_close()
    line = refused(capsys, "fetch", "mnist", "--data", tmp_path / "a")
    assert "no connection; try again, or put the four files" in line and str(tmp_path / "a") in line
    monkeypatch.setitem(sys.modules, "pooch", None)
    line = refused(capsys, "fetch", "mnist", "--data", tmp_path / "a")
    assert "pip install 'lop-theory[data]', or put the four files" in line
    for name in set(DATASETS) - set(download.REMOTES) - {"digits"}:
        line = refused(capsys, "fetch", name, "--data", tmp_path / "a")
        assert "cannot be downloaded, only mnist" in line and f"put {SETS[name].wanted}" in line
    assert "choose one of digits, mnist" in refused(capsys, "fetch", "digits", "minst", "--data", tmp_path / "a")
    assert "give --data FOLDER or set LOP_DATA" in refused(capsys, "fetch", "mnist")
    (tmp_path / "file").touch()
    assert "is a file" in refused(capsys, "fetch", "mnist", "--data", tmp_path / "file")
    assert "required: NAME" in refused(capsys, "fetch", "--data", tmp_path)


CHILD = """
import sys
from pathlib import Path
from experiments import download
url, digest = sys.argv[1], sys.argv[2]
remote = download.Remote(url, "mnist/a.gz", digest)
try:
    download.download("mnist", Path(sys.argv[3]), {"mnist": [remote]})
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_no_file_and_the_next_one_works(tmp_path, server, sent):
    data = np.random.default_rng(1).bytes(4_000_000)
    server.files, server.broken, server.slow = {"a.gz": data}, {"a.gz"}, True
    url, digest = f"{server.url}/a.gz", hashlib.sha256(data).hexdigest()
    child = subprocess.Popen([sys.executable, "-c", CHILD, url, digest, str(tmp_path)])
    assert server.half_sent.wait(60)
    partial = tmp_path / "mnist"
    for _ in range(600):  # until half of it is on disk
        if any(path.is_file() and path.stat().st_size > 10**6 for path in partial.rglob("*")):
            break
        time.sleep(0.05)
    child.send_signal(sent)
    child.wait(30)
    assert not (partial / "a.gz").exists()
    left = list(partial.iterdir())
    assert [path.name.startswith(download.SCRATCH) for path in left] == [True] * (sent == signal.SIGKILL)
    for folder in left:  # as if the killed process had been gone for two hours
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - 7200,) * 2)
    server.broken = set()
    remote = download.Remote(url, "mnist/a.gz", digest)
    assert download.download("mnist", tmp_path, {"mnist": [remote]}) == [partial / "a.gz"]
    assert below(tmp_path) == ["mnist", "mnist/a.gz"] and (partial / "a.gz").read_bytes() == data


def test_a_younger_scratch_folder_is_left_to_its_process(tmp_path, server):
    (tmp_path / "mnist" / f"{download.SCRATCH}x").mkdir(parents=True)
    download.download("mnist", tmp_path)
    assert f"mnist/{download.SCRATCH}x" in below(tmp_path)


def test_progress_counts_megabytes(capsys, tmp_path, server, monkeypatch):
    data = np.random.default_rng(2).bytes(3 << 20)
    server.files["big"] = data
    remote = download.Remote(f"{server.url}/big", "big", hashlib.md5(data).hexdigest(), "md5")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    download.download("mnist", tmp_path, {"mnist": [remote]}, progress=data_cli._progress())
    shown = [part.split("\x1b")[0] for part in capsys.readouterr().err.split("\r")]
    assert {"  1 of 3 MB", "  2 of 3 MB", "  3 of 3 MB"} <= set(shown)


def test_published_places_are_those_that_the_readers_read():
    for name, remotes in download.REMOTES.items():
        for remote in remotes:
            assert any(Path(remote.place).match(pattern) for pattern in SETS[name].files), remote
            assert len(remote.digest) == {"sha256": 64, "md5": 32}[remote.algorithm] and remote.place.endswith(
                remote.url.rsplit("/", 1)[1]
            )
