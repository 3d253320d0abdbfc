"""The algorithms of ``lop run`` by name: an explicit table from a configuration to an algorithm of ``lop_theory.algorithms``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.run_config import Run
from lop_theory.algorithms.base import Algorithm, chain
from lop_theory.algorithms.continual_backprop import cbp_published_spectral, continual_backprop
from lop_theory.algorithms.descent import adam, momentum, sgd
from lop_theory.algorithms.perturbation import gradient_noise, shrink_and_perturb
from lop_theory.algorithms.regularizers import (
    effective_rank_step,
    l2,
    l2_er,
    l2_init,
    spectral_regularization,
    weight_clipping,
)
from lop_theory.algorithms.resets import full_reset, head_reset, redo

__all__ = ["ALGORITHMS", "make_algorithm"]

OPTIMIZERS: dict[str, Callable[[float], Algorithm]] = {"sgd": sgd, "momentum": momentum, "adam": adam}

# name: (optimiser o, configuration c, updates between two p) → algorithm. A configuration holds numbers here, not None.
ALGORITHMS: dict[str, Callable[[Algorithm, Any, int], Algorithm]] = {
    "bp":                     lambda o, c, p: o,
    "momentum":               lambda o, c, p: o,
    "adam":                   lambda o, c, p: o,
    "l2":                     lambda o, c, p: l2(o, c.weight_decay),
    "l2-init":                lambda o, c, p: l2_init(o, c.weight_decay),
    "er":                     lambda o, c, p: chain(o, effective_rank_step(c.er_step_size, c.er_every)),
    "l2-er":                  lambda o, c, p: l2_er(o, c.weight_decay, c.er_step_size, c.er_every),
    "cbp":                    lambda o, c, p: continual_backprop(o, c.replacement_rate, c.maturity, c.decay),
    "cbp-published-spectral": lambda o, c, p: cbp_published_spectral(o, c.replacement_rate, c.maturity, c.decay),
    "shrink-and-perturb":     lambda o, c, p: chain(o, shrink_and_perturb(c.shrink, c.noise, every=p)),
    "redo":                   lambda o, c, p: redo(o, c.threshold, p),
    "noisy-sgd":              lambda o, c, p: gradient_noise(o, c.noise, c.noise_decay),
    "weight-clipping":        lambda o, c, p: chain(o, weight_clipping(c.kappa)),
    "spectral":               lambda o, c, p: spectral_regularization(o, c.strength),
    "head-reset":             lambda o, c, p: head_reset(o, p),
    "reset":                  lambda o, c, p: full_reset(o, p),
}  # fmt: skip


def make_algorithm(config: Run, updates_per_task: int) -> Algorithm:
    """The algorithm that a configuration names; a period of 0 is a task.

    >>> make_algorithm(Run(stream="permuted-images", algorithm="cbp", optimizer="adam"), 224).name
    'cbp(adam)'
    """
    assert config.optimizer is not None and config.step_size is not None  # filled in by Run
    optimizer = OPTIMIZERS[config.optimizer](config.step_size)
    return ALGORITHMS[config.algorithm](optimizer, config, config.period or updates_per_task)
