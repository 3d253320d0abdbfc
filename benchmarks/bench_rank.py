"""Ranks: exact over Q, certified for trained networks, and ε-ranks by inertia and through the Gram matrix.

    python -m benchmarks.bench_rank [--large]

``--large`` adds a certified rank with N = 1,000.
"""

import argparse
from importlib import import_module

import numpy as np
import torch

from benchmarks.timing import medians, print_table, ratio, seconds, timed  # first: it sets the number of threads
from lop_theory.architectures import init_params, mlp
from lop_theory.dag import Dag
from lop_theory.exact import exact_hessian
from lop_theory.forward import gradient
from lop_theory.gram import gauss_newton_epsilon_rank
from lop_theory.hessian import gauss_newton, hessian
from lop_theory.rank import eigenvalues, epsilon_rank, exact_rank, modular_rank

PRIME = 2**61 - 1


def integer_problem(widths: list[int], samples: int, dead: int) -> tuple[Dag, np.ndarray, np.ndarray, np.ndarray]:
    """Even weights and odd biases: no pre-activation is on the kink. The first ``dead`` units of layer 1 never fire."""
    draw, dag = np.random.default_rng(0), mlp(widths)
    theta = 2 * draw.integers(-2, 3, dag.num_params)
    constant = dag.param[dag.source == dag.constant]
    theta[constant] += 1
    x = draw.integers(-3, 4, (samples, widths[0]))
    theta[constant[:dead]] = -(12 * widths[0] + 1)
    return dag, theta, x, draw.integers(-5, 6, (samples, widths[-1]))


def exact() -> None:
    rows = []
    for widths, samples in (([9, 18, 14, 4], 330), ([20, 32, 30, 12], 400)):
        dag, theta, x, y = integer_problem(widths, samples, dead=2)
        matrix, build = timed(exact_hessian, dag, theta, x, y)
        proven, elimination = timed(exact_rank, matrix)
        lower, modular = timed(modular_rank, matrix, PRIME)
        times = map(seconds, (build, elimination, modular, build + elimination))
        rows.append(["-".join(map(str, widths)), dag.num_params, samples, *times, proven, lower])
    header = [
        "ReLU net, 2 dead units",
        "P",
        "N",
        "exact_hessian",
        "exact_rank",
        "modular_rank",
        "both",
        "over Q",
        "mod p",
    ]
    print_table("Exact integer Hessian and proven rank (one run each)", header, rows)


def trained(widths: list[int], samples: int, steps: int = 300) -> tuple[Dag, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ReLU net trained by full-batch gradient descent with momentum on random labels."""
    generator = torch.Generator().manual_seed(0)
    dag = mlp(widths)
    theta = init_params(dag, generator)
    x = torch.randn(samples, widths[0], generator=generator, dtype=torch.float64)
    y = torch.randint(widths[-1], (samples,), generator=generator)
    velocity = torch.zeros_like(theta)
    for _ in range(steps):
        velocity = 0.9 * velocity - 0.1 * gradient(dag, theta, x, y, "cross_entropy")
        theta = theta + velocity
    return dag, theta, x, y


def certified(samples: int) -> None:
    try:
        certified_rank = import_module("lop_theory.certified_rank").certified_rank
    except ModuleNotFoundError as error:
        print(f"\ncertified_rank skipped: {error}")
        return
    dag, theta, x, y = trained([20, 42, 40, 10], samples)
    (lower, upper, _), cpu = timed(certified_rank, dag, theta, x, y, "cross_entropy")
    rows = [["20-42-40-10", dag.num_params, samples, seconds(cpu), lower, upper, lower == upper]]
    header = ["trained ReLU net, cross-entropy", "P", "N", "CPU", "lower", "upper", "closed"]
    print_table("Certified rank of a trained network (one run each)", header, rows)


def inertia() -> None:
    dag, theta, x, y = trained([20, 42, 40, 10], 500)
    matrix = hessian(dag, theta, x, y, "cross_entropy", kinks="torch").numpy()
    level = 1e-4 * float(np.linalg.norm(matrix, 2))
    by_inertia, by_eigenvalues = "epsilon_rank (inertia)", "eigenvalues (eigvalsh)"
    methods = {by_inertia: lambda: epsilon_rank(matrix, level), by_eigenvalues: lambda: eigenvalues(matrix)}
    times = medians(methods, repetitions=3)
    counts = {by_inertia: epsilon_rank(matrix, level), by_eigenvalues: int((np.abs(eigenvalues(matrix)) > level).sum())}
    rows = [[name, seconds(t), ratio(t / times[by_inertia]), counts[name]] for name, t in times.items()]
    print_table(f"ε-rank of a Hessian, P = {len(matrix)}, ε = 1e-4 λ_max", ["method", "CPU", "/ ours", "count"], rows)


def gram() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for widths, samples in (([20, 42, 40, 10], 200), ([784, 1000, 1000, 10], 200)):
        dag, construction = timed(mlp, widths, "tanh")
        _, tiling = timed(lambda dag: dag.tiles, dag)
        theta = init_params(dag, generator)
        x = torch.randn(samples, widths[0], generator=generator, dtype=torch.float64)
        y = torch.zeros(samples, dtype=torch.int64)
        count, ours = timed(gauss_newton_epsilon_rank, dag, theta, x, y, "cross_entropy", 1e-9)
        dense = "-"
        if dag.num_params < 5000:
            same, spent = timed(
                lambda d, *a: epsilon_rank(gauss_newton(d, *a), 1e-9), dag, theta, x, y, "cross_entropy"
            )
            dense = f"{ratio(spent / ours)}, count {same}"
        times = map(seconds, (construction, tiling, ours))
        rows.append(["-".join(map(str, widths)), dag.num_params, samples * widths[-1], *times, count, dense])
    header = [
        "tanh net, cross-entropy, N = 200",
        "P",
        "N·O",
        "mlp()",
        "tiles",
        "ε-rank",
        "count",
        "dense [P, P] / ours",
    ]
    print_table("ε-rank of the Gauss–Newton matrix through the Gram matrix, ε = 1e-9 (one run each)", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="certified rank with N = 1,000 too")
    arguments = parser.parse_args()
    exact()
    for samples in (500, 1000) if arguments.large else (500,):
        certified(samples)
    inertia()
    gram()


if __name__ == "__main__":
    main()
