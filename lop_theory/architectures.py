"""Builders of networks: MLPs, residual nets, random DAGs, and small ``nn.Module`` trees read as DAGs.

Parameter order follows ``model.parameters()`` of the PyTorch module with the same layers: for each layer the weight
``[out, in]`` in row-major order, then the bias ``[out]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from lop_theory.activations import get_activation
from lop_theory.dag import Dag


class _Builder:
    """Collects units and edges; parameters are numbered in the order in which layers are added."""

    def __init__(self, num_inputs: int, has_constant: bool) -> None:
        self.num_inputs, self.has_constant = num_inputs, has_constant
        self.activations: list[str] = []
        self.source: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.param: list[np.ndarray] = []
        self.fixed: dict[int, float | int] = {}
        self.num_params = 0
        self.num_edges = 0

    def units(self, count: int, activation: str) -> np.ndarray:
        first = self.num_inputs + self.has_constant + len(self.activations)
        self.activations.extend([activation] * count)
        return np.arange(first, first + count)

    def edges(self, source: np.ndarray, target: np.ndarray, param: np.ndarray) -> None:
        self.source.append(source)
        self.target.append(target)
        self.param.append(param)
        self.num_edges += len(source)
        self.num_params = max(self.num_params, int(param.max(initial=-1)) + 1)

    def fixed_edges(self, source: np.ndarray, target: np.ndarray, weight: float | int) -> None:
        self.fixed.update({self.num_edges + k: weight for k in range(len(source))})
        self.edges(source, target, np.full(len(source), -1))

    def linear(self, source: np.ndarray, target: np.ndarray, bias: bool) -> None:
        """Dense weights [target, source], then a bias for each target."""
        n, m = len(target), len(source)
        self.edges(np.tile(source, n), np.repeat(target, m), self.num_params + np.arange(n * m))
        if bias:
            constant = np.full(n, self.num_inputs)
            self.edges(constant, target, self.num_params + np.arange(n))

    def build(self, outputs: np.ndarray) -> Dag:
        return Dag(
            self.num_inputs,
            self.has_constant,
            tuple(self.activations),
            np.concatenate(self.source),
            np.concatenate(self.target),
            np.concatenate(self.param),
            outputs,
            self.fixed,
        )


def mlp(widths: Sequence[int], activation: str = "relu", bias: bool = True) -> Dag:
    """A fully connected net ``widths[0]-…-widths[-1]`` with linear outputs.

    >>> net = mlp([3, 5, 2])
    >>> net.num_params == 3 * 5 + 5 + 5 * 2 + 2
    True
    """
    widths = [int(w) for w in widths]
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"widths {widths}; give the input width, any hidden widths and the output width, all at least 1"
        )
    get_activation(activation)
    return _mlp(tuple(widths), activation, bias)


@lru_cache(maxsize=256)  # a Dag is immutable: equal networks share one object and its blocks and tiles
def _mlp(widths: tuple[int, ...], activation: str, bias: bool) -> Dag:
    builder = _Builder(widths[0], bias)
    layer = np.arange(widths[0])
    for depth, width in enumerate(widths[1:], start=1):
        nxt = builder.units(width, activation if depth < len(widths) - 1 else "identity")
        builder.linear(layer, nxt, bias)
        layer = nxt
    return builder.build(layer)


def residual_mlp(num_inputs: int, width: int, blocks: int, num_outputs: int, activation: str = "relu") -> Dag:
    """A residual net: a linear stem, then ``blocks`` times h ← h + W f(V h + b) + c, then a linear head.

    The skip connections are edges of fixed weight one.

    >>> residual_mlp(2, 3, 1, 1).num_params == (2 * 3 + 3) + 2 * (3 * 3 + 3) + (3 + 1)
    True
    """
    if min(num_inputs, width, blocks, num_outputs) < 1:
        raise ValueError(f"sizes {(num_inputs, width, blocks, num_outputs)} must all be at least 1")
    builder = _Builder(num_inputs, True)
    stream = builder.units(width, "identity")
    builder.linear(np.arange(num_inputs), stream, True)
    for _ in range(blocks):
        inner = builder.units(width, activation)
        builder.linear(stream, inner, True)
        total = builder.units(width, "identity")
        builder.linear(inner, total, True)
        builder.fixed_edges(stream, total, 1)
        stream = total
    head = builder.units(num_outputs, "identity")
    builder.linear(stream, head, True)
    return builder.build(head)


def random_dag(
    generator: np.random.Generator,
    num_inputs: int = 2,
    hidden: int = 4,
    num_outputs: int = 1,
    activation: str = "relu",
    density: float = 0.5,
    bias: bool = True,
) -> Dag:
    """A random DAG: every pair (earlier unit → later unit) is an edge with probability ``density``.

    Each hidden unit gets at least one incoming and one outgoing edge, so none is idle. Outputs are linear and are not
    connected to one another.

    >>> net = random_dag(np.random.default_rng(0), num_inputs=2, hidden=3)
    >>> net.num_inputs, net.num_outputs, len(net.hidden)
    (2, 1, 3)
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density {density} is not a probability; give a number in [0, 1]")
    if min(num_inputs, num_outputs) < 1 or hidden < 0:
        raise ValueError(f"num_inputs {num_inputs}, num_outputs {num_outputs}: at least 1; hidden {hidden}: at least 0")
    builder = _Builder(num_inputs, bias)
    inputs = np.arange(num_inputs)
    middle = builder.units(hidden, activation)
    outputs = builder.units(num_outputs, "identity")
    pairs: set[tuple[int, int]] = set()
    for k, v in enumerate([*middle, *outputs]):
        earlier = np.concatenate([inputs, middle[: min(k, hidden)]])
        chosen = earlier[generator.random(len(earlier)) < density]
        if not len(chosen):
            chosen = generator.choice(earlier, 1)
        pairs.update((int(u), int(v)) for u in chosen)
    for k, u in enumerate(middle):
        if not any(a == u for a, _ in pairs):
            pairs.add((int(u), int(generator.choice(np.concatenate([middle[k + 1 :], outputs])))))
    if bias:
        pairs.update((num_inputs, int(v)) for v in [*middle, *outputs])
    ordered = sorted(pairs, key=lambda p: (p[1], p[0]))
    source, target = (np.array(side) for side in zip(*ordered, strict=True))
    builder.edges(source, target, np.arange(len(ordered)))
    return builder.build(outputs)


def init_params(dag: Dag, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random parameters θ [P]: normal with variance 2 / fan-in on edges from units, zero on biases (Kaiming).

    A tied parameter takes the fan-in of its first edge.

    >>> net = mlp([2, 3, 1])
    >>> init_params(net, torch.Generator().manual_seed(0), torch.float64).shape
    torch.Size([13])
    """
    if not dtype.is_floating_point:
        raise TypeError(f"dtype {dtype}; parameters are floating point numbers; use torch.float64 or torch.float32")
    from_unit = dag.source != (-1 if dag.constant is None else dag.constant)
    fan_in = np.bincount(dag.target[from_unit], minlength=dag.num_units)
    scale = np.zeros(dag.num_params)
    trainable = np.flatnonzero(dag.param >= 0)[::-1]
    scale[dag.param[trainable]] = np.where(
        from_unit[trainable], np.sqrt(2.0 / np.maximum(fan_in[dag.target[trainable]], 1)), 0.0
    )
    noise = torch.randn(dag.num_params, generator=generator, dtype=torch.float64)
    return (noise * torch.from_numpy(scale)).to(dtype)


# -- nn.Module -> Dag ------------------------------------------------------------------------------------------------------

_MODULE_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardtanh: "hard_tanh",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
}


def _activation_name(module: nn.Module) -> str | None:
    if type(module) is nn.LeakyReLU:
        return f"leaky_relu:{module.negative_slope!r}"
    if (
        isinstance(module, nn.Hardtanh)
        and not isinstance(module, nn.ReLU6)
        and (module.min_val, module.max_val) != (-1, 1)
    ):
        return None
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    if isinstance(module, nn.Softplus) and (module.beta, module.threshold) != (1, 20):
        return None
    return _MODULE_ACTIVATIONS.get(type(module))


def from_module(module: nn.Module, input_shape: Sequence[int] | None = None) -> tuple[Dag, torch.Tensor]:
    """Read a sequential module as a network: ``(dag, θ)`` with θ in the order of ``module.parameters()``.

    Understands (nested) ``Sequential`` of ``Linear``, ``Conv2d`` (zero padding, any stride, dilation and groups),
    ``AvgPool2d`` (fixed weights), ``Flatten`` and elementwise activations. ``input_shape`` (without the batch) is
    needed if the first layer is a convolution or pooling; the inputs of the network are then flattened in row-major
    order. A convolution becomes tied edges. Raises ``TypeError`` naming the first module it cannot express.

    >>> net, theta = from_module(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> net.num_params, len(theta), net.activations
    (13, 13, ('relu', 'relu', 'relu', 'identity'))
    """
    hooked = [m for m in module.modules() if m._forward_hooks or m._forward_pre_hooks]
    if hooked:
        raise TypeError(
            f"{hooked[0]} has forward hooks, which may change what it computes; remove them (weight_norm, prune)"
        )
    layers = [m for m in _flatten_sequential(module) if not isinstance(m, nn.Dropout) or (m.p > 0 and m.training)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no layers; give at least one Linear or Conv2d")
    shape = tuple(input_shape) if input_shape is not None else _first_shape(layers[0])
    has_bias = any(getattr(m, "bias", None) is not None for m in layers)
    builder = _Builder(int(np.prod(shape)), has_bias)
    units = np.arange(builder.num_inputs).reshape(shape)
    k = 0
    while k < len(layers):
        layer = layers[k]
        following = _activation_name(layers[k + 1]) if k + 1 < len(layers) else None
        name = following or "identity"
        if type(layer) is nn.Linear:  # a subclass (also a parametrized layer) may compute something else
            units = _add_linear(builder, layer, units, name)
        elif type(layer) is nn.Conv2d:
            units = _add_conv(builder, layer, units, name)
        elif type(layer) is nn.AvgPool2d:
            units = _add_pool(builder, layer, units, name)
        elif type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            units, following = units.reshape(-1), None
        elif (alone := _activation_name(layer)) is not None:  # an activation that follows a flatten or an activation
            following = None
            fresh = builder.units(units.size, alone)
            builder.fixed_edges(units.ravel(), fresh, 1)
            units = fresh.reshape(units.shape)
        else:
            raise TypeError(
                f"{layer} cannot be read as a DAG of scalar units; from_module knows Linear, Conv2d, AvgPool2d, Flatten and "
                "elementwise activations; use module_hessian for other modules"
            )
        k += 2 if following else 1
    dag = builder.build(units.ravel())
    parameters = [p.detach().reshape(-1) for p in module.parameters()]
    theta = torch.cat(parameters) if parameters else torch.zeros(0)
    if len(theta) != dag.num_params:
        raise TypeError(
            f"{type(module).__name__} has {len(theta)} parameters but its layers use {dag.num_params}; each must be used once"
        )
    return dag, theta.clone()


def _flatten_sequential(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [leaf for child in module for leaf in _flatten_sequential(child)]
    return [module]


def _first_shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    raise ValueError(
        f"the first layer is {layer}; give input_shape, the shape of one sample, e.g. (channels, height, width)"
    )


def _add_linear(builder: _Builder, layer: nn.Linear, units: np.ndarray, name: str) -> np.ndarray:
    if units.shape != (layer.in_features,):
        raise ValueError(
            f"{layer} meets units of shape {units.shape}; it needs ({layer.in_features},); put a Flatten before it"
        )
    target = builder.units(layer.out_features, name)
    builder.linear(units, target, layer.bias is not None)
    return target


def _windows(
    layer: nn.Conv2d | nn.AvgPool2d, shape: tuple[int, ...]
) -> tuple[list[tuple[int, int, int, int, int, int]], tuple[int, int]]:
    """(out row, out column, kernel row, kernel column, in row, in column) of every tap that is not padding."""

    def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else (value[0], value[1])

    if isinstance(layer.padding, str):
        raise TypeError(f"padding {layer.padding!r} of {layer}; give it as numbers")
    (kh, kw), (sh, sw), (ph, pw) = pair(layer.kernel_size), pair(layer.stride), pair(layer.padding)
    dh, dw = pair(layer.dilation) if isinstance(layer, nn.Conv2d) else (1, 1)
    height = (shape[-2] + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    width = (shape[-1] + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    taps = [
        (r, c, a, b, r * sh - ph + a * dh, c * sw - pw + b * dw)
        for r in range(height)
        for c in range(width)
        for a in range(kh)
        for b in range(kw)
    ]
    inside = [t for t in taps if 0 <= t[4] < shape[-2] and 0 <= t[5] < shape[-1]]
    return inside, (height, width)


def _add_conv(builder: _Builder, layer: nn.Conv2d, units: np.ndarray, name: str) -> np.ndarray:
    if units.ndim != 3 or units.shape[0] != layer.in_channels:
        raise ValueError(f"{layer} meets units of shape {units.shape}; it needs ({layer.in_channels}, height, width)")
    if layer.padding_mode != "zeros":
        raise TypeError(f"padding_mode {layer.padding_mode!r} of {layer}; only zero padding is understood")
    taps, (height, width) = _windows(layer, units.shape)
    out = builder.units(layer.out_channels * height * width, name).reshape(layer.out_channels, height, width)
    weight = builder.num_params + np.arange(layer.weight.numel()).reshape(layer.weight.shape)
    per_group_in, per_group_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    source, target, param = [], [], []
    for o in range(layer.out_channels):
        base = (o // per_group_out) * per_group_in
        for i in range(per_group_in):
            for r, c, a, b, y, x in taps:
                source.append(units[base + i, y, x])
                target.append(out[o, r, c])
                param.append(weight[o, i, a, b])
    builder.edges(np.array(source), np.array(target), np.array(param))
    if layer.bias is not None:
        bias = builder.num_params + np.repeat(np.arange(layer.out_channels), height * width)
        builder.edges(np.full(out.size, builder.num_inputs), out.ravel(), bias)
    return out


def _add_pool(builder: _Builder, layer: nn.AvgPool2d, units: np.ndarray, name: str) -> np.ndarray:
    if layer.padding not in (0, (0, 0)) or layer.ceil_mode or layer.divisor_override:
        raise TypeError(
            f"{layer} uses padding, ceil_mode or divisor_override; only plain average pooling is understood"
        )
    taps, (height, width) = _windows(layer, units.shape)
    out = builder.units(units.shape[0] * height * width, name).reshape(units.shape[0], height, width)
    kernel = layer.kernel_size
    area = kernel * kernel if isinstance(kernel, int) else kernel[0] * kernel[1]
    for channel in range(units.shape[0]):
        source = np.array([units[channel, y, x] for *_, y, x in taps])
        target = np.array([out[channel, r, c] for r, c, *_ in taps])
        builder.fixed_edges(source, target, 1.0 / area)
    return out
