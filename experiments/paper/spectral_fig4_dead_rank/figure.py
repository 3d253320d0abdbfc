"""Dead units and effective rank of the features over tasks, from the runs of Figure 3."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from experiments.figures import style
from experiments.figures.record import Data, Figure, Source
from experiments.figures.stream_panels import draw_panels
from experiments.paper.spectral_panels import ACCURACY, DEAD_AND_RANK, compute, measure


def draw(data: Data, canvas: Canvas) -> None:
    """Accuracy once more, to compare with; dead units; effective rank."""
    draw_panels(data, canvas, ACCURACY + DEAD_AND_RANK)
    canvas.set_size_inches(style.PAGE, 2.7)


FIGURE = Figure(
    id="spectral_fig4_dead_rank",
    title="Permuted images: dead units and effective rank of the features over tasks, all methods",
    source=Source("2509.22335", "v3", "Figure 4, Permuted MNIST"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={
        "smoke": "10 s",
        "teach": "nothing after Figure 3 (same runs), else 5 min on 2 cores",
        "paper": "nothing after Figure 3 (same runs), else 950 GPU hours as published",
    },
    needs=lambda scale: "mnist" if scale == "paper" else None,
)
