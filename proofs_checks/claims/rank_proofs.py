r"""Symbolic proof of the lemma behind the rank bounds (``lop_theory.bounds``), replayed by SymPy."""

from __future__ import annotations

import sympy

from proofs_checks.claim import Certificate, Scope, Strength, require


def prove_gate_lemma() -> str:
    """H a = 0 if on every sample each unit v is closed, or Σ_e a_e h_u = 0 with sources u that are locally constant.

    Along any path θ(t) the derivative of f in direction a is a sum over v of J_v(t) s_v(t), where J_v = ∂f/∂z_v and
    s_v = Σ_e a_e h_u. One term with two sources stands for all: the sum is over finitely many of its kind.
    """
    t = sympy.Symbol("t")
    push = sympy.Function("J_v")(t)
    a1, a2, h1, h2 = sympy.symbols("a_1 a_2 h_1 h_2")
    loss_slope = sympy.Function("g_n")(t)  # ∂ℓ_n/∂f_n along the path
    moving = sympy.Function("h_u")(t)
    closed = loss_slope * sympy.Integer(0) * (a1 * moving)  # v closed near θ: J_v is the zero function
    opened = (loss_slope * push * (a1 * h1 + a2 * h2)).subs(h2, -a1 * h1 / a2)  # static sources, equation (1)
    terms = [sympy.simplify(sympy.diff(term, t)) for term in (closed, opened)]
    require(terms == [0, 0], "d/dt ∂_a L along a path through θ")
    alive = sympy.diff(loss_slope * push * (a1 * moving), t)
    require(sympy.simplify(alive) != 0, "a source that moves is not covered")
    return (
        "d/dt Σ_n g_n J_v Σ_e a_e h_u = 0 along every path through θ, since in each term J_v is the zero function (v closed near "
        "θ) or Σ_e a_e h_u is the constant 0 (static sources): ∂_a L is locally 0, so its gradient H a is 0; for every DAG and "
        "loss. The solutions a form a subspace, and P − its dimension bounds the rank"
    )


def prove_constant_units() -> str:
    """Outgoing weights T of constant units [values c] and biases −T c of what they feed: z does not change."""
    fed, units = sympy.symbols("O k", integer=True, positive=True)
    w, shift = sympy.MatrixSymbol("W", fed, units), sympy.MatrixSymbol("T", fed, units)
    c, b = sympy.MatrixSymbol("c", units, 1), sympy.MatrixSymbol("b", fed, 1)
    change = ((w + shift) * c + (b - shift * c) - (w * c + b)).expand().doit()
    require(change == sympy.ZeroMatrix(fed, 1), "(W + T) c + b − T c = W c + b")
    return (
        f"(W + T) c + (b − T c) = W c + b for every T [O, k], so O k directions beside k (I + 1). {prove_gate_lemma()}"
    )


def prove_batch_statistics() -> str:
    """γ (z − mean z)/√(var z + ε) of unit v on a batch of any size depends on row v alone; a dead row has zero derivatives."""
    size, i, k = sympy.symbols("B i k", integer=True, positive=True)
    z, other = sympy.IndexedBase("z_v"), sympy.IndexedBase("z_u")
    gamma, beta, eps = sympy.symbols("gamma beta eps")
    mean = sympy.Sum(z[i], (i, 1, size)) / size
    variance = sympy.Sum((z[i] - mean) ** 2, (i, 1, size)) / size
    normalised = gamma * (z[k] - mean) / sympy.sqrt(variance + eps) + beta
    require(not normalised.has(other), "unit v sees no other unit")
    row, rest = sympy.symbols("w_v theta")
    loss = sympy.Function("L")(rest)  # near θ the activations of a dead unit are 0, whatever its row: L does not see it
    require([sympy.diff(loss, row, p) for p in (row, rest)] == [0, 0], "rows of the Hessian at a dead unit")
    return (
        "the normalised value of a unit is a function of its own row and the batch, for every batch size; so a unit that is dead "
        "on the batch stays at 0 near θ whatever the other rows do, L is locally a function of the other parameters, and the "
        "rows and columns of its I + O + 1 parameters are 0"
    )


BATCH_STATISTICS = Certificate(
    "batch statistics", "a unit and its row, any batch size", Strength.SYMBOLIC, Scope.CLASS, prove_batch_statistics
)
GATE_LEMMA = Certificate(
    "gate lemma", "one term of the chain rule, along any path", Strength.SYMBOLIC, Scope.CLASS, prove_gate_lemma
)
CONSTANT_UNIT_LEMMA = Certificate(
    "constant units", "symbolic matrices of any size", Strength.SYMBOLIC, Scope.CLASS, prove_constant_units
)
