"""The walk through a tree of modules: which profile every module takes and gives.

Three kinds of module hold others: ``nn.Sequential``, :class:`~lop_theory.vision.Residual` and
:class:`~lop_theory.vision.Attention`. Every other module is a leaf with a rule. The walk is the same for cloning (it chooses
profiles and rebuilds the leaves) and for certifying (it reads profiles and checks the leaves).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lop_theory.module_cloning.profile import (
    Interface,
    Profile,
    ProfileMismatchError,
    ShapeMismatchError,
    UnsupportedModuleError,
    Wire,
)
from lop_theory.module_cloning.rules import RULES, Rule, name
from lop_theory.vision import Attention, Residual

Request = Callable[[int], Profile]
"""Base width → the profile that the last module of a part has to give."""

_PLACES = {"channels": "on dim 1", "last": "on the last dim", "index": "as an index"}


def join(path: str, child: str) -> str:
    """The name of a child, as in ``named_modules``."""
    return f"{path}.{child}" if path else child


@dataclass
class Walk(ABC):
    """One pass over a tree. ``interfaces`` collects the profiles of every leaf whose input is not raw."""

    rules: Mapping[type[nn.Module], Rule]
    interfaces: dict[str, Interface]

    # what differs between cloning and certifying

    @abstractmethod
    def size(self, profile: Profile) -> int:
        """The width that the modules of this tree see."""

    @abstractmethod
    def choose(self, path: str, width: int, request: Request | None) -> Profile:
        """The profile given by a module that chooses its own width."""

    @abstractmethod
    def leaf(self, module: nn.Module, path: str, rule: Rule, wire: Wire, at: Interface) -> nn.Module:
        """Rebuild or check one leaf."""

    @abstractmethod
    def attention(self, module: Attention, path: str, at: Interface, request: Request | None) -> nn.Module:
        """Rebuild or check an attention."""

    def same(self, left: Profile, right: Profile) -> bool:
        """Do two profiles match?"""
        return left == right

    def mismatch(self, path: str, module: nn.Module, text: str) -> None:
        """Profiles that do not match."""
        raise ProfileMismatchError(
            f"profiles do not match in {path!r} ({name(module)}): {text}; clone both sides equally"
        )

    # the walk

    def run(self, module: nn.Module, path: str, wire: Wire, request: Request | None) -> tuple[nn.Module, Wire]:
        """The rebuilt module and the wire behind it."""
        if type(module) is nn.Sequential:
            return self._sequential(module, path, wire, request)
        if type(module) is Residual:
            return self._residual(module, path, wire, request)
        if type(module) is Attention:
            return self._attention(module, path, wire, request)
        rule = self.rules.get(type(module))
        if rule is None or not _standard(module):
            raise UnsupportedModuleError(
                f"module {path!r} is a {name(module)}{'' if rule is None else ' with options'} for which no cloning rule is "
                "known; build the network from Sequential, Residual, Attention and the modules in RULES, or pass rules={type: Rule}"
            )
        return self._leaf(module, path, rule, wire, request)

    def _sequential(
        self, module: nn.Sequential, path: str, wire: Wire, request: Request | None
    ) -> tuple[nn.Module, Wire]:
        children = list(module.named_children())
        last = max((k for k, (_, child) in enumerate(children) if self.chooses(child)), default=-1)
        rebuilt: OrderedDict[str, nn.Module] = OrderedDict()
        for k, (key, child) in enumerate(children):
            rebuilt[key], wire = self.run(child, join(path, key), wire, request if k == last else None)
        return nn.Sequential(rebuilt).train(module.training), wire

    def _residual(self, module: Residual, path: str, wire: Wire, request: Request | None) -> tuple[nn.Module, Wire]:
        """Both branches give one profile: the one that is free follows the one that is not, or the body leads."""
        parts: dict[str, tuple[nn.Module, Wire]] = {}
        order = ("body", "shortcut") if self.chooses(module.shortcut) else ("shortcut", "body")
        for key in order:
            parts[key] = self.run(getattr(module, key), join(path, key), wire, request)
            request = self._like(parts[key][1], join(path, key))
        body, shortcut = (parts[key][1] for key in ("body", "shortcut"))
        if body.profile is not None and shortcut.profile is not None and not self.same(body.profile, shortcut.profile):
            self.mismatch(path, module, f"the branches give {body.profile.of} and {shortcut.profile.of}")
        rebuilt = Residual(parts["body"][0], parts["shortcut"][0]).train(module.training)
        return rebuilt, shortcut if body.profile is None else body

    def _like(self, wire: Wire, path: str) -> Request:
        """The other branch of a residual has to give this profile (the identity beside a raw input)."""
        wanted = wire.profile

        def request(width: int) -> Profile:
            if wanted is not None and self.size(wanted) != width:
                raise ShapeMismatchError(
                    f"{path!r} gives {self.size(wanted)} features and is added to {width}; a residual adds equal shapes; change "
                    "the width of a branch"
                )
            return Profile.identity(width) if wanted is None else wanted

        return request

    def _attention(self, module: Attention, path: str, wire: Wire, request: Request | None) -> tuple[nn.Module, Wire]:
        incoming = self.resolve(path, module, wire, module.q.in_features, "last")
        outgoing = self.choose(path, module.out.out_features, request)
        at = Interface(incoming, outgoing)
        self.interfaces[path] = at
        return self.attention(module, path, at, request), Wire(outgoing, "last")

    def _leaf(
        self, module: nn.Module, path: str, rule: Rule, wire: Wire, request: Request | None
    ) -> tuple[nn.Module, Wire]:
        width = rule.chooses(module)
        takes = rule.takes(module)
        if wire.profile is None and takes is None and width is None:  # a raw input that is passed on
            return self.leaf(module, path, _RAW, wire, _EMPTY), rule.passes(wire)
        if takes is not None or wire.profile is None:
            incoming = self.resolve(path, module, wire, takes or 1, rule.axis(module))
            wire = Wire(incoming, rule.axis(module) if wire.axis == "any" else wire.axis)
        else:
            self.require_axis(path, module, wire, rule.axis(module))
            incoming = wire.profile
        outgoing = incoming if width is None else self.choose(path, width, request)
        at = Interface(incoming, outgoing)
        self.interfaces[path] = at
        rebuilt = self.leaf(module, path, rule, wire, at)
        return rebuilt, rule.passes(wire) if width is None else Wire(outgoing, rule.gives_axis)

    def chooses(self, module: nn.Module) -> bool:
        """Does some part of the module choose the width that it gives?"""
        if isinstance(module, nn.Sequential):
            return any(self.chooses(child) for child in module)
        if isinstance(module, Residual):
            return self.chooses(module.body) and self.chooses(module.shortcut)
        if isinstance(module, Attention):
            return True
        rule = self.rules.get(type(module))
        return rule is not None and rule.chooses(module) is not None

    def resolve(self, path: str, module: nn.Module, wire: Wire, takes: int, axis: str) -> Profile:
        """The incoming profile of a module that takes ``takes`` features: identity of a raw input, expanded if flat."""
        self.require_axis(path, module, wire, axis)
        if wire.profile is None:
            return Profile.identity(takes)
        given = self.size(wire.profile)
        if wire.flat and takes % given == 0:
            return wire.profile.expanded(takes // given)
        if given != takes:
            rule = f"flattening {given} channels gives a multiple of {given}" if wire.flat else f"it is given {given}"
            raise ShapeMismatchError(
                f"module {path!r} ({name(module)}) takes {takes} features, but {rule}; make the widths of neighbours agree"
            )
        return wire.profile

    @staticmethod
    def require_axis(path: str, module: nn.Module, wire: Wire, axis: str) -> None:
        """Raise ``ShapeMismatchError`` unless the features are where the module expects them."""
        if "any" not in (axis, wire.axis) and axis != wire.axis and wire.profile is not None:
            raise ShapeMismatchError(
                f"module {path!r} ({name(module)}) expects its features {_PLACES[axis]}, but they are {_PLACES[wire.axis]}; "
                "put a Flatten or ToTokens between them"
            )


class _RawRule(Rule):
    """A module on the raw input, before anything is cloned: it is copied."""

    def clone(self, module: Any, wire: Wire, incoming: Profile, outgoing: Profile, exact: bool) -> nn.Module:
        return RULES[nn.Identity].clone(module, wire, incoming, outgoing, exact)


_RAW, _EMPTY = _RawRule(), Interface(Profile((0,)), Profile((0,)))


def _standard(module: nn.Module) -> bool:
    """Options that the rules do not cover."""
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    if isinstance(module, nn.Embedding):
        return module.max_norm is None
    return True


def require_plain(module: nn.Module) -> None:
    """Raise ``UnsupportedModuleError`` for a module used twice or a parameter shared by two modules: clones would untie them."""
    seen: dict[int, str] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        for key, thing in [("", part), *part.named_parameters(recurse=False, remove_duplicate=False)]:
            full = join(path, key) if key else path
            if id(thing) in seen:
                raise UnsupportedModuleError(
                    f"{seen[id(thing)]!r} and {full!r} are one object; cloning would untie them; give each place its own module"
                )
            seen[id(thing)] = full
