"""Continual Backprop for one net, in plain loops over units: an independent oracle for the replicated implementation.

Written from the pseudo-code of arXiv 2306.13812 (Algorithm 1), with lists of numbers, no tensors. ``number`` is the type of
the arithmetic: float, or Fraction for exact traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Matrix = list[list[Any]]


@dataclass
class Layered:
    """Weights[l][out][in] and biases[l][out]."""

    weights: list[Matrix]
    biases: list[list[Any]]


def activations(net: Layered, x: Sequence[Any], phi: Callable[[Any], Any]) -> list[list[Any]]:
    """Activations of the hidden layers, then the output, for one input."""
    layers, h = [], list(x)
    for l, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        z = [sum(w * v for w, v in zip(row, h, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        h = z if l == len(net.weights) - 1 else [phi(v) for v in z]
        layers.append(h)
    return layers


class SlowCbp:
    """State and update of Continual Backprop (utility "overall" or one of its factors)."""

    def __init__(self, net: Layered, rho: Any, maturity: int, eta: Any, utility: str = "overall", number: Any = float):
        self.net, self.rho, self.maturity, self.eta, self.utility = net, rho, maturity, eta, utility
        sizes = [len(b) for b in net.biases[:-1]]
        self.u = [[number(0)] * n for n in sizes]
        self.f = [[number(0)] * n for n in sizes]
        self.age = [[0] * n for n in sizes]
        self.averaged = [[0] * n for n in sizes]  # updates in the averages: those in which the utility was defined
        self.owed = [number(0) for _ in sizes]
        self.fhat = [[number(0)] * n for n in sizes]

    def instantaneous(self, l: int, i: int, values: list[Any]) -> Any:
        outgoing = sum(abs(row[i]) for row in self.net.weights[l + 1])
        incoming = sum(abs(w) for w in self.net.weights[l][i])
        size = sum(abs(v) for v in values) / len(values)
        deviation = sum(abs(v - self.fhat[l][i]) for v in values) / len(values)
        return {
            "contribution": lambda: size * outgoing,
            "mean_corrected": lambda: deviation * outgoing,
            "adaptation": lambda: 1 / incoming,
            "overall": lambda: deviation * outgoing / incoming,
            "weight": lambda: outgoing,
            "by_input": lambda: deviation / incoming,
        }[self.utility]()

    def select(self, hidden: list[list[list[Any]]]) -> list[list[int]]:
        """Update all statistics with the activations hidden[l][sample][unit]; return the units to replace in each layer."""
        chosen = []
        for l, batch in enumerate(hidden):
            ranked = []
            for i in range(len(self.u[l])):
                values = [row[i] for row in batch]
                self.age[l][i] += 1
                if self.utility in ("adaptation", "overall", "by_input") and not any(self.net.weights[l][i]):
                    continue
                self.averaged[l][i] += 1
                correction = 1 - self.eta ** self.averaged[l][i]
                self.f[l][i] = self.eta * self.f[l][i] + (1 - self.eta) * sum(values) / len(values)
                self.fhat[l][i] = self.f[l][i] / correction
                y = self.instantaneous(l, i, values)
                self.u[l][i] = self.eta * self.u[l][i] + (1 - self.eta) * y
                if self.age[l][i] > self.maturity:
                    ranked.append((self.u[l][i] / correction, i))
            self.owed[l] += self.rho * len(ranked)
            count = int(self.owed[l])
            self.owed[l] -= count
            chosen.append([i for _, i in sorted(ranked)[:count]])
        return chosen

    def replace(self, l: int, i: int, incoming: list[Any]) -> None:
        """New incoming weights, zero bias and outgoing weights, the mean given to the next bias; the unit is new."""
        for row, k in zip(self.net.weights[l + 1], range(len(self.net.biases[l + 1])), strict=True):
            self.net.biases[l + 1][k] += row[i] * self.fhat[l][i]
            row[i] = row[i] * 0
        self.net.weights[l][i] = list(incoming)
        self.net.biases[l][i] = self.net.biases[l][i] * 0
        self.u[l][i] = self.u[l][i] * 0
        self.f[l][i] = self.f[l][i] * 0
        self.age[l][i] = 0
        self.averaged[l][i] = 0
