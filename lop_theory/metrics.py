r"""Diagnostics of plasticity: pure functions of arrays, one canonical definition each, one value per replica.

Features h are [R, N, n]: R replicas (seeds), N probe inputs, n units of a layer; values are float64 [R]. **Undefined is NaN**,
never a number that looks like a measurement; every case is listed below. An entry that is not finite makes the replica NaN.

============================  ===================================================================  ===========================
metric                        value                                                                NaN, because …
============================  ===================================================================  ===========================
dead_fraction                 share of units with |h| < 1e-7 on more than 95 % of the probe        –
rarely_active_fraction        share of units with h ≠ 0 on less than 1 % of the probe              –
dormant_fraction              share of units with s ≤ τ, s = mean|h_i| / mean_j mean|h_j|          –  (all-zero layer: s = 0)
saturated_fraction            share of units with |φ′(z)| < .01 on more than 95 % of the probe     –
signal_saturated_fraction     share of units with |∂L/∂h| / mean|h| < 1e-4 on more than 99 %       –
duplicate_fraction            share of units with a later unit of the layer at a cosine above .98  –  (zero units never count)
effective_ranks               exp(−Σ p log p), p = σ/Σσ                                            all σ are 0 (p = 0/0)
stable_ranks                  Σσ² / σ_1²                                                           all σ are 0 (0/0)
participation_ratios          (Σσ²)² / Σσ⁴                                                         all σ are 0 (0/0)
centred_participation_ratios  the same of the features minus their mean over the probe             nothing varies (0/0)
sranks                        min k : Σ_{i≤k} σ_i ≥ (1 − δ) Σσ                                     all σ are 0
epsilon_ranks                 #{σ²/N > ε}: ε-rank of the second moments hᵀh/N                      –
tolerance_ranks               #{σ > max(N, n) · eps · σ_1}, eps that of the dtype of the features  –  (zero features: 0)
numerical_ranks               index of the widest gap of σ (``rank.numerical_rank``)               that gap is below RANK_GAP
weight_norm                   √Σ w²                                                                –
mean_abs_weight               mean |w|                                                             –
gradient_norm                 √Σ g²                                                                –
gradient_reliability          ‖g‖² / E‖ĝ‖², ĝ the gradient of a random minibatch                   no gradient at all (0/0)
optimization_readiness        ‖g‖² · reliability; where there is no gradient its limit, 0          –
============================  ===================================================================  ===========================

Ranks are functions of the singular values σ [R, k] of the features (:func:`singular_values`), **uncentred** unless it is asked for
centred ones: then they are those of another matrix, the features minus their mean over the probe, and σ²/N are the eigenvalues of
the covariance. For a single matrix they are the functions of ``lop_theory.rank``, where the chain of inequalities is proved.

*One name, several things.* The literature calls "stable rank" the participation ratio of centred features (code of 2510.00304) and
srank (2306.13812 in Nature, Plasticine); "dormant" the low scores of ReDo (2302.12902) and the rarely active units of 2306.13812;
"effective rank" the entropy of σ (Roy and Vetterli 2007) and of σ². :data:`ALIASES` is the dictionary.

*Optimization readiness* (2605.09044: gradient strength × gradient reliability, a lower bound of the gain of one step). The formula
is derived here from that sentence; the paper's own normalisation was not at hand. Let L be β-smooth and E ĝ = g = ∇L(θ). Then

    E[L(θ) − L(θ − η ĝ)] ≥ η ‖g‖² − ½ β η² E‖ĝ‖²,   which is largest at η = ‖g‖² / (β E‖ĝ‖²), namely

    (1 / 2β) · ‖g‖² · (‖g‖² / E‖ĝ‖²)  =  (1 / 2β) · strength · reliability.                                               (1)

For minibatches of B examples drawn independently, E‖ĝ‖² = ‖g‖² + (mean_i ‖g_i‖² − ‖g‖²)/B with the gradients g_i of the examples.
In a layered net ‖g_i‖² = Σ_l ‖δ_l,i‖² (‖h_{l−1},i‖² + 1), so that no g_i is ever formed (:func:`example_gradient_squares`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr

from lop_theory.algorithms.resets import dormancy
from lop_theory.rank import RANK_GAP, RANK_LEVEL

__all__ = [
    "ALIASES",
    "DEAD_SHARE",
    "DORMANT_SCORE",
    "DUPLICATE_COSINE",
    "SATURATED_SLOPE",
    "SILENCE",
    "dead_fraction",
    "rarely_active_fraction",
    "dormant_fraction",
    "saturated_fraction",
    "signal_saturated_fraction",
    "duplicate_fraction",
    "singular_values",
    "effective_ranks",
    "stable_ranks",
    "participation_ratios",
    "centred_participation_ratios",
    "sranks",
    "epsilon_ranks",
    "tolerance_ranks",
    "numerical_ranks",
    "weight_norm",
    "mean_abs_weight",
    "gradient_norm",
    "example_gradient_squares",
    "gradient_reliability",
    "optimization_readiness",
]

Floats = NDArray[np.floating[Any]]
FloatArray = NDArray[np.float64]

SILENCE = 1e-7
"""|h| below this is silence (code of 2510.00304)."""

DEAD_SHARE = 0.95
"""A unit is called dead, or saturated, if it is so on more than this share of the probe (2510.00304)."""

DUPLICATE_COSINE = 0.98
"""Units whose activity vectors have a larger cosine are called duplicates (2510.00304: .98 for bit flipping, .95 elsewhere)."""

DORMANT_SCORE = 0.025
"""τ of ReDo (2302.12902)."""

SATURATED_SLOPE = 1e-2
"""A slope |φ′(z)| below this is called flat (Figure A.3 of 2510.00304 v2)."""

ALIASES = {
    "dormant (2302.12902)": "dormant_fraction",
    "dormant (2306.13812, CIFAR and RL)": "rarely_active_fraction",
    "dead (2510.00304)": "dead_fraction",
    "saturated (2510.00304)": "signal_saturated_fraction",
    "rank, erank (2306.13812, 2509.22335)": "effective_ranks",
    "stable rank (textbook)": "stable_ranks",
    "stable rank (2510.00304)": "centred_participation_ratios",
    "stable rank (2306.13812 in Nature, Plasticine)": "sranks",
    "feature rank, srank (2010.14498)": "sranks",
    "rank (numpy.linalg.matrix_rank)": "tolerance_ranks",
    "weight magnitude (2306.13812)": "mean_abs_weight",
}
"""What the literature calls it → the function here."""


# -- shares of units -------------------------------------------------------------------------------------------------------


def dead_fraction(h: Floats, share: float = DEAD_SHARE, silence: float = SILENCE) -> FloatArray:
    """Share [R] of units that are silent, |h| < ``silence``, on more than ``share`` of the probe.

    >>> dead_fraction(np.array([[[0.0, 1.0], [0.0, 0.0]]])).tolist()
    [0.5]
    """
    h = _features(h)
    return _where_finite(h, ((np.abs(h) < silence).mean(axis=1) > share).mean(axis=1))


def rarely_active_fraction(h: Floats, share: float = 0.01) -> FloatArray:
    """Share [R] of units that are not 0 on less than ``share`` of the probe (2306.13812 calls these dormant).

    >>> rarely_active_fraction(np.array([[[0.0, 1e-9], [0.0, 0.0]]])).tolist()
    [0.5]
    """
    h = _features(h)
    return _where_finite(h, ((h != 0).mean(axis=1) < share).mean(axis=1))


def dormant_fraction(h: Floats, tau: float = DORMANT_SCORE) -> FloatArray:
    """Share [R] of units with a dormancy score of at most ``tau`` (ReDo, 2302.12902, Eq. 1).

    The score is that of :func:`lop_theory.algorithms.resets.dormancy`: in a layer of zeros every unit is dormant.

    >>> dormant_fraction(np.array([[[0.0, 1.0, -3.0, 0.01]]])).tolist()
    [0.5]
    """
    h = _features(h)
    score = dormancy(torch.from_numpy(np.ascontiguousarray(h, dtype=np.float64)))
    return _where_finite(h, (score <= tau).double().mean(dim=1).numpy())


def saturated_fraction(slope: Floats, level: float = SATURATED_SLOPE, share: float = DEAD_SHARE) -> FloatArray:
    """Share [R] of units with |φ′(z)| < ``level`` on more than ``share`` of the probe; ``slope`` is φ′(z) [R, N, n].

    For ReLU these are the units that do not fire; for tanh and sigmoid those far out, on either side.

    >>> z = np.array([[[0.0, 5.0], [1.0, -5.0]]])
    >>> saturated_fraction(1 - np.tanh(z) ** 2).tolist()
    [0.5]
    """
    slope = _features(slope)
    return _where_finite(slope, ((np.abs(slope) < level).mean(axis=1) > share).mean(axis=1))


def signal_saturated_fraction(h: Floats, signal: Floats, level: float = 1e-4, share: float = 0.99) -> FloatArray:
    """Share [R] of units with |∂L/∂h| / mean|h| < ``level`` on more than ``share`` of the probe (code of 2510.00304).

    ``signal`` is ∂L/∂h [R, N, n] of the *mean* loss. It scales like 1/N and with the loss: nearly all units "saturate" on a large
    batch or at a small loss, whatever their slope. For comparison with that paper only.

    >>> h, signal = np.ones((1, 2, 2)), np.array([[[1.0, 1e-5], [1.0, 1e-5]]])
    >>> signal_saturated_fraction(h, signal).tolist()
    [0.5]
    """
    h, signal = _features(h), _features(signal)
    ratio = np.abs(signal) / np.maximum(np.abs(h).mean(axis=1, keepdims=True), 1e-12)
    return _where_finite(h, _where_finite(signal, ((ratio < level).mean(axis=1) > share).mean(axis=1)))


def duplicate_fraction(h: Floats, cosine: float = DUPLICATE_COSINE) -> FloatArray:
    """Share [R] of units j for which some unit k > j has an uncentred cosine(h_j, h_k) > ``cosine``; zero units never count.

    m copies of one unit count m − 1 times; a unit and its negative are no duplicates.

    >>> duplicate_fraction(np.array([[[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]])).round(6).tolist()
    [0.333333]
    """
    slices, finite = _slices(h)
    norms = np.linalg.norm(slices, axis=1, keepdims=True)
    unit = np.divide(slices, norms, out=np.zeros_like(slices), where=norms > 0)
    cosines = np.stack([u.T @ u for u in unit])
    later = np.triu(np.ones(cosines.shape[1:], dtype=bool), k=1)
    return np.where(finite, ((cosines > cosine) & later).any(axis=2).mean(axis=1), np.nan)


# -- ranks -----------------------------------------------------------------------------------------------------------------


def singular_values(h: Floats, *, centred: bool = False) -> FloatArray:
    """σ [R, min(N, n)] of the features of each replica, descending; NaN for a replica that is not finite.

    ``centred``: of the features minus their mean over the probe.

    >>> singular_values(np.array([[[3.0, 0.0], [0.0, 4.0]]])).tolist()
    [[4.0, 3.0]]
    """
    slices, finite = _slices(h)
    if centred:
        slices = slices - slices.mean(axis=1, keepdims=True)
    sigma = np.linalg.svd(slices, compute_uv=False)
    return np.where(finite[:, None], sigma, np.nan)


def effective_ranks(sigma: FloatArray, of_zero: float = math.nan, floor: float = 0.0) -> FloatArray:
    """exp(−Σ p log p), p = σ/Σσ (Roy and Vetterli 2007); ``of_zero`` where Σσ ≤ ``floor``: there it is 0/0.

    Published tables put 0 or 1 for zero features; who draws such a table says so by ``of_zero``.

    >>> effective_ranks(np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])).round(12).tolist()
    [3.0, 1.0, nan]
    """
    total = sigma.sum(axis=1, keepdims=True)
    share = np.divide(sigma, total, out=np.zeros_like(sigma), where=total > floor)
    return _of_zero(total[:, 0], np.exp(entr(share).sum(axis=1)), of_zero, floor)


def stable_ranks(sigma: FloatArray, of_zero: float = math.nan) -> FloatArray:
    """Σσ² / σ_1² (Rudelson and Vershynin 2007); ``of_zero`` where all σ are 0.

    >>> stable_ranks(np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [1.25, nan]
    """
    squares, largest = (sigma**2).sum(axis=1), sigma[:, 0]
    ratio = np.divide(squares, largest**2, out=np.zeros_like(squares), where=largest > 0)
    return _of_zero(largest, ratio, of_zero)


def participation_ratios(sigma: FloatArray, of_zero: float = math.nan) -> FloatArray:
    """(Σσ²)² / Σσ⁴; ``of_zero`` where all σ are 0.

    >>> participation_ratios(np.array([[2.0, 1.0], [0.0, 0.0]])).round(12).tolist()    # 25 / 17
    [1.470588235294, nan]
    """
    largest = sigma[:, 0]
    share = np.divide(sigma, largest[:, None], out=np.zeros_like(sigma), where=largest[:, None] > 0) ** 2
    fourth = (share**2).sum(axis=1)
    ratio = np.divide(share.sum(axis=1) ** 2, fourth, out=np.zeros_like(fourth), where=fourth > 0)
    return _of_zero(largest, ratio, of_zero)


def centred_participation_ratios(h: Floats, of_zero: float = math.nan) -> FloatArray:
    """(tr C)² / ‖C‖_F² [R] of the covariance C of the features, without a decomposition; "stable rank" in 2510.00304.

    NaN if the features do not vary over the probe. The same as ``participation_ratios(singular_values(h, centred=True))``.

    >>> centred_participation_ratios(np.array([[[0.0, 5.0], [1.0, 5.0]], [[1.0, 1.0], [1.0, 1.0]]])).tolist()
    [1.0, nan]
    """
    slices, finite = _slices(h)
    slices = slices - slices.mean(axis=1, keepdims=True)
    size = np.abs(slices).max(axis=(1, 2), initial=0.0)
    slices = np.divide(slices, size[:, None, None], out=np.zeros_like(slices), where=size[:, None, None] > 0)
    wide = slices.shape[1] < slices.shape[2]
    gram = np.stack([s @ s.T if wide else s.T @ s for s in slices])
    squares = np.square(gram).sum(axis=(1, 2))
    trace = np.trace(gram, axis1=1, axis2=2)
    ratio = np.divide(trace**2, squares, out=np.zeros_like(squares), where=squares > 0)
    return np.where(finite, np.where(size > 0, ratio, of_zero), np.nan)


def sranks(sigma: FloatArray, delta: float = 0.01, of_zero: float = math.nan) -> FloatArray:
    """Smallest k with Σ_{i≤k} σ_i ≥ (1 − δ) Σσ (2010.14498); ``of_zero`` where all σ are 0.

    >>> sranks(np.array([[90.0, 9.5, 0.5], [0.0, 0.0, 0.0]])).tolist()
    [2.0, nan]
    """
    total = sigma.sum(axis=1)
    partial = np.cumsum(sigma, axis=1)
    count = 1.0 + (partial < (1 - delta) * total[:, None]).sum(axis=1)
    return _of_zero(total, np.minimum(count, sigma.shape[1]), of_zero)


def epsilon_ranks(sigma: FloatArray, samples: int, eps: float) -> FloatArray:
    """#{σ²/N > ε} [R]: the ε-rank of the second moments hᵀh/N of N = ``samples`` inputs. ε is absolute, not relative to σ_1.

    >>> epsilon_ranks(np.array([[2.0, 1.0, 0.0]]), samples=4, eps=0.5).tolist()
    [1.0]
    """
    count = (sigma**2 / samples > eps).sum(axis=1).astype(np.float64)
    return np.where(np.isnan(sigma).any(axis=1), np.nan, count)


def tolerance_ranks(sigma: FloatArray, shape: tuple[int, int], unit: float = 2.0**-52) -> FloatArray:
    """#{σ > max(N, n) · unit · σ_1} [R], the rank of ``numpy.linalg.matrix_rank``. ``unit``: eps of the dtype of the features.

    Features in float32 carry errors of 1e-7 σ_1: with the eps of float64 they would nearly always have full rank.

    >>> tolerance_ranks(np.array([[1.0, 1e-3, 1e-17], [0.0, 0.0, 0.0]]), shape=(10, 3)).tolist()
    [2.0, 0.0]
    """
    count = (sigma > max(shape) * unit * sigma[:, :1]).sum(axis=1).astype(np.float64)
    return np.where(np.isnan(sigma).any(axis=1), np.nan, count)


def numerical_ranks(sigma: FloatArray, shape: tuple[int, int], unit: float = 2.0**-52) -> FloatArray:
    """Index of the widest admissible gap of σ, as :func:`lop_theory.rank.numerical_rank`; NaN where that gap decides nothing.

    ``shape`` (N, n) of the features and ``unit``, the eps of their dtype, set the floor of rounding max(N, n) · unit · σ_1.

    >>> numerical_ranks(np.array([[1.0, 0.5, 1e-17], [1.0, 1e-7, 1e-14], [0.0, 0.0, 0.0]]), shape=(10, 3)).tolist()
    [2.0, 2.0, 0.0]
    >>> numerical_ranks(10.0 ** -np.arange(0, 16, 2.0)[None], shape=(8, 8)).tolist()    # no gap of 1,000 anywhere
    [nan]
    """
    largest = sigma[:, :1]
    floor = max(shape) * unit * largest
    padded = np.maximum(np.concatenate([sigma, np.zeros_like(largest)], axis=1), floor)
    above, below = padded[:, :-1], padded[:, 1:]
    ratios = np.divide(above, below, out=np.ones_like(sigma), where=below > 0)
    admissible = below <= np.maximum(RANK_LEVEL * largest, floor)
    gaps = np.where(admissible, ratios, 0.0)
    decided = np.where(gaps.max(axis=1) >= RANK_GAP, gaps.argmax(axis=1) + 1.0, np.nan)
    return np.where(largest[:, 0] == 0, 0.0, np.where(np.isnan(largest[:, 0]), np.nan, decided))


# -- weights and gradients -------------------------------------------------------------------------------------------------


def weight_norm(weights: Sequence[Floats]) -> FloatArray:
    """√Σ w² [R] over arrays of weights, each [R, …].

    >>> weight_norm([np.full((1, 2, 2), 2.0), np.full((1, 3), 1.0)]).round(12).tolist()
    [4.358898943541]
    """
    return np.linalg.norm(_flat(weights), axis=1)


def mean_abs_weight(weights: Sequence[Floats]) -> FloatArray:
    """Mean of |w| [R] over arrays of weights, each [R, …] ("weight magnitude" of 2306.13812).

    >>> mean_abs_weight([np.array([[-1.0, 3.0]]), np.array([[2.0]])]).tolist()
    [2.0]
    """
    return np.abs(_flat(weights)).mean(axis=1)


def gradient_norm(grads: Sequence[Floats]) -> FloatArray:
    """√Σ g² [R] over all parameters, each gradient [R, …].

    >>> gradient_norm([np.array([[3.0]]), np.array([[4.0]])]).tolist()
    [5.0]
    """
    return weight_norm(grads)


def example_gradient_squares(inputs: Sequence[Floats], signals: Sequence[Floats]) -> FloatArray:
    """‖g_i‖² [R, N] of every example of a layered net, from the inputs h_{l−1} [R, N, n_{l−1}] and error signals δ_l [R, N, n_l].

    ∂ℓ_i/∂W_l = δ_l,i h_{l−1},iᵀ has the norm ‖δ_l,i‖ ‖h_{l−1},i‖ and ∂ℓ_i/∂b_l = δ_l,i, where δ_l,i = ∂ℓ_i/∂z_l belongs to the loss
    of example i alone (not divided by N).

    >>> example_gradient_squares([np.array([[[3.0, 4.0]]])], [np.array([[[2.0]]])]).tolist()    # 4 · 25 + 4
    [[104.0]]
    """
    return np.asarray(
        sum(
            np.square(d, dtype=np.float64).sum(axis=2) * (np.square(h, dtype=np.float64).sum(axis=2) + 1)
            for h, d in zip(inputs, signals, strict=True)
        )
    )


def gradient_reliability(norm: FloatArray, example_squares: FloatArray, batch: int) -> FloatArray:
    """‖g‖² / E‖ĝ‖² [R] for minibatches of ``batch`` examples drawn independently; between 0 and 1. See the module docstring.

    ``norm`` is ‖g‖ [R] of the mean gradient, ``example_squares`` ‖g_i‖² [R, N]. NaN where every example has a zero gradient.

    >>> gradient_reliability(np.array([1.0]), np.array([[1.0, 5.0]]), batch=2).tolist()    # 1 / (1 + (3 − 1)/2)
    [0.5]
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}; it counts the examples of a minibatch: give at least 1")
    strength, mean = norm**2, example_squares.mean(axis=1)
    second = strength + np.maximum(mean - strength, 0.0) / batch
    return np.where(second > 0, np.divide(strength, second, out=np.zeros_like(second), where=second > 0),
                    np.where(np.isnan(second), second, np.nan))  # fmt: skip


def optimization_readiness(norm: FloatArray, reliability: FloatArray) -> FloatArray:
    """Strength × reliability ‖g‖² · (‖g‖²/E‖ĝ‖²) [R], formula (1); divided by 2β it bounds the gain of the best step from below.

    0 where there is no gradient at all: reliability is at most 1, so this is the limit.

    >>> optimization_readiness(np.array([2.0, 0.0]), np.array([0.5, math.nan])).tolist()
    [2.0, 0.0]
    """
    return np.where(norm == 0, 0.0, norm**2 * reliability)


# -- helpers ---------------------------------------------------------------------------------------------------------------


def _features(h: Floats) -> Floats:
    if h.ndim != 3 or 0 in h.shape[1:]:
        raise ValueError(f"features of shape {h.shape}: give [R, N, n] with at least one input and one unit")
    return h


def _where_finite(h: Floats, values: Any) -> FloatArray:
    return np.where(np.isfinite(h).all(axis=(1, 2)), values, np.nan)


def _slices(h: Floats) -> tuple[FloatArray, NDArray[np.bool_]]:
    """[R, N, n] float64, contiguous, zero where a replica is not finite; and which replicas are finite."""
    h = _features(h)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(h).all(axis=(1, 2)))
    return np.ascontiguousarray(np.where(finite[:, None, None], h, 0.0), dtype=np.float64), finite


def _of_zero(size: FloatArray, values: FloatArray, of_zero: float, floor: float = 0.0) -> FloatArray:
    """``values`` where ``size`` > floor, ``of_zero`` where it is not, NaN where it is NaN."""
    return np.where(np.isnan(size), np.nan, np.where(size > floor, values, of_zero))


def _flat(tensors: Sequence[Floats]) -> FloatArray:
    return np.concatenate([np.asarray(t, dtype=np.float64).reshape(len(t), -1) for t in tensors], axis=1)
