r"""Barriers, the definition: loss-of-plasticity manifolds, and what tangency gives for discrete steps.

Implemented in its sample-wise form: M ⊂ R^P is a LoP manifold if ∇ℓ_n(θ) is tangent to M for every θ ∈ M and every
sample n. If M is affine, then any signed combination of sample gradients keeps θ in M. If M is curved, only the flow stays.

Affine manifolds drawn here: RE ∩ CE, the leaf of a clone, and the fixed incoming parameters of certified frozen units.
Curved ones: the balance Σ (incoming weights)² − Σ (outgoing weights)² = c of a linear or ReLU unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.architectures import mlp
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.cloned import cloned_leaf
from lop_theory.forward import KinkError, error_signals, loss_derivatives, run_forward
from lop_theory.manifolds import AffineSubspace
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.barriers_frozen import declared, frozen_networks
from proofs_checks.claims.barriers_graphs import block_networks, equitable_subspace
from proofs_checks.claims.barriers_proofs import AFFINE_STEP, BALANCE_DRIFT
from proofs_checks.claims.barriers_trajectories import Equation, LevelSet, fixed_coordinates
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array

BARRIERS = "2510.00304"
PROBES = 2  # pseudo-random points of M at which tangency is decided, besides the start


# -- gradients and tangency ------------------------------------------------------------------------------------------


def sample_gradients(instance: Instance, theta: np.ndarray) -> np.ndarray:
    """∇ℓ_n(θ) [N, P] over Q, ℓ_n = ½‖f(x_n) − y_n‖² (networks without tied weights)."""
    dag = instance.dag
    run = run_forward(RATIONALS, dag, theta, rational_array(instance.x))
    slope = loss_derivatives(RATIONALS, run.output, rational_array(instance.y), "mse_sum")[0]
    _, delta = error_signals(RATIONALS, dag, run, slope)
    out = RATIONALS.zeros((len(instance.x), dag.num_params))
    for tile in dag.tiles:
        per_edge = delta[tile.target][:, :, None] * run.h[tile.source][:, None, :]
        rows, columns = np.nonzero(tile.index >= 0)
        out[:, tile.index[rows, columns]] = per_edge[:, rows, columns]
    return out


def manifold(instance: Instance) -> LevelSet:
    """The set M of the instance."""
    found: LevelSet = instance.extra["manifold"]
    return found


def _points(instance: Instance) -> list[np.ndarray]:
    """θ_0 and pseudo-random points of M; for a curved M, of R^P, because its tangency does not depend on the level c."""
    m, generator = manifold(instance), np.random.default_rng(0)
    start = rational_array(instance.theta)
    linear = [(e.linear, e.constant) for e in m.equations] if m.is_affine else []
    space = AffineSubspace.from_equations(len(start), linear)
    return [start, *(space.random_point(generator, exact=True) for _ in range(PROBES))]


def tangent(instance: Instance) -> bool:
    """Are all sample gradients tangent at the start and at pseudo-random points of M? (Kinks are passed over.)

    On each region where the activations are polynomials, a normal component that is not identically zero vanishes at a
    random point with small probability only, so this decides tangency up to that probability.
    """
    for theta in _points(instance):
        try:
            slopes = sample_gradients(instance, theta)
        except KinkError:
            continue
        if not all(manifold(instance).tangent(theta, g) for g in slopes):
            return False
    return True


TANGENT = Assumption("tangent", "∇ℓ_n(θ) is tangent to M for every sample n and every θ in M", tangent)
AFFINE = Assumption("affine", "M is an affine subspace", lambda i: manifold(i).is_affine)


# -- the check -------------------------------------------------------------------------------------------------------


def check_invariance(instance: Instance) -> Evidence:
    """Steps θ ← θ − rate_k Σ_{n ∈ batch_k} ∇ℓ_n(θ) keep θ in M. The witness starts at the last point that is in M."""
    theta = rational_array(instance.theta)
    if manifold(instance).broken(theta) is not None:
        raise ValueError(f"θ_0 is not on {manifold(instance)}; give a start on the manifold")
    try:
        for k, (batch, rate) in enumerate(instance.extra["updates"], start=1):
            nxt = theta - rate * sample_gradients(instance, theta)[list(batch)].sum(axis=0)
            equation = manifold(instance).broken(nxt)
            if equation is not None:
                text = f"step {k} leaves M: {equation} is off by {equation.value(nxt)}"
                return Evidence(
                    Verdict.FAILS, note=text, witness=_leaving(instance, theta, batch, rate, equation, text)
                )
            theta = nxt
    except KinkError as error:
        return Evidence(Verdict.UNDECIDED, note=str(error))
    return Evidence(Verdict.HOLDS)


def _leaving(
    instance: Instance, theta: np.ndarray, batch: tuple[int, ...], rate: fmpq, equation: Equation, text: str
) -> Callable[[], dict[str, Any]]:
    """A witness: θ satisfies every equation of M, and one step on the batch breaks one of them."""

    def document() -> dict[str, Any]:
        here = replace(instance, theta=theta, x=instance.x[list(batch)], y=instance.y[list(batch)])
        train = {"rate": number(rate), "rule": {"name": "sgd"}}
        size = len(theta)
        on = [assertion(e.as_quantity(size, {"steps": 0, **train}), "==", e.constant) for e in manifold(here).equations]
        off = assertion(equation.as_quantity(size, {"steps": 1, **train}), "!=", equation.constant)
        return witness(text, {"net": network_document(here)}, [*on, off])

    return document


# -- instances -------------------------------------------------------------------------------------------------------


def _updates(draw: DrawFn, samples: int, steps: int) -> tuple[tuple[tuple[int, ...], fmpq], ...]:
    """For each step a batch (any subset of the samples, never empty) and a rate of either sign."""
    updates = []
    for _ in range(steps):
        flags = draw(st.integers(1, 2**samples - 1))
        rate = draw(st.sampled_from((fmpq(1), fmpq(-1, 2), fmpq(1, 8))))
        updates.append((tuple(n for n in range(samples) if flags >> n & 1), rate))
    return tuple(updates)


@st.composite
def affine_manifolds(draw: DrawFn) -> Instance:
    """RE ∩ CE, the leaf of a clone, or the fixed incoming parameters of certified frozen units."""
    kind = draw(st.sampled_from(("equitable", "leaf", "frozen")))
    if kind == "frozen":
        instance = draw(frozen_networks(("first", "sign", "bounded")))
        edges = np.flatnonzero(np.isin(instance.dag.target, declared(instance)))
        m = fixed_coordinates(instance.theta, instance.dag.params_of(edges))
    else:
        instance = draw(block_networks(activations=("quadratic", "square")))
        dag, partition = instance.dag, instance.extra["partition"]
        space = (
            equitable_subspace(dag, partition) if kind == "equitable" else cloned_leaf(dag, instance.theta, partition)
        )
        m = LevelSet.affine(space)
    return replace(instance, extra={"kind": kind, "manifold": m, "updates": _updates(draw, len(instance.x), 2)})


@st.composite
def _small_networks(draw: DrawFn, samples: int = 1) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    dag = mlp([1, draw(st.integers(1, 2)), 1], draw(st.sampled_from(("quadratic", "square"))), bias=draw(st.booleans()))
    theta = integers_array(draw, (dag.num_params,), 3)
    return dag, theta, integers_array(draw, (samples, 1), 3), integers_array(draw, (samples, 1), 4)


@st.composite
def tangent_at_one_point(draw: DrawFn) -> Instance:
    """A hyperplane whose normal is orthogonal to the only sample gradient at the start, and nowhere else."""
    dag, theta, x, y = draw(_small_networks())
    bare = Instance(dag, theta, x, y)
    g = sample_gradients(bare, rational_array(theta))[0]
    i, j = 0, draw(st.integers(1, dag.num_params - 1))
    row = {i: g[j], j: -g[i]} if g[i] != 0 or g[j] != 0 else {i: fmpq(1)}
    value = sum((a * fmpq(int(theta[k])) for k, a in row.items()), fmpq(0))
    m = LevelSet((Equation(row, value, {}),))
    return replace(bare, extra={"manifold": m, "updates": (((0,), fmpq(1)), ((0,), fmpq(1)))})


@st.composite
def tangent_for_the_batch(draw: DrawFn) -> Instance:
    """f = w_0 x_0 + w_1 x_1, samples (p, q) and (p, −q): M = {w_1 = (y_0 − y_1) / 2q} is tangent to their sum only.

    ∂(ℓ_0 + ℓ_1)/∂w_1 = q (r_0 − r_1) with r_0 − r_1 = 2 q w_1 − (y_0 − y_1).
    """
    p, a = (float(v) for v in integers_array(draw, (2,), 3))
    q = float(draw(st.integers(1, 3)))
    y = integers_array(draw, (2, 1), 4)
    level = fmpq(int(y[0, 0] - y[1, 0]), int(2 * q))
    m = LevelSet((Equation({1: fmpq(1)}, level, {}),))
    batch = draw(st.sampled_from(((0, 1), (0,), (1,))))
    theta = np.array([fmpq(int(a)), level], dtype=object)
    extra = {"manifold": m, "updates": ((batch, fmpq(1)),)}
    return Instance(mlp([2, 1], bias=False), theta, np.array([[p, q], [p, -q]]), y, extra=extra)


@st.composite
def balance_manifolds(draw: DrawFn, rates: tuple[fmpq, ...] = (fmpq(1), fmpq(1, 8))) -> Instance:
    """The level set of Σ in² − Σ out² of one hidden linear or ReLU unit through θ_0, and one full-batch step.

    Tangent for every sample: Σ_in w ∂ℓ/∂w = δ_v z_v and Σ_out w ∂ℓ/∂w = h_v ∂ℓ/∂h_v are equal if z f'(z) = f(z).
    """
    activation = draw(st.sampled_from(("identity", "relu")))
    dag = mlp([draw(st.integers(1, 2)), draw(st.integers(1, 2)), 1], activation, bias=draw(st.booleans()))
    n = draw(st.integers(1, 2))
    theta = integers_array(draw, (dag.num_params,), 3)
    x, y = integers_array(draw, (n, dag.num_inputs), 3), integers_array(draw, (n, 1), 4)
    unit = int(dag.hidden[0])
    squares = {int(p): fmpq(1) for p in dag.params_of(dag.incoming(unit))}
    squares |= {int(p): fmpq(-1) for p in dag.params_of(dag.outgoing(unit))}
    level = sum((s * fmpq(int(theta[k])) ** 2 for k, s in squares.items()), fmpq(0))
    m = LevelSet((Equation({}, level, squares),))
    updates = ((tuple(range(n)), draw(st.sampled_from(rates))),)
    return Instance(dag, theta, x, y, extra={"manifold": m, "updates": updates})


@st.composite
def _balanced(draw: DrawFn) -> Instance:
    """|bias| = |outgoing weight| and x = 0: in a linear unit ‖g_in‖ = ‖g_out‖, and the step stays."""
    w, b, y = (float(v) for v in integers_array(draw, (3,), 4))
    theta, dag = np.array([w, b, b, 0.0]), mlp([1, 1, 1], "identity")
    m = LevelSet((Equation({}, fmpq(int(w)) ** 2, {0: fmpq(1), 1: fmpq(1), 2: fmpq(-1)}),))
    extra = {"manifold": m, "updates": (((0,), fmpq(1)),)}
    return Instance(dag, theta, np.array([[0.0]]), np.array([[y]]), extra=extra)


def _full_batch(instance: Instance) -> Instance:
    """The same manifold under full-batch gradient descent."""
    everything = tuple(range(len(instance.x)))
    updates = tuple((everything, abs(rate)) for _, rate in instance.extra["updates"])
    return replace(instance, extra={**instance.extra, "updates": updates})


# -- mutants ---------------------------------------------------------------------------------------------------------


@st.composite
def _whole_space(draw: DrawFn) -> Instance:
    dag, theta, x, y = draw(_small_networks())
    return Instance(dag, theta, x, y, extra={"manifold": LevelSet(()), "updates": (((0,), fmpq(1)),)})


def _check_informative(instance: Instance) -> Evidence:
    """A manifold that satisfies the definition excludes directions in which the loss decreases."""
    slopes = sample_gradients(instance, rational_array(instance.theta)).sum(axis=0)
    moving = np.flatnonzero(slopes != 0)
    if manifold(instance).equations or not len(moving):
        return Evidence(Verdict.HOLDS)
    text = "Θ itself satisfies the definition: every gradient is tangent to it, and no direction is excluded"
    lines = [
        assertion(quantity("num_params"), "==", instance.dag.num_params),
        assertion(quantity("gradient", index=int(moving[0])), "!=", 0),
    ]
    return Evidence(Verdict.FAILS, note=text, witness=lambda: witness(text, {"net": network_document(instance)}, lines))


@st.composite
def _critical_point(draw: DrawFn) -> Instance:
    """M = {θ_0} with targets that θ_0 fits exactly."""
    dag, theta, x, _ = draw(_small_networks())
    fit = run_forward(RATIONALS, dag, rational_array(theta), rational_array(x)).output
    m = fixed_coordinates(theta, range(dag.num_params))
    return Instance(dag, theta, x, fit, extra={"manifold": m, "updates": (((0,), fmpq(1)),)})


def _check_harmful(instance: Instance) -> Evidence:
    """A manifold that satisfies the definition keeps the loss positive."""
    slopes = sample_gradients(instance, rational_array(instance.theta))
    output = run_forward(RATIONALS, instance.dag, rational_array(instance.theta), rational_array(instance.x)).output
    if not tangent(instance) or (output != rational_array(instance.y)).any():
        return Evidence(Verdict.HOLDS)
    text = "a single critical point satisfies the definition, here with loss 0: nothing is left to learn"
    lines = [assertion(quantity("loss"), "==", 0)]
    lines += [assertion(quantity("gradient", index=k), "==", 0) for k in range(slopes.shape[1])]
    return Evidence(Verdict.FAILS, note=text, witness=lambda: witness(text, {"net": network_document(instance)}, lines))


def _check_always_leaves(instance: Instance) -> Evidence:
    """A step with a gradient that is not zero leaves a curved manifold."""
    theta = rational_array(instance.theta)
    (batch, rate), *_ = instance.extra["updates"]
    try:
        slopes = sample_gradients(instance, theta)[list(batch)].sum(axis=0)
    except KinkError as error:
        return Evidence(Verdict.UNDECIDED, note=str(error))
    nxt = theta - rate * slopes
    touched = [k for e in manifold(instance).equations for k in e.squares if slopes[k] != 0]
    if not touched or manifold(instance).broken(nxt) is not None:
        return Evidence(Verdict.HOLDS)
    text = f"θ{touched[0]} moves and the balance stays"
    train: dict[str, Any] = {"steps": 1, "rate": number(rate), "rule": {"name": "sgd"}}
    lines = [assertion(e.as_quantity(len(theta), train), "==", e.constant) for e in manifold(instance).equations]
    lines.append(assertion(quantity("param_after", index=touched[0], **train), "!=", theta[touched[0]]))
    return Evidence(Verdict.FAILS, note=text, witness=lambda: witness(text, {"net": network_document(instance)}, lines))


# -- claims ----------------------------------------------------------------------------------------------------------

_NOT_TANGENT: SearchStrategy[Instance] = st.one_of(tangent_at_one_point(), tangent_for_the_batch())

DEFINITION = Claim(
    id="barriers.def2.1",
    title="LoP manifolds stay invariant",
    source=Source(BARRIERS, "v1", "Definition 2.1", "implemented sample by sample, which is stronger"),
    kind="definition",
    statement=r"Let $M$ be affine and $\nabla_\theta \ell(\theta; x_n, y_n) \in T M$ for every $\theta \in M$ and every "
    r"sample $n$. Then $\theta - \sum_n s_n \nabla \ell_n(\theta) \in M$ for all real $s$, and so for every sequence of "
    r"(stochastic) gradient steps of any size, sign, order and batch.",
    quantifier="for all",
    assumptions=(TANGENT, AFFINE),
    instances=affine_manifolds(),
    check=check_invariance,
    expected=Verdict.HOLDS,
    proof="With M = {Aθ = c}: A(θ − Σ s_n ∇ℓ_n) = c − Σ s_n A∇ℓ_n = c. The definition alone says little: Θ itself satisfies "
    "it, and so does every critical point (two of the mutants); it is informative where it holds for all data.",
    without={"tangent": _NOT_TANGENT, "affine": balance_manifolds()},
    mutants=(
        Mutant("one point", "tangency at the start is enough", check_invariance, tangent_at_one_point()),
        Mutant(
            "full batch", "tangency of the sum over all samples is enough", check_invariance, tangent_for_the_batch()
        ),
        Mutant("informative", "a LoP manifold excludes some direction", _check_informative, _whole_space()),
        Mutant("harmful", "on a LoP manifold the loss stays positive", _check_harmful, _critical_point()),
    ),
    certificates=(AFFINE_STEP,),
)

FLOW_VERSUS_STEP = Claim(
    id="barriers.flow-vs-step",
    title="Tangency gives invariance under gradient steps on affine manifolds",
    source=Source(BARRIERS, "v2", "Remark 2.1"),
    kind="remark",
    statement=r"If every sample gradient is tangent to $M$ everywhere on $M$ and $M$ is affine, gradient descent with any "
    r"step size stays on $M$. For a curved $M$ only the gradient flow does: on the balance $\sum w_{in}^2 - \sum w_{out}^2$ "
    r"of a linear or ReLU unit a step of size $\eta$ adds $\eta^2 (\|\nabla_{in} L\|^2 - \|\nabla_{out} L\|^2)$.",
    quantifier="for all",
    assumptions=(AFFINE, TANGENT),
    instances=affine_manifolds().map(_full_batch),
    check=check_invariance,
    expected=Verdict.HOLDS,
    proof="Affine: as for the definition. Curved: Σ w ∂L/∂w over the incoming and over the outgoing weights are equal for "
    "every sample (the unit is homogeneous), so the term linear in η vanishes and the quadratic one remains.",
    without={"affine": balance_manifolds(), "tangent": tangent_at_one_point().map(_full_batch)},
    mutants=(
        Mutant(
            "small steps",
            "on a curved M steps of size 1/1024 stay",
            check_invariance,
            balance_manifolds((fmpq(1, 1024),)),
        ),
        Mutant("always leaves", "every step that moves θ leaves a curved M", _check_always_leaves, _balanced()),
    ),
    certificates=(AFFINE_STEP, BALANCE_DRIFT),
    depends_on=("barriers.def2.1",),
)

CLAIMS = (DEFINITION, FLOW_VERSUS_STEP)
