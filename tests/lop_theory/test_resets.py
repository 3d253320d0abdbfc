"""Resets: what is replaced, when, and what the optimiser forgets."""

from __future__ import annotations

import pytest
import torch

from lop_theory.algorithms.base import (
    chain,
    flatten,
    generators,
    gradients,
    mlp_context,
    mlp_forward,
    mlp_init,
    restore,
)
from lop_theory.algorithms.descent import adam, momentum, sgd
from lop_theory.algorithms.resets import (
    dormancy,
    full_reset,
    head_reset,
    kaiming_bound,
    layer_reset,
    outgoing,
    redo,
    replace_units,
    touched,
    zero_bound,
)

WIDTHS = [3, 5, 4, 2]
RULES = [
    lambda inner: redo(inner, 0.4, 3),
    lambda inner: head_reset(inner, 3),
    lambda inner: layer_reset(inner, (0, -1), 3),
    lambda inner: full_reset(inner, 3),
]


def data(steps, seed=4, replicas=None):
    g = torch.Generator().manual_seed(seed)
    lead = () if replicas is None else (replicas,)
    return [tuple(torch.randn(*lead, 6, n, generator=g, dtype=torch.float64) for n in (3, 2)) for _ in range(steps)]


def run(rule, params, g, batches, state=None, first=0):
    state = rule.init(params) if state is None else state
    for t, (x, y) in enumerate(batches, start=first):
        ctx = mlp_context(params, x, y, step=t, generator=g)
        params, state = rule.update(params, gradients(params, ctx), state, ctx)
        yield params, state


def test_dormancy_is_the_printed_score():
    h = torch.rand(2, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    for r in range(2):
        sizes = [sum(abs(float(h[r, n, i])) for n in range(7)) / 7 for i in range(4)]
        assert dormancy(h)[r].tolist() == pytest.approx([s / (sum(sizes) / 4) for s in sizes])
    assert dormancy(torch.zeros(1, 3, 2)).tolist() == [[0, 0]]


def test_redo_replaces_dormant_units_once_per_period():
    g = generators([0])
    params = mlp_init(WIDTHS, g)
    params[1][0, 2] = -100.0  # dead
    x, y = data(1)[0]
    before = params
    for t, (after, _) in enumerate(run(redo(sgd(0.0), 0.0, 3), params, g, [(x, y)] * 4)):
        dead = [(h == 0).all(dim=1) for h in mlp_forward(before, x).h]
        changed = [(a != b).flatten(2).any(dim=2) for a, b in zip(after[::2], before[::2], strict=True)][:2]
        if t == 2:
            assert dead[0][0, 2] and torch.equal(changed[0], dead[0])
            assert not outgoing(after, 0)[0, :, 2].any() or dead[1].any()
            torch.testing.assert_close(mlp_forward(after, x).output, mlp_forward(before, x).output)
            assert after[1][0, 2] == 0 and after[0][0, 2].abs().max() <= kaiming_bound(3)
        else:
            assert not any(c.any() for c in changed)
        before = after


def test_redo_forgets_the_moments_of_what_it_replaced():
    g = generators([0])
    params = mlp_init(WIDTHS, g)
    rule = redo(momentum(0.0), 0.9, 1)
    ((after, state),) = run(rule, params, g, data(1))
    masks = touched(params, [dormancy(h) <= 0.9 for h in mlp_forward(params, data(1)[0][0]).h])
    for velocity, mask in zip(state.inner.velocity, masks, strict=True):
        assert not velocity[mask].any()
    assert any(velocity[~mask].any() for velocity, mask in zip(state.inner.velocity, masks, strict=True))
    assert all(torch.equal(a[~m], p[~m]) for a, p, m in zip(after, params, masks, strict=True))


@pytest.mark.parametrize(("layers", "changed"), [((-1,), {2}), ((0, 2), {0, 2}), (None, {0, 1, 2})])
def test_layer_reset(layers, changed):
    g = generators([0, 1])
    params = mlp_init(WIDTHS, g)
    outputs = list(run(layer_reset(adam(0.01), layers, 2), params, g, data(4)))
    (one, _), (two, state), (three, _), _ = outputs
    for l in range(3):
        assert bool((two[2 * l + 1] == 0).all()) is (l in changed)
        inside = (two[2 * l].abs() <= kaiming_bound(WIDTHS[l])).all()
        assert inside or l not in changed
        for moment in (state.inner.first, state.inner.second):
            assert bool((moment[2 * l] == 0).all()) is (l in changed)
        assert (one[2 * l + 1] != 0).any() and (three[2 * l + 1] != 0).any()
    assert all((t == (0 if layers is None else 2)).all() for t in state.inner.updates)


def test_full_reset_starts_a_run_again():
    """From the reset on, the run is that of a new net with a new optimiser."""
    g = generators([0])
    params = mlp_init(WIDTHS, g)
    batches = data(6)
    outputs = list(run(full_reset(adam(0.01), 3), params, g, batches))
    fresh = outputs[2][0]
    *_, (end, _) = run(adam(0.01), fresh, g, batches[3:5])
    assert all(torch.equal(a, b) for a, b in zip(end, outputs[4][0], strict=True))


def test_head_may_be_zero():
    g = generators([0])
    ((after, _),) = run(head_reset(sgd(0.1), 1, zero_bound), mlp_init(WIDTHS, g), g, data(1))
    assert not after[4].any() and not after[5].any() and after[2].any()


@pytest.mark.parametrize("make", RULES)
def test_replicas_resume_and_repeat(make):
    rule, batches = make(adam(0.02)), data(9, replicas=2)
    g = generators([3, 4])
    whole = list(run(rule, mlp_init(WIDTHS, g), g, batches))
    g = generators([3, 4])
    *_, (middle, state) = run(rule, mlp_init(WIDTHS, g), g, batches[:4])
    *_, (end, last) = run(rule, middle, g, batches[4:], restore(rule.init(middle), flatten(state)), first=4)
    assert all(torch.equal(a, b) for a, b in zip(end, whole[-1][0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(flatten(last).values(), flatten(whole[-1][1]).values(), strict=True))
    for r in range(2):
        g = generators([3 + r])
        *_, (alone, _) = run(rule, mlp_init(WIDTHS, g), g, [(x[r : r + 1], y[r : r + 1]) for x, y in batches])
        for one, all_ in zip(alone, end, strict=True):
            torch.testing.assert_close(one[0], all_[r], rtol=1e-8, atol=1e-10)


def test_resets_nest_in_chains_and_in_each_other():
    """A head reset around ReDo around Adam: the inner states forget what the outer one replaced."""
    g = generators([0])
    rule = chain(head_reset(redo(adam(0.01), 0.5, 4), 3), sgd(0.0))
    *_, (_, state) = run(rule, mlp_init(WIDTHS, g), g, data(3))
    moments = state.parts[0].inner.inner
    assert not moments.first[4].any() and moments.first[0].any()


def test_touched_covers_exactly_what_replacing_changes():
    g = generators([0])
    params = tuple(p + 10 for p in mlp_init(WIDTHS, g))
    masks = [torch.tensor([[True, False, False, True, False]]), torch.tensor([[False, True, False, False]])]
    new = replace_units(params, masks, g)
    for a, b, mask in zip(new, params, touched(params, masks), strict=True):
        assert torch.equal(a != b, mask)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: redo(sgd(0.1), -1.0), "threshold = -1.0"),
        (lambda: redo(sgd(0.1), period=0), "period = 0: resets happen after every period-th update"),
        (
            lambda: layer_reset(sgd(0.1), (3,), 2).init(mlp_init(WIDTHS, generators([0]))),
            "layer 3 of a net with 3 layers",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
