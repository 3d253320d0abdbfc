"""Spectral Collapse v3, the linearised ReLU network (2): the loss after K gradient steps, and the ε-rank that it needs.

Squared loss ½ |f − y|², M = J Jᵀ, residual r. All numbers are rational: losses come from K exact steps, ε-ranks from the
characteristic polynomial, and "on the span of r_0" is decided on its Krylov space span(r_0, M r_0, …), without eigenvectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import sympy
from flint import fmpq, fmpq_mat
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import RATIONALS, rational_array, to_fmpq
from lop_theory.forward import gradient
from lop_theory.linearized import exact_epsilon_rank, necessary_loss, squared_loss_after, sufficient_loss
from lop_theory.stability import exact_inertia
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.jacobian_probes import Probes, minus, rational_output, times, total
from proofs_checks.claims.linearized import Frozen, frozen
from proofs_checks.claims.residual_part import jacobian
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array, mlp_instances, widths

_SOURCE = Source("2509.22335", "v3", "ε-rank conditions", "reconstructed from the abstract, derived by us")
SGD = {"name": "sgd"}


def _verdict(
    holds: bool, note: str, document: Callable[[], dict[str, Any]] | None = None, margin: Any = None
) -> Evidence:
    return Evidence(Verdict.HOLDS if holds else Verdict.FAILS, None, None, margin, note, None if holds else document)


def _short(value: fmpq) -> str:
    text = str(value)
    return text if len(text) < 24 else f"{float(int(value.p)) / float(int(value.q)):.6g}"


# -- the closed form -------------------------------------------------------------------------------------------------------


def trained_loss(net: Instance, eta: fmpq, steps: int) -> fmpq:
    """The loss after K gradient steps, one after the other."""
    theta = rational_array(net.theta)
    for _ in range(steps):
        theta = theta - eta * gradient(net.dag, theta, net.x, net.y, "mse_sum", RATIONALS)
    residual = rational_output(replace(net, theta=theta)) - RATIONALS.convert(net.y)
    return (residual * residual).sum() / 2


def _steps(net: Instance) -> tuple[fmpq, int]:
    return to_fmpq(net.extra["rate"]), int(net.extra["steps"])


def _start(net: Instance) -> tuple[np.ndarray, np.ndarray]:
    """M = J Jᵀ and r_0 at the start."""
    J = jacobian(net)
    return J @ J.T, (rational_output(net) - RATIONALS.convert(net.y)).ravel()


def check_closed_form(net: Instance) -> Evidence:
    """Is the loss after K steps ½ r_0ᵀ (I − ηM)^{2K} r_0?"""
    (eta, steps), (M, r0) = _steps(net), _start(net)
    found, predicted = trained_loss(net, eta, steps), squared_loss_after(M, r0, eta, steps)
    note = f"loss {_short(found)} after {steps} steps, {_short(predicted)} by the closed form"
    return _verdict(found == predicted, note, (lambda: _one_step_witness(net, note)) if steps == 1 else None)


def _training(net: Instance) -> dict[str, Any]:
    eta, steps = _steps(net)
    return {"steps": steps, "rate": number(eta), "rule": SGD}


def _one_step_witness(net: Instance, note: str) -> dict[str, Any]:
    """½ |r_0 − η J g|², with J from probes, is not the loss after one step; g is the gradient."""
    probes, (eta, _) = Probes(net), _steps(net)
    g = gradient(
        net.dag, rational_array(net.theta), RATIONALS.convert(net.x), RATIONALS.convert(net.y), "mse_sum", RATIONALS
    )
    slope = [number(v) for v in g]
    known = [assertion(quantity("gradient", index=i), "==", v) for i, v in enumerate(g)]
    residuals = []
    for n, o in probes.pairs:
        f = quantity("value", unit=int(net.dag.outputs[o]), sample=n)
        target = minus(number(net.y[n, o]))
        residuals.append(total([f, target, times(number(-eta), probes.jacobian_form(n, o, slope))]))
    closed = times("1/2", total([times(r, r) for r in residuals]))
    differs = assertion(quantity("loss", **_training(net)), "!=", closed)
    networks = {"net": network_document(net), **probes.networks}
    return witness(note, networks, [differs, *known, *probes.assertions])


def _single_power(net: Instance) -> Evidence:
    """(I − ηM)^K in place of its square: after one step, L_0 − η |g|²/2."""
    (eta, steps), (M, r0) = _steps(net), _start(net)
    r = r0
    for _ in range(steps):
        r = r - eta * (M @ r)
    found, predicted = trained_loss(net, eta, steps), (r0 @ r) / 2
    note = f"loss {_short(found)} after {steps} steps, {_short(predicted)} by the power K"
    return _verdict(
        found == predicted, note, (lambda: _decrease_witness(net, fmpq(1, 2), note)) if steps == 1 else None
    )


def _first_order(net: Instance) -> Evidence:
    """L_0 − Kη |g|², the first order in η."""
    (eta, steps), (M, r0) = _steps(net), _start(net)
    found, predicted = trained_loss(net, eta, steps), (r0 @ r0) / 2 - steps * eta * (r0 @ (M @ r0))
    note = f"loss {_short(found)} after {steps} steps, {_short(predicted)} to first order"
    return _verdict(found == predicted, note, lambda: _decrease_witness(net, fmpq(steps), note))


def _decrease_witness(net: Instance, factor: fmpq, note: str) -> dict[str, Any]:
    """The loss after the steps is not L_0 − factor · η |g|²."""
    slopes = [quantity("gradient", index=i) for i in range(net.dag.num_params)]
    fall = times(number(-factor * _steps(net)[0]), total([times(g, g) for g in slopes]))
    differs = assertion(quantity("loss", **_training(net)), "!=", total([quantity("loss"), fall]))
    return witness(note, {"net": network_document(net)}, [differs])


@st.composite
def _training_runs(draw: DrawFn) -> Instance:
    base = draw(frozen())
    net = base.net(integers_array(draw, (len(base.x) * len(base.readout),), 4))
    rate = fmpq(1, draw(st.sampled_from([1, 2, 3, 5, 8, 16])))
    return replace(net, extra={"rate": str(rate), "steps": draw(st.integers(1, 4))})


@st.composite
def _nonlinear_runs(draw: DrawFn) -> Instance:
    """A ReLU network, all of whose weights train; one step."""
    net = draw(mlp_instances(widths((1, 1), 2, 1, 1), samples=(1, 2), bound=1))
    return replace(net, extra={"rate": str(fmpq(1, draw(st.integers(1, 4)))), "steps": 1})


def _prove_closed_form() -> str:
    """One step in noncommuting symbols, then the loss of one eigencomponent."""
    J, Jt, r, theta, y = sympy.symbols("J Jt r theta y", commutative=False)
    eta = sympy.Symbol("eta")
    moved = sympy.expand(J * (theta - eta * Jt * r) - y)
    assert sympy.expand(moved - ((J * theta - y) - eta * J * Jt * r)) == 0  # r ← (1 − ηJJᵀ) r
    lam, c, u = sympy.symbols("lam c u")  # u·r for an eigenvector of the symmetric JJᵀ: u·(JJᵀ r) = λ (u·r)
    assert sympy.expand((u - eta * lam * u) - (1 - eta * lam) * u) == 0
    factor = sympy.Symbol("factor")
    K = sympy.Symbol("K", integer=True, nonnegative=True)
    after = factor**K * c  # solves c ← factor · c
    assert sympy.powsimp(after.subs(K, K + 1) - factor * after) == 0 and after.subs(K, 0) == c
    assert sympy.powsimp(sympy.expand(after**2) - factor ** (2 * K) * c**2) == 0
    return "r_K = (1 - ηJJᵀ)^K r_0, so that L_K = ½ Σ (1 - ηλ_i)^{2K} (u_i·r_0)² for all K, any size"


K_STEPS = Claim(
    id="spectral.k-steps",
    title="Loss of the linearised network after K gradient steps",
    source=_SOURCE,
    kind="lemma",
    statement=r"L_K = \tfrac12 r_0^\top (I - \eta J J^\top)^{2K} r_0 = "
    r"\tfrac12 \sum_i (1 - \eta\lambda_i)^{2K} (u_i^\top r_0)^2,\quad L = \tfrac12\|f - y\|^2",
    quantifier="for all",
    assumptions=(
        Assumption(
            "constant-jacobian",
            "the outputs are linear in the trained weights",
            lambda i: set(i.dag.activations) == {"identity"} and bool((i.dag.param < 0).any()),
        ),
    ),
    instances=_training_runs(),
    check=check_closed_form,
    expected=Verdict.HOLDS,
    proof="θ ← θ − ηJᵀr and f = Jθ give r ← (I − ηJJᵀ) r. The step may have any size. With weights in two layers J moves, "
    "and the formula fails after the first step.",
    without={"constant-jacobian": _nonlinear_runs()},
    mutants=(
        Mutant("power", "½ r_0ᵀ (I − ηJJᵀ)^K r_0", _single_power),
        Mutant("first-order", "L_0 − Kη |∇L|²", _first_order),
    ),
    certificates=(Certificate("recursion", "all K, η and sizes", Strength.SYMBOLIC, Scope.ALL, _prove_closed_form),),
    depends_on=("spectral.linearized-hessian",),
)


# -- necessary -------------------------------------------------------------------------------------------------------------


def _numbers(instance: Frozen) -> tuple[fmpq, fmpq, int]:
    """η, ε and K."""
    extra = instance.extra
    return to_fmpq(extra["rate"]), to_fmpq(extra["epsilon"]), int(extra["steps"])


def _residuals(instance: Frozen) -> np.ndarray:
    """The initial residuals [m, N·O], equally likely."""
    return rational_array(instance.extra["residuals"].astype(int))


def _is_isotropic(instance: Frozen) -> bool:
    """Is the second moment of the residuals a multiple of the identity?"""
    r = _residuals(instance)
    moment = r.T @ r
    return bool((moment == moment[0, 0] * np.eye(len(moment), dtype=int)).all())


def _small_level(instance: Frozen) -> bool:
    eta, epsilon, _ = _numbers(instance)
    return bool(0 < eta * epsilon <= 1)


def _total_loss(instance: Frozen, steps: int) -> fmpq:
    """Σ over the residuals of the loss after the steps."""
    eta = _numbers(instance)[0]
    return sum((squared_loss_after(instance.kernel, r, eta, steps) for r in _residuals(instance)), fmpq(0))


def check_necessary(instance: Frozen) -> Evidence:
    """Mean L_K ≥ (1 − ηε)^{2K} (1 − rank_ε/NO) mean L_0? ``margin`` is the difference of the sums."""
    return _necessary(instance, 2, len(instance.kernel))


def _necessary(instance: Frozen, power: int, size: int) -> Evidence:
    eta, epsilon, steps = _numbers(instance)
    count = exact_epsilon_rank(instance.kernel, epsilon)
    share = (1 - eta * epsilon) ** (power * steps) * (1 - fmpq(count, size))
    if power == 2 and _small_level(instance):
        assert share == necessary_loss(eta, epsilon, steps, 2 * (1 - fmpq(count, size)))
    final, bound = _total_loss(instance, steps), share * _total_loss(instance, 0)
    note = f"rank_ε {count} of {size}, loss {_short(final)}, bound {_short(bound)}, ηε = {eta * epsilon}, K = {steps}"
    return _verdict(final >= bound, note, lambda: _necessary_witness(instance, power, size, note), final - bound)


def _necessary_witness(instance: Frozen, power: int, size: int, note: str) -> dict[str, Any]:
    """One network per residual; rank_ε of the Gram matrix is that of the Hessian."""
    eta, epsilon, steps = _numbers(instance)
    nets = {f"net_{k}": instance.net(r) for k, r in enumerate(_residuals(instance))}
    training = {"steps": steps, "rate": number(eta), "rule": SGD}
    final = total([quantity("loss", name, **training) for name in nets])
    first = total([quantity("loss", name) for name in nets])
    slow = total([str(size), minus(quantity("epsilon_rank", "net_0", level=number(epsilon)))])
    factor = number((1 - eta * epsilon) ** (power * steps) / size)
    below = assertion(final, "<", times(factor, slow, first))
    return witness(note, {name: network_document(net) for name, net in nets.items()}, [below])


def _half_exponent(instance: Frozen) -> Evidence:
    return _necessary(instance, 1, len(instance.kernel))


def _share_of_parameters(instance: Frozen) -> Evidence:
    """The count as a share of P: a sharper bound where P > N·O."""
    return _necessary(instance, 2, max(len(instance.kernel), instance.model.jacobian.shape[1]))


def _orthogonal(draw: DrawFn, size: int) -> np.ndarray:
    """±1 times a permutation matrix, as the rows of residuals."""
    order = draw(st.permutations(range(size)))
    signs = 1 - 2 * (integers_array(draw, (size,), 1) < 0).astype(int)
    return np.eye(size)[list(order)] * signs[:, None]


@st.composite
def _isotropic(draw: DrawFn, exact: bool = False, large: bool = False, single: bool = False) -> Frozen:
    """ε = k/4; η ≤ 1/ε. ``exact``: one sample and λ = ε. ``large``: ηε > 2. ``single``: one residual, in the top direction."""
    base = draw(frozen(size=1 if exact or single else 2, samples=2 if single else 1 if exact else 3))
    if single:  # a second sample that is orthogonal to the first, with a closed gate
        base = replace(base, x=np.concatenate([base.x[:1], -base.x[:1]]))
    top = base.kernel[0, 0]
    epsilon = top if exact else top / 2 if single else fmpq(draw(st.integers(1, 12)), 4)
    ratio = fmpq(draw(st.integers(1, 4)), 4) if not large else fmpq(draw(st.integers(9, 16)), 4)
    eta = 1 / top if single else ratio / epsilon
    size = len(base.kernel)
    residuals = np.eye(size)[:1] if single else _orthogonal(draw, size)
    extra = {"rate": str(eta), "epsilon": str(epsilon), "steps": draw(st.integers(1, 3)), "residuals": residuals}
    return replace(base, extra=extra)


def _prove_necessary() -> str:
    """One slow component, λ = ε − gap with 0 ≤ gap ≤ ε, where ηε ≤ 1; then the mean over isotropic residuals."""
    eta, gap, rest = sympy.symbols("eta gap rest", nonnegative=True)
    epsilon = (1 - rest) / eta  # ηε = 1 − rest ≤ 1
    slow = 1 - eta * (epsilon - gap)
    assert sympy.simplify(slow - (rest + eta * gap)) == 0  # 1 − ηλ = (1 − ηε) + η·gap
    assert sympy.expand(slow.simplify() ** 2 - rest**2 - eta * gap * (2 * rest + eta * gap)) == 0  # squares are ordered
    c, n = sympy.symbols("c n", positive=True)
    k = sympy.Symbol("k", nonnegative=True)
    # E r rᵀ = c·1 gives E|(1 − P)r|² = c·tr(1 − P) = c(n − k) and E|r|² = cn
    assert sympy.simplify(c * (n - k) / (c * n) - (1 - k / n)) == 0
    return (
        "(1 - ηλ)² - (1 - ηε)² = η(ε - λ)(2(1 - ηε) + η(ε - λ)) >= 0 for λ <= ε, so the slow components keep at least "
        "(1 - ηε)^{2K}; under an isotropic law they carry the share 1 - rank_ε/NO of the loss. No bound on η λ_max is used"
    )


NECESSARY = Claim(
    id="spectral.eps-rank.necessary",
    title="A small loss after K steps needs ε-rank of the Gram matrix (isotropic residuals)",
    source=_SOURCE,
    kind="theorem",
    statement=r"0 < \eta\varepsilon \le 1,\; \mathbb{E}[r_0 r_0^\top] \propto I \;\Rightarrow\; \mathbb{E} L_K \ge "
    r"(1 - \eta\varepsilon)^{2K} \Big(1 - \frac{\operatorname{rank}_\varepsilon(J J^\top)}{NO}\Big) \mathbb{E} L_0;\; "
    r"\mathbb{E} L_K \le \delta \Rightarrow \operatorname{rank}_\varepsilon \ge "
    r"NO\big(1 - \tfrac{\delta}{\mathbb{E}L_0}(1 - \eta\varepsilon)^{-2K}\big)",
    quantifier="for all",
    assumptions=(
        Assumption("small-level", "0 < ηε ≤ 1", _small_level),
        Assumption("isotropic", "the second moment of the initial residual is a multiple of 1", _is_isotropic),
    ),
    instances=_isotropic(),
    check=check_necessary,
    expected=Verdict.HOLDS,
    proof="A component with λ <= ε shrinks by at most 1 − ηε a step. This bounds a count out of NO, the Gram matrix, not out "
    "of P. The step need not be stable. For one given residual nothing follows from the count: one direction suffices if r_0 "
    "lies in it. Then the bound is ½ (1 − ηε)^{2K} |(I − P_ε) r_0|².",
    without={"small-level": _isotropic(large=True), "isotropic": _isotropic(single=True)},
    attained=_isotropic(exact=True),
    mutants=(
        Mutant("half-exponent", "(1 − ηε)^K in place of (1 − ηε)^{2K}", _half_exponent, _isotropic(exact=True)),
        Mutant("share-of-parameters", "the count as a share of P, if P > NO", _share_of_parameters),
    ),
    certificates=(
        Certificate("slow-components", "all K, η, ε and sizes", Strength.SYMBOLIC, Scope.ALL, _prove_necessary),
    ),
    depends_on=("spectral.k-steps",),
)


# -- sufficient ------------------------------------------------------------------------------------------------------------


def krylov_basis(M: np.ndarray, r: np.ndarray) -> np.ndarray:
    """A basis (columns) of span(r, Mr, M²r, …), the span of the eigencomponents of r; r is not zero."""
    columns = [r]
    while True:
        following = M @ columns[-1]
        candidate = np.stack([*columns, following])
        if fmpq_mat(len(candidate), len(r), candidate.ravel().tolist()).rank() == len(columns):
            return np.stack(columns, 1)
        columns.append(following)


def _nonnegative(M: np.ndarray, basis: np.ndarray) -> bool:
    """Is M ⪰ 0 on the span of the basis?"""
    return exact_inertia(basis.T @ M @ basis).negative == 0


def _at_least(instance: Frozen) -> bool:
    """Every eigenvalue that r_0 meets is at least ε."""
    M, (_, epsilon, _) = instance.kernel, _numbers(instance)
    return _nonnegative(M - epsilon * _identity(len(M)), krylov_basis(M, _residuals(instance)[0]))


def _step_fits(instance: Frozen) -> bool:
    """Every eigenvalue that r_0 meets is at most 2/η − ε."""
    M, (eta, epsilon, _) = instance.kernel, _numbers(instance)
    return _nonnegative((2 / eta - epsilon) * _identity(len(M)) - M, krylov_basis(M, _residuals(instance)[0]))


def _identity(size: int) -> np.ndarray:
    return rational_array(np.eye(size, dtype=int))


def check_sufficient(instance: Frozen) -> Evidence:
    """L_K ≤ (1 − ηε)^{2K} L_0? ``margin`` is the difference."""
    return _sufficient(instance, 2)


def _sufficient(instance: Frozen, power: int) -> Evidence:
    eta, epsilon, steps = _numbers(instance)
    first, final = _total_loss(instance, 0), _total_loss(instance, steps)
    bound = (1 - eta * epsilon) ** (power * steps) * first
    if power == 2 and _small_level(instance):
        assert bound == sufficient_loss(eta, epsilon, steps, first)
    note = f"loss {_short(final)}, bound {_short(bound)}, ηε = {eta * epsilon}, K = {steps}"
    return _verdict(final <= bound, note, lambda: _sufficient_witness(instance, power, note), bound - final)


def _sufficient_witness(instance: Frozen, power: int, note: str) -> dict[str, Any]:
    eta, epsilon, steps = _numbers(instance)
    net = network_document(instance.net(_residuals(instance)[0]))
    final = quantity("loss", steps=steps, rate=number(eta), rule=SGD)
    factor = number((1 - eta * epsilon) ** (power * steps))
    return witness(note, {"net": net}, [assertion(final, ">", times(factor, quantity("loss")))])


def _twice_as_fast(instance: Frozen) -> Evidence:
    return _sufficient(instance, 4)


@st.composite
def _reachable(draw: DrawFn, mode: str = "") -> Frozen:
    """r_0 = M v in the range of M, so that λ > 0 on its span; ε at most the least such λ, and η (λ_max + ε) ≤ 2.

    ``mode``: "exact" one sample, λ = ε; "fast" η just below 2/λ_max and ε = λ/2; "slow" ε above λ.
    """
    single = mode != ""
    base = draw(frozen(size=1 if single else 2, samples=1 if single else 3))
    M = base.kernel
    steps = draw(st.integers(1, 3))
    if single:
        top = M[0, 0]
        epsilon, eta = {
            "exact": (top, 1 / (2 * top)),
            "fast": (top / 2, fmpq(15 + draw(st.integers(0, 4)), 10) / top),
            "slow": (2 * top, 1 / (draw(st.integers(3, 5)) * top)),
        }[mode]
        residual = np.ones(1)
    else:
        residual = (M @ rational_array(integers_array(draw, (len(M),), 2))).astype(object)
        if not any(residual):
            residual = M[0]  # M_00 > 0
        basis = krylov_basis(M, residual)
        largest = sum(M[k, k] for k in range(len(M)))  # the trace bounds λ_max
        epsilon = fmpq(1)
        while not _nonnegative(M - epsilon * _identity(len(M)), basis):
            epsilon /= 2
        eta = fmpq(draw(st.integers(1, 4)), 2) / (largest + epsilon)
        residual = np.array([int(v) for v in residual])
    extra = {"rate": str(eta), "epsilon": str(epsilon), "steps": steps, "residuals": residual[None, :]}
    return replace(base, extra=extra)


def _prove_sufficient() -> str:
    """ε ≤ λ ≤ 2/η − ε, written λ = ε + a and 2/η − ε − λ = b with a, b ≥ 0; then log(1 − t) ≤ −t."""
    a, b, epsilon = sympy.symbols("a b epsilon", nonnegative=True)
    lam = epsilon + a
    eta = 2 / (lam + b + epsilon)
    low, high = (1 - eta * epsilon) - (1 - eta * lam), (1 - eta * epsilon) + (1 - eta * lam)
    assert sympy.simplify(low - eta * a) == 0 and sympy.simplify(high - eta * b) == 0
    t = sympy.symbols("t", positive=True)
    assert sympy.simplify(sympy.diff(-t - sympy.log(1 - t), t) - t / (1 - t)) == 0  # ≥ 0 on (0, 1), and 0 at t = 0
    return (
        "(1 - ηε) ∓ (1 - ηλ) = ηa, ηb >= 0, so |1 - ηλ| <= 1 - ηε, and L_K <= (1 - ηε)^{2K} L_0 <= e^{-2Kηε} L_0: "
        "K >= log(L_0/δ)/(2ηε) steps suffice"
    )


SUFFICIENT = Claim(
    id="spectral.eps-rank.sufficient",
    title="Eigenvalues of at least ε on the span of the residual give a small loss after K steps",
    source=_SOURCE,
    kind="theorem",
    statement=r"\varepsilon \le \lambda_i \le \tfrac{2}{\eta} - \varepsilon \text{ whenever } u_i^\top r_0 \ne 0 "
    r"\;\Rightarrow\; L_K \le (1 - \eta\varepsilon)^{2K} L_0 \le e^{-2K\eta\varepsilon} L_0,\; "
    r"K \ge \frac{\log(L_0/\delta)}{2\eta\varepsilon} \text{ suffices for } L_K \le \delta",
    quantifier="for all",
    assumptions=(
        Assumption("large-eigenvalues", "r_0 meets no eigenvalue below ε", _at_least),
        Assumption("step", "η (λ + ε) ≤ 2 for all eigenvalues that r_0 meets", _step_fits),
    ),
    instances=_reachable(),
    check=check_sufficient,
    expected=Verdict.HOLDS,
    proof="Each component that is there shrinks by |1 − ηλ| <= 1 − ηε a step. What counts is the span of r_0, not the rank. The "
    "usual condition η < 2/λ_max is too weak: at ηλ_max = 1.9 the top component shrinks by 0.9 a step only.",
    without={"large-eigenvalues": _reachable("slow"), "step": _reachable("fast")},
    attained=_reachable("exact"),
    mutants=(
        Mutant("stable-step", "any step η < 2/λ_max will do", check_sufficient, _reachable("fast")),
        Mutant("twice-as-fast", "L_K <= (1 − ηε)^{4K} L_0", _twice_as_fast, _reachable("exact")),
    ),
    certificates=(
        Certificate("contraction", "all K, η, ε and sizes", Strength.SYMBOLIC, Scope.ALL, _prove_sufficient),
    ),
    depends_on=("spectral.k-steps",),
)

CLAIMS = (K_STEPS, NECESSARY, SUFFICIENT)
