"""Claims of the theory judged along a run: at the start of every ``claims_every``-th task, on the probe of the new task.

The network is that whose curvature is measured (:mod:`experiments.run_curvature`), the claims are the objects that ``lop verify``
checks, the judge is :mod:`experiments.live`. Float weights are dyadic rationals, so ranks, bounds and steps are exact. There is one
row per seed, task and claim (:mod:`experiments.run_claim_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

from experiments.live import CLONED_CLAIM, LIVE_CLAIMS, LiveVerdict, Network, judge_network
from experiments.run_claim_rows import Row
from lop_theory.activations import get_activation
from lop_theory.dag import Dag
from lop_theory.partition import UnitPartition
from proofs_checks.claim import Claim, Verdict

__all__ = ["RUN_CLAIMS", "copies", "judge_run"]

RUN_CLAIMS = (*LIVE_CLAIMS, CLONED_CLAIM)
"""Claims that judge the networks of a run, in the order of their rows."""

EXACT_PARAMS, SMOOTH_PARAMS = 3000, 300
"""Largest P for exact work: seconds per network with piecewise linear activations; smooth ones need balls."""


@cache
def run_claims() -> tuple[Claim, ...]:
    """The claims ``RUN_CLAIMS``; importing all claims takes a second, so that it is done when they are first needed."""
    from proofs_checks.claims import CLAIMS as KNOWN

    by_id = {claim.id: claim for claim in KNOWN}
    return tuple(by_id[name] for name in RUN_CLAIMS)


def judge_run(net: Network, seed: int, task: int, cloned: int = 1, claims: Sequence[Claim] | None = None) -> list[Row]:
    """The rows of one network of a run: one per claim, with ``surprising``; ``cloned``: copies of each hidden unit.

    A network that is too large for exact work gives rows that say so.

    >>> from experiments.run_curvature import LiveNet
    >>> import torch
    >>> from lop_theory.architectures import mlp
    >>> net = LiveNet(mlp([900, 4, 2]), torch.zeros(3614), torch.zeros(1, 900), torch.zeros(1, dtype=torch.long))
    >>> row = judge_run(net, seed=0, task=3)[0]
    >>> row["claim"], row["verdict"], row["applies"]
    ('spectral.dead-unit-bound', 'not run', 'P = 3614 > limit 3000')
    """
    claims = run_claims() if claims is None else claims
    limit = EXACT_PARAMS if all(get_activation(name).is_exact for name in set(net.dag.activations)) else SMOOTH_PARAMS
    if net.dag.num_params > limit:
        reason = f"P = {net.dag.num_params} > limit {limit}"
        found = tuple(LiveVerdict(c.id, task, Verdict.NOT_RUN.value, c.expected.value, applies=reason) for c in claims)
    else:
        found = judge_network(net, claims, task, partition=copies(net.dag, cloned))
    return [{"seed": seed, **asdict(v), "surprising": v.surprising} for v in found]


def copies(dag: Dag, cloned: int) -> UnitPartition | None:
    """The partition of a layered net into copies that stand side by side; None without clones.

    >>> from lop_theory.architectures import mlp
    >>> copies(mlp([1, 4, 1]), 2).blocks
    ((0,), (1,), (2, 3), (4, 5), (6,))
    """
    if cloned == 1:
        return None
    hidden = [int(u) for u in dag.hidden]
    return UnitPartition.of(dag, [hidden[k : k + cloned] for k in range(0, len(hidden), cloned)])
