r"""Spectra of symmetric matrices that exist only as a matrix–vector product: Hessians of millions of parameters.

*Lanczos.* From a unit vector q_1, m products with A give orthonormal rows q_1 … q_m of Q and a tridiagonal T [m, m] with

    A Qᵀ = Qᵀ T + r e_mᵀ,      Q Qᵀ = I,      Q r = 0.                                                               (1)

In floats orthogonality is lost as soon as an eigenvalue of T converges, and copies of it appear; so every new vector is
orthogonalised against all rows, twice ("twice is enough", Kahan and Parlett). If ‖r‖ vanishes to rounding the Krylov space
is *exhausted*: it is invariant, T is A on it, and the recursion must stop (dividing by ‖r‖ would only amplify noise).

*Quadrature.* Let θ_j be the eigenvalues of T (Ritz values), S its eigenvectors, w_j = S_1j² and E_λ the projector on an
eigenspace. The measure μ with weights |E_λ q_1|² at the eigenvalues λ is what q_1 sees of the spectrum, and

    Σ_j w_j f(θ_j) = Σ_λ |E_λ q_1|² f(λ)      for polynomials f of degree < 2m, and for all f if exhausted.              (2)

With q_1 uniform on the sphere of R^P, E|E_λ q_1|² = mult(λ)/P: the Ritz weights beyond ε, times P, count the eigenvalues
beyond ε without any kernel. For B = f(A) the value P·q_1ᵀ B q_1 has mean and variance (fourth moments of the sphere)

    mean tr B,      variance 2 (P tr B² − (tr B)²) / (P + 2);      a count r:  2 r (P − r) / (P + 2).                   (3)

Error bars are the square root of (3), divided by the number of probes, with tr B² read from the same quadrature.

*What m steps can resolve.* Chebyshev, Markov and Stieltjes: with θ_1 < … < θ_m,

    Σ_{j<k} w_j ≤ μ(−∞, θ_k) ≤ μ(−∞, θ_k] ≤ Σ_{j≤k} w_j,                                                              (4)

so a count at a level between θ_k and θ_{k+1} errs by at most w_k on one side and w_{k+1} on the other. That bracket is
proved for each probe, up to rounding. It is narrow among outliers and wide inside a bulk that few nodes have to stand for:
below the smallest |θ_j| everything is counted, whatever the rank. Hence :meth:`Spectrum.trusted_range`.

*Deflation.* Eigenpairs that one Lanczos run has already found are counted one by one; the probes are drawn in their
orthogonal complement. That removes the outliers from the variance (3), which they dominate.

*The published estimator.* "Normalized ε-rank" (Spectral Collapse, 2509.22335, as coded) integrates a density smoothed by a
Gaussian that is wider than ε. :func:`published_normalized_epsilon_rank` is that estimator, kept apart: on a Hessian of
rank two it returns almost anything between 0 and 1, depending on λ_max − λ_min (claim ``spectral.normalized-eps-rank``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh_tridiagonal
from scipy.special import entr, xlogy

from lop_theory.dag import Dag
from lop_theory.hessian import hvp

__all__ = [
    "Count",
    "Decomposition",
    "Estimate",
    "Extreme",
    "Spectrum",
    "estimate_spectrum",
    "hessian_spectrum",
    "lanczos",
    "published_normalized_epsilon_rank",
]

FloatArray = npt.NDArray[np.float64]
Matvec = Callable[[torch.Tensor], torch.Tensor]
"""A symmetric matrix A [P, P] as the map V ↦ A V of [P, k] to [P, k]; ``matrix.__matmul__`` is one."""

_CHUNK = 4096  # columns of the basis that are updated at a time: they stay in cache for the second dot product
_BASIS_BYTES = 1 << 30  # probes advance together while all their bases fit into this


class Estimate(NamedTuple):
    """A value and its standard error over random probes, by formula (3)."""

    value: float
    stderr: float


class Count(NamedTuple):
    """A number of eigenvalues: ``value`` ± ``stderr`` over probes; ``lower`` and ``upper`` are the mean brackets (4).

    ``stderr`` is what more probes would reduce, ``upper − lower`` what more steps would reduce.
    """

    value: float
    stderr: float
    lower: float
    upper: float


class Extreme(NamedTuple):
    """A Ritz value at an end of the spectrum; some eigenvalue lies within ``residual`` of it."""

    value: float
    residual: float


# -- Lanczos ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decomposition:
    """Formula (1): orthonormal rows ``basis`` [m, P], T by ``diagonal`` [m] and ``off_diagonal`` [m − 1], ``remainder`` r [P].

    ``tolerance`` is the level of ‖r‖ below which the Krylov space counts as ``exhausted``; r is then set to zero.
    """

    basis: torch.Tensor
    diagonal: FloatArray
    off_diagonal: FloatArray
    remainder: torch.Tensor
    tolerance: float
    exhausted: bool

    @property
    def tridiagonal(self) -> FloatArray:
        """T [m, m]."""
        return np.diag(self.diagonal) + np.diag(self.off_diagonal, 1) + np.diag(self.off_diagonal, -1)

    def ritz(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Ritz values θ [m], ascending; the eigenvectors S [m, m] of T; residuals ‖A y_j − θ_j y_j‖ = ‖r‖ |S_mj| [m]."""
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, vectors, float(self.remainder.norm()) * np.abs(vectors[-1])


def lanczos(matvec: Matvec, start: torch.Tensor, steps: int) -> Decomposition:
    """At most ``steps`` Lanczos steps from ``start`` [P], which need not have length one; fewer if the space is exhausted.

    ``matvec`` maps [P, k] to [P, k] in the dtype of ``start``. Memory: ``steps`` vectors. Raises ``ValueError`` if
    ``start`` is not a finite, non-zero vector, if ``steps`` < 1, or if ``matvec`` is seen not to be symmetric and finite.

    >>> A = torch.diag(torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64))
    >>> found = lanczos(A.__matmul__, torch.ones(3, dtype=torch.float64), steps=3)
    >>> found.exhausted, found.ritz()[0].round(12).tolist()    # two different eigenvalues: two steps
    (True, [1.0, 4.0])
    """
    if start.ndim != 1 or not start.dtype.is_floating_point:
        raise ValueError(f"start is {tuple(start.shape)} {start.dtype}; give one vector [P] of floats")
    _check_positive("steps", steps)
    return _lanczos(matvec, start[None], steps, None)[0]


def _lanczos(matvec: Matvec, starts: torch.Tensor, steps: int, locked: torch.Tensor | None) -> list[Decomposition]:
    """One decomposition per row of ``starts`` [k, P], advanced together; all in the complement of the rows ``locked``."""
    probes, size = starts.shape
    norms = starts.norm(dim=1)
    if not bool(torch.isfinite(norms).all()) or not bool((norms > 0).all()):
        raise ValueError(f"start vectors have lengths {norms.tolist()}; they must be finite and not zero")
    steps = min(steps, size)
    unit = torch.finfo(starts.dtype).eps
    basis = starts.new_empty(probes, steps, size)
    basis[:, 0] = starts / norms[:, None]
    diagonal, off_diagonal = np.zeros((probes, steps)), np.zeros((probes, steps))
    scale = np.zeros(probes)  # the largest ‖A q‖ so far: a lower bound of ‖A‖
    done: dict[int, Decomposition] = {}
    for j in range(steps):
        active = [k for k in range(probes) if k not in done]
        if not active:
            break
        products = _product(matvec, basis[active, j])
        for k, w in zip(active, products, strict=True):
            scale[k] = max(scale[k], float(w.norm()))
            if locked is not None:
                _project_out(w, locked)
            coefficients = _project_out(w, basis[k, : j + 1])
            diagonal[k, j] = float(coefficients[j])
            _check_symmetric(coefficients, off_diagonal[k, j - 1] if j else None, scale[k], unit)
            norm, tolerance = float(w.norm()), 16 * math.sqrt(size) * unit * scale[k]
            exhausted = norm <= tolerance or j + 1 == size
            if exhausted or j + 1 == steps:
                remainder = torch.zeros_like(w) if exhausted else w.clone()
                rows, beta = basis[k, : j + 1], off_diagonal[k, :j]
                done[k] = Decomposition(rows, diagonal[k, : j + 1], beta, remainder, tolerance, exhausted)
            else:
                off_diagonal[k, j] = norm
                torch.div(w, norm, out=basis[k, j + 1])
    return [done[k] for k in range(probes)]


def _product(matvec: Matvec, rows: torch.Tensor) -> torch.Tensor:
    """A applied to each row, in memory of its own (the result is overwritten)."""
    product = matvec(rows.T)
    if product.shape != rows.T.shape or product.dtype != rows.dtype:
        raise ValueError(
            f"matvec maps {tuple(rows.T.shape)} {rows.dtype} to {tuple(product.shape)} {product.dtype}; "
            "it must keep both: write it for a matrix of columns"
        )
    return (
        product.detach().T.contiguous().clone()
        if product.requires_grad
        else product.T.clone(memory_format=torch.contiguous_format)
    )


def _project_out(w: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """w ← (I − QᵀQ)² w in place; returns the coefficients Q w. Classical Gram–Schmidt, twice.

    The second pass starts chunk by chunk while the first one is still in cache: the basis is read three times, not four.
    """
    first = basis @ w
    second = torch.zeros_like(first)
    for at in range(0, len(w), _CHUNK):
        columns, part = basis[:, at : at + _CHUNK], w[at : at + _CHUNK]
        part.addmv_(columns.T, first, alpha=-1)
        second.addmv_(columns, part)
    w.addmv_(basis.T, second, alpha=-1)
    return first + second


def _check_symmetric(coefficients: torch.Tensor, previous: float | None, scale: float, unit: float) -> None:
    """Q A q_j must be zero above the two last entries, and its last but one the β of the step before."""
    if not math.isfinite(scale):
        raise ValueError(f"matvec returned a vector of length {scale}; all its entries must be finite")
    if previous is None:
        return
    expected = torch.zeros_like(coefficients)
    expected[-1], expected[-2] = coefficients[-1], previous
    error = float((coefficients - expected).abs().max())
    if error > math.sqrt(unit) * scale:
        raise ValueError(
            f"matvec is not symmetric: q_i' A q_j and q_j' A q_i differ by {error:.3g} at |A q| = {scale:.3g}; "
            "pass a symmetric matrix, the same data on every call, and no dropout"
        )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value}; give at least 1")


# -- the estimates ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """What k probes in the complement of ``eigenvalues`` [r] saw of a symmetric matrix of size ``dimension`` = P.

    Per probe ``nodes``, ``weights`` (sum 1), ``residuals`` [m_k] and whether its Krylov space was ``exhausted``;
    ``bounds`` [r] are residuals of the deflated eigenpairs, ``floor`` the level of rounding: smaller levels ε mean nothing.
    """

    dimension: int
    nodes: tuple[FloatArray, ...]
    weights: tuple[FloatArray, ...]
    residuals: tuple[FloatArray, ...]
    exhausted: tuple[bool, ...]
    eigenvalues: FloatArray
    bounds: FloatArray
    floor: float

    @property
    def complement(self) -> int:
        """P − r, the dimension that the probes stand for."""
        return self.dimension - len(self.eigenvalues)

    def trace_of(self, function: Callable[[FloatArray], FloatArray]) -> Estimate:
        """tr f(A) for an elementwise f, with its standard error by formula (3). f must be finite at every node.

        >>> A = torch.eye(3, dtype=torch.float64)
        >>> found = estimate_spectrum(A.__matmul__, 3, steps=3, probes=2, generator=torch.Generator().manual_seed(0))
        >>> round(found.trace_of(np.exp).value, 12) == round(3 * math.e, 12)
        True
        """
        size = self.complement
        known = float(np.sum(function(self.eigenvalues))) if len(self.eigenvalues) else 0.0
        if size == 0:
            return Estimate(known, 0.0)
        mean, square = (
            float(np.mean([w @ function(t) ** power for t, w in zip(self.nodes, self.weights, strict=True)]))
            for power in (1, 2)
        )
        variance = 2 * size**2 * max(square - mean**2, 0.0) / (size + 2)
        return Estimate(known + size * mean, math.sqrt(variance / len(self.nodes)))

    def trace(self) -> Estimate:
        """tr A."""
        return self.trace_of(lambda t: t)

    def epsilon_rank(self, eps: float) -> Count:
        """#{i : |λ_i| > eps} by Ritz weights: no kernel. See :class:`Count` for the two kinds of error.

        Unbiased if every probe is exhausted; otherwise right within [lower, upper] up to ``stderr``. A deflated
        eigenvalue closer to ±eps than its bound widens the bracket. Raises ``ValueError`` unless eps is finite and > 0.

        >>> A = torch.diag(torch.tensor([9.0, -9.0] + [0.0] * 98, dtype=torch.float64))
        >>> draw = torch.Generator().manual_seed(0)
        >>> estimate_spectrum(A.__matmul__, 100, steps=10, probes=2, deflate=2, generator=draw).epsilon_rank(0.01)
        Count(value=2.0, stderr=0.0, lower=2.0, upper=2.0)
        """
        if not (eps > 0 and math.isfinite(eps)):
            raise ValueError(f"eps = {eps}: an ε-rank needs a finite level > 0, in the units of the matrix")
        magnitude = np.abs(self.eigenvalues)
        known = [float((magnitude > eps + shift * self.bounds).sum()) for shift in (0.0, 1.0, -1.0)]
        if self.complement == 0:
            return Count(known[0], 0.0, known[1], known[2])
        triples = zip(self.nodes, self.weights, self.exhausted, strict=True)
        shares = np.mean([_share_beyond(t, w, eps, done) for t, w, done in triples], axis=0)
        stderr = self.trace_of(lambda t: (np.abs(t) > eps).astype(np.float64)).stderr
        value, lower, upper = (k + self.complement * float(share) for k, share in zip(known, shares, strict=True))
        return Count(value, stderr, lower, upper)

    def extreme(self, end: str = "max") -> Extreme:
        """The largest (``"max"``) or smallest (``"min"``) Ritz value: λ_max is at least, λ_min at most this."""
        if end not in ("max", "min"):
            raise ValueError(f"end is {end!r}; give 'max' or 'min'")
        values = np.concatenate([self.eigenvalues, *self.nodes])
        at = int(values.argmax() if end == "max" else values.argmin())
        return Extreme(float(values[at]), float(np.concatenate([self.bounds, *self.residuals])[at]))

    def effective_rank(self) -> Estimate:
        """exp(−Σ p log p), p = |λ|/Σ|λ| (Roy and Vetterli 2007), with a first-order standard error.

        With S = Σ|λ| and F = Σ|λ| log|λ| it is exp(log S − F/S), whose logarithm changes by tr g for
        g(λ) = |λ| (1 + F/S − log|λ|) / S; (3) for g gives the error. Raises ``ValueError`` for a zero matrix.
        """
        total = self.trace_of(np.abs).value
        if not total > self.floor:
            raise ValueError(f"effective rank: undefined, because the matrix is zero to rounding (Σ|λ| = {total:.3g})")
        ratio = self.trace_of(lambda t: -entr(np.abs(t))).value / total
        value = math.exp(math.log(total) - ratio)
        influence = self.trace_of(lambda t: (np.abs(t) * (1 + ratio) - xlogy(np.abs(t), np.abs(t))) / total)
        return Estimate(value, value * influence.stderr)

    def trusted_range(self, tolerance: float = 0.2) -> tuple[float, float] | None:
        """The widest (low, high), in ratio, with |error| ≤ tolerance · count at every low ≤ ε < high; ``None`` if there is none.

        The error is half the bracket (4) plus the standard error (3). Both are constant between neighbouring |θ|, so
        the range is found exactly. Levels below ``floor`` never belong to it, nor levels at which nothing is counted.

        >>> A = torch.diag(torch.tensor([9.0, -4.0] + [0.0] * 98, dtype=torch.float64))
        >>> draw = torch.Generator().manual_seed(0)
        >>> found = estimate_spectrum(A.__matmul__, 100, steps=10, probes=2, deflate=2, generator=draw)
        >>> low, high = found.trusted_range()
        >>> low < 1e-10, round(high, 10)
        (True, 9.0)
        """
        levels = np.unique(np.abs(np.concatenate([self.eigenvalues, *self.nodes])))
        levels = np.append(self.floor, levels[levels > self.floor])
        best: tuple[float, float] | None = None
        low: float | None = None
        for left, right in zip(levels[:-1], levels[1:], strict=True):
            count = self.epsilon_rank(math.sqrt(left) * math.sqrt(right))
            if count.value > 0 and (count.upper - count.lower) / 2 + count.stderr <= tolerance * count.value:
                low = float(left) if low is None else low
                if best is None or right / low > best[1] / best[0]:
                    best = (low, float(right))
            else:
                low = None
        return best


def _share_beyond(nodes: FloatArray, weights: FloatArray, eps: float, exhausted: bool) -> tuple[float, float, float]:
    """(value, lower, upper) of the share of μ beyond ±eps; the bracket is (4) at both levels, none if exhausted."""
    value = float(weights[np.abs(nodes) > eps].sum())
    if exhausted:
        return value, value, value
    below = int(np.searchsorted(nodes, -eps, side="left"))  # nodes[:below] < −eps
    above = int(np.searchsorted(nodes, eps, side="right"))  # nodes[above:] > eps
    lose = float(weights[below - 1 : below].sum() + weights[above : above + 1].sum())
    gain = float(weights[[k for k in {below, above - 1} if below <= k < above]].sum())
    return value, max(value - lose, 0.0), min(value + gain, 1.0)


# -- estimating ------------------------------------------------------------------------------------------------------------


def estimate_spectrum(
    matvec: Matvec,
    dimension: int,
    *,
    generator: torch.Generator,
    steps: int = 60,
    probes: int = 4,
    deflate: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Spectrum:
    """Deflated Lanczos quadrature of a symmetric matrix [P, P], P = ``dimension``, given as V [P, k] ↦ A V.

    A first run of max(steps, 2·deflate + 20) steps finds up to ``deflate`` converged eigenpairs of largest |λ| (only
    pairs whose residual is at rounding level, and of a multiple eigenvalue one); then ``probes`` runs of ``steps``
    steps start from random directions in their complement, on ``generator.device``. Cost: one product per step; the
    memory of ``steps`` vectors per probe, several probes at a time only while that stays below 1 GiB. The result does
    not depend on how probes are grouped, except for rounding. Raises ``ValueError`` for bad sizes and as :func:`lanczos`.

    >>> A = torch.diag(torch.arange(1000.0, dtype=torch.float64))
    >>> found = estimate_spectrum(A.__matmul__, 1000, steps=50, probes=10, generator=torch.Generator().manual_seed(0))
    >>> count = found.epsilon_rank(499.5)
    >>> count.lower - 2 * count.stderr < 500 < count.upper + 2 * count.stderr
    True
    """
    for name, value in (("dimension", dimension), ("steps", steps), ("probes", probes)):
        _check_positive(name, value)
    if not 0 <= deflate <= dimension:
        raise ValueError(f"deflate = {deflate}; give between 0 and the dimension {dimension} eigenpairs")

    def direction() -> torch.Tensor:
        return torch.randn(dimension, generator=generator, dtype=dtype, device=generator.device)

    values, bounds, locked, scale = np.zeros(0), np.zeros(0), None, 0.0
    if deflate:
        run = _lanczos(matvec, direction()[None], max(steps, 2 * deflate + 20), None)[0]
        values, bounds, vectors = _converged(run, deflate)
        locked, scale = (vectors if len(values) else None), run.tolerance
    runs: list[tuple[FloatArray, FloatArray, FloatArray, bool]] = []
    group = max(1, _BASIS_BYTES // (min(steps, dimension) * dimension * dtype.itemsize))
    while len(runs) < probes and len(values) < dimension:
        starts = torch.stack([direction() for _ in range(min(group, probes - len(runs)))])
        for start in starts if locked is not None else ():
            _project_out(start, locked)  # type: ignore[arg-type]
        for run in _lanczos(matvec, starts, steps, locked):
            nodes, vectors_of_t, residuals = run.ritz()
            runs.append((nodes, vectors_of_t[0] ** 2, residuals, run.exhausted))
            scale = max(scale, run.tolerance)
    nodes_, weights_, residuals_, exhausted_ = zip(*runs, strict=True) if runs else ((), (), (), ())
    return Spectrum(dimension, nodes_, weights_, residuals_, exhausted_, values, bounds, scale)


def _converged(run: Decomposition, wanted: int) -> tuple[FloatArray, FloatArray, torch.Tensor]:
    """Values [r], residuals [r] and vectors [r, P] of the leading converged Ritz pairs, r ≤ ``wanted``, none of them zero.

    A converged pair below an unconverged one is left to the probes: deflation takes a leading part of the spectrum.
    """
    values, vectors, residuals = run.ritz()
    order = np.argsort(-np.abs(values))[:wanted]
    good = (residuals[order] <= 100 * run.tolerance) & (np.abs(values[order]) > 100 * run.tolerance)
    order = order[: int(np.argmin(good)) if not good.all() else len(order)]
    rows = torch.from_numpy(np.ascontiguousarray(vectors[:, order].T)).to(run.basis)
    return values[order], np.maximum(residuals[order], run.tolerance), rows @ run.basis


def hessian_spectrum(
    dag: Dag,
    theta: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    kind: str,
    *,
    generator: torch.Generator,
    steps: int = 60,
    probes: int = 4,
    deflate: int = 0,
) -> Spectrum:
    """:func:`estimate_spectrum` of the Hessian of the loss at θ [P], through :func:`lop_theory.hessian.hvp`.

    Probes that advance together share the forward pass. At a kink the one-sided slope of torch is taken.

    >>> from lop_theory.architectures import mlp
    >>> net, one = mlp([1, 1]), torch.ones(1, 1, dtype=torch.float64)     # the Hessian is [[9, 3], [3, 1]], of rank one
    >>> theta, draw = torch.zeros(2, dtype=torch.float64), torch.Generator().manual_seed(0)
    >>> found = hessian_spectrum(net, theta, 3 * one, one, "mse_sum", deflate=1, generator=draw)
    >>> found.epsilon_rank(1e-6).value, round(found.extreme().value, 10)
    (1.0, 10.0)
    """
    return estimate_spectrum(
        lambda columns: hvp(dag, theta, x, y, columns, kind),
        dag.num_params,
        generator=generator,
        steps=steps,
        probes=probes,
        deflate=deflate,
        dtype=theta.dtype,
    )


# -- the published estimator -----------------------------------------------------------------------------------------------


def published_normalized_epsilon_rank(
    nodes: Sequence[npt.ArrayLike],
    weights: Sequence[npt.ArrayLike],
    eps: float,
    *,
    bridge: bool = True,
    variance: float = 1e-5,
    points: int = 10_000,
    expand: float = 1e-2,
) -> float:
    """ "Normalized ε-rank" as the code of Spectral Collapse (2509.22335) computes it. It does **not** estimate the ε-rank.

    ``nodes`` and ``weights``: Ritz values and weights, one array per probe (one probe in the paper). A grid of ``points``
    covers [λ_min − expand, λ_max + expand]; the density on it is the mean over probes of Σ_j w_j N(θ_j, s²) with
    s² = ``variance`` · max(1, length of the grid) (Ghorbani et al. 2019, 1901.10159). The value is the trapezoidal
    integral over the grid points with |x| > eps, divided by that over all. Three defects:

    * s exceeds the ε of the figures as soon as λ_max − λ_min exceeds ε²/1e-5 = 10 … 1000: the value is a function of the
      sharpness (half of a point mass at 0 is beyond ±ε when λ_max − λ_min = (ε / 0.6745)² / 1e-5);
    * the rule runs **across the removed gap** and adds the trapezoid ε (ρ(−ε) + ρ(ε)), so that values exceed 1;
      ``bridge=False`` integrates the two sides separately;
    * from a range of about 1,000 on, the grid is coarser than s.

    Raises ``ValueError`` for eps ≤ 0 and for empty or unequal arrays.

    >>> null = [-50.0, 0.0, 50.0], [0.0005, 0.999, 0.0005]      # rank 2 of 2,000: the share beyond ε is 0.001
    >>> round(published_normalized_epsilon_rank([null[0]], [null[1]], 0.01), 2)
    0.89
    >>> round(published_normalized_epsilon_rank([null[0]], [null[1]], 0.01, bridge=False), 2)
    0.69
    """
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps = {eps}: the level must be finite and > 0")
    draws = [np.asarray(t, dtype=np.float64) for t in nodes]
    shares = [np.asarray(w, dtype=np.float64) for w in weights]
    if (
        not draws
        or [t.shape for t in draws] != [w.shape for w in shares]
        or any(t.ndim != 1 or not t.size for t in draws)
    ):
        raise ValueError(
            "nodes and weights hold one array per probe, of equal lengths ≥ 1; wrap a single probe in a list"
        )
    low, high = np.mean([t.min() for t in draws]) - expand, np.mean([t.max() for t in draws]) + expand
    grid = np.linspace(low, high, points)
    s2 = variance * max(1.0, high - low)
    density = np.zeros(points)
    for t, w in zip(draws, shares, strict=True):
        for node, weight in zip(t, w, strict=True):  # one node at a time: memory of one grid
            density += weight * np.exp(-((grid - node) ** 2) / (2 * s2))
    sides = [np.abs(grid) > eps] if bridge else [grid > eps, grid < -eps]
    beyond = sum(float(np.trapezoid(density[side], grid[side])) for side in sides)
    return beyond / float(np.trapezoid(density, grid))
