"""Interleaved timing in CPU seconds, and tables of ratios.

Wall time on a shared machine says little, and so do two runs an hour apart: methods that are compared are run in turn in
one process on one thread, and what is printed first is their ratio.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when the libraries are loaded
    os.environ.setdefault(_name, "1")

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

torch.set_num_threads(1)


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU seconds (user and system) of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """(value, CPU seconds) of one call."""
    start = time.process_time()
    value = function(*arguments)
    return value, time.process_time() - start


def medians(functions: Mapping[str, Callable[[], object]], repetitions: int, budget: float = 8.0) -> dict[str, float]:
    """Median CPU seconds of each function: one unrecorded call, then rounds in which each is called once.

    A function stops when it has used ``budget`` seconds (but runs at least once), so that slow ones do not rule.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    first = {name: cpu_seconds(function) for name, function in functions.items()}
    for _ in range(repetitions):
        for name, function in functions.items():
            if first[name] + sum(times[name]) + first[name] <= budget or (not times[name] and first[name] < budget):
                times[name].append(cpu_seconds(function))
    return {name: statistics.median(t) if t else first[name] for name, t in times.items()}


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns padded to their widest cell, the first to the left."""
    cells = [[str(c) for c in header], *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    print(f"\n{title}")
    for k, row in enumerate(cells):
        padded = [c.ljust(w) if j == 0 else c.rjust(w) for j, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  " + "  ".join(padded).rstrip())
        if k == 0:
            print("  " + "  ".join("-" * w for w in widths))


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x"
