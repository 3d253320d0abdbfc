"""Activations, error signals and slopes of a network over Q and modulo a prime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flint
import numpy as np

from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.dag import FIRST_COMPUTED_BLOCK, Dag
from lop_theory.elimination import Numbers
from lop_theory.forward import apply_activations, loss_derivatives, run_forward
from lop_theory.gates import GatePattern
from lop_theory.modular import (
    ExactPass,
    balanced,
    modular_loss_derivatives,
    modular_slopes_and_bends,
)

__all__ = ["Signals", "rational_signals", "residue_signals", "signals_without_targets"]


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
