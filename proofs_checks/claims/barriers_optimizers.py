r"""Barriers, optimizers: which update rules keep a cloned network on RE ∩ CE (Remark 2.3 of v1, Remark 2.4 of v2).

At a point of RE ∩ CE the gradient is block constant (BC). RE ∩ CE is a *linear* subspace that contains BC. So a rule stays
if its step is (elementwise map of block-constant states) + (multiple of θ): this covers momentum and Adam, and weight decay
as long as it is not pushed through an elementwise non-linear map. A rule that applies such a map to θ itself (Adam with
coupled decay, ℓ1, clipping of weights) stays only from a start in BC; untied noise, masks or buffers always leave.

The rules (``optimizer_rules``) run over Q, on whole networks. For the rules that stay, the same functions also run 20 steps
in float64, where a residual above 10⁻⁶ makes the instance undecided, and one step on classes of arrays, which proves that they
stay (``optimizer_proofs``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import rational_array
from lop_theory.forward import gradient
from lop_theory.partition import block_constant, block_pairs
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.barriers_cloning import BIREGULAR, CE, RE, equations_at_start
from proofs_checks.claims.barriers_graphs import block_networks, equitable_subspace, network, partition_of
from proofs_checks.claims.barriers_quotients import two_copies
from proofs_checks.claims.barriers_trajectories import RATE, LevelSet
from proofs_checks.claims.optimizer_proofs import stays_certificate
from proofs_checks.claims.optimizer_rules import BOUND, EXACT, FLOAT64, RULES, Calculus, Rule, State
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array

BARRIERS = "2510.00304"
Array = np.ndarray


# -- training --------------------------------------------------------------------------------------------------------


def trajectory(rule: Rule, instance: Instance, calculus: Calculus, steps: int, theta: Array, rate: Any) -> list[Array]:
    """[θ_0, …, θ_steps] of the rule on the full batch, with the instance's mask, noise and buffer.

    A mask c multiplies h_u by c_u. It is a change of weights, w_uv → c_u w_uv, so the gradient is c_u · ∂L/∂w_uv there.
    """
    dag, extra, ops = instance.dag, instance.extra, calculus.ops
    zero = theta * 0
    scale, noise = zero + 1, zero
    if "mask" in extra:
        scale = scale * ops.convert(
            np.asarray([extra["mask"].get(int(u), 1) for u in dag.source])[np.argsort(dag.param)]
        )
    if "noise" in extra:
        noise = noise + ops.convert(np.asarray(extra["noise"], dtype=np.float64))
    x, y = ops.convert(instance.x), ops.convert(instance.y)
    state: State = tuple(zero for _ in range(rule.states))
    if "velocity" in extra:
        state = (ops.convert(np.asarray(extra["velocity"], dtype=np.float64)), *state[1:])
    path = [theta]
    for _ in range(steps):
        slopes = scale * gradient(dag, scale * path[-1], x, y, instance.kind, ops)
        theta, state = rule.step(calculus, rate, path[-1], slopes + noise, state)
        path.append(theta)
    return path


def _training(rule: Rule, instance: Instance, steps: int) -> dict[str, Any]:
    """The training as arguments of a witness quantity; clipping by norm is a step at another rate."""
    extra, rate = instance.extra, RATE
    if rule.name == "clip-norm" and steps:
        theta = rational_array(instance.theta)
        probe = trajectory(_PLAIN, instance, EXACT, 1, theta, fmpq(1))
        rate = rate * EXACT.norm_factor(probe[0] - probe[1], BOUND)
    arguments: dict[str, Any] = {"steps": steps, "rate": number(rate), "rule": rule.spec}
    if "velocity" in extra:
        arguments["velocity"] = [number(v) for v in extra["velocity"]]
    if "noise" in extra:
        arguments["grad_noise"] = [number(v) for v in extra["noise"]]
    if "mask" in extra:
        arguments["unit_mask"] = {str(u): number(c) for u, c in extra["mask"].items()}
    return arguments


_PLAIN = RULES[0]
FLOAT_STEPS, FLOAT_TOLERANCE = 20, 1e-6


def float_residual(rule: Rule, instance: Instance) -> float:
    """Largest violation of an equation of RE ∩ CE after 20 steps in float64, from θ / 8 and data / 4."""
    theta = rational_array(instance.theta).astype(np.float64) / 8
    small = replace(instance, x=instance.x / 4, y=instance.y / 4)
    theta = trajectory(rule, small, FLOAT64, FLOAT_STEPS, theta, 1 / 64)[-1]
    rows = equitable_subspace(instance.dag, instance.extra["partition"]).equations
    sums = [abs(sum(int(a) * theta[k] for k, a in row.items())) for row, _ in rows]
    return float(max(sums, default=0.0))


# -- checks ----------------------------------------------------------------------------------------------------------


def _stays(rule: Rule, floats: bool = False, rows: bool = True) -> Callable[[Instance], Evidence]:
    """Is θ on RE ∩ CE (CE, if not ``rows``) after every step? With ``floats`` also, up to rounding, in float64."""

    def check(instance: Instance) -> Evidence:
        manifold = LevelSet.affine(equitable_subspace(instance.dag, instance.extra["partition"], rows))
        path = trajectory(rule, instance, EXACT, instance.extra["steps"], rational_array(instance.theta), RATE)
        for k, theta in enumerate(path[1:], start=1):
            equation = manifold.broken(theta)
            if equation is not None:
                text = f"{rule.title}: after step {k} the equation {equation} is off by {equation.value(theta)}"
                form = equation.as_quantity(len(theta), _training(rule, instance, k))
                known = k <= rule.known_steps
                return _refuted(instance, text, assertion(form, "!=", equation.constant) if known else None)
        if floats and not (residual := float_residual(rule, instance)) <= FLOAT_TOLERANCE:
            return Evidence(
                Verdict.UNDECIDED, observed=residual, note=f"residual {residual:.1e} after 20 float64 steps"
            )
        return Evidence(Verdict.HOLDS)

    return check


def _refuted(instance: Instance, text: str, line: dict[str, Any] | None) -> Evidence:
    """A refutation; without a witness if the independent checker does not know that step of the rule."""
    if line is None:
        return Evidence(Verdict.FAILS, note=text)

    def document() -> dict[str, Any]:
        return witness(text, {"net": network_document(instance)}, [*equations_at_start(instance), line])

    return Evidence(Verdict.FAILS, note=text, witness=document)


def _keeps_leaf(rule: Rule) -> Callable[[Instance], Evidence]:
    """Is θ_1 − θ_0 block constant?"""

    def check(instance: Instance) -> Evidence:
        start, end = trajectory(rule, instance, EXACT, 1, rational_array(instance.theta), RATE)
        moved = end - start
        for pair in block_pairs(instance.dag, instance.extra["partition"]):
            first, *others = instance.dag.param[pair.edges].tolist()
            for k in others:
                if moved[k] != moved[first]:
                    form = [str(int(p == k) - int(p == first)) for p in range(len(moved))]
                    left = quantity("form_after", coefficients=form, **_training(rule, instance, 1))
                    text = f"{rule.title}: one step moves θ{k} by {moved[k]} and θ{first} of the same pair by {moved[first]}"
                    return _refuted(instance, text, assertion(left, "!=", start[k] - start[first]))
        return Evidence(Verdict.HOLDS)

    return check


def _leaves(rule: Rule) -> Callable[[Instance], Evidence]:
    """As printed: weight decay breaks the symmetry. A run that has moved and is on RE ∩ CE at its end refutes it."""
    stays = _stays(rule)

    def check(instance: Instance) -> Evidence:
        path = trajectory(rule, instance, EXACT, 1, rational_array(instance.theta), RATE)
        moved = np.flatnonzero(path[0] != path[1])
        if stays(instance).verdict is Verdict.FAILS or not len(moved):
            return Evidence(Verdict.HOLDS)
        text = f"{rule.title}: a step with weight decay moves θ and keeps it in RE ∩ CE"

        def document() -> dict[str, Any]:
            manifold = LevelSet.affine(equitable_subspace(instance.dag, instance.extra["partition"]))
            training = _training(rule, instance, 1)
            lines = [assertion(e.as_quantity(len(path[0]), training), "==", e.constant) for e in manifold.equations]
            k = int(moved[0])
            lines.append(assertion(quantity("param_after", index=k, **training), "!=", path[0][k]))
            return witness(text, {"net": network_document(instance)}, [*equations_at_start(instance), *lines])

        return Evidence(Verdict.FAILS, note=text, witness=document)

    return check


# -- starts ----------------------------------------------------------------------------------------------------------


def _disturbed(draw: DrawFn, instance: Instance, kind: str) -> Instance:
    """With one draw of gradient noise, an initial momentum buffer, or factors 0 or 2 on the hidden activations."""
    dag, extra = instance.dag, dict(instance.extra)
    if kind in ("noise", "buffer"):
        extra["noise" if kind == "noise" else "velocity"] = integers_array(draw, (dag.num_params,), 1)
    elif kind:
        blocks = [b for b in extra["partition"].blocks if b[0] >= dag.first_computed and b[0] not in dag.outputs]
        groups = blocks if kind == "block masks" else [(u,) for block in blocks for u in block]
        dropped = integers_array(draw, (len(groups),), 1) != 0
        extra["mask"] = {u: 0 if off else 2 for group, off in zip(groups, dropped, strict=True) for u in group}
    return replace(instance, extra=extra)


@st.composite
def starts(draw: DrawFn, kind: str = "equitable", disturbance: str = "", steps: int = 2) -> Instance:
    """A block network at a point of RE ∩ CE or, if ``kind`` is "block", of BC, with a realised disturbance."""
    instance = draw(block_networks())
    dag, partition, theta = instance.dag, instance.extra["partition"], instance.theta
    if kind == "block":
        pairs = block_pairs(dag, partition)
        theta = np.zeros(dag.num_params)
        for pair, value in zip(pairs, integers_array(draw, (len(pairs),), 3), strict=True):
            theta[dag.param[pair.edges]] = value
    extra = {"partition": partition, "steps": steps}
    return _disturbed(draw, replace(instance, theta=theta, extra=extra), disturbance)


@st.composite
def small_starts(draw: DrawFn, disturbance: str = "") -> Instance:
    """Two copies of one unit, disturbed; one step."""
    return _disturbed(draw, draw(two_copies()), disturbance)


@st.composite
def _off_equitable(draw: DrawFn) -> Instance:
    """Two copies, one of them with another outgoing weight."""
    instance = draw(two_copies())
    theta = instance.theta.copy()
    theta[-1] = theta[-1] + 1
    return replace(instance, theta=theta)


@st.composite
def off_block_constant(draw: DrawFn) -> Instance:
    """input → 2 copies → 3 copies → output, in RE ∩ CE, the middle weights [[b+s, b−s, b], [b−s, b+s, b]]; one step.

    A 2 × 2 pair would not do: its equitable matrices are [[p, q], [q, p]], which every elementwise map preserves.
    """
    edges = [(0, 1), (0, 2), *((u, v) for v in (3, 4, 5) for u in (1, 2)), (3, 6), (4, 6), (5, 6)]
    dag = network(1, False, ("square",) * 5 + ("identity",), tuple(edges), 1)
    a, b, c, s, x, y = integers_array(draw, (6,), 3)
    s = s if s != 0 else 1.0
    theta = rational_array([a, a, b + s, b - s, b - s, b + s, b, b, c, c, c])
    extra = {"partition": partition_of(dag, ((1, 2), (3, 4, 5))), "steps": 1}
    return Instance(dag, theta, np.array([[x]]), np.array([[y]]), extra=extra)


@st.composite
def _irregular(draw: DrawFn, kind: str) -> Instance:
    """input → {1, 2} → {3, 4} → output without the edge 2 → 4: RE and CE force the middle weights 0, b, b; one step."""
    edges = ((0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (3, 5), (4, 5))
    dag = network(1, False, ("quadratic",) * 4 + ("identity",), edges, 1)
    a, b, c, x, y = integers_array(draw, (5,), 3)
    b = 0.0 if kind == "block" else b
    extra = {"partition": partition_of(dag, ((1, 2), (3, 4))), "steps": 1}
    return Instance(dag, rational_array([a, a, 0, b, b, c, c]), np.array([[x]]), np.array([[y]]), extra=extra)


def _in_block_constant(instance: Instance) -> bool:
    return block_constant(instance.dag, instance.theta, instance.extra["partition"])


def _undisturbed(instance: Instance) -> bool:
    """Noise and buffers are block constant, masks constant on blocks."""
    dag, extra = instance.dag, instance.extra
    arrays = [extra[k] for k in ("noise", "velocity") if k in extra]
    masks = extra.get("mask", {})
    tied = all(len({masks.get(u, 1) for u in block}) == 1 for block in extra["partition"].blocks)
    return tied and all(block_constant(dag, a, extra["partition"]) for a in arrays)


START = Assumption("equitable start", "θ_0 is in RE ∩ CE", lambda i: RE.holds(i) and CE.holds(i))
BLOCK_CONSTANT_START = Assumption(
    "block-constant start", "all weights of a block pair are equal at the start", _in_block_constant
)
TIED = Assumption("tied", "noise, dropout masks and optimizer buffers are equal on copies", _undisturbed)


# -- claims ----------------------------------------------------------------------------------------------------------

_WHY = {
    "equitable": "The gradient is block constant and so is every state; an elementwise map of block-constant arrays is block "
    "constant, and BC and the multiples of θ lie in the linear subspace RE ∩ CE.",
    "block": "From a start in BC everything stays block constant, because the rule is elementwise. Off BC the rule applies a "
    "non-linear elementwise map to θ, which keeps the equitable matrices [[p, q], [q, p]] of a 2 × 2 pair, but not larger ones.",
    "never": "The step is a block-constant part plus an arbitrary one, which need not have equal row or column sums.",
}
_NOISE, _MASKS, _BUFFERS = (small_starts(kind) for kind in ("noise", "unit masks", "buffer"))


def _mutants(rule: Rule) -> tuple[Mutant, ...]:
    found = [
        Mutant("noise", "independent noise in the gradient does no harm", _stays(rule), _NOISE),
        Mutant("masks", "independent dropout masks of the copies do no harm", _stays(rule), _MASKS),
    ]
    if rule.spec.get("momentum") is not None:
        found.append(Mutant("buffers", "the buffers may differ at the start", _stays(rule), _BUFFERS))
    if rule.spec.get("weight_decay") is not None and rule.stays == "equitable":
        text = "θ moves in the leaf θ_0 + BC"
        found.append(Mutant("leaf", text, _keeps_leaf(rule), off_block_constant()))
    return tuple(found)


def _statement(rule: Rule) -> str:
    start = "BC" if rule.stays == "block" else r"RE \cap CE"
    return rf"{rule.title}, started at a point of ${start}$ of a network with C1 – C4, keeps $\theta$ on $RE \cap CE$."


def _row(rule: Rule) -> Claim:
    """The claim of one row."""
    common: dict[str, Any] = {
        "id": f"barriers.optimizers.{rule.name}",
        "title": rule.title,
        "kind": "remark",
        "statement": _statement(rule),
        "quantifier": "for all",
        "proof": _WHY[rule.stays],
        "depends_on": ("barriers.thm2.1.cloned.repaired",),
        "cost": 3,
    }
    source = Source(BARRIERS, "v1", "Remark 2.3 (v2: Remark 2.4)", "one row of ours for each update rule")
    if rule.stays == "never":
        return Claim(
            source=source,
            assumptions=(START, BIREGULAR),
            instances=st.one_of(small_starts(rule.disturbance), starts(disturbance=rule.disturbance, steps=1)),
            check=_stays(rule),
            expected=Verdict.FAILS,
            mutants=(
                Mutant(
                    "from block-constant weights",
                    "from a start in BC it stays",
                    _stays(rule),
                    small_starts(rule.disturbance),
                ),
                Mutant(
                    "columns only", "column equitability, and so equal activations, survives", _stays(rule, rows=False)
                ),
            ),
            **common,
        )
    start = BLOCK_CONSTANT_START if rule.stays == "block" else START
    return Claim(
        source=source,
        assumptions=(start, BIREGULAR, TIED),
        instances=starts(rule.stays, rule.disturbance),
        check=_stays(rule, floats=True),
        expected=Verdict.HOLDS,
        without={
            start.name: off_block_constant() if rule.stays == "block" else _off_equitable(),
            "biregular": _irregular(rule.stays),
            "tied": _NOISE,
        },
        mutants=_mutants(rule),
        certificates=(stays_certificate(rule),),
        **common,
    )


DECAY_BREAKS = Claim(
    id="barriers.optimizers.weight-decay-breaks",
    title="Weight decay breaks the symmetry, as printed",
    source=Source(BARRIERS, "v1", "Remark 2.3 (v2: Remark 2.4)", "read as: such a rule leaves the manifold"),
    kind="remark",
    statement=r"Weight decay is the exception among the optimizers: training with it leaves $RE \cap CE$.",
    quantifier="for all",
    assumptions=(START, BIREGULAR),
    instances=st.one_of(off_block_constant(), starts(steps=1)),
    check=_leaves(next(r for r in RULES if r.name == "sgd-l2")),
    expected=Verdict.FAILS,
    proof="RE ∩ CE is a linear subspace: θ − ηλθ stays in it. What changes is the leaf θ_0 + BC. Only decay that passes "
    "through the elementwise non-linearity of Adam or RMSprop leaves RE ∩ CE, and only from a start off BC.",
    mutants=tuple(
        Mutant(name, text, _leaves(next(r for r in RULES if r.name == name)), instances)
        for name, text, instances in (
            ("adamw", "decoupled weight decay leaves RE ∩ CE", off_block_constant()),
            ("adam-l2", "coupled weight decay in Adam leaves RE ∩ CE also from BC", two_copies()),
        )
    ),
)

CLAIMS: tuple[Claim, ...] = (*(_row(rule) for rule in RULES), DECAY_BREAKS)
