"""Spectral Collapse, curvature (4): the L2 theorem. Does a small residual part carry the rank of the Gauss–Newton matrix over?

H = B + R with B = Jᵀ S J ⪰ 0 and R = Σ (∂ℓ/∂f) ∂²f. The exact-rank form is false, Weyl's inequality gives a correct one, and
shrinking the weights of a homogeneous network makes R larger, not smaller, in comparison with B. Everything is over Q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import isqrt
from typing import Any

import numpy as np
import sympy
from flint import fmpq, fmpq_mat
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array, to_fmpq
from lop_theory.exact import exact_gauss_newton, exact_gradient, exact_hessian, exact_residual_hessian
from lop_theory.linearized import exact_epsilon_rank
from lop_theory.rank import exact_rank
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.jacobian_probes import Probes, minus, times, total
from proofs_checks.claims.kronecker_ranks import regression
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array, mlp_instances, widths

_PRINTED = Source("2509.22335", "v1", "Theorem B.3", "reconstructed from poster and summary")
_REPAIRED = Source("2509.22335", "v1", "Theorem B.3", "repaired by us")
_OURS = Source("2509.22335", "v1", "Theorem B.3", "ours")


@lru_cache(maxsize=64)  # by identity: the three matrices of one instance
def parts(instance: Instance) -> tuple[fmpq_mat, fmpq_mat, fmpq_mat]:
    """H, B and R [P, P]."""
    arguments = instance.dag, instance.theta, instance.x, instance.y
    return exact_hessian(*arguments), exact_gauss_newton(*arguments), exact_residual_hessian(*arguments)


# -- witnesses: the Gauss–Newton matrix as the Hessian of a linear regression on the rows of J -----------------------------


def jacobian_witness(instance: Instance, note: str, claimed: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """``claimed``(net, jacobian) is the assertion about the two networks; each entry of J is confirmed by a probe."""
    probes = Probes(instance)
    rows = jacobian(instance)
    networks = {"net": network_document(instance), "jacobian": network_document(regression(rows)), **probes.networks}
    entries = [
        assertion(quantity("value", "jacobian", unit=i, sample=k), "==", probes.jacobian(n, o, i))
        for k, (n, o) in enumerate(probes.pairs)
        for i in range(instance.dag.num_params)
    ]
    return witness(note, networks, [claimed("net", "jacobian"), *entries, *probes.assertions])


def jacobian(instance: Instance) -> np.ndarray:
    """J [N·O, P] over Q, one gradient per sample and output."""
    probes = Probes(instance)
    rows = []
    for n, o in probes.pairs:
        target = probes.output[n : n + 1].copy()
        target[0, o] = target[0, o] - 1
        rows.append(exact_gradient(instance.dag, instance.theta, instance.x[n : n + 1], target))
    return np.stack(rows)


# -- the exact-rank form ---------------------------------------------------------------------------------------------------


def check_exact_rank(instance: Instance) -> Evidence:
    """rank B ≤ rank H?"""
    H, B, _ = parts(instance)
    ranks = exact_rank(B), exact_rank(H)
    note = f"rank of the Gauss-Newton matrix {ranks[0]}, of the Hessian {ranks[1]}"
    if ranks[0] <= ranks[1]:
        return Evidence(Verdict.HOLDS, ranks[1], ranks[0], ranks[1] - ranks[0], note)
    return Evidence(Verdict.FAILS, ranks[1], ranks[0], ranks[1] - ranks[0], note, lambda: _rank_witness(instance, note))


def _rank_witness(instance: Instance, note: str) -> dict[str, Any]:
    return jacobian_witness(
        instance, note, lambda net, rows: assertion(quantity("hessian_rank", rows), ">", quantity("hessian_rank", net))
    )


def _rank_is_kept(instance: Instance) -> Evidence:
    """rank B = rank H?"""
    H, B, _ = parts(instance)
    ranks = exact_rank(B), exact_rank(H)
    note = f"rank of the Gauss-Newton matrix {ranks[0]}, of the Hessian {ranks[1]}"
    if ranks[0] == ranks[1]:
        return Evidence(Verdict.HOLDS, note=note)
    return Evidence(
        Verdict.FAILS,
        note=note,
        witness=lambda: jacobian_witness(
            instance,
            note,
            lambda net, rows: assertion(quantity("hessian_rank", rows), "!=", quantity("hessian_rank", net)),
        ),
    )


def _rank_plus_one(instance: Instance) -> Evidence:
    """rank H ≤ rank B + 1?"""
    H, B, _ = parts(instance)
    ranks = exact_rank(B), exact_rank(H)
    note = f"rank of the Gauss-Newton matrix {ranks[0]}, of the Hessian {ranks[1]}"
    if ranks[1] <= ranks[0] + 1:
        return Evidence(Verdict.HOLDS, note=note)
    return Evidence(
        Verdict.FAILS,
        note=note,
        witness=lambda: jacobian_witness(
            instance,
            note,
            lambda net, rows: assertion(
                quantity("hessian_rank", net), ">", {"sum": [quantity("hessian_rank", rows), "1"]}
            ),
        ),
    )


@st.composite
def _cancelling(draw: DrawFn) -> Instance:
    """One ReLU unit, weights (1, 1), two outputs ±1, two samples e_1 and e_2: targets for which R cancels a direction of B.

    With X = Σ x xᵀ = I, s = Σ h² = 2 and Q = Σ x rᵀ the Hessian is [[|a|² I, w aᵀ + Q], [·, s I]]. Its Schur complement
    |a|² I − M Mᵀ/s with M = w aᵀ + Q vanishes for M = ±2 times a permutation, so that its rank is 2; B has rank 3.
    """
    a = np.array([1.0 - 2 * draw(st.integers(0, 1)) for _ in range(2)])
    M = 2.0 * np.eye(2)[[1, 0] if draw(st.booleans()) else [0, 1]] * (1 - 2 * draw(st.integers(0, 1)))
    residual = M - np.outer(np.ones(2), a)
    return Instance(mlp([2, 1, 2], "relu", False), np.array([1.0, 1.0, *a]), np.eye(2), a[None, :] - residual)


_RELU_NETS = mlp_instances(widths((1, 2), 2, 2, 2), samples=(1, 4), bound=2)
_ONE_OUTPUT = mlp_instances(widths((1, 1), 3, 2, 1), samples=(1, 5), bound=2)

L2_RESIDUAL = Claim(
    id="spectral.l2-residual",
    title="The rank of the Gauss–Newton matrix carries over to the Hessian (as printed)",
    source=_PRINTED,
    kind="theorem",
    statement=r"\operatorname{rank} H_{GGN} \le \operatorname{rank} H \text{ for ReLU networks with squared loss}",
    quantifier="for all",
    assumptions=(),
    instances=st.one_of(_cancelling(), _RELU_NETS),
    check=check_exact_rank,
    expected=Verdict.FAILS,
    proof="The residual part can cancel a direction of the Gauss–Newton part exactly, however small either is: exact rank is "
    "not continuous. The smallest case has one ReLU unit, two outputs and integer data: rank H = 2 and rank H_GGN = 3.",
    mutants=(
        Mutant("kept", "both ranks are equal", _rank_is_kept, _RELU_NETS),
        Mutant("one-more", "the Hessian has at most one rank more", _rank_plus_one, _RELU_NETS),
    ),
)


def _has_one_output(instance: Instance) -> bool:
    return instance.dag.num_outputs == 1


@st.composite
def _one_output(draw: DrawFn) -> Instance:
    """One hidden layer, one output; ReLU or leaky ReLU."""
    instance = draw(_ONE_OUTPUT)
    if not draw(st.booleans()):
        return instance
    dims = [len(b) for b in instance.dag.blocks if len(b)]
    return replace(instance, dag=mlp([dims[0], *dims[2:]], "leaky_relu:1/2"))


def _prove_one_output() -> str:
    """f = a φ(z) + c of one unit, φ(z) = σ z on its piece; z = w·x + b."""
    a, b, c, slope = sympy.symbols("a b c sigma")
    w, x = (sympy.symbols(f"{name}0:2") for name in "wx")
    f = a * slope * (sum(wi * xi for wi, xi in zip(w, x, strict=True)) + b) + c
    inner, outer = (*w, b, c), (a, c)
    for group in (inner, outer):  # no second derivatives inside either group
        assert all(sympy.diff(f, u, v) == 0 for u in group for v in group)
    combination = sum(wi * sympy.diff(f, wi) for wi in w) + b * sympy.diff(f, b)
    assert sympy.expand(combination - a * sympy.diff(f, a)) == 0  # Euler: ∂f/∂a lies in the span, if a ≠ 0
    assert all(sympy.diff(f, v).subs(a, 0) == 0 for v in (*w, b))  # and if a = 0, ∂f/∂w and ∂f/∂b vanish
    return (
        "take T = the in-weights and bias of each unit with a ≠ 0, the out-weight of each with a = 0, and the output bias: "
        "∂²f = 0 on T, so H_TT = B_TT, and the columns of J in T span all columns: rank B = rank B_TT = rank H_TT <= rank H"
    )


ONE_OUTPUT = Claim(
    id="spectral.l2-residual.one-output",
    title="One hidden ReLU layer and one output: the Hessian has at least the Gauss–Newton rank",
    source=_OURS,
    kind="ours",
    statement=r"f = \sum_r a_r \varphi(w_r^\top x + b_r) + c,\; \varphi \text{ ReLU or leaky ReLU},\; O = 1 "
    r"\;\Rightarrow\; \operatorname{rank} H_{GGN} \le \operatorname{rank} H, \text{ whatever the residuals}",
    quantifier="for all",
    assumptions=(Assumption("one-output", "the network has one output", _has_one_output),),
    instances=_one_output(),
    check=check_exact_rank,
    expected=Verdict.HOLDS,
    proof="Both weights of a unit are never needed together: by homogeneity the column of J of the out-weight is a combination "
    "of those of the in-weights (if a ≠ 0; else those vanish). On such a choice of parameters f is affine, so the residual "
    "part vanishes on a principal block that already has the rank of H_GGN. No bound on norms enters.",
    without={"one-output": _cancelling()},
    attained=_ONE_OUTPUT,
    mutants=(
        Mutant("kept", "both ranks are equal", _rank_is_kept),
        Mutant("one-more", "the Hessian has at most one rank more", _rank_plus_one),
    ),
    certificates=(
        Certificate("principal-block", "any width, any data", Strength.SYMBOLIC, Scope.CLASS, _prove_one_output),
    ),
)


# -- Weyl ------------------------------------------------------------------------------------------------------------------


def _levels(instance: Instance) -> tuple[fmpq, fmpq]:
    """ε and δ of the instance."""
    return to_fmpq(instance.extra["epsilon"]), to_fmpq(instance.extra["delta"])


def _bounds_residual(instance: Instance) -> bool:
    """No eigenvalue of R lies beyond δ."""
    return exact_epsilon_rank(parts(instance)[2], _levels(instance)[1]) == 0


def _transfer(instance: Instance, below: fmpq, above: fmpq | None, text: str) -> Evidence:
    """rank_below(B) ≤ rank_ε(H) ≤ rank_above(B)."""
    H, B, _ = parts(instance)
    epsilon, _delta = _levels(instance)
    count = exact_epsilon_rank(H, epsilon)
    floor = exact_epsilon_rank(B, below)
    ceiling = B.nrows() if above is None or above < 0 else exact_epsilon_rank(B, above)
    note = f"{text}: {floor} <= {count} <= {ceiling}"
    if floor <= count <= ceiling:
        return Evidence(Verdict.HOLDS, count, (floor, ceiling), min(count - floor, ceiling - count), note)
    level, op = (below, ">") if floor > count else (above, "<")

    def document() -> dict[str, Any]:
        def claimed(net: str, rows: str) -> dict[str, Any]:
            left = quantity("epsilon_rank", rows, level=number(level))
            return assertion(left, op, quantity("epsilon_rank", net, level=number(epsilon)))

        return jacobian_witness(instance, note, claimed)

    return Evidence(Verdict.FAILS, count, (floor, ceiling), None, note, document)


def check_weyl(instance: Instance) -> Evidence:
    """rank_{ε+δ}(B) ≤ rank_ε(H), and ≤ rank_{ε−δ}(B) if ε ≥ δ."""
    epsilon, delta = _levels(instance)
    return _transfer(instance, epsilon + delta, epsilon - delta, "Weyl")


def _no_shift(instance: Instance) -> Evidence:
    return _transfer(instance, _levels(instance)[0], None, "rank_ε(B) <= rank_ε(H)")


def _half_shift(instance: Instance) -> Evidence:
    epsilon, delta = _levels(instance)
    return _transfer(instance, epsilon + delta / 2, None, "rank_{ε+δ/2}(B) <= rank_ε(H)")


def _no_shift_above(instance: Instance) -> Evidence:
    epsilon, _ = _levels(instance)
    return _transfer(instance, fmpq(10**9), epsilon, "rank_ε(H) <= rank_ε(B)")


def _norm_bound(R: fmpq_mat) -> int:
    """The least whole δ ≥ ‖R‖_F ≥ ‖R‖₂."""
    square = sum((v * v for v in R.entries()), fmpq(0))
    root = isqrt(int(square.ceil()))
    return root if root * root >= square else root + 1


@st.composite
def _weyl(draw: DrawFn, single: bool = False, slack: bool = True) -> Instance:
    """δ = the rounded-up Frobenius norm of R; ε = k/2, or δ + k/2. ``single``: one weight and one squared unit."""
    late, k = draw(st.booleans()), draw(st.integers(1, 12))
    if single:
        x, y = integers_array(draw, (1, 1), 2), integers_array(draw, (1, 1), 8)
        base = Instance(mlp([1, 1], "identity", False), np.array([1.0]), x, y)
        dag = replace(base.dag, activations=("square",))
        base = replace(base, dag=dag)
    else:
        base = draw(mlp_instances(widths((1, 1), 2, 2, 2), samples=(1, 3), bound=2))
    delta = _norm_bound(parts(base)[2])
    epsilon = fmpq(k, 2) + (delta if late else 0)
    return replace(base, extra={"epsilon": str(epsilon), "delta": str(delta)})


@st.composite
def _too_small(draw: DrawFn) -> Instance:
    """The cancelling network with δ = 0 and a tiny ε: the residual part is not bounded by δ."""
    base = draw(_cancelling())
    return replace(base, extra={"epsilon": "1/100", "delta": "0"})


def _prove_weyl() -> str:
    """On a unit vector v: vᵀHv = b + r with −δ ≤ r ≤ δ. The dimension count is the Courant–Fischer theorem."""
    epsilon, delta, gap, rest = sympy.symbols("epsilon delta gap rest", positive=True)
    assert sympy.simplify((epsilon + delta + gap) + (rest - delta) - epsilon - (gap + rest)) == 0  # b > ε+δ, r ≥ −δ
    assert sympy.simplify((epsilon + gap) - (delta - rest) - (epsilon - delta) - (gap + rest)) == 0  # h > ε, r ≤ δ
    assert sympy.simplify((gap - (delta - rest)) + delta - (gap + rest)) == 0  # b ≥ 0: h ≥ −δ
    return (
        "b > ε + δ and r >= -δ give h > ε on the span of those eigenvectors of B; h > ε and r <= δ give b > ε - δ; b >= 0 "
        "gives h >= -δ >= -ε; by Courant-Fischer the dimension of such a span bounds the count, in any dimension"
    )


WEYL = Claim(
    id="spectral.l2-residual.weyl",
    title="ε-ranks carry over to the Hessian, with the level shifted by the residual part",
    source=_REPAIRED,
    kind="theorem",
    statement=r"\|R\|_2 \le \delta \;\Rightarrow\; \operatorname{rank}_{\varepsilon+\delta}(H_{GGN}) \le "
    r"\operatorname{rank}_\varepsilon(H), \text{ and } \operatorname{rank}_\varepsilon(H) \le "
    r"\operatorname{rank}_{\varepsilon-\delta}(H_{GGN}) \text{ if } \varepsilon \ge \delta",
    quantifier="for all",
    assumptions=(Assumption("residual-bound", "no eigenvalue of R lies beyond δ", _bounds_residual),),
    instances=st.one_of(_weyl(), _weyl(single=True)),
    check=check_weyl,
    expected=Verdict.HOLDS,
    proof="Weyl's inequality: adding R moves each eigenvalue by at most δ. Where the residual part exceeds the level of "
    "interest the theorem says nothing, and by spectral.l2-residual.shrink.repaired that is the case of small weights.",
    without={"residual-bound": _too_small()},
    attained=_weyl(),
    mutants=(
        Mutant("no-shift", "rank_ε(H_GGN) <= rank_ε(H)", _no_shift, _weyl(single=True)),
        Mutant("half-shift", "rank_{ε+δ/2}(H_GGN) <= rank_ε(H)", _half_shift, _weyl(single=True)),
        Mutant("no-shift-above", "rank_ε(H) <= rank_ε(H_GGN)", _no_shift_above, _weyl(single=True)),
    ),
    certificates=(
        Certificate("quadratic-forms", "both inequalities, any dimension", Strength.SYMBOLIC, Scope.ALL, _prove_weyl),
    ),
    repairs="spectral.l2-residual",
)


# -- shrinking the weights -------------------------------------------------------------------------------------------------


def _scaled(instance: Instance) -> Instance:
    """The network at sθ."""
    return replace(instance, theta=rational_array(instance.theta) * to_fmpq(instance.extra["scale"]))


def _square(M: fmpq_mat) -> fmpq:
    return sum((v * v for v in M.entries()), fmpq(0))


def check_shrink(instance: Instance) -> Evidence:
    """‖R‖/‖B‖ at sθ at most that at θ? Squares of Frobenius norms, cross-multiplied."""
    (_, B, R), (_, small_B, small_R) = parts(instance), parts(_scaled(instance))
    left, right = _square(small_R) * _square(B), _square(R) * _square(small_B)
    note = f"|R|²: {_square(R)} → {_square(small_R)}, |B|²: {_square(B)} → {_square(small_B)} at s = {instance.extra['scale']}"
    if left <= right:
        return Evidence(Verdict.HOLDS, left, right, None, note)
    return Evidence(Verdict.FAILS, left, right, None, note, lambda: _shrink_witness(instance, note))


def _norms(probes: Probes, net: str) -> tuple[Any, Any]:
    """‖B‖² and ‖R‖² as expressions."""
    size = range(probes.instance.dag.num_params)
    entries = [(i, j, probes.gauss_newton(i, j)) for i in size for j in size]
    residual = [total([quantity("hessian", net, i=i, j=j), minus(b)]) for i, j, b in entries]
    return total([times(b, b) for _, _, b in entries]), total([times(r, r) for r in residual])


def _shrink_witness(instance: Instance, note: str) -> dict[str, Any]:
    small = _scaled(instance)
    probes = {"net": Probes(instance, "probe"), "small": Probes(small, "small_probe")}
    networks = {"net": network_document(instance), "small": network_document(small)}
    for p in probes.values():
        networks |= p.networks
    (B, R), (small_B, small_R) = _norms(probes["net"], "net"), _norms(probes["small"], "small")
    grows = assertion(times(small_R, B), ">", times(R, small_B))
    s = number(to_fmpq(instance.extra["scale"]))
    units = [int(v) for v in instance.dag.outputs]
    homogeneous = [  # both networks belong together: f(sθ) = s^D f(θ)
        assertion(
            quantity("value", "small", unit=v, sample=n),
            "==",
            times(*[s] * _depth(instance), quantity("value", "net", unit=v, sample=n)),
        )
        for v in units
        for n in range(len(instance.x))
    ]
    return witness(f"{note}: the residual part gains", networks, [grows, *homogeneous, *probes["net"].assertions])


def _depth(instance: Instance) -> int:
    return int(instance.dag.depth)


def _gauss_newton_grows(instance: Instance) -> Evidence:
    """‖B‖ falls at most as fast as the scale: ‖B(sθ)‖² ≥ s² ‖B(θ)‖²?"""
    B, small_B = parts(instance)[1], parts(_scaled(instance))[1]
    s = to_fmpq(instance.extra["scale"])
    holds = _square(small_B) >= s**2 * _square(B)
    return Evidence(
        Verdict.HOLDS if holds else Verdict.FAILS, note=f"|B|² {_square(B)} → {_square(small_B)} at s = {s}"
    )


def _residual_vanishes(instance: Instance) -> Evidence:
    """‖R(sθ)‖ ≤ s ‖R(θ)‖?"""
    R, small_R = parts(instance)[2], parts(_scaled(instance))[2]
    s = to_fmpq(instance.extra["scale"])
    holds = _square(small_R) <= s**2 * _square(R)
    return Evidence(
        Verdict.HOLDS if holds else Verdict.FAILS, note=f"|R|² {_square(R)} → {_square(small_R)} at s = {s}"
    )


@st.composite
def _homogeneous(draw: DrawFn, negative: bool = False, bias: bool = False) -> Instance:
    """Without biases: one hidden ReLU layer (D = 2), or a chain of leaky units (D = 3). s = 1/2 … 1/8, or negative.

    The last weights and inputs are odd, the others even, so that no pre-activation is zero.
    """
    chain = draw(st.booleans()) and not bias
    inputs, units, outputs = (draw(st.integers(1, 2)) for _ in range(3))
    scale = fmpq(1, draw(st.integers(2, 8))) * (-1 if negative else 1)
    dims = [inputs, 1, 1, outputs] if chain else [inputs, units, outputs]
    dag = mlp(dims, "leaky_relu:1/2" if chain else "relu", bias)
    theta = 2 * integers_array(draw, (dag.num_params,), 1)
    first = theta[: inputs * dims[1]].reshape(dims[1], inputs)
    first[:, -1] += 1
    if chain:
        theta[inputs] += 1
    if bias:
        theta[inputs * units : (inputs + 1) * units] *= 2  # even: z stays odd
    x = 2 * integers_array(draw, (draw(st.integers(1, 3)), inputs), 1)
    x[:, -1] += 1
    y = integers_array(draw, (len(x), outputs), 4)
    return Instance(dag, theta, x, y, extra={"scale": str(scale)})


SHRINK = Claim(
    id="spectral.l2-residual.shrink",
    title="Smaller weights make the residual part relatively smaller (as printed)",
    source=_PRINTED,
    kind="remark",
    statement=r"0 < s < 1 \;\Rightarrow\; \frac{\|R(s\theta)\|_F}{\|H_{GGN}(s\theta)\|_F} \le "
    r"\frac{\|R(\theta)\|_F}{\|H_{GGN}(\theta)\|_F} \text{ for bias-free ReLU networks with squared loss}",
    quantifier="for all",
    assumptions=(
        Assumption("shrinks", "0 < s < 1", lambda i: 0 < to_fmpq(i.extra["scale"]) < 1),
        Assumption("homogeneous", "the network has no biases", lambda i: not i.dag.has_constant),
    ),
    instances=_homogeneous(),
    check=check_shrink,
    expected=Verdict.FAILS,
    proof="H_GGN is quadratic in ∂f, of order s^{2D−2}; R is linear in ∂²f, of order s^{D−2} with the targets as its factor. "
    "For one hidden layer R tends to a constant −Σ y ∂²f while H_GGN vanishes: L2 makes R dominate.",
    mutants=(
        Mutant("linear", "‖H_GGN(sθ)‖ >= s ‖H_GGN(θ)‖", _gauss_newton_grows),
        Mutant("vanishes", "‖R(sθ)‖ <= s ‖R(θ)‖", _residual_vanishes),
    ),
)


def check_scaling(instance: Instance) -> Evidence:
    """B(sθ) = s^{2D−2} B(θ) and R(sθ) = s^{D−2} (s^D R_f − R_y), R_f the residual part at y = 0, R_y = R_f − R."""
    s, D = to_fmpq(instance.extra["scale"]), _depth(instance)
    _, B, R = parts(instance)
    _, small_B, small_R = parts(_scaled(instance))
    at_zero = parts(replace(instance, y=np.zeros_like(instance.y)))[2]
    right = small_B == B * s ** (2 * D - 2) and small_R == (at_zero * (s**D) - (at_zero - R)) * s ** (D - 2)
    return Evidence(Verdict.HOLDS if right else Verdict.FAILS, note=f"s = {s}, D = {D}")


def _scales_as(power: Callable[[int], int], text: str) -> Callable[[Instance], Evidence]:
    def check(instance: Instance) -> Evidence:
        s, D = to_fmpq(instance.extra["scale"]), _depth(instance)
        R, small_R = parts(instance)[2], parts(_scaled(instance))[2]
        wrong = next((k for k, v in enumerate((small_R - R * s ** power(D)).entries()) if v != 0), None)
        if wrong is None:
            return Evidence(Verdict.HOLDS, note=text)
        i, j = divmod(wrong, R.nrows())
        note = f"{text}: R_{i}{j} is {R[i, j]} at θ and {small_R[i, j]} at s = {s}"
        return Evidence(Verdict.FAILS, note=note, witness=lambda: _entry_witness(instance, i, j, power, note))

    return check


def _entry_witness(instance: Instance, i: int, j: int, power: Callable[[int], int], note: str) -> dict[str, Any]:
    small = _scaled(instance)
    probes = Probes(instance, "probe"), Probes(small, "small_probe")
    networks = {"net": network_document(instance), "small": network_document(small)}
    networks |= probes[0].networks | probes[1].networks
    entries = [
        total([quantity("hessian", net, i=i, j=j), minus(p.gauss_newton(i, j))])
        for net, p in zip(("net", "small"), probes, strict=True)
    ]
    factor = number(to_fmpq(instance.extra["scale"]) ** power(_depth(instance)))
    differs = assertion(entries[1], "!=", times(factor, entries[0]))
    return witness(note, networks, [differs, *probes[0].assertions, *probes[1].assertions])


def _prove_scaling() -> str:
    """Differentiate f(sθ) = s^D f(θ) twice; θ stands for any two coordinates."""
    s, D, u, v = sympy.symbols("s D u v", positive=True)
    f = sympy.Function("f")
    first, second = sympy.symbols("f1 f2")  # ∂f and ∂²f at sθ
    assert sympy.diff(f(s * u, s * v), u).doit().has(s)  # the chain rule brings one factor s for each derivative
    slope = sympy.solve(s * first - s**D * sympy.Symbol("g1"), first)[0]
    bend = sympy.solve(s**2 * second - s**D * sympy.Symbol("g2"), second)[0]
    assert sympy.simplify(slope - s ** (D - 1) * sympy.Symbol("g1")) == 0
    assert sympy.simplify(bend - s ** (D - 2) * sympy.Symbol("g2")) == 0
    g1, h1, g2, f0, y = sympy.symbols("g1 h1 g2 f0 y")
    assert sympy.simplify((s ** (D - 1) * g1) * (s ** (D - 1) * h1) - s ** (2 * D - 2) * g1 * h1) == 0
    assert sympy.simplify((s**D * f0 - y) * s ** (D - 2) * g2 - s ** (D - 2) * (s**D * f0 * g2 - y * g2)) == 0
    return "∂f(sθ) = s^{D-1} ∂f(θ), ∂²f(sθ) = s^{D-2} ∂²f(θ); B sums products ∂f ∂f', R sums (f - y) ∂²f: any network, any D"


SCALING = Claim(
    id="spectral.l2-residual.shrink.repaired",
    title="How both parts of the Hessian scale with the weights of a homogeneous network",
    source=_REPAIRED,
    kind="theorem",
    statement=r"f \text{ homogeneous of degree } D,\; s > 0:\; H_{GGN}(s\theta) = s^{2D-2} H_{GGN}(\theta),\quad "
    r"R(s\theta) = s^{D-2}\big(s^D \textstyle\sum f \,\nabla^2 f - \sum y\, \nabla^2 f\big)",
    quantifier="for all",
    assumptions=(
        Assumption("positive-scale", "s > 0", lambda i: to_fmpq(i.extra["scale"]) > 0),
        Assumption("homogeneous", "the network has no biases", lambda i: not i.dag.has_constant),
    ),
    instances=_homogeneous(),
    check=check_scaling,
    expected=Verdict.HOLDS,
    proof="f(sθ) = s^D f(θ), because ReLU and leaky ReLU are homogeneous of degree one for s > 0. Each derivative in θ costs "
    "one power of s. As s → 0 with y ≠ 0 the quotient ‖R‖/‖H_GGN‖ grows like s^{−D}.",
    without={"positive-scale": _homogeneous(negative=True), "homogeneous": _homogeneous(bias=True)},
    mutants=(
        Mutant("as-gauss-newton", "R(sθ) = s^{2D−2} R(θ)", _scales_as(lambda D: 2 * D - 2, "s^{2D-2}")),
        Mutant("as-second-derivative", "R(sθ) = s^{D−2} R(θ)", _scales_as(lambda D: D - 2, "s^{D-2}")),
    ),
    certificates=(Certificate("euler", "the two powers, any degree", Strength.SYMBOLIC, Scope.ALL, _prove_scaling),),
    repairs="spectral.l2-residual.shrink",
)

CLAIMS = (L2_RESIDUAL, ONE_OUTPUT, WEYL, SHRINK, SCALING)
