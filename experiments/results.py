"""The table of a folder of runs: append-only parts, read and sorted, with the provenance of every row.

A run is a folder with ``config.json`` and parts that are only ever added (``experiments.checkpoints``). The table has one
line per run, seed and task (or record of an online stream). Columns that hold wall time are left out of ``lop results DIR --csv``,
so that two runs of one configuration can be compared with ``diff``.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.checkpoints import load_rows, read_config
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
    config = read_config(directory)
    try:
        names = _checked_columns(config)
    except (ValueError, KeyError, TypeError) as error:
        path = directory / "config.json"
        raise Failure(f"{path} is no configuration of a run ({error!r}): move the folder elsewhere") from error
    rows, seeds = load_rows(directory, names), config["seeds"]
    if any(row.shape != (seeds,) for column in rows.values() for row in column):
        raise Failure(
            f"the rows in {directory} are not of {seeds} seeds, as config.json says: move the folder elsewhere"
        )
    values = {name: np.array(column).reshape(-1, seeds) for name, column in rows.items()}
    return Table(directory.name, config, _completed(config, values) if config["stream"] in ONLINE_STREAMS else values)


def _checked_columns(config: dict[str, Any]) -> list[str]:
    """The columns that are on disk; ``KeyError``, ``TypeError`` or ``ValueError`` if this is no configuration of a run."""
    online = config["stream"] in ONLINE_STREAMS
    for name in ("seeds", *(("steps", "every", "flip_period") if online else ("tasks",))):
        if type(config[name]) is not int or config[name] < 1:
            raise ValueError(f"{name} = {config[name]!r}")
    for name, kind in (("seed", int), ("stream", str), ("algorithm", str), ("versions", dict)):
        if type(config[name]) is not kind:
            raise TypeError(f"{name} = {config[name]!r}")
    config["versions"]["numba" if online else "torch"]
    return list(COLUMNS) if online else [*BASE, *measured_columns(config), "diverged_at", "reason"]


def _completed(config: dict[str, Any], values: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """With the column "step"; a replica of an online stream ends with the record whose loss is not finite."""
    shape = values["online_loss"].shape
    step = np.broadcast_to(config["every"] * np.arange(1.0, shape[0] + 1)[:, None], shape)
    lost = np.isnan(values["online_loss"])
    first = lost & (np.cumsum(lost, axis=0) == 1)
    ends = {"diverged_at": np.where(first, step, np.nan), "reason": np.where(first, 1.0, np.nan)}
    return {**values, "step": step, **ends}


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
