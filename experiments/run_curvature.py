"""Curvature at the start of a task: spectrum of the Hessian and of the Gauss–Newton matrix before the first update on new data.

The matrix is that of the mean cross-entropy of the network as it is, on the first ``curvature_examples`` of the probe of the *new*
task, in float64. Outputs that do not count in this task are left out: their parameters have zero rows.

==============================  ========================================================================================
column                          value
==============================  ========================================================================================
start_lambda_max, _min          extreme Ritz values: λ_max is at least, λ_min at most this
start_trace                     tr H; start_trace_error: 0, or one standard error over random probes
start_epsilon_rank              #{|λ(H)| > ε}: counted by inertia if P ≤ 3000, else estimated by Ritz weights
start_epsilon_rank_lower,       the same number if counted; else the bracket of the Ritz weights, which more Lanczos steps would
_upper                          narrow, widened by one standard error, which more probes would reduce
start_normalized_epsilon_rank   start_epsilon_rank / P
start_published_epsilon_rank    what the code of 2509.22335 calls normalized ε-rank: smoothed, and no ε-rank (for comparison)
start_gauss_newton_epsilon_rank  #{λ(GGN) > ε}, exact for every P: inertia of the loss-weighted Gram matrix [N·C, N·C]
start_gauss_newton_share        the same / (N (C − 1)), the most that the softmax cross-entropy of N examples allows
==============================  ========================================================================================

ε is ``curvature_eps``, absolute: an ε-rank is confounded with the scale of H. "Exact" means a count in float64, see
:func:`lop_theory.rank.inertia`. For activations without curvature (ReLU) tr H = tr GGN = tr K exactly: with all but one weight
fixed the output is linear in it, so that the residual part of H has a zero diagonal.

The random probes come from a generator of (seed, task): measuring changes no other number of a run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lop_theory.architectures import mlp
from lop_theory.dag import Dag
from lop_theory.gram import gauss_newton_gram
from lop_theory.hessian import hessian, hvp
from lop_theory.lanczos import Matvec
from lop_theory.rank import epsilon_rank
from lop_theory.spectrum import estimate_spectrum, published_normalized_epsilon_rank

__all__ = ["CURVATURE_COLUMNS", "EXACT_PARAMS", "LiveNet", "hessian_or_none", "live_net", "matvec", "measure_curvature"]

CURVATURE_COLUMNS = (
    "start_lambda_max",
    "start_lambda_min",
    "start_trace",
    "start_trace_error",
    "start_epsilon_rank",
    "start_epsilon_rank_lower",
    "start_epsilon_rank_upper",
    "start_normalized_epsilon_rank",
    "start_published_epsilon_rank",
    "start_gauss_newton_epsilon_rank",
    "start_gauss_newton_share",
)

EXACT_PARAMS = 3000
"""Up to this P the Hessian is formed (72 MB) and its ε-rank counted by inertia."""

STEPS, PROBES = 100, 4  # of Lanczos. At P = 3010, ε = .01: 60 steps say 958, 100 say 1248; it is 1149
KIND = "cross_entropy"
FLAT = ("relu", "identity")  # activations with φ″ = 0


class LiveNet(NamedTuple):
    """A network of a run as an object of the theory: ``dag``, parameters θ [P], inputs x [N, d], labels y [N]; float64."""

    dag: Dag
    theta: Tensor
    x: Tensor
    y: Tensor
    kind: str = KIND


def live_net(
    params: tuple[Tensor, ...], activation: str, x: Tensor, y: Tensor, active: NDArray[np.int64] | None = None
) -> LiveNet:
    """**One** replica of a layered net, params (W_1 [1, n_1, n_0], b_1 [1, n_1], …), on x [N, d]; only the outputs ``active``.

    Labels, which are positions of outputs, become positions among the active ones.

    >>> params = torch.ones(1, 2, 1), torch.ones(1, 2), torch.ones(1, 3, 2), torch.zeros(1, 3)
    >>> net = live_net(params, "relu", torch.ones(1, 1), torch.tensor([2]), np.array([0, 2]))
    >>> net.dag.num_params, net.dag.num_outputs, net.y.tolist()
    (10, 2, [1])
    """
    tensors = [p[0].detach().double().cpu() for p in params]
    if active is not None and len(active) < len(tensors[-1]):
        chosen = torch.from_numpy(active)
        tensors[-2:] = [tensors[-2][chosen], tensors[-1][chosen]]
        y = torch.searchsorted(chosen, y)  # active is sorted
    widths = [tensors[0].shape[1], *(b.shape[0] for b in tensors[1::2])]
    theta = torch.cat([t.flatten() for t in tensors])
    return LiveNet(mlp(widths, activation), theta, x.detach().double().cpu(), y)


def hessian_or_none(net: LiveNet) -> Tensor | None:
    """H [P, P] if it is small enough to be formed, else None."""
    return hessian(*net, kinks="torch") if net.dag.num_params <= EXACT_PARAMS else None


def matvec(net: LiveNet, matrix: Tensor | None) -> Matvec:
    """v ↦ H v, with the matrix of :func:`hessian_or_none`."""
    return matrix.__matmul__ if matrix is not None else lambda v: hvp(*net[:4], v, net.kind)


def measure_curvature(
    net: LiveNet, eps: float, generator: torch.Generator, whole: int | None = None
) -> dict[str, float]:
    """``CURVATURE_COLUMNS`` of one network; ``whole``: P with the outputs that were left out (default: of this net).

    A parameter that was left out has a zero row, so that it counts in P and bounds λ_min and λ_max, and nothing else.

    >>> params = torch.eye(2)[None], torch.ones(1, 2), torch.eye(2)[None], torch.zeros(1, 2)
    >>> net = live_net(params, "relu", torch.eye(2), torch.tensor([0, 1]))
    >>> found = measure_curvature(net, 1e-6, torch.Generator().manual_seed(0))
    >>> found["start_gauss_newton_epsilon_rank"], found["start_gauss_newton_share"]
    (2.0, 1.0)
    """
    size, outputs = net.dag.num_params, net.dag.num_outputs
    whole = size if whole is None else whole
    matrix = hessian_or_none(net)
    found = estimate_spectrum(matvec(net, matrix), size, generator=generator, steps=STEPS, probes=PROBES)
    gram = gauss_newton_gram(net.dag, net.theta, net.x, net.kind, kinks="torch")
    trace, trace_error = found.trace()
    if matrix is not None or all(name in FLAT for name in net.dag.activations):
        trace, trace_error = float((gram if matrix is None else matrix).trace()), 0.0
    if matrix is not None:
        rank = lower = upper = float(epsilon_rank(matrix, eps))
    else:
        count = found.epsilon_rank(eps)
        rank, lower, upper = (
            count.value,
            max(count.lower - count.stderr, 0.0),
            min(count.upper + count.stderr, float(size)),
        )
    beyond = epsilon_rank(gram, eps)
    ends = [found.extreme(end).value for end in ("max", "min")]
    if whole > size:
        ends = [max(ends[0], 0.0), min(ends[1], 0.0)]
    published = published_normalized_epsilon_rank(found.nodes, found.weights, eps)
    most = len(net.x) * (outputs - 1)
    share = beyond / most if most else float("nan")  # one output: the loss is constant, 0/0
    values = (*ends, trace, trace_error, rank, lower, upper, rank / whole, published, float(beyond), share)
    return dict(zip(CURVATURE_COLUMNS, values, strict=True))
