"""Figures 3 and 4 on real MNIST at a reduced size: 100 tasks of 5,000 images, width 256, batches of 16."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from experiments.figures import style
from experiments.figures.record import Data, Figure, Source
from experiments.figures.stream_panels import draw_panels
from experiments.paper.spectral_panels import ACCURACY, DEAD_AND_RANK, compute_mnist, measure


def draw(data: Data, canvas: Canvas) -> None:
    """Accuracy, dead units, effective rank."""
    draw_panels(data, canvas, ACCURACY + DEAD_AND_RANK)
    canvas.set_size_inches(style.PAGE, 2.7)


FIGURE = Figure(
    id="spectral_mnist_reduced",
    title="Permuted MNIST, reduced: accuracy, dead units and effective rank over tasks, all methods",
    source=Source(
        "2509.22335", "v3", "Figures 3 and 4, Permuted MNIST", "100 tasks of 5,000 images instead of 800 of 60,000"
    ),
    compute=compute_mnist,
    measure=measure,
    draw=draw,
    costs={
        "smoke": "15 s",
        "teach": "50 min on 2 cores (100 tasks of 5,000 images, width 256, 3 seeds, 8 methods)",
        "paper": "the same as teach; the published protocol is spectral_fig3_performance",
    },
    needs=lambda scale: "mnist",
)
