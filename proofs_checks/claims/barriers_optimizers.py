r"""Barriers, optimizers: which update rules keep a cloned network on RE ∩ CE (Remark 2.3 of v1, Remark 2.4 of v2).

At a point of RE ∩ CE the gradient is block constant (BC). RE ∩ CE is a *linear* subspace that contains BC. So a rule stays
if its step is (elementwise map of block-constant states) + (multiple of θ): this covers momentum and Adam, and weight decay
as long as it is not pushed through an elementwise non-linear map. A rule that applies such a map to θ itself (Adam with
coupled decay, ℓ1, clipping of weights) stays only from a start in BC; untied noise, masks or buffers always leave.

The rules run over Q, on whole networks. A square root that is irrational is rounded down to a multiple of 2⁻³⁰: the
rounding is itself an elementwise map, so the statement about the rule is not changed. For the rules that stay, the same
functions also run 20 steps in float64; a residual above 10⁻⁶ makes the instance undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flint import fmpq, fmpz
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import FLOATS, RATIONALS, Arithmetic, rational_array
from lop_theory.forward import gradient
from lop_theory.partition import block_constant, block_pairs
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.barriers_cloning import BIREGULAR, CE, RE, equations_at_start
from proofs_checks.claims.barriers_graphs import block_networks, equitable_subspace, network, partition_of
from proofs_checks.claims.barriers_quotients import two_copies
from proofs_checks.claims.barriers_trajectories import RATE, LevelSet
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array

BARRIERS = "2510.00304"
Array = np.ndarray
State = tuple[Array, ...]
Step = Callable[["Calculus", Any, Array, Array, State], tuple[Array, State]]


# -- numbers ---------------------------------------------------------------------------------------------------------


def _floor_root(value: fmpq) -> fmpq:
    """√value if rational, else rounded down to a multiple of 2⁻³⁰.

    >>> _floor_root(fmpq(9, 4)), _floor_root(fmpq(2)) ** 2 < 2
    (3/2, True)
    """
    p, q = fmpz(value.p).isqrt(), fmpz(value.q).isqrt()
    if p * p == value.p and q * q == value.q:
        return fmpq(p, q)
    return fmpq((value.p * fmpz(1 << 60) // value.q).isqrt(), 1 << 30)


@dataclass(frozen=True)
class Calculus:
    """The elementwise maps that the rules use, over one number system."""

    ops: Arithmetic
    root: Callable[[Array], Array]
    number: Callable[[fmpq], Any]

    def sign(self, a: Array) -> Array:
        one = self.number(fmpq(1))
        return np.where(a > 0, one, np.where(a < 0, -one, 0 * one))

    def clamp(self, a: Array, bound: fmpq) -> Array:
        limit = self.number(bound)
        return np.where(a > limit, limit, np.where(a < -limit, -limit, a))


EXACT = Calculus(RATIONALS, np.frompyfunc(_floor_root, 1, 1), lambda c: c)
FLOAT64 = Calculus(FLOATS, np.sqrt, lambda c: int(c.p) / int(c.q))


# -- update rules: (calculus, η, θ, g, state) → (θ, state); a state starts at zero -----------------------------------------

MOMENTUM, DECAY, L1, BOUND = fmpq(1, 2), fmpq(1, 2), fmpq(1, 2), fmpq(3, 4)
KEEP_FIRST, KEEP_SECOND = fmpq(1, 2), fmpq(3, 4)  # β₁ and β₂; 1 − β₂ is a square, so that the first root is exact
EPSILON = fmpq(1, 16)


def sgd(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """θ − η g."""
    return theta - rate * g, state


def heavy_ball(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """v ← μ v + g, θ − η v."""
    v = c.number(MOMENTUM) * state[0] + g
    return theta - rate * v, (v,)


def nesterov(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """v ← μ v + g, θ − η (g + μ v)."""
    v = c.number(MOMENTUM) * state[0] + g
    return theta - rate * (g + c.number(MOMENTUM) * v), (v,)


def adagrad(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """s ← s + g², θ − η g / (√s + ε)."""
    s = state[0] + g * g
    return theta - rate * g / (c.root(s) + c.number(EPSILON)), (s,)


def rmsprop(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """s ← β₂ s + (1 − β₂) g², θ − η g / (√s + ε)."""
    a = c.number(KEEP_SECOND)
    s = a * state[0] + (1 - a) * g * g
    return theta - rate * g / (c.root(s) + c.number(EPSILON)), (s,)


def _moments(c: Calculus, g: Array, state: State) -> tuple[Array, Array, Array, State]:
    """Mean m and raw v of g², 1 − β₂ᵏ, and the state (raw m, raw v, 1 − β₁ᵏ, 1 − β₂ᵏ); the last two are constant arrays."""
    a, b = c.number(KEEP_FIRST), c.number(KEEP_SECOND)
    m, v = a * state[0] + (1 - a) * g, b * state[1] + (1 - b) * g * g
    weights = a * state[2] + (1 - a), b * state[3] + (1 - b)
    return m / weights[0], v, weights[1], (m, v, *weights)


def adam(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """θ − η m̂ / (√v̂ + ε) with bias-corrected m̂ and v̂."""
    m, v, weight, moments = _moments(c, g, state)
    return theta - rate * m / (c.root(v / weight) + c.number(EPSILON)), moments


def amsgrad(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """Adam with the largest raw v so far in place of v."""
    m, v, weight, moments = _moments(c, g, state[:4])
    largest = np.where(v > state[4], v, state[4])
    return theta - rate * m / (c.root(largest / weight) + c.number(EPSILON)), (*moments, largest)


def clip_value(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """θ − η clamp(g)."""
    return theta - rate * c.clamp(g, BOUND), state


def clip_norm(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """θ − η min(1, bound / ‖g‖) g."""
    return theta - rate * _norm_factor(c, g) * g, state


def _norm_factor(c: Calculus, g: Array) -> Any:
    """min(1, bound / ‖g‖)."""
    norm = c.root(np.array([(g * g).sum()]))[0]
    return c.number(BOUND) / norm if norm > c.number(BOUND) else c.number(fmpq(1))


def clip_weights(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """clamp(θ − η g)."""
    return c.clamp(theta - rate * g, BOUND), state


def coupled(step: Step) -> Step:
    """Weight decay as part of the gradient: g + λ θ."""
    return lambda c, rate, theta, g, state: step(c, rate, theta, g + c.number(DECAY) * theta, state)


def decoupled(step: Step) -> Step:
    """Weight decay beside the step: θ ← (1 − rate · λ) θ."""
    return lambda c, rate, theta, g, state: step(c, rate, theta - rate * c.number(DECAY) * theta, g, state)


def lasso(step: Step) -> Step:
    """ℓ1 penalty: g + λ sign θ."""
    return lambda c, rate, theta, g, state: step(c, rate, theta, g + c.number(L1) * c.sign(theta), state)


# -- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One row. ``stays``: "equitable" from all of RE ∩ CE, "block" from BC only, "never". ``states``: number of arrays.

    ``disturbance`` is what the instances hold in ``extra``: "noise", "buffer", "unit masks" or "block masks".
    """

    name: str
    title: str
    step: Step
    states: int
    stays: str
    disturbance: str

    @property
    def spec(self) -> dict[str, Any]:
        """The rule as the independent checker names it; for Adagrad and AMSGrad, whose first step is Adam's, Adam."""
        return _SPECS[self.name]

    @property
    def known_steps(self) -> int:
        """How many steps the independent checker computes exactly."""
        return 99 if self.spec["name"] == "sgd" and self.name != "clip-norm" else 1


# fmt: off
RULES = (
    #    row                        title                                step                states  stays   disturbance
    Rule("sgd",                     "SGD",                               sgd,                  0, "equitable", ""),
    Rule("momentum",                "Momentum, tied buffers",            heavy_ball,           1, "equitable", ""),
    Rule("nesterov",                "Nesterov momentum",                 nesterov,             1, "equitable", ""),
    Rule("adagrad",                 "Adagrad",                           adagrad,              1, "equitable", ""),
    Rule("rmsprop",                 "RMSprop",                           rmsprop,              1, "equitable", ""),
    Rule("adam",                    "Adam",                              adam,                 4, "equitable", ""),
    Rule("amsgrad",                 "AMSGrad",                           amsgrad,              5, "equitable", ""),
    Rule("sgd-l2",                  "SGD with weight decay",             coupled(sgd),         0, "equitable", ""),
    Rule("momentum-l2",             "Momentum with weight decay",        coupled(heavy_ball),  1, "equitable", ""),
    Rule("adamw",                   "AdamW: decoupled weight decay",     decoupled(adam),      4, "equitable", ""),
    Rule("clip-value",              "SGD, gradient clipped by value",    clip_value,           0, "equitable", ""),
    Rule("clip-norm",               "SGD, gradient clipped by norm",     clip_norm,            0, "equitable", ""),
    Rule("dropout-tied",            "SGD, one dropout mask per block",   sgd,                  0, "equitable", "block masks"),
    Rule("adam-l2",                 "Adam with coupled weight decay",    coupled(adam),        4, "block",     ""),
    Rule("rmsprop-l2",              "RMSprop with coupled weight decay", coupled(rmsprop),     1, "block",     ""),
    Rule("l1",                      "SGD with an ℓ1 penalty",            lasso(sgd),           0, "block",     ""),
    Rule("weight-clipping",         "SGD with clipped weights",          clip_weights,         0, "block",     ""),
    Rule("gradient-noise",          "SGD with gradient noise",           sgd,                  0, "never",     "noise"),
    Rule("dropout-independent",     "SGD, one dropout mask per unit",    sgd,                  0, "never",     "unit masks"),
    Rule("momentum-untied-buffers", "Momentum with buffers from before", heavy_ball,           1, "never",     "buffer"),
)
# fmt: on


def _spec(name: str, **constants: Any) -> dict[str, Any]:
    return {"name": name, **{k: v if isinstance(v, bool) else number(v) for k, v in constants.items()}}


_SPECS: dict[str, dict[str, Any]] = {
    **{rule.name: _spec("sgd") for rule in RULES},
    **{name: _spec("sgd", momentum=MOMENTUM) for name in ("momentum", "momentum-untied-buffers")},
    "nesterov": _spec("sgd", momentum=MOMENTUM, nesterov=True),
    "sgd-l2": _spec("sgd", weight_decay=DECAY),
    "momentum-l2": _spec("sgd", momentum=MOMENTUM, weight_decay=DECAY),
    "clip-value": _spec("sgd", clip_value=BOUND),
    "l1": _spec("sgd", l1=L1),
    "weight-clipping": _spec("sgd", weight_clip=BOUND),
    **{name: _spec("adam", eps=EPSILON) for name in ("adagrad", "adam", "amsgrad")},
    "adamw": _spec("adam", eps=EPSILON, weight_decay=DECAY, decoupled=True),
    "adam-l2": _spec("adam", eps=EPSILON, weight_decay=DECAY),
    "rmsprop": _spec("rmsprop", alpha=KEEP_SECOND, eps=EPSILON),
    "rmsprop-l2": _spec("rmsprop", alpha=KEEP_SECOND, eps=EPSILON, weight_decay=DECAY),
}


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
        rate = rate * _norm_factor(EXACT, probe[0] - probe[1])
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
