"""The commands ``lop run`` and ``lop results``; ``experiments.cli`` adds them to its own."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from experiments.errors import Failure
from experiments.execute import Config, add_options, execute, from_options, rows_per_seed, run_name
from experiments.files import named_folder
from experiments.run_config import Run
from experiments.threads import one_thread, processors

__all__ = ["add_commands"]

RUN_HELP = """\
Train on a stream of tasks and keep one row per task and seed in a folder of its own below DIR. On the online streams
bit-flipping and slowly-changing-regression a task is a flip period, and rows are as far apart as --every says.

The same command again goes on where it stopped, also after `kill -9`, and ends with the same table bit for bit (on a CPU).
A run never writes into the folder of another: the name of the folder contains a hash of the configuration."""

RUN_EXAMPLES = """\
examples:
  lop run permuted-images --algorithm cbp --optimizer adam --tasks 200 --seeds 5 --out runs
  lop run permuted-images --protocol published --dataset mnist --data FOLDER --hidden 2000,2000,2000 --out runs
  lop run bit-flipping --algorithm cbp --tasks 100 --seeds 30 --out runs
  lop results runs --csv > table.csv

exit status: 0 finished, also if some replicas diverged (they are named); 2 wrong usage; 130 interrupted"""


def add_commands(subparsers: Any) -> None:
    """Add ``run`` and ``results`` to the sub-commands of ``lop``."""
    parser = subparsers.add_parser("run", help="train on a stream of tasks; goes on where an earlier call stopped",
                                   description=RUN_HELP, epilog=RUN_EXAMPLES, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_options(parser)
    parser.add_argument("--out", type=named_folder, required=True, metavar="DIR", help="folder of runs")
    parser.add_argument("--data", metavar="D", help="data folder (default: the environment variable LOP_DATA)")
    parser.add_argument("--save-every", type=int, metavar="N",
                        help="tasks (or records) between checkpoints (default: a twentieth of the run)")  # fmt: skip
    parser.set_defaults(command=_run)
    parser = subparsers.add_parser("results", help="print the measurements of the runs in a folder", allow_abbrev=False,
                                   description="Print the measurements of the runs in a folder.")  # fmt: skip
    parser.add_argument("directory", type=Path, metavar="DIR", help="the folder that --out named, or one run in it")
    parser.add_argument("--csv", action="store_true", help="the whole table, sorted, without wall time")
    parser.add_argument("--claims", action="store_true", help="verdicts of the claims that were judged along the runs")
    parser.set_defaults(command=_results)


def _run(options: argparse.Namespace) -> int:
    try:
        config = from_options(vars(options))
    except (ValueError, TypeError) as error:
        raise Failure(str(error)) from error
    if options.save_every is not None and options.save_every < 1:
        raise Failure(f"save-every = {options.save_every}; it counts tasks or records and must be at least 1")
    one_thread()
    import torch

    from experiments.results import read_run
    from experiments.run_claim_rows import surprising_lines

    torch.set_num_threads(1)  # sums in another order would be other sums
    folder = options.out / run_name(config)
    progress = _Progress(config)
    for row in execute(config, folder, options.data, options.save_every, threads=processors()):
        progress.show(row)
    progress.close()
    table = read_run(folder)
    for seed, reason in table.ended.items():
        print(f"seed {seed} diverged: {reason}", file=sys.stderr)
    print(_summary(table))
    print(f"results in {folder}")
    for line in surprising_lines(folder):
        print(line, file=sys.stderr)
    return 0


class _Progress:
    """A line on stderr with tasks done, online accuracy and the time that is left; without a terminal every 10 seconds.

    Rows of tasks that were finished earlier come at once: the speed is that of the tasks after these. Online streams have
    records in place of tasks and a loss in place of an accuracy.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.known, self.count, self.values = config, 0, 0, list[float]()
        self.all, self.unit = rows_per_seed(config), "task" if isinstance(config, Run) else "record"
        self.column = "online_accuracy" if isinstance(config, Run) else "online_loss"
        self.began = self.shown = time.monotonic()

    def show(self, row: dict[str, float]) -> None:
        """Take the next row; the last row of a task updates the line."""
        self.values.append(row[self.column])
        if row["seed"] != self.config.seed + self.config.seeds - 1:
            return
        now, self.count = time.monotonic(), self.count + 1
        values = [value for value in self.values if value == value]
        self.values = []
        if not row["seconds"] <= now - self.began:  # this task did not run now
            self.known, self.began = self.count, now
            return
        if not sys.stderr.isatty() and now - self.shown < 10 and self.count < self.all:
            return
        self.shown = now
        done, left = self.count - self.known, self.all - self.count
        eta = f"{left * (now - self.began) / done:.0f} s left" if left else f"{now - self.began:.0f} s"
        mean = f"{sum(values) / len(values):.3f}" if values else "none left"
        metric = self.column.replace("_", " ")
        line = f"{self.config.algorithm}: {self.unit} {self.count}/{self.all}, {metric} {mean}, {eta}"
        print(line, file=sys.stderr, end="\x1b[K\r" if sys.stderr.isatty() else "\n", flush=True)

    def close(self) -> None:
        """Leave the line where it is."""
        if sys.stderr.isatty():
            print(file=sys.stderr)


def _summary(table: Any) -> str:
    """One line: mean online accuracy (or loss) of the first and of the last tasks, with the standard error over seeds."""
    from experiments.results import mean_over

    count = min(10, max(1, table.tasks // 2))
    column, unit = ("online_loss", "records") if table.online else ("online_accuracy", "tasks")
    parts = [mean_over(table, column, s) for s in (slice(0, count), slice(-count, None))]
    shown = " -> ".join(f"{mean:.4f} ± {error:.4f}" for mean, error in parts)
    state = "" if table.tasks == table.planned else f" of {table.planned}"
    lost = f", {len(table.ended)} diverged" if table.ended else ""
    return (
        f"{table.run}: {table.tasks}{state} {unit}, {len(table.seeds)} seeds{lost}, "
        f"{column.replace('_', ' ')} of the first and last {count} {unit} {shown}"
    )


def _results(options: argparse.Namespace) -> int:
    from experiments.results import csv_text, find_runs, read_runs
    from experiments.run_claim_rows import claims_csv, claims_summary

    if options.claims:
        folders = find_runs(options.directory)
        print(claims_csv(folders) if options.csv else "".join(claims_summary(path) + "\n" for path in folders), end="")
        return 0
    tables = read_runs(options.directory)
    print(csv_text(tables), end="") if options.csv else print("\n".join(_summary(table) for table in tables))
    return 0
