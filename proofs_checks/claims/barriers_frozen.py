r"""Barriers, frozen units: Theorem 2.1(1) as printed, and with a certificate that the unit stays frozen.

The theorem assumes f' = 0 along the trajectory and concludes that the trajectory keeps the incoming parameters. Read for
the data and the parameters at hand it is false: learning upstream can bring the unit back. With one of the certificates
of :func:`lop_theory.frozen.persistence_certificate` it holds.

The networks have inputs, a layer A, a layer V of ReLU units, and an output that hears A (a skip) and V. Even weights and
biases chosen by activation keep the first pre-activations off the kinks; a later kink makes an instance undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flint import fmpq
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from lop_theory.activations import get_activation
from lop_theory.architectures import mlp
from lop_theory.arithmetic import rational_array, to_fmpq
from lop_theory.dag import Dag
from lop_theory.forward import KinkError
from lop_theory.frozen import persistence_certificate, saturated_units
from proofs_checks.claim import Assumption, Claim, Evidence, Mutant, Source, Verdict
from proofs_checks.claims.barriers_graphs import network
from proofs_checks.claims.barriers_proofs import PERSISTENCE
from proofs_checks.claims.barriers_trajectories import by_unit, exact_pass, states, training, trajectory
from proofs_checks.instances import Instance, assertion, network_document, quantity, witness
from proofs_checks.strategies import integers_array

BARRIERS = "2510.00304"
BOX = 2  # inputs are drawn from [−BOX, BOX]


# -- instances -------------------------------------------------------------------------------------------------------


def skip_network(inputs: int, first: int, second: int, activation: str) -> Dag:
    """inputs → A → V → output with a skip A → output and biases; A has the given activation, V is ReLU.

    >>> net = skip_network(1, 1, 1, "relu")
    >>> net.num_params, net.activations
    (7, ('relu', 'relu', 'identity'))
    """
    one = inputs
    a = range(one + 1, one + 1 + first)
    v = range(a.stop, a.stop + second)
    edges = [(u, t) for t in a for u in range(one + 1)]
    edges += [(u, t) for t in v for u in (one, *a)]
    edges += [(u, v.stop) for u in (one, *a, *v)]
    return network(inputs, True, (activation,) * first + ("relu",) * second + ("identity",), tuple(edges), 1)


def _incoming(dag: Dag, unit: int) -> tuple[int, np.ndarray]:
    """The bias parameter of a unit and the parameters of its weights."""
    edges = dag.incoming(unit)
    is_bias = dag.source[edges] == dag.num_inputs
    return int(dag.param[edges[is_bias]][0]), dag.param[edges[~is_bias]]


def _freeze_first(dag: Dag, theta: np.ndarray, unit: int, margin: int, box: int) -> None:
    """F-a: bias below −R‖w‖₁ (ReLU, ReLU6) or beyond 1 + R‖w‖₁ in size (hard tanh, kept even)."""
    bias, weights = _incoming(dag, unit)
    reach = box * np.abs(theta[weights]).sum()
    theta[bias] = reach + 2 + 2 * margin if dag.activation(unit) == "hard_tanh" else -reach - 1 - 2 * margin


_LAYER_A = {
    "first": ("relu", "hard_tanh", "relu6"),
    "sign": ("relu", "relu6"),
    "bounded": ("hard_tanh", "relu6"),
    "ancestors": ("relu",),
    "none": ("relu",),
    "one positive": ("relu",),
}


def _freeze(
    kind: str, dag: Dag, theta: np.ndarray, x: np.ndarray, a: range, v: int, margin: int, box: int
) -> list[int]:
    """Change θ so that a unit is frozen as ``kind`` says; the frozen units."""
    bias, weights = _incoming(dag, v)
    if kind == "first":
        _freeze_first(dag, theta, a[0], margin, box)
        return [a[0]]
    if kind == "sign":
        theta[weights], theta[bias] = -np.abs(theta[weights]), -1 - 2 * margin
    elif kind == "bounded":
        bound = 6 if dag.activation(a[0]) == "relu6" else 1
        theta[bias] = -bound * np.abs(theta[weights]).sum() - 1 - 2 * margin
    elif kind == "ancestors":
        for u in a:
            _freeze_first(dag, theta, u, margin, box)
        theta[bias] = -1 - 2 * margin
        return [*a, v]
    else:
        signs = np.where(np.arange(len(weights)) == 0, 1.0, -1.0)
        theta[weights] = np.abs(theta[weights]) * (signs if kind == "one positive" else 1.0)
        theta[bias] = 0
        z = by_unit(dag, exact_pass(Instance(dag, theta, x, x[:, :1])).z)[v]
        theta[bias] = -float(max(z).p) - 1 - 2 * margin
    return [v]


@st.composite
def frozen_networks(
    draw: DrawFn, kinds: tuple[str, ...], *, box: int = BOX, outside: int = 0, steps: int = 3
) -> Instance:
    """A skip network with units frozen on its data for one of the reasons; ``box`` is what the freezing reckons with.

    ``outside`` > 0 adds to the size of the inputs, beyond the declared box. The momentum buffer is zero on the frozen
    units and arbitrary elsewhere.
    """
    kind = draw(st.sampled_from(kinds))
    inputs, first, second = (draw(st.integers(1, 2)) for _ in range(3))
    dag = skip_network(inputs, first, second, draw(st.sampled_from(_LAYER_A[kind])))
    n = draw(st.integers(1, 3))
    theta = 2 * integers_array(draw, (dag.num_params,), 2)
    a = range(inputs + 1, inputs + 1 + first)
    odd = [u for u in (*a, *range(a.stop, a.stop + second)) if dag.activation(u) != "hard_tanh"]
    theta[[_incoming(dag, u)[0] for u in odd]] += 1
    x = integers_array(draw, (n, inputs), BOX)
    x += outside * np.sign(x)
    y = 4 * integers_array(draw, (n, 1), 8)
    frozen = _freeze(kind, dag, theta, x, a, a.stop, draw(st.integers(0, 1)), box)
    velocity = integers_array(draw, (dag.num_params,), 1)
    velocity[dag.params_of(np.flatnonzero(np.isin(dag.target, frozen)))] = 0
    extra = {
        "frozen": tuple(frozen),
        "box": BOX,
        "steps": steps,
        "rate": draw(st.sampled_from((fmpq(1), fmpq(1, 4), fmpq(1, 16)))),
        "momentum": draw(st.sampled_from((0, fmpq(1, 2)))),
        "velocity": velocity,
    }
    return Instance(dag, theta, x, y, extra=extra)


CERTIFIED = ("first", "sign", "bounded", "ancestors")


def plain(instance: Instance) -> Instance:
    """The same network under plain gradient descent."""
    extra = {k: v for k, v in instance.extra.items() if k not in ("momentum", "velocity")}
    return replace(instance, extra=extra)


# -- checks ----------------------------------------------------------------------------------------------------------


def declared(instance: Instance) -> list[int]:
    """The units that the instance calls frozen, or else those that are saturated on its data."""
    if "frozen" in instance.extra:
        return list(instance.extra["frozen"])
    return list(saturated_units(instance.dag, instance.theta, instance.x))


def _refute(instance: Instance, text: str, lines: list[dict[str, Any]]) -> Evidence:
    return Evidence(Verdict.FAILS, note=text, witness=lambda: witness(text, {"net": network_document(instance)}, lines))


def _at_start(instance: Instance, unit: int) -> list[dict[str, Any]]:
    """Witness lines: the unit is strictly inside a flat piece on every sample at θ_0, where it is."""
    if unit not in saturated_units(instance.dag, instance.theta, instance.x):
        return []
    lines = []
    for n, z in enumerate(by_unit(instance.dag, exact_pass(instance).z)[unit]):
        for low, high, _ in get_activation(instance.dag.activation(unit)).saturated_pieces:
            if (low is None or z > to_fmpq(low)) and (high is None or z < to_fmpq(high)):
                ends = ((">", low), ("<", high))
                lines += [
                    assertion(quantity("preactivation", unit=unit, sample=n), op, c) for op, c in ends if c is not None
                ]
    return lines


def _awake(instance: Instance, unit: int, k: int, theta: np.ndarray) -> Evidence | None:
    """Is a pre-activation of the unit not strictly inside a flat piece at θ_k?"""
    z = by_unit(instance.dag, exact_pass(instance, theta).z)[unit]
    pieces = get_activation(instance.dag.activation(unit)).saturated_pieces
    for n, value in enumerate(z):
        gaps = [(low, high) for low, high, _ in pieces]
        if any((lo is None or value > to_fmpq(lo)) and (hi is None or value < to_fmpq(hi)) for lo, hi in gaps):
            continue
        at = quantity("preactivation", unit=int(unit), sample=n, **training(instance, k))
        inside = [assertion(at, ">=", hi) for lo, hi in gaps if lo is None and hi is not None]
        inside += [assertion(at, "<=", lo) for lo, hi in gaps if hi is None and lo is not None]
        text = f"unit {unit} has z = {value} on sample {n} after {k} steps: it is not frozen"
        return _refute(instance, text, [*(_at_start(instance, unit) if k else []), *inside])
    return None


def _moved(instance: Instance, unit: int, params: np.ndarray, k: int, path: Sequence[np.ndarray]) -> Evidence | None:
    """Has one of the parameters changed by step k?"""
    for p in params.tolist():
        if path[k][p] != path[0][p]:
            text = f"θ{p} of the frozen unit {unit} goes from {path[0][p]} to {path[k][p]} in {k} steps"
            line = assertion(quantity("param_after", index=p, **training(instance, k)), "!=", path[0][p])
            return _refute(instance, text, [*_at_start(instance, unit), line])
    return None


def check_frozen(instance: Instance) -> Evidence:
    """At each step the declared units are strictly saturated on every sample and their incoming parameters are those of θ_0."""
    units, path = declared(instance), []
    try:
        for k, theta in enumerate(states(instance)):
            path.append(theta)
            for unit in units:
                params = instance.dag.params_of(instance.dag.incoming(unit))
                found = _moved(instance, unit, params, k, path) or _awake(instance, unit, k, theta)
                if found is not None:
                    return found
    except KinkError as error:
        return Evidence(Verdict.UNDECIDED, note=str(error))
    return Evidence(Verdict.HOLDS)


def check_printed(instance: Instance) -> Evidence:
    """Do the incoming parameters of the declared units stay?"""
    try:
        path = trajectory(instance)
    except KinkError as error:
        return Evidence(Verdict.UNDECIDED, note=str(error))
    for unit in declared(instance):
        for k in range(len(path)):
            found = _moved(instance, unit, instance.dag.params_of(instance.dag.incoming(unit)), k, path)
            if found is not None:
                return found
    return Evidence(Verdict.HOLDS)


def _check_outgoing(instance: Instance) -> Evidence:
    """The outgoing parameters of a frozen unit do not move either."""
    try:
        path = trajectory(instance)
    except KinkError as error:
        return Evidence(Verdict.UNDECIDED, note=str(error))
    for unit in declared(instance):
        found = _moved(instance, unit, instance.dag.params_of(instance.dag.outgoing(unit)), len(path) - 1, path)
        if found is not None:
            return found
    return Evidence(Verdict.HOLDS)


def _check_tanh(instance: Instance) -> Evidence:
    """A tanh unit far out has a zero gradient. With one sample x ≠ 0, w_out ≠ 0, z ≠ 0 it has not: tanh z is irrational,
    so the residual w_out tanh z + b − y is not 0, and tanh' > 0."""
    w, b, out, _ = (float(t) for t in instance.theta)
    if out == 0 or w * instance.x[0, 0] + b == 0:
        return Evidence(Verdict.HOLDS)
    text = "the gradient of the bias of a saturated tanh unit is not 0"
    return _refute(instance, text, [assertion(quantity("gradient", index=1), "!=", 0)])


@st.composite
def _saturated_tanh(draw: DrawFn) -> Instance:
    w, out, y = (float(t) for t in integers_array(draw, (3,), 3))
    theta = np.array([w, 20.0, out, 0.0])
    return Instance(mlp([1, 1, 1], "tanh"), theta, np.array([[1.0]]), np.array([[y]]))


# -- assumptions -----------------------------------------------------------------------------------------------------


def _certified(instance: Instance) -> bool:
    box = instance.extra.get("box", np.abs(instance.x).max())
    found = (
        persistence_certificate(instance.dag, instance.theta, u, box, samples=instance.x) for u in declared(instance)
    )
    return all(certificate is not None and certificate.strict for certificate in found)


def _in_box(instance: Instance) -> bool:
    return bool((np.abs(instance.x) <= instance.extra.get("box", np.abs(instance.x).max())).all())


def _zero_buffer(instance: Instance) -> bool:
    dag = instance.dag
    velocity = rational_array(instance.extra.get("velocity", np.zeros(dag.num_params)))
    return bool((velocity[dag.params_of(np.flatnonzero(np.isin(dag.target, declared(instance))))] == 0).all())


def _saturated_at_start(instance: Instance) -> bool:
    flat = saturated_units(instance.dag, instance.theta, instance.x)
    return all(unit in flat for unit in declared(instance))


CERTIFICATE = Assumption(
    "certificate", "each unit has a strict persistence certificate F-a, F-b, F-c or F-d", _certified
)
IN_BOX = Assumption("inputs in the box", "all inputs lie in the box that the certificate reckons with", _in_box)
ZERO_BUFFER = Assumption(
    "zero optimizer state", "the momentum buffer is zero on the incoming parameters of the units", _zero_buffer
)
NO_DECAY = Assumption("no weight decay", "weight decay is 0", lambda i: i.extra.get("weight_decay", 0) == 0)
SATURATED = Assumption("saturated at the start", "f' = 0 on all data at θ_0", _saturated_at_start)


@st.composite
def _with_buffer(draw: DrawFn) -> Instance:
    """A buffer gathered before the unit died: 1 on one of its incoming parameters."""
    instance = draw(frozen_networks(CERTIFIED, steps=2))
    unit = instance.extra["frozen"][-1]
    velocity = instance.extra["velocity"].copy()
    velocity[_incoming(instance.dag, unit)[0]] = 1
    return replace(instance, extra={**instance.extra, "momentum": fmpq(1, 2), "velocity": velocity})


def _changed(**extra: Any) -> Callable[[Instance], Instance]:
    return lambda instance: replace(instance, extra={**instance.extra, **extra})


def _all_hidden(instance: Instance) -> Instance:
    """Declare every hidden unit frozen; unless none trains at all, one of them is not saturated."""
    return replace(instance, extra={**instance.extra, "frozen": tuple(instance.dag.hidden.tolist())})


def _nonstrict(instance: Instance) -> Instance:
    """b = 0 for the frozen unit."""
    theta = instance.theta.copy()
    theta[_incoming(instance.dag, instance.extra["frozen"][0])[0]] = 0
    return replace(instance, theta=theta)


# -- claims ----------------------------------------------------------------------------------------------------------

FROZEN_AS_PRINTED = Claim(
    id="barriers.thm2.1.frozen",
    title="Frozen units stay frozen, as printed",
    source=Source(BARRIERS, "v1", "Theorem 2.1(1)"),
    kind="theorem",
    statement=r"If $f'_v(z_v) = 0$ for all $v \in F$ on all inputs encountered, then the incoming parameters of $F$ have zero "
    r"gradient, and (stochastic) gradient descent started on $M_F = \{\theta : \theta_{in}(v) = \mathrm{const},\ v \in F\}$ "
    r"stays on it. Read for the data in use and the parameters at the start.",
    quantifier="for all",
    assumptions=(SATURATED,),
    instances=frozen_networks(("none",)).map(plain),
    check=check_printed,
    expected=Verdict.FAILS,
    proof="The gradient is zero as long as f' is; but z_v also depends on parameters upstream, which learn, until z_v is "
    "positive on some sample: then the incoming parameters move. Read for the whole trajectory the statement is a tautology.",
    without={"saturated at the start": frozen_networks(("none",)).map(plain).map(_all_hidden)},
    mutants=(
        Mutant(
            "small rate",
            "at rates up to 1/16 the trajectory stays on M_F",
            check_printed,
            frozen_networks(("none",)).map(plain).map(_changed(rate=fmpq(1, 16))),
        ),
        Mutant("tanh", "a tanh unit with |z| ≥ 17 is frozen: zero gradient", _check_tanh, _saturated_tanh()),
    ),
)

FROZEN_REPAIRED = Claim(
    id="barriers.thm2.1.frozen.repaired",
    title="Frozen units with a persistence certificate stay frozen",
    source=Source(BARRIERS, "v1", "Theorem 2.1(1), repaired", "ours: the certificates"),
    kind="theorem",
    statement=r"Let every $v \in F$ have a strict persistence certificate at $\theta_0$: F-a $|b| > R\|w\|_1$ beyond the "
    r"breakpoint for inputs $\|x\|_\infty \le R$; F-b features $\ge 0$, $w \le 0$, $b < 0$; F-c features bounded by $B$ and "
    r"$b + B\|w\|_1 < 0$; or F-d all trainable ancestors frozen. Then gradient descent, with momentum from a buffer that is "
    r"zero on $\theta_{in}(F)$ and without weight decay, leaves $\theta_{in}(F)$ exactly as it is, and $F$ frozen, for ever.",
    quantifier="for all",
    assumptions=(CERTIFICATE, IN_BOX, ZERO_BUFFER, NO_DECAY),
    instances=frozen_networks(CERTIFIED),
    check=check_frozen,
    expected=Verdict.HOLDS,
    proof="A certificate bounds z_v by θ_in(v) alone, for every input of the box and every state upstream (F-d: a state that "
    "does not move). While θ_in(v) is unchanged f'_v = 0, so its gradient and its buffer stay zero, so it is unchanged.",
    without={
        "certificate": frozen_networks(("none",)),
        "inputs in the box": frozen_networks(("first",), outside=8),
        "zero optimizer state": _with_buffer(),
        "no weight decay": frozen_networks(CERTIFIED).map(_changed(weight_decay=fmpq(1, 2))),
    },
    mutants=(
        Mutant(
            "not strict",
            "F-b with w ≤ 0 and b = 0 keeps z < 0",
            check_frozen,
            frozen_networks(("sign",)).map(_nonstrict),
        ),
        Mutant(
            "one positive weight", "F-b may have one positive weight", check_frozen, frozen_networks(("one positive",))
        ),
        Mutant(
            "half the box",
            "F-a with the margin for inputs of half the size",
            check_frozen,
            frozen_networks(("first",), box=1),
        ),
        Mutant(
            "outgoing",
            "the outgoing parameters of a frozen unit stay too",
            _check_outgoing,
            frozen_networks(("first",)).map(plain),
        ),
    ),
    certificates=(PERSISTENCE,),
    depends_on=("barriers.def2.1",),
    repairs="barriers.thm2.1.frozen",
)

CLAIMS = (FROZEN_AS_PRINTED, FROZEN_REPAIRED)
