r"""Proofs for the coverage table of modular cloning: formulas of modules, run on tensors and on *classes* of tensors.

A tensor has named axes ("btf": sample, token, feature). Some axes are *copied*: the wide tensor is T'[i] = c · T[π(i)] along
them, each narrow index having k copies. :class:`Copies` holds the axes and the factor c of all such tensors. A formula of a
module, run on classes instead of numbers, gives the factor of its output:

* elementwise maps, softmax and maxima act entry by entry along copied axes, so they give copies, if all factors are 1;
* a sum over a copied axis has every term k times: the factor is multiplied by k;
* a mean over it has k n terms in place of n: the factor stays, if k is the same for all features.

Factor 1 at the end says that the wide module computes copies of what the narrow one computes. With ``values=False`` factors are
not tracked and k may differ: what is shown then is that features of one block stay equal. The formulas are symmetric in
every axis, so they commute with permutations of copies; :func:`prove_adjoints` gives MC2 and MC3 from this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import sympy
import torch

from proofs_checks.claim import Certificate, Scope, Strength


class Tensors(Protocol):
    """What formulas use. ``ein`` sums products over axes; ``apply`` acts entry by entry, missing axes being repeated."""

    def ein(self, spec: str, a: Any, b: Any) -> Any: ...
    def mean(self, x: Any, axes: str) -> Any: ...
    def apply(self, f: Callable[..., torch.Tensor], *xs: Any) -> Any: ...
    def largest(self, x: Any, axis: str) -> Any: ...
    def softmax(self, x: Any, axis: str) -> Any: ...
    def times(self, x: Any, number: Any) -> Any: ...


# -- the formulas ------------------------------------------------------------------------------------------------------


def elementwise(t: Tensors, x: Any, y: Any) -> Any:
    """ReLU of a residual sum, then average and largest value over the positions p of each feature."""
    h = t.apply(lambda a, b: (a + b).relu(), x, y)
    return t.apply(lambda a, b: a + b, t.mean(h, "p"), t.largest(h, "p"))


def normalise(t: Tensors, x: Any, over: str, gamma: Any, beta: Any) -> Any:
    """γ (x − mean)/√(var + ε) + β with biased variance over the axes ``over``: BatchNorm "bp", LayerNorm "f", GroupNorm "fp"."""
    mean = t.mean(x, over)
    variance = t.mean(t.apply(lambda a, m: (a - m) ** 2, x, mean), over)
    return t.apply(lambda a, m, v, g, b: g * (a - m) / (v + 1e-5).sqrt() + b, x, mean, variance, gamma, beta)


def running(t: Tensors, x: Any, mean: Any, variance: Any, gamma: Any, beta: Any) -> Any:
    """BatchNorm in evaluation mode."""
    return t.apply(lambda a, m, v, g, b: g * (a - m) / (v + 1e-5).sqrt() + b, x, mean, variance, gamma, beta)


def attention(t: Tensors, x: Any, w: Mapping[str, Any], scale: Any, mask: Any) -> Any:
    """Σ_h softmax(q kᵀ · scale) v W_o, with a dropout mask on the maps; w["q"], w["k"], w["v"] [f h d], w["o"] [h d o]."""
    q, v = (t.ein("btf,fhd->bthd", x, w[name]) for name in "qv")
    k, v = t.ein("bsf,fhd->bshd", _renamed(x, "t", "s"), w["k"]), _renamed(v, "t", "s")
    maps = t.softmax(t.times(t.ein("bthd,bshd->bhts", q, k), scale), "s")
    maps = t.apply(lambda a, m: a * m, maps, mask)
    inner = t.ein("bhts,bshd->bthd", maps, v)
    return t.ein("bthd,hdo->bto", inner, w["o"])


def embedding(t: Tensors, index: Any, table: Any, positions: Any) -> Any:
    """One-hot words [b t v] times the table [v f], plus positions [t f]."""
    return t.apply(lambda a, p: a + p, t.ein("btv,vf->btf", index, table), positions)


def dropout(t: Tensors, x: Any, mask: Any) -> Any:
    """x times a mask of the features."""
    return t.apply(lambda a, m: a * m, x, mask)


# -- numbers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """A torch tensor with named axes."""

    value: torch.Tensor
    axes: str


def _renamed(x: Any, old: str, new: str) -> Any:
    """The same tensor with another name for an axis (tokens that are looked at: s)."""
    return type(x)(**{**vars(x), "axes": x.axes.replace(old, new)})


class RealTensors:
    """The operations on numbers."""

    def _aligned(self, x: Named, axes: str) -> torch.Tensor:
        there = [a for a in axes if a in x.axes]
        value = x.value.permute([x.axes.index(a) for a in there])
        return value.reshape([value.shape[there.index(a)] if a in there else 1 for a in axes])

    def ein(self, spec: str, a: Named, b: Named) -> Named:
        return Named(torch.einsum(spec, a.value, b.value), spec.split("->")[1])

    def mean(self, x: Named, axes: str) -> Named:
        rest = "".join(a for a in x.axes if a not in axes)
        return Named(x.value.mean([x.axes.index(a) for a in axes]), rest)

    def apply(self, f: Callable[..., torch.Tensor], *xs: Named) -> Named:
        axes = "".join(dict.fromkeys("".join(x.axes for x in xs)))
        return Named(f(*(self._aligned(x, axes) for x in xs)), axes)

    def largest(self, x: Named, axis: str) -> Named:
        return Named(x.value.amax(x.axes.index(axis)), x.axes.replace(axis, ""))

    def softmax(self, x: Named, axis: str) -> Named:
        return Named(x.value.softmax(x.axes.index(axis)), x.axes)

    def times(self, x: Named, number: float) -> Named:
        return Named(x.value * number, x.axes)


# -- classes -----------------------------------------------------------------------------------------------------------


ONE = sympy.Integer(1)


@dataclass(frozen=True)
class Copies:
    """All tensors with these axes that are ``factor`` times copies along the copied ones."""

    axes: str
    factor: Any = ONE


@dataclass(frozen=True)
class CopiedTensors:
    """The operations on classes; ``copied`` names the copied axes with their number of copies.

    >>> k = sympy.Symbol("k", positive=True)
    >>> CopiedTensors({"f": k}).ein("bf,fo->bo", Copies("bf"), Copies("fo", 1 / k))
    Copies(axes='bo', factor=1)
    >>> CopiedTensors({"f": k}).ein("bf,fo->bo", Copies("bf"), Copies("fo"))
    Copies(axes='bo', factor=k)
    """

    copied: Mapping[str, Any]
    values: bool = True

    def _plain(self, *xs: Copies) -> None:
        for x in xs:
            if self.values and sympy.simplify(x.factor - 1) != 0:
                raise AssertionError(f"a non-linear map of {x.factor} times a copy is not a copy")

    def ein(self, spec: str, a: Copies, b: Copies) -> Copies:
        inputs, out = spec.split("->")
        if inputs != f"{a.axes},{b.axes}":
            raise TypeError(f"{spec} of tensors with axes {a.axes} and {b.axes}")
        summed = dict.fromkeys(axis for axis in inputs.replace(",", "") if axis not in out)
        factor = a.factor * b.factor * sympy.prod([self.copied.get(axis, 1) for axis in summed])
        return Copies(out, sympy.simplify(factor))

    def mean(self, x: Copies, axes: str) -> Copies:
        return Copies("".join(a for a in x.axes if a not in axes), x.factor)

    def apply(self, f: Callable[..., torch.Tensor], *xs: Copies) -> Copies:
        self._plain(*xs)
        return Copies("".join(dict.fromkeys("".join(x.axes for x in xs))))

    def largest(self, x: Copies, axis: str) -> Copies:
        if axis in self.copied:
            raise TypeError(f"axis {axis} is copied")
        return Copies(x.axes.replace(axis, ""), x.factor)

    def softmax(self, x: Copies, axis: str) -> Copies:
        if axis in self.copied:
            raise TypeError(f"axis {axis} is copied")
        self._plain(x)
        return Copies(x.axes)

    def times(self, x: Copies, number: Any) -> Copies:
        return Copies(x.axes, sympy.simplify(x.factor * number))


# -- proofs ------------------------------------------------------------------------------------------------------------

K, K_IN, K_OUT = sympy.symbols("k k_in k_out", positive=True)


def _expect(found: Copies, axes: str, what: str) -> None:
    if sorted(found.axes) != sorted(axes) or sympy.simplify(found.factor - 1) != 0:
        raise AssertionError(f"the proof breaks: {what} gives {found}, not copies with axes {axes}")


def prove_adjoints() -> str:
    """f(U x) = V f(x), U x = x, V δ = δ ⟹ U (Jᵀδ) = Jᵀδ; and a loss with L(U θ) = L(θ) has U ∇L = ∇L at U θ = θ."""
    m, n = sympy.symbols("m n", integer=True, positive=True)
    j, u, v = sympy.MatrixSymbol("J", m, n), sympy.MatrixSymbol("U", n, n), sympy.MatrixSymbol("V", m, m)
    delta = sympy.MatrixSymbol("delta", m, 1)
    pulled = (
        sympy.Transpose(j * u).subs(j * u, v * j).doit() * delta
    )  # Uᵀ(Jᵀδ); U runs over a group, so Uᵀ is as good as U
    after = pulled.subs(v.T * delta, delta).doit()
    if after != j.T * delta:
        raise AssertionError(f"the proof breaks: {after} is not Jᵀδ")
    return (
        "f commutes with permutations of copies; at a fixed point J U = V J, so Jᵀδ is equal on copies if δ is (MC2), and so is "
        "the gradient of parameters that are equal on copies (MC3); fixed points compose, and J₂ J₁ U = J₂ V J₁ = W J₂ J₁"
    )


def prove_elementwise() -> str:
    """Residual sum, activation and pooling along copied features."""
    wide = CopiedTensors({"f": K})
    _expect(elementwise(wide, Copies("bfp"), Copies("bfp")), "bf", "elementwise maps")
    return f"activations, sums and pooling give copies with factor 1, for any numbers of copies. {prove_adjoints()}"


def prove_batchnorm() -> str:
    """Statistics over samples and positions, and running ones."""
    wide = CopiedTensors({"f": K})
    gamma = Copies("f")
    _expect(normalise(wide, Copies("bfp"), "bp", gamma, gamma), "bfp", "BatchNorm")
    _expect(running(wide, Copies("bfp"), gamma, gamma, gamma, gamma), "bfp", "BatchNorm in evaluation mode")
    return f"BatchNorm in both modes gives copies with factor 1; no sum runs over features, so any numbers. {prove_adjoints()}"


def prove_layernorm_clones() -> str:
    """Statistics over features with any numbers of copies: equality in blocks only."""
    wide = CopiedTensors({"f": K}, values=False)
    _expect(normalise(wide, Copies("bf"), "f", Copies("f"), Copies("f")), "bf", "LayerNorm")
    return (
        "mean and variance over features are one number for a sample, whatever the numbers of copies, and the rest of LayerNorm "
        f"acts entry by entry: equal features stay equal. {prove_adjoints()}"
    )


def prove_groupnorm() -> str:
    """Statistics over the members of groups, copied along members, along groups, or both."""
    for copied in ({"f": K}, {"g": K_OUT}, {"f": K, "g": K_OUT}):
        wide = CopiedTensors(copied)
        _expect(normalise(wide, Copies("bgfp"), "fp", Copies("gf"), Copies("gf")), "bgfp", "GroupNorm")
    return (
        "with channels (group g, member f) copied along members, along groups or both, the mean over members has k n terms in "
        f"place of n, each k times: copies with factor 1. {prove_adjoints()}"
    )


def _attention(wide: CopiedTensors, per_head: Any, scale: Any, narrow: Any, mask: Copies) -> Copies:
    w = {"q": per_head, "k": per_head, "v": Copies("fhd", 1 / K_IN), "o": narrow}
    return attention(wide, Copies("btf"), w, scale, mask)


def prove_heads() -> str:
    """Heads copied, W_o divided, all layers around them tiled."""
    wide = CopiedTensors({"f": K_IN, "h": K, "o": K_OUT})
    projection = Copies("fhd", 1 / K_IN)  # divided by the copies of its source: a tiled linear layer
    _expect(_attention(wide, projection, 1, Copies("hdo", 1 / K), Copies("bhts")), "bto", "attention")
    return (
        "q, k, v have factor k_in · 1/k_in = 1, logits sum over head_dim only, maps and masks are copies along heads, and the sum "
        f"over k copies of a head meets W_o/k: factor 1, for any numbers of copies. {prove_adjoints()}"
    )


def prove_head_dim_clones() -> str:
    """Coordinates of heads copied: equality in blocks, and the factor √k of the logits."""
    wide = CopiedTensors({"f": K_IN, "d": K, "o": K_OUT}, values=False)
    found = _attention(wide, Copies("fhd"), 1, Copies("hdo"), Copies("bhts"))
    if sorted(found.axes) != sorted("bto"):
        raise AssertionError(f"the proof breaks: attention gives {found}")
    exact = CopiedTensors({"f": K_IN, "d": K, "o": K_OUT})
    try:
        _attention(exact, Copies("fhd", 1 / K_IN), 1 / sympy.sqrt(K), Copies("hdo", 1 / K), Copies("bhts"))
    except AssertionError as error:
        seen = str(error)
    else:
        raise AssertionError("the proof breaks: the logits should not be those of the base")
    root = Copies("fhd", K ** sympy.Rational(-1, 4) / K_IN)
    _expect(_attention(exact, root, 1 / sympy.sqrt(K), Copies("hdo", 1 / K), Copies("bhts")), "bto", "with k^(-1/4)")
    return (
        f"equal in blocks whatever the factors; as to values: {seen} (the logits), and factor 1 with k^(-1/4) on q and k. "
        f"{prove_adjoints()}"
    )


def prove_embedding() -> str:
    """Copied columns of table and positions."""
    wide = CopiedTensors({"f": K})
    _expect(embedding(wide, Copies("btv"), Copies("vf"), Copies("tf")), "btf", "embedding")
    return f"the sum runs over words, which are not copied: factor 1 for copied columns. {prove_adjoints()}"


def prove_dropout() -> str:
    """A mask that is equal in blocks."""
    wide = CopiedTensors({"f": K})
    _expect(dropout(wide, Copies("bf"), Copies("bf")), "bf", "dropout")
    return f"a mask that is a copy along features gives copies with factor 1. {prove_adjoints()}"


def prove_composition() -> str:
    """Every module takes copies with factor 1 to such; so does a chain of them."""
    wide = CopiedTensors({"f": K, "o": K_OUT})
    h = normalise(wide, elementwise(wide, Copies("btfp"), Copies("btfp")), "f", Copies("f"), Copies("f"))
    h = dropout(wide, wide.ein("btf,fo->bto", h, Copies("fo", 1 / K)), Copies("bo"))
    _expect(h, "bto", "a chain of modules")
    return f"what one module gives in copies the next takes in copies, as their profiles match. {prove_adjoints()}"


def prove_r2() -> str:
    """1 − Σ (h_u − mean of its block)²/Σ (h_u − mean)² with h_u equal in its block."""
    n, u = sympy.symbols("n u", integer=True, positive=True)
    h, spread = sympy.IndexedBase("h"), sympy.Symbol("T", positive=True)
    inside = sympy.Sum((h[u] - h[u]) ** 2, (u, 1, n)).doit()
    if sympy.simplify(1 - inside / spread) != 1:
        raise AssertionError("the proof breaks: R² of equal copies is not 1")
    return (
        "every deviation from the block mean is 0, so R² = 1 − 0/T = 1 for any T > 0, and so is any mean of such values"
    )


def _proof(name: str, prove: Callable[[], str]) -> Certificate:
    return Certificate(name, "its formula on classes of tensors, any sizes", Strength.SYMBOLIC, Scope.CLASS, prove)


ELEMENTWISE = _proof("elementwise maps", prove_elementwise)
BATCHNORM = _proof("batch statistics", prove_batchnorm)
LAYERNORM_CLONES = _proof("layer statistics", prove_layernorm_clones)
GROUPNORM = _proof("group statistics", prove_groupnorm)
HEADS = _proof("copied heads", prove_heads)
HEAD_DIM_CLONES = _proof("expanded heads", prove_head_dim_clones)
EMBEDDING = _proof("embedding", prove_embedding)
DROPOUT = _proof("tied masks", prove_dropout)
COMPOSITION = _proof("composition", prove_composition)
R2 = _proof("perfect clone", prove_r2)
