"""Spectral Collapse, curvature (1): the KFAC blocks of the Gauss–Newton matrix.

Everything is exact. A loss enters through a rational root R_n of its Hessian at the outputs (S_n = R_n R_nᵀ): the identity
for squared losses, diag √p − p √pᵀ for softmax at probabilities p that are squares of rationals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import sympy
from flint import arb, ctx, fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.arithmetic import BALLS, RATIONALS, rational_array
from lop_theory.forward import apply_activations, run_forward
from lop_theory.hessian import assemble, curvature
from lop_theory.kronecker import LayerFactors, kfac_factors
from proofs_checks.claim import Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.jacobian_probes import Probes, rational_output, times, total
from proofs_checks.instances import Instance, assertion, network_document, number, quantity, witness
from proofs_checks.strategies import mlp_instances, widths

_EQ1 = Source("2509.22335", "v1", "Eqs. 5-6 (poster Eq. 1)", "reconstructed from poster and reviews")
_OURS = Source("2509.22335", "v1", "Eqs. 5-6 (poster Eq. 1)", "made exact by us")


# -- instances: a network and a rational root of its loss Hessian ----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rooted:
    """A network (loss ``mse_sum`` nominally) with a rational root [N, O, C] of the loss Hessian at its outputs."""

    net: Instance
    root: np.ndarray
    softmax: bool
    indefinite: np.ndarray | None = None  # another loss Hessian [N, O, O], of which ``root`` is not a root

    def __repr__(self) -> str:
        return f"Rooted({self.net!r}, {'softmax' if self.softmax else 'squared'} loss, root {self.root.tolist()})"

    @cached_property
    def layers(self) -> tuple[LayerFactors, ...]:
        return kfac_factors(self.net.dag, self.net.theta, self.net.x, "mse_sum", root=self.root)

    @cached_property
    def gauss_newton(self) -> np.ndarray:
        """Jᵀ S J [P, P] by the Hessian formula of ``hessian.py``: it never forms a factor."""
        dag, ops = self.net.dag, RATIONALS
        run = run_forward(ops, dag, ops.convert(self.net.theta), ops.convert(self.net.x))
        slopes = {b: apply_activations(ops, dag, b, run.z[b], 1) for b in run.z}
        loss_parts = ops.zeros(run.output.shape), self.loss_hessian
        parts = curvature(ops, dag, run, slopes, None, loss_parts)
        found: np.ndarray = assemble(ops, dag, parts, ops.zeros((dag.num_params, dag.num_params)), residual=False)
        return found

    @property
    def loss_hessian(self) -> np.ndarray:
        """S [N, O, O]."""
        square: np.ndarray = self.root @ self.root.swapaxes(1, 2)
        return square if self.indefinite is None else self.indefinite

    @cached_property
    def weighted_jacobian(self) -> np.ndarray:
        """Rᵀ J [N·C, P], put together from the layers."""
        rows = RATIONALS.zeros((self.root.shape[0] * self.root.shape[2], self.net.dag.num_params))
        for layer in self.layers:
            rows[:, layer.index.ravel()] = layer.rows
        return rows

    def block(self, layer: LayerFactors) -> np.ndarray:
        """The block of the Gauss–Newton matrix that belongs to the layer."""
        places = layer.index.ravel()
        return self.gauss_newton[np.ix_(places, places)]


_SQUARES = {1: ("1",), 2: ("3/5", "4/5"), 3: ("2/7", "3/7", "6/7"), 4: ("1/2", "1/2", "1/2", "1/2")}


def softmax_root(roots: Sequence[Any]) -> np.ndarray:
    """diag √p − p √pᵀ [O, O] from the numbers √p."""
    root = rational_array(roots)
    p = root * root
    found: np.ndarray = np.diag(root) - p[:, None] * root[None, :]
    return found


@st.composite
def rooted(
    draw: DrawFn, base: SearchStrategy[Instance] | None = None, softmax: bool | None = None, outputs: int = 3
) -> Rooted:
    """An integer MLP with squared loss, or softmax at probabilities that are squares. Shrinks towards squared loss."""
    net = draw(base if base is not None else mlp_instances(widths((0, 2), 3, 2, outputs), samples=(1, 4), bound=2))
    samples, size = net.y.shape
    chosen = draw(st.booleans()) if softmax is None else softmax
    if not chosen:
        return Rooted(net, rational_array(np.broadcast_to(np.eye(size), (samples, size, size)).astype(int)), False)
    turns = [draw(st.integers(0, size - 1)) for _ in range(samples)]
    return Rooted(net, np.stack([softmax_root(np.roll(_SQUARES[size], k)) for k in turns]), True)


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return bool((left == right).all())


def _compare(holds: bool, note: str, document: Callable[[], dict[str, Any]] | None = None) -> Evidence:
    return Evidence(Verdict.HOLDS if holds else Verdict.FAILS, note=note, witness=None if holds else document)


# -- Eq. 1: the block of a layer -------------------------------------------------------------------------------------------


def check_block(instance: Rooted) -> Evidence:
    """Is every block Σ_n (Σ_c g gᵀ) ⊗ (a aᵀ), with g the back-propagated columns of the root?"""
    wrong = [k for k, layer in enumerate(instance.layers) if not _same(layer.block, instance.block(layer))]
    return _compare(not wrong, f"{len(instance.layers)} layers, wrong: {wrong}")


def _raw_output_gradients(instance: Rooted) -> Evidence:
    """The same with g the gradients of the outputs, whatever the loss."""
    samples, outputs = instance.net.y.shape
    identity = rational_array(np.broadcast_to(np.eye(outputs), (samples, outputs, outputs)).astype(int))
    layers = Rooted(instance.net, identity, False).layers
    wrong = [k for k, layer in enumerate(layers) if not _same(layer.block, instance.block(layer))]
    return _compare(not wrong, f"gradients of the outputs; wrong layers: {wrong}")


def _empirical_fisher(instance: Rooted) -> Evidence:
    """The same with one g per sample, the gradient of the squared loss."""
    residual = rational_output(instance.net) - RATIONALS.convert(instance.net.y)
    layers = Rooted(instance.net, residual[:, :, None], False).layers
    wrong = [k for k, layer in enumerate(layers) if not _same(layer.block, instance.block(layer))]
    return _compare(not wrong, f"gradients of the loss; wrong layers: {wrong}")


def _product_is_exact(instance: Rooted) -> Evidence:
    """Is every block equal to G ⊗ A?"""
    for layer in instance.layers:
        places = np.argwhere(layer.block != layer.approximation)
        if len(places):
            i, j = (int(k) for k in places[0])
            note = f"entry {i, j}: {layer.block[i, j]}, but (G ⊗ A) has {layer.approximation[i, j]}"
            return _compare(False, note, lambda: _product_witness(instance, layer, i, j, note))  # noqa: B023
    return _compare(True, "every block is G ⊗ A")


def _product_witness(instance: Rooted, layer: LayerFactors, i: int, j: int, note: str) -> dict[str, Any]:
    """N B_ij against Σ_n a a' · Σ_n,o g g', all recomputed (squared loss)."""
    dag, probes = instance.net.dag, Probes(instance.net)
    ends = [np.flatnonzero(dag.param == layer.index.ravel()[k])[0] for k in (i, j)]
    (u, v), (s, t) = [[int(side[e]) for e in ends] for side in (dag.target, dag.source)]
    samples = range(len(instance.net.x))
    signals = total([times(probes.signal(n, o, u), probes.signal(n, o, v)) for n, o in probes.pairs])
    inputs = total([times(probes.value(n, s), probes.value(n, t)) for n in samples])
    entry = probes.gauss_newton(*(int(layer.index.ravel()[k]) for k in (i, j)))
    differs = assertion(times(str(len(samples)), entry), "!=", times(signals, inputs))
    return witness(f"{note}: the block is not a Kronecker product", probes.networks, [differs, *probes.assertions])


def _block_diagonal(instance: Rooted) -> Evidence:
    """Do the blocks between different layers vanish?"""
    B = instance.gauss_newton
    for k, layer in enumerate(instance.layers):
        for other in instance.layers[k + 1 :]:
            places = np.argwhere(B[np.ix_(layer.index.ravel(), other.index.ravel())] != 0)
            if len(places):
                i, j = int(layer.index.ravel()[places[0][0]]), int(other.index.ravel()[places[0][1]])
                note = f"entry {i, j} between two layers is {B[i, j]}"
                return _compare(False, note, lambda: _coupling_witness(instance, i, j, note))  # noqa: B023
    return _compare(True, "block diagonal")


def _coupling_witness(instance: Rooted, i: int, j: int, note: str) -> dict[str, Any]:
    probes = Probes(instance.net)
    nonzero = assertion(probes.gauss_newton(i, j), "!=", 0)
    return witness(f"{note}: no block-diagonal matrix", probes.networks, [nonzero, *probes.assertions])


def _prove_block() -> str:
    """Two weights touch at most two units and two inputs, so two of each are the general case."""
    W = sympy.Matrix(2, 2, sympy.symbols("W00 W01 W10 W11"))
    a, g, k = (sympy.Matrix(sympy.symbols(f"{name}0 {name}1")) for name in "agk")
    z = W * a  # a column g' f of the root sees the layer through z alone: to first order g·z
    slopes = [sympy.diff((g.T * z)[0], W[i, j]) for i in range(2) for j in range(2)]
    rows = sympy.Matrix(4, 1, [g[i] * a[j] for i in range(2) for j in range(2)])
    assert all(sympy.expand(s - r) == 0 for s, r in zip(slopes, rows, strict=True))
    kron = sympy.kronecker_product(g * g.T + k * k.T, a * a.T)
    other = rows.subs(dict(zip(g, k, strict=True)), simultaneous=True)
    assert sympy.expand(rows * rows.T + other * other.T - kron) == sympy.zeros(4)
    return "∂(g·z)/∂W_ij = g_i a_j, so each column adds (g gᵀ) ⊗ (a aᵀ); JᵀSJ = Σ_n Σ_c (Jᵀ R e_c)(Jᵀ R e_c)ᵀ"


_MSE_NETS = rooted(mlp_instances(widths((0, 1), 2, 2, 2), samples=(2, 3), bound=2), softmax=False)
_DEEP = rooted(mlp_instances(widths((1, 1), 2, 1, 1), samples=(1, 2), bound=2), softmax=False)

EQ1_REPAIRED = Claim(
    id="spectral.kfac.eq1.repaired",
    title="KFAC blocks: exact with back-propagated columns of a root of the loss Hessian",
    source=_OURS,
    kind="theorem",
    statement=r"H_{GGN}^{(\ell)} = \sum_n \Big(\sum_c g_{nc} g_{nc}^\top\Big) \otimes (a_n a_n^\top),\quad "
    r"g_{nc} = (\partial f_n/\partial z_n)^\top R_n e_c,\quad R_n R_n^\top = \partial^2 \ell_n/\partial f_n^2, "
    r"\text{ for each layer } \ell",
    quantifier="for all",
    assumptions=(),
    instances=rooted(),
    check=check_block,
    expected=Verdict.HOLDS,
    proof="z_n is the only way from the weights of the layer to the loss, ∂z_i/∂W_ij = a_j, and JᵀSJ = (RᵀJ)ᵀ(RᵀJ) is the "
    "sum over samples and columns of the outer products of g ⊗ a. It is a statement about one layer: blocks between layers "
    "are not zero, and A ⊗ G, the product of the means, is another matrix as soon as inputs and signals vary together.",
    mutants=(
        Mutant("output-gradients", "g are the gradients of the outputs", _raw_output_gradients, rooted(None, True)),
        Mutant("loss-gradients", "g is the gradient of the loss (empirical Fisher)", _empirical_fisher),
        Mutant("product", "the block is exactly A ⊗ G", _product_is_exact, _MSE_NETS),
        Mutant("block-diagonal", "the Gauss–Newton matrix is block-diagonal", _block_diagonal, _DEEP),
    ),
    certificates=(
        Certificate("chain-rule", "the block of a layer, any size", Strength.SYMBOLIC, Scope.ALL, _prove_block),
    ),
    repairs="spectral.kfac.eq1",
)


# -- Eq. 1 as printed: raw gradients with cross-entropy --------------------------------------------------------------------

BITS = 128


def _softmax_balls(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Inputs a [N, J] of the last layer over Q, probabilities p [N, O] in balls."""
    ops = RATIONALS
    dag = instance.dag
    run = run_forward(ops, dag, ops.convert(instance.theta), ops.convert(instance.x))
    last = len(dag.blocks) - 1
    inputs = np.concatenate([run.h[tile.source] for tile in dag.tiles_into[last]], 1)
    e = np.frompyfunc(lambda v: v.exp(), 1, 1)(BALLS.convert(run.output))
    return inputs, e / e.sum(axis=1)[:, None]


def _last_layer(
    instance: Instance, claimed: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], text: str
) -> Evidence:
    """Σ_n S_n[c, d] a_j² against Σ_n T_n[c, d] a_j², T = ``claimed``(p, S, y), in the last layer: entries (c, j), (d, j)."""
    before, ctx.prec = ctx.prec, BITS
    try:
        a, p = _softmax_balls(instance)
        outputs = p.shape[1]
        S = np.where(np.eye(outputs, dtype=bool), p[:, :, None], arb(0)) - p[:, :, None] * p[:, None, :]
        T = claimed(p, S, instance.y)
        for c, d, j in product(range(outputs), range(outputs), range(a.shape[1])):
            weight = BALLS.convert(a[:, j] * a[:, j])
            ours, theirs = (weight * S[:, c, d]).sum(), (weight * T[:, c, d]).sum()
            if ours < theirs or ours > theirs:
                note = f"{text}: classes {c, d}, input {j}: {float(ours.mid()):.4g} in the block, {float(theirs.mid()):.4g}"
                return _compare(False, note, lambda: _last_layer_witness(instance, c, d, j, text, note))  # noqa: B023
    finally:
        ctx.prec = before
    return Evidence(Verdict.UNDECIDED, note="no entry is proved different")


def _last_layer_witness(instance: Instance, c: int, d: int, j: int, text: str, note: str) -> dict[str, Any]:
    """The Hessian entry of two weights of the last layer (f is linear in them) against the claimed sum over samples."""
    dag, samples = instance.dag, range(len(instance.x))
    units = [int(dag.outputs[k]) for k in (c, d)]
    sources = np.concatenate([dag.blocks[t.source].units for t in dag.tiles_into[len(dag.blocks) - 1]])
    source = int(sources[j])
    params = [int(dag.param[(dag.source == source) & (dag.target == unit)][0]) for unit in units]
    inputs = [quantity("value", unit=source, sample=n) for n in samples]
    if text == OUTPUT_GRADIENTS:
        terms = [times(a, a) for a in inputs] if c == d else ["0"]
    else:
        signals = [[quantity("adjoint", unit=unit, sample=n) for unit in units] for n in samples]
        terms = [times(a, a, *signal) for a, signal in zip(inputs, signals, strict=True)]
    scale = number(fmpq(1, len(instance.x)))
    differs = assertion(quantity("hessian", i=params[0], j=params[1]), "!=", times(scale, total(terms)))
    return witness(f"{note} claimed", {"net": network_document(instance)}, [differs])


OUTPUT_GRADIENTS, LOSS_GRADIENTS = "gradients of the outputs", "gradients of the loss"


def _identity(p: np.ndarray, S: np.ndarray, y: np.ndarray) -> np.ndarray:
    return BALLS.convert(np.broadcast_to(np.eye(p.shape[1]), S.shape).astype(int))


def _outer_residual(p: np.ndarray, S: np.ndarray, y: np.ndarray) -> np.ndarray:
    residual = p - BALLS.convert(np.eye(p.shape[1], dtype=int)[y])
    return residual[:, :, None] * residual[:, None, :]


def check_output_gradients(instance: Instance) -> Evidence:
    """The printed sum with g_nc = ∂f_nc/∂z, no root."""
    return _last_layer(instance, _identity, OUTPUT_GRADIENTS)


def _loss_gradients(instance: Instance) -> Evidence:
    return _last_layer(instance, _outer_residual, LOSS_GRADIENTS)


def _proportional(instance: Instance) -> Evidence:
    """Is the block at least a multiple of the printed sum? That sum has no coupling between classes."""
    return _last_layer(instance, lambda p, S, y: np.where(np.eye(S.shape[1], dtype=bool), S, arb(0)), OUTPUT_GRADIENTS)


_CLASSIFIERS = mlp_instances(
    st.builds(lambda shape, classes: [*shape[:-1], classes], widths((0, 1), 2, 2, 1), st.integers(2, 3)),
    samples=(1, 3),
    kind="cross_entropy",
    bound=1,
)

EQ1 = Claim(
    id="spectral.kfac.eq1",
    title="KFAC blocks from raw gradients (as printed)",
    source=_EQ1,
    kind="theorem",
    statement=r"H_{GGN}^{(\ell)} = \frac1N \sum_n (a_n a_n^\top) \otimes \Big(\sum_c g_{nc} g_{nc}^\top\Big) "
    r"\text{ with the raw gradients } g_{nc} = \partial f_{nc}/\partial z_n, \text{ for every loss}",
    quantifier="for all",
    assumptions=(),
    instances=_CLASSIFIERS,
    check=check_output_gradients,
    expected=Verdict.FAILS,
    proof="Raw output gradients put the identity in place of S = diag p − p pᵀ. In the last layer the entry of one weight is "
    "Σ p(1 − p) a² ≤ ¼ Σ a², against Σ a². Gradients of the loss put (p − y)(p − y)ᵀ there, of rank one, and equal to S for "
    "two classes at p = ½ only. For the squared loss S is the identity, and the printed form is right.",
    mutants=(
        Mutant("loss-gradients", "the same with the gradient of the loss, one g per sample", _loss_gradients),
        Mutant("proportional", "the block is a multiple of the printed sum (no coupling of classes)", _proportional),
    ),
)


# -- the error of Eq. 6 ----------------------------------------------------------------------------------------------------


def check_error(instance: Rooted) -> Evidence:
    """Is B − G ⊗ A = Σ_n (G_n − G/N) ⊗ (a_n a_nᵀ − A), B from the Gauss–Newton matrix? ``margin`` 0 where both vanish."""
    errors = [instance.block(layer) - layer.approximation for layer in instance.layers]
    same = all(_same(e, layer.covariance) for e, layer in zip(errors, instance.layers, strict=True))
    size = sum((abs(v) for e in errors for v in e.ravel()), fmpq(0))
    verdict = Verdict.HOLDS if same else Verdict.FAILS
    return Evidence(verdict, size, "covariance", size, f"sum of absolute errors {size}")


def _error_trace(instance: Rooted) -> Evidence:
    """Does the approximation keep the trace of every block?"""
    for layer in instance.layers:
        traces = np.trace(instance.block(layer)), np.trace(layer.approximation)
        if traces[0] != traces[1]:
            return _compare(False, f"trace {traces[0]} of the block, {traces[1]} of A ⊗ G")
    return _compare(True, "traces agree")


def _error_at_most_quarter(instance: Rooted) -> Evidence:
    """Is every entry of the error at most half of the largest entry of the block?"""
    for layer in instance.layers:
        block = instance.block(layer)
        error = max(abs(v) for v in (block - layer.approximation).ravel())
        if 2 * error > max(abs(v) for v in block.ravel()):
            return _compare(False, f"error {error}, largest entry of the block {max(abs(v) for v in block.ravel())}")
    return _compare(True, "errors are small")


def _prove_error() -> str:
    """Σ_n (g_n − G/N)(u_n − A) for any two entries g_n of G_n and u_n of a_n a_nᵀ, with Σ g = G, Σ u = N A."""
    g, u, N, G, A, S = sympy.symbols("g u N G A S", nonzero=True)  # S = Σ g u
    term = sympy.Poly(sympy.expand((g - G / N) * (u - A)), g, u)
    sums = {(1, 1): S, (1, 0): G, (0, 1): N * A, (0, 0): N}
    total_ = sum(c * sums[m] for m, c in term.terms())
    assert sympy.simplify(total_ - (S - G * A)) == 0
    return "entry by entry: Σ (g - G/N)(u - A) = Σ g u - G A for all N"


KFAC_ERROR = Claim(
    id="spectral.kfac.error",
    title="The error of the Kronecker approximation is a covariance",
    source=_OURS,
    kind="ours",
    statement=r"H_{GGN}^{(\ell)} - A \otimes G = \sum_n (a_n a_n^\top - A) \otimes (G_n - \tfrac1N G),\quad "
    r"A = \tfrac1N\sum_n a_n a_n^\top,\; G = \sum_n G_n",
    quantifier="for all",
    assumptions=(),
    instances=rooted(),
    check=check_error,
    expected=Verdict.HOLDS,
    proof="Expand the right side: the two mixed terms and the constant one add up to −A ⊗ G. So the approximation is exact "
    "if all inputs agree or all signals agree (one sample; linear networks with squared loss), and is wrong exactly by the "
    "covariance of inputs and signals, which nothing makes small: it may exceed half of the block.",
    attained=rooted(mlp_instances(widths((0, 1), 2, 2, 2), samples=(1, 1), bound=2), softmax=False),
    mutants=(
        Mutant("trace", "A ⊗ G has the trace of the block", _error_trace, _MSE_NETS),
        Mutant("small", "no entry of the error exceeds half of the largest entry of the block", _error_at_most_quarter),
    ),
    certificates=(Certificate("expand", "the identity, any sizes", Strength.SYMBOLIC, Scope.ALL, _prove_error),),
    depends_on=("spectral.kfac.eq1.repaired",),
)

CLAIMS = (EQ1, EQ1_REPAIRED, KFAC_ERROR)
