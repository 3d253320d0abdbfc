r"""Does what decorrelates also freeze? The gain a of tanh(az), the bias b of ReLU(z + b), and spectra of tanh(az).

With α = K'(0) = (E[φ(Z) Z])² / Var φ, decorrelation is γ = (1 − α)/(1 + α), and a unit is frozen where |φ'| < .01:

    tanh(az):    P(a sech²(az) < .01) = P(|Z| > arccosh(√(a/.01)) / a) for a > .01;
    ReLU(z + b): P(Z < −b) = Φ(−b), and with p = φ_N(b), P = Φ(b):  α = P² / ((1 + b²) P + b p − (b P + p)²).

Integrals of tanh(az) are trapezoidal sums of spacing h: for a function analytic in a strip of half-width π/(2a) their error is
of size exp(−π²/(a h)), below 1e-16 for a ≤ 100 and h = .001. As a → ∞, tanh(az) → sign: α → 2/π and γ → .222. So gain
freezes units but never decorrelates completely, while a negative bias does both. (v2 defines γ in its appendix as what is α here.)

Spectra: eigenvalues of K_a(C), C a random correlation matrix of rank 5 in 20 dimensions, by the Hermite series of tanh(az).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from scipy.special import ndtr

from experiments.figures import style
from experiments.figures.intervals import Interval, point
from experiments.figures.record import Context, Data, Figure, Source

__all__ = ["FIGURE", "relu_decorrelation", "tanh_weights"]

FloatArray = NDArray[np.float64]

SLOPE = 0.01  # |φ'| below which a unit counts as frozen
SHOWN = (0.5, 1.0, 5.0, 50.0)  # gains with a spectrum
DIMENSION, RANK = 20, 5
ORDER = 300  # Hermite coefficients


def tanh_weights(gain: float, order: int) -> tuple[FloatArray, float]:
    """w_0 … w_order of K for tanh(az), and the rest 1 − Σ w.

    >>> weights, rest = tanh_weights(1.0, 40)
    >>> round(float(weights[1]), 5), bool(rest < 1e-6)    # K'(0) of tanh
    (0.93047, True)
    """
    from lop_theory.hermite import normalised_hermite

    z = np.linspace(-12, 12, 24_001)
    mass = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    values = np.tanh(gain * z)
    coefficients = normalised_hermite(z, order) @ (values * mass)
    weights = coefficients**2 / float((values**2) @ mass)  # odd: its mean is 0
    return weights, 1 - float(weights.sum())


def relu_decorrelation(bias: float) -> float:
    """γ of ReLU(z + b).

    >>> round(relu_decorrelation(0.0), 5), relu_decorrelation(-4.0) > 0.999
    (0.15375, True)
    """
    density, below = math.exp(-(bias**2) / 2) / math.sqrt(2 * math.pi), float(ndtr(bias))
    mean = bias * below + density
    alpha = below**2 / ((1 + bias**2) * below + bias * density - mean**2)
    return (1 - alpha) / (1 + alpha)


def compute(context: Context) -> Data:
    """Curves over gain and bias, and the spectra."""
    points = context.choose(smoke=10, teach=41, paper=81)
    curves = context.table("tanh_scale_curves", lambda: _curves(points), points=points, version=1)
    return {
        "curves": curves,
        "spectra": context.table("tanh_scale_spectra", _spectra, order=ORDER, gains=SHOWN, version=1),
    }


def _curves(points: int) -> dict[str, Any]:
    gains, biases = np.logspace(-1, 2, 3 * points // 10 * 10 + 1), np.linspace(2, -4, points // 6 * 6 + 1)
    alphas = np.array([tanh_weights(a, 1)[0][1] for a in gains])
    return {
        "label": np.array(["tanh"] * len(gains) + ["relu"] * len(biases), dtype=object),
        "parameter": np.concatenate([gains, biases]),
        "gamma": np.concatenate([(1 - alphas) / (1 + alphas), [relu_decorrelation(b) for b in biases]]),
        "frozen": np.concatenate([[_frozen_tanh(a) for a in gains], ndtr(-biases)]),
    }


def _frozen_tanh(gain: float) -> float:
    return float(2 * ndtr(-math.acosh(math.sqrt(gain / SLOPE)) / gain)) if gain > SLOPE else 1.0


def _spectra() -> dict[str, Any]:
    factors = np.random.default_rng(0).standard_normal((DIMENSION, RANK))
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    C = factors @ factors.T
    labels, ranks, values = [], [], []
    for label in ("pre-activations", *SHOWN):
        M = C if isinstance(label, str) else np.polynomial.polynomial.polyval(C, tanh_weights(label, ORDER)[0])
        np.fill_diagonal(M, 1.0)
        eigenvalues = np.linalg.eigvalsh(M)[::-1]
        labels += [str(label)] * DIMENSION
        ranks += list(range(1, DIMENSION + 1))
        values += eigenvalues.tolist()
    return {"label": np.array(labels, dtype=object), "number": ranks, "eigenvalue": values}


def measure(data: Data) -> dict[str, Interval]:
    """γ and the frozen share at each parameter, their change over the range, and the effective ranks of the spectra."""
    made = {}
    curves, spectra = data["curves"], data["spectra"]
    for label in ("tanh", "relu"):
        own = curves["label"] == label
        for quantity in ("gamma", "frozen"):
            values = curves[quantity][own]
            for parameter, value in zip(curves["parameter"][own], values):
                made[f"{quantity}[{label} {parameter:.4g}]"] = point(value)
            made[f"{quantity}_change[{label}]"] = point(values[-1] - values[0])
    for label in dict.fromkeys(spectra["label"]):
        p = np.clip(spectra["eigenvalue"][spectra["label"] == label], 1e-300, None)
        p = p / p.sum()
        made[f"effective_rank[{label}]"] = point(float(np.exp(-(p * np.log(p)).sum())))
    return made


def draw(data: Data, canvas: Canvas) -> None:
    """Left and middle: decorrelation and frozen share; right: the spectra."""
    canvas.set_size_inches(style.PAGE, 2.7)
    left, middle, right = canvas.subplots(1, 3)
    for ax, label, name in ((left, "tanh", "gain a of tanh(az)"), (middle, "relu", "bias b of ReLU(z + b)")):
        curves = data["curves"]
        own = curves["label"] == label
        ax.plot(curves["parameter"][own], curves["gamma"][own], color=style.BLUE, label="decorrelation γ")
        ax.plot(curves["parameter"][own], curves["frozen"][own], color=style.VERMILION, linestyle="--",
                label=f"P(|φ′| < {SLOPE})")  # fmt: skip
        ax.set(xlabel=name, ylim=(-0.03, 1.03))
    limit = (1 - 2 / math.pi) / (1 + 2 / math.pi)
    left.axhline(limit, color="0.4", linewidth=0.8, linestyle=":", label="γ of sign(z)")
    left.set(xscale="log", ylabel="probability, γ")
    left.legend()
    middle.invert_xaxis()
    middle.legend()
    spectra = data["spectra"]
    looks = zip(dict.fromkeys(spectra["label"]), (style.BLACK, style.SKY, style.BLUE, style.GREEN, style.ORANGE))
    for label, color in looks:
        own = spectra["label"] == label
        shown = np.maximum(spectra["eigenvalue"][own], 1e-6)
        right.plot(spectra["number"][own], shown, color=color, marker=".",
                   label=label if label == "pre-activations" else f"tanh({float(label):g}z)")  # fmt: skip
    right.set(yscale="log", ylim=(1e-6, 20), xlabel="number of the eigenvalue", ylabel="eigenvalue (below 10⁻⁶: 10⁻⁶)")
    right.legend()


FIGURE = Figure(
    id="barriers_figA2_tanh_scale",
    title="Decorrelation and frozen units by the gain of tanh and the bias of ReLU",
    source=Source("2510.00304", "v2", "Figure A.2", "the spectra are of the draft of June 2025"),
    compute=compute,
    measure=measure,
    draw=draw,
    costs={"smoke": "2 s", "teach": "5 s", "paper": "10 s"},
)
