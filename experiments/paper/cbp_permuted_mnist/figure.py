"""Online permuted images: accuracy, dead units, weight magnitude and effective rank over tasks (Nature 632:768, ED Figs. 3–4)."""

from __future__ import annotations

from typing import Any

from experiments.figures.record import Context, Data, Figure, Source
from experiments.figures.stream_panels import draw_panels, stream_data, stream_measures
from experiments.run_config import Run

# The published protocol: MNIST, 784-2000-2000-2000-10, plain SGD, one example per update, one pass per task.
PUBLISHED = {"protocol": "published", "hidden": (2000, 2000, 2000), "optimizer": "sgd", "step_size": 3e-3}
PAPER: dict[str, dict[str, Any]] = {
    "bp": {},
    "cbp": {"replacement_rate": 1e-6, "maturity": 100},
    "l2": {"weight_decay": 1e-4},
    # L2 with noise after every update: θ ← (1 − ηλ) θ + N(0, 1e-5²), here in units of the initial standard deviation √(2/2000)
    "shrink-and-perturb": {"shrink": 1 - 3e-3 * 1e-4, "noise": 1e-5 / (2 / 2000) ** 0.5, "period": 1},
    "adam": {"optimizer": "adam", "step_size": 3e-5},
}
# Digits, 64-100-100-100-10, Adam, batches of 8. Settings of the README; none was chosen on the seeds that are shown.
TEACH: dict[str, dict[str, Any]] = {
    "bp": {},
    "cbp": {"replacement_rate": 1e-3, "maturity": 100},
    "l2-er": {"er_step_size": 0.1, "er_every": 100, "weight_decay": 1e-3},
    "l2-init": {"weight_decay": 1e-2},
}


def configs(scale: str) -> dict[str, Run]:
    """The runs of a scale, by method; all methods of a seed see the same tasks."""
    if scale == "paper":
        return {m: Run(stream="permuted-images", algorithm=m, tasks=800, seeds=30, **{**PUBLISHED, **own})
                for m, own in PAPER.items()}  # fmt: skip
    size: dict[str, Any] = {"tasks": 200, "seeds": 5, "measure_every": 4}
    methods = TEACH
    if scale == "smoke":
        size = {"tasks": 3, "seeds": 2, "examples": 80, "hidden": (16, 16, 16)}
        methods = {**TEACH, "cbp": {"replacement_rate": 1e-2, "maturity": 10}}
    return {
        m: Run(stream="permuted-images", algorithm=m, optimizer="adam", **size, **own) for m, own in methods.items()
    }


def compute(context: Context) -> Data:
    """One run per method."""
    return stream_data(context, configs(context.scale))


FIGURE = Figure(
    id="cbp_permuted_mnist",
    title="Online permuted images: plasticity, dead units, weights and effective rank over tasks",
    source=Source("2306.13812", "v3", "Online Permuted MNIST; Nature 632:768, Extended Data Figs. 3 and 4"),
    compute=compute,
    measure=stream_measures,
    draw=draw_panels,
    costs={
        "smoke": "5 s",
        "teach": "4 min on 2 cores (digits, 200 tasks, 5 seeds, 4 methods)",
        "paper": "about 2 core-years (3 days per seed for the compiled steps, 11 for shrink and perturb; 30 seeds, 5 methods)",
    },
    needs=lambda scale: "mnist" if scale == "paper" else None,
)
