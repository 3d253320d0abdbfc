"""Online permuted MNIST reduced to two cores: 256 units per layer, batches of 16, Adam, 3,200 images per task."""

from __future__ import annotations

from typing import Any

from experiments.figures.record import Context, Data, Figure, Source
from experiments.figures.stream_panels import draw_panels, stream_data, stream_measures
from experiments.run_config import Run

METHODS: dict[str, dict[str, Any]] = {
    "bp": {},
    "cbp": {"replacement_rate": 1e-3, "maturity": 100},
    "l2": {"weight_decay": 1e-3},
    "l2-er": {"er_step_size": 0.1, "er_every": 100, "weight_decay": 1e-3},
    "l2-init": {"weight_decay": 1e-2},
}
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"tasks": 2, "seeds": 2, "examples": 320, "hidden": (32, 32, 32), "probe": 200},
    "teach": {"tasks": 100, "seeds": 3, "examples": 3200, "hidden": (256, 256, 256), "probe": 500, "measure_every": 4},
    "paper": {"tasks": 500, "seeds": 10, "examples": 10_000, "hidden": (256, 256, 256), "measure_every": 4},
}


def configs(scale: str) -> dict[str, Run]:
    """The runs of a scale, by method; all methods of a seed see the same tasks."""
    common: dict[str, Any] = {"stream": "permuted-images", "protocol": "reduced-mnist", "optimizer": "adam"}
    methods = METHODS if scale != "smoke" else {**METHODS, "cbp": {"replacement_rate": 1e-2, "maturity": 10}}
    return {m: Run(algorithm=m, **common, **SIZES[scale], **own) for m, own in methods.items()}


def compute(context: Context) -> Data:
    """One run per method."""
    return stream_data(context, configs(context.scale))


FIGURE = Figure(
    id="cbp_permuted_mnist_reduced",
    title="Online permuted MNIST, reduced: 784-256-256-256-10, batches of 16",
    source=Source("2306.13812", "v3", "Online Permuted MNIST; Nature 632:768, Extended Data Fig. 4", "reduced by us"),
    compute=compute,
    measure=stream_measures,
    draw=draw_panels,
    costs={
        "smoke": "10 s",
        "teach": "8 min on 2 cores (100 tasks of 3,200 images, 3 seeds, 5 methods)",
        "paper": "1 day on 2 cores (500 tasks of 10,000 images, 10 seeds; still not the published protocol)",
    },
    needs=lambda scale: "mnist",
)
