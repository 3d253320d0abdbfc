"""Checkpoints of a run (on images or online) as a folder: rows that are only ever added, the two newest states, and a lock.

========================  ==============================================================================================
config.json               what must be the same for the run to go on
rows-{a}-{b}.safetensors  the rows of the records a … b − 1, written once; together they have no gap and no overlap
state-{b}.safetensors     the complete state after record b − 1; only the newest and the one before are kept
.lock                     locked while a process writes here; the lock ends with the process, however that ends
.unfinished-*             what a kill in the middle of writing leaves behind; never read, removed by the next run
========================  ==============================================================================================

A file is whole or not there (:mod:`experiments.files`). A checkpoint is rows first, then the state, then the removal of older
states. So after a kill at any moment the newest state has all of its rows, and going on from it computes at most the records
since then again; rows that are there already are not written again. Files are in the safetensors format: plain arrays, no
code, read without pickle. A digest of the contents detects damage: a damaged state is passed over for the one before (or for
the beginning), with a line on stderr; damaged rows are refused. A record is a task of a run on images.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from experiments.errors import Failure, InUse
from experiments.files import UNFINISHED, write_whole

__all__ = ["check_outside", "load_parts", "load_rows", "open_run", "read_config", "save_part"]

LOCK = ".lock"
SHOWN = 5  # differences between two configurations
KEPT = 2  # states: the newest, and one more in case the newest is damaged
Arrays = Mapping[str, NDArray[Any]]


# -- the folder ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_run(directory: Path | None, config: dict[str, Any]) -> Iterator[None]:
    """Hold the folder of this run, made if need be, as the only process; None: a run without a folder.

    Raises :class:`Failure` for the folder of another run or of none, or inside a run, and if another process holds it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name, open_run(Path(name), {"seeds": 3}):
    ...     sorted(path.name for path in Path(name).iterdir())
    ['.lock', 'config.json']
    """
    with contextlib.ExitStack() as held:
        try:
            if directory is not None:
                check_outside(directory.parent)
                directory.mkdir(parents=True, exist_ok=True)
                _check_owner(directory, config)  # before the lock: nothing is written into a folder that is not ours
                held.enter_context(_locked(directory))
                _check_owner(directory, config)
                _tidy(directory, config)
        except OSError as error:
            raise Failure(f"{directory} cannot be used: {(error.strerror or str(error)).lower()}") from error
        yield


def check_outside(out: Path) -> None:
    """:class:`Failure` if the folder where runs are to be is a run itself."""
    with contextlib.suppress(OSError):  # what is wrong with the path is said where it is made
        if (out / "config.json").exists():
            raise Failure(
                f"{out} is the folder of a run, which holds no others: choose the folder above it, or a new one"
            )


def _check_owner(directory: Path, config: dict[str, Any]) -> None:
    """:class:`Failure` unless the folder is empty or holds this run."""
    path = directory / "config.json"
    if not path.exists():
        if any(entry.name != LOCK and not entry.name.startswith(UNFINISHED) for entry in directory.iterdir()):
            raise Failure(f"{directory} is not empty and holds no run: choose a new folder")
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(f"{path} is damaged ({error}): choose a new folder") from error
    if held != config:
        names = [name for name in config if not isinstance(held, dict) or held.get(name) != config[name]]
        names = names[: SHOWN if isinstance(held, dict) else 0]
        shown = ", ".join(f"{n} = {held.get(n)!r} there, {config[n]!r} here" for n in names)
        raise Failure(f"{directory} holds another run ({shown or 'different keys'}): choose a new folder")
    if any(directory.glob("part-*.safetensors")):
        raise Failure(f"{directory} was written by an earlier version (part-*.safetensors): choose a new folder")


def _tidy(directory: Path, config: dict[str, Any]) -> None:
    """Remove what a kill left behind, and write the configuration if there is none."""
    for path in directory.glob(UNFINISHED + "*"):
        path.unlink()
    if not (directory / "config.json").exists():
        write_whole(directory / "config.json", (json.dumps(config, indent=1) + "\n").encode())


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a folder. File systems without locks, and folders that can only be read, are used without."""
    try:
        file = open(directory / LOCK, "ab")  # noqa: SIM115  closed below
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield
        return
    with file:
        try:
            _lock(file.fileno())
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                raise InUse(f"{directory} is in use by another process: wait until it ends, or stop it") from error
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
        yield


def _lock(descriptor: int) -> None:
    """Lock an open file at once or raise ``OSError``; the system ends the lock with the last process that has it open."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- writing ---------------------------------------------------------------------------------------------------------------


def save_part(directory: Path, stop: int, rows: Arrays, state: Arrays) -> None:
    """Write the state after ``stop`` records, and before it the rows [n, …] of the last n of these (n = 0: they are there).

    Raises :class:`Failure` if that is impossible, such as on a full disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     save_part(Path(name), 2, {"loss": np.ones((2, 3))}, {"w": np.zeros(3)})
    ...     rows, state, done = load_parts(Path(name), ["loss"], {"w": np.ones(3)})
    >>> len(rows["loss"]), state["w"].tolist(), done
    (2, [0.0, 0.0, 0.0], 2)
    """
    count = len(next(iter(rows.values())))
    try:
        if count:
            _write_arrays(directory / f"rows-{stop - count:07d}-{stop:07d}.safetensors", rows)
        _write_arrays(directory / f"state-{stop:07d}.safetensors", state)
    except OSError as error:
        raise Failure(
            f"{directory} cannot be written ({(error.strerror or str(error)).lower()}) after record {stop}: what was saved "
            "before is kept; make room, then run the same command again"
        ) from error
    stops = _states(directory)
    kept = [s for s in stops if s <= stop][-KEPT:]  # later ones were damaged, or this run would have gone on from them
    for other in set(stops) - set(kept):
        (directory / f"state-{other:07d}.safetensors").unlink()


def _write_arrays(path: Path, arrays: Arrays) -> None:
    whole = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    write_whole(path, save(whole, metadata={"sha256": _digest(whole)}))


# -- reading ---------------------------------------------------------------------------------------------------------------


def load_parts(
    directory: Path, names: Sequence[str], initial: Arrays
) -> tuple[dict[str, list[NDArray[Any]]], dict[str, NDArray[Any]], int]:
    """All rows by column, one array per record; the state to go on from; and after how many records that was.

    There may be rows of later records: these are computed again, and are the same. Without any state that is whole, that is
    ``initial``, after 0 records. ``initial`` also says which arrays a state has.
    """
    rows = load_rows(directory, names)
    records = len(rows[names[0]])
    passed = []
    for stop in reversed(_states(directory)):
        path = directory / f"state-{stop:07d}.safetensors"
        try:
            state = _read(path, initial) if stop <= records else None
        except _DamageError as damage:
            passed.append(str(damage))
            continue
        if state is not None:
            _say(passed, stop)
            return rows, state, stop
        passed.append(f"{path} has no rows")
    _say(passed, 0)
    return rows, dict(initial), 0


def read_config(directory: Path) -> dict[str, Any]:
    """What ``config.json`` of a run holds; raises :class:`Failure` if that is no JSON object."""
    path = directory / "config.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(f"{path} cannot be read ({error}): move the folder elsewhere") from error
    if not isinstance(held, dict):
        raise Failure(f"{path} is no configuration of a run: move the folder elsewhere")
    return held


def load_rows(directory: Path, names: Sequence[str]) -> dict[str, list[NDArray[Any]]]:
    """All rows so far by column, one array per record; also while another process adds some.

    Raises :class:`Failure` if a file is damaged or missing.
    """
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    done = 0
    for start, stop in _numbers(directory, r"rows-(\d+)-(\d+)\.safetensors"):
        path = directory / f"rows-{start:07d}-{stop:07d}.safetensors"
        if start != done:
            raise Failure(f"{path} starts at record {start}, the records before it end at {done}: a file is missing")
        try:
            arrays = _read(path, rows)
        except _DamageError as damage:
            raise Failure(f"{damage}: remove it and all later rows, then run again") from damage
        for name, column in rows.items():
            column.extend(arrays[name])
        done = stop
    return rows


def _states(directory: Path) -> list[int]:
    """After how many records there is a state, in ascending order."""
    return [stop for (stop,) in _numbers(directory, r"state-(\d+)\.safetensors")]


def _numbers(directory: Path, pattern: str) -> list[tuple[int, ...]]:
    matches = [re.fullmatch(pattern, path.name) for path in directory.iterdir()]
    return sorted(tuple(map(int, match.groups())) for match in matches if match)


def _say(passed: Sequence[str], stop: int) -> None:
    if passed:
        print(f"{'; '.join(passed)}: going on after record {stop}", file=sys.stderr)


class _DamageError(Exception):
    """A file is not what was written."""


def _read(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays of these names; :class:`_DamageError` for a damaged file, :class:`Failure` for one with other arrays."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
            digest = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, ValueError) as error:
        raise _DamageError(f"{path} is damaged ({error})") from error
    if digest != _digest(arrays):
        raise _DamageError(f"{path} is damaged (its digest differs)")
    if missing := sorted(set(names) - arrays.keys()):
        raise Failure(f"{path} has no {', '.join(missing)}: another version wrote it; choose a new folder")
    return arrays


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
