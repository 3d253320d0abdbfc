"""Networks with one hidden layer and normalised pre-activations: instances of the claims on normalisation.

z = W x + b, n = normalise(z), h = relu(γ n + β), f = V h + c, loss ½ Σ |f − y|². The Hessian is written out, because the
search for a smallest counterexample needs hundreds; ``module`` gives the same net to torch, which is its oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from proofs_checks.instances import number

EPS = 1e-5  # the default of torch; witnesses write 1/100000


@dataclass(frozen=True, eq=False)
class NormalisedNet:
    """A net I-h-O with normalised pre-activations, its batch x [N, I] and targets y [N, O] (loss ½ Σ |f − y|²).

    W [h, I], b [h], V [O, h], c [O]; gain γ and shift β [h] are parameters if ``trainable_affine``, else constants.
    """

    norm: str  # "layernorm" or "batchnorm"
    W: np.ndarray
    b: np.ndarray
    V: np.ndarray
    c: np.ndarray
    gain: np.ndarray
    shift: np.ndarray
    x: np.ndarray
    y: np.ndarray
    trainable_affine: bool = False

    def __repr__(self) -> str:
        arrays = ", ".join(
            f"{k} = {getattr(self, k).tolist()}" for k in ("W", "b", "V", "c", "gain", "shift", "x", "y")
        )
        return f"NormalisedNet({self.norm}, {arrays}, trainable_affine = {self.trainable_affine})"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(I, h, O)."""
        return self.W.shape[1], self.W.shape[0], self.V.shape[0]

    @property
    def num_params(self) -> int:
        inputs, hidden, outputs = self.sizes
        return hidden * (inputs + 1) + outputs * (hidden + 1) + 2 * hidden * self.trainable_affine

    @cached_property
    def raw(self) -> np.ndarray:
        """W x + b, [N, h]."""
        return np.asarray(self.x @ self.W.T + self.b)

    @cached_property
    def normalised(self) -> np.ndarray:
        """n = normalise(W x + b), [N, h]."""
        axis = 1 if self.norm == "layernorm" else 0
        centred = self.raw - self.raw.mean(axis, keepdims=True)
        return np.asarray(centred / np.sqrt((centred**2).mean(axis, keepdims=True) + EPS))

    @cached_property
    def z(self) -> np.ndarray:
        """Pre-activations of the ReLU, γ n + β, [N, h]."""
        return np.asarray(self.normalised * self.gain + self.shift)

    @property
    def dead(self) -> list[int]:
        """Hidden units (0 … h−1) that are strictly dead on the batch."""
        return [int(v) for v in np.flatnonzero((self.z < 0).all(axis=0))]

    def module(self) -> nn.Sequential:
        """The same net as a torch module in training mode; parameters in the order W, b, γ, β, V, c."""
        inputs, hidden, outputs = self.sizes
        norm: nn.Module = nn.LayerNorm(hidden, EPS) if self.norm == "layernorm" else nn.BatchNorm1d(hidden, EPS)
        model = nn.Sequential(nn.Linear(inputs, hidden), norm, nn.ReLU(), nn.Linear(hidden, outputs)).double()
        values = (self.W, self.b, self.gain, self.shift, self.V, self.c)
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.data = torch.from_numpy(value.copy())
        return model

    def hessian(self) -> np.ndarray:
        """∂²L/∂θ² [P, P] in float64, in the order W, b, γ, β, V, c; rows and columns of constant γ, β left out.

        H = Σ Jᵀ J + Σ_o r_o ∇²f_o. With a = on · (Vᵀ r) the error signal at z, Σ_o r_o ∇²f_o has the blocks
        γ a · ∂²n on (W, b), a · ∂n between γ and (W, b), and on · r_o ∂z_v between V_ov and all that z_v depends on.
        """
        (inputs, hidden, outputs), on = self.sizes, (self.z > 0).astype(float)
        r = on * self.z @ self.V.T + self.c - self.y
        a = on * (r @ self.V)
        dn, bend = self._normalisation(a * self.gain)
        first, size = hidden * (inputs + 1), hidden * (inputs + 3) + outputs * (hidden + 1)
        v = np.arange(hidden)
        dz = np.zeros((len(on), hidden, size))
        dz[:, :, :first] = self.gain[:, None] * dn
        dz[:, v, first + v] = self.normalised
        dz[:, v, first + hidden + v] = 1
        active = on[:, :, None] * dz
        J = np.einsum("ov,nvp->nop", self.V, active)
        residual = np.zeros((size, size))
        residual[:first, :first] = bend / 2
        residual[first + v, :first] = np.einsum("nv,nvp->vp", a, dn)
        for o in range(outputs):
            at = first + (2 + o) * hidden
            J[:, o, at : at + hidden] = on * self.z
            J[:, o, size - outputs + o] = 1
            residual[at : at + hidden] += np.einsum("n,nvp->vp", r[:, o], active)
        H = np.einsum("nop,noq->pq", J, J) + residual + residual.T
        keep = np.arange(size) if self.trainable_affine else np.r_[:first, first + 2 * hidden : size]
        return np.asarray(H[np.ix_(keep, keep)])

    def _normalisation(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """∂n/∂(W, b) [N, h, h (I + 1)] and Σ weight · ∂²n/∂(W, b)², for ``weight`` [N, h].

        On one group of m values u, with C = I − 11ᵀ/m, ũ = C u, v = |ũ|²/m + ε, ã = C a, s = a·ũ, from n = ũ / √v:

            ∂n = C / √v − ũ ũᵀ / (m v^{3/2}),    a·∂²n = −(ã ũᵀ + ũ ãᵀ + s C) / (m v^{3/2}) + 3 s ũ ũᵀ / (m² v^{5/2}).
        """
        (inputs, hidden, _), N = self.sizes, len(self.x)
        by_layer = self.norm == "layernorm"
        u, a = (array if by_layer else array.T for array in (self.raw, weight))  # [groups, m]
        m = u.shape[1]
        C = np.eye(m) - 1 / m
        u, a = u @ C, a @ C
        v = ((u**2).mean(1) + EPS)[:, None, None]
        uu, au, s = u[:, :, None] * u[:, None, :], a[:, :, None] * u[:, None, :], (a * u).sum(1)[:, None, None]
        first = C / v**0.5 - uu / (m * v**1.5)
        second = -(au + au.swapaxes(1, 2) + s * C) / (m * v**1.5) + 3 * s * uu / (m**2 * v**2.5)
        data = np.hstack([self.x, np.ones((N, 1))])
        if by_layer:
            dn = np.einsum("nvw,ni->nvwi", first, data)
            bend = np.einsum("nvw,ni,nj->viwj", second, data, data)
        else:
            same = np.eye(hidden)
            dn = np.einsum("vnk,ki,vw->nvwi", first, data, same)
            bend = np.einsum("vnk,ni,kj,vw->viwj", second, data, data, same)
        size = hidden * (inputs + 1)
        pairs = np.arange(size).reshape(hidden, inputs + 1)
        order = np.concatenate([pairs[:, :inputs].ravel(), pairs[:, inputs]])  # from (W, b) row by row to W, then b
        return dn.reshape(N, hidden, size)[:, :, order], bend.reshape(size, size)[np.ix_(order, order)]

    def document(self) -> dict[str, Any]:
        """The NETWORK of a witness: identity units that are normalised, ReLU units behind them, linear outputs."""
        inputs, hidden, outputs = self.sizes
        normal = range(inputs + 1, inputs + 1 + hidden)
        relu = range(normal.stop, normal.stop + hidden)
        out = range(relu.stop, relu.stop + outputs)
        edges: list[list[Any]] = []
        theta: list[str] = []

        def trainable(source: int, target: int, value: float) -> None:
            edges.append([source, target, len(theta)])
            theta.append(number(value))

        for v, unit in enumerate(normal):
            for i in range(inputs):
                trainable(i, unit, self.W[v, i])
            trainable(inputs, unit, self.b[v])
            for source, value in ((unit, self.gain[v]), (inputs, self.shift[v])):
                if self.trainable_affine:
                    trainable(source, relu[v], value)
                else:
                    edges.append([source, relu[v], -1, number(value)])
        for o, unit in enumerate(out):
            for v in range(hidden):
                trainable(relu[v], unit, self.V[o, v])
            trainable(inputs, unit, self.c[o])
        return {
            "num_inputs": inputs,
            "has_constant": True,
            "activation": ["identity"] * hidden + ["relu"] * hidden + ["identity"] * outputs,
            "outputs": list(out),
            "edges": edges,
            "theta": theta,
            "x": [[number(value) for value in row] for row in self.x],
            "y": [[number(value) for value in row] for row in self.y],
            "loss": "mse_sum",
            "normalization": [{"kind": self.norm, "units": list(normal), "eps": "1/100000"}],
        }
