"""What figures about online streams have in common: records of runs as one long table, and means over a part of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.figures.record import Columns, grid, long_table

if TYPE_CHECKING:
    from experiments.results import Table

__all__ = ["during", "records", "steps"]

FloatArray = NDArray[np.float64]


def records(tables: Mapping[str, Table], columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The :func:`~experiments.figures.record.long_table` of online runs, with ``step``; ``task`` is the number of the record."""
    return long_table(tables, ["step", *columns])


def steps(data: Columns, label: str) -> NDArray[np.int64]:
    """After how many steps the records of a label are, [T].

    >>> steps({"label": np.array(["a", "a", "b"]), "step": np.array([20.0, 10.0, 7.0])}, "a").tolist()
    [10, 20]
    """
    return np.unique(data["step"][data["label"] == label]).astype(np.int64)


def during(data: Columns, column: str, label: str, start: float, stop: float) -> FloatArray:
    """Mean [R] of a column over the records that end in (start, stop], shares of the run; at least the first one there is.

    NaN for a replica that diverged before ``stop``.

    >>> rows = {"label": np.array(["a"] * 4), "seed": np.zeros(4), "task": np.arange(4), "step": np.arange(1, 5.0)}
    >>> during(rows | {"x": np.array([1.0, 2.0, 3.0, 5.0])}, "x", "a", 0.5, 1.0).tolist()
    [4.0]
    """
    values, step = grid(data, column, label), steps(data, label)
    chosen = (step > start * step[-1]) & (step <= stop * step[-1])
    if not chosen.any():
        chosen[np.searchsorted(step, stop * step[-1])] = True
    mean: FloatArray = values[chosen].mean(axis=0)
    return mean
