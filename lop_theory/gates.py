r"""Gate patterns: on which samples a unit passes a signal, and on which its activation does not move with θ.

Off the kinks a piecewise linear activation runs through one linear piece on each sample, and through the same piece for
all parameters near θ. Two facts about (unit v, sample n) then hold *in a whole neighbourhood of θ*, whatever the loss:

* **closed** — no path from v to an output has a non-zero slope at every unit on it (v included). Then f_n does not
  depend on z_v: ∂f_n/∂z_v = 0 near θ. Otherwise (v, n) is *open*.
* **static** — h_v is the same number for all parameters near θ: v is an input or the constant, or sits inside a flat
  piece, or all that enters it is static and carries either a fixed weight or the value 0.

Only a flat piece closes a unit. Weights that happen to be zero do not, because they move with θ (closing paths through
them is refuted in the tests); an edge of *fixed* weight zero does. Units that are not piecewise linear count as open
and, unless all their sources are static, as not static, which keeps every bound that is derived from a pattern valid.

The pieces are found in exact rational arithmetic (floats are dyadic rationals), so a pattern is a proof.
Source: Spectral Collapse (arXiv 2509.22335), dead units; the pattern per sample is a generalisation derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import flint
import numpy as np
import torch

from lop_theory.activations import Activation, get_activation
from lop_theory.arithmetic import FLOATS, RATIONALS, rational_array, to_fmpq
from lop_theory.dag import CONSTANT_BLOCK, FIRST_COMPUTED_BLOCK, INPUT_BLOCK, Dag
from lop_theory.forward import check_kinks, run_forward, tile_weights

__all__ = ["GatePattern", "linear_pieces", "gate_pattern", "frozen_pattern"]


@dataclass(frozen=True, eq=False)
class GatePattern:
    """What is known about every (sample, unit) near θ. All arrays are [N, num_units].

    ``piece`` (int64): index of the linear piece; 0 for inputs, the constant and units without breakpoints.
    ``flat`` (bool): is the unit inside a flat piece? ``open`` follows from it.
    ``static`` (bool): is h locally independent of θ? ``raw_value``: h where static, 0 elsewhere, as objects (``fmpq``) or,
    in integer problems, as whole numbers in float64; ``value`` is the same as ``fmpq``.
    """

    dag: Dag
    piece: np.ndarray
    flat: np.ndarray
    static: np.ndarray
    raw_value: np.ndarray

    @cached_property
    def open(self) -> np.ndarray:
        """Boolean: may the outputs depend on z of this unit (for inputs and the constant: on its value)?"""
        return _open(self.dag, self.flat)

    @cached_property
    def value(self) -> np.ndarray:
        """h where static, 0 elsewhere: an object array of ``fmpq``."""
        return rational_array(self.raw_value)

    @property
    def num_samples(self) -> int:
        """Rows of the pattern."""
        return len(self.static)

    @cached_property
    def zero(self) -> np.ndarray:
        """Boolean [N, num_units]: is h locally identically zero?"""
        return self.static & (self.raw_value == 0)

    @cached_property
    def slope(self) -> np.ndarray:
        """Slope f' of each (sample, unit) as ``Fraction``: 1 on inputs and the constant, ``None`` if not piecewise linear."""
        slopes = np.full(self.piece.shape, Fraction(1), dtype=object)
        for v in range(self.dag.first_computed, self.dag.num_units):
            table = np.array([*get_activation(self.dag.activation(v)).slopes, None], dtype=object)
            slopes[:, v] = table[self.piece[:, v]]
        return slopes

    @cached_property
    def constant_units(self) -> np.ndarray:
        """Hidden units that have one and the same static value on every sample (zero included), ascending."""
        hidden = self.dag.hidden
        same = self.static[:, hidden].all(0) & (self.raw_value[:, hidden] == self.raw_value[:1, hidden]).all(0)
        return hidden[same]

    @cached_property
    def dead_units(self) -> np.ndarray:
        """Hidden units whose activation is locally identically zero on every sample, ascending."""
        hidden = self.dag.hidden
        return hidden[self.zero[:, hidden].all(0)]


def gate_pattern(dag: Dag, theta: Any, x: Any, pieces: np.ndarray | None = None) -> GatePattern:
    """The gate pattern of the network at θ [P] on the batch x [N, I] (floats, integers or rationals, all read exactly).

    ``pieces`` [N, num_units]: pieces that are already known (as from :func:`linear_pieces`), which saves the exact
    forward pass; θ is then not read. Raises ``KinkError`` if a pre-activation is exactly on a breakpoint, and
    ``ValueError`` on wrong shapes, NaN, or a unit with breakpoints behind one that is not exact (its piece is undecided).

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])                             # h_0 = relu(x − 3), h_1 = relu(−x + 1) on x = 0, 2
    >>> pattern = gate_pattern(net, [1, -1, -3, 1, 5, 7, 0], [[0], [2]])
    >>> pattern.dead_units.tolist(), pattern.open[:, 2:4].tolist()
    ([2], [[False, True], [False, False]])
    """
    if pieces is None:
        pieces = linear_pieces(dag, theta, x)
    whole = _whole_numbers(x) if _has_whole_intercepts(dag) else None
    x = _rational_batch(dag, x) if whole is None or whole.ndim != 2 else whole
    pieces = np.asarray(pieces, dtype=np.int64)
    if pieces.shape != (len(x), dag.num_units):
        raise ValueError(f"pieces have shape {pieces.shape}; give [N, num_units] = {(len(x), dag.num_units)}")
    flat = np.zeros(pieces.shape, dtype=bool)
    constant = np.zeros(pieces.shape) if x.dtype == np.float64 else np.full(pieces.shape, flint.fmpq(0), dtype=object)
    for name, units in _units_by_activation(dag):
        activation = get_activation(name)
        if activation.is_piecewise_linear:
            flat[:, units] = np.array([slope == 0 for slope in activation.slopes])[pieces[:, units]]
            intercepts = rational_array(activation.intercepts)
            constant[:, units] = (intercepts.astype(float) if x.dtype == np.float64 else intercepts)[pieces[:, units]]
    static, value = _static(dag, x, flat, constant)
    return GatePattern(dag, pieces, flat, static, value)


def frozen_pattern(dag: Dag, units: np.ndarray, values: Any, keep_constant: bool) -> GatePattern:
    """The coarser pattern (one row, for all samples) that knows only that ``units`` are static with ``values`` [k].

    These units are closed, everything else is open and not static; ``keep_constant``: the constant one is static too.

    >>> from lop_theory.architectures import mlp
    >>> frozen_pattern(mlp([2, 2, 2, 1]), np.array([3, 4]), [0, 0], False).open[0, 3:].tolist()    # a whole dead layer
    [False, False, True, True, True]
    """
    flat = np.zeros((1, dag.num_units), dtype=bool)
    value = np.full((1, dag.num_units), flint.fmpq(0), dtype=object)
    flat[0, units] = True
    if len(units):
        value[0, units] = rational_array(values)
    static = flat.copy()
    if dag.has_constant and keep_constant:
        static[0, dag.num_inputs], value[0, dag.num_inputs] = True, flint.fmpq(1)
    return GatePattern(dag, np.zeros(flat.shape, dtype=np.int64), flat, static, value)


# -- the exact forward pass --------------------------------------------------------------------------------------------


def linear_pieces(dag: Dag, theta: Any, x: Any) -> np.ndarray:
    """Index of the linear piece of every (sample, unit), int64 [N, num_units], decided in exact rational arithmetic.

    Arguments and errors as in :func:`gate_pattern`.

    >>> from lop_theory.architectures import mlp
    >>> linear_pieces(mlp([1, 1, 1], "hard_tanh"), [1.0, 0.0, 1.0, 0.0], [[-7.0], [0.5], [7.0]])[:, 2].tolist()
    [0, 1, 2]
    """
    found = _integer_pieces(dag, theta, x)
    if found is not None:
        return found
    theta, x = _rational_vector(dag, theta), _rational_batch(dag, x)
    pieces = np.zeros((len(x), dag.num_units), dtype=np.int64)
    wanted = _units_to_evaluate(dag)
    h: dict[int, flint.fmpq_mat] = {
        INPUT_BLOCK: _matrix(x),
        CONSTANT_BLOCK: _matrix(np.ones((len(x), int(dag.has_constant)), dtype=np.int64)),
    }
    for b in range(FIRST_COMPUTED_BLOCK, len(dag.blocks)):
        units = dag.blocks[b].units
        if not wanted[units].any():
            h[b] = flint.fmpq_mat(len(x), len(units))  # feeds nothing that is evaluated
            continue
        z = flint.fmpq_mat(len(x), len(units))
        for tile in dag.tiles_into[b]:
            z += h[tile.source] * _matrix(tile_weights(RATIONALS, tile, theta)).transpose()
        values = np.array(z.entries(), dtype=object).reshape(len(x), len(units))
        for column, v in enumerate(units):
            if wanted[v]:
                activation = get_activation(dag.activation(int(v)))
                pieces[:, v], values[:, column] = _activate(activation, values[:, column])
        h[b] = _matrix(values)
    return pieces


def _integer_pieces(dag: Dag, theta: Any, x: Any) -> np.ndarray | None:
    """The pieces of a piecewise linear problem in integers, in float64: exact, because Σ|w||h| stays below 2⁵³.

    ``None`` if the problem is not of this form, too large, or malformed (which the exact route then reports).
    """
    known = [get_activation(name) for name in dict.fromkeys(dag.activations)]
    if dag.fixed or not all(a.is_integral and a.is_piecewise_linear for a in known):
        return None
    theta, x = _whole_numbers(theta), _whole_numbers(x)
    if theta is None or x is None or theta.shape != (dag.num_params,):
        return None
    if x.ndim != 2 or x.shape[1] != dag.num_inputs or not len(x):
        return None
    run = run_forward(FLOATS, dag, theta, x)
    peak = dict.fromkeys(run.z, 0.0)
    for tile, weight in zip(dag.tiles, run.weights, strict=True):
        size = np.abs(weight).sum(axis=1).max() * max(np.abs(run.h[tile.source]).max(), 1.0)
        peak[tile.target] += float(size)
    steepest = max([1.0, *(abs(float(slope)) for a in known for slope in a.slopes)])
    offset = max([0.0, *(abs(float(c)) for a in known for c in (*a.intercepts, *a.breakpoints))])
    if max(peak.values()) * steepest + offset >= 2.0**52:  # one bit in hand for the rounding of this line
        return None
    check_kinks(dag, run.z)
    pieces = np.zeros((len(x), dag.num_units), dtype=np.int64)
    for b, z in run.z.items():
        for name, places in dag.blocks[b].activations:
            for at in get_activation(name).breakpoints:
                pieces[:, dag.blocks[b].units[places]] += z[:, places] > float(at)
    return pieces


def _whole_numbers(values: Any) -> np.ndarray | None:
    """The values in float64 if all are integers below 2⁵³, else ``None``."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.dtype.kind not in "if" or not (np.abs(array) < 2**53).all() or (array != np.rint(array)).any():
        return None
    return array.astype(np.float64)


def _activate(activation: Activation, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pieces, activations) of a column of rational pre-activations; only units that are read later must be exact."""
    if not activation.breakpoints:
        value = [activation.exact(t, 0) for t in z] if activation.is_exact else z
        return np.zeros(len(z), dtype=np.int64), np.array(value, dtype=object)
    pieces = np.array([activation.piece(t) for t in z], dtype=np.int64)
    slopes, intercepts = rational_array(activation.slopes), rational_array(activation.intercepts)
    return pieces, slopes[pieces] * z + intercepts[pieces]


def _units_to_evaluate(dag: Dag) -> np.ndarray:
    """Units with breakpoints and all that these depend on; raises if one of the latter has no exact value."""
    kinked = np.zeros(dag.num_units, dtype=bool)
    for v in range(dag.first_computed, dag.num_units):
        kinked[v] = bool(get_activation(dag.activation(v)).breakpoints)
    above = np.zeros(dag.num_units, dtype=bool)  # a unit with breakpoints lies strictly behind
    for v in range(dag.num_units - 1, dag.first_computed - 1, -1):
        if kinked[v] or above[v]:
            above[dag.source[dag.incoming(v)]] = True
    for v in range(dag.first_computed, dag.num_units):
        if not above[v]:
            continue
        name = dag.activation(v)
        if not get_activation(name).is_exact:
            raise ValueError(
                f"unit {v} ({name}) feeds a unit with breakpoints but has no exact value, so the piece of the latter "
                "is not decided by rational arithmetic; use piecewise linear or polynomial units, or pass `pieces`"
            )
    return kinked | above


def _matrix(values: np.ndarray) -> flint.fmpq_mat:
    rows, columns = values.shape
    return flint.fmpq_mat(rows, columns, [v if isinstance(v, flint.fmpq) else to_fmpq(v) for v in values.ravel()])


def _rational_vector(dag: Dag, theta: Any) -> np.ndarray:
    vector = rational_array(theta)
    if vector.shape != (dag.num_params,):
        raise ValueError(
            f"theta has shape {vector.shape}; this network has P = {dag.num_params} parameters: give [{dag.num_params}]"
        )
    return vector


def _rational_batch(dag: Dag, x: Any) -> np.ndarray:
    batch = rational_array(x)
    if batch.ndim != 2 or batch.shape[1] != dag.num_inputs or not len(batch):
        raise ValueError(f"x has shape {batch.shape}; give [N, {dag.num_inputs}] with N ≥ 1, one row per sample")
    return batch


# -- open and static ---------------------------------------------------------------------------------------------------


def _conducting(dag: Dag) -> np.ndarray:
    """Boolean per edge: not a fixed weight of zero."""
    return np.array([p >= 0 or to_fmpq(dag.fixed[e]) != 0 for e, p in enumerate(dag.param)], dtype=bool)  # type: ignore[index]


@lru_cache(maxsize=64)  # a Dag is immutable and hashed by identity
def _units_by_activation(dag: Dag) -> tuple[tuple[str, np.ndarray], ...]:
    names = np.array(dag.activations)
    return tuple((n, dag.first_computed + np.flatnonzero(names == n)) for n in dict.fromkeys(dag.activations))


@lru_cache(maxsize=64)
def _has_whole_intercepts(dag: Dag) -> bool:
    """No fixed weights, and every constant that a unit can take is a whole number."""
    known = [get_activation(name) for name in dict.fromkeys(dag.activations)]
    return not dag.fixed and all(a.is_integral and a.is_piecewise_linear for a in known)


@lru_cache(maxsize=64)
def _targets(dag: Dag) -> tuple[np.ndarray, ...]:
    """For every unit, the units that it feeds through conducting edges."""
    conducting = _conducting(dag)
    return tuple(dag.target[(e := dag.outgoing(v))[conducting[e]]] for v in range(dag.num_units))


@lru_cache(maxsize=64)
def _sources(dag: Dag) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    """For every unit: (incoming edges, their sources, is their weight fixed)."""
    edges = [dag.incoming(v) for v in range(dag.num_units)]
    return tuple((e, dag.source[e], dag.param[e] < 0) for e in edges)


def _open(dag: Dag, flat: np.ndarray) -> np.ndarray:
    """Backward reachability of the outputs through units that are not flat, per sample."""
    reaches = np.zeros(flat.shape, dtype=bool)
    reaches[:, dag.outputs] = True
    for v in range(dag.num_units - 1, -1, -1):
        reaches[:, v] |= reaches[:, _targets(dag)[v]].any(1)
        reaches[:, v] &= ~flat[:, v]
    return reaches


def _static(dag: Dag, x: np.ndarray, flat: np.ndarray, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(static, value): flat pieces, and what static units determine through fixed weights or by being zero."""
    static = flat.copy()
    value = constant.copy()
    whole = x.dtype == np.float64  # then there are no fixed weights, so z is 0 wherever it is known
    value[~flat] = 0 if whole else flint.fmpq(0)
    static[:, : dag.first_computed] = True
    value[:, : dag.num_inputs] = x
    if dag.has_constant:
        value[:, dag.num_inputs] = 1 if whole else flint.fmpq(1)
    for v in range(dag.first_computed, dag.num_units):
        edges, sources, is_fixed = _sources(dag)[v]
        activation = get_activation(dag.activation(v))
        known = static[:, sources] & (is_fixed | (value[:, sources] == 0))
        for n in np.flatnonzero(known.all(1) & ~static[:, v]) if activation.is_exact else ():
            fixed = zip(edges[is_fixed], sources[is_fixed], strict=True)
            z = sum((to_fmpq(dag.fixed[int(e)]) * value[n, u] for e, u in fixed), flint.fmpq(0))  # type: ignore[index]
            h = activation.exact(z, 0)
            static[n, v], value[n, v] = True, int(h.p) if whole else h
    return static, value
