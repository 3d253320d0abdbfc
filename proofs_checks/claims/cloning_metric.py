r"""Barriers, the cloning R²: what the published aggregation logs for a perfect clone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from lop_theory.cloning_r2 import aggregate_clone_r2, clone_r2, published_clone_r2
from lop_theory.modules import observe
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims import module_classes as classes
from proofs_checks.claims import module_proofs as proofs
from proofs_checks.claims import module_strategies as nets
from proofs_checks.claims.module_cases import ModuleInstance, equal_clones, judged, largest_spread, loss_of
from proofs_checks.claims.module_networks import lower
from proofs_checks.instances import assertion, quantity, witness

_PAPER = "2510.00304"
_EPS = 1e-9


def _layer_values(instance: ModuleInstance, form: str = "std") -> tuple[list[float], list[float]]:
    """Cloning R² of h and of ∂L/∂h, for the layers of the clone."""
    seen = observe(instance.wide, instance.partition, instance.wide_x, loss_of(instance))
    layers = [found for found in seen.values() if not found.profile.is_trivial]
    forward = [clone_r2(found.outputs, found.profile, form) for found in layers]
    return forward, [clone_r2(found.errors, found.profile, form) for found in layers]


def _published_is_one(instance: ModuleInstance) -> Evidence:
    """Is the number that the published code logs 1, for clones that are equal on every sample?"""
    found = largest_spread(instance, instance.wide, instance.seed)
    if found.size > _EPS * found.scale:
        return Evidence(Verdict.UNDECIDED, note=f"not a perfect clone: {found} {found.size}")
    forward, backward = _layer_values(instance)
    logged = published_clone_r2(forward, backward)
    text = f"a perfect clone with {len(forward)} layers logs {logged:.6f}, not 1"
    return replace(judged(abs(1 - logged), 1.0, text, lambda: _perfect_clone(instance, len(forward))), note=text)


def _perfect_clone(instance: ModuleInstance, layers: int) -> dict[str, Any]:
    """Equal h and equal error signals in all blocks, and the arithmetic of the logged mean."""
    network = lower(instance.wide, instance.wide_x)
    lines = []
    for path, at in instance.partition.items():
        for block in range(at.outgoing.base_width):
            members = [int(network.units[path][u]) for u, j in enumerate(at.outgoing.of) if j == block]
            for u, v in pairwise(members):
                for name in ("value", "adjoint"):
                    for n in range(len(instance.x)):
                        sides = (quantity(name, unit=w, sample=n) for w in (u, v))
                        lines.append(assertion(next(sides), "==", next(sides)))
    entries = ["1"] * (2 * layers) + ["1/2"]  # R² of every layer and direction, and Σ_forward / (2 L)
    logged = {"product": [{"sum": entries}, f"1/{2 * layers + 1}"]}
    statement = (
        f"all clones agree on every sample, so every R² is 1; the logged mean of {2 * layers} ones and 1/2 is below 1"
    )
    document = network.document(instance.wide_x, instance.y)
    return witness(statement, {"net": document}, [*lines, assertion(logged, "<", 1)])


def _aggregate_is_one(form: str, minimum: bool = False) -> Any:
    def check(instance: ModuleInstance) -> Evidence:
        forward, backward = _layer_values(instance, form)
        value = min(forward + backward) if minimum else aggregate_clone_r2(forward, backward)
        return judged(abs(1 - value), 1.0, f"the mean over layers and directions ({form} form) is {value:.6f}")

    return check


PERFECT = Assumption(
    "perfect clone",
    "h and ∂L/∂h are equal in every block, on every sample",
    lambda i: equal_clones(i).verdict is Verdict.HOLDS,
)

CLONING_R2 = Claim(
    id="barriers.cloning-r2",
    title="A perfect clone logs a cloning R² of 1, as published",
    source=Source(_PAPER, "v1", "Fig. 2.1, App. B", "the number logged by the authors' code"),
    kind="definition",
    statement=r"\text{For a perfect clone the logged mean over layers and directions of } R^2 \text{ is } 1.",
    quantifier="for all",
    assumptions=(PERFECT,),
    instances=nets.perfect_clones(),
    check=_published_is_one,
    expected=Verdict.FAILS,
    proof="The table that is averaged also holds the entry Σ_forward/(2 L) = 1/2: a perfect clone logs (2 L + 1/2)/(2 L + 1), "
    "which is 0.985 for 16 layers.",
    certificates=(proofs.AGGREGATE,),
    mutants=(
        Mutant(
            "nearly",
            "it logs at least 0.99",
            lambda i: judged(
                max(0.0, 0.99 - published_clone_r2(*_layer_values(i))), 1.0, "the logged number is below 0.99 by"
            ),
        ),
        Mutant(
            "forward",
            "the mean of the forward values and the extra entry is 1",
            lambda i: judged(abs(1 - published_clone_r2(_layer_values(i)[0], _layer_values(i)[0])), 1.0, "1 − logged"),
        ),
    ),
    cost=2,
)

CLONING_R2_REPAIRED = Claim(
    id="barriers.cloning-r2.repaired",
    title="The mean over layers and directions alone is 1 for a perfect clone",
    source=Source(_PAPER, "v1", "Fig. 2.1, App. B", "the aggregation that the text describes"),
    kind="definition",
    statement=r"R^2 = 1 - \sum_b\sum_{u\in b}\|h_u - \bar h_b\|^2 / \sum_u\|h_u - \bar h\|^2 = 1 \text{ for a perfect clone; so "
    r"is the std form, and their mean over layers and directions.}",
    quantifier="for all",
    assumptions=(PERFECT,),
    instances=nets.perfect_clones(),
    check=lambda i: max(
        (_aggregate_is_one(form)(i) for form in ("variance", "std")),
        key=lambda e: (e.verdict is Verdict.FAILS, e.observed),
    ),
    expected=Verdict.HOLDS,
    proof="Every deviation from the block mean is 0, so every layer has R² = 1 (its denominator is not 0), and so has the mean.",
    without={"perfect clone": nets.imperfect_clones()},
    mutants=(
        Mutant(
            "imperfect",
            "it is 1 for clones that differ in one bias",
            _aggregate_is_one("variance"),
            nets.imperfect_clones(),
        ),
        Mutant("imperfect std", "… in the std form", _aggregate_is_one("std", minimum=True), nets.imperfect_clones()),
    ),
    repairs="barriers.cloning-r2",
    cost=2,
    certificates=(classes.R2,),
)


CLAIMS = (CLONING_R2, CLONING_R2_REPAIRED)
