r"""How well clones follow one another: the cloning R² of *Barriers* (arXiv 2510.00304, App. B), as written and as coded.

For features h [samples, width] and blocks b with mean h̄_b, on the features of one layer (or on their error signals):

=============  =====================================================================================================
"variance"     1 − Σ_b Σ_{u∈b} ‖h_u − h̄_b‖² / Σ_u ‖h_u − h̄‖²                                     (the paper)
"std"          1 − mean over samples and blocks of  std_{u∈b}(h_u) / (std_u(h_u) + 1e-10)        (the published code)
=============  =====================================================================================================

h̄ is the mean over all features of a sample, and std has the divisor n − 1. Both are 1 for perfect clones. The published log
then averages the 2 L values of L layers (forward and backward) *together with* a running entry Σ_forward/(2 L), so that a
perfect clone logs (2 L + ½)/(2 L + 1) < 1: :func:`published_clone_r2`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lop_theory.module_cloning.profile import Profile

FORMS = ("variance", "std")


class UndefinedMetricError(ValueError):
    """A ratio whose denominator is zero."""


def clone_r2(features: Tensor, profile: Profile, form: str = "variance") -> float:
    """Cloning R² of features [samples, width] in the blocks of ``profile``; see the module for the forms.

    At most 1 in the variance form, and at least 0. Raises ``UndefinedMetricError`` if all features of every sample are equal
    (variance form) or if no block has two members, ``ValueError`` for other bad input.

    >>> h = torch.tensor([[1., 1., 3., 3.], [0., 2., 5., 5.]], dtype=torch.float64)
    >>> round(clone_r2(h, Profile((0, 0, 1, 1))), 4)        # 1 − 2 / (4 + 18)
    0.9091
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not known; use one of {', '.join(FORMS)}")
    if features.dim() != 2 or features.shape[1] != profile.width or not len(features):
        raise ValueError(
            f"features {tuple(features.shape)} are not [samples, {profile.width}] with a sample; give one column per feature"
        )
    if profile.is_trivial:
        raise UndefinedMetricError(
            "cloning R² is undefined, because no block has two members; give the clone's profile"
        )
    h = features.detach().cpu().to(torch.float64)
    return _variance_form(h, profile) if form == "variance" else _std_form(h, profile)


def _variance_form(h: Tensor, profile: Profile) -> float:
    means = (h @ profile.one_hot) / profile.copies
    within = (h - means[:, profile.index]).square().sum()
    total = (h - h.mean(dim=1, keepdim=True)).square().sum()
    if total == 0:
        raise UndefinedMetricError("cloning R² is undefined, because all features of every sample are equal (0/0)")
    return float(1 - within / total)


def _std_form(h: Tensor, profile: Profile) -> float:
    members = [torch.nonzero(profile.index == b)[:, 0] for b in range(profile.base_width)]
    if any(len(m) < 2 for m in members):
        raise UndefinedMetricError("the std form is undefined, because a block has one member only (divisor n − 1 = 0)")
    within = torch.stack([h[:, m].std(dim=1) for m in members], dim=1)  # [samples, blocks]
    return float(1 - (within / (h.std(dim=1, keepdim=True) + 1e-10)).mean())


def aggregate_clone_r2(forward: Sequence[float], backward: Sequence[float]) -> float:
    """The mean over layers and directions, as the paper says. 1 for perfect clones.

    >>> aggregate_clone_r2([1., 1.], [1., 1.])
    1.0
    """
    values = _layers(forward, backward)
    return sum(values) / len(values)


def published_clone_r2(forward: Sequence[float], backward: Sequence[float]) -> float:
    """The number that the published code logs: the mean over a table that also holds the entry Σ_forward / (2 L).

    >>> published_clone_r2([1.] * 16, [1.] * 16)                      # 32.5 / 33
    0.98484...
    """
    values = _layers(forward, backward)
    extra = sum(forward) / len(values)
    return (sum(values) + extra) / (len(values) + 1)


def _layers(forward: Sequence[float], backward: Sequence[float]) -> list[float]:
    if not forward or len(forward) != len(backward):
        raise ValueError(
            f"{len(forward)} forward and {len(backward)} backward values; give one of each for every layer"
        )
    return [*forward, *backward]
