"""The command ``lop data``; ``experiments.cli`` adds it to its own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from experiments.errors import Failure

__all__ = ["add_data_command"]

DATA_HELP = """\
Say which data sets are at hand: each is read and checked as a run would do it. Nothing is downloaded.

A run takes its images from the data folder, `--data D` or else the environment variable LOP_DATA; `digits` needs none."""

FETCH_HELP = """\
Download data sets into the data folder, each file only if it is not there. A file gets its name when it is complete
and its checksum is right; after an interruption the same command goes on with the files that are missing."""

DATA_EXAMPLES = """\
examples:
  lop data --data FOLDER
  lop data fetch mnist cifar100 --data FOLDER      needs a network and pip install 'lop-theory[data]'

exit status: 0 shown, or fetched and checked; 2 wrong usage, no network, or a wrong checksum; 130 interrupted"""


def add_data_command(subparsers: Any) -> None:
    """Add ``data`` to the sub-commands of ``lop``."""
    style: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = subparsers.add_parser("data", help="say which data sets are at hand, and fetch them where there is a network",
                                   description=DATA_HELP, epilog=DATA_EXAMPLES, **style)  # fmt: skip
    parser.add_argument("--data", metavar="D", help="data folder (default: the environment variable LOP_DATA)")
    parser.set_defaults(command=_list)
    commands = parser.add_subparsers(title="commands", metavar="fetch")
    fetch = commands.add_parser(
        "fetch", help="download data sets into the data folder", description=FETCH_HELP, **style
    )
    fetch.add_argument("names", nargs="+", metavar="NAME", help="data set, as `lop data` lists them")
    # without a default of its own, which would replace what was given before `fetch`
    fetch.add_argument("--data", metavar="D", default=argparse.SUPPRESS,
                       help="data folder, made if there is none (default: the environment variable LOP_DATA)")  # fmt: skip
    fetch.set_defaults(command=_fetch)


# -- lop data --------------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from experiments.datasets import DATASETS, VARIABLE, data_folder

    root = data_folder(options.data)
    print(f"data folder: {root or f'none; give --data FOLDER or set {VARIABLE}=FOLDER'}")
    for name in DATASETS:
        print("\n".join(_described(name, root)))
    return 0


def _described(name: str, root: Path | None) -> list[str]:
    """A few lines: whether the set is at hand, where it is (or what to put where), its terms of use."""
    from experiments.datasets import SETS, DataError, MissingData, load
    from experiments.download import REMOTES

    about = SETS[name]
    try:
        images = load(name, root)
    except MissingData as error:
        fetch = f"lop data fetch {name} --data {root or 'FOLDER'}"
        lines = [
            f"{name}: not at hand",
            f"put      {about.wanted.rstrip(',')}",
            f"into     {root or 'the data folder'}",
        ]
        lines += [f"but      {error.found}"] if error.found else []
        lines += [f"or       {fetch}"] if name in REMOTES else []
    except (DataError, ValueError) as error:
        lines = [f"{name}: NOT USABLE", f"because  {error}"]
    else:
        shape = "×".join(map(str, images.shape))
        lines = [f"{name}: ready, {len(images.y):,} images {shape} in {images.num_classes} classes"]
        lines += [f"in       {place}" for place in _places(about.files, root)]
        lines += [f"checked  {about.checked}"]
    return [lines[0], *(f"  {line}" for line in (*lines[1:], f"terms    {about.terms}"))]


def _places(patterns: tuple[str, ...], root: Path | None) -> list[str]:
    """The files and folders just below the data folder that hold the set."""
    if root is None:
        return []
    return sorted({str(root / path.relative_to(root).parts[0]) for p in patterns for path in root.glob(p)})


# -- lop data fetch --------------------------------------------------------------------------------------------------------


def _fetch(options: argparse.Namespace) -> int:
    from experiments.datasets import DATASETS, SETS, VARIABLE

    for name in options.names:
        if name not in SETS:
            raise Failure(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    folder = options.data or os.environ.get(VARIABLE)
    if not folder:
        raise Failure(f"there is no data folder to fetch into: give --data FOLDER or set {VARIABLE}=FOLDER")
    if Path(folder).expanduser().exists() and not Path(folder).expanduser().is_dir():
        raise Failure(f"data folder {folder} is a file; give another folder")
    for name in dict.fromkeys(options.names):
        _fetch_one(name, Path(folder).expanduser())
    return 0


def _fetch_one(name: str, root: Path) -> None:
    from experiments.datasets import SETS, DataError, MissingData, load
    from experiments.download import download

    try:
        if not SETS[name].files or root.is_dir():
            load(name, root)
            print(f"{name}: already at hand")
            return
    except MissingData:
        pass
    except DataError as error:
        raise DataError(f"{error} (nothing is overwritten: move it away first)") from error
    new = download(name, root, report=lambda line: print(line, file=sys.stderr), progress=_progress())
    images = load(name, root)
    print(
        f"{name}: fetched {len(new)} file{'s' if len(new) > 1 else ''} to {root}, {len(images.y):,} images; {SETS[name].terms}"
    )


def _progress() -> Any:
    return _Progress() if sys.stderr.isatty() else False


class _Progress:
    """Megabytes on stderr; pooch sets ``total`` (0 if unknown) and calls the rest."""

    def __init__(self) -> None:
        self.total, self.done, self.shown = 0, 0, -1

    def update(self, count: int) -> None:
        self.done += count
        if (megabytes := self.done >> 20) != self.shown:
            self.shown = megabytes
            of = f" of {self.total >> 20}" if self.total else ""
            print(f"  {megabytes}{of} MB", file=sys.stderr, end="\x1b[K\r", flush=True)

    def reset(self) -> None:
        self.done, self.shown = 0, -1

    def close(self) -> None:
        print(end="\x1b[K", file=sys.stderr, flush=True)
        self.reset()
