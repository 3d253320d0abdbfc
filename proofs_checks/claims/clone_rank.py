"""The Hessian rank of a network with cloned units, as an exact formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import mlp
from lop_theory.clone_formula import ClonedRank, cloned_rank_formula
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.spectral_rank import touching
from proofs_checks.instances import Instance, Rank, assertion, hessian_rank, network_document, quantity, witness
from proofs_checks.strategies import integers_array, odd_biases, widths


def check_clone_formula(instance: Instance) -> Evidence:
    """rank H (cloned) = rank H (reduced) + rank K, exactly."""
    rank = hessian_rank(instance)
    try:
        predicted = formula(instance).total
    except ValueError:  # the out-weights are not collinear: the printed product form is evaluated on the reduced net
        predicted = formula(_collinear(instance)).total
    return _equal(rank, predicted, "formula", instance)


def formula(instance: Instance) -> ClonedRank:
    """Both sides of the rank formula, for the class of copies that the instance names."""
    return cloned_rank_formula(
        instance.dag, instance.theta, instance.x, instance.y, instance.kind, [instance.extra["class"]]
    )


def _collinear(instance: Instance) -> Instance:
    """The same network with the whole sum of the copies' out-weights given to the first."""
    dag, theta = instance.dag, np.array(instance.theta, dtype=object)
    members = list(instance.extra["class"])
    for v in np.unique(dag.target[np.isin(dag.source, members)]):
        edges = [int(np.flatnonzero((dag.source == u) & (dag.target == v))[0]) for u in members]
        share = sum(int(theta[dag.param[e]]) for e in edges)
        theta[dag.param[edges]] = [share, *[0] * (len(edges) - 1)]
    return replace(instance, theta=theta)


def _equal(rank: Rank, predicted: int, text: str, instance: Instance) -> Evidence:
    note = f"rank {rank.lower}, {text} {predicted}, P = {instance.dag.num_params}"
    verdict = Verdict.HOLDS if rank.lower == predicted == rank.upper else Verdict.FAILS
    differs = assertion(quantity("hessian_rank"), "!=", predicted)
    return Evidence(
        verdict,
        rank.lower,
        predicted,
        predicted - rank.lower,
        note,
        lambda: witness(note, {"net": network_document(instance)}, [differs]),
    )


def _always_full_cost(instance: Instance) -> Evidence:
    """Clones cost I + O + 1 each, like dead units."""
    members = instance.extra["class"]
    dag = instance.dag
    cost = touching(dag, [members[0]])
    predicted = formula(instance).reduced
    return _equal(
        hessian_rank(instance), predicted, f"reduced rank (each copy costs all its {cost} parameters)", instance
    )


def _free_clones(instance: Instance) -> Evidence:
    """Clones cost nothing: every added parameter adds one to the rank."""
    members = instance.extra["class"]
    added = (len(members) - 1) * touching(instance.dag, [members[0]])
    return _equal(
        hessian_rank(instance), formula(instance).reduced + added, "reduced rank + all added parameters", instance
    )


@st.composite
def _cloned(draw: DrawFn, activations: Sequence[str] = ("square", "relu", "cube")) -> Instance:
    """A net of one or two hidden layers, m equal units in the first, out-weights λ_i V with Σ λ_i = 1."""
    activation = draw(st.sampled_from(list(activations)))
    dims = draw(widths((1, 2), 3, max_inputs=2))
    copies = draw(st.integers(2, 3))
    dims[1] += copies - 1
    dag = mlp(dims, activation)
    n = draw(st.integers(1, 6))
    theta = odd_biases(dag, integers_array(draw, (dag.num_params,), 2))
    x, y = integers_array(draw, (n, dims[0]), 3), integers_array(draw, (n, dims[-1]), 5)
    members = dag.blocks[2].units[:copies]
    shares = [draw(st.integers(-2, 2)) for _ in range(copies - 1)]
    shares.append(1 - sum(shares))
    for u in members:
        for e in dag.incoming(u):
            twin = np.flatnonzero((dag.target == members[0]) & (dag.source == dag.source[e]))[0]
            theta[dag.param[e]] = theta[dag.param[twin]]
    values = {int(dag.target[e]): theta[dag.param[e]] for e in dag.outgoing(members[0])}
    for u, share in zip(members, shares, strict=True):
        for e in dag.outgoing(u):
            theta[dag.param[e]] = share * values[int(dag.target[e])]
    return Instance(dag, theta, x, y, extra={"class": tuple(int(u) for u in members)})


@st.composite
def _not_collinear(draw: DrawFn) -> Instance:
    """Two inputs, two equal ReLU units, out-weights (2, 0) and (0, 2): the formula would predict one null direction more."""
    dag = mlp([2, 2, 2])
    n = draw(st.integers(2, 8))
    theta = odd_biases(dag, integers_array(draw, (dag.num_params,), 2))
    theta[2:4], theta[5] = theta[:2], theta[4]  # equal incoming weights and bias
    theta[6:10] = [2, 0, 0, 2]  # [output, copy]
    x, y = integers_array(draw, (n, 2), 4), integers_array(draw, (n, 2), 8)
    return Instance(dag, theta, x, y, extra={"class": tuple(int(u) for u in dag.hidden)})


def _is_collinear(instance: Instance) -> bool:
    try:
        formula(instance)
    except ValueError:
        return False
    return True


def prove_split() -> str:
    """Σ_i (λ_i V + dv_i) φ(z + dz + β_i) to second order, dv_i = λ_i s + a_i, with Σ λ_i = 1, Σ λ_i β_i = 0, Σ a_i = 0.

    The summand is a polynomial in λ_i, a_i, β_i; its coefficients are the same for all copies, so the sum over any number m of
    copies replaces each of the few monomials that occur by its sum.
    """
    weight, a, beta, order = sympy.symbols("lambda a beta t")
    v, s, dz, f0, f1, f2 = sympy.symbols("V s dz phi phi1 phi2")
    first, second = sympy.symbols("S_ab S_lbb")  # Σ a_i β_i and Σ λ_i β_i²

    def value(step: sympy.Expr) -> sympy.Expr:
        return f0 + order * f1 * step + order**2 * f2 * step**2 / 2

    def second_order(expression: sympy.Expr) -> sympy.Expr:
        return sum(sympy.expand(expression).coeff(order, k) * order**k for k in range(3))

    summand = second_order((weight * v + order * (weight * s + a)) * value(dz + beta))
    sums = {(1, 0, 0): 1, (0, 1, 0): 0, (1, 0, 1): 0, (0, 1, 1): first, (1, 0, 2): second}
    total = sum(c * sums[powers] for powers, c in sympy.Poly(summand, weight, a, beta).terms())
    one_unit = second_order((v + order * s) * value(dz))
    extra = sympy.expand(total - one_unit - order**2 * (f1 * first + v * f2 * second / 2))
    if extra != 0:
        raise AssertionError(f"the symbolic proof breaks: {extra} is left over")
    return (
        "what m copies add to a unit they feed is, to second order, what one unit with (V + s, z + dz) adds, plus "
        "φ' Σ a_i β_i + ½ V φ'' Σ λ_i β_i², for every m: in the coordinates (dw, s; a, b) the Hessian is H_reduced ⊕ K, and a "
        "change of coordinates keeps the rank. T = EᵀF is non-singular (Σ λ_i = 1), so φ'' = 0 gives 2 (m − 1) rank A"
    )


CLONES = Claim(
    id="clones.rank-formula",
    title="The Hessian rank of a network with cloned units",
    source=Source("2510.00304", "v2", "§2 cloned units", "rank formula ours"),
    kind="ours",
    statement=r"m copies of a unit, out-weights λ_i V, Σ λ_i = 1: rank(∇²L) = rank(∇²L_{reduced}) + rank [[0, T⊗A], [·, U⊗B]]; "
    r"for ReLU rank(∇²L_{reduced}) + 2(m − 1) rank A, with A = \sum_n δ_n φ'_n h_n^T",
    quantifier="for all",
    assumptions=(Assumption("collinear", "the out-weights of the copies are multiples of one vector", _is_collinear),),
    instances=_cloned(),
    check=check_clone_formula,
    expected=Verdict.HOLDS,
    proof="In the coordinates mean and deviation of the copies the Hessian splits into the reduced one and the form K "
    "of the deviations.",
    without={"collinear": _not_collinear()},
    mutants=(
        Mutant("like-dead", "each copy costs I + O + 1, like a dead unit", _always_full_cost),
        Mutant("free", "copies cost no rank at all", _free_clones),
    ),
    certificates=(
        Certificate("split", "second order, any number of copies", Strength.SYMBOLIC, Scope.CLASS, prove_split),
    ),
)

CLAIMS = (CLONES,)
