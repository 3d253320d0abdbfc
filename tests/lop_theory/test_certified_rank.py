"""lop_theory.certified_rank and .modular: both ends against exact ranks, and closed where theory says so."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch
from flint import arb, ctx, fmpq, fmpz, nmod_mat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lop_theory import modular
from lop_theory.activations import KinkError
from lop_theory.architectures import from_module, init_params, mlp, random_dag, residual_mlp
from lop_theory.arithmetic import RATIONALS, rational_array
from lop_theory.bounds import gate_bound
from lop_theory.certified_rank import certified_rank, nonzero_eigenvalues, nonzero_pivots
from lop_theory.dag import Dag
from lop_theory.exact import ball_hessian, exact_hessian
from lop_theory.forward import apply_activations, evaluate, loss, run_forward
from lop_theory.hessian import assemble, curvature, hessian
from lop_theory.modular import balanced, exact_forward, modular_hessian, primes_for, residue_rank
from lop_theory.rank import exact_rank, modular_rank

PRIME = 2097143
SEEDS = range(6)


def dyadic_instance(dag: Dag, seed: int, samples: int, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """θ, x, y in multiples of 1/8 (labels for cross_entropy), off every kink of the first two hidden levels.

    Hidden biases of level l carry an extra 2^(−20 l): pre-activations of level 1 are then 2⁻²⁰ modulo 2⁻⁶ and those of
    level 2 are 2⁻⁴⁰ modulo 2⁻²³, so none is an integer.
    """
    rng = np.random.default_rng(seed)
    values = rng.integers(-16, 17, dag.num_params) / 8
    if dag.has_constant:
        edges = np.flatnonzero(
            (dag.source == dag.constant) & np.isin(dag.target, dag.hidden) & (dag.level[dag.target] <= 2)
        )
        params, first = np.unique(dag.param[edges], return_index=True)
        values[params] += 2.0 ** (-20 * dag.level[dag.target[edges[first]]])
    theta = torch.from_numpy(values)
    x = torch.from_numpy(rng.integers(-24, 25, (samples, dag.num_inputs)) / 8)
    if kind == "cross_entropy":
        return theta, x, torch.from_numpy(rng.integers(0, dag.num_outputs, samples))
    return theta, x, torch.from_numpy(rng.integers(-16, 17, (samples, dag.num_outputs)) / 8)


def trained(widths: list[int], samples: int, steps: int, dtype: torch.dtype, seed: int = 0):
    """A ReLU network after Adam steps on noisy class means, with its data."""
    generator = torch.Generator().manual_seed(seed)
    dag = mlp(widths, "relu")
    theta = init_params(dag, generator, dtype).requires_grad_()
    means = torch.randn(widths[-1], widths[0], generator=generator, dtype=dtype)
    y = torch.randint(0, widths[-1], (samples,), generator=generator)
    x = means[y] + torch.randn(samples, widths[0], generator=generator, dtype=dtype)
    optimizer = torch.optim.Adam([theta], lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(dag, theta, x, y, "cross_entropy").backward()
        optimizer.step()
    return dag, theta.detach(), x, y


# ------------------------------------------------------------------------------------ the Hessian modulo a prime, exactly


def conv_net() -> Dag:
    layers = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    return from_module(layers, (1, 3, 3))[0]


NETWORKS = {
    "relu": mlp([2, 4, 3, 2]),
    "leaky with a slope that is not dyadic": mlp([2, 3, 2], "leaky_relu:1/3"),
    "hard_tanh": mlp([2, 3, 3, 2], "hard_tanh"),
    "cube": mlp([2, 3, 2], "cube"),
    "quadratic": mlp([2, 3, 2], "quadratic", bias=False),
    "tied": conv_net(),
    "skips": random_dag(np.random.default_rng(3), 2, 5, 2, "quadratic"),
    "fixed weights": residual_mlp(2, 2, 1, 2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_modular_hessian_is_the_exact_hessian_reduced(name: str) -> None:
    dag = NETWORKS[name]
    theta, x, y = dyadic_instance(dag, 1, 7, "mse_sum")
    got = modular_hessian(dag, exact_forward(dag, theta, x), y.numpy(), "mse_sum", PRIME)
    expected = [int(v.p) * pow(int(v.q), -1, PRIME) % PRIME for v in exact_hessian(dag, theta, x, y).entries()]
    assert np.mod(got, PRIME).ravel().tolist() == expected
    assert np.abs(got).max() <= PRIME / 2 + 2


def specialised_hessian(dag: Dag, theta: list[int], x: list[list[int]], y: np.ndarray, g: int) -> np.ndarray:
    """N · H of cross-entropy over Q, with e replaced by the integer g: softmax(F) becomes g^F / Σ g^F. Slow oracle."""
    parameters, inputs = rational_array(theta), rational_array(x)
    run = run_forward(RATIONALS, dag, parameters, inputs)
    powers = np.frompyfunc(lambda f: fmpq(g) ** int(f), 1, 1)(run.output)
    p = powers / powers.sum(axis=1)[:, None]
    identity = rational_array(np.eye(dag.num_outputs, dtype=int))
    slopes = {b: apply_activations(RATIONALS, dag, b, z, 1) for b, z in run.z.items()}
    outer = p[:, :, None] * identity - p[:, :, None] * p[:, None, :]
    parts = curvature(RATIONALS, dag, run, slopes, None, (p - identity[y], outer))
    return assemble(RATIONALS, dag, parts, RATIONALS.zeros((dag.num_params,) * 2), residual=True)


def test_modular_softmax_is_the_specialisation_of_e_to_a_primitive_root() -> None:
    dag, y = mlp([1, 2, 3]), np.array([0, 2, 1])
    theta = [2, -2, 1, 3, 1, 2, -1, 0, 3, 1, 1, -2, 0]
    x = [[1], [-2], [3]]
    exact = specialised_hessian(dag, theta, x, y, int(sympy.primitive_root(PRIME)))
    got = modular_hessian(dag, exact_forward(dag, theta, x), y, "cross_entropy", PRIME)
    assert np.mod(got, PRIME).ravel().tolist() == [int(v.p) * pow(int(v.q), -1, PRIME) % PRIME for v in exact.ravel()]


def test_many_samples_are_reduced_in_chunks() -> None:
    dag = mlp([1, 2, 1])
    theta, x, y = dyadic_instance(dag, 0, 3, "mse_sum")
    once = modular_hessian(dag, exact_forward(dag, theta, x), y.numpy(), "mse_sum", PRIME)
    many = (torch.cat([v] * 400) for v in (x, y))  # 1,200 samples
    xs, ys = many
    repeated = modular_hessian(dag, exact_forward(dag, theta, xs), ys.numpy(), "mse_sum", PRIME)
    assert np.array_equal(np.mod(repeated, PRIME), np.mod(400 * once, PRIME))


@given(st.integers(0, 2**32), st.sampled_from([3, 101, PRIME]))
def test_balanced_residues_are_congruent_and_small(seed: int, prime: int) -> None:
    values = np.random.default_rng(seed).integers(-(2**53) + 2 * prime, 2**53 - 2 * prime, 100)
    got = balanced(prime).reduce(values.astype(np.float64))
    assert np.abs(got).max() <= prime / 2 + 2
    assert all((int(a) - int(r)) % prime == 0 for a, r in zip(values, got, strict=True))


@pytest.mark.parametrize("width", [3, 3000, 40000])
def test_products_of_residues_stay_below_2_to_the_53(width: int) -> None:
    dag = Dag(width, False, ("identity",), np.arange(width), np.full(width, width), np.arange(width), [width])
    prime = next(primes_for(dag, 10))
    assert sympy.isprime(prime) and (prime / 2 + 2) ** 2 * width + 2 * prime < 2**53


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 8), st.sampled_from([3, 7, PRIME]))
def test_residue_rank_is_the_rank_over_the_prime_field(seed: int, size: int, rank: int, prime: int) -> None:
    factor = np.random.default_rng(seed).integers(0, prime, (size, rank)).astype(object)
    matrix = factor @ factor.T % prime
    assert residue_rank(balanced(prime).reduce(matrix.astype(float)), prime) == modular_rank(matrix, prime)


@pytest.mark.parametrize(("size", "rank"), [(150, 130), (200, 63), (200, 64), (200, 65), (65, 65)])
def test_residue_rank_across_panels(size: int, rank: int) -> None:
    rng = np.random.default_rng(size + rank)
    factor = rng.integers(0, PRIME, (size, rank)).astype(object)
    factor[:, ::7] = 0  # columns without a pivot inside a panel
    factor[rng.random(size) < 0.2] = 0
    matrix = factor @ factor.T % PRIME
    expected = nmod_mat(size, size, matrix.ravel().tolist(), PRIME).rank()
    assert residue_rank(matrix.astype(float), PRIME) == expected


def test_residue_rank_reduces_before_entries_outgrow_a_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """With p near 2²⁶ only 6 pivots may be added up unreduced; 300 would leave the exact floats and give full rank."""
    monkeypatch.setattr(modular, "_PANEL", 2)
    prime = int(sympy.prevprime(2**26))
    factor = nmod_mat(340, 300, np.random.default_rng(0).integers(0, prime, 340 * 300).tolist(), prime)
    residues = [int(v) for v in (factor * factor.transpose()).entries()]
    assert residue_rank(np.array(residues, dtype=float).reshape(340, 340), prime) == 300


def test_exact_forward_decides_what_floats_cannot() -> None:
    """3 · 0.1 − 0.3 is positive for the *floats* 0.1 and 0.3, and 0.2 − 0.3 negative; so is (1 + 2⁻⁵²) − 1 positive."""
    assert 3 * Fraction(0.1) > Fraction(0.3)
    run = exact_forward(mlp([1, 1, 1]), [0.1, -0.3, 1.0, 0.0], [[3.0], [2.0]])
    assert run.pieces[2].tolist() == [[1], [0]]
    assert exact_forward(mlp([1, 1, 1]), [1.0, -1.0, 1.0, 0.0], [[1 + 2.0**-52]]).pieces[2].tolist() == [[1]]
    with pytest.raises(KinkError, match="unit 2 on sample 1"):
        exact_forward(mlp([1, 1, 1]), [1.0, -1.0, 1.0, 0.0], [[3.0], [1.0]])


# --------------------------------------------------------------------------------------- the interval contains the rank


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ["relu", "hard_tanh", "square", "leaky_relu:1/8"])
def test_squared_loss_is_closed_at_the_exact_rank(activation: str, seed: int) -> None:
    dag = mlp([2, 4, 3, 2], activation)
    theta, x, y = dyadic_instance(dag, seed, 9, "mse")
    lower, upper, reason = certified_rank(dag, theta, x, y, "mse")
    assert lower == upper == exact_rank(exact_hessian(dag, theta, x, y, "mse"))
    assert "lower" in reason or "over Q" in reason


def test_an_open_interval_is_closed_by_elimination_over_q() -> None:
    """At zero residual H is the Gauss–Newton matrix, with a null direction per live unit that gates cannot see."""
    dag = mlp([1, 2, 1])
    theta = torch.tensor([1.0, 1.0, 0.5, -0.25, 2.0, -1.0, 0.5], dtype=torch.float64)
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [-0.25]], dtype=torch.float64)
    y = evaluate(dag, theta, x).output
    result = certified_rank(dag, theta, x, y, "mse")
    assert result.closed and "elimination" in result.reason
    assert result.upper < gate_bound(dag, theta, x, "mse")
    assert result.lower == np.linalg.matrix_rank(hessian(dag, theta, x, y, "mse").numpy())


@pytest.mark.parametrize("seed", SEEDS)
def test_two_routes_agree_on_softmax(seed: int) -> None:
    """Residues and balls share no proof; each lower bound must respect the upper bound, and here both attain it."""
    dag = mlp([2, 4, 3])
    theta, x, y = dyadic_instance(dag, seed, 16, "cross_entropy")
    lower, upper, _ = certified_rank(dag, theta, x, y, "cross_entropy")
    pivots = nonzero_pivots(ball_hessian(dag, theta, x, y.numpy(), "cross_entropy", 256), 256)
    assert lower == pivots == upper < dag.num_params


def test_softmax_shift_is_counted() -> None:
    """One linear layer, generic data: rank = P − (I + 1), the logit shifts (curvature of logsumexp is exactly that)."""
    dag = mlp([2, 4])
    theta, x, y = dyadic_instance(dag, 0, 12, "cross_entropy")
    lower, upper, reason = certified_rank(dag, theta, x, y, "cross_entropy")
    assert lower == upper == dag.num_params - 3
    assert "softmax shift" in reason and "transcendental" in reason


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_muted_unit(kind: str, activation: str) -> None:
    """A unit reset to zero outgoing weights: its I + 1 incoming parameters touch only its O outgoing ones.

    That border has rank O (O − 1 with softmax), so the nullity is I + 1 − O, and the gates alone do not see it.
    """
    dag = mlp([5, 3, 3], activation)
    theta, x, y = dyadic_instance(dag, 5, 40, kind)
    w2 = dag.tiles[2].index
    theta[torch.from_numpy(w2[:, 0])] = 0.0
    lower, upper, reason = certified_rank(dag, theta, x, y, kind)
    shift = 1 if kind == "cross_entropy" else 0
    assert lower == upper == gate_bound(dag, theta, x, kind) - (5 + 1 - (3 - shift))
    assert "disconnecting 1 muted unit" in reason


def test_equal_outgoing_weights_are_muted_by_softmax_only() -> None:
    dag = mlp([5, 3, 3])
    for kind in ("cross_entropy", "mse"):
        theta, x, y = dyadic_instance(dag, 5, 40, kind)
        theta[torch.from_numpy(dag.tiles[2].index[:, 0])] = 0.375
        lower, upper, reason = certified_rank(dag, theta, x, y, kind)
        assert lower == upper
        assert ("muted" in reason) == (kind == "cross_entropy")


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["relu", "hard_tanh"]))
def test_bounds_hold_with_muted_and_dead_units(seed: int, activation: str) -> None:
    """Random sparse weights (many zeros): the upper bound stays above the rank over Q, whatever is muted."""
    dag = mlp([2, 3, 3, 2], activation)
    theta, x, y = dyadic_instance(dag, seed, 6, "mse")
    rng = np.random.default_rng(seed)
    last = np.concatenate([t.index.ravel() for t in dag.tiles if t.source > 1])
    theta[torch.from_numpy(last[rng.random(len(last)) < 0.5])] = 0.0
    lower, upper, _ = certified_rank(dag, theta, x, y, "mse")
    wide = certified_rank(dag, theta, x, torch.zeros(len(x), dtype=torch.int64), "cross_entropy")
    assert lower == upper == exact_rank(exact_hessian(dag, theta, x, y, "mse"))
    balls = ball_hessian(dag, theta, x, np.zeros(len(x), dtype=np.int64), "cross_entropy", 256)
    assert nonzero_pivots(balls, 256) <= wide.upper and wide.lower <= wide.upper


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trained_relu_cross_entropy_network_closes(dtype: torch.dtype) -> None:
    dag, theta, x, y = trained([6, 12, 8, 5], 100, 60, dtype)
    result = certified_rank(dag, theta, x, y, "cross_entropy")
    assert result.closed and result.upper <= dag.num_params - 9
    assert certified_rank(dag, theta, x, y, "cross_entropy") == result


# ------------------------------------------------------------------------------------------------- smooth: balls


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu", "softplus", "silu", "erf", "sin"])
def test_smooth_network_closes_at_full_rank_but_the_shift(activation: str) -> None:
    dag = mlp([2, 3, 3], activation)
    theta, x, y = dyadic_instance(dag, 2, 40, "cross_entropy")
    assert certified_rank(dag, theta, x, y, "cross_entropy")[:2] == (dag.num_params - 4, dag.num_params - 4)


@pytest.mark.parametrize("bias", [20.0, 40.0])
def test_saturated_tanh_unit_is_not_dead(bias: float) -> None:
    """Its rows vanish in float64, so that the float rank is that of a dead unit, P − (I + O + 1). The rank is P."""
    dag = mlp([3, 5, 2], "tanh")
    theta, x, y = dyadic_instance(dag, 4, 40, "mse")
    theta = theta / 2
    theta[15] = bias  # first hidden bias, after the 15 weights of W1
    assert np.linalg.matrix_rank(hessian(dag, theta, x, y, "mse").numpy()) == dag.num_params - (3 + 2 + 1)
    lower, upper, reason = certified_rank(dag, theta, x, y, "mse")
    assert lower == upper == dag.num_params == 32
    assert "pivots" in reason


def test_too_few_samples_bound_a_smooth_network_from_above() -> None:
    """One sample: each first-layer unit has I + 1 parameters and one static input direction, I null directions."""
    dag = mlp([3, 2, 1], "tanh")
    theta, x, y = dyadic_instance(dag, 0, 1, "mse")
    lower, upper, _ = certified_rank(dag, theta, x, y, "mse")
    assert upper == dag.num_params - 2 * 3 and lower <= upper


def test_a_kinked_unit_behind_a_smooth_one_is_decided_by_balls() -> None:
    dag = Dag(1, True, ("tanh", "relu", "identity"), [0, 1, 2, 1, 3, 1], [2, 2, 3, 3, 4, 4], [0, 1, 2, 3, 4, 5], [4])
    theta = torch.tensor([1.0, 0.25, 1.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    x = torch.arange(8, dtype=torch.float64)[:, None] / 4
    lower, upper, _ = certified_rank(dag, theta, x, x, "mse")
    assert 0 < lower <= upper == 6


def test_a_kink_behind_a_smooth_unit_is_never_decided() -> None:
    """relu(w · tanh(x) + b) at x = 0, b = 0: the balls straddle the kink at every precision, and the error says so."""
    dag = Dag(1, True, ("tanh", "relu", "identity"), [0, 1, 2, 1, 3, 1], [2, 2, 3, 3, 4, 4], [0, 1, 2, 3, 4, 5], [4])
    theta = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.5], dtype=torch.float64)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    with pytest.raises(KinkError):
        certified_rank(dag, theta, x, x, "mse")


def balls_of(matrix: np.ndarray, radius: float = 0.0) -> np.ndarray:
    return np.frompyfunc(lambda v: arb(fmpz(int(v)), radius), 1, 1)(matrix)


@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(0, 7))
def test_proved_counts_never_exceed_the_rank(seed: int, size: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    factor = rng.integers(-9, 10, (size, rank))
    signs = np.diag(rng.choice([-1, 1], rank))
    matrix = factor @ signs @ factor.T
    true = exact_rank(matrix)
    assert nonzero_eigenvalues(balls_of(matrix)) <= true
    assert nonzero_pivots(balls_of(matrix), 256) == true


def test_eigenvalues_are_counted_up_to_the_radius() -> None:
    matrix = np.diag([1000, 10, 1])
    assert [nonzero_eigenvalues(balls_of(matrix, r)) for r in (0.0, 0.2, 2.0, 2000.0)] == [3, 3, 2, 0]


def test_equilibration_sees_tiny_rows() -> None:
    before, ctx.prec = ctx.prec, 128
    try:
        tiny = arb(2) ** -100
        matrix = np.array([[arb(1), tiny], [tiny, 3 * tiny * tiny]], dtype=object)
    finally:
        ctx.prec = before
    assert nonzero_eigenvalues(matrix) == 2


def test_infinite_balls_prove_nothing() -> None:
    matrix = np.array([[arb(1), arb("nan")], [arb("nan"), arb(1)]], dtype=object)
    assert nonzero_eigenvalues(matrix) == 0


# ------------------------------------------------------------------------------------------------- refused input


def test_refused_input() -> None:
    dag = mlp([1, 1, 1])
    theta, x, y = dyadic_instance(dag, 0, 3, "mse")
    with pytest.raises(ValueError, match="unknown loss"):
        certified_rank(dag, theta, x, y, "hinge")
    with pytest.raises(ValueError, match="NaN"):
        certified_rank(dag, theta * float("nan"), x, y, "mse")
    with pytest.raises(ValueError, match="at least 53 bits"):
        certified_rank(mlp([1, 1, 1], "tanh"), theta, x, y, "mse", bits=20)
    with pytest.raises(KinkError):
        certified_rank(dag, torch.tensor([1.0, -1.0, 1.0, 0.0]), torch.ones(1, 1), torch.ones(1, 1), "mse")
