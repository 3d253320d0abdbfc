"""Spectral Collapse, the limits of the dead-unit bound (2): normalisation between the weights and the ReLU.

One hidden layer, z = W x + b, n = normalise(z), h = relu(γ n + β), f = V h + c.

* LayerNorm: a dead unit still enters the mean and the variance of its layer, so its incoming weights matter. The bound
  fails from two dead units on.
* BatchNorm in training mode: each unit is normalised by its own statistics, so a dead unit touches nothing. It holds.

A normalised Hessian is not rational: the rank is numerical with its gap (undecided without one, strength S2), and every
refutation is confirmed by the independent checker in balls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.rank import numerical_rank
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.normalised_net import NormalisedNet
from proofs_checks.claims.rank_proofs import BATCH_STATISTICS
from proofs_checks.instances import assertion, quantity, witness
from proofs_checks.strategies import integers_array

_PAPER = "2509.22335"
GAP = 1e6  # a numerical rank with a smaller gap decides nothing here
OFF_KINK = 1e-9

# -- instances -------------------------------------------------------------------------------------------------------------


@st.composite
def _plain_nets(
    draw: DrawFn, norm: str, hidden: tuple[int, int], samples: tuple[int, int], inputs: int = 2, outputs: int = 2
) -> NormalisedNet:
    """Small integers everywhere; γ = 1, β = 0; nothing planted."""
    shape = draw(st.integers(1, inputs)), draw(st.integers(*hidden)), draw(st.integers(1, outputs))
    count = draw(st.integers(*samples))
    W, V = integers_array(draw, (shape[1], shape[0]), 3), integers_array(draw, (shape[2], shape[1]), 3)
    b, c = integers_array(draw, (shape[1],), 3), integers_array(draw, (shape[2],), 3)
    x, y = integers_array(draw, (count, shape[0]), 4), integers_array(draw, (count, shape[2]), 4)
    return NormalisedNet(norm, W, b, V, c, np.ones(shape[1]), np.zeros(shape[1]), x, y)


@st.composite
def layer_normalised(draw: DrawFn, dead: tuple[int, int] = (2, 3), samples: tuple[int, int] = (2, 8)) -> NormalisedNet:
    """LayerNorm; the first k units are dead: all their biases are lowered by the least integer that does it.

    Lowering k of h biases by t lowers the mean by t k/h, so unit v is dead iff t (1 − k/h) > z_v − mean on every sample.
    """
    k = draw(st.integers(*dead))
    net = draw(_plain_nets("layernorm", (max(2, k + 1), k + 2), samples))
    h = len(net.b)
    raw = net.x @ net.W.T + net.b
    excess = h * raw[:, :k].T - raw.sum(axis=1)  # h (z_v − mean), an integer
    b = net.b.copy()
    b[:k] -= max(0, int(excess.max(initial=-1)) // (h - k) + 1)
    return replace(net, b=b)


@st.composite
def batch_normalised(draw: DrawFn, samples: tuple[int, int] = (2, 8), fixed: bool = False) -> NormalisedNet:
    """BatchNorm; some units have β = −N |γ| and are dead, because |n| ≤ √(N − 1) whatever the weights."""
    net = draw(_plain_nets("batchnorm", (1, 3), samples))
    flags = draw(st.integers(0, 2 ** len(net.b) - 1))
    gain = 1 + np.abs(integers_array(draw, net.b.shape, 1))
    shift = integers_array(draw, net.b.shape, 1) / 2 + 0.25  # not a multiple of what integers normalise to
    dead = np.array([flags >> v & 1 for v in range(len(net.b))], dtype=bool)
    shift[dead] = -len(net.x) * gain[dead]
    return replace(net, gain=gain, shift=shift, trainable_affine=not fixed and draw(st.booleans()))


# -- checks ----------------------------------------------------------------------------------------------------------------


def compare(net: NormalisedNet, bound: int, text: str) -> Evidence:
    """Is the rank at most ``bound``? Undecided without a gap of 1e6 in the spectrum, or within 1e−9 of a kink."""
    if (np.abs(net.z) < OFF_KINK).any():
        return Evidence(Verdict.UNDECIDED, None, bound, None, "a pre-activation is too near to the kink for floats")
    rank, gap = numerical_rank(net.hessian())
    note = f"numerical rank {rank} (gap {gap:.0e}), {text} {bound}, P = {net.num_params}, {len(net.dead)} dead"
    if gap < GAP:
        return Evidence(Verdict.UNDECIDED, rank, bound, None, note)
    if rank <= bound:
        return Evidence(Verdict.HOLDS, rank, bound, bound - rank, note)

    def document() -> dict[str, Any]:
        inputs, hidden, _ = net.sizes
        relu = inputs + 1 + hidden
        dead = [
            assertion(quantity("preactivation", unit=relu + v, sample=n), "<", 0)
            for v in net.dead
            for n in range(len(net.x))
        ]
        larger = assertion(quantity("hessian_rank"), ">", bound)
        size = assertion(quantity("num_params"), "==", net.num_params)
        return witness(f"{text} {bound} is exceeded", {"net": net.document()}, [larger, size, *dead])

    return Evidence(Verdict.FAILS, rank, bound, bound - rank, note, document)


def printed(net: NormalisedNet) -> int:
    """P − k (I + O + 1)."""
    inputs, _, outputs = net.sizes
    return net.num_params - len(net.dead) * (inputs + outputs + 1)


def check_printed(net: NormalisedNet) -> Evidence:
    """Is the rank at most P − k (I + O + 1)?"""
    return compare(net, printed(net), "printed bound")


def layer_bound(net: NormalisedNet) -> int:
    """P − k O − (I + 1): outgoing weights of dead units, and one common shift of all incoming weights."""
    inputs, _, outputs = net.sizes
    return net.num_params - len(net.dead) * outputs - (inputs + 1)


def check_layer_bound(net: NormalisedNet) -> Evidence:
    """Is the rank at most P − k O − (I + 1)?"""
    return compare(net, layer_bound(net), "bound P − k O − (I + 1) =")


def _incoming_without_outgoing(net: NormalisedNet) -> Evidence:
    inputs, _, _ = net.sizes
    return compare(net, net.num_params - len(net.dead) * (inputs + 1), "bound P − k (I + 1) =")


def _layer_scale(net: NormalisedNet) -> Evidence:
    return compare(net, layer_bound(net) - 1, "bound with a null direction for the scale as well =")


def _half_printed(net: NormalisedNet) -> Evidence:
    cost = net.num_params - printed(net)
    return compare(net, net.num_params - (cost + 1) // 2, "bound with half of the printed cost =")


def batch_bound(net: NormalisedNet) -> int:
    """P − k (I + O + 1) − (h − k), and − 2 k more if γ and β are parameters: live biases are null, too."""
    dead, hidden = len(net.dead), net.sizes[1]
    return printed(net) - (hidden - dead) - 2 * dead * net.trainable_affine


def _batch_plus_one(net: NormalisedNet) -> Evidence:
    return compare(net, batch_bound(net) - 1, "bound with live biases and affine parameters, − 1 =")


def _batch_live_affine(net: NormalisedNet) -> Evidence:
    hidden = net.sizes[1]
    return compare(net, printed(net) - 3 * hidden, "bound with three null directions per unit =")


def _layer_only(net: NormalisedNet) -> bool:
    return net.norm == "layernorm"


_SOURCE = Source(
    _PAPER, "v1", "dead-unit bound, networks with normalisation", "the bound applied to the paper's own baseline"
)
_GENERIC_LAYER = layer_normalised(samples=(5, 10))
_MANY_DEAD = layer_normalised(dead=(3, 4), samples=(6, 10))
_GENERIC_BATCH = batch_normalised(samples=(4, 10))
DEAD = Assumption("dead", "k ≥ 1 units are negative after normalisation on every sample", lambda net: bool(net.dead))

LAYERNORM = Claim(
    id="spectral.layernorm",
    title="The dead-unit bound with LayerNorm before the ReLU",
    source=_SOURCE,
    kind="theorem",
    statement=r"h = \mathrm{ReLU}(\mathrm{LN}(Wx + b)),\; k \text{ units dead} "
    r"\;\Rightarrow\; \operatorname{rank}\nabla^2 L \le P - k\,(I + O + 1)",
    quantifier="for all",
    assumptions=(DEAD,),
    instances=layer_normalised(),
    check=check_printed,
    expected=Verdict.FAILS,
    proof="A dead unit enters the mean and the variance of its layer: its incoming weights change every live unit, so their "
    "rows of H are not zero. Null are its O outgoing weights, and one common shift (I + 1 directions) of all incoming "
    "weights, which the mean takes out. So P - k O - (I + 1) replaces the printed bound, which is larger by (k - 1)(I + 1): "
    "with one dead unit the printed bound holds by accident, from two on it fails.",
    mutants=(
        Mutant(
            "incoming-only",
            "only the incoming weights are lost: P - k (I + 1)",
            _incoming_without_outgoing,
            _GENERIC_LAYER,
        ),
        Mutant("halved", "half of the printed cost is lost, rounded up", _half_printed, _MANY_DEAD),
    ),
    cost=2,
)

# -- proofs of the repairs -------------------------------------------------------------------------------------------------


def _prove_shift() -> str:
    """LN(z + s 1) = LN(z), for any width: only Σ z and Σ z² enter."""
    h, total, squares, z, s, eps = sympy.symbols("h total squares z s eps", positive=True)

    def normalised(z: Any, total: Any, squares: Any) -> Any:
        return (z - total / h) / sympy.sqrt(squares / h - (total / h) ** 2 + eps)

    shifted = normalised(z + s, total + h * s, squares + 2 * s * total + h * s**2)
    before, after = (sympy.together(sympy.expand(value**2)) for value in (normalised(z, total, squares), shifted))
    assert sympy.simplify(before - after) == 0  # and the signs agree, because the numerators do:
    assert sympy.simplify((z + s) - (total + h * s) / h - (z - total / h)) == 0
    return "LN(z + s 1) = LN(z) for every width: mean and variance change by s and 0"


LAYERNORM_REPAIRED = Claim(
    id="spectral.layernorm.repaired",
    title="With LayerNorm: rank ≤ P − k O − (I + 1)",
    source=Source(_PAPER, "v1", "dead-unit bound, networks with normalisation", "repair, ours"),
    kind="ours",
    statement=r"h = \mathrm{ReLU}(\mathrm{LN}(Wx + b)),\; k \text{ units dead} "
    r"\;\Rightarrow\; \operatorname{rank}\nabla^2 L \le P - kO - (I + 1)",
    quantifier="for all",
    assumptions=(Assumption("layernorm", "the units of one layer are normalised together", _layer_only),),
    instances=layer_normalised(dead=(0, 3)),
    check=check_layer_bound,
    expected=Verdict.HOLDS,
    proof="In a neighbourhood the dead units output 0, so L does not depend on their k O outgoing weights. Adding one vector "
    "(a, s) to the incoming weights and biases of all units adds the same number to all z of a sample, which LayerNorm takes "
    "out: L is constant along these I + 1 directions through every point, hence they are null vectors of H. The two spaces "
    "live on different coordinates.",
    without={"layernorm": batch_normalised(samples=(4, 10))},
    attained=_GENERIC_LAYER,
    mutants=(
        Mutant(
            "scale",
            "scaling the incoming weights adds a null direction (it does only if the gradient is zero and eps = 0)",
            _layer_scale,
            _GENERIC_LAYER,
        ),
        Mutant(
            "incoming-only",
            "P - k (I + 1): a dead unit costs its incoming weights",
            _incoming_without_outgoing,
            _GENERIC_LAYER,
        ),
        Mutant(
            "printed",
            "the dead units' incoming weights are null as well: the printed bound",
            check_printed,
            _GENERIC_LAYER,
        ),
    ),
    certificates=(
        Certificate("shift", "LayerNorm takes out a common shift", Strength.SYMBOLIC, Scope.CLASS, _prove_shift),
    ),
    repairs="spectral.layernorm",
    cost=2,
)

_BATCH_OR_LAYER: SearchStrategy[NormalisedNet] = layer_normalised(samples=(4, 10))

BATCHNORM = Claim(
    id="spectral.batchnorm",
    title="The dead-unit bound with BatchNorm (batch statistics) before the ReLU",
    source=_SOURCE,
    kind="theorem",
    statement=r"h = \mathrm{ReLU}(\gamma\,\mathrm{BN}(Wx + b) + \beta),\; k \text{ units dead} "
    r"\;\Rightarrow\; \operatorname{rank}\nabla^2 L \le P - k\,(I + O + 1)",
    quantifier="for all",
    assumptions=(
        Assumption(
            "per-unit",
            "each unit is normalised by its own statistics over the batch",
            lambda net: net.norm == "batchnorm",
        ),
    ),
    instances=batch_normalised(),
    check=check_printed,
    expected=Verdict.HOLDS,
    proof="The normalised value of unit v is a function of row v of (W, b) and of the batch alone. If v is dead, then nothing "
    "depends on that row, nor on the outgoing weights, in a neighbourhood: I + O + 1 zero rows for each dead unit (and two "
    "more if γ and β are trained; the biases of live units are null as well, because the mean takes them out). Without β "
    "no unit can be dead: normalised values have mean 0 over the batch. Ranks here are numerical with a gap, not certified.",
    without={"per-unit": _BATCH_OR_LAYER},
    attained=batch_normalised(fixed=True),
    mutants=(
        Mutant(
            "one-more",
            "one more null direction than zero rows and live biases explain",
            _batch_plus_one,
            _GENERIC_BATCH,
        ),
        Mutant(
            "per-unit-three", "every unit has three null directions, dead or not", _batch_live_affine, _GENERIC_BATCH
        ),
    ),
    certificates=(BATCH_STATISTICS,),
    depends_on=("spectral.dead-unit-bound.repaired",),
    cost=2,
)

CLAIMS = (LAYERNORM, LAYERNORM_REPAIRED, BATCHNORM)
