"""Spectral Collapse, the rank of the Hessian: dead units, gates, constant units.

The text of the paper could not be had in full; statements are reconstructed from its abstracts, poster and reviews, and each
source says so. Every check compares the exact rank of an exact Hessian with the bound, so a refutation is a certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sympy
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory import bounds
from lop_theory.architectures import mlp
from lop_theory.dag import Dag
from lop_theory.gates import gate_pattern
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.claims.rank_proofs import CONSTANT_UNIT_LEMMA, GATE_LEMMA
from proofs_checks.instances import Instance, Rank, assertion, hessian_rank, network_document, quantity, witness
from proofs_checks.strategies import (
    dag_instances,
    hidden_values,
    integers_array,
    kill_units,
    layer_units,
    mlp_instances,
    odd_biases,
    widths,
    with_dead_units,
)

SPECTRAL = "2509.22335"
_RECONSTRUCTED = "reconstructed from abstract, poster and reviews"


# -- shared parts ----------------------------------------------------------------------------------------------------------


def compare(rank: Rank, bound: int, text: str, instance: Instance, right: dict[str, Any] | None = None) -> Evidence:
    """Does rank ≤ bound hold? The witness lets the checker recompute the rank, and the bound if it is a quantity."""
    shown = rank.lower if rank.lower == rank.upper else f"{rank.lower} … {rank.upper}"
    note = f"rank {shown}, {text} {bound}, P = {instance.dag.num_params}"

    def document() -> dict[str, Any]:
        exceeds = assertion(quantity("hessian_rank"), ">", right if right is not None else bound)
        known = [] if right is None else [assertion(right, "==", bound)]
        return witness(
            f"{note}: the Hessian has a larger rank than the bound allows",
            {"net": network_document(instance)},
            [exceeds, *known],
        )

    if rank.lower > bound:
        return Evidence(Verdict.FAILS, rank.lower, bound, bound - rank.lower, note, document)
    if rank.upper <= bound:
        return Evidence(
            Verdict.HOLDS, rank.upper, bound, bound - rank.upper, note, vacuous=bound >= instance.dag.num_params
        )
    return Evidence(Verdict.UNDECIDED, shown, bound, None, note)


def declared_dead(instance: Instance) -> list[int]:
    """Units that the instance declares dead, or else those that are: strictly inside a zero piece on every sample."""
    if "declared" in instance.extra:
        return list(instance.extra["declared"])
    return [int(v) for v in gate_pattern(instance.dag, instance.theta, instance.x).dead_units]


def touching(dag: Dag, units: Sequence[int]) -> int:
    """Number of distinct trainable parameters on edges into or out of the units."""
    edges = np.isin(dag.source, list(units)) | np.isin(dag.target, list(units))
    return len(dag.params_of(np.flatnonzero(edges)))


def strictly_dead(instance: Instance) -> bool:
    """Are the declared units strictly below zero on every sample?"""
    z = hidden_values(
        instance.dag, np.asarray(instance.theta, dtype=np.float64), np.asarray(instance.x, dtype=np.float64)
    )
    return all((z[:, v] < 0).all() for v in declared_dead(instance))


def _flat_at_zero(instance: Instance) -> bool:
    return all(instance.dag.activation(v) == "relu" for v in declared_dead(instance))


STRICTLY_DEAD = Assumption(
    "strictly-dead", "each unit counted has a negative pre-activation on every sample in the Hessian", strictly_dead
)
FLAT_AT_ZERO = Assumption("flat-at-zero", "its activation is identically 0 there (ReLU; not leaky ReLU)", _flat_at_zero)
UNTIED = Assumption("untied", "no weight is shared between edges", lambda i: not i.dag.is_tied)


def _choose_one_per_layer(draw: DrawFn, dag: Dag) -> list[int]:
    return [int(draw(st.sampled_from(list(layer_units(dag, k))))) for k in range(1, dag.depth)]


_MLPS = mlp_instances(widths((1, 3), 4), samples=(1, 8))
_DEAD = with_dead_units(_MLPS)
_DEAD_ANYWHERE = st.one_of(_DEAD, _DEAD, with_dead_units(dag_instances()))  # skip connections of any length, too
_TWO_LAYERS = mlp_instances(widths((1, 2), 4), samples=(1, 8))
_ONE_LAYER_DEAD = with_dead_units(mlp_instances(widths((1, 1), 4, min_width=2), samples=(4, 10)))
_ADJACENT_DEAD = with_dead_units(mlp_instances(widths((2, 2), 3), samples=(1, 6)), _choose_one_per_layer)


# -- the printed bound and its repair --------------------------------------------------------------------------------------


def check_printed_bound(instance: Instance) -> Evidence:
    """rank ≤ P − Σ_dead (I + O + 1)."""
    gates = gate_pattern(instance.dag, instance.theta, instance.x)
    bound = bounds.dead_unit_bound(instance.dag, instance.theta, instance.x, gates)
    return compare(hessian_rank(instance), bound, "printed bound", instance, quantity("dead_unit_bound"))


def check_union_bound(instance: Instance) -> Evidence:
    """rank ≤ P − |union of the parameter sets of the declared units|, or the full corrected bound if none are declared."""
    if "declared" in instance.extra or instance.dag.is_tied:
        bound = instance.dag.num_params - touching(instance.dag, declared_dead(instance))
    else:
        bound = bounds.dead_unit_bound_corrected(instance.dag, instance.theta, instance.x, instance.kind)
    return compare(hessian_rank(instance), bound, "corrected bound", instance)


def _union_minus_one(instance: Instance) -> Evidence:
    bound = bounds.dead_unit_bound_corrected(instance.dag, instance.theta, instance.x, instance.kind) - 1
    return compare(hessian_rank(instance), bound, "corrected bound − 1 =", instance)


def _mostly_dead(instance: Instance) -> Evidence:
    z = hidden_values(instance.dag, instance.theta, instance.x)[:, instance.dag.hidden]
    units = instance.dag.hidden[(z < 0).mean(0) >= 0.5]
    bound = instance.dag.num_params - touching(instance.dag, units.tolist())
    return compare(hessian_rank(instance), bound, "bound that counts units dead on half the samples", instance)


def _upstream_of_dead(instance: Instance) -> Evidence:
    """Counts every parameter that feeds a dead unit's sources as well."""
    dag = instance.dag
    dead = declared_dead(instance)
    feeding = set(dag.source[np.isin(dag.target, dead)].tolist()) & set(dag.hidden.tolist())
    bound = dag.num_params - touching(dag, [*dead, *feeding])
    return compare(hessian_rank(instance), bound, "bound that also removes the units that feed dead ones", instance)


@st.composite
def _declared_but_alive(draw: DrawFn) -> Instance:
    """One hidden layer, one unit declared dead that is dead on the first sample only (or on none)."""
    instance = draw(mlp_instances(widths((1, 1), 3), samples=(1, 6)))
    unit = int(instance.dag.hidden[0])
    theta = kill_units(instance.dag, instance.theta, instance.x[:1], [unit])
    if (
        hidden_values(instance.dag, theta, instance.x)[:, unit] < 0
    ).all():  # revive it: raise the bias by an even number
        bias = instance.dag.param[(instance.dag.target == unit) & (instance.dag.source == instance.dag.num_inputs)]
        theta[bias] -= 2 * np.floor(hidden_values(instance.dag, theta, instance.x)[:, unit].max() / 2)
    return replace(instance, theta=theta, extra={"declared": (unit,)})


@st.composite
def _leaky_dead(draw: DrawFn) -> Instance:
    """Leaky ReLU: the declared unit is below zero on every sample, and still passes a slope."""
    instance = draw(mlp_instances(widths((1, 1), 2), samples=(1, 4)))
    unit = int(instance.dag.hidden[0])
    dims = [len(b) for b in instance.dag.blocks if len(b)]
    theta = kill_units(instance.dag, instance.theta, instance.x, [unit])
    return replace(instance, dag=mlp([dims[0], *dims[2:]], "leaky_relu:1/2"), theta=theta, extra={"declared": (unit,)})


def _tie_first_two(dag: Dag) -> Dag:
    """Let the first two hidden units share their weights from the inputs (not their biases), as in a convolution."""
    first, second = (int(v) for v in dag.hidden[:2])
    param = dag.param.copy()
    for e in np.flatnonzero((dag.target == second) & (dag.source < dag.num_inputs)):
        twin = np.flatnonzero((dag.target == first) & (dag.source == dag.source[e]))[0]
        param[e] = param[twin]
    _, dense = np.unique(param, return_inverse=True)
    return Dag(dag.num_inputs, dag.has_constant, dag.activations, dag.source, dag.target, dense, dag.outputs)


@st.composite
def _tied_dead(draw: DrawFn) -> Instance:
    dims = [draw(st.integers(1, 2)), draw(st.integers(2, 3)), 1]
    dag = _tie_first_two(mlp(dims))
    n = draw(st.integers(1, 5))
    theta, x = odd_biases(dag, integers_array(draw, (dag.num_params,), 3)), integers_array(draw, (n, dims[0]), 4)
    unit = int(dag.hidden[0])
    return Instance(
        dag, kill_units(dag, theta, x, [unit]), x, integers_array(draw, (n, 1), 8), extra={"declared": (unit,)}
    )


DEAD_UNIT_BOUND = Claim(
    id="spectral.dead-unit-bound",
    title="Dead units bound the Hessian rank (as printed)",
    source=Source(SPECTRAL, "v1", "Thm 6.2", _RECONSTRUCTED),
    kind="theorem",
    statement=r"k dead ReLU units, each with I incoming weights, a bias and O outgoing weights: rank(∇²L) \le P − k(I + O + 1)",
    quantifier="for all",
    assumptions=(
        Assumption("strictly-dead", STRICTLY_DEAD.text, lambda i: True),  # the bound counts only units that are
        UNTIED,
    ),
    instances=_DEAD,
    check=check_printed_bound,
    expected=Verdict.FAILS,
    proof="A weight between two dead units is counted twice: once as outgoing, once as incoming. With dead units in "
    "adjacent layers "
    "the bound is too small by one for each such weight. It is right for one hidden layer, which is what the paper proves.",
    attained=_ONE_LAYER_DEAD,
    mutants=(
        Mutant("union-minus-one", "rank ≤ corrected bound − 1", _union_minus_one, _ONE_LAYER_DEAD),
        Mutant(
            "mostly-dead",
            "the bound with units counted that are dead on at least half of the samples",
            _mostly_dead,
            _MLPS,
        ),
    ),
)


def prove_rows_vanish() -> str:
    """Formula (2) of lop_theory/hessian.py at an edge of a dead unit d: f'_d = f''_d = h_d = 0 make every entry zero.

    By (3), C_dv = f'_d · (…) + [v = d] f''_d · (…); a response that starts at d or ends in h_d carries f'_d; δ_d carries f'_d.
    The other edge (a → b) is arbitrary, and so are all quantities in brackets: they are free symbols.
    """
    first, second, h_d = sympy.symbols("fprime_d fsecond_d h_d")
    rest = sympy.symbols("q0:12")
    h_u, h_a, delta_b, delta_w = sympy.symbols("h_u h_a delta_b delta_w")
    dead = {first: 0, second: 0, h_d: 0}
    push_db = first * rest[0] + second * rest[1]
    delta_d = first * rest[2]
    response_a_from_d, response_d_from_any = first * rest[3], first * rest[4]
    entry_in = (
        push_db * h_u * h_a + delta_b * response_a_from_d * h_u + delta_d * rest[5] * h_a
    )  # edge u → d with a → b
    entry_out = (
        rest[6] * h_d * h_a + delta_b * rest[7] * h_d + delta_w * response_d_from_any * h_a
    )  # edge d → w with a → b
    left = [sympy.expand(entry.subs(dead)) for entry in (entry_in, entry_out)]
    if left != [0, 0]:
        raise ValueError(f"the entries on the edges of a dead unit are {left}, not zero")
    return "every entry of the Hessian formula on an edge into or out of a dead unit is zero, for every DAG and loss"


DEAD_UNIT_BOUND_REPAIRED = Claim(
    id="spectral.dead-unit-bound.repaired",
    title="Dead units bound the Hessian rank (union of parameter sets)",
    source=Source(SPECTRAL, "v1", "Thm 6.2", "repaired by us"),
    kind="theorem",
    statement=r"rank(∇²L) \le P − |\bigcup_v Θ_v| over the dead units v, Θ_v all parameters on edges of v; for layers with "
    r"k_l dead units: "
    r"P − \sum_l k_l(n_{l−1} + n_{l+1} + 1) + \sum_l k_l k_{l+1}; everything before a whole dead layer counts too",
    quantifier="for all",
    assumptions=(STRICTLY_DEAD, FLAT_AT_ZERO, UNTIED),
    instances=_DEAD_ANYWHERE,
    check=check_union_bound,
    expected=Verdict.HOLDS,
    proof="Near θ a strictly dead unit outputs 0 on all data, so L does not depend on any parameter on its edges. A "
    "coordinate on which L "
    "is locally constant has a zero row and column in the Hessian; distinct coordinates are counted once.",
    without={"strictly-dead": _declared_but_alive(), "flat-at-zero": _leaky_dead(), "untied": _tied_dead()},
    attained=_ONE_LAYER_DEAD,
    mutants=(
        Mutant("additive", "the printed additive count", check_printed_bound, _ADJACENT_DEAD),
        Mutant("minus-one", "rank ≤ corrected bound − 1", _union_minus_one, _ONE_LAYER_DEAD),
        Mutant(
            "feeding-units", "the units that feed a dead unit are removed as well", _upstream_of_dead, _ADJACENT_DEAD
        ),
    ),
    certificates=(
        Certificate(
            "zero rows",
            "rows and columns of all parameters on edges of dead units vanish in the exact Hessian formula",
            Strength.SYMBOLIC,
            Scope.CLASS,
            prove_rows_vanish,
        ),
    ),
    repairs="spectral.dead-unit-bound",
)


# -- gates -----------------------------------------------------------------------------------------------------------------


def check_gate_bound(instance: Instance) -> Evidence:
    """rank ≤ gate bound; an instance may name the samples whose gates are counted."""
    rows = instance.extra.get("pattern_samples", slice(None))
    bound = bounds.gate_bound(instance.dag, instance.theta, instance.x[rows], instance.kind)
    return compare(hessian_rank(instance), bound, "gate bound", instance)


def _gate_minus_one(instance: Instance) -> Evidence:
    bound = bounds.gate_bound(instance.dag, instance.theta, instance.x, instance.kind) - 1
    return compare(hessian_rank(instance), bound, "gate bound − 1 =", instance)


def _hidden_feature_ranks(instance: Instance) -> Evidence:
    """The refuted variant: treats hidden features of later layers like fixed inputs."""
    dag = instance.dag
    gates = gate_pattern(dag, instance.theta, instance.x)
    h = np.maximum(hidden_values(dag, instance.theta, instance.x), 0)
    h[:, : dag.num_inputs], h[:, dag.num_inputs] = instance.x, 1.0
    nullity = 0
    for v in range(dag.first_computed, dag.num_units):
        sources = dag.source[dag.target == v]
        seen = h[gates.open[:, v]][:, sources]
        nullity += len(sources) - (int(np.linalg.matrix_rank(seen)) if len(seen) else 0)
    return compare(hessian_rank(instance), dag.num_params - nullity, "bound with ranks of hidden features", instance)


def _closed_through_zero_weights(instance: Instance) -> Evidence:
    """The refuted variant: a path through a weight that happens to be zero counts as closed."""
    dag = instance.dag
    weights = np.asarray(instance.theta)[dag.param]
    z = hidden_values(dag, instance.theta, instance.x)
    reach = np.zeros((len(instance.x), dag.num_units), dtype=bool)
    reach[:, dag.outputs] = True
    for v in dag.hidden[::-1]:
        out = np.flatnonzero((dag.source == v) & (weights != 0))
        reach[:, v] = (z[:, v] > 0) & reach[:, dag.target[out]].any(1)
    silent = sum(not reach[:, v].any() for v in dag.target)
    return compare(hessian_rank(instance), dag.num_params - silent, "bound with paths closed by zero weights", instance)


@st.composite
def _gates_of_one_sample(draw: DrawFn) -> Instance:
    instance = draw(mlp_instances(widths((1, 2), 3), samples=(2, 6)))
    return replace(instance, extra={"pattern_samples": slice(0, 1)})


GATE_BOUND = Claim(
    id="spectral.gate-bound",
    title="Gates bound the Hessian rank",
    source=Source(SPECTRAL, "v1", "Thm 6.2", "generalised by us"),
    kind="ours",
    statement=r"nullity(∇²L) \ge \sum_{v in layer 1}(I + 1 − rank[X, 1]_{open(v)}) + #\{w_{uv} : u, v never open together\} "
    r"+ #\{b_v : v never open\}",
    quantifier="for all",
    assumptions=(
        Assumption(
            "same-samples",
            "the gates counted are those of all samples in the Hessian",
            lambda i: "pattern_samples" not in i.extra,
        ),
        UNTIED,
    ),
    instances=st.one_of(_DEAD, with_dead_units(dag_instances())),
    check=check_gate_bound,
    expected=Verdict.HOLDS,
    proof="Off the kinks gates are locally constant, so f_n depends on w_uv only where v is open and h_u is not "
    "locally zero; in the first layer "
    "only through the products with the samples on which v is open.",
    without={"same-samples": _gates_of_one_sample()},
    attained=mlp_instances(widths((1, 2), 3), samples=(4, 10)),
    mutants=(
        Mutant("minus-one", "rank ≤ gate bound − 1", _gate_minus_one),
        Mutant(
            "hidden-features",
            "ranks of hidden features for every later unit as well",
            _hidden_feature_ranks,
            _TWO_LAYERS,
        ),
        Mutant(
            "zero-weights",
            "paths through a zero weight count as closed",
            _closed_through_zero_weights,
            _TWO_LAYERS,
        ),
    ),
    certificates=(GATE_LEMMA,),
    depends_on=("spectral.dead-unit-bound.repaired",),
)


# -- constant units --------------------------------------------------------------------------------------------------------


def _constant_units(instance: Instance) -> list[int]:
    return [int(v) for v in gate_pattern(instance.dag, instance.theta, instance.x).constant_units]


def check_constant_union(instance: Instance) -> Evidence:
    """The dead-unit count applied to units saturated at any constant."""
    bound = instance.dag.num_params - touching(instance.dag, _constant_units(instance))
    return compare(hessian_rank(instance), bound, "bound that counts constant units as dead", instance)


def check_constant_bound(instance: Instance) -> Evidence:
    """rank ≤ the constant-unit bound, which knows which of the fed units have a bias."""
    bound = bounds.constant_unit_bound(instance.dag, instance.theta, instance.x, instance.kind)
    return compare(hessian_rank(instance), bound, "constant-unit bound", instance)


def _constant_minus_one(instance: Instance) -> Evidence:
    bound = bounds.constant_unit_bound(instance.dag, instance.theta, instance.x, instance.kind) - 1
    return compare(hessian_rank(instance), bound, "constant-unit bound − 1 =", instance)


def _saturate(dag: Dag, theta: np.ndarray, x: np.ndarray, units: Sequence[int], signs: Sequence[int]) -> np.ndarray:
    """Push hard-tanh units to +1 or −1 on every sample by scaling the odd bias up."""
    theta = theta.copy()
    for v, sign in zip(units, signs, strict=True):
        bias = dag.param[(dag.target == v) & (dag.source == dag.num_inputs)]
        z = hidden_values(dag, theta, x)[:, v]
        shift = 2 * np.ceil((3 - (sign * z).min()) / 2)
        if shift > 0:
            theta[bias] += sign * shift
    return theta


@st.composite
def _saturated(draw: DrawFn, next_bias: bool) -> Instance:
    """One hidden hard-tanh layer; the first units saturated at ±1; inputs even so that z is off the caps."""
    dims = draw(widths((1, 1), 4))
    dag = mlp(dims, "hard_tanh")
    if not next_bias:
        keep = ~((dag.source == dag.num_inputs) & np.isin(dag.target, dag.outputs))
        dag = Dag(
            dag.num_inputs, True, dag.activations, dag.source[keep], dag.target[keep], dag.param[keep], dag.outputs
        )
    n = draw(st.integers(1, 8))
    theta = integers_array(draw, (dag.num_params,), 4)
    hidden_bias = dag.param[(dag.source == dag.num_inputs) & np.isin(dag.target, dag.hidden)]
    theta[hidden_bias] = 2 * theta[hidden_bias]  # even bias + even products: z is even, the caps ±1 are odd
    x = 2 * integers_array(draw, (n, dims[0]), 3)
    count = draw(st.integers(1, dims[1]))
    signs = [1 if draw(st.booleans()) else -1 for _ in range(count)]
    theta = _saturate(dag, theta, x, dag.hidden[:count].tolist(), signs)
    return Instance(dag, theta, x, integers_array(draw, (n, dims[-1]), 8))


def _has_next_bias(instance: Instance) -> bool:
    dag = instance.dag
    fed = np.unique(dag.target[np.isin(dag.source, _constant_units(instance))])
    return all(((dag.target == v) & (dag.source == dag.constant)).any() for v in fed)


CONSTANT_UNITS = Claim(
    id="spectral.constant-units",
    title="Units saturated at a constant cost as much rank as dead ones",
    source=Source(SPECTRAL, "v1", "Thm 6.2", "extended from dead to saturated units; ours"),
    kind="ours",
    statement=r"k units saturated at any constants (exactly: f' = 0 near z on every sample): rank(∇²L) \le P − k(I + O + 1), "
    r"if the units they feed have biases",
    quantifier="for all",
    assumptions=(Assumption("next-layer-bias", "every unit fed by a constant unit has a bias", _has_next_bias),),
    instances=_saturated(True),
    check=check_constant_union,
    expected=Verdict.HOLDS,
    proof="Incoming parameters do not move a saturated unit. Outgoing: changing w_uv by t and the bias b_v by −c t "
    "leaves z_v as it was, "
    "so each outgoing weight gives one null direction; without b_v only differences between constant units do.",
    without={"next-layer-bias": _saturated(False)},
    mutants=(
        Mutant("minus-one", "one more null direction", _constant_minus_one),
        Mutant(
            "no-bias-needed", "the same count without biases in the next layer", check_constant_union, _saturated(False)
        ),
    ),
    certificates=(CONSTANT_UNIT_LEMMA,),
    depends_on=("spectral.dead-unit-bound.repaired",),
)

CONSTANT_UNITS_ANY_BIAS = Claim(
    id="spectral.constant-units.any-bias",
    title="Constant units: the count with and without biases in the next layer",
    source=Source(SPECTRAL, "v1", "Thm 6.2", "ours"),
    kind="ours",
    statement=r"nullity \ge k(I + 1) + O·(k with biases in the next layer, else \max(k_{c≠0} − 1, 0) + k_{c=0})",
    quantifier="for all",
    assumptions=(
        Assumption(
            "exactly-saturated",
            "f' = 0 in a neighbourhood of z (hard-tanh, ReLU6, not tanh)",
            lambda i: "tanh" not in i.dag.activations,
        ),
    ),
    instances=st.booleans().flatmap(_saturated),
    check=check_constant_bound,
    expected=Verdict.HOLDS,
    proof="One linear equation per fed unit: Σ_u a_u c_u + a_bias = 0. Its solutions are null directions.",
    mutants=(
        Mutant("minus-one", "one more null direction", _constant_minus_one),
        Mutant("as-dead", "constant units counted like dead ones whatever the biases", check_constant_union),
    ),
    certificates=(CONSTANT_UNIT_LEMMA,),
    depends_on=("spectral.constant-units",),
)


CLAIMS = (DEAD_UNIT_BOUND, DEAD_UNIT_BOUND_REPAIRED, GATE_BOUND, CONSTANT_UNITS, CONSTANT_UNITS_ANY_BIAS)
