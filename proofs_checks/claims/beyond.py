"""Beyond the papers: claims of ours. A curved manifold that traps, and the rule for optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sympy
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.arithmetic import rational_array
from lop_theory.cloned import cloned_manifold
from lop_theory.dag import Dag
from lop_theory.exact import exact_gradient
from lop_theory.partition import column_equitable, row_equitable
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.barriers_optimizers import off_block_constant, starts
from proofs_checks.claims.barriers_trajectories import exact_gradient_at
from proofs_checks.claims.optimizer_proofs import TRAPPING
from proofs_checks.instances import (
    Instance,
    assertion,
    network_document,
    number,
    quantity,
    witness,
)
from proofs_checks.strategies import mlp_instances, widths

BARRIERS = "2510.00304"
HOMOGENEOUS = ("relu", "abs", "identity")


# -- balancedness ----------------------------------------------------------------------------------------------------------


def balance_form(dag: Dag, theta: np.ndarray, unit: int, bias: bool = True) -> np.ndarray:
    """½ ∂D_v/∂θ [P] of the balance D_v = Σ_in θ² − Σ_out θ²: θ on incoming edges, −θ on outgoing ones."""
    form = rational_array(np.zeros(dag.num_params))
    incoming = dag.incoming(unit)
    if not bias:
        incoming = incoming[dag.source[incoming] != dag.num_inputs]
    for edges, sign in ((incoming, 1), (dag.outgoing(unit), -1)):
        for p in dag.param[edges]:
            form[p] = form[p] + sign * theta[p]
    return form


def _one_sample(instance: Instance, n: int) -> Instance:
    return replace(instance, x=instance.x[n : n + 1], y=instance.y[n : n + 1])


def _tangent_to_balance(bias: bool) -> Any:
    def check(instance: Instance) -> Evidence:
        theta = rational_array(instance.theta)
        for n in range(len(instance.x)):
            sample = _one_sample(instance, n)
            gradient = exact_gradient(sample.dag, theta, sample.x, sample.y)
            for v in instance.dag.hidden:
                form = balance_form(instance.dag, theta, int(v), bias)
                slope = sum((a * g for a, g in zip(form, gradient, strict=True)), fmpq(0))
                if slope != 0:
                    return _moves(sample, int(v), form, slope)
        return Evidence(Verdict.HOLDS, 0, 0, 0, "the gradient of every sample is tangent")

    return check


def _moves(sample: Instance, unit: int, form: np.ndarray, slope: fmpq) -> Evidence:
    note = f"the gradient of one sample changes the balance of unit {unit}: ½ ⟨∇D, ∇ℓ⟩ = {slope}"
    changes = assertion(quantity("gradient_form", coefficients=[number(a) for a in form]), "!=", 0)
    return Evidence(
        Verdict.FAILS, slope, 0, None, note, lambda: witness(note, {"net": network_document(sample)}, [changes])
    )


def _step_keeps_balance(instance: Instance) -> Evidence:
    """A gradient step of size 1/8 keeps D_v (it changes by η² (‖g_in‖² − ‖g_out‖²))."""
    theta = rational_array(instance.theta)
    after = theta - fmpq(1, 8) * exact_gradient_at(instance, theta)
    dag = instance.dag
    for v in dag.hidden:
        balance = [_balance(dag, t, int(v)) for t in (theta, after)]
        if balance[0] != balance[1]:
            return _drifts(instance, int(v), balance)
    return Evidence(Verdict.HOLDS, margin=0)


def _balance(dag: Dag, theta: np.ndarray, unit: int) -> fmpq:
    squares = theta * theta
    incoming, outgoing = (squares[dag.param[e]] for e in (dag.incoming(unit), dag.outgoing(unit)))
    return sum(incoming, fmpq(0)) - sum(outgoing, fmpq(0))


def _drifts(instance: Instance, unit: int, balance: list[fmpq]) -> Evidence:
    dag, note = instance.dag, f"one step of size 1/8 moves the balance of unit {unit} from {balance[0]} to {balance[1]}"

    def document() -> dict[str, Any]:
        training = {"steps": 1, "rate": "1/8", "rule": {"name": "sgd"}}
        terms = []
        for edges, sign in ((dag.incoming(unit), "1"), (dag.outgoing(unit), "-1")):
            for p in dag.param[edges].tolist():
                value = quantity("param_after", index=p, **training)
                terms.append({"product": [sign, value, value]})
        return witness(note, {"net": network_document(instance)}, [assertion({"sum": terms}, "!=", balance[0])])

    return Evidence(Verdict.FAILS, balance[1], balance[0], None, note, document)


@st.composite
def _homogeneous(draw: DrawFn) -> Instance:
    return draw(mlp_instances(widths((1, 2), 3), draw(st.sampled_from(HOMOGENEOUS)), samples=(1, 3)))


def _activations_are_homogeneous(instance: Instance) -> bool:
    return all(instance.dag.activation(int(v)) in HOMOGENEOUS for v in instance.dag.hidden)


def prove_balance() -> str:
    """Σ_in θ ∂ℓ/∂θ = z f'(z) S and Σ_out θ ∂ℓ/∂θ = f(z) S with S = Σ_o v_o δ_o: equal iff z f'(z) = f(z)."""
    z, slope, push = sympy.symbols("z s S", real=True)
    f = slope * z  # either side of the kink at 0 of a piecewise linear f through 0
    gap = sympy.simplify(z * sympy.diff(f, z) * push - f * push)
    if gap != 0:
        raise ValueError(f"the two sums differ by {gap}")
    return "z f'(z) = f(z) on each side of a kink at zero, so both sums agree for every unit, sample, loss and network"


BALANCEDNESS = Claim(
    id="beyond.balancedness",
    title="A curved manifold that traps gradient flow: balanced units",
    source=Source(
        BARRIERS, "v1", "open question on non-linear LoP manifolds", "answer of ours; the conservation law is known"
    ),
    kind="ours",
    statement=r"For units with f(cz) = c f(z), c > 0: the gradient of every sample is tangent to the quadric "
    r"$D_v = \sum_{in} θ^2 − \sum_{out} θ^2 = const$ (the bias counts as incoming). It is curved, so gradient flow stays and "
    r"gradient descent drifts by $η^2(|g_{in}|^2 − |g_{out}|^2)$ per step.",
    quantifier="for all",
    assumptions=(
        Assumption("homogeneous", "hidden activations are linear on each side of zero", _activations_are_homogeneous),
    ),
    instances=_homogeneous(),
    check=_tangent_to_balance(bias=True),
    expected=Verdict.HOLDS,
    proof="Scaling the incoming weights up and the outgoing ones down by the same factor leaves the function as it is; the "
    "derivative of that invariance is ⟨∇D_v, ∇ℓ⟩ = 0.",
    without={"homogeneous": mlp_instances(widths((1, 1), 2), "square", samples=(1, 2))},
    mutants=(
        Mutant("descent", "a gradient step stays on the quadric as well", _step_keeps_balance),
        Mutant("without-bias", "the bias does not count as incoming", _tangent_to_balance(bias=False)),
    ),
    certificates=(
        Certificate(
            "Euler",
            "z f' = f gives equal sums over incoming and outgoing parameters",
            Strength.SYMBOLIC,
            Scope.ALL,
            prove_balance,
        ),
    ),
    depends_on=("barriers.flow-vs-step",),
)


# -- which optimizers trap -------------------------------------------------------------------------------------------------


def _updated(instance: Instance, gradient: np.ndarray) -> np.ndarray:
    """a θ + b θ² + c₁ g + c₂ g² + c₃ g³, elementwise."""
    a, b, *c = instance.extra["rule"]
    theta = rational_array(instance.theta)
    return a * theta + b * theta * theta + sum(k * gradient**p for p, k in enumerate(c, start=1))


def check_trapping(instance: Instance) -> Evidence:
    """Is the updated θ in RE ∩ CE?"""
    dag, partition = instance.dag, instance.extra["partition"]
    gradient = exact_gradient_at(instance, rational_array(instance.theta))
    after = _updated(instance, gradient)
    if row_equitable(dag, after, partition) and column_equitable(dag, after, partition):
        return Evidence(Verdict.HOLDS, margin=0, note="row and column sums stay equal")
    equation = next(e for e in _equations(instance) if sum((w * after[k] for k, w in e.items()), fmpq(0)) != 0)
    off = sum((w * after[k] for k, w in equation.items()), fmpq(0))
    note = f"after the step {_text(equation)} is off by {off}"

    def document() -> dict[str, Any]:
        a, b, *c = instance.extra["rule"]
        terms: list[Any] = []
        for k, w in equation.items():
            value = rational_array(instance.theta)[k]
            terms.append(number(w * (a * value + b * value * value)))
            g = quantity("gradient", index=int(k))
            terms += [{"product": [number(w * coefficient), *[g] * p]} for p, coefficient in enumerate(c, start=1)]
        return witness(note, {"net": network_document(instance)}, [assertion({"sum": terms}, "!=", 0)])

    return Evidence(Verdict.FAILS, off, 0, None, note, document)


def _equations(instance: Instance) -> list[dict[int, fmpq]]:
    subspace = cloned_manifold(instance.dag, instance.extra["partition"])
    return [{int(k): fmpq(int(w.p), int(w.q)) for k, w in row.items()} for row, _ in subspace.equations]


def _text(equation: dict[int, fmpq]) -> str:
    return " + ".join(f"{w}·θ{k}" for k, w in equation.items()) + " = 0"


@st.composite
def _ruled(draw: DrawFn, base: SearchStrategy[Instance], nonlinear: bool) -> Instance:
    instance = draw(base)
    a, c1, c2, c3 = (draw(st.integers(-2, 2)) for _ in range(4))
    rule = tuple(fmpq(v, 2) for v in (a, draw(st.integers(1, 2)) if nonlinear else 0, c1, c2, c3))
    return replace(instance, extra={**instance.extra, "rule": rule})


def _noisy(instance: Instance) -> Evidence:
    """Any map of the gradient will do, also one that differs between coordinates."""
    gradient = exact_gradient_at(instance, rational_array(instance.theta))
    scaled = replace(instance, extra={**instance.extra, "rule": tuple(fmpq(v) for v in (1, 0, 0, 0, 0))})
    after = _updated(scaled, gradient) + gradient * rational_array(np.arange(len(gradient)))
    dag, partition = instance.dag, instance.extra["partition"]
    stays = row_equitable(dag, after, partition) and column_equitable(dag, after, partition)
    verdict = Verdict.HOLDS if stays else Verdict.FAILS
    return Evidence(verdict, note="a rate that differs between coordinates leaves the manifold")


TRAPPING_RULE = Claim(
    id="beyond.trapping-rule",
    title="Which update rules stay on the cloned manifold",
    source=Source(BARRIERS, "v1", "Remark 2.3", "classification of ours"),
    kind="ours",
    statement=r"If the gradient is block constant, θ' = a θ + φ(g, state) with any elementwise φ and any scalar a stays in "
    r"$RE \cap CE$. An elementwise non-linear map of θ does not, off block-constant weights.",
    quantifier="for all",
    assumptions=(Assumption("linear-in-θ", "the rule is linear in θ", lambda i: i.extra["rule"][1] == 0),),
    instances=_ruled(starts(steps=1), nonlinear=False),
    check=check_trapping,
    expected=Verdict.HOLDS,
    proof="An elementwise map of block-constant arrays is block constant; block-constant arrays and multiples of θ lie "
    "in the linear "
    "subspace RE ∩ CE.",
    without={"linear-in-θ": _ruled(off_block_constant(), nonlinear=True)},
    mutants=(
        Mutant(
            "any-rule",
            "θ may also be squared elementwise",
            check_trapping,
            _ruled(off_block_constant(), nonlinear=True),
        ),
        Mutant("any-rate", "each coordinate may have a rate of its own", _noisy),
    ),
    certificates=(TRAPPING,),
    depends_on=("barriers.thm2.1.cloned.repaired",),
    cost=3.0,
)


CLAIMS: Sequence[Claim] = (BALANCEDNESS, TRAPPING_RULE)
