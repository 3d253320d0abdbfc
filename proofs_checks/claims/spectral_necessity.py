"""Spectral Collapse, the limits of the dead-unit bound (4): is rank at the start of a task necessary for learning it?

"τ-trainability", rank H(θ₀) ≥ ρ, is asserted to be necessary. It is refuted twice at the weakest threshold ρ = 1: for the
ε-rank with the logistic loss, whose curvature vanishes where its gradient is largest, and for the exact rank with a
polynomial unit, where the Gauss–Newton part and the residual part cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import BALLS, RATIONALS, to_fmpq
from lop_theory.dag import Dag
from lop_theory.exact import ball_hessian, exact_hessian
from lop_theory.forward import gradient, run_forward
from lop_theory.rank import exact_rank
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import integers_array

_SOURCE = Source(
    "2509.22335", "v1", "Definition 5.2", "τ-trainability as a necessary condition, reconstructed from reviews"
)
SGD = {"name": "sgd"}

# -- necessity: ε-rank and the logistic loss -------------------------------------------------------------------------------

BITS = 192
EPSILON = fmpq(1, 10**9)


def _single_unit(inputs: int, activation: str, rival: bool) -> Dag:
    """One trainable output unit without bias; ``rival`` adds an output that is fixed at 0 (logistic loss)."""
    source, target, param = list(range(inputs)), [inputs] * inputs, list(range(inputs))
    if rival:
        source, target, param = [*source, 0], [*target, inputs + 1], [*param, -1]
    names, fixed = (activation, "identity")[: 1 + rival], {inputs: 0} if rival else None
    outputs = np.arange(inputs, inputs + 1 + rival)
    return Dag(inputs, False, names, np.array(source), np.array(target), np.array(param), outputs, fixed)


def train(instance: Instance, ops: Any) -> list[Any]:
    """Parameters after the gradient steps of ``extra`` (rate, steps), in the number system ``ops``."""
    theta = ops.convert(instance.theta)
    for _ in range(instance.extra["steps"]):
        slope = gradient(instance.dag, theta, instance.x, instance.y, instance.kind, ops)
        theta = theta - ops.convert(np.array([to_fmpq(instance.extra["rate"])], dtype=object)) * slope
    return list(theta)


def _training(instance: Instance) -> dict[str, Any]:
    return {"steps": instance.extra["steps"], "rate": str(to_fmpq(instance.extra["rate"])), "rule": SGD}


def _logits(instance: Instance, theta: Any) -> tuple[arb, arb]:
    """The two logits of the one sample."""
    output = run_forward(BALLS, instance.dag, BALLS.convert(theta), BALLS.convert(instance.x)).output
    return output[0, 0], output[0, 1]


def _in_balls(work: Callable[[Instance], Any]) -> Callable[[Instance], Any]:
    def wrapped(instance: Instance) -> Any:
        before, ctx.prec = ctx.prec, BITS
        try:
            return work(instance)
        finally:
            ctx.prec = before

    return wrapped


@_in_balls
def collapsed(instance: Instance) -> bool:
    """Is rank_ε(H) = 0 for ε = 1e−9? Proved by the Frobenius norm, which bounds every |λ|."""
    H = ball_hessian(instance.dag, instance.theta, instance.x, instance.y, instance.kind, BITS)
    return bool(sum((entry * entry for entry in H.ravel()), arb(0)) < arb(EPSILON) ** 2)


@_in_balls
def check_necessity(instance: Instance) -> Evidence:
    """Is the sample still misclassified after the steps?"""
    ours, rival = _logits(instance, train(instance, BALLS))
    note = (
        f"ε-rank 0 at the start, logit margin {float((ours - rival).mid()):.3g} after {instance.extra['steps']} steps"
    )
    if ours < rival:
        return Evidence(Verdict.HOLDS, note=note)
    if not ours > rival:
        return Evidence(Verdict.UNDECIDED, note=note)
    return Evidence(Verdict.FAILS, note=note, witness=lambda: _necessity_witness(instance, note))


def _necessity_witness(instance: Instance, note: str) -> dict[str, Any]:
    size = instance.dag.num_params
    entries = [quantity("hessian", i=i, j=j) for i in range(size) for j in range(size)]
    flat = assertion({"sum": [{"product": [entry, entry]} for entry in entries]}, "<", EPSILON**2)
    first, second = (int(v) for v in instance.dag.outputs)
    wrong = assertion(quantity("value", unit=first, sample=0), "<", quantity("value", unit=second, sample=0))
    after = [quantity("value", unit=unit, sample=0, **_training(instance)) for unit in (first, second)]
    return witness(
        f"{note}: trained without curvature",
        {"net": network_document(instance)},
        [flat, wrong, assertion(after[0], ">", after[1])],
    )


@_in_balls
def _gradient_vanishes(instance: Instance) -> Evidence:
    """Is the gradient at the start as small as the curvature?"""
    slope = gradient(instance.dag, BALLS.convert(instance.theta), instance.x, instance.y, instance.kind, BALLS)
    size = max(abs(g) for g in slope)
    note = f"ε-rank 0, largest gradient entry {float(size.mid()):.3g}"
    if size < arb(EPSILON):
        return Evidence(Verdict.HOLDS, note=note)

    def document() -> dict[str, Any]:
        entries = [{"abs": quantity("gradient", index=i)} for i in range(instance.dag.num_params)]
        return witness(note, {"net": network_document(instance)}, [assertion({"max": entries}, ">", EPSILON)])

    return Evidence(Verdict.FAILS, note=note, witness=document)


def _first_step_useless(instance: Instance) -> Evidence:
    """Does the first step leave the sample at least as wrong as it was?"""
    return _in_balls(_margin_grows)(replace(instance, extra={**instance.extra, "steps": 1}))


def _margin_grows(instance: Instance) -> Evidence:
    before, after = (a - b for a, b in (_logits(instance, instance.theta), _logits(instance, train(instance, BALLS))))
    note = f"logit margin {float(before.mid()):.3g} before and {float(after.mid()):.3g} after one step"
    return Evidence(Verdict.FAILS if after > before else Verdict.HOLDS, note=note)


@st.composite
def _confidently_wrong(draw: DrawFn) -> Instance:
    """Logistic regression on one sample of class 0 whose logit is −22 or less; η ≤ 4 < 8 = 2 / max curvature at |x| = 1."""
    inputs = draw(st.integers(1, 2))
    extra = {"rate": draw(st.sampled_from([1.0, 2.0, 4.0])), "steps": draw(st.integers(1, 60))}
    theta = integers_array(draw, (inputs,), 2)
    theta[0] = -22.0 - draw(st.integers(0, 20))
    x = np.zeros((1, inputs))
    x[0, 0] = 1.0
    return Instance(_single_unit(inputs, "identity", True), theta, x, np.array([0]), "cross_entropy", extra)


@_in_balls
def _starts_wrong(instance: Instance) -> bool:
    ours, rival = _logits(instance, instance.theta)
    return bool(ours < rival)


NECESSITY = Claim(
    id="spectral.necessity",
    title="Curvature at the start of a task is necessary for learning it (ε-rank)",
    source=_SOURCE,
    kind="remark",
    statement=r"\operatorname{rank}_\varepsilon \nabla^2 L(\theta_0) < \rho \;\Rightarrow\; "
    r"\text{training fails. At } \rho = 1,\ \varepsilon = 10^{-9}\text{: a sample that is misclassified at } \theta_0 "
    r"\text{ is so after every number } K \text{ of stable gradient steps}",
    quantifier="for all",
    assumptions=(
        Assumption("collapsed", "every Hessian eigenvalue at θ₀ is at most 1e−9 in size", collapsed),
        Assumption("starts-wrong", "the sample is misclassified at θ₀", _starts_wrong),
        Assumption(
            "stable",
            "the step size is below 2 / max curvature = 8 / |x|²",
            lambda i: i.extra["rate"] * (i.x**2).sum() < 8,
        ),
    ),
    instances=_confidently_wrong(),
    check=check_necessity,
    expected=Verdict.FAILS,
    proof="The logistic loss ln(1 + e^-z) has curvature σ(z) σ(-z), about e^z at z << 0, while its slope is -σ(-z), about "
    "-1: gradient descent moves at full speed through the flat part. From z = -40 with η = 1 the sample is right after 41 steps. "
    "Confidently wrong logits are exactly what a new task finds. Dead units are different: they lose the gradient as well.",
    mutants=(
        Mutant("gradient-vanishes", "where the curvature is gone, so is the gradient", _gradient_vanishes),
        Mutant("first-step", "without curvature the first step does not help", _first_step_useless),
    ),
    cost=2,
)

# -- necessity: exact rank and a polynomial unit ---------------------------------------------------------------------------

TOLERANCE = fmpq(1, 1000)


def _loss(instance: Instance, theta: Any) -> fmpq:
    output = run_forward(RATIONALS, instance.dag, RATIONALS.convert(theta), RATIONALS.convert(instance.x)).output
    return sum(((f - to_fmpq(y)) ** 2 for f, y in zip(output.ravel(), instance.y.ravel(), strict=True)), fmpq(0)) / 2


def hessian_is_zero(instance: Instance) -> bool:
    """Is the exact rank of the Hessian at θ₀ zero?"""
    return exact_rank(exact_hessian(instance.dag, instance.theta, instance.x, instance.y)) == 0


def check_necessity_exact(instance: Instance) -> Evidence:
    """Is the loss after the steps still above a thousandth of what it was?"""
    start, end = _loss(instance, instance.theta), _loss(instance, train(instance, RATIONALS))
    note = (
        f"exact rank 0, loss {float(start):.3g} at the start and {float(end):.3g} after {instance.extra['steps']} steps"
    )
    if end > TOLERANCE * start:
        return Evidence(Verdict.HOLDS, note=note)

    def document() -> dict[str, Any]:
        none = assertion(quantity("hessian_rank"), "==", 0)
        less = assertion(quantity("loss", **_training(instance)), "<=", {"product": [str(TOLERANCE), quantity("loss")]})
        positive = assertion(quantity("loss"), ">", 0)
        return witness(f"{note}: trained from rank 0", {"net": network_document(instance)}, [none, less, positive])

    return Evidence(Verdict.FAILS, note=note, witness=document)


def _critical(instance: Instance) -> Evidence:
    """Is a point with zero Hessian a critical point?"""
    slope = gradient(instance.dag, instance.theta, instance.x, instance.y, instance.kind, RATIONALS)
    if not any(slope):
        return Evidence(Verdict.HOLDS, note="the gradient is zero")

    def document() -> dict[str, Any]:
        entries = [{"abs": quantity("gradient", index=i)} for i in range(instance.dag.num_params)]
        facts = [assertion(quantity("hessian_rank"), "==", 0), assertion({"max": entries}, ">", 0)]
        return witness("zero Hessian, non-zero gradient", {"net": network_document(instance)}, facts)

    return Evidence(Verdict.FAILS, note=f"zero Hessian, gradient {[str(g) for g in slope]}", witness=document)


def _stays_collapsed(instance: Instance) -> Evidence:
    """Is the rank still zero after one step?"""
    after = train(replace(instance, extra={**instance.extra, "steps": 1}), RATIONALS)
    rank = exact_rank(exact_hessian(instance.dag, after, instance.x, instance.y))
    return Evidence(Verdict.FAILS if rank else Verdict.HOLDS, rank, 0, note=f"rank {rank} after one step from rank 0")


@st.composite
def _flat_points(draw: DrawFn) -> Instance:
    """One unit f = z + z²/2 with z = w·x, one sample, and the target at which the curvature is exactly zero.

    H = (f′² + (f − y) f″) x xᵀ with f′ = 1 + z, f″ = 1, so y = f + (1 + z)². Rate: eighths up to 2 over |x|² (1 + z)²
    (a scale-free step), so that one or two steps may land near a minimum.
    """
    inputs = draw(st.integers(1, 2))
    theta, x = integers_array(draw, (inputs,), 2), integers_array(draw, (1, inputs), 2)
    x[0, 0] = x[0, 0] or 1.0
    z = float(x[0] @ theta)
    if z == -1:
        theta[0] += 1
        z = float(x[0] @ theta)
    rate = draw(st.integers(1, 16)) / fmpq(8) / to_fmpq(float((x**2).sum() * (1 + z) ** 2))
    y = np.array([[z + z * z / 2 + (1 + z) ** 2]])
    return Instance(
        _single_unit(inputs, "quadratic", False), theta, x, y, extra={"rate": rate, "steps": draw(st.integers(1, 3))}
    )


NECESSITY_EXACT = Claim(
    id="spectral.necessity.exact",
    title="Rank of the Hessian at the start of a task is necessary for learning it (exact rank)",
    source=_SOURCE,
    kind="remark",
    statement=r"\operatorname{rank}\nabla^2 L(\theta_0) < \rho \;\Rightarrow\; L(\theta_K) > v\,L(\theta_0) "
    r"\quad (\rho = 1,\ v = 10^{-3},\ \text{gradient descent})",
    quantifier="for all",
    assumptions=(
        Assumption("rank-zero", "the Hessian at θ₀ is the zero matrix", hessian_is_zero),
        Assumption(
            "something-to-learn", "the loss at θ₀ is positive", lambda instance: _loss(instance, instance.theta) > 0
        ),
    ),
    instances=_flat_points(),
    check=check_necessity_exact,
    expected=Verdict.FAILS,
    proof="The Gauss-Newton part and the residual part can cancel: f'² + (f - y) f'' = 0 while the gradient (f - y) f' is "
    "not zero. An inflection point of the loss is no obstacle for gradient descent, whatever positive threshold ρ is.",
    mutants=(
        Mutant("critical", "a zero Hessian means a zero gradient", _critical),
        Mutant("stays", "rank that is lost stays lost", _stays_collapsed),
    ),
)

CLAIMS = (NECESSITY, NECESSITY_EXACT)
