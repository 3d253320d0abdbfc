"""Memory of a long run: resident set after 50 and after 1,000 tiny tasks, in memory and in the files of its folder.

A run keeps no list that grows: rows go to the caller and to the disk. What the folder holds is the rows and at most two states.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import print_table
from experiments.run import run
from experiments.run_config import Run

MEBIBYTE = 2**20
AT = (50, 100, 250, 500, 1000)


def resident() -> float:
    """The resident set of this process in MiB (of Linux; elsewhere its peak so far)."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE
    except (OSError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MEBIBYTE


def memory(algorithm: str, folder: Path, tasks: int = AT[-1]) -> list[tuple[int, float, float, float]]:
    """(tasks, resident set, rows, states) in MiB at some points of a run of tiny tasks that is saved every ten tasks."""
    config = Run(stream="permuted-images", algorithm=algorithm, optimizer="adam", tasks=tasks, seeds=2, examples=16,
                 hidden=(32, 32), measure_every=10)  # fmt: skip
    points = []
    for row in run(config, folder, save_every=10):
        done = int(row["task"]) + 1
        if row["seed"] == 1 and done in AT:
            rows, states = (
                sum(f.stat().st_size for f in folder.glob(f"{kind}-*")) / MEBIBYTE for kind in ("rows", "state")
            )
            points.append((done, resident(), rows, states))
    return points


def main() -> None:
    for algorithm in sys.argv[1:] or ["cbp", "l2-er"]:
        with tempfile.TemporaryDirectory() as name:
            points = memory(algorithm, Path(name))
        first = points[0][1]
        print_table(
            f"Memory of one run of {algorithm}, MiB",
            ["tasks", "resident", "since 50", "rows on disk", "states on disk"],
            [
                [done, f"{rss:.1f}", f"{rss - first:+.1f}", f"{rows:.2f}", f"{states:.2f}"]
                for done, rss, rows, states in points
            ],
        )


if __name__ == "__main__":
    main()
