r"""Ours: optimizers that treat a layer as a matrix (Muon, Shampoo) trap a cloned network as elementwise ones do.

They are not elementwise, so Remark 2.3 of *Barriers* says nothing about them. What they have instead is symmetry. For a layer with
complete block pairs let U and V permute units inside blocks of targets and of sources. A matrix is block constant iff U G = G V for
all of these, and sums, products, transposes, elementwise maps and functions of a matrix keep this property
(:class:`Invariant`). So the step from block-constant gradients is block constant, and θ stays on the linear subspace RE ∩ CE.

The rules run over Q, where every iterate is rounded down entry by entry to multiples of 2⁻³⁰ so that numbers stay short, in
float64, and on classes of matrices, which is the proof. Iterations stop at a fixed number: nothing depends on convergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from lop_theory.dag import Dag
from lop_theory.forward import gradient
from lop_theory.partition import UnitPartition
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.barriers_cloning import CE, RE
from proofs_checks.claims.barriers_graphs import SMOOTH, equitable_subspace, equitable_weights
from proofs_checks.claims.barriers_trajectories import RATE, LevelSet
from proofs_checks.claims.optimizer_proofs import BLOCK, CONSTANT, EQUITABLE, ArrayClass, prove_lemmas
from proofs_checks.claims.optimizer_rules import EXACT, FLOAT64, Calculus
from proofs_checks.instances import Instance
from proofs_checks.strategies import integers_array

Matrix = Any  # np.ndarray [targets, sources], or an Invariant
MatrixStep = Callable[["MatrixCalculus", Matrix, Matrix], tuple[Matrix, Matrix]]
MOMENTUM, EPSILON, WEIGHT_DECAY, NO_DECAY = fmpq(1, 2), fmpq(1, 16), fmpq(1, 2), fmpq(0)
QUINTIC = fmpq(34445, 10**4), fmpq(-4775, 10**3), fmpq(20315, 10**4)  # coefficients of x, x³, x⁵ in published code


# -- rules: (calculus, gradient, state) → (step, state); a state starts at zero ---------------------------------------------


@dataclass(frozen=True)
class MatrixCalculus:
    """What the rules do with matrices beside + − · @ and transposes, over one number system."""

    number: Callable[[fmpq], Any]
    rounded: Callable[[Matrix], Matrix]  # entry by entry
    unit: Callable[[Matrix], Matrix]  # A / ‖A‖, and 0 for A = 0
    eye: Callable[[Matrix], Matrix]  # identity with the rows of A

    def inverse_root(self, a: Matrix) -> tuple[Matrix, Matrix]:
        """≈ (A^{1/2}, A^{-1/2}) of A / ‖A‖ after six coupled Newton–Schulz iterations."""
        y, z = self.unit(a), self.eye(a)
        for _ in range(6):
            t = self.number(fmpq(1, 2)) * (self.number(fmpq(3)) * self.eye(a) - z @ y)
            y, z = self.rounded(y @ t), self.rounded(t @ z)
        return y, z


def muon(c: MatrixCalculus, g: Matrix, state: Matrix) -> tuple[Matrix, Matrix]:
    """M ← μ M + G; the step is the orthogonal factor of M, by five quintic Newton–Schulz iterations."""
    m = c.number(MOMENTUM) * state + g
    first, third, fifth = (c.number(coefficient) for coefficient in QUINTIC)
    x = c.unit(m)
    for _ in range(5):
        a = x @ x.T
        x = c.rounded(first * x + (third * a + fifth * (a @ a)) @ x)
    return x, m


def shampoo(c: MatrixCalculus, g: Matrix, state: tuple[Matrix, Matrix]) -> tuple[Matrix, tuple[Matrix, Matrix]]:
    """L ← L + G Gᵀ, R ← R + GᵀG; the step is (L + ε I)^{-1/4} G (R + ε I)^{-1/4}, up to a factor."""
    left, right = state[0] + g @ g.T, state[1] + g.T @ g
    factors = [c.inverse_root(c.inverse_root(a + c.number(EPSILON) * c.eye(a))[0])[1] for a in (left, right)]
    return c.rounded(factors[0] @ g @ factors[1]), (left, right)


_floor_entry = np.frompyfunc(lambda v: fmpq((v.p << 30) // v.q, 1 << 30), 1, 1)


def _unit(calculus: Calculus) -> Callable[[np.ndarray], np.ndarray]:
    def unit(a: np.ndarray) -> np.ndarray:
        norm = calculus.root(np.array([(a * a).sum()]))[0]
        return a / norm if norm != 0 else a

    return unit


EXACT_MATRICES = MatrixCalculus(
    lambda c: c, _floor_entry, _unit(EXACT), lambda a: rational_array(np.eye(len(a), dtype=int))
)
FLOAT_MATRICES = MatrixCalculus(FLOAT64.number, lambda a: a, _unit(FLOAT64), lambda a: np.eye(len(a)))


# -- classes of matrices -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invariant:
    """All matrices A with U A = A V for all permutations U, V inside the blocks of the units of its rows and columns.

    U A = A V and U B = B V give U (A + B) = (A + B) V; U A = A V and V B = B W give U A B = A B W; the transpose of
    U A = A V is V Aᵀ = Aᵀ U, since Uᵀ and Vᵀ are again such permutations; φ entry by entry commutes with permutations of
    entries; the identity is invariant if rows and columns are the same units. A ``TypeError`` says that sides do not match.

    >>> g = Invariant("out", "in")
    >>> g @ g.T, g.T @ g @ g.T
    (Invariant(rows='out', columns='out'), Invariant(rows='in', columns='out'))
    """

    rows: str
    columns: str

    def _same(self, other: Any) -> Invariant:
        if other != self:
            raise TypeError(f"{self} and {other} have other sides: their sum is not defined")
        return self

    def __add__(self, other: Any) -> Invariant:
        return self._same(other)

    def __sub__(self, other: Any) -> Invariant:
        return self._same(other)

    def __rmul__(self, number: Any) -> Invariant:
        if not isinstance(number, fmpq):
            raise TypeError(f"{number!r} is not a number")
        return self

    def __matmul__(self, other: Any) -> Invariant:
        if other.rows != self.columns:
            raise TypeError(f"{self} @ {other}: the sides in the middle are not the same units")
        return Invariant(self.rows, other.columns)

    @property
    def T(self) -> Invariant:
        return Invariant(self.columns, self.rows)


MATRIX_CLASSES = MatrixCalculus(lambda c: c, lambda a: a, lambda a: a, lambda a: Invariant(a.rows, a.rows))
_LAYER = Invariant("out", "in")


@dataclass(frozen=True)
class MatrixRule:
    """One row: the step on a layer [n_out, n_in], the state it starts from, and decoupled weight decay."""

    name: str
    title: str
    step: MatrixStep
    zero: Callable[[Matrix], Any]  # the state at the start, from a zero gradient
    decay: fmpq = NO_DECAY


RULES = (
    MatrixRule("muon", "Muon", muon, lambda zero: zero),
    MatrixRule("muon-decay", "Muon with decoupled weight decay", muon, lambda zero: zero, WEIGHT_DECAY),
    MatrixRule("shampoo", "Shampoo", shampoo, lambda zero: (zero @ zero.T, zero.T @ zero)),
)


def prove_stays(rule: MatrixRule) -> str:
    """One step of the rule on classes.

    >>> prove_stays(RULES[0])[:64]
    'muon: G invariant, state invariant → step invariant, state invar'
    """
    state = rule.zero(_LAYER)
    step, after = rule.step(MATRIX_CLASSES, _LAYER, state)
    if step != _LAYER or after != state:
        raise AssertionError(f"the proof breaks: {rule.name} makes {step}, {after} of {_LAYER}, {state}")
    theta: ArrayClass = (
        EQUITABLE * CONSTANT + CONSTANT * BLOCK
    )  # (1 − ηλ) θ − η step, an invariant layer being block constant
    if theta > EQUITABLE:
        raise AssertionError(f"the proof breaks: θ is {theta!r}")
    return (
        f"{rule.name}: G invariant, state invariant → step invariant, state invariant, where invariant means U A = A V for all "
        "permutations inside blocks (for a matrix of a layer with complete pairs: block constant); the rule itself, run on "
        f"classes. The zero state is invariant, so by induction every step is block constant; then: {prove_lemmas()}"
    )


# -- training ----------------------------------------------------------------------------------------------------------


def layers(dag: Dag) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each layer of an mlp the parameters of its weights [n_out, n_in] and of its biases [n_out] (or [0]).

    >>> [(w.tolist(), b.tolist()) for w, b in layers(mlp([1, 2, 1], "square"))]
    [([[0], [1]], [2, 3]), ([[4, 5]], [6])]
    """
    index = {(int(u), int(v)): int(p) for u, v, p in zip(dag.source, dag.target, dag.param)}
    blocks = [block.units.tolist() for k, block in enumerate(dag.blocks) if k != 1]  # 1: the constant
    found = []
    for below, above in pairwise(blocks):
        weights = np.array([[index[u, v] for u in below] for v in above])
        found.append((weights, np.array([index[dag.num_inputs, v] for v in above] if dag.has_constant else [], int)))
    return found


def train(rule: MatrixRule, instance: Instance, exact: bool, steps: int, theta: np.ndarray, rate: Any) -> np.ndarray:
    """θ [P] after some steps of the rule on the weights and of gradient descent on the biases."""
    calculus, elementwise = (EXACT_MATRICES, EXACT) if exact else (FLOAT_MATRICES, FLOAT64)
    x, y = (elementwise.ops.convert(a) for a in (instance.x, instance.y))
    noise = elementwise.ops.convert(np.asarray(instance.extra.get("noise", np.zeros(len(theta))), dtype=np.float64))
    parts = layers(instance.dag)
    states = [rule.zero(theta[weights] * 0) for weights, _ in parts]
    for _ in range(steps):
        g = gradient(instance.dag, theta, x, y, instance.kind, elementwise.ops) + noise
        after = theta - rate * elementwise.number(rule.decay) * theta - rate * g
        for l, (weights, _) in enumerate(parts):
            step, states[l] = rule.step(calculus, g[weights], states[l])
            after[weights] = after[weights] + rate * (g[weights] - step)
        theta = after
    return theta


FLOAT_STEPS, FLOAT_TOLERANCE = 5, 1e-6


def stays(rule: MatrixRule) -> Callable[[Instance], Evidence]:
    """Is θ on RE ∩ CE after every step, exactly, and after five steps in float64 up to rounding?"""

    def check(instance: Instance) -> Evidence:
        subspace = equitable_subspace(instance.dag, instance.extra["partition"])
        for k in range(1, instance.extra["steps"] + 1):
            theta = train(rule, instance, True, k, rational_array(instance.theta), RATE)
            equation = LevelSet.affine(subspace).broken(theta)
            if equation is not None:
                off = float(equation.value(theta).p) / float(equation.value(theta).q)
                return Evidence(Verdict.FAILS, note=f"{rule.title}: after step {k} {equation} is off by {off:.3g}")
        small = replace(instance, x=instance.x / 4, y=instance.y / 4)
        start = rational_array(instance.theta).astype(np.float64) / 8
        theta = train(rule, small, False, FLOAT_STEPS, start, 1 / 64)
        sums = [abs(sum(int(a) * theta[k] for k, a in row.items())) for row, _ in subspace.equations]
        residual = float(max(sums, default=0.0))
        if not residual <= FLOAT_TOLERANCE:
            return Evidence(
                Verdict.UNDECIDED, residual, note=f"residual {residual:.1e} after {FLOAT_STEPS} float64 steps"
            )
        return Evidence(Verdict.HOLDS)

    return check


# -- starts ------------------------------------------------------------------------------------------------------------


@st.composite
def layered_starts(draw: DrawFn, noise: bool = False, steps: int = 2) -> Instance:
    """An mlp with one or two hidden layers of one or two blocks each, at a point of RE ∩ CE, with data."""
    inputs, outputs, samples = (draw(st.integers(1, 2)) for _ in range(3))
    layer_blocks = draw(st.lists(st.sampled_from(((2,), (3,), (2, 1), (2, 2))), min_size=1, max_size=2))
    dag = mlp([inputs, *map(sum, layer_blocks), outputs], draw(st.sampled_from(SMOOTH[:2])), draw(st.booleans()))
    ends = np.cumsum([dag.first_computed, *(size for blocks in layer_blocks for size in blocks)]).tolist()
    partition = UnitPartition.of(dag, [range(a, b) for a, b in pairwise(ends)])
    theta = equitable_weights(draw, dag, partition)
    x, y = integers_array(draw, (samples, inputs), 3), integers_array(draw, (samples, outputs), 4)
    extra: dict[str, Any] = {"partition": partition, "steps": steps}
    if noise:
        extra["noise"] = integers_array(draw, (dag.num_params,), 1)
    return Instance(dag, theta, x, y, extra=extra)


@st.composite
def _off_equitable(draw: DrawFn) -> Instance:
    """One weight moved off RE ∩ CE."""
    instance = draw(layered_starts(steps=1))
    theta = instance.theta.copy()
    theta[layers(instance.dag)[-1][0][0, 0]] += 1
    return replace(instance, theta=theta)


def _one_rate_per_unit(instance: Instance) -> Evidence:
    """Muon with a rate of its own for every row of the step (as row-normalising variants with statistics per row have)."""
    scaled = replace(
        RULES[0],
        step=lambda c, g, state: (_rows(c, muon(c, g, state)[0]), muon(c, g, state)[1]),
    )
    return stays(scaled)(instance)


def _rows(c: MatrixCalculus, step: Matrix) -> Matrix:
    return np.stack([c.number(fmpq(k)) * row for k, row in enumerate(step, start=1)])


START = Assumption("equitable start", "θ_0 is in RE ∩ CE", lambda i: RE.holds(i) and CE.holds(i))
TIED = Assumption(
    "no noise", "the gradient is that of the loss, without noise", lambda i: not np.any(i.extra.get("noise", 0))
)


def _row(rule: MatrixRule) -> Claim:
    return Claim(
        id=f"barriers.optimizers.{rule.name}",
        title=rule.title,
        source=Source("2510.00304", "v1", "Remark 2.3", "an update rule that the paper does not speak of"),
        kind="ours",
        statement=rf"{rule.title} on the weights of each layer, started at a point of $RE \cap CE$ of a layered network, keeps "
        r"$\theta$ on $RE \cap CE$.",
        quantifier="for all",
        assumptions=(START, TIED),
        instances=layered_starts(),
        check=stays(rule),
        expected=Verdict.HOLDS,
        proof="The step commutes with permutations of units inside blocks, so it maps block-constant gradients and states to "
        "block-constant steps; these and the multiples of θ lie in the linear subspace RE ∩ CE.",
        without={START.name: _off_equitable(), TIED.name: layered_starts(noise=True, steps=1)},
        mutants=(
            Mutant("noise", "noise in the gradient does no harm", stays(rule), layered_starts(noise=True, steps=1)),
            Mutant("rates", "every row of the step may have a rate of its own", _one_rate_per_unit),
        ),
        certificates=(
            Certificate(
                "class of the step",
                "one step on classes of matrices, any sizes; then induction",
                Strength.SYMBOLIC,
                Scope.CLASS,
                lambda: prove_stays(rule),
            ),
        ),
        depends_on=("barriers.thm2.1.cloned.repaired",),
        cost=4,
    )


CLAIMS: tuple[Claim, ...] = tuple(_row(rule) for rule in RULES)
