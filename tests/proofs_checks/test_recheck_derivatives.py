"""The checker's jets, ranks and steps against independent routes: interpolation, torch, hand values."""

import random
from fractions import Fraction

import pytest
import torch

from proofs_checks.recheck_core.exact_rank import RankInterval, ball_rank, rational_rank
from proofs_checks.recheck_core.network import parse_network
from proofs_checks.recheck_core.numbers import lift
from proofs_checks.recheck_core.quantities import Point
from proofs_checks.recheck_core.steps import gradient, initial_theta, theta_after
from tests.reference.witness_networks import TORCH_ACTIVATIONS, fraction_loss, random_layered, torch_loss, torch_theta


def point_of(net):
    network = parse_network(net, "net")
    return Point(network, initial_theta(network))


def taylor(values):
    """First and second derivative at 0 of the polynomial of degree < len(values) with these values at t = 0, 1, ..."""
    size = len(values)
    rows = [[Fraction(t) ** k for k in range(size)] + [Fraction(value)] for t, value in enumerate(values)]
    for c in range(size):  # Gauss-Jordan on the Vandermonde matrix
        pivot = next(r for r in range(c, size) if rows[r][c] != 0)
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [entry / rows[c][c] for entry in rows[c]]
        for r in range(size):
            if r != c:
                rows[r] = [a - rows[r][c] * b for a, b in zip(rows[r], rows[c], strict=True)]
    return rows[1][-1], 2 * rows[2][-1]


@pytest.mark.parametrize("loss", ["mse_sum", "mse"])
@pytest.mark.parametrize(
    ("activation", "widths", "degree"),
    # degree of the loss along a line in theta: z^1 has 1, h = f(z) multiplies by deg f, the next layer adds 1
    [("quadratic", [2, 2, 1], 6), ("cube", [1, 2, 1], 8), ("square", [1, 2, 1, 1], 14), ("identity", [2, 2, 2], 4)],
)
def test_directional_derivatives_equal_exact_interpolation(activation, widths, degree, loss):
    net = random_layered(widths, 3, seed=degree, activation=activation, loss=loss)
    if activation == "quadratic":  # a tied and a fixed weight on the way
        net["edges"][0] = [0, net["edges"][0][1], 1]
        net["edges"][2] = [*net["edges"][2][:2], -1, "3/2"]
        used = sorted({edge[2] for edge in net["edges"]} - {-1})
        for edge in net["edges"]:
            edge[2] = used.index(edge[2]) if edge[2] >= 0 else -1
        net["theta"] = [net["theta"][k] for k in used]
    point = point_of(net)
    theta = [Fraction(value) for value in net["theta"]]
    draw = random.Random(7)
    for _ in range(4):
        v = [draw.randint(-2, 2) for _ in theta]
        line = [fraction_loss(net, [a + t * b for a, b in zip(theta, v, strict=True)]) for t in range(degree + 1)]
        slope, curvature = taylor(line)
        jet = point.loss(2)
        assert jet.value == line[0]
        assert sum(g * v[i] for i, g in jet.gradient.items()) == slope
        assert sum((1 if i == j else 2) * v[i] * v[j] * entry for (i, j), entry in jet.hessian.items()) == curvature


def dense_hessian(point):
    size = len(point.theta)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for (i, j), entry in point.loss(2).hessian.items():
        matrix[i, j] = matrix[j, i] = float(entry)
    return matrix


def normalised(kind):
    net = random_layered([2, 3, 2], 5, seed=11, activation="tanh")
    units = [3, 4, 5]
    groups = [units] if kind == "layernorm" else [[unit] for unit in units]
    return net | {"normalization": [{"kind": kind, "units": group, "eps": "1/10"} for group in groups]}


NETS = {
    **{name: random_layered([2, 2, 2, 2], 4, seed=5, activation=name, size=1) for name in TORCH_ACTIVATIONS},
    **{
        f"{name}, cross_entropy": random_layered([2, 3, 3], 4, seed=6, activation=name, loss="cross_entropy", size=1)
        for name in ("relu", "tanh", "quadratic", "leaky_relu:1/100")
    },
    "layernorm": normalised("layernorm"),
    "batchnorm": normalised("batchnorm"),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_gradient_and_hessian_agree_with_torch(net):
    point = point_of(net)
    theta = torch_theta(net)
    slopes = torch.func.grad(lambda w: torch_loss(net, w))(theta)
    expected = torch.func.hessian(lambda w: torch_loss(net, w))(theta)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(dense_hessian(point), expected, rtol=1e-10, atol=1e-10)
    ours = torch.tensor([float(g) for g in gradient(point.network, point.theta)], dtype=torch.float64)
    torch.testing.assert_close(ours, slopes, rtol=1e-10, atol=1e-10)


def test_gradient_questions_build_no_hessian():
    assert point_of(random_layered([2, 3, 1], 3, seed=1)).loss(1).hessian == {}


@pytest.mark.parametrize("seed", range(8))
def test_rational_rank_of_a_product_is_the_planted_rank(seed):
    draw = random.Random(seed)
    size, rank = 9, seed
    rows = [[Fraction(draw.randint(-9, 9), draw.randint(1, 5)) for _ in range(size)] for _ in range(rank)]
    for k, row in enumerate(rows):  # unit upper triangular, so the rows are independent
        row[: k + 1] = [Fraction(0)] * k + [Fraction(1)]
    entries = {(i, j): sum(row[i] * row[j] for row in rows) for i in range(size) for j in range(i, size)}
    assert rational_rank(entries) == rank  # Gram matrices over Q: rank(A'A) = rank(A)
    bounds = ball_rank({key: lift(value) for key, value in entries.items()})
    lower, upper = (bounds.lower, bounds.upper) if isinstance(bounds, RankInterval) else (bounds, bounds)
    assert lower == rank <= upper


def test_a_ball_that_contains_zero_is_no_pivot():
    import flint

    assert ball_rank({(0, 0): flint.arb(1, 2), (1, 1): flint.arb(3)}) == RankInterval(1, 2)


SGD_RULES = [
    {},
    {"momentum": "1/2"},
    {"momentum": "1/2", "nesterov": True, "weight_decay": "1/8"},
    {"weight_decay": "1/4"},
]


@pytest.mark.parametrize("options", SGD_RULES, ids=str)
def test_sgd_steps_agree_with_torch(options):
    net = random_layered([2, 3, 1], 4, seed=3, size=1)
    theta = torch_theta(net).requires_grad_()
    floats = {key: value if isinstance(value, bool) else float(Fraction(value)) for key, value in options.items()}
    optimizer = torch.optim.SGD([theta], lr=1 / 64, **floats)
    for _ in range(3):
        optimizer.zero_grad()
        torch_loss(net, theta).backward()
        optimizer.step()
    ours = theta_after(parse_network(net, "net"), {"steps": 3, "rate": "1/64", "rule": {"name": "sgd"} | options}, "")
    torch.testing.assert_close(torch.tensor([float(w) for w in ours], dtype=torch.float64), theta.detach())


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (lambda p: torch.optim.Adam(p, lr=0.125, eps=0.5, weight_decay=0.25), {"name": "adam", "weight_decay": "1/4"}),
        (
            lambda p: torch.optim.AdamW(p, lr=0.125, eps=0.5, weight_decay=0.25),
            {"name": "adam", "weight_decay": "1/4", "decoupled": True},
        ),
        (
            lambda p: torch.optim.RMSprop(p, lr=0.125, alpha=0.75, eps=0.5, weight_decay=0.25),
            {"name": "rmsprop", "alpha": "3/4", "weight_decay": "1/4"},
        ),
    ],
    ids=["adam", "adamw", "rmsprop"],
)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_adaptive_step_agrees_with_torch(optimizer, rule, activation):
    net = random_layered([2, 3, 1], 4, seed=3, activation=activation, size=1)
    theta = torch_theta(net).requires_grad_()
    torch_loss(net, theta).backward()
    optimizer([theta]).step()
    ours = theta_after(parse_network(net, "net"), {"steps": 1, "rate": "1/8", "rule": rule | {"eps": "1/2"}}, "")
    torch.testing.assert_close(torch.tensor([float(w) for w in ours], dtype=torch.float64), theta.detach())


def one_weight(theta="2", **changes):
    """f = w x with x = 1, y = 0: the gradient is w."""
    net = {"num_inputs": 1, "has_constant": False, "activation": ["identity"], "outputs": [1], "edges": [[0, 1, 0]]}
    return parse_network(net | {"theta": [theta], "x": [["1"]], "y": [["0"]], "loss": "mse_sum"} | changes, "net")


@pytest.mark.parametrize(
    ("rule", "extra", "expected"),  # each by hand: w = 2, g = w, rate 1/2, one step
    [
        ({}, {}, Fraction(1)),
        ({"l1": "1"}, {}, Fraction(1, 2)),
        ({"clip_value": "1/2"}, {}, Fraction(7, 4)),
        ({"clip_value": "1/2", "weight_decay": "1"}, {}, Fraction(3, 4)),
        ({"weight_clip": "1/3"}, {}, Fraction(1, 3)),
        ({}, {"grad_noise": ["-3"]}, Fraction(5, 2)),
        ({"clip_value": "1/2"}, {"grad_noise": ["-3"]}, Fraction(9, 4)),
        ({"momentum": "1/2"}, {"velocity": ["4"]}, Fraction(0)),
        ({}, {"unit_mask": {"1": "0"}}, Fraction(2)),
        ({}, {"unit_mask": {"1": "2"}}, Fraction(-2)),  # f = 2 w x, so g = 4 w
        ({}, {"unit_mask": {"0": "2"}}, Fraction(-2)),
    ],
)
def test_steps_by_hand(rule, extra, expected):
    training = {"steps": 1, "rate": "1/2", "rule": {"name": "sgd"} | rule} | extra
    assert theta_after(one_weight(), training, "") == [expected]
