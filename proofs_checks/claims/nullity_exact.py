"""Beyond the papers: when the nullity book is exact. Kernels of the two parts of the Hessian, and one hidden layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import flint
import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.activations import get_activation
from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from lop_theory.dag import Dag
from lop_theory.exact import exact_gauss_newton, exact_residual_hessian
from lop_theory.gates import GatePattern, gate_pattern
from lop_theory.nullity import NullityBook
from lop_theory.rank import exact_rank
from proofs_checks.claim import (
    Assumption,
    Certificate,
    Claim,
    Evidence,
    Mutant,
    Scope,
    Source,
    Strength,
    Verdict,
    require,
)
from proofs_checks.claims.nullity_book import (
    DIRECTIONS,
    SOURCE,
    book,
    cloned_networks,
    found_groups,
    with_repeats,
)
from proofs_checks.instances import Instance, assertion, hessian_rank, network_document, quantity, witness
from proofs_checks.strategies import hidden_values, kill_units, mlp_instances

# -- networks of one hidden layer -------------------------------------------------------------------------------------------


def separated(instance: Instance) -> bool:
    """Are the features (s_n x_n, s_n, c_n) of the live gates, and the constant one, linearly independent over the samples?

    A gate that is open on the whole batch has the constant one in common with the bias of the outputs: this is counted once.
    """
    dag = instance.dag
    if _layers(instance) != 1:
        return True  # the features of later layers move: nothing is said about them
    gates = gate_pattern(dag, instance.theta, instance.x)
    static = rational_array(np.concatenate([instance.x, np.ones((len(instance.x), int(dag.has_constant)))], 1))
    lines = {tuple(_lines(gates, int(v))) for v in dag.hidden if not gates.flat[:, v].all()}
    if len(instance.x) < len(lines) * dag.num_inputs:
        return False
    parts, shared = [], 0
    for line in lines:
        slopes, intercepts = rational_array([[s for s, _ in line], [c for _, c in line]])
        parts.append(slopes[:, None] * static)
        parts += [intercepts[:, None]] if intercepts.any() else []
        shared += int(dag.has_constant and len(set(line)) == 1)
    features = np.concatenate([*parts, static[:, dag.num_inputs :]], 1)
    return shared < 2 and exact_rank(features) == features.shape[1] - shared


def _lines(gates: GatePattern, unit: int) -> list[tuple[Any, Any]]:
    """(slope, intercept) of a unit on every sample."""
    activation = get_activation(gates.dag.activation(unit))
    return [(activation.slopes[k], activation.intercepts[k]) for k in gates.piece[:, unit]]


def _layers(instance: Instance) -> int:
    """Number of hidden layers."""
    return int(instance.extra.get("layers", instance.dag.depth - 1))


@st.composite
def tripled_targets(draw: DrawFn) -> Instance:
    """No biases, y = 3 f: then H (w, V) = 0 by cancellation of its two terms, which no cause explains."""
    inputs, units, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    dag = mlp([inputs, units, outputs], bias=False)
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    while True:
        x = 2 * generator.integers(-9, 10, (8, inputs)) + 1.0
        theta = generator.choice([1.0, -1.0, 3.0], dag.num_params) * generator.choice([1.0, 1.0, 2.0], dag.num_params)
        instance = Instance(dag, theta, x, np.zeros((8, outputs)), extra={"residual": "tripled", "layers": 1})
        z = hidden_values(dag, theta, x)
        if (z[:, dag.hidden] != 0).all() and z[:, dag.outputs].any() and separated(instance):
            return replace(instance, y=3 * z[:, dag.outputs])


# -- kernels of Hessian, Gauss–Newton and residual part ----------------------------------------------------------------------


def _parts(instance: Instance) -> tuple[Any, Any]:
    arguments = instance.dag, instance.theta, instance.x, instance.y
    return exact_gauss_newton(*arguments), exact_residual_hessian(*arguments)


def check_kernel(instance: Instance) -> Evidence:
    """rank (K + t R) = rank [K; R] for some t of 1, …, P + 1; if for one, then for all but P of them."""
    gauss_newton, residual = _parts(instance)
    size = instance.dag.num_params
    both = exact_rank(flint.fmpq_mat(2 * size, size, gauss_newton.entries() + residual.entries()))
    ranks: list[int] = []
    for t in range(1, size + 2):
        ranks.append(exact_rank(gauss_newton + residual * t))
        if ranks[-1] == both:
            note = f"rank [K; R] = {both} = rank (K + t R) at t = {t}"
            return Evidence(Verdict.HOLDS, both, both, 0, note, vacuous=not any(residual.entries()))
    note = f"rank [K; R] = {both}, rank (K + t R) = {max(ranks)} for t = 1, …, {size + 1}"
    return Evidence(Verdict.FAILS, max(ranks), both, both - max(ranks), note)


def _rank_is(predict: Callable[[Any, Any], int]) -> Callable[[Instance], Evidence]:
    """rank H = ``predict`` (K, R) for the given targets."""

    def check(instance: Instance) -> Evidence:
        rank, predicted = hessian_rank(instance).lower, predict(*_parts(instance))
        note = f"rank {rank}, predicted {predicted}"
        differs = assertion(quantity("hessian_rank"), "!=", predicted)
        return Evidence(
            Verdict.HOLDS if rank == predicted else Verdict.FAILS,
            rank,
            predicted,
            None,
            note,
            lambda: witness(note, {"net": network_document(instance)}, [differs]),
        )

    return check


def _stacked(gauss_newton: Any, residual: Any) -> int:
    size = gauss_newton.ncols()
    return exact_rank(flint.fmpq_mat(2 * size, size, gauss_newton.entries() + residual.entries()))


def prove_kernel() -> str:
    """Rank of [[I + tP, tQ], [tQᵀ, tS]] for small t: I, then tS − t² Qᵀ(I + tP)⁻¹Q, in which S = 0 leaves −t² QᵀQ."""
    t = sympy.Symbol("t")
    n, m = sympy.symbols("n m", integer=True, positive=True)
    P, Q = sympy.MatrixSymbol("P", n, n), sympy.MatrixSymbol("Q", n, m)
    inverse = sympy.Inverse(sympy.Identity(n) + t * P)
    rest = inverse + t * P * inverse - sympy.Identity(n)  # (I + tP)⁻¹ = I − tP (I + tP)⁻¹
    require(((sympy.Identity(n) + t * P) * inverse).doit() == sympy.Identity(n), "the inverse")
    remainder = t**2 * Q.T * rest * Q
    expansion = -(t**2) * Q.T * inverse * Q + t**2 * Q.T * Q - t**3 * Q.T * P * inverse * Q
    require((remainder + expansion).expand().doit() == sympy.ZeroMatrix(m, m), "−t² QᵀXQ = −t² QᵀQ + t³ QᵀPXQ")
    return (
        "the Schur complement of I + tP is t S − t² QᵀQ + t³ QᵀP(I + tP)⁻¹Q: on a complement of ker S its rank is that of S, "
        "and on ker S it is −t² (QᵀQ + O(t)), definite off ker Q. So rank (K + t R) is P − dim (ker K ∩ ker R) for small "
        "t ≠ 0, which is the largest possible, hence for all but finitely many t"
    )


KERNEL = Claim(
    id="beyond.nullity-book.kernel",
    title="Generically the kernel of the Hessian is that of its two parts",
    source=Source("2509.22335", "v1", "Thm 6.2", "lemma of ours on the equality case"),
    kind="ours",
    statement=r"squared loss, any network off its kinks, any r: for targets $y = f − t r$ and all but finitely many t, "
    r"$\ker ∇^2 L = \ker K ∩ \ker R$, with K the Gauss–Newton part and tR the residual part",
    quantifier="for all",
    assumptions=(),
    instances=cloned_networks(("mse_sum",)),
    check=check_kernel,
    expected=Verdict.HOLDS,
    proof="K ≥ 0 does not depend on y, the residual part is linear in y. Write K = I ⊕ 0; for small t ≠ 0 the Schur complement "
    "t S − t² Qᵀ(I + tP)⁻¹Q has the rank of S plus that of Q on ker S. On ker S ∩ ker Q = ker K ∩ ker R all of K + tR vanishes.",
    mutants=(
        Mutant("every-t", "it holds for every t", _rank_is(_stacked), tripled_targets()),
        Mutant("gauss-newton", "the kernel is that of the Gauss–Newton part", _rank_is(lambda k, r: exact_rank(k))),
        Mutant("sum", "the ranks of the two parts add up", _rank_is(lambda k, r: exact_rank(k) + exact_rank(r))),
    ),
    certificates=(
        Certificate(
            "schur", "orders one and two of the Schur complement", Strength.SYMBOLIC, Scope.CLASS, prove_kernel
        ),
    ),
    cost=3.0,
)


# -- one hidden layer --------------------------------------------------------------------------------------------------------


Predict = Callable[[Instance, NullityBook], int]


def _predicts(predict: Predict) -> Callable[[Instance], Evidence]:
    """rank H = prediction for one of the drawn targets."""

    def check(instance: Instance) -> Evidence:
        first = None
        for y in instance.extra.get("labels", [instance.y]):
            evidence = _compare(replace(instance, y=y), predict)
            if evidence.verdict is Verdict.HOLDS:
                return evidence
            first = first or evidence
        assert first is not None
        return first

    return check


def _compare(instance: Instance, predict: Predict) -> Evidence:
    """A certified book proves rank ≤ its prediction, so a lower bound that meets it decides also where the interval is open."""
    rank, own = hessian_rank(instance), book(instance)
    predicted, upper = predict(instance, own), min(rank.upper, own.predicted_rank) if own.certified else rank.upper
    shown = rank.lower if rank.lower == upper else f"{rank.lower} … {upper}"
    note = f"rank {shown}, predicted {predicted}: {own}"
    if rank.lower == upper == predicted:
        return Evidence(Verdict.HOLDS, shown, predicted, 0, note, vacuous=not own.total)
    if rank.lower <= predicted <= upper:
        return Evidence(Verdict.UNDECIDED, shown, predicted, None, note)

    def document() -> dict[str, Any]:
        differs = assertion(quantity("hessian_rank"), "!=", predicted)
        return witness(note, {"net": network_document(instance)}, [differs])

    exact = instance.kind != "cross_entropy"
    return Evidence(Verdict.FAILS, shown, predicted, None, note, document if exact else None)


def _total(instance: Instance, own: NullityBook) -> int:
    return own.predicted_rank


check_exact = _predicts(_total)


def _forget(*names: str) -> Predict:
    return lambda instance, own: own.predicted_rank + sum(own[name] for name in names)


def _like_dead(instance: Instance, own: NullityBook) -> int:
    """Each copy costs its I + O + 1 parameters."""
    found = found_groups(instance)["clones"]
    cost = sum((len(g.units) - 1) * (g.incoming.shape[1] + len(g.targets)) for g in found)
    return own.predicted_rank + own["clones"] - cost


@st.composite
def planted(draw: DrawFn, kind: str, samples: str = "many") -> Instance:
    """One hidden layer with all causes at once: a dead unit, a constant one, copies of a unit, units with the same gates.

    Weights ±2, ±4, odd biases; the rest are live units whose gates are drawn again until their features are independent.
    ``labels`` are targets, drawn several times.
    """
    few = samples == "few"  # then with three outputs, where units of different gates can make up for one another
    inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(3 if few else 1 if kind == "mse_sum" else 2, 3))
    copies, live, alike = draw(st.integers(2, 3)), draw(st.integers(0, 1)), draw(st.integers(0, 1))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    dag = _layer(inputs, outputs, hidden=2 + copies + max(live, few) + alike)
    n = 2 if few else 2 * dag.num_params + 20
    roles = {"constant": 0, "dead": 1, "copies": range(2, 2 + copies), "alike": range(2 + copies, 2 + copies + alike)}
    while True:
        x = generator.integers(-60, 61, (n, inputs)).astype(np.float64)
        theta = _planted_theta(generator, dag, x, roles)
        instance = Instance(dag, theta, x, np.zeros((n, outputs)), kind, {"residual": "generic", "layers": 1})
        if few or separated(instance):
            break
    shape = (n,) if kind == "cross_entropy" else (n, outputs)
    noise = [generator.integers(-99, 100, shape) for _ in range(4)]
    labels = [y % outputs if kind == "cross_entropy" else y.astype(np.float64) for y in noise]
    return replace(instance, y=labels[0], extra={**instance.extra, "labels": labels})


def _layer(inputs: int, outputs: int, hidden: int) -> Dag:
    """One hidden layer of ReLU, the first unit hard_tanh."""
    net = mlp([inputs, hidden, outputs])
    return replace(net, activations=("hard_tanh", *net.activations[1:]))


def _planted_theta(generator: np.random.Generator, dag: Dag, x: np.ndarray, roles: dict[str, Any]) -> np.ndarray:
    theta = generator.choice([-4.0, -2.0, 2.0, 4.0], dag.num_params)
    incoming = [dag.param[dag.incoming(int(v))] for v in dag.hidden]
    biases = dag.param[(dag.source == dag.num_inputs) & np.isin(dag.target, dag.hidden)]
    theta[biases] = 2 * generator.integers(-40, 40, len(biases)) + 1
    for k in roles["copies"]:
        theta[incoming[k]] = theta[incoming[2]]
    for k in roles["alike"]:
        theta[incoming[k]] = 3 * theta[incoming[2]]
    theta[biases[roles["constant"]]] = 999.0
    return kill_units(dag, theta, x, [int(dag.hidden[roles["dead"]])])


@st.composite
def deep(draw: DrawFn) -> Instance:
    """Two hidden layers, small weights (zeros among them): nothing planted."""
    instance = draw(mlp_instances(st.sampled_from([[1, 2, 2, 1], [1, 2, 1, 1]]), samples=(8, 12), bound=1))
    return replace(instance, extra={"residual": "generic", "layers": 2})


_ONE_LAYER = Assumption("one-hidden-layer", "there is one hidden layer", lambda i: _layers(i) == 1)
_SEPARATED = Assumption("separated", "the features of different gates, and one, are linearly independent", separated)

EXACT = Claim(
    id="beyond.nullity",
    title="The Hessian rank is exactly P minus the null directions that have a name",
    source=SOURCE,
    kind="ours",
    statement=r"one hidden layer of piecewise linear units, squared loss: $rank ∇^2 L = P − total$ of the book (dead, silent, "
    r"constant, single, cloned and alike units, each direction once), for almost all targets",
    quantifier="for all",
    assumptions=(
        _ONE_LAYER,
        Assumption("residual", "the residuals are generic", lambda i: i.extra.get("residual", "generic") == "generic"),
        _SEPARATED,
    ),
    instances=planted("mse_sum"),
    check=check_exact,
    expected=Verdict.HOLDS,
    proof="For almost all targets ker ∇²L = ker K ∩ ker R (beyond.nullity-book.kernel). The features being independent, K u = 0 "
    "says that u leaves every M = V W as it is, up to the relations of the constant units with the bias, which the book has; "
    "R is linear in A = ∂L/∂M of each group, and R u = 0 says A bᵀ = 0 and Aᵀ a = 0. That is the book.",
    without={"one-hidden-layer": deep(), "residual": tripled_targets(), "separated": planted("mse_sum", "few")},
    mutants=(
        Mutant("like-dead", "a copy costs all its parameters, I + O + 1", _predicts(_like_dead)),
        Mutant("no-clones", "clones and alike units cost nothing", _predicts(_forget("clones", "same gates"))),
        Mutant("no-dead", "dead units are forgotten", _predicts(_forget("closed", "silent"))),
        Mutant("no-constant", "a constant unit costs its incoming weights only", _predicts(_forget("dependent"))),
        Mutant("repeats", "directions with several causes are counted several times", _predicts(with_repeats)),
    ),
    certificates=(*KERNEL.certificates, *DIRECTIONS.certificates),
    depends_on=("beyond.nullity-book.directions", "beyond.nullity-book.kernel", "clones.rank-formula"),
    cost=8.0,
)

SOFTMAX = Claim(
    id="beyond.nullity.softmax",
    title="The nullity book is exact for softmax cross-entropy",
    source=SOURCE,
    kind="ours",
    statement=r"one hidden layer of piecewise linear units, softmax cross-entropy: $rank ∇^2 L = P − total$ of the book, with the "
    r"softmax shift, for generic labels",
    quantifier="for all",
    assumptions=(_ONE_LAYER, _SEPARATED),
    instances=planted("cross_entropy"),
    check=check_exact,
    expected=Verdict.HOLDS,
    proof="For probabilities q = p − t r as labels the proof is that of squared loss: the Hessian at the logits, diag p − p pᵀ, "
    "is ≥ 0 with kernel 1, and does not depend on q. Labels that are classes are finitely many, so they may be exceptions: here "
    "is the evidence of instances, each with a proved rank (modulo a prime below, the certified book above).",
    mutants=(
        Mutant("no-shift", "the softmax shift is forgotten", _predicts(_forget("softmax shift"))),
        Mutant("no-clones", "clones and alike units cost nothing", _predicts(_forget("clones", "same gates"))),
        Mutant("like-dead", "a copy costs all its parameters, I + O + 1", _predicts(_like_dead)),
    ),
    depends_on=("beyond.nullity",),
    cost=6.0,
)

CLAIMS: Sequence[Claim] = (KERNEL, EXACT, SOFTMAX)
