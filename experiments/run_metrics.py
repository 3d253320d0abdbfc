"""What is measured of R layered nets along a run: pure functions of tensors, one value per replica.

At the end of a task, on its probe:

==============================  ========================================================================================
column                          value
==============================  ========================================================================================
dead_fraction                   share of all hidden units that are silent on more than 95 % of the probe
dormant_fraction                share of all hidden units with a ReDo score of at most .025
saturated_fraction              share of all hidden units with |φ′(z)| < .01 on more than 95 % of the probe
duplicate_fraction              share of all hidden units that have a later unit of the layer with a cosine above .98
dead_fraction_h{l}              dead_fraction of hidden layer l = 1, 2, … alone
effective_rank_h{l}             e^entropy of σ/Σσ of the activations [N, n_l]
stable_rank_h{l}                Σσ²/σ₁² of the same
participation_ratio_h{l}        (Σσ²)²/Σσ⁴ of the same; centred_participation_ratio_h{l}: without the mean over the probe
tolerance_rank_h{l}             number of σ above max(N, n) · eps · σ₁
epsilon_rank_gram_h{l}          number of eigenvalues σ²/N of hᵀh/N above ε
weight_norm, mean_abs_weight    √Σ w² and mean of |w| over all weight matrices, without biases
==============================  ========================================================================================

At the start of a task, before its first update, on its probe with the labels of the new task, and over the task:

==============================  ========================================================================================
start_dead_fraction             share of hidden units with φ′(z) = 0 on the whole probe: the set F
start_gradient_norm             ‖g‖ of the mean loss, all parameters
start_gradient_reliability      ‖g‖²/E‖ĝ‖² for minibatches as large as those of the run
start_readiness                 ‖g‖² · reliability, "optimization readiness"
frozen_normal_update            ‖P_N Δθ‖/‖Δθ‖: how much of the way of this task was normal to the frozen manifold of F
==============================  ========================================================================================

Uncentred and in float64 unless the name says otherwise; the definitions are those of :mod:`lop_theory.metrics`. An empty cell
(NaN): the quantity is undefined, as there; but all-zero features have effective, stable and participation rank 0 here, as in
published tables. ``frozen_normal_update`` is empty if F is (then every update is tangent), or if nothing moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.run_clones import clone_columns
from experiments.run_curvature import CURVATURE_COLUMNS
from lop_theory import metrics
from lop_theory.activations import get_activation
from lop_theory.algorithms.base import LayerTrace, Params

__all__ = [
    "dead_on_all",
    "feature_columns",
    "frozen_normal_update",
    "measured_columns",
    "measure_features",
    "measure_start",
    "measure_weights",
]

FloatArray = NDArray[np.float64]
SHARES = ("dead_fraction", "dormant_fraction", "saturated_fraction", "duplicate_fraction")
LAYER = (
    "dead_fraction_h", "effective_rank_h", "stable_rank_h", "participation_ratio_h", "centred_participation_ratio_h",
    "tolerance_rank_h", "epsilon_rank_gram_h",
)  # fmt: skip
START = ("start_dead_fraction", "start_gradient_norm", "start_gradient_reliability", "start_readiness")


def feature_columns(layers: int) -> list[str]:
    """The names of everything that is measured of a net with this many hidden layers.

    >>> feature_columns(1)[4:7]
    ['dead_fraction_h1', 'effective_rank_h1', 'stable_rank_h1']
    """
    of_layers = [f"{name}{l}" for l in range(1, layers + 1) for name in LAYER]
    return [*SHARES, *of_layers, "weight_norm", "mean_abs_weight", *START, "frozen_normal_update"]


def measured_columns(config: Mapping[str, Any]) -> list[str]:
    """The names of everything that a run with this configuration measures of its network; what is off has no column.

    >>> config = {"hidden": [8], "cloned": 1, "curvature_every": 0}
    >>> measured_columns(config) == feature_columns(1), len(measured_columns(config | {"curvature_every": 5})) - 18
    (True, 11)
    """
    layers = len(config["hidden"])
    curvature = CURVATURE_COLUMNS if config["curvature_every"] else ()
    return [*feature_columns(layers), *clone_columns(layers, config["cloned"]), *curvature]


# -- the end of a task -----------------------------------------------------------------------------------------------------


def measure_features(trace: LayerTrace, activation: str, eps: float) -> dict[str, FloatArray]:
    """The columns of pre-activations and activations z_l, h_l [R, N, n_l], which must be finite.

    >>> h = (torch.zeros(1, 2, 3), torch.ones(1, 2, 1))
    >>> float(measure_features(LayerTrace(h, h, h[1]), "relu", eps=0.1)["dead_fraction"][0])
    0.75
    """
    layers = [h.detach().double().cpu().numpy() for h in trace.h]
    slopes = [get_activation(activation).tensor[1](z.detach()).double().cpu().numpy() for z in trace.z]
    sizes = np.array([h.shape[2] for h in layers])
    dead = [metrics.dead_fraction(h) for h in layers]
    shares = (
        dead,
        [metrics.dormant_fraction(h) for h in layers],
        [metrics.saturated_fraction(s) for s in slopes],
        [metrics.duplicate_fraction(h) for h in layers],
    )
    values = {name: np.array(share).T @ sizes / sizes.sum() for name, share in zip(SHARES, shares)}
    unit = torch.finfo(trace.output.dtype).eps
    for l, h in enumerate(layers, start=1):
        sigma = metrics.singular_values(h)
        ranks = (
            dead[l - 1],
            metrics.effective_ranks(sigma, of_zero=0.0),
            metrics.stable_ranks(sigma, of_zero=0.0),
            metrics.participation_ratios(sigma, of_zero=0.0),
            metrics.centred_participation_ratios(h, of_zero=0.0),
            metrics.tolerance_ranks(sigma, (h.shape[1], h.shape[2]), unit),
            metrics.epsilon_ranks(sigma, h.shape[1], eps),
        )
        values |= {f"{name}{l}": rank for name, rank in zip(LAYER, ranks)}
    return values


def measure_weights(params: Params) -> dict[str, FloatArray]:
    """The columns of the weight matrices.

    >>> float(measure_weights((torch.full((1, 1, 2), 3.0), torch.ones(1, 1)))["mean_abs_weight"][0])
    3.0
    """
    weights = [w.detach().double().cpu().numpy() for w in params[::2]]
    return {"weight_norm": metrics.weight_norm(weights), "mean_abs_weight": metrics.mean_abs_weight(weights)}


# -- the start of a task ---------------------------------------------------------------------------------------------------


def dead_on_all(trace: LayerTrace, activation: str) -> list[Tensor]:
    """Per hidden layer, which units [R, n_l] have φ′(z) = 0 on every input: numerically dead, and no gradient comes in.

    >>> z = torch.tensor([[[-1.0, 1.0], [-2.0, -1.0]]])
    >>> dead_on_all(LayerTrace((z,), (z.relu(),), z), "relu")
    [tensor([[ True, False]])]
    """
    slope = get_activation(activation).tensor[1]
    return [(slope(z) == 0).all(dim=1) for z in trace.z]


def measure_start(
    x: Tensor, trace: LayerTrace, signals: Sequence[Tensor], dead: Sequence[Tensor], batch: int
) -> dict[str, FloatArray]:
    """The columns ``START``, from inputs x [R, N, d], error signals of single examples and dead units; ``batch`` of the run.

    >>> x = torch.ones(1, 2, 1)
    >>> signals = [torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]])]    # g_i = (1, 1) and (3, 3), g = (2, 2)
    >>> found = measure_start(x, LayerTrace((x,), (x,), x), signals, [torch.zeros(1, 1)], batch=1)
    >>> [found[name].round(9).tolist() for name in ("start_gradient_norm", "start_gradient_reliability")]    # √8, 8 / 10
    [[2.828427125], [0.8]]
    """
    inputs = [h.detach().double().cpu().numpy() for h in (x, *trace.h)]
    deltas = [d.detach().double().cpu().numpy() for d in signals]
    grads = [np.einsum("rno,rni->roi", d, h, optimize=True) / h.shape[1] for h, d in zip(inputs, deltas)]
    norm = metrics.gradient_norm([*grads, *(d.mean(axis=1) for d in deltas)])
    reliability = metrics.gradient_reliability(norm, metrics.example_gradient_squares(inputs, deltas), batch)
    share = torch.cat([d.double() for d in dead], dim=1).mean(dim=1).numpy()
    return dict(zip(START, (share, norm, reliability, metrics.optimization_readiness(norm, reliability))))


def frozen_normal_update(before: Params, after: Params, dead: Sequence[Tensor]) -> FloatArray:
    """‖P_N Δθ‖/‖Δθ‖ [R] for Δθ = after − before and the frozen manifold of the units ``dead``, whose incoming parameters it fixes.

    (2510.00304, Theorem 2.1(1); ``lop_theory.frozen.frozen_manifold``.) NaN if no unit is dead, or Δθ = 0.

    >>> one = torch.ones(1, 2, 1), torch.ones(1, 2), torch.ones(1, 1, 2), torch.ones(1, 1)
    >>> frozen_normal_update(tuple(0 * p for p in one), one, [torch.tensor([[True, False]])]).round(12).tolist()    # √(2 / 7)
    [0.534522483825]
    """
    steps = [(b - a).detach().double() for a, b in zip(before, after)]
    whole = sum(d.square().flatten(1).sum(dim=1) for d in steps)
    normal = torch.zeros(len(steps[0]), dtype=torch.float64)
    for l, mask in enumerate(dead):
        rows = steps[2 * l].square().sum(dim=2) + steps[2 * l + 1].square()
        normal += (rows * mask).sum(dim=1)
    some = torch.stack([m.any(dim=1) for m in dead]).any(dim=0)
    return torch.where(some & (torch.as_tensor(whole) > 0), (normal / whole).sqrt(), torch.nan).numpy()
