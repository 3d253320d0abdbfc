"""Gaussian elimination over the rationals and modulo a prime, on arrays.

``nullity.py`` solves the same equations twice: modulo a prime to count (fast), over Q to prove (small systems only).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flint
import numpy as np

from lop_theory.arithmetic import rational_array
from lop_theory.modular import UnusablePrimeError

__all__ = ["Numbers"]


@dataclass(frozen=True)
class Numbers:
    """The rationals (``prime`` = 0; object arrays of ``fmpq``) or residues modulo a prime below 2²¹ (int64 arrays)."""

    prime: int = 0

    def convert(self, values: Any) -> np.ndarray:
        """From exact numbers. Raises :class:`UnusablePrimeError` if the prime divides a denominator.

        >>> Numbers(7).convert([flint.fmpq(1, 2), -1]).tolist()
        [4, 6]
        """
        exact = rational_array(values)
        if not self.prime:
            return exact
        if any(int(v.q) % self.prime == 0 for v in exact.flat):
            raise UnusablePrimeError(f"{self.prime} divides a denominator; take another prime")
        residues = [int(v.p) * pow(int(v.q), -1, self.prime) % self.prime for v in exact.flat]
        return np.array(residues, dtype=np.int64).reshape(exact.shape)

    def reduce(self, values: np.ndarray) -> np.ndarray:
        """Residues in [0, p); rationals stay as they are."""
        return values % self.prime if self.prime else values

    def zeros(self, *shape: int) -> np.ndarray:
        """An array of zeros."""
        return np.zeros(shape, dtype=np.int64) if self.prime else np.full(shape, flint.fmpq(0), dtype=object)

    def echelon(self, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """(non-zero rows of the reduced row echelon form, pivot columns).

        >>> Numbers(7).echelon(np.array([[2, 4], [1, 2]]))
        (array([[1, 2]]), [0])
        """
        if not rows.size:
            return self.zeros(0, rows.shape[1]), []
        m, n = rows.shape
        flat = rows.ravel().tolist()
        matrix: Any = flint.nmod_mat(m, n, flat, self.prime) if self.prime else flint.fmpq_mat(m, n, flat)
        reduced, rank = matrix.rref()
        out = np.array(reduced.entries(), dtype=object).reshape(rows.shape)[:rank]
        out = out.astype(np.int64) if self.prime else out
        return out, [int(np.flatnonzero(row != 0)[0]) for row in out]

    def kernel(self, rows: np.ndarray) -> np.ndarray:
        """A basis of {u: rows u = 0}, as rows."""
        return self.kernel_and_free(rows)[0]

    def kernel_and_free(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(basis [d, n] of the kernel, columns [d]): basis vector k has a one in column k of these, the others zero.

        >>> basis, free = Numbers(7).kernel_and_free(np.array([[1, 2, 0]]))
        >>> basis.tolist(), free.tolist()
        ([[5, 1, 0], [0, 0, 1]], [1, 2])
        """
        reduced, pivots = self.echelon(rows)
        free = np.setdiff1d(np.arange(rows.shape[1]), pivots)
        basis = self.zeros(len(free), rows.shape[1])
        for k, column in enumerate(free):
            basis[k, column] += 1
            basis[k, pivots] = -reduced[:, column]
        return self.reduce(basis), free

    def rank(self, rows: np.ndarray) -> int:
        """The rank."""
        return len(self.echelon(rows)[1])
