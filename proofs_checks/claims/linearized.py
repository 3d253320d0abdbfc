"""Spectral Collapse v3, the linearised ReLU network (1): Gram and Gauss–Newton spectra, the Hessian, permuted inputs.

The text of v3 could not be had in full; its model is that of the published code (frozen gates, fixed readout, no biases).
Networks have integer weights, so that spectra are compared through exact characteristic polynomials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy
from flint import fmpq, fmpq_mat, fmpq_poly
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.dag import Dag
from lop_theory.exact import exact_gauss_newton, exact_gradient, exact_hessian
from lop_theory.forward import run_forward
from lop_theory.linearized import Linearized, exact_epsilon_rank, linearize, linearized_kernel
from lop_theory.rank import exact_rank
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.jacobian_probes import Probes, times, total
from proofs_checks.claims.kronecker import Rooted, rooted
from proofs_checks.claims.kronecker_ranks import regression
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import integers_array, mlp_instances, widths

_GRAM = Source("2509.22335", "v3", "Gram-GGN equivalence", "reconstructed from the abstract")
_MODEL = Source("2509.22335", "v3", "linearized ReLU network", "model of the published code")
_PERMUTED = Source("2509.22335", "v3", "remark on permuted inputs", "second-hand")
_REPAIRED = Source("2509.22335", "v3", "remark on permuted inputs", "repaired by us")


def as_matrix(values: np.ndarray) -> fmpq_mat:
    """A flint matrix of an array of rationals."""
    return fmpq_mat(len(values), values.shape[1], values.ravel().tolist())


def _verdict(
    holds: bool, note: str, document: Callable[[], dict[str, Any]] | None = None, margin: Any = None
) -> Evidence:
    return Evidence(Verdict.HOLDS if holds else Verdict.FAILS, None, None, margin, note, None if holds else document)


# -- the non-zero spectrum of the Gauss–Newton matrix ----------------------------------------------------------------------


def _same_spectrum(B: np.ndarray, K: np.ndarray) -> bool:
    """det(t − B) t^n = det(t − K) t^P: the same non-zero eigenvalues with the same multiplicities."""
    left, right = (fmpq_poly(as_matrix(M).charpoly().coeffs()) for M in (B, K))
    shift = fmpq_poly([0, 1])
    return bool(left * shift ** len(K) == right * shift ** len(B))


def check_gram(instance: Rooted) -> Evidence:
    """The spectra of JᵀSJ [P, P], from the Hessian formula, and of RᵀJJᵀR [N·C, N·C], from the KFAC signals."""
    X = instance.weighted_jacobian
    return _verdict(_same_spectrum(instance.gauss_newton, X @ X.T), f"P = {X.shape[1]}, N·C = {X.shape[0]}")


def _unweighted(instance: Rooted) -> Evidence:
    """The kernel J Jᵀ without the loss Hessian."""
    samples, outputs = instance.net.y.shape
    identity = rational_array(np.broadcast_to(np.eye(outputs), (samples, outputs, outputs)).astype(int))
    J = Rooted(instance.net, identity, False).weighted_jacobian
    return _verdict(_same_spectrum(instance.gauss_newton, J @ J.T), "unweighted kernel")


def _weighted_twice(instance: Rooted) -> Evidence:
    """S J Jᵀ S in place of its square root."""
    X = Rooted(instance.net, instance.loss_hessian, instance.softmax).weighted_jacobian
    return _verdict(_same_spectrum(instance.gauss_newton, X @ X.T), "S in place of its root")


def _all_eigenvalues(instance: Rooted) -> Evidence:
    """All eigenvalues, zeros included."""
    X = instance.weighted_jacobian
    return _verdict(X.shape[0] == X.shape[1], f"P = {X.shape[1]} eigenvalues against N·C = {X.shape[0]}")


@st.composite
def _indefinite(draw: DrawFn) -> Rooted:
    """S = diag(±1) and the root of |S|: the only real candidate."""
    instance = draw(rooted(mlp_instances(widths((0, 1), 2, 2, 2), samples=(1, 2), bound=2), False))
    S = instance.root.copy()
    S[0, 0, 0] = fmpq(-1)
    return replace(instance, indefinite=S)


def _prove_gram() -> str:
    """Two block eliminations of [[t, X], [Y, 1]], in noncommuting symbols: any sizes."""
    t = sympy.Symbol("t", nonzero=True)
    X, Y = sympy.symbols("X Y", commutative=False)

    def multiply(L: list[list[Any]], R: list[list[Any]]) -> list[list[Any]]:
        return [[sympy.expand(sum(L[i][k] * R[k][j] for k in range(2))) for j in range(2)] for i in range(2)]

    M = [[t, X], [Y, sympy.Integer(1)]]
    first = multiply([[1, -X], [0, 1]], M)
    second = multiply([[1, 0], [-Y / t, 1]], M)
    assert first == [[sympy.expand(t - X * Y), 0], [Y, 1]]
    assert second[1][0] == 0 and sympy.expand(second[1][1] - (1 - Y * X / t)) == 0
    return "both eliminations have determinant one: det(t - XY) = det M = t^n det(1 - YX/t), so t^P det(t - XY) = t^n det(t - YX)"


GGN_GRAM = Claim(
    id="spectral.ggn-gram",
    title="The loss-weighted Gram matrix has the non-zero spectrum of the Gauss–Newton matrix",
    source=_GRAM,
    kind="theorem",
    statement=r"S = R R^\top:\; J^\top S J \in \mathbb{R}^{P \times P} \text{ and } R^\top J J^\top R \in "
    r"\mathbb{R}^{NC \times NC} \text{ have the same non-zero eigenvalues, with multiplicities}",
    quantifier="for all",
    assumptions=(
        Assumption(
            "root",
            "S has the root that weights the Gram matrix (so it is positive semi-definite)",
            lambda r: bool((r.root @ r.root.swapaxes(1, 2) == r.loss_hessian).all()),
        ),
    ),
    instances=rooted(mlp_instances(widths((0, 2), 2, 2, 3), samples=(1, 3), bound=2)),
    check=check_gram,
    expected=Verdict.HOLDS,
    proof="XY and YX with X = Rᵀ J, Y = Xᵀ. The root does not matter, symmetric or not. For an indefinite S (a policy "
    "surrogate) there is no real root; then only the unsymmetric S J Jᵀ has the spectrum. Zero eigenvalues differ in number.",
    without={"root": _indefinite()},
    mutants=(
        Mutant("unweighted", "the kernel J Jᵀ, without S", _unweighted, rooted(None, True)),
        Mutant("weighted-twice", "S J Jᵀ S", _weighted_twice, rooted(None, True)),
        Mutant("zeros-too", "all eigenvalues agree, zeros included", _all_eigenvalues),
    ),
    certificates=(
        Certificate("sylvester", "det(t − XY) and det(t − YX), any sizes", Strength.SYMBOLIC, Scope.ALL, _prove_gram),
    ),
)


# -- instances: the linearised network -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Frozen:
    """The linearised network of integer W0 [h, I], readout [O, h] and inputs x [N, I]; ``extra`` as the claim needs."""

    W0: np.ndarray
    readout: np.ndarray
    x: np.ndarray
    extra: dict[str, Any]

    def __repr__(self) -> str:
        shown = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.extra.items()}
        arrays = ", ".join(f"{k} = {getattr(self, k).astype(int).tolist()}" for k in ("W0", "readout", "x"))
        return f"Frozen({arrays}, {shown})"

    @cached_property
    def model(self) -> Linearized:
        return linearize(self.W0.astype(int), self.readout.astype(int), self.x.astype(int))

    @cached_property
    def kernel(self) -> np.ndarray:
        """J Jᵀ [N·O, N·O]."""
        J = self.model.jacobian
        return J @ J.T

    def net(self, residual: np.ndarray | None = None) -> Instance:
        """The same as a network at W0, with targets f − residual (zero residual by default)."""
        dag, gated = self.model.network()
        f = self.model.output(self.model_weights)
        y = f if residual is None else f - rational_array(residual).reshape(f.shape)
        return Instance(dag, self.W0.ravel(), gated, y)

    @property
    def model_weights(self) -> np.ndarray:
        return rational_array(self.W0.astype(int))


@st.composite
def frozen(draw: DrawFn, size: int = 2, samples: int = 3, live: bool = True) -> Frozen:
    """Widths up to ``size``. ``live``: the first unit is open on the first sample and read, so that J is not zero."""
    inputs, units, outputs = (draw(st.integers(1, size)) for _ in range(3))
    W0, readout = integers_array(draw, (units, inputs), 2), integers_array(draw, (outputs, units), 2)
    x = integers_array(draw, (draw(st.integers(1, samples)), inputs), 2)
    if live:
        W0[0, 0], x[0, 0], readout[0, 0] = 1, 1 + max(0, int(-(W0[0, 1:] @ x[0, 1:]))), readout[0, 0] or 1
    return Frozen(W0, readout, x, {})


# -- normalised ε-ranks ----------------------------------------------------------------------------------------------------


def _shares(instance: Frozen) -> tuple[int, int, int, int]:
    """rank_ε of JᵀJ and of JJᵀ, P and N·O."""
    J, level = instance.model.jacobian, fmpq(1, 1000)
    return exact_epsilon_rank(J.T @ J, level), exact_epsilon_rank(J @ J.T, level), J.shape[1], J.shape[0]


def _compare_shares(instance: Frozen, op: str, opposite: str) -> Evidence:
    of_hessian, of_gram, P, size = _shares(instance)
    left, right = fmpq(of_hessian, P), fmpq(of_gram, size)
    holds = {"==": left == right, "<=": left <= right, ">=": left >= right}[op]
    note = f"ε-rank {of_hessian} of P = {P} and {of_gram} of N·O = {size}"

    def document() -> dict[str, Any]:
        net, dual = instance.net(), regression(instance.model.jacobian.T)
        probes = Probes(net)
        entries = [
            assertion(quantity("value", "gram", unit=k, sample=i), "==", probes.jacobian(n, o, i))
            for k, (n, o) in enumerate(probes.pairs)
            for i in range(P)
        ]
        count = {name: quantity("epsilon_rank", name, level="1/1000") for name in ("net", "gram")}
        params = {name: quantity("num_params", name) for name in ("net", "gram")}
        claimed = assertion(times(count["net"], params["gram"]), opposite, times(count["gram"], params["net"]))
        networks = {"net": network_document(net), "gram": network_document(dual), **probes.networks}
        return witness(note, networks, [claimed, *entries, *probes.assertions])

    return _verdict(holds, note, document)


def check_normalised(instance: Frozen) -> Evidence:
    """rank_ε(H)/P = rank_ε(K)/NC?"""
    return _compare_shares(instance, "==", "!=")


NORMALISED = Claim(
    id="spectral.ggn-gram.normalised",
    title="Normalised ε-ranks of the Gauss–Newton and the Gram matrix agree (the equivalence, read for shares)",
    source=_GRAM,
    kind="remark",
    statement=r"\frac{\operatorname{rank}_\varepsilon(J^\top S J)}{P} = \frac{\operatorname{rank}_\varepsilon(K_S)}{NC}",
    quantifier="for all",
    assumptions=(),
    instances=frozen(),
    check=check_normalised,
    expected=Verdict.FAILS,
    proof="The counts agree for ε > 0, the sizes P and NC do not. A network with many parameters per sample has a small share "
    "of P and may have the full share of NC: an ε-rank as a share says nothing without its denominator.",
    mutants=(
        Mutant("at-most", "the share of P is at most that of NC", lambda i: _compare_shares(i, "<=", ">")),
        Mutant("at-least", "the share of P is at least that of NC", lambda i: _compare_shares(i, ">=", "<")),
    ),
)


# -- the Hessian of the linearised network ---------------------------------------------------------------------------------


def _loss_at(instance: Instance, theta: np.ndarray) -> fmpq:
    run = run_forward(RATIONALS, instance.dag, theta, RATIONALS.convert(instance.x))
    residual = run.output - RATIONALS.convert(instance.y)
    return (residual * residual).sum() / 2


def _moved(instance: Instance) -> np.ndarray:
    return rational_array(instance.theta) + rational_array(instance.extra["step"])


def check_linearized_hessian(instance: Instance) -> Evidence:
    """H = JᵀJ at θ, and L(θ + d) = L(θ) + ∇L·d + ½ dᵀJᵀJ d for the step d of the instance."""
    arguments = instance.dag, instance.theta, instance.x, instance.y
    H, B = exact_hessian(*arguments), exact_gauss_newton(*arguments)
    wrong = next((k for k, v in enumerate((H - B).entries()) if v != 0), None)
    if wrong is not None:
        i, j = divmod(wrong, H.nrows())
        note = f"H_{i}{j} = {H[i, j]}, but the Gauss-Newton matrix has {B[i, j]}"
        return _verdict(False, note, lambda: _entry_witness(instance, i, j, note))
    d, theta = rational_array(instance.extra["step"]), rational_array(instance.theta)
    quadratic = (as_matrix(d[None, :]) * B * as_matrix(d[:, None]))[0, 0] / 2
    predicted = _loss_at(instance, theta) + exact_gradient(*arguments) @ d + quadratic
    found = _loss_at(instance, theta + d)
    note = f"loss {found} after the step, {predicted} by the quadratic model"
    return _verdict(found == predicted, note, lambda: _step_witness(instance, note))


def _entry_witness(instance: Instance, i: int, j: int, note: str) -> dict[str, Any]:
    probes = Probes(instance)
    differs = assertion(quantity("hessian", i=i, j=j), "!=", probes.gauss_newton(i, j))
    return witness(note, {"net": network_document(instance), **probes.networks}, [differs, *probes.assertions])


def _step_witness(instance: Instance, note: str) -> dict[str, Any]:
    """The network at θ + d has not the loss that value, gradient and Hessian at θ foretell."""
    d = [number(v) for v in instance.extra["step"]]
    networks = {"net": network_document(instance), "moved": network_document(instance, _moved(instance))}
    model = total(
        [quantity("loss"), quantity("gradient_form", coefficients=d), times("1/2", quantity("quadratic_form", v=d))]
    )
    return witness(note, networks, [assertion(quantity("loss", "moved"), "!=", model)])


def _full_rank(instance: Instance) -> Evidence:
    """rank H = min(P, N·O)?"""
    rank = exact_rank(exact_hessian(instance.dag, instance.theta, instance.x, instance.y))
    full = min(instance.dag.num_params, instance.y.size)
    note = f"rank {rank}, P = {instance.dag.num_params}, N·O = {instance.y.size}"

    def document() -> dict[str, Any]:
        return witness(note, {"net": network_document(instance)}, [assertion(quantity("hessian_rank"), "<", full)])

    return _verdict(rank == full, note, document)


def _true_network(instance: Instance) -> Evidence:
    """Does the ReLU network itself have the loss of the linearised one after the step?"""
    source: Frozen = instance.extra["source"]
    relu = Instance(hidden_relu(source.readout, source.x.shape[1]), instance.theta, source.x, instance.y)
    losses = _loss_at(instance, _moved(instance)), _loss_at(relu, _moved(instance))
    note = f"loss {losses[0]} of the linearised network, {losses[1]} of the ReLU network"

    def document() -> dict[str, Any]:
        networks = {
            "linear": network_document(instance, _moved(instance)),
            "relu": network_document(relu, _moved(instance)),
        }
        return witness(note, networks, [assertion(quantity("loss", "linear"), "!=", quantity("loss", "relu"))])

    return _verdict(losses[0] == losses[1], note, document)


def hidden_relu(readout: np.ndarray, inputs: int) -> Dag:
    """The ReLU network itself: trained hidden weights without bias, fixed ``readout`` [O, h]."""
    outputs, units = readout.shape
    hidden, last = inputs + np.arange(units), inputs + units + np.arange(outputs)
    source = [*np.tile(np.arange(inputs), units), *np.tile(hidden, outputs)]
    target = [*np.repeat(hidden, inputs), *np.repeat(last, units)]
    param = [*range(units * inputs), *[-1] * readout.size]
    fixed = {units * inputs + k: int(v) for k, v in enumerate(readout.ravel())}
    names = ("relu",) * units + ("identity",) * outputs
    return Dag(inputs, False, names, np.array(source), np.array(target), np.array(param), last, fixed)


def _is_linear(instance: Instance) -> bool:
    return set(instance.dag.activations) == {"identity"}


def _one_trained_layer(instance: Instance) -> bool:
    trained = instance.dag.param >= 0
    return not np.isin(instance.dag.source[trained], instance.dag.target[trained]).any()


@st.composite
def _linearized_nets(draw: DrawFn) -> Instance:
    base = draw(frozen())
    net = base.net(integers_array(draw, (len(base.x) * len(base.readout),), 4))
    step = integers_array(draw, (net.dag.num_params,), 4)
    return replace(net, extra={"step": step, "source": base})


@st.composite
def _moving_gates(draw: DrawFn) -> Instance:
    """The ReLU network itself, odd pre-activations, and a step that may switch gates."""
    units, inputs, samples = (draw(st.integers(1, 2)) for _ in range(3))
    readout = integers_array(draw, (1, units), 2)
    readout[0, 0] = readout[0, 0] or 1
    W, x = 2 * integers_array(draw, (units, inputs), 1), 2 * integers_array(draw, (samples, inputs), 1)
    W[:, -1] += 1
    x[:, -1] += 1
    step = -2 * W.ravel()  # turns every gate
    return Instance(hidden_relu(readout, inputs), W.ravel(), x, np.zeros((samples, 1)), extra={"step": step})


@st.composite
def _trained_readout(draw: DrawFn) -> Instance:
    """A linear network whose readout trains too."""
    net = draw(mlp_instances(widths((1, 1), 2, 2, 2), "identity", (1, 2), bias=False, bound=2))
    return replace(net, extra={"step": np.ones(net.dag.num_params)})


def _prove_linearized() -> str:
    """ℓ(f) with f = Jθ: a Hessian at a point sees ℓ through its second-order jet there, so a general jet is any loss."""
    theta = sympy.symbols("theta0 theta1")
    J, S = (sympy.Matrix(2, 2, sympy.symbols(f"{name}00 {name}01 {name}10 {name}11")) for name in "JS")
    S[1, 0] = S[0, 1]
    slope, f0 = (sympy.Matrix(sympy.symbols(f"{name}0 {name}1")) for name in ("slope", "f"))
    moved = J * sympy.Matrix(theta) - f0
    loss = (slope.T * moved + moved.T * S * moved / 2)[0]
    assert sympy.expand(sympy.hessian(loss, theta) - J.T * S * J) == sympy.zeros(2)
    return (
        "∂²f = 0, hence R = Σ (∂ℓ/∂f) ∂²f = 0 and H = JᵀSJ for every loss; for squared loss L is a quadratic polynomial"
    )


LINEARIZED_HESSIAN = Claim(
    id="spectral.linearized-hessian",
    title="The Hessian of the linearised ReLU network is its Gauss–Newton matrix",
    source=_MODEL,
    kind="lemma",
    statement=r"f(W) = A\big(\mathbb{1}[W_0 x > 0] \circ W x\big):\quad \nabla^2 L(W) = J^\top S J \text{ with constant } J; "
    r"\text{ for squared loss } L(W + D) = L(W) + \langle \nabla L, D\rangle + \tfrac12 D^\top J^\top J D \;\; \forall D",
    quantifier="for all",
    assumptions=(
        Assumption("frozen-gates", "gates do not move with the weights", _is_linear),
        Assumption("frozen-readout", "no trained weight feeds into another one", _one_trained_layer),
    ),
    instances=_linearized_nets(),
    check=check_linearized_hessian,
    expected=Verdict.HOLDS,
    proof="f is linear in W, so ∂²f = 0 and the residual part vanishes, for every loss. Off the kinks the ReLU network with a "
    "fixed readout has the same Hessian; it loses the second half of the statement as soon as a gate turns.",
    without={"frozen-gates": _moving_gates(), "frozen-readout": _trained_readout()},
    mutants=(
        Mutant("full-rank", "the rank is min(P, NO)", _full_rank),
        Mutant("true-network", "the ReLU network has the same loss after a step", _true_network),
    ),
    certificates=(
        Certificate("linear", "every smooth loss, any size", Strength.SYMBOLIC, Scope.CLASS, _prove_linearized),
    ),
)


# -- permuted inputs -------------------------------------------------------------------------------------------------------


def _kernels(instance: Frozen, weights: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    arrays = [a.astype(int) for a in (instance.W0, instance.readout, instance.x, weights, x)]
    return linearized_kernel(*arrays[:3]), linearized_kernel(arrays[3], arrays[1], arrays[4])


def _compare_kernels(instance: Frozen, weights: np.ndarray, x: np.ndarray, text: str) -> Evidence:
    before, after = _kernels(instance, weights, x)
    places = np.argwhere(before != after)
    if not len(places):
        return _verdict(True, text)
    k, m = (int(v) for v in places[0])
    note = f"{text}: entry {k, m} of the kernel is {before[k, m]}, then {after[k, m]}"
    return _verdict(False, note, lambda: _kernel_witness(instance, weights, x, [(k, m)], note))


def _kernel_witness(
    instance: Frozen, weights: np.ndarray, x: np.ndarray, entries: Sequence[tuple[int, int]], note: str
) -> dict[str, Any]:
    """The sum of the named kernel entries, from gradients of both ReLU networks (fixed readout)."""
    dag = hidden_relu(instance.readout, x.shape[1])
    zero = np.zeros((len(x), len(instance.readout)))
    networks: dict[str, Any] = {}
    sums, assertions = [], []
    for name, W, inputs in (("before", instance.W0, instance.x), ("after", weights, x)):
        probes = Probes(Instance(dag, W.ravel(), inputs, zero), name)
        networks |= probes.networks
        assertions += probes.assertions
        rows = [[probes.jacobian(*probes.pairs[e], i) for i in range(dag.num_params)] for pair in entries for e in pair]
        products = [times(a, b) for left, right in zip(rows[::2], rows[1::2], strict=True) for a, b in zip(left, right)]
        sums.append(total(products))
    return witness(note, networks, [assertion(sums[0], "!=", sums[1]), *assertions])


def _order(instance: Frozen) -> list[int]:
    return list(instance.extra["order"])


def check_permuted(instance: Frozen) -> Evidence:
    """Is the kernel of permuted inputs, with the same W0, that of the inputs?"""
    return _compare_kernels(instance, instance.W0, instance.x[:, _order(instance)], "same weights")


def check_both_permuted(instance: Frozen) -> Evidence:
    """The columns of W0 are permuted with the inputs."""
    order = _order(instance)
    return _compare_kernels(instance, instance.W0[:, order], instance.x[:, order], "columns permuted too")


def _inverse_permuted(instance: Frozen) -> Evidence:
    order = _order(instance)
    return _compare_kernels(instance, instance.W0[:, np.argsort(order)], instance.x[:, order], "inverse permutation")


def _units_permuted(instance: Frozen) -> Evidence:
    """The units are reversed (with their weights), and their readout is not."""
    return _compare_kernels(instance, instance.W0[::-1], instance.x, "units reversed")


def _trace_kept(instance: Frozen) -> Evidence:
    before, after = _kernels(instance, instance.W0, instance.x[:, _order(instance)])
    traces = np.trace(before), np.trace(after)
    note = f"trace {traces[0]}, then {traces[1]}"
    places = [(k, k) for k in range(len(before))]
    x = instance.x[:, _order(instance)]
    return _verdict(traces[0] == traces[1], note, lambda: _kernel_witness(instance, instance.W0, x, places, note))


def _rank_kept(instance: Frozen) -> Evidence:
    before, after = _kernels(instance, instance.W0, instance.x[:, _order(instance)])
    ranks = exact_rank(before), exact_rank(after)
    note = f"rank {ranks[0]}, then {ranks[1]}"

    def document() -> dict[str, Any]:
        dag = hidden_relu(instance.readout, instance.x.shape[1])
        zero = np.zeros((len(instance.x), len(instance.readout)))
        inputs = {"before": instance.x, "after": instance.x[:, _order(instance)]}
        networks = {name: network_document(Instance(dag, instance.W0.ravel(), x, zero)) for name, x in inputs.items()}
        differs = assertion(quantity("hessian_rank", "before"), "!=", quantity("hessian_rank", "after"))
        return witness(note, networks, [differs])

    return _verdict(ranks[0] == ranks[1], note, document)


@st.composite
def _permuted(draw: DrawFn) -> Frozen:
    """All weights and inputs odd, and an odd number of inputs: pre-activations are odd, whatever the permutation."""
    inputs, units, outputs = draw(st.sampled_from([3])), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    W0 = 2 * integers_array(draw, (units, inputs), 2) + 1
    readout = integers_array(draw, (outputs, units), 2)
    x = 2 * integers_array(draw, (draw(st.integers(1, 2)), inputs), 2) + 1
    return Frozen(W0, readout, x, {"order": draw(st.permutations(range(inputs)))})


def _prove_permuted() -> str:
    """The kernel depends on x and W0 through x_n·x_m and w_r·x_n only; Q stands for any matrix with Q Qᵀ = 1."""
    n = sympy.symbols("n", integer=True, positive=True)
    Q, x, w = sympy.MatrixSymbol("Q", n, n), sympy.MatrixSymbol("x", 1, n), sympy.MatrixSymbol("w", 1, n)
    product = (x * Q) * (w * Q).T
    assert product == x * Q * Q.T * w.T
    assert product.subs(Q.T, Q.I).doit() == x * w.T
    return "(xQ)(wQ)ᵀ = x QQᵀ wᵀ = x wᵀ in any dimension, for inputs and weights alike: gates, inner products and kernel stay"


PERMUTATION = Claim(
    id="spectral.permutation",
    title="The kernel at initialisation does not change when the inputs are permuted (as printed)",
    source=_PERMUTED,
    kind="remark",
    statement=r"G_0(X\Pi;\, W_0) = G_0(X;\, W_0) \text{ for every permutation } \Pi \text{ of the pixels}",
    quantifier="for all",
    assumptions=(),
    instances=_permuted(),
    check=check_permuted,
    expected=Verdict.FAILS,
    proof="Inner products of inputs stay, gates do not: w·Πx is another number than w·x. With random W0 of permutation-"
    "invariant law the two kernels have the same distribution, and at large width they concentrate; at one draw they differ.",
    mutants=(
        Mutant("trace", "the trace of the kernel is kept", _trace_kept),
        Mutant("rank", "the rank of the kernel is kept", _rank_kept),
    ),
)

PERMUTATION_REPAIRED = Claim(
    id="spectral.permutation.repaired",
    title="The kernel does not change when the columns of W0 are permuted with the inputs",
    source=_REPAIRED,
    kind="remark",
    statement=r"G_0(X\Pi;\, W_0\Pi) = G_0(X;\, W_0) \text{ for every permutation, and every orthogonal } \Pi",
    quantifier="for all",
    assumptions=(),
    instances=_permuted(),
    check=check_both_permuted,
    expected=Verdict.HOLDS,
    proof="The kernel depends on x and W0 only through x_n·x_m and w_r·x_n, and ΠΠᵀ = 1. So a permuted task is the same task "
    "for a network whose first weights are permuted too; for the inherited weights it is another one.",
    mutants=(
        Mutant("inverse", "the columns are permuted by the inverse", _inverse_permuted),
        Mutant("units", "the order of the units does not matter, with the readout kept", _units_permuted),
    ),
    certificates=(
        Certificate(
            "orthogonal", "any dimension, any orthogonal matrix", Strength.SYMBOLIC, Scope.ALL, _prove_permuted
        ),
    ),
    repairs="spectral.permutation",
)

CLAIMS = (GGN_GRAM, NORMALISED, LINEARIZED_HESSIAN, PERMUTATION, PERMUTATION_REPAIRED)
