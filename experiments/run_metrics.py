"""What is measured on R layered nets at the end of a task: pure functions of tensors, one value per replica.

========================  ==============================================================================================
column                    value
========================  ==============================================================================================
dead_fraction             share of all hidden units that are silent on more than 95 % of the probe
duplicate_fraction        share of all hidden units that have a later unit of the layer with a cosine above .98
effective_rank_h{l}       e^entropy of σ/Σσ of the activations [N, n_l] of hidden layer l = 1, 2, …; 0 if all are 0
stable_rank_h{l}          Σσ²/σ₁² of the same; 0 if all are 0
epsilon_rank_gram_h{l}    number of eigenvalues σ²/N of hᵀh/N above ε
weight_norm               √Σ w² over all weight matrices, without biases
mean_abs_weight           mean of |w| over the same
========================  ==============================================================================================

All are uncentred and computed in float64; the thresholds are those of ``experiments.online.measures``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from torch import Tensor

from experiments.online.measures import dead_fraction, duplicate_fraction
from lop_theory.algorithms.base import Params

__all__ = ["spectral_ranks", "measure_features", "measure_weights", "feature_columns"]

FloatArray = NDArray[np.float64]
RANKS = ("effective_rank_h", "stable_rank_h", "epsilon_rank_gram_h")


def feature_columns(layers: int) -> list[str]:
    """The names of everything that is measured of a net with this many hidden layers.

    >>> feature_columns(1)[2:5]
    ['effective_rank_h1', 'stable_rank_h1', 'epsilon_rank_gram_h1']
    """
    ranks = [f"{name}{l}" for l in range(1, layers + 1) for name in RANKS]
    return ["dead_fraction", "duplicate_fraction", *ranks, "weight_norm", "mean_abs_weight"]


def spectral_ranks(h: FloatArray, eps: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Effective rank, stable rank and ε-rank of the second moments, each [R], of h [R, N, n], from one decomposition.

    >>> [float(rank[0]) for rank in spectral_ranks(np.diag([2.0, 1.0, 0.0])[None], eps=0.1)]
    [1.8898815748423097, 1.25, 2.0]
    """
    sigma = np.linalg.svd(h, compute_uv=False)
    squares, total = (sigma**2).sum(axis=1), sigma.sum(axis=1, keepdims=True)
    share = np.divide(sigma, total, out=np.zeros_like(sigma), where=total > 0)
    effective = np.where(total[:, 0] > 0, np.exp(entr(share).sum(axis=1)), 0.0)
    stable = np.divide(squares, sigma[:, 0] ** 2, out=np.zeros_like(squares), where=sigma[:, 0] > 0)
    return effective, stable, (sigma**2 / h.shape[1] > eps).sum(axis=1).astype(np.float64)


def measure_features(hidden: tuple[Tensor, ...], eps: float) -> dict[str, FloatArray]:
    """The columns of the activations h_l [R, N, n_l], which must be finite.

    >>> import torch
    >>> float(measure_features((torch.zeros(1, 2, 3), torch.ones(1, 2, 1)), eps=0.1)["dead_fraction"][0])
    0.75
    """
    arrays = [h.detach().double().cpu().numpy() for h in hidden]
    sizes = np.array([h.shape[2] for h in arrays])
    layers = [np.moveaxis(h, 0, -1) for h in arrays]  # [N, n, R], as experiments.online.measures wants it
    values = {
        "dead_fraction": np.array([dead_fraction(h) for h in layers]).T @ sizes / sizes.sum(),
        "duplicate_fraction": np.array([duplicate_fraction(h) for h in layers]).T @ sizes / sizes.sum(),
    }
    for l, h in enumerate(arrays, start=1):
        values |= {f"{name}{l}": rank for name, rank in zip(RANKS, spectral_ranks(h, eps))}
    return values


def measure_weights(params: Params) -> dict[str, FloatArray]:
    """The columns of the weight matrices.

    >>> import torch
    >>> float(measure_weights((torch.full((1, 1, 2), 3.0), torch.ones(1, 1)))["mean_abs_weight"][0])
    3.0
    """
    flat = np.concatenate([w.detach().double().cpu().numpy().reshape(len(w), -1) for w in params[::2]], axis=1)
    return {"weight_norm": np.linalg.norm(flat, axis=1), "mean_abs_weight": np.abs(flat).mean(axis=1)}
