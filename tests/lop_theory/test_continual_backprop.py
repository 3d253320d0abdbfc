"""Continual Backprop against a slow oracle, and the conformance suite for reset methods: each line is a bug somebody shipped."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from lop_theory.algorithms.base import (
    Context,
    LayerTrace,
    flatten,
    generators,
    gradients,
    mlp_context,
    mlp_forward,
    mlp_init,
    restore,
)
from lop_theory.algorithms.continual_backprop import (
    UTILITIES,
    cbp_published_bitflip,
    cbp_published_spectral,
    continual_backprop,
    smallest,
)
from lop_theory.algorithms.descent import adam, momentum, sgd
from lop_theory.algorithms.resets import fresh_rows, kaiming_bound, outgoing, replace_units, touched
from tests.reference.cbp import Layered, SlowCbp, activations

SHAPES = pytest.mark.parametrize(
    "widths", [[3, 4, 2], [3, 4, 5, 2], [2, 4, 3, 4, 1]], ids=["1 hidden", "2 hidden", "3 hidden"]
)
VARIANTS = [continual_backprop, cbp_published_spectral, cbp_published_bitflip]


def frozen():
    """An optimiser that does nothing, so that what changes was replaced."""
    return sgd(0.0)


def batches(widths, steps, samples=4, seed=5, replicas=None):
    g = torch.Generator().manual_seed(seed)
    lead = () if replicas is None else (replicas,)
    for _ in range(steps):
        x = torch.randn(*lead, samples, widths[0], generator=g, dtype=torch.float64)
        yield x, torch.randn(*lead, samples, widths[-1], generator=g, dtype=torch.float64)


def start(widths, seeds=(0,)):
    """Parameters with non-zero biases, and one generator per replica."""
    g = generators(seeds)
    params = mlp_init(widths, g)
    shift = [torch.stack([torch.randn(p.shape[1:], generator=s, dtype=p.dtype) for s in g]) for p in params[1::2]]
    return tuple(p if k % 2 == 0 else p + shift[k // 2] / 4 for k, p in enumerate(params)), g


def run(rule, params, g, data, state=None, first=0, kind="mse"):
    """Yield (params before, params after, state after, context) of every update."""
    state = rule.init(params) if state is None else state
    for t, (x, y) in enumerate(data, start=first):
        ctx = mlp_context(params, x, y, kind=kind, step=t, generator=g)
        new, state = rule.update(params, gradients(params, ctx), state, ctx)
        yield params, new, state, ctx
        params = new


def replaced(before, after, layer):
    """Units with drawn incoming weights, if the optimiser does nothing (a weight that a lower unit lost is 0)."""
    old, new = before[2 * layer], after[2 * layer]
    return ((old != new) & (new != 0)).flatten(2).any(dim=2)


# -- the whole algorithm ---------------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("utility", sorted(UTILITIES))
def test_agrees_with_the_slow_oracle(widths, utility):
    """Same statistics, same choices, same parameters, with the new weights of the fast run given to the slow one."""
    params, g = start(widths)
    slow = SlowCbp(
        Layered([p[0].tolist() for p in params[::2]], [p[0].tolist() for p in params[1::2]]), 1 / 8, 3, 0.75, utility
    )
    count, data = 0, list(batches(widths, 30))
    updates = run(continual_backprop(frozen(), 1 / 8, 3, 0.75, utility), params, g, data)
    for (_, new, state, _), (x, _) in zip(updates, data, strict=True):
        rows = [activations(slow.net, sample, lambda z: max(z, 0.0)) for sample in x.tolist()]
        hidden = [[row[l] for row in rows] for l in range(len(widths) - 2)]
        for l, units in enumerate(slow.select(hidden)):
            for i in units:
                slow.replace(l, i, new[2 * l][0, i].tolist())
                count += 1
        for p, wanted in zip([*new[::2], *new[1::2]], [*slow.net.weights, *slow.net.biases], strict=True):
            torch.testing.assert_close(p[0], torch.tensor(wanted, dtype=p.dtype), rtol=1e-10, atol=1e-12)
        for name in ("u", "f", "age"):
            fast = {"u": state.utility, "f": state.mean, "age": state.age}[name]
            for row, wanted in zip(fast, getattr(slow, name), strict=True):
                torch.testing.assert_close(
                    row[0].double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12
                )
    assert count >= 10


@SHAPES
@pytest.mark.parametrize("make", VARIANTS)
def test_replicas_are_independent_runs(widths, make):
    rule = make(adam(0.05), 0.2, 2, 0.5)
    params, g = start(widths, [7, 8, 9])
    data = list(batches(widths, 12, replicas=3))
    together = list(run(rule, params, g, data))[-1][1]
    for r in range(3):
        alone, source = start(widths, [7 + r])
        single = list(run(rule, alone, source, [(x[r : r + 1], y[r : r + 1]) for x, y in data]))[-1][1]
        for one, all_ in zip(single, together, strict=True):
            torch.testing.assert_close(one[0], all_[r], rtol=1e-9, atol=1e-11)


@SHAPES
@pytest.mark.parametrize("make", VARIANTS)
def test_same_seed_same_bits(widths, make):
    ends = []
    for _ in range(2):
        params, g = start(widths)
        ends.append(list(run(make(momentum(0.05), 0.2, 2), params, g, batches(widths, 12)))[-1][1])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("make", VARIANTS)
def test_hyper_parameters_per_replica(make):
    widths, data = [3, 4, 2], list(batches([3, 4, 2], 10, replicas=2))
    rates, maturities, decays = torch.tensor([0.0, 0.3]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.9])
    params, g = start(widths, [1, 2])
    together = list(run(make(frozen(), rates, maturities, decays), params, g, data))[-1][1]
    for r in range(2):
        rule = make(frozen(), float(rates[r].double()), float(maturities[r]), float(decays[r]))
        alone, source = start(widths, [1 + r])
        single = list(run(rule, alone, source, [(x[r : r + 1], y[r : r + 1]) for x, y in data]))[-1][1]
        for one, all_ in zip(single, together, strict=True):
            torch.testing.assert_close(one[0], all_[r], rtol=1e-6, atol=1e-8)


# -- the conformance suite -------------------------------------------------------------------------------------------------


def test_01_ranking_is_by_bias_corrected_utility():
    """A newborn unit of higher utility survives; by the raw running average it would be replaced again."""
    widths, params = (
        [1, 2, 1],
        (
            torch.ones(1, 2, 1, dtype=torch.float64),
            torch.tensor([[1.0, 0.0]], dtype=torch.float64),
            torch.ones(1, 1, 2, dtype=torch.float64),
            torch.zeros(1, 1, dtype=torch.float64),
        ),
    )  # h = (x + 1, x) = (3, 2) at x = 2: unit 0 is better, unit 1 older
    rule = continual_backprop(frozen(), 0.5, 2, 0.99, "contribution")
    state = rule.init(params)
    state = state._replace(
        utility=(torch.tensor([[0.0, 2 * (1 - 0.99**50)]], dtype=torch.float64),),
        power=(torch.tensor([[1.0, 0.99**50]], dtype=torch.float64),),
        age=(torch.tensor([[0, 50]]),),
    )
    seen = []
    for before, after, *_ in run(rule, params, generators([0]), [(torch.full((1, 1), 2.0).double(),) * 2] * 3, state):
        seen.append(replaced(before, after, 0)[0].tolist())
        if any(seen[-1]):
            break
    assert seen[-1] == [False, True]
    assert len(widths) == 3


@SHAPES
def test_02_age_utility_and_mean_are_zero_after_a_replacement(widths):
    params, g = start(widths)
    hits = 0
    for before, after, state, _ in run(continual_backprop(frozen(), 0.2, 2), params, g, batches(widths, 15)):
        for l in range(len(widths) - 2):
            new = replaced(before, after, l)
            hits += int(new.sum())
            assert not state.age[l][new].any() and not state.utility[l][new].any() and not state.mean[l][new].any()
            assert (state.power[l][new] == 1).all()
            assert (state.age[l][~new] > 0).all()
    assert hits >= 5


@SHAPES
def test_03_immature_units_are_never_chosen(widths):
    """Between two replacements of a unit lie more than m updates; m + 1 occurs."""
    maturity, last, gaps = 4, {}, []
    params, g = start(widths)
    for t, (before, after, *_) in enumerate(
        run(continual_backprop(frozen(), 0.6, maturity), params, g, batches(widths, 40)), start=1
    ):
        for l in range(len(widths) - 2):
            for i in replaced(before, after, l)[0].nonzero().flatten().tolist():
                gaps.append(t - last.get((l, i), 0))
                last[l, i] = t
    assert min(gaps) == maturity + 1


@SHAPES
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.9])
def test_04_long_run_rate_without_a_burst_at_maturity(widths, rate):
    """After every update ⌊ρ Σ|E|⌋ units were replaced, |E| counted by the test; never more than ⌈ρ|E|⌉ at once."""
    maturity, steps = 5, 60
    ages = [torch.zeros(n, dtype=torch.int64) for n in widths[1:-1]]
    offered, done = [0] * len(ages), [0] * len(ages)
    params, g = start(widths)
    for before, after, *_ in run(
        continual_backprop(frozen(), rate, maturity, utility="weight"), params, g, batches(widths, steps)
    ):
        for l, age in enumerate(ages):
            age += 1
            mature = int((age > maturity).sum())
            new = replaced(before, after, l)[0]
            offered[l] += mature
            done[l] += int(new.sum())
            age[new] = 0
            assert done[l] == math.floor(rate * offered[l])
            assert int(new.sum()) <= math.ceil(rate * mature)
    assert sum(done) > 0 or rate < 0.05


@SHAPES
def test_04_bernoulli_has_the_same_rate_in_expectation(widths):
    rule = continual_backprop(frozen(), 0.05, 2, schedule="bernoulli", utility="random")
    params, g = start(widths, range(20))
    *_, (_, _, state, _) = run(rule, params, g, batches(widths, 60))
    offered, done = (sum(int(t.sum()) for t in part) for part in (state.offered, state.paid))
    assert abs(done - 0.05 * offered) < 4 * math.sqrt(0.05 * offered)


@SHAPES
def test_05_function_is_unchanged_when_a_constant_unit_is_replaced(widths):
    """Units without incoming weights are constant; replaced with the transfer, they leave the output as it was."""
    params, g = start(widths)
    params = tuple(p.clone() for p in params)
    masks = []
    for l, n in enumerate(widths[1:-1]):
        mask = torch.zeros(1, n, dtype=torch.bool)
        mask[0, :2] = True
        params[2 * l][:, :2] = 0
        params[2 * l + 1][:, :2] = torch.tensor([1.5, -1.0])
        masks.append(mask)
    x = torch.randn(16, widths[0], generator=g[0], dtype=torch.float64)
    before = mlp_forward(params, x)
    transfer = [h.mean(dim=1) for h in before.h]
    new = replace_units(params, masks, g, transfer=transfer)
    torch.testing.assert_close(mlp_forward(new, x).output, before.output, rtol=1e-12, atol=1e-12)
    lost = mlp_forward(replace_units(params, masks, g), x).output
    assert (lost - before.output).abs().max() > 1e-3
    assert all((new[2 * l][:, :2] != 0).all() for l in range(len(masks)))


@SHAPES
def test_05_outgoing_weights_of_new_units_are_zero_except_into_new_units(widths):
    params, g = start(widths)
    for before, after, *_ in run(continual_backprop(frozen(), 0.3, 1), params, g, batches(widths, 10)):
        new = [replaced(before, after, l) for l in range(len(widths) - 2)] + [
            torch.zeros(1, widths[-1], dtype=torch.bool)
        ]
        for l in range(len(widths) - 2):
            between = new[l + 1][:, :, None] & new[l][:, None, :]
            old = ~new[l + 1][:, :, None] & new[l][:, None, :]
            assert not after[2 * l + 2][old].any()
            assert (after[2 * l + 2][between] != 0).all()


@SHAPES
@pytest.mark.parametrize(
    "optimiser", [momentum(0.05), adam(0.05), adam(0.05, per_weight_count=True)], ids=lambda o: o.name
)
def test_06_moments_of_the_replaced_weights_are_cleared_and_no_others(widths, optimiser):
    """The stated exception: the bias that receives the transfer keeps its moments, it is not a new weight."""
    params, g = start(widths)
    hits = 0
    rule = continual_backprop(optimiser, 0.3, 2)
    plain = rule.init(params).inner
    for before, after, state, ctx in run(rule, params, g, batches(widths, 8)):
        moved, expected = optimiser.update(before, gradients(before, ctx), plain, ctx)
        new = [(state.age[l] == 0) for l in range(len(widths) - 2)]
        masks = touched(after, new)
        hits += int(sum(m.sum() for m in masks))
        for name, tensor in flatten(state.inner).items():
            wanted, k = flatten(expected)[name], int(name.rsplit(".", 1)[1])
            if tensor.shape == masks[k].shape:
                assert not tensor[masks[k]].any()
                assert torch.equal(tensor[~masks[k]], wanted[~masks[k]])
        plain = state.inner
        assert len(moved) == len(after)
    assert hits > 0


def test_07_a_unit_with_an_undefined_utility_is_never_chosen():
    """A unit without incoming weights has utility 0/0 ("overall"); as soon as it has one, it is ranked like any other."""
    params, g = start([2, 4, 1])
    params = tuple(p.clone() for p in params)
    params[0][0, 1], params[2][0, 0, 1] = 0, 1e-6
    rule = continual_backprop(frozen(), 0.3, 1)
    *updates, (_, after, state, _) = run(rule, params, g, batches([2, 4, 1], 20))
    rows = [replaced(old, new, 0)[0] for old, new, *_ in updates]
    assert not any(row[1] for row in rows) and sum(int(row.sum()) for row in rows) >= 10
    assert int(state.offered[0]) <= 3 * 20 and all(p.isfinite().all() for p in after)
    after[0][0, 1], after[2][0, 0] = 1.0, torch.tensor([1.0, 0.0, 1.0, 1.0])  # now it is the least useful
    later = run(rule, after, g, batches([2, 4, 1], 4), state, first=20)
    assert any(replaced(old, new, 0)[0, 1] for old, new, *_ in later)


def test_08_masks_are_computed_before_anything_is_changed():
    """All layers are judged by the weights and activations of the same moment: the utility of layer 2 is that of the old net."""
    widths = [2, 3, 3, 1]
    params, g = start(widths)
    rule = continual_backprop(frozen(), 0.34, 0, 0.0, "overall")
    (before, after, _, ctx), *_ = run(rule, params, g, batches(widths, 1))
    for l in range(2):
        h = ctx.trace.h[l]
        into, out = before[2 * l].abs().sum(dim=2), outgoing(before, l).abs().sum(dim=(1, 3))
        score = UTILITIES["overall"](h, h.mean(dim=1), into, out)
        assert torch.equal(
            replaced(before, after, l), smallest(score, torch.ones_like(score, dtype=torch.bool), torch.tensor([1]))
        )


def conv_net(g):
    """Convolution (3 channels on 4 × 4 images, 2 × 2 kernels: 3 × 3 maps), flatten, dense 27 → 4 → 2, ReLU."""
    shapes = [(3, 1, 2, 2), (3,), (4, 27), (4,), (2, 4), (2,)]
    params = tuple(torch.randn(1, *s, generator=g[0], dtype=torch.float64) for s in shapes)
    x = torch.randn(5, 1, 4, 4, generator=g[0], dtype=torch.float64)

    def forward(p):
        maps = torch.relu(torch.nn.functional.conv2d(x, p[0][0], p[1][0]))
        dense = torch.relu(torch.nn.functional.linear(maps.flatten(1), p[2][0], p[3][0]))
        return (maps[None], dense[None]), torch.nn.functional.linear(dense, p[4][0], p[5][0])[None]

    return params, forward


def test_09_a_channel_owns_its_block_of_columns_after_flattening():
    params, forward = conv_net(g := generators([3]))
    params = tuple(p.clone() for p in params)
    params[0][0, 1], params[1][0, 1] = 0, 2.0  # channel 1 is constant
    hidden, output = forward(params)
    h = hidden[0]
    mask = [torch.tensor([[False, True, False]]), torch.zeros(1, 4, dtype=torch.bool)]
    new = replace_units(params, mask, g, transfer=[h.mean(dim=(1, 3, 4)), hidden[1].mean(dim=1)])
    torch.testing.assert_close(forward(new)[1], output, rtol=1e-12, atol=1e-12)
    assert not new[2][0, :, 9:18].any() and (new[2][0, :, [*range(9), *range(18, 27)]] != 0).all()
    limit = kaiming_bound(4)
    assert (new[0][0, 1].abs() <= limit).all() and torch.equal(new[0][0, [0, 2]], params[0][0, [0, 2]])


def test_09_the_algorithm_runs_on_a_convolution():
    params, forward = conv_net(g := generators([3]))
    hidden, output = forward(params)
    zero = tuple(torch.zeros_like(p) for p in params)
    ctx = Context(lambda p: forward(p)[1].sum()[None], lambda p: forward(p)[0], LayerTrace((), hidden, output), 0, g)
    rule = continual_backprop(frozen(), 0.34, 0, 0.0, "contribution")
    new, state = rule.update(params, zero, rule.init(params), ctx)
    columns = params[2][0].reshape(4, 3, 9).abs().sum(dim=(0, 2))
    worst = int((hidden[0][0].abs().mean(dim=(0, 2, 3)) * columns).argmin())
    assert replaced(params, new, 0)[0].nonzero().flatten().tolist() == [worst]
    assert state.age[0][0, worst] == 0


@SHAPES
def test_10_bias_and_incoming_weights_are_those_of_a_new_unit(widths):
    params, g = start(widths)
    values = []
    for before, after, *_ in run(
        continual_backprop(frozen(), 0.5, 1, bias_transfer=False), params, g, batches(widths, 40)
    ):
        for l in range(len(widths) - 2):
            new = replaced(before, after, l)
            assert not after[2 * l + 1][new].any()
            values.append(after[2 * l][new].flatten() / kaiming_bound(widths[l]))
    drawn = torch.cat(values)
    assert drawn.abs().max() <= 1
    assert abs(drawn.mean()) < 5 / math.sqrt(3 * len(drawn))
    assert abs(drawn.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / len(drawn))


def test_11_a_generator_on_another_device_is_refused():
    params, _ = start([2, 3, 1])
    elsewhere = (SimpleNamespace(device="cuda:0"),)
    with pytest.raises(ValueError, match="generator 0 is on cuda:0, the parameters are on cpu"):
        fresh_rows(params[0], torch.ones(1, 3, dtype=torch.bool), elsewhere, kaiming_bound)
    with pytest.raises(ValueError, match="0 generators for 1 replicas"):
        fresh_rows(params[0], torch.ones(1, 3, dtype=torch.bool), (), kaiming_bound)


@SHAPES
@pytest.mark.parametrize("make", VARIANTS)
def test_12_rate_zero_is_the_optimiser_bit_for_bit(widths, make):
    params, g = start(widths)
    data = list(batches(widths, 10))
    ours = list(run(make(sgd(0.1), 0.0, 2), params, g, data))[-1][1]
    plain = list(run(sgd(0.1), params, g, data))[-1][1]
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert torch.equal(g[0].get_state(), start(widths)[1][0].get_state())  # and no random number was drawn


@SHAPES
@pytest.mark.parametrize("make", VARIANTS)
def test_13_exact_resume(widths, make):
    rule = make(adam(0.05, per_weight_count=True), 0.2, 2)
    data = list(batches(widths, 14))
    params, g = start(widths)
    whole = list(run(rule, params, g, data))
    params, g = start(widths)
    *_, (_, middle, state, _) = run(rule, params, g, data[:7])
    resumed = generators([0])
    resumed[0].set_state(g[0].get_state())
    state = restore(rule.init(middle), flatten(state))
    *_, (_, end, last, _) = run(rule, middle, resumed, data[7:], state, first=7)
    assert all(torch.equal(a, b) for a, b in zip(end, whole[-1][1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(flatten(last).values(), flatten(whole[-1][2]).values(), strict=True))


@SHAPES
@pytest.mark.parametrize("utility", ["contribution", "mean_corrected", "overall", "weight"])
def test_14_sums_and_means_of_weights_rank_alike(widths, utility):
    params, g = start(widths)
    x = torch.randn(8, widths[0], generator=g[0], dtype=torch.float64)
    for l, h in enumerate(mlp_forward(params, x).h):
        into, out = params[2 * l].abs(), outgoing(params, l).abs()
        summed = UTILITIES[utility](h, h.mean(dim=1), into.sum(dim=2), out.sum(dim=(1, 3)))
        averaged = UTILITIES[utility](h, h.mean(dim=1), into.mean(dim=2), out.mean(dim=(1, 3)))
        assert torch.equal(summed.argsort(dim=1), averaged.argsort(dim=1))


# -- bias correction, published variants, bad input ------------------------------------------------------------------------


def test_printed_correction_differs_from_the_matched_one():
    """For a constant activation f̂ is the activation; as printed it is h (1 − η^{a−1}) / (1 − η^a)."""
    params = (torch.zeros(1, 1, 1), torch.ones(1, 1), torch.ones(1, 1, 1), torch.zeros(1, 1))
    params = tuple(p.double() for p in params)
    data = [(torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))] * 4
    ends = {}
    for correction in ("matched", "printed"):
        rule = continual_backprop(frozen(), 0.99, 2, 0.5, "contribution", correction=correction)
        after = [row[1][3].item() for row in run(rule, params, generators([0]), data)]
        ends[correction] = after
    # 0.99 · 1 < 1 at age 3; one replacement at age 4: the transfer is f̂ · w = f̂
    assert ends["matched"] == pytest.approx([0, 0, 0, 1])
    assert ends["printed"] == pytest.approx([0, 0, 0, (1 - 0.5**3) / (1 - 0.5**4)])


def test_published_spectral_replaces_the_largest_and_redraws_what_leaves_it():
    widths = [2, 4, 1]
    params, g = start(widths)
    rule = cbp_published_spectral(frozen(), 0.26, 0, 0.0)
    (before, after, _, ctx), *_ = run(rule, params, g, batches(widths, 1))
    utility = ctx.trace.h[0].mean(dim=1).abs() * before[2].abs().sum(dim=1)
    new = replaced(before, after, 0)[0]
    assert new.nonzero().flatten().tolist() == [int(utility.argmax())]
    assert (after[2][0, 0, new] != before[2][0, 0, new]).all() and (after[2][0, 0, new] != 0).all()
    assert torch.equal(after[3], before[3])
    assert not after[1][0, new].any()


def test_published_bitflip_keeps_incoming_weights_and_clears_all_biases():
    widths = [2, 4, 1]
    params, g = start(widths)
    rule = cbp_published_bitflip(frozen(), 1e-4, 3, 0.5)
    counts = []
    for t, (before, after, state, _) in enumerate(run(rule, params, g, batches(widths, 12))):
        assert torch.equal(before[0], after[0])
        fresh = (state.age[0] == 0) & (t > 0)
        counts.append(int(fresh.sum()))
        assert not after[2][fresh[:, None, :].expand_as(after[2])].any()
        assert not (counts[-1] and after[1].any())
    # t = 0 does nothing; units are mature at age 4, that is t = 4; then one of them at every update
    assert counts == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replacement_rate": 1.5}, "replacement_rate = 1.5"),
        ({"decay": 1.0}, "decay = 1.0"),
        ({"maturity": -1}, "maturity = -1"),
        ({"schedule": "daily"}, "schedule = 'daily': use one of accumulate, bernoulli"),
        ({"correction": "none"}, "correction = 'none': use one of matched, printed"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        continual_backprop(sgd(0.1), **change)


def test_bad_parameters_are_named():
    rule = continual_backprop(sgd(0.1))
    with pytest.raises(ValueError, match="3 parameters: a layered net"):
        rule.init((torch.zeros(1, 2, 2), torch.zeros(1, 2), torch.zeros(1, 1, 2)))
    with pytest.raises(ValueError, match="weights \\(1, 2, 2\\) and biases \\(1, 3\\)"):
        rule.init((torch.zeros(1, 2, 2), torch.zeros(1, 3)))
    with pytest.raises(ValueError, match="the fan-in must be a multiple"):
        rule.init((torch.zeros(1, 2, 2), torch.zeros(1, 2), torch.zeros(1, 1, 3), torch.zeros(1, 1)))
