r"""Lanczos steps with full re-orthogonalisation, and a test for the end of the Krylov space.

From a unit vector q_1, m products with a symmetric A give orthonormal rows q_1 … q_m of Q and a tridiagonal T [m, m] with

    A Qᵀ = Qᵀ T + r e_mᵀ,      Q Qᵀ = I,      Q r = 0.                                                               (1)

In floats orthogonality is lost as soon as an eigenvalue of T converges, and copies of it appear; so every new vector is
orthogonalised against all rows, twice ("twice is enough", Kahan and Parlett). If ‖r‖ vanishes to rounding the Krylov space
is *exhausted*: it is invariant, T is A on it, and the recursion must stop (dividing by ‖r‖ would only amplify noise).
A matrix of rank ρ exhausts every Krylov space after at most ρ + 1 steps.

All coefficients of A q_j in the rows so far come with the orthogonalisation. For a symmetric A all but the last two vanish,
so a matrix–vector product that is not symmetric (dropout, another batch on each call) is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh_tridiagonal

__all__ = ["Decomposition", "lanczos", "lanczos_block", "project_out"]

FloatArray = npt.NDArray[np.float64]
Matvec = Callable[[torch.Tensor], torch.Tensor]
"""A symmetric matrix A [P, P] as the map V ↦ A V of [P, k] to [P, k]; ``matrix.__matmul__`` is one."""

_CHUNK = 4096  # columns of the basis that are updated at a time: they stay in cache for the second dot product


@dataclass(frozen=True)
class Decomposition:
    """Formula (1): orthonormal rows ``basis`` [m, P], T by ``diagonal`` [m] and ``off_diagonal`` [m − 1], ``remainder`` r [P].

    ``scale`` is the largest ‖A q_j‖ seen, a lower bound of ‖A‖. If ``exhausted``, ‖r‖ was at most ``tolerance``, and is set to 0.
    """

    basis: torch.Tensor
    diagonal: FloatArray
    off_diagonal: FloatArray
    remainder: torch.Tensor
    scale: float
    exhausted: bool

    @property
    def tolerance(self) -> float:
        """The level of rounding in A q."""
        return _rounding(self.basis) * self.scale

    @property
    def tridiagonal(self) -> FloatArray:
        """T [m, m]."""
        return np.diag(self.diagonal) + np.diag(self.off_diagonal, 1) + np.diag(self.off_diagonal, -1)

    def ritz(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Ritz values θ [m], ascending; the eigenvectors S [m, m] of T; residuals ‖A y_j − θ_j y_j‖ = ‖r‖ |S_mj| [m]."""
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, vectors, float(self.remainder.norm()) * np.abs(vectors[-1])


def lanczos(matvec: Matvec, start: torch.Tensor, steps: int) -> Decomposition:
    """At most ``steps`` Lanczos steps from ``start`` [P], which need not have length one; fewer if the space is exhausted.

    ``matvec`` maps [P, k] to [P, k] in the dtype of ``start``. Memory: ``steps`` vectors. Raises ``ValueError`` if
    ``start`` is not a finite, non-zero vector, if ``steps`` < 1, or if ``matvec`` is seen not to be symmetric and finite.

    >>> A = torch.diag(torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64))
    >>> found = lanczos(A.__matmul__, torch.ones(3, dtype=torch.float64), steps=3)
    >>> found.exhausted, found.ritz()[0].round(12).tolist()    # two different eigenvalues: two steps
    (True, [1.0, 4.0])
    """
    if start.ndim != 1 or not start.dtype.is_floating_point:
        raise ValueError(f"start is {tuple(start.shape)} {start.dtype}; give one vector [P] of floats")
    if steps < 1:
        raise ValueError(f"steps = {steps}; give at least 1")
    return lanczos_block(matvec, start[None], steps)[0]


def lanczos_block(
    matvec: Matvec, starts: torch.Tensor, steps: int, *, locked: torch.Tensor | None = None, scale: float = 0.0
) -> list[Decomposition]:
    """:func:`lanczos` for each row of ``starts`` [k, P], advanced together, so that one call of ``matvec`` serves them all.

    ``locked`` [r, P], orthonormal rows to which the starts are orthogonal: A is compressed to their complement. ``scale``
    is a lower bound of ‖A‖ known beforehand: it tells rounding from signal where A vanishes on the complement.
    """
    probes, size = starts.shape
    norms = starts.norm(dim=1)
    if not bool(torch.isfinite(norms).all()) or not bool((norms > 0).all()):
        raise ValueError(f"start vectors have lengths {norms.tolist()}; they must be finite and not zero")
    steps = min(steps, size)
    basis = starts.new_empty(probes, steps, size)
    basis[:, 0] = starts / norms[:, None]
    diagonal, off_diagonal = np.zeros((probes, steps)), np.zeros((probes, steps))
    scales = [scale] * probes
    done: dict[int, Decomposition] = {}
    for j in range(steps):
        active = [k for k in range(probes) if k not in done]
        if not active:
            break
        products = _product(matvec, basis[active, j])
        for k, w in zip(active, products, strict=True):
            scales[k] = max(scales[k], _finite_norm(w))
            coefficients = project_out(w, basis[k, : j + 1])
            if locked is not None:
                project_out(w, locked)  # last: rows of Q hold rounding along it, which would grow from step to step
            diagonal[k, j] = float(coefficients[j])
            _check_symmetric(coefficients, off_diagonal[k, j - 1] if j else None, scales[k])
            norm = float(w.norm())
            exhausted = norm <= _rounding(starts) * scales[k] or j + 1 == size
            if exhausted or j + 1 == steps:
                remainder = torch.zeros_like(w) if exhausted else w.clone()
                rows, alpha, beta = basis[k, : j + 1], diagonal[k, : j + 1], off_diagonal[k, :j]
                done[k] = Decomposition(rows, alpha, beta, remainder, scales[k], exhausted)
            else:
                off_diagonal[k, j] = norm
                torch.div(w, norm, out=basis[k, j + 1])
    return [done[k] for k in range(probes)]


def _rounding(rows: torch.Tensor) -> float:
    """Rounding in A q relative to ‖A‖, for q as long as the rows: a generous multiple of √P · eps."""
    return 16 * math.sqrt(rows.shape[1]) * torch.finfo(rows.dtype).eps


def _finite_norm(w: torch.Tensor) -> float:
    norm = float(w.norm())
    if not math.isfinite(norm):
        raise ValueError(f"matvec returned a vector of length {norm}; all its entries must be finite")
    return norm


def _product(matvec: Matvec, rows: torch.Tensor) -> torch.Tensor:
    """A applied to each row, in memory of its own (the result is overwritten)."""
    product = matvec(rows.T)
    if product.shape != rows.T.shape or product.dtype != rows.dtype:
        raise ValueError(
            f"matvec maps {tuple(rows.T.shape)} {rows.dtype} to {tuple(product.shape)} {product.dtype}; "
            "it must keep both: write it for a matrix of columns"
        )
    return product.detach().T.clone(memory_format=torch.contiguous_format)


def project_out(w: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """w ← (I − QᵀQ)² w in place; returns the coefficients Q w. Classical Gram–Schmidt, twice.

    The second pass starts chunk by chunk while the first one is still in cache: the basis is read three times, not four.
    """
    first = basis @ w
    second = torch.zeros_like(first)
    for at in range(0, len(w), _CHUNK):
        columns, part = basis[:, at : at + _CHUNK], w[at : at + _CHUNK]
        part.addmv_(columns.T, first, alpha=-1)
        second.addmv_(columns, part)
    w.addmv_(basis.T, second, alpha=-1)
    return first + second


def _check_symmetric(coefficients: torch.Tensor, previous: float | None, scale: float) -> None:
    """Q A q_j must be zero above the two last entries, and its last but one the β of the step before."""
    if previous is None:
        return
    expected = torch.zeros_like(coefficients)
    expected[-1], expected[-2] = coefficients[-1], previous
    error = float((coefficients - expected).abs().max())
    if error > math.sqrt(torch.finfo(coefficients.dtype).eps) * scale:
        raise ValueError(
            f"matvec is not symmetric: q_i' A q_j and q_j' A q_i differ by {error:.3g} at |A q| = {scale:.3g}; pass a "
            "symmetric matrix, the same data on every call, no dropout (or more bits, if A is small next to its rounding)"
        )
