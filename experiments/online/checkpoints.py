"""Checkpoints of a run as a folder that only grows: ``config.json`` and one file per stretch of records.

A part holds the rows of its records and the complete state at its end, and is renamed into place when it is whole. So a
kill at any moment leaves a valid folder, and going on from it repeats at most the records since the last part. Files are
in the safetensors format: plain arrays, no code, read without pickle. A digest of the contents detects damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from experiments.errors import Failure

__all__ = ["open_run", "save_part", "load_parts"]

UNFINISHED = ".unfinished-"  # what a kill in the middle of writing leaves behind; never read
Arrays = Mapping[str, NDArray[Any]]


def open_run(directory: Path, config: dict[str, Any]) -> None:
    """Make the folder for this run, or make sure that it is this run's; raises :class:`Failure` otherwise."""
    path = directory / "config.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(not entry.name.startswith(UNFINISHED) for entry in directory.iterdir()):
                raise Failure(f"{directory} is not empty and holds no run: choose a new folder")
            _write(path, (json.dumps(config, indent=1) + "\n").encode())
            return
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{directory} cannot be used: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise Failure(f"{path} is damaged ({error}): choose a new folder") from error
    if held != config:
        names = [name for name in config if not isinstance(held, dict) or held.get(name) != config[name]]
        shown = ", ".join(f"{n} = {held.get(n)!r} there, {config[n]!r} here" for n in names if isinstance(held, dict))
        raise Failure(f"{directory} holds another run ({shown or 'different keys'}): choose a new folder")


def save_part(directory: Path, start: int, stop: int, rows: Arrays, state: Arrays) -> None:
    """Write records ``start`` … ``stop`` − 1 and the state after them.

    >>> with tempfile.TemporaryDirectory() as name:
    ...     save_part(Path(name), 0, 2, {"loss": np.ones((2, 3))}, {"w": np.zeros(3)})
    ...     rows, state = load_parts(Path(name), {"loss": []}, {"w": np.ones(3)})
    >>> len(rows["loss"]), state["w"].tolist()
    (2, [0.0, 0.0, 0.0])
    """
    arrays = {f"rows.{name}": a for name, a in rows.items()} | {f"state.{name}": a for name, a in state.items()}
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    _write(directory / f"part-{start:07d}-{stop:07d}.safetensors", save(arrays, metadata={"sha256": _digest(arrays)}))


def load_parts(
    directory: Path, rows: dict[str, list[NDArray[np.float64]]], state: Arrays
) -> tuple[dict[str, list[NDArray[np.float64]]], dict[str, NDArray[Any]]]:
    """All rows so far, appended to ``rows``, and the last state (``state`` if there is no part yet)."""
    last = dict(state)
    done = 0
    for path in sorted(directory.glob("part-*.safetensors")):
        start, stop = (int(number) for number in path.stem.split("-")[1:])
        if stop <= done:
            continue  # written twice, with other cuts, by a run that was started again: the same rows
        if start != done:
            raise Failure(
                f"{path} starts at record {start}, but the records before it end at {done}: a file is missing"
            )
        arrays = _read(path)
        for name, column in rows.items():
            column.extend(arrays[f"rows.{name}"])
        last = {name: arrays[f"state.{name}"] for name in state}
        done = stop
    return rows, last


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
            digest = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, ValueError) as error:
        raise Failure(f"{path} is damaged ({error}): remove it and all later parts, then run again") from error
    if digest != _digest(arrays):
        raise Failure(f"{path} is damaged (its digest differs): remove it and all later parts, then run again")
    return arrays


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """All or nothing: write beside, flush to the disk, rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
