"""Networks at exactly equitable parameters, by construction: clone a random base network, then redistribute."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from lop_theory.architectures import random_dag
from lop_theory.arithmetic import rational_array
from lop_theory.cloned import clone, redistribute
from lop_theory.dag import Dag
from lop_theory.partition import UnitPartition


class ClonedPoint(NamedTuple):
    """A base network, its clone (block constant at ``tiled``), and θ in RE ∩ CE, with a batch x [N, I], y [N, O]."""

    base: Dag
    base_theta: np.ndarray
    dag: Dag
    tiled: np.ndarray
    theta: np.ndarray
    partition: UnitPartition
    x: np.ndarray
    y: np.ndarray


@st.composite
def cloned_points(draw: st.DrawFn, activations: tuple[str, ...] = ("quadratic", "cube", "relu")) -> ClonedPoint:
    """A random cloned DAG with skip connections and unequal block sizes, in general off block-constant.

    Even weights and odd biases keep every hidden pre-activation an odd integer for relu, hence off the kink; cloning
    and redistributing do not change it. Shrinks towards one input, one hidden unit, no copies, weights 0 and biases 1.
    """
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    activation = draw(st.sampled_from(activations))
    hidden = draw(st.integers(1, 3))
    base = random_dag(rng, draw(st.integers(1, 2)), hidden, draw(st.integers(1, 2)), activation, density=0.7)
    bias = base.source == base.constant
    numbers = draw(st.lists(st.integers(-1, 1), min_size=base.num_params, max_size=base.num_params))
    theta = np.zeros(base.num_params, dtype=object)
    theta[base.param] = 2 * np.array(numbers, dtype=object) + bias.astype(object)
    copies = draw(st.lists(st.integers(1, 3), min_size=hidden, max_size=hidden))
    wide, tiled, partition = clone(base, theta, copies)
    moved = redistribute(wide, tiled, partition, rng, bound=2)
    samples = draw(st.integers(1, 2))
    x, y = rng.integers(-2, 3, (samples, base.num_inputs)), rng.integers(-3, 4, (samples, base.num_outputs))
    return ClonedPoint(base, rational_array(theta), wide, tiled, moved, partition, rational_array(x), rational_array(y))
