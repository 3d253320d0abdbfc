"""The Hessian of a normalised net, against automatic differentiation of the same net as a torch module."""

import numpy as np
import pytest
import torch

from lop_theory.module_hessian import module_hessian
from proofs_checks.claims.normalised_net import NormalisedNet
from proofs_checks.recheck import recheck


def random_net(norm: str, trainable: bool, seed: int) -> NormalisedNet:
    rng = np.random.default_rng(seed)
    I, h, O, N = 2, 4, 2, 5
    shapes = ((h, I), (h,), (O, h), (O,), (h,), (h,), (N, I), (N, O))
    return NormalisedNet(norm, *(rng.normal(size=shape) for shape in shapes), trainable_affine=trainable)


def by_torch(net: NormalisedNet) -> np.ndarray:
    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((output - y) ** 2).sum() / 2

    full = module_hessian(net.module(), loss, torch.from_numpy(net.x), torch.from_numpy(net.y)).numpy()
    first, h = net.W.size + net.b.size, len(net.b)
    keep = np.arange(len(full)) if net.trainable_affine else np.r_[:first, first + 2 * h : len(full)]
    return full[np.ix_(keep, keep)]


@pytest.mark.parametrize("norm", ["layernorm", "batchnorm"])
@pytest.mark.parametrize("trainable", [False, True])
def test_hessian_agrees_with_automatic_differentiation(norm, trainable):
    for seed in range(3):
        net = random_net(norm, trainable, seed)
        expected = by_torch(net)
        assert expected.shape == (net.num_params, net.num_params)
        np.testing.assert_allclose(net.hessian(), expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("norm", ["layernorm", "batchnorm"])
def test_document_is_the_same_network(norm):
    """The checker's own pre-activations and Hessian entries lie within rounding of ours."""
    net = random_net(norm, True, 7)
    relu, H = net.sizes[0] + 1 + net.sizes[1], net.hessian()
    pairs = [({"quantity": "preactivation", "unit": relu + 1, "sample": 2}, net.z[2, 1])]
    document = net.document()
    # the checker numbers parameters in its own order: W_v, b_v, γ_v, β_v unit by unit, then V_o, c_o
    pairs += [({"quantity": "hessian", "i": 0, "j": 1}, H[0, 1]), ({"quantity": "hessian", "i": 0, "j": 3}, H[0, 12])]
    assertions = []
    for expression, value in pairs:
        low, high = (str(np.float64(value + sign * 1e-6 * (1 + abs(value))).as_integer_ratio()) for sign in (-1, 1))
        for op, bound in ((">", low), ("<", high)):
            assertions.append({"left": expression, "op": op, "right": bound.strip("()").replace(", ", "/")})
    witness = {"format": "lop-witness/1", "claim": "t", "role": "attained", "variant": "", "statement": ""}
    outcome = recheck({**witness, "networks": {"net": document}, "assertions": assertions})
    assert outcome.confirmed, outcome.explanation
