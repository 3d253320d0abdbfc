"""What a run of bit flipping is: one frozen record, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

__all__ = ["ACTIVATIONS", "ALGORITHMS", "Online"]

# Positions of activations, optimisers, algorithms and flips are the codes of kernels.py.
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "elu", "swish", "linear")
OPTIMIZERS = ("sgd", "adam")
ALGORITHMS = ("bp", "cbp", "cbp_published_bitflip")
PROTOCOLS = ("bit-flipping", "slowly-changing-regression")
FLIPS = ("one", "all")
PROBES = ("uniform", "stream")
DTYPES = ("float32", "float64")
CHOICES = {
    "algorithm": ALGORITHMS, "activation": ACTIVATIONS, "optimizer": OPTIMIZERS, "protocol": PROTOCOLS, "flip": FLIPS,
    "probe": PROBES, "dtype": DTYPES,
}  # fmt: skip

LEAK, BETA1, BETA2, ADAM_EPS = 0.01, 0.9, 0.999, 1e-8  # defaults of torch, which all published runs keep
GAINS = {"relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + LEAK**2)), "tanh": 5 / 3, "elu": math.sqrt(2),
         "swish": math.sqrt(2), "sigmoid": 1.0, "linear": 1.0}  # fmt: skip


@dataclass(frozen=True)
class Online:
    """One run: ``seeds`` replicas, from ``first_seed`` on, of one learner on one stream.

    The defaults are the published bit flipping (2510.00304; step 0.01, H = 5) except for the number of steps (there
    5·10⁶). ``protocol`` sets what that code and Dohare's differ in: the former has 21 inputs, of which the last is a
    constant 1, and σ = −1 in the thresholds (see kernels.py); the latter has 20 inputs and σ = +1. ``flip`` = "one"
    slow bit per period is what both papers print; the figure in the README of Dohare's code comes from "all".

    >>> Online(hidden=0)
    Traceback (most recent call last):
    ...
    ValueError: hidden = 0; it counts something and must be at least 1
    """

    algorithm: str = "bp"
    hidden: int = 5
    activation: str = "relu"
    optimizer: str = "sgd"
    step_size: float = 0.01
    weight_decay: float = 0.0  # L2: λθ is added to the gradient, biases included
    steps: int = 1_000_000
    switch: float = 0.0  # plain backprop for this share of the steps, the algorithm from then on
    replacement_rate: float = 1e-4  # ρ
    maturity: int = 100  # m
    decay: float = 0.99  # η
    protocol: str = "bit-flipping"
    flip: str = "one"
    bits: int = 20
    slow: int = 15
    period: int = 10_000
    target_units: int = 100
    beta: float = 0.7
    seeds: int = 30
    first_seed: int = 0
    every: int = 10_000  # steps from one record to the next
    probe: str = "uniform"  # or "stream": inputs at random times of the run, as in the code of 2510.00304
    probe_size: int = 128
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise TypeError(f"{field.name} = {value!r} is of type {type(value).__name__}; give a {kind.__name__}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        for name in ("hidden", "steps", "bits", "period", "target_units", "seeds", "every", "probe_size"):
            self._need(name, getattr(self, name) >= 1, "it counts something and must be at least 1")
        for name in ("step_size", "replacement_rate", "beta"):
            self._need(name, 0 < getattr(self, name) < math.inf, "give a positive finite number")
        self._need("weight_decay", 0 <= self.weight_decay < math.inf, "give a finite number that is not negative")
        self._need("first_seed", 0 <= self.first_seed < 2**63, "give a whole number from 0 to 2**63 - 1")
        self._need("slow", 1 <= self.slow < self.bits, f"give 1 to {self.bits - 1}: at least one bit is fast")
        self._need("bits", self.bits - self.slow <= 12 and self.bits <= 63,
                   "at most 63, and at most 12 of them fast: the targets of all fast bits are tabulated")  # fmt: skip
        self._need("switch", 0 <= self.switch < 1, "give the share of the steps before the switch, in [0, 1)")
        self._need("decay", 0 < self.decay < 1, "a running average needs a decay strictly between 0 and 1")
        self._need("replacement_rate", self.replacement_rate <= 1, "it is a share of the mature units, at most 1")
        self._need("steps", self.steps % self.every == 0, f"it must be a multiple of every = {self.every}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.algorithm == "bp":
            self._need(
                "switch", self.switch == 0, "backprop has nothing to switch to; choose an algorithm or switch = 0"
            )
        else:
            left = self.steps - self.cbp_from
            self._need("maturity", 0 <= self.maturity < left,
                       f"units are tested for {left} steps only, so none would ever be replaced; lower it")  # fmt: skip
        if self.activation == "linear" and (self.hidden, self.algorithm) != (1, "bp"):
            raise ValueError(
                f"activation = 'linear' with hidden = {self.hidden}, algorithm = {self.algorithm!r}: "
                "the linear baseline has no hidden layer; give hidden = 1 and algorithm = 'bp'"
            )

    def _need(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} = {getattr(self, name)}; {rule}")

    @property
    def inputs(self) -> int:
        """I: the bits, and in the bit-flipping protocol a constant 1 (beside the bias of each unit, as published)."""
        return self.bits + (self.protocol == "bit-flipping")

    @property
    def cbp_from(self) -> int:
        """The first step t at which units are tested; the published bit-flipping code asks t > max(0, switch · steps)."""
        if self.algorithm == "cbp_published_bitflip":
            return math.floor(self.switch * self.steps) + 1
        return math.ceil(self.switch * self.steps)

    @property
    def init_bound(self) -> float:
        """New incoming weights are uniform on ± gain · √(3 / I) (Kaiming)."""
        return GAINS[self.activation] * math.sqrt(3 / self.inputs)
