r"""Proven intervals for the rank of the Hessian of a network that was trained in floats.

Floats are dyadic rationals, so the Hessian at trained weights is a definite object with a definite rank; rounding
enters only if we let it. Two routes, chosen by the activations:

===========================  ==========================================  =======================================
activations                  lower bound                                 upper bound
===========================  ==========================================  =======================================
piecewise linear, polynomial rank modulo a prime (``modular.py``), for   P − null directions of gates, softmax
                             softmax too                                 shift and muted units; elimination over
                                                                         Q for a small squared loss
smooth                       eigenvalues of a ball matrix, or pivots in  P − null directions of static inputs,
                             balls, that are proved not to be 0          softmax shift and muted units
===========================  ==========================================  =======================================

**Eigenvalues of a ball matrix.** Let |H − A| ≤ E entrywise, A symmetric floats, and let V, Λ be a computed
eigensystem of A (no trust needed). With G = VᵀV − I and R = A V − V Λ,

    Vᵀ H V = Λ + Δ,    Δ = G Λ + Vᵀ R + Vᵀ (H − A) V,    ‖Δ‖ ≤ ‖G‖ ‖Λ‖ + √(1 + ‖G‖) ‖R‖ + (1 + ‖G‖) ‖E‖.

If ‖G‖ < 1 then V is invertible, H has the inertia of Λ + Δ (Sylvester), and by Weyl at least #{|λ_i| > ‖Δ‖} of its
eigenvalues are not 0. ‖G‖ and ‖R‖ are bounded by the Frobenius norms of their computed values plus the a-priori error
of a product, |fl(X Y) − X Y| ≤ γ_n |X| |Y|, γ_n = n u / (1 − n u) (Higham, *Accuracy and Stability*, §3.5). H is
first scaled to D H D with powers of two, which changes neither its rank nor a single digit and brings rows of very
different size together.

**Pivots.** What floats cannot resolve (a saturated smooth unit gives rows of size 1e−17 or 1e−40), Gaussian
elimination in balls can: k steps with pivots that are proved not to be 0 prove rank ≥ k. The precision doubles up to
1024 bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flint
import numpy as np
import numpy.typing as npt
import torch

from lop_theory.activations import KinkError, get_activation
from lop_theory.bounds import gate_bound, softmax_shift_dimension
from lop_theory.dag import Dag
from lop_theory.exact import ball_hessian, exact_hessian
from lop_theory.forward import check_targets, check_tensors
from lop_theory.gates import frozen_pattern, gate_pattern
from lop_theory.modular import ExactPass, exact_forward, modular_lower_bound
from lop_theory.rank import exact_rank

FloatArray = npt.NDArray[np.float64]

_EXACT_PARAMS = 250  # largest P for elimination over Q: seconds, but a minute at 400 if null vectors have long entries
_EXACT_WORK = 3e6  # largest N P², about the number of rational multiplications in the exact Hessian
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

    Float16, float32 and float64 are read as the dyadic rationals that they are. ``bits`` is the first precision of
    the balls (smooth activations only). Same input, same answer: primes and pivots are chosen without randomness.
    Raises :class:`KinkError` where a pre-activation is exactly on a breakpoint, ``ValueError`` and ``TypeError`` as
    ``hessian``.

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


# -- piecewise linear and polynomial -----------------------------------------------------------------------------------


def _rational(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str) -> CertifiedRank:
    run = exact_forward(dag, theta, x)
    lower, prime = modular_lower_bound(dag, run, y.numpy(), kind)
    below = f"lower: rank of the exact Hessian modulo {prime}"
    if kind == "cross_entropy":
        below += ", with e^(1/denominator of the logits), which is transcendental, sent to a primitive root"
    upper, above = _upper(dag, theta, x, kind, _unit_pieces(dag, run))
    affordable = dag.num_params <= min(_EXACT_PARAMS, (_EXACT_WORK / len(x)) ** 0.5)
    if lower < upper and kind != "cross_entropy" and affordable:
        rank = exact_rank(exact_hessian(dag, theta, x, y, kind))
        return CertifiedRank(rank, rank, "both: elimination over Q of the exact Hessian")
    return CertifiedRank(lower, upper, f"{below}; {above}")


def _unit_pieces(dag: Dag, run: ExactPass) -> npt.NDArray[np.int64]:
    """The linear piece of every (sample, unit), [N, num_units]."""
    pieces = np.zeros((run.output.matrix.nrows(), dag.num_units), dtype=np.int64)
    for b, values in run.pieces.items():
        pieces[:, dag.blocks[b].units] = values
    return pieces


# -- upper bound -------------------------------------------------------------------------------------------------------


def _upper(
    dag: Dag, theta: torch.Tensor, x: torch.Tensor, kind: str, pieces: npt.NDArray[np.int64] | None
) -> tuple[int, str]:
    """(bound, how it was proved): the gate bound, of the network as it is and with its muted units disconnected."""
    bound = _gate_bound(dag, theta, x, kind, pieces)
    reason = "upper: P minus the null directions of gates and static inputs"
    if kind == "cross_entropy" and softmax_shift_dimension(dag):
        reason += " and of the softmax shift"
    muted = [(unit, border) for unit, border in _muted_units(dag, theta, kind) if border < len(dag.incoming(unit))]
    reduced = _disconnect(dag, [unit for unit, _ in muted])
    if reduced is None:
        return bound, reason
    smaller, kept = reduced
    alternative = _gate_bound(smaller, theta[torch.from_numpy(kept)], x, kind, pieces)
    alternative += 2 * sum(border for _, border in muted)
    if alternative < bound:
        reason += f", after disconnecting {len(muted)} muted units (their outgoing weights have no effect)"
        return alternative, reason
    return bound, reason


def _gate_bound(dag: Dag, theta: torch.Tensor, x: torch.Tensor, kind: str, pieces: npt.NDArray[np.int64] | None) -> int:
    try:
        gates = gate_pattern(dag, theta, x, pieces)
    except KinkError:
        raise
    except ValueError:  # rational arithmetic cannot decide the piece of a kinked unit behind a smooth one: know nothing
        gates = frozen_pattern(dag, np.array([], dtype=np.int64), [], keep_constant=False)
    return gate_bound(dag, theta, x, kind, gates)


def _muted_units(dag: Dag, theta: torch.Tensor, kind: str) -> list[tuple[int, int]]:
    r"""Units whose activation cannot reach the loss at these weights, with the size of the border that they leave.

    The outgoing weights of v are all 0, or (softmax) v feeds the output units only, each with one and the same
    weight, so that it shifts all logits alike. If its m outgoing weights are held fixed, the loss is that of the
    network without them; hence H without their rows and columns is the Hessian of the smaller network, and rank H ≤
    rank of that + 2 m. If these weights contain a shift direction, a null vector of H, one of them can be left out:
    the border is m − 1.
    """
    values = theta.numpy()
    uses = np.bincount(dag.param[dag.param >= 0], minlength=dag.num_params)
    softmax = kind == "cross_entropy" and _outputs_are_logits(dag)
    found = []
    for v in dag.hidden.tolist():
        edges = dag.outgoing(v)
        param = dag.param[edges]
        if not len(edges) or (param < 0).any() or (uses[param] > 1).any():
            continue
        to_all = softmax and len(edges) == dag.num_outputs and np.isin(dag.target[edges], dag.outputs).all()
        weights = values[param]
        if (weights == 0).all() or (to_all and (weights == weights[0]).all()):
            found.append((v, len(edges) - int(to_all)))
    return found


def _outputs_are_logits(dag: Dag) -> bool:
    """Is every output unit linear, and read by nothing but the loss?"""
    linear = all(dag.activation(int(v)) == "identity" for v in dag.outputs)
    return linear and not np.isin(dag.source, dag.outputs).any()


def _disconnect(dag: Dag, units: list[int]) -> tuple[Dag, npt.NDArray[np.int64]] | None:
    """(network without the edges that leave ``units``, its parameters as indices into θ), or ``None``.

    ``None`` if there is nothing to do, or if some unit would be left without incoming edges.
    """
    keep = ~np.isin(dag.source, units)
    if keep.all() or len(np.unique(dag.target[keep])) < len(np.unique(dag.target)):
        return None
    kept = np.unique(dag.param[keep][dag.param[keep] >= 0])
    param = np.where(dag.param[keep] < 0, -1, np.searchsorted(kept, dag.param[keep]))
    weights = dag.fixed or {}
    fixed = {new: weights[int(old)] for new, old in enumerate(np.flatnonzero(keep)) if dag.param[old] < 0}
    ends = (dag.source[keep], dag.target[keep])
    smaller = Dag(dag.num_inputs, dag.has_constant, dag.activations, *ends, param, dag.outputs, fixed)
    return smaller, kept


# -- smooth: balls -----------------------------------------------------------------------------------------------------


def _smooth(dag: Dag, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str, bits: int) -> CertifiedRank:
    upper, above = _upper(dag, theta, x, kind, None)
    lower, below = 0, "lower: 0, because no eigenvalue is separated from 0"
    while True:
        try:
            balls = ball_hessian(dag, theta, x, y, kind, bits)
        except KinkError:  # not yet proved to be off a kink: H is not known to exist
            if 2 * bits > _MOST_BITS:
                raise
            bits *= 2
            continue
        lower, below = max((lower, below), _count(balls, upper, bits), key=lambda pair: pair[0])
        if lower == upper or dag.num_params > _PIVOT_PARAMS or 2 * bits > _MOST_BITS:
            return CertifiedRank(lower, upper, f"{below}; {above}")
        bits *= 2


def _count(balls: npt.NDArray[Any], upper: int, bits: int) -> tuple[int, str]:
    eigenvalues = nonzero_eigenvalues(balls)
    if eigenvalues < upper and len(balls) <= _PIVOT_PARAMS:
        pivots = nonzero_pivots(balls, bits)
        if pivots > eigenvalues:
            return pivots, f"lower: pivots proved not to be 0 in {bits}-bit balls"
    return eigenvalues, f"lower: eigenvalues proved not to be 0, from {bits}-bit balls"


def nonzero_eigenvalues(balls: npt.NDArray[Any]) -> int:
    """A proven lower bound of the number of non-zero eigenvalues of every symmetric matrix in ``balls`` [n, n].

    >>> from flint import arb
    >>> matrix = np.array([[arb(2), arb(1)], [arb(1), arb(0.5)]], dtype=object)
    >>> nonzero_eigenvalues(matrix), nonzero_eigenvalues(matrix + np.diag([arb(0), arb(1e-9)]))
    (1, 2)
    """
    middle, radius = _float_enclosure(balls)
    if not np.isfinite(middle).all() or not np.isfinite(radius).all():
        return 0
    scaled = _separated(*_scale(middle, radius, _equilibrate(middle)))
    # Scaling helps tiny rows but enlarges errors that are not tiny with them.
    return scaled if scaled == len(balls) else max(scaled, _separated(middle, _frobenius(radius)))


def _scale(middle: FloatArray, radius: FloatArray, d: FloatArray) -> tuple[FloatArray, float]:
    """(D A D, bound of ‖D E D‖) for powers of two d; what underflows is far below the slack of :func:`_frobenius`."""
    with np.errstate(under="ignore"):
        scaled = d[:, None] * radius * d[None, :] * (1 + 8 * _UNIT) + 4 * _TINY
        return d[:, None] * middle * d[None, :], _frobenius(scaled)


def _float_enclosure(balls: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Symmetric (A, E) with |H − A| ≤ E, from the upper triangle; E covers radius and rounding of the midpoint."""
    n = len(balls)
    rows, columns = np.triu_indices(n)
    entries = balls[rows, columns]
    middle, radius = np.zeros((n, n)), np.zeros((n, n))
    middle[rows, columns] = [float(v.mid()) for v in entries]
    radius[rows, columns] = [float(v.rad()) for v in entries]
    inexact = np.array([not v.is_zero() for v in entries])
    radius[rows, columns] = (
        radius[rows, columns] * (1 + 8 * _UNIT) + 4 * _UNIT * np.abs(middle[rows, columns]) + 2 * _TINY * inexact
    )
    for matrix in (middle, radius):
        matrix[columns, rows] = matrix[rows, columns]
    return middle, radius


def _equilibrate(middle: FloatArray) -> FloatArray:
    """Powers of two d [n] that bring the largest entry of every row of D A D near one (Ruiz's iteration)."""
    size = np.abs(middle)
    exponent = np.zeros(len(middle))
    for _ in range(4):
        with np.errstate(divide="ignore", under="ignore"):
            row = np.log2(size.max(axis=1, initial=0.0))
            step = np.where(np.isfinite(row), np.rint(-row / 2), 0.0)
        exponent = np.clip(exponent + step, -250.0, 250.0)
        with np.errstate(under="ignore"):
            size = np.exp2(exponent)[:, None] * np.abs(middle) * np.exp2(exponent)[None, :]
    return np.asarray(np.ldexp(1.0, exponent.astype(np.int64)))


def _frobenius(matrix: FloatArray) -> float:
    """An upper bound of the Frobenius norm: the computed one plus the a-priori error of a sum of n² squares.

    1e-160 per entry covers squares that underflow, and every other underflow of this module.
    """
    return float(np.sqrt(np.sum(matrix * matrix))) * (1 + (matrix.size + 8) * 2 * _UNIT) + 1e-160 * matrix.size


def _separated(A: FloatArray, perturbation: float) -> int:
    """#{|λ_i| > ‖Δ‖} as in the head of this module, for symmetric A [n, n] and ‖E‖ ≤ ``perturbation``."""
    n = len(A)
    values, V = np.linalg.eigh(A)
    gamma = (n + 4) * _UNIT / (1 - (n + 4) * _UNIT) * (1 + 1e-9)
    largest, norm_v = float(np.abs(values).max(initial=0.0)), _frobenius(V)
    residual = _frobenius(A @ V - V * values) * (1 + 4 * _UNIT) + gamma * norm_v * (_frobenius(A) + largest)
    gram = _frobenius(V.T @ V - np.eye(n)) * (1 + 4 * _UNIT) + gamma * (norm_v**2 + 1)
    if not gram < 1:
        return 0
    delta = gram * largest + np.sqrt(1 + gram) * residual + (1 + gram) * perturbation
    return int((np.abs(values) > delta * (1 + 1e-9)).sum())


def nonzero_pivots(balls: npt.NDArray[Any], bits: int) -> int:
    """A proven lower bound of the rank of every matrix in ``balls`` [m, n] of ``arb``.

    It counts the steps of Gaussian elimination with complete pivoting, in ``bits``-bit balls, whose pivots are proved
    not to be 0.

    >>> from flint import arb
    >>> nonzero_pivots(np.array([[arb(1), arb(1)], [arb(1), arb(1, 1e-30)]], dtype=object), 64)
    1
    >>> nonzero_pivots(np.array([[arb(1), arb(1)], [arb(1), 1 + arb(2) ** -40]], dtype=object), 64)
    2
    """
    magnitude = np.frompyfunc(lambda v: float(v.abs_lower()), 1, 1)
    before, flint.ctx.prec = flint.ctx.prec, bits
    try:
        work, rank = balls, 0
        while work.size:
            sizes = np.asarray(magnitude(work), dtype=np.float64)
            i, j = np.unravel_index(int(np.argmax(np.nan_to_num(sizes, nan=0.0, posinf=0.0))), sizes.shape)
            if not sizes[i, j] > 0:  # a lower bound of |pivot| that is positive after rounding was positive before
                return rank
            rank += 1
            row, column = np.delete(work[i], j), np.delete(work[:, j], i) / work[i, j]
            work = np.delete(np.delete(work, i, 0), j, 1) - column[:, None] * row[None, :]
        return rank
    finally:
        flint.ctx.prec = before
