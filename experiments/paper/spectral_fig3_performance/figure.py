"""Online accuracy over tasks for all methods of Spectral Collapse, with Continual Backprop both as published and corrected."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from experiments.figures import style
from experiments.figures.intervals import blocks
from experiments.figures.record import Data, Figure, Source, grid, labels
from experiments.figures.stream_panels import tenth
from experiments.paper.spectral_panels import compute, measure

POINTS = 40


def draw(data: Data, canvas: Canvas) -> None:
    """Left: accuracy over tasks; right: first and last tenth of the tasks, method by method."""
    table, found = data["tasks"], measure(data)
    canvas.set_size_inches(style.PAGE, 2.7)
    over, ends = canvas.subplots(1, 2, width_ratios=[1.6, 1])
    names = sorted(labels(table), key=lambda m: found[f"accuracy_last[{m}]"].mean)
    for method in labels(table):
        values = 100 * grid(table, "accuracy", method)
        size = -(-len(values) // POINTS)
        shown = blocks(values, size)
        style.curve(over, [(k + 0.5) * size + 0.5 for k in range(len(shown))], shown, method)
    over.set(xlabel="task", ylabel="online accuracy (%)")
    for place, method in enumerate(names):
        look = style.look(method)
        for column, fill, shift in (("accuracy_first", "none", 0.17), ("accuracy_last", look.color, -0.17)):
            value = found[f"{column}[{method}]"]
            ends.plot([100 * end for end in value.ends], [place + shift] * 2, color=look.color, lw=2.5, alpha=0.35)
            ends.plot(100 * value.mean, place + shift, look.marker, color=look.color, mfc=fill, ms=5)
    ends.set_yticks(range(len(names)), [style.look(name).name for name in names])
    k = tenth(int(table["task"].max()) + 1)
    ends.set(xlabel="online accuracy (%)", title=f"hollow: first {k} task{'s' * (k > 1)}, filled: last {k}")
    style.legend_below(canvas, over, 4)


FIGURE = Figure(
    id="spectral_fig3_performance",
    title="Permuted images: online accuracy over tasks, all methods",
    source=Source("2509.22335", "v3", "Figure 3, Permuted MNIST"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={
        "smoke": "10 s",
        "teach": "5 min on 2 cores (digits, 80 tasks, 5 seeds, 8 methods)",
        "paper": "950 GPU hours as published: 8 methods × 5 seeds × 48 million updates of batch 1",
    },
    needs=lambda scale: "mnist" if scale == "paper" else None,
)
