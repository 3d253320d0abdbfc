"""Cloned starts: every hidden unit ``cloned`` times, and how far the copies are from being copies later on.

==============================  ========================================================================================
column (if cloned > 1)          value
==============================  ========================================================================================
clone_r2_h{l}                   1 − Σ‖h_u − mean of its copies‖² / Σ‖h_u − mean of the layer‖², on the probe, end of task
clone_r2                        mean of this and of the same for error signals, over all hidden layers (2510.00304, App. B)
cloned_distance                 ‖P_N θ‖/‖θ‖: distance to the cloned manifold {row and column equitable}, end of task
cloned_normal_gradient          ‖P_N g‖/‖g‖ of the gradient on the probe, start of task: 0 means exactly tangent
cloned_normal_update            ‖P_N Δθ‖/‖Δθ‖ of the way of the task
==============================  ========================================================================================

Copies of a unit stand side by side and start with its incoming weights and with 1/k of its outgoing ones, as
:func:`lop_theory.cloned.clone` makes them: the function is that of the net with widths divided by k. NaN: R² is undefined where all
features of every sample are equal (a dead layer), the others where the vector is 0.

**Distance.** The cloned manifold is linear, and for a k-fold cloned layered net P_N acts on each weight matrix by itself. A pair of
blocks with weights W [m, n] (m targets, n sources) must have equal row sums and equal column sums. W is the sum of a constant, of
row effects r_i, of column effects c_j and of a part with vanishing sums, all orthogonal; r and c are normal. So

    ‖P_N W‖² = n Σ_i (mean_j W_ij − mean W)² + m Σ_j (mean_i W_ij − mean W)².                                            (1)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lop_theory.algorithms.base import Params
from lop_theory.cloning_r2 import UndefinedMetricError, aggregate_clone_r2, clone_r2
from lop_theory.module_cloning.profile import Profile

__all__ = ["clone_columns", "clone_params", "measure_clone_r2", "relative_normal_part"]

FloatArray = NDArray[np.float64]


def clone_columns(layers: int, cloned: int) -> list[str]:
    """The names of the columns of a net with this many hidden layers; none without clones.

    >>> clone_columns(1, 2)
    ['clone_r2_h1', 'clone_r2', 'cloned_distance', 'cloned_normal_gradient', 'cloned_normal_update']
    """
    if cloned == 1:
        return []
    each = [f"clone_r2_h{l}" for l in range(1, layers + 1)]
    return [*each, "clone_r2", "cloned_distance", "cloned_normal_gradient", "cloned_normal_update"]


def clone_params(params: Params, k: int) -> Params:
    """The parameters (W_1, b_1, …) of R layered nets with every hidden unit k times; the same function, up to rounding of w/k.

    >>> small = torch.tensor([[[3.0]]]), torch.tensor([[1.0]]), torch.tensor([[[4.0]]]), torch.tensor([[7.0]])
    >>> [p.flatten().tolist() for p in clone_params(small, 2)]
    [[3.0, 3.0], [1.0, 1.0], [2.0, 2.0], [7.0]]
    """
    layers = len(params) // 2
    wide = []
    for l in range(layers):
        weight, bias = params[2 * l], params[2 * l + 1]
        if l:
            weight = weight.repeat_interleave(k, dim=2) / k
        if l < layers - 1:
            weight, bias = weight.repeat_interleave(k, dim=1), bias.repeat_interleave(k, dim=1)
        wide += [weight, bias]
    return tuple(wide)


def measure_clone_r2(hidden: Sequence[Tensor], signals: Sequence[Tensor], k: int) -> dict[str, float]:
    """The columns R² of **one** replica, from h_l and δ_l [1, N, n_l] of its hidden layers.

    >>> h = [torch.tensor([[[1.0, 1.0, 3.0, 3.0], [0.0, 2.0, 5.0, 5.0]]])]
    >>> {name: round(value, 4) for name, value in measure_clone_r2(h, h, 2).items()}
    {'clone_r2_h1': 0.9091, 'clone_r2': 0.9091}
    """
    forward, backward = ([_r2(tensor[0], k) for tensor in tensors] for tensors in (hidden, signals))
    values = {f"clone_r2_h{l}": value for l, value in enumerate(forward, start=1)}
    return values | {"clone_r2": aggregate_clone_r2(forward, backward)}


def _r2(features: Tensor, k: int) -> float:
    try:
        return clone_r2(features, Profile.repeat(features.shape[1] // k, k))
    except UndefinedMetricError:  # all features of every sample are equal, 0/0
        return float("nan")


def relative_normal_part(vector: Params, k: int) -> FloatArray:
    """‖P_N v‖/‖v‖ [R] of a vector in the shape of the parameters, for the manifold of k-fold clones; NaN for v = 0. Formula (1).

    >>> params = torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 2), torch.zeros(1, 1, 2), torch.zeros(1, 1)
    >>> relative_normal_part(params, 2).round(12).tolist()    # incoming weights 1 and 3 of two clones: off by 1 each, of √10
    [0.4472135955]
    """
    layers = len(vector) // 2
    normal = torch.zeros(len(vector[0]), dtype=torch.float64)
    whole = torch.zeros_like(normal)
    for l in range(layers):
        weight, bias = (v.detach().double() for v in vector[2 * l : 2 * l + 2])
        m, n = (k if l < layers - 1 else 1), (k if l else 1)
        normal += _normal_squares(weight, m, n) + _normal_squares(bias.unsqueeze(2), m, 1)
        whole += weight.square().sum(dim=(1, 2)) + bias.square().sum(dim=1)
    return torch.where(whole > 0, (normal / whole).sqrt(), torch.nan).numpy()


def _normal_squares(weight: Tensor, m: int, n: int) -> Tensor:
    """Formula (1), summed over all blocks [m, n] of ``weight`` [R, out, in]; [R]."""
    blocks = weight.unflatten(2, (-1, n)).unflatten(1, (-1, m))  # [R, out/m, m, in/n, n]
    mean = blocks.mean(dim=(2, 4), keepdim=True)
    rows, columns = (blocks.mean(dim=d, keepdim=True) - mean for d in (4, 2))
    return n * rows.square().flatten(1).sum(dim=1) + m * columns.square().flatten(1).sum(dim=1)
