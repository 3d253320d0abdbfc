"""Spectra: Lanczos at P = 10⁶ against its own matrix–vector products, and ε-ranks by inertia up to P = 10⁴.

    python -m benchmarks.bench_spectrum [--steps 30] [--full]

``--full`` counts at P = 10⁴ by inertia (about a minute of CPU and 3 GB); the default stops at P = 4,000.
"""

import argparse
from functools import partial

import torch

from benchmarks.timing import medians, print_table, ratio, seconds, timed  # first: it sets the number of threads
from lop_theory.architectures import init_params, mlp
from lop_theory.dag import Dag
from lop_theory.hessian import hessian, hvp
from lop_theory.lanczos import lanczos, lanczos_block
from lop_theory.rank import epsilon_rank
from lop_theory.spectrum import hessian_spectrum

Problem = tuple[Dag, torch.Tensor, torch.Tensor, torch.Tensor]


def problem(widths: list[int], samples: int) -> Problem:
    """A tanh net at initialisation, Gaussian inputs and random labels."""
    generator = torch.Generator().manual_seed(0)
    dag = mlp(widths, "tanh")
    theta = init_params(dag, generator)
    x = torch.randn(samples, widths[0], generator=generator, dtype=torch.float64)
    return dag, theta, x, torch.randint(widths[-1], (samples,), generator=generator)


def large(steps: int, samples: int = 1000) -> None:
    """Lanczos with two probes, one by one and together, against the same number of bare products."""
    dag, theta, x, y = problem([784, 700, 600, 10], samples)
    draw = torch.Generator().manual_seed(1)
    starts = torch.randn(2, dag.num_params, generator=draw, dtype=torch.float64)

    def product(columns: torch.Tensor) -> torch.Tensor:
        return hvp(dag, theta, x, y, columns, "cross_entropy")

    def products(rows: torch.Tensor) -> None:
        for _ in range(steps):
            product(rows.T)

    lanczos(product, starts[0], 2)  # unrecorded: first calls compile and allocate
    rows = []
    for name, block in (("one probe", starts[:1]), ("two probes together", starts)):
        _, bare = timed(products, block)
        _, ours = timed(lanczos_block, product, block, steps)
        per_product = bare / (steps * len(block))
        rows.append([name, steps, seconds(per_product), seconds(bare), seconds(ours), ratio(ours / bare)])
    header = ["tanh 784-700-600-10", "steps", "per product", "products alone", "Lanczos", "Lanczos / products"]
    print_table(f"Two-pass Lanczos, P = {dag.num_params:,}, N = {samples:,} (one run each, CPU)", header, rows)


def counts(full: bool) -> None:
    """ε-ranks by two factorizations of the Hessian, and by Ritz weights of products alone."""
    rows = []
    for widths in ([20, 30, 20, 5], [40, 50, 35, 10], *([[40, 80, 70, 15]] if full else [])):
        dag, theta, x, y = problem(widths, 500)
        matrix, build = timed(hessian, dag, theta, x, y, "cross_entropy")
        draw = torch.Generator().manual_seed(2)
        found, spent = timed(
            lambda *a, g=draw: hessian_spectrum(*a, steps=60, probes=4, deflate=20, generator=g),
            *(dag, theta, x, y, "cross_entropy"),
        )
        trusted = found.trusted_range()
        for level in (1e-1, 1e-2, 1e-3) if dag.num_params < 5000 else (1e-1,):
            eps = level * found.extreme().value
            exact, count = timed(epsilon_rank, matrix, eps)
            value, stderr, lower, upper = found.epsilon_rank(eps)
            inside = trusted is not None and trusted[0] <= eps <= trusted[1]
            estimate = f"{value:.0f} ± {stderr:.0f} in [{lower:.0f}, {upper:.0f}]"
            times = [seconds(build + count), seconds(spent)]
            rows.append([dag.num_params, f"{level:g} λ_max", *times, exact, estimate, "yes" if inside else "no"])
    header = ["P", "ε", "Hessian + inertia", "Ritz, all ε", "inertia", "Ritz ± error in bracket", "trusted"]
    print_table("ε-rank of a Hessian, N = 500 (one run each, CPU)", header, rows)


def together(at: Problem, columns: torch.Tensor) -> None:
    hvp(*at, columns, "cross_entropy")


def alone(at: Problem, columns: torch.Tensor) -> None:
    for k in range(columns.shape[1]):
        hvp(*at, columns[:, k], "cross_entropy")


def batching() -> None:
    """A product with k columns at once against k products: the forward pass is shared."""
    rows = []
    for widths in ([20, 30, 20, 5], [100, 200, 100, 10]):
        dag, theta, x, y = problem(widths, 500)
        columns = torch.randn(8, dag.num_params, dtype=torch.float64).T

        at = (dag, theta, x, y)
        methods = {"together": partial(together, at, columns), "alone": partial(alone, at, columns)}
        times = medians(methods, repetitions=3)
        saved = ratio(times["alone"] / times["together"])
        rows.append([dag.num_params, seconds(times["together"]), seconds(times["alone"]), saved])
    print_table("Eight Hessian–vector products", ["P", "together", "one by one", "ratio"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="Lanczos steps at P = 10⁶")
    parser.add_argument("--full", action="store_true", help="inertia up to P = 10⁴")
    arguments = parser.parse_args()
    large(arguments.steps)
    batching()
    counts(arguments.full)


if __name__ == "__main__":
    main()
