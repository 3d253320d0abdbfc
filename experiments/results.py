"""The table of a folder of runs: append-only parts, read and sorted, with the provenance of every row.

A run is a folder with ``config.json`` and parts that are only ever added (``experiments.checkpoints``). The table has one
line per run, seed and task (or record of an online stream). Columns that hold wall time are left out of ``lop results DIR --csv``,
so that two runs of one configuration can be compared with ``diff``.
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

from experiments.checkpoints import load_rows
from experiments.errors import Failure
from experiments.online.config import STREAMS as ONLINE_STREAMS
from experiments.online.runner import COLUMNS
from experiments.run import REASONS
from experiments.run_metrics import measured_columns

__all__ = ["Table", "find_runs", "read_run", "read_runs", "csv_text", "mean_over"]

BASE = ("online_accuracy", "online_loss", "final_train_accuracy", "final_test_accuracy")
PROVENANCE = ("stream", "algorithm", "data_sha256", "torch", "numba", "numpy")


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
    def online(self) -> bool:
        """Whether this is a run on an online stream: T counts records of ``config["every"]`` steps, not tasks."""
        return self.config["stream"] in ONLINE_STREAMS

    @property
    def tasks(self) -> int:
        """T, the tasks (or records) that are finished and saved."""
        return len(self.values["diverged_at"])

    def task_of(self, t: int) -> int:
        """The task that row t belongs to; for online streams the flip period."""
        return int((t + 1) * self.config["every"] - 1) // self.config["flip_period"] if self.online else t

    @property
    def planned(self) -> int:
        """T when the run is finished."""
        return int(self.config["steps"] // self.config["every"] if self.online else self.config["tasks"])

    @property
    def ended(self) -> dict[int, str]:
        """Seeds that diverged, with what happened when."""
        at, reason = self.values["diverged_at"], self.values["reason"]
        when = "in the steps before" if self.online else "at update"  # online losses are looked at record by record
        return {
            seed: f"{REASONS[int(reason[t, r])]} {when} {int(at[t, r])}"
            for r, seed in enumerate(self.seeds)
            for t in np.flatnonzero(~np.isnan(at[:, r]))
        }


def read_runs(directory: Path) -> list[Table]:
    """All runs in a folder (or the one that it is), sorted by name; raises :class:`Failure` if there is none."""
    return [read_run(path) for path in find_runs(directory)]


def find_runs(directory: Path) -> list[Path]:
    """The folders of the runs in a folder (or the one that it is), sorted; raises :class:`Failure` if there is none."""
    if not directory.is_dir():
        raise Failure(f"{directory} is not a folder; give the folder that --out named")
    found = sorted(path.parent for path in [*directory.glob("config.json"), *directory.glob("*/config.json")])
    if not found:
        raise Failure(f"{directory} holds no run; give the folder that --out named")
    return found


def read_run(directory: Path) -> Table:
    """The table of one run; raises :class:`Failure` if a file is damaged or of another kind."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["stream"] in ONLINE_STREAMS:
            return _read_online(directory, config)
        names = [*BASE, *measured_columns(config), "diverged_at", "reason"]
        config["seed"], config["seeds"], config["stream"], config["algorithm"], config["versions"]["torch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path} is no configuration of a run ({error!r}): move it elsewhere") from error
    rows = load_rows(directory, names)
    empty = np.zeros((0, config["seeds"]))
    return Table(directory.name, config, {name: np.array(rows[name]) if rows[name] else empty for name in names})


def _read_online(directory: Path, config: dict[str, Any]) -> Table:
    """As columns "step" and those of ``online.runner``; a replica ends with the record whose loss is not finite."""
    config["versions"]["numba"], config["seeds"], config["algorithm"], config["flip_period"]  # KeyError: no such run
    rows = load_rows(directory, COLUMNS)
    values = {name: np.array(column).reshape(-1, config["seeds"]) for name, column in rows.items()}
    shape = values["online_loss"].shape
    values["step"] = np.broadcast_to(config["every"] * np.arange(1.0, shape[0] + 1)[:, None], shape)
    lost = np.isnan(values["online_loss"])
    first = lost & (np.cumsum(lost, axis=0) == 1)
    values["diverged_at"], values["reason"] = np.where(first, values["step"], np.nan), np.where(first, 1.0, np.nan)
    return Table(directory.name, config, values)


def csv_text(tables: Sequence[Table]) -> str:
    """The sorted table as CSV, without wall time. Numbers are written so that they read back exactly; NaN is empty.

    A replica that diverged has a last line with the reason, and none after it.
    """
    columns = sorted({name for table in tables for name in table.values} - {"diverged_at", "reason"})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "seed", "task", *columns, "ended", *PROVENANCE])
    for table in sorted(tables, key=lambda t: t.run):
        versions = table.config["versions"]
        provenance = [table.config.get(name, versions.get(name, "")) for name in PROVENANCE]
        for r, seed in enumerate(table.seeds):
            for t in range(table.tasks):
                cells = [_cell(table.values[c][t, r]) if c in table.values else "" for c in columns]
                stops = not math.isnan(table.values["diverged_at"][t, r])
                writer.writerow(
                    [table.run, seed, table.task_of(t), *cells, table.ended[seed] if stops else "", *provenance]
                )
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
    part = table.values[name][tasks]
    each = part.mean(axis=0) if len(part) else part
    each = each[~np.isnan(each)]
    if not each.size:
        return math.nan, math.nan
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan
