"""Exact Hessians and gradients over Q, and Hessians in rigorous balls.

``exact_hessian`` reads every float as the dyadic rational that it is. Integer problems (integer θ, x, y, integral activations)
run in float64: every number that appears is then an integer, and the recursion run on absolute values bounds every partial
sum, because a factor that is not zero is at least one. While that bound stays below 2⁵³ each operation is exact, and BLAS
does the work. Everything else runs over ``fmpq``, some thousand times slower and without limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch
from flint import fmpq_mat, fmpz_mat

from lop_theory.activations import get_activation
from lop_theory.arithmetic import BALLS, FLOATS, RATIONALS, Arithmetic, Array, rational_array
from lop_theory.dag import Dag
from lop_theory.forward import (
    Pass,
    add_at,
    apply_activations,
    check_kinks,
    check_loss_kind,
    check_targets,
    error_signals,
    gradient,
    loss_derivatives,
    run_forward,
)
from lop_theory.hessian import assemble, curvature

EXACT_FLOAT = 2.0**53


def exact_hessian(dag: Dag, theta: Any, x: Any, y: Any, kind: str = "mse_sum") -> fmpq_mat:
    """∂²L/∂θ² [P, P] as exact rationals, for piecewise linear and polynomial activations and squared losses.

    θ [P], x [N, I], y [N, O] hold ints, Fractions, ``fmpq``, strings "p/q", or floats (read as dyadic rationals). Raises
    :class:`KinkError` where a pre-activation is exactly on a breakpoint, and ``ValueError`` for a smooth activation or
    cross_entropy (use :func:`ball_hessian` or ``certified_rank``).

    >>> from lop_theory.architectures import mlp
    >>> exact_hessian(mlp([1, 1, 1]), ["1/2", 1, 3, 0], [[2]], [[0]]).tolist()[0]
    [36, 18, 24, 6]
    """
    theta, x, y = _read(dag, theta, x, y, kind)
    found = _integer_hessian(dag, theta, x, y)
    if found is None:
        return _rational_matrix(dag, theta, x, y, kind, gauss_newton_part=True, residual_part=True)
    size = dag.num_params
    result = fmpq_mat(fmpz_mat(size, size, found.astype(np.int64).ravel().tolist()))
    return result if kind == "mse_sum" else result / len(x)


def exact_gauss_newton(dag: Dag, theta: Any, x: Any, y: Any, kind: str = "mse_sum") -> fmpq_mat:
    """The Gauss–Newton matrix Jᵀ (∂²ℓ/∂f²) J [P, P] as exact rationals; arguments as in :func:`exact_hessian`.

    >>> from lop_theory.architectures import mlp
    >>> exact_gauss_newton(mlp([1, 1, 1]), ["1/2", 1, 3, 0], [[2]], [[0]]).tolist()[0]
    [36, 18, 12, 6]
    """
    return _rational_matrix(dag, *_read(dag, theta, x, y, kind), kind, gauss_newton_part=True, residual_part=False)


def exact_residual_hessian(dag: Dag, theta: Any, x: Any, y: Any, kind: str = "mse_sum") -> fmpq_mat:
    """exact_hessian − exact_gauss_newton [P, P]: the part that carries the residuals f − y.

    >>> from lop_theory.architectures import mlp
    >>> exact_residual_hessian(mlp([1, 1, 1]), ["1/2", 1, 3, 0], [[2]], [[0]]).tolist()[0]
    [0, 0, 12, 0]
    """
    return _rational_matrix(dag, *_read(dag, theta, x, y, kind), kind, gauss_newton_part=False, residual_part=True)


def exact_gradient(dag: Dag, theta: Any, x: Any, y: Any, kind: str = "mse_sum") -> np.ndarray:
    """∂L/∂θ [P] as an object array of ``fmpq``; arguments as in :func:`exact_hessian`.

    >>> from lop_theory.architectures import mlp
    >>> exact_gradient(mlp([1, 1]), [2, 0], [[1], [2]], [[0], [0]]).tolist()
    [10, 6]
    """
    theta, x, y = _read(dag, theta, x, y, kind)
    value = _integer_pass(dag, theta, x, y)
    delta = {} if value is None else error_signals(FLOATS, dag, value.run, value.output_gradient)[1]
    if value is not None and _gradient_bound(dag, value, delta) < EXACT_FLOAT:
        check_kinks(dag, value.run.z)
        out = np.zeros(dag.num_params)
        for tile in dag.tiles:
            add_at(out, tile.index, delta[tile.target].T @ value.run.h[tile.source])
        result = rational_array(out)
    else:
        result = gradient(dag, rational_array(theta), rational_array(x), rational_array(y), "mse_sum", RATIONALS)
    return result if kind == "mse_sum" else result / len(x)


def ball_hessian(dag: Dag, theta: Any, x: Any, y: Any, kind: str, bits: int = 128) -> np.ndarray:
    """An enclosure of ∂²L/∂θ² [P, P]: an object array of ``flint.arb`` balls that contain the exact entries.

    Any activation, any loss; ``bits`` of working precision (its effect is the radius, never the validity).

    >>> from lop_theory.architectures import mlp
    >>> bool(ball_hessian(mlp([1, 1, 1], "tanh"), [1, 0, 1, 0], [[20]], [[0]], "mse_sum", 128)[0, 0] < 0)
    True
    """
    check_loss_kind(kind)
    if bits < 53:
        raise ValueError(f"bits is {bits}; give at least 53 bits of working precision")
    labels = np.asarray(y.detach().cpu() if isinstance(y, torch.Tensor) else y)
    check_targets(dag, x, labels, kind)
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        targets = labels if kind == "cross_entropy" else BALLS.convert(rational_array(y))
        return _generic_hessian(
            BALLS, dag, BALLS.convert(rational_array(theta)), BALLS.convert(rational_array(x)), targets, kind
        )
    finally:
        flint.ctx.prec = before


def _read(dag: Dag, theta: Any, x: Any, y: Any, kind: str) -> tuple[Array, Array, Array]:
    """Numpy arrays of a numeric or object dtype, with shapes checked."""
    check_loss_kind(kind)
    if kind == "cross_entropy":
        raise ValueError(
            "cross_entropy is not rational, so its Hessian has no exact entries; use ball_hessian or certified_rank"
        )
    theta, x, y = (_array(v) for v in (theta, x, y))
    if theta.shape != (dag.num_params,):
        raise ValueError(
            f"theta has shape {theta.shape}; this network has P = {dag.num_params} parameters: give [{dag.num_params}]"
        )
    if x.ndim != 2 or x.shape[1] != dag.num_inputs or not len(x):
        raise ValueError(f"x has shape {x.shape}; give [N, {dag.num_inputs}] with N at least 1")
    check_targets(dag, x, y, kind)
    for name in dict.fromkeys(dag.activations):
        if not get_activation(name).is_exact:
            raise ValueError(
                f"activation {name!r} is not rational; use a piecewise linear or polynomial one, or ball_hessian"
            )
    return theta, x, y


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an entry is NaN or infinite; exact arithmetic needs finite numbers; look for a diverged run")
    return array if array.dtype.kind in "iuf" else rational_array(values)


def _rational_matrix(
    dag: Dag, theta: Array, x: Array, y: Array, kind: str, *, gauss_newton_part: bool, residual_part: bool
) -> fmpq_mat:
    theta, x, y = rational_array(theta), rational_array(x), rational_array(y)
    matrix = _generic_hessian(RATIONALS, dag, theta, x, y, kind, gauss_newton_part, residual_part)
    return fmpq_mat(dag.num_params, dag.num_params, matrix.ravel().tolist())


def _generic_hessian(
    ops: Arithmetic,
    dag: Dag,
    theta: Array,
    x: Array,
    y: Array,
    kind: str,
    gauss_newton_part: bool = True,
    residual_part: bool = True,
) -> np.ndarray:
    run = run_forward(ops, dag, theta, x)
    slopes = {b: apply_activations(ops, dag, b, run.z[b], 1) for b in run.z}
    bends = {b: apply_activations(ops, dag, b, run.z[b], 2) for b in run.z} if residual_part else None
    gradient, loss_hessian = loss_derivatives(ops, run.output, y, kind)
    parts = curvature(ops, dag, run, slopes, bends, (gradient, loss_hessian if gauss_newton_part else loss_hessian * 0))
    out: np.ndarray = assemble(ops, dag, parts, ops.zeros((dag.num_params, dag.num_params)), residual=residual_part)
    return out


# -- integers in float64 ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _IntegerPass:
    """A forward pass on integers, in float64: exact, and so will be its error signals, if ``peak`` is below 2⁵³.

    ``peak`` bounds every partial sum of both.
    """

    run: Pass
    output_gradient: Array
    slopes: dict[int, Array]
    peak: float


def _integer_pass(dag: Dag, theta: Array, x: Array, y: Array) -> _IntegerPass | None:
    """The pass, or ``None`` if the problem is not one of integers or its exactness is not proved."""
    if not _is_integral(dag) or any(a.dtype.kind not in "iuf" for a in (theta, x, y)):
        return None
    theta, x, y = (a.astype(np.float64) for a in (theta, x, y))
    if any((a != np.rint(a)).any() for a in (theta, x, y)):
        return None
    run = run_forward(FLOATS, dag, theta, x)
    output_gradient = run.output - y
    slopes = {b: apply_activations(FLOATS, dag, b, run.z[b], 1) for b in run.z}
    peak = _pass_bound(dag, run, slopes, output_gradient)
    return _IntegerPass(run, output_gradient, slopes, peak) if peak < EXACT_FLOAT else None


def _is_integral(dag: Dag) -> bool:
    fixed = dag.fixed or {}
    names = dict.fromkeys(dag.activations)
    return all(get_activation(n).is_integral for n in names) and all(float(w).is_integer() for w in fixed.values())


def _peak(a: Array) -> float:
    return float(np.abs(a).max()) if a.size else 0.0


def _norms(dag: Dag, run: Pass) -> list[tuple[float, float]]:
    """(largest absolute row sum, largest absolute column sum) of every tile's weights."""
    absolute = [np.abs(w) for w in run.weights]
    return [(float(a.sum(axis=1).max()), float(a.sum(axis=0).max())) if a.size else (0.0, 0.0) for a in absolute]


def _pass_bound(dag: Dag, run: Pass, slopes: dict[int, Array], output_gradient: Array) -> float:
    """Bounds Σ|w||h| for z, polynomial activations (at most cubic, integer coefficients) and Σ|w||δ| for the error signals.

    A nonzero integer factor is at least one in size, so a product bounds its factors.
    """
    norms = _norms(dag, run)
    peaks = [_peak(output_gradient)]
    z = dict.fromkeys(run.z, 0.0)
    for tile, (row_sum, _) in zip(dag.tiles, norms, strict=True):
        z[tile.target] += row_sum * _peak(run.h[tile.source])
    for b, bound in z.items():
        degree = max((len(get_activation(n).coefficients) for n, _ in dag.blocks[b].activations), default=0)
        peaks.append(6 * max(bound, 1.0) ** max(degree - 1, 1) if degree else bound + 8)
    delta: dict[int, float] = {}
    for b in reversed(run.z):
        at_h = _peak(output_gradient)
        for tile, (_, column_sum) in zip(dag.tiles, norms, strict=True):
            if tile.source == b:
                at_h += column_sum * delta[tile.target]
        delta[b] = at_h * max(_peak(slopes[b]), 1.0)
    return max(*peaks, *delta.values())


def _gradient_bound(dag: Dag, value: _IntegerPass, delta: dict[int, Array]) -> float:
    largest = max(_peak(delta[t.target]) * _peak(value.run.h[t.source]) for t in dag.tiles)
    return len(value.output_gradient) * len(dag.param) * largest


def _hessian_bound(dag: Dag, value: _IntegerPass, bends: dict[int, Array]) -> float:
    """A bound on the partial sums of every entry of (2) in hessian.py, by its recursions on norms instead of arrays."""
    norms = _norms(dag, value.run)
    blocks = sorted(value.run.z)
    slope = {b: max(_peak(value.slopes[b]), 1.0) for b in blocks}
    response: dict[tuple[int, int], float] = {}
    for b in blocks:
        response[b, b] = slope[b]
        for a in blocks:
            if a > b:
                into = [(k, t.source) for k, t in enumerate(dag.tiles) if t.target == a and (b, t.source) in response]
                response[b, a] = slope[a] * sum(norms[k][0] * response[b, source] for k, source in into)
    push: dict[tuple[int, int], float] = {}
    at_h: dict[int, float] = {}
    for b in reversed(blocks):
        children = [(k, t.target) for k, t in enumerate(dag.tiles) if t.source == b]
        own = _peak(value.output_gradient) + sum(norms[k][1] * at_h[c] * slope[c] for k, c in children)
        at_h[b] = own
        for e in [*(e for e in blocks if e > b), b]:
            outputs = dag.num_outputs * sum(response.get((e, o), 0.0) for o, _, _ in dag.output_places)
            total = outputs + sum(norms[k][1] * push[min(c, e), max(c, e)] for k, c in children)
            push[b, e] = slope[b] * total + (_peak(bends[b]) * own if e == b else 0.0)
    h = {b: max(_peak(value.run.h[t.source]) for t in dag.tiles_into[b]) for b in blocks}
    entries = [
        push[b, e] * h[b] * h[e]
        + slope[e] * at_h[e] * h[b] * max((response.get((b, t.source), 0.0) for t in dag.tiles_into[e]), default=0.0)
        for b, e in push
    ]
    shared = float(np.bincount(dag.param[dag.param >= 0]).max()) ** 2 if dag.is_tied else 1.0
    return max(*push.values(), len(value.output_gradient) * shared * max(entries))


def _integer_hessian(dag: Dag, theta: Array, x: Array, y: Array) -> np.ndarray | None:
    """The Hessian of ``mse_sum`` in exact float64, or ``None`` if exactness is not proved."""
    value = _integer_pass(dag, theta, x, y)
    if value is None:
        return None
    check_kinks(dag, value.run.z)
    bends = {b: apply_activations(FLOATS, dag, b, z, 2) for b, z in value.run.z.items()}
    samples, outputs = value.output_gradient.shape
    identity = np.zeros((samples, outputs, outputs)) + np.eye(outputs)
    parts = curvature(FLOATS, dag, value.run, value.slopes, bends, (value.output_gradient, identity))
    if (
        not _hessian_bound(dag, value, bends) < EXACT_FLOAT
        and not _tight_bound(dag, value, bends, identity) < EXACT_FLOAT
    ):
        return None
    size = (dag.num_params, dag.num_params)
    out: np.ndarray = assemble(FLOATS, dag, parts, np.zeros(size), residual=True)
    return out


def _tight_bound(dag: Dag, value: _IntegerPass, bends: dict[int, Array], identity: Array) -> float:
    """The same bound with the recursion of hessian.py run on absolute values, unit by unit: slower and much smaller."""
    absolute = Pass(
        tuple(np.abs(w) for w in value.run.weights),
        value.run.z,
        {b: np.abs(h) for b, h in value.run.h.items()},
        value.run.output,
    )
    slopes = {b: np.abs(a) for b, a in value.slopes.items()}
    parts = curvature(
        FLOATS,
        dag,
        absolute,
        slopes,
        {b: np.abs(a) for b, a in bends.items()},
        (np.abs(value.output_gradient), identity),
    )
    size = (dag.num_params, dag.num_params)
    peaks = [_peak(a) for group in (parts.delta, parts.push, parts.response) for a in group.values()]
    return max(*peaks, _peak(assemble(FLOATS, dag, parts, np.zeros(size), residual=True)))
