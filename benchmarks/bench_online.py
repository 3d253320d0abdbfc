"""Online learners of bit flipping: examples per CPU second of many seeds in one program, against the field's recipe.

    python -m benchmarks.bench_online [--seeds N] [--examples N]

The recipe is what the public code does: one seed at a time, an nn.Module, torch.optim, one example per step; its learners are
those of tests/reference/online.py, to which the kernels are compared step by step in the tests. Its data are made before the
clock starts; ours are made by the kernel, inside the time. Both in float32 on one thread.
"""

import argparse
import statistics
import sys
from dataclasses import replace

import numpy as np

from benchmarks.timing import cpu_seconds, print_table, ratio  # first: it sets the number of threads
from experiments.online import kernels
from experiments.online.config import FLIPS, Online
from experiments.online.runner import initial_state, make_rule, stream
from tests.reference import online as reference

BASE = Online(steps=5_000_000)
CASES = {
    "BP": BASE,
    "CBP": replace(BASE, algorithm="cbp"),
    "CBP, published bit-flipping rule": replace(BASE, algorithm="cbp-published-bitflip"),
    "BP, L2": replace(BASE, algorithm="l2", weight_decay=1e-4),
    "BP, tanh": replace(BASE, activation="tanh"),
    "BP, Adam": replace(BASE, optimizer="adam"),
    "BP, H = 50": replace(BASE, hidden=50),
    "CBP, H = 50": replace(BASE, algorithm="cbp", hidden=50),
}
REQUIRED = {"BP": 1000, "CBP": 1000}
REPETITIONS = 5


def field_recipe(config: Online, examples: int):
    """A function that trains one learner on the stored examples and keeps each error, as the public code does."""
    x, y = reference.examples(config, 0, examples)
    learner = reference.learner(config, 0)
    errors = np.zeros(examples)

    def train() -> None:
        for t in range(examples):
            errors[t] = learner.learn(x[t : t + 1], y[t : t + 1])

    return train


def together(config: Online, seeds: int, examples: int):
    """A function that trains all seeds on ``examples`` further examples each."""
    which = np.arange(seeds)
    targets, state, rule = stream(config, which), initial_state(config, which), make_rule(config)
    shape = (config.bits, config.slow, config.flip_period, FLIPS.index(config.flip))
    loss, done = np.zeros(seeds), 0

    def train() -> None:
        nonlocal done
        kernels.advance(targets, shape, *state, rule, done, done + examples, loss)
        done += examples

    return train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="seeds in one program (default 100)")
    parser.add_argument("--examples", type=int, default=1000, help="examples per round of the recipe (default 1000)")
    options = parser.parse_args()
    if min(options.seeds, options.examples) < 1:
        parser.error("--seeds and --examples count something and must be at least 1")
    rows, below = [], []
    for name, config in CASES.items():
        scale = 5 / config.hidden
        ours_count, field_count = max(1, int(10_000 * scale)), options.examples
        ours, field = together(config, options.seeds, ours_count), field_recipe(config, field_count)
        ours(), field()  # compile, warm up
        rounds = [(cpu_seconds(ours), cpu_seconds(field)) for _ in range(REPETITIONS)]  # interleaved
        ours_rate = ours_count * options.seeds / statistics.median(a for a, _ in rounds)
        field_rate = field_count / statistics.median(b for _, b in rounds)
        gain = ours_rate / field_rate
        if gain < REQUIRED.get(name, 0):
            below.append(name)
        rows.append([name, f"{field_rate:,.0f}", f"{ours_rate / 1e6:.1f} M", ratio(gain)])
    print_table(
        f"Online bit flipping, batch 1, float32, 1 thread: examples per CPU second ({options.seeds} seeds)",
        ["learner (20 bits, H = 5, ReLU, SGD)", "torch.nn + torch.optim", "kernel, all seeds", "ratio"],
        rows,
    )
    print(f"  required: {', '.join(f'{name} >= {least:,}x' for name, least in REQUIRED.items())}:",
          f"missed by {', '.join(below)}" if below else "met")  # fmt: skip
    return int(bool(below))


if __name__ == "__main__":
    sys.exit(main())
