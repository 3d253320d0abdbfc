r"""Upper bounds on the rank of the Hessian of a data loss: one function per published bound, and per corrected bound.

**Lemma.** Let L(θ) = Σ_n ℓ_n(f_n(θ)), each ℓ_n twice differentiable, f given by a DAG, and let a pattern (``gates.py``)
say which (unit, sample) pairs are *open* and which are *static* in a neighbourhood of θ. Let a ∈ R^P be such that

* a_p = 0 unless every edge e = (u → v) of parameter p has u static on all samples on which v is open, and
* Σ_{e = (u→v)} a_{p(e)} h_u(n) = 0 for every unit v and every sample n on which v is open.                     (1)

Then H a = 0. *Proof.* For all θ' near θ, ∂_a f_n(θ') = Σ_v (∂f_n/∂z_v)(θ') Σ_{e=(u→v)} a_{p(e)} h_u(θ', n). If v is
closed on n, the first factor is 0 near θ; if it is open, the sum is a constant near θ, namely 0 by (1). So ∂_a f ≡ 0
near θ, hence ∂_a L ≡ 0 there, and its gradient H a vanishes at θ. ∎  The solutions of (1) are a subspace; P − its
dimension bounds rank H. A coarser pattern (more open, fewer static) gives a smaller subspace. This orders the bounds:

    gate_bound ≤ constant_unit_bound ≤ dead_unit_bound_corrected,

which know, in turn: everything per sample; the units constant on the batch and the bias; the units zero on the batch.

**Softmax.** The loss is unchanged if all outputs move alike. If u has a trainable untied edge to each output, and
these are linear and feed no unit, then a = Σ_o e_{w_uo} gives ∂_a f_n(θ') = h_u(θ', n)·(1, …, 1), so ∂_a L ≡ 0 and
H a = 0. These vectors are independent, but may meet the subspace (1); what is counted is the dimension of the sum of
the two subspaces. (If the outputs have different sources, combinations of several static sources may move them alike
as well; these are not counted.)

Assumed everywhere: H belongs to the data loss alone (no λ‖θ‖², no normalization), and no pre-activation is on a kink.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import flint
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lop_theory.clone_formula import ClonedRank, cloned_rank, cloned_rank_formula
from lop_theory.dag import Dag
from lop_theory.elimination import Numbers
from lop_theory.forward import check_loss_kind
from lop_theory.gates import GatePattern, frozen_pattern, gate_pattern
from lop_theory.rank import exact_rank

__all__ = [
    "dead_unit_bound",
    "dead_unit_bound_corrected",
    "constant_unit_bound",
    "gate_bound",
    "gate_nullity",
    "GateNullity",
    "GateSystem",
    "gate_system",
    "new_softmax_shifts",
    "gate_null_directions",
    "softmax_shift_dimension",
    "cloned_rank",
    "cloned_rank_formula",
    "ClonedRank",
]


@dataclass(frozen=True)
class GateNullity:
    """Dimensions of proved null directions of the Hessian by cause; each direction is counted once.

    ``closed``: parameters none of whose units is ever open (dead units, and what only they pass on). ``silent``:
    parameters whose sources are zero wherever the unit they feed is open (a connection that is never used).
    ``dependent``: linear relations among the other static sources, on the samples on which the unit is open (too few
    samples, constant units). ``softmax_shift``: moving all logits alike, beyond what the first three contain.
    """

    closed: int
    silent: int
    dependent: int
    softmax_shift: int

    @property
    def total(self) -> int:
        """Dimension of the sum of the subspaces."""
        return self.closed + self.silent + self.dependent + self.softmax_shift


# -- the published bound and its correction ----------------------------------------------------------------------------


def dead_unit_bound(dag: Dag, theta: Any, x: Any, gates: GatePattern | None = None) -> int:
    """Spectral Collapse (arXiv 2509.22335), dead-unit bound **as printed**: P − Σ_dead (I + O + 1).

    I and O count the trainable edges into and out of a dead hidden unit without its bias; the 1 is its bias, if it has
    one. Dead: activation locally zero on every sample of x (exact). Correct for one hidden layer; *not* an upper bound
    if two dead units are joined by an edge, which is then counted twice (it can even be negative). See
    :func:`dead_unit_bound_corrected`. Raises ``ValueError`` for tied weights, where edges do not count parameters.

    >>> from lop_theory.architectures import mlp
    >>> theta = [0, 0, -1, 2, 0, 2, 2, 0, 1, -2, 1, 0, -1]   # 1-2-2-1, a dead unit in each layer; the rank is 6
    >>> dead_unit_bound(mlp([1, 2, 2, 1]), theta, [[-3], [2], [1], [0]])
    5
    """
    if dag.is_tied:
        raise ValueError(
            "the network ties weights, but the bound as printed counts edges; use dead_unit_bound_corrected"
        )
    gates = _pattern(dag, theta, x, gates)
    trainable = dag.param >= 0
    fan_in, fan_out = (int(np.isin(ends[trainable], gates.dead_units).sum()) for ends in (dag.target, dag.source))
    return dag.num_params - fan_in - fan_out


def dead_unit_bound_corrected(
    dag: Dag, theta: Any, x: Any, kind: str = "mse_sum", gates: GatePattern | None = None
) -> int:
    """The dead-unit bound with the **union** of parameter sets: P − #{locally irrelevant parameters} − softmax shift.

    A parameter is irrelevant if each of its edges leaves a dead unit or enters a unit without a path to an output
    around the dead ones; this includes all that lies before a whole dead layer. For an MLP without a whole dead layer:
    P − Σ_l k_l (n_{l−1} + n_{l+1} + 1) + Σ_l k_l k_{l+1}. Proof: the lemma, with dead units static at 0, nothing else.

    >>> from lop_theory.architectures import mlp
    >>> theta = [0, 0, -1, 2, 0, 2, 2, 0, 1, -2, 1, 0, -1]
    >>> dead_unit_bound_corrected(mlp([1, 2, 2, 1]), theta, [[-3], [2], [1], [0]])
    6
    """
    check_loss_kind(kind)
    dead = _pattern(dag, theta, x, gates).dead_units
    return dag.num_params - _count(frozen_pattern(dag, dead, [0] * len(dead), keep_constant=False), kind).total


def constant_unit_bound(dag: Dag, theta: Any, x: Any, kind: str = "mse_sum", gates: GatePattern | None = None) -> int:
    """Units that sit in a flat piece with one value c on the whole batch, c possibly not zero (hard_tanh, relu6).

    Their incoming parameters are null. Out of them, a unit v that k constant units feed has as many null directions as
    (1) allows, where (1) is one equation, Σ_u a_u c_u (+ a_bias) = 0: k if v has a bias or all c are 0, else k − 1. For
    one hidden layer with I inputs, O outputs, and k constant units of which k₀ have c = 0:

        next layer has biases:  k (I + O + 1),        without:  k (I + 1) + O (max(k − k₀ − 1, 0) + k₀)

    (I instead of I + 1 where the units themselves have no bias). Proof: the lemma. The printed k (I + O + 1) is thus
    too large without biases. A soft saturation (tanh) is not constant: it moves with θ.

    >>> from lop_theory.architectures import mlp
    >>> net, x = mlp([1, 2, 1], "hard_tanh", bias=False), [[1], [2]]
    >>> constant_unit_bound(net, [9, -7, 5, 5], x)           # h = (1, −1) always; P = 4, nullity 2·1 + 1·(2 − 1)
    1
    """
    check_loss_kind(kind)
    gates = _pattern(dag, theta, x, gates)
    units = gates.constant_units
    return dag.num_params - _count(frozen_pattern(dag, units, gates.value[0, units], keep_constant=True), kind).total


# -- the gate bound ----------------------------------------------------------------------------------------------------


def gate_bound(dag: Dag, theta: Any, x: Any, kind: str = "mse_sum", gates: GatePattern | None = None) -> int:
    """The sharpest bound of the lemma: rank H ≤ P − :func:`gate_nullity`, from the exact gate of every unit and sample.

    For a ReLU MLP: nullity ≥ Σ_{v in layer 1} (I + 1 − rank [X, 1] on the samples on which v is open) + the number of
    later weights u → v with u inactive whenever v is open + the number of later biases of units never open. Valid for
    every activation; units that are not piecewise linear count as always open. ``gates``: a pattern computed before.

    >>> from lop_theory.architectures import mlp
    >>> net, theta = mlp([1, 1, 1]), [1, 1, 1, 0]            # relu(x + 1), one sample: 2 inputs [x, 1], rank 1
    >>> gate_bound(net, theta, [[2]]), gate_bound(net, theta, [[2], [3]])
    (3, 4)
    """
    return dag.num_params - gate_nullity(dag, theta, x, kind, gates).total


def gate_nullity(dag: Dag, theta: Any, x: Any, kind: str = "mse_sum", gates: GatePattern | None = None) -> GateNullity:
    """The dimension of the null space that the gates (and softmax) prove, by cause.

    >>> from lop_theory.architectures import mlp
    >>> gate_nullity(mlp([1, 2, 1]), [1, 1, 1, -9, 1, 1, 0], [[2], [3]])            # the second unit is dead
    GateNullity(closed=2, silent=1, dependent=0, softmax_shift=0)
    """
    check_loss_kind(kind)
    return _count(_pattern(dag, theta, x, gates), kind)


def gate_null_directions(
    dag: Dag, theta: Any, x: Any, kind: str = "mse_sum", gates: GatePattern | None = None
) -> flint.fmpq_mat:
    """A basis of the same null space, as columns [P, nullity] of exact rationals: a certificate that H B = 0.

    >>> from lop_theory.architectures import mlp
    >>> gate_null_directions(mlp([1, 1, 1]), [1, 1, 1, 0], [[2]]).transpose()        # 2 ∂/∂b − ∂/∂w
    [-1, 2, 0, 0]
    """
    check_loss_kind(kind)
    gates = _pattern(dag, theta, x, gates)
    columns: list[np.ndarray] = []
    system = gate_system(gates)
    for p in [*system.closed, *system.silent]:
        columns.append(_combination(dag, {int(p): 1}))
    for params, rows in system.equations:
        columns += [_combination(dag, dict(zip(params.tolist(), a, strict=True))) for a in _kernel(rows)]
    if kind == "cross_entropy":
        for params in new_softmax_shifts(gates):
            columns.append(_combination(dag, dict.fromkeys(params.tolist(), 1)))
    flat = [entry for column in columns for entry in column]
    return flint.fmpq_mat(len(columns), dag.num_params, flat).transpose()


def softmax_shift_dimension(dag: Dag) -> int:
    """The number of independent directions that move all logits alike: sources with a trainable edge to every output.

    Zero unless the outputs are linear, feed no unit and tie no weights. For an MLP it is the width of the last hidden
    layer plus one (the bias). On H of cross-entropy they are null; :func:`gate_nullity` adds those that are new.

    >>> from lop_theory.architectures import mlp
    >>> softmax_shift_dimension(mlp([4, 7, 3])), softmax_shift_dimension(mlp([4, 3], bias=False))
    (8, 4)
    """
    return len(_shifts(dag))


# -- solving (1) -------------------------------------------------------------------------------------------------------


class GateSystem(NamedTuple):
    """The solutions of (1): parameters that are null alone, and linear systems for the others.

    ``closed``, ``silent``: see :class:`GateNullity`. ``equations``: pairs (parameters [k], rows [R, k] of (1)), on disjoint
    sets of parameters.
    """

    closed: np.ndarray
    silent: np.ndarray
    equations: list[tuple[np.ndarray, np.ndarray]]


def _pattern(dag: Dag, theta: Any, x: Any, gates: GatePattern | None) -> GatePattern:
    if gates is None:
        return gate_pattern(dag, theta, x)
    if gates.dag is not dag:
        raise ValueError("gates belong to another network; compute them with gate_pattern(dag, theta, x) of this one")
    return gates


def _count(gates: GatePattern, kind: str) -> GateNullity:
    system = gate_system(gates)
    dependent = sum(len(params) - _row_rank(rows) for params, rows in system.equations)
    shift = len(new_softmax_shifts(gates)) if kind == "cross_entropy" else 0
    return GateNullity(len(system.closed), len(system.silent), dependent, shift)


@lru_cache(maxsize=64)
def _groups(dag: Dag) -> tuple[np.ndarray, ...]:
    """Trainable edges, grouped so that (1) splits: two parameters are in one group if a chain of units links them.

    Without tying there is one group for each unit.
    """
    edges = np.flatnonzero(dag.param >= 0)
    if not len(edges):
        return ()
    size = dag.num_params + dag.num_units
    ends = (dag.param[edges], dag.num_params + dag.target[edges])
    label = connected_components(coo_array((np.ones(len(edges)), ends), shape=(size, size)), directed=False)[1][ends[0]]
    order = np.argsort(label, kind="stable")
    return tuple(np.split(edges[order], np.flatnonzero(np.diff(label[order])) + 1))


def gate_system(gates: GatePattern) -> GateSystem:
    """(1), parameter by parameter where it splits.

    >>> from lop_theory.architectures import mlp
    >>> system = gate_system(gate_pattern(mlp([1, 2, 1]), [1, 1, 1, -9, 1, 1, 0], [[2], [3]]))    # the second unit is dead
    >>> system.closed.tolist(), system.silent.tolist(), [params.tolist() for params, _ in system.equations]
    ([1, 3], [5], [[0, 2], [6]])
    """
    dag = gates.dag
    edges = np.flatnonzero(dag.param >= 0)
    sources, is_open = dag.source[edges], gates.open[:, dag.target[edges]]

    def some(per_edge: Any) -> np.ndarray:  # is it true of some edge of the parameter?
        return np.bincount(dag.param[edges], per_edge, minlength=dag.num_params) > 0

    opened = some(is_open.any(axis=0))
    moving = some((is_open & ~gates.static[:, sources]).any(axis=0))
    sounding = some((is_open & ~gates.zero[:, sources]).any(axis=0))
    chosen = ~moving & sounding
    picked = (group[chosen[dag.param[group]]] for group in _groups(dag)) if chosen.any() else ()
    equations = [_equations(gates, group) for group in picked if len(group)]
    return GateSystem(np.flatnonzero(~opened), np.flatnonzero(opened & ~sounding), equations)


def _equations(gates: GatePattern, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(parameters, rows of (1)) of a group: one row for each unit and each sample on which it is open."""
    dag, parts = gates.dag, []
    params, place = np.unique(dag.param[edges], return_inverse=True)
    for v in np.unique(dag.target[edges]):
        samples = np.flatnonzero(gates.open[:, v])
        rows = np.full((len(samples), len(params)), flint.fmpq(0), dtype=object)
        for k in np.flatnonzero(dag.target[edges] == v):
            rows[:, place[k]] += gates.value[samples, dag.source[edges[k]]]
        parts.append(rows)
    return params, np.concatenate(parts)


def _row_rank(rows: np.ndarray) -> int:
    """Rank over Q. A few rows of full column rank settle it for a tall matrix."""
    columns = rows.shape[1]
    if len(rows) > 4 * columns and exact_rank(rows[: 2 * columns]) == columns:
        return columns
    return exact_rank(rows)


def _kernel(rows: np.ndarray) -> list[list[Any]]:
    """A basis of {a : rows a = 0} over Q, each vector times its largest denominator."""
    return [[v * flint.fmpq(max(int(v.q) for v in vector)) for v in vector] for vector in Numbers().kernel(rows)]


def _combination(dag: Dag, entries: dict[int, Any]) -> np.ndarray:
    vector = np.full(dag.num_params, flint.fmpq(0), dtype=object)
    for p, value in entries.items():
        vector[p] = vector[p] + value
    return vector


# -- softmax -----------------------------------------------------------------------------------------------------------


def _shifts(dag: Dag) -> list[tuple[int, np.ndarray]]:
    """(source u, its parameters to the outputs [O]) for each u whose vector Σ_o e_{w_uo} moves all logits alike."""
    linear = all(dag.activation(int(o)) == "identity" for o in dag.outputs)
    if not linear or np.isin(dag.source, dag.outputs).any():
        return []
    uses = np.bincount(dag.param[dag.param >= 0], minlength=dag.num_params)
    into = np.flatnonzero(np.isin(dag.target, dag.outputs) & (dag.param >= 0))
    into = into[uses[dag.param[into]] == 1]
    sources, counts = np.unique(dag.source[into], return_counts=True)
    return [(int(u), dag.param[into[dag.source[into] == u]]) for u in sources[counts == dag.num_outputs]]


def new_softmax_shifts(gates: GatePattern) -> list[np.ndarray]:
    """Parameters of those shifts that together extend the solutions of (1) to a basis of the sum of both subspaces.

    Σ_u c_u a_u solves (1) iff c vanishes on the sources that are not static, and Σ_u c_u h_u(n) = 0 for all n (each
    output is open on every sample and gives the same equations). So the intersection has dimension
    #static − rank [h_u(n)], and new are the sources that are not static and, of the static ones, independent columns.

    >>> from lop_theory.architectures import mlp
    >>> [params.tolist() for params in new_softmax_shifts(gate_pattern(mlp([1, 2]), [1, 2, 3, 4], [[5], [6]]))]
    [[0, 1], [2, 3]]
    """
    shifts = _shifts(gates.dag)
    static = [gates.static[:, u].all() for u, _ in shifts]
    new = [params for (_, params), s in zip(shifts, static, strict=True) if not s]
    frozen = [shift for shift, s in zip(shifts, static, strict=True) if s]
    if frozen:
        rows = gates.value[:, [u for u, _ in frozen]]
        new += [frozen[c][1] for c in Numbers().echelon(rows)[1]]
    return new
