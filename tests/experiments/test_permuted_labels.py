"""The real input: pure tasks, reproducible training, an optimizer that agrees with torch's."""

import pytest
import torch
from torch import nn

from experiments.permuted_labels import IMAGES, PermutedLabels, _step, checkpoints, digits, task

SMALL = PermutedLabels(hidden=(8,), tasks=2, steps=20, batch=16, images=200)


def test_images_are_exact_sixteenths_and_classes_are_balanced():
    x, classes = digits()
    assert x.shape == (IMAGES, 64) and x.dtype == torch.float64
    assert torch.equal(16 * x, (16 * x).round()) and float(x.min()) == 0 and float(x.max()) == 1
    assert sorted(set(classes.tolist())) == list(range(10))
    assert torch.bincount(classes).min() > 170


def test_task_is_a_pure_permutation_that_changes_with_seed_and_task():
    seen = {(seed, t): tuple(task(seed, t).tolist()) for seed in range(3) for t in range(10)}
    assert all(sorted(p) == list(range(10)) for p in seen.values())
    assert len(set(seen.values())) == 30  # 30 of 10! permutations: a repetition has probability 1e-4
    before = torch.get_rng_state()
    assert {key: tuple(task(*key).tolist()) for key in reversed(seen)} == seen  # in any order
    assert torch.equal(torch.get_rng_state(), before)  # and without the global generator


def test_labels_are_the_permuted_classes():
    x, classes = digits()
    names = {tuple(image.tolist()): int(c) for image, c in zip(x, classes)}  # the images are all different
    assert len(names) == IMAGES
    for point in checkpoints(SMALL):
        mapped = task(SMALL.seed, point.task)
        assert point.y.tolist() == [int(mapped[names[tuple(image.tolist())]]) for image in point.x]


def test_training_is_reproducible_and_a_longer_run_has_the_same_beginning():
    first, second = list(checkpoints(SMALL)), list(checkpoints(SMALL))
    assert all(torch.equal(a.theta, b.theta) for a, b in zip(first, second))
    (alone,) = checkpoints(PermutedLabels(hidden=(8,), tasks=1, steps=20, batch=16, images=200))
    assert torch.equal(alone.theta, first[0].theta) and torch.equal(alone.x, first[1].x)
    other = next(checkpoints(PermutedLabels(hidden=(8,), tasks=1, steps=20, batch=16, images=200, seed=1)))
    assert not torch.equal(other.theta, first[0].theta)


@pytest.mark.parametrize("name, reference", [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_steps_agree_with_torch(name, reference, generator, dtype):
    slopes = torch.randn(7, 5, generator=generator, dtype=dtype)
    weight = nn.Parameter(torch.ones(5, dtype=dtype))
    optimizer = reference([weight], lr=0.1)
    theta, state = torch.ones(5, dtype=dtype), torch.zeros(2, 5, dtype=dtype)
    for count, slope in enumerate(slopes, start=1):
        weight.grad = slope.clone()
        optimizer.step()
        step, state = _step(name, slope, state, count)
        theta = theta - 0.1 * step
        torch.testing.assert_close(theta, weight.detach(), rtol=1e-12, atol=1e-14)


def test_accuracy_and_loss_are_those_of_the_same_network_in_torch():
    *_, point = checkpoints(SMALL)
    module = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).double()
    nn.utils.vector_to_parameters(point.theta, module.parameters())
    with torch.no_grad():
        output = module(point.x)
    assert point.accuracy == pytest.approx(float((output.argmax(1) == point.y).double().mean()))
    assert point.loss == pytest.approx(float(nn.functional.cross_entropy(output, point.y)))


@pytest.mark.parametrize("hidden, step_size, optimizer", [((24, 16), 0.01, "adam"), ((24,), 0.2, "sgd")])
def test_the_first_task_is_learned(hidden, step_size, optimizer):
    config = PermutedLabels(hidden=hidden, step_size=step_size, optimizer=optimizer, tasks=1)
    (point,) = checkpoints(config)
    assert point.accuracy > 0.85  # chance is 0.1


def test_threads_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        next(checkpoints(SMALL))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"hidden": ()}, "hidden = ()"),
        ({"hidden": (3, 0)}, "hidden = (3, 0)"),
        ({"optimizer": "lion"}, "optimizer = 'lion' is unknown; choose one of sgd, adam"),
        ({"step_size": float("nan")}, "step_size = nan"),
        ({"images": 1798}, "images = 1798; there are 1797"),
        ({"tasks": 0}, "tasks = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"activation": "rulu"}, "rulu"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError) as caught:
        PermutedLabels(**wrong)
    assert message in str(caught.value)
