"""Spectral Collapse, measurement (4): with an absolute ε the ε-rank depends on the scale of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.exact import exact_hessian
from proofs_checks.claim import Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.krylov import beyond, gram_network, level, vectors
from proofs_checks.instances import assertion, network_document, quantity, witness


@dataclass(frozen=True, eq=False)
class Scaled:
    """Linear regression on integer rows R, and on t R: Hessians H and c H with c = t². A level ε > 0."""

    rows: np.ndarray
    factor: int
    eps: fmpq

    def __repr__(self) -> str:
        return f"Scaled({self.rows.tolist()}, t={self.factor}, eps={self.eps})"

    @property
    def c(self) -> fmpq:
        return fmpq(self.factor**2)

    def count(self, scaled: bool, at: fmpq) -> int:
        net = gram_network(self.rows * (self.factor if scaled else 1))
        return beyond(exact_hessian(net.dag, net.theta, net.x, net.y), at)

    def networks(self) -> dict[str, Any]:
        return {
            "net": network_document(gram_network(self.rows)),
            "scaled": network_document(gram_network(self.rows * self.factor)),
        }


def _check_scale(s: Scaled, at: fmpq, text: str) -> Evidence:
    """rank_ε(c H) against ranklevel(H)."""
    large, plain = s.count(True, s.eps), s.count(False, at)
    note = f"rank_ε(cH) = {large} at ε = {s.eps}, c = {s.c}; {plain} for H at {at}: {text}"
    if large == plain:
        return Evidence(Verdict.HOLDS, large, plain, None, note)

    def document() -> dict[str, Any]:
        left = quantity("epsilon_rank", "scaled", level=str(s.eps))
        return witness(note, s.networks(), [assertion(left, "!=", quantity("epsilon_rank", "net", level=str(at)))])

    return Evidence(Verdict.FAILS, large, plain, None, note, document)


def check_scale(s: Scaled) -> Evidence:
    """rank_ε(c H) = rank_{ε/c}(H)."""
    return _check_scale(s, s.eps / s.c, "ε/c")


def check_scale_free(s: Scaled) -> Evidence:
    """rank_ε(c H) = rank_ε(H)."""
    return _check_scale(s, s.eps, "the same ε")


def _root_scale(s: Scaled) -> Evidence:
    return _check_scale(s, s.eps / s.factor, "ε/√c")


def _product_scale(s: Scaled) -> Evidence:
    return _check_scale(s, s.eps * s.c, "c ε")


def _never_more(s: Scaled) -> Evidence:
    """Scaling up never changes the rank by more than one."""
    large, plain = s.count(True, s.eps), s.count(False, s.eps)
    if large <= plain + 1:
        return Evidence(Verdict.HOLDS)
    note = f"rank_ε(cH) = {large} > rank_ε(H) + 1 = {plain + 1} at ε = {s.eps}, c = {s.c}"

    def document() -> dict[str, Any]:
        left = quantity("epsilon_rank", "scaled", level=str(s.eps))
        right = {"sum": [quantity("epsilon_rank", "net", level=str(s.eps)), "1"]}
        return witness(note, s.networks(), [assertion(left, ">", right)])

    return Evidence(Verdict.FAILS, large, plain, None, note, document)


@st.composite
def _scaled(draw: DrawFn) -> Scaled:
    """Up to 4 × 4 integers; shrinks towards 1 × 1 and t = 1."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rows = np.stack([vectors(draw, shape[1], -3, 3) for _ in range(shape[0])])
    return Scaled(rows, draw(st.integers(1, 4)), level(draw))


_SCALED: SearchStrategy[Scaled] = _scaled()


def _prove_scale() -> str:
    """|cλ| > ε ⟺ |λ| > ε/c, because the two gaps differ by the factor c > 0."""
    c, eps = sympy.symbols("c epsilon", positive=True)
    value = sympy.symbols("lambda", real=True)
    assert sympy.simplify((sympy.Abs(c * value) - eps) - c * (sympy.Abs(value) - eps / c)) == 0
    t = sympy.symbols("t")
    H = sympy.Matrix(3, 3, sympy.symbols("h1:10"))
    eye = sympy.eye(3)
    assert (
        sympy.expand((t * eye - c * H).det() - sympy.expand(c**3 * (t / c * eye - H).det())) == 0
    )  # cH has cλ, as often
    return "(cH) v = c λ v for H v = λ v, and |cλ| - ε = c (|λ| - ε/c) has the sign of |λ| - ε/c"


SCALE = Claim(
    id="spectral.eps-scale",
    title="The ε-rank of cH is the ε/c-rank of H",
    source=Source("2509.22335", "v3", "ε-rank with an absolute ε", "ours"),
    kind="ours",
    statement=r"\#\{|\lambda_i(cH)| > \varepsilon\} = \#\{|\lambda_i(H)| > \varepsilon / c\},\quad c > 0",
    quantifier="for all",
    assumptions=(),
    instances=_SCALED,
    check=check_scale,
    expected=Verdict.HOLDS,
    proof="The eigenvalues of cH are cλ. With ε fixed, the ε-rank rises with the scale of the loss, of the data and of the "
    "logits: it is confounded with sharpness. Comparisons need ε in units of the problem, such as λ_max or 1/(ηK).",
    mutants=(
        Mutant("root", "ε/√c: scaled like the data", _root_scale),
        Mutant("product", "c ε: the wrong way round", _product_scale),
    ),
    certificates=(Certificate("signs", "eigenvalue by eigenvalue", Strength.SYMBOLIC, Scope.ALL, _prove_scale),),
)

SCALE_FREE = Claim(
    id="spectral.eps-scale-free",
    title="The ε-rank does not depend on the scale of the loss",
    source=Source("2509.22335", "v3", "ε-rank with an absolute ε", "reading as a rank, folklore"),
    kind="folklore",
    statement=r"\#\{|\lambda_i(cH)| > \varepsilon\} = \#\{|\lambda_i(H)| > \varepsilon\},\quad c > 0",
    quantifier="for all",
    assumptions=(),
    instances=_SCALED,
    check=check_scale_free,
    expected=Verdict.FAILS,
    proof="True for the rank, false for the ε-rank: regression on the inputs x and on t x has the Hessians H and t² H.",
    mutants=(
        Mutant("one-more", "scaling up by any factor adds at most one", _never_more),
        Mutant("root", "equal at ε/√c", _root_scale),
    ),
)

CLAIMS = (SCALE, SCALE_FREE)
