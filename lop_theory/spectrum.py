r"""Spectra of symmetric matrices that exist only as a matrix–vector product: Hessians of millions of parameters.

*Quadrature.* m Lanczos steps from a unit vector q_1 (``lanczos.py``) turn A into a tridiagonal T [m, m]. Let θ_j be the
eigenvalues of T (Ritz values), S its eigenvectors, w_j = S_1j² and E_λ the projector on an
eigenspace. The measure μ with weights |E_λ q_1|² at the eigenvalues λ is what q_1 sees of the spectrum, and

    Σ_j w_j f(θ_j) = Σ_λ |E_λ q_1|² f(λ)      for polynomials f of degree < 2m, and for all f if exhausted.              (1)

With q_1 uniform on the sphere of R^P, E|E_λ q_1|² = mult(λ)/P: the Ritz weights beyond ε, times P, count the eigenvalues
beyond ε without any kernel. For B = f(A) the value P·q_1ᵀ B q_1 has mean and variance (fourth moments of the sphere)

    mean tr B,      variance 2 (P tr B² − (tr B)²) / (P + 2);      a count r:  2 r (P − r) / (P + 2).                   (2)

Error bars are the square root of (2) over the number of probes, with tr B² read from the same quadrature.

*What m steps can resolve.* Let p_0, p_1, … be the orthonormal polynomials of μ, given by the rows of T, and

    ω(x) = 1 / Σ_{k<m} p_k(x)²,        ω(θ_j) = w_j        (the Christoffel function).                                 (3)

Chebyshev, Markov and Stieltjes: any two measures with the same moments up to degree 2m − 2 give (−∞, x) and (−∞, x] masses
that differ by at most ω(x). Proof: let ξ_1 < … < ξ_m be the zeros of (t − x) K(t) with K(t) = Σ_{k<m} p_k(t) p_k(x); there
is a polynomial of degree 2m − 2 above the step 1{t ≤ x} and one below 1{t < x}, which touch it at all ξ_j and differ by
(K(t)/K(x))², whose integral is ω(x). ∎ So the count of Ritz weights errs by at most ω(−ε) + ω(ε): a bracket that is proved
for each probe, up to rounding. It is narrow among outliers and wide inside a bulk that few nodes have to stand for: below
the smallest |θ_j| everything is counted, whatever the rank. Hence :meth:`Spectrum.trusted_range`.

*Deflation.* Eigenpairs that one Lanczos run has already found are counted one by one; the probes are drawn in their
orthogonal complement. That removes the outliers from the variance (2), which they dominate.

*The published estimator.* "Normalized ε-rank" (Spectral Collapse, 2509.22335, as coded) integrates a density smoothed by a
Gaussian that is wider than ε. :func:`published_normalized_epsilon_rank` is that estimator, kept apart: on a Hessian of
rank two it returns almost anything between 0 and 1, depending on λ_max − λ_min (claim ``spectral.normalized-eps-rank``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import entr

from lop_theory.dag import Dag
from lop_theory.hessian import hvp
from lop_theory.lanczos import Decomposition, FloatArray, Matvec, lanczos_block, project_out

__all__ = [
    "Count",
    "Estimate",
    "Extreme",
    "Quadrature",
    "Spectrum",
    "estimate_spectrum",
    "hessian_spectrum",
    "published_normalized_epsilon_rank",
]

_HUGE = 1e250
_BASIS_BYTES = 1 << 30  # probes advance together while all their bases fit into this


class Estimate(NamedTuple):
    """A value and its standard error over random probes, by formula (2)."""

    value: float
    stderr: float


class Count(NamedTuple):
    """A number of eigenvalues: ``value`` ± ``stderr`` over probes; ``lower`` and ``upper``: the mean bracket (3).

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


# -- the estimates ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quadrature:
    """What one probe saw: Ritz ``nodes``, ascending, ``weights`` (sum 1) and ``residuals`` [m]; T; whether it is exhausted."""

    nodes: FloatArray
    weights: FloatArray
    residuals: FloatArray
    diagonal: FloatArray
    off_diagonal: FloatArray
    exhausted: bool

    @staticmethod
    def of(run: Decomposition) -> Quadrature:
        """Formula (1) of a Lanczos run."""
        nodes, vectors, residuals = run.ritz()
        return Quadrature(nodes, vectors[0] ** 2, residuals, run.diagonal, run.off_diagonal, run.exhausted)

    def christoffel(self, x: FloatArray) -> FloatArray:
        """ω(x) of formula (3) at the levels x [L], by the recursion β_k+1 p_k+1 = (x − α_k+1) p_k − β_k p_k−1."""
        before, now = np.zeros_like(x), np.ones_like(x)
        total = np.ones_like(x)
        beta = np.concatenate([[0.0], self.off_diagonal])
        for k in range(len(self.off_diagonal)):
            after = ((x - self.diagonal[k]) * now - beta[k] * before) / beta[k + 1]
            before, now = now, np.where(total < _HUGE, after, 0.0)  # beyond, ω is 0 and p would overflow
            total = np.where(total < _HUGE, total + now**2, total)
        return 1 / total

    def share_beyond(self, levels: FloatArray) -> FloatArray:
        """[3, L]: the share of μ beyond ±level, and the bracket (3) that it lies in; exact if exhausted."""
        value = np.minimum((np.abs(self.nodes) > levels[:, None]) @ self.weights, 1.0)  # the sum may round up
        error = 0.0 if self.exhausted else self.christoffel(-levels) + self.christoffel(levels)
        return np.stack([value, np.maximum(value - error, 0.0), np.minimum(value + error, 1.0)])


@dataclass(frozen=True)
class Spectrum:
    """What probes in the complement of ``eigenvalues`` [r] saw of a symmetric matrix of size ``dimension`` = P.

    ``bounds`` [r] are residuals of the deflated eigenpairs; ``floor`` is the level of rounding, below which an ε means nothing.
    """

    dimension: int
    quadratures: tuple[Quadrature, ...]
    eigenvalues: FloatArray
    bounds: FloatArray
    floor: float

    @property
    def complement(self) -> int:
        """P − r, the dimension that the probes stand for."""
        return self.dimension - len(self.eigenvalues)

    @property
    def nodes(self) -> tuple[FloatArray, ...]:
        """Ritz values, probe by probe."""
        return tuple(q.nodes for q in self.quadratures)

    @property
    def weights(self) -> tuple[FloatArray, ...]:
        """Ritz weights, probe by probe."""
        return tuple(q.weights for q in self.quadratures)

    @property
    def exhausted(self) -> bool:
        """Did every probe exhaust its Krylov space? Then all quadratures are exact, and only the error (2) is left."""
        return all(q.exhausted for q in self.quadratures)

    def trace_of(self, function: Callable[[FloatArray], FloatArray]) -> Estimate:
        """tr f(A) for an elementwise f, with its standard error by formula (2). f must be finite at every node.

        >>> A = torch.eye(3, dtype=torch.float64)
        >>> found = estimate_spectrum(A.__matmul__, 3, steps=3, probes=2, generator=torch.Generator().manual_seed(0))
        >>> round(found.trace_of(np.exp).value, 12) == round(3 * math.e, 12)
        True
        """
        known = float(np.sum(function(self.eigenvalues))) if len(self.eigenvalues) else 0.0
        if not self.quadratures:
            return Estimate(known, 0.0)
        values = [(q.weights, function(q.nodes)) for q in self.quadratures]
        mean, square = (float(np.mean([w @ f**power for w, f in values])) for power in (1, 2))
        return Estimate(known + self.complement * mean, float(self._stderr(mean, square)))

    def _stderr(self, mean: Any, square: Any) -> Any:
        """Formula (2) with tr B = n · mean and tr B² = n · square, n the size of the complement."""
        n = self.complement
        return np.sqrt(2 * n**2 * np.maximum(square - mean**2, 0.0) / ((n + 2) * len(self.quadratures)))

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
        value, stderr, lower, upper = self._counts(np.array([eps]))[:, 0].tolist()
        return Count(value, stderr, lower, upper)

    def _counts(self, levels: FloatArray) -> FloatArray:
        """[4, L]: value, stderr, lower and upper of the ε-ranks at the levels [L]."""
        shifts = np.array([0.0, 1.0, -1.0])[:, None, None]
        known = (np.abs(self.eigenvalues) > levels[:, None] + shifts * self.bounds).sum(axis=2).astype(np.float64)
        if not self.quadratures:
            return np.stack([known[0], np.zeros_like(levels), known[1], known[2]])
        shares = np.mean([q.share_beyond(levels) for q in self.quadratures], axis=0)
        value, lower, upper = known + self.complement * shares
        return np.stack([value, self._stderr(shares[0], shares[0]), lower, upper])

    def extreme(self, end: str = "max") -> Extreme:
        """The largest (``"max"``) or smallest (``"min"``) Ritz value: λ_max is at least, λ_min at most this."""
        if end not in ("max", "min"):
            raise ValueError(f"end is {end!r}; give 'max' or 'min'")
        values = np.concatenate([self.eigenvalues, *self.nodes])
        at = int(values.argmax() if end == "max" else values.argmin())
        return Extreme(
            float(values[at]), float(np.concatenate([self.bounds, *(q.residuals for q in self.quadratures)])[at])
        )

    def effective_rank(self) -> Estimate:
        """exp(−Σ p log p), p = |λ|/Σ|λ| (Roy and Vetterli 2007), with a first-order standard error.

        With S = Σ|λ| and F = Σ|λ| log|λ| it is exp(log S − F/S), whose logarithm changes by tr g for
        g(λ) = |λ| (1 + F/S − log|λ|) / S; (2) for g gives the error. Raises ``ValueError`` for a zero matrix.
        """
        total = self.trace_of(np.abs).value
        if not total > self.floor:
            raise ValueError(f"effective rank: undefined, because the matrix is zero to rounding (Σ|λ| = {total:.3g})")
        ratio = self.trace_of(lambda t: -entr(np.abs(t))).value / total
        value = math.exp(math.log(total) - ratio)
        influence = self.trace_of(lambda t: (np.abs(t) * (1 + ratio) + entr(np.abs(t))) / total)
        return Estimate(value, value * influence.stderr)

    def trusted_range(self, tolerance: float = 0.2) -> tuple[float, float] | None:
        """The widest (low, high), in ratio, in which the ε-rank errs by at most tolerance · count; ``None`` if there is none.

        The error is the bracket (3) plus one standard error (2). It is looked at on 25 levels per decade, from ``floor``
        to the largest |θ|; levels at which nothing is counted never pass.

        >>> A = torch.diag(torch.tensor([9.0, -4.0] + [0.0] * 98, dtype=torch.float64))
        >>> draw = torch.Generator().manual_seed(0)
        >>> found = estimate_spectrum(A.__matmul__, 100, steps=10, probes=2, deflate=2, generator=draw)
        >>> low, high = found.trusted_range()
        >>> low < 1e-10, 8 < high < 9
        (True, True)
        """
        top = float(np.abs(np.concatenate([self.eigenvalues, *self.nodes])).max())
        if not top > self.floor:
            return None
        levels = np.geomspace(self.floor, top, max(2, math.ceil(25 * math.log10(top / self.floor))))
        value, stderr, lower, upper = self._counts(levels)
        passed = (value > 0) & (np.maximum(value - lower, upper - value) + stderr <= tolerance * value)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], passed, [False]]).astype(np.int8)))
        runs = [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
        first, last = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
        return (float(levels[first]), float(levels[last])) if last > first else None


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
    not depend on how probes are grouped, except for rounding. Raises ``ValueError`` for bad sizes and as ``lanczos``.

    >>> A = torch.diag(torch.arange(1000.0, dtype=torch.float64))
    >>> found = estimate_spectrum(A.__matmul__, 1000, steps=50, probes=10, generator=torch.Generator().manual_seed(0))
    >>> count = found.epsilon_rank(499.5)
    >>> count.lower - 2 * count.stderr < 500 < count.upper + 2 * count.stderr
    True
    """
    for name, value in (("dimension", dimension), ("steps", steps), ("probes", probes)):
        if value < 1:
            raise ValueError(f"{name} = {value}; give at least 1")
    if not 0 <= deflate <= dimension:
        raise ValueError(f"deflate = {deflate}; give between 0 and the dimension {dimension} eigenpairs")

    def direction() -> torch.Tensor:
        return torch.randn(dimension, generator=generator, dtype=dtype, device=generator.device)

    values, bounds, locked, scale, floor = np.zeros(0), np.zeros(0), None, 0.0, 0.0
    if deflate:
        run = lanczos_block(matvec, direction()[None], max(steps, 2 * deflate + 20))[0]
        values, bounds, vectors = _converged(run, deflate)
        locked, scale, floor = (vectors if len(values) else None), run.scale, run.tolerance
    found: list[Quadrature] = []
    group = max(1, _BASIS_BYTES // (min(steps, dimension) * dimension * dtype.itemsize))
    while len(found) < probes and len(values) < dimension:
        starts = torch.stack([direction() for _ in range(min(group, probes - len(found)))])
        for start in starts:
            if locked is not None:
                project_out(start, locked)
        for run in lanczos_block(matvec, starts, steps, locked=locked, scale=scale):
            found.append(Quadrature.of(run))
            floor = max(floor, run.tolerance)
    return Spectrum(dimension, tuple(found), values, bounds, floor)


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
    0.98
    >>> round(published_normalized_epsilon_rank([null[0]], [null[1]], 0.01, bridge=False), 2)
    0.64
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
