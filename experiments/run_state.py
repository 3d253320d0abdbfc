"""All that changes during a run, and how it becomes arrays of a checkpoint and comes back to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.run_clones import clone_params
from experiments.run_program import Program
from lop_theory.algorithms.base import Params, flatten, generators, mlp_init, restore
from lop_theory.algorithms.normalization import running_start, with_affine

__all__ = ["Arrays", "Learner", "freeze", "select", "start", "thaw"]

Arrays = dict[str, NDArray[Any]]


@dataclass
class Learner:
    """All that changes: parameters, state of the algorithm and running statistics of batch normalisation (else empty) of the
    replicas that are alive (positions [A]), and updates made so far. Tensors and generators are on the device of the run."""

    params: Params
    state: Any
    running: Params
    generator: tuple[torch.Generator, ...]
    alive: NDArray[np.int64]
    step: int = 0


def start(program: Program) -> Learner:
    """The learner before its first update, replica r drawn from the seed ``config.seed`` + r: on all devices the same net."""
    config, seeds = program.config, range(program.config.seed, program.config.seed + program.config.seeds)
    generator = generators(seeds)
    base = (program.widths[0], *(width // config.cloned for width in config.hidden), program.widths[-1])
    params = clone_params(mlp_init(base, generator, getattr(torch, config.dtype)), config.cloned)
    if config.norm != "none":
        params = with_affine(params)
    params = tuple(p.to(config.device) for p in params)
    running = running_start(params) if config.norm == "batch" else ()
    if config.device != "cpu":
        generator = generators(seeds, config.device)
    return Learner(params, program.algorithm.init(params), running, generator, np.arange(config.seeds))


def select(program: Program, learner: Learner, chosen: NDArray[np.int64]) -> Learner:
    """Some of the replicas that are alive, by position."""
    index = torch.from_numpy(chosen)
    params, running = (tuple(p[index] for p in tensors) for tensors in (learner.params, learner.running))
    tensors = {name: tensor[index] for name, tensor in flatten(learner.state).items()}
    state = restore(program.algorithm.init(params), tensors)
    sources = tuple(learner.generator[i] for i in chosen)
    return Learner(params, state, running, sources, learner.alive[chosen], learner.step)


# -- checkpoints -----------------------------------------------------------------------------------------------------------


def freeze(learner: Learner) -> Arrays:
    """The learner as arrays."""
    tensors = flatten((learner.params, learner.state, learner.running))
    states = [g.get_state().numpy() for g in learner.generator]
    return {name: tensor.cpu().contiguous().numpy() for name, tensor in tensors.items()} | {
        "generator": np.stack(states) if states else np.zeros((0, 1), np.uint8),
        "alive": learner.alive,
        "step": np.array([learner.step]),
    }


def thaw(program: Program, arrays: Arrays) -> Learner:
    """The learner from its arrays; inverse of :func:`freeze`."""
    held = {name: torch.from_numpy(array).clone() for name, array in arrays.items()}
    states, alive, step = (held.pop(name) for name in ("generator", "alive", "step"))
    tensors = {name: tensor.to(program.config.device) for name, tensor in held.items()}
    params = tuple(tensors[f"0.{k}"] for k in range(sum(name.startswith("0.") for name in tensors)))
    running = running_start(params) if program.config.norm == "batch" else ()
    params, state, running = restore((params, program.algorithm.init(params), running), tensors)
    sources = tuple(torch.Generator(program.config.device) for _ in alive)
    for source, one in zip(sources, states):
        source.set_state(one.clone())  # torch 2.13 crashes on a view that does not start at its storage
    return Learner(params, state, running, sources, alive.numpy(), int(step[0]))
