"""Make a figure: compute (or resume), measure, judge, draw, and keep everything in a folder of its own.

``DIR/ID-SCALE/`` holds ``figure.pdf``, ``figure.png``, ``data.parquet`` (all that was drawn), ``table.csv``, ``table.md`` and
``provenance.json``. The folder is made whole and then renamed into place. Nothing is ever overwritten: if the same call gives
the same contents, the folder is left alone; if anything differs (other versions, another drawing), they go to ``ID-SCALE-2``, ….
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.datasets import MissingData
from experiments.datasets import load as load_data
from experiments.errors import Failure
from experiments.figures import registry, style
from experiments.figures.record import SCALES, Context, Data, Figure
from experiments.figures.store import write_tables
from experiments.figures.table import Expected, Judged, as_csv, as_markdown, judge_all, read_expected
from experiments.files import UNFINISHED

__all__ = ["Made", "make_figure", "build"]

HOUR = 3600.0  # seconds; a folder is made in a few
PACKAGES = ("lop-theory", "torch", "numpy", "scipy", "matplotlib", "pyarrow")


@dataclass(frozen=True)
class Made:
    """A figure as it was made: its folder (None if it was not run), whether that is new, the table, and why it was not run."""

    folder: Path | None
    new: bool
    table: list[Judged]
    missing: str = ""


def make_figure(figure_id: str, scale: str, out: Path, data: str | Path | None = None, jobs: int = 1) -> Made:
    """Make the figure with this id; what an earlier call finished is reused. Raises :class:`Failure` for what cannot run."""
    figure = registry.load(figure_id)
    return build(figure, read_expected(registry.expected_path(figure_id)), scale, out, data, jobs)


def build(
    figure: Figure, expected: list[Expected], scale: str, out: Path, data: str | Path | None = None, jobs: int = 1
) -> Made:
    """Make a figure from its record. Data that are not there are an outcome, not an error: every row is *not run*."""
    if scale not in SCALES:
        raise Failure(f"scale = {scale!r}; choose one of {', '.join(SCALES)}")
    began = time.perf_counter()
    context, wanted = Context(scale, out, data, jobs), figure.needs(scale)
    try:
        if wanted is not None:
            load_data(wanted, data)
        _folder(out)
        computed = figure.compute(context)
    except MissingData as error:
        return Made(None, False, judge_all(expected, {}, scale, figure.costs, f"data: {error}"), f"data: {error}")
    table = judge_all(expected, figure.measure(computed), scale, figure.costs)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out) as name:
        made = Path(name) / "figure"
        made.mkdir()
        _write_contents(made, figure, computed, table)
        digests = _digests(made)
        for folder in _numbered(out / f"{figure.id}-{scale}"):
            if not folder.exists():
                _write_provenance(made, figure, context, digests, time.perf_counter() - began)
                os.rename(made, folder)  # a folder that is not empty is never replaced
                return Made(folder, True, table)
            if _digests(folder) == digests:
                return Made(folder, False, table)
    raise AssertionError("there is always a free number")


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(f"{UNFINISHED}*"):
            if time.time() - left.stat().st_mtime > HOUR:  # younger ones may belong to another process
                shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise Failure(f"{out} cannot be used: {(error.strerror or str(error)).lower()}") from error


def _numbered(stem: Path) -> Iterator[Path]:
    yield stem
    for k in itertools.count(2):
        yield stem.with_name(f"{stem.name}-{k}")


def _write_contents(folder: Path, figure: Figure, data: Data, table: list[Judged]) -> None:
    """Everything but the provenance; the same data give the same bytes, because no date is written."""
    write_tables(folder / "data.parquet", data, {"figure": figure.id})
    (folder / "table.csv").write_text(as_csv(table), encoding="utf-8")
    (folder / "table.md").write_text(f"# {figure.title}\n\n{figure.source}\n\n{as_markdown(table)}", encoding="utf-8")
    with style.rc():
        canvas = style.canvas()
        figure.draw(data, canvas)
        for kind, about in (("pdf", {"CreationDate": None}), ("png", {})):
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=kind, metadata={"Title": figure.title, **about})
            (folder / f"figure.{kind}").write_bytes(buffer.getvalue())


def _digests(folder: Path) -> dict[str, str]:
    names = ("data.parquet", "figure.pdf", "figure.png", "table.csv", "table.md")
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name in names if (path := folder / name).is_file()}


def _write_provenance(
    folder: Path, figure: Figure, context: Context, digests: Mapping[str, str], seconds: float
) -> None:
    document: dict[str, Any] = {
        "figure": figure.id,
        "title": figure.title,
        "source": str(figure.source),
        "scale": context.scale,
        "computed": context.used,  # runs are named by a hash of their configuration, which is in runs/NAME/config.json
        "sha256": digests,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "jobs": context.jobs,
        "seconds_of_this_call": round(seconds, 1),  # what earlier calls finished is not in it
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / "provenance.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
