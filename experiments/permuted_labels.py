"""A small network trained for a sequence of tasks on real digits: same images, labels permuted anew in each task.

The images are the 1797 handwritten digits (8 × 8 pixels) that come with scikit-learn, so nothing is downloaded. In task t
the class c is called π_t(c), with π_t a random permutation: the function to learn is as hard as before, but the network
starts from what the earlier tasks left. With the default settings it loses plasticity: units die and stay dead, and the
accuracy at the end of a task falls. The stream is that of label permutation in continual learning, on a small scale.

Everything is a pure function of the configuration: task t of (seed, t), mini-batches of (seed, t), initial parameters of the
seed. One thread, float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch

from experiments import datasets
from lop_theory.activations import get_activation
from lop_theory.architectures import init_params, mlp
from lop_theory.dag import Dag
from lop_theory.forward import evaluate, gradient

CLASSES = 10
PIXELS = 64
IMAGES = 1797
KIND = "cross_entropy"
OPTIMIZERS = ("sgd", "adam")

_TASK, _BATCHES, _INIT, _SUBSET = range(4)  # purposes: each has its own stream of random numbers


@dataclass(frozen=True)
class PermutedLabels:
    """The run: a 64-…hidden…-10 network, ``tasks`` tasks of ``steps`` mini-batch steps each.

    The default has P = 2130 parameters. Its step is larger than a single task would want, which is what kills units.
    """

    hidden: tuple[int, ...] = (24, 16)
    activation: str = "relu"
    optimizer: str = "adam"
    step_size: float = 0.01
    batch: int = 32
    steps: int = 200
    tasks: int = 8
    images: int = IMAGES
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("batch", "steps", "tasks") and value < 1:
                raise ValueError(f"{field.name} = {value}; it counts something and must be at least 1")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"hidden = {self.hidden}; give the width of each hidden layer, e.g. (24, 16), all at least 1"
            )
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer = {self.optimizer!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
        if not 0 < self.step_size < np.inf:
            raise ValueError(f"step_size = {self.step_size}; give a positive finite number")
        if not 1 <= self.images <= IMAGES:
            raise ValueError(f"images = {self.images}; there are {IMAGES}: give a number from 1 to {IMAGES}")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}; give a whole number that is at least 0")
        get_activation(self.activation)

    @property
    def dag(self) -> Dag:
        """The network."""
        return mlp([PIXELS, *self.hidden, CLASSES], self.activation)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The network at the end of a task: ``theta`` [P], images ``x`` [images, 64], ``y`` [images] as this task labels them.

    ``accuracy`` is the share of all these images that the network gets right, ``loss`` the mean cross-entropy on them.
    """

    task: int
    dag: Dag
    theta: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    accuracy: float
    loss: float
    kind: str = KIND


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [1797, 64] as multiples of 1/16 in [0, 1] (float64, exact) and classes [1797] (int64).

    >>> x, classes = digits()
    >>> tuple(x.shape), float(x.max()), classes[:4].tolist()
    ((1797, 64), 1.0, [0, 1, 2, 3])
    """
    images = datasets.digits()
    return torch.from_numpy(images.x.reshape(IMAGES, PIXELS) / images.scale), torch.from_numpy(images.y)


def task(seed: int, t: int) -> torch.Tensor:
    """The permutation π_t [10]: class c is labelled π_t(c). A pure function of (seed, t).

    >>> sorted(task(0, 3).tolist()) == list(range(10)), bool((task(0, 3) == task(0, 3)).all())
    (True, True)
    """
    return torch.randperm(CLASSES, generator=_generator(seed, _TASK, t))


def checkpoints(config: PermutedLabels) -> Iterator[Checkpoint]:
    """Train, and yield the network at the end of each task."""
    dag = config.dag
    x, classes = digits()
    chosen = torch.randperm(IMAGES, generator=_generator(config.seed, _SUBSET))[: config.images]
    x, classes = x[chosen], classes[chosen]
    theta = init_params(dag, _generator(config.seed, _INIT))
    state = torch.zeros(2, dag.num_params, dtype=theta.dtype)  # Adam's moments; they run on through all tasks
    for t in range(config.tasks):
        y = task(config.seed, t)[classes]
        theta, state = _learn(config, dag, theta, state, x, y, t)
        output = evaluate(dag, theta, x).output
        accuracy = float((output.argmax(1) == y).to(torch.float64).mean())
        loss = float(torch.nn.functional.cross_entropy(output, y))
        yield Checkpoint(t, dag, theta, x, y, accuracy, loss)


def _learn(
    config: PermutedLabels, dag: Dag, theta: torch.Tensor, state: torch.Tensor, x: torch.Tensor, y: torch.Tensor, t: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The steps of one task, on one thread. Mini-batches are drawn with replacement."""
    generator = _generator(config.seed, _BATCHES, t)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for k in range(config.steps):
            rows = torch.randint(len(x), (config.batch,), generator=generator)
            slope = gradient(dag, theta, x[rows], y[rows], KIND)
            step, state = _step(config.optimizer, slope, state, t * config.steps + k + 1)
            theta = theta - config.step_size * step
    finally:
        torch.set_num_threads(threads)
    return theta, state


def _step(optimizer: str, slope: torch.Tensor, state: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The direction of step number ``count`` and the new state. Adam: Kingma & Ba (arXiv 1412.6980), algorithm 1."""
    if optimizer == "sgd":
        return slope, state
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    first = beta1 * state[0] + (1 - beta1) * slope
    second = beta2 * state[1] + (1 - beta2) * slope**2
    unbiased = first / (1 - beta1**count), second / (1 - beta2**count)
    return unbiased[0] / (unbiased[1].sqrt() + eps), torch.stack([first, second])


def _generator(seed: int, *path: int) -> torch.Generator:
    """An independent stream for each (seed, purpose, task)."""
    state = np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)
