"""What a run on an online stream is: one frozen record, checked when it is made, from which the command line is derived."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["ACTIVATIONS", "ALGORITHMS", "DEFAULTS", "STREAMS", "Online"]

# Positions of activations, optimisers and flips are the codes of kernels.py; an algorithm stands beside its code.
STREAMS = ("bit-flipping", "slowly-changing-regression")
ACTIVATIONS = ("relu", "leaky-relu", "tanh", "sigmoid", "elu", "swish", "linear")
OPTIMIZERS = ("sgd", "adam")
ALGORITHMS = {"bp": 0, "l2": 0, "cbp": 1, "cbp-published-bitflip": 2}
FLIPS = ("one", "all")
PROBES = ("uniform", "stream")
DTYPES = ("float32", "float64")
MOST = {"seeds": 10**5, "hidden": 10**6, "target_units": 10**6, "probe": 10**6}  # more are a slip of the pen
CHOICES: dict[str, Any] = {
    "stream": STREAMS, "algorithm": ALGORITHMS, "activation": ACTIVATIONS, "optimizer": OPTIMIZERS, "flip": FLIPS,
    "probe_from": PROBES, "dtype": DTYPES,
}  # fmt: skip

# The hyper-parameters that an algorithm uses beside the step size, with their defaults.
CBP = {"replacement_rate": 1e-4, "maturity": 100, "decay": 0.99, "switch": 0.0, "weight_decay": 0.0}
DEFAULTS: dict[str, dict[str, float]] = {
    "bp": {},
    "l2": {"weight_decay": 1e-2},  # the best of 10⁻⁴ … 10⁻¹ for ReLU and step size .01
    "cbp": CBP,
    "cbp-published-bitflip": CBP,
}

LEAK, BETA1, BETA2, ADAM_EPS = 0.01, 0.9, 0.999, 1e-8  # defaults of torch, which all published runs keep
GAINS = {"relu": math.sqrt(2), "leaky-relu": math.sqrt(2 / (1 + LEAK**2)), "tanh": 5 / 3, "elu": math.sqrt(2),
         "swish": math.sqrt(2), "sigmoid": 1.0, "linear": 1.0}  # fmt: skip


def _option(default: Any, text: str, kind: type | None = None) -> Any:
    return field(default=default, metadata={"kind": kind or type(default), "help": text})


@dataclass(frozen=True)
class Online:
    """One run: ``seeds`` replicas, from ``seed`` on, of one learner on one stream.

    The defaults are the published bit flipping (2510.00304; step 0.01, H = 5) except for the number of steps (there
    5·10⁶). ``stream`` sets what that code and Dohare's differ in: "bit-flipping" has 21 inputs, of which the last is a
    constant 1, and σ = −1 in the thresholds (see kernels.py); "slowly-changing-regression" has 20 inputs and σ = +1.
    ``flip`` = "one" slow bit per period is what both papers print; the figure in the README of Dohare's code comes from
    "all". A period plays the part of a task.

    A hyper-parameter that is None is the algorithm's own; one that the algorithm does not use must stay None.

    >>> Online(algorithm="cbp").maturity
    100
    >>> Online(hidden=0)
    Traceback (most recent call last):
    ...
    ValueError: hidden = 0; it counts something and must be at least 1
    """

    stream: str = "bit-flipping"
    algorithm: str = _option("bp", f"one of {', '.join(ALGORITHMS)}")
    hidden: int = _option(5, "width of the hidden layer")
    activation: str = _option("relu", f"one of {', '.join(ACTIVATIONS)}")
    optimizer: str = _option("sgd", f"one of {', '.join(OPTIMIZERS)}")
    step_size: float = _option(0.01, "step size of the optimiser")
    weight_decay: float | None = _option(None, "l2, cbp: λθ is added to the gradient, biases included", float)
    steps: int = _option(1_000_000, "examples, which come one at a time; --tasks N is N flip periods")
    switch: float | None = _option(None, "cbp: plain backprop for this share of the steps, cbp from then on", float)
    replacement_rate: float | None = _option(None, "cbp: share of the mature units replaced per step", float)
    maturity: int | None = _option(None, "cbp: steps that a unit is protected for", int)
    decay: float | None = _option(None, "cbp: decay of the running utility", float)
    flip: str = _option("one", "slow bits that change from period to period: one flips, or all are redrawn")
    bits: int = _option(20, "input bits")
    slow: int = _option(15, "slow bits among them")
    flip_period: int = _option(10_000, "examples between two flips")
    target_units: int = _option(100, "threshold units of the target network")
    beta: float = _option(0.7, "threshold of the target's units, as a share of their inputs")
    seeds: int = _option(30, "number of replicas; they advance together")
    seed: int = _option(0, "seed of the first replica")
    every: int = _option(10_000, "examples from one record to the next")
    probe: int = _option(128, "inputs that features are measured on")
    probe_from: str = _option("uniform", "uniform inputs, or those of the stream at random times")
    dtype: str = _option("float32", "float32 or float64")

    def __post_init__(self) -> None:
        self._check_kinds()
        self._fill_in()
        for name in ("hidden", "steps", "bits", "flip_period", "target_units", "seeds", "every", "probe"):
            self._need(name, getattr(self, name) >= 1, "it counts something and must be at least 1")
        for name, most in MOST.items():
            self._need(name, getattr(self, name) <= most, f"it decides what is in memory: give at most {most}")
        self._need("seed", 0 <= self.seed <= 2**63 - self.seeds, "the seeds are whole numbers from 0 to 2**63 - 1")
        for name in ("step_size", "beta"):
            self._need(name, 0 < getattr(self, name) < math.inf, "give a positive finite number")
        self._need("slow", 1 <= self.slow < self.bits, f"give 1 to {self.bits - 1}: at least one bit is fast")
        self._need("bits", self.bits - self.slow <= 12 and self.bits <= 63,
                   "at most 63, and at most 12 of them fast: the targets of all fast bits are tabulated")  # fmt: skip
        self._need("steps", self.steps % self.every == 0,
                   f"give a multiple of every = {self.every}, or an every that divides it")  # fmt: skip
        self._check_algorithm()
        if self.activation == "linear" and (self.hidden, self.algorithm) not in ((1, "bp"), (1, "l2")):
            raise ValueError(
                f"activation = 'linear' with hidden = {self.hidden}, algorithm = {self.algorithm!r}: "
                "the linear baseline has no hidden layer; give hidden = 1 and algorithm = 'bp'"
            )

    def _check_kinds(self) -> None:
        for item in fields(self):
            value, kind = getattr(self, item.name), item.metadata.get("kind", str)
            if type(value) is not kind and not (kind is float and type(value) is int) and value is not item.default:
                raise TypeError(f"{item.name} = {value!r} is of type {type(value).__name__}; give a {kind.__name__}")
            self._need(item.name, type(value) is not int or abs(value) < 2**63, "give a number that is less than 2**63")
            if kind is float and value is not None:
                object.__setattr__(self, item.name, float(value))  # 1 and 1.0 are one configuration
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")

    def _fill_in(self) -> None:
        """The algorithm's defaults for what it uses; an error for what it does not."""
        used = DEFAULTS[self.algorithm]
        for name in ("weight_decay", *CBP):
            if name not in used:
                self._need(name, getattr(self, name) is None,
                           f"algorithm {self.algorithm!r} does not use it: leave it out or choose another algorithm")  # fmt: skip
            elif getattr(self, name) is None:
                object.__setattr__(self, name, used[name])

    def _check_algorithm(self) -> None:
        if self.weight_decay is not None:
            self._need("weight_decay", 0 <= self.weight_decay < math.inf, "give a finite number that is not negative")
        if not self.replaces:
            return
        self._need("replacement_rate", 0 < self.replacement_rate <= 1, "give a share of the mature units, in (0, 1]")  # type: ignore[operator]
        self._need("decay", 0 < self.decay < 1, "a running average needs a decay strictly between 0 and 1")  # type: ignore[operator]
        self._need("switch", 0 <= self.switch < 1, "give the share of the steps before the switch, in [0, 1)")  # type: ignore[operator]
        left = self.steps - self.cbp_from
        self._need("maturity", 0 <= self.maturity < left,  # type: ignore[operator]
                   f"units are tested for {left} steps only, so none would ever be replaced; lower it")  # fmt: skip

    def _need(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} = {getattr(self, name)}; {rule}")

    @property
    def replaces(self) -> bool:
        """Whether the algorithm replaces units."""
        return DEFAULTS[self.algorithm] is CBP

    @property
    def records(self) -> int:
        """Rows of a seed."""
        return self.steps // self.every

    @property
    def inputs(self) -> int:
        """I: the bits, and in bit flipping a constant 1 (beside the bias of each unit, as published)."""
        return self.bits + (self.stream == "bit-flipping")

    @property
    def cbp_from(self) -> int:
        """The first step t at which units are tested; the published bit-flipping code asks t > max(0, switch · steps)."""
        share = self.switch or 0.0
        if self.algorithm == "cbp-published-bitflip":
            return math.floor(share * self.steps) + 1
        return math.ceil(share * self.steps)

    @property
    def init_bound(self) -> float:
        """New incoming weights are uniform on ± gain · √(3 / I) (Kaiming)."""
        return GAINS[self.activation] * math.sqrt(3 / self.inputs)
