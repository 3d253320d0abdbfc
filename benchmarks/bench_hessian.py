"""The dense Hessian of an MLP against torch.func, against its matrix products alone, and its peak memory.

    python -m benchmarks.bench_hessian [--large]

``--large`` adds torch.func.hessian at P = 10,015 (about 40 s and 6 GB).

The floor is the time of the matrix products of formula (2) of ``lop_theory/hessian.py`` alone: 2 N P_l P_m flops for each
pair of layers l ≤ m for the terms with C, and again for l < m for the terms with δ, into a buffer that is already there.
The library merges the two families in one product wherever both occur, so that it can be below this floor.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import torch

from benchmarks.timing import medians, print_table, ratio, seconds  # first: it sets the number of threads
from lop_theory.architectures import init_params, mlp
from lop_theory.hessian import hessian, hvp

SAMPLES = 128
SIZES = ([20, 42, 40, 10], [40, 80, 70, 15])
Problem = tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor]


def problem(widths: list[int]) -> Problem:
    generator = torch.Generator().manual_seed(0)
    theta = init_params(mlp(widths, "tanh"), generator)
    x = torch.randn(SAMPLES, widths[0], generator=generator, dtype=torch.float64)
    return widths, theta, x, torch.randint(widths[-1], (SAMPLES,), generator=generator)


def torch_loss(widths: list[int], x: torch.Tensor, y: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same loss as plain torch code."""

    def loss(theta: torch.Tensor) -> torch.Tensor:
        h, at = x, 0
        for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
            weight = theta[at : at + fan_in * fan_out].view(fan_out, fan_in)
            bias = theta[at + fan_in * fan_out : at + (fan_in + 1) * fan_out]
            h, at = torch.nn.functional.linear(h, weight, bias), at + (fan_in + 1) * fan_out
            h = torch.tanh(h) if layer < len(widths) - 2 else h
        return torch.nn.functional.cross_entropy(h, y)

    return loss


def forward_over_reverse(loss: Callable[[torch.Tensor], torch.Tensor], theta: torch.Tensor, chunk: int) -> torch.Tensor:
    """vmap(jvp(grad)) over ``chunk`` columns at a time, written into the result."""

    def column(direction: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(torch.func.grad(loss), (theta,), (direction,))[1]

    out = theta.new_empty(len(theta), len(theta))
    for first in range(0, len(theta), chunk):
        size = min(chunk, len(theta) - first)
        basis = theta.new_zeros(size, len(theta))
        basis[torch.arange(size), first + torch.arange(size)] = 1
        out[first : first + size] = torch.vmap(column)(basis)
    return out


def floor(widths: list[int]) -> tuple[Callable[[], None], float]:
    """The products of formula (2) alone, and their flops."""
    layers = [(fan_in + 1, fan_out) for fan_in, fan_out in pairwise(widths)]
    shapes = []
    for k, (j, n) in enumerate(layers):
        for m, (j2, n2) in enumerate(layers[k:], k):
            shapes.append((n * n2, j * j2))
            if m > k:
                shapes.append((n * j2, n2 * j))
    buffer = torch.zeros(max(a * b for a, b in shapes), dtype=torch.float64)
    ones = {size: torch.ones(size, SAMPLES, dtype=torch.float64) for size in {k for shape in shapes for k in shape}}
    factors = [(ones[a], ones[b].T.contiguous()) for a, b in shapes]

    def products() -> None:
        for left, right in factors:
            torch.mm(left, right, out=buffer[: len(left) * right.shape[1]].view(len(left), right.shape[1]))

    return products, 2.0 * SAMPLES * sum(a * b for a, b in shapes)


def compare(widths: list[int], large: bool) -> None:
    _, theta, x, y = problem(widths)
    dag, loss = mlp(widths, "tanh"), torch_loss(widths, x, y)
    buffer = torch.empty(len(theta), len(theta), dtype=torch.float64)
    products, flops = floor(widths)
    reference = torch.func.jacrev(torch.func.jacrev(loss), chunk_size=64)
    ours, reused = "lop_theory.hessian", "lop_theory.hessian, out="
    methods: dict[str, Callable[[], object]] = {
        ours: lambda: hessian(dag, theta, x, y, "cross_entropy"),
        reused: lambda: hessian(dag, theta, x, y, "cross_entropy", out=buffer),
        "matrix products alone (floor)": products,
        "jacrev o jacrev, chunk 64": lambda: reference(theta),
    }
    for chunk in (32, 64, 128):
        methods[f"vmap(jvp(grad)), chunk {chunk}"] = lambda chunk=chunk: forward_over_reverse(loss, theta, chunk)
    full = "torch.func.hessian"
    if len(theta) < 5000 or large:
        methods[full] = lambda: torch.func.hessian(loss)(theta)
    times = medians(methods, repetitions=7, budget=5.0)
    vector = torch.ones_like(theta)
    product = hvp(dag, theta, x, y, vector, "cross_entropy")
    error = (hessian(dag, theta, x, y, "cross_entropy", out=buffer) @ vector - product).norm() / product.norm()
    best = min(t for name, t in times.items() if "jac" in name or "vmap" in name)
    rows = [[name, seconds(t), ratio(t / times[ours]), ratio(t / times[reused])] for name, t in times.items()]
    title = f"tanh MLP {'-'.join(map(str, widths))}, P = {len(theta)}, N = {SAMPLES}, cross-entropy, float64, 1 thread"
    print_table(title, ["method", "CPU", "/ ours", "/ ours out="], rows)
    at_floor = times["matrix products alone (floor)"]
    print(
        f"  best torch.func formulation / ours: {ratio(best / times[ours])} ({ratio(best / times[reused])} with out=)"
    )
    print(f"  ours / floor: {ratio(times[ours] / at_floor)} ({ratio(times[reused] / at_floor)} with out=)", end="; ")
    print(f"floor {flops / 1e9:.1f} Gflop at {flops / at_floor / 1e9:.0f} Gflop/s; ‖Hv − hvp‖/‖hvp‖ = {error:.0e}")


def print_peak_memory(widths: list[int]) -> None:
    """Run in a fresh process: peak resident memory before and after one Hessian, in MiB."""
    _, theta, x, y = problem(widths)
    dag = mlp(widths, "tanh")
    hessian(mlp([2, 2], "tanh"), torch.zeros(6, dtype=torch.float64), x[:, :2], y % 2, "cross_entropy")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = hessian(dag, theta, x, y, "cross_entropy").numel() * 8 / 2**20
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{before / 1024:.0f} {after / 1024:.0f} {size:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="torch.func.hessian at P = 10,015 too")
    parser.add_argument("--memory", type=int, nargs="+", metavar="WIDTH", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print_peak_memory(arguments.memory)
        return
    # First, because a process starts with the peak of its parent on Linux.
    command = [sys.executable, "-m", "benchmarks.bench_hessian", "--memory", *map(str, SIZES[-1])]
    before, after, size = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    print(f"peak memory at P = 10,015: {after} MiB, of which the libraries {before} MiB and the matrix {size} MiB")
    for widths in SIZES:
        compare(widths, arguments.large)


if __name__ == "__main__":
    main()
