"""Activations, error signals and slopes of a network over Q and modulo a prime, with the linear algebra of both.

``nullity.py`` solves the same equations twice: modulo a prime to count (fast), over Q to prove (small systems only).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flint
import numpy as np

from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.dag import FIRST_COMPUTED_BLOCK, Dag
from lop_theory.forward import apply_activations, loss_derivatives, run_forward
from lop_theory.gates import GatePattern
from lop_theory.modular import (
    ExactPass,
    UnusablePrimeError,
    balanced,
    modular_loss_derivatives,
    modular_slopes_and_bends,
)

__all__ = ["Numbers", "Signals", "rational_signals", "residue_signals", "signals_without_targets"]


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


@dataclass(frozen=True, eq=False)
class Signals:
    """θ [P]; activation h, error signal δ, slope f' and bend f'' [N, num_units] of every unit; entries as ``numbers`` says."""

    numbers: Numbers
    theta: np.ndarray
    h: np.ndarray
    delta: np.ndarray
    slope: np.ndarray
    bend: np.ndarray


# -- computing them ----------------------------------------------------------------------------------------------------


def signals_without_targets(dag: Dag, theta: Any, run: ExactPass, gates: GatePattern) -> Signals:
    """What is known over Q whatever the targets are: θ, slopes and activations."""
    numbers = Numbers()
    slope = np.array([[0 if s is None else s for s in row] for row in gates.slope], dtype=object)
    h, nothing = numbers.zeros(gates.num_samples, dag.num_units), numbers.zeros(0, 0)
    for b, values in run.h.items():
        h[:, dag.blocks[b].units] = rational_array(values.integers()) * flint.fmpq(1, values.denominator)
    return Signals(numbers, rational_array(theta), h, nothing, rational_array(slope), nothing)


def rational_signals(dag: Dag, theta: Any, x: Any, y: Any, kind: str) -> Signals:
    """Over Q, for a squared loss.

    >>> from lop_theory.architectures import mlp
    >>> rational_signals(mlp([1, 1, 1]), ["1/2", 1, 3, 0], [[2]], [[0]], "mse_sum").delta.tolist()
    [[0, 0, 18, 6]]
    """
    theta, x, y = rational_array(theta), rational_array(x), rational_array(y)
    run = run_forward(RATIONALS, dag, theta, x)
    slopes, bends = ({b: apply_activations(RATIONALS, dag, b, z, k) for b, z in run.z.items()} for k in (1, 2))
    slope_at_output = loss_derivatives(RATIONALS, run.output, y, kind)[0]
    return _signals(Numbers(), dag, theta, run.weights, dict(run.h), slopes, bends, slope_at_output)


def residue_signals(dag: Dag, theta: Any, run: ExactPass, y: Any, kind: str, prime: int) -> Signals:
    """Modulo a prime of ``modular.primes_for``, from ``exact_forward``. δ is N times that of a mean loss.

    >>> from lop_theory.architectures import mlp
    >>> from lop_theory.modular import exact_forward
    >>> net, theta = mlp([1, 1, 1]), ["1/2", 1, 3, 0]
    >>> residue_signals(net, theta, exact_forward(net, theta, [[2]]), [[0]], "mse_sum", 7).delta.tolist()
    [[0, 0, 4, 6]]
    """
    numbers, ops = Numbers(prime), balanced(prime)
    weights = tuple(w.modulo(prime) for w in run.weights)
    h = {b: v.modulo(prime) for b, v in run.h.items()}
    slopes, bends = modular_slopes_and_bends(ops, dag, run, prime)
    at_output = modular_loss_derivatives(ops, run.output, y, kind, prime)[0]
    return _signals(numbers, dag, numbers.convert(theta), weights, h, slopes, bends, at_output)


def _signals(
    numbers: Numbers, dag: Dag, theta: np.ndarray, weights: Any, h: Any, slopes: Any, bends: Any, at_output: np.ndarray
) -> Signals:
    """δ by back-propagation, and everything as [N, num_units]."""
    samples = len(at_output)

    def own(values: np.ndarray) -> np.ndarray:
        return numbers.reduce(values.astype(np.int64)) if numbers.prime else values

    delta: dict[int, np.ndarray] = {}
    for b in range(len(dag.blocks) - 1, FIRST_COMPUTED_BLOCK - 1, -1):
        at_h = numbers.zeros(samples, len(dag.blocks[b]))
        for block, rows, columns in dag.output_places:
            if block == b:
                at_h[:, rows] = own(at_output)[:, columns]
        for tile, weight in zip(dag.tiles, weights, strict=True):
            if tile.source == b:
                at_h = at_h + numbers.reduce(delta[tile.target] @ own(weight))
        delta[b] = numbers.reduce(numbers.reduce(at_h) * own(slopes[b]))

    def table(parts: Any) -> np.ndarray:
        out = numbers.zeros(samples, dag.num_units)
        for b, values in parts.items():
            out[:, dag.blocks[b].units] = own(values)
        return out

    return Signals(numbers, theta, table(h), table(delta), table(slopes), table(bends))
