"""Rank bounds against exact ranks, exact null vectors, closed forms, and a polynomial oracle; each bound from both sides."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import flint
import numpy as np
import pytest
import torch

from lop_theory.activations import KinkError
from lop_theory.architectures import mlp, random_dag, residual_mlp
from lop_theory.bounds import (
    GateNullity,
    cloned_rank,
    cloned_rank_formula,
    constant_unit_bound,
    dead_unit_bound,
    dead_unit_bound_corrected,
    gate_bound,
    gate_null_directions,
    gate_nullity,
    softmax_shift_dimension,
)
from lop_theory.clone_formula import clone_form
from lop_theory.dag import Dag
from lop_theory.exact import ball_hessian, exact_hessian
from lop_theory.forward import evaluate
from lop_theory.gates import GatePattern, frozen_pattern, gate_pattern, linear_pieces
from lop_theory.hessian import hessian
from lop_theory.partition import UnitPartition
from lop_theory.rank import exact_rank
from tests.reference.path_polynomials import invariant_dimension


class Instance(NamedTuple):
    dag: Dag
    theta: list[int]
    x: list[list[int]]
    y: list[list[int]]

    @property
    def rank(self) -> int:
        return exact_rank(exact_hessian(*self))


def integer_instance(rng: np.random.Generator, dag: Dag, samples: int, dead: tuple[int, ...] = ()) -> Instance:
    """Integer θ, x, y off every kink: even weights, so that z has the parity of the bias (odd, but even for hard_tanh).

    The biases of the units in ``dead`` are lowered until these units are off on every sample.
    """
    theta = 2 * rng.integers(-3, 4, dag.num_params)
    x, y = rng.integers(-3, 4, (samples, dag.num_inputs)), rng.integers(-9, 10, (samples, dag.num_outputs))
    bias = {int(dag.target[e]): int(dag.param[e]) for e in np.flatnonzero(dag.source == dag.constant)}
    for v in dag.hidden.tolist():
        if v in bias:
            theta[bias[v]] = 2 * rng.integers(-3, 3) + (dag.activation(v) not in ("hard_tanh", "identity"))
    for v in sorted(dead):
        z = evaluate(dag, torch.tensor(theta, dtype=torch.float64), torch.tensor(x, dtype=torch.float64)).z[:, v]
        theta[bias[v]] -= 2 * (int(z.max()) // 2 + 1 + (int(z.max()) > 0))
    return Instance(dag, theta.tolist(), x.tolist(), y.tolist())


def networks(rng: np.random.Generator, activation: str, count: int) -> Iterator[Instance]:
    """MLPs with one and two hidden layers, random DAGs and residual nets, in turn."""
    for k in range(count):
        width = [int(w) for w in rng.integers(1, 4, 4)]
        dag = (
            mlp([*width[:2], 2], activation),
            mlp([*width[:3], 1], activation),
            random_dag(rng, 2, width[0] + 1, width[1], activation, 0.6),
            residual_mlp(2, 2, 1, 2, activation),
        )[k % 4]
        yield integer_instance(rng, dag, int(rng.integers(1, 12)))


# Minimal counterexamples: one dead unit in each of two adjacent layers; P = 13.
SMALL = Instance(
    mlp([1, 2, 2, 1]), [0, 0, -1, 2, 0, 2, 2, 0, 1, -2, 1, 0, -1], [[-3], [2], [1], [0]], [[0], [0], [0], [-1]]
)
RATIONAL = (
    mlp([1, 2, 2, 1]),
    [1, 1, 1, -10, 2, 1, 1, 1, -2, -20, 1, 1, 0],
    [[Fraction(-1, 2)], [1], [2], [Fraction(1, 4)], [3]],
    [[1], [0], [3], [2], [-1]],
)


# -------------------------------------------------------------------------------------------------- dead units


@pytest.mark.parametrize("instance", [SMALL, RATIONAL])
def test_printed_bound_is_violated_by_adjacent_dead_units_and_the_union_is_attained(instance: Instance) -> None:
    rank = exact_rank(exact_hessian(*instance))
    dag, theta, x, _ = instance
    assert (dead_unit_bound(dag, theta, x), rank, dead_unit_bound_corrected(dag, theta, x)) == (5, 6, 6)


def test_adjacent_dead_units_follow_the_union_count_and_break_the_printed_one() -> None:
    rng, violated, attained = np.random.default_rng(0), 0, 0
    for _ in range(60):
        d = [int(v) for v in rng.integers(3, 5, 4)]
        k = [int(rng.integers(1, 3)), int(rng.integers(1, 3))]
        dag = mlp(d)
        first, second = dag.first_computed, dag.first_computed + d[1]
        dead = (*range(first, first + k[0]), *range(second, second + k[1]))
        case = integer_instance(rng, dag, 40, dead)
        gates = gate_pattern(dag, case.theta, case.x)
        if set(gates.dead_units) != set(dead):
            continue  # a further unit happens to be dead
        printed = dag.num_params - k[0] * (d[0] + d[2] + 1) - k[1] * (d[1] + d[3] + 1)
        corrected = dead_unit_bound_corrected(dag, case.theta, case.x)
        assert dead_unit_bound(dag, case.theta, case.x) == printed
        assert corrected == printed + k[0] * k[1]
        rank = case.rank
        assert rank <= corrected
        violated, attained = violated + (rank > printed), attained + (rank == corrected)
    assert violated >= 5
    assert attained >= 2


def test_printed_bound_holds_and_is_attained_for_one_hidden_layer() -> None:
    rng, attained = np.random.default_rng(1), 0
    for _ in range(30):
        dag = mlp([2, 4, 2])
        case = integer_instance(rng, dag, 60, (3, 5))
        bound = dead_unit_bound(dag, case.theta, case.x)
        assert case.rank <= bound
        if gate_pattern(dag, case.theta, case.x).dead_units.tolist() == [3, 5]:
            assert bound == dead_unit_bound_corrected(dag, case.theta, case.x) == dag.num_params - 2 * (2 + 2 + 1)
            attained += case.rank == bound
    assert attained >= 5


def test_a_whole_dead_layer_makes_everything_before_it_irrelevant() -> None:
    dag = mlp([2, 3, 2, 2])
    theta = [2] * (6 + 3) + [2] * 6 + [-999, -999] + [2] * 4 + [1, 1]
    case = Instance(dag, theta, [[1, 0], [0, 1], [1, 1]], [[0, 0], [1, 1], [0, 2]])
    assert dead_unit_bound_corrected(*case[:3]) == 2 == case.rank  # only the output biases are left
    assert dead_unit_bound(*case[:3]) == dag.num_params - 2 * (3 + 2 + 1)


# ------------------------------------------------------------------------------------- the lemma and its bounds


@pytest.mark.parametrize("activation", ["relu", "relu6", "hard_tanh", "leaky_relu:3/1", "abs", "square"])
def test_null_directions_are_null_and_bounds_are_ordered_above_the_rank(activation: str) -> None:
    rng, tight = np.random.default_rng(2), 0
    for case in networks(rng, activation, 60):
        dag, theta, x, _ = case
        gates = gate_pattern(dag, theta, x)
        h = exact_hessian(*case)
        rank, basis = exact_rank(h), gate_null_directions(dag, theta, x, gates=gates)
        nullity = gate_nullity(dag, theta, x, gates=gates).total
        assert basis.ncols() == nullity
        assert nullity == 0 or (exact_rank(basis) == nullity and exact_rank(h * basis) == 0)
        bounds = [f(dag, theta, x, gates=gates) for f in (gate_bound, constant_unit_bound, dead_unit_bound_corrected)]
        assert [rank, *bounds] == sorted([rank, *bounds])
        tight += rank == bounds[0]
    assert tight >= 10


@pytest.mark.parametrize("activation", ["relu", "relu6", "hard_tanh", "square"])
def test_gate_nullity_is_the_dimension_of_all_directions_that_leave_the_outputs_alone(activation: str) -> None:
    rng, compared = np.random.default_rng(3), 0
    for dag, theta, x, _ in networks(rng, activation, 60):
        if dag.num_params > 20 or (activation == "square" and len(dag.hidden) > 2):
            continue  # the oracle multiplies polynomials
        compared += 1
        assert gate_nullity(dag, theta, x).total == invariant_dimension(dag, theta, x, up_to_shift=False)
        if dag.num_outputs > 1:
            found = gate_nullity(dag, theta, x, "cross_entropy").total
            alike = invariant_dimension(dag, theta, x, up_to_shift=True)
            same_sources = len({tuple(dag.source[dag.incoming(int(o))]) for o in dag.outputs}) == 1
            assert found == alike if same_sources else found <= alike
    assert compared >= 15


def test_gate_bound_on_a_convolution_with_tied_weights() -> None:
    # Two positions of a 1-d convolution of width 2 (weights 0, 1, bias 2), ReLU, then a linear output (3, 4, bias 5).
    edges = [(0, 4, 0), (1, 4, 1), (3, 4, 2), (1, 5, 0), (2, 5, 1), (3, 5, 2), (4, 6, 3), (5, 6, 4), (3, 6, 5)]
    source, target, param = (np.array(c) for c in zip(*edges, strict=True))
    dag = Dag(3, True, ("relu", "relu", "identity"), source, target, param, np.array([6]))
    rng, dependent = np.random.default_rng(4), 0
    for samples in (1, 1, 1, 1, 2, 2, 3, 8) * 5:
        case = integer_instance(rng, dag, samples)
        found = gate_nullity(dag, case.theta, case.x)
        assert case.rank <= dag.num_params - found.total
        assert found.total == invariant_dimension(dag, case.theta, case.x, up_to_shift=False)
        dependent += found.dependent
    assert dependent > 0
    with pytest.raises(ValueError, match="ties weights"):
        dead_unit_bound(dag, case.theta, case.x)


def test_closing_paths_through_zero_weights_would_be_wrong() -> None:
    # A fresh unit (outgoing weight 0): f does not depend on its 2 incoming parameters, yet they are not both null for H
    # (only I + 1 − rank A = 1 combination is, and that depends on the residuals, not on the gates).
    dag, theta, x, y = mlp([1, 1, 1]), [2, 1, 0, 0], [[1], [2], [4]], [[1], [-5], [3]]
    assert exact_rank(exact_hessian(dag, theta, x, y)) == 3 > 4 - 2
    assert gate_bound(dag, theta, x) == 4


def test_breakdown_names_the_causes() -> None:
    # Inputs (x₁, 0): a silent column for both units. Unit 1 is dead, unit 0 sees one sample: [x₁, 1] has rank 1.
    dag, theta = mlp([2, 2, 2]), [2, 2, 2, 2, 1, -99, 2, 2, 2, 2, 0, 0]
    assert gate_nullity(dag, theta, [[1, 0]]) == GateNullity(closed=3, silent=1 + 2, dependent=1, softmax_shift=0)
    # Softmax adds the live unit and the bias; the dead unit's shift is counted among the silent ones.
    assert gate_nullity(dag, theta, [[1, 0]], "cross_entropy") == GateNullity(3, 3, 1, 2)


# ----------------------------------------------------------------------------------------------- constant units


@pytest.mark.parametrize("next_bias", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("activation", ["hard_tanh", "relu6"])
def test_constant_units_have_the_closed_form_and_attain_it(activation: str, k: int, next_bias: bool) -> None:
    inputs, width, outputs = 2, 5, 3
    dag = _two_layers(inputs, width, outputs, activation, next_bias)
    rng, attained = np.random.default_rng(5), 0
    for _ in range(4):
        theta, x = rng.integers(-31, 32, dag.num_params) / 32, rng.integers(-63, 64, (24, inputs)) / 32
        for v in dag.hidden.tolist():
            theta[_bias(dag, v)] += 2**-11  # off every kink: all other terms of z are multiples of 2⁻¹⁰
        case = Instance(dag, theta.tolist(), x.tolist(), rng.integers(-9, 10, (24, outputs)).tolist())
        for i, v in enumerate(range(3, 3 + k)):
            case.theta[_bias(dag, v)] = 1000.5 * (-1) ** i  # hard_tanh: 1, −1, 1; relu6: 6, 0, 6
        values = [1, -1, 1][:k] if activation == "hard_tanh" else [6, 0, 6][:k]
        gates = gate_pattern(dag, case.theta, case.x)
        assert gates.constant_units.tolist() == list(range(3, 3 + k))
        zero = values.count(0)
        free = k if next_bias else max(k - zero - 1, 0) + zero
        nullity = k * (inputs + 1) + outputs * free
        bound = constant_unit_bound(dag, case.theta, case.x, gates=gates)
        assert bound == dag.num_params - nullity
        rank = case.rank
        assert rank <= bound
        attained += rank == bound
        if not next_bias and zero < k and rank == bound:
            assert rank > dag.num_params - k * (inputs + outputs + 1)  # as printed: violated by O
    assert attained >= 1


@pytest.mark.parametrize(("k", "mse", "ce"), [(1, 51, 44), (2, 43, 37)])
def test_constant_units_without_next_bias_reference_values(k: int, mse: int, ce: int) -> None:
    # Spectral Collapse digest §3.4: hard_tanh 4-7-3 without next-layer biases, P = 56.
    dag = _two_layers(4, 7, 3, "hard_tanh", False)
    rng = np.random.default_rng(6)
    theta, x = rng.uniform(-0.1, 0.1, dag.num_params), rng.uniform(-1, 1, (20, 4))
    for v in range(5, 5 + k):
        theta[_bias(dag, v)] = 40.0
    assert dag.num_params == 56
    assert constant_unit_bound(dag, theta, x) == mse
    assert constant_unit_bound(dag, theta, x, "cross_entropy") == ce


def _two_layers(inputs: int, width: int, outputs: int, activation: str, next_bias: bool) -> Dag:
    """inputs-width-outputs, biases on the hidden layer, on the outputs only if ``next_bias``."""
    full = mlp([inputs, width, outputs], activation)
    kept = np.flatnonzero((full.source != full.constant) | ~np.isin(full.target, full.outputs) | next_bias)
    param = np.unique(full.param[kept], return_inverse=True)[1]
    return Dag(inputs, True, full.activations, full.source[kept], full.target[kept], param, full.outputs)


def _bias(dag: Dag, unit: int) -> int:
    return int(dag.param[np.flatnonzero((dag.source == dag.constant) & (dag.target == unit))[0]])


# ------------------------------------------------------------------------------------------------------ softmax


@pytest.mark.parametrize("widths", [[3, 4], [2, 3, 3], [2, 3, 3, 2]])
@pytest.mark.parametrize("activation", ["relu", "hard_tanh", "tanh"])
def test_softmax_null_directions_are_null_in_balls(widths: list[int], activation: str) -> None:
    rng = np.random.default_rng(7)
    for samples in (1, 2, 9):
        case = integer_instance(rng, mlp(widths, activation), samples)
        labels = rng.integers(0, widths[-1], samples)
        basis = gate_null_directions(case.dag, case.theta, case.x, "cross_entropy")
        found = gate_nullity(case.dag, case.theta, case.x, "cross_entropy")
        assert basis.ncols() == found.total == exact_rank(basis)
        assert found.softmax_shift <= softmax_shift_dimension(case.dag) == widths[-2] + 1
        h = ball_hessian(case.dag, case.theta, case.x, labels, "cross_entropy", 256)
        with flint.ctx.workprec(256):
            product = (h @ np.array(basis.tolist(), dtype=object)).ravel()
        assert all(entry.contains(0) and float(abs(entry).upper()) < 1e-20 for entry in product)


@pytest.mark.parametrize("samples", [1, 2, 3, 10])
def test_softmax_regression_has_rank_outputs_minus_one_times_input_rank(samples: int) -> None:
    # No hidden layer: the shift meets the input relations, and only dim of the sum of both is right.
    rng = np.random.default_rng(8)
    dag, x = mlp([3, 4]), rng.normal(size=(samples, 3))
    theta = torch.from_numpy(rng.normal(size=dag.num_params))
    bound = gate_bound(dag, theta, x, "cross_entropy")
    assert bound == 3 * min(samples, 4)
    labels = torch.from_numpy(rng.integers(0, 4, samples))
    spectrum = torch.linalg.eigvalsh(hessian(dag, theta, torch.from_numpy(x), labels, "cross_entropy")).abs()
    assert int((spectrum > 1e-10 * spectrum.max()).sum()) == bound


def test_softmax_bound_is_attained_with_dead_units() -> None:
    # rank = P − k (I + O + 1) − (h − k + 1), one hidden layer.
    rng = np.random.default_rng(9)
    dag, k = mlp([3, 6, 3]), 2
    theta, x = torch.from_numpy(rng.normal(size=dag.num_params)), torch.from_numpy(rng.normal(size=(300, 3)))
    for v in range(4, 4 + k):
        theta[_bias(dag, v)] = -50
    expected = dag.num_params - k * (3 + 3 + 1) - (6 - k + 1)
    assert dead_unit_bound_corrected(dag, theta, x, "cross_entropy") == expected
    assert gate_bound(dag, theta, x, "cross_entropy") == expected
    labels = torch.from_numpy(rng.integers(0, 3, 300))
    spectrum = torch.linalg.eigvalsh(hessian(dag, theta, x, labels, "cross_entropy")).abs().sort(descending=True)[0]
    assert spectrum[expected] < 1e-13 * spectrum[0] < 1e-7 * spectrum[0] < spectrum[expected - 1]


def test_shift_needs_linear_outputs_that_feed_nothing() -> None:
    assert softmax_shift_dimension(mlp([4, 7, 3])) == 8
    edges = np.array([0, 1, 0, 1, 2]), np.array([2, 2, 3, 3, 3])
    chained = Dag(1, True, ("identity", "identity"), *edges, np.arange(5), np.array([2, 3]))
    squashed = Dag(1, True, ("identity", "tanh"), edges[0][:4], edges[1][:4], np.arange(4), np.array([2, 3]))
    tied = Dag(1, True, ("identity", "identity"), edges[0][:4], edges[1][:4], np.array([0, 1, 0, 2]), np.array([2, 3]))
    assert [softmax_shift_dimension(net) for net in (chained, squashed, tied)] == [0, 0, 1]


# ------------------------------------------------------------------------------------------------ gate patterns


def test_pieces_agree_with_the_float_forward_pass() -> None:
    rng = np.random.default_rng(10)
    dag = mlp([5, 8, 7, 3], "hard_tanh")
    theta, x = torch.from_numpy(rng.normal(size=dag.num_params)), torch.from_numpy(rng.normal(size=(30, 5)))
    z = evaluate(dag, theta, x).z[:, 6:21].numpy()
    assert np.array_equal(linear_pieces(dag, theta, x)[:, 6:21], (z > -1).astype(int) + (z > 1))


def test_pieces_are_exact_where_floats_round_to_the_kink() -> None:
    # z = (1 + 2⁻⁶⁰) − 1 > 0 exactly; in float64 it is 0.
    assert linear_pieces(mlp([1, 1, 1]), [Fraction(2**60 + 1, 2**60), -1, 1, 0], [[1]])[0, 2] == 1
    with pytest.raises(KinkError, match="kink"):
        gate_pattern(mlp([1, 1, 1]), [1, -1, 1, 0], [[1]])


def test_slopes_and_values_of_a_pattern() -> None:
    gates = gate_pattern(mlp([1, 1, 1], "hard_tanh"), [2, 0, 1, 0], [[-3], [0], [3]])
    assert gates.slope[:, 2].tolist() == [0, 1, 0]
    assert gates.static[:, 2].tolist() == [True, False, True]
    assert gates.value[:, 2].tolist() == [-1, 0, 1]
    assert gates.constant_units.size == gates.dead_units.size == 0  # frozen, but not constant over the batch
    assert isinstance(gates, GatePattern) and gates.num_samples == 3


def test_fixed_weights_carry_static_values_and_fixed_zeros_close_paths() -> None:
    # input → u (fixed 3) → out: u is static; a second unit reaches the output only through a fixed 0.
    source, target, param = np.array([0, 0, 1, 2]), np.array([1, 2, 3, 3]), np.array([-1, 0, 1, -1])
    dag = Dag(1, False, ("identity", "identity", "identity"), source, target, param, np.array([3]), {0: 3, 3: 0})
    gates = gate_pattern(dag, [7, 5], [[2]])
    assert gates.static[0].tolist() == [True, True, False, False] and gates.value[0, 1] == 6
    assert gates.open[0].tolist() == [True, True, False, True]
    assert gate_nullity(dag, [7, 5], [[2]]) == GateNullity(closed=1, silent=0, dependent=0, softmax_shift=0)


def test_saturated_smooth_unit_is_not_dead() -> None:
    dag, theta, x = mlp([1, 2, 1], "tanh"), [1, 1, 40, 0, 1, 1, 0], [[0], [1], [2]]
    assert dead_unit_bound(dag, theta, x) == dead_unit_bound_corrected(dag, theta, x) == gate_bound(dag, theta, x) == 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gate_pattern(mlp([1, 1]), [1], [[1]]), "P = 2"),
        (lambda: gate_pattern(mlp([1, 1]), [1, 1], [[1, 2]]), r"give \[N, 1\]"),
        (lambda: gate_pattern(mlp([1, 1]), [1, float("nan")], [[1]]), None),
        (lambda: gate_pattern(mlp([1, 1]), [1, 1], [[1]], np.zeros((2, 3))), "pieces"),
        (lambda: gate_bound(mlp([1, 1]), [1, 1], [[1]], "hinge"), "unknown loss"),
        (
            lambda: gate_bound(mlp([1, 1]), [1, 1], [[1]], gates=gate_pattern(SMALL.dag, SMALL.theta, SMALL.x)),
            "another",
        ),
        (lambda: linear_pieces(_mixed(), [1, 1, 1], [[1]]), "not decided"),
        (lambda: cloned_rank(SMALL.dag, SMALL.theta, SMALL.x, SMALL.y, "cross_entropy", [[2, 3]]), "rationals"),
        (lambda: cloned_rank(*SMALL, "mse_sum", [[2, 3]]), "incoming weights"),
        (lambda: cloned_rank(*SMALL, "mse_sum", [[3, 4]]), "neighbours"),
        (lambda: cloned_rank(*SMALL, "mse_sum", [[0, 3]]), "not hidden"),
        (lambda: cloned_rank(*SMALL, "mse_sum", [[3, 4], [4, 5]]), "overlap"),
        (lambda: cloned_rank(mlp([1, 2, 1]), [1, 1, 1, 1, 2, -2, 0], [[1]], [[0]], "mse_sum", [[2, 3]]), "cancel"),
        (
            lambda: cloned_rank(mlp([1, 2, 2]), [1] * 4 + [1, 2, 1, 1] + [0, 0], [[1]], [[0, 0]], "mse", [[2, 3]]),
            "collinear",
        ),
    ],
)
def test_bad_input_is_named(call: object, message: str | None) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def _mixed() -> Dag:
    """tanh before relu: no rational pre-activation."""
    return Dag(1, False, ("tanh", "relu", "identity"), np.arange(3), np.arange(1, 4), np.arange(3), np.array([3]))


def test_frozen_pattern_is_coarser_than_the_exact_one() -> None:
    gates = gate_pattern(SMALL.dag, SMALL.theta, SMALL.x)
    coarse = frozen_pattern(SMALL.dag, gates.dead_units, [0, 0], keep_constant=True)
    assert (coarse.open >= gates.open).all() and (coarse.static <= gates.static).all()


# ------------------------------------------------------------------------------------------------------- clones


def cloned_instance(rng: np.random.Generator, activation: str, hidden: int, layer: int) -> tuple[Instance, list[int]]:
    """An integer MLP with m ≥ 2 collinear clones in the given hidden layer, split with integer coefficients."""
    widths = [int(w) for w in (rng.integers(1, 4), *rng.integers(2, 5, hidden), rng.integers(1, 4))]
    dag = mlp(widths, activation)
    case = integer_instance(rng, dag, int(rng.integers(3, 25)))
    theta = np.array(case.theta)
    start = dag.first_computed + sum(widths[1:layer])
    members = list(range(start, start + int(rng.integers(2, widths[layer] + 1))))
    split = rng.integers(-2, 4, len(members))
    split[0] += split.sum() == 0
    direction = 2 * rng.integers(-2, 3, widths[layer + 1])
    for share, u in zip(split, members, strict=True):
        theta[dag.param[dag.incoming(u)]] = theta[dag.param[dag.incoming(start)]]
        theta[dag.param[dag.outgoing(u)]] = share * direction
    return case._replace(theta=theta.tolist()), members


@pytest.mark.parametrize(("hidden", "layer"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("activation", ["relu", "square", "cube"])
def test_clone_formula_predicts_the_rank_exactly(activation: str, hidden: int, layer: int) -> None:
    rng, informative = np.random.default_rng(11), 0
    for _ in range(30):
        case, members = cloned_instance(rng, activation, hidden, layer)
        found = cloned_rank_formula(*case, "mse_sum", [members])
        assert found.total == case.rank
        informative += found.excess[0] > 0
    assert informative >= 10


def test_relu_clones_add_twice_the_rank_of_a() -> None:
    rng = np.random.default_rng(12)
    for _ in range(20):
        case, members = cloned_instance(rng, "relu", 1, 1)
        outputs, inputs, m = case.dag.num_outputs, case.dag.num_inputs + 1, len(members)
        form = clone_form(*case, "mse_sum", members)
        upper = form[: (m - 1) * outputs, (m - 1) * outputs :]
        assert (form == form.T).all() and form.shape == ((m - 1) * (outputs + inputs),) * 2
        assert cloned_rank_formula(*case, "mse_sum", [members]).excess == (2 * exact_rank(upper),)
        assert exact_rank(upper) % (m - 1) == 0  # T ⊗ A with T non-singular


def test_smooth_clones_can_be_free_and_cost_everything_at_zero_residual() -> None:
    # square, I + 1 = 2, O = 1, m = 2: K is 3 × 3, zero at zero residual, and regular for a generic one.
    dag, theta, x = mlp([1, 2, 1], "square"), [2, 2, 1, 1, 4, 2, 0], [[-1], [0], [1], [2]]
    y = [[6 * (2 * v + 1) ** 2] for (v,) in x]
    assert cloned_rank_formula(dag, theta, x, y, "mse_sum", [[2, 3]]).excess == (0,)
    assert exact_rank(exact_hessian(dag, theta, x, y)) == cloned_rank(dag, theta, x, y, "mse_sum", [[2, 3]])
    other = [[v[0] + k] for k, v in enumerate(y)]
    assert cloned_rank_formula(dag, theta, x, other, "mse_sum", [[2, 3]]).excess == (3,)


def test_clones_in_two_layers_and_in_a_dag_with_a_skip() -> None:
    # 1-2-2-1 with both hidden layers cloned; then the same with a skip from the input to the output.
    dag, theta = mlp([1, 2, 2, 1], "square"), [2, 2, 1, 1, 2, 4, 2, 4, 1, 1, 6, -4, 3]
    x, y = [[-1], [0], [1], [2], [3]], [[1], [0], [4], [2], [7]]
    partition = UnitPartition.of(dag, [[2, 3], [4, 5]])
    assert cloned_rank(dag, theta, x, y, "mse", partition) == exact_rank(exact_hessian(dag, theta, x, y, "mse"))
    graph = dag.to_networkx()
    graph.add_edge(0, 6, param=13)
    skip = Dag.from_networkx(graph)
    expected = exact_rank(exact_hessian(skip, [*theta, 5], x, y))
    for classes in ([[2, 3], [4, 5]], [[4, 5], [2, 3]]):
        assert cloned_rank(skip, [*theta, 5], x, y, "mse_sum", classes) == expected


def test_clones_of_a_unit_without_influence() -> None:
    # Outgoing weights zero: V = 0, hence B = 0 and the excess is 2 rank A.
    dag, theta = mlp([1, 2, 1], "square"), [2, 2, 1, 1, 0, 0, 3]
    x, y = [[-1], [0], [1], [2]], [[1], [0], [4], [2]]
    assert cloned_rank(dag, theta, x, y, "mse_sum", [[2, 3]]) == exact_rank(exact_hessian(dag, theta, x, y))


@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu:3/1"])
def test_integer_pieces_in_float64_equal_the_rational_ones(activation: str) -> None:
    rng = np.random.default_rng(13)
    for dag, theta, x, _ in networks(rng, activation, 12):
        rational = linear_pieces(dag, [Fraction(t) for t in theta], [[Fraction(v) for v in row] for row in x])
        assert np.array_equal(linear_pieces(dag, theta, x), rational)
    # 2⁵² + 1 − 2⁵² > 0 needs more than float64 once the products exceed 2⁵³: the exact route must take over.
    assert linear_pieces(mlp([2, 1, 1], activation), [2**52, -(2**52), 1, 1, 0], [[3, 3]])[0, 3] == 1
    with pytest.raises(KinkError):
        linear_pieces(mlp([1, 1, 1], activation), [1, -2, 1, 0], [[2]])


def test_a_parameter_tied_within_one_unit_adds_up_its_sources() -> None:
    # z = θ (x₁ + x₂): θ is null where x₁ = −x₂ although neither input is zero.
    dag = Dag(2, False, ("identity",), np.array([0, 1]), np.array([2, 2]), np.array([0, 0]), np.array([2]))
    for x, dependent in (([[1, -1], [3, -3]], 1), ([[1, -1], [3, 2]], 0)):
        assert gate_nullity(dag, [5], x) == GateNullity(0, 0, dependent, 0)
        assert exact_rank(exact_hessian(dag, [5], x, [[1], [2]])) == 1 - dependent
