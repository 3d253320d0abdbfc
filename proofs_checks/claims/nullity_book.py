"""Beyond the papers: the exact nullity book-keeping. Which directions are null, and when there are no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import flint
import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.alike import Group, groups
from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array
from lop_theory.bounds import softmax_shift_dimension
from lop_theory.cloned import clone, redistribute
from lop_theory.exact import exact_hessian
from lop_theory.gates import gate_pattern
from lop_theory.modular import UnusablePrimeError, balanced, exact_forward, modular_hessian, primes_for
from lop_theory.nullity import NullityBook, null_directions, nullity_book, redistributions, residue_directions
from lop_theory.partition import column_equitable, row_equitable
from proofs_checks.claim import (
    Assumption,
    Certificate,
    Claim,
    Evidence,
    Mutant,
    Scope,
    Source,
    Strength,
    Verdict,
    require,
)
from proofs_checks.claims.spectral_rank import compare
from proofs_checks.instances import (
    Instance,
    assertion,
    hessian_rank,
    network_document,
    number,
    quantity,
    witness,
)
from proofs_checks.strategies import (
    dag_instances,
    integers_array,
    mlp_instances,
    odd_biases,
    widths,
    with_dead_units,
)

SOURCE = Source("2509.22335", "v1", "Thm 6.2 and Barriers §2", "book-keeping of ours")


# -- each direction is null ------------------------------------------------------------------------------------------------


def check_directions(instance: Instance) -> Evidence:
    """H B = 0: over Q for squared losses, modulo a prime for cross-entropy."""
    arguments = (instance.dag, instance.theta, instance.x, instance.y, instance.kind)
    if instance.kind == "cross_entropy":
        return _null_modulo_a_prime(instance)
    columns = [(name, column) for name, basis in null_directions(*arguments).items() for column in _columns(basis)]
    return _all_null(instance, columns)


def _columns(basis: flint.fmpq_mat) -> Iterable[np.ndarray]:
    for j in range(basis.ncols()):
        yield np.array([basis[i, j] for i in range(basis.nrows())], dtype=object)


def _all_null(instance: Instance, columns: Sequence[tuple[str, np.ndarray]]) -> Evidence:
    """Does the exact Hessian annihilate every one of these vectors?"""
    if columns:
        hessian = exact_hessian(instance.dag, instance.theta, instance.x, instance.y, instance.kind)
        flat = [entry for _, column in columns for entry in column]
        product = flint.fmpq_mat(len(columns), instance.dag.num_params, flat) * hessian
        for k, (name, column) in enumerate(columns):
            for p in range(instance.dag.num_params):
                if product[k, p] != 0:
                    return _not_null(instance, name, column, p, product[k, p])
    note = f"{len(columns)} directions, all null"
    return Evidence(Verdict.HOLDS, len(columns), len(columns), 0, note, vacuous=not columns)


def _not_null(instance: Instance, name: str, column: np.ndarray, p: int, value: Any) -> Evidence:
    note = f"{name}: H u has the entry {value} at parameter {p}"

    def document() -> dict[str, Any]:
        row = ["1" if q == p else "0" for q in range(instance.dag.num_params)]
        entry = quantity("bilinear_form", u=row, v=[number(a) for a in column])
        return witness(note, {"net": network_document(instance)}, [assertion(entry, "!=", 0)])

    return Evidence(Verdict.FAILS, value, 0, None, note, document)


def _null_modulo_a_prime(instance: Instance) -> Evidence:
    """H B = 0 over the residues: the image of the statement under the homomorphism of modular.py."""
    dag, theta, x, y, kind = instance.dag, instance.theta, instance.x, instance.y, instance.kind
    run = exact_forward(dag, theta, x)
    for prime in primes_for(dag, len(x)):
        try:
            basis = residue_directions(dag, theta, x, y, kind, prime).astype(np.float64)
            hessian = modular_hessian(dag, run, y, kind, prime)
        except UnusablePrimeError:
            continue
        product = balanced(prime).reduce(balanced(prime).reduce(basis) @ hessian)
        verdict = Verdict.FAILS if product.any() else Verdict.HOLDS
        note = f"{len(basis)} directions modulo {prime}"
        return Evidence(verdict, len(basis), len(basis), 0, note, vacuous=not len(basis))
    return Evidence(Verdict.UNDECIDED, note="no usable prime")


def _symmetries(vectors: Callable[[Instance], list[tuple[str, np.ndarray]]]) -> Callable[[Instance], Evidence]:
    return lambda instance: _all_null(instance, vectors(instance))


def found_groups(instance: Instance) -> dict[str, list[Group]]:
    """Groups of units that act alike, by mechanism."""
    return groups(instance.dag, instance.theta, gate_pattern(instance.dag, instance.theta, instance.x))


def _rescalings(instance: Instance) -> list[tuple[str, np.ndarray]]:
    """(w, −V) of every unit that is heard: the symmetry, which is null at critical points only."""
    theta = rational_array(instance.theta)
    out = []
    for group in found_groups(instance)["single units"]:
        vector = theta * 0
        vector[group.incoming], vector[group.outgoing] = theta[group.incoming], -theta[group.outgoing]
        out.append(("rescaling", vector))
    return out


def _all_splits(instance: Instance) -> list[tuple[str, np.ndarray]]:
    """Outgoing weights of two clones moved against one another, for every target."""
    out = []
    for group in found_groups(instance)["clones"]:
        for first, second in group.outgoing[:, :2]:
            vector = rational_array(np.zeros(instance.dag.num_params))
            vector[first], vector[second] = vector[first] + 1, vector[second] - 1
            out.append(("split", vector))
    return out


def _shifts_for_squares(instance: Instance) -> list[tuple[str, np.ndarray]]:
    """All outputs moved alike, under a squared loss."""
    if not softmax_shift_dimension(instance.dag):
        return []
    vector = rational_array(np.zeros(instance.dag.num_params))
    into = (instance.dag.source == instance.dag.constant) & np.isin(instance.dag.target, instance.dag.outputs)
    vector[instance.dag.param[into]] += 1
    return [("shift", vector)]


@st.composite
def cloned_networks(draw: DrawFn, kinds: Sequence[str] = ("mse_sum", "cross_entropy")) -> Instance:
    """A net or random DAG, often with dead units, often with one hidden unit twice; few or many samples."""
    activation = draw(st.sampled_from(["relu", "abs", "square"]))
    kind = draw(st.sampled_from(list(kinds)))
    if draw(st.booleans()):
        instance = draw(mlp_instances(widths((1, 2), 3, max_inputs=2), activation, kind=kind))
    else:
        instance = draw(dag_instances(activation, max_hidden=3, kind="mse_sum"))
        if kind == "cross_entropy":
            labels = (instance.y[:, 0].astype(np.int64)) % instance.dag.num_outputs
            instance = replace(instance, y=labels, kind=kind)
    if activation == "relu" and draw(st.booleans()):
        instance = draw(with_dead_units(st.just(instance)))
    if draw(st.booleans()):
        unit = int(instance.dag.hidden[draw(st.integers(0, 7)) % len(instance.dag.hidden)])
        dag, theta, _ = clone(
            instance.dag, instance.theta, {unit: 2}
        )  # halves of even weights: parity may go, kinks not
        instance = replace(instance, dag=dag, theta=theta)
    return instance


def prove_directions() -> str:
    """Along u = (a, b) the terms of second order of tr Aᵀ V W are A bᵀ and Aᵀ a, for any numbers of units, sources, targets."""
    targets, k, sources = sympy.symbols("O k J", integer=True, positive=True)
    outer = {name: sympy.MatrixSymbol(name, targets, k) for name in ("V", "a", "a'")}
    inner = {name: sympy.MatrixSymbol(name, k, sources) for name in ("W", "b", "b'")}
    A = sympy.MatrixSymbol("A", targets, sources)
    s, t = sympy.symbols("s t")
    product = (outer["V"] + s * outer["a"] + t * outer["a'"]) * (inner["W"] + s * inner["b"] + t * inner["b'"])
    slope = product.diff(s).subs({s: 0, t: 0}).doit()
    require(slope == outer["a"] * inner["W"] + outer["V"] * inner["b"], "the first derivative of V W")
    mixed = product.diff(s, t).subs({s: 0, t: 0}).doit()
    first, second = outer["a"] * inner["b'"], outer["a'"] * inner["b"]
    require((mixed - first - second).doit() == sympy.ZeroMatrix(targets, sources), "the second derivative of V W")
    along_b = sympy.Trace(A.T * first).diff(inner["b'"])
    along_a = sympy.Trace(A.T * second).diff(outer["a'"])
    require(along_b == outer["a"].T * A and along_a == A * inner["b"].T, "the components of the residual part")
    return (
        "D²L[u, u'] = D²ℓ[a W + V b, DΨ u'] + tr Aᵀ(a b' + a' b), whose components along b' and a' are aᵀA and A bᵀ: all three "
        "are 0 for a direction of the book, whatever the rest of the network, the data and the loss"
    )


DIRECTIONS = Claim(
    id="beyond.nullity-book.directions",
    title="Every direction of the nullity book is null",
    source=SOURCE,
    kind="ours",
    statement=r"Units with the same sources, targets and gates send $M = VW$ onward. With $A = \partial L/\partial M$, (a, b) "
    r"along (V, W) is null for ∇²L, at every point and for every loss, if $aW + Vb = 0$, $A^T a = 0$, $A b^T = 0$ (clones, "
    r"single and alike units); so are closed, silent and dependent parameters and the softmax shift.",
    quantifier="for all",
    assumptions=(),
    instances=cloned_networks(),
    check=check_directions,
    expected=Verdict.HOLDS,
    proof="L is a function ℓ of (M, rest) and M is quadratic in (V, W): the first term of ∇²L along (a, b) carries aW + Vb, the "
    "second A bᵀ and Aᵀ a. A symmetry of the loss as such is null at critical points only: H ξ = −(Dξ)ᵀ∇L.",
    mutants=(
        Mutant(
            "rescaling", "(w, −V) of every live unit is null", _symmetries(_rescalings), cloned_networks(("mse_sum",))
        ),
        Mutant(
            "split",
            "all moves of outgoing weights between two clones are null",
            _symmetries(_all_splits),
            cloned_networks(("mse_sum",)),
        ),
        Mutant(
            "shift",
            "the shift of all outputs is null for squared loss",
            _symmetries(_shifts_for_squares),
            cloned_networks(("mse_sum",)),
        ),
    ),
    certificates=(
        Certificate(
            "second-order",
            "both terms of the Hessian along a direction of the book",
            Strength.SYMBOLIC,
            Scope.CLASS,
            prove_directions,
        ),
    ),
    depends_on=("spectral.gate-bound",),
    cost=2.0,
)


# -- redistribution ----------------------------------------------------------------------------------------------------------


def check_redistribution(instance: Instance) -> Evidence:
    """H Z = 0 for a basis of the redistributions, for a network on the manifold of clones."""
    partition = instance.extra["partition"]
    try:
        rows = redistributions(instance.dag, instance.theta, partition)
    except ValueError:  # not on the manifold: the directions are those of the partition all the same
        rows = redistributions(instance.dag, rational_array(np.zeros(instance.dag.num_params)), partition)
    return _all_null(instance, [("redistribution", row) for row in rows])


def _half_sums(side: str) -> Callable[[Instance], Evidence]:
    """Only the sums over one side of a pair vanish: differences of two weights that share a source or a target."""

    def check(instance: Instance) -> Evidence:
        dag, out = instance.dag, []
        for block in instance.extra["partition"].blocks:
            ends, others = (dag.source, dag.target) if side == "source" else (dag.target, dag.source)
            for end in np.unique(others[np.isin(ends, block)]):
                edges = np.flatnonzero(np.isin(ends, block) & (others == end))
                if len(edges) > 1 and end not in (dag.constant,):
                    vector = rational_array(np.zeros(dag.num_params))
                    vector[dag.param[edges[0]]], vector[dag.param[edges[1]]] = flint.fmpq(1), flint.fmpq(-1)
                    out.append(("half", vector))
        return _all_null(instance, out)

    return check


@st.composite
def redistributed(draw: DrawFn, equitable: bool = True) -> Instance:
    """A net of two hidden layers, every unit twice or three times, moved by zero row and column sums (or by anything)."""
    dims = [draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    base = mlp(dims, draw(st.sampled_from(["relu", "square", "abs"])))
    copies = draw(st.integers(2, 3))
    theta = 2 * copies * odd_biases(base, integers_array(draw, (base.num_params,), 2))
    dag, wide, partition = clone(base, [int(v) for v in theta], copies)
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    wide = redistribute(dag, wide, partition, generator, bound=2)
    if not equitable:
        inner = np.isin(dag.source, dag.hidden) & np.isin(dag.target, dag.hidden)
        wide = wide + rational_array(generator.integers(-1, 2, dag.num_params) * 2 * inner[np.argsort(dag.param)])
    n = draw(st.integers(1, 4))
    x, y = integers_array(draw, (n, dims[0]), 3), integers_array(draw, (n, dims[-1]), 5)
    return Instance(dag, np.asarray(wide, dtype=object), x, y, extra={"partition": partition})


def _is_equitable(instance: Instance) -> bool:
    arguments = instance.dag, instance.theta, instance.extra["partition"]
    return row_equitable(*arguments) and column_equitable(*arguments)


def prove_redistribution() -> str:
    """Along any path, the derivative of δᵀ Z h where h and δ are constant in a class and Z has zero row and column sums."""
    m, n = sympy.symbols("m n", integer=True, positive=True)
    alpha, beta, t = sympy.symbols("alpha beta t")
    Z = sympy.MatrixSymbol("Z", m, n)
    left, right = sympy.OneMatrix(m, 1), sympy.OneMatrix(n, 1)
    change_of_delta, change_of_h = sympy.MatrixSymbol("D", m, 1), sympy.MatrixSymbol("E", n, 1)
    slope = ((beta * left + t * change_of_delta).T * Z * (alpha * right + t * change_of_h)).diff(t).subs(t, 0).doit()
    expected = alpha * change_of_delta.T * Z * right + beta * left.T * Z * change_of_h
    require((slope - expected).expand().doit() == sympy.ZeroMatrix(1, 1), "the product rule")
    return (
        "d(δᵀ Z h) = α dδᵀ (Z 1) + β (1ᵀ Z) dh = 0 for every pair of classes of any sizes, sample, activation and loss; "
        "∂_Z L is a sum of such terms, so its gradient H Z is 0"
    )


REDISTRIBUTION = Claim(
    id="beyond.nullity-book.redistribution",
    title="Redistributions of weights between clones are null directions",
    source=Source("2510.00304", "v2", "Remark 2.3", "Hessian statement ours"),
    kind="ours",
    statement=r"on $RE \cap CE$, for every activation and loss: $\nabla^2 L\, Z = 0$ if Z has zero row and column sums in "
    r"every pair of classes",
    quantifier="for all",
    assumptions=(Assumption("equitable", "the weights are row and column equitable", _is_equitable),),
    instances=redistributed(),
    check=check_redistribution,
    expected=Verdict.HOLDS,
    proof="∂_Z L = Σ_n Σ_v δ_v Σ_u Z_vu h_u. Its derivative is Σ dδ_v (Σ_u Z_vu h_u) + Σ_u (Σ_v δ_v Z_vu) dh_u; both brackets "
    "are 0, as h is equal in a class and δ is.",
    without={"equitable": redistributed(equitable=False)},
    mutants=(
        Mutant(
            "row-sums", "it is enough that a weight is moved between two sources of one class", _half_sums("source")
        ),
        Mutant("column-sums", "it is enough that a weight is moved between two targets", _half_sums("target")),
    ),
    certificates=(
        Certificate(
            "product-rule",
            "the derivative of δᵀ Z h along any path",
            Strength.SYMBOLIC,
            Scope.CLASS,
            prove_redistribution,
        ),
    ),
    depends_on=("barriers.thm2.1.cloned.repaired",),
    cost=3.0,
)


# -- the book as a bound -----------------------------------------------------------------------------------------------------


def book(instance: Instance) -> NullityBook:
    """The nullity book of an instance."""
    return nullity_book(instance.dag, instance.theta, instance.x, instance.y, instance.kind)


def with_repeats(instance: Instance, own: NullityBook) -> int:
    """Add up what every mechanism has on its own, overlaps included."""
    bases = null_directions(instance.dag, instance.theta, instance.x, instance.y, instance.kind)
    return own.num_params - sum(basis.ncols() for basis in bases.values())


def _bound(shift: int) -> Callable[[Instance], Evidence]:
    return lambda instance: compare(
        hessian_rank(instance), book(instance).predicted_rank + shift, "nullity book", instance
    )


def _bound_with_repeats(instance: Instance) -> Evidence:
    return compare(hessian_rank(instance), with_repeats(instance, book(instance)), "sum over all causes", instance)


BOUND = Claim(
    id="beyond.nullity-book.bound",
    title="The nullity book bounds the Hessian rank of every network",
    source=SOURCE,
    kind="ours",
    statement=r"for every DAG, loss and data off the kinks: $rank ∇^2 L ≤ P − total$ of the nullity book",
    quantifier="for all",
    assumptions=(),
    instances=cloned_networks(),
    check=_bound(0),
    expected=Verdict.HOLDS,
    proof="The directions of the book are null (beyond.nullity-book.directions), and total is the dimension of their span.",
    mutants=(
        Mutant("less", "P − total − 1", _bound(-1), cloned_networks(("mse_sum",))),
        Mutant(
            "repeats",
            "directions with several causes count several times",
            _bound_with_repeats,
            cloned_networks(("mse_sum",)),
        ),
    ),
    certificates=DIRECTIONS.certificates,
    depends_on=("beyond.nullity-book.directions",),
    cost=2.0,
)

CLAIMS: Sequence[Claim] = (DIRECTIONS, REDISTRIBUTION, BOUND)
