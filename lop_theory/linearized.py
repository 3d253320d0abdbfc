r"""The linearised ReLU network: constant Jacobian, Hessian = Gauss–Newton, and the ε-rank that K gradient steps need.

*Spectral Collapse* (arXiv 2509.22335 v3): one hidden layer without biases, gates frozen at the initial weights W0 [h, I],
readout A [O, h] fixed, and only W [h, I] trains:

    f(W) = A (relu(W0 x) + 1[W0 x > 0] ∘ (W − W0) x) = A (1[W0 x > 0] ∘ W x),                                       (1)

so f = J θ with θ = vec W (row-major) and J_(n,c),(r,i) = A_cr 1[w_r·x_n > 0] x_ni [N·O, h·I] does not depend on θ. Hence
∂²f = 0 and the Hessian of every loss is its Gauss–Newton matrix Jᵀ S J, S = blockdiag(∂²ℓ/∂f_n²). The kernel is

    (J Jᵀ)_(n,c),(m,d) = x_n·x_m Σ_r A_cr A_dr 1[w_r·x_n > 0] 1[w_r·x_m > 0].                                        (2)

**Loss-weighted Gram.** For S = F Fᵀ the matrices Jᵀ S J = (Jᵀ F)(Fᵀ J) and K = (Fᵀ J)(Jᵀ F) have the same non-zero
eigenvalues with multiplicities (see ``gram.py``); their sizes h·I and N·O differ, and so do shares of these sizes.

**K gradient steps.** For L = ½ ‖f − y‖² (``mse_sum``) with r = f − y and M = J Jᵀ, a step θ ← θ − η Jᵀ r gives
r ← (I − η M) r. Let M u_i = λ_i u_i be an orthonormal basis and P_ε the projector on the u_i with λ_i > ε. Then

    L_K = ½ r_0ᵀ (I − η M)^{2K} r_0 = ½ Σ_i (1 − η λ_i)^{2K} (u_i·r_0)².                                             (3)

For the mean loss (1/N) divide M and L by N everywhere; the formulas stay.

* *Necessary.* If 0 < ηε ≤ 1, every λ_i ≤ ε has (1 − η λ_i)² ≥ (1 − η ε)², so that, for **any** η > 0 with ηε ≤ 1,

      L_K ≥ ½ (1 − η ε)^{2K} ‖(I − P_ε) r_0‖².                                                                     (4)

  For isotropic r_0 (second moment ∝ I) the mean of ‖(I − P_ε) r_0‖² is the share (1 − rank_ε(M)/NO) of the mean of ‖r_0‖²;
  a mean final loss ≤ δ therefore needs

      rank_ε(M) ≥ ρ = N O (1 − (δ / L_0) (1 − η ε)^{−2K}).                                                          (5)

  For one given r_0 nothing of the kind holds: rank one suffices if r_0 lies in the top eigenspace.
* *Sufficient.* If ε ≤ λ_i and η (λ_i + ε) ≤ 2 for all i with u_i·r_0 ≠ 0, then |1 − η λ_i| ≤ 1 − η ε and

      L_K ≤ (1 − η ε)^{2K} L_0 ≤ e^{−2Kηε} L_0,   so that K ≥ log(L_0/δ) / (2ηε) steps reach the loss δ.             (6)

  The step must satisfy η (λ_max + ε) ≤ 2. The usual η < 2/λ_max is not enough: at η λ_max = 1.9 the top component shrinks
  by 0.9 a step only, whatever ε is.

**Weyl transfer.** Let H = B + R with B ⪰ 0 and ‖R‖₂ ≤ δ. For ε > 0

    rank_{ε+δ}(B) ≤ rank_ε(H),      and rank_ε(H) ≤ rank_{ε−δ}(B) if ε ≥ δ,                                          (7)

rank_t = #{i : |λ_i| > t}. Left: on the span of the eigenvectors of B beyond ε + δ the form of H exceeds ε (Courant–Fischer).
Right: no eigenvalue of H lies below −δ ≥ −ε, and on the span of those above ε the form of B exceeds ε − δ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from flint import fmpq, fmpq_mat, fmpq_poly

from lop_theory.arithmetic import Array, rational_array, to_fmpq
from lop_theory.dag import Dag

__all__ = [
    "Linearized",
    "linearize",
    "linearized_kernel",
    "exact_epsilon_rank",
    "squared_loss_after",
    "necessary_loss",
    "necessary_epsilon_rank",
    "sufficient_loss",
    "sufficient_steps",
    "weyl_epsilon_ranks",
]


@dataclass(frozen=True, eq=False)
class Linearized:
    """Model (1) on a batch: ``gates`` [N, h] of zeros and ones, ``readout`` A [O, h], ``x`` [N, I]; θ = W.ravel() [h·I].

    Arrays are torch tensors of one dtype, or numpy arrays of ``fmpq``.
    """

    gates: Array
    readout: Array
    x: Array

    @property
    def jacobian(self) -> Array:
        """J [N·O, h·I], rows ordered sample by sample."""
        paths = self.gates[:, None, :, None] * self.readout[None, :, :, None]
        return (paths * self.x[:, None, None, :]).reshape(len(self.x) * len(self.readout), -1)

    def output(self, W: Array) -> Array:
        """f [N, O] at W [h, I], by (1)."""
        return (self.gates * (self.x @ W.swapaxes(0, 1))) @ self.readout.swapaxes(0, 1)

    def network(self) -> tuple[Dag, Array]:
        """The same model as a network: a :class:`Dag` with θ = vec W, and its inputs [N, h·I], the gated copies of x.

        Unit r reads its own copy 1[w_r·x > 0] x through the trainable w_r; the readout is fixed. So everything that is
        known about networks (Hessians, training, witnesses) applies.
        """
        samples, inputs = self.x.shape
        outputs, units = self.readout.shape
        copies = units * inputs
        first, last = copies + np.arange(units), copies + units + np.arange(outputs)
        source = [*range(copies), *np.tile(first, outputs)]
        target = [*np.repeat(first, inputs), *np.repeat(last, units)]
        param = [*range(copies), *[-1] * (units * outputs)]
        weights = self.readout.reshape(-1).tolist()
        fixed = {copies + k: Fraction(int(w.p), int(w.q)) if isinstance(w, fmpq) else w for k, w in enumerate(weights)}
        names = ("identity",) * (units + outputs)
        dag = Dag(copies, False, names, np.array(source), np.array(target), np.array(param), last, fixed)
        return dag, (self.gates[:, :, None] * self.x[:, None, :]).reshape(samples, copies)


def linearize(W0: Any, readout: Any, x: Any) -> Linearized:
    """Model (1) with the gates of W0 [h, I] on x [N, I] and readout [O, h]: all tensors, or all exact (as ``rational_array``).

    A pre-activation of exactly 0 has a closed gate. Raises ``ValueError`` if the shapes do not fit.

    >>> model = linearize([[1, 0], [0, -1]], [[2, 3]], [[1, 1], [-1, -1]])
    >>> model.gates.tolist(), model.jacobian.tolist()
    ([[1, 0], [0, 1]], [[2, 2, 0, 0], [0, 0, -3, -3]])
    """
    if not isinstance(W0, torch.Tensor):
        W0, readout, x = (rational_array(v) for v in (W0, readout, x))
    shapes = tuple(tuple(v.shape) for v in (W0, readout, x))
    fits = all(len(s) == 2 for s in shapes) and shapes[0][1] == shapes[2][1] and shapes[1][1] == shapes[0][0]
    if not fits or not all(min(s) for s in shapes):
        raise ValueError(f"W0, readout and x have shapes {shapes}; give [h, I], [O, h] and [N, I], none of them empty")
    z = x @ W0.swapaxes(0, 1)
    gates = (z > 0).to(z.dtype) if isinstance(z, torch.Tensor) else rational_array((z > 0).astype(int))
    return Linearized(gates, readout, x)


def linearized_kernel(W0: Any, readout: Any, x: Any) -> Array:
    """J Jᵀ [N·O, N·O] by (2), without J. Arguments as in :func:`linearize`.

    >>> linearized_kernel([[1, 0], [1, 1]], [[2, 3]], [[1, 1], [1, -1]]).tolist()
    [[26, 0], [0, 8]]
    """
    model = linearize(W0, readout, x)
    paths = (model.gates[:, None, :] * model.readout[None, :, :]).reshape(-1, model.readout.shape[1])
    inner = model.x @ model.x.swapaxes(0, 1)
    size, outputs = len(model.x), len(model.readout)
    shared = (paths @ paths.swapaxes(0, 1)).reshape(size, outputs, size, outputs)
    return (shared * inner[:, None, :, None]).reshape(size * outputs, size * outputs)


# -- counting over Q -------------------------------------------------------------------------------------------------------


def exact_epsilon_rank(M: Any, eps: Any) -> int:
    """#{i : |λ_i| > eps} of a symmetric rational M [n, n] for rational eps ≥ 0, proved; ties are not counted.

    All roots of the characteristic polynomial p are real, so Descartes' rule of signs is exact: the sign changes of
    p(eps + t) are the eigenvalues above eps, those of p(−eps − t) the eigenvalues below −eps.

    Raises ``ValueError`` if M is not square and symmetric or eps < 0; ``TypeError`` for inexact entries.

    >>> exact_epsilon_rank([[0, 2], [2, 0]], 1), exact_epsilon_rank([[0, 2], [2, 0]], 2)
    (2, 0)
    """
    level = to_fmpq(eps)
    if level < 0:
        raise ValueError(f"eps = {level}: an ε-rank needs a level ≥ 0; give for example '1/1000'")
    if not isinstance(M, fmpq_mat):
        rows = rational_array(M)
        if rows.ndim != 2 or rows.shape[0] != rows.shape[1]:
            raise ValueError(f"the matrix has shape {rows.shape}; an ε-rank needs a square one")
        M = fmpq_mat(len(rows), len(rows), rows.ravel().tolist())
    if M != M.transpose():
        raise ValueError("the matrix is not symmetric; its eigenvalues may be complex: symmetrise it, or use JᵀSJ")
    p = fmpq_poly(M.charpoly().coeffs())
    return _sign_changes(p(fmpq_poly([level, 1]))) + _sign_changes(p(fmpq_poly([-level, -1])))


def _sign_changes(p: fmpq_poly) -> int:
    signs = [c > 0 for c in p.coeffs() if c != 0]
    return sum(a != b for a, b in pairwise(signs))


# -- K gradient steps ------------------------------------------------------------------------------------------------------


def squared_loss_after(gram: Array, r0: Array, eta: Any, steps: int) -> Any:
    """L_K by (3): ½ r_0ᵀ (I − η M)^{2K} r_0 for M = ``gram`` [n, n], r_0 [n]; exact if the arguments are.

    Tensors go through the eigenvectors, rationals through K products of matrix and vector. Raises ``ValueError`` for
    negative ``steps``.

    >>> M, r0 = rational_array([[2, 1], [1, 2]]), rational_array([1, 1])    # (1, 1) has eigenvalue 3
    >>> squared_loss_after(M, r0, "1/4", 2)                                # (1 − 3/4)⁴ · ½ · 2
    1/256
    """
    if steps < 0:
        raise ValueError(f"steps = {steps}; the number of gradient steps is at least 0")
    if isinstance(gram, torch.Tensor):
        values, vectors = torch.linalg.eigh(gram)
        return 0.5 * ((1 - eta * values) ** (2 * steps) * (vectors.mT @ r0) ** 2).sum()
    r, rate = rational_array(r0), to_fmpq(eta)
    for _ in range(steps):
        r = r - rate * (gram @ r)
    return (r @ r) / 2


def necessary_loss(eta: Any, eps: Any, steps: int, slow: Any) -> Any:
    """(4), a lower bound of L_K: ½ (1 − ηε)^{2K} · ``slow`` with slow = ‖(I − P_ε) r_0‖².

    Holds for every η; raises ``ValueError`` unless 0 < ηε ≤ 1.

    >>> necessary_loss(0.5, 1.0, 1, 8.0)
    1.0
    """
    _check_product(eta, eps)
    return (1 - eta * eps) ** (2 * steps) * slow / 2


def necessary_epsilon_rank(size: int, loss_ratio: float, eta: float, eps: float, steps: int) -> float:
    """(5): ρ = size · (1 − (δ/L_0) (1 − ηε)^{−2K}), the least ε-rank of M [size = N·O] that isotropic residuals allow.

    ``loss_ratio`` = δ/L_0 ≥ 0. At most 0 means that nothing is required; ε = 1/(2ηK) makes the factor (1 − ηε)^{−2K} at
    most 4, towards e as K grows. Raises ``ValueError`` unless 0 < ηε < 1.

    >>> necessary_epsilon_rank(100, 0.1, eta=0.5, eps=1.0, steps=1)    # 100 · (1 − 0.1 · 4)
    60.0
    """
    _check_product(eta, eps)
    if eta * eps == 1:
        raise ValueError(f"eta · eps = {eta} · {eps} = 1: (1 − ηε)^(−2K) is infinite; choose a smaller eps")
    return size * (1 - loss_ratio * (1 - eta * eps) ** (-2 * steps))


def sufficient_loss(eta: Any, eps: Any, steps: int, initial: Any) -> Any:
    """(6), an upper bound of L_K: (1 − ηε)^{2K} L_0, if ε ≤ λ_i ≤ 2/η − ε on the span of r_0.

    Raises ``ValueError`` unless 0 < ηε ≤ 1.

    >>> sufficient_loss(0.5, 1.0, 2, 16.0)
    1.0
    """
    _check_product(eta, eps)
    return (1 - eta * eps) ** (2 * steps) * initial


def sufficient_steps(eta: float, eps: float, loss_ratio: float) -> int:
    """(6): the least whole K ≥ log(L_0/δ) / (2ηε); ``loss_ratio`` = δ/L_0 in (0, 1].

    >>> sufficient_steps(0.1, 1.0, 0.01)    # log 100 / 0.2 = 23.03
    24
    """
    _check_product(eta, eps)
    if not 0 < loss_ratio <= 1:
        raise ValueError(f"loss_ratio = {loss_ratio}; the wanted share δ/L_0 of the initial loss lies in (0, 1]")
    return math.ceil(-math.log(loss_ratio) / (2 * eta * eps))


def _check_product(eta: Any, eps: Any) -> None:
    if not 0 < eta * eps <= 1:
        raise ValueError(f"eta · eps = {eta} · {eps} = {eta * eps}; the bounds need 0 < ηε ≤ 1: lower eps or eta")


# -- from the Gauss–Newton matrix to the Hessian ---------------------------------------------------------------------------


def weyl_epsilon_ranks(gauss_newton: Any, delta: Any, eps: Any) -> tuple[int, int]:
    """(7): the interval in which rank_ε(H) lies for every H = B + R with ‖R‖₂ ≤ δ, B = ``gauss_newton`` ⪰ 0 rational.

    For ε < δ the upper end is the size of B: nothing is known. Raises ``ValueError`` for δ < 0, and as
    :func:`exact_epsilon_rank`.

    >>> weyl_epsilon_ranks([[5, 0], [0, 1]], 1, 2), weyl_epsilon_ranks([[5, 0], [0, 1]], 3, 2)
    ((1, 1), (0, 2))
    """
    level, radius = to_fmpq(eps), to_fmpq(delta)
    if radius < 0:
        raise ValueError(f"delta = {radius}: a bound on a norm is at least 0")
    lower = exact_epsilon_rank(gauss_newton, level + radius)
    if level < radius:
        return lower, gauss_newton.nrows() if isinstance(gauss_newton, fmpq_mat) else len(gauss_newton)
    return lower, exact_epsilon_rank(gauss_newton, level - radius)
