"""When the dead-unit bound is an equality: residuals, samples, gates and the loss decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory import bounds
from lop_theory.architectures import mlp
from lop_theory.dag import Dag
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.spectral_rank import SPECTRAL, compare
from proofs_checks.instances import Instance, assertion, hessian_rank, network_document, quantity, witness
from proofs_checks.strategies import hidden_values, kill_units, mlp_instances, widths


def check_attained(instance: Instance) -> Evidence:
    """Equality rank = P − k(I+O+1) on one of the drawn parameter vectors: it then holds for almost all."""
    dag = instance.dag
    best = None
    for theta in instance.extra["attempts"]:
        trial = replace(instance, theta=theta, y=instance.extra["targets"](theta))
        rank = hessian_rank(trial)
        bound = bounds.dead_unit_bound(dag, theta, trial.x)
        if rank.lower == bound:
            return Evidence(Verdict.HOLDS, rank.lower, bound, 0, f"rank = {bound}")
        best = best or (trial, rank, bound)
    assert best is not None
    trial, rank, bound = best
    note = (
        f"rank at most {rank.upper} < P − k(I+O+1) = {bound} on all {len(instance.extra['attempts'])} parameter vectors"
    )
    if rank.upper >= bound:
        return Evidence(Verdict.UNDECIDED, rank.upper, bound, None, note)

    def document() -> dict[str, Any]:
        below = assertion(quantity("hessian_rank"), "<", quantity("dead_unit_bound"))
        return witness(note, {"net": network_document(trial)}, [below])

    exact = instance.kind != "cross_entropy"
    return Evidence(Verdict.FAILS, rank.upper, bound, bound - rank.upper, note, document if exact else None)


def distinct_gates(dag: Dag, theta: np.ndarray, x: np.ndarray) -> bool:
    """Are live units open on different sets of samples, each on more than I samples and not on all?"""
    is_open = hidden_values(dag, theta, x)[:, dag.hidden] > 0
    live = [column for column in is_open.T if column.any()]
    different = len({column.tobytes() for column in live}) == len(live)
    return different and all(dag.num_inputs < column.sum() < len(x) for column in live)


def _generic_theta(
    generator: np.random.Generator, dag: Dag, x: np.ndarray, dead: Sequence[int], same_gates: bool
) -> np.ndarray:
    """Weights ±2, ±4, odd biases up to 79: kinks spread over the data. Drawn again until the gates are as wanted."""
    biases = dag.param[(dag.source == dag.num_inputs) & np.isin(dag.target, dag.hidden)]
    while True:
        theta = generator.choice([-4.0, -2.0, 2.0, 4.0], dag.num_params)
        theta[biases] = 2 * generator.integers(-40, 40, len(biases)) + 1
        if same_gates:  # the last unit is three times the first in w and b: open on the same samples
            first, last = int(dag.hidden[-2]), int(dag.hidden[-1])
            theta[dag.param[dag.incoming(last)]] = 3 * theta[dag.param[dag.incoming(first)]]
        theta = kill_units(dag, theta, x, dead)
        if same_gates or distinct_gates(dag, theta, x):
            return theta


@st.composite
def generic_layer(
    draw: DrawFn,
    residual: str = "generic",
    samples: str = "many",
    kind: str = "mse_sum",
    same_gates: bool = False,
    width: tuple[int, int] = (1, 4),
    dead_units: tuple[int, int] = (0, 4),
) -> Instance:
    """One hidden layer, some dead units; ``attempts`` are parameter vectors with the same dead units and distinct gates."""
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    units = draw(st.integers(max(width[0], 2 if same_gates else 1), width[1]))
    dag = mlp([inputs, units, 2 if kind == "cross_entropy" else outputs])
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    n = 12 * (dag.num_params + 1)
    x = generator.integers(-60, 61, (n, inputs)).astype(np.float64)
    alive = 2 if same_gates else 1
    dead = [int(v) for v in dag.hidden[: draw(st.integers(dead_units[0], min(dead_units[1], units - alive)))]]
    attempts = [_generic_theta(generator, dag, x, dead, same_gates) for _ in range(4)]
    if samples == "one":
        x, n = x[:1], 1
        attempts = [kill_units(dag, theta, x, dead) for theta in attempts]
    noise = generator.integers(-99, 100, (n, dag.num_outputs)).astype(np.float64)

    def targets(theta: np.ndarray) -> np.ndarray:
        if kind == "cross_entropy":
            return (np.abs(noise[:, 0]).astype(np.int64)) % 2
        z = hidden_values(dag, theta, x)
        return z[:, dag.outputs] if residual == "zero" else noise

    extra = {
        "attempts": attempts,
        "targets": targets,
        "residual": residual,
        "samples": samples,
        "same_gates": same_gates,
    }
    return Instance(dag, attempts[0], x, targets(attempts[0]), kind, extra)


def _attained_everywhere_but(shift: int) -> Any:
    def check(instance: Instance) -> Evidence:
        rank = hessian_rank(instance)
        bound = bounds.dead_unit_bound(instance.dag, instance.theta, instance.x) + shift
        return compare(rank, bound, f"printed bound {shift:+d} =", instance)

    return check


def _attained_by_depth(instance: Instance) -> Evidence:
    """Equality in every net of two hidden layers: refuted by connections that no sample uses."""
    rank = hessian_rank(instance)
    bound = bounds.dead_unit_bound_corrected(instance.dag, instance.theta, instance.x)
    note = f"rank {rank.upper} < corrected bound {bound}"
    below = assertion(quantity("hessian_rank"), "<", bound)
    verdict = Verdict.FAILS if rank.upper < bound else Verdict.HOLDS
    return Evidence(
        verdict,
        rank.upper,
        bound,
        bound - rank.upper,
        note,
        lambda: witness(note, {"net": network_document(instance)}, [below]),
    )


ATTAINED = Claim(
    id="spectral.attained",
    title="When the dead-unit bound is an equality",
    source=Source(SPECTRAL, "v1", "Thm 6.2", "equality case; ours"),
    kind="ours",
    statement=r"one hidden ReLU layer, k dead units, squared loss, residuals not zero, live units open on different sets of many "
    r"samples: rank(∇²L) = P − k(I + O + 1) for almost all (θ, y) with these gates",
    quantifier="for all",
    assumptions=(
        Assumption(
            "residual", "the residuals f(x) − y are generic, not zero", lambda i: i.extra["residual"] == "generic"
        ),
        Assumption("samples", "there are many more samples than parameters", lambda i: i.extra["samples"] == "many"),
        Assumption(
            "distinct-gates", "no two live units are open on the same samples", lambda i: not i.extra["same_gates"]
        ),
        Assumption(
            "squared-loss", "the loss is squared error, not softmax cross-entropy", lambda i: i.kind != "cross_entropy"
        ),
    ),
    instances=generic_layer(),
    check=check_attained,
    expected=Verdict.HOLDS,
    proof="Rank is lower semicontinuous, so on a fixed gate pattern one parameter vector with equality gives equality "
    "off a proper algebraic set. Two units with the same gates span the same features (found by a run of 750 instances). "
    "At zero residual each live unit adds a null direction (rescaling w, b, v); softmax adds h − k + 1 (moving all logits alike).",
    without={
        "residual": generic_layer(residual="zero"),
        "samples": generic_layer(samples="one"),
        "distinct-gates": generic_layer(same_gates=True),
        "squared-loss": generic_layer(kind="cross_entropy"),
    },
    mutants=(
        Mutant("less", "rank ≤ P − k(I+O+1) − 1", _attained_everywhere_but(-1)),
        Mutant(
            "deep",
            "equality with the corrected bound in every net of two hidden layers",
            _attained_by_depth,
            mlp_instances(widths((2, 2), 3), samples=(1, 8)),
        ),
    ),
    depends_on=("spectral.dead-unit-bound.repaired",),
    cost=4.0,
)

CLAIMS = (ATTAINED,)
