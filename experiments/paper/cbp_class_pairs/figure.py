"""Binary class pairs: test accuracy of each new pair over tasks (Continual ImageNet, Nature 632:768, Fig. 1), reduced."""

from __future__ import annotations

from typing import Any

from experiments.figures.record import Context, Data, Figure, Source
from experiments.figures.stream_panels import draw_panels, stream_data, stream_measures
from experiments.run_config import Run

METHODS: dict[str, dict[str, Any]] = {
    "bp": {},
    "cbp": {"replacement_rate": 1e-3, "maturity": 100},
    "l2": {"weight_decay": 1e-3},
    "l2-init": {"weight_decay": 1e-2},
}
# Two hidden layers on 32 × 32 × 3 pixels; the head is kept from task to task (published: set to zero).
REDUCED: dict[str, Any] = {
    "protocol": "reduced-tiny-imagenet",
    "hidden": (128, 128),
    "optimizer": "adam",
    "step_size": 1e-3,
}
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {**REDUCED, "tasks": 2, "seeds": 2, "hidden": (32, 32), "epochs": 2},
    "teach": {**REDUCED, "tasks": 200, "seeds": 3, "measure_every": 4},
    "paper": {"protocol": "published", "hidden": (128, 128), "optimizer": "sgd", "step_size": 1e-2, "tasks": 2000, "seeds": 30,
              "measure_every": 50},
}  # fmt: skip


def configs(scale: str) -> dict[str, Run]:
    """The runs of a scale, by method; all methods of a seed see the same pairs."""
    methods = METHODS if scale != "smoke" else {**METHODS, "cbp": {"replacement_rate": 1e-2, "maturity": 10}}
    return {m: Run(stream="class-pairs", algorithm=m, **SIZES[scale], **own) for m, own in methods.items()}


def compute(context: Context) -> Data:
    """One run per method; the accuracy is that on the test images at the end of the task."""
    return stream_data(context, configs(context.scale), accuracy="final_test_accuracy")


FIGURE = Figure(
    id="cbp_class_pairs",
    title="Binary pairs of image classes: plasticity over tasks (Continual ImageNet, reduced, layered net)",
    source=Source(
        "2306.13812", "v3", "Continual ImageNet; Nature 632:768, Fig. 1", "layered net in place of the conv net"
    ),
    compute=compute,
    measure=stream_measures,
    draw=draw_panels,
    costs={
        "smoke": "10 s",
        "teach": "8 min on 2 cores (200 pairs of Tiny ImageNet classes at 32 × 32, 3 seeds)",
        "paper": "weeks on 2 cores for the layered net; the conv net: 146 hours of one core per seed and method for 2,000 tasks",
    },
    needs=lambda scale: "imagenet32" if scale == "paper" else "tiny_imagenet_32",
)
