r"""Hidden units that act alike, and the null directions of the Hessian that they share: the systems of ``nullity.py``.

A *group* is a set of units with the same sources and targets that are on the same linear piece whenever a target is open
(``gates.py``), or that are copies of one polynomial unit. A single unit is a group as well. With V [O', k] the outgoing and
W [k, J] the incoming weights, a direction (b, a) is null if (theorem of ``nullity.py``)

    (i)   Σ_j (a W + V b)_vj s_n h_j(n) + (a 1)_v c_n + Σ_d e_vd h_d = 0   for all targets v, samples n on which v is open,
    (ii)  A bᵢ = 0      (iii)  Aᵀ aᵢ = 0      for every unit i,      A_vj = Σ_n δ_v(n) s_n h_j(n).

Here e changes the weights by which inputs and the constant d feed the targets directly: a unit that is on for the whole
batch shares the bias of its targets. The unknowns are ordered b [k, J], a [O', k], e [O', ·]. Everything here runs over Q
and modulo a prime alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import flint
import numpy as np

from lop_theory.activations import get_activation
from lop_theory.arithmetic import rational_array
from lop_theory.dag import Dag
from lop_theory.elimination import Numbers
from lop_theory.gates import GatePattern
from lop_theory.signals import Signals

__all__ = ["Group", "System", "groups", "solutions", "proved_dimension"]


class Group(NamedTuple):
    """Units that act alike: parameters ``incoming`` [k, J], ``outgoing`` [O', k], ``direct`` [O', ·] from inputs and constant.

    ``linear``: piecewise linear units.
    """

    units: tuple[int, ...]
    sources: np.ndarray
    targets: np.ndarray
    incoming: np.ndarray
    outgoing: np.ndarray
    linear: bool
    direct_sources: np.ndarray
    direct: np.ndarray

    @property
    def params(self) -> np.ndarray:
        """The parameters in the order of the unknowns."""
        return np.concatenate([self.incoming.ravel(), self.outgoing.ravel(), self.direct.ravel()])


# -- finding groups ----------------------------------------------------------------------------------------------------


def groups(dag: Dag, theta: Any, gates: GatePattern) -> dict[str, list[Group]]:
    """Groups by mechanism: every unit alone ("single units"), "clones" (equal incoming weights), "same gates".

    Only units with an exact activation, whose edges are all trainable and untied, and whose signal reaches an output on
    some sample; "same gates" are piecewise linear units on the same pieces.

    >>> from lop_theory.architectures import mlp
    >>> from lop_theory.gates import gate_pattern
    >>> net, theta = mlp([1, 3, 1]), [1, 1, 2, 1, 1, 1, 3, 4, 5, 0]     # relu(x + 1) twice, and relu(2x + 1)
    >>> found = groups(net, theta, gate_pattern(net, theta, [[1], [2]]))
    >>> {name: [g.units for g in part] for name, part in found.items()}
    {'single units': [(2,), (3,), (4,)], 'clones': [(2, 3)], 'same gates': [(2, 3, 4)]}
    """
    single, cloned, alike = [], defaultdict(list), defaultdict(list)
    exact = rational_array(theta)
    for unit in _free_units(dag):
        activation = get_activation(dag.activation(unit))
        group = _group(dag, [unit], activation.is_piecewise_linear)
        heard = gates.open[:, group.targets].any(1)
        if not activation.is_exact or not (heard & ~gates.flat[:, unit]).any():
            continue
        ends = (group.sources.tobytes(), group.targets.tobytes())
        cloned[*ends, activation.name, tuple(map(str, exact[group.incoming[0]]))].append(unit)
        single.append(group)
        if activation.is_piecewise_linear:
            lines = [(activation.slopes[k], activation.intercepts[k]) for k in gates.piece[heard, unit]]
            alike[*ends, tuple(lines)].append(unit)
    several = [
        [_group(dag, units, linear(dag, units[0])) for units in part.values() if len(units) > 1]
        for part in (cloned, alike)
    ]
    return {"single units": single, "clones": several[0], "same gates": several[1]}


def linear(dag: Dag, unit: int) -> bool:
    """Is the unit piecewise linear?"""
    return get_activation(dag.activation(unit)).is_piecewise_linear


def _free_units(dag: Dag) -> Iterator[int]:
    uses = np.bincount(dag.param[dag.param >= 0], minlength=dag.num_params)
    for unit in dag.hidden.tolist():
        param = dag.param[np.concatenate([dag.incoming(unit), dag.outgoing(unit)])]
        if len(dag.outgoing(unit)) and (param >= 0).all() and (uses[param] == 1).all():
            yield unit


def _group(dag: Dag, units: list[int], is_linear: bool) -> Group:
    into, onward = [dag.incoming(u) for u in units], [dag.outgoing(u) for u in units]
    into = [e[np.argsort(dag.source[e])] for e in into]
    onward = [e[np.argsort(dag.target[e])] for e in onward]
    incoming = np.array([dag.param[e] for e in into])
    outgoing = np.array([dag.param[e] for e in onward]).T
    sources, targets = dag.source[into[0]], dag.target[onward[0]]
    return Group(tuple(units), sources, targets, incoming, outgoing, is_linear, *_direct(dag, targets, is_linear))


def _direct(dag: Dag, targets: np.ndarray, wanted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and constant that feed every target by a weight of its own, and these parameters [O', ·]."""
    uses = np.bincount(dag.param[dag.param >= 0], minlength=dag.num_params)
    table = np.full((len(targets), dag.first_computed), -1)
    edges = np.flatnonzero(np.isin(dag.target, targets) & (dag.source < dag.first_computed) & (dag.param >= 0))
    edges = edges[uses[dag.param[edges]] == 1]
    table[np.searchsorted(targets, dag.target[edges]), dag.source[edges]] = dag.param[edges]
    found = np.flatnonzero((table >= 0).all(0)) if wanted else np.array([], dtype=np.int64)
    return found, table[:, found]


# -- the equations -----------------------------------------------------------------------------------------------------


class System:
    """Equations (i), (ii), (iii) of one group, in the unknowns that are not ``dropped`` (parameters null by themselves)."""

    def __init__(self, group: Group, signals: Signals, gates: GatePattern, logits: bool, dropped: np.ndarray):
        self.group, self.signals, self.gates, self.logits = group, signals, gates, logits
        self.dropped = dropped
        self.kept = np.flatnonzero(~np.isin(group.params, dropped))
        self.numbers = signals.numbers

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, J, O')."""
        return (*self.group.incoming.shape, len(self.group.targets))

    @property
    def size(self) -> int:
        """Number of unknowns, the dropped ones included."""
        return self.group.params.size

    @cached_property
    def first_order(self) -> np.ndarray:
        """Rows of (i). If the targets are the logits of a softmax, only differences of their changes count."""
        parts: list[np.ndarray] = []
        cache: dict[bytes, np.ndarray] = {}
        for place, target in enumerate(self.group.targets):
            is_open = self.gates.open[:, target]
            key = is_open.tobytes()
            if key not in cache:
                cache[key] = self._features(is_open)
            change = self._change(cache[key], place)
            if self.logits and place == 0:
                reference = change
            else:
                parts.append(change - reference if self.logits else change)
        empty = self.numbers.zeros(0, self.size)
        return self.numbers.reduce(np.concatenate([empty, *parts]))[:, self.kept]

    def _features(self, is_open: np.ndarray) -> np.ndarray:
        """A basis [·, J + 1 + …] of the rows (s_n h_j(n), c_n, h_d(n)) over the samples, with h_j free where it moves."""
        sources, unit = self.group.sources, self.group.units[0]
        size = len(sources) + 1 + len(self.group.direct_sources)
        unit_rows = self.numbers.zeros(size, size) + np.eye(size, dtype=np.int64)
        if not self.group.linear:
            return unit_rows
        samples = np.flatnonzero(is_open)
        on = samples[~self.gates.flat[samples, unit]]
        moving = (~self.gates.static[np.ix_(on, sources)]).any(0)
        values = self.signals.slope[samples, unit, None] * self.signals.h[np.ix_(samples, sources)]
        direct = self.signals.h[np.ix_(samples, self.group.direct_sources)]
        rows = np.concatenate([values, self._intercepts(samples)[:, None], direct], 1)
        rows[:, np.flatnonzero(moving)] = 0 if self.numbers.prime else flint.fmpq(0)
        return np.concatenate([unit_rows[np.flatnonzero(moving)], self.numbers.echelon(self.numbers.reduce(rows))[0]])

    def _intercepts(self, samples: np.ndarray) -> np.ndarray:
        unit = self.group.units[0]
        table = self.numbers.convert(get_activation(self.gates.dag.activation(unit)).intercepts)
        return np.asarray(table[self.gates.piece[samples, unit]])

    def _change(self, features: np.ndarray, place: int) -> np.ndarray:
        """(i) for target ``place`` as rows, one for each row of ``features``."""
        k, sources, targets = self.shape
        theta, rows = self.signals.theta, self.numbers.zeros(len(features), self.size)
        outgoing, own = theta[self.group.outgoing[place]], k * sources + place * k + np.arange(k)
        signal, offset, direct = features[:, :sources], features[:, sources, None], features[:, sources + 1 :]
        rows[:, : k * sources] = (signal[:, None, :] * outgoing[None, :, None]).reshape(len(features), k * sources)
        rows[:, own] = offset
        if self.group.linear:  # polynomial copies have one w, and their a enters by Σ a f only
            rows[:, own] = rows[:, own] + signal @ theta[self.group.incoming].T
        rows[:, k * (sources + targets) + place * direct.shape[1] + np.arange(direct.shape[1])] = direct
        return self.numbers.reduce(rows)

    @cached_property
    def coupling(self) -> np.ndarray:
        """A [O', J]."""
        return self._moment(self.signals.delta[:, self.group.targets].T, self.signals.slope)

    def _moment(self, left: np.ndarray, weight: np.ndarray) -> np.ndarray:
        reduce, unit = self.numbers.reduce, self.group.units[0]
        return reduce(reduce(left * weight[:, unit]) @ self.signals.h[:, self.group.sources])

    @cached_property
    def second_order(self) -> np.ndarray:
        """Rows of (ii), (iii)."""
        k, sources, targets = self.shape
        below = self.numbers.zeros(k * targets, self.size)
        above = self.numbers.zeros(k * sources, self.size)
        for i in range(k):
            b, a = i * sources + np.arange(sources), k * sources + np.arange(targets) * k + i
            below[np.ix_(i * targets + np.arange(targets), b)] = self.coupling
            above[np.ix_(b, a)] = self.coupling.T
            if not self.group.linear:
                above[np.ix_(b, b)] = self._bending(i)
        return np.concatenate([below, above])[:, self.kept]

    def _bending(self, i: int) -> np.ndarray:
        """Bᵢ = Σ_n ⟨δ_n, Vᵢ⟩ f'' h hᵀ [J, J]."""
        reduce, h = self.numbers.reduce, self.signals.h[:, self.group.sources]
        outgoing = self.signals.theta[self.group.outgoing[:, i]]
        pushed = reduce(self.signals.delta[:, self.group.targets] @ outgoing)
        return self._moment(reduce(h * pushed[:, None]).T, self.signals.bend)

    def expand(self, basis: np.ndarray) -> np.ndarray:
        """Directions in R^P [d, P] from solutions [d, kept]."""
        out = self.numbers.zeros(len(basis), len(self.signals.theta))
        out[:, self.group.params[self.kept]] = basis
        return out


def solutions(system: System) -> np.ndarray:
    """A basis [d, P] of the directions that satisfy (i), (ii), (iii)."""
    rows = np.concatenate([system.first_order, system.second_order])
    return system.expand(system.numbers.kernel(rows))


# -- what is known without the targets ---------------------------------------------------------------------------------


def proved_dimension(system: System) -> int:
    """A proved lower bound of the number of solutions over the field of the entries of A, from rational data only.

    Let L be known vectors of the left kernel of A and N of the right one, ρ = min(O' − dim L, J − dim N) ≥ rank A. Among
    the (b, a) with (i) and all aᵢ ∈ L (a subspace U over Q), (iii) holds, and (ii) costs at most ρ dim C, where C is the
    span in R^k of the columns of all b; likewise with all bᵢ ∈ N. Both are tried with e and with e = 0, where C is smaller.
    ``system`` is one over the rationals.
    """
    dropped = np.concatenate([system.dropped, system.group.direct.ravel()])
    simpler = System(system.group, system.signals, system.gates, system.logits, dropped)
    return max(
        _dimension_at_least(s) for s in ((simpler, system) if len(simpler.kept) < len(system.kept) else (system,))
    )


def _dimension_at_least(system: System) -> int:
    k, sources, targets = system.shape
    left, right = _left_kernel(system), _right_kernel(system)
    bound = min(targets - len(left), sources - len(right))
    b = np.arange(k * sources).reshape(k, sources)
    a = (k * sources + np.arange(targets * k)).reshape(targets, k).T
    in_left = _membership(system, left, a)
    if not (system.group.linear or _unheard(system)):  # B b = 0 is not known: take b = 0
        in_left = np.concatenate([in_left, _membership(system, left[:0, :0], b)])
    return max(0, _cheapest(system, in_left, b, bound), _cheapest(system, _membership(system, right, b), a, bound))


def _unheard(system: System) -> bool:
    """Is ⟨δ, Vᵢ⟩ = 0, because outgoing weights are zero or (softmax) all equal?"""
    outgoing = system.signals.theta[system.group.outgoing]
    return bool((outgoing == (outgoing[:1] if system.logits else 0)).all())


def _membership(system: System, known: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Rows that say: each of the k vectors at the unknowns ``place`` [k, ·] lies in the span of ``known`` (none: is 0)."""
    k, numbers = system.shape[0], system.numbers
    annihilator = (
        numbers.kernel(known) if len(known) else _unit_rows(numbers, np.arange(place.shape[1]), place.shape[1])
    )
    rows = numbers.zeros(k * len(annihilator), system.size)
    for i in range(k):
        rows[np.ix_(i * len(annihilator) + np.arange(len(annihilator)), place[i])] = annihilator
    return rows[:, system.kept]


def _cheapest(system: System, rows: np.ndarray, place: np.ndarray, bound: int) -> int:
    """dim U − ρ dim C for U = solutions of (i) and ``rows``, C the span of the columns of the vectors at ``place``."""
    k = system.shape[0]
    basis = system.numbers.kernel(np.concatenate([system.first_order, rows]))
    full = system.numbers.zeros(len(basis), system.size)
    full[:, system.kept] = basis
    return len(basis) - bound * system.numbers.rank(full[:, place].transpose(0, 2, 1).reshape(-1, k))


def _unit_rows(numbers: Numbers, columns: np.ndarray, size: int) -> np.ndarray:
    rows = numbers.zeros(len(columns), size)
    rows[np.arange(len(columns)), columns] += 1
    return rows


def _left_kernel(system: System) -> np.ndarray:
    """Known a with aᵀA = 0: closed targets, differences of targets of equal δ, and all ones for the logits of a softmax."""
    dag, gates, targets = system.gates.dag, system.gates, system.group.targets
    heard = ~gates.flat[:, system.group.units[0]]
    silent = ~(gates.open[:, targets] & heard[:, None]).any(0)
    rows = list(_unit_rows(system.numbers, np.flatnonzero(silent), len(targets)))
    if system.logits:
        rows.append(system.numbers.zeros(len(targets)) + 1)
    rows += _differences(system.numbers, [_onward(dag, system, int(v)) for v in targets])
    return _independent(system.numbers, rows, len(targets))


def _onward(dag: Dag, system: System, unit: int) -> Any:
    """What determines δ: outgoing weights and slopes; outputs are all different."""
    edges = dag.outgoing(unit)
    if unit in dag.outputs or not linear(dag, unit) or (dag.param[edges] < 0).any():
        return unit
    edges = edges[np.argsort(dag.target[edges])]
    weights = tuple(map(str, system.signals.theta[dag.param[edges]]))
    return dag.target[edges].tobytes(), weights, tuple(map(str, system.gates.slope[:, unit]))


def _right_kernel(system: System) -> np.ndarray:
    """Known b with A b = 0: Σ_j b_j h_j(n) = 0 on every sample on which the units are on and heard."""
    gates, group = system.gates, system.group
    on = np.flatnonzero(~gates.flat[:, group.units[0]] & gates.open[:, group.targets].any(1))
    return system.numbers.kernel(system.signals.h[np.ix_(on, group.sources)])


def _differences(numbers: Numbers, labels: list[Any]) -> list[np.ndarray]:
    """e_k − e_first for every k whose label occurred before."""
    first: dict[Any, int] = {}
    rows = []
    for k, label in enumerate(labels):
        if first.setdefault(label, k) != k:
            row = numbers.zeros(len(labels))
            row[k], row[first[label]] = row[k] + 1, row[first[label]] - 1
            rows.append(row)
    return rows


def _independent(numbers: Numbers, rows: list[np.ndarray], columns: int) -> np.ndarray:
    return numbers.echelon(np.array(rows, dtype=object).reshape(-1, columns))[0]
