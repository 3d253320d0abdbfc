"""One door for both kinds of runs: streams of images (``run.py``) and online regression (``online/``).

The two have a configuration each, :class:`Run` and :class:`Online`; the name of the stream says which. What they share has
the same name in both, so one command line serves them, and so do the folders of runs and the tables in them.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import run_config
from experiments.online.config import STREAMS as ONLINE_STREAMS
from experiments.online.config import Online
from experiments.run_config import Run, run_name

if TYPE_CHECKING:
    from experiments.results import Table

__all__ = ["Config", "Row", "add_options", "execute", "from_options", "read_run", "rows_per_seed", "run_name"]

Config = Run | Online
Row = dict[str, float]

SHARED = {f.name for f in fields(Run)} & {f.name for f in fields(Online)} - {"stream"}


def execute(
    config: Config,
    folder: Path | None = None,
    data: str | Path | None = None,
    save_every: int | None = None,
    threads: int = 1,
) -> Iterator[Row]:
    """Run, or go on with what ``folder`` holds of this very run; yields its rows, those of earlier calls first.

    A row belongs to a seed and a task (images) or record (online); ``data`` is for images only, ``threads`` for online
    streams only. ``save_every`` counts rows of a seed. The last three change no row, except its ``seconds``: the wall
    time, NaN for an online record that was made earlier. Raises :class:`Failure` before anything trains.

    >>> [row["step"] for row in execute(Online(steps=200, every=100, seeds=1))]
    [100, 200]
    >>> len(list(execute(Run(stream="permuted-images", tasks=1, seeds=2, examples=80, hidden=(8,)))))
    2
    """
    if isinstance(config, Run):
        from experiments.run import run

        yield from run(config, folder, data=data, save_every=save_every)
        return
    from experiments.online.runner import records

    for record in records(config, folder, threads=threads, save_every=save_every):
        task = (record.step - 1) // config.flip_period
        for s in range(config.seeds):
            values = {name: float(column[s]) for name, column in record.values.items()}
            yield {"seed": config.seed + s, "task": task, "step": record.step, **values, "seconds": record.seconds}


def rows_per_seed(config: Config) -> int:
    """How many rows a seed has when the run is finished.

    >>> rows_per_seed(Online(steps=400, every=100)), rows_per_seed(Run(stream="permuted-images", tasks=7))
    (4, 7)
    """
    return config.tasks if isinstance(config, Run) else config.records


def read_run(folder: Path) -> Table:
    """The table of the run in a folder, as far as it went; see ``experiments.results``, which is not loaded before."""
    from experiments import results

    return results.read_run(folder)


# -- the command line ------------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The stream and one option per field of either configuration; only what is given appears in the result."""
    run_config.add_options(parser)
    group = parser.add_argument_group(f"the online streams {' and '.join(ONLINE_STREAMS)}", _shared())
    for item in fields(Online):
        if item.metadata and item.name not in SHARED:
            run_config.add_option(group, item)


def _shared() -> str:
    """What they take of the options of the other streams, and how."""
    own = {f.name: f for f in fields(Online)}
    parts = ["--tasks (flip periods)"] + [_described(own[name]) for name in own if name in SHARED]
    return textwrap.fill(f"Of the options above they take {', '.join(parts)}. Their own:", 110)


def _described(item: Field[Any]) -> str:
    default = "" if item.default in (None, MISSING) else f"default {item.default}"
    choices = item.metadata["help"] if item.metadata["help"].startswith("one of") else ""
    notes = "; ".join(part for part in (choices, default) if part)
    return f"--{run_config.dashed(item.name)}" + (f" ({notes})" if notes else "")


def from_options(options: Mapping[str, Any]) -> Config:
    """The run that these parsed options describe; keys that are no field of a configuration are ignored.

    Raises ``ValueError`` for what does not belong to the stream, is unknown or impossible.

    >>> parser = argparse.ArgumentParser()
    >>> add_options(parser)
    >>> from_options(vars(parser.parse_args(["bit-flipping", "--tasks", "3", "--hidden", "10"]))).steps
    30000
    >>> from_options(vars(parser.parse_args(["bit-flipping", "--epochs", "3"])))
    Traceback (most recent call last):
    ...
    ValueError: epochs = 3; stream 'bit-flipping' does not use it: leave it out
    """
    known = (*run_config.STREAMS, *ONLINE_STREAMS)
    if options["stream"] not in known:
        raise ValueError(f"stream {options['stream']!r} is unknown; choose one of {', '.join(known)}")
    online = options["stream"] in ONLINE_STREAMS
    own = {f.name for f in fields(Online if online else Run)} | {"tasks"}
    for item in (*fields(Run), *fields(Online)):
        if item.name in options and item.name not in own:
            raise ValueError(
                f"{item.name} = {options[item.name]}; stream {options['stream']!r} does not use it: leave it out"
            )
    if not online:
        return run_config.from_options(options)
    given = {name: options[name] for name in own if name in options}
    if "hidden" in given:
        given["hidden"] = _one_width(given["hidden"])
    given.setdefault("every", given.get("flip_period", Online.every))
    tasks = given.pop("tasks", None)
    if tasks is not None:
        if "steps" in given:
            raise ValueError(
                f"tasks = {tasks} and steps = {given['steps']} both say how long the run is: leave one out"
            )
        if type(tasks) is not int or tasks < 1:
            raise ValueError(f"tasks = {tasks!r}; it counts flip periods and must be at least 1")
        given["steps"] = tasks * given.get("flip_period", Online.flip_period)
    return Online(**given)


def _one_width(hidden: tuple[int, ...]) -> int:
    if len(hidden) != 1:
        raise ValueError(
            f"hidden = {','.join(map(str, hidden))}; online learners have one hidden layer: give one width"
        )
    return hidden[0]
