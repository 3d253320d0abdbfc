"""Exact instances of the rank bound per second: draw, exact Hessian, proven rank, corrected bound.

    python -m benchmarks.bench_property [--instances N]

Integer ReLU nets 3-4-4-3 (P = 51) on 40 integer samples, with up to one dead unit in each hidden layer by construction.
Nothing is rounded: an instance with exact_rank > bound is a counterexample to the bound.
"""

import argparse
import statistics
import time
from itertools import pairwise

import numpy as np
import torch

from benchmarks.timing import print_table, ratio  # first: it sets the number of threads
from lop_theory.architectures import mlp
from lop_theory.bounds import dead_unit_bound_corrected
from lop_theory.exact import exact_hessian
from lop_theory.rank import exact_rank

WIDTHS, SAMPLES = [3, 4, 4, 3], 40
DAG = mlp(WIDTHS)
BIASES = DAG.param[DAG.source == DAG.constant]
STAGES = ("draw", "exact_hessian", "exact_rank", "corrected bound")


def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Even weights and odd biases keep pre-activations off the kink; a dead unit has a bias below every possible sum."""
    theta = 2 * generator.integers(-2, 3, DAG.num_params)
    theta[BIASES] += 1
    x = generator.integers(-3, 4, (SAMPLES, WIDTHS[0]))
    for first, reach in ((0, 4 * 3 * WIDTHS[0]), (WIDTHS[1], 4 * (4 * 3 * WIDTHS[0] + 5) * WIDTHS[1])):
        if generator.random() < 0.5:
            theta[BIASES[first + generator.integers(4)]] = -(reach + 1)
    return theta, x, generator.integers(-5, 6, (SAMPLES, WIDTHS[-1]))


def float_rank(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> int:
    """The same in floats, for comparison: torch.func.hessian of plain torch code and numpy's rank."""

    def total(t: torch.Tensor) -> torch.Tensor:
        h, at = torch.from_numpy(x).double(), 0
        for fan_in, fan_out in ((3, 4), (4, 4), (4, 3)):
            weight, bias = t[at : at + fan_in * fan_out].view(fan_out, fan_in), t[at + fan_in * fan_out :][:fan_out]
            h, at = h @ weight.T + bias, at + (fan_in + 1) * fan_out
            h = torch.relu(h) if at < DAG.num_params else h
        return ((h - torch.from_numpy(y)) ** 2).sum() / 2

    return int(np.linalg.matrix_rank(torch.func.hessian(total)(torch.from_numpy(theta).double()).numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=2000, help="exact instances (default 2000)")
    count = parser.parse_args().instances
    if count < 1:
        parser.error(f"--instances {count}: at least one instance is needed")
    generator = np.random.default_rng(0)
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    floats: list[float] = []
    violated = attained = float_differs = 0
    for k in range(count + 1):
        marks = [time.process_time()]
        theta, x, y = draw(generator)
        marks.append(time.process_time())
        matrix = exact_hessian(DAG, theta, x, y)
        marks.append(time.process_time())
        rank = exact_rank(matrix)
        marks.append(time.process_time())
        bound = dead_unit_bound_corrected(DAG, theta, x)
        marks.append(time.process_time())
        if k == 0:  # warm up
            float_rank(theta, x, y)
            continue
        for name, (start, end) in zip(STAGES, pairwise(marks), strict=True):
            stages[name].append(end - start)
        violated, attained = violated + (rank > bound), attained + (rank == bound)
        if k % 10 == 0:  # interleaved
            start = time.process_time()
            float_differs += float_rank(theta, x, y) != rank
            floats.append(time.process_time() - start)
    total = sum(map(sum, stages.values()))
    rows = [
        [name, f"{1e6 * statistics.median(t):.0f} µs", f"{100 * sum(t) / total:.0f} %"] for name, t in stages.items()
    ]
    print_table(
        f"Rank bound, P = {DAG.num_params}, N = {SAMPLES}, exact, 1 thread", ["stage", "median CPU", "share"], rows
    )
    print(f"  {count / total:.0f} exact instances per CPU second", end="; ")
    if floats:
        float_time = statistics.mean(floats)
        print(
            f"torch.func.hessian + numpy matrix_rank: {1 / float_time:.0f}, so {ratio(float_time * count / total)}",
            end="",
        )
        print(f" (and {float_differs} of its {len(floats)} ranks differ from the exact rank)")
    print(f"  bound violated in {violated}, attained in {attained} of {count} instances")


if __name__ == "__main__":
    main()
