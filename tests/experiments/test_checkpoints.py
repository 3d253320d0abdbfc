"""The folder of a run: kills at every moment, damage of every kind of file, two processes at once, a size that does not grow."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from experiments import checkpoints, files
from experiments.checkpoints import load_parts, load_rows, open_run, save_part
from experiments.errors import Failure

RECORDS = 12


def toy(directory: Path, save_every: int = 1, records: int = RECORDS, pause: float = 0.0) -> None:
    """A run in which every record depends on all before it: s ← 3 s + k mod 2³¹ − 1, one row per record."""
    with open_run(directory, {"records": records}):
        rows, arrays, done = load_parts(directory, ["value"], {"s": np.array([1, 2])})
        saved, s, pending = len(rows["value"]), arrays["s"], []
        for k in range(done, records):
            s = (3 * s + k) % (2**31 - 1)
            pending += [s.astype(float)] if k >= saved else []
            time.sleep(pause)
            if (k + 1) % save_every == 0 or k + 1 == records:
                save_part(directory, k + 1, {"value": np.array(pending)}, {"s": s})
                saved, pending = max(saved, k + 1), []


def values(directory: Path) -> list[list[float]]:
    return [row.tolist() for row in load_rows(directory, ["value"])["value"]]


def names(directory: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in directory.glob(pattern))


@pytest.fixture
def whole(tmp_path: Path) -> list[list[float]]:
    toy(tmp_path / "whole", save_every=RECORDS)
    return values(tmp_path / "whole")


# -- kills -----------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing of the run is executed after it."""


@contextmanager
def killed_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Stop before the ``moment``-th change of the folder; yields a function that counts the changes so far."""
    count = 0

    def change(function: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **options: object) -> object:
            nonlocal count
            if count == moment:
                raise Killed
            count += 1
            return function(*arguments, **options)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", change(os.replace))
        patch.setattr(files.tempfile, "mkstemp", change(files.tempfile.mkstemp))
        patch.setattr(checkpoints.Path, "unlink", lambda path, missing_ok=False: unlink(path, missing_ok))
        unlink = change(os_unlink)
        yield lambda: count


def os_unlink(path: Path, missing_ok: bool) -> None:
    if not path.name.startswith(checkpoints.UNFINISHED):  # a process that was killed removes nothing
        os.unlink(path)


@pytest.mark.parametrize("save_every", [1, 3, 5])
def test_a_kill_between_any_two_changes_of_the_folder(
    save_every: int, whole: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)  # slow, and no kill of a process can tell
    moment, ended = 0, False
    while not ended:
        directory = tmp_path / f"killed{moment}"
        with killed_at(moment, monkeypatch) as changes:
            try:
                toy(directory, save_every)
                ended = True
            except Killed:
                assert changes() == moment
        for other in (save_every, 2):  # going on with other cuts gives the same rows
            toy(directory, other)
            assert values(directory) == whole
            assert names(directory, ".unfinished-*") == []
            assert len(names(directory, "state-*")) <= 3  # 3 only if the very last removal was cut off
        moment += 1
    assert moment > 4 * (RECORDS // save_every)  # four changes write a checkpoint, and there are the removals


def test_sigkill_at_random_moments(whole: list[list[float]], tmp_path: Path) -> None:
    root, chance = Path(__file__).parents[2], random.Random(4)
    code = (
        "import sys; from pathlib import Path; from tests.experiments.test_checkpoints import toy\n"
        "print('begins', flush=True); toy(Path(sys.argv[1]), pause=0.002)"
    )
    kills = 0
    while len(names(tmp_path, "killed/state-00000012*")) == 0 and kills < 60:
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], cwd=root, stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": str(root)}) as process:  # fmt: skip
            assert process.stdout is not None and process.stdout.readline() == b"begins\n"
            time.sleep(chance.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        if (tmp_path / "killed" / "config.json").exists():
            seen = values(tmp_path / "killed")
            assert seen == whole[: len(seen)]  # what is there can be read at any moment
        if kills >= 5:
            break
    toy(tmp_path / "killed")
    assert kills >= 3 and values(tmp_path / "killed") == whole


# -- size ------------------------------------------------------------------------------------------------------------------


def test_two_states_are_kept_and_rows_are_written_once(tmp_path: Path) -> None:
    toy(tmp_path, save_every=2, records=8)
    assert names(tmp_path, "state-*") == ["state-0000006.safetensors", "state-0000008.safetensors"]
    assert names(tmp_path, "rows-*") == [f"rows-{k:07d}-{k + 2:07d}.safetensors" for k in (0, 2, 4, 6)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    (tmp_path / "state-0000008.safetensors").unlink()
    toy(tmp_path, save_every=1, records=8)  # records 6 and 7 again; their rows stay
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("rows-*")} == {
        path: at for path, at in before.items() if path.name.startswith("rows")
    }
    assert names(tmp_path, "state-*") == ["state-0000007.safetensors", "state-0000008.safetensors"]


# -- damage ----------------------------------------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> bytes:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[:-5]
    elif how == "empty":
        content = bytearray()
    elif how == "text":
        content = bytearray(b"{" * 100)
    else:
        content[{"header": 20, "first": 3, "last": -1}[how]] ^= 1
    path.write_bytes(content)
    return bytes(content)


DAMAGE = ("cut", "empty", "text", "header", "first", "last")


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_state_is_passed_over(
    how: str, whole: list[list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    toy(directory, save_every=4)
    spoil(directory / "state-0000012.safetensors", how)
    toy(directory, save_every=3)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "state-0000012.safetensors is damaged" in line and "after record 8" in line
    assert values(directory) == whole
    spoil(directory / "state-0000012.safetensors", how)
    spoil(directory / "state-0000009.safetensors", how)
    _, state, done = load_parts(directory, ["value"], {"s": np.array([1, 2])})
    assert done == 0 and state["s"].tolist() == [1, 2]
    toy(directory)
    assert values(directory) == whole and "after record 0" in capsys.readouterr().err
    toy(directory)
    assert capsys.readouterr().err == ""  # it mends itself


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_rows_are_refused_and_left_alone(how: str, whole: list[list[float]], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    toy(directory, save_every=4)
    path = directory / "rows-0000004-0000008.safetensors"
    content = spoil(path, how)
    for read in (lambda: toy(directory), lambda: values(directory)):
        with pytest.raises(Failure, match="rows-0000004-0000008.safetensors is damaged") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(Failure, match="a file is missing"):
        toy(directory)
    (directory / "rows-0000008-0000012.safetensors").unlink()  # "remove it and all later rows"
    toy(directory)
    assert values(directory) == whole


def test_a_damaged_configuration_and_folders_of_others_are_refused(tmp_path: Path) -> None:
    toy(tmp_path / "run")
    config = (tmp_path / "run" / "config.json").read_text()
    for text, message in [(config[:-4], "is damaged"), ("[]", "holds another run"), ("\xff", "is damaged"),
                          (config.replace("12", "13"), "records = 13 there, 12 here")]:  # fmt: skip
        (tmp_path / "run" / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(Failure, match=message):
            toy(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(Failure, match="not empty and holds no run"):
        toy(tmp_path / "other")
    assert names(tmp_path / "other", "*") == ["notes.txt"]
    with pytest.raises(Failure, match="cannot be used"):
        toy(tmp_path / "other" / "notes.txt")


def test_folders_of_earlier_and_later_versions_are_refused(tmp_path: Path) -> None:
    toy(tmp_path)
    with pytest.raises(Failure, match="has no other: another version wrote it"):
        load_rows(tmp_path, ["value", "other"])
    with pytest.raises(Failure, match="has no t: another version wrote it"):
        load_parts(tmp_path, ["value"], {"s": np.zeros(2), "t": np.zeros(2)})
    (tmp_path / "part-0000000-0000001.safetensors").write_bytes(b"")
    with pytest.raises(Failure, match="earlier version"):
        toy(tmp_path)


def test_a_full_disk_is_one_line_and_the_same_run_goes_on(
    whole: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def full(descriptor: int) -> None:
        if names(folder, "rows-*"):
            raise OSError(checkpoints.errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(Failure, match="cannot be written .no space left on device.* run the same command again"):
            toy(folder)
    assert names(folder, ".unfinished-*") == []
    toy(folder)
    assert values(folder) == whole


# -- two at once -----------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = (
        "import sys, time; from pathlib import Path; from experiments.checkpoints import open_run\n"
        "with open_run(Path(sys.argv[1]), {'records': 12}): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(root)}) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        before = names(tmp_path, "*")
        with pytest.raises(Failure, match="is in use by another process"):
            toy(tmp_path)
        assert names(tmp_path, "*") == before
        process.kill()
    toy(tmp_path)
    with open_run(tmp_path, {"records": RECORDS}), pytest.raises(Failure, match="in use"):
        toy(tmp_path)
    toy(tmp_path)


def test_without_locks_a_run_works_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(checkpoints.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(checkpoints, "_lock", refuse)
    toy(tmp_path)
    assert len(values(tmp_path)) == RECORDS
