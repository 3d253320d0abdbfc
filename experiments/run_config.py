"""What a run on a stream of images is: one frozen record, checked when it is made, from which the command line is derived.

Nothing heavy is imported here. What depends on the data (more classes than there are, maturity beyond the run) is checked by
``experiments.run_program.prepare``, before anything trains.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

__all__ = [
    "DEFAULTS", "OPTIMIZERS", "STREAMS", "Run", "add_option", "add_options", "as_json", "dashed", "from_options", "run_name",
    "shown",
]  # fmt: skip

STREAMS = ("permuted-images", "random-labels", "class-pairs", "class-incremental", "class-groups")
OPTIMIZERS = {"sgd": 0.03, "momentum": 0.003, "adam": 0.003}  # with the default step size
OWN_OPTIMIZER = {"momentum": "momentum", "adam": "adam"}  # algorithms that are an optimiser
ACTIVATIONS = (
    "relu", "leaky_relu", "relu6", "tanh", "hard_tanh", "sigmoid", "softplus", "silu", "gelu", "erf", "sin", "abs", "square",
    "cube", "quadratic", "identity",
)  # fmt: skip
TASKS = {"class-incremental": 5, "class-groups": 5}  # of two classes each, which is all that ten classes give
DTYPES = ("float32", "float64")
DEVICES = ("cpu", "cuda")
NORMS = ("none", "layer", "batch")
MOST_SEEDS, MOST_UNITS = 10**5, 10**6  # more are a slip of the pen
PLAIN = ("cbp-published-spectral", "spectral", "weight-clipping")  # rules that do not know gains and shifts

# The algorithms, with the hyper-parameters that each uses and their defaults. ``period`` 0 is a task. What they are is in
# run_algorithms.py; all but bp, momentum and adam are put around (or behind) the optimiser.
DEFAULTS: dict[str, dict[str, float]] = {
    "bp": {},
    "momentum": {},
    "adam": {},
    "l2": {"weight_decay": 1e-4},
    "l2-init": {"weight_decay": 1e-3},
    "er": {"er_step_size": 1e-2, "er_every": 100},
    "l2-er": {"er_step_size": 1e-2, "er_every": 100, "weight_decay": 1e-4},
    "cbp": {"replacement_rate": 1e-3, "maturity": 100, "decay": 0.99},
    "cbp-published-spectral": {"replacement_rate": 1e-3, "maturity": 100, "decay": 0.99},
    "shrink-and-perturb": {"shrink": 0.4, "noise": 0.1, "period": 0},  # 1910.08475
    "redo": {"threshold": 0.025, "period": 1000},
    "noisy-sgd": {"noise": 0.01, "noise_decay": 0.99},  # 2510.00304
    "weight-clipping": {"kappa": 3.0},
    "spectral": {"strength": 1e-3},
    "head-reset": {"period": 0},
    "reset": {"period": 0},
}


def _option(default: Any, kind: Callable[[str], Any], text: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": text})


def _widths(text: str) -> tuple[int, ...]:
    """``100,100,100`` as a tuple."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of widths such as 100,100,100")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: ``seeds`` replicas (the seeds ``seed``, ``seed`` + 1, …) of one learner, each on its own stream.

    A value of None means: that of the protocol, of the optimiser or of the algorithm; step size and hyper-parameters are filled in
    when the record is made.
    Raises ``ValueError`` for what is unknown or impossible, and for a hyper-parameter that the algorithm does not use.

    >>> Run(stream="permuted-images", algorithm="cbp").maturity
    100
    >>> Run(stream="permuted-images", algorithm="bp", maturity=100)
    Traceback (most recent call last):
    ...
    ValueError: maturity = 100; algorithm 'bp' does not use it: leave it out or choose another algorithm
    """

    stream: str
    algorithm: str = _option("bp", str, f"one of {', '.join(DEFAULTS)}")
    tasks: int = _option(None, int, "number of tasks (default: 30; 5 for class-incremental and class-groups)")
    seeds: int = _option(3, int, "number of replicas; they advance together")
    seed: int = _option(0, int, "seed of the first replica")
    protocol: str = _option("reduced", str, "protocol of the stream: reduced, published, …")
    dataset: str | None = _option(None, str, "data set: digits, mnist, … (default: that of the protocol)")
    batch: int | None = _option(None, int, "examples per update (default: that of the protocol)")
    epochs: int | None = _option(None, int, "passes over the examples of a task (default: that of the protocol)")
    examples: int | None = _option(None, int, "training examples (default: that of the protocol)")
    probe: int | None = _option(
        None, int, "training examples that features are measured on (default: that of the protocol)"
    )
    hidden: tuple[int, ...] = _option((100, 100, 100), _widths, "widths of the hidden layers")
    activation: str = _option("relu", str, f"one of {', '.join(ACTIVATIONS)}; leaky_relu:0.1 has slope 0.1")
    norm: str = _option("none", str, "normalisation before each activation: none, layer or batch")
    dropout: float = _option(0.0, float, "share of the hidden activations that is set to 0 while training")
    dtype: str = _option("float32", str, "float32 or float64")
    device: str = _option("cpu", str, "cpu, or cuda: a GPU of this machine")
    optimizer: str | None = _option(None, str, f"one of {', '.join(OPTIMIZERS)} (default: sgd)")
    step_size: float | None = _option(None, float, "step size of the optimiser (default: .03 sgd, .003 momentum, adam)")
    weight_decay: float | None = _option(None, float, "l2, l2-init, l2-er: strength")
    er_step_size: float | None = _option(None, float, "er, l2-er: step size of the ascent on the effective rank")
    er_every: int | None = _option(None, int, "er, l2-er: minibatches between two ascents, which see all of them")
    replacement_rate: float | None = _option(None, float, "cbp: share of the mature units replaced per update")
    maturity: int | None = _option(None, int, "cbp: updates that a unit is protected for")
    decay: float | None = _option(None, float, "cbp: decay of the running utility")
    shrink: float | None = _option(None, float, "shrink-and-perturb: factor of the weights")
    noise: float | None = _option(None, float, "shrink-and-perturb, noisy-sgd: size of the noise")
    noise_decay: float | None = _option(None, float, "noisy-sgd: factor of the noise per update")
    threshold: float | None = _option(None, float, "redo: units below this share of the mean activity are replaced")
    period: int | None = _option(None, int, "redo, resets, shrink-and-perturb: updates between two; 0 is a task")
    kappa: float | None = _option(None, float, "weight-clipping: bound, in units of 1/√fan-in")
    strength: float | None = _option(None, float, "spectral: strength")
    eps: float = _option(0.01, float, "level of the ε-rank of the second moments of the features")
    measure_every: int = _option(1, int, "tasks between two measurements of features and weights; 0: never")
    curvature_every: int = _option(0, int, "tasks between two starts at which curvature is measured; 0: never")
    curvature_examples: int = _option(100, int, "curvature, claims: at most so many examples of the probe")
    curvature_eps: float = _option(0.01, float, "level of the ε-rank of the Hessian and of the Gauss-Newton matrix")
    claims_every: int = _option(0, int, "tasks between two starts at which claims are judged; 0: never")
    cloned: int = _option(1, int, "copies of every hidden unit that the run starts with; must divide all widths")

    def __post_init__(self) -> None:
        for name in ("stream", "protocol", "dataset", "activation"):
            self._need(name, getattr(self, name) is None or type(getattr(self, name)) is str, "give a name")
        self._choose("algorithm", DEFAULTS)
        self._fill("tasks", TASKS.get(self.stream, 30))
        self._fill("optimizer", OWN_OPTIMIZER.get(self.algorithm, "sgd"))
        self._choose("optimizer", OPTIMIZERS)
        if self.optimizer != OWN_OPTIMIZER.get(self.algorithm, self.optimizer):
            raise ValueError(
                f"optimizer = {self.optimizer!r}; algorithm {self.algorithm!r} is an optimiser: leave it out"
            )
        self._fill("step_size", OPTIMIZERS[str(self.optimizer)])
        used = DEFAULTS[self.algorithm]
        for name in sorted({name for defaults in DEFAULTS.values() for name in defaults}):
            if name in used:
                self._fill(name, used[name])
            self._need(name, name in used or getattr(self, name) is None,
                       f"algorithm {self.algorithm!r} does not use it: leave it out or choose another algorithm")  # fmt: skip
        if not re.fullmatch("leaky_relu:.+", self.activation):  # its slope is read by prepare
            self._choose("activation", ACTIVATIONS)
        self._choose("dtype", DTYPES)
        self._choose("device", DEVICES)
        self._check_norm()
        for name in ("tasks", "seeds", "batch", "epochs", "examples", "probe", "er_every", "curvature_examples",
                     "cloned"):  # fmt: skip
            self._number(name, lambda v: v >= 1, "it counts something and must be at least 1")
        self._need("seeds", self.seeds <= MOST_SEEDS, f"all are in memory at once: give at most {MOST_SEEDS}")
        self._number("seed", lambda v: 0 <= v <= 2**63 - self.seeds, "the seeds are whole numbers from 0 to 2**63 - 1")
        for name in ("step_size", "eps", "kappa", "curvature_eps"):
            self._number(name, lambda v: v > 0, "give a positive finite number")
        for name in ("weight_decay", "er_step_size", "noise", "shrink", "threshold", "strength", "maturity", "period",
                     "measure_every", "curvature_every", "claims_every"):  # fmt: skip
            self._number(name, lambda v: v >= 0, "give a finite number that is not negative")
        for name in ("replacement_rate", "decay", "noise_decay", "dropout"):
            self._number(name, lambda v: 0 <= v < 1, "give a number in [0, 1)")
        self._check_widths()

    def _check_widths(self) -> None:
        self._need("hidden", type(self.hidden) in (list, tuple) and all(type(width) is int for width in self.hidden),
                   "give a list of widths")  # fmt: skip
        object.__setattr__(self, "hidden", tuple(self.hidden))
        self._need("hidden", len(self.hidden) > 0 and min(self.hidden) >= 1, "give one width of at least 1 per layer")
        self._need("hidden", max(self.hidden) <= MOST_UNITS, f"give at most {MOST_UNITS} units per layer")
        self._need("cloned", not any(width % self.cloned for width in self.hidden),
                   f"it must divide the widths of the hidden layers, {shown(self.hidden)}: give other widths")  # fmt: skip

    def _check_norm(self) -> None:
        self._choose("norm", NORMS)
        if self.norm != "none":
            self._need("norm", self.algorithm not in PLAIN,
                       f"algorithm {self.algorithm!r} is defined without normalisation: choose another algorithm")  # fmt: skip
            for name, off in (("curvature_every", 0), ("claims_every", 0), ("cloned", 1)):
                self._need(name, getattr(self, name) == off, f"nets with normalisation have no such thing: give {off}")

    def _fill(self, name: str, default: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, default)

    def _choose(self, name: str, allowed: Any) -> None:
        self._need(name, getattr(self, name) in tuple(allowed), f"choose one of {', '.join(allowed)}")

    def _number(self, name: str, holds: Callable[[Any], bool], rule: str) -> None:
        value = getattr(self, name)
        whole = next(f for f in fields(self) if f.name == name).metadata["kind"] is int
        if value is None:
            return
        self._need(name, type(value) in ((int,) if whole else (int, float)), f"give a {'whole ' * whole}number")
        self._need(name, type(value) is float or abs(value) < 2**63, "give a number that is less than 2**63")
        self._need(name, math.isfinite(value) and holds(value), rule)
        if not whole:
            object.__setattr__(self, name, float(value))  # 1 and 1.0 are one configuration

    def _need(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} = {getattr(self, name)!r}; {rule}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option per field of :class:`Run`, and the stream as positional argument; only what is given appears."""
    parser.add_argument("stream", metavar="STREAM", help=f"one of {', '.join(STREAMS)}, or an online stream (below)")
    for item in fields(Run):
        if item.metadata:
            add_option(parser, item)


def add_option(parser: Any, item: Field[Any]) -> None:
    """The option of one field, with ``kind`` and ``help`` in its metadata, of a configuration."""
    text = item.metadata["help"] + (f" (default: {shown(item.default)})" if item.default is not None else "")
    kind = item.metadata["kind"]
    name = "X" if kind is float else "N" if kind is int else item.name.upper()
    flag = f"--{dashed(item.name)}"
    parser.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar=name, help=text.replace("%", "%%"))


def dashed(name: str) -> str:
    """The name of a field as that of an option.

    >>> dashed("step_size")
    'step-size'
    """
    return name.replace("_", "-")


def shown(value: Any) -> str:
    """A value as on the command line.

    >>> shown((100, 100)), shown(0.01)
    ('100,100', '0.01')
    """
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def from_options(options: Mapping[str, Any]) -> Run:
    """The run that these parsed options describe; keys that are no field of :class:`Run` are ignored.

    >>> parser = argparse.ArgumentParser()
    >>> add_options(parser)
    >>> from_options(vars(parser.parse_args(["random-labels", "--algorithm", "redo", "--hidden", "5,4"]))).hidden
    (5, 4)
    """
    return Run(**{f.name: options[f.name] for f in fields(Run) if f.name in options})


def as_json(config: Any) -> dict[str, Any]:
    """The configuration (this one, or that of an online stream) as it is after a round trip through JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def run_name(config: Any) -> str:
    """The folder of a run (on images or online): stream, algorithm and ten digits of a hash of the whole configuration.

    >>> run_name(Run(stream="permuted-images")) == run_name(Run(stream="permuted-images", algorithm="bp"))
    True
    """
    digest = hashlib.sha256(json.dumps(as_json(config), sort_keys=True).encode()).hexdigest()
    return f"{config.stream}-{config.algorithm}-{digest[:10]}"
