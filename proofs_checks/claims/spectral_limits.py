"""Spectral Collapse, the limits of the dead-unit bound (1): units that float64 takes for dead.

The bound rank H ≤ P − k (I + O + 1) needs f′ = 0 in a neighbourhood. A saturated tanh has f′(20) = 1.7e−17, which the
float64 expression 1 − tanh² rounds to exactly 0: an ordinary float rank then "confirms" a theorem that does not apply.
The true rank is decided here in rigorous balls. What saturation does cost is ε-rank, and the repaired claim says how much.

The other limits are in ``spectral_normalization``, ``spectral_persistence`` (task shifts) and ``spectral_necessity`` (rank
as a condition for training).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy
from flint import arb, ctx
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.architectures import mlp
from lop_theory.arithmetic import to_fmpq
from lop_theory.certified_rank import nonzero_pivots
from lop_theory.dag import Dag
from lop_theory.exact import ball_hessian
from proofs_checks.claim import Assumption, Certificate, Claim, Evidence, Mutant, Scope, Source, Strength, Verdict
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import hidden_values, integers_array

_SOURCE = Source("2509.22335", "v1", "dead-unit bound with saturated units", "reading of the bound in floats, ours")

SATURATED_FROM = {"tanh": 20, "sigmoid": 38}
"""From this pre-activation on the float64 slopes 1 − tanh² and s (1 − s) are exactly 0 (from 19.06 and 36.74 on)."""


# -- instances: one hidden layer, one saturated unit -----------------------------------------------------------------------


def float_slopes(dag: Dag, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """f′(z) as automatic differentiation computes it in float64, [N, hidden]: 1 − tanh² or s (1 − s)."""
    name = dag.activation(int(dag.hidden[0]))
    if name not in SATURATED_FROM:
        raise ValueError(
            f"activation {name!r}: this claim is about smooth saturation; use one of {', '.join(SATURATED_FROM)}"
        )
    z = hidden_values(dag, theta, x)[:, dag.hidden]
    if name == "tanh":
        return np.asarray(1 - np.tanh(z) ** 2)
    s = 1 / (1 + np.exp(-z))
    return np.asarray(s * (1 - s))


def numerically_dead(instance: Instance) -> list[int]:
    """Hidden units whose float64 slope is exactly 0 on every sample."""
    zero = (float_slopes(instance.dag, instance.theta, instance.x) == 0).all(axis=0)
    return [int(v) for v in instance.dag.hidden[zero]]


def sizes(dag: Dag) -> tuple[int, int, int]:
    """(I, h, O) of a net with one hidden layer."""
    return dag.num_inputs, len(dag.hidden), dag.num_outputs


def cost_of_a_dead_unit(dag: Dag) -> int:
    """I + O, plus one if the net has biases: the ranks that the dead-unit bound takes off for each dead unit."""
    return dag.num_inputs + dag.num_outputs + int(dag.has_constant)


@st.composite
def saturated_nets(
    draw: DrawFn,
    activation: str = "tanh",
    samples: tuple[int, int] = (1, 6),
    max_sizes: tuple[int, int, int] = (2, 3, 2),
    extra: dict[str, Any] | None = None,
) -> Instance:
    """A net I-h-O on small integers whose first hidden unit has z ≥ ``SATURATED_FROM`` on every sample."""
    shape = [draw(st.integers(1, top)) for top in max_sizes]
    dag = mlp(shape, activation)
    x = integers_array(draw, (draw(st.integers(*samples)), shape[0]), 2)
    theta = integers_array(draw, (dag.num_params,), 2)
    y = integers_array(draw, (len(x), shape[2]), 3)
    unit = int(dag.hidden[0])
    bias = int(dag.param[(dag.target == unit) & (dag.source == dag.constant)][0])
    theta[bias] += SATURATED_FROM[activation] - hidden_values(dag, theta, x)[:, unit].min()
    return Instance(dag, theta, x, y, extra={"unit": unit, **(extra or {})})


# -- as read in floats -----------------------------------------------------------------------------------------------------


def proved_rank(instance: Instance, wanted: int) -> int:
    """A proven lower bound of the rank; the precision grows until it exceeds ``wanted``, at most to 512 bits.

    512 bits separate the rows of a tanh unit at |z| = 100, of size 1e−86, from 0.
    """
    best = 0
    for bits in (128, 256, 512):
        balls = ball_hessian(instance.dag, instance.theta, instance.x, instance.y, instance.kind, bits)
        best = max(best, nonzero_pivots(balls, bits))
        if best > wanted:
            break
    return best


def _check_rank(instance: Instance, cost: int, text: str) -> Evidence:
    """Is the rank at most P − k · cost, with k the number of numerically dead units?"""
    dead = numerically_dead(instance)
    bound = instance.dag.num_params - len(dead) * cost
    rank = proved_rank(instance, bound)
    note = f"proved rank at least {rank}, {text} {bound}, P = {instance.dag.num_params}"

    def document() -> dict[str, Any]:
        level = SATURATED_FROM[instance.dag.activation(int(instance.dag.hidden[0]))]
        saturated = [
            assertion({"abs": quantity("preactivation", unit=v, sample=n)}, ">=", level)
            for v in dead
            for n in range(len(instance.x))
        ]
        larger = assertion(quantity("hessian_rank"), ">", bound)
        return witness(
            f"{note}: a saturated unit is not dead", {"net": network_document(instance)}, [larger, *saturated]
        )

    if rank > bound:
        return Evidence(Verdict.FAILS, rank, bound, bound - rank, note, document)
    if not dead:  # the bound is P
        return Evidence(Verdict.HOLDS, rank, bound, None, note)
    return Evidence(Verdict.UNDECIDED, rank, bound, None, note)


def check_numerically_dead(instance: Instance) -> Evidence:
    """Is the rank at most P − k (I + O + 1), with k numerically dead units?"""
    return _check_rank(instance, cost_of_a_dead_unit(instance.dag), "bound with numerically dead units counted as dead")


def _costs_one(instance: Instance) -> Evidence:
    return _check_rank(instance, 1, "bound P − k =")


def _costs_incoming(instance: Instance) -> Evidence:
    return _check_rank(instance, instance.dag.num_inputs + 1, "bound P − k (I + 1) =")


NUMERICALLY_DEAD = Assumption(
    "numerically-dead",
    "some unit has a float64 slope of exactly 0 on every sample",
    lambda instance: bool(numerically_dead(instance)),
)
ONE_HIDDEN_LAYER = Assumption(
    "one-hidden-layer", "the net has one hidden layer", lambda instance: instance.dag.depth == 2
)

NUMERICALLY_DEAD_CLAIM = Claim(
    id="spectral.numerically-dead",
    title="A unit whose float slope is zero costs as much rank as a dead one",
    source=_SOURCE,
    kind="folklore",
    statement=r"\mathrm{fl}(\varphi'(z_v(x_n))) = 0 \text{ for } k \text{ units } v \text{ and all } n "
    r"\;\Rightarrow\; \operatorname{rank} \nabla^2 L \le P - k\,(I + O + 1)",
    quantifier="for all",
    assumptions=(NUMERICALLY_DEAD, ONE_HIDDEN_LAYER),
    instances=st.sampled_from(["tanh", "sigmoid"]).flatmap(saturated_nets),
    check=check_numerically_dead,
    expected=Verdict.FAILS,
    proof="tanh' > 0 everywhere. The rows of a saturated unit are tiny, of size e^(-2|z|), but not zero, and rank does not "
    "see size: with a residual they are independent of the others, so the rank can be P. float64 rounds 1 - tanh(z)^2 to 0 "
    "from |z| = 19.06 on, and then a float Hessian has exactly zero rows and a rank that agrees with the bound: it confirms "
    "a theorem whose assumption is false. Ball arithmetic at 128 bits separates these pivots from 0.",
    mutants=(
        Mutant("costs-one", "it costs at least one rank: rank <= P - k", _costs_one),
        Mutant("costs-incoming", "it costs its incoming weights: rank <= P - k (I + 1)", _costs_incoming),
    ),
    cost=4,
)


# -- what saturation does cost: epsilon-rank -------------------------------------------------------------------------------


def saturation_level(instance: Instance) -> float:
    r"""ε* of the repaired claim, rounded up: e^{−2m} Σ_n [G (4 |v| X + 2) + 8 |r| X (|v| X + 1)].

    v [O] outgoing weights of the saturated unit, m = min_n |z|, X = |(x_n, 1)|, r = f(x_n) − y_n, G² = ‖V‖² X² + h + 1.
    Derivation. Let c = ±1 be the limit of t = tanh z, and q a unit vector of the span S of the unit's I + 1 incoming
    coordinates (components a) and of the O vectors (e_{v_o} − c e_{b_o})/√2 (components β). On one sample, with
    p = a·(x, 1), |p| ≤ |a| X,

        J q       = t′ p v + (t − c) β/√2,                                    |J| ≤ G
        Σ_o r_o ∇²f_o q = [(r·v) t″ p + (r·β) t′/√2] (x, 1)  on the incoming weights,   t′ p r  on the outgoing ones.

    As t′ ≤ 4 e^{−2m}, |t″| ≤ 2 t′ and |t − c| ≤ 2 e^{−2m}, |H q| ≤ ε*. If more than P − dim S eigenvalues were larger
    than ε* in size, their eigenspace would meet S in some q ≠ 0 with |H q| > ε* |q|.
    """
    dag, theta = instance.dag, instance.theta
    _, hidden, outputs = sizes(dag)
    first = dag.num_params - outputs * (hidden + int(dag.has_constant))
    V = theta[first : first + outputs * hidden].reshape(outputs, hidden)
    unit = instance.extra["unit"]
    z = hidden_values(dag, theta, instance.x)
    v = float(np.linalg.norm(V[:, list(dag.hidden).index(unit)]))
    r = np.linalg.norm(z[:, dag.outputs] - instance.y, axis=1)
    X = np.sqrt(int(dag.has_constant) + (instance.x**2).sum(axis=1))
    G = np.sqrt((V**2).sum() * X**2 + hidden + 1)
    total = float((G * (4 * v * X + 2) + 8 * r * X * (v * X + 1)).sum())
    return total * math.exp(-2 * float(np.abs(z[:, unit]).min())) * (1 + 1e-9)  # 1e-9 covers the rounding of all this


def eigenvalues_beyond(balls: np.ndarray, level: float, bits: int) -> int | None:
    """#{i : |λ_i| > level} for every symmetric matrix in ``balls`` [n, n], or ``None`` if it is not decided.

    Sylvester: L D Lᵀ of H − level has as many positive pivots as H has eigenvalues above level, H + level as many
    negative ones as H has below −level. The pivot of largest proven size is taken; all must be proved not to be 0.
    """
    counts = [_pivot_signs(balls, shift, bits) for shift in (-level, level)]
    if counts[0] is None or counts[1] is None:
        return None
    return counts[0][0] + counts[1][1]


def _pivot_signs(balls: np.ndarray, shift: float, bits: int) -> tuple[int, int] | None:
    before, ctx.prec = ctx.prec, bits
    try:
        work = balls + np.diag(np.full(len(balls), arb(to_fmpq(shift)), dtype=object))
        positive = negative = 0
        while len(work):
            k = int(np.argmax([float(value.abs_lower()) for value in work.diagonal()]))
            pivot = work[k, k]
            if not (pivot > 0 or pivot < 0):
                return None
            positive, negative = positive + bool(pivot > 0), negative + bool(pivot < 0)
            column = np.delete(work[:, k], k)
            work = np.delete(np.delete(work, k, 0), k, 1) - column[:, None] * (column / pivot)[None, :]
        return positive, negative
    finally:
        ctx.prec = before


def _check_epsilon_rank(instance: Instance, cost: int, scale: float, text: str) -> Evidence:
    """Are at most P − cost eigenvalues larger than scale · ε* in size?"""
    level = saturation_level(instance) * scale
    bound = instance.dag.num_params - cost
    found = None
    for bits in (192, 512):
        balls = ball_hessian(instance.dag, instance.theta, instance.x, instance.y, instance.kind, bits)
        found = eigenvalues_beyond(balls, level, bits)
        if found is not None:
            break
    note = f"{found} eigenvalues beyond ε = {level:.3g}, {text} {bound}, P = {instance.dag.num_params}"
    if found is None:
        return Evidence(Verdict.UNDECIDED, None, bound, None, note)
    if found <= bound:
        return Evidence(Verdict.HOLDS, found, bound, bound - found, note)

    def document() -> dict[str, Any]:
        larger = assertion(quantity("hessian_rank"), ">", bound)
        return witness(f"{note}: rank itself does not drop", {"net": network_document(instance)}, [larger])

    # Only at ε = 0 is the count a rank, which the independent checker can confirm.
    return Evidence(Verdict.FAILS, found, bound, bound - found, note, document if level == 0 else None)


def check_saturated(instance: Instance) -> Evidence:
    """Are at most P − (I + O + 1) eigenvalues larger than factor · ε* in size?"""
    return _check_epsilon_rank(instance, cost_of_a_dead_unit(instance.dag), instance.extra["factor"], "bound")


def _one_more(instance: Instance) -> Evidence:
    return _check_epsilon_rank(instance, cost_of_a_dead_unit(instance.dag) + 1, 1.0, "bound − 1 =")


def _decays_twice_as_fast(instance: Instance) -> Evidence:
    unit = instance.extra["unit"]
    margin = float(np.abs(hidden_values(instance.dag, instance.theta, instance.x)[:, unit]).min())
    return _check_epsilon_rank(instance, cost_of_a_dead_unit(instance.dag), math.exp(-2 * margin), "bound at e^(−4m):")


def _one_sided(instance: Instance) -> bool:
    z = hidden_values(instance.dag, instance.theta, instance.x)[:, instance.extra["unit"]]
    return bool((z > 0).all() or (z < 0).all())


@st.composite
def _two_sided(draw: DrawFn) -> Instance:
    """The unit is saturated at +1 on some samples and at −1 on others."""
    hidden, samples = draw(st.integers(1, 2)), draw(st.integers(2, 6))
    dag = mlp([1, hidden, 1], "tanh")
    theta = integers_array(draw, (dag.num_params,), 2)
    theta[0], theta[hidden] = 20.0, 0.0  # z = 20 x
    x = np.resize([1.0, -1.0, 2.0, -2.0], (samples, 1))
    y = integers_array(draw, (samples, 1), 3)
    return Instance(dag, theta, x, y, extra={"unit": int(dag.hidden[0]), "factor": 1.0})


@st.composite
def _without_biases(draw: DrawFn) -> Instance:
    """No bias to absorb the constant ±1, so that the outgoing weight of the saturated unit matters."""
    hidden, samples = draw(st.integers(1, 2)), draw(st.integers(1, 5))
    dag = mlp([1, hidden, draw(st.integers(1, 2))], "tanh", bias=False)
    theta = integers_array(draw, (dag.num_params,), 2)
    theta[0] = 20.0
    x = 1 + np.abs(integers_array(draw, (samples, 1), 2))
    y = integers_array(draw, (samples, dag.num_outputs), 3)
    return Instance(dag, theta, x, y, extra={"unit": int(dag.hidden[0]), "factor": 1.0})


_GENERIC = saturated_nets(samples=(4, 8), extra={"factor": 1.0})


def _prove_bounds() -> str:
    """t′ ≤ 4 e^{−2z}, |t″| ≤ 2 t′, 1 − t ≤ 2 e^{−2z} for z > 0, written in E = e^{−2z} ∈ (0, 1)."""
    z, E = sympy.symbols("z E", positive=True)
    t = (1 - E) / (1 + E)
    assert sympy.simplify(sympy.tanh(z).rewrite(sympy.exp) - t.subs(E, sympy.exp(-2 * z))) == 0
    slope = sympy.factor(sympy.diff(t, E) * (-2 * E))  # dE/dz = −2 E
    bend = sympy.factor(sympy.diff(slope, E) * (-2 * E))
    assert sympy.simplify(slope - 4 * E / (1 + E) ** 2) == 0
    assert sympy.simplify(bend + 2 * t * slope) == 0
    assert sympy.simplify(1 - t - 2 * E / (1 + E)) == 0
    return "t' = 4E/(1+E)^2, t'' = -2 t t' and 1 - t = 2E/(1+E) with E = exp(-2z), hence t' <= 4E, |t''| <= 2t', 1 - t <= 2E"


def _prove_directions() -> str:
    """Every block of H q is the stated combination of t′, t″ and t − c (two outputs, one other unit with value s)."""
    e, z, p, c, s, g = sympy.symbols("e z p c s g")
    v, beta, w, d, y = (sympy.symbols(f"{name}1:3") for name in ("v", "beta", "w", "d", "y"))
    t, t1, t2 = (sympy.diff(sympy.tanh(z), z, k) for k in range(3))
    r = [(v[o] + e * beta[o]) * sympy.tanh(z + e * p) + w[o] * s + d[o] - e * c * beta[o] - y[o] for o in (0, 1)]
    r0 = [value.subs(e, 0) for value in r]
    step = [t1 * p * v[o] + (t - c) * beta[o] for o in (0, 1)]  # J q
    slope = sympy.diff(sympy.tanh(z), z).subs(z, z + e * p)
    blocks = {
        "incoming": (
            sum(r[o] * (v[o] + e * beta[o]) for o in (0, 1)) * slope,
            sum(step[o] * v[o] for o in (0, 1)) * t1 + sum(r0[o] * (v[o] * t2 * p + beta[o] * t1) for o in (0, 1)),
        ),
        "outgoing": (r[0] * sympy.tanh(z + e * p), step[0] * t + r0[0] * t1 * p),
        "output bias": (r[0], step[0]),
        "other incoming": (sum(r[o] * w[o] for o in (0, 1)) * g, sum(step[o] * w[o] for o in (0, 1)) * g),
        "other outgoing": (r[0] * s, step[0] * s),
    }
    for gradient, predicted in blocks.values():
        assert sympy.expand(sympy.diff(gradient, e).subs(e, 0) - predicted) == 0
    return f"H q in the blocks {', '.join(blocks)}: each is the combination of t', t'' and t - c in the derivation"


REPAIRED = Claim(
    id="spectral.numerically-dead.repaired",
    title="A saturated unit costs I + O + 1 in ε-rank, not in rank",
    source=Source("2509.22335", "v1", "dead-unit bound with saturated units", "repair, ours"),
    kind="ours",
    statement=r"z_u \ge m \text{ on all samples or } z_u \le -m \text{ on all}, \; \varphi = \tanh, \; "
    r"\varepsilon \ge \varepsilon^* = e^{-2m}\sum_n \big[G_n(4|v|X_n + 2) + 8|r_n|X_n(|v|X_n + 1)\big] "
    r"\;\Rightarrow\; \#\{i : |\lambda_i(\nabla^2 L)| > \varepsilon\} \le P - (I + O + 1)",
    quantifier="for all",
    assumptions=(
        Assumption("one-sided", "the unit is saturated on the same side on every sample", _one_sided),
        Assumption("biases", "the layer after it has biases", lambda instance: instance.dag.has_constant),
        Assumption("level", "ε is at least ε*", lambda instance: instance.extra["factor"] >= 1),
        ONE_HIDDEN_LAYER,
    ),
    instances=saturated_nets(extra={"factor": 1.0}),
    check=check_saturated,
    expected=Verdict.HOLDS,
    proof="Moving the incoming weights of the unit, or its outgoing weight against the bias it feeds, changes the gradient "
    "by at most ε* per unit length (derivation in saturation_level). An eigenspace with |λ| > ε* therefore meets this "
    "(I + O + 1)-dimensional space only in 0. Counts are decided by Sylvester's inertia in balls.",
    without={
        "one-sided": _two_sided(),
        "biases": _without_biases(),
        "level": saturated_nets(samples=(4, 8), extra={"factor": 0.0}),
    },
    attained=_GENERIC,
    mutants=(
        Mutant("one-more", "one more eigenvalue is below ε*", _one_more, _GENERIC),
        Mutant("decays-twice-as-fast", "ε* may be multiplied by e^(−2m) again", _decays_twice_as_fast, _GENERIC),
    ),
    certificates=(
        Certificate(
            "bounds", "f', f'' and the distance to the limit, by e^(−2m)", Strength.SYMBOLIC, Scope.LIST, _prove_bounds
        ),
        Certificate("directions", "the blocks of H q", Strength.SYMBOLIC, Scope.LIST, _prove_directions),
    ),
    repairs="spectral.numerically-dead",
    cost=2,
)

CLAIMS = (NUMERICALLY_DEAD_CLAIM, REPAIRED)
