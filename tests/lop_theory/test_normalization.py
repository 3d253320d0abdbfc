"""Layer and batch normalisation with replicas, against torch.nn, autograd and the definitions of a new unit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lop_theory.activations import get_activation
from lop_theory.algorithms.base import Context, Params, generators, mlp_init, mlp_loss
from lop_theory.algorithms.continual_backprop import continual_backprop
from lop_theory.algorithms.descent import adam, momentum, sgd
from lop_theory.algorithms.normalization import (
    NORMS,
    NormTrace,
    norm_backward,
    norm_forward,
    running_start,
    running_update,
    split_affine,
    with_affine,
)
from lop_theory.algorithms.perturbation import dropout_masks, initial_like
from lop_theory.algorithms.resets import full_reset, head_reset, hidden_units, layer_reset, redo, replace_units, touched

WIDTHS, REPLICAS, EXAMPLES = (4, 6, 5, 3), 3, 7


@pytest.fixture
def net(generator: torch.Generator) -> Params:
    """A net with gains, shifts and biases that are not those of the beginning."""
    params = with_affine(mlp_init(WIDTHS, generators(range(REPLICAS))))
    return tuple(p + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(REPLICAS, EXAMPLES, WIDTHS[0], generator=generator, dtype=torch.float64)


def torch_net(params: Params, r: int, norm: str) -> nn.Sequential:
    """Replica r as modules of torch (tanh)."""
    layers, (net, affine) = [], split_affine(params)
    for l in range(len(net) // 2):
        linear = nn.Linear(WIDTHS[l], WIDTHS[l + 1]).double()
        linear.weight.data, linear.bias.data = net[2 * l][r].clone(), net[2 * l + 1][r].clone()
        layers.append(linear)
        if 2 * l < len(affine):
            between = (nn.LayerNorm if norm == "layer" else nn.BatchNorm1d)(WIDTHS[l + 1]).double()
            between.weight.data, between.bias.data = affine[2 * l][r].clone(), affine[2 * l + 1][r].clone()
            layers += [between, nn.Tanh()]
    return nn.Sequential(*layers)


def in_order(modules: nn.Sequential) -> list[Tensor]:
    """The parameters of torch in our order: layers first, then gains and shifts."""
    linear = [p for m in modules if isinstance(m, nn.Linear) for p in (m.weight, m.bias)]
    return linear + [p for m in modules if isinstance(m, (nn.LayerNorm, nn.BatchNorm1d)) for p in (m.weight, m.bias)]


@pytest.mark.parametrize("norm", NORMS)
def test_training_and_evaluation_are_those_of_torch(norm: str, net: Params, x: Tensor) -> None:
    """Five steps of SGD with momentum, each replica beside a net of torch.nn; then evaluation with running statistics."""
    rule, params, running = momentum(0.1, 0.9), net, running_start(net)
    state, y = rule.init(params), torch.arange(EXAMPLES) % WIDTHS[-1]
    theirs = [torch_net(params, r, norm) for r in range(REPLICAS)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in theirs]
    for step in range(5):
        passed = norm_forward(params, x, "tanh", norm)
        output = passed.trace.output
        delta = (torch.softmax(output, 2) - nn.functional.one_hot(y, WIDTHS[-1])) / EXAMPLES
        grads = norm_backward(params, x, passed, delta, "tanh", norm)
        running = running_update(running, passed) if norm == "batch" else ()
        params, state = rule.update(params, grads, state, context(params, x, passed, norm, step))
        for r, (modules, optimizer) in enumerate(zip(theirs, optimizers)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(modules(x[r]), y).backward()
            for ours, p in zip(grads, in_order(modules), strict=True):
                torch.testing.assert_close(ours[r], p.grad, rtol=1e-9, atol=1e-12)
            optimizer.step()
    for r, modules in enumerate(theirs):
        evaluated = norm_forward(params, x + 1, "tanh", norm, running=running).trace.output
        torch.testing.assert_close(evaluated[r], modules.eval()(x[r] + 1), rtol=1e-9, atol=1e-12)
        if norm == "batch":
            held = [t for m in modules if isinstance(m, nn.BatchNorm1d) for t in (m.running_mean, m.running_var)]
            for ours, expected in zip(running, held, strict=True):
                torch.testing.assert_close(ours[r], expected, rtol=1e-12, atol=1e-14)


def context(params: Params, x: Tensor, passed: NormTrace, norm: str, step: int = 0) -> Context:
    """The context of an update on the labels 0."""

    def loss(p: Params) -> Tensor:
        return mlp_loss(
            norm_forward(p, x, "tanh", norm).trace.output, torch.zeros(EXAMPLES, dtype=torch.int64), "cross_entropy"
        )

    return Context(
        loss, lambda p: norm_forward(p, x, "tanh", norm).trace.h, passed.trace, step, generators(range(len(x)))
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_backward_pass_is_that_of_autograd(
    norm: str, activation: str, dropped: bool, net: Params, x: Tensor
) -> None:
    masks = dropout_masks(WIDTHS[1:-1], EXAMPLES, 0.4, generators(range(REPLICAS))) if dropped else None
    leaves = [p.clone().requires_grad_() for p in net]
    output = norm_forward(tuple(leaves), x, activation, norm, masks).trace.output
    expected = torch.autograd.grad(output.pow(3).sum(), leaves)
    passed = norm_forward(net, x, activation, norm, masks)
    ours = norm_backward(net, x, passed, 3 * passed.trace.output.square(), activation, norm, masks)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_normalised_means_and_variances(norm: str, net: Params, x: Tensor) -> None:
    passed = norm_forward(net, x, "tanh", norm)
    for unit, scale, (a, h) in zip(passed.unit, passed.scale, zip(*passed.trace[:2])):
        assert unit.mean(dim=NORMS[norm]).abs().max() < 1e-12
        spread = unit.square().mean(dim=NORMS[norm], keepdim=True)
        torch.testing.assert_close(spread, 1 - 1e-5 / scale.square(), rtol=1e-9, atol=0)  # v / (v + ε)
        assert torch.equal(h, get_activation("tanh").tensor[0](a))


@pytest.mark.parametrize("norm", NORMS)
def test_a_replica_is_a_single_run(norm: str, net: Params, x: Tensor) -> None:
    together = norm_forward(net, x, "relu", norm).trace.output
    alone = norm_forward(tuple(p[1:2] for p in net), x[1:2], "relu", norm).trace.output
    torch.testing.assert_close(together[1:2], alone, rtol=1e-12, atol=1e-13)


# -- algorithms ------------------------------------------------------------------------------------------------------------


def test_replaced_units_have_gain_one_and_shift_zero(net: Params, x: Tensor) -> None:
    masks = [torch.zeros(REPLICAS, n, dtype=torch.bool) for n in hidden_units(net)]
    masks[0][1, 2] = masks[1][0, 4] = True
    new = replace_units(net, masks, generators(range(REPLICAS)))
    assert [bool((a != b).any()) for a, b in zip(new, net)] == 5 * [True] + [False] + 4 * [True]  # not the last bias
    assert new[6][1, 2] == 1 and new[7][1, 2] == 0 and new[8][0, 4] == 1 and new[9][0, 4] == 0
    for a, b, mask in zip(new[6:], net[6:], [m for m in masks for _ in range(2)]):
        assert torch.equal(a[~mask], b[~mask])
    found = touched(net, masks)
    assert all(torch.equal(f, m) for f, m in zip(found[6:], [m for m in masks for _ in range(2)]))
    lost = norm_forward(new, x, "tanh", "batch").trace
    other = tuple(p.clone() for p in new)
    other[0][1, 2] += 1  # no outgoing weight, and batch statistics are those of a unit: nobody sees it
    assert torch.equal(norm_forward(other, x, "tanh", "batch").trace.output, lost.output)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("algorithm", ["cbp", "redo", "head", "first", "full"])
def test_resets_start_gains_and_shifts_again_and_the_optimiser_forgets_them(
    algorithm: str, norm: str, net: Params, x: Tensor
) -> None:
    rule = {
        "cbp": lambda: continual_backprop(adam(1e-9), 0.5, maturity=0),
        "redo": lambda: redo(adam(1e-9), threshold=0.9, period=1),
        "head": lambda: head_reset(adam(1e-9), 1),
        "first": lambda: layer_reset(adam(1e-9), (0,), 1),
        "full": lambda: full_reset(adam(1e-9), 1),
    }[algorithm]()
    passed = norm_forward(net, x, "tanh", norm)
    grads = tuple(torch.ones_like(p) for p in net)
    new, state = rule.update(net, grads, rule.init(net), context(net, x, passed, norm))
    assert [p.shape for p in new] == [p.shape for p in net]
    again = [(gain == 1) & (shift == 0) for gain, shift in zip(new[6::2], new[7::2])]
    if algorithm in ("cbp", "redo"):
        assert all(0 < int(a.sum()) < a.numel() for a in again)
        assert all((new[4].abs().sum(1) == 0).eq(again[1]).flatten())  # exactly those without outgoing weights
    else:
        expected = {"head": (False, False), "first": (True, False), "full": (True, True)}[algorithm]
        assert [bool(a.all()) for a in again] == list(expected) and [bool(a.any()) for a in again] == list(expected)
    moments = state.inner.first
    for k, a in zip(range(6, 10), [a for a in again for _ in range(2)]):
        assert (moments[k][a] == 0).all() and (moments[k][~a] != 0).all()


def test_the_initial_distribution_of_gains_is_one(net: Params) -> None:
    drawn = initial_like(net, generators(range(REPLICAS)))
    expected = with_affine(mlp_init(WIDTHS, generators(range(REPLICAS))))
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_parameters_in_another_order_are_refused(net: Params) -> None:
    with pytest.raises(ValueError, match="only a gain and a shift"):
        hidden_units(net[:-1])
    with pytest.raises(ValueError, match="only a gain and a shift"):
        head_reset(sgd(0.1), 1).init((*net[:6], *net[8:], *net[6:8]))
    with pytest.raises(ValueError, match="batches of at least 2"):
        running_update(running_start(net), norm_forward(net, torch.ones(1, 4).double(), norm="batch"))
