"""ReDo and shrink-and-perturb, the methods that Continual Backprop is compared with: what do they do to the function?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.architectures import mlp
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.replacement import (
    SHAPES,
    activity,
    both_networks,
    elsewhere,
    outputs_agree,
    replace_on_dag,
    weights_into,
)
from proofs_checks.instances import Instance, assertion, number, quantity, witness
from proofs_checks.strategies import hidden_values, integers_array, kill_units, layer_units, mlp_instances, widths

_REDO = Source("2306.13812", "v3", "ReDo, as a compared method", "ReDo is arXiv:2302.12902, Algorithm 1")
_SHRINK = Source("2306.13812", "v3", "shrink and perturb, as a compared method", "Ash & Adams, arXiv:1910.08475")

# -- ReDo ------------------------------------------------------------------------------------------------------------------


def dormant_units(instance: Instance) -> list[int]:
    """Units of the declared layers with mean |h_i| ≤ τ mean_j mean |h_j|, exactly (no activity at all: all of them)."""
    dag, sizes, found = instance.dag, activity(instance), []
    for layer in instance.extra["layers"]:
        units = [int(v) for v in layer_units(dag, layer)]
        total = sum(sizes[v] for v in units)
        found += [v for v in units if sizes[v] * len(units) <= instance.extra["threshold"] * total]
    return found


def recycled(instance: Instance) -> np.ndarray:
    """θ after ReDo replaced the dormant units: no transfer to the next bias."""
    extra, means = instance.extra, dict.fromkeys(dormant_units(instance), 0.0)
    return replace_on_dag(instance.dag, instance.theta, means, extra["fresh"], extra["outgoing"], transfer=False)


def check_redo(instance: Instance) -> Evidence:
    """Are the outputs on the batch those before the replacement?"""
    return outputs_agree(
        instance, recycled(instance), f"τ = {instance.extra['threshold']}, units {dormant_units(instance)} recycled"
    )


def _elsewhere(instance: Instance) -> Evidence:
    return outputs_agree(instance, recycled(instance), "on new inputs", elsewhere(instance))


def _outgoing_kept(instance: Instance) -> Evidence:
    after, dag = instance.theta.copy(), instance.dag
    for v in dormant_units(instance):
        after[weights_into(dag, v)] = instance.extra["fresh"][weights_into(dag, v)]
    return outputs_agree(instance, after, "new incoming weights, outgoing weights kept")


def _outgoing_zeroed(instance: Instance) -> bool:
    new, dag = instance.extra["outgoing"], instance.dag
    return new is None or not any(new[dag.params_of(dag.outgoing(v))].any() for v in dormant_units(instance))


@st.composite
def _recycling(
    draw: DrawFn,
    thresholds: tuple[Fraction, ...] = (Fraction(0),),
    redrawn: bool = False,
    one_layer: bool = False,
    twins: bool = False,
) -> Instance:
    """A ReLU MLP with some dead units, new weights, and a threshold; ``one_layer``: only the first is looked at, and τ is
    the score of one of its units; ``twins``: the first two units are equal, so that they are recycled together."""
    shapes = widths((1, 1), 3, max_inputs=2, min_width=2) if twins else SHAPES
    base = draw(mlp_instances(shapes, samples=(1, 4), bound=2))
    dag, flags = base.dag, draw(st.integers(0, 2**9 - 1))
    units = [v for k, v in enumerate(dag.hidden.tolist()) if flags >> k & 1]
    theta = kill_units(dag, base.theta, base.x, units)
    extra: dict[str, Any] = {
        "threshold": draw(st.sampled_from(thresholds)),
        "layers": [1] if one_layer else list(range(1, dag.depth)),
        "fresh": integers_array(draw, theta.shape, 2),
        "outgoing": integers_array(draw, theta.shape, 2) if redrawn else None,
    }
    instance = replace(base, theta=theta, extra=extra)
    if one_layer:
        first = layer_units(dag, 1).tolist()
        if twins:
            for edges in (dag.incoming, dag.outgoing):
                theta[dag.params_of(edges(first[1]))] = theta[dag.params_of(edges(first[0]))]
        sizes = activity(instance)
        total = sum(sizes[v] for v in first)
        score = (
            sizes[first[0 if twins else draw(st.integers(0, 7)) % len(first)]] * len(first) / total
            if total
            else Fraction(0)
        )
        instance = replace(instance, extra={**extra, "threshold": score})
    return instance


def _prove_silent() -> str:
    rest, w, b, new = sympy.symbols("rest w b h_new")
    assert sympy.expand((rest + 0 * new + b) - (rest + w * 0 + b)) == 0
    return "rest + w 0 + b = rest + 0 h_new + b: all pre-activations above are kept on the batch, hence the output"


REDO = Claim(
    id="redo.function-preservation",
    title="ReDo with threshold 0 leaves the function on its batch unchanged",
    source=_REDO,
    kind="lemma",
    statement=r"s_i = \frac{\operatorname{mean}_n |h_{ni}|}{\operatorname{mean}_j \operatorname{mean}_n |h_{nj}|},\ "
    r"R = \{i : s_i \le 0\},\ W_{l+1}[:, R] \leftarrow 0 \;\Rightarrow\; f_{\theta'}(x_n) = f_\theta(x_n)",
    quantifier="for all",
    assumptions=(
        Assumption("zero-threshold", "τ = 0", lambda i: i.extra["threshold"] == 0),
        Assumption("outgoing-zero", "the new outgoing weights are zero", _outgoing_zeroed),
    ),
    instances=_recycling(),
    check=check_redo,
    expected=Verdict.HOLDS,
    proof="A unit of score 0 is 0 on every sample of the batch, so its outgoing weights do not matter there; afterwards they are "
    "zero, so its new value does not either. With τ > 0, as in practice, active units are cut off and nothing is put in their "
    "place.",
    without={
        "zero-threshold": _recycling((Fraction(1, 4), Fraction(1, 2), Fraction(1))),
        "outgoing-zero": _recycling(redrawn=True),
    },
    mutants=(
        Mutant("everywhere", "the function is unchanged on inputs outside the batch", _elsewhere),
        Mutant("outgoing-kept", "the outgoing weights may be kept", _outgoing_kept),
    ),
    certificates=(
        Certificate("silent", "one layer, and by induction all", Strength.SYMBOLIC, Scope.ALL, _prove_silent),
    ),
)


def _redo_bound(
    instance: Instance, bound: Callable[[Fraction, Fraction, list[Fraction]], Fraction], text: str
) -> Evidence:
    """Σ_n Σ_k |Δz_k| against ``bound(τ, mean_j Σ_n |h_j|, [Σ_k |w_ki| for the recycled units i])``."""
    dag, units = instance.dag, dormant_units(instance)
    if not units:
        return Evidence(Verdict.HOLDS, note="nothing is dormant")
    after, first, sizes = recycled(instance), layer_units(dag, 1).tolist(), activity(instance)
    above = [int(v) for v in dag.blocks[3].units]
    z = [hidden_values(dag, t, instance.x)[:, above] for t in (instance.theta, after)]
    change = Fraction(float(np.abs(z[1] - z[0]).sum()))
    weights = [
        sum((Fraction(abs(w)) for w in instance.theta[dag.params_of(dag.outgoing(v))]), Fraction(0)) for v in units
    ]
    limit = bound(instance.extra["threshold"], sum((sizes[v] for v in first), Fraction(0)) / len(first), weights)
    note = f"change of the next pre-activations, summed over the batch: {change}; {text} {limit}"
    if change <= limit:
        return Evidence(Verdict.HOLDS, change, limit, limit - change if limit else None, note)

    def document() -> dict[str, Any]:
        at: list[dict[str, Any]] = [{"unit": k, "sample": n} for k in above for n in range(len(instance.x))]
        steps = [
            {
                "abs": {
                    "sum": [
                        quantity("preactivation", net="after", **p),
                        {"product": ["-1", quantity("preactivation", **p)]},
                    ]
                }
            }
            for p in at
        ]
        return witness(note, both_networks(instance, after), [assertion({"sum": steps}, ">", limit)])

    return Evidence(Verdict.FAILS, change, limit, limit - change, note, document)


def check_threshold(instance: Instance) -> Evidence:
    """mean_n Σ_k |Δz_k| ≤ τ · mean activity · Σ_{i ∈ R} Σ_k |w_ki|."""
    return _redo_bound(instance, lambda tau, mean, weights: tau * mean * sum(weights), "τ mean|h| Σ|w| =")


def _prove_threshold() -> str:
    rest, w, h, b, new = sympy.symbols("rest w h b h_new", real=True)
    assert sympy.expand((rest + 0 * new + b) - (rest + w * h + b) + w * h) == 0
    return "Δz_k = -Σ_i w_ki h_i; the triangle inequality, and mean|h_i| <= τ mean_j mean|h_j| for the recycled units"


REDO_THRESHOLD = Claim(
    id="redo.threshold-bounds-change",
    title="The dormancy threshold bounds what ReDo changes in the next layer",
    source=_REDO,
    kind="ours",
    statement=r"R \subseteq \text{layer } l:\quad \frac1N \sum_{n,k} |\Delta z^{l+1}_k(x_n)| "
    r"\le \tau \, \operatorname{mean}_j \operatorname{mean}_n |h_{nj}| "
    r"\sum_{i \in R} \sum_k |w_{ki}|",
    quantifier="for all",
    assumptions=(Assumption("outgoing-zero", "the new outgoing weights are zero", _outgoing_zeroed),),
    instances=_recycling(one_layer=True),
    check=check_threshold,
    expected=Verdict.HOLDS,
    proof="Δz_k = -Σ_i w_ki h_i on every sample; |h_i| is on average at most τ times the mean activity of the layer. Attained by a "
    "single unit with s_i = τ. There is no such bound on the output: layers above may amplify.",
    without={"outgoing-zero": _recycling(redrawn=True, one_layer=True)},
    attained=_recycling(one_layer=True),
    mutants=(
        Mutant(
            "largest",
            "the largest Σ_k |w_ki| bounds the change",
            lambda i: _redo_bound(i, lambda tau, mean, weights: tau * mean * max(weights), "τ mean|h| max|w| ="),
            _recycling(one_layer=True, twins=True),
        ),
        Mutant(
            "absolute",
            "τ Σ|w| per sample bounds the change, whatever the activity",
            lambda i: _redo_bound(i, lambda tau, mean, weights: tau * len(i.x) * sum(weights), "N τ Σ|w| ="),
        ),
    ),
    cost=2.0,
    certificates=(Certificate("threshold", "any number of units", Strength.SYMBOLIC, Scope.ALL, _prove_threshold),),
)

# -- shrink and perturb ----------------------------------------------------------------------------------------------------


def shrunk(instance: Instance, noise: bool = True) -> np.ndarray:
    """a θ + ε."""
    return instance.extra["factor"] * instance.theta + (instance.extra["noise"] if noise else 0)


def check_shrink(instance: Instance) -> Evidence:
    """Are the outputs on the batch kept?"""
    return outputs_agree(instance, shrunk(instance), f"θ shrunk by {instance.extra['factor']} and perturbed")


def _shrink_only(instance: Instance) -> Evidence:
    return outputs_agree(instance, shrunk(instance, noise=False), "shrunk only")


def _order_kept(instance: Instance) -> Evidence:
    """Is the order of the samples by the first output kept?"""
    after, unit = shrunk(instance), int(instance.dag.outputs[0])
    old, new = (hidden_values(instance.dag, t, instance.x)[:, unit] for t in (instance.theta, after))
    swapped = np.argwhere((old[:, None] < old[None, :]) & (new[:, None] > new[None, :]))
    if not len(swapped):
        return Evidence(Verdict.HOLDS)
    n, m = (int(v) for v in swapped[0])
    note = f"output {unit} orders samples {n} and {m} the other way round"

    def document() -> dict[str, Any]:
        values = {net: [quantity("value", net=net, unit=unit, sample=k) for k in (n, m)] for net in ("net", "after")}
        pair = [
            assertion(values["net"][0], "<", values["net"][1]),
            assertion(values["after"][0], ">", values["after"][1]),
        ]
        return witness(note, both_networks(instance, after), pair)

    return Evidence(Verdict.FAILS, note=note, witness=document)


@st.composite
def _perturbed(draw: DrawFn) -> Instance:
    base = draw(mlp_instances(widths((1, 2), 3, max_inputs=2), samples=(1, 4), bound=2))
    noise = integers_array(draw, base.theta.shape, 2) / 4
    return replace(base, extra={"factor": draw(st.sampled_from([0.5, 0.75])), "noise": noise})


SHRINK = Claim(
    id="resets.shrink-and-perturb",
    title="Shrink and perturb leaves the function unchanged",
    source=_SHRINK,
    kind="remark",
    statement=r"\theta' = a\,\theta + \sigma\,\varepsilon,\; 0 < a < 1 \;\Rightarrow\; f_{\theta'}(x_n) = f_\theta(x_n)",
    quantifier="for all",
    assumptions=(Assumption("shrinks", "0 < a < 1", lambda i: 0 < i.extra["factor"] < 1),),
    instances=_perturbed(),
    check=check_shrink,
    expected=Verdict.FAILS,
    proof="No source says it does; the row is the contrast to Continual Backprop, whose replacements can keep the function. "
    "Shrinking alone rescales a net without biases (resets.shrink-homogeneity) and distorts any other; the noise changes every "
    "unit.",
    mutants=(
        Mutant("shrink-only", "without noise the function is unchanged", _shrink_only),
        Mutant("order", "the order of the samples by an output is unchanged", _order_kept),
    ),
)

_FACTORS = (0.5, 0.25, 2.0, 3.0)


def _scaling(instance: Instance, power: Callable[[int], int]) -> Evidence:
    """f(aθ) = a^power f(θ) on the batch, for a net of depth L."""
    dag, factor = instance.dag, instance.extra["factor"]
    exponent = power(dag.depth)
    after = factor * instance.theta
    old, new = (hidden_values(dag, t, instance.x)[:, dag.outputs] for t in (instance.theta, after))
    scale = factor**exponent
    if np.array_equal(scale * old, new):
        return Evidence(Verdict.HOLDS, scale, scale)
    n, k = (int(v) for v in np.argwhere(scale * old != new)[0])
    at: dict[str, Any] = {"unit": int(dag.outputs[k]), "sample": n}
    note = f"f(θ) = {old[n, k]:g}, f({factor:g} θ) = {new[n, k]:g}, a^{exponent} = {scale:g}"

    def document() -> dict[str, Any]:
        scaled = {"product": [number(scale), quantity("value", **at)]}
        return witness(
            note, both_networks(instance, after), [assertion(quantity("value", net="after", **at), "!=", scaled)]
        )

    return Evidence(Verdict.FAILS, new[n, k], scale * old[n, k], None, note, document)


def check_homogeneous(instance: Instance) -> Evidence:
    """f(aθ) = a^L f(θ)."""
    return _scaling(instance, lambda depth: depth)


@st.composite
def _scaled(
    draw: DrawFn, bias: bool = False, activation: str = "relu", factors: tuple[float, ...] = _FACTORS
) -> Instance:
    """An MLP on integers; without biases unless ``bias``."""
    dims: list[int] = draw(widths((1, 2), 3, max_inputs=2))
    dag = mlp(dims, activation, bias)
    theta = integers_array(draw, (dag.num_params,), 3)
    x = integers_array(draw, (draw(st.integers(1, 3)), dims[0]), 4)
    return Instance(dag, theta, x, np.zeros((len(x), dims[-1])), extra={"factor": draw(st.sampled_from(factors))})


def _prove_homogeneous() -> str:
    a = sympy.symbols("a", positive=True)
    z = sympy.symbols("z", real=True)
    relu = (z + sympy.Abs(z)) / 2
    assert sympy.simplify(relu.subs(z, a * z) - a * relu) == 0
    w, h, l = sympy.symbols("w h l")
    assert sympy.simplify((a * w) * (a**l * h) - a ** (l + 1) * (w * h)) == 0
    return "relu(a z) = a relu(z) for a > 0, and (a w)(a^l h) = a^(l+1) w h: one power of a per layer"


_SCALED: SearchStrategy[Instance] = _scaled()

HOMOGENEITY = Claim(
    id="resets.shrink-homogeneity",
    title="Shrinking a ReLU net without biases only rescales its function",
    source=_SHRINK,
    kind="folklore",
    statement=r"f_{a\theta}(x) = a^L f_\theta(x) \quad (a > 0,\ L \text{ layers})",
    quantifier="for all",
    assumptions=(
        Assumption("bias-free", "the net has no biases", lambda i: not i.dag.has_constant),
        Assumption(
            "homogeneous",
            "φ(az) = aφ(z) for a > 0 (ReLU)",
            lambda i: all(i.dag.activation(v) == "relu" for v in i.dag.hidden.tolist()),
        ),
        Assumption("positive", "a > 0", lambda i: i.extra["factor"] > 0),
    ),
    instances=_SCALED,
    check=check_homogeneous,
    expected=Verdict.HOLDS,
    proof="One power of a per layer. So shrinking leaves the predicted classes of such a net alone and flattens its softmax; with "
    "biases the terms of different depth are scaled by different powers, and the function changes its shape.",
    without={
        "bias-free": _scaled(bias=True),
        "homogeneous": _scaled(activation="hard_tanh"),
        "positive": _scaled(factors=(-1.0, -2.0)),
    },
    mutants=(
        Mutant("linear", "f(aθ) = a f(θ)", lambda i: _scaling(i, lambda depth: 1)),
        Mutant("one-less", "f(aθ) = a^(L-1) f(θ)", lambda i: _scaling(i, lambda depth: depth - 1)),
    ),
    certificates=(Certificate("homogeneous", "any depth and width", Strength.SYMBOLIC, Scope.ALL, _prove_homogeneous),),
)

CLAIMS = (REDO, REDO_THRESHOLD, SHRINK, HOMOGENEITY)
