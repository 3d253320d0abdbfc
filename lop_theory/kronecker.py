r"""KFAC: the Kronecker factors of the Gauss–Newton matrix, layer by layer, and what their ranks say about it.

*Spectral Collapse* (arXiv 2509.22335, poster Eq. 1; v1 Eqs 5 and 6), written for one layer with inputs a_n [J] (the
constant one included, if it has biases) and pre-activations z_n [n]. Let S_n = R_n R_nᵀ be the Hessian of the loss at the
outputs of sample n, R_n [O, C] any root of it (all factors 1/N are in S), and

    g_nc = (∂f_n/∂z_n)ᵀ R_n e_c        [n]        the **back-propagated columns of the root**.

With the parameters of the layer in row-major order (unit, input), the block of the Gauss–Newton matrix is exactly

    B = Σ_n (Σ_c g_nc g_ncᵀ) ⊗ (a_n a_nᵀ)                                                                          (1)

because ∂f_n/∂W_ij = (∂f_n/∂z_i) a_j. Its Kronecker approximation takes the mean of a product for a product of means,

    B ≈ G ⊗ A,        A = (1/N) Σ_n a_n a_nᵀ,        G = Σ_n G_n,        G_n = Σ_c g_nc g_ncᵀ                        (2)

(the paper stacks columns and writes A ⊗ G), with an error that is a covariance:

    B − G ⊗ A = Σ_n (G_n − G/N) ⊗ (a_n a_nᵀ − A).                                                                  (3)

Proof of (3): expand; Σ_n G_n ⊗ A = G ⊗ A = Σ_n (G/N) ⊗ a_n a_nᵀ = N (G/N) ⊗ A. ∎ So (2) is exact if all a_n a_nᵀ are equal
(one sample) or all G_n are (a linear net with squared loss), and not otherwise. (1) and (2) hold within one layer; the
blocks between layers are not zero, and no single Kronecker product gives the whole matrix.

*The root matters.* For squared losses R = I (or I/√N) and g_nc is the gradient of output c. For cross-entropy the raw
output gradients (R = I) give another matrix, and so do gradients of the loss, g = ∂ℓ_n/∂z_n (the empirical Fisher matrix).

*Ranks.* range B ⊆ range G ⊗ range A, and B has N·C rank-one terms, hence

    rank B ≤ min(rank A · rank G, Σ_n [a_n ≠ 0] rank G_n).                                                          (4)

A higher rank of A, the features, raises an **upper bound** of rank B and nothing else. For Kronecker products themselves,
eigenvalues multiply: rank(A ⊗ G) = rank A · rank G, erank(A ⊗ G) = erank A · erank G with erank = exp of the entropy of
p = σ/Σσ. For a block-diagonal matrix let π_l be the share of block l in the sum of all singular values; then by the chain
rule of entropy, log erank = H(π) + Σ_l π_l log erank(B_l): neither a sum nor a mean of the effective ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lop_theory.arithmetic import RATIONALS, Arithmetic, Array, tensors
from lop_theory.dag import FIRST_COMPUTED_BLOCK, Dag
from lop_theory.forward import Pass, apply_activations, check_kinks, check_loss_kind, check_tensors, run_forward
from lop_theory.gram import loss_factor
from lop_theory.rank import effective_rank, eigenvalues, exact_rank

__all__ = [
    "LayerFactors",
    "kfac_factors",
    "kronecker_rank",
    "kronecker_epsilon_rank",
    "kronecker_effective_rank",
    "block_diagonal_effective_rank",
]


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """One layer: ``a`` [N, J] its inputs, ``g`` [N, C, n] the columns of (1), ``index`` [n, J] the parameter of each weight.

    Arrays are torch tensors or numpy arrays of ``fmpq``, as the network was given.
    """

    a: Array
    g: Array
    index: np.ndarray

    @property
    def A(self) -> Array:
        """(1/N) Σ a aᵀ [J, J], the uncentred second moment of the inputs."""
        return self.a.swapaxes(0, 1) @ self.a / len(self.a)

    @property
    def G(self) -> Array:
        """Σ_n Σ_c g gᵀ [n, n]; the scale of the loss (1/N or 1) is in it."""
        rows = self.g.reshape(-1, self.g.shape[2])
        return rows.swapaxes(0, 1) @ rows

    @property
    def rows(self) -> Array:
        """g_nc ⊗ a_n [N·C, n·J]: the columns of Rᵀ J that belong to this layer, so that B = rowsᵀ rows."""
        return (self.g[:, :, :, None] * self.a[:, None, None, :]).reshape(-1, self.index.size)

    @property
    def block(self) -> Array:
        """The block (1) of the Gauss–Newton matrix [n·J, n·J], rows and columns in the order of ``index.ravel()``."""
        rows = self.rows
        return rows.swapaxes(0, 1) @ rows

    @property
    def approximation(self) -> Array:
        """G ⊗ A [n·J, n·J], the Kronecker approximation (2)."""
        return _kron(self.G, self.A)

    @property
    def covariance(self) -> Array:
        """Σ_n (G_n − G/N) ⊗ (a_n a_nᵀ − A) [n·J, n·J], the error (3), by its own formula."""
        samples, A, G = len(self.a), self.A, self.G / len(self.a)
        per_sample = self.g.swapaxes(1, 2) @ self.g
        outer = self.a[:, :, None] * self.a[:, None, :]
        return sum(_kron(per_sample[n] - G, outer[n] - A) for n in range(samples))

    @property
    def rank_bound(self) -> int:
        """The bound (4) on rank B, over Q. Raises ``TypeError`` for floats, whose rank is not decided."""
        live = [self.g[n] for n in range(len(self.a)) if (self.a[n] != 0).any()]
        return min(kronecker_rank(self.A, self.G), sum(exact_rank(g) for g in live))


def kfac_factors(
    dag: Dag, theta: Any, x: Any, kind: str, *, root: Any | None = None, kinks: str = "raise"
) -> tuple[LayerFactors, ...]:
    """The factors of every layer (block of units of equal depth) with trainable weights, in order of depth.

    θ [P], x [N, I]: torch tensors of one float dtype, or anything that ``rational_array`` reads (exact, over Q). ``root``
    [N, O, C], in the same number system, replaces the root R of the loss Hessian; over Q it is needed unless ``kind`` is
    ``mse_sum`` (where R = I), because the roots of the other losses are not rational. ``kinks="torch"`` accepts tensors with
    a pre-activation on a kink and takes the slope that torch takes there.

    Raises ``ValueError`` for tied weights (convolutions have other factors), for layers with missing or fixed weights
    beside trainable ones, for a root of a wrong shape, and where the root is not rational; :class:`KinkError` on a kink.

    >>> from lop_theory.architectures import mlp
    >>> (layer,) = kfac_factors(mlp([1, 1]), [2, 0], [[3], [-1]], "mse_sum")
    >>> layer.A.tolist(), layer.G.tolist(), layer.block.tolist()
    ([[5, 1], [1, 1]], [[2]], [[10, 2], [2, 2]])
    """
    check_loss_kind(kind)
    if kinks not in ("raise", "torch"):
        raise ValueError(f"kinks is {kinks!r}; give 'raise' or 'torch'")
    if dag.is_tied:
        raise ValueError("the network ties weights; the block of a tied weight is not a sum (1): use gauss_newton")
    if isinstance(theta, torch.Tensor):
        check_tensors(dag, theta, x)
        theta, x = theta.detach(), x.detach()
        ops = tensors(theta)
    else:
        ops = RATIONALS
        theta, x = ops.convert(theta), ops.convert(x)
    run = run_forward(ops, dag, theta, x)
    if kinks == "raise" and ops is not RATIONALS:  # exact slopes raise by themselves
        check_kinks(dag, run.z)
    signals = _signals(ops, dag, run, _root(ops, run, kind, root))
    return tuple(_layer(ops, dag, run, b, signals[b]) for b in signals if _is_trainable(dag, b))


def _root(ops: Arithmetic, run: Pass, kind: str, root: Any | None) -> Array:
    samples, outputs = run.output.shape
    if root is not None:
        given = ops.convert(root)
        if given.ndim != 3 or given.shape[:2] != (samples, outputs):
            raise ValueError(f"root has shape {tuple(given.shape)}; give [N, O, C] with N = {samples}, O = {outputs}")
        return given
    if ops is not RATIONALS:
        return loss_factor(run.output, kind)
    if kind != "mse_sum":
        raise ValueError(
            f"the root of the Hessian of {kind!r} is not rational; give mse_sum, a rational root, or tensors"
        )
    identity = ops.zeros((samples, outputs, outputs))
    identity[:, np.arange(outputs), np.arange(outputs)] = identity[:, 0, 0][:, None] + 1
    return identity


def _signals(ops: Arithmetic, dag: Dag, run: Pass, root: Array) -> dict[int, Array]:
    """(∂f/∂z)ᵀ R by computed block, [N, C, n], shallow blocks first: one backward recursion for all columns of R."""
    samples, _, columns = root.shape
    transposed = root.swapaxes(1, 2)
    signals: dict[int, Array] = {}
    for b in range(len(dag.blocks) - 1, FIRST_COMPUTED_BLOCK - 1, -1):
        at_h = ops.zeros((samples, columns, len(dag.blocks[b])))
        for block, rows, places in dag.output_places:
            if block == b:
                at_h[:, :, rows] = transposed[:, :, places]
        for k, tile in enumerate(dag.tiles):
            if tile.source == b:
                at_h = at_h + signals[tile.target] @ run.weights[k]
        signals[b] = at_h * apply_activations(ops, dag, b, run.z[b], 1)[:, None, :]
    return dict(sorted(signals.items()))


def _is_trainable(dag: Dag, b: int) -> bool:
    return any((tile.index >= 0).any() for tile in dag.tiles_into[b])


def _layer(ops: Arithmetic, dag: Dag, run: Pass, b: int, g: Array) -> LayerFactors:
    index = np.concatenate([tile.index for tile in dag.tiles_into[b]], axis=1)
    if (index < 0).any():
        unit, source = (int(k) for k in np.argwhere(index < 0)[0])
        raise ValueError(
            f"unit {int(dag.blocks[b].units[unit])} has no trainable weight from input {source} of its layer, but others "
            "have; the block is a sum of Kronecker products only for a full weight matrix: use gauss_newton"
        )
    inputs = [run.h[tile.source] for tile in dag.tiles_into[b]]
    return LayerFactors(ops.concatenate(inputs, 1), g, index)


def _kron(left: Array, right: Array) -> Array:
    return torch.kron(left.contiguous(), right.contiguous()) if isinstance(left, torch.Tensor) else np.kron(left, right)


# -- ranks of Kronecker products and of block-diagonal matrices ------------------------------------------------------------


def kronecker_rank(A: Any, G: Any) -> int:
    """rank(A ⊗ G) = rank A · rank G over Q, without forming the product. Entries and errors as in ``exact_rank``.

    >>> kronecker_rank([[1, 2], [2, 4]], [[1, 0], [0, 3]])
    2
    """
    return exact_rank(A) * exact_rank(G)


def kronecker_epsilon_rank(A: Any, G: Any, eps: float) -> int:
    """#{(i, j) : |α_i β_j| > eps} for symmetric A [m, m] and G [n, n], from the m + n eigenvalues; float64.

    A product within rounding of eps may be counted either way. Raises ``ValueError`` unless eps is finite and > 0, and
    for matrices that are not symmetric and finite.

    >>> kronecker_epsilon_rank([[4.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.25]], 1.5)    # 8, 2, 1, 1/4
    2
    """
    if not (eps > 0 and np.isfinite(eps)):
        raise ValueError(f"eps = {eps}: an ε-rank needs a finite level > 0; for ε = 0 use kronecker_rank")
    alpha, beta = np.abs(eigenvalues(A)), np.sort(np.abs(eigenvalues(G)))
    alpha = alpha[alpha > 0]
    return int((len(beta) - np.searchsorted(beta, eps / alpha, side="right")).sum())


def kronecker_effective_rank(A: Any, G: Any) -> float:
    """erank(A ⊗ G) = erank A · erank G: p_ij = p_i q_j, and the entropy of a product is the sum of the entropies.

    Raises what ``effective_rank`` raises, in particular for a zero matrix, whose effective rank is undefined.

    >>> round(kronecker_effective_rank([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]), 12)
    6.0
    """
    return effective_rank(A) * effective_rank(G)


def block_diagonal_effective_rank(blocks: Sequence[Any]) -> float:
    """erank of blockdiag(B_1, B_2, …) = exp(H(π) + Σ_l π_l log erank B_l), π_l = ‖B_l‖_* / Σ ‖B_k‖_* (= tr B_l for B ⪰ 0).

    Zero blocks add nothing. Raises ``ValueError`` if there is no non-zero block (the effective rank is then undefined).

    >>> eye = [[1.0, 0.0], [0.0, 1.0]]
    >>> round(block_diagonal_effective_rank([eye, [[1.0]], eye]), 12)    # the 5 × 5 identity
    5.0
    """
    nuclear = np.array([np.linalg.norm(np.asarray(B, dtype=np.float64), "nuc") for B in blocks])
    if not nuclear.any():
        raise ValueError(
            f"all {len(nuclear)} blocks are zero, so that p = σ/Σσ is 0/0: give at least one non-zero block"
        )
    share = nuclear / nuclear.sum()
    live = [(pi, B) for pi, B in zip(share, blocks, strict=True) if pi > 0]
    return float(np.exp(sum(pi * (np.log(effective_rank(B)) - np.log(pi)) for pi, B in live)))
