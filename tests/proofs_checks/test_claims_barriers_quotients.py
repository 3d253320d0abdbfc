"""The helpers of the claims on base networks and on stability against the library and brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lop_theory.manifolds import AffineSubspace
from lop_theory.partition import lumped_rates, quotient
from proofs_checks.claims.barriers_quotients import (
    base_instance,
    cloned_networks,
    lumped_factors,
    pair_dimension,
    targets,
)
from proofs_checks.claims.barriers_stability import cloned_complete, manifold_of, outgoing_differences
from proofs_checks.claims.barriers_trajectories import exact_pass
from proofs_checks.instances import Instance

FEW = settings(max_examples=30, deadline=None)


@FEW
@given(cloned_networks())
def test_base_network_is_the_quotient(instance: Instance) -> None:
    dag, theta = quotient(instance.dag, instance.theta, instance.extra["partition"])
    base = base_instance(instance, targets)
    assert base.theta.tolist() == theta.tolist()
    assert (base.dag.source == dag.source).all() and (base.dag.target == dag.target).all()
    assert base.dag.activations == dag.activations and (base.dag.outputs == dag.outputs).all()


@FEW
@given(cloned_networks())
def test_lumped_factors_are_those_of_the_library(instance: Instance) -> None:
    rates = lumped_rates(instance.dag, instance.extra["partition"])
    assert [str(f) for f in lumped_factors(instance)] == [str(r) for r in rates]


@FEW
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_pair_dimension_of_copies_of_complete_pairs(copies: int, m: int, n: int) -> None:
    """``copies`` disjoint complete m × n pairs form one biregular pair: the equations are solved by brute force."""
    edges = [(c * m + i, c * n + j) for c in range(copies) for i in range(m) for j in range(n)]
    equations = []
    for side in (0, 1):
        sums = [{k: 1 for k, e in enumerate(edges) if e[side] == unit} for unit in range(copies * (n if side else m))]
        equations += [({**sums[0], **dict.fromkeys(other, -1)}, 0) for other in sums[1:]]
    observed = AffineSubspace.from_equations(len(edges), equations).dim
    assert pair_dimension(edges, copies * m, copies * n) == observed


@FEW
@given(cloned_complete())
def test_outgoing_differences_are_normal_and_flat(instance: Instance) -> None:
    """They are in the normal space, and a large move along them does not change the outputs."""
    manifold, moves = manifold_of(instance), outgoing_differences(instance)
    assert moves
    total = np.sum([(k + 2) * d for k, d in enumerate(moves)], axis=0)
    assert (manifold.normal_part(total) == total).all()
    assert (exact_pass(instance).output == exact_pass(instance, instance.theta + total).output).all()
