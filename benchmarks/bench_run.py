"""The runner on streams of images against the field's recipe, and what each algorithm costs beside plain backprop.

    python -m benchmarks.bench_run [--data FOLDER] [--only digits|online|overhead]

The recipe is torch.nn, torch.optim and F.cross_entropy, one seed at a time, tensors at hand before the clock starts; it counts
right answers but measures nothing else. It is the same plain recipe beside every algorithm: beside Continual Backprop, which
the public code does in Python after each step, too. Ours on digits is the whole loop of ``lop run`` (data, checks, accuracy at the
end of a task, the learner copied as for a checkpoint). Online MNIST is the training of one task of one run, without its
measurements: with --data and MNIST there; else on images in which four fifths of the pixels are 0, as in MNIST.

Everything is CPU seconds on one thread, the two sides in turn, medians. The runner spreads replicas over threads if torch has
them (same bits), which divides the seconds of the clock once more.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import cpu_seconds, medians, print_table, ratio  # first: it sets the number of threads
from experiments.run import run
from experiments.run_config import DEFAULTS, Run
from experiments.run_layered import applies, train_compiled
from experiments.run_program import Program, prepare
from experiments.run_state import start
from experiments.streams import Task
from lop_theory.algorithms.base import mlp_forward

REPLICAS, REPETITIONS = 16, 5
REQUIRED = {"digits": 4.0, "online": 3.0}
DIGITS = [("bp", "sgd"), ("bp", "adam"), ("cbp", "sgd"), ("cbp", "adam"), ("l2", "sgd")]
ONLINE = [(100, 2000), (2000, 300)]  # width of three layers, examples


def field_recipe(program: Program, task: Task) -> Callable[[], None]:
    """A function that trains one net on a task, as public code does."""
    config, widths = program.config, program.widths
    layers: list[nn.Module] = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    net = nn.Sequential(*layers)
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[str(config.optimizer)]
    optimizer = make(net.parameters(), lr=config.step_size)
    batches: list[tuple[Tensor, Tensor]] = [
        (torch.from_numpy(task.train.x(b).reshape(len(b), -1)).float(), torch.from_numpy(task.train.y[b]).long())
        for b in task.batches()
    ]

    def train() -> None:
        right = 0.0
        for x, y in batches:
            output = net(x)
            loss = F.cross_entropy(output, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += (output.detach().argmax(dim=1) == y).sum().item()

    return train


def compare(ours: Callable[[], object], field: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Median CPU seconds of both, in turn, after a first call of each."""
    ours(), field()
    rounds = [(cpu_seconds(ours), cpu_seconds(field)) for _ in range(repetitions)]
    return statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds)


def digits() -> list[str]:
    """64-100-100-100-10, minibatches of 8; returns what missed its target."""
    rows, missed = [], []
    for algorithm, optimizer in DIGITS:
        config = Run(
            stream="permuted-images", algorithm=algorithm, optimizer=optimizer, tasks=2, seeds=REPLICAS, measure_every=0
        )
        program = prepare(config)
        task = program.streams[0].task(0)
        ours, field = compare(lambda config=config: list(run(config)), field_recipe(program, task), REPETITIONS)
        updates = len(task.batches())
        gain = REPLICAS * config.tasks * field / ours
        rows.append([f"{algorithm}, {optimizer}", f"{field / updates * 1e6:.0f} us",
                     f"{ours / updates / config.tasks / REPLICAS * 1e6:.0f} us", ratio(gain)])  # fmt: skip
        missed += [f"digits {algorithm} {optimizer}"] if gain < REQUIRED["digits"] else []
    print_table(
        f"Permuted digits, 64-100-100-100-10, batch 8, float32: CPU time of an update of one replica, 1 thread "
        f"(required: {REQUIRED['digits']:.0f}x)",
        ["algorithm", "recipe, one seed", f"lop run, {REPLICAS} seeds", "ratio"],
        rows,
    )
    return missed


class _Sparse:
    """Images of 784 pixels, four fifths of them 0, in the place of MNIST."""

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(0)
        self.images = (draw.random((count, 784)) * (draw.random((count, 784)) < 0.19)).astype(np.float32)
        self.y = draw.integers(10, size=count)
        self.rows = np.arange(count)

    def x(self, chosen: object = slice(None)) -> np.ndarray:
        return self.images[chosen]

    def __len__(self) -> int:
        return len(self.y)


def triad() -> float:
    """Bytes per CPU second of a ← b + c · s on arrays that no cache holds, in numba, as the kernel is."""
    from numba import njit

    @njit(error_model="numpy")
    def add(a: np.ndarray, b: np.ndarray, c: np.ndarray, s: np.float32) -> None:
        for i in range(a.size):
            a[i] = b[i] + s * c[i]

    a, b, c = (np.ones(16_000_000, np.float32) for _ in range(3))
    add(a, b, c, np.float32(0.5))
    return 3 * a.nbytes / statistics.median(cpu_seconds(lambda: add(a, b, c, np.float32(0.5))) for _ in range(7))


def touched_bytes(program: Program, params: tuple[Tensor, ...], x: Tensor) -> float:
    """Mean number of bytes of weights that one example reads and writes: rows of active inputs, read twice and written once."""
    trace = mlp_forward(params, x, "relu")
    active = [float((h != 0).float().sum(dim=-1).mean()) for h in (x, *trace.h)]
    return sum(3 * 4 * count * out for count, out in zip(active, program.widths[1:]))


def online(data: str | None) -> list[str]:
    """784-n-n-n-10, one example at a time; returns what missed its target."""
    rows, missed, bandwidth = [], [], triad()
    for width, examples in ONLINE:
        for algorithm in ("bp", "l2", "cbp"):
            own = {"replacement_rate": 1e-6} if algorithm == "cbp" else {}  # that of the published protocol
            given = {"dataset": "mnist", "examples": examples} if data else {}
            config = Run(stream="permuted-images", batch=1, epochs=1, seeds=1, tasks=2, algorithm=algorithm, hidden=(width,) * 3,
                         step_size=3e-3, **own, **given)  # fmt: skip
            program = prepare(config, data)
            task = program.streams[0].task(0)
            if not data:
                program, task = _with_sparse_images(program, task, examples)
            learner, values = start(program), {name: np.full(1, np.nan) for name in program.columns}
            ours, field = compare(
                lambda p=program, n=learner, t=task, v=values: train_compiled(p, n, [t], v),
                field_recipe(program, task),
                3,
            )
            x = torch.from_numpy(task.train.x(slice(0, 100)).reshape(100, -1)).float()
            rate = touched_bytes(program, learner.params, x) * examples / ours
            gain = field / ours
            rows.append([f"3 x {width}, {algorithm}", f"{examples / field:,.0f}/s", f"{examples / ours:,.0f}/s", ratio(gain),
                         f"{rate / 1e9:.1f} GB/s", f"{100 * rate / bandwidth:.0f} %"])  # fmt: skip
            missed += [f"online {width} {algorithm}"] if gain < REQUIRED["online"] and algorithm != "cbp" else []
    print_table(
        f"Online {'MNIST' if data else 'stand-in for MNIST'}, batch 1, SGD, float32, one run: examples per CPU second "
        f"(required: {REQUIRED['online']:.0f}x of BP; memory gives {bandwidth / 1e9:.1f} GB/s in a triad)",
        ["net, algorithm", "recipe", "kernel", "ratio", "weights touched", "of the triad"],
        rows,
    )
    return missed


def _with_sparse_images(program: Program, task: Task, examples: int) -> tuple[Program, Task]:
    from dataclasses import replace

    widths = (784, *program.widths[1:])
    images = _Sparse(examples)
    return replace(program, widths=widths), replace(task, train=images)  # type: ignore[arg-type]


def overhead() -> None:
    """A Markdown table of all algorithms of ``lop run``."""
    functions: dict[str, Callable[[], object]] = {}
    paths = {}
    for name in DEFAULTS:
        config = Run(stream="permuted-images", algorithm=name, tasks=1, seeds=REPLICAS, measure_every=0)
        paths[name] = "compiled" if applies(prepare(config)) else "batched"
        functions[name] = lambda config=config: list(run(config))
    batched = Run(stream="permuted-images", tasks=1, seeds=REPLICAS, measure_every=0, activation="leaky_relu:0.0")
    functions["bp, batched"] = lambda: list(run(batched))
    paths["bp, batched"] = "batched"
    times = medians(functions, repetitions=3, budget=12.0)
    print(
        f"\nOverhead over backprop with SGD, whole runs of {REPLICAS} seeds on permuted digits (batch 8), CPU time:\n"
    )
    print("| algorithm | path | / bp | / bp on the batched path |\n|---|---|---:|---:|")
    for name, time in times.items():
        print(f"| {name} | {paths[name]} | {time / times['bp']:.2f} | {time / times['bp, batched']:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with MNIST, as for lop run")
    parser.add_argument("--only", choices=["digits", "online", "overhead"], help="one of the three parts")
    options = parser.parse_args()
    if options.data and not Path(options.data).is_dir():
        parser.error(f"--data {options.data} is no folder")
    parts = {"digits": digits, "online": lambda: online(options.data), "overhead": overhead}
    missed = [name for part, function in parts.items() if options.only in (None, part) for name in function() or []]
    print("\n  targets:", f"missed by {', '.join(missed)}" if missed else "met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
