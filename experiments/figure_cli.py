"""The command ``lop figure``; ``experiments.cli`` adds it to its own."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.errors import Failure
from experiments.figures import SCALES
from experiments.files import named_folder
from experiments.threads import one_thread

__all__ = ["add_figure_command"]

FIGURE_HELP = """\
Reproduce figures: run what they need, draw them, and compare with what is published.

Makes DIR/ID-SCALE/ with figure.pdf, figure.png, data.parquet, table.csv, table.md and provenance.json; runs are kept in
DIR/runs and shared between figures. After an interruption (`kill -9`, too) the same command goes on where it stopped.
Nothing is overwritten: what differs from an earlier call goes to DIR/ID-SCALE-2, and so on.

scales: smoke seconds; teach minutes on two cores, shows the effect; paper the published protocol (`--list` shows the costs)"""

FIGURE_EXAMPLES = """\
examples:
  lop figure --list
  lop figure cbp_permuted_mnist --scale teach --out figures --jobs 2
  lop figure 'cbp*' --scale teach --out figures --data FOLDER

exit status: 0 made, or not run because data are not at hand (a line says which); 2 wrong usage; 130 interrupted"""


def add_figure_command(subparsers: Any) -> None:
    """Add ``figure`` to the sub-commands of ``lop``."""
    parser = subparsers.add_parser("figure", help="reproduce figures of the papers, with a table ours / published / verdict",
                                   description=FIGURE_HELP, epilog=FIGURE_EXAMPLES, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("ids", nargs="*", metavar="ID", help="id of a figure, the unique start of one, or a glob")
    parser.add_argument("--scale", choices=SCALES, default="teach", help="default: %(default)s")
    parser.add_argument("--out", type=named_folder, metavar="DIR", help="folder of figures and of their runs")
    parser.add_argument("--data", metavar="D", help="data folder (default: the environment variable LOP_DATA)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: %(default)s)")
    parser.add_argument(
        "--list", action="store_true", help="print id, source, title and costs of all figures (or of ID…)"
    )
    parser.set_defaults(command=_figure)


def _figure(options: argparse.Namespace) -> int:
    one_thread()
    from experiments.datasets import MissingData, load
    from experiments.figures import registry

    if options.list:
        for name in registry.select(options.ids or ["*"]) if registry.FIGURES else []:
            print(_listed(registry.load(name)))
        return 0
    if not options.ids:
        raise Failure("no figure given; `lop figure --list` shows them all")
    if options.out is None:
        raise Failure("--out is missing; give the folder of figures and of their runs")
    if options.jobs < 1:
        raise Failure(f"jobs = {options.jobs}; give the number of runs at once, at least 1")
    chosen = registry.select(options.ids)
    _check_folders(options)
    for name in chosen:  # damaged data are found before anything runs
        wanted = registry.load(name).needs(options.scale)
        if wanted is not None:
            with suppress(MissingData):
                load(wanted, options.data)
    for name in chosen:
        _make(name, options)
    return 0


def _check_folders(options: argparse.Namespace) -> None:
    from experiments.datasets import data_folder

    if options.data:
        data_folder(options.data)
    begun = next((path for path in (options.out, *options.out.parents) if os.path.exists(path)), Path())
    if not begun.is_dir():
        raise Failure(
            f"--out {options.out} cannot be used: {begun} is not a folder; give a folder, or a name that is free"
        )


def _listed(figure: Any) -> str:
    costs = "\n".join(f"    {scale:5}  {figure.costs[scale]}{_needs(figure, scale)}" for scale in SCALES)
    return f"{figure.id}\n    {figure.title}\n    {figure.source}\n{costs}"


def _needs(figure: Any, scale: str) -> str:
    wanted = figure.needs(scale)
    return f"; needs {wanted}" if wanted else ""


def _make(name: str, options: argparse.Namespace) -> None:
    from experiments.figures.build import make_figure
    from experiments.figures.table import as_markdown

    print(f"{name}: scale {options.scale}", file=sys.stderr)
    made = make_figure(name, options.scale, options.out, options.data, options.jobs)
    if made.missing:
        print(f"{name}: not run: {made.missing}")
    print(as_markdown(made.table), end="")
    if made.folder is not None:
        print(f"{name}: {'made' if made.new else 'unchanged'} {made.folder}")
