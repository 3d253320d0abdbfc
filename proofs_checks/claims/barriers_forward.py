r"""Barriers, Theorem A.2 (v1) / A.1 (v2), item 1: which sums make the activations of a block equal.

Column sums (CE) do, on any DAG and for any partition; row sums (RE), as the first version prints, do not.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lop_theory.partition import UnitPartition, printed_quotient
from proofs_checks.claim import Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.barriers_cloning import (
    BARRIERS,
    BIREGULAR,
    CE,
    EQUAL_ADJOINTS,
    EQUAL_INPUTS,
    NO_INNER_EDGES,
    RE,
    SHARED_ACTIVATION,
    checker,
    leaves_manifold,
    unequal_activations,
    unequal_error_signals,
)
from proofs_checks.claims.barriers_graphs import block_networks, tangled_networks
from proofs_checks.claims.barriers_proofs import FORWARD
from proofs_checks.claims.barriers_trajectories import by_unit, exact_pass
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness

CHECK_FORWARD = checker(unequal_activations)


def _check_printed_base(instance: Instance) -> Evidence:
    """h(v) = h̃(block of v) in the base network with the printed weights (block sum / number of *sources*)."""
    partition: UnitPartition = instance.extra["partition"]
    dag, first = instance.dag, int(instance.dag.outputs[0])
    base_dag, weights = printed_quotient(dag, instance.theta, partition)
    heads = [int(block[0]) for block in partition.blocks]
    x = instance.x[:, [u for u in heads if u < dag.num_inputs]]
    y = instance.y[:, [u - first for u in heads if u >= first]]
    base = Instance(base_dag, weights, x, y)
    full, small = (by_unit(i.dag, exact_pass(i).h) for i in (instance, base))
    different = ((j, u, n) for j, u in enumerate(heads) for n in range(len(x)) if full[u][n] != small[j][n])
    found = next(different, None)
    if found is None:
        return Evidence(Verdict.HOLDS)
    j, u, n = found
    text = f"unit {u} has h = {full[u][n]}, its base unit {j} has {small[j][n]}"

    def document() -> dict[str, Any]:
        nets = {"net": network_document(instance), "base": network_document(base)}
        line = assertion(quantity("value", unit=u, sample=n), "!=", quantity("value", "base", unit=j, sample=n))
        return witness(text, nets, [line])

    return Evidence(Verdict.FAILS, note=text, witness=document)


FORWARD_V1 = Claim(
    id="barriers.thmA.2.forward.v1",
    title="RE alone gives equal activations (v1)",
    source=Source(BARRIERS, "v1", "Theorem A.2, item 1"),
    kind="theorem",
    statement=r"If in every block pair all sources have the same outgoing sum (RE), then $h$ is equal within blocks.",
    quantifier="for all",
    assumptions=(RE, SHARED_ACTIVATION, BIREGULAR, NO_INNER_EDGES, EQUAL_INPUTS, EQUAL_ADJOINTS),
    instances=block_networks(columns=False),
    check=CHECK_FORWARD,
    expected=Verdict.FAILS,
    proof="z_v adds up the *incoming* weights of v, and RE says nothing about them: rows and columns are exchanged.",
    mutants=(
        Mutant("RE for δ", "RE alone gives equal error signals", checker(unequal_error_signals)),
        Mutant(
            "RE and one step",
            "RE holds after a gradient step from RE",
            checker(leaves_manifold),
            block_networks(columns=False, steps=1),
        ),
    ),
)

FORWARD_V2 = Claim(
    id="barriers.thmA.2.forward.v2",
    title="CE gives equal activations (v2)",
    source=Source(BARRIERS, "v2", "Theorem A.1, item 1"),
    kind="theorem",
    statement=r"For any DAG and any partition with one activation per block and equal inputs within input blocks: if in "
    r"every block pair all targets have the same incoming sum (CE), then $h$ is equal within blocks, for every input. Edges "
    r"inside blocks and cycles between blocks are allowed.",
    quantifier="for all",
    assumptions=(CE, SHARED_ACTIVATION, EQUAL_INPUTS),
    instances=st.one_of(tangled_networks(), block_networks(rows=False), block_networks(rows=False, irregular=True)),
    check=CHECK_FORWARD,
    expected=Verdict.HOLDS,
    proof="Let h̃ solve z̃_j = Σ_i (column sum i→j) h̃_i for the units in topological order: by induction on v every earlier "
    "unit u has h_u = h̃(block of u) once any unit of its block is computed, and z_v depends on the block of v only.",
    without={
        "CE": tangled_networks(rows=True, columns=False),
        "shared activation": tangled_networks(mixed=True),
        "equal inputs": tangled_networks(unequal_inputs=True),
    },
    mutants=(
        Mutant(
            "CE for δ",
            "CE alone gives equal error signals",
            checker(unequal_error_signals),
            block_networks(rows=False),
        ),
        Mutant(
            "printed base",
            "h(v) = h̃(ṽ) with the printed base weights, block sums divided by the number of sources",
            _check_printed_base,
            block_networks(),
        ),
    ),
    certificates=(FORWARD,),
    repairs="barriers.thmA.2.forward.v1",
)

CLAIMS = (FORWARD_V1, FORWARD_V2)
