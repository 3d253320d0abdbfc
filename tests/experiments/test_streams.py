"""Streams: tasks are pure in (seed, t), they are what the protocol says, and what does not fit the data is refused first."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from experiments.datasets import Images, digits
from experiments.run_config import Run
from experiments.run_program import prepare
from experiments.run_state import start
from experiments.run_update import Batch, differentiate, minibatches
from experiments.streams import STREAMS, open_streams, protocol
from experiments.streams.base import Split, StreamConfig, permutation, words
from experiments.streams.class_groups import ClassGroupsStream
from experiments.streams.class_incremental import ClassIncrementalStream
from experiments.streams.class_pairs import ClassPairsStream
from experiments.streams.permuted_images import PermutedImagesStream
from experiments.streams.random_labels import RandomLabelsStream
from experiments.streams.regression import COUNTS, BitFlippingStream

REAL = os.environ.get("LOP_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="set LOP_DATA to the data folder to test real files")


def digest(task) -> str:
    """A checksum of everything in a task: inputs, targets and order of examples."""
    total = hashlib.sha256()
    for split in (task.train, task.test, task.validation, task.probe):
        total.update(split.x().tobytes() + split.y.tobytes() + str((split.y.dtype, split.x().shape)).encode())
    for array in (task.active, task.order(0), task.order(1)):
        total.update(array.tobytes())
    return total.hexdigest()


def stream(name: str, seed: int = 0, **changes):
    return open_streams(name, replace(protocol(name), **changes), [seed])[0]


def blank(classes: int, train: int, test: int) -> Images:
    """A data set of this size that needs no memory: all images are black."""
    y = np.repeat(np.arange(classes), train + test)
    is_test = np.tile(np.arange(train + test) >= train, classes)
    x = np.broadcast_to(np.uint8(0), (len(y), 3, 32, 32))
    return Images("blank", x, y, is_test, 255.0, tuple(map(str, range(classes))), "")


# -- purity -----------------------------------------------------------------------------------------------------------------

CHILD = """
from tests.experiments.test_streams import digest, stream
for name in NAMES:
    print(name, digest(stream(name, 5).task(3)), digest(stream(name, 5).task(1)))
"""


def test_tasks_are_the_same_in_every_order_and_in_another_process():
    names = list(STREAMS)
    here = {}
    for name in names:
        first = stream(name, 5)
        forward = [digest(first.task(t)) for t in range(4)]
        assert [digest(first.task(t)) for t in (3, 0, 2, 1)] == [forward[t] for t in (3, 0, 2, 1)]
        assert len(set(forward)) == 4  # tasks differ,
        assert digest(stream(name, 6).task(3)) not in forward  # and so do seeds
        here[name] = [digest(stream(name, 5).task(3)), forward[1]]  # a stream that starts at task 3
        assert here[name][0] == forward[3]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    child = subprocess.run(
        [sys.executable, "-c", f"NAMES = {names!r}" + CHILD],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert {line.split()[0]: line.split()[1:] for line in child.stdout.splitlines()} == here


@pytest.mark.parametrize("name", STREAMS)
def test_a_task_does_not_depend_on_how_many_follow(name):
    short, long = stream(name, tasks=2), stream(name)
    if name in (
        "class-incremental",
        "class-groups",
    ):  # the head grows with the number of tasks, the examples are the same
        for a, b in ((short.task(1).train, long.task(1).train), (short.task(1).test, long.task(1).test)):
            assert np.array_equal(a.rows, b.rows) and np.array_equal(a.y, b.y)
    else:
        assert digest(short.task(1)) == digest(long.task(1))


def test_words_are_a_prefix_and_paths_do_not_collide():
    assert np.array_equal(words(5, 3, 1, 2), words(50, 3, 1, 2)[:5])
    paths = [(0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1), (2**31,)]
    drawn = [words(2, seed, *path).tobytes() for seed in (0, 1, 2**32, 2**32 + 1, 2**64) for path in paths]
    assert len(set(drawn)) == len(drawn)


def test_words_are_those_of_the_published_generator():
    """PCG64 and SeedSequence are documented as unchanging; this is what makes a stream the same in every version."""
    direct = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7, spawn_key=(1, 2))))
    assert np.array_equal(words(4, 7, 1, 2), direct.bit_generator.random_raw(4))
    assert np.array_equal(
        words(4, 7, 1, 2), direct.bit_generator.__class__(direct.bit_generator.seed_seq).random_raw(4)
    )


def test_permutations_are_uniform():
    counts = Counter(tuple(permutation(3, 0, t)) for t in range(6000))
    assert set(counts) == {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    assert max(abs(count - 1000) for count in counts.values()) < 5 * np.sqrt(6000 * 5 / 36)


# -- splits and orders ------------------------------------------------------------------------------------------------------


def test_a_split_reads_what_it_refers_to():
    source = np.arange(24, dtype=np.uint8).reshape(4, 1, 2, 3)
    split = Split(source, np.array([3, 0, 3]), np.array([1, 2, 3]), scale=2.0)
    assert split.shape == (1, 2, 3) and split.x().dtype == np.float32 and len(split) == 3
    assert np.array_equal(split.x(), source[[3, 0, 3]] / 2) and np.array_equal(split.x(np.array([1])), source[[0]] / 2)
    order = np.array([5, 0, 1])
    flat = replace(split, pixels=order).part(np.array([2, 1]))
    assert flat.shape == (3,) and flat.x().tolist() == [[11.5, 9.0, 9.5], [2.5, 0.0, 0.5]] and flat.y.tolist() == [3, 2]


@pytest.mark.parametrize("shuffle, same_epoch", [("epoch", False), ("task", True), ("never", True)])
@pytest.mark.parametrize("keep_last", [False, True])
def test_batches_partition_an_epoch(shuffle, same_epoch, keep_last):
    chosen = stream("random-labels", examples=53, batch=8, probe=7, shuffle=shuffle, keep_last=keep_last)
    task = chosen.task(2)
    batches = task.batches(1)
    assert [len(batch) for batch in batches] == [8] * 6 + [5] * keep_last
    assert np.array_equal(np.concatenate(batches), task.order(1)[: 53 if keep_last else 48])
    assert sorted(task.order(1)) == list(range(53)) and len(set(np.concatenate(batches))) == sum(map(len, batches))
    assert np.array_equal(task.order(0), task.order(1)) == same_epoch
    assert np.array_equal(task.order(0), np.arange(53)) == (shuffle == "never")


@pytest.mark.parametrize("name", STREAMS)
def test_the_probe_is_a_part_of_the_training_examples(name):
    task = stream(name, probe=40).task(1)
    pairs = set(zip(task.train.rows.tolist(), task.train.y.ravel().tolist()))
    assert len(task.probe) == 40 and set(zip(task.probe.rows.tolist(), task.probe.y.ravel().tolist())) <= pairs
    assert task.probe.shape == task.train.shape == stream(name).input_shape
    if name != "bit-flipping":  # where a row is an input that comes many times
        assert len(set(task.probe.rows.tolist())) == 40
        assert set(task.train.y) | set(task.test.y) <= set(task.active.tolist())
        assert max(task.active) < task.num_outputs and task.train.y.dtype == np.int64


# -- each stream ------------------------------------------------------------------------------------------------------------


def test_permuted_images_are_the_images_with_permuted_pixels():
    images, chosen = digits(), stream("permuted-images", examples=600, part="train")
    seen = set()
    for t in range(5):
        task = chosen.task(t)
        pixels = task.train.pixels
        assert sorted(pixels) == list(range(64)) and tuple(pixels) not in seen
        seen.add(tuple(pixels))
        back = np.empty_like(task.train.x())
        back[:, pixels] = task.train.x()
        assert np.array_equal(16 * back, images.x[task.train.rows].reshape(-1, 64))
        assert np.array_equal(task.train.y, images.y[task.train.rows]) and not images.test[task.train.rows].any()
        assert np.array_equal(task.train.rows, chosen.task(0).train.rows) and len(set(task.train.rows)) == 600
        assert np.array_equal(task.test.pixels, pixels) and images.test[task.test.rows].all() and len(task.test) == 296
    assert len(stream("permuted-images").task(0).train) == 1797 and len(stream("permuted-images").task(0).test) == 0


def test_random_labels_are_balanced_or_independent_and_tell_nothing():
    images = digits()
    balanced, free = stream("random-labels"), stream("random-labels", balanced=False, examples=1500)
    for t in range(3):
        assert np.bincount(balanced.task(t).train.y).tolist() == [32] * 10
        assert np.array_equal(balanced.task(t).train.rows, balanced.task(0).train.rows)
    odd = np.bincount(stream("random-labels", examples=325).task(0).train.y)
    assert odd.min() == 32 and odd.max() == 33
    y = np.concatenate([free.task(t).train.y for t in range(20)])
    assert abs(np.bincount(y) - 3000).max() < 5 * np.sqrt(30_000 * 0.09)
    agree = np.mean([(free.task(t).train.y == images.y[free.task(t).train.rows]).mean() for t in range(20)])
    assert abs(agree - 0.1) < 5 * np.sqrt(0.09 / 30_000)


def test_class_pairs_are_distinct_or_repeat_after_all_classes():
    images = digits()
    distinct = stream("class-pairs")
    assert len({frozenset(distinct.pair(t)) for t in range(45)}) == 45  # all pairs of 10 classes
    cyclic = stream("class-pairs", pairs="cyclic", tasks=12)
    assert sorted(c for t in range(5) for c in cyclic.pair(t)) == list(range(10))
    assert [cyclic.pair(t) for t in range(5, 10)] == [cyclic.pair(t) for t in range(5)]
    for t in range(3):
        task, pair = distinct.task(t), np.array(distinct.pair(t))
        for split, count in ((task.train, 120), (task.test, None)):
            assert np.array_equal(pair[split.y], images.y[split.rows])
            if count:
                assert np.bincount(split.y).tolist() == [count, count]
            expected = np.concatenate([images.rows(int(c), test=split is task.test)[:count] for c in pair])
            assert np.array_equal(split.rows, expected)


def test_two_thousand_pairs_of_a_thousand_classes_are_different_and_have_no_preferred_side():
    images = blank(1000, 2, 1)
    config = replace(protocol("class-pairs", "published"), train_per_class=2, test_per_class=1, batch=2, probe=0)
    distinct = ClassPairsStream(config, images, 0)
    pairs = np.array([distinct.pair(t) for t in range(2000)])
    assert len({frozenset(pair) for pair in pairs.tolist()}) == 2000 and (pairs[:, 0] != pairs[:, 1]).all()
    assert abs((pairs[:, 0] < pairs[:, 1]).mean() - 0.5) < 5 * 0.5 / np.sqrt(2000)
    assert abs(pairs.mean() - 499.5) < 5 * 289 / np.sqrt(4000)  # a uniform class has standard deviation 289
    as_run = ClassPairsStream(replace(config, pairs="cyclic"), images, 0)
    assert [as_run.pair(t) for t in range(500)] == [as_run.pair(t + 500) for t in range(500)]


def test_class_incremental_tasks_are_nested_and_hold_out_the_same_images():
    images, chosen = digits(), stream("class-incremental")
    order = chosen.order
    for t in range(5):
        task = chosen.task(t)
        assert task.active.tolist() == list(range(2 * t + 2)) and task.num_outputs == 10
        for split in (task.train, task.validation, task.test):
            assert np.array_equal(order[split.y], images.y[split.rows]) and set(split.y) == set(task.active)
        assert np.bincount(task.validation.y).tolist() == [20] * (2 * t + 2)
        assert np.bincount(task.train.y).tolist() == [145 - 20] * (2 * t + 2)  # the smallest class has 145
        parts = [set(split.rows.tolist()) for split in (task.train, task.validation, task.test)]
        assert not parts[0] & parts[1] and not images.test[list(parts[0] | parts[1])].any()
        assert parts[2] == {row for c in order[: 2 * t + 2] for row in images.rows(int(c), test=True).tolist()}
        if t:
            before = chosen.task(t - 1)
            assert np.array_equal(task.train.rows[: len(before.train)], before.train.rows)


def test_class_groups_are_disjoint_and_use_their_own_outputs():
    images, chosen = digits(), stream("class-groups")
    seen: set[int] = set()
    for t in range(5):
        task, classes = chosen.task(t), chosen.classes(t)
        assert task.active.tolist() == [2 * t, 2 * t + 1] and not seen & set(classes)
        seen |= set(classes)
        for split in (task.train, task.test):
            assert np.array_equal(np.array(classes)[split.y - 2 * t], images.y[split.rows])
        assert len(task.train) == 2 * 145  # the smallest class
    assert seen == set(range(10))


@pytest.mark.parametrize("name, t", [("class-incremental", 0), ("class-incremental", 2), ("class-groups", 1)])
def test_outputs_of_classes_that_are_not_active_neither_learn_nor_matter(name, t):
    """In the runner: their gradient is exactly zero, and their values change neither the loss nor an answer."""
    program = prepare(Run(stream=name, seeds=1, tasks=4, hidden=(7,), dtype="float64", probe=20))
    task = program.streams[0].task(t)
    absent = [c for c in range(task.num_outputs) if c not in task.active]
    assert len(absent) == 8 - len(task.active)
    learner, (x, y) = start(program), next(minibatches([task], torch.float64))
    before = differentiate(program, learner, Batch(task, x, y))
    weight, bias = before.grads[-2][0], before.grads[-1][0]
    assert not weight[absent].any() and not bias[absent].any()
    assert weight[task.active].abs().sum(1).min() > 0 and bias[task.active].abs().min() > 0
    learner.params[-1][0, absent] = 1e3  # a sum over all outputs would see nothing else
    after = differentiate(program, learner, Batch(task, x, y))
    assert np.array_equal(after.loss, before.loss) and np.array_equal(after.right, before.right)
    assert all(torch.equal(a, b) for a, b in zip(after.grads, before.grads))


# -- bit flipping -----------------------------------------------------------------------------------------------------------


def negative_weights(count: str, w: np.ndarray, b: float) -> float:
    """S_i as the codes compute it, from sums instead of counts; as the text says it, by counting."""
    m = len(w)
    return {"nature": (m - w.sum() + b) / 2, "barriers": (m - w.sum() - b) / 2, "text": np.sum(np.append(w, b) < 0)}[
        count
    ]


@pytest.mark.parametrize("count", COUNTS)
def test_targets_are_those_of_the_network_of_threshold_units(count):
    chosen = stream("bit-flipping", count=count, period=64, probe=0)
    for t in (0, 3):
        task = chosen.task(t)
        for x, y in zip(task.train.x()[:40], task.train.y[:40, 0]):
            total = chosen.c
            for w, b, v in zip(chosen.w, chosen.b, chosen.v):
                threshold = 0.7 * 21 - negative_weights(count, w, b)
                total += v * (w @ x + b > threshold)
            assert y == total
        assert task.train.y.shape == (64, 1) and task.train.y.dtype == np.float32
        assert set(np.unique(task.train.x())) == {0.0, 1.0}


@pytest.mark.parametrize(
    "count, needed", [("nature", {1: 14, -1: 17}), ("barriers", {1: 15, -1: 16}), ("text", {1: 14, -1: 15})]
)
def test_units_fire_from_the_number_of_matches_in_the_table(count, needed):
    chosen = stream("bit-flipping", count=count)
    for matches in range(21):
        fires = matches > chosen.threshold
        assert fires.tolist() == [matches >= needed[int(b)] for b in chosen.b]
    assert np.abs(chosen.threshold - np.round(chosen.threshold)).min() > 0.1  # rounding cannot change a comparison
    weights = np.concatenate([chosen.w.ravel(), chosen.b, chosen.v])
    assert set(weights) == {-1.0, 1.0} and abs(weights.mean()) < 5 / np.sqrt(len(weights))


def test_one_slow_bit_flips_between_tasks_each_as_often_as_the_others():
    chosen = stream("bit-flipping", tasks=3000)
    bits = np.array([chosen.slow_bits(t) for t in range(1500)])
    flipped = bits[1:] != bits[:-1]
    assert (flipped.sum(1) == 1).all() and abs(flipped.sum(0) - 1499 / 15).max() < 5 * np.sqrt(1499 * 14 / 225)
    task = chosen.task(700)
    assert (task.train.x()[:, :15] == bits[700]).all()
    redrawn = stream("bit-flipping", flip="all", tasks=3000)
    bits = np.array([redrawn.slow_bits(t) for t in range(1500)])
    assert abs((bits[1:] != bits[:-1]).mean() - 0.5) < 5 * 0.5 / np.sqrt(1499 * 15)


def test_fast_bits_are_uniform_and_examples_come_in_time_order():
    chosen = stream("bit-flipping")
    task = chosen.task(9)
    assert np.array_equal(task.order(3), np.arange(10_000)) and len(task.batches()) == 10_000
    counts = np.bincount(task.train.rows, minlength=32)
    assert abs(counts - 312.5).max() < 5 * np.sqrt(312.5) and len(chosen.inputs(9)) == 32
    fast = task.train.x()[:, 15:]
    assert abs(np.corrcoef(fast.T) - np.eye(5)).max() < 0.05 and abs((fast[1:] == fast[:-1]).mean() - 0.5) < 0.02
    with_constant = stream("bit-flipping", constant=True)
    assert (with_constant.inputs(0)[:, 20] == 1).all() and with_constant.input_shape == (21,)


def test_an_online_linear_learner_has_the_published_error_under_the_count_of_the_code():
    """Published: .88 to .92 for step size .01 (first and last of a million examples). 30 seeds scatter by .2 / √30 = .04."""
    error = {}
    for count in COUNTS:
        config = replace(protocol("bit-flipping", "published-readme"), count=count)
        streams = [BitFlippingStream(config, seed=seed) for seed in range(30)]
        weights, total, which = np.zeros((30, 21)), 0.0, np.arange(30)
        for t in range(2):
            x = np.stack([np.hstack([s.inputs(t), np.ones((32, 1))]) for s in streams])
            y, codes = np.stack([s.targets(t) for s in streams]), np.stack([s.codes(t)[:5000] for s in streams])
            for k in codes.T:
                row = x[which, k]
                e = (weights * row).sum(1) - y[which, k]
                total += (e * e).mean() / 10_000
                weights -= 0.01 * 2 * e[:, None] * row
        error[count] = total
    assert 0.75 < error["nature"] < 1.05
    assert error["barriers"] < 0.7 and error["text"] > 1.05


# -- published protocols ----------------------------------------------------------------------------------------------------


def test_every_stream_has_a_published_and_a_reduced_protocol_that_says_where_it_is_from():
    for kind in STREAMS.values():
        assert {"published", "reduced"} <= set(kind.protocols)
        for name, config in kind.protocols.items():
            assert name.startswith("published") == bool(config.source) and type(config) is kind.config
            assert (config.data in ("digits", "")) == (name == "reduced" or kind.config.__name__ == "BitFlipping")
        assert issubclass(kind.config, StreamConfig) and kind.config.__dataclass_params__.frozen


def steps(task) -> int:
    return task.config.epochs * len(task.batches())


def test_published_numbers():
    permuted = PermutedImagesStream(protocol("permuted-images", "published"), blank(10, 6000, 1000), 0)
    assert permuted.config.tasks * len(permuted.task(0).train) == 48_000_000 and len(permuted.task(0).probe) == 2000
    assert steps(permuted.task(0)) == 60_000
    labels = RandomLabelsStream(protocol("random-labels", "published"), blank(10, 6000, 1000), 0)
    assert steps(labels.task(0)) == 400 * 75 and labels.config.tasks == 50
    pairs = ClassPairsStream(protocol("class-pairs", "published"), blank(1000, 600, 100), 0)
    task = pairs.task(1999)
    assert (len(task.train), len(task.test), steps(task)) == (1200, 200, 3000)
    cifar = ClassIncrementalStream(protocol("class-incremental", "published"), blank(100, 500, 100), 0)
    sizes = [(len(t.train), len(t.validation), len(t.test)) for t in (cifar.task(0), cifar.task(19))]
    assert sizes == [(2250, 250, 500), (45_000, 5000, 10_000)]
    assert sum(steps(cifar.task(t)) for t in range(20)) == 1_050_000
    tiny = ClassGroupsStream(protocol("class-groups", "published"), blank(200, 500, 50), 0)
    assert sum(steps(tiny.task(t)) for t in range(40)) == 400_000 and len(tiny.task(0).train) == 2500
    lengths = {name: c.tasks * c.period for name, c in STREAMS["bit-flipping"].protocols.items()}
    assert lengths["published"] == 3_000_000 and lengths["published-readme"] == 1_000_000
    assert lengths["published-5m"] == lengths["published-barriers"] == 5_000_000
    for name in lengths:
        config = protocol("bit-flipping", name)
        assert (config.inputs, config.slow, config.units, config.period, config.beta) == (20, 15, 100, 10_000, 0.7)
        inputs = BitFlippingStream(config).input_shape  # that learner has 20 bits and a constant, the others 20 bits
        assert inputs == ((21,) if name == "published-barriers" else (20,))
    spectral = PermutedImagesStream(protocol("permuted-images", "published-spectral"), blank(10, 6000, 1000), 0)
    assert steps(spectral.task(0)) == 60_000 and spectral.config.tasks == 800
    l2_init = PermutedImagesStream(protocol("permuted-images", "published-l2-init"), blank(10, 6000, 1000), 0)
    assert (l2_init.config.tasks, steps(l2_init.task(0)), len(l2_init.task(0).train)) == (500, 625, 10_000)
    pairs = ClassPairsStream(protocol("class-pairs", "published-spectral"), blank(1000, 600, 100), 0)
    assert (pairs.config.tasks, steps(pairs.task(1999))) == (2000, 20 * 12)
    cifar = ClassIncrementalStream(protocol("class-incremental", "published-spectral"), blank(100, 500, 100), 0)
    assert steps(cifar.task(0)) == 200 * 25 and len(cifar.task(19).train) == 50_000
    assert np.array_equal(cifar.task(3).order(0), cifar.task(3).order(7))  # never reshuffled


# -- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("permuted-images", {"tasks": 0}, "tasks = 0"),
        ("permuted-images", {"batch": -1}, "batch = -1"),
        ("permuted-images", {"shuffle": "often"}, "choose one of epoch, task, never"),
        ("permuted-images", {"examples": 1798}, "examples = 1798, but digits has 1797 images"),
        ("permuted-images", {"part": "test"}, "part = 'test' is unknown"),
        ("permuted-images", {"batch": 1798}, "batch = 1798, but a task has 1797 training examples"),
        ("permuted-images", {"probe": 1798}, "probe = 1798, but a task has 1797"),
        ("permuted-images", {"probe": -1}, "probe = -1"),
        ("random-labels", {"examples": 0}, "examples = 0"),
        ("random-labels", {"examples": 1502}, "has 1501 training images"),
        ("class-pairs", {"tasks": 46}, "tasks = 46, but 10 classes have 45 distinct pairs"),
        ("class-pairs", {"pairs": "some"}, "pairs = 'some' is unknown"),
        ("class-pairs", {"train_per_class": 600}, "600 training images per class are wanted"),
        ("class-pairs", {"test_per_class": 100}, "100 test images per class are wanted"),
        ("class-pairs", {"train_per_class": 0}, "train_per_class = 0"),
        ("class-incremental", {"tasks": 6}, "need 12 classes, but digits has 10"),
        ("class-incremental", {"validation_per_class": 400}, "validation_per_class = 400"),
        ("class-groups", {"group": 3}, "need 15 classes, but digits has 10"),
        ("bit-flipping", {"slow": 21}, "slow = 21 of 20 input bits"),
        ("bit-flipping", {"slow": 3}, "give a number from 4 to 20"),
        ("bit-flipping", {"beta": 1.0}, "beta = 1.0"),
        ("bit-flipping", {"count": "mine"}, "choose one of nature, barriers, text"),
        ("bit-flipping", {"flip": "two"}, "flip = 'two' is unknown"),
        ("bit-flipping", {"shuffle": "epoch"}, "time order"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(name, changes, message):
    with pytest.raises(ValueError) as caught:
        stream(name, **changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_names_and_keys_are_errors():
    with pytest.raises(ValueError, match="choose one of permuted-images, "):
        open_streams("permuted-image")
    with pytest.raises(ValueError, match="choose one of published"):
        protocol("permuted-images", "papers")
    with pytest.raises(TypeError, match="is a PermutedImages, not a BitFlipping"):
        open_streams("permuted-images", protocol("bit-flipping"))
    with pytest.raises(TypeError):
        replace(protocol("permuted-images"), task=3)
    with pytest.raises(ValueError, match="seed = -1"):
        stream("bit-flipping", seed=-1)
    for t in (-1, 40):
        with pytest.raises(IndexError, match="from 0 to 39"):
            stream("bit-flipping").task(t)


def test_every_field_of_a_configuration_is_plain():
    """The command line is derived from the fields, so each is a number, a word or a truth value."""
    for kind in STREAMS.values():
        for config in kind.protocols.values():
            assert {type(getattr(config, field.name)) for field in fields(config)} <= {
                int,
                float,
                str,
                bool,
                type(None),
            }


# -- the real files ---------------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    "name, wanted",
    [
        ("permuted-images", "published"),
        ("permuted-images", "reduced-mnist"),
        ("random-labels", "published"),
        ("class-pairs", "reduced-tiny-imagenet"),
        ("class-incremental", "reduced-cifar10"),
        ("class-groups", "reduced-tiny-imagenet"),
    ],
)
def test_protocols_on_real_data(name, wanted):
    streams = open_streams(name, protocol(name, wanted), [0, 1], REAL)
    task = streams[0].task(streams[0].config.tasks - 1)
    x = task.train.x(task.batches()[0])
    assert x.shape == (task.config.batch, *streams[0].input_shape) and 0 <= x.min() < x.max() <= 1
    assert streams[0].images is streams[1].images
    other = streams[1].task(task.index)
    assert not np.array_equal(x, other.train.x(other.batches()[0]))
    again = open_streams(name, protocol(name, wanted), [0], REAL)[0].task(task.index)
    assert np.array_equal(x, again.train.x(again.batches()[0]))
