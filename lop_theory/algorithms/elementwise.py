r"""Elementwise updates in one pass over the memory, for tensors on a CPU: compiled, with the operations of torch.

A step of Adam is fourteen torch operations, each of which reads and writes whole tensors. With many replicas these do not
fit the fast memory, and the traffic is most of the time of a training step. Here each weight is read and written once, also
under a pull λ (θ − θ₀) that is added to the gradient (θ₀ = 0: weight decay): no tensor holds the sum.
Every operation is the IEEE operation, in the order in which the callers' torch code has it, without fused multiply-add:
a replica does not depend on its neighbours, and both routes give the same bits, except that torch takes its roots from a
library that is off by one unit in the last place at times (``tests/lop_theory/test_elementwise.py``).

All functions return new tensors. :func:`applies` says whether the tensors can be handed over (a gradient is not recorded,
no device, no tensors of functorch); callers take torch's operations if not. Importing this module loads
numba (half a second): import it where it is needed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from lop_theory.algorithms.base import Scalar, per_replica

__all__ = ["AdamStep", "applies", "keep_freed_memory", "momentum_step", "subtract"]

Floats = NDArray[np.floating]
Pull: TypeAlias = tuple[Scalar, Tensor | None]  # λ and θ₀ (None: 0) for one tensor, as in ``base.Pull``
compiled: Any = njit(nogil=True, cache=True, error_model="numpy")


def keep_freed_memory() -> None:
    """Let the C library of Linux keep freed tensors of up to 31 MB for the next update.

    It returns blocks above a threshold to the system, which hands out every page of the next tensor anew: with 32 replicas
    of width 100 that is half of the time of an update. The threshold follows the largest block that was ever freed (up to
    32 MB; ``man mallopt``, M_MMAP_THRESHOLD), and this one is freed without having been touched.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def applies(*tensors: Tensor) -> bool:
    """Whether all of these are plain tensors on a CPU, float32 or float64 alike, without a gradient.

    Strides do not matter, or the route, and with it a last bit of Adam, could depend on the number of replicas.

    >>> applies(torch.ones(2, 3)), applies(torch.ones(2, 3).mT), applies(torch.ones(2, dtype=torch.bfloat16))
    (True, True, False)
    """
    dtype, wrapped = tensors[0].dtype, torch._C._functorch.is_functorch_wrapped_tensor
    if dtype is not torch.float32 and dtype is not torch.float64:
        return False
    for t in tensors:
        plain = type(t) is Tensor and t.is_cpu and t.dtype is dtype and not t.requires_grad and not wrapped(t)
        if not plain:
            return False
    return True


def _column(value: Scalar, like: Tensor) -> Floats:
    """A hyper-parameter as an array [1] or [R] of the dtype of ``like`` [R, ...]."""
    if isinstance(value, Tensor):
        own: Floats = per_replica(value, like).numpy().reshape(-1)
        return own
    return np.array([value], str(like.dtype).removeprefix("torch."))


# -- the pull: λ [1] or [R] and θ₀ of the size of θ; either may be None, and the compiler then leaves the branch out ----------


def _arrays(pull: Pull | None, like: Tensor) -> tuple[Floats | None, Floats | None]:
    """λ [1] or [R] in the dtype of ``like``, and θ₀ flat."""
    if pull is None:
        return None, None
    strength, anchor = pull
    return _column(strength, like), None if anchor is None else anchor.contiguous().numpy().reshape(-1)


@compiled
def _entry(strength: Floats | None, r: int) -> Any:
    if strength is None:
        return None
    return strength[r % strength.size]


@compiled
def _part(anchor: Floats | None, own: slice) -> Any:
    if anchor is None:
        return None
    return anchor[own]


@compiled
def _pulled(g: float, p: float, strength: float | None, anchor: Floats | None, i: int) -> float:
    """g, g + λ θ or g + λ (θ − θ₀)."""
    if strength is None:
        return g
    if anchor is None:
        return g + strength * p
    return g + strength * (p - anchor[i])


# -- the updates -----------------------------------------------------------------------------------------------------------


@compiled
def _subtract_one(
    p: Floats, step: Floats, factor: float, strength: float | None, anchor: Floats | None, new: Floats
) -> None:
    for i in range(p.size):
        new[i] = _pulled(step[i], p[i], strength, anchor, i) * factor + p[i]


@compiled
def _subtract(
    p: Floats, step: Floats, rate: Floats, replicas: int, strength: Floats | None, anchor: Floats | None, new: Floats
) -> None:
    size = p.size // replicas
    for r in range(replicas):
        factor, own = -rate[r % rate.size], slice(r * size, (r + 1) * size)
        _subtract_one(p[own], step[own], factor, _entry(strength, r), _part(anchor, own), new[own])


def subtract(p: Tensor, step: Tensor, rate: Scalar, pull: Pull | None = None) -> Tensor:
    """θ − η s as (−η) s + θ; η is a float or a tensor [R]; a pull is added to s.

    >>> subtract(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([0.25, 0.5])).flatten()
    tensor([0.7500, 0.5000])
    >>> subtract(torch.ones(1, 1), torch.ones(1, 1), 0.25, (1.0, None))
    tensor([[0.5000]])
    """
    p, step = p.contiguous(), step.contiguous()
    new = torch.empty_like(p)
    given = p.numpy().reshape(-1), step.numpy().reshape(-1)
    _subtract(*given, _column(rate, p), len(p), *_arrays(pull, p), new.numpy().reshape(-1))
    return new


@compiled
def _momentum_one(
    given: tuple[Floats, ...], keep: float, factor: float, strength: float | None, anchor: Floats | None,
    new: Floats, velocity: Floats,
) -> None:  # fmt: skip
    p, g, v = given
    for i in range(p.size):
        speed = keep * v[i] + _pulled(g[i], p[i], strength, anchor, i)
        velocity[i] = speed
        new[i] = speed * factor + p[i]


@compiled
def _momentum(
    p: Floats, g: Floats, v: Floats, mu: Floats, rate: Floats, replicas: int,
    strength: Floats | None, anchor: Floats | None, new: Floats, velocity: Floats,
) -> None:  # fmt: skip
    size = p.size // replicas
    for r in range(replicas):
        own = slice(r * size, (r + 1) * size)
        keep, factor, given = mu[r % mu.size], -rate[r % rate.size], (p[own], g[own], v[own])
        _momentum_one(given, keep, factor, _entry(strength, r), _part(anchor, own), new[own], velocity[own])


def momentum_step(
    p: Tensor, g: Tensor, v: Tensor, rate: Scalar, mu: Scalar, pull: Pull | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """θ and v after v ← μ v + g, θ ← θ − η v; η and μ are floats or tensors [R]; a pull is added to g.

    >>> momentum_step(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.25, 0.5)
    (tensor([[0.6250]]), tensor([[1.5000]]))
    """
    given = [t.contiguous().numpy().reshape(-1) for t in (p, g, v)]
    new = tuple(torch.empty_like(p, memory_format=torch.contiguous_format) for _ in range(2))
    rates, results = (_column(mu, p), _column(rate, p)), (t.numpy().reshape(-1) for t in new)
    _momentum(*given, *rates, len(p), *_arrays(pull, p), *results)
    return new[0], new[1]


class _Settings(NamedTuple):
    """Hyper-parameters of Adam, [1] or [R], in the dtype of the parameters; the powers of β are taken in float64."""

    rate: Floats
    one_minus_beta1: Floats
    beta2: Floats
    one_minus_beta2: Floats
    eps: Floats
    exact_beta1: NDArray[np.float64]
    exact_beta2: NDArray[np.float64]


@compiled
def _adam_one(
    given: tuple[Floats, ...], gain1: float, keep: float, gain2: float, root: float, eps: float, factor: float,
    strength: float | None, anchor: Floats | None, results: tuple[Floats, ...],
) -> None:  # fmt: skip
    p, g, m, s = given
    new, first, second = results
    for i in range(p.size):
        slope = _pulled(g[i], p[i], strength, anchor, i)
        moment = (slope - m[i]) * gain1 + m[i]
        square = keep * s[i] + (slope * slope) * gain2
        first[i], second[i] = moment, square
        new[i] = moment / (math.sqrt(square) / root + eps) * factor + p[i]


@compiled
def _adam(
    p: Floats, g: Floats, m: Floats, s: Floats, t: NDArray[np.int64], set_: _Settings,
    strength: Floats | None, anchor: Floats | None, new: Floats, first: Floats, second: Floats,
) -> None:  # fmt: skip
    size, one = p.size // t.size, np.float64(1.0)
    dtype = p.dtype.type
    for r in range(t.size):
        beta1, beta2 = set_.exact_beta1[r % set_.exact_beta1.size], set_.exact_beta2[r % set_.exact_beta2.size]
        rate = set_.rate[r % set_.rate.size] / dtype(one - beta1 ** t[r])
        root = dtype(math.sqrt(dtype(one - beta2 ** t[r])))
        eps, keep = set_.eps[r % set_.eps.size], set_.beta2[r % set_.beta2.size]
        gain1 = set_.one_minus_beta1[r % set_.one_minus_beta1.size]
        gain2 = set_.one_minus_beta2[r % set_.one_minus_beta2.size]
        own = slice(r * size, (r + 1) * size)
        given, results = (p[own], g[own], m[own], s[own]), (new[own], first[own], second[own])
        own_strength, own_anchor = _entry(strength, r), _part(anchor, own)
        _adam_one(given, gain1, keep, gain2, root, eps, -rate, own_strength, own_anchor, results)


class AdamStep:
    """One step of Adam on a tensor [R, ...] with one count of updates per replica.

    >>> one = torch.ones(1, 1)
    >>> p, m, s = AdamStep(0.25, (0.5, 0.75), eps=0.0)(one, 2 * one, 0 * one, 0 * one, torch.tensor([[1]]))
    >>> p.item(), m.item(), s.item()                                      # 1 − ¼ / ½ · 1 / (1 / ½)
    (0.75, 1.0, 1.0)
    """

    def __init__(self, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self.known: dict[tuple[torch.dtype, int], _Settings] = {}  # a function of the key: nothing to remember

    def settings(self, like: Tensor) -> _Settings:
        key = like.dtype, len(like)
        if key not in self.known:
            beta1, beta2 = (b.to(like.dtype) if isinstance(b, Tensor) else b for b in self.betas)
            values = (self.lr, 1 - beta1, beta2, 1 - beta2, self.eps)
            exact = [np.array(b.tolist() if isinstance(b, Tensor) else [b], np.float64) for b in self.betas]
            self.known[key] = _Settings._make([*(_column(value, like) for value in values), *exact])
        return self.known[key]

    def __call__(
        self, p: Tensor, g: Tensor, m: Tensor, s: Tensor, t: Tensor, pull: Pull | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """θ, m and s after update number t [R, 1, …] (int64), as in the module ``descent``; a pull is added to g."""
        p = p.contiguous()
        given = [tensor.contiguous().numpy().reshape(-1) for tensor in (p, g, m, s, t)]
        new = torch.empty_like(p), torch.empty_like(p), torch.empty_like(p)
        _adam(*given, self.settings(p), *_arrays(pull, p), *(tensor.numpy().reshape(-1) for tensor in new))
        return new
