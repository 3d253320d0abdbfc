"""Replacing hidden units of an exact network, and what a witness says about it. Used by the claims on resets.

All numbers are integers in float64 (or uniform draws, which are dyadic rationals), so that before and after are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.algorithms.base import Algorithm, Params, generators, gradients, mlp_context
from lop_theory.algorithms.continual_backprop import CbpState, continual_backprop
from lop_theory.algorithms.descent import sgd
from lop_theory.dag import Dag
from proofs_checks.claim import Assumption, Evidence, Verdict
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import hidden_values, integers_array, kill_units, layer_units, mlp_instances, widths

SHAPES = widths((1, 3), 3, max_inputs=2, max_outputs=2)


def elsewhere(instance: Instance) -> np.ndarray:
    """Inputs that are not in the batch."""
    return np.vstack([instance.x + 9, instance.x - 9])


def bias_of(dag: Dag, unit: int) -> int:
    """The parameter of the bias of a unit."""
    return int(dag.param[(dag.target == unit) & (dag.source == dag.num_inputs)][0])


def weights_into(dag: Dag, unit: int) -> np.ndarray:
    """Parameters of the incoming weights of a unit, without the bias."""
    return dag.param[(dag.target == unit) & (dag.source != dag.num_inputs)]


def activations_of(dag: Dag, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """h [N, num_units] of a ReLU net (NaN on inputs and constant); outputs are linear."""
    z = hidden_values(dag, theta, x)
    z[:, dag.hidden] = np.maximum(z[:, dag.hidden], 0)
    return z


def replace_on_dag(
    dag: Dag,
    theta: np.ndarray,
    means: Mapping[int, float],
    fresh: np.ndarray,
    outgoing: np.ndarray | None = None,
    transfer: bool = True,
) -> np.ndarray:
    """θ after the units that are the keys of ``means`` were replaced, lower layers first: new incoming weights from
    ``fresh`` [P], bias 0, outgoing weights 0 (or from ``outgoing`` [P]), and w f̂ added to the next biases."""
    theta = theta.copy()
    for v in sorted(means):
        for e in dag.outgoing(v):
            if transfer:
                theta[bias_of(dag, int(dag.target[e]))] += theta[dag.param[e]] * means[v]
            theta[dag.param[e]] = 0 if outgoing is None else outgoing[dag.param[e]]
        into = weights_into(dag, v)
        theta[into] = fresh[into]
        theta[bias_of(dag, v)] = 0
    return theta


def replaced(instance: Instance) -> np.ndarray:
    """θ after the replacement that the instance declares."""
    extra = instance.extra
    return replace_on_dag(
        instance.dag, instance.theta, extra["means"], extra["fresh"], extra["outgoing"], extra["transfer"]
    )


def outputs_agree(instance: Instance, after: np.ndarray, text: str, x: np.ndarray | None = None) -> Evidence:
    """Are the outputs of θ and ``after`` equal on ``x`` (default: the batch)?"""
    data = instance.x if x is None else x
    old, new = (hidden_values(instance.dag, t, data)[:, instance.dag.outputs] for t in (instance.theta, after))
    if np.array_equal(old, new):
        return Evidence(Verdict.HOLDS, "equal", "equal", note=text)
    sample, place = (int(v[0]) for v in np.nonzero(old != new))
    unit = int(instance.dag.outputs[place])
    note = f"{text}: output {unit} on sample {sample} goes from {old[sample, place]:g} to {new[sample, place]:g}"

    def document() -> dict[str, Any]:
        moved = replace(instance, x=data, y=np.zeros((len(data), instance.dag.num_outputs)))
        at: dict[str, Any] = {"unit": unit, "sample": sample}
        differ = assertion(quantity("value", **at), "!=", quantity("value", net="after", **at))
        return witness(note, both_networks(moved, after), [differ])

    return Evidence(Verdict.FAILS, new[sample, place], old[sample, place], None, note, document)


def both_networks(instance: Instance, after: np.ndarray) -> dict[str, Any]:
    """The network before ("net") and after the replacement."""
    return {"net": network_document(instance), "after": network_document(instance, after)}


# -- expressions for the independent checker -------------------------------------------------------------------------------


def parameter(index: int, net: str = "net") -> dict[str, Any]:
    """One parameter of a network: that after no step of gradient descent."""
    return quantity("param_after", net=net, index=int(index), steps=0, rate="0", rule={"name": "sgd"})


def utility_expression(dag: Dag, unit: int, samples: int) -> dict[str, Any]:
    """N times the contribution utility: Σ_n |h_n| · Σ_k |w_k|, from the network alone."""
    size = {"sum": [{"abs": quantity("value", unit=int(unit), sample=n)} for n in range(samples)]}
    weights = {"sum": [{"abs": parameter(p)} for p in dag.params_of(dag.outgoing(unit))]}
    return {"product": [size, weights]}


# -- instances -------------------------------------------------------------------------------------------------------------


@st.composite
def replacements(
    draw: DrawFn,
    constant: bool = True,
    redrawn: bool = False,
    transfer: bool = True,
    shapes: SearchStrategy[list[int]] = SHAPES,
    samples: tuple[int, int] = (1, 4),
    one_layer: bool = False,
) -> Instance:
    """A ReLU MLP, some of its hidden units and what replaces them.

    ``constant``: the units are constant on the batch (dead, or without incoming weights) and f̂ is their value; else they are
    arbitrary and f̂ is their value on the first sample. ``redrawn``: outgoing weights are drawn, too.
    """
    base = draw(mlp_instances(shapes, samples=samples, bound=2))
    dag, theta = base.dag, base.theta.copy()
    flags = draw(st.integers(1, 2**9 - 1))
    layers = [draw(st.integers(1, dag.depth - 1))] if one_layer else range(1, dag.depth)
    units = [int(v) for k in layers for j, v in enumerate(layer_units(dag, k)) if flags >> (3 * (k - 1) + j) & 1]
    units = units or [int(dag.hidden[0] if not one_layer else layer_units(dag, layers[0])[0])]
    dead = draw(st.integers(0, 2**9 - 1))
    if constant:
        for k, v in enumerate(units):
            if dead >> k & 1:
                theta = kill_units(dag, theta, base.x, [v])
            else:
                theta[weights_into(dag, v)] = 0
    h = activations_of(dag, theta, base.x)
    extra = {
        "means": {v: float(h[0, v]) for v in units},
        "fresh": integers_array(draw, theta.shape, 2),
        "outgoing": integers_array(draw, theta.shape, 2) if redrawn else None,
        "transfer": transfer,
    }
    return replace(base, theta=theta, extra=extra)


def is_constant(instance: Instance) -> bool:
    """Is every replaced unit equal to its f̂ on every sample?"""
    h = activations_of(instance.dag, instance.theta, instance.x)
    return all((h[:, v] == mean).all() for v, mean in instance.extra["means"].items())


def is_zeroed(instance: Instance) -> bool:
    """Are all new outgoing weights zero?"""
    new, dag = instance.extra["outgoing"], instance.dag
    return new is None or not any(new[dag.params_of(dag.outgoing(v))].any() for v in instance.extra["means"])


# -- running the library's rules on integers -------------------------------------------------------------------------------


def as_params(dag: Dag, theta: np.ndarray) -> Params:
    """θ of an MLP as (W_1, b_1, …) with one replica."""
    sizes = [len(dag.blocks[0]), *(len(block) for block in dag.blocks[2:])]
    parts, start = [], 0
    for fan_in, n in pairwise(sizes):
        for shape in ((1, n, fan_in), (1, n)):
            stop = start + int(np.prod(shape))
            parts.append(torch.tensor(theta[start:stop], dtype=torch.float64).reshape(shape))
            start = stop
    return tuple(parts)


def as_theta(params: Params) -> np.ndarray:
    """The inverse of :func:`as_params`."""
    return np.concatenate([p.flatten().numpy() for p in params])


def run_rule(
    rule: Algorithm, instance: Instance, updates: int = 1, ages: list[np.ndarray] | None = None
) -> tuple[Any, ...]:
    """(θ after, θ before the last update, state, units replaced in it) of updates on the batch."""
    params = as_params(instance.dag, instance.theta)
    state: CbpState = rule.init(params)
    if ages is not None:
        state = state._replace(age=tuple(torch.tensor(a)[None] for a in ages))
    x, y = (torch.tensor(a, dtype=torch.float64) for a in (instance.x, instance.y))
    generator, before = generators([0]), params
    for step in range(updates):
        before = params
        ctx = mlp_context(params, x, y, kind="mse_sum", step=step, generator=generator)
        params, state = rule.update(params, gradients(params, ctx), state, ctx)
    chosen = [
        int(v) for l, age in enumerate(state.age) for v in layer_units(instance.dag, l + 1)[(age[0] == 0).numpy()]
    ]
    return as_theta(params), as_theta(before), state, chosen


def contribution(instance: Instance) -> dict[int, Fraction]:
    """N times the contribution utility, Σ_n |h| · Σ_k |w|, of every hidden unit, exactly."""
    dag = instance.dag
    weights = {v: instance.theta[dag.params_of(dag.outgoing(v))] for v in dag.hidden.tolist()}
    return {v: size * sum(Fraction(abs(w)) for w in weights[v]) for v, size in activity(instance).items()}


def activity(instance: Instance) -> dict[int, Fraction]:
    """Σ_n |h| of every hidden unit."""
    h = activations_of(instance.dag, instance.theta, instance.x)
    return {v: sum((Fraction(abs(a)) for a in h[:, v]), Fraction(0)) for v in instance.dag.hidden.tolist()}


MATURITY = 2


def run_once(instance: Instance, make: Callable[..., Algorithm]) -> tuple[np.ndarray, list[int]]:
    """(θ after, replaced units) of one update without gradient, with utilities of this batch alone."""
    rule = make(sgd(0.0), instance.extra["rate"], MATURITY, 0.0)
    after, _, _, chosen = run_rule(rule, instance, 1, instance.extra["ages"])
    return after, chosen


def paper_rule(inner: Algorithm, rate: float, maturity: float, decay: float) -> Algorithm:
    """Continual Backprop with the contribution utility (Nature, Eq. 1)."""
    return continual_backprop(inner, rate, maturity, decay, utility="contribution")


def compare_chosen(
    instance: Instance,
    make: Callable[..., Algorithm],
    score: Callable[[Instance], dict[int, Fraction]],
    text: str,
    sign: int = 1,
) -> Evidence:
    """Is the score of every replaced unit at most (``sign`` −1: at least) that of every kept unit of its layer?"""
    after, chosen = run_once(instance, make)
    scores, level = score(instance), instance.dag.level
    pairs = ((v, u) for v in chosen for u in scores if level[u] == level[v] and u not in chosen)
    wrong = next((pair for pair in pairs if sign * scores[pair[0]] > sign * scores[pair[1]]), None)
    if wrong is None:
        return Evidence(Verdict.HOLDS, chosen, chosen, None, f"{len(chosen)} units replaced")
    v, u = wrong
    note = f"unit {v} with {text} {scores[v]} is replaced, unit {u} with {scores[u]} is kept"
    document = partial(chosen_witness, instance, after, v, u, sign, score, note)
    return Evidence(Verdict.FAILS, scores[v], scores[u], None, note, document)


def chosen_witness(
    instance: Instance, after: np.ndarray, v: int, u: int, sign: int, score: Callable[..., Any], note: str
) -> dict[str, Any]:
    """Utility of v and of u, recomputed; v has other incoming weights afterwards, u has the same."""
    dag, samples = instance.dag, len(instance.x)
    if score is contribution:
        order = assertion(
            utility_expression(dag, v, samples), ">" if sign > 0 else "<", utility_expression(dag, u, samples)
        )
    else:
        sums = [{"sum": [{"abs": quantity("value", unit=w, sample=n)} for n in range(samples)]} for w in (v, u)]
        order = assertion(sums[0], ">", sums[1])
    new = weights_into(dag, v)[0]
    changed = assertion(parameter(new), "!=", parameter(new, "after"))
    return witness(note, both_networks(instance, after), [order, changed])


@st.composite
def selections(draw: DrawFn, mature: bool = True, hidden: tuple[int, int] = (1, 2)) -> Instance:
    """An MLP with at least two units in each hidden layer; ages, and a rate at which units are due."""
    base = draw(mlp_instances(widths(hidden, 4, max_inputs=2, min_width=2), samples=(1, 1), bound=2))
    samples = 2 ** draw(st.integers(0, 2))
    x = integers_array(draw, (samples, base.dag.num_inputs), 4)
    ages = [np.full(len(block), MATURITY) for block in base.dag.blocks[2:-1]]
    if not mature:
        flags = draw(st.integers(0, 2**8 - 1))
        ages = [
            np.array([0 if flags >> (4 * l + j) & 1 else a for j, a in enumerate(block)])
            for l, block in enumerate(ages)
        ]
    rate = draw(st.sampled_from([0.5, 0.625, 0.25]))
    y = np.zeros((samples, base.dag.num_outputs))
    return replace(base, x=x, y=y, extra={"ages": ages, "rate": rate})


def _all_mature(instance: Instance) -> bool:
    return all((block >= MATURITY).all() for block in instance.extra["ages"])


ALL_MATURE = Assumption("all-mature", "every unit of the layer is older than the maturity threshold", _all_mature)
