r"""Symbolic proofs of the *Barriers* claims, replayed by SymPy: each ``prove_…`` says what it derived, or raises.

Matrices have symbolic sizes wherever the statement is for all sizes; a *rule* such as W P → P R is an assumption of the
theorem, and nothing else is substituted.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import sympy
from sympy import MatrixSymbol, ZeroMatrix

from lop_theory.dag import Dag
from lop_theory.partition import UnitPartition, block_pairs
from proofs_checks.claim import Certificate, Scope, Strength, require
from proofs_checks.claims.barriers_graphs import Edge, equitable_subspace, network, partition_of


def _sizes(names: str) -> tuple[sympy.Symbol, ...]:
    return sympy.symbols(names, integer=True, positive=True)


# -- affine manifolds, and the balance of a homogeneous unit ---------------------------------------------------------


def prove_affine_step() -> str:
    """A(θ − G s) − c = 0 from Aθ = c and AG = 0, in matrices of symbolic sizes."""
    codim, params, samples = _sizes("m P N")
    a, theta = MatrixSymbol("A", codim, params), MatrixSymbol("theta", params, 1)
    gradients, s = MatrixSymbol("G", params, samples), MatrixSymbol("s", samples, 1)
    c = MatrixSymbol("c", codim, 1)
    residual = (a * (theta - gradients * s) - c).expand()
    on_manifold = residual.subs(a * theta, c).subs(a * gradients, ZeroMatrix(codim, samples)).doit()
    require(on_manifold == ZeroMatrix(codim, 1), "A(θ − G s) = c")
    return (
        "A(θ − G s) − c = 0 whenever Aθ = c and AG = 0, where the columns of G are sample gradients at θ and s holds "
        "rates and batch of one step; the new point is on M, where AG = 0 again, so every sequence of steps stays"
    )


def prove_balance_drift(most: int = 3) -> str:
    """Σ in² − Σ out² of a unit with f(z) = s z changes by η² (‖g_in‖² − ‖g_out‖²) in a step, on one sample."""
    slope, eta = sympy.symbols("s eta")
    for fan_in in range(1, most + 1):
        for fan_out in range(1, most + 1):
            w, x = sympy.symbols(f"w0:{fan_in}"), sympy.symbols(f"x0:{fan_in}")
            out, d = sympy.symbols(f"o0:{fan_out}"), sympy.symbols(f"d0:{fan_out}")  # d: error signals downstream
            z = sum(a * b for a, b in zip(w, x, strict=True))
            delta = slope * sum(a * b for a, b in zip(out, d, strict=True))
            g_in, g_out = [delta * b for b in x], [slope * z * b for b in d]
            before = sum(a**2 for a in w) - sum(a**2 for a in out)
            after = sum((a - eta * g) ** 2 for a, g in zip(w, g_in, strict=True))
            after -= sum((a - eta * g) ** 2 for a, g in zip(out, g_out, strict=True))
            drift = eta**2 * (sum(g**2 for g in g_in) - sum(g**2 for g in g_out))
            require(sympy.expand(after - before - drift) == 0, f"balance with {fan_in} inputs and {fan_out} outputs")
    return (
        f"for fan-in and fan-out up to {most}: a step of size η on one sample adds exactly η²(‖g_in‖² − ‖g_out‖²) to the "
        "balance; the linear term is 0, so the gradient is tangent to every level set"
    )


# -- clones ----------------------------------------------------------------------------------------------------------


def prove_block_algebra() -> str:
    """The cloning theorem on n units in k blocks, with P [n, k] the 0/1 matrix of the partition.

    RE: W P = P R. CE: Pᵀ W = C Pᵀ. Biregular: E P = P Q, Pᵀ E = S Pᵀ for the 0/1 matrix E of the edges. Block-constant
    diagonals: diag(P a) P = P diag(a). The gradient on the edges is diag(h) E diag(δ).
    """
    n, k = _sizes("n k")
    p = MatrixSymbol("P", n, k)
    w, e = MatrixSymbol("W", n, n), MatrixSymbol("E", n, n)
    r, c, q, s = (MatrixSymbol(name, k, k) for name in "RCQS")
    dh, dd = MatrixSymbol("D_h", n, n), MatrixSymbol("D_d", n, n)  # diag(P h̃), diag(P δ̃)
    h, d = MatrixSymbol("H", k, k), MatrixSymbol("D", k, k)  # diag(h̃), diag(δ̃)
    vector = MatrixSymbol("v", k, 1)
    eta = sympy.Symbol("eta")
    require((w * p * vector).subs(w * p, p * r) == p * r * vector, "W maps block-constant vectors to such (backward)")
    forward = (p.T * w).subs(p.T * w, c * p.T).T
    require(forward.doit() * vector == p * c.T * vector, "Wᵀ maps block-constant vectors to such (forward)")
    rows = ((w - eta * dh * e * dd) * p).expand()
    for left, right in ((w * p, p * r), (dd * p, p * d), (e * p, p * q), (dh * p, p * h)):
        rows = rows.subs(left, right).doit()
    require(rows == p * r - eta * p * h * q * d, "row sums after a step")
    columns = (p.T * (w - eta * dh * e * dd)).expand()
    for left, right in ((p.T * w, c * p.T), (p.T * dh, h * p.T), (p.T * e, s * p.T), (p.T * dd, d * p.T)):
        columns = columns.subs(left, right).doit()
    require(columns == c * p.T - eta * h * s * d * p.T, "column sums after a step")
    return (
        "with W P = P R, PᵀW = C Pᵀ and biregular edges E P = P Q, PᵀE = S Pᵀ: W and Wᵀ map block-constant vectors to "
        "block-constant ones, and W − η diag(h) E diag(δ) has again equal row and column sums, for any number of units and "
        "blocks. Not replayed: one f per block maps block-constant vectors to such, and h ← f(Wᵀh) + x from 0 reaches the "
        "forward pass (δ ← f′·(a + Wδ) the backward pass) after as many rounds as the DAG is deep"
    )


def prove_forward() -> str:
    """CE alone: z = Wᵀ h of a block-constant h is block constant, with the matrix C of the column sums."""
    n, k = _sizes("n k")
    p, w, c = MatrixSymbol("P", n, k), MatrixSymbol("W", n, n), MatrixSymbol("C", k, k)
    h = MatrixSymbol("h", k, 1)
    z = (p.T * w).subs(p.T * w, c * p.T).T.doit() * h
    require(z == p * c.T * h, "Wᵀ P h̃ = P Cᵀ h̃")
    return (
        "with PᵀW = C Pᵀ: Wᵀ P h̃ = P Cᵀ h̃ for any numbers of units and blocks, whatever the edges, also inside blocks. So if h is "
        "equal in blocks, z is, and f(z) + x with one f per block and inputs equal in blocks is again. From h = 0 this "
        "iteration reaches the forward pass after as many rounds as the DAG is deep, so by induction the pass is equal in blocks"
    )


def prove_lumped() -> str:
    """Base weights C (column sums): h = P h̃, δ = P M⁻¹ δ̃ with M = PᵀP, and C moves by −η H̃ S D̃ M⁻¹ in a step."""
    n, k = _sizes("n k")
    p, w, e = MatrixSymbol("P", n, k), MatrixSymbol("W", n, n), MatrixSymbol("E", n, n)
    r, c, s, m = (MatrixSymbol(name, k, k) for name in "RCSM")
    d = MatrixSymbol("d", k, 1)  # δ̃
    both = [(p.T * w * p).subs(p.T * w, c * p.T).doit(), (p.T * (w * p)).subs(w * p, p * r).doit()]
    sums = [expression.subs(p.T * p, m) for expression in both]
    require(sums == [c * m, m * r], "Pᵀ W P = C M = M R")
    # R = M⁻¹ C M, so W δ of δ = P M⁻¹ δ̃ is P M⁻¹ C δ̃: what the base network passes back, over the size of the block
    pushed = (w * p).subs(w * p, p * r) * m.I * d
    require((pushed.subs(r, m.I * c * m)).doit() == p * m.I * c * d, "W P M⁻¹ δ̃ = P M⁻¹ C δ̃")
    dh, dd = MatrixSymbol("D_h", n, n), MatrixSymbol("D_d", n, n)  # diag(P h̃), diag(P M⁻¹ δ̃)
    h, delta = MatrixSymbol("H", k, k), MatrixSymbol("D", k, k)  # diag(h̃), diag(δ̃); diagonal matrices commute
    step = p.T * dh * e * dd
    for left, right in ((p.T * dh, h * p.T), (p.T * e, s * p.T), (p.T * dd, delta * m.I * p.T)):
        step = step.subs(left, right).doit()
    require(step == h * s * delta * m.I * p.T, "column sums of the gradient")
    return (
        "PᵀW P = C M = M R with M = PᵀP, so R = M⁻¹ C M; W P M⁻¹ δ̃ = P M⁻¹ C δ̃: δ(v) = δ(ṽ)/|S_v|. The column sums of the "
        "gradient diag(h) E diag(δ) are diag(h̃) S diag(δ̃) M⁻¹ with S_ij = |E_ij|/|S_j|: C_ij moves at the rate η |E_ij|/|S_j|² "
        "times h̃_i δ̃_j, for any number of units and blocks; momentum adds multiples of such steps"
    )


def prove_persistence() -> str:
    """F-a, F-c: |Σ w_i h_i| ≤ B Σ |w_i| term by term; F-b: every term ≤ 0. Then θ_in(v) and its buffer do not move."""
    weight, slack, room = (
        sympy.symbols("w", real=True),
        sympy.Symbol("t", nonnegative=True),
        sympy.Symbol("R", positive=True),
    )
    term = room * sympy.Abs(weight) - sympy.Abs(weight) * (room - slack)  # |h| = R − t
    require(bool(sympy.factor(term).is_nonnegative), "|w h| ≤ R |w| for |h| ≤ R")
    down, up = sympy.Symbol("a", nonnegative=True), sympy.Symbol("h", nonnegative=True)
    require(bool((-down * up).is_nonpositive), "w h ≤ 0 for w ≤ 0 ≤ h")
    margin = sympy.Symbol("m", positive=True)
    require(bool((-down * up - margin).is_negative), "z < 0 with a negative bias")
    slope, signal, feature, momentum, rate, theta = sympy.symbols("s delta h_u mu eta theta")
    buffer = momentum * 0 + slope * signal * feature
    require(buffer.subs(slope, 0) == 0 and (theta - rate * buffer).subs(slope, 0) == theta, "a step with f' = 0")
    return (
        "|w h| ≤ R|w| for |h| ≤ R and w h ≤ 0 for w ≤ 0 ≤ h hold term by term, so b ± R‖w‖₁ bounds z for any fan-in (F-a, F-c) and "
        "b < 0 does under signs (F-b); F-d: z is the same function of the inputs for ever. With f'(z) = 0 on all data the "
        "gradient of θ_in(v) and its buffer are 0 and θ_in(v) stays, so the certificate holds again: induction over the steps"
    )


_PROVED: dict[str, tuple[int, bool, int, tuple[Edge, ...], tuple[tuple[int, ...], ...]]] = {
    # text: inputs, bias, computed units, edges, blocks
    "1-{2}-{2}-1": (1, False, 5, ((0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 5), (4, 5)), ((1, 2), (3, 4))),
    "1-{2}-{3}-1": (
        1,
        False,
        6,
        ((0, 1), (0, 2), *((u, v) for v in (3, 4, 5) for u in (1, 2)), (3, 6), (4, 6), (5, 6)),
        ((1, 2), (3, 4, 5)),
    ),
    "1-{2}=matching={2}-1 with skips and biases": (
        1,
        True,
        5,
        ((0, 2), (0, 3), (1, 2), (1, 3), (2, 4), (3, 5), (0, 4), (0, 5), (2, 6), (3, 6), (4, 6), (5, 6), (1, 6)),
        ((2, 3), (4, 5)),
    ),
}


def prove_cloned_step() -> str:
    """One gradient step from every point of RE ∩ CE of the networks in ``_PROVED``, with unknown activations and data."""
    for inputs, bias, computed, edges, blocks in _PROVED.values():
        dag = network(inputs, bias, ("square",) * (computed - 1) + ("identity",), edges, 1)
        _prove_on(dag, partition_of(dag, blocks))
    return (
        f"for {'; '.join(_PROVED)}: from every θ in RE ∩ CE, with any activations, inputs and output adjoints, h and δ are "
        "equal in blocks and the gradient is block constant and tangent to RE ∩ CE; so every step stays"
    )


def _prove_on(dag: Dag, partition: UnitPartition) -> None:
    """θ has free coordinates t; every block has an unknown activation f and derivative g; inputs and the adjoints of the
    outputs are unknowns. h, δ, block constancy and the equations of RE ∩ CE at the gradient must reduce to 0."""
    manifold = equitable_subspace(dag, partition)
    basis, block = manifold.tangent_basis(exact=True), partition.block_of
    t = sympy.symbols(f"t0:{basis.shape[1]}")
    theta = [sum((sympy.Rational(str(c)) * s for c, s in zip(row, t, strict=True)), sympy.Integer(0)) for row in basis]
    h: dict[int, Any] = {u: sympy.Symbol(f"x{block[u]}") for u in range(dag.first_computed)}
    z: dict[int, Any] = {}
    for v in range(dag.first_computed, dag.num_units):
        z[v] = sympy.expand(sum(theta[dag.param[e]] * h[int(dag.source[e])] for e in dag.incoming(v)))
        h[v] = sympy.Function(f"f{block[v]}")(z[v])
    delta: dict[int, Any] = {}
    for v in range(dag.num_units - 1, dag.first_computed - 1, -1):
        pushed = sum((theta[dag.param[e]] * delta[int(dag.target[e])] for e in dag.outgoing(v)), sympy.Integer(0))
        adjoint = sympy.Symbol(f"a{block[v]}") if v in dag.outputs else 0
        delta[v] = sympy.expand(sympy.Function(f"g{block[v]}")(z[v]) * (adjoint + pushed))
    slopes = [sympy.Integer(0)] * dag.num_params
    for e, p in enumerate(dag.param):
        slopes[p] = sympy.expand(delta[int(dag.target[e])] * h[int(dag.source[e])])
    zero = [a[u] - a[v] for a in (h, delta) for b in partition.blocks for u, v in pairwise(b) if u in a]
    zero += [slopes[i] - slopes[j] for q in block_pairs(dag, partition) for i, j in pairwise(dag.param[q.edges])]
    zero += [sum(sympy.Rational(str(c)) * slopes[k] for k, c in row.items()) for row, _ in manifold.equations]
    require(bool(zero) and all(sympy.expand(expression) == 0 for expression in zero), "one step on a cloned network")


AFFINE_STEP = Certificate(
    "affine step", "one step, symbolic matrices of any size", Strength.SYMBOLIC, Scope.ALL, prove_affine_step
)
BALANCE_DRIFT = Certificate(
    "balance drift", "how far a step leaves a balance level set", Strength.SYMBOLIC, Scope.LIST, prove_balance_drift
)
BLOCK_ALGEBRA = Certificate(
    "block algebra",
    "RE, CE and biregularity as matrix equations of any size",
    Strength.SYMBOLIC,
    Scope.CLASS,
    prove_block_algebra,
)
CLONED_STEP = Certificate(
    "cloned step",
    "one step on listed networks with unknown activations",
    Strength.SYMBOLIC,
    Scope.LIST,
    prove_cloned_step,
)
FORWARD = Certificate(
    "forward pass", "CE as a matrix equation of any size", Strength.SYMBOLIC, Scope.CLASS, prove_forward
)
LUMPED = Certificate(
    "lumped dynamics", "RE, CE and one step in matrices of any size", Strength.SYMBOLIC, Scope.CLASS, prove_lumped
)
PERSISTENCE = Certificate(
    "persistence",
    "the inequalities of the certificates and one step",
    Strength.SYMBOLIC,
    Scope.CLASS,
    prove_persistence,
)
