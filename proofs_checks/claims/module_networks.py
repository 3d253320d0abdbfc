"""Module trees as networks of scalar units, in the form that the independent checker reads.

Every feature at every position becomes a unit; a weight that is used at many positions becomes one parameter on many edges.
Supported: Linear, Conv1d/2d, ReLU, average pooling, Flatten, Residual, BatchNorm (batch statistics), LayerNorm, GroupNorm,
dropout (as the identity: the checker is told the masks), and attention on two tokens, where the softmax is a sigmoid of
the difference of two scores and products are sums of squares: a b = ((a + b)² − a² − b²)/2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from lop_theory.modules import TiedDropout
from lop_theory.vision import Attention, Residual
from proofs_checks.instances import number

EPS = "1/100000"
_LEAVES = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.ReLU, nn.Identity, nn.Dropout, TiedDropout, nn.Flatten),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d),
)


class NotLoweredError(TypeError):
    """A module that has no counterpart among the checker's networks."""


@dataclass
class UnitNetwork:
    """A network under construction. ``units[path]`` are the units of a module's output, in the shape of one sample;

    ``params[name]`` are parameter numbers in the shape of the tensor. Unit ``num_inputs`` is the constant one.
    """

    num_inputs: int
    activations: list[str] = field(default_factory=list)
    edges: list[list[Any]] = field(default_factory=list)
    theta: list[str] = field(default_factory=list)
    norms: list[dict[str, Any]] = field(default_factory=list)
    units: dict[str, np.ndarray] = field(default_factory=dict)
    params: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def one(self) -> int:
        return self.num_inputs

    def unit(self, sources: Mapping[int, Any], activation: str = "identity") -> int:
        """A unit with fixed incoming weights."""
        return self._unit([[u, number(w)] for u, w in sources.items()], activation)

    def trained(self, sources: list[tuple[int, int]], activation: str = "identity") -> int:
        """A unit with incoming (source, parameter number)."""
        return self._unit([list(pair) for pair in sources], activation)

    def _unit(self, sources: list[list[Any]], activation: str) -> int:
        v = self.num_inputs + 1 + len(self.activations)
        self.activations.append(activation)
        for u, w in sources:
            self.edges.append([int(u), v, -1, w] if isinstance(w, str) else [int(u), v, int(w)])
        return v

    def parameter(self, name: str, tensor: Tensor) -> np.ndarray:
        """The parameter numbers of a tensor."""
        values = tensor.detach().double().reshape(-1).tolist()
        numbers = np.arange(len(self.theta), len(self.theta) + len(values)).reshape(tuple(tensor.shape))
        self.theta += [number(v) for v in values]
        self.params[name] = numbers
        return numbers

    def product(self, a: int, b: int) -> int:
        """a · b."""
        squares = [self.unit(sources, "square") for sources in ({a: 1, b: 1} if a != b else {a: 2}, {a: 1}, {b: 1})]
        return self.unit({squares[0]: 0.5, squares[1]: -0.5, squares[2]: -0.5})

    def inverse_root(self, d: int) -> int:
        """1/√d, as the first of the pair (1, −1) normalised with eps = d − 1."""
        if d == 1:
            return self.one
        pair = [self.unit({self.one: s}) for s in (1, -1)]
        self.norms.append({"kind": "layernorm", "units": pair, "eps": str(d - 1)})
        return pair[0]

    def document(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """The NETWORK part of a witness; the outputs are the last units, in copies if they are not."""
        outputs = self.units[""].reshape(-1).tolist()
        network: dict[str, Any] = {
            "num_inputs": self.num_inputs,
            "has_constant": True,
            "activation": self.activations,
            "outputs": outputs,
            "edges": self.edges,
            "theta": self.theta,
            "x": [[number(v) for v in row] for row in x.reshape(len(x), -1).tolist()],
            "y": [[number(v) for v in row] for row in y.reshape(len(x), -1).tolist()],
            "loss": "mse_sum",
        }
        return {**network, "normalization": self.norms} if self.norms else network


def lower(module: nn.Module, x: Tensor) -> UnitNetwork:
    """The network of a module on inputs of the shape of x [N, …]. Raises ``NotLoweredError``.

    >>> import torch
    >>> net = lower(nn.Sequential(nn.Linear(2, 1), nn.ReLU()), torch.zeros(1, 2))
    >>> net.activations, len(net.theta), net.units["0"].tolist()
    (['identity', 'relu'], 3, [3])
    """
    network = UnitNetwork(int(x[0].numel()))
    network.units[""] = _lower(network, module, "", np.arange(network.num_inputs).reshape(tuple(x.shape[1:])))
    return network


def lowerable(module: nn.Module) -> bool:
    """Has every leaf a counterpart, without random masks and running statistics? (Strides are seen by :func:`lower` only.)"""
    attentions = [m for m in module.modules() if isinstance(m, Attention)]
    inside = {id(m) for a in attentions for m in a.modules()}
    leaves = [m for m in module.modules() if id(m) not in inside and not isinstance(m, nn.Sequential | Residual)]
    masked = any(isinstance(m, nn.Dropout | TiedDropout) and m.training and m.p > 0 for m in module.modules())
    running = any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and not m.training for m in leaves)
    return all(isinstance(m, _LEAVES) for m in leaves) and not masked and not running


def _lower(net: UnitNetwork, module: nn.Module, path: str, units: np.ndarray) -> np.ndarray:
    if isinstance(module, nn.Sequential | Residual):
        if isinstance(module, nn.Sequential):
            for key, child in module.named_children():
                units = _lower(net, child, _join(path, key), units)
        else:
            shortcut, body = (_lower(net, getattr(module, k), _join(path, k), units) for k in ("shortcut", "body"))
            pairs = zip(shortcut.flat, body.flat, strict=True)
            units = np.array([net.unit({a: 1, b: 1} if a != b else {a: 2}) for a, b in pairs]).reshape(body.shape)
    else:
        units = _leaf(net, module, path, units)
    net.units[path] = units
    return units


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _leaf(net: UnitNetwork, module: nn.Module, path: str, units: np.ndarray) -> np.ndarray:
    match module:
        case nn.Linear():
            return _linear(net, module, path, units)
        case nn.Conv1d() | nn.Conv2d():
            return _conv(net, module, path, units)
        case nn.ReLU():
            return np.array([net.unit({u: 1}, "relu") for u in units.flat]).reshape(units.shape)
        case nn.Identity() | nn.Dropout() | TiedDropout():
            return units
        case nn.Flatten():
            return units.reshape(-1)
        case nn.AdaptiveAvgPool2d() | nn.AdaptiveAvgPool1d() if module.output_size == 1:
            rows = units.reshape(len(units), -1)
            means = [net.unit({u: 1 / len(row) for u in row}) for row in rows.tolist()]
            return np.array(means).reshape(len(units), *[1] * (units.ndim - 1))
        case nn.LayerNorm() | nn.GroupNorm() | nn.BatchNorm1d() | nn.BatchNorm2d():
            return _norm(net, module, path, units)
        case Attention() if units.shape[0] == 2 and units.ndim == 2:
            return _attention(net, module, path, units)
    raise NotLoweredError(f"{type(module).__name__} at {path!r} has no counterpart among the checker's networks")


def _linear(net: UnitNetwork, module: nn.Linear, path: str, units: np.ndarray) -> np.ndarray:
    """On the last dim, for every position."""
    weight = net.parameter(f"{path}.weight", module.weight)
    bias = None if module.bias is None else net.parameter(f"{path}.bias", module.bias)
    rows = units.reshape(-1, units.shape[-1])
    out = [
        net.trained([*zip(row, weight[v], strict=True), *([] if bias is None else [(net.one, bias[v])])])
        for row in rows
        for v in range(len(weight))
    ]
    return np.array(out).reshape(*units.shape[:-1], len(weight))


def _conv(net: UnitNetwork, module: Any, path: str, units: np.ndarray) -> np.ndarray:
    """One edge for each tap inside the image; stride 1, padding with zeros."""
    if set(module.stride) != {1} or set(module.dilation) != {1}:
        raise NotLoweredError(f"the convolution at {path!r} has a stride or dilation")
    weight = net.parameter(f"{path}.weight", module.weight)
    bias = None if module.bias is None else net.parameter(f"{path}.bias", module.bias)
    pads = [(p, p) for p in module.padding]
    padded = np.pad(units, [(0, 0), *pads], constant_values=-1)
    taps = weight.shape[2:]
    shape = tuple(n - t + 1 for n, t in zip(padded.shape[1:], taps, strict=True))
    own, group = weight.shape[1], len(weight) // module.groups
    out = []
    for v in range(len(weight)):
        start = own * (v // group)
        for place in np.ndindex(shape):
            window = padded[(slice(start, start + own), *(slice(a, a + t) for a, t in zip(place, taps, strict=True)))]
            edges = [(u, w) for u, w in zip(window.flat, weight[v].flat, strict=True) if u >= 0]
            out.append(net.trained(edges + ([] if bias is None else [(net.one, bias[v])])))
    return np.array(out).reshape(len(weight), *shape)


def _norm(net: UnitNetwork, module: Any, path: str, units: np.ndarray) -> np.ndarray:
    raw = np.array([net.unit({u: 1}) for u in units.flat]).reshape(units.shape)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if units.size != len(units) or not module.training:
            raise NotLoweredError(f"the BatchNorm at {path!r} has several positions or running statistics")
        net.norms.append({"kind": "batchnorm", "units": raw.reshape(-1).tolist(), "eps": EPS})
    else:
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else 1
        rows = raw.reshape(groups, -1) if isinstance(module, nn.GroupNorm) else raw.reshape(-1, units.shape[-1])
        net.norms += [{"kind": "layernorm", "units": row.tolist(), "eps": EPS} for row in rows]
    gain, shift = (net.parameter(f"{path}.{key}", getattr(module, key)) for key in ("weight", "bias"))
    along_last = isinstance(module, nn.LayerNorm)
    out = np.empty_like(raw)
    for place in np.ndindex(raw.shape):
        c = place[-1 if along_last else 0]
        out[place] = net.trained([(raw[place], gain[c]), (net.one, shift[c])])
    return out


def _attention(net: UnitNetwork, module: Attention, path: str, units: np.ndarray) -> np.ndarray:
    """Two tokens: o_t = v_1 + σ(q_t·(k_0 − k_1)/√d) (v_0 − v_1)."""
    shape = (2, module.heads, module.head_dim)
    q, k, v = (_lower(net, getattr(module, part), _join(path, part), units).reshape(shape) for part in ("q", "k", "v"))
    scale = net.inverse_root(module.head_dim)
    mixed = np.empty(shape, dtype=np.int64)
    for h in range(module.heads):
        keys, values = (
            [net.unit({part[0, h, i]: 1, part[1, h, i]: -1}) for i in range(module.head_dim)] for part in (k, v)
        )
        for t in range(2):
            score = net.unit({net.product(int(q[t, h, i]), keys[i]): 1 for i in range(module.head_dim)})
            weight = net.unit({net.product(score, scale): 1}, "sigmoid")
            for i in range(module.head_dim):
                mixed[t, h, i] = net.unit({int(v[1, h, i]): 1, net.product(weight, values[i]): 1})
    return _lower(net, module.out, _join(path, "out"), mixed.reshape(2, -1))
