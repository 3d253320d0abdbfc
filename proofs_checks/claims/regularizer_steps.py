r"""Spectral Collapse, what L2-ER does to a network: nothing to dead units, and not what its objective says.

The algorithms are those of ``lop_theory.algorithms.regularizers``, run on exact instances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.algorithms.base import Algorithm, Params, gradients, mlp_context
from lop_theory.algorithms.descent import sgd
from lop_theory.algorithms.regularizers import effective_rank_penalty, l2_er, l2_er_printed, published_rank
from lop_theory.architectures import mlp
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.effective_ranks import (
    alive,
    changed_features,
    effective,
    features,
    layer_of,
    order,
    rank_quantity,
)
from proofs_checks.claims.regularizers import OBJECTIVE, SPECTRAL
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import hidden_values, integers_array, kill_units, layer_units, mlp_instances, widths

# -- dead units ------------------------------------------------------------------------------------------------------------


def _dead_features_constant(instance: Instance) -> Evidence:
    """Other weights of the planted units, dead as before: every feature is the same, so the ascent is exactly 0 there."""
    other = instance.extra["other"]
    for k, (F, G) in enumerate(zip(features(instance), features(instance, other), strict=True)):
        if not (F == G).all():
            sign = order(effective(F), effective(G)) if (F != 0).any() and (G != 0).any() else None
            note = f"the features of layer {k + 1} change with the weights of units {instance.extra['planted']}"
            if not sign:
                return Evidence(Verdict.UNDECIDED, note=note)
            return Evidence(
                Verdict.FAILS,
                note=note,
                witness=lambda k=k, s=sign, note=note: changed_features(instance, other, k, s, note),
            )
    moved = _ascent_at(instance)
    if moved.any():
        return Evidence(Verdict.FAILS, float(np.abs(moved).max()), 0, None, "the library's ascent moves a dead unit")
    return Evidence(Verdict.HOLDS, 0, 0, None, f"units {instance.extra['planted']}")


def _params(instance: Instance) -> Params:
    """θ of a layered net with biases as (W_1, b_1, …), one replica."""
    dims = [
        instance.dag.num_inputs,
        *[len(layer_units(instance.dag, k)) for k in range(1, len(instance.dag.blocks) - 1)],
    ]
    flat, params, at = torch.from_numpy(np.asarray(instance.theta, dtype=np.float64)), [], 0
    for fan_in, fan_out in pairwise(dims):
        for shape in ((1, fan_out, fan_in), (1, fan_out)):
            size = int(np.prod(shape))
            params.append(flat[at : at + size].reshape(shape))
            at += size
    return tuple(params)


def _step(rule: Algorithm, instance: Instance, zero_loss: bool = False) -> np.ndarray:
    """θ after one update of the library's algorithm, from its initial state."""
    params = _params(instance)
    ctx_ = mlp_context(params, torch.from_numpy(instance.x), torch.from_numpy(instance.y), kind="mse_sum")
    grads = tuple(torch.zeros_like(p) for p in params) if zero_loss else gradients(params, ctx_)
    after, _ = rule.update(params, grads, rule.init(params), ctx_)
    return torch.cat([p.flatten() for p in after]).numpy()


def _unit_params(instance: Instance) -> list[int]:
    dag, units = instance.dag, list(instance.extra["planted"])
    return sorted({int(p) for p in dag.param[np.isin(dag.target, units) | np.isin(dag.source, units)]})


def _ascent_at(instance: Instance) -> np.ndarray:
    after = _step(effective_rank_penalty(sgd(1.0), 1.0, published_rank), instance, zero_loss=True)
    moved: np.ndarray = (after - instance.theta)[_unit_params(instance)]
    return moved


def _unchanged_by_l2er(instance: Instance) -> Evidence:
    """Mutant: L2-ER leaves the weights of a dead unit alone. Weight decay alone moves them (the loss has gradient 0)."""
    rule = {"name": "sgd", "momentum": "0", "nesterov": False, "weight_decay": "1/2", "l1": "0"}
    for k in _unit_params(instance):
        if instance.theta[k] != 0:
            line = assertion(
                quantity("param_after", index=k, steps=1, rate="1/4", rule=rule), "!=", number(instance.theta[k])
            )
            note = f"parameter {k} of a dead unit shrinks by the factor 1 - ηλ = 7/8"
            return Evidence(
                Verdict.FAILS,
                note=note,
                witness=lambda line=line, note=note: witness(note, {"net": network_document(instance)}, [line]),
            )
    return Evidence(Verdict.HOLDS)


@st.composite
def _dead_and_moved(draw: DrawFn, kill: str = "all", activation: str = "relu") -> Instance:
    """A ReLU net with a dead unit, and other weights in and out of it for which it is dead too.

    ``kill``: "all" samples, or "some": the unit fires on the sample where its pre-activation is largest.
    """
    instance = draw(mlp_instances(widths(max_width=3, max_inputs=2), activation, samples=(2, 4), bound=2))
    dag = instance.dag
    hidden = dag.hidden.tolist()
    unit = hidden[draw(st.integers(0, 7)) % len(hidden)]
    theta = alive(dag, instance.theta, instance.x) if len(hidden) > 1 else instance.theta
    theta = kill_units(dag, theta, instance.x, [unit])
    into = dag.param[dag.target == unit]
    out = dag.param[dag.source == unit]
    other = theta.copy()
    other[into] += 2 * integers_array(draw, into.shape, 2)
    other[out] += 2 * integers_array(draw, out.shape, 2)
    other = kill_units(dag, other, instance.x, [unit])
    if kill == "some":
        bias = dag.param[(dag.target == unit) & (dag.source == dag.num_inputs)]
        for values, level in ((theta, 1), (other, 3)):
            values[bias] += level - hidden_values(dag, values, instance.x)[:, unit].max()
    return replace(instance, theta=theta, extra={"planted": (unit,), "other": other})


def _strictly_dead(instance: Instance) -> bool:
    z = hidden_values(instance.dag, instance.theta, instance.x)[:, list(instance.extra["planted"])]
    return bool((z < 0).all())


DEAD_UNITS = Claim(
    id="spectral.l2er.dead-units",
    title="The effective-rank penalty does nothing for a dead unit",
    source=Source(SPECTRAL, "v1", "L2-ER against dead units", "ours"),
    kind="ours",
    statement=r"z_v < 0 \text{ on the batch} \Rightarrow \nabla \operatorname{erank}(F_\ell) = 0"
    r" \text{ at all weights into and out of } v,\ \text{for every layer } \ell",
    quantifier="for all",
    assumptions=(
        Assumption("dead", "the unit is strictly dead on the whole batch of the penalty", _strictly_dead),
        Assumption("relu", "hidden activations are ReLU", lambda i: set(i.dag.activations) <= {"relu", "identity"}),
    ),
    instances=_dead_and_moved(),
    check=_dead_features_constant,
    expected=Verdict.HOLDS,
    proof="h_v = 0 on the batch in a neighbourhood of θ, so no feature of any layer depends on the weights into v (they are "
    "multiplied by f'(z_v) = 0) or out of v (they multiply h_v = 0). With a loss on the same batch L2-ER multiplies these "
    "weights by 1 - ηλ; in the first layer z_v shrinks by that factor and keeps its sign: L2-ER prevents death there, it "
    "cannot revive. Deeper units can be revived only by a change of their inputs.",
    without={
        "dead": _dead_and_moved(kill="some"),
        "relu": _dead_and_moved(activation="leaky_relu"),
    },
    mutants=(
        Mutant("unchanged", "L2-ER leaves the weights of dead units unchanged", _unchanged_by_l2er),
        Mutant(
            "dead-on-a-sample",
            "being dead on one sample is enough",
            _dead_features_constant,
            _dead_and_moved(kill="some"),
        ),
    ),
    certificates=(Certificate("gate", "both products vanish", Strength.SYMBOLIC, Scope.ALL, lambda: _prove_gate()),),
)


def _prove_gate() -> str:
    """∂h_v/∂w_in = f'(z) h_u and ∂z_k/∂w_out = h_v vanish for ReLU at z = −y < 0."""
    z, y = sympy.symbols("z", real=True), sympy.symbols("y", positive=True)
    left = sympy.Max(0, z)
    assert left.subs(z, -y) == 0
    assert sympy.diff(left, z).subs(z, -y).simplify() == 0
    return "relu(z) = relu'(z) = 0 for z < 0, so ∂F/∂w = 0 for weights into (factor f'(z_v)) and out of v (factor h_v)"


# -- printed objective against published code ------------------------------------------------------------------------------

RATE, WEIGHT_DECAY, COEFFICIENT = 1 / 16, 0.0, 1.0


def _flat_start(instance: Instance) -> np.ndarray:
    """θ after printed and published L2-ER, one update: same optimiser, reading, coefficient and batch."""
    printed = _step(l2_er_printed(sgd(RATE), WEIGHT_DECAY / 2, COEFFICIENT, published_rank), instance)
    published = _step(l2_er(sgd(RATE), WEIGHT_DECAY, RATE * COEFFICIENT, every=1), instance)
    return np.stack([printed, published])


def _flatness_witness(instance: Instance, note: str) -> dict[str, Any]:
    rule = {"name": "sgd", "momentum": "0", "nesterov": False, "weight_decay": "0", "l1": "0"}
    units, width = [layer_of(instance, 0)], len(layer_of(instance, 0))
    after = rank_quantity(units, 1, steps=1, rate=number(RATE), rule=rule)
    return witness(
        f"{note}. At the start the effective rank is maximal ({width}), so its gradient is 0 and the additive objective "
        f"takes the step of the loss alone; after that step it is below {width}, and the step of its own moves on.",
        {"net": network_document(instance)},
        [assertion(rank_quantity(units, 1), "==", width), assertion(after, "<", width)],
    )


def _same_end(ends: Callable[[Instance], np.ndarray], text: str) -> Callable[[Instance], Evidence]:
    def check(instance: Instance) -> Evidence:
        first, second = ends(instance)
        gap = float(np.abs(first - second).max())
        note = f"{text}: the parameters differ by {gap:.3g} after one update"
        if gap <= 1e-12:
            return Evidence(Verdict.HOLDS, gap, 0, None, note)
        if gap <= 1e-9:
            return Evidence(Verdict.UNDECIDED, gap, 0, None, note)
        return Evidence(Verdict.FAILS, gap, 0, None, note, lambda: _flatness_witness(instance, note))

    return check


def _both_orders(instance: Instance) -> np.ndarray:
    return np.stack(
        [
            _step(l2_er(sgd(RATE), WEIGHT_DECAY, RATE * COEFFICIENT, 1, ascend_first=first), instance)
            for first in (True, False)
        ]
    )


def _with_and_without(instance: Instance) -> np.ndarray:
    with_rank = _step(l2_er(sgd(RATE), WEIGHT_DECAY, RATE * COEFFICIENT, every=1), instance)
    return np.stack([with_rank, _step(sgd(RATE), instance)])


@st.composite
def _flat_nets(draw: DrawFn) -> Instance:
    """One hidden layer of ReLU units and one-hot samples: features c I, so a flat spectrum; any head, any targets.

    Weights 2c I and biases −c: pre-activations are c on the diagonal and −c beside it, never on the kink.
    """
    n, c = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    dag = mlp([n, n, 1])
    head, targets = integers_array(draw, (n + 1,), 2), integers_array(draw, (n, 1), 2)
    theta = np.concatenate([(2.0 * c * np.eye(n)).reshape(-1), np.full(n, -float(c)), head])
    return Instance(dag, theta, np.eye(n), targets)


ADDITIVE = Claim(
    id="spectral.l2er.additive-vs-alternating",
    title="The published code of L2-ER descends the printed objective",
    source=OBJECTIVE,
    kind="definition",
    statement=r"\theta - \eta\nabla\big(\ell - c\operatorname{erank} + \tfrac\lambda2\|\theta\|^2\big)(\theta)"
    r" = \theta' + \eta c\,\nabla\operatorname{erank}(\theta'),\quad \theta' = \theta - \eta(\nabla\ell + \lambda\theta)(\theta)",
    quantifier="for all",
    assumptions=(),
    instances=_flat_nets(),
    check=_same_end(_flat_start, "printed and published"),
    expected=Verdict.FAILS,
    proof="The code takes a step of its own for the effective rank, with its own step size, at the parameters that the "
    "optimiser left, once in U minibatches. Even with U = 1, plain SGD and equal coefficients the two differ by "
    "ηc(∇erank(θ') - ∇erank(θ)) = O(η²). With an adaptive optimiser they differ in first order, as the ascent of the code "
    "is not preconditioned. (Reading and layers also differ: see spectral.l2er.three-readings.)",
    mutants=(
        Mutant("order", "ascending before or after the step is the same", _same_end(_both_orders, "the two orders")),
        Mutant("inactive", "the ascent changes nothing", _same_end(_with_and_without, "with and without the ascent")),
    ),
    depends_on=("spectral.l2er.gradient",),
    cost=2.0,
)

CLAIMS = (DEAD_UNITS, ADDITIVE)
