r"""Stability of an affine loss-of-plasticity manifold: the Hessian in normal directions, and its signs.

Let M be an affine subspace on which every gradient is tangent (frozen or cloned). Write N and T for bases of its normal
and tangent space. Differentiating Nᵀ ∇L(θ) = 0 along M gives

    H_NT = Nᵀ H T = 0     at every θ ∈ M, critical or not,

so a small normal displacement n evolves by itself under gradient flow, ṅ = −H_NN n, and the eigenvalue signs of
H_NN = Nᵀ H N say whether it decays. *Barriers* (arXiv 2510.00304, Definition A.2) distinguishes stable, unstable and
saddle; for cloned units H_NN always has a zero block, so it is never definite, and for frozen units H_NN = 0. Hence six
outcomes, with the number of zero directions beside them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from flint import fmpq, fmpq_mat, fmpz_mat

from lop_theory.arithmetic import Array, rational_array
from lop_theory.manifolds import AffineSubspace, as_vector, from_matrix, is_exact, to_matrix
from lop_theory.rank import Inertia


class StabilityKind(StrEnum):
    """Signs of the eigenvalues of H_NN. Positive means that gradient descent returns to the manifold."""

    POSITIVE_DEFINITE = "positive definite"
    NEGATIVE_DEFINITE = "negative definite"
    POSITIVE_SEMIDEFINITE = "positive semidefinite"
    NEGATIVE_SEMIDEFINITE = "negative semidefinite"
    SADDLE = "saddle"
    FLAT = "flat"


class Stability(NamedTuple):
    """The kind, and how many eigenvalues of H_NN are positive, negative and zero (``nullity``)."""

    kind: StabilityKind
    positive: int
    negative: int
    nullity: int


def normal_hessian_blocks(subspace: AffineSubspace, H: Any) -> tuple[Array, Array]:
    """(H_NN [c, c], H_NT [c, P − c]) of a symmetric H [P, P], c = codimension.

    Floats (tensor or array): in orthonormal bases, so H_NN has the eigenvalues of P_N H P_N on the normal space.
    Exact H (``fmpq_mat``, ``fmpz_mat``, integer or object array): over Q in the rational bases of the subspace, which
    are not orthonormal; H_NN is then *congruent* to the orthonormal one (same signs, not same eigenvalues), and
    H_NT = 0 means the same.

    >>> line = AffineSubspace.from_equations(2, [({0: 1, 1: -1}, 0)])
    >>> hnn, hnt = normal_hessian_blocks(line, [[1, 3], [3, 1]])            # normal (1, −1), tangent (1, 1)
    >>> hnn.tolist(), hnt.tolist()
    ([[-4]], [[0]])
    """
    matrix = _read_matrix(H, subspace.ambient_dim)
    exact = is_exact(matrix)
    normal: Array = subspace.normal_basis(exact)
    tangent: Array = subspace.tangent_basis(exact)
    if isinstance(matrix, torch.Tensor):
        normal, tangent = (torch.from_numpy(basis).to(matrix) for basis in (normal, tangent))
    if exact:
        left = to_matrix(normal.T) * to_matrix(matrix)
        return from_matrix(left * to_matrix(normal)), from_matrix(left * to_matrix(tangent))
    half = normal.swapaxes(0, 1) @ matrix
    return half @ normal, half @ tangent


def classify_stability(H_NN: Any, tol: float | None = None) -> Stability:
    """The signs of a symmetric H_NN [c, c]: one of six kinds, with counts.

    Exact H_NN is classified by :func:`exact_inertia`, and ``tol`` is not used. For floats an eigenvalue is zero if
    |λ| ≤ tol; by default tol = c · eps · ‖H_NN‖_F, the rounding level. No normal directions (c = 0) are *flat*.

    >>> classify_stability([[0, 1], [1, 0]]).kind
    <StabilityKind.SADDLE: 'saddle'>
    >>> classify_stability(torch.tensor([[2.0, 0.0], [0.0, 0.0]])).nullity
    1
    """
    matrix = _read_matrix(H_NN, None)
    if is_exact(matrix):
        counts = exact_inertia(matrix)
        return Stability(_kind(*counts), *counts)
    if tol is not None and not tol >= 0:
        raise ValueError(f"tol {tol} is not a level; give a number ≥ 0, or None for the rounding level")
    unit = torch.finfo(matrix.dtype).eps if isinstance(matrix, torch.Tensor) else float(np.finfo(matrix.dtype).eps)
    values = matrix.detach().cpu().numpy() if isinstance(matrix, torch.Tensor) else matrix
    spectrum = np.linalg.eigvalsh((values + values.T) / 2) if len(values) else np.zeros(0)
    level = len(values) * unit * float(np.linalg.norm(values)) if tol is None else tol
    positive, negative = int((spectrum > level).sum()), int((spectrum < -level).sum())
    nullity = len(values) - positive - negative
    return Stability(_kind(positive, negative, nullity), positive, negative, nullity)


def exact_inertia(H: Any) -> Inertia:
    """(positive, negative, zero) of a symmetric rational H [n, n], proved, by symmetric elimination over Q.

    Sylvester: H and E H Eᵀ have the same inertia for invertible E. A non-zero diagonal entry d is a pivot: the Schur
    complement B − r rᵀ/d is left, and d counts by its sign. If the whole diagonal is zero, an entry c = H_ij ≠ 0 gives
    the 2 × 2 pivot [[0, c], [c, 0]], one eigenvalue of each sign.

    >>> exact_inertia([[1, 2, 0], [2, 4, 0], [0, 0, -3]])
    Inertia(positive=1, negative=1, zero=1)
    """
    rest = _read_matrix(H, None)
    if not is_exact(rest):
        rest = rational_array(rest)
    if (rest != rest.T).any():
        i, j = (int(k[0]) for k in np.nonzero(rest != rest.T))
        raise ValueError(
            f"H[{i}, {j}] = {rest[i, j]} but H[{j}, {i}] = {rest[j, i]}; an inertia needs a symmetric matrix"
        )
    positive = negative = 0
    while len(rest):
        pivots = [k for k in range(len(rest)) if rest[k, k] != 0]
        if pivots:
            k = pivots[0]
            d, row = rest[k, k], np.delete(rest[k], k)
            positive, negative = positive + bool(d > 0), negative + bool(d < 0)
            rest = np.delete(np.delete(rest, k, 0), k, 1) - row[:, None] * row[None, :] / d
            continue
        rows, columns = np.nonzero(rest != 0)
        if not len(rows):
            break
        i, j = int(rows[0]), int(columns[0])
        c, a, b = rest[i, j], np.delete(rest[i], [i, j]), np.delete(rest[j], [i, j])
        cross = a[:, None] * b[None, :] / c  # the inverse of [[0, c], [c, 0]] has 1/c off the diagonal
        rest = np.delete(np.delete(rest, [i, j], 0), [i, j], 1) - cross - cross.T
        positive, negative = positive + 1, negative + 1
    return Inertia(positive, negative, len(rest))


def _kind(positive: int, negative: int, nullity: int) -> StabilityKind:
    if positive and negative:
        return StabilityKind.SADDLE
    if positive:
        return StabilityKind.POSITIVE_SEMIDEFINITE if nullity else StabilityKind.POSITIVE_DEFINITE
    if negative:
        return StabilityKind.NEGATIVE_SEMIDEFINITE if nullity else StabilityKind.NEGATIVE_DEFINITE
    return StabilityKind.FLAT


def _read_matrix(H: Any, size: int | None) -> Array:
    """A square matrix: floating tensor or array, else an object array of ``fmpq``."""
    if isinstance(H, fmpq_mat | fmpz_mat):
        table = np.empty((H.nrows(), H.ncols()), dtype=object)
        table.ravel()[:] = [fmpq(v) for v in H.entries()]
        H = table
    elif not isinstance(H, torch.Tensor | np.ndarray):
        H = np.asarray(H, dtype=object)
        H = H.reshape(0, 0) if H.size == 0 else H
    matrix = as_vector(H, len(H) if size is None else size, "H")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"H has shape {tuple(matrix.shape)}; give a square matrix")
    return matrix
