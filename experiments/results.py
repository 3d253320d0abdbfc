"""The table of a folder of runs: append-only parts, read and sorted, with the provenance of every row.

A run is a folder with ``config.json`` and parts that are only ever added (``experiments.online.checkpoints``). The table has one
line per run, seed and task. Columns that hold wall time are left out of ``lop results DIR --csv``, so that two runs of one
configuration can be compared with ``diff``.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.errors import Failure
from experiments.online.checkpoints import load_parts
from experiments.run import REASONS
from experiments.run_metrics import feature_columns

__all__ = ["Table", "read_run", "read_runs", "csv_text", "mean_over"]

BASE = ("online_accuracy", "online_loss", "final_train_accuracy", "final_test_accuracy")
PROVENANCE = ("run", "stream", "algorithm", "data_sha256", "torch", "numpy")


@dataclass(frozen=True)
class Table:
    """A run as far as it went: its configuration, and ``values[name]`` [T, R] of T tasks and R seeds."""

    run: str
    config: dict[str, Any]
    values: dict[str, NDArray[np.float64]]

    @property
    def seeds(self) -> list[int]:
        """The seeds [R]."""
        return [self.config["seed"] + r for r in range(self.config["seeds"])]

    @property
    def tasks(self) -> int:
        """T, the tasks that are finished and saved."""
        return len(self.values["diverged_at"])

    @property
    def ended(self) -> dict[int, str]:
        """Seeds that diverged, with what happened when."""
        at, reason = self.values["diverged_at"], self.values["reason"]
        return {
            seed: f"{REASONS[int(reason[t, r])]} at update {int(at[t, r])}"
            for r, seed in enumerate(self.seeds)
            for t in np.flatnonzero(~np.isnan(at[:, r]))
        }


def read_runs(directory: Path) -> list[Table]:
    """All runs in a folder (or the one that it is), sorted by name; raises :class:`Failure` if there is none."""
    if not directory.is_dir():
        raise Failure(f"{directory} is not a folder; give the folder that --out named")
    found = sorted(path.parent for path in [*directory.glob("config.json"), *directory.glob("*/config.json")])
    if not found:
        raise Failure(f"{directory} holds no run; give the folder that --out named")
    return [read_run(path) for path in found]


def read_run(directory: Path) -> Table:
    """The table of one run; raises :class:`Failure` if a file is damaged or of another kind."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        names = [*BASE, *feature_columns(len(config["hidden"])), "diverged_at", "reason"]
        config["seed"], config["seeds"], config["stream"], config["algorithm"], config["versions"]["torch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path} is no configuration of a run on images ({error!r}): move it elsewhere") from error
    rows, _ = load_parts(directory, {name: [] for name in names}, {})
    empty = np.zeros((0, config["seeds"]))
    return Table(directory.name, config, {name: np.array(rows[name]) if rows[name] else empty for name in names})


def csv_text(tables: Sequence[Table]) -> str:
    """The sorted table as CSV, without wall time. Numbers are written so that they read back exactly; NaN is empty.

    A replica that diverged has a last line with the reason, and none after it.
    """
    columns = sorted({name for table in tables for name in table.values} - {"diverged_at", "reason"})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "seed", "task", *columns, "ended", *PROVENANCE[1:]])
    for table in sorted(tables, key=lambda t: t.run):
        versions = table.config["versions"]
        provenance = [table.config[name] for name in PROVENANCE[1:4]] + [versions["torch"], versions["numpy"]]
        for r, seed in enumerate(table.seeds):
            for t in range(table.tasks):
                cells = [_cell(table.values[c][t, r]) if c in table.values else "" for c in columns]
                stops = not math.isnan(table.values["diverged_at"][t, r])
                writer.writerow([table.run, seed, t, *cells, table.ended[seed] if stops else "", *provenance])
                if stops:
                    break
    return out.getvalue()


def _cell(value: float) -> str:
    """The shortest text that reads back as this number.

    >>> _cell(0.1), _cell(float("nan"))
    ('0.1', '')
    """
    return "" if math.isnan(value) else repr(float(value))


def mean_over(table: Table, name: str, tasks: slice) -> tuple[float, float]:
    """Mean of a column over some tasks and all seeds, and its standard error over seeds (NaN for one seed).

    >>> values = {"x": np.array([[1.0, 3.0], [2.0, 4.0]]), "diverged_at": np.full((2, 2), np.nan)}
    >>> mean_over(Table("a", {"seed": 0, "seeds": 2}, values), "x", slice(0, 2))
    (2.5, 1.0)
    """
    each = table.values[name][tasks].mean(axis=0)
    each = each[~np.isnan(each)]
    if not len(each):
        return math.nan, math.nan
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan
