"""Published code that goes by the name of Continual Backprop, against what Continual Backprop does.

The rules are run as ``lop_theory.algorithms.continual_backprop`` transcribes them, on integers; every refutation is a pair of
networks, before and after a replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.algorithms.continual_backprop import cbp_published_bitflip, cbp_published_spectral
from lop_theory.algorithms.descent import sgd
from proofs_checks.claim import Assumption, Check, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.replacement import (
    ALL_MATURE,
    activations_of,
    bias_of,
    both_networks,
    chosen_witness,
    compare_chosen,
    contribution,
    is_constant,
    is_zeroed,
    outputs_agree,
    parameter,
    replaced,
    replacements,
    run_once,
    run_rule,
    selections,
    utility_expression,
    weights_into,
)
from proofs_checks.instances import Instance, assertion, quantity, witness
from proofs_checks.strategies import hidden_values, integers_array, mlp_instances, widths

PAPER = "2306.13812"


def _cleared_mean(instance: Instance) -> Instance:
    """The public code of the paper clears the running mean of the replaced units before it uses it."""
    return replace(instance, extra={**instance.extra, "means": dict.fromkeys(instance.extra["means"], 0.0)})


def check_cleared_mean(instance: Instance) -> Evidence:
    """The replacement with f̂ = 0, as published code does it."""
    return outputs_agree(instance, replaced(_cleared_mean(instance)), "running mean cleared before the transfer")


def _mean_output(instance: Instance) -> Evidence:
    """Is at least the sum of the outputs over the batch unchanged?"""
    after = replaced(_cleared_mean(instance))
    old, new = (
        hidden_values(instance.dag, t, instance.x)[:, instance.dag.outputs].sum(axis=0) for t in (instance.theta, after)
    )
    if np.array_equal(old, new):
        return Evidence(Verdict.HOLDS)
    k = int(np.flatnonzero(old != new)[0])
    unit, note = int(instance.dag.outputs[k]), f"sum of the output over the batch: {old[k]:g} before, {new[k]:g} after"

    def document() -> dict[str, Any]:
        sums = [
            {"sum": [quantity("value", net=net, unit=unit, sample=n) for n in range(len(instance.x))]}
            for net in ("net", "after")
        ]
        return witness(note, both_networks(instance, after), [assertion(sums[0], "!=", sums[1])])

    return Evidence(Verdict.FAILS, new[k], old[k], None, note, document)


def _always_on(instance: Instance) -> Evidence:
    """Only units that are active on every sample."""
    h = activations_of(instance.dag, instance.theta, instance.x)
    on = all((h[:, v] > 0).all() for v in instance.extra["means"])
    return check_cleared_mean(instance) if on else Evidence(Verdict.HOLDS, note="a replaced unit is off")


CLEARED_MEAN = Claim(
    id="cbp.published-bias-transfer",
    title="The published code keeps the function when it replaces a constant unit",
    source=Source(PAPER, "v3", "§4, bias correction at replacement; public code of November 2024", "as coded"),
    kind="remark",
    statement=r"\text{with } \hat f_i \leftarrow 0 \text{ before } b_{l+1} \leftarrow b_{l+1} + W_{l+1}[:, i]\,\hat f_i: "
    r"\; f_{\theta'}(x_n) = f_\theta(x_n)",
    quantifier="for all",
    assumptions=(
        Assumption("constant", "each replaced unit equals its running mean f̂ on every sample", is_constant),
        Assumption("outgoing-zero", "the new outgoing weights are zero", is_zeroed),
    ),
    instances=replacements(),
    check=check_cleared_mean,
    expected=Verdict.FAILS,
    proof="The running mean is set to zero for the replaced units before the correction of the next bias multiplies by it, so "
    "that the correction is always zero. Only dead units can be replaced without a change. (cbp.replacement-preserves-function "
    "is the statement with the order of the paper.)",
    mutants=(
        Mutant("mean-output", "at least the mean output over the batch is unchanged", _mean_output),
        Mutant("always-on", "it is unchanged if the replaced units are active on every sample", _always_on),
    ),
)


def check_published_maximum(instance: Instance) -> Evidence:
    """Is the utility of every replaced unit at most that of every kept unit of its layer, in the public code?"""
    return compare_chosen(instance, cbp_published_spectral, contribution, "utility")


def _spares_the_best(instance: Instance) -> Evidence:
    """A unit of strictly largest utility is never replaced."""
    after, chosen = run_once(instance, cbp_published_spectral)
    scores, level = contribution(instance), instance.dag.level
    for v in chosen:
        others = [u for u in scores if level[u] == level[v] and u != v]
        if all(scores[v] > scores[u] for u in others):
            note = f"unit {v}, the most useful of its layer, is replaced"
            document = partial(chosen_witness, instance, after, v, others[0], 1, contribution, note)
            return Evidence(Verdict.FAILS, v, None, None, note, document)
    return Evidence(Verdict.HOLDS)


def _only_useless(instance: Instance) -> Evidence:
    """Only units of utility 0 are replaced."""
    after, chosen = run_once(instance, cbp_published_spectral)
    scores = contribution(instance)
    useful = [v for v in chosen if scores[v] > 0]
    if not useful:
        return Evidence(Verdict.HOLDS)
    v, note = useful[0], f"unit {useful[0]} of utility {scores[useful[0]]} is replaced"

    def document() -> dict[str, Any]:
        new = weights_into(instance.dag, v)[0]
        positive = assertion(utility_expression(instance.dag, v, len(instance.x)), ">", 0)
        changed = assertion(parameter(new), "!=", parameter(new, "after"))
        return witness(note, both_networks(instance, after), [positive, changed])

    return Evidence(Verdict.FAILS, scores[v], 0, None, note, document)


PUBLISHED_SPECTRAL = Claim(
    id="cbp.published-spectral-replaces-maximum",
    title="The CBP baseline of Spectral Collapse replaces units of least utility",
    source=Source("2509.22335", "v3", "CBP baseline; public code of May 2026", "as coded"),
    kind="remark",
    statement=r"i \in R_l,\ j \in \{1, \dots, n_l\} \setminus R_l \;\Rightarrow\; \hat u_{l,i} \le \hat u_{l,j}",
    quantifier="for all",
    assumptions=(ALL_MATURE,),
    instances=selections(),
    check=check_published_maximum,
    expected=Verdict.FAILS,
    proof="The code sorts utilities and keeps the mask of those above the (k+1)-th largest: the most useful units are replaced. It "
    "also draws outgoing weights at random, so that no replacement keeps the function (cbp.replacement-preserves-function "
    "without outgoing-zero).",
    mutants=(
        Mutant("spares-the-best", "the most useful unit of a layer is never replaced", _spares_the_best),
        Mutant("only-useless", "only units of utility 0 are replaced", _only_useless),
    ),
    cost=2.0,
)


# -- the bit-flipping script of Barriers -----------------------------------------------------------------------------------

_SCRIPT = "CBP of the bit-flipping figures; public script of June 2025"
_RATE, _AGE = 1e-4, 1


class Step(NamedTuple):
    """One run of the script's rule up to its last update: θ before and after it, the unit replaced, updates made."""

    before: np.ndarray
    after: np.ndarray
    unit: int
    updates: int


def run_script(instance: Instance, extra_updates: int = 0) -> Step:
    """The literal rule (without gradient) on one hidden layer, until a unit has been replaced and ``extra_updates`` more.

    Nothing happens in the first update; a unit of maturity 1 can be replaced in the third.
    """
    updates = _AGE + 2 + extra_updates
    after, before, _, chosen = run_rule(cbp_published_bitflip(sgd(0.0), _RATE, _AGE, 0.5), instance, updates)
    return Step(before, after, chosen[0], updates)


def _refuted(instance: Instance, step: Step, note: str, assertions: list[dict[str, Any]]) -> Evidence:
    """θ before and after the update; the outgoing weight of the replaced unit was set to zero in it."""
    dag = instance.dag
    out = next(p for p in dag.params_of(dag.outgoing(step.unit)) if step.before[p])
    zeroed = [assertion(parameter(out), "!=", 0), assertion(parameter(out, "after"), "==", 0)]

    def document() -> dict[str, Any]:
        old = replace(instance, theta=step.before)
        return witness(note, both_networks(old, step.after), [*assertions, *zeroed])

    return Evidence(Verdict.FAILS, note=note, witness=document)


def _same(indices: Iterable[int]) -> list[dict[str, Any]]:
    return [assertion(parameter(p, "after"), "==", parameter(p)) for p in indices]


def check_incoming(instance: Instance) -> Evidence:
    """Does the replaced unit have new incoming weights?"""
    step = run_script(instance)
    into = weights_into(instance.dag, step.unit)
    if (step.before[into] != step.after[into]).all():
        return Evidence(Verdict.HOLDS, step.unit)
    kept = into[step.before[into] == step.after[into]]
    return _refuted(instance, step, f"unit {step.unit} is replaced and keeps incoming weights", _same(kept))


def _some_incoming(instance: Instance) -> Evidence:
    """Is at least one incoming weight of the replaced unit new?"""
    step = run_script(instance)
    into = weights_into(instance.dag, step.unit)
    if (step.before[into] != step.after[into]).any():
        return Evidence(Verdict.HOLDS, step.unit)
    return _refuted(instance, step, f"unit {step.unit} is replaced and keeps all incoming weights", _same(into))


def _new_direction(instance: Instance) -> Evidence:
    """Does the pre-activation of the replaced unit change by more than a constant, over the batch?"""
    step, (x, dag) = run_script(instance), (instance.x, instance.dag)
    z = [hidden_values(dag, t, x)[:, step.unit] for t in (step.before, step.after)]
    if np.ptp(z[1] - z[0]) > 0:
        return Evidence(Verdict.HOLDS)

    def change(n: int) -> dict[str, Any]:
        after, before = (quantity("preactivation", net=net, unit=step.unit, sample=n) for net in ("after", "net"))
        return {"sum": [after, {"product": ["-1", before]}]}

    equal = [assertion(change(n), "==", change(0)) for n in range(1, len(x))]
    return _refuted(instance, step, f"unit {step.unit} is replaced: its pre-activation is shifted by a constant", equal)


def _other_biases(instance: Instance, step: Step) -> list[int]:
    biases = [bias_of(instance.dag, int(v)) for v in instance.dag.hidden if v != step.unit]
    return [p for p in biases if step.before[p] != step.after[p]]


def check_biases(instance: Instance) -> Evidence:
    """Are the biases of the units that are not replaced kept?"""
    step = run_script(instance)
    lost = _other_biases(instance, step)
    if not lost:
        return Evidence(Verdict.HOLDS)
    changed = [assertion(parameter(lost[0]), "!=", parameter(lost[0], "after"))]
    return _refuted(instance, step, f"unit {step.unit} is replaced; another unit loses its bias", changed)


def _one_other_bias(instance: Instance) -> Evidence:
    """Does at most one other unit lose its bias?"""
    step = run_script(instance)
    lost = _other_biases(instance, step)
    if len(lost) < 2:
        return Evidence(Verdict.HOLDS)
    changed = [assertion(parameter(p), "!=", parameter(p, "after")) for p in lost]
    return _refuted(instance, step, f"{len(lost)} other units lose their biases", changed)


def _positive_biases(instance: Instance) -> Evidence:
    """Do other units at least keep positive biases (only dead ones could profit from 0)?"""
    step = run_script(instance)
    lost = [p for p in _other_biases(instance, step) if step.before[p] > 0]
    if not lost:
        return Evidence(Verdict.HOLDS)
    changed = [assertion(parameter(lost[0]), ">", parameter(lost[0], "after"))]
    return _refuted(instance, step, "another unit loses a positive bias", changed)


def _count(instance: Instance, allowed: Callable[[int, int], float], text: str, later: int = 0) -> Evidence:
    """Is the number of replacements (one per update from the third on) at most ``allowed(units, updates)``?"""
    step, units = run_script(instance, later), len(instance.dag.hidden)
    done, bound = step.updates - _AGE - 1, allowed(units, step.updates)
    if done <= bound:
        return Evidence(Verdict.HOLDS, done, bound)
    number = assertion(done, ">", Fraction(bound))
    return _refuted(
        instance, step, f"{done} of {units} units replaced in {step.updates} updates, {text} {bound:g}", [number]
    )


def check_rate(instance: Instance) -> Evidence:
    """Are at most ρ n T units replaced in T updates?"""
    return _count(instance, lambda n, t: _RATE * n * t, "but ρ n T =")


def _rounded_up(instance: Instance) -> Evidence:
    return _count(instance, lambda n, t: math.ceil(_RATE * n * t), "rounded up", later=1)


def _half(instance: Instance) -> Evidence:
    return _count(instance, lambda n, t: n / 2, "half of the layer is", later=1)


@st.composite
def _scripts(draw: DrawFn) -> Instance:
    """One hidden layer of at least three units with non-zero outgoing weights and biases."""
    base = draw(mlp_instances(widths((1, 1), 4, max_inputs=2, max_outputs=1, min_width=3), samples=(1, 1), bound=2))
    theta, dag = base.theta.copy(), base.dag
    out = dag.params_of(np.flatnonzero(np.isin(dag.source, dag.hidden)))
    theta[out] = np.where(theta[out] == 0, 2, theta[out])
    x = integers_array(draw, (2 ** draw(st.integers(0, 1)), dag.num_inputs), 4)
    return replace(base, theta=theta, x=x, y=np.zeros((len(x), 1)))


def _script_claim(
    part: str, title: str, statement: str, check: Check, proof: str, mutants: tuple[Mutant, ...]
) -> Claim:
    return Claim(
        id=f"cbp.published-bitflip.{part}",
        title=title,
        source=Source("2510.00304", "v2", _SCRIPT, "as coded"),
        kind="remark",
        statement=statement,
        quantifier="for all",
        assumptions=(),
        instances=_scripts(),
        check=check,
        expected=Verdict.FAILS,
        proof=proof,
        mutants=mutants,
        cost=2.0,
    )


BITFLIP_INCOMING = _script_claim(
    "incoming",
    "The bit-flipping script gives a replaced unit new incoming weights",
    r"i \in R \;\Rightarrow\; W_1[i, :]' \sim d_1",
    check_incoming,
    "The initialiser is called on an advanced-index selection, which is a copy: the weights of the net are not written to. The "
    "unit keeps its direction for ever; only its outgoing weight and its bias are reset.",
    (
        Mutant("some", "at least one incoming weight is new", _some_incoming),
        Mutant("direction", "the pre-activation changes by more than a constant", _new_direction),
    ),
)

BITFLIP_BIASES = _script_claim(
    "biases",
    "The bit-flipping script resets only the bias of the replaced unit",
    r"j \notin R \;\Rightarrow\; b_1[j]' = b_1[j]",
    check_biases,
    "The bias vector of the whole layer is set to zero at every replacement, which changes units that are in use, and the function "
    "with them.",
    (
        Mutant("one", "at most one other unit loses its bias", _one_other_bias),
        Mutant("positive", "positive biases of other units are kept", _positive_biases),
    ),
)

BITFLIP_RATE = _script_claim(
    "rate",
    "The bit-flipping script replaces units at the rate ρ",
    r"\#\{\text{replacements in } T \text{ updates}\} \le \rho\, n\, T",
    check_rate,
    "max(1, ⌊nρ⌋) units are replaced at every update at which some unit is mature; for nρ < 1 that is one per update, 1/(nρ) "
    "times too many (2000 times at n = 5, ρ = 10⁻⁴).",
    (
        Mutant("rounded-up", "at most ⌈ρ n T⌉ units", _rounded_up),
        Mutant("half", "at most half of the layer as soon as it is mature", _half),
    ),
)

CLAIMS = (CLEARED_MEAN, PUBLISHED_SPECTRAL, BITFLIP_INCOMING, BITFLIP_BIASES, BITFLIP_RATE)
