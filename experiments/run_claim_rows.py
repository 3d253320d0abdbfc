"""Rows of the claims that were judged along a run: in the files of the run, and as they are printed.

One row per seed, task and claim, with the fields of :class:`experiments.live.LiveVerdict`, ``seed`` and ``surprising``. The rows of
a task lie in the files of the run beside its measurements, in the column ``CLAIMS`` (JSON, as bytes): only ever added, and as safe
as these.

A claim that the ledger expects to hold and that fails on a live network is *surprising*: ``lop run`` says so at its end. It does
not change the exit status, because a run is an experiment, not a test.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.checkpoints import load_rows, read_config
from experiments.errors import Failure

__all__ = [
    "CLAIMS",
    "Row",
    "claims_csv",
    "claims_summary",
    "pack",
    "read_claims",
    "stack",
    "surprising_lines",
    "unpack",
]

Row = dict[str, Any]
Bytes = NDArray[np.uint8]

CLAIMS = "claims"
"""The column of the run's files that holds these rows."""

COLUMNS = ("run", "seed", "task", "claim", "verdict", "expected", "surprising", "observed", "predicted", "note")


# -- in the files of a run -------------------------------------------------------------------------------------------------


def pack(rows: Sequence[Row]) -> Bytes:
    """The rows of one task as bytes [L].

    >>> unpack(pack([{"seed": 0}]))
    [{'seed': 0}]
    """
    return np.frombuffer(json.dumps(list(rows), ensure_ascii=True).encode(), dtype=np.uint8)


def stack(packed: Sequence[Bytes]) -> Bytes:
    """The bytes of several tasks as one array [T, L], filled up with spaces, which JSON ignores.

    >>> [unpack(row) for row in stack([pack([]), pack([{"a": 1}])])]
    [[], [{'a': 1}]]
    """
    whole = np.full((len(packed), max(map(len, packed), default=0)), ord(" "), dtype=np.uint8)
    for row, held in zip(whole, packed):
        row[: len(held)] = held
    return whole


def unpack(packed: Bytes) -> list[Row]:
    """The rows of one task; inverse of :func:`pack`."""
    rows: list[Row] = json.loads(packed.tobytes())
    return rows


def read_claims(directory: Path) -> list[Row]:
    """All rows of one run, sorted by seed and task, then in the order in which they were judged; empty if the run judges none."""
    if not read_config(directory).get("claims_every"):
        return []
    rows = [row for packed in load_rows(directory, [CLAIMS])[CLAIMS] for row in unpack(packed)]
    return sorted(rows, key=lambda row: (row["seed"], row["task"]))


# -- what is printed -------------------------------------------------------------------------------------------------------


def claims_csv(directories: Iterable[Path]) -> str:
    """The rows of these runs as CSV; ``note`` says what was compared, or why the claim does not speak about this network.

    Raises :class:`Failure` if none of the runs judges claims.
    """
    directories = sorted(directories, key=lambda path: path.name)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for directory in directories:
        for row in read_claims(directory):
            note = row["error"] or row["applies"] or row["note"]
            named = {**row, "run": directory.name, "note": note, "surprising": "yes" if row["surprising"] else "no"}
            writer.writerow([named[name] for name in COLUMNS])
            count += 1
    if not count:
        raise Failure("no claims were judged in these runs; run with --claims-every N (1: at the start of every task)")
    return out.getvalue()


def claims_summary(directory: Path) -> str:
    """How often each claim had each verdict in a run, one line per claim."""
    counts: dict[str, Counter[str]] = {}
    for row in read_claims(directory):
        counts.setdefault(row["claim"], Counter())[row["verdict"]] += 1
    lines = [
        f"  {claim}: " + ", ".join(f"{verdict} {n}" for verdict, n in sorted(c.items())) for claim, c in counts.items()
    ]
    return "\n".join([f"{directory.name}:", *(lines or ["  no claims were judged"])])


def surprising_lines(directory: Path) -> list[str]:
    """One line for every verdict of a run that contradicts the ledger, and what to do about it."""
    lines = []
    for row in read_claims(directory):
        if row["surprising"]:
            what = f"error ({row['error']})" if row["error"] else f"{row['verdict']} ({row['note']})"
            lines.append(
                f"SURPRISING: claim {row['claim']}, expected to hold, on the network of seed {row['seed']} at the start of "
                f"task {row['task']}: {what}. Please report it with {directory / 'config.json'}"
            )
    return lines
