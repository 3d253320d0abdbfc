"""Many runs: on this machine or on a cluster, each in its own folder, with the same tables wherever they are computed.

One job is one run: one configuration with all of its seeds, which advance together. Jobs share nothing but the folder, where
each keeps checkpoints of its own; so a sweep that was stopped in any way goes on when it is called again.

=====================  =================================================================================================
what happens           what follows
=====================  =================================================================================================
a run fails            the others go on; :class:`RunsFailed` at the end has its error in one line
a worker dies          its run goes on from its checkpoint in another worker; given up after ``DEATHS`` deaths in a row without
                       a new checkpoint. On one machine the neighbours of the dead are restarted, too, and a run that met two
                       deaths runs alone, so that no run is given up for another's fault
Ctrl-C                 all workers stop; what is saved is kept
another sweep is at    its runs are waited for, and read when they are finished
work in this folder
=====================  =================================================================================================
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.checkpoints import check_outside
from experiments.datasets import VARIABLE
from experiments.errors import Failure
from experiments.execute import Config, rows_per_seed, run_name
from experiments.run_config import Run
from experiments.sweep_crews import Cluster, Crew, End, Here, Outcome, Place, Processes, one_line, versions

__all__ = ["Job", "RunsFailed", "plan", "run_many"]

DEATHS = 4  # of a worker, in a row, without a new checkpoint of the run
POLL = 0.05  # seconds between two looks at the workers
PATIENCE = 2.0  # seconds until a folder that is in use is tried again
UPDATE = 3e5  # multiplications that the overhead of an update is worth


class RunsFailed(Failure):
    """Some runs of a sweep failed: ``errors`` [folder → one line]. The others are finished."""

    def __init__(self, errors: Mapping[Path, str], total: int) -> None:
        self.errors = dict(errors)
        each = "; ".join(f"{folder.name}: {text}" for folder, text in errors.items())
        super().__init__(f"{len(errors)} of {total} runs failed ({each})")


@dataclass
class Job:
    """A run to be done.

    size        its cost, in multiplications, roughly
    rows        tasks or records, when it is finished
    deaths      of its workers, while no more than ``seen`` rows were saved
    not_before  on the clock of ``time.monotonic``
    """

    config: Config
    folder: Path
    size: float
    rows: int
    deaths: int = 0
    seen: int = 0
    not_before: float = 0.0

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills the workers."""
        return self.deaths > 1

    def saved(self) -> int:
        """Rows in its folder, by the names of the files there.

        >>> Job(None, Path("nowhere"), 1.0, 5).saved()
        0
        """
        try:
            found = [re.fullmatch(r"rows-\d+-(\d+)\.safetensors", name) for name in os.listdir(self.folder)]
        except OSError:
            return 0
        return max((int(match[1]) for match in found if match), default=0)


def run_many(
    configs: Sequence[Config],
    out: str | Path,
    *,
    data: str | Path | None = None,
    jobs: int = 1,
    dask: str | None = None,
    progress: bool = True,
    save_every: int | None = None,
) -> list[Path]:
    """Run, or go on with, each configuration in ``out/run_name(config)``; returns these folders, in the same order.

    ``jobs`` processes on this machine (1: this process), or the workers of the Dask scheduler at the address ``dask``. The
    tables do not depend on these. ``data``: data folder; ``save_every``: rows between checkpoints; ``progress``: a line on
    stderr. Equal configurations are run once. Raises :class:`Failure` before anything runs if one of them cannot run, and
    :class:`RunsFailed` after all the others are finished if some failed.

    >>> from experiments.run_config import Run
    >>> configs = [Run(stream="permuted-images", tasks=1, seeds=1, examples=80, hidden=(n,)) for n in (4, 8)]
    >>> with tempfile.TemporaryDirectory() as out:
    ...     [folder.name[:18] for folder in run_many(configs, out, progress=False)]
    ['permuted-images-bp', 'permuted-images-bp']
    """
    if type(jobs) is not int or jobs < 1:
        raise Failure(f"jobs = {jobs!r}; it counts processes and must be at least 1")
    out = Path(out).expanduser().absolute()
    given = data or os.environ.get(VARIABLE)
    folder = str(Path(given).expanduser().absolute()) if given else None  # workers may be somewhere else
    work = plan(configs, out, folder, elsewhere=dask is not None)
    line = _Progress(work, progress)
    with _crew(jobs, dask, line, len(work)) as crew, _place(out, folder, save_every, dask) as place:
        errors = _drive(work, crew, place, line)
    if errors:
        raise RunsFailed(errors, len(work))
    return [out / run_name(config) for config in configs]


# -- before anything runs --------------------------------------------------------------------------------------------------


def plan(configs: Sequence[Config], out: Path, data: str | None = None, elsewhere: bool = False) -> list[Job]:
    """The jobs, the longest first, equal ones once; raises :class:`Failure` for the first that cannot run on these data.
    What runs ``elsewhere`` needs no GPU here.

    >>> from experiments.online.config import Online
    >>> [job.config.steps for job in plan([Online(steps=10**5), Online(steps=10**6), Online(steps=10**5)], Path("out"))]
    [1000000, 100000]
    """
    check_outside(out)
    jobs: dict[Path, Job] = {}
    for number, config in enumerate(configs, 1):
        folder = out / run_name(config)
        if folder in jobs:
            continue
        try:
            here = replace(config, device="cpu") if elsewhere and isinstance(config, Run) else config
            jobs[folder] = Job(config, folder, _size(here, data), rows_per_seed(config))
        except Failure as failure:
            raise Failure(f"run {number} of {len(configs)} ({config.algorithm}): {one_line(failure)}") from failure
    return sorted(jobs.values(), key=lambda job: -job.size)


def _size(config: Config, data: str | None) -> float:
    """Multiplications of a run: 6 per weight and example (forward, and backward for both factors), and an overhead."""
    if not isinstance(config, Run):
        return 6.0 * config.steps * config.seeds * config.hidden * (config.inputs + 2)
    from experiments.run_program import prepare

    program = prepare(config, data)
    weights = sum(a * b for a, b in zip(program.widths, program.widths[1:]))
    last = program.streams[0].task(config.tasks - 1)
    batch, epochs = last.config.batch, last.config.epochs
    updates = config.tasks * epochs * len(last.batches())
    return updates * (6.0 * weights * batch * config.seeds + UPDATE)


@contextmanager
def _place(out: Path, data: str | None, save_every: int | None, dask: str | None) -> Iterator[Place]:
    """What workers must find; on a cluster that the folder is the same one everywhere."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if dask is None:
            yield Place(data, save_every)
            return
        token = tempfile.NamedTemporaryFile(dir=out, prefix=".sweep-")  # noqa: SIM115  closed below
    except OSError as error:
        raise Failure(f"{out} cannot be used: {(error.strerror or str(error)).lower()}") from error
    with token:
        yield Place(data, save_every, Path(token.name), versions())


@contextmanager
def _crew(jobs: int, dask: str | None, line: _Progress, work: int) -> Iterator[Crew]:
    crew: Crew
    if dask is not None:
        crew = Cluster(dask)
    elif min(jobs, work) <= 1:
        crew = Here(line.show)
    else:
        crew = Processes(min(jobs, work))
    try:
        yield crew
    finally:
        crew.close()


# -- the loop --------------------------------------------------------------------------------------------------------------


def _drive(work: Sequence[Job], crew: Crew, place: Place, line: _Progress) -> dict[Path, str]:
    """Do all jobs; returns the errors of those that failed. As many are handed out as there are workers, no more: who was
    at work when a worker died is then known, and workers that come later get their share."""
    waiting, running, errors = list(work), dict[Any, Job](), dict[Path, str]()
    for job in work:
        job.seen = job.saved()
    while waiting or running:
        for future in [future for future in running if future.done()]:
            job = running.pop(future)
            outcome = crew.outcome(future)
            if outcome.end is End.DIED:
                outcome = _after_death(job, crew.retries)
            if outcome.end is End.FAILED:
                errors[job.folder] = outcome.text
            elif outcome.end is End.BUSY:
                job.not_before = time.monotonic() + PATIENCE
                waiting.append(job)
            elif outcome.end is not End.DONE:
                waiting.insert(0, job)  # it was among the longest that are left
            line.ended(job, outcome.end)
        room = crew.width if waiting else 0
        while (chosen := _choose(waiting, list(running.values()), room)) is not None:
            waiting.remove(chosen)
            line.running = [*running.values(), chosen]
            running[crew.submit(chosen.config, chosen.folder, place)] = chosen
        line.running = list(running.values())
        line.show()
        if not any(future.done() for future in running):
            time.sleep(POLL)
    line.close(errors)
    return {job.folder: errors[job.folder] for job in work if job.folder in errors}


def _choose(waiting: Sequence[Job], running: Sequence[Job], room: int) -> Job | None:
    """The job to start now, if any: the first that need not wait; a suspect runs alone, after all others.

    >>> plain, suspect = (Job(None, Path(), 1.0, 5, deaths=n) for n in (0, 2))
    >>> _choose([suspect, plain], [], 2) is plain, _choose([suspect], [plain], 2), _choose([plain], [suspect], 2)
    (True, None, None)
    """
    if len(running) >= room or any(job.suspect for job in running):
        return None
    ready = [job for job in waiting if job.not_before <= time.monotonic()]
    plain = [job for job in ready if not job.suspect]
    if plain:
        return plain[0]
    return ready[0] if ready and not running else None


def _after_death(job: Job, retried: bool) -> Outcome:
    """The worker of this job died, or on one machine perhaps that of another: what to do? ``retried``: it died repeatedly."""
    saved = job.saved()
    if saved > job.seen:
        job.seen, job.deaths = saved, 0
    else:
        job.deaths += DEATHS if retried else 1
    if job.deaths < DEATHS:
        return Outcome(End.STOPPED)
    return Outcome(End.FAILED, f"its worker died again and again after row {saved} of {job.rows}: out of memory?")


class _Progress:
    """A line on stderr: runs that are finished, the share of all work that is done, and the time that is left.

    Work that was done before this call counts as done, but not for the speed.
    """

    def __init__(self, work: Sequence[Job], shown: bool) -> None:
        self.work, self.shown, self.running = work, shown, list[Job]()
        self.live = sys.stderr.isatty()
        self.done = {job.folder: self._part(job) for job in work}
        self.first, self.finished, self.failed = sum(self.done.values()), 0, 0
        self.began = self.last = time.monotonic()

    def _part(self, job: Job) -> float:
        return job.size * job.saved() / job.rows

    def ended(self, job: Job, end: End) -> None:
        """Take note of the end of a job."""
        if end in (End.DONE, End.FAILED):
            self.done[job.folder] = job.size
            self.finished += end is End.DONE
            self.failed += end is End.FAILED

    def show(self) -> None:
        """Show the line if it is time to: every second on a terminal, else every 30."""
        now = time.monotonic()
        if not self.shown or now - self.last < (1 if self.live else 30):
            return
        self.last = now
        for job in self.running:
            self.done[job.folder] = self._part(job)
        print(self._line(now), file=sys.stderr, end="\x1b[K\r" if self.live else "\n", flush=True)

    def _line(self, now: float) -> str:
        total, done = sum(job.size for job in self.work), sum(self.done.values())
        failed = f", {self.failed} failed" if self.failed else ""
        speed = (done - self.first) / max(now - self.began, 1e-9)
        left = f"{_duration((total - done) / speed)} left" if speed > 0 else "no estimate yet"
        busy = "waiting for another process" if any(job.not_before for job in self.work) else "waiting for workers"
        state = f"{len(self.running)} running" if self.running else busy
        return f"sweep: {self.finished}/{len(self.work)} runs{failed}, {100 * done / total:.0f} %, {state}, {left}"

    def close(self, errors: Mapping[Path, str]) -> None:
        """The last line."""
        if self.shown and self.work:
            spent = _duration(time.monotonic() - self.began)
            failed = f", {len(errors)} failed" if errors else ""
            text = f"sweep: {self.finished}/{len(self.work)} runs{failed}, {spent}"
            print(text, file=sys.stderr, end="\x1b[K\n" if self.live else "\n", flush=True)


def _duration(seconds: float) -> str:
    """Seconds as people say it.

    >>> _duration(8.2), _duration(754), _duration(10000)
    ('8 s', '13 min', '2.8 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
