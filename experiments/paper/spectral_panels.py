"""What Figures 3 and 4 of Spectral Collapse share: the runs, and the mean over a whole run as a further quantity."""

from __future__ import annotations

from experiments.figures.intervals import Interval, mean_interval
from experiments.figures.record import Context, Data, grid, labels
from experiments.figures.stream_panels import PANELS, stream_data, stream_measures
from experiments.paper.spectral_methods import methods

__all__ = ["ACCURACY", "DEAD_AND_RANK", "compute", "compute_mnist", "measure"]

ACCURACY = PANELS[:1]
DEAD_AND_RANK = tuple(panel for panel in PANELS if panel.column in ("dead_units", "effective_rank"))


def compute(context: Context) -> Data:
    """Permuted digits, or the published protocol on MNIST."""
    return stream_data(context, methods(context.choose(smoke="smoke", teach="digits", paper="paper")))


def compute_mnist(context: Context) -> Data:
    """Permuted MNIST with a tenth of the updates and a quarter of the width."""
    return stream_data(context, methods("smoke", dataset="mnist") if context.scale == "smoke" else methods("mnist"))


def measure(data: Data) -> dict[str, Interval]:
    """The quantities of ``stream_panels``, and ``accuracy_mean[m]`` over all tasks."""
    table = data["tasks"]
    means = {f"accuracy_mean[{m}]": mean_interval(grid(table, "accuracy", m).mean(axis=0)) for m in labels(table)}
    return stream_measures(data) | means
