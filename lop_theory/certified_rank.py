r"""Proven intervals for the rank of the Hessian of a network that was trained in floats.

Floats are dyadic rationals, so the Hessian at trained weights is a definite object with a definite rank; rounding enters
only if we let it. Two routes, chosen by the activations:

===========================  ================================================  =============================================
activations                  lower bound                                       upper bound
===========================  ================================================  =============================================
piecewise linear, polynomial rank modulo a prime (``modular.py``), also for    gates, softmax shift and silent units; for a
                             softmax                                           small squared loss, elimination over Q
smooth                       eigenvalues of a ball matrix that are proved      P minus the softmax shift
                             not to be 0; pivots proved not to be 0
===========================  ================================================  =============================================

**Eigenvalues of a ball matrix.** Let |H − A| ≤ E entrywise, A symmetric floats, and let V, Λ be a computed eigensystem of A
(no trust needed). With G = VᵀV − I and R = A V − V Λ,

    Vᵀ H V = Λ + Δ,    Δ = G Λ + Vᵀ R + Vᵀ (H − A) V,    ‖Δ‖ ≤ ‖G‖ ‖Λ‖ + √(1 + ‖G‖) ‖R‖ + (1 + ‖G‖) ‖E‖.

If ‖G‖ < 1 then V is invertible, H has the inertia of Λ + Δ (Sylvester), and by Weyl at least #{|λ_i| > ‖Δ‖} of its
eigenvalues are not 0. ‖G‖ and ‖R‖ are bounded by the Frobenius norms of their computed values plus the a-priori error of a
product, |fl(X Y) − X Y| ≤ γ_n |X| |Y|, γ_n = n u / (1 − n u) (Higham, *Accuracy and Stability*, §3.5). H is first scaled to
D H D with powers of two, which changes neither its rank nor a single digit and brings rows of very different size together.

**Pivots.** What floats cannot resolve (a saturated smooth unit gives rows of size 1e−17 or 1e−40), Gaussian elimination in
balls can: k steps with pivots that are proved not to be 0 prove rank ≥ k. The precision doubles up to 1024 bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flint
import numpy as np
import numpy.typing as npt
import torch
from flint import arb

from lop_theory.activations import KinkError, get_activation
from lop_theory.bounds import gate_bound, softmax_shift_dimension
from lop_theory.dag import Dag
from lop_theory.exact import ball_hessian, exact_hessian
from lop_theory.forward import check_targets, check_tensors
from lop_theory.modular import ExactPass, exact_forward, modular_lower_bound
from lop_theory.rank import exact_rank

FloatArray = npt.NDArray[np.float64]

_EXACT_PARAMS = 400  # largest P for which an open interval is closed by elimination over Q …
_EXACT_WORK = 3e6  # … if N P², the number of rational multiplications, is at most this
_PIVOT_PARAMS = 150  # largest P for elimination in balls
_MOST_BITS = 1024
_UNIT = 2.0**-53  # rounding unit of float64
_TINY = 5e-324  # smallest positive float64


class CertifiedRank(NamedTuple):
    """``lower`` ≤ rank H ≤ ``upper``, both proved, and the reason in words."""

    lower: int
    upper: int
    reason: str

    @property
    def closed(self) -> bool:
        """Is the rank known exactly?"""
        return self.lower == self.upper


def certified_rank(
    dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str, *, bits: int = 128
) -> CertifiedRank:
    """A proven interval [lower, upper] for the rank of the Hessian [P, P] of the loss at θ [P] on the batch x [N, I].

    Float16, float32 and float64 are read as the dyadic rationals that they are. ``bits`` is the first precision of the
    balls (smooth activations only). Same input, same answer: primes and pivots are chosen without randomness. Raises
    :class:`KinkError` where a pre-activation is exactly on a breakpoint, ``ValueError`` and ``TypeError`` as ``hessian``.

    >>> from lop_theory.architectures import mlp
    >>> net = mlp([1, 2, 1])                              # the second unit, relu(−x − 1/2), is dead on x = 1, 2, 3
    >>> theta = torch.tensor([0.1, -1.0, 0.3, -0.5, 0.7, 0.2, -0.4], dtype=torch.float64)
    >>> x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    >>> certified_rank(net, theta, x, x**2, "mse")[:2]
    (4, 4)
    """
    check_tensors(dag, theta, x)
    check_targets(dag, x, y, kind)
    theta, x, y = (value.detach().cpu() for value in (theta, x, y))
    theta, x = theta.to(torch.float64), x.to(torch.float64)
    y = y if kind == "cross_entropy" else y.to(torch.float64)
    if all(get_activation(name).is_exact for name in dict.fromkeys(dag.activations)):
        return _rational(dag, theta, x, y, kind)
    return _smooth(dag, theta, x, y, kind, bits)


# -- piecewise linear and polynomial ---------------------------------------------------------------------------------------


def _rational(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str) -> CertifiedRank:
    run = exact_forward(dag, theta, x)
    lower, prime = modular_lower_bound(dag, run, y.numpy(), kind)
    below = f"lower: rank of the exact Hessian modulo {prime}"
    if kind == "cross_entropy":
        below += ", with e^(1/denominator of the logits), which is transcendental, sent to a primitive root"
    upper, above = _upper(dag, theta, x, kind, run)
    if lower < upper and kind != "cross_entropy" and dag.num_params <= min(_EXACT_PARAMS, (_EXACT_WORK / len(x)) ** 0.5):
        rank = exact_rank(exact_hessian(dag, theta, x, y, kind))
        return CertifiedRank(rank, rank, "both: elimination over Q of the exact Hessian")
    return CertifiedRank(lower, upper, f"{below}; upper: {above}")
