"""The data of a figure as one parquet file: all its tables below each other, with a column ``table`` that tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from experiments.errors import Failure
from experiments.files import write_whole

__all__ = ["read_tables", "write_tables"]


def write_tables(
    path: Path, tables: Mapping[str, Mapping[str, NDArray[Any]]], notes: Mapping[str, str] | None = None
) -> None:
    """Write named tables of columns [N], and texts about them in the metadata of the file, all or nothing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, first = Path(folder) / "data.parquet", {"x": np.arange(2), "who": np.array(["u", "v"])}
    ...     write_tables(path, {"a": first, "b": {"y": np.ones(1)}})
    ...     back = read_tables(path)
    >>> back["a"]["x"].tolist(), back["a"]["who"].tolist(), back["b"]["y"].tolist(), sorted(back["b"])
    ([0, 1], ['u', 'v'], [1.0], ['y'])
    """
    parts = [pa.table({"table": [name] * _rows(name, columns), **_plain(columns)}) for name, columns in tables.items()]
    whole = pa.concat_tables(parts, promote_options="permissive")
    # Which table has which column: a column that another table lacks is null there, and so is a missing number.
    own = {f"columns {name}": "\n".join(columns) for name, columns in tables.items()}
    whole = whole.replace_schema_metadata({**own, **(notes or {})})
    sink = pa.BufferOutputStream()
    pq.write_table(whole, sink)
    write_whole(path, sink.getvalue().to_pybytes())


def _rows(name: str, columns: Mapping[str, NDArray[Any]]) -> int:
    sizes = {column: np.shape(values) for column, values in columns.items()}
    if len(set(sizes.values())) != 1 or any(len(shape) != 1 for shape in sizes.values()):
        raise ValueError(f"table {name!r} has columns of shapes {sizes}; give columns [N] of one length")
    return int(next(iter(sizes.values()))[0])


def _plain(columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: pa.array(np.asarray(values).tolist()) for name, values in columns.items()}


def read_tables(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """The tables of a file of :func:`write_tables`; texts come back as objects, missing numbers as NaN."""
    try:
        whole = pq.read_table(path)
        own = {
            k.decode()[8:]: v.decode().split("\n")
            for k, v in whole.schema.metadata.items()
            if k.startswith(b"columns ")
        }
    except (OSError, pa.ArrowException, AttributeError) as error:
        raise Failure(f"{path} is damaged ({' '.join(str(error).split())}): remove it, then run again") from error
    names = np.array(whole["table"].to_pylist(), dtype=object)
    made: dict[str, dict[str, NDArray[Any]]] = {}
    for name, columns in own.items():
        part = whole.filter(pa.array(names == name))
        made[name] = {column: _numpy(part[column]) for column in columns}
    return made


def _numpy(column: Any) -> NDArray[Any]:
    array: NDArray[Any] = column.to_numpy()
    return array
