"""Who does the runs of a sweep: this process, worker processes of joblib's loky, or the workers of a Dask cluster.

A crew takes a job at a time and gives a future for its outcome. The work is the same for all: ``work`` goes on with the run
in its folder until it is finished. Every worker computes on one thread, so that no sum depends on who computes it.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import re
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from experiments.errors import Failure, InUse
from experiments.threads import VARIABLES, one_thread

__all__ = ["Cluster", "Crew", "End", "Here", "Outcome", "Place", "Processes", "versions", "work"]

CONNECT = 15  # seconds that a Dask scheduler has to answer


class End(Enum):
    """How the work on a run ended."""

    DONE = "finished"
    BUSY = "another process is at work in the folder"
    STOPPED = "not finished"
    DIED = "the worker is gone: killed, out of memory, or its machine failed"
    FAILED = "an error"


@dataclass(frozen=True)
class Outcome:
    """The end of the work on a run, with the error in one line if it failed."""

    end: End
    text: str = ""


@dataclass(frozen=True)
class Place:
    """What a worker must find where it works, wherever that is.

    data        data folder, or None
    save_every  tasks between checkpoints, or None
    token       a file that exists while the sweep goes on: a worker that does not see it writes into a folder of its own machine
    versions    libraries that decide how results round; None: not compared
    """

    data: str | None
    save_every: int | None
    token: Path | None = None
    versions: dict[str, str] | None = None


def versions() -> dict[str, str]:
    """Versions of the libraries that decide how results round.

    >>> sorted(versions())
    ['numba', 'numpy', 'python', 'scipy', 'torch']
    """
    names = ("numba", "numpy", "scipy", "torch")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def work(config: Any, folder: Path, place: Place, wanted: Callable[[], bool] = lambda: True) -> Outcome:
    """Begin the run in this folder, or go on with it, to its end. No error of a run leaves this function as an exception.

    ``wanted`` is asked after each row; once it says no, the run stops as it would by a kill.
    """
    from experiments.execute import execute

    try:
        _check(place)
        with _one_thread():
            rows: Any = execute(config, folder, data=place.data, save_every=place.save_every)
            with closing(rows):
                for _ in rows:
                    if not wanted():
                        return Outcome(End.STOPPED)
    except InUse:
        return Outcome(End.BUSY)
    except Failure as failure:
        return Outcome(End.FAILED, one_line(failure))
    except Exception as error:  # of this run only: the others go on
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        return Outcome(End.FAILED, f"{type(error).__name__}: {one_line(error)} ({where})")
    return Outcome(End.DONE)


def one_line(error: BaseException) -> str:
    """The text of an error, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _check(place: Place) -> None:
    if place.token is not None:
        with suppress(OSError):
            os.listdir(place.token.parent)  # makes a network file system look again
        if not place.token.exists():
            raise Failure(
                f"worker on {platform.node()} does not see {place.token.parent}: give a folder that all machines share"
            )
    own = versions()
    if place.versions is not None and own != place.versions:
        shown = ", ".join(f"{n} {own[n]} there, {place.versions[n]} here" for n in own if own[n] != place.versions[n])
        raise Failure(f"worker on {platform.node()} would round differently ({shown}): install the same versions")


@contextmanager
def _one_thread() -> Iterator[None]:
    """All linear algebra of this process on one thread: sums in another order would be other sums."""
    one_thread()
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


# -- the crews -------------------------------------------------------------------------------------------------------------


class Crew(Protocol):
    """Workers.

    width    jobs that they can do at once, now
    retries  whether a job whose worker dies is tried again several times before that is told
    """

    retries: bool

    @property
    def width(self) -> int:
        """Jobs that can be done at once, now."""
        ...

    def submit(self, config: Any, folder: Path, place: Place) -> Any:
        """A future for the outcome, with ``done()``."""
        ...

    def outcome(self, future: Any) -> Outcome:
        """The outcome of a future that is done; raises :class:`Failure` if the crew is gone."""
        ...

    def close(self) -> None:
        """Stop all work now."""
        ...


class Here:
    """This process, one job after the other; ``tick`` is called after each row."""

    retries = False
    width = 1

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def submit(self, config: Any, folder: Path, place: Place) -> Any:
        """Does the whole job before it returns."""
        future: Future[Outcome] = Future()
        future.set_result(work(config, folder, place, lambda: self.tick() is None))
        return future

    def outcome(self, future: Any) -> Outcome:
        """The outcome."""
        result: Outcome = future.result()
        return result

    def close(self) -> None:
        """Nothing is left to stop."""


class Processes:
    """Worker processes on this machine (loky, of joblib). If one dies, loky ends all, and new ones are started."""

    retries = False

    def __init__(self, width: int) -> None:
        self.width = width
        self.pool = self._open()

    def _open(self) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        environment = dict.fromkeys(VARIABLES, "1")
        return ProcessPoolExecutor(self.width, initializer=_begin, initargs=(os.getpid(),), env=environment)

    def submit(self, config: Any, folder: Path, place: Place) -> Any:
        """Queue the job; a pool that broke is replaced first."""
        for _ in range(2):
            try:
                return self.pool.submit(work, config, folder, place)
            except (BrokenProcessPool, RuntimeError):  # RuntimeError: it is shutting down, as it broke
                self.close()
                self.pool = self._open()
        raise Failure("worker processes cannot be started on this machine: give --jobs 1")

    def outcome(self, future: Any) -> Outcome:
        """The outcome; a pool that broke has none, whichever of its workers died."""
        try:
            result: Outcome = future.result()
        except (BrokenProcessPool, CancelledError) as error:
            return Outcome(End.DIED, one_line(error))
        return result

    def close(self) -> None:
        """Kill the workers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pool.shutdown(wait=True, kill_workers=True)


def _begin(parent: int) -> None:
    """In a new worker: Ctrl-C reaches all processes, but only the first of them shall act; and none outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", message="A worker stopped")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # what is saved stays valid, as after any kill

    threading.Thread(target=watch, daemon=True).start()


class Cluster:
    """The workers of a Dask cluster; they may come and go."""

    retries = True

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise Failure(
                f"--dask needs the extra `distributed` ({one_line(error)}): pip install 'lop-theory[distributed]'"
            ) from error
        if not re.fullmatch(r"(\w+://)?[^/]+:\d+/?", address):  # Dask finds out, too, but not at once
            raise Failure(f"--dask {address} is no address of a Dask scheduler: give one such as tcp://10.0.0.1:8786")
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it is told in one line, below
        self.address, self.sent, self.known, self.asked = address, 0, 0, -math.inf
        try:
            self.client = Client(address, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise Failure(f"no Dask scheduler answers at {address} ({one_line(error)}): correct --dask") from error

    @property
    def width(self) -> int:
        """Threads of all workers, as of a second ago."""
        if time.monotonic() - self.asked > 1:
            with suppress(OSError, TimeoutError):
                workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
                self.known = sum(worker["nthreads"] for worker in workers)
            self.asked = time.monotonic()
        return self.known

    def submit(self, config: Any, folder: Path, place: Place) -> Any:
        """Hand the job to the scheduler, which starts it again elsewhere if a worker dies."""
        self.sent += 1
        key = f"{folder.name}-{os.getpid()}-{self.sent}-{os.urandom(4).hex()}"
        return self.client.submit(_work_of_dask, config, folder, place, key, key=key, pure=False)

    def outcome(self, future: Any) -> Outcome:
        """The outcome; the scheduler gives up on a job after some deaths."""
        from distributed import KilledWorker

        try:
            result: Outcome = future.result(timeout=CONNECT)
        except KilledWorker as error:
            return Outcome(End.DIED, one_line(error))
        except (CancelledError, OSError, TimeoutError) as error:
            raise Failure(
                f"the Dask scheduler at {self.address} is gone; finished tasks are kept: run the same command again"
            ) from error
        except Exception as error:  # the job could not even be read there, for example
            return Outcome(End.FAILED, f"{type(error).__name__}: {one_line(error)}")
        return result

    def close(self) -> None:
        """Withdraw the jobs; workers notice it after the next row."""
        with suppress(Exception):  # the scheduler may be gone
            self.client.close(timeout=CONNECT)


def _work_of_dask(config: Any, folder: Path, place: Place, key: str) -> Outcome:
    from distributed import get_worker

    tasks = get_worker().state.tasks

    def wanted() -> bool:
        """A job that was withdrawn, or whose client is gone, is cancelled: Dask itself does not interrupt it."""
        return key in tasks and tasks[key].state in ("executing", "long-running")

    return work(config, folder, place, wanted)
