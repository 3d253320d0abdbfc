"""Dead and saturated units, the frozen manifold, and certificates of persistence, each from both sides."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import given
from hypothesis import strategies as st

from lop_theory.activations import KinkError
from lop_theory.architectures import init_params, mlp, random_dag
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.dag import Dag
from lop_theory.forward import evaluate, gradient, run_forward
from lop_theory.frozen import (
    Kind,
    dead_units,
    frozen_manifold,
    margin_persists,
    numerically_dead_units,
    one_sided_distance_squared,
    persistence_certificate,
    saturated_units,
)
from tests.reference import equitable as reference


def exact_gradient(dag: Dag, theta: Any, x: Any, y: Any) -> np.ndarray:
    found: np.ndarray = gradient(dag, theta, x, y, "mse_sum", RATIONALS)
    return found


# -- dead and saturated ------------------------------------------------------------------------------------------------


@st.composite
def piecewise_networks(draw: st.DrawFn) -> tuple[Dag, list[int], list[list[int]]]:
    """A random DAG of relu or hard_tanh units, even weights, odd biases: z is odd (relu) or any integer (hard_tanh,
    kinks included). Shrinks towards one hidden unit, weights 0 and biases 1."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    dag = random_dag(rng, 2, draw(st.integers(1, 4)), 1, draw(st.sampled_from(["relu", "hard_tanh"])), 0.7)
    numbers = draw(st.lists(st.integers(-1, 1), min_size=dag.num_params, max_size=dag.num_params))
    theta = [0] * dag.num_params
    for p, u in zip(dag.param.tolist(), dag.source.tolist()):
        theta[p] = 2 * numbers[p] + (u == dag.constant)
    x = draw(st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=3))
    return dag, theta, x


@given(piecewise_networks())
def test_saturated_units_are_those_of_the_definition(case: tuple[Dag, list[int], list[list[int]]]) -> None:
    dag, theta, x = case
    flat = {"relu": lambda z: z < 0, "hard_tanh": lambda z: abs(z) > 1, "identity": lambda z: False}
    passes = [reference.forward(dag, theta, sample) for sample in x]
    expected = {}
    for v in range(dag.first_computed, dag.num_units):
        if all(flat[dag.activation(v)](z[v]) for z, _ in passes):
            values = [h[v] for _, h in passes]
            expected[v] = values[0] if len(set(values)) == 1 else tuple(values)
    assert saturated_units(dag, theta, x) == expected
    assert dead_units(dag, theta, x) == tuple(v for v, c in expected.items() if c == 0)
    floats = torch.tensor(theta, dtype=torch.float64), torch.tensor(x, dtype=torch.float64)
    assert saturated_units(dag, *floats, exact=False) == expected == saturated_units(dag, *floats)


@given(piecewise_networks())
def test_gradients_are_tangent_to_the_frozen_manifold(case: tuple[Dag, list[int], list[list[int]]]) -> None:
    """Theorem 2.1(1) at one point, sample by sample; and for dead units the outgoing gradients vanish too."""
    dag, theta, x = case
    if dag.activations[0] == "hard_tanh":
        theta = [2 * t for t in theta]  # z is even: off the kinks ±1
    units = tuple(saturated_units(dag, theta, x))
    manifold = frozen_manifold(dag, theta, units)
    assert manifold.contains(theta)
    assert manifold.codim == sum(len(dag.incoming(v)) for v in units)
    for sample in x:
        grad = exact_gradient(dag, theta, [sample], [[3]])
        assert (manifold.normal_part(grad) == 0).all()
        for v in dead_units(dag, theta, x):
            assert all(grad[p] == 0 for p in dag.param[dag.outgoing(v)])


def test_a_value_per_sample_where_the_pieces_differ() -> None:
    net = mlp([1, 1, 1], "hard_tanh")
    assert saturated_units(net, [2, 0, 1, 0], [[1], [-1]]) == {2: (Fraction(1), Fraction(-1))}
    assert dead_units(net, [2, 0, 1, 0], [[1], [-1]]) == ()
    assert saturated_units(net, [1, 0, 1, 0], [[1]]) == {}  # on the breakpoint, not strictly inside


def test_rounded_preactivations_can_call_a_live_unit_dead() -> None:
    """A chain adds 2⁻⁵⁵ five times to 1 − 2⁻⁵³: float64 drops each, so the last z = sum − 1 is −2⁻⁵³ instead of +2⁻⁵⁵."""
    net = mlp([1, 1, 1, 1, 1, 1, 1, 1])
    layers = [[1.0, 2.0**-55]] * 5 + [[1.0, -1.0], [1.0, 0.0]]
    theta = torch.tensor([t for layer in layers for t in layer], dtype=torch.float64)
    x = torch.tensor([[1.0 - 2.0**-53]], dtype=torch.float64)
    last = int(net.hidden[-1])
    assert evaluate(net, theta, x).z[0, last] == -(2.0**-53)
    assert run_forward(RATIONALS, net, rational_array(theta), rational_array(x)).output[0, 0] == fmpq(1, 2**55)
    assert dead_units(net, theta, x, exact=False) == (last,) and dead_units(net, theta, x) == ()


def test_units_behind_smooth_ones_are_decided_by_balls() -> None:
    """tanh → relu: z = tanh(x) − 1 < 0 for every x, although float64 rounds tanh(40) to 1 and z to 0."""
    net = Dag(1, True, ("tanh", "relu", "identity"), [0, 2, 1, 3], [2, 3, 3, 4], [0, 1, 2, 3], [4])
    theta, x = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64), torch.tensor([[40.0]], dtype=torch.float64)
    assert dead_units(net, theta, x) == (3,) and dead_units(net, theta, x, exact=False) == ()
    on_the_kink = [0, 1, 0, 1]  # z = tanh(0) + 0: no ball decides on which side of 0 it lies
    with pytest.raises(KinkError, match="not proved to be off"):
        dead_units(net, on_the_kink, [[1]])


def test_smooth_units_are_numerically_dead_at_most() -> None:
    """tanh'(z) ≈ 4 exp(−2|z|) is positive for every z, and 4 e⁻⁴⁰ ≈ 1.7e-17 at z = 20."""
    net = mlp([1, 2, 1], "tanh")
    theta = torch.tensor([1.0, 1.0, 20.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert numerically_dead_units(net, theta, x, 1.8e-17) == (2,)
    assert numerically_dead_units(net, theta, x, 1e-19) == ()
    assert dead_units(net, theta, x) == () and saturated_units(net, theta, x, exact=False) == {}
    with pytest.raises(ValueError, match="tol -1"):
        numerically_dead_units(net, theta, x, -1)


# -- the frozen manifold without a certificate -------------------------------------------------------------------------


def two_paths() -> Dag:
    """x → h = relu(a x) → v = relu(w h + b), y = u h + c v. Units: 0 x, 1 constant, 2 h, 3 v, 4 y; θ = (a, w, b, u, c)."""
    return Dag(1, True, ("relu", "relu", "identity"), [0, 2, 1, 2, 3], [2, 3, 3, 4, 4], range(5), [4])


def test_upstream_learning_revives_a_dead_unit() -> None:
    """Theorem 2.1(1) as printed is no statement about M_F. By hand, x = 1, target 16, rate 1/10, a = w = u = c = 1, b = −3:

    step 0: h = 1, y = 1, error −15: a and u grow by 3/2 to 5/2; z_v = −2 and (w, b) have no gradient
    step 1: h = 5/2, y = 25/4, error −39/4: a and u grow by 39/16 to 79/16; z_v = −1/2, still none
    step 2: z_v = 79/16 − 3 = 31/16 > 0: alive, and (w, b) move.
    """
    net, theta = two_paths(), rational_array([1, 1, -3, 1, 1])
    x, y = [[1]], [[16]]
    manifold = frozen_manifold(net, theta, [3])
    assert persistence_certificate(net, theta, 3, input_bound=1, samples=x) is None
    for upstream in (fmpq(5, 2), fmpq(79, 16)):
        assert dead_units(net, theta, x) == (3,)
        theta = theta - exact_gradient(net, theta, x, y) / 10
        assert theta.tolist() == [upstream, 1, -3, upstream, 1] and manifold.contains(theta)
    assert dead_units(net, theta, x) == ()
    theta = theta - exact_gradient(net, theta, x, y) / 10
    assert not manifold.contains(theta)


# -- certificates ------------------------------------------------------------------------------------------------------


def test_the_sign_certificate_survives_any_training(generator: torch.Generator) -> None:
    """F-b: 300 steps on random tasks and random inputs; the incoming parameters stay bit-identical, all others move."""
    net = mlp([3, 4, 3, 2])
    theta = init_params(net, generator)
    unit = 8
    own = net.params_of(net.incoming(unit)).tolist()
    theta[own] = -theta[own].abs() - 0.125
    certificate = persistence_certificate(net, theta, unit)
    assert certificate is not None and certificate.kind is Kind.SIGN and certificate.kind == "F-b"
    assert certificate.strict and certificate.value == 0 and "any inputs" in certificate.data
    start = theta.clone()
    for _ in range(300):
        x = 3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        y = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        grad = gradient(net, theta, x, y, "mse")
        assert (grad[own] == 0).all()
        theta = theta - 0.02 * grad
    assert torch.equal(theta[own], start[own]) and unit in dead_units(net, theta, 100 * x)
    assert not torch.isclose(theta[:12], start[:12]).all()


@pytest.mark.parametrize(
    ("weights", "bias", "strict"),
    [
        ([-1, -1], -1, True),
        ([0, 0], -1, True),
        ([-1, 0], 0, False),
        ([0, 0], 0, None),
        ([-1, 1], -1, None),
        ([-1, -1], 1, None),
    ],
)
def test_which_signs_are_certified(weights: list[int], bias: int, strict: bool | None) -> None:
    """Each of w ≤ 0, b ≤ 0 and "one of them strictly" is needed."""
    net = mlp([1, 2, 1, 1])  # units 2, 3 → 4
    theta = [1, 1, 0, 0, *weights, bias, 1, 0]
    found = persistence_certificate(net, theta, 4)
    assert (found.strict if found else None) == strict


def test_positive_features_make_the_sign_certificate_strict() -> None:
    """sigmoid > 0, so w < 0 and b = 0 give z < 0 and not only z ≤ 0."""
    net = Dag(1, False, ("sigmoid", "relu", "identity"), [0, 2, 1], [1, 3, 2], [0, 2, 1], [3])
    assert persistence_certificate(net, [1, -1, 1], 2) is not None
    assert persistence_certificate(net, [1, -1, 1], 2).strict  # type: ignore[union-attr]


odd = st.integers(-4, 4)


@given(st.lists(odd, min_size=3, max_size=3), st.integers(-20, 2), st.integers(0, 4))
def test_a_box_certificate_is_exact(weights: list[int], bias: int, radius: int) -> None:
    """F-a holds if and only if z < 0 at the worst corner R · sign(w) of the box."""
    net = mlp([3, 1, 1])
    theta = [*weights, bias, 1, 0]
    corner = [radius * ((w > 0) - (w < 0)) for w in weights]
    found = persistence_certificate(net, theta, 4, input_bound=radius)
    assert (found is not None) == (reference.forward(net, theta, corner)[0][4] < 0)
    if found is not None:
        assert found.kind is (Kind.FIRST_LAYER if any(weights) else Kind.SIGN)
        assert dead_units(net, theta, [corner]) == (4,)


def test_a_ball_certificate_is_exact() -> None:
    """w = (3, 4), R = 2: the worst point is R w/‖w‖ = (6/5, 8/5), where w · x = 10; the box needs more room (14)."""
    net = mlp([2, 1, 1])
    inside, touching = [3, 4, Fraction(-1001, 100), 1, 0], [3, 4, -10, 1, 0]
    found = persistence_certificate(net, inside, 3, input_bound=2, norm="2")
    assert found is not None and found.kind is Kind.FIRST_LAYER and "‖x‖_2 ≤ 2" in found.data
    assert persistence_certificate(net, inside, 3, input_bound=2) is None
    assert persistence_certificate(net, touching, 3, input_bound=2, norm="2") is None
    worst = [Fraction(6, 5), Fraction(8, 5)]
    assert dead_units(net, touching, [worst]) == () and dead_units(net, inside, [worst]) == (3,)


def test_both_ends_of_hard_tanh_are_certified() -> None:
    net = mlp([1, 1, 1], "hard_tanh")
    high = persistence_certificate(net, [1, 4, 1, 0], 2, input_bound=2)
    low = persistence_certificate(net, [1, -4, 1, 0], 2, input_bound=2)
    assert high is not None and low is not None and (high.value, low.value) == (1, -1)
    assert persistence_certificate(net, [1, 3, 1, 0], 2, input_bound=2) is None  # z = 1 at x = −2, the breakpoint


def test_bounded_features_are_certified_and_the_bound_is_attained() -> None:
    """F-c: hard_tanh features, w = (2, −3): sup z = b + 5, attained at features (1, −1)."""
    net = Dag(
        1, True, ("hard_tanh", "hard_tanh", "relu", "identity"), [0, 0, 2, 3, 1, 4], [2, 3, 4, 4, 4, 5], range(6), [5]
    )
    found = persistence_certificate(net, [1, 1, 2, -3, Fraction(-51, 10), 1], 4)
    assert found is not None and found.kind is Kind.BOUNDED_FEATURES and found.strict and "any inputs" in found.data
    assert persistence_certificate(net, [1, 1, 2, -3, -5, 1], 4) is None
    assert dead_units(net, [9, -9, 2, -3, -5, 1], [[1]]) == ()  # the upstream state that touches the kink
    assert dead_units(net, [9, -9, 2, -3, Fraction(-51, 10), 1], [[1]]) == (4,)


def test_negative_weights_on_signed_features_are_no_sign_certificate() -> None:
    """relu of −2 hard_tanh(x) + b: the sup is b + 2, so b = −3 is bounded features (F-c), and b = −2 touches: nothing."""
    net = Dag(1, True, ("hard_tanh", "relu", "identity"), [0, 2, 1, 3], [2, 3, 3, 4], range(4), [4])
    found = persistence_certificate(net, [1, -2, -3, 1], 3)
    assert found is not None and found.kind is Kind.BOUNDED_FEATURES
    assert persistence_certificate(net, [1, -2, -2, 1], 3) is None


def test_unbounded_inputs_are_not_certified() -> None:
    """No affine function of a free input is negative everywhere, unless its weights are 0."""
    assert persistence_certificate(mlp([1, 1, 1]), [1, -1000, 1, 0], 2) is None
    assert persistence_certificate(mlp([1, 1, 1]), [0, -1, 1, 0], 2) is not None


def test_unbounded_features_are_not_certified() -> None:
    assert persistence_certificate(two_paths(), [1, 1, -1000, 1, 1], 3, input_bound=1) is None


def test_frozen_ancestors_are_certified_on_the_samples() -> None:
    """F-d: 1-2-1-1, both first-layer units and the second-layer unit dead on x ∈ {1, 2}; all upstream gradients vanish."""
    net = mlp([1, 2, 1, 1])
    theta = [-1, -2, 0, -1, 1, 1, -1, 3, 1]
    samples = [[1], [2]]
    found = persistence_certificate(net, theta, 4, samples=samples)
    assert found is not None and found.kind is Kind.FROZEN_ANCESTORS and "2 given samples" in found.data
    upstream = net.params_of(np.concatenate([net.incoming(v) for v in (2, 3, 4)]))
    assert all(v == 0 for v in exact_gradient(net, theta, samples, [[5], [7]])[upstream])
    alive = [1, -2, 0, -1, 1, 1, -9, 3, 1]  # unit 2 alive: unit 4 is dead on the samples, but nothing holds it there
    assert dead_units(net, alive, samples) == (3, 4)
    assert persistence_certificate(net, alive, 4, samples=samples) is None
    assert persistence_certificate(net, theta, 4) is None


def test_tied_parameters_are_not_frozen_by_one_unit() -> None:
    """Two relu units share w; the first is biased dead, the second moves w."""
    net = Dag(1, True, ("relu", "relu", "identity"), [0, 1, 0, 1, 2, 3], [2, 2, 3, 3, 4, 4], [0, 1, 0, 2, 3, 4], [4])
    theta = [1, -3, 1, 1, 1]
    assert dead_units(net, theta, [[1]]) == (2,)
    assert exact_gradient(net, theta, [[1]], [[0]])[0] != 0
    assert persistence_certificate(net, theta, 2, input_bound=1, samples=[[1]]) is None
    with pytest.raises(ValueError, match=r"parameters \[0\] are tied"):
        frozen_manifold(net, theta, [2])
    assert frozen_manifold(net, theta, [2, 3]).codim == 3


def test_smooth_and_linear_units_are_never_certified() -> None:
    net = mlp([1, 1, 1], "tanh")
    for unit in (2, 3):
        assert persistence_certificate(net, [0, 1000, 1, 0], unit, input_bound=1, samples=[[1]]) is None


# -- margin lemma ------------------------------------------------------------------------------------------------------

points = st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=1, max_size=4)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=2), st.integers(-30, 0), points, points)
def test_margin_lemma(weight: list[int], bias: int, old: list[list[int]], new: list[list[int]]) -> None:
    square = one_sided_distance_squared(old, new)
    assert square == max(min(sum((a - b) ** 2 for a, b in zip(p, q)) for p in old) for q in new)
    if margin_persists(weight, bias, old, square):
        net = mlp([2, 1, 1])
        assert dead_units(net, [*weight, bias, 1, 0], old + new) == (3,)


def test_margin_lemma_is_tight() -> None:
    """γ = 10, ‖w‖ = 5: within every d < 2 the unit stays dead, and at d = 2 the point 2 w/‖w‖ reaches z = 0."""
    net, theta = mlp([2, 1, 1]), [3, 4, -10, 1, 0]
    reached = [[Fraction(6, 5), Fraction(8, 5)]]
    assert one_sided_distance_squared([[0, 0]], reached) == 4
    assert margin_persists([3, 4], -10, [[0, 0]], Fraction(399, 100))
    assert not margin_persists([3, 4], -10, [[0, 0]], 4) and dead_units(net, theta, reached) == ()
    assert not margin_persists([3, 4], 0, [[0, 0]], 0)  # no margin: not strictly dead to begin with


def test_the_distance_is_one_sided() -> None:
    assert one_sided_distance_squared([[0, 0], [5, 0]], [[0, 0]]) == 0
    assert one_sided_distance_squared([[0, 0]], [[0, 0], [5, 0]]) == 25


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: persistence_certificate(net, [0] * 7, 0), "units [0] are not computed units"),
        (lambda net: persistence_certificate(net, [0] * 7, 2, 1, norm="1"), "norm '1' is not known"),
        (lambda net: persistence_certificate(net, [0] * 7, 2, input_bound=-1), "input_bound -1 is negative"),
        (lambda net: frozen_manifold(net, [0] * 7, [9]), "units [9] are not computed units"),
        (lambda net: dead_units(net, [0] * 6, [[1]]), "P = 7"),
        (lambda net: dead_units(net, [0] * 7, [[1, 2]]), "give [N, 1]"),
        (lambda net: dead_units(net, [0] * 7, []), "N ≥ 1"),
        (lambda net: margin_persists([1, 2], 0, [[1]], 1), "x has 1 columns"),
        (lambda net: margin_persists([1], 0, [[1]], -1), "give d²"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        call(mlp([1, 2, 1]))
    assert message in str(caught.value)
