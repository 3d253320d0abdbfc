"""What a reproduced figure is: one record, and the context in which its costly part is computed.

``Data`` is all that crosses from computation to drawing: named long tables, each a dict of columns [N] of numbers or texts.
They are what is kept in ``data.parquet``; measurements and drawing see nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.figures import SCALES
from experiments.figures.intervals import Interval
from experiments.figures.store import read_tables, write_tables
from proofs_checks.claim import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from experiments.execute import Config
    from experiments.results import Table

__all__ = ["SCALES", "Columns", "Context", "Data", "Figure", "Interval", "Source", "grid", "labels", "long_table"]

Columns = Mapping[str, NDArray[Any]]  # columns [N] of one table
Data = Mapping[str, Columns]


@dataclass(frozen=True)
class Figure:
    """A figure of a paper.

    id       the name of its folder in experiments/paper
    title    one line
    source   paper, version, number of the figure
    compute  everything costly, through the context, which keeps what is finished
    measure  every quantity that expected.csv names, by key "quantity[label]"
    draw     puts the data on an empty canvas; may set its size
    costs    for each scale the measured or estimated cost in words ("6 min on 2 cores", "950 GPU hours")
    needs    scale → name of the data set that must be at hand (None: nothing)
    """

    id: str
    title: str
    source: Source
    compute: Callable[[Context], Data]
    measure: Callable[[Data], Mapping[str, Interval]]
    draw: Callable[[Data, Canvas], None]
    costs: Mapping[str, str]
    needs: Callable[[str], str | None] = lambda scale: None

    def __post_init__(self) -> None:
        if set(self.costs) != set(SCALES):
            raise ValueError(
                f"costs of {self.id} are for {sorted(self.costs)}; give one for each of {', '.join(SCALES)}"
            )


@dataclass(frozen=True)
class Context:
    """Where and at which scale a figure is computed. Runs and tables below ``out`` are kept, resumed and shared by figures."""

    scale: str
    out: Path
    data: str | Path | None = None
    jobs: int = 1
    used: dict[str, Any] = field(default_factory=dict, compare=False)  # what was computed or reused, for the provenance

    def choose(self, *, smoke: Any, teach: Any, paper: Any) -> Any:
        """The one of these that belongs to the scale.

        >>> Context("teach", Path()).choose(smoke=1, teach=2, paper=3)
        2
        """
        return {"smoke": smoke, "teach": teach, "paper": paper}[self.scale]

    def runs(self, configs: Mapping[str, Config]) -> dict[str, Table]:
        """label → table of these runs; only what is missing is run, at most ``jobs`` at once."""
        from experiments.execute import read_run
        from experiments.sweep import run_many

        folders = run_many(list(configs.values()), self.out / "runs", data=self.data, jobs=self.jobs)
        tables = {label: read_run(folder) for label, folder in zip(configs, folders)}
        for label, table in tables.items():
            self.used[f"run {table.run}"] = {
                "label": label,
                "seeds": table.seeds,
                "data_sha256": table.config.get("data_sha256", ""),
                "versions": table.config.get("versions", {}),
            }
        return tables

    def table(self, name: str, rows: Callable[[], Mapping[str, ArrayLike]], **key: Any) -> dict[str, NDArray[Any]]:
        """Columns [N] of a computation that is no run (a theory curve, spectra), computed once per name, scale and ``key``.

        ``key`` (numbers and texts) must name all that the result depends on; it is part of the file name, as a hash.
        """
        identity = json.dumps([name, self.scale, key], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
        path = self.out / "tables" / f"{name}-{self.scale}-{digest}.parquet"
        if not path.exists():
            began = time.perf_counter()
            made = {column: np.asarray(values) for column, values in rows().items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tables(path, {name: made}, {"key": identity, "seconds": f"{time.perf_counter() - began:.1f}"})
        self.used[f"table {path.name}"] = {"key": key}
        return dict(read_tables(path)[name])

    def stacked(
        self, make: Callable[..., Mapping[str, NDArray[Any]]], calls: Sequence[tuple[Any, ...]]
    ) -> dict[str, NDArray[Any]]:
        """The tables ``make(self, label, …)`` of all calls (label, …) below each other, with a column ``label``; ``jobs`` at once.

        ``make``, a function of a module, keeps what it returns by :meth:`table`: the workers compute, this process reads.
        """
        from joblib import Parallel, delayed

        Parallel(n_jobs=self.jobs)(delayed(make)(self, *call) for call in calls)
        tables = [make(self, *call) for call in calls]
        parts = [{"label": np.full(len(table["task"]), call[0], object), **table} for call, table in zip(calls, tables)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# -- from runs to data and back --------------------------------------------------------------------------------------------


def long_table(tables: Mapping[str, Table], columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Runs by label as one long table: ``label``, ``seed``, ``task`` (its number, or that of the record) and the columns, [N] each.

    A replica that diverged has NaN from there on.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    for label, table in tables.items():
        shape = table.values[columns[0]].shape
        seeds, tasks = np.broadcast_to(table.seeds, shape), np.broadcast_to(np.arange(shape[0])[:, None], shape)
        part = {"label": np.full(shape, label, dtype=object), "seed": seeds, "task": tasks}
        parts.append({name: a.ravel() for name, a in (part | {c: table.values[c] for c in columns}).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def grid(table: Columns, column: str, label: str) -> NDArray[np.float64]:
    """The column of one label as values [T, R] of T tasks and R seeds; inverse of :func:`long_table`.

    >>> columns = {"label": np.array(["a", "a", "b"]), "seed": np.array([1, 0, 0]), "task": np.zeros(3, int)}
    >>> grid({**columns, "x": np.array([5.0, 3.0, 7.0])}, "x", "a").tolist()
    [[3.0, 5.0]]
    """
    own = table["label"] == label
    if not own.any():
        raise ValueError(f"label = {label!r} is not in the table; it has {', '.join(labels(table))}")
    tasks, t = np.unique(table["task"][own], return_inverse=True)
    seeds, r = np.unique(table["seed"][own], return_inverse=True)
    values = np.full((len(tasks), len(seeds)), np.nan)
    values[t, r] = table[column][own]
    return values


def labels(table: Columns) -> list[str]:
    """The labels of a table, in the order in which they come.

    >>> labels({"label": np.array(["b", "a", "b"])})
    ['b', 'a']
    """
    return list(dict.fromkeys(map(str, table["label"])))
