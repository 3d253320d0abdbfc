"""A new unit with zero outgoing weights, as Continual Backprop leaves it: its gradient and its place in the Hessian.

Let v be a hidden unit whose outgoing weights are all zero. Its incoming weights do not move the loss, and the second derivatives
of the loss by them vanish except against the outgoing weights of v, where they are

    A = Σ_n δ^{l+1}_n φ'(z_nv) (h^{l−1}_n, 1)ᵀ      [n_{l+1} × (n_{l−1} + 1)],

so that each vector of ker A is a null vector of the Hessian. In the language of *Spectral Collapse*: a replacement gives back a
curvature of 2 rank A at most, not of all I + 1 + O directions of the unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import sympy
from flint import fmpq_mat
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.arithmetic import FLOATS, to_fmpq
from lop_theory.exact import exact_gradient
from lop_theory.forward import error_signals, loss_derivatives, run_forward
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.spectral_rank import compare
from proofs_checks.instances import Instance, assertion, hessian_rank, network_document, quantity, witness
from proofs_checks.strategies import hidden_values, layer_units, mlp_instances, widths

_SOURCE = Source(
    "2306.13812", "v3", "§4, new units have zero outgoing weights", "consequence for gradient and Hessian; ours"
)


def out_params(instance: Instance, unit: int) -> np.ndarray:
    """Parameters of the outgoing weights of a unit."""
    return instance.dag.params_of(instance.dag.outgoing(unit))


def in_params(instance: Instance, unit: int) -> np.ndarray:
    """Parameters of the incoming weights of a unit, bias included."""
    return instance.dag.params_of(instance.dag.incoming(unit))


def _outgoing_zero(instance: Instance) -> bool:
    return all(not instance.theta[out_params(instance, v)].any() for v in instance.extra["fresh"])


OUTGOING_ZERO = Assumption("outgoing-zero", "the outgoing weights of the new units are zero", _outgoing_zero)


def coupling(instance: Instance, unit: int) -> np.ndarray:
    """A [n_{l+1}, n_{l−1} + 1] of a ReLU unit, exact on integers in float64."""
    dag = instance.dag
    run = run_forward(FLOATS, dag, instance.theta, instance.x)
    output_gradient = loss_derivatives(FLOATS, run.output, instance.y, instance.kind)[0]
    _, delta = error_signals(FLOATS, dag, run, output_gradient)
    level = int(dag.level[unit])
    block = level + 1  # blocks 0 and 1 are the inputs and the constant
    place = int(np.flatnonzero(dag.blocks[block].units == unit)[0])
    below = run.h[0] if level == 1 else run.h[block - 1]
    active = (run.z[block][:, place] > 0).astype(float)
    return (delta[block + 1] * active[:, None]).T @ np.column_stack([below, np.ones(len(below))])


def coupling_rank(instance: Instance, unit: int) -> int:
    """rank A, over the rationals."""
    rows = coupling(instance, unit)
    return int(fmpq_mat([[to_fmpq(v) for v in row] for row in rows]).rank())


def _bound(instance: Instance, lost: Callable[[int, int, int], int], text: str) -> Evidence:
    """rank H ≤ P − Σ_v lost(I + 1, O, rank A) over the new units."""
    sizes = [
        (len(in_params(instance, v)), len(out_params(instance, v)), coupling_rank(instance, v))
        for v in instance.extra["fresh"]
    ]
    return compare(hessian_rank(instance), instance.dag.num_params - sum(lost(*s) for s in sizes), text, instance)


def check_nullity(instance: Instance) -> Evidence:
    """rank H ≤ P − Σ_v (I + 1 − rank A_v)."""
    return _bound(instance, lambda into, out, rank: into - rank, "P - Σ (I + 1 - rank A) =")


def check_gradient(instance: Instance) -> Evidence:
    """∂L/∂w = 0 for all incoming weights and the bias of the new units."""
    return _zero_gradient(instance, instance.theta, in_params, "incoming")


def _zero_gradient(
    instance: Instance, theta: np.ndarray, params: Callable[[Instance, int], np.ndarray], side: str, **training: Any
) -> Evidence:
    gradient = exact_gradient(instance.dag, theta, instance.x, instance.y, instance.kind)
    moved = [int(p) for v in instance.extra["fresh"] for p in params(instance, v) if gradient[p] != 0]
    if not moved:
        return Evidence(Verdict.HOLDS, 0, 0, note=f"{side} gradients are zero")
    p, note = moved[0], f"the gradient of {side} parameter {moved[0]} of a new unit is {gradient[moved[0]]}"

    def document() -> dict[str, Any]:
        zero = [
            assertion(quantity("param_after", index=int(q), steps=0, rate="0", rule={"name": "sgd"}), "==", 0)
            for v in instance.extra["fresh"]
            for q in out_params(instance, v)
            if instance.theta[q] == 0
        ]
        differs = assertion(quantity("gradient", index=p, **training), "!=", 0)
        return witness(note, {"net": network_document(instance)}, [differs, *zero])

    return Evidence(Verdict.FAILS, gradient[p], 0, None, note, document)


def _outgoing_gradient(instance: Instance) -> Evidence:
    return _zero_gradient(instance, instance.theta, out_params, "outgoing")


def _still_zero(instance: Instance) -> Evidence:
    """After one step of gradient descent (rate 2, so that pre-activations stay integers) the incoming gradient is still zero."""
    gradient = exact_gradient(instance.dag, instance.theta, instance.x, instance.y, instance.kind)
    theta = instance.theta - 2 * np.array([float(g.p) / float(g.q) for g in gradient])
    z = hidden_values(instance.dag, theta, instance.x)[:, instance.dag.hidden]
    if np.abs(theta).max() > 1e6 or (z == 0).any():
        return Evidence(Verdict.UNDECIDED, note="on a kink, or too large")
    return _zero_gradient(instance, theta, in_params, "incoming", steps=1, rate="2", rule={"name": "sgd"})


@st.composite
def _fresh(draw: DrawFn, shapes: SearchStrategy[list[int]], samples: tuple[int, int], zero: bool = True) -> Instance:
    """A ReLU MLP on integers with one or more units of one layer whose outgoing weights are zero (or, if not ``zero``, not)."""
    base = draw(mlp_instances(shapes, samples=samples, bound=2))
    dag, theta = base.dag, base.theta.copy()
    units = layer_units(dag, draw(st.integers(1, dag.depth - 1)))
    flags = draw(st.integers(0, 7))
    fresh = tuple(int(v) for j, v in enumerate(units) if j == 0 or flags >> j & 1)
    out = np.concatenate([dag.params_of(dag.outgoing(v)) for v in fresh])
    theta[out] = 0 if zero else np.where(theta[out] == 0, 2, theta[out])
    return replace(base, theta=theta, extra={"fresh": fresh})


_SHAPES = widths((1, 2), 3, max_inputs=2)
_FRESH = _fresh(_SHAPES, (1, 6))


def _prove_block() -> str:
    """The loss as any function ℓ of two pre-activations above and of another parameter r, which moves everything else.

    z_k = v_k φ(w_1 x_1 + w_2 x_2) + g_k(r): each entry of the Hessian concerns at most two weights into v (w_1, w_2), one weight
    out of it and one other parameter, and at most two units above.
    """
    w1, w2, x1, x2, v1, v2, r = sympy.symbols("w1 w2 x1 x2 v1 v2 r")
    phi, g1, g2, ell = (sympy.Function(name) for name in ("phi", "g1", "g2", "ell"))
    a, b, c = sympy.symbols("a b c")
    inner = phi(w1 * x1 + w2 * x2)
    loss = ell(a, b, c).subs({a: v1 * inner + g1(r), b: v2 * inner + g2(r), c: r})

    def at_zero(*by: sympy.Symbol) -> sympy.Expr:
        return sympy.simplify(sympy.diff(loss, *by).doit().subs({v1: 0, v2: 0}).doit())

    assert at_zero(w1) == 0 and at_zero(w1, w1) == 0 and at_zero(w1, w2) == 0 and at_zero(w1, r) == 0
    ratio = sympy.simplify(at_zero(w1, v1) * x2 - at_zero(w2, v1) * x1)
    assert at_zero(w1, v1) != 0 and ratio == 0  # ∂²L/∂w_j∂v_k = (∂ℓ/∂z_k) φ' x_j
    return "at v = 0: ∂L/∂w, ∂²L/∂w∂w, ∂²L/∂w∂r are 0 and ∂²L/∂w_j∂v_k = δ_k φ' x_j; so (e, 0, 0) with A e = 0 is a null vector"


_BLOCK = Certificate(
    "block",
    "one unit, any loss that is twice differentiable in what lies above",
    Strength.SYMBOLIC,
    Scope.CLASS,
    _prove_block,
)

NULLITY = Claim(
    id="cbp.fresh-unit-nullity",
    title="A new unit adds at least I + 1 − rank A null directions to the Hessian",
    source=_SOURCE,
    kind="ours",
    statement=r"W_{l+1}[:, v] = 0\ \forall v \in F \subseteq \text{layer } l \;\Rightarrow\; "
    r"\operatorname{rank} \nabla^2 L \le P - \sum_{v \in F} (n_{l-1} + 1 - \operatorname{rank} A_v),\quad "
    r"A_v = \sum_n \delta^{l+1}_n \varphi'(z_{nv}) (h^{l-1}_n, 1)^\top",
    quantifier="for all",
    assumptions=(OUTGOING_ZERO,),
    instances=_FRESH,
    check=check_nullity,
    expected=Verdict.HOLDS,
    proof="The loss depends on the incoming weights w only through v φ(w·x). At v = 0 every derivative by w that is not also "
    "taken by v vanishes, so the rows of w in the Hessian are (0, A^T, 0), and e in ker A gives the null vector (e, 0, 0). As "
    "rank A <= min(O, I + 1), a new unit of a net with one output has at least I null directions until its outgoing weights "
    "have grown.",
    without={"outgoing-zero": _fresh(_SHAPES, (1, 6), zero=False)},
    attained=_fresh(widths((1, 1), 1, max_outputs=2), (3, 6)),
    mutants=(
        Mutant(
            "all-incoming",
            "all I + 1 incoming directions are null",
            lambda i: _bound(i, lambda into, out, rank: into, "P - Σ (I + 1) ="),
        ),
        Mutant(
            "like-a-dead-unit",
            "a new unit costs as much as a dead one, I + 1 + O",
            lambda i: _bound(i, lambda into, out, rank: into + out, "P - Σ (I + 1 + O) ="),
        ),
        Mutant(
            "one-more",
            "one direction more is null",
            lambda i: _bound(i, lambda into, out, rank: into - rank + 1, "one less than P - Σ ="),
        ),
    ),
    certificates=(_BLOCK,),
    cost=1.5,
)

GRADIENT = Claim(
    id="cbp.fresh-unit-gradient",
    title="The incoming weights of a new unit have no gradient until its outgoing weights have moved",
    source=_SOURCE,
    kind="ours",
    statement=r"W_{l+1}[:, v] = 0 \;\Rightarrow\; \nabla_{W_l[v, :]} L = 0,\ \partial L / \partial b_l[v] = 0",
    quantifier="for all",
    assumptions=(OUTGOING_ZERO,),
    instances=_FRESH,
    check=check_gradient,
    expected=Verdict.HOLDS,
    proof="The error signal of v is φ'(z) Σ_k w_kv δ_k = 0. The outgoing weights move first, the incoming ones one update "
    "later. If an optimiser keeps the moments of the old unit, only these move the new incoming weights at first.",
    without={"outgoing-zero": _fresh(_SHAPES, (1, 6), zero=False)},
    mutants=(
        Mutant("outgoing", "the gradient of the outgoing weights is zero, too", _outgoing_gradient),
        Mutant("still-zero", "it is still zero after one step of gradient descent", _still_zero),
    ),
    certificates=(_BLOCK,),
    cost=1.5,
)

CLAIMS = (GRADIENT, NULLITY)
