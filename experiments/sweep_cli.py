"""The command ``lop sweep``: a grid over the options of ``lop run``, or a file of configurations."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import Failure
from experiments.execute import Config, add_options, from_options, run_name
from experiments.files import named_folder
from experiments.online.config import DEFAULTS as ONLINE_DEFAULTS
from experiments.online.config import STREAMS as ONLINE_STREAMS
from experiments.online.config import Online
from experiments.run_config import DEFAULTS, OWN_OPTIMIZER, Run, dashed, shown
from experiments.threads import one_thread

if TYPE_CHECKING:
    from experiments.sweep import Job

__all__ = ["add_command", "grid", "read_configs"]

HELP = """\
Do many runs, each in a folder of its own below DIR, on several processes or on a Dask cluster.

Every option of `lop run` takes several values: separate them by commas, or repeat the option. All combinations are run.
The widths in `--hidden 100,100` are one value: repeat it to compare nets (--hidden 100,100 --hidden 400).
An option that only some of the algorithms use applies to these only, and the plan says so.
A run keeps its seeds together, as they advance in one program: --seeds 5 makes runs of 5 seeds, not 5 runs.

The table does not depend on --jobs or --dask, nor on what was killed or interrupted: the same command again does what is
missing. Several sweeps may share a folder; a run is done by one of them."""

EXAMPLES = """\
examples:
  lop sweep permuted-images --algorithm bp,cbp,l2-er --step-size .01,.003 --seeds 5 --out runs --jobs 2
  lop sweep permuted-images --algorithm bp,cbp --maturity 50,100 --out runs --dry-run     3 runs: bp has no maturity
  lop sweep random-labels --hidden 100,100,100 --hidden 1000 --out runs                   2 runs
  lop sweep slowly-changing-regression --activation relu,tanh --step-size .01,.001 --out runs
  lop sweep --config runs.json --out runs              a list of objects with the keys of config.json in a folder of a run:
                                                       [{"stream": "permuted-images", "algorithm": "cbp", "maturity": 50}, …]
  lop sweep permuted-images --algorithm bp,cbp --out /shared/runs --dask tcp://10.0.0.1:8786
  lop results runs --csv > table.csv

exit status: 0 all runs are finished; 1 some failed (one line for each; the others are finished);
             2 wrong usage, found before anything runs; 130 interrupted (what is saved is kept)"""


def add_command(subparsers: Any) -> None:
    """Add ``sweep`` to the sub-commands of ``lop``."""
    parser = subparsers.add_parser("sweep", help="many runs: a grid over the options of `lop run`, in parallel",
                                   description=HELP, epilog=EXAMPLES, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_options(_Grid(parser))  # type: ignore[arg-type]
    parser.add_argument("--config", type=Path, metavar="FILE", help="a JSON list of configurations, instead of a grid")
    parser.add_argument("--out", type=named_folder, required=True, metavar="DIR", help="folder of runs")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes here (default: one per processor)")
    parser.add_argument("--dask", metavar="ADDRESS", help="scheduler of a Dask cluster whose workers share DIR")
    parser.add_argument("--data", metavar="D", help="data folder (default: the environment variable LOP_DATA)")
    parser.add_argument("--save-every", type=int, metavar="N", help="tasks between checkpoints (default: tasks / 20)")
    parser.add_argument("--dry-run", action="store_true", help="check and list the runs, and write nothing")
    parser.set_defaults(command=_sweep)


class _Grid:
    """Stands in for a parser: an option that is added to it takes several values, ``axis_NAME`` [lists of values]."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def add_argument(self, *flags: str, **options: Any) -> None:
        """Add the option of ``lop run`` as an axis; its stream may be left out."""
        if not flags[0].startswith("-"):
            self.target.add_argument(*flags, nargs="?", **options)
            return
        name = flags[0].lstrip("-").replace("-", "_")
        whole = name == "hidden"  # its commas separate widths
        kind = _values(options.pop("type"), whole)
        self.target.add_argument(*flags, dest=f"axis_{name}", type=kind, action="append", **options)

    def add_argument_group(self, *texts: str) -> _Grid:
        """A group of such options."""
        return _Grid(self.target.add_argument_group(*texts))


def _values(kind: Callable[[str], Any], whole: bool) -> Callable[[str], list[Any]]:
    """A type for argparse: one value, or several with commas between them.

    >>> _values(float, False)(".1,.2")
    [0.1, 0.2]
    """

    def parse(text: str) -> list[Any]:
        parts = [text] if whole else text.split(",")
        try:
            return [kind(part.strip()) for part in parts]
        except ValueError as error:
            name = {int: "whole numbers", float: "numbers"}.get(kind, "values")  # type: ignore[call-overload]
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of {name} such as 1,2") from error

    return parse


# -- which runs ------------------------------------------------------------------------------------------------------------


def grid(stream: str, axes: Mapping[str, Sequence[Any]]) -> tuple[list[Config], list[str]]:
    """All combinations of the values of the axes, equal ones once, and notes on the axes that some algorithms do not use.

    Raises ``ValueError`` for a combination that is impossible, and for an axis that no algorithm of the grid uses.

    >>> configs, notes = grid("permuted-images", {"algorithm": ["bp", "cbp"], "maturity": [50, 60]})
    >>> [(config.algorithm, config.maturity) for config in configs], notes
    ([('bp', None), ('cbp', 50), ('cbp', 60)], ['maturity: not used by bp'])
    """
    algorithms = axes.get("algorithm", ["bp"])
    unused = {algorithm: _unused(stream, algorithm) & axes.keys() for algorithm in algorithms}
    for_none = set.intersection(*unused.values())  # stay, so that their error is that of `lop run`
    configs: dict[Config, None] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values))
        dropped = unused[chosen.get("algorithm", "bp")] - for_none
        configs[from_options({"stream": stream} | {n: v for n, v in chosen.items() if n not in dropped})] = None
    notes = []
    for name in axes:
        without = [algorithm for algorithm in unused if name in unused[algorithm]]
        if without and name not in for_none:
            notes.append(f"{dashed(name)}: not used by {', '.join(without)}")
    return list(configs), notes


def _unused(stream: str, algorithm: str) -> set[str]:
    """The hyper-parameters of other algorithms of this stream."""
    online = stream in ONLINE_STREAMS
    table: Mapping[str, Mapping[str, float]] = ONLINE_DEFAULTS if online else DEFAULTS
    if algorithm not in table:
        return set()  # an error of its own
    own_optimizer = {"optimizer"} if not online and algorithm in OWN_OPTIMIZER else set()
    return ({name for used in table.values() for name in used} - table[algorithm].keys()) | own_optimizer


def read_configs(path: Path) -> list[Config]:
    """The configurations in a JSON file, a list of objects; raises :class:`Failure` with the number of the wrong one."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"--config {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise Failure(f"--config {path} is no JSON ({error})") from error
    if not isinstance(held, list) or not held or not all(isinstance(entry, dict) for entry in held):
        raise Failure(f'--config {path} holds no list of objects: write [{{"stream": "permuted-images"}}, …]')
    configs = []
    for number, entry in enumerate(held, 1):
        try:
            configs.append(_from_json(entry))
        except (ValueError, TypeError) as error:
            raise Failure(f"configuration {number} of {path}: {error}") from error
    return configs


def _from_json(entry: dict[str, Any]) -> Config:
    if not isinstance(entry.get("stream"), str):
        raise ValueError(f"stream = {entry.get('stream')!r}; give the name of a stream")
    known = {f.name for kind in (Run, Online) for f in fields(kind)}
    if unknown := sorted(entry.keys() - known):
        raise ValueError(f"key {unknown[0]!r} is unknown; the keys are {', '.join(sorted(known))}")
    given = {name: value for name, value in entry.items() if value is not None}
    if "hidden" in given:
        widths = given["hidden"] if isinstance(given["hidden"], list) else [given["hidden"]]
        if not all(type(width) is int for width in widths):
            raise ValueError(f"hidden = {given['hidden']!r}; give a list of widths such as [100, 100]")
        given["hidden"] = tuple(widths)
    return from_options(given)


# -- the command -----------------------------------------------------------------------------------------------------------


def _sweep(options: argparse.Namespace) -> int:
    configs, text = _chosen(options)
    for name in ("jobs", "save_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise Failure(f"{dashed(name)} = {value}; it counts something and must be at least 1")
    if options.jobs is not None and options.dask is not None:
        raise Failure("--jobs is for processes here and --dask for the workers of a cluster: give one of them")
    one_thread()
    from joblib import cpu_count

    from experiments.results import read_run
    from experiments.sweep import RunsFailed, plan, run_many

    if options.dry_run:
        work = plan(configs, options.out, options.data, elsewhere=options.dask is not None)
        print("\n".join([*text, *_listed(work)]))
        return 0
    print("\n".join(text), flush=True)
    try:
        folders = run_many(configs, options.out, data=options.data, jobs=options.jobs or cpu_count(),
                           dask=options.dask, save_every=options.save_every)  # fmt: skip
        status = 0
    except RunsFailed as failure:
        folders = [f for f in (options.out.absolute() / run_name(c) for c in configs) if f not in failure.errors]
        for folder, error in failure.errors.items():
            print(f"lop: {folder.name}: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print(f"what is saved in {options.out} is kept; the same command goes on", file=sys.stderr)
        raise
    for folder in folders:
        for seed, reason in read_run(folder).ended.items():
            print(f"{folder.name}: seed {seed} diverged: {reason}", file=sys.stderr)
    print(f"{len(folders)} of {len(configs)} runs are finished: lop results {options.out} --csv")
    return status


def _chosen(options: argparse.Namespace) -> tuple[list[Config], list[str]]:
    """The configurations and the plan in words."""
    axes = {name.removeprefix("axis_"): list(itertools.chain(*lists)) for name, lists in vars(options).items()
            if name.startswith("axis_")}  # fmt: skip
    stream = getattr(options, "stream", None)
    if options.config is not None:
        if stream is not None or axes:
            raise Failure(f"--config {options.config} holds whole configurations: leave the stream and its options out")
        configs = list(dict.fromkeys(read_configs(options.config)))
        return configs, [f"{_count(len(configs), 'run')} from {options.config}"]
    if stream is None:
        raise Failure("no stream given; name one, such as permuted-images, or give --config FILE")
    try:
        configs, notes = grid(stream, axes)
    except (ValueError, TypeError) as error:
        raise Failure(str(error)) from error
    several = [f"{dashed(name)} {', '.join(map(shown, dict.fromkeys(values)))}" for name, values in axes.items()
               if len(values) > 1]  # fmt: skip
    seeds = {config.seeds for config in configs}
    head = _count(len(configs), "run") + (f" of {_count(seeds.pop(), 'seed')}" if len(seeds) == 1 else "")
    return configs, [f"{head}: {stream}" + (f", {' × '.join(several)}" if several else ""), *notes]


def _listed(work: Sequence[Job]) -> list[str]:
    """One line per run: its folder, what distinguishes it from the others, and how far it is."""
    every = [{f.name: getattr(job.config, f.name) for f in fields(job.config)} for job in work]
    names = dict.fromkeys(name for values in every for name in values if name not in ("stream", "algorithm"))
    varied = [name for name in names if len({values.get(name) for values in every} - {None}) > 1]
    lines = []
    for job, values in zip(work, every):
        own = [f"{dashed(name)} {shown(values[name])}" for name in varied if values.get(name) is not None]
        lines.append(f"  {job.folder.name}  {', '.join([*own, f'{job.saved()}/{job.rows} rows saved'])}")
    return lines


def _count(number: int, name: str) -> str:
    """
    >>> _count(1, "run"), _count(2, "run")
    ('1 run', '2 runs')
    """
    return f"{number} {name}" + ("s" if number != 1 else "")
