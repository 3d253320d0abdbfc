"""Spectra of the loss at the start of a task: parameters inherited from the tasks before, examples of the new one.

The Hessian H is that of the mean cross-entropy on the first ``examples`` of the probe of the *new* task, before the first update
on it ("new-task initialization" in 2509.22335), in float64. Up to ``EXACT_PARAMS`` parameters (:mod:`experiments.run_curvature`)
H is formed and all eigenvalues are computed; beyond, Lanczos quadrature counts by Ritz weights, with a bracket. Beside it stands
what the published code makes of the same matrix: 100 Lanczos steps from one random vector, smoothed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.run import train_task
from experiments.run_config import Run
from experiments.run_curvature import LiveNet, hessian_or_none, live_net, matvec
from experiments.run_program import prepare
from experiments.run_state import start
from experiments.streams import Task
from lop_theory.gram import gauss_newton_gram
from lop_theory.spectrum import Spectrum, estimate_spectrum, published_normalized_epsilon_rank

__all__ = [
    "Look",
    "task_starts",
    "published_nodes",
    "levels_row",
    "spectrum_of",
    "published_density",
    "binned",
]

FloatArray = NDArray[np.float64]
Look = Callable[[LiveNet, int, int], Mapping[str, Any]]  # (net, seed, task) → columns of that task start

STEPS = 100  # Lanczos steps of the published code on permuted MNIST, from one vector


def task_starts(
    config: Run, look: Look, due: Sequence[int], examples: int, data: str | Path | None = None
) -> Iterator[dict[str, Any]]:
    """Run as ``experiments.run`` does and yield, for the tasks ``due``, seed, task, online accuracy of that task, and ``look``.

    Training stops after the last task that is due. A replica that has diverged has no more rows; nets with normalisation are
    not objects of the theory, so they cannot be looked at.

    >>> config = Run(stream="permuted-images", tasks=2, seeds=1, examples=80, hidden=(8,))
    >>> [row] = task_starts(config, lambda net, seed, task: {"parameters": net.theta.numel()}, due=[1], examples=40)
    >>> row["task"], row["parameters"]
    (1, 610)
    """
    program = prepare(config, data)
    learner = start(program)
    for t in range(max(due) + 1):
        tasks = [stream.task(t) for stream in program.streams]
        seen = {}
        for place, r in enumerate(learner.alive.tolist() if t in due else []):
            net = _net(tuple(p[place : place + 1] for p in learner.params), tasks[r], config, examples)
            seen[r] = dict(look(net, config.seed + r, t))
        learner, _, values = train_task(program, learner, tasks)
        for r in seen:
            yield {"seed": config.seed + r, "task": t, "accuracy": float(values["online_accuracy"][r]), **seen[r]}


def _net(params: tuple[Tensor, ...], task: Task, config: Run, examples: int) -> LiveNet:
    """One replica on the probe of a task."""
    part = (task.probe if len(task.probe) else task.train).part(slice(0, examples))
    x = torch.from_numpy(part.x().reshape(len(part), -1))
    return live_net(params, config.activation, x, torch.from_numpy(part.y), task.active)


# -- spectra ---------------------------------------------------------------------------------------------------------------


def spectrum_of(
    net: LiveNet, generator: torch.Generator, steps: int, probes: int, deflate: int = 0, matrix: Tensor | None = None
) -> Spectrum:
    """Lanczos quadrature of H."""
    return estimate_spectrum(
        matvec(net, matrix), net.dag.num_params, generator=generator, steps=steps, probes=probes, deflate=deflate
    )


def published_nodes(
    net: LiveNet, generator: torch.Generator, matrix: Tensor | None = None
) -> tuple[FloatArray, FloatArray]:
    """Ritz values and weights as the published code has them: ``STEPS`` steps from one random vector."""
    found = spectrum_of(net, generator, STEPS, probes=1, matrix=matrix)
    return found.nodes[0], found.weights[0]


def levels_row(net: LiveNet, generator: torch.Generator, levels: FloatArray) -> dict[str, float]:
    """At the levels ε [L]: shares of P beyond ±ε by eigenvalues (``counted_k``) and by the published estimator (``published_k``).

    Also the share of N (C − 1) that the Gauss–Newton matrix has beyond ε (``gauss_newton_k``), and the extreme eigenvalues. Beyond
    ``EXACT_PARAMS`` parameters the count is that of Ritz weights of four probes.
    """
    matrix = hessian_or_none(net)
    nodes, weights = published_nodes(net, generator, matrix)
    if matrix is not None:
        eigenvalues = np.linalg.eigvalsh(matrix.numpy())
        ends, counted = (eigenvalues[0], eigenvalues[-1]), [(np.abs(eigenvalues) > eps).mean() for eps in levels]
    else:
        found = spectrum_of(net, generator, STEPS, probes=4)
        ends = (found.extreme("min").value, found.extreme("max").value)
        counted = [found.epsilon_rank(float(eps)).value / found.dimension for eps in levels]
    gram = np.linalg.eigvalsh(gauss_newton_gram(net.dag, net.theta, net.x, net.kind, kinks="torch").numpy())
    most = len(net.x) * (net.dag.num_outputs - 1)
    row = {"lambda_min": float(ends[0]), "lambda_max": float(ends[1])}
    for k, eps in enumerate(levels.tolist()):
        row[f"counted_{k}"] = float(counted[k])
        row[f"gauss_newton_{k}"] = float((gram > eps).sum() / most)
        row[f"published_{k}"] = published_normalized_epsilon_rank([nodes], [weights], eps)
    return row


def published_density(nodes: FloatArray, weights: FloatArray, points: int = 2000) -> tuple[FloatArray, FloatArray]:
    """The density that the published code plots, on a grid of ``points``: variance 10⁻⁵ max(1, range) on every Ritz value.

    >>> x, density = published_density(np.array([0.0, 5.0]), np.array([0.9, 0.1]))
    >>> round(float(np.trapezoid(density, x)), 3)
    1.0
    """
    low, high = nodes.min() - 0.05, nodes.max() + 0.05
    s = np.sqrt(1e-5 * max(1.0, high - low))
    x = np.unique(
        np.concatenate([np.linspace(low, high, points), (nodes[:, None] + s * np.linspace(-4, 4, 33)).ravel()])
    )
    density = np.exp(-0.5 * ((x[:, None] - nodes) / s) ** 2) @ weights / (s * np.sqrt(2 * np.pi))
    return x, density


def binned(found: Spectrum, edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Number of eigenvalues with |λ| between two edges [B + 1], and its standard error over probes: no kernel.

    A count r has the variance 2 r (n − r) / (n + 2) over one probe of a space of dimension n (formula (2) of ``spectrum``);
    deflated eigenvalues are counted one by one.

    >>> A, draw = torch.diag(torch.tensor([3.0] * 50 + [0.0] * 50, dtype=torch.float64)), torch.Generator().manual_seed(0)
    >>> counts, errors = binned(estimate_spectrum(A.__matmul__, 100, probes=8, generator=draw), np.array([1e-3, 1.0, 10.0]))
    >>> float(counts[0]), bool(abs(counts[1] - 50) < 3 * errors[1] < 10)
    (0.0, True)
    """
    n, known = found.complement, np.histogram(np.abs(found.eigenvalues), edges)[0]
    shares = np.mean([np.histogram(np.abs(q.nodes), edges, weights=q.weights)[0] for q in found.quadratures], axis=0)
    r = n * shares
    return known + r, np.sqrt(2 * r * np.maximum(n - r, 0) / ((n + 2) * len(found.quadratures)))
