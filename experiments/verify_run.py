"""What ``lop verify`` does once its arguments are read: check the claims, judge the trained network, write the ledger."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments.errors import Failure
from experiments.live import LIVE_CLAIMS, LiveConfig, LiveRow, live_document, live_rows, surprises
from experiments.permuted_labels import PermutedLabels
from proofs_checks.claim import Claim
from proofs_checks.ledger import build, print_table, provenance, write_html, write_json
from proofs_checks.ledger.document import write_whole
from proofs_checks.verify import default_out_dir, run

Row = dict[str, Any]


def run_verify(options: argparse.Namespace, claims: Sequence[Claim]) -> int:
    """Check the claims as ``options`` say; returns the exit status."""
    out = _prepare(options.out or default_out_dir(options.budget, options.seed), options.budget, options.seed)
    console = Console(stderr=True)
    started = time.perf_counter()
    trained, contradictions = None, 0
    judged = not options.no_trained and any(c.id in LIVE_CLAIMS for c in claims)
    with Interrupts() as interrupts, ProgressReport(len(claims), console) as report:
        if judged and options.budget == "deep":  # which goes on until it is interrupted
            trained, contradictions = _trained(claims, options.seed, report)
        rows = run(claims, options.budget, options.seed, out, options.jobs, report)
        if judged and trained is None and not interrupts.seen:
            trained, contradictions = _trained(claims, options.seed, report)
    wall = round(time.perf_counter() - started, 1)
    command = shlex.join(["lop", *sys.argv[1:]])
    origin = provenance(
        options.seed, options.budget, command, jobs=options.jobs, wall_seconds=wall, interrupted=interrupts.seen
    )
    ledger = build(rows, origin, trained)
    print_table(ledger, Console(width=None if sys.stdout.isatty() else 120))
    _write(ledger, out, options)
    report.line(f"{'interrupted; ' if interrupts.seen else ''}{wall:.0f} s; results in {out}")
    if interrupts.seen:
        return 130
    return 1 if ledger["summary"]["unexpected"] or contradictions else 0


def _prepare(out: Path, budget: str, seed: int) -> Path:
    """Create the results folder. What an earlier run left is never overwritten; a deep run goes on with its own."""
    run_file, this_run = out / "run.json", {"budget": budget, "seed": seed}
    try:
        if out.exists() and not out.is_dir():
            raise Failure(f"--out {out} is not a folder; give a new or empty folder")
        if out.exists() and any(out.iterdir()):
            earlier = json.loads(run_file.read_text(encoding="utf-8")) if run_file.is_file() else None
            if budget != "deep" or earlier != this_run:
                what = f"a run with budget {earlier['budget']}, seed {earlier['seed']}" if earlier else "other files"
                raise Failure(
                    f"--out {out} holds {what}; give a new or empty folder (only the same deep run goes on in its folder)"
                )
        out.mkdir(parents=True, exist_ok=True)
        run_file.write_text(json.dumps(this_run) + "\n", encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (
            (error.strerror or str(error)).lower()
            if isinstance(error, OSError)
            else f"{run_file.name} in it is damaged"
        )
        raise Failure(f"results folder {out} cannot be used: {reason}") from error
    return out


def _trained(claims: Sequence[Claim], seed: int, report: ProgressReport) -> tuple[Row | None, int]:
    """The table on a trained network and the number of verdicts in it that contradict the ledger. Ctrl-C keeps its rows."""
    config = LiveConfig(PermutedLabels(seed=seed))
    rows: list[LiveRow] = []
    try:
        for row in live_rows(claims, config):
            rows.append(row)
            report.line(f"trained network: task {row.task}, accuracy {row.accuracy:.2f}, {sum(row.dead)} dead units")
    except KeyboardInterrupt:
        pass
    except Exception as error:  # the ledger of the claims must not be lost with it
        report.line(f"trained network: error: {type(error).__name__}: {error}")
        return (live_document(rows, config) if rows else None), 1
    contradictions = surprises(rows)
    for v in contradictions:
        report.line(
            f"trained network: {v.claim} {v.verdict} after task {v.task}, expected {v.expected} {v.error or v.note}"
        )
    return (live_document(rows, config) if rows else None), len(contradictions)


def _write(ledger: Row, out: Path, options: argparse.Namespace) -> None:
    """Both forms into the results folder, then copies where asked: the page re-checks every witness, so it is made once."""
    page, document = out / "ledger.html", out / "ledger.json"
    steps: list[tuple[Path, Callable[[Path], None]]] = [
        (document, lambda path: write_json(ledger, path)),
        (page, lambda path: write_html(ledger, path)),
    ]
    for copy, original in ((options.json, document), (options.html, page)):
        if copy is not None:
            steps.append(
                (copy, lambda path, original=original: write_whole(original.read_text(encoding="utf-8"), path))
            )
    for path, write in steps:
        try:
            write(path)
        except OSError as error:
            raise Failure(
                f"{path} cannot be written: {error.strerror or error}; the rows are in {out / 'claims'}"
            ) from error


class Interrupts:
    """Remembers that Ctrl-C came, also if the code that it interrupted has dealt with it."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt


class ProgressReport:
    """Progress on stderr: a bar on a terminal, otherwise one plain line per finished claim."""

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.done, self.console = total, 0, console
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (
                SpinnerColumn(),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> ProgressReport:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, claim_id: str, row: Row | None) -> None:
        """A claim starts (``row`` is None) or is finished."""
        if row is None:
            if self.bar is not None:
                self.bar.update(self.task, description=claim_id)
            return
        self.done += 1
        surprise = f" (expected {row['expected']})" if row["verdict"] != row["expected"] else ""
        text = f"{claim_id}: {'error, ' + row['error'] if row['error'] else row['verdict'] + surprise}"
        if self.bar is None:
            self.line(f"[{self.done}/{self.total}] {text}, {row['seconds']:.1f} s")
        else:
            self.bar.update(self.task, completed=self.done, total=max(self.total, self.done), description=text[:70])

    def line(self, text: str) -> None:
        """A line of its own, never wrapped, never read as markup."""
        self.console.print(" ".join(text.split()), markup=False, highlight=False, soft_wrap=True)
