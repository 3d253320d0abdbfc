"""Continual Backprop (arXiv 2306.13812): what a replacement does to the function, and which units are replaced.

The algorithm itself is ``lop_theory.algorithms.continual_backprop``; where a claim is about a rule (which units, what else
changes), the check runs that code on integers, and compares utilities exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy

from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.replacement import (
    ALL_MATURE,
    activations_of,
    activity,
    bias_of,
    both_networks,
    compare_chosen,
    contribution,
    elsewhere,
    is_constant,
    is_zeroed,
    outputs_agree,
    paper_rule,
    replaced,
    replacements,
    selections,
    weights_into,
)
from proofs_checks.instances import Instance, assertion, quantity, witness
from proofs_checks.strategies import hidden_values, widths

_PAPER = "2306.13812"

# -- a replacement and the function ----------------------------------------------------------------------------------------


def check_function(instance: Instance) -> Evidence:
    """Are the outputs on the batch those before the replacement?"""
    return outputs_agree(instance, replaced(instance), f"units {sorted(instance.extra['means'])} replaced")


def _elsewhere(instance: Instance) -> Evidence:
    """The same, on inputs that are not in the batch."""
    return outputs_agree(instance, replaced(instance), "on new inputs", elsewhere(instance))


def _only_incoming(instance: Instance) -> Evidence:
    """New incoming weights alone: the outgoing ones are kept, nothing is transferred."""
    after, extra = instance.theta.copy(), instance.extra
    for v in extra["means"]:
        into = weights_into(instance.dag, v)
        after[into], after[bias_of(instance.dag, v)] = extra["fresh"][into], 0
    return outputs_agree(instance, after, "outgoing weights kept")


def _prove_transfer() -> str:
    """z of a unit of the next layer, before and after, for any number of other units (``rest``)."""
    rest, w, c, b, new = sympy.symbols("rest w c b h_new")
    before, after = rest + w * c + b, rest + 0 * new + (b + w * c)
    assert sympy.expand(after - before) == 0
    return "rest + w c + b = rest + 0 h_new + (b + w c): all pre-activations above are kept, layer by layer, hence the output"


PRESERVES = Claim(
    id="cbp.replacement-preserves-function",
    title="Replacing a constant unit leaves the function on the batch unchanged",
    source=Source(
        _PAPER, "v3", "§4, replacement", "the paper says it of the zero outgoing weights of new units; sharpened by us"
    ),
    kind="lemma",
    statement=r"h_i(x_n) = \hat f_i\ \forall n,\; W_{l+1}[:, i] \leftarrow 0,\; b_{l+1} \leftarrow b_{l+1} + W_{l+1}[:, i] "
    r"\hat f_i \;\Rightarrow\; f_{\theta'}(x_n) = f_\theta(x_n)\ \forall n,\ \text{whatever the new incoming weights}",
    quantifier="for all",
    assumptions=(
        Assumption("constant", "each replaced unit equals its running mean f̂ on every sample", is_constant),
        Assumption("outgoing-zero", "the new outgoing weights are zero", is_zeroed),
        Assumption("transfer", "w f̂ is added to the next biases", lambda i: bool(i.extra["transfer"])),
    ),
    instances=replacements(),
    check=check_function,
    expected=Verdict.HOLDS,
    proof="A constant unit acts on the next layer as a bias w c. The transfer puts that into the bias itself, so no "
    "pre-activation above changes; a unit replaced above has no outgoing weight, so what it now computes is not seen. Any number "
    "of units and layers may be replaced together, lower layers first.",
    without={
        "constant": replacements(constant=False, samples=(2, 4)),
        "outgoing-zero": replacements(redrawn=True),
        "transfer": replacements(transfer=False),
    },
    mutants=(
        Mutant("everywhere", "the function is unchanged on inputs outside the batch", _elsewhere),
        Mutant("only-incoming", "the outgoing weights may be kept", _only_incoming),
    ),
    cost=1.5,
    certificates=(
        Certificate("transfer", "one layer, and by induction all", Strength.SYMBOLIC, Scope.ALL, _prove_transfer),
    ),
)


# -- utility bounds the change ---------------------------------------------------------------------------------------------


def _sizes(instance: Instance, after: np.ndarray) -> tuple[float, dict[int, float], list[int]]:
    """(Σ_n Σ_k |Δz_k|, N times the mean-corrected contribution utility of every replaced unit, next units k)."""
    dag, means = instance.dag, instance.extra["means"]
    h = activations_of(dag, instance.theta, instance.x)
    above = sorted({int(dag.target[e]) for v in means for e in dag.outgoing(v)})
    z = [hidden_values(dag, t, instance.x)[:, above] for t in (instance.theta, after)]
    utility = {
        v: float(np.abs(h[:, v] - mean).sum() * np.abs(instance.theta[dag.params_of(dag.outgoing(v))]).sum())
        for v, mean in means.items()
    }
    return float(np.abs(z[1] - z[0]).sum()), utility, above


def _bounded(instance: Instance, bound: float, text: str) -> Evidence:
    after = replaced(instance)
    change, _, above = _sizes(instance, after)
    note = f"change of the next pre-activations, summed over the batch: {change:g}; {text} {bound:g}"
    if change <= bound:
        return Evidence(Verdict.HOLDS, change, bound, bound - change if bound else None, note)

    def document() -> dict[str, Any]:
        places: list[dict[str, Any]] = [{"unit": k, "sample": n} for k in above for n in range(len(instance.x))]
        steps = [
            {
                "abs": {
                    "sum": [
                        quantity("preactivation", "after", **at),
                        {"product": ["-1", quantity("preactivation", **at)]},
                    ]
                }
            }
            for at in places
        ]
        return witness(note, both_networks(instance, after), [assertion({"sum": steps}, ">", bound)])

    return Evidence(Verdict.FAILS, change, bound, bound - change, note, document)


def check_change(instance: Instance) -> Evidence:
    """Σ_n Σ_k |Δz_nk| ≤ N Σ_{i ∈ R} y_i with the mean-corrected contribution utility y."""
    return _bounded(instance, sum(_sizes(instance, instance.theta)[1].values()), "Σ N y")


def _largest_utility(instance: Instance) -> Evidence:
    return _bounded(instance, max(_sizes(instance, instance.theta)[1].values()), "max N y")


def _plain_contribution(instance: Instance) -> Evidence:
    dag, h = instance.dag, activations_of(instance.dag, instance.theta, instance.x)
    weight = {v: np.abs(instance.theta[dag.params_of(dag.outgoing(v))]).sum() for v in instance.extra["means"]}
    return _bounded(instance, float(sum(np.abs(h[:, v]).sum() * w for v, w in weight.items())), "Σ N |h| |w|")


def _prove_change() -> str:
    rest, w, h, f, b, new = sympy.symbols("rest w h f b h_new", real=True)
    assert sympy.expand((rest + 0 * new + b + w * f) - (rest + w * h + b) + w * (h - f)) == 0
    a, c, p, q = sympy.symbols("a c p q", real=True)  # |a| = p, |c| = q: the square of the triangle inequality
    assert sympy.expand((p + q) ** 2 - (a + c) ** 2 - (p**2 - a**2) - (q**2 - c**2) - 2 * (p * q - a * c)) == 0
    return "Δz_k = -Σ_i w_ki (h_i - f_i), and |a + c| <= |a| + |c| because |a||c| >= a c; equality for one unit"


_ONE_LAYER = replacements(constant=False, one_layer=True)
_SEVERAL = replacements(constant=False, one_layer=True, shapes=widths((1, 1), 3, min_width=2))

BOUNDS_CHANGE = Claim(
    id="cbp.contribution-bounds-change",
    title="The mean-corrected contribution utility is the size of the change made by removing the unit",
    source=Source(
        _PAPER, "v3", "§4, mean-corrected contribution utility", "the inequality behind the definition; stated by us"
    ),
    kind="ours",
    statement=r"\frac1N \sum_{n,k} |\Delta z^{l+1}_k(x_n)| \le \sum_{i \in R} y_i,\quad "
    r"y_i = \frac1N \sum_n |h_i(x_n) - \hat f_i| \sum_k |w_{ki}|,\quad \text{equality if } |R| = 1",
    quantifier="for all",
    assumptions=(
        Assumption("transfer", "w f̂ is added to the next biases", lambda i: bool(i.extra["transfer"])),
        Assumption("outgoing-zero", "the new outgoing weights are zero", is_zeroed),
    ),
    instances=_ONE_LAYER,
    check=check_change,
    expected=Verdict.HOLDS,
    proof="After the replacement Δz_k = -Σ_i w_ki (h_i - f̂_i) on every sample; take absolute values, sum, use the triangle "
    "inequality. For one unit nothing is lost. Without the transfer the plain contribution |h| |w| takes the place of y.",
    without={
        "transfer": replacements(constant=False, one_layer=True, transfer=False),
        "outgoing-zero": replacements(constant=False, one_layer=True, redrawn=True),
    },
    attained=replacements(constant=False, one_layer=True, shapes=widths((1, 1), 1)),
    mutants=(
        Mutant("largest", "the largest of the utilities bounds the change", _largest_utility, _SEVERAL),
        Mutant("plain", "the contribution |h| |w| without mean correction bounds it", _plain_contribution),
    ),
    certificates=(Certificate("triangle", "any number of units", Strength.SYMBOLIC, Scope.ALL, _prove_change),),
    cost=2.0,
)

# -- which units are replaced ----------------------------------------------------------------------------------------------


def check_minimum(instance: Instance) -> Evidence:
    """Continual Backprop replaces the units of least utility."""
    return compare_chosen(instance, paper_rule, contribution, "utility")


def _maximum(instance: Instance) -> Evidence:
    return compare_chosen(instance, paper_rule, contribution, "utility", -1)


def _least_active(instance: Instance) -> Evidence:
    return compare_chosen(instance, paper_rule, activity, "activity")


MINIMUM = Claim(
    id="cbp.replaces-minimum-utility",
    title="Continual Backprop replaces units of least utility",
    source=Source(_PAPER, "v3", "Algorithm 1"),
    kind="definition",
    statement=r"i \in R_l,\ j \in \{1, \dots, n_l\} \setminus R_l \;\Rightarrow\; \hat u_{l,i} \le \hat u_{l,j}",
    quantifier="for all",
    assumptions=(ALL_MATURE,),
    instances=selections(),
    check=check_minimum,
    expected=Verdict.HOLDS,
    proof="By definition the k units of smallest bias-corrected utility among the mature ones are replaced, all chosen before "
    "anything is changed. The check runs the library on integers (decay 0, contribution utility) and compares exact utilities.",
    without={"all-mature": selections(mature=False)},
    mutants=(
        Mutant("maximum", "it replaces units of largest utility", _maximum),
        Mutant("least-active", "it replaces the units of least activity", _least_active),
    ),
    cost=2.0,
)


CLAIMS = (PRESERVES, BOUNDS_CHANGE, MINIMUM)
