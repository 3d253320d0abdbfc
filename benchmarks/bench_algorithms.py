"""Algorithms: what 32 replicas cost beside one, and what the effective-rank penalty adds to a step.

    python -m benchmarks.bench_algorithms [--threads T]

One step is forward pass, gradient and update. Replicas share the overhead of the program and of each operation, so they are
cheap while a single network is too small to fill the processor; from about 10⁶ numbers on memory traffic rules, and the
ratio goes to 32. The C library of Linux returns large tensors to the system and fetches them again; the compiled updates
let it keep those of up to 31 MB (``elementwise.keep_freed_memory``), which makes updates of 32 replicas up to twice as fast.

With one thread times are CPU seconds: a bound on what a machine with more cores needs, and steady on a busy machine. With
more threads they are seconds of the clock, which mean something on an idle machine only: threads wait for one another.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.timing import medians, print_table, ratio, seconds  # first: it sets the number of threads
from lop_theory.algorithms.base import Algorithm, Context, Params, generators, gradients, mlp_context, mlp_init
from lop_theory.algorithms.continual_backprop import continual_backprop
from lop_theory.algorithms.descent import adam, momentum, sgd
from lop_theory.algorithms.perturbation import noisy_sgd, shrink_and_perturb
from lop_theory.algorithms.regularizers import (
    effective_rank_penalty,
    l2,
    l2_er,
    l2_init,
    spectral_regularization,
    weight_clipping,
)

REPLICAS, STEPS = 32, 10

MAKE: dict[str, Callable[[], Algorithm]] = {
    "sgd": lambda: sgd(0.01),
    "l2(sgd)": lambda: l2(sgd(0.01), 1e-4),
    "momentum": lambda: momentum(0.01),
    "adam": lambda: adam(1e-3),
    "l2_init(adam)": lambda: l2_init(adam(1e-3), 1e-4),
    "weight_clipping": lambda: weight_clipping(1.0),
    "shrink_and_perturb, every 100": lambda: shrink_and_perturb(0.999, 1e-3, every=100),
    "noisy_sgd": lambda: noisy_sgd(0.01),
    "continual_backprop(sgd)": lambda: continual_backprop(sgd(0.01)),
}


def stepper(
    make: Callable[[], Algorithm], widths: list[int], samples: int, replicas: int, dtype: torch.dtype, buffer: int = 0
) -> Callable[[], None]:
    """A function that trains for STEPS updates."""
    source = generators(range(replicas))
    rule, params = make(), mlp_init(widths, source, dtype)
    state = rule.init(params)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(replicas, samples, widths[0], generator=draw, dtype=dtype)
    y = torch.randint(widths[-1], (replicas, samples), generator=draw)
    held = torch.randn(replicas, buffer, widths[0], generator=draw, dtype=dtype) if buffer else None

    def run() -> None:
        theta: Params = params
        memory = state
        for step in range(STEPS):
            ctx: Context = mlp_context(theta, x, y, "relu", "cross_entropy", step, source, held)
            theta, memory = rule.update(theta, gradients(theta, ctx), memory, ctx)

    return run


def clock_medians(functions: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of the clock of each function, called in turn after one unrecorded round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for recorded in [False] + [True] * repetitions:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if recorded:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def replicas(widths: list[int], samples: int, dtype: torch.dtype) -> None:
    functions = {
        (name, count): stepper(make, widths, samples, count, dtype)
        for name, make in MAKE.items()
        for count in (1, REPLICAS)
    }
    named = {f"{n} {c}": f for (n, c), f in functions.items()}
    single = torch.get_num_threads() == 1
    times = medians(named, repetitions=7, budget=1.5) if single else clock_medians(named, repetitions=7)
    rows = [
        [
            name,
            seconds(times[f"{name} 1"] / STEPS),
            seconds(times[f"{name} {REPLICAS}"] / STEPS),
            ratio(times[f"{name} {REPLICAS}"] / times[f"{name} 1"]),
        ]
        for name in MAKE
    ]
    unit = "CPU time, 1 thread" if single else f"clock time, {torch.get_num_threads()} threads"
    title = f"{REPLICAS} replicas beside one: {'-'.join(map(str, widths))}, minibatch {samples}, {dtype}, {unit}"
    print_table(title, ["algorithm", "one", f"{REPLICAS}", "ratio"], rows)


def penalty() -> None:
    widths, samples, buffer = [64, 100, 100, 10], 16, 100
    base, name = stepper(lambda: sgd(0.01), widths, samples, 1, torch.float32), "sgd"
    cases: dict[str, Callable[[], Algorithm]] = {
        "effective_rank_penalty, every step": lambda: effective_rank_penalty(sgd(0.01), 1e-2),
        "l2_er, one ascent in 10": lambda: l2_er(sgd(0.01), 1e-3, 1e-2, every=10),
        "spectral_regularization": lambda: spectral_regularization(sgd(0.01), 1e-2),
    }
    functions = {name: base}
    functions |= {n: stepper(make, widths, samples, 1, torch.float32, buffer) for n, make in cases.items()}
    times = medians(functions, repetitions=5, budget=4.0)
    rows = [[n, seconds(t / STEPS), ratio(t / times[name])] for n, t in times.items()]
    title = f"Regularisers of the spectrum: {'-'.join(map(str, widths))}, minibatch {samples}, features [{buffer}, 100]"
    print_table(title, ["algorithm", "step", "/ sgd"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch (1: CPU seconds; more: seconds of the clock)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for widths, samples, dtype in (
        ([64, 100, 10], 1, torch.float32),
        ([64, 100, 10], 16, torch.float32),
        ([64, 100, 100, 10], 1, torch.float32),
        ([64, 100, 100, 10], 16, torch.float32),
        ([64, 100, 10], 1, torch.float64),
    ):
        replicas(widths, samples, dtype)
    if arguments.threads == 1:
        penalty()


if __name__ == "__main__":
    main()
