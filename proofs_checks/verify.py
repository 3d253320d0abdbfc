"""Run many claims: in parallel processes, with every finished row and witness on disk at once.

Files under the results folder ``out``::

    claims/<id>.json       the row of the claim (check.Result), written when it is finished
    witnesses/<id>[.<role>[.<variant>]].json   what ``lop recheck`` confirms

A row is written to a temporary name and renamed, so a kill at any moment leaves whole files only. ``quick`` and ``full`` take a
fresh folder each time; ``deep`` adds rounds with new seeds for as long as it runs and goes on where the same command stopped.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from proofs_checks.check import BUDGETS, Budget, Result, verify
from proofs_checks.claim import Claim, Verdict
from proofs_checks.claims import CLAIMS

Row = dict[str, Any]
Progress = Callable[[str, Row | None], None]  # (claim id, row or None when it starts)


class UnknownClaim(ValueError):
    """No claim has that id."""


def select(patterns: Sequence[str]) -> list[Claim]:
    """Claims whose id is one of the patterns, matches it as a glob, or lies below it (``spectral`` selects ``spectral.*``).

    >>> [c.id for c in select(["barriers.def*"])]
    ['barriers.def2.1']
    """
    if not patterns:
        return list(CLAIMS)
    chosen: list[Claim] = []
    for pattern in patterns:
        hits = [c for c in CLAIMS if fnmatch.fnmatchcase(c.id, pattern) or c.id.startswith(pattern.rstrip(".") + ".")]
        exact = [c for c in CLAIMS if c.id == pattern]
        if not hits and not exact:
            near = difflib.get_close_matches(pattern, [c.id for c in CLAIMS], n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else "`lop claims` lists them all"
            raise UnknownClaim(f"unknown claim {pattern!r}; {hint}")
        chosen += exact or hits
    return [c for c in CLAIMS if c in chosen]


def default_out_dir(budget: str, seed: int, root: Path = Path("results")) -> Path:
    """``results/verify-deep-seed0`` for deep runs, which resume; else the first free ``results/verify-quick-seed0-001``."""
    stem = f"verify-{budget}-seed{seed}"
    if budget == "deep":
        return root / stem
    return next(path for k in itertools.count(1) if not (path := root / f"{stem}-{k:03d}").exists())


def run(
    claims: Sequence[Claim],
    budget: str,
    seed: int,
    out: Path,
    jobs: int = 2,
    progress: Progress = lambda claim_id, row: None,
    rounds: int | None = None,
) -> list[Row]:
    """Check the claims and return their rows in order; on Ctrl-C the rows so far, the others *not run*.

    ``rounds`` bounds the number of rounds of a deep run (default: until interrupted).
    """
    (out / "claims").mkdir(parents=True, exist_ok=True)
    (out / "witnesses").mkdir(exist_ok=True)
    rows: dict[str, Row] = {}
    if budget == "deep":
        rows = {c.id: row for c in claims if (row := _stored(out, c.id)) is not None}
    total = 1 if budget != "deep" else rounds
    for _ in itertools.count() if total is None else range(total):
        todo = [(c, int(rows.get(c.id, {}).get("rounds", 0))) for c in claims]
        lowest = min((done for _, done in todo), default=0)
        todo = [(c, done) for c, done in todo if done == lowest]  # finish an interrupted round first
        if not _one_round(todo, BUDGETS[budget], seed, out, jobs, progress, rows):
            break
    return [rows.get(c.id) or _not_run(c) for c in claims]


def _one_round(
    todo: Sequence[tuple[Claim, int]],
    budget: Budget,
    seed: int,
    out: Path,
    jobs: int,
    progress: Progress,
    rows: dict[str, Row],
) -> bool:
    """Check each claim once; False if interrupted."""
    tasks = [(c.id, budget.name, f"{seed}" if done == 0 else f"{seed}+{done}") for c, done in todo]

    def finish(row: Row, done: int) -> None:
        row = _merged(rows.get(row["id"]), row, done + 1)
        rows[row["id"]] = row
        _store(out, row)
        progress(row["id"], row)

    counts = {c.id: done for c, done in todo}
    try:
        for row in _rows(tasks, min(jobs, len(tasks)), progress):
            finish(row, counts[row["id"]])
    except KeyboardInterrupt:
        return False
    return True


def _rows(tasks: Sequence[tuple[str, str, str]], jobs: int, progress: Progress) -> Iterable[Row]:
    """Rows as they finish, from one process or several; a worker that dies costs its claim only."""
    if jobs <= 1:
        for task in tasks:
            progress(task[0], None)
            yield _work(*task)
        return
    waiting = list(tasks)
    while waiting:
        pool = ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
        )
        try:
            futures = _submitted(pool, waiting)
            waiting = []
            while futures:
                done, _ = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    task = futures.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        waiting.append(task)
            pool.shutdown()
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        if waiting:  # the pool broke: the first unfinished task is the suspect; the others go on in a new pool
            suspect, waiting = waiting[0], waiting[1:]
            yield _failed(suspect[0], "the worker process died (killed, or out of memory)")


def _submitted(
    pool: ProcessPoolExecutor, tasks: Sequence[tuple[str, str, str]]
) -> dict[Future[Row], tuple[str, str, str]]:
    """Submit with SIGINT blocked: workers inherit the mask, so Ctrl-C reaches this process alone, which stops them."""
    if not hasattr(signal, "pthread_sigmask"):
        return {pool.submit(_work, *task): task for task in tasks}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_work, *task): task for task in tasks}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int) -> None:
    """One thread of linear algebra; and end with the parent: its kill would leave this process waiting for work for ever."""
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(claim_id: str, budget: str, seed: str) -> Row:
    torch.set_num_threads(1)
    claim = next(c for c in CLAIMS if c.id == claim_id)
    return verify(claim, BUDGETS[budget], seed).row()


def _failed(claim_id: str, error: str) -> Row:
    claim = next(c for c in CLAIMS if c.id == claim_id)
    return {**_not_run(claim), "verdict": Verdict.UNDECIDED.value, "error": error}


def _not_run(claim: Claim) -> Row:
    return Result.of(claim).row()


def _merged(old: Row | None, new: Row, rounds: int) -> Row:
    """One more round of a deep run: counts add up, a refutation stays, the newest error is kept."""
    new = {**new, "rounds": rounds}
    if old is None:
        return new
    kept = old if old["verdict"] == Verdict.FAILS.value else new
    return {
        **kept,
        "rounds": rounds,
        "instances": old["instances"] + new["instances"],
        "undecided": old["undecided"] + new["undecided"],
        "vacuous": old["vacuous"] + new["vacuous"],
        "seconds": round(old["seconds"] + new["seconds"], 3),
    }


# -- files -----------------------------------------------------------------------------------------------------------------


def _store(out: Path, row: Row) -> None:
    """Write the witnesses, then the row that points to them. ``witness`` becomes the path of the statement's witness."""
    for key, document in row.pop("witnesses", {}).items():
        role, _, variant = key.partition(":")
        name = ".".join(
            [row["id"], *([] if role == "counterexample" else [role]), *([_slug(variant)] if variant else [])]
        )
        path = out / "witnesses" / f"{name}.json"
        _write(path, document)
        if role == "counterexample":
            row["witness"] = str(path)
        for entry in (*row["assumptions"], *row["mutants"]["rows"]):
            if role in ("assumption", "mutant") and entry["name"] == variant:
                entry["witness"] = str(path)
    _write(out / "claims" / f"{row['id']}.json", row)


def _write(path: Path, document: Any) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _stored(out: Path, claim_id: str) -> Row | None:
    path = out / "claims" / f"{claim_id}.json"
    row: Row | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return row


def _slug(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-")
