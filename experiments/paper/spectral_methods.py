"""The methods of Spectral Collapse on permuted images, at four sizes: smoke, digits, reduced MNIST, and the published protocol.

Nothing is tuned here. The published hyper-parameters (from the published code; permuted MNIST, batch 1, 60,000 updates a task,
plain SGD with step 10⁻²) are carried over by four rules, so that one example changes the net as much as there:

====================  ====================================  ====================================================================
value                 published                             here, batches of b examples and u updates a task
====================  ====================================  ====================================================================
step size             10⁻²                                  b · 10⁻², the same for an example
er_every              100 examples of the last updates      ⌊100 / b⌋ updates
weight decay, er step as in ``PUBLISHED``                   the same: they multiply the step size, or act once per er_every
replacement rate      10⁻⁶: 6 % of the units a task         0.06 / u
====================  ====================================  ====================================================================

``cbp`` replaces the units of *lowest* utility (Nature 632:768); ``cbp-published-spectral`` those of *highest* utility, as the
published code of this paper does; both have the same rate, so that the defect itself is what differs.
"""

from __future__ import annotations

from typing import Any

from experiments.run_config import Run

__all__ = ["PUBLISHED", "SIZES", "methods"]

PUBLISHED: dict[str, dict[str, Any]] = {
    "bp": {},
    "l2": {"weight_decay": 1e-4},
    "ln-l2": {"algorithm": "l2", "norm": "layer", "weight_decay": 1e-5},
    "er": {"er_step_size": 1e-4, "er_every": 100},
    "l2-er": {"er_step_size": 1e-2, "er_every": 100, "weight_decay": 1e-3},
    "cbp": {"replacement_rate": 1e-6, "maturity": 100, "decay": 0.99},
    "cbp-published-spectral": {"replacement_rate": 1e-6, "maturity": 100, "decay": 0.99},
    "spectral": {"strength": 1e-3},
}
STEP = 1e-2  # for one example
REPLACED = 0.06  # share of the units that Continual Backprop replaces in a task: 1e-6 · 60,000

SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"tasks": 4, "seeds": 2, "examples": 160, "batch": 8, "hidden": (16, 16, 16)},
    "digits": {"tasks": 80, "seeds": 5, "batch": 8, "hidden": (100, 100, 100)},
    "mnist": {"protocol": "reduced-mnist", "examples": 5000, "tasks": 100, "seeds": 3, "batch": 16, "hidden": (256, 256, 256)},
    "paper": {"protocol": "published-spectral", "tasks": 800, "seeds": 5, "batch": 1, "hidden": (1000, 1000, 1000)},
}  # fmt: skip
UPDATES = {"smoke": 20, "digits": 224, "mnist": 312, "paper": 60_000}  # a task has, for the replacement rate


def methods(size: str, chosen: tuple[str, ...] = tuple(PUBLISHED), **changes: Any) -> dict[str, Run]:
    """label → run of the chosen methods at a size of ``SIZES``, with ``changes`` to it; seeds share their tasks.

    >>> runs = methods("digits")
    >>> runs["l2-er"].er_every, runs["l2-er"].step_size, runs["cbp"].replacement_rate == 0.06 / 224
    (12, 0.08, True)
    """
    made = {}
    for label in chosen:
        own, base = dict(PUBLISHED[label]), SIZES[size] | changes
        if "er_every" in own:
            own["er_every"] = max(1, own["er_every"] // base["batch"])
        if "replacement_rate" in own:
            own["replacement_rate"] = REPLACED / UPDATES[size]
            own["maturity"] = min(own["maturity"], UPDATES[size])
        base["step_size"] = STEP * base["batch"]
        made[label] = Run(stream="permuted-images", optimizer="sgd", **{"algorithm": label, **base, **own})
    return made
