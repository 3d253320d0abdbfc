r"""Barriers, cloned units: Theorem 2.1(2) and Theorem A.2 as printed, and the theorem that holds.

As printed, row and column equitable weights (RE, CE) on *any* DAG give equal activations, equal error signals, block
constant gradients, and invariance under gradient descent. All but the invariance survive on an edge set that is not
biregular; the invariance does not, because then a block-constant gradient has unequal row sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lop_theory.arithmetic import rational_array
from lop_theory.forward import KinkError
from lop_theory.partition import (
    block_pairs,
    column_equitable,
    row_equitable,
)
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.barriers_graphs import (
    SMOOTH,
    block_networks,
    equitable_subspace,
    redistributed_clones,
)
from proofs_checks.claims.barriers_proofs import BLOCK_ALGEBRA, CLONED_STEP
from proofs_checks.claims.barriers_trajectories import (
    LevelSet,
    by_unit,
    exact_error_signals,
    exact_gradient_at,
    exact_pass,
    training,
    trajectory,
)
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness

BARRIERS = "2510.00304"


class Break(NamedTuple):
    """A part of the cloning theorem that fails on an instance, and the line of a witness that shows it."""

    text: str
    line: dict[str, Any]


# -- the parts of the theorem ----------------------------------------------------------------------------------------


def _spread(instance: Instance, values: dict[int, np.ndarray], name: str, symbol: str) -> Break | None:
    """Two units of one block with different values."""
    for block in instance.extra["partition"].blocks:
        for u, v in pairwise(unit for unit in block if unit in values):
            for n in range(len(instance.x)):
                if values[u][n] != values[v][n]:
                    left, right = (quantity(name, unit=int(w), sample=n) for w in (u, v))
                    text = f"{symbol} of units {u} and {v} of one block differ: {values[u][n]} and {values[v][n]}"
                    return Break(text, assertion(left, "!=", right))
    return None


def unequal_activations(instance: Instance) -> Break | None:
    """Two units of one block with different h on a sample."""
    return _spread(instance, by_unit(instance.dag, exact_pass(instance).h), "value", "h")


def unequal_error_signals(instance: Instance) -> Break | None:
    """Two units of one block with different δ on a sample."""
    return _spread(instance, exact_error_signals(instance, exact_pass(instance)), "adjoint", "δ")


def uneven_gradient(instance: Instance) -> Break | None:
    """Two edges of one block pair with different gradients."""
    slopes = exact_gradient_at(instance, rational_array(instance.theta))
    for pair in block_pairs(instance.dag, instance.extra["partition"]):
        for i, j in pairwise(instance.dag.param[pair.edges].tolist()):
            if slopes[i] != slopes[j]:
                left, right = quantity("gradient", index=i), quantity("gradient", index=j)
                text = f"the gradient is not block constant: {slopes[i]} at θ{i}, {slopes[j]} at θ{j}"
                return Break(text, assertion(left, "!=", right))
    return None


def leaves_manifold(instance: Instance) -> Break | None:
    """A step after which θ is not in {RE, CE}."""
    manifold = LevelSet.affine(equitable_subspace(instance.dag, instance.extra["partition"]))
    for k, theta in enumerate(trajectory(instance)[1:], start=1):
        equation = manifold.broken(theta)
        if equation is not None:
            form = equation.as_quantity(len(theta), training(instance, k))
            text = f"after step {k} the equation {equation} is off by {equation.value(theta)}"
            return Break(text, assertion(form, "!=", equation.constant))
    return None


def leaves_leaf(instance: Instance) -> Break | None:
    """A step whose displacement from θ_0 is not block constant."""
    path = trajectory(instance)
    for k, theta in enumerate(path[1:], start=1):
        moved = theta - path[0]
        for pair in block_pairs(instance.dag, instance.extra["partition"]):
            for i, j in pairwise(instance.dag.param[pair.edges].tolist()):
                if moved[i] != moved[j]:
                    form = [fmpq(int(p == i) - int(p == j)) for p in range(len(theta))]
                    left = quantity("form_after", coefficients=[str(c) for c in form], **training(instance, k))
                    text = f"after step {k} θ{i} has moved by {moved[i]} and θ{j} by {moved[j]}"
                    return Break(text, assertion(left, "!=", path[0][i] - path[0][j]))
    return None


def checker(*parts: Callable[[Instance], Break | None]) -> Callable[[Instance], Evidence]:
    """A check that holds if no part breaks. Its witness lists the equations of RE and CE that hold at the start."""

    def check(instance: Instance) -> Evidence:
        try:
            broken = next((b for part in parts if (b := part(instance)) is not None), None)
        except KinkError as error:
            return Evidence(Verdict.UNDECIDED, note=str(error))
        if broken is None:
            return Evidence(Verdict.HOLDS)
        text, line = broken

        def document() -> dict[str, Any]:
            return witness(text, {"net": network_document(instance)}, [*equations_at_start(instance), line])

        return Evidence(Verdict.FAILS, note=text, witness=document)

    return check


def equations_at_start(instance: Instance) -> list[dict[str, Any]]:
    """Witness lines for the equations of RE and CE that hold at θ_0."""
    theta = rational_array(instance.theta)
    manifold = LevelSet.affine(equitable_subspace(instance.dag, instance.extra["partition"]))
    start = training(instance, 0)
    return [
        assertion(e.as_quantity(len(theta), start), "==", e.constant) for e in manifold.equations if e.value(theta) == 0
    ]


CHECK_CLONING = checker(unequal_activations, unequal_error_signals, uneven_gradient, leaves_manifold, leaves_leaf)


# -- assumptions -----------------------------------------------------------------------------------------------------


def _shared_activation(instance: Instance) -> bool:
    dag = instance.dag
    return all(
        len({dag.activation(u) for u in block}) <= 1
        for block in instance.extra["partition"].blocks
        if block[0] >= dag.first_computed
    )


def _no_inner_edge(instance: Instance) -> bool:
    return all(pair.source != pair.target for pair in block_pairs(instance.dag, instance.extra["partition"]))


def _biregular_between(instance: Instance) -> bool:
    """Biregularity of the pairs of *different* blocks."""
    dag, partition = instance.dag, instance.extra["partition"]
    for pair in block_pairs(dag, partition):
        if pair.source != pair.target:
            for ends, block in ((dag.source, pair.source), (dag.target, pair.target)):
                degrees = np.bincount(partition.place_of[ends[pair.edges]], minlength=partition.sizes[block])
                if degrees.min() != degrees.max():
                    return False
    return True


def _equal_columns(instance: Instance, values: np.ndarray, first: int, last: int) -> bool:
    """Are the columns of data equal for the units of each block in first … last − 1?"""
    return all(
        (values[:, u - first] == values[:, v - first]).all()
        for block in instance.extra["partition"].blocks
        if first <= block[0] < last
        for u, v in pairwise(block)
    )


def _equal_inputs(instance: Instance) -> bool:
    return _equal_columns(instance, instance.x, 0, instance.dag.num_inputs)


def _equal_adjoints(instance: Instance) -> bool:
    """Outputs of one block have equal targets (their values are equal by the theorem), and none is mixed with hidden units."""
    dag, first = instance.dag, int(instance.dag.outputs[0])
    unmixed = all(block[0] >= first or block[-1] < first for block in instance.extra["partition"].blocks)
    return unmixed and _equal_columns(instance, instance.y, first, dag.num_units)


def _row_equitable(instance: Instance) -> bool:
    return row_equitable(instance.dag, instance.theta, instance.extra["partition"])


def _column_equitable(instance: Instance) -> bool:
    return column_equitable(instance.dag, instance.theta, instance.extra["partition"])


SHARED_ACTIVATION = Assumption("shared activation", "C2: the units of a block have one activation", _shared_activation)
NO_INNER_EDGES = Assumption("no intra-block edges", "C3: no edge joins two units of one block", _no_inner_edge)
BIREGULAR = Assumption(
    "biregular",
    "C3: between two blocks, all sources have the same number of edges and so have all targets",
    _biregular_between,
)
EQUAL_INPUTS = Assumption("equal inputs", "C4: inputs of one block get equal data", _equal_inputs)
EQUAL_ADJOINTS = Assumption("equal output adjoints", "C4: outputs of one block have equal targets", _equal_adjoints)
RE = Assumption("RE", "C5: in each block pair all sources have the same outgoing sum", _row_equitable)
CE = Assumption("CE", "C5: in each block pair all targets have the same incoming sum", _column_equitable)


# -- mutants ---------------------------------------------------------------------------------------------------------


def _not_block_constant(instance: Instance) -> Break | None:
    """A pair whose weights differ after the last step."""
    steps = instance.extra["steps"]
    theta = trajectory(instance)[-1]
    for pair in block_pairs(instance.dag, instance.extra["partition"]):
        for i, j in pairwise(instance.dag.param[pair.edges].tolist()):
            if theta[i] != theta[j]:
                left, right = (quantity("param_after", index=k, **training(instance, steps)) for k in (i, j))
                return Break(
                    f"θ{i} = {theta[i]} and θ{j} = {theta[j]} after {steps} steps", assertion(left, "!=", right)
                )
    return None


@st.composite
def _untied_momentum(draw: st.DrawFn) -> Instance:
    """A buffer that is 1 on one edge of a pair and 0 elsewhere."""
    instance = draw(_REGULAR)
    velocity = [0] * instance.dag.num_params
    velocity[draw(st.integers(0, instance.dag.num_params - 1))] = 1
    return replace(instance, extra={**instance.extra, "momentum": fmpq(1, 2), "velocity": velocity})


def _with_decay(instance: Instance) -> Instance:
    return replace(instance, extra={**instance.extra, "weight_decay": fmpq(1, 2)})


# -- claims ----------------------------------------------------------------------------------------------------------

_REGULAR = block_networks()
_ANY_REGULAR: SearchStrategy[Instance] = st.one_of(
    _REGULAR, block_networks(activations=(*SMOOTH, "relu")), redistributed_clones()
)

CLONED_AS_PRINTED = Claim(
    id="barriers.thm2.1.cloned",
    title="Cloned units on any DAG, as printed",
    source=Source(BARRIERS, "v1", "Theorem 2.1(2), Theorem A.2"),
    kind="theorem",
    statement=r"For a partition of the units of a DAG with equitable weights (for every ordered pair of blocks equal row "
    r"sums and equal column sums): $h$ and $\delta$ are equal within blocks, the gradient is constant on each block pair, "
    r"and gradient descent stays on $M_C$.",
    quantifier="for all",
    assumptions=(RE, CE, SHARED_ACTIVATION, NO_INNER_EDGES, EQUAL_INPUTS, EQUAL_ADJOINTS),
    instances=block_networks(irregular=True),
    check=CHECK_CLONING,
    expected=Verdict.FAILS,
    proof="A gradient that is constant on the edges of a pair has equal row sums only if all sources have the same number "
    "of edges into the target block. Otherwise one step makes them unequal. The instances also satisfy what only the second "
    "version or only the proof says: shared activations, no edge inside a block, inputs and outputs equal in blocks.",
    mutants=(
        Mutant(
            "inner-edges",
            "with complete pairs of different blocks, edges inside a block do no harm",
            CHECK_CLONING,
            block_networks(inner=True),
        ),
        Mutant(
            "one-step",
            "the manifold survives one step at least, on any DAG",
            checker(leaves_manifold),
            block_networks(irregular=True, steps=1),
        ),
    ),
)

CLONED_REPAIRED = Claim(
    id="barriers.thm2.1.cloned.repaired",
    title="Cloned units stay cloned",
    source=Source(
        BARRIERS, "v1", "Theorem 2.1(2), repaired", "ours: the conditions C2, C3, C4 are not in the statement"
    ),
    kind="theorem",
    statement=r"C1 a DAG with one free weight per edge and a partition; C2 one activation per block; C3 every ordered pair "
    r"of blocks has an empty or biregular edge set (none inside a block); C4 equal inputs in input blocks and equal adjoints "
    r"in output blocks; C5 RE and CE. Then $h$ and $\delta$ are equal within blocks, the gradient is block constant, and "
    r"$\theta - \eta\nabla L$ stays in $M_C$ and in the leaf $\theta + BC$, for every $\eta$ and every data set.",
    quantifier="for all",
    assumptions=(SHARED_ACTIVATION, BIREGULAR, NO_INNER_EDGES, EQUAL_INPUTS, EQUAL_ADJOINTS, RE, CE),
    instances=_ANY_REGULAR,
    check=CHECK_CLONING,
    expected=Verdict.HOLDS,
    proof="Forward in topological order of the blocks: z_v = Σ_i (column sum of pair i→j) h_i, the same for all v of a block. "
    "Backward: δ_u = f'(z_u) Σ_j (row sum of pair i→j) δ_j. So ∂L/∂w_uv = δ_v h_u depends on the blocks only, and a multiple "
    "of the 0/1 matrix of a biregular edge set has equal row and equal column sums.",
    without={
        "shared activation": block_networks(mixed=True),
        "biregular": block_networks(irregular=True),
        "no intra-block edges": block_networks(inner=True),
        "equal inputs": block_networks(unequal_inputs=True),
        "equal output adjoints": block_networks(unequal_outputs=True),
        "RE": block_networks(rows=False),
        "CE": block_networks(columns=False),
    },
    mutants=(
        Mutant("identical weights", "the weights of a pair become or stay equal", checker(_not_block_constant)),
        Mutant(
            "leaf under decay",
            "weight decay keeps θ in the leaf θ_0 + BC",
            checker(leaves_leaf),
            _REGULAR.map(_with_decay),
        ),
        Mutant(
            "untied buffers",
            "momentum buffers at cloning may be arbitrary",
            checker(leaves_manifold),
            _untied_momentum(),
        ),
    ),
    certificates=(BLOCK_ALGEBRA, CLONED_STEP),
    depends_on=("barriers.def2.1", "barriers.thmA.2.forward.v2"),
    repairs="barriers.thm2.1.cloned",
)

CLAIMS = (CLONED_AS_PRINTED, CLONED_REPAIRED)
