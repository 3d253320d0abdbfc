r"""Exact nullity book-keeping: the null directions of a Hessian by cause, and the rank that they predict.

Consider hidden units i = 1 … k with the same sources j (the constant included, J in all), the same targets v (O' of them)
and, whenever a target is open, the same linear piece (slope s_n, intercept c_n on sample n). With incoming weights
W [k, J] and outgoing weights V [O', k] they send to target v on sample n

    Σ_j M_vj s_n h_j(n) + m_v c_n,        M = V W,   m = V 1.                                                        (1)

So near θ the loss is ℓ(M, m, the other parameters), and Ψ: (V, W) ↦ (M, m) is quadratic. With A = ∂ℓ/∂M = Σ_n δ_v(n)
s_n h_j(n) [O', J] (δ = ∂L/∂z) the second derivative along u = (a [O', k], b [k, J]) and any u' = (a', b', …) is

    uᵀ H u' = D²ℓ[DΨ u, DΨ u'] + tr Aᵀ(a b' + a' b),             DΨ u = (a W + V b, a 1).                            (2)

**Theorem.** H u = 0 if   (i) D_{DΨu} ℓ ≡ 0 near θ,   (ii) A bᵢ = 0,   (iii) Aᵀ aᵢ = 0   for every unit i. *Proof.* (i) kills
the first term of (2), because it is the derivative of D_{DΨu} ℓ; (ii) and (iii) the second. ∎   (i) holds if on each sample
on which v is open the change of (1) is zero: Σ_j (DΨu)_vj s_n h_j(n) + (a1)_v c_n = 0, with (DΨu)_vj = 0 where h_j moves
with θ; weights by which inputs and the constant feed v directly may change as well, to compensate (a unit that is on for the
whole batch shares the bias of v). If the targets are the logits of a softmax, it is enough that the change is the same for all.

*Which symmetries are null where.* Moving along a symmetry of the loss, H ξ(θ) = −(Dξ)ᵀ ∇L: a null vector at a critical point
only, unless ξ is constant. Softmax shift and dead weights are constant fields: always null. Rescaling (V, −w), and all of
GL(k) on units of the same gates, (V G, −G W), satisfy (i) but not (ii) and (iii), which read GᵀVᵀA = 0 and A WᵀGᵀ = 0, that
is, the gradient of the chosen combinations vanishes. What is left off critical points is the theorem's: clones (W = 1 wᵀ)
may shift outgoing weights, Σ aᵢ = 0, but only in the left kernel of A, and incoming ones, V b = 0, in its right kernel.

*Redistribution.* In a network of clones (row and column equitable, *Barriers* Remark 2.2) let Z have zero row and column sums
in every pair of classes. Then H Z = 0 for every activation and loss: the change Σ_u Z_vu h_u is 0, as h is equal in a class;
its variation pairs to Σ_v δ_v Σ_u Z_vu dh_u = 0, as δ is. For piecewise linear units it is an instance of the theorem.

*Clones of a polynomial unit:* (1) becomes Σᵢ Vᵢ f(⟨wᵢ, h⟩), and (i) Σ aᵢ = 0, V b = 0, (ii), (iii) Aᵀaᵢ + Bᵢ bᵢ = 0 with
Bᵢ = Σ_n ⟨δ, Vᵢ⟩ f'' h hᵀ are sufficient, by the same proof.

*Nothing else, generically.* For squared loss put y_t = f − t r. H_t = K + t R with K the Gauss–Newton matrix, positive
semi-definite, and R fixed; so **ker H_t = ker K ∩ ker R for all but finitely many t**. (Write K = I ⊕ 0; for small t ≠ 0 the
Schur complement t R₀₀ − t² R₀₁(I + t R₁₁)⁻¹R₁₀ has rank R₀₀ plus the rank of R₁₀ on ker R₀₀, and rank is generically
largest.) If moreover the features [s_n h_j, c_n] of all groups, and a one, are independent columns, then ker K is
{DΨu = 0}, and ker K ∩ ker R is what is listed here: the book is exact for almost all targets. (One unit, or group, may be on
for the whole batch: it shares the one with the bias.)

*Arithmetic.* Dimensions are ranks modulo a prime. They are proved where the answer does not depend on the prime: A is
replaced by what is known of its kernels whatever the targets (:func:`lop_theory.alike.proved_dimension`), else, for small
squared-loss problems, the equations are solved over Q. ``NullityBook.certified`` says whether P − total is a proved upper
bound of the rank.

Sources: Spectral Collapse (arXiv 2509.22335) for dead units, Barriers (arXiv 2510.00304) for clones; the theorem is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import flint
import numpy as np

from lop_theory.activations import get_activation
from lop_theory.alike import Group, System, groups, proved_dimension, solutions
from lop_theory.arithmetic import rational_array
from lop_theory.bounds import gate_null_directions, gate_nullity, gate_system, new_softmax_shifts
from lop_theory.dag import Dag
from lop_theory.elimination import Numbers
from lop_theory.forward import check_loss_kind, check_targets
from lop_theory.gates import GatePattern, gate_pattern
from lop_theory.modular import ExactPass, UnusablePrimeError, exact_forward, primes_for
from lop_theory.partition import UnitPartition, block_pairs, column_equitable, row_equitable, valid_cloning_structure
from lop_theory.rank import exact_rank
from lop_theory.signals import Signals, rational_signals, residue_signals, signals_without_targets

__all__ = [
    "MECHANISMS",
    "Mechanism",
    "NullityBook",
    "nullity_book",
    "null_directions",
    "residue_directions",
    "redistributions",
]

MECHANISMS = (
    "closed",
    "silent",
    "dependent",
    "softmax shift",
    "redistribution",
    "single units",
    "clones",
    "same gates",
)
"""Causes of null directions, in the order in which they are counted: closed, silent and dependent as in ``GateNullity``."""

_EXACT_PARAMS = 120  # largest P for which dimensions that are not structural are solved for over Q


class Mechanism(NamedTuple):
    """``dimension``: how many null directions this cause adds to those before it; ``proved``: is that a lower bound?"""

    name: str
    dimension: int
    proved: bool


@dataclass(frozen=True)
class NullityBook:
    """The null directions of a Hessian by cause; a direction with several causes is counted once, at the first.

    ``predicted_rank`` = P − total; if ``certified`` it is a proved upper bound of the rank.
    """

    num_params: int
    entries: tuple[Mechanism, ...]

    @property
    def total(self) -> int:
        """Dimension of the sum of all subspaces."""
        return sum(entry.dimension for entry in self.entries)

    @property
    def predicted_rank(self) -> int:
        """P − total."""
        return self.num_params - self.total

    @property
    def certified(self) -> bool:
        """Is every entry proved?"""
        return all(entry.proved for entry in self.entries)

    def __getitem__(self, name: str) -> int:
        """The dimension of one cause."""
        return next(entry.dimension for entry in self.entries if entry.name == name)

    def __str__(self) -> str:
        parts = [f"{e.dimension} {e.name}{'' if e.proved else ' (not proved)'}" for e in self.entries if e.dimension]
        return f"{self.num_params} − {' − '.join(parts) or '0'} = {self.predicted_rank}"


def nullity_book(
    dag: Dag,
    theta: Any,
    x: Any,
    y: Any,
    kind: str = "mse_sum",
    partition: UnitPartition | None = None,
    gates: GatePattern | None = None,
) -> NullityBook:
    """The book for the Hessian of the loss at θ [P] on x [N, I], y: exact for almost all targets, see the head of the module.

    ``partition``: classes of clones (row and column equitable at θ) whose redistributions are counted under that name; in a
    piecewise linear network with equal weights they are found without it. Networks with an activation that is neither
    piecewise linear nor polynomial have the first five entries only. θ off every kink (``KinkError`` otherwise).

    >>> from lop_theory.architectures import mlp
    >>> theta = [1, 1, -1, 1, 1, -9, 2, 2, 3, 0]               # 1-3-1: relu(x + 1) twice, and a dead unit
    >>> x, y = [[1], [2], [5]], [[0], [1], [7]]
    >>> print(nullity_book(mlp([1, 3, 1]), theta, x, y))
    10 − 2 closed − 1 silent − 1 clones = 6
    """
    _check(dag, x, y, kind)
    gates = gates if gates is not None else gate_pattern(dag, theta, x)
    known = gate_nullity(dag, theta, x, kind, gates)
    counts = {"closed": known.closed, "silent": known.silent, "dependent": known.dependent}
    counts["softmax shift"] = known.softmax_shift
    proved = dict.fromkeys(MECHANISMS, True)
    moves = redistributions(dag, theta, partition)
    found = _groups(dag, theta, gates)
    if any(found.values()) or len(moves):
        more, unproved = _beyond_gates(dag, theta, x, y, kind, gates, moves, found)
        counts |= more
        proved |= dict.fromkeys(unproved, False)
    entries = tuple(Mechanism(name, counts.get(name, 0), proved[name]) for name in MECHANISMS)
    return NullityBook(dag.num_params, entries)


def null_directions(
    dag: Dag, theta: Any, x: Any, y: Any, kind: str = "mse_sum", partition: UnitPartition | None = None
) -> dict[str, flint.fmpq_mat]:
    """For each cause a matrix [P, ·] of rationals whose columns are null: H B = 0 exactly. They may overlap.

    "gates" stands for the first four causes. For cross-entropy A is transcendental, and so are the directions of the last
    three causes, which are left out.

    >>> from lop_theory.architectures import mlp
    >>> theta = [1, 1, 1, 1, 2, 2, 0]                           # relu(x + 1) twice: b moves in the kernel of A = [114, 27]
    >>> null_directions(mlp([1, 2, 1]), theta, [[1], [2], [5]], [[5], [9], [3]])["clones"].transpose()
    [9, -9, -38, 38, 0, 0, 0]
    """
    _check(dag, x, y, kind)
    gates = gate_pattern(dag, theta, x)
    out = {"gates": gate_null_directions(dag, theta, x, kind, gates)}
    bases = {"redistribution": list(redistributions(dag, theta, partition))}
    if kind != "cross_entropy":
        exact = rational_signals(dag, theta, x, y, kind)
        for name, part in _groups(dag, theta, gates).items():
            systems = [System(g, exact, gates, False, np.array([], dtype=np.int64)) for g in part]
            bases[name] = [row for s in systems for row in solutions(s)]
    for name, rows in bases.items():
        flat = [v * _denominator(row) for row in rows for v in row]
        out[name] = flint.fmpq_mat(len(rows), dag.num_params, flat).transpose()
    return out


def residue_directions(dag: Dag, theta: Any, x: Any, y: Any, kind: str, prime: int) -> np.ndarray:
    """A basis of the sum of all subspaces modulo a prime of ``modular.primes_for``: int64 residues [d, P], any loss.

    Raises ``UnusablePrimeError`` if the prime divides a denominator.

    >>> from lop_theory.architectures import mlp
    >>> net, theta = mlp([1, 2, 1]), [1, 1, 1, 1, 2, 2, 0]
    >>> residue_directions(net, theta, [[1], [2], [5]], [[5], [9], [3]], "mse_sum", 101).tolist()
    [[1, 100, 7, 94, 0, 0, 0]]
    """
    _check(dag, x, y, kind)
    gates = gate_pattern(dag, theta, x)
    ledger, found = _Ledger(gates, kind, Numbers(prime)), _groups(dag, theta, gates)
    if found:
        signals = residue_signals(dag, theta, exact_forward(dag, theta, x), y, kind, prime)
        for group in (group for part in found.values() for group in part):
            ledger.add(solutions(ledger.system(group, signals)))
    alone = ledger.numbers.zeros(len(ledger.alone), dag.num_params)
    alone[np.arange(len(alone)), ledger.alone] = 1
    return np.concatenate([alone, ledger.rows])


def redistributions(dag: Dag, theta: Any, partition: UnitPartition | None) -> np.ndarray:
    """Z with zero row and column sums in every pair of classes of hidden units: a basis [d, P] of ``fmpq``.

    Raises ``ValueError`` if θ is not row and column equitable, or the partition is not one that the cloning theorem allows.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 2, 1], bias=False)
    >>> redistributions(net, [1, 1, 1, 2, 2, 1, 5, 5], UnitPartition.of(net, [[1, 2], [3, 4]])).tolist()
    [[0, 0, 1, -1, -1, 1, 0, 0]]
    """
    rows = Numbers().zeros(0, dag.num_params)
    if partition is None:
        return rows
    broken = valid_cloning_structure(dag, partition)
    if broken or not (row_equitable(dag, theta, partition) and column_equitable(dag, theta, partition)):
        reason = broken[0].message if broken else "the weights are not row and column equitable"
        raise ValueError(f"the partition does not describe clones ({reason}); give classes of clones, or None")
    for pair in block_pairs(dag, partition):
        params, ends = dag.param[pair.edges], (dag.source[pair.edges], dag.target[pair.edges])
        sums = np.concatenate([(side == np.unique(side)[:, None]) for side in ends])
        basis = Numbers().kernel(rational_array(sums.astype(int)))
        block = Numbers().zeros(len(basis), dag.num_params)
        block[:, params] = basis
        rows = np.concatenate([rows, block])
    return rows


# -- helpers -----------------------------------------------------------------------------------------------------------


def _check(dag: Dag, x: Any, y: Any, kind: str) -> None:
    check_loss_kind(kind)
    labels = y if hasattr(y, "dtype") else np.asarray(y)
    check_targets(dag, x, labels, kind)


def _denominator(row: np.ndarray) -> flint.fmpq:
    return flint.fmpq(math.lcm(*(int(v.q) for v in row)))


def _groups(dag: Dag, theta: Any, gates: GatePattern) -> dict[str, list[Group]]:
    """No groups if some activation has no exact values: δ is not known then."""
    if all(get_activation(name).is_exact for name in dict.fromkeys(dag.activations)):
        return groups(dag, theta, gates)
    return {}


def _beyond_gates(
    dag: Dag,
    theta: Any,
    x: Any,
    y: Any,
    kind: str,
    gates: GatePattern,
    moves: np.ndarray,
    found: dict[str, list[Group]],
) -> tuple[dict[str, int], set[str]]:
    """(dimensions that redistribution and the groups add, names of those that are not proved), modulo the first good prime."""
    run = exact_forward(dag, theta, x) if found else None
    for prime in primes_for(dag, gates.num_samples):
        try:
            ledger = _Ledger(gates, kind, Numbers(prime))
            counts = {"redistribution": ledger.add(ledger.numbers.convert(moves))}
            if run is None:
                return counts, set()
            signals, unproved = residue_signals(dag, theta, run, y, kind, prime), set()
            proofs = _Proofs(dag, theta, x, y, kind, run, ledger)
            for name, part in found.items():
                systems = [ledger.system(group, signals) for group in part]
                bases = [solutions(system) for system in systems]
                counts[name] = ledger.add(np.concatenate([ledger.rows[:0], *bases]))
                used = [(s.group, len(basis)) for s, basis in zip(systems, bases, strict=True) if len(basis)]
                if counts[name] and not proofs.cover(used):
                    unproved.add(name)
            return counts, unproved
        except UnusablePrimeError:
            continue
    raise UnusablePrimeError("every prime below 2^21 divides a denominator; use fewer samples")


class _Ledger:
    """Counts directions modulo a prime, each once.

    Parameters that are null by themselves are dropped. So is, in the unknowns of a group, one parameter for each other
    null direction of the gates and of the softmax that lies within the group: what remains is new, or empty.
    """

    def __init__(self, gates: GatePattern, kind: str, numbers: Numbers):
        self.gates, self.kind, self.numbers = gates, kind, numbers
        system = gate_system(gates)
        self.alone = np.concatenate([system.closed, system.silent])
        self.rows = numbers.zeros(0, gates.dag.num_params)
        rows, inward, onward = [self.rows], [self.alone[:0]], [self.alone[:0]]
        for params, equations in system.equations:
            kernel, free = numbers.kernel_and_free(numbers.convert(equations))
            if len(params) - len(kernel) < exact_rank(equations):
                raise UnusablePrimeError(f"a rank falls modulo {numbers.prime}; take another prime")
            rows.append(numbers.zeros(len(kernel), gates.dag.num_params))
            rows[-1][:, params] = kernel
            inward.append(params[free])
        for params in new_softmax_shifts(gates) if kind == "cross_entropy" else ():
            rows.append(numbers.zeros(1, gates.dag.num_params))
            rows[-1][0, params] = 1
            onward.append(params[:1])
        self.inward, self.onward = np.concatenate(inward), np.concatenate(onward)
        self.rank = 0
        self.add(np.concatenate(rows))

    def add(self, rows: np.ndarray) -> int:
        """By how much the rank grows."""
        rows = rows.copy()
        rows[:, self.alone] = 0
        stack, before = np.concatenate([self.rows, rows]), self.rank
        if len(rows):
            self.rows = self.numbers.echelon(stack[:, (stack != 0).any(0)])[0]
            full = self.numbers.zeros(len(self.rows), stack.shape[1])
            full[:, (stack != 0).any(0)] = self.rows
            self.rows, self.rank = full, len(full)
        return self.rank - before

    def system(self, group: Group, signals: Signals) -> System:
        """The equations of a group without the unknowns that are dropped."""
        inward = np.intersect1d(self.inward, group.incoming)
        onward = np.intersect1d(self.onward, np.concatenate([group.outgoing.ravel(), group.direct.ravel()]))
        dropped = np.concatenate([self.alone, inward, onward])
        return System(group, signals, self.gates, self.is_softmax(group), dropped)

    def is_softmax(self, group: Group) -> bool:
        """Are the targets of the group the logits of a softmax, and does the loss see nothing else of them?"""
        dag = self.gates.dag
        if self.kind != "cross_entropy" or not np.array_equal(group.targets, np.sort(dag.outputs)):
            return False
        free = not np.isin(dag.source, dag.outputs).any()
        return free and all(dag.activation(int(o)) == "identity" for o in dag.outputs)


class _Proofs:
    """Decides which dimensions counted modulo a prime are proved; computes what it needs once, when it is needed."""

    def __init__(self, dag: Dag, theta: Any, x: Any, y: Any, kind: str, run: ExactPass, ledger: _Ledger):
        self.problem, self.run, self.ledger = (dag, theta, x, y, kind), run, ledger

    @cached_property
    def known(self) -> Signals:
        """Whatever the targets are."""
        return signals_without_targets(*self.problem[:2], self.run, self.ledger.gates)

    @cached_property
    def exact(self) -> Signals:
        """With the targets, for a squared loss."""
        return rational_signals(*self.problem)

    def cover(self, used: list[tuple[Group, int]]) -> bool:
        """Is the number of solutions of each of these groups, counted modulo a prime, not too large?"""
        dag, kind = self.problem[0], self.problem[-1]
        left = [(g, found) for g, found in used if proved_dimension(self.ledger.system(g, self.known)) < found]
        if not left or kind == "cross_entropy" or dag.num_params > _EXACT_PARAMS:
            return not left
        return all(len(solutions(self.ledger.system(g, self.exact))) == found for g, found in left)
