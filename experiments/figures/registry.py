"""All figures, by an explicit list. The id is the name of the folder in ``experiments/paper``; modules are imported when needed."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from experiments.errors import Failure
from experiments.figures.record import Figure

__all__ = ["FIGURES", "load", "expected_path", "select"]

# One line per figure, sorted by paper; each module has FIGURE.
FIGURES: dict[str, str] = {
    name: f"experiments.paper.{name}.figure"
    for name in (
        # Continual Backprop (arXiv 2306.13812, Nature 632:768)
        "cbp_permuted_mnist",
        "cbp_permuted_mnist_reduced",
        "cbp_class_pairs",
        "cbp_edfig2b_regression",
        "cbp_regression_rates",
        # Spectral Collapse (arXiv 2509.22335)
        "spectral_fig1_spectra",
        "spectral_fig3_performance",
        "spectral_fig4_dead_rank",
        "spectral_fig5_epsilon_rank",
        "spectral_fig5_published",
        "spectral_linearized",
        "spectral_mnist_reduced",
        # Barriers (arXiv 2510.00304)
        "barriers_figA1_rank_gain",
        "barriers_figA2_tanh_scale",
        "barriers_draft_rank_recovery",
        "barriers_figB1_switch",
        "barriers_figB2_width",
    )
}


def select(patterns: Sequence[str], known: Mapping[str, str] = FIGURES) -> list[str]:
    """The ids that are one of the patterns, start with one (uniquely) or match it as a glob, in the order of the list.

    >>> known = {"cbp_mnist": "", "cbp_mnist_reduced": "", "bit_flipping": ""}
    >>> select(["cbp_mnist"], known), select(["bit"], known), select(["cbp*"], known)
    (['cbp_mnist'], ['bit_flipping'], ['cbp_mnist', 'cbp_mnist_reduced'])
    """
    chosen: set[str] = set()
    for pattern in patterns:
        hits = [pattern] if pattern in known else [i for i in known if fnmatch.fnmatchcase(i, pattern)]
        begun = [i for i in known if i.startswith(pattern)]
        if not hits and len(begun) > 1:
            raise Failure(f"figure {pattern!r} could be {', '.join(begun)}; give more of it, or '{pattern}*' for all")
        if not hits and not begun:
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else "`lop figure --list` shows them all"
            raise Failure(f"unknown figure {pattern!r}; {hint}")
        chosen.update(hits or begun)
    return [i for i in known if i in chosen]


def load(figure_id: str) -> Figure:
    """The record of a figure."""
    figure: Figure = import_module(FIGURES[figure_id]).FIGURE
    return figure


def expected_path(figure_id: str) -> Path:
    """Its ``expected.csv``, beside the module."""
    return Path(__file__).parent.parent / "paper" / figure_id / "expected.csv"
