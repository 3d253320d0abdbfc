"""Builders and two independent evaluators for the NETWORK objects of witness files: plain fractions, and torch."""

import random
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch

Json = dict[str, Any]


def layered(
    weights: list[list[list[object]]],
    biases: list[list[object]] | None,
    x: list[list[object]],
    y: list[Any],
    activation: str = "relu",
    loss: str = "mse_sum",
) -> Json:
    """A layered NETWORK with linear outputs; ``weights[l]`` is [target][source], theta is W^1, b^1, W^2, b^2, ..."""
    num_inputs = len(weights[0][0])
    has_constant = biases is not None
    sources = list(range(num_inputs))
    next_unit = num_inputs + has_constant
    edges: list[list[int]] = []
    theta: list[str] = []
    for layer, matrix in enumerate(weights):
        targets = list(range(next_unit, next_unit + len(matrix)))
        next_unit += len(matrix)
        for target, row in zip(targets, matrix, strict=True):
            for source, weight in zip(sources, row, strict=True):
                edges.append([source, target, len(theta)])
                theta.append(str(weight))
        for target, bias in zip(targets, biases[layer] if biases else [], strict=False):
            edges.append([num_inputs, target, len(theta)])
            theta.append(str(bias))
        sources = targets
    num_hidden = sum(len(matrix) for matrix in weights[:-1])
    return {
        "num_inputs": num_inputs,
        "has_constant": has_constant,
        "activation": [activation] * num_hidden + ["identity"] * len(sources),
        "outputs": sources,
        "edges": edges,
        "theta": theta,
        "x": [[str(value) for value in row] for row in x],
        "y": y if loss == "cross_entropy" else [[str(value) for value in row] for row in y],
        "loss": loss,
    }


def random_layered(
    widths: list[int], num_samples: int, seed: int, activation: str = "relu", loss: str = "mse_sum", size: int = 3
) -> Json:
    """Integer weights and inputs in [-size, size]; biases are odd multiples of 2^-l, so no ReLU meets its kink."""
    draw = random.Random(seed)

    def integer() -> int:
        return draw.randint(-size, size)

    pairs = list(pairwise(widths))
    weights = [[[integer() for _ in range(fan_in)] for _ in range(fan_out)] for fan_in, fan_out in pairs]
    biases = [
        [Fraction(2 * integer() + 1, 2**depth) for _ in range(fan_out)] for depth, (_, fan_out) in enumerate(pairs, 1)
    ]
    x = [[integer() for _ in range(widths[0])] for _ in range(num_samples)]
    if loss == "cross_entropy":
        return layered(weights, biases, x, [draw.randrange(widths[-1]) for _ in x], activation, loss)
    return layered(weights, biases, x, [[integer() for _ in range(widths[-1])] for _ in x], activation, loss)


def fraction_loss(net: Json, theta: list[Fraction]) -> Fraction:
    """The loss of a polynomial network, straight from its definition."""
    polynomials = {
        "identity": lambda z: z,
        "square": lambda z: z**2,
        "cube": lambda z: z**3,
        "quadratic": lambda z: z + z**2 / 2,
    }
    total = Fraction(0)
    first = net["num_inputs"] + net["has_constant"]
    for row, target in zip(net["x"], net["y"], strict=True):
        h = [Fraction(value) for value in row] + [Fraction(1)] * net["has_constant"]
        for unit, name in enumerate(net["activation"], first):
            incoming = [edge for edge in net["edges"] if edge[1] == unit]
            z = sum((h[e[0]] * (theta[e[2]] if e[2] >= 0 else Fraction(e[3])) for e in incoming), Fraction(0))
            h.append(polynomials[name](z))
        total += sum((h[u] - Fraction(t)) ** 2 for u, t in zip(net["outputs"], target, strict=True)) / 2
    return total / len(net["x"]) if net["loss"] == "mse" else total


TORCH_ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu:1/100": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "hard_tanh": torch.nn.functional.hardtanh,
    "relu6": torch.nn.functional.relu6,
    "abs": torch.abs,
    "square": torch.square,
    "cube": lambda z: z**3,
    "quadratic": lambda z: z + z**2 / 2,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "erf": torch.erf,
    "sin": torch.sin,
    "elu": lambda z: torch.where(z > 0, z, torch.expm1(z)),
    "silu": torch.nn.functional.silu,
}


def _float(text: str) -> float:
    return float(Fraction(text))


def torch_theta(net: Json) -> torch.Tensor:
    """theta [P] in float64."""
    return torch.tensor([_float(value) for value in net["theta"]], dtype=torch.float64)


def torch_loss(net: Json, theta: torch.Tensor) -> torch.Tensor:
    """The loss in float64, differentiable in theta [P], normalisation included."""
    x = torch.tensor([[_float(value) for value in row] for row in net["x"]], dtype=torch.float64)
    h = [*x.T, *[torch.ones(len(x), dtype=torch.float64)] * net["has_constant"]]
    groups = {unit: group for group in net.get("normalization", []) for unit in group["units"]}

    def weighted_sum(unit: int) -> torch.Tensor:
        terms = [h[e[0]] * (theta[e[2]] if e[2] >= 0 else _float(e[3])) for e in net["edges"] if e[1] == unit]
        return torch.stack(terms).sum(0)

    for unit, name in enumerate(net["activation"], len(h)):
        z = weighted_sum(unit)
        if unit in groups:
            group, eps = groups[unit], _float(groups[unit]["eps"])
            if group["kind"] == "batchnorm":
                z = (z - z.mean()) / torch.sqrt(z.var(correction=0) + eps)
            else:
                raw = torch.stack([weighted_sum(member) for member in group["units"]], dim=1)
                z = torch.nn.functional.layer_norm(raw, raw.shape[1:], eps=eps)[:, group["units"].index(unit)]
        h.append(TORCH_ACTIVATIONS[name](z))
    output = torch.stack([h[unit] for unit in net["outputs"]], dim=1)
    if net["loss"] == "cross_entropy":
        return torch.nn.functional.cross_entropy(output, torch.tensor(net["y"]))
    y = torch.tensor([[_float(value) for value in row] for row in net["y"]], dtype=torch.float64)
    summed = ((output - y) ** 2).sum() / 2
    return summed / len(x) if net["loss"] == "mse" else summed
