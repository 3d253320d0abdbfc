"""The Hessian rank of a network with cloned units, as an exact formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import mlp
from lop_theory.clone_formula import ClonedRank, cloned_rank_formula
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
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
)

CLAIMS = (CLONES,)
