"""Instances of claims about networks, and the witness documents made of them.

An instance is a network with parameters, data and a loss, plus whatever the claim needs (a partition, planted units, an
update rule) in ``extra``. Parameters are float64 (each float is a dyadic rational, so an instance is always an exact
object) or ``fmpq``. A live network from a training run is an instance like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from lop_theory.activations import get_activation
from lop_theory.arithmetic import to_fmpq
from lop_theory.certified_rank import certified_rank
from lop_theory.dag import Dag
from lop_theory.exact import exact_hessian
from lop_theory.rank import exact_rank
from proofs_checks.claim import Witness

EXACT_RANK_LIMIT = 400  # beyond, Q-arithmetic on arbitrary floats grows too large: certify by residues instead


@dataclass(frozen=True, eq=False)
class Instance:
    """A network ``dag`` at ``theta`` [P] with data ``x`` [N, I], targets ``y`` and loss ``kind``; arrays are numpy."""

    dag: Dag
    theta: np.ndarray
    x: np.ndarray
    y: np.ndarray
    kind: str = "mse_sum"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        widths = [len(b) for b in self.dag.blocks if len(b)]
        lines = [
            f"blocks {widths}, activations {sorted(set(self.dag.activations))}, P = {self.dag.num_params}, loss {self.kind}"
        ]
        lines += [f"theta = {_plain(self.theta)}", f"x = {_plain(self.x)}", f"y = {_plain(self.y)}"]
        return "Instance(" + "; ".join([*lines, *(f"{k} = {v}" for k, v in self.extra.items())]) + ")"


def _plain(a: np.ndarray) -> str:
    return str(np.vectorize(number, otypes=[object])(a).tolist()).replace("'", "") if a.size else "[]"


def number(value: Any) -> str:
    """A number as the exact string "p" or "p/q" that witnesses use."""
    return str(to_fmpq(value))


class Rank(NamedTuple):
    """A proven interval for the rank of the Hessian, and how each side was proved."""

    lower: int
    upper: int
    reason: str


def is_rational(instance: Instance) -> bool:
    """Is the loss of this instance a rational function, so that its Hessian has exact entries?"""
    return instance.kind != "cross_entropy" and all(get_activation(n).is_exact for n in set(instance.dag.activations))


@lru_cache(maxsize=16)  # by identity: several claims ask for the rank of one live network
def hessian_rank(instance: Instance) -> Rank:
    """The rank of the Hessian: exact over Q where it is rational and small, else the certified interval."""
    if is_rational(instance) and instance.dag.num_params <= EXACT_RANK_LIMIT:
        rank = exact_rank(exact_hessian(instance.dag, instance.theta, instance.x, instance.y, instance.kind))
        return Rank(rank, rank, "rank over Q")
    theta, x = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (instance.theta, instance.x))
    y = torch.from_numpy(np.asarray(instance.y, dtype=np.int64 if instance.kind == "cross_entropy" else np.float64))
    return Rank(*certified_rank(instance.dag, theta, x, y, instance.kind))


# -- witnesses -------------------------------------------------------------------------------------------------------------


def network_document(
    instance: Instance, theta: Iterable[Any] | None = None, normalization: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The instance as the NETWORK part of a witness (see proofs_checks/recheck.py)."""
    dag = instance.dag
    fixed = dag.fixed or {}
    edges = [
        [int(u), int(v), int(p)] + ([number(fixed[e])] if p < 0 else [])
        for e, (u, v, p) in enumerate(zip(dag.source, dag.target, dag.param, strict=True))
    ]
    classes = instance.kind == "cross_entropy"
    document: dict[str, Any] = {
        "num_inputs": dag.num_inputs,
        "has_constant": dag.has_constant,
        "activation": [_activation_text(name) for name in dag.activations],
        "outputs": dag.outputs.tolist(),
        "edges": edges,
        "theta": [number(v) for v in (instance.theta if theta is None else theta)],
        "x": [[number(v) for v in row] for row in instance.x],
        "y": [int(v) for v in instance.y] if classes else [[number(v) for v in row] for row in instance.y],
        "loss": instance.kind,
    }
    if normalization:
        document["normalization"] = normalization
    return document


def _activation_text(name: str) -> str:
    if name.startswith("leaky_relu"):
        slope: Fraction = get_activation(name).slopes[0]
        return f"leaky_relu:{slope}"
    return name


def assertion(left: Any, op: str, right: Any) -> dict[str, Any]:
    """One line that the independent checker evaluates; ``left`` and ``right`` are quantities or exact numbers."""
    return {
        "left": left if isinstance(left, dict) else number(left),
        "op": op,
        "right": right if isinstance(right, dict) else number(right),
    }


def quantity(name: str, net: str = "net", **arguments: Any) -> dict[str, Any]:
    """A quantity that the independent checker computes by itself."""
    return {"quantity": name, "net": net, **arguments}


def witness(statement: str, networks: Mapping[str, dict[str, Any]], assertions: list[dict[str, Any]]) -> Witness:
    """A witness document; the engine adds the claim, role and variant."""
    return {"format": "lop-witness/1", "statement": statement, "networks": dict(networks), "assertions": assertions}
