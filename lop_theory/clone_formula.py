r"""The rank of the Hessian on the cloned manifold, as an exact formula.

Let a hidden unit with incoming weights w, sources h̃ [J] (the bias included), pre-activation z = ⟨w, h̃⟩ and outgoing
weights V [O'] be replaced by m copies with the same w and outgoing weights λ_i V, Σ λ_i = 1. The function is unchanged,

    rank H = rank H_reduced + rank K,     K = [[0, T ⊗ A], [Tᵀ ⊗ Aᵀ, U ⊗ B]]                                       (1)

    A = Σ_n δ_n φ'(z_n) h̃_nᵀ [O', J],     B = Σ_n ⟨δ_n, V⟩ φ''(z_n) h̃_n h̃_nᵀ [J, J],     δ = ∂L/∂z of the units fed,

    T = Eᵀ F,  U = Fᵀ diag(λ) F,  with bases E of {a : Σ a_i = 0} and F of {b : Σ λ_i b_i = 0}  [m, m−1].

For m = 2, K is congruent to [[0, A], [Aᵀ, λ(1 − λ) B]]; for a piecewise linear φ, B = 0 and rank K = 2 (m − 1) rank A.

*Proof.* Write a variation of copy i as dw_i = dw + b_i, dv_i = λ_i s + a_i with Σ λ_i b_i = 0 and Σ a_i = 0; as
Σ λ_i = 1, this is an invertible linear change of coordinates: dw = Σ λ_i dw_i, s = Σ dv_i. What the copies add to the
units they feed is, to second order and with β_i = ⟨b_i, h̃⟩,

    Σ_i (λ_i V + dv_i) φ(z + dz + β_i) = (V + s) φ(z + dz) + φ' Σ_i a_i β_i + ½ V φ'' Σ_i λ_i β_i²,

because all other terms carry Σ λ_i β_i = 0 or Σ a_i = 0 (dz is common to the copies: dw and variations of earlier
weights). The first term is what one unit adds. Hence in these coordinates H is H_reduced ⊕ K, with
½ kᵀ K k = Σ_n ⟨δ_n, φ' Σ a_i β_i + ½ V φ'' Σ λ_i β_i²⟩, and congruence keeps the rank. T is non-singular: an element b
of {Σ λ_i b_i = 0} that is orthogonal to all a is a multiple of (1, …, 1), and Σ λ_i = 1. ∎

Only the sources, the targets and the absence of ties enter, so (1) holds for every DAG, and for several classes of
clones by collapsing one class after the other. Source: *Barriers* (arXiv 2510.00304) §2 states the cloned manifold; the
formula is ours. "A clone always costs I + O + 1 ranks" is false: at A = 0, B = 0 (zero residual) only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from flint import fmpq

from lop_theory.activations import get_activation
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.dag import Dag
from lop_theory.exact import exact_hessian
from lop_theory.forward import error_signals, loss_derivatives, run_forward
from lop_theory.partition import UnitPartition
from lop_theory.rank import exact_rank

__all__ = ["cloned_rank", "cloned_rank_formula", "ClonedRank", "clone_form"]


@dataclass(frozen=True)
class ClonedRank:
    """Terms of (1): ``reduced`` = rank H of the network with every class collapsed, ``excess`` = rank K by class."""

    reduced: int
    excess: tuple[int, ...]

    @property
    def total(self) -> int:
        """rank H of the cloned network."""
        return self.reduced + sum(self.excess)


class _Merged(NamedTuple):
    """The network with one class collapsed to its first unit, and what the class looked like there."""

    dag: Dag
    theta: np.ndarray
    unit: int
    coefficients: np.ndarray  # λ [m]


def cloned_rank(
    dag: Dag, theta: Any, x: Any, y: Any, kind: str, partition: UnitPartition | Iterable[Iterable[int]]
) -> int:
    """rank H of a network with cloned hidden units, by formula (1). Exact: equality, not only an upper bound.

    ``partition``: a :class:`UnitPartition`, or just the classes of cloned units; classes of one unit are skipped.
    Covered: untied networks, activations that are exact over Q, ``mse_sum`` and ``mse``; copies have the same
    activation, sources and targets, no fixed weights, equal incoming weights, and outgoing weights that are collinear,
    with Σ_i v_i ≠ 0 or all zero.
    Anything else raises ``ValueError``.

    >>> from lop_theory.architectures import mlp
    >>> theta = [1, 1, 1, 1, 2, 2, -3]                      # 1-2-1 ReLU: relu(x + 1) twice, weights 2 and 2
    >>> cloned_rank(mlp([1, 2, 1]), theta, [[1], [2], [5]], [[0], [1], [7]], "mse_sum", [[2, 3]])
    6
    """
    return cloned_rank_formula(dag, theta, x, y, kind, partition).total


def cloned_rank_formula(
    dag: Dag, theta: Any, x: Any, y: Any, kind: str, partition: UnitPartition | Iterable[Iterable[int]]
) -> ClonedRank:
    """The terms of (1); arguments and errors as in :func:`cloned_rank`.

    >>> from lop_theory.architectures import mlp
    >>> theta = [1, 1, 1, 1, 2, 2, -3]
    >>> cloned_rank_formula(mlp([1, 2, 1]), theta, [[1], [2], [5]], [[0], [1], [7]], "mse_sum", [[2, 3]])
    ClonedRank(reduced=4, excess=(2,))
    """
    if kind not in ("mse_sum", "mse"):
        raise ValueError(f"kind {kind!r}: the formula is evaluated over the rationals; use mse_sum or mse")
    if dag.is_tied:
        raise ValueError("the network ties weights; the formula assumes that every copy has its own; untie them")
    theta, x, y = rational_array(theta), rational_array(x), rational_array(y)
    excess = []
    blocks = partition.blocks if isinstance(partition, UnitPartition) else partition
    classes = [sorted(int(u) for u in members) for members in blocks]
    classes = [members for members in classes if len(members) > 1]
    _check_disjoint(dag, classes)
    name = np.arange(dag.num_units)  # number of each unit of the given network in the collapsed one, −1 if removed
    for members in classes:
        merged = _collapse(dag, theta, [int(name[u]) for u in members])
        name = _renumber(name, [int(name[u]) for u in members[1:]])
        dag, theta = merged.dag, merged.theta
        excess.append(exact_rank(_form(merged, x, y, kind)))
    return ClonedRank(exact_rank(exact_hessian(dag, theta, x, y, kind)), tuple(excess))


def clone_form(dag: Dag, theta: Any, x: Any, y: Any, kind: str, members: Iterable[int]) -> np.ndarray:
    """K of (1) for one class of clones: symmetric, object array of ``fmpq`` of size (m − 1)(O' + J).

    >>> from lop_theory.architectures import mlp
    >>> theta = [1, 1, 1, 1, 2, 2, -3]
    >>> clone_form(mlp([1, 2, 1]), theta, [[1]], [[0]], "mse_sum", [2, 3]).tolist()   # A = [5, 5], T = −2
    [[0, -10, -10], [-10, 0, 0], [-10, 0, 0]]
    """
    units = sorted(int(u) for u in members)
    _check_disjoint(dag, [units])
    return _form(_collapse(dag, rational_array(theta), units), rational_array(x), rational_array(y), kind)


def _check_disjoint(dag: Dag, classes: list[list[int]]) -> None:
    listed = [u for members in classes for u in members]
    if len(set(listed)) != len(listed):
        raise ValueError(f"classes {classes} overlap; a unit belongs to one class")
    outside = sorted(set(listed) - set(dag.hidden.tolist()))
    if outside:
        raise ValueError(f"units {outside} are not hidden units of this network; only hidden units have clones here")


# -- collapsing a class ------------------------------------------------------------------------------------------------


def _collapse(dag: Dag, theta: np.ndarray, members: list[int]) -> _Merged:
    """The network in which the first member stands for all: outgoing weights V = Σ_i v_i."""
    if len({dag.activation(u) for u in members}) > 1:
        raise ValueError(f"units {members} have activations {[dag.activation(u) for u in members]}; clones share one")
    incoming, outgoing = _weights(dag, theta, members, "incoming"), _weights(dag, theta, members, "outgoing")
    if (incoming != incoming[:1]).any():
        raise ValueError(f"units {members} differ in their incoming weights; they are not clones")
    total = outgoing.sum(axis=0)
    coefficients = _coefficients(outgoing, total, members)
    first = members[0]
    theta = theta.copy()
    onward = dag.outgoing(first)
    theta[dag.param[onward[np.argsort(dag.target[onward])]]] = total
    gone = members[1:]
    kept = np.flatnonzero(~np.isin(dag.source, gone) & ~np.isin(dag.target, gone))
    name = _renumber(np.arange(dag.num_units), gone)
    used, param = np.unique(dag.param[kept], return_inverse=True)
    has_fixed = int(len(used) > 0 and used[0] < 0)
    reduced = Dag(
        dag.num_inputs,
        dag.has_constant,
        tuple(dag.activation(v) for v in range(dag.first_computed, dag.num_units) if v not in gone),
        name[dag.source[kept]],
        name[dag.target[kept]],
        param - has_fixed,
        name[dag.outputs],
        {k: dag.fixed[int(e)] for k, e in enumerate(kept) if dag.param[e] < 0},  # type: ignore[index]
    )
    return _Merged(reduced, theta[used[has_fixed:]], int(name[first]), coefficients)


def _renumber(name: np.ndarray, gone: list[int]) -> np.ndarray:
    """Numbers after the units ``gone`` are removed (−1 for these and for what was removed before)."""
    return np.where(np.isin(name, [*gone, -1]), -1, name - np.searchsorted(np.sort(gone), name))


def _weights(dag: Dag, theta: np.ndarray, members: list[int], side: str) -> np.ndarray:
    """[m, number of neighbours]: the weights on one side of each copy, neighbours in ascending order."""
    neighbours, rows = [], []
    for u in members:
        edges = dag.incoming(u) if side == "incoming" else dag.outgoing(u)
        ends = dag.source[edges] if side == "incoming" else dag.target[edges]
        edges, ends = edges[np.argsort(ends)], np.sort(ends)
        if (dag.param[edges] < 0).any():
            raise ValueError(
                f"unit {u} has fixed weights; the formula varies every weight of a copy; make them trainable"
            )
        neighbours.append(ends.tolist())
        rows.append(theta[dag.param[edges]])
    if any(ends != neighbours[0] for ends in neighbours):
        raise ValueError(f"units {members} have different {side} neighbours {neighbours}; they are not clones")
    return np.array(rows, dtype=object)


def _coefficients(outgoing: np.ndarray, total: np.ndarray, members: list[int]) -> np.ndarray:
    """λ with v_i = λ_i V, Σ λ_i = 1. If all outgoing weights are zero, V = 0 and any λ will do."""
    nonzero = np.flatnonzero(total != 0)
    if not len(nonzero):
        if (outgoing != 0).any():
            raise ValueError(
                f"outgoing weights of units {members} cancel (Σ v_i = 0); the formula needs v_i = λ_i V with Σ λ_i = 1"
            )
        return rational_array([1] + [0] * (len(members) - 1))
    coefficients = outgoing[:, nonzero[0]] / total[nonzero[0]]
    if (outgoing != coefficients[:, None] * total[None, :]).any():
        raise ValueError(f"outgoing weights of units {members} are not collinear; only splits v_i = λ_i V are covered")
    return np.asarray(coefficients, dtype=object)


# -- the form K --------------------------------------------------------------------------------------------------------


def _form(merged: _Merged, x: np.ndarray, y: np.ndarray, kind: str) -> np.ndarray:
    dag, unit = merged.dag, merged.unit
    run = run_forward(RATIONALS, dag, merged.theta, x)
    _, delta = error_signals(RATIONALS, dag, run, loss_derivatives(RATIONALS, run.output, y, kind)[0])
    h, z, errors = (_by_unit(dag, values, len(x)) for values in (run.h, run.z, delta))
    into, onward = dag.incoming(unit), dag.outgoing(unit)
    sources, signals = h[:, dag.source[into]], errors[:, dag.target[onward]]  # h̃ [N, J], δ [N, O']
    activation = get_activation(dag.activation(unit))
    slope = RATIONALS.activate(activation, z[:, unit], 1)
    bend = RATIONALS.activate(activation, z[:, unit], 2)
    a = signals.T @ (slope[:, None] * sources)
    b = sources.T @ ((bend * (signals @ merged.theta[dag.param[onward]]))[:, None] * sources)
    t, u = _pairings(merged.coefficients)
    upper = np.concatenate([np.full((len(t) * len(a),) * 2, fmpq(0), dtype=object), np.kron(t, a)], axis=1)
    lower = np.concatenate([np.kron(t, a).T, np.kron(u, b)], axis=1)
    return np.concatenate([upper, lower])


def _pairings(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T = Eᵀ F and U = Fᵀ diag(λ) F [m−1, m−1] for the bases e_i − e_m of E and e_i − (λ_i/λ_k) e_k, i ≠ k, of F."""
    m = len(coefficients)
    k = int(np.flatnonzero(coefficients != 0)[0])
    e, f = np.full((m, m - 1), fmpq(0), dtype=object), np.full((m, m - 1), fmpq(0), dtype=object)
    for column, i in enumerate(i for i in range(m) if i != k):
        e[column, column], e[m - 1, column] = fmpq(1), fmpq(-1)
        f[i, column], f[k, column] = fmpq(1), -coefficients[i] / coefficients[k]
    return e.T @ f, f.T @ (coefficients[:, None] * f)


def _by_unit(dag: Dag, values: dict[int, np.ndarray] | Any, samples: int) -> np.ndarray:
    """[N, num_units] from arrays by block (zero where a block has none)."""
    table = np.full((samples, dag.num_units), fmpq(0), dtype=object)
    for b, block in values.items():
        table[:, dag.blocks[b].units] = block
    return table
