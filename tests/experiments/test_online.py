"""Bit flipping: kernels against torch, step by step; replicas that do not meet; measures; resume to the last bit."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch

from experiments.errors import Failure
from experiments.online import kernels as K
from experiments.online.config import Online
from experiments.online.measures import dead_fraction, duplicate_fraction, effective_ranks
from experiments.online.runner import Records, _Block, diverged, initial_state, probe_inputs, run
from lop_theory.rank import effective_rank
from tests.reference import online as reference

SHORT = Online(steps=400, every=200, flip_period=150, seeds=2, dtype="float64", step_size=0.03, target_units=40)
CASES = {
    "bp": SHORT,
    "all bits, 20 inputs": replace(SHORT, stream="slowly-changing-regression", flip="all"),
    "L2": replace(SHORT, algorithm="l2", weight_decay=1e-2),
    "Adam": replace(SHORT, optimizer="adam", activation="tanh"),
    "Adam, L2": replace(SHORT, algorithm="l2", optimizer="adam", activation="elu", weight_decay=1e-2),
    "linear": replace(SHORT, hidden=1, activation="linear"),
    "linear, Adam": replace(SHORT, hidden=1, activation="linear", optimizer="adam"),
    **{name: replace(SHORT, activation=name) for name in ("leaky-relu", "tanh", "sigmoid", "elu", "swish")},
    "cbp": replace(SHORT, algorithm="cbp", replacement_rate=2e-3, maturity=20),
    "cbp, many": replace(SHORT, algorithm="cbp", replacement_rate=0.3, maturity=3, hidden=7),
    "cbp, switch": replace(SHORT, algorithm="cbp", replacement_rate=1e-2, maturity=20, switch=0.4),
    "cbp, Adam": replace(SHORT, algorithm="cbp", replacement_rate=1e-2, maturity=20, optimizer="adam"),
    "cbp, sigmoid, L2": replace(SHORT, algorithm="cbp", replacement_rate=1e-2, maturity=20, activation="sigmoid",
                                weight_decay=1e-3),
    "published": replace(SHORT, algorithm="cbp-published-bitflip", maturity=30),
    "published, switch": replace(SHORT, algorithm="cbp-published-bitflip", maturity=30, switch=0.5),
    "published, many": replace(SHORT, algorithm="cbp-published-bitflip", maturity=30, hidden=8, replacement_rate=0.3),
}  # fmt: skip


def block(config: Online) -> _Block:
    seeds = np.arange(config.seed, config.seed + config.seeds)
    return _Block(config, seeds, initial_state(config, seeds))


def losses(config: Online, steps: int, made: _Block) -> np.ndarray:
    """Squared error of every single step [steps, S], from calls of one step."""
    out = np.zeros((steps, made.padded.learner.b2.size))
    for t in range(steps):
        K.advance(made.stream, made.shape, *made.padded, made.rule, t, t + 1, out[t])
    return out[:, : config.seeds]


@cache
def same_stream(seed: int, protocol: str, flip: str):
    return reference.examples(replace(SHORT, stream=protocol, flip=flip), seed, SHORT.steps)


@pytest.mark.parametrize("name", CASES)
def test_each_step_is_that_of_torch(name):
    config = CASES[name]
    made = block(config)
    fast = losses(config, config.steps, made)
    net = made.state.learner
    for s in range(config.seeds):
        x, y = (a.double() for a in same_stream(s, config.stream, config.flip))
        slow = reference.learner(config, s)
        expected = np.array([float(slow.learn(x[t : t + 1], y[t : t + 1])) for t in range(config.steps)])
        np.testing.assert_allclose(fast[:, s], expected, rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(net.w1[..., s], slow.net.fc1.weight.detach().numpy(), rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(net.b1[..., s], slow.net.fc1.bias.detach().numpy(), rtol=1e-8, atol=1e-11)
        if config.activation != "linear":
            np.testing.assert_allclose(net.w2[..., s], slow.net.fc2.weight.detach().numpy()[0], rtol=1e-8, atol=1e-11)
            np.testing.assert_allclose(net.b2[s], slow.net.fc2.bias.detach().numpy()[0], rtol=1e-8, atol=1e-11)
        if config.replaces:
            assert made.state.units.replaced[s] == slow.replaced > 0


def test_float32_agrees_with_torch_float32():
    config = replace(SHORT, dtype="float32", steps=400)
    fast = losses(config, 400, block(config))
    for s in range(config.seeds):
        x, y = same_stream(s, config.stream, config.flip)
        slow = reference.learner(config, s)
        expected = [float(slow.learn(x[t : t + 1], y[t : t + 1])) for t in range(400)]
        np.testing.assert_allclose(fast[:, s], expected, rtol=2e-3, atol=1e-5)


def test_quorum_is_the_published_threshold_on_every_input():
    for protocol, sigma in (("bit-flipping", -1), ("slowly-changing-regression", 1)):
        for beta in (0.7, 0.55, 0.9):
            config = Online(bits=6, slow=3, target_units=30, beta=beta, stream=protocol, steps=200, every=100, seeds=1)
            w, b, v, c, theta = reference.target_net(0, 6, 30, beta, sigma)
            made = block(config)
            for word in range(64):
                x = torch.tensor(reference.bits_of(word, 6))
                expected = float((w @ x + b > theta).float() @ v + c)
                assert K.target(made.stream, np.uint64(word), 6, 0) == expected


def test_reference_adam_is_torchs_adam_while_nothing_is_replaced(generator):
    weights = [torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    pair = reference.ElementwiseAdam(weights[:1], 0.1, 0.01), torch.optim.Adam(weights[1:], 0.1, weight_decay=0.01)
    for _ in range(50):
        slope = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        for weight, optimizer in zip(weights, pair):
            weight.grad = slope.clone()
            optimizer.step()
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-12)


def test_random_numbers_have_no_visible_bias():
    starts = [np.uint64(K.key(np.uint64(s), K.FAST)) for s in range(40)]
    words = np.array([K.number(start, np.uint64(t)) for start in starts for t in range(100)], np.uint64)
    bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(words))  # 64 means, each within 5 s.d.
    products = [np.mean(bits[:, i] == bits[:, j]) for i, j in combinations(range(59, 64), 2)]
    assert np.abs(np.array(products) - 0.5).max() < 5 * 0.5 / np.sqrt(len(words))
    assert len(set(words.tolist())) == len(words)


# -- replicas, threads, chunks, resume: not one bit changes ---------------------------------------------------------------------

PURE = [
    Online(steps=3000, every=500, flip_period=700, seeds=5, algorithm="cbp", replacement_rate=1e-3),
    Online(
        steps=3000,
        every=500,
        flip_period=700,
        seeds=5,
        algorithm="cbp-published-bitflip",
        switch=0.5,
        activation="tanh",
    ),
    Online(
        steps=1000, every=500, flip_period=700, seeds=5, optimizer="adam", activation="sigmoid", probe_from="stream"
    ),
]


def assert_same(one: Records, two: Records) -> None:
    assert np.array_equal(one.steps, two.steps) and np.array_equal(one.seeds, two.seeds)
    for name, values in one.values.items():
        assert np.array_equal(values, two.values[name], equal_nan=True), name


@pytest.mark.parametrize("config", PURE, ids=lambda c: f"{c.algorithm}-{c.optimizer}-{c.activation}")
def test_a_replica_does_not_depend_on_its_neighbours(config):
    whole = run(replace(config, seeds=37))
    for s in (0, 17, 36):
        alone = run(replace(config, seeds=1, seed=s))
        for name, values in alone.values.items():
            assert np.array_equal(values[:, 0], whole.values[name][:, s]), name
    assert len({tuple(column) for column in whole.values["online_loss"].T}) == 37  # and the seeds do differ


def test_nothing_depends_on_threads_or_on_how_the_steps_are_cut():
    config = PURE[0]
    table = run(config)
    assert_same(table, run(config, threads=3))
    coarse = run(replace(config, every=1500))
    assert np.array_equal(coarse.values["effective_rank_z"], table.values["effective_rank_z"][2::3])
    np.testing.assert_allclose(
        coarse.values["online_loss"][0], table.values["online_loss"][:3].mean(axis=0), rtol=1e-12
    )


def test_a_run_that_stops_anywhere_goes_on_to_the_same_table(tmp_path):
    class Stop(Exception):
        pass

    config = PURE[1]
    expected = run(config)
    for last in (1, 3, 4):

        def stop(done: int, _: int, last: int = last) -> None:
            if done == last:
                raise Stop

        with pytest.raises(Stop):
            run(config, tmp_path / f"at{last}", save_every=2, progress=stop)
        calls: list[tuple[int, int]] = []
        resumed = run(config, tmp_path / f"at{last}", save_every=3, progress=lambda *at, calls=calls: calls.append(at))
        assert_same(resumed, expected)
        assert calls[0] == (last - last % 2 + 1, 6)  # it went on from its last checkpoint
        run(config, tmp_path / f"at{last}", progress=lambda *_: pytest.fail("a finished run is only read"))


def test_kill_and_restart_gives_the_same_files(tmp_path):
    program = (  # slowed down, so that it is killed in the middle on any machine
        "import sys, time\nfrom pathlib import Path\n"
        "from experiments.online.config import Online\nfrom experiments.online.runner import run\n"
        "config = Online(steps=400_000, every=2000, seeds=8, algorithm='cbp')\n"
        "run(config, Path(sys.argv[1]), save_every=1, progress=lambda *_: time.sleep(0.03))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "killed")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(list(tmp_path.glob("killed/rows-*"))) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must be killed while it runs"
    assert 3 <= len(list(tmp_path.glob("killed/rows-*"))) < 200
    config = Online(steps=400_000, every=2000, seeds=8, algorithm="cbp")
    resumed = run(config, tmp_path / "killed", save_every=1)
    assert_same(resumed, run(config, tmp_path / "whole", save_every=1))
    names = sorted(p.name for p in (tmp_path / "whole").glob("[!.]*"))
    assert sorted(p.name for p in (tmp_path / "killed").glob("[!.]*")) == names
    assert all((tmp_path / "killed" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)


# -- measures ------------------------------------------------------------------------------------------------------------------


def test_measures_agree_with_their_definitions(generator):
    a = torch.randn(40, 6, 4, generator=generator, dtype=torch.float64).relu().numpy()
    a[:, 2, 1] = 0
    a[:, 4, 1] = 3 * a[:, 3, 1]
    a[:, :, 2] = 0
    a[:39, 0, 3] = 0
    ranks = effective_ranks(a)
    for s in (0, 1, 3):
        assert ranks[s] == pytest.approx(effective_rank(a[:, :, s]), rel=1e-10)
    assert ranks[2] == 0
    assert dead_fraction(a).tolist() == [0, 1 / 6, 1, 1 / 6]
    expected = []
    for s in range(4):
        count = 0
        for j in range(6):
            cosines = torch.cosine_similarity(torch.tensor(a[:, j : j + 1, s]), torch.tensor(a[:, j + 1 :, s]), dim=0)
            count += bool((cosines > 0.98).any())
        expected.append(count / 6)
    assert duplicate_fraction(a).tolist() == expected and expected[1] == 1 / 6


def test_probe_inputs_are_bits_and_the_stream_probe_lies_on_the_stream():
    config = replace(SHORT, probe_from="stream", probe=50)
    seeds = np.arange(2)
    x = probe_inputs(config, seeds)
    assert x.shape == (50, 21, 2) and set(np.unique(x)) == {0.0, 1.0} and (x[:, -1] == 1).all()
    for s in seeds:
        visited = {tuple(row) for row in same_stream(int(s), config.stream, config.flip)[0].tolist()}
        assert {tuple(row) for row in x[:, :, s].tolist()} <= visited
    uniform = probe_inputs(replace(config, probe_from="uniform", probe=2000), seeds)
    assert np.abs(uniform[:, :20].mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(2000)


def test_a_replica_that_diverges_is_named_and_leaves_the_others_alone():
    config = Online(steps=1000, every=200, seeds=12, step_size=0.18, activation="leaky-relu")
    table = run(config)
    lost = diverged(table)
    assert 0 < len(lost) < 12, lost
    kept = [s for s in range(12) if s not in lost]
    assert np.isfinite(table.values["online_loss"][:, kept]).all()
    alone = run(replace(config, seeds=1, seed=kept[-1]))
    assert np.array_equal(alone.values["online_loss"][:, 0], table.values["online_loss"][:, kept[-1]])


# -- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"algorithm": "cpb"}, "algorithm = 'cpb' is unknown; choose one of bp, l2, cbp"),
        ({"hidden": 0}, "hidden = 0; it counts something"),
        ({"hidden": 5.0}, "hidden = 5.0 is of type float; give a int"),
        ({"step_size": float("nan")}, "step_size = nan; give a positive finite number"),
        ({"steps": 1005, "every": 10}, "steps = 1005; give a multiple of every = 10"),
        ({"slow": 20}, "slow = 20; give 1 to 19"),
        ({"bits": 40}, "at most 12 of them fast"),
        ({"switch": 0.5}, "switch = 0.5; algorithm 'bp' does not use it"),
        ({"algorithm": "cbp", "steps": 100, "every": 100}, "maturity = 100; units are tested for 100 steps only"),
        ({"algorithm": "cbp", "replacement_rate": 2.0}, "replacement_rate = 2.0; give a share of the mature units"),
        ({"activation": "linear"}, "the linear baseline has no hidden layer; give hidden = 1"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Online(**change)


def test_another_run_or_a_damaged_file_is_refused_and_left_alone(tmp_path):
    config = Online(steps=400, every=100, seeds=2)
    run(config, tmp_path / "a", save_every=2)
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    with pytest.raises(Failure, match="step_size = 0.01 there, 0.1 here"):
        run(replace(config, step_size=0.1), tmp_path / "a")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(Failure, match="is not empty and holds no run"):
        run(config, tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".unfinished-x").write_text("{")  # killed before anything was whole
    assert_same(run(config, tmp_path / "c"), run(config))
    part = tmp_path / "a" / "rows-0000002-0000004.safetensors"
    content = bytearray(part.read_bytes())
    for damaged in (content[:-20], content[:-1] + bytes([content[-1] ^ 1]), b"", b"{" * 100):
        part.write_bytes(damaged)
        with pytest.raises(Failure, match="is damaged"):
            run(config, tmp_path / "a")
        assert part.read_bytes() == damaged
    part.unlink()
    assert_same(run(config, tmp_path / "a"), run(config))
    (tmp_path / "a" / "rows-0000000-0000002.safetensors").unlink()
    with pytest.raises(Failure, match="a file is missing"):
        run(config, tmp_path / "a")
