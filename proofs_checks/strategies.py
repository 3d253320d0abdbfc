"""Strategies: exact instances that satisfy assumptions by construction, and shrink towards small plain networks.

All numbers come from one block of bytes per instance (one choice for the search engine instead of hundreds), mapped so that
0 comes first: everything shrinks towards zero weights, one sample, few and narrow layers. Blocks have a few fixed sizes and
structure is drawn before them, so that a smaller network can still read the numbers of the larger one.

*Parity trick*: even weights and odd hidden biases on integer inputs make every pre-activation odd, so none sits on a kink.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lop_theory.architectures import mlp, random_dag
from lop_theory.arithmetic import FLOATS
from lop_theory.dag import Dag
from lop_theory.forward import run_forward
from proofs_checks.instances import Instance

_ORDER = np.array([0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8])


def integers_array(draw: DrawFn, shape: Sequence[int], bound: int = 4) -> np.ndarray:
    """Integers in [−bound, bound] (bound ≤ 8) as float64; shrinks towards zeros."""
    size = int(np.prod(shape))
    drawn = 32
    while drawn < size:
        drawn *= 2
    raw = np.frombuffer(draw(st.binary(min_size=drawn, max_size=drawn)), dtype=np.uint8)[:size]
    return _ORDER[raw % (2 * bound + 1)].reshape(tuple(shape)).astype(np.float64)


def odd_biases(dag: Dag, theta: np.ndarray) -> np.ndarray:
    """The parity trick: weights doubled (even), biases of hidden units made odd (2b + 1)."""
    theta = 2 * theta
    if dag.has_constant:
        edges = (dag.source == dag.num_inputs) & ~np.isin(dag.target, dag.outputs)
        theta[dag.param[edges]] += 1
    return theta


def hidden_values(dag: Dag, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pre-activations [N, num_units] (NaN on inputs and constant) by the float64 forward pass, exact on small integers."""
    run = run_forward(FLOATS, dag, theta, x)
    z = np.full((len(x), dag.num_units), np.nan)
    for b, values in run.z.items():
        z[:, dag.blocks[b].units] = values
    return z


def kill_units(dag: Dag, theta: np.ndarray, x: np.ndarray, units: Sequence[int], margin: int = 2) -> np.ndarray:
    """Make the given ReLU units strictly dead on x by lowering their biases by an even number (parity is kept)."""
    theta = theta.copy()
    for v in sorted(units):
        bias = dag.param[(dag.target == v) & (dag.source == dag.num_inputs)]
        highest = hidden_values(dag, theta, x)[:, v].max()
        if highest >= 0:
            theta[bias] -= 2 * np.ceil((highest + margin) / 2)
    return theta


@st.composite
def widths(
    draw: DrawFn,
    hidden_layers: tuple[int, int] = (1, 2),
    max_width: int = 4,
    max_inputs: int = 3,
    max_outputs: int = 2,
    min_width: int = 1,
) -> list[int]:
    """Layer widths, input first; shrinks towards few layers of width one."""
    depth = draw(st.integers(*hidden_layers))
    ends = [draw(st.integers(1, max_inputs)), draw(st.integers(1, max_outputs))]
    hidden = [draw(st.integers(min_width, max_width)) for _ in range(hidden_layers[1])]
    return [ends[0], *hidden[:depth], ends[1]]


@st.composite
def mlp_instances(
    draw: DrawFn,
    shapes: SearchStrategy[list[int]] | None = None,
    activation: str = "relu",
    samples: tuple[int, int] = (1, 8),
    bias: bool = True,
    kind: str = "mse_sum",
    bound: int = 3,
) -> Instance:
    """An MLP on integers (parity trick), integer data and targets; nothing planted."""
    dims = draw(shapes if shapes is not None else widths())
    dag = mlp(dims, activation, bias)
    n = draw(st.integers(*samples))
    theta = odd_biases(dag, integers_array(draw, (dag.num_params,), bound))
    x = integers_array(draw, (n, dims[0]), 4)
    if kind == "cross_entropy":
        y: np.ndarray = (integers_array(draw, (n,), 8).astype(np.int64)) % dims[-1]
    else:
        y = integers_array(draw, (n, dims[-1]), 8)
    return Instance(dag, theta, x, y, kind)


def layer_units(dag: Dag, layer: int) -> np.ndarray:
    """Units of hidden layer 1, 2, … of a layered net."""
    return dag.blocks[layer + 1].units


def _bit(dag: Dag, unit: int) -> int:
    """Four bits per layer, so that a flag keeps its meaning when another layer is made narrower."""
    level = int(dag.level[unit])
    return (4 * (level - 1) + int(np.flatnonzero(layer_units(dag, level) == unit)[0]) % 4) % 12


@st.composite
def with_dead_units(
    draw: DrawFn, base: SearchStrategy[Instance], choose: Callable[[DrawFn, Dag], list[int]] | None = None
) -> Instance:
    """Make units of a ReLU net dead: those that ``choose`` draws, else any subset of the hidden units."""
    flags = draw(st.integers(0, 2**12 - 1))
    instance = draw(base)
    dag = instance.dag
    units = choose(draw, dag) if choose is not None else [v for v in dag.hidden.tolist() if flags >> _bit(dag, v) & 1]
    theta = kill_units(dag, instance.theta, instance.x, units)
    return replace(instance, theta=theta, extra={**instance.extra, "planted": tuple(units)})


@st.composite
def dag_instances(
    draw: DrawFn,
    activation: str = "relu",
    max_hidden: int = 5,
    samples: tuple[int, int] = (1, 6),
    kind: str = "mse_sum",
    bound: int = 2,
) -> Instance:
    """A random DAG with skip connections on integers. Shrinks towards few hidden units.

    With skip connections of any depth parities still work out: inputs enter with even weights, so z is odd everywhere.
    """
    dag = random_dag(
        np.random.default_rng(draw(st.integers(0, 2**16))),
        num_inputs=draw(st.integers(1, 2)),
        hidden=draw(st.integers(1, max_hidden)),
        num_outputs=draw(st.integers(1, 2)),
        activation=activation,
        density=0.6,
    )
    n = draw(st.integers(*samples))
    theta = odd_biases(dag, integers_array(draw, (dag.num_params,), bound))
    x = integers_array(draw, (n, dag.num_inputs), 3)
    y = integers_array(draw, (n, dag.num_outputs), 4)
    return Instance(dag, theta, x, y, kind)
