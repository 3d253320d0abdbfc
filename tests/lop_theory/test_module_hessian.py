"""module_hessian and module_gauss_newton: both routes against autograd, no side effects, refusals."""

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from lop_theory.module_hessian import module_gauss_newton, module_hessian

module = import_module("lop_theory.module_hessian")  # `import ... as` would give the function of that name


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.tanh(self.inner(x)))[:, :3]


def dense(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), *middle, nn.Linear(5, 3))


# name: (builder, shape of one sample, does the layerwise route apply?)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "mlp": (lambda: dense(nn.Tanh()), (4,), True),
    "relu": (lambda: dense(nn.ReLU()), (4,), True),
    "dropout in eval": (lambda: dense(nn.Tanh(), nn.Dropout(0.5)).eval(), (4,), True),
    "conv": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), (1, 4, 4), True),
    "layer norm": (lambda: dense(nn.LayerNorm(5), nn.Tanh()), (4,), False),
    "batch norm": (lambda: dense(nn.BatchNorm1d(5), nn.Tanh()), (4,), False),
    "batch norm in eval": (lambda: dense(nn.BatchNorm1d(5), nn.Tanh()).eval(), (4,), False),
    "group norm": (lambda: dense(nn.GroupNorm(1, 5), nn.ELU()), (4,), False),
    "attention": (Attention, (5, 4), False),
    "transformer": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 6, 0.1, batch_first=True), nn.Flatten(), nn.Linear(8, 3)
        ).eval(),
        (2, 4),
        False,
    ),
    "tied": (Tied, (4,), False),
}
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross entropy": nn.CrossEntropyLoss(),
    "mean square": nn.functional.mse_loss,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "coupled": lambda f, y: (f - y).square().sum().sqrt(),
}


def problem(name: str, loss: str, generator: torch.Generator) -> tuple[nn.Module, Any, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name][0]().double()
    x = torch.randn(6, *MODELS[name][1], generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (6,), generator=generator)
    dense_targets = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return model, LOSSES[loss], x, labels if loss in ("cross entropy", "smoothed") else dense_targets


def reference(model: nn.Module, loss_fn: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(Hessian, Gauss–Newton matrix) by torch.autograd.functional, on a copy of the model."""
    model = copy.deepcopy(model)
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def output(vector: torch.Tensor) -> torch.Tensor:
        pieces = vector.split([s.numel() for s in shapes])
        values = {n: piece.view(s) for n, piece, s in zip(names, pieces, shapes, strict=True)}
        return torch.func.functional_call(model, values, (x,))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        full = torch.autograd.functional.hessian(lambda t: loss_fn(output(t), y), theta)
        f = output(theta).detach()
        jacobian = torch.autograd.functional.jacobian(output, theta).flatten(0, -2)
    curvature = torch.autograd.functional.hessian(lambda v: loss_fn(v.view_as(f), y), f.reshape(-1))
    return full, jacobian.T @ curvature @ jacobian


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_both_matrices_and_no_side_effects(name: str, loss: str, generator: torch.Generator) -> None:
    model, loss_fn, x, y = problem(name, loss, generator)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    hessian, positive = (
        module_hessian(model, loss_fn, x, y, chunk=7),
        module_gauss_newton(model, loss_fn, x, y, chunk=7),
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    for got, expected in zip((hessian, positive), reference(model, loss_fn, x, y), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
        assert torch.equal(got, got.T)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_which_route_is_taken(name: str, loss: str, generator: torch.Generator) -> None:
    found = module._as_dag(module._problem(*problem(name, loss, generator), chunk=1))
    assert (found is not None) == (MODELS[name][2] and loss in ("cross entropy", "mean square"))


@pytest.mark.parametrize("loss", ["cross entropy", "mean square"])
def test_the_routes_agree(loss: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = problem("conv", loss, generator)
    fast = module_hessian(*arguments), module_gauss_newton(*arguments)
    monkeypatch.setattr(module, "_as_dag", lambda problem: None)
    torch.testing.assert_close(
        fast, (module_hessian(*arguments), module_gauss_newton(*arguments)), rtol=1e-11, atol=1e-13
    )


def test_at_a_kink_torch_decides(generator: torch.Generator) -> None:
    model, loss_fn, x, y = problem("relu", "cross entropy", generator)
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0, 0  # the pre-activation of unit 0 is 0 on every sample
    torch.testing.assert_close(module_hessian(model, loss_fn, x, y), reference(model, loss_fn, x, y)[0])


def test_frozen_parameters_are_included(generator: torch.Generator) -> None:
    model, loss_fn, x, y = problem("layer norm", "cross entropy", generator)
    expected = module_hessian(model, loss_fn, x, y)
    model[0].requires_grad_(False)
    assert torch.equal(module_hessian(model, loss_fn, x, y), expected)
    assert not model[0].weight.requires_grad


def test_integer_inputs_of_an_embedding(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = torch.randint(5, (6,), generator=generator), torch.randint(2, (6,), generator=generator)
    torch.testing.assert_close(
        module_hessian(model, nn.CrossEntropyLoss(), x, y), reference(model, nn.CrossEntropyLoss(), x, y)[0]
    )


def test_weights_that_are_ignored_by_the_loss_do_not_take_the_fast_route(generator: torch.Generator) -> None:
    model, _, x, y = problem("mlp", "cross entropy", generator)
    y[0] = -100
    torch.testing.assert_close(
        module_hessian(model, nn.CrossEntropyLoss(), x, y), reference(model, nn.CrossEntropyLoss(), x, y)[0]
    )
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double(), reduction="sum")
    torch.testing.assert_close(module_hessian(model, weighted, x, y), reference(model, weighted, x, y)[0])


LINEAR = nn.Linear(2, 2).double()
X, Y = torch.ones(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
MSE = nn.functional.mse_loss
BROKEN = copy.deepcopy(LINEAR)
BROKEN.weight.data[0, 0] = float("nan")


class Pair(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((nn.ReLU(), MSE, X, Y), {}, TypeError, "ReLU has no parameters, so no Hessian; give a model with trainable"),
        ((BROKEN, MSE, X, Y), {}, ValueError, "weight contains NaN or infinity; all entries must be finite"),
        ((LINEAR, MSE, X * float("nan"), Y), {}, ValueError, "x contains NaN or infinity"),
        ((LINEAR, MSE, X, Y / 0), {}, ValueError, "y contains NaN or infinity"),
        ((LINEAR, MSE, [1.0], Y), {}, TypeError, "x is a list; give a torch tensor"),
        (
            (LINEAR, MSE, X[:0], Y[:0]),
            {},
            ValueError,
            r"x has shape \(0, 2\), an empty batch; a loss needs",
        ),
        ((nn.Sequential(LINEAR, nn.Linear(2, 2)), MSE, X, Y), {}, TypeError, "dtype torch.float32, torch.float64; one"),
        ((nn.Linear(2, 2, dtype=torch.cfloat), MSE, X, Y), {}, TypeError, r"dtype torch.complex64; .*model.double"),
        ((LINEAR, MSE, X, Y), {"chunk": 0}, ValueError, "chunk is 0; .*give at least 1"),
        (
            (LINEAR, nn.MSELoss(reduction="none"), X, Y),
            {},
            ValueError,
            "loss_fn must return one number",
        ),
        (
            (LINEAR, lambda f, y: (f - y).sum() / 0, X, Y),
            {},
            ValueError,
            "the loss is (inf|-inf|nan); it must",
        ),
        ((Pair(2, 2).double(), MSE, X, Y), {}, TypeError, "the model returned a tuple; wrap it in a module that"),
        (
            (nn.Sequential(LINEAR, nn.Dropout(0.5)), MSE, X, Y),
            {},
            ValueError,
            r"1 \(Dropout\) drops .* 0.5;",
        ),
    ],
)
@pytest.mark.parametrize("function", [module_hessian, module_gauss_newton])
def test_bad_input(function: Any, arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(*arguments, **options)


def test_attention_with_dropout_is_refused() -> None:
    model = nn.MultiheadAttention(4, 2, dropout=0.1)
    with pytest.raises(ValueError, match=r"the model \(MultiheadAttention\) drops units with probability 0.1"):
        module_hessian(model, MSE, torch.ones(2, 4), torch.ones(2, 4))


def test_a_matrix_beyond_the_memory_is_refused_before_it_is_computed() -> None:
    model = nn.Sequential(nn.Linear(2000, 1000), nn.LayerNorm(1000))
    message = r"P = 2003000 parameters: the matrix has 40120\d+ entries, 16048.0 GB, but this machine has .*use hvp"
    with pytest.raises(ValueError, match=message):
        module_hessian(model, MSE, torch.ones(1, 2000), torch.ones(1, 1000))
