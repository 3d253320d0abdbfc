r"""The loss-weighted Gram matrix: the non-zero spectrum of the Gauss–Newton matrix at the size N·O instead of P.

Let J [N·O, P] be the Jacobian of the outputs, S = blockdiag(∂²ℓ/∂f_n²) ⪰ 0, and A [N·O, N·O] any factor with S = A Aᵀ.
With X = Aᵀ J the Gauss–Newton matrix is Jᵀ S J = Xᵀ X, and the **loss-weighted Gram matrix** is

    K = X Xᵀ = Aᵀ J Jᵀ A        [N·O, N·O].

*Spectral Collapse* (arXiv 2509.22335 v3, Gram–Gauss–Newton equivalence): K and Jᵀ S J have the same non-zero
eigenvalues with the same multiplicities. Proof: for λ ≠ 0, u ↦ X u maps the λ-eigenspace of Xᵀ X into that of X Xᵀ, as
X Xᵀ (X u) = λ X u, and v ↦ Xᵀ v / λ is its inverse. ∎ So every ε-rank with ε > 0 is shared. The factor does not matter
either: square A, B with A Aᵀ = B Bᵀ differ by an orthogonal matrix on the right (polar decomposition), and S^½ is one.

*Factors.* Squared losses: S = c·1, A = √c. Softmax with p = softmax(f): A = diag(√p) − p √pᵀ, because with Σp = 1

    A Aᵀ = diag p − p pᵀ − p pᵀ + p (√pᵀ √p) pᵀ = diag p − p pᵀ.                                                     (1)

*Without J.* Let B_v [N·O] be the row Aᵀ ∂f/∂z_v. The column of X of an untied edge u → v is B_v h_u, hence

    K_(n,o),(m,p) = Σ_v B_v,no B_v,mp Σ_{u → v trainable} h_nu h_mu,                                                 (2)

and units v of one tile that have the same sources u share the inner sum: (B Bᵀ) ∘ (h hᵀ), two matrix products per tile
with (N·O)² n_v + N² n_u multiplications instead of (N·O)² P. Tied edges add up inside a column of X, which spoils (2);
such networks (convolutions, whose P is small) take X explicitly.
"""

from __future__ import annotations

import numpy as np
import torch

from lop_theory.arithmetic import Arithmetic, tensors
from lop_theory.dag import FIRST_COMPUTED_BLOCK, Dag, Tile
from lop_theory.forward import (
    Pass,
    add_at,
    apply_activations,
    check_kinks,
    check_loss_kind,
    check_targets,
    check_tensors,
    run_forward,
)
from lop_theory.rank import epsilon_rank

__all__ = ["gauss_newton_gram", "gauss_newton_epsilon_rank", "loss_factor"]


def loss_factor(output: torch.Tensor, kind: str) -> torch.Tensor:
    """A [N, O, O] with A_n A_nᵀ = ∂²L/∂f_n², by (1); outputs [N, O]. It does not depend on the targets.

    >>> A = loss_factor(torch.zeros(1, 2, dtype=torch.float64), "cross_entropy")
    >>> (A @ A.mT).mul(4).round(decimals=12).tolist()    # p = (1/2, 1/2), so diag p − p pᵀ has entries ±1/4
    [[[1.0, -1.0], [-1.0, 1.0]]]
    """
    check_loss_kind(kind)
    samples, outputs = output.shape
    if kind == "cross_entropy":
        p = torch.softmax(output, 1)
        root = p.sqrt()
        return (torch.diag_embed(root) - p[:, :, None] * root[:, None, :]) / samples**0.5
    scale = 1.0 if kind == "mse_sum" else samples**-0.5
    return scale * torch.eye(outputs, dtype=output.dtype, device=output.device).expand(samples, outputs, outputs)


def gauss_newton_gram(
    dag: Dag,
    theta: torch.Tensor,
    x: torch.Tensor,
    kind: str,
    y: torch.Tensor | None = None,
    *,
    kinks: str = "raise",
) -> torch.Tensor:
    """K = Aᵀ J Jᵀ A [N·O, N·O], rows ordered sample by sample, in the dtype of θ; formula (2) of this module.

    θ [P], x [N, I]; the targets y do not enter, and are only checked if given. ``kinks`` as in
    :func:`lop_theory.hessian.hessian`. Raises what ``hessian`` raises for bad θ, x, y and kind.

    >>> from lop_theory.architectures import mlp
    >>> net, x = mlp([1, 1]), torch.tensor([[3.0], [-1.0]], dtype=torch.float64)
    >>> gauss_newton_gram(net, torch.zeros(2, dtype=torch.float64), x, "mse_sum").tolist()    # x xᵀ + 1
    [[10.0, -2.0], [-2.0, 2.0]]
    """
    check_loss_kind(kind)
    check_tensors(dag, theta, x)
    if y is not None:
        check_targets(dag, x, y, kind)
    if kinks not in ("raise", "torch"):
        raise ValueError(f"kinks is {kinks!r}; give 'raise' or 'torch'")
    theta, x = theta.detach(), x.detach()
    ops = tensors(theta)
    run = run_forward(ops, dag, theta, x)
    if kinks == "raise":
        check_kinks(dag, run.z)
    signals = _weighted_signals(ops, dag, run, loss_factor(run.output, kind))
    if dag.is_tied:
        rows = _weighted_jacobian(dag, run, signals, theta)
        return rows @ rows.T
    size = len(x) * dag.num_outputs
    gram = theta.new_zeros(size, size)
    for tile in dag.tiles:
        _add_tile(gram, tile, signals[tile.target], run.h[tile.source])
    return gram


def gauss_newton_epsilon_rank(
    dag: Dag,
    theta: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    kind: str,
    eps: float,
    *,
    kinks: str = "raise",
) -> int:
    """#{i : λ_i > eps} of the Gauss–Newton matrix, for any P, by the inertia of the Gram matrix of size N·O.

    eps > 0 is in the units of the matrix. Float arithmetic: see :func:`lop_theory.rank.epsilon_rank` for what that
    count can and cannot say, and for the errors it raises.

    >>> from lop_theory.architectures import mlp
    >>> net, x = mlp([1, 1]), torch.tensor([[3.0], [-1.0]], dtype=torch.float64)
    >>> theta = torch.zeros(2, dtype=torch.float64)
    >>> [gauss_newton_epsilon_rank(net, theta, x, None, "mse_sum", eps) for eps in (0.1, 5.0, 11.0)]
    [2, 1, 0]
    """
    return epsilon_rank(gauss_newton_gram(dag, theta, x, kind, y, kinks=kinks), eps)


def _weighted_signals(ops: Arithmetic, dag: Dag, run: Pass, factor: torch.Tensor) -> dict[int, torch.Tensor]:
    """B by computed block, [N, O, n]: the error signals of the O weighted outputs Aᵀ f, by one backward recursion."""
    samples, outputs, _ = factor.shape
    signals: dict[int, torch.Tensor] = {}
    for b in range(len(dag.blocks) - 1, FIRST_COMPUTED_BLOCK - 1, -1):
        at_h = ops.zeros((samples, outputs, len(dag.blocks[b])))
        for block, rows, columns in dag.output_places:
            if block == b:
                at_h[:, :, rows] = factor.mT[:, :, columns]
        for k, tile in enumerate(dag.tiles):
            if tile.source == b:
                at_h = at_h + signals[tile.target] @ run.weights[k]
        signals[b] = at_h * apply_activations(ops, dag, b, run.z[b], 1)[:, None, :]
    return signals


def _add_tile(gram: torch.Tensor, tile: Tile, signals: torch.Tensor, h: torch.Tensor) -> None:
    """Adds the part of (2) of one tile: its target units, grouped by their set of trainable sources."""
    samples, outputs, _ = signals.shape
    patterns, group = np.unique(tile.index >= 0, axis=0, return_inverse=True) if tile.start is None else _dense(tile)
    blocks = gram.view(samples, outputs, samples, outputs)
    for k, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        units, sources = torch.from_numpy(np.flatnonzero(group.ravel() == k)), torch.from_numpy(np.flatnonzero(pattern))
        whole = len(units) == signals.shape[2]
        b = (signals if whole else signals[:, :, units]).reshape(samples * outputs, len(units))
        chosen = h if len(sources) == h.shape[1] else h[:, sources]
        blocks.addcmul_((b @ b.T).view_as(blocks), (chosen @ chosen.T)[:, None, :, None])


def _dense(tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """The one pattern of a dense tile."""
    return np.ones((1, tile.index.shape[1]), dtype=bool), np.zeros(len(tile.index), dtype=np.int64)


def _weighted_jacobian(dag: Dag, run: Pass, signals: dict[int, torch.Tensor], theta: torch.Tensor) -> torch.Tensor:
    """X = Aᵀ J [N·O, P] written out, one sample at a time; tied edges add up."""
    samples = len(run.output)
    rows = theta.new_zeros(samples, dag.num_outputs, dag.num_params)
    for n in range(samples):
        for o in range(dag.num_outputs):
            for tile in dag.tiles:
                add_at(rows[n, o], tile.index, torch.outer(signals[tile.target][n, o], run.h[tile.source][n]))
    return rows.view(samples * dag.num_outputs, dag.num_params)
