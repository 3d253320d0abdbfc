r"""One rule for each kind of module: how it is cloned, and when its parameters keep clones equal.

With A the 0/1 matrix of the incoming profile (x' = A x copies features), B that of the outgoing one and D = AᵀA the block
sizes, a linear map is cloned by W' = B W D⁻¹ Aᵀ: W' A x = B W x, so the clone computes B times the base. Every other module
is equivariant: it acts on each feature alone (activation, pooling, BatchNorm, dropout with one mask per block), or through
statistics of groups of features that clones leave as they are (LayerNorm, GroupNorm; if all blocks have one size).

Source: *Barriers* (arXiv 2510.00304) v1, Remark A.5, which lists the modules; the conditions are ours.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lop_theory.module_cloning.profile import (
    NotTheBaseFunctionError,
    Profile,
    ShapeMismatchError,
    Wire,
)
from lop_theory.module_cloning.residuals import BlockResiduals, equitable_spreads, irregular
from lop_theory.vision import ClassToken, MeanTokens, PositionalEmbedding, TakeToken, ToTokens


class Rule(ABC):
    """How one kind of module is cloned and certified. Widths are those of the base in ``clone``, of the clone in ``check``."""

    takes_axis = "any"
    gives_axis = "any"

    def axis(self, module: Any) -> str:
        """Where the module expects its features: "channels", "last" or "any"."""
        return self.takes_axis

    def takes(self, module: Any) -> int | None:
        """Number of features that the module fixes, or ``None`` if it takes any."""
        return None

    def chooses(self, module: Any) -> int | None:
        """Number of features that the module gives, if that is its own choice; ``None`` if it passes features on."""
        return None

    def passes(self, wire: Wire) -> Wire:
        """The wire behind a module that passes features on."""
        return Wire(wire.profile, wire.axis if self.gives_axis == "any" else self.gives_axis, wire.flat)

    @abstractmethod
    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        """The cloned module. With ``exact`` raises ``NotTheBaseFunctionError`` if it cannot compute the base function."""

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        """Residuals of the parameters, and conditions that fail."""
        return []


def name(module: nn.Module) -> str:
    """The class of a module, for messages."""
    return type(module).__name__


def _gather(tensor: Tensor | None, profile: Profile, dim: int = 0) -> Tensor | None:
    return None if tensor is None else tensor.detach().index_select(dim, profile.index.to(tensor.device)).clone()


def _rebuilt(module: nn.Module, tensors: dict[str, Tensor | None], **attributes: Any) -> nn.Module:
    """A copy of a module with other parameters, buffers and sizes; options, mode and the like are kept."""
    out = copy.deepcopy(module)
    for key, value in tensors.items():
        if value is not None:
            parameter = getattr(module, key)
            keeps = isinstance(parameter, nn.Parameter)
            setattr(out, key, nn.Parameter(value, requires_grad=parameter.requires_grad) if keeps else value)
    for key, value in attributes.items():
        setattr(out, key, value)
    return out


def _spread_row(path: str, kind: str, tensor: Tensor, profile: Profile, *violations: str) -> BlockResiduals:
    """A parameter with one value per feature: equal in blocks."""
    spread = profile.spread(tensor.to(torch.float64))
    scale = float(tensor.detach().abs().max()) if tensor.numel() else 1.0
    return BlockResiduals(path, kind, 0.0, spread, spread, scale, tuple(v for v in violations if v))


# -- linear maps -----------------------------------------------------------------------------------------------------


class LinearRule(Rule):
    """W'[v, u] = W[b(v), a(u)] / |S_a(u)|, b'[v] = b[b(v)]."""

    takes_axis = gives_axis = "last"

    def takes(self, module: nn.Linear) -> int:
        return module.in_features

    def chooses(self, module: nn.Linear) -> int:
        return module.out_features

    def clone(self, module: nn.Linear, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        weight = _gather(_gather(module.weight, outgoing), incoming, 1)
        assert weight is not None
        tensors = {
            "weight": weight / incoming.copies[incoming.index].to(weight),
            "bias": _gather(module.bias, outgoing),
        }
        return _rebuilt(module, tensors, in_features=incoming.width, out_features=outgoing.width)

    def check(self, module: nn.Linear, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        spreads = equitable_spreads(module.weight[..., None], incoming, outgoing)
        rows = [BlockResiduals(f"{path}.weight", name(module), *spreads, float(module.weight.detach().abs().max()))]
        if module.bias is not None:
            rows.append(_spread_row(f"{path}.bias", name(module), module.bias, outgoing))
        return rows


class ConvRule(Rule):
    """As a linear map, for each tap of the kernel. The number of groups is kept; each group is cloned by itself."""

    takes_axis = gives_axis = "channels"

    def takes(self, module: Any) -> int:
        return int(module.in_channels)

    def chooses(self, module: Any) -> int:
        return int(module.out_channels)

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        groups, own = module.groups, module.in_channels // module.groups
        for side, profile in (("incoming", incoming), ("outgoing", outgoing)):
            size, base = profile.width / groups, profile.base_width // groups
            if any(j // base != u // size for u, j in enumerate(profile.of)):
                raise ShapeMismatchError(
                    f"the {side} profile {profile.of} crosses the {groups} groups of a {name(module)}; each group of the clone "
                    "holds copies of one group of the base; clone all channels equally often, copies side by side"
                )
        local = (incoming.index % own).reshape(groups, -1)  # [groups, width of a group]
        counts = torch.stack([torch.bincount(row, minlength=own) for row in local])
        group_of = outgoing.index // (module.out_channels // groups)
        source = module.weight.detach().cpu()[outgoing.index]  # [out', own, taps …]
        taken = local[group_of]
        shape = (*taken.shape, *[1] * (source.dim() - 2))
        weight = source.gather(1, taken.reshape(shape).expand(*taken.shape, *source.shape[2:]))
        weight = weight / counts.gather(1, local)[group_of].reshape(shape).to(weight)
        tensors = {"weight": weight.to(module.weight.device), "bias": _gather(module.bias, outgoing)}
        return _rebuilt(module, tensors, in_channels=incoming.width, out_channels=outgoing.width)

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        dense, mask = dense_kernel(module)
        uneven = irregular(mask, incoming, outgoing)
        text = (f"not biregular: a block meets the {module.groups} groups unevenly",) if uneven else ()
        spreads = equitable_spreads(dense, incoming, outgoing)
        scale = float(module.weight.detach().abs().max())
        rows = [BlockResiduals(f"{path}.weight", name(module), *spreads, scale, text)]
        if module.bias is not None:
            rows.append(_spread_row(f"{path}.bias", name(module), module.bias, outgoing))
        return rows


def dense_kernel(module: Any) -> tuple[Tensor, Tensor]:
    """The kernel as [out, in, taps] with zeros outside its groups, and the 0/1 mask [out, in] of its edges.

    >>> dense_kernel(nn.Conv2d(4, 2, 1, groups=2))[1].tolist()
    [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    """
    weight = module.weight.detach().cpu().to(torch.float64).flatten(2)
    out, own, taps = weight.shape
    dense, mask = weight.new_zeros(out, own * module.groups, taps), weight.new_zeros(out, own * module.groups)
    for v in range(out):
        start = own * (v // (out // module.groups))
        dense[v, start : start + own], mask[v, start : start + own] = weight[v], 1.0
    return dense, mask


class EmbeddingRule(Rule):
    """Columns are repeated: the input is an index, so nothing is divided."""

    takes_axis, gives_axis = "index", "last"

    def chooses(self, module: nn.Embedding) -> int:
        return module.embedding_dim

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        return _rebuilt(module, {"weight": _gather(module.weight, outgoing, 1)}, embedding_dim=outgoing.width)

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        return [_spread_row(f"{path}.weight", name(module), module.weight.T, outgoing)]


# -- modules that pass features on -----------------------------------------------------------------------------------


class ElementwiseRule(Rule):
    """Acts on each feature alone, without parameters: activations, pooling over positions."""

    def __init__(self, axis: str = "any", gives: str = "any") -> None:
        self.takes_axis, self.gives_axis = axis, gives

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        return copy.deepcopy(module)


class FlattenRule(ElementwiseRule):
    """[B, C, …] → [B, C · positions]. The next module shows how many positions there are: cloning is aware of them."""

    def passes(self, wire: Wire) -> Wire:
        return Wire(wire.profile, "last", wire.flat or (wire.profile is not None and wire.axis == "channels"))


class PReLURule(Rule):
    """One slope, or one per channel: then the activation is shared within a block only if the slopes are."""

    def takes(self, module: nn.PReLU) -> int | None:
        return None if module.num_parameters == 1 else module.num_parameters

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        if module.num_parameters == 1:
            return copy.deepcopy(module)
        return _rebuilt(module, {"weight": _gather(module.weight, outgoing)}, num_parameters=outgoing.width)

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        if module.num_parameters == 1:
            return []
        row = _spread_row(f"{path}.weight", name(module), module.weight, outgoing)
        text = "activation not shared within a block" if row.column else ""
        return [_spread_row(f"{path}.weight", name(module), module.weight, outgoing, text)]


class PerFeatureRule(Rule):
    """Parameters and buffers with one value per feature, on dim ``dim``: BatchNorm, class token, positions."""

    def __init__(self, size: str, tensors: tuple[str, ...], dim: int = 0, axis: str = "any") -> None:
        self.size, self.tensors, self.dim, self.takes_axis = size, tensors, dim, axis

    def takes(self, module: Any) -> int:
        return int(getattr(module, self.size) if self.size else module.weight.shape[self.dim])

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        tensors = {key: _gather(getattr(module, key), incoming, self.dim) for key in self.tensors}
        return _rebuilt(module, tensors, **({self.size: incoming.width} if self.size else {}))

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        present = [(key, getattr(module, key)) for key in self.tensors if getattr(module, key) is not None]
        return [
            _spread_row(f"{path}.{key}", name(module), value.movedim(self.dim, 0), incoming) for key, value in present
        ]


class LayerNormRule(Rule):
    """Statistics over all features: those of the base iff all blocks have one size. Clones stay equal in any case."""

    def axis(self, module: Any) -> str:
        return "last" if len(module.normalized_shape) == 1 else "channels"  # channels and positions together

    def takes(self, module: Any) -> int:
        return int(module.normalized_shape[0])

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        if exact and not incoming.is_uniform:
            raise NotTheBaseFunctionError(
                f"{name(module)} over blocks of sizes {incoming.copies.tolist()}: its mean and variance weigh features by their "
                "number of copies; clone all features equally often, or ask for exact=False (clones then stay equal)"
            )
        tensors = {key: _gather(getattr(module, key, None), incoming) for key in ("weight", "bias")}
        return _rebuilt(module, tensors, normalized_shape=(incoming.width, *module.normalized_shape[1:]))

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        present = [(key, getattr(module, key, None)) for key in ("weight", "bias")]
        return [_spread_row(f"{path}.{k}", name(module), value, incoming) for k, value in present if value is not None]


class GroupNormRule(Rule):
    """Statistics over groups: clones stay equal iff no block is split over groups with different members."""

    def takes(self, module: nn.GroupNorm) -> int:
        return module.num_channels

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        if incoming.width % module.num_groups:
            raise ShapeMismatchError(
                f"{incoming.width} channels do not split into the {module.num_groups} groups of a GroupNorm; "
                "clone all channels equally often"
            )
        if exact:
            self._require_base_statistics(module, incoming)
        tensors = {key: _gather(getattr(module, key), incoming) for key in ("weight", "bias")}
        return _rebuilt(module, tensors, num_channels=incoming.width)

    @staticmethod
    def _require_base_statistics(module: nn.GroupNorm, incoming: Profile) -> None:
        """Every group of the clone holds each channel of one group of the base, all equally often."""
        size = module.num_channels // module.num_groups
        for row in incoming.composition(module.num_groups):
            held = {j // size for j, count in enumerate(row) if count}
            counts = {row[j] for g in held for j in range(g * size, (g + 1) * size)}
            if len(held) > 1 or len(counts) > 1:
                raise NotTheBaseFunctionError(
                    f"GroupNorm({module.num_groups}) on the profile {incoming.of}: a group of the clone does not hold the channels "
                    "of one group of the base equally often; clone all channels equally often, copies side by side"
                )

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        split = incoming.split_block(module.num_groups)
        text = "" if split is None else f"block {split} is split over groups with different members"
        if module.weight is None:
            return [BlockResiduals(path, name(module), violations=(text,) if text else ())]
        return [
            _spread_row(f"{path}.{k}", name(module), getattr(module, k), incoming, text) for k in ("weight", "bias")
        ]


# -- dropout ---------------------------------------------------------------------------------------------------------


class TiedDropout(nn.Module):
    """Dropout with one mask per block: the mask of the base, copied. On one seed it drops what the base drops.

    ``axis`` is the dim of the features; a flattened input has several positions per feature. ``whole`` drops whole channels.

    >>> x = torch.ones(1, 4)
    >>> y = TiedDropout(0.5, Profile((0, 0, 1, 1)))(x)
    >>> bool((y[:, 0] == y[:, 1]).all() and (y[:, 2] == y[:, 3]).all())
    True
    """

    def __init__(self, p: float, profile: Profile, axis: int = -1, whole: bool = False) -> None:
        super().__init__()
        self.p, self.profile, self.axis, self.whole = p, profile, axis, whole

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        positions = x.shape[self.axis] // self.profile.width
        profile = self.profile.expanded(positions) if positions > 1 else self.profile
        shape = list(x.shape)
        shape[self.axis] = profile.base_width
        shape[2:] = [1] * len(shape[2:]) if self.whole else shape[2:]
        mask = F.dropout(torch.ones(shape, dtype=x.dtype, device=x.device), self.p)
        return x * mask.index_select(self.axis, profile.index.to(x.device))

    def extra_repr(self) -> str:
        return f"p={self.p}, blocks={self.profile.base_width}"


class DropoutRule(Rule):
    """One mask per block. Independent masks make clones differ at the first step."""

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        whole = not isinstance(module, nn.Dropout | TiedDropout) or (isinstance(module, TiedDropout) and module.whole)
        out = TiedDropout(module.p, incoming, 1 if wire.axis == "channels" else -1, whole)
        return out.train(module.training)

    def check(self, module: Any, path: str, incoming: Profile, outgoing: Profile) -> list[BlockResiduals]:
        tied = isinstance(module, TiedDropout) and module.profile.fibres == incoming.fibres
        if module.p == 0 or tied or incoming.is_trivial:
            return []
        return [BlockResiduals(path, name(module), violations=("masks are not tied within blocks",))]


_NORM = ("weight", "bias", "running_mean", "running_var")
_ANYWHERE, _POOL = ElementwiseRule(), ElementwiseRule("channels")

RULES: dict[type[nn.Module], Rule] = {
    # linear maps
    nn.Linear: LinearRule(),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), ConvRule()),
    nn.Embedding: EmbeddingRule(),
    # elementwise
    **dict.fromkeys(
        (nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU), _ANYWHERE
    ),
    **dict.fromkeys((nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Mish), _ANYWHERE),
    nn.PReLU: PReLURule(),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d), _POOL),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), _POOL),
    # norms
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), PerFeatureRule("num_features", _NORM)),
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm), LayerNormRule()),
    nn.GroupNorm: GroupNormRule(),
    # shapes and tokens
    nn.Flatten: FlattenRule(),
    ToTokens: ElementwiseRule("channels", "last"),
    **dict.fromkeys((TakeToken, MeanTokens), ElementwiseRule("last")),
    ClassToken: PerFeatureRule("", ("weight",), 0, "last"),
    PositionalEmbedding: PerFeatureRule("", ("weight",), 1, "last"),
    # dropout
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, TiedDropout), DropoutRule()),
}
"""The rule of each supported leaf, by exact type: a subclass may compute something else."""
