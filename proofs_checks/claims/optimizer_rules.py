r"""Update rules as functions over any number system: the table that the claims about optimizers range over.

A rule is written once, over a :class:`Calculus`: exact rationals and float64 (here), or classes of arrays
(``optimizer_proofs``, where one abstract step proves what the rule keeps). A square root that is irrational is rounded down to
a multiple of 2⁻³⁰: the rounding is itself an elementwise map, so statements about elementwise rules are not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import fmpq, fmpz

from lop_theory.arithmetic import FLOATS, RATIONALS, Arithmetic
from proofs_checks.instances import number

Array = Any  # np.ndarray, or a class of arrays
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

    def larger(self, a: Array, b: Array) -> Array:
        return np.where(a > b, a, b)

    def norm_factor(self, g: Array, bound: fmpq) -> Any:
        """min(1, bound / ‖g‖)."""
        limit, norm = self.number(bound), self.root(np.array([(g * g).sum()]))[0]
        return limit / norm if norm > limit else self.number(fmpq(1))


EXACT = Calculus(RATIONALS, np.frompyfunc(_floor_root, 1, 1), lambda c: c)
FLOAT64 = Calculus(FLOATS, np.sqrt, lambda c: int(c.p) / int(c.q))


# -- update rules: (calculus, η, θ, g, state) → (θ, state); a state starts at zero -----------------------------------------

MOMENTUM, WEIGHT_DECAY, L1, BOUND = fmpq(1, 2), fmpq(1, 2), fmpq(1, 2), fmpq(3, 4)
BETA1, BETA2 = fmpq(1, 2), fmpq(3, 4)  # 1 − β₂ is a square, so that the first root is exact
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
    a = c.number(BETA2)
    s = a * state[0] + (1 - a) * g * g
    return theta - rate * g / (c.root(s) + c.number(EPSILON)), (s,)


def _moments(c: Calculus, g: Array, state: State) -> tuple[Array, Array, Array, State]:
    """Mean m and raw v of g², 1 − β₂ᵏ, and the state (raw m, raw v, 1 − β₁ᵏ, 1 − β₂ᵏ); the last two are constant arrays."""
    a, b = c.number(BETA1), c.number(BETA2)
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
    largest = c.larger(v, state[4])
    return theta - rate * m / (c.root(largest / weight) + c.number(EPSILON)), (*moments, largest)


def clip_value(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """θ − η clamp(g)."""
    return theta - rate * c.clamp(g, BOUND), state


def clip_norm(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """θ − η min(1, bound / ‖g‖) g."""
    return theta - rate * c.norm_factor(g, BOUND) * g, state


def clip_weights(c: Calculus, rate: Any, theta: Array, g: Array, state: State) -> tuple[Array, State]:
    """clamp(θ − η g)."""
    return c.clamp(theta - rate * g, BOUND), state


def coupled(step: Step) -> Step:
    """Weight decay as part of the gradient: g + λ θ."""
    return lambda c, rate, theta, g, state: step(c, rate, theta, g + c.number(WEIGHT_DECAY) * theta, state)


def decoupled(step: Step) -> Step:
    """Weight decay beside the step: θ ← (1 − rate · λ) θ."""
    return lambda c, rate, theta, g, state: step(c, rate, theta - rate * c.number(WEIGHT_DECAY) * theta, g, state)


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
    "sgd-l2": _spec("sgd", weight_decay=WEIGHT_DECAY),
    "momentum-l2": _spec("sgd", momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
    "clip-value": _spec("sgd", clip_value=BOUND),
    "l1": _spec("sgd", l1=L1),
    "weight-clipping": _spec("sgd", weight_clip=BOUND),
    **{name: _spec("adam", eps=EPSILON) for name in ("adagrad", "adam", "amsgrad")},
    "adamw": _spec("adam", eps=EPSILON, weight_decay=WEIGHT_DECAY, decoupled=True),
    "adam-l2": _spec("adam", eps=EPSILON, weight_decay=WEIGHT_DECAY),
    "rmsprop": _spec("rmsprop", alpha=BETA2, eps=EPSILON),
    "rmsprop-l2": _spec("rmsprop", alpha=BETA2, eps=EPSILON, weight_decay=WEIGHT_DECAY),
}
