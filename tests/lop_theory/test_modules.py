"""Modular cloning: the defining identity clone(x) = base(x)[of], invariance under training, and what must not pass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lop_theory.cloning_r2 import UndefinedMetricError, aggregate_clone_r2, clone_r2, published_clone_r2
from lop_theory.module_cloning.residuals import equitable_spreads
from lop_theory.module_cloning.rules import dense_kernel
from lop_theory.modules import (
    Clone,
    Interface,
    NotTheBaseFunctionError,
    Profile,
    ProfileMismatchError,
    ShapeMismatchError,
    TiedDropout,
    UnsupportedModuleError,
    certify,
    clone_module,
    observe,
)
from lop_theory.vision import Attention, Residual, seeded, small_cnn, small_resnet, small_vit

BUILDERS = {
    "cnn-batch": lambda g: small_cnn(g),
    "cnn-layer": lambda g: small_cnn(g, norm="layer"),
    "cnn-none": lambda g: small_cnn(g, norm="none"),
    "resnet-batch": lambda g: small_resnet(g, blocks=2),
    "resnet-none": lambda g: small_resnet(g, norm="none"),
    "vit": lambda g: small_vit(g),
}


def images(generator: torch.Generator, n: int = 4) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> float:
    """max |a − b|; shapes must be equal."""
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def worst_spread(clone: Clone, x: Tensor, y: Tensor) -> float:
    seen = observe(clone.module, clone.partition, x, lambda out: nn.functional.cross_entropy(out, y))
    scale = max(1.0, *(float(s.outputs.abs().max()) for s in seen.values()))
    return max(max(s.forward_spread, s.backward_spread) for s in seen.values()) / scale


def train(model: nn.Module, x: Tensor, y: Tensor, rule: str, steps: int) -> None:
    optimizer = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=1e-3),
    }[rule]()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


# -- the three networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", BUILDERS)
def test_clone_computes_its_base(name: str, factor: int, generator: torch.Generator) -> None:
    base = BUILDERS[name](generator).double()
    clone = clone_module(base, factor)
    x = images(generator)
    for training in (True, False):
        base.train(training)
        clone.module.train(training)
        assert distance(clone.module(x), base(x)) < 1e-10
    assert certify(clone.module, clone.partition).cloned
    width = sum(p.numel() for p in base.parameters())
    assert sum(p.numel() for p in clone.module.parameters()) > 2 * width  # it is a wider network


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["cnn-batch", "resnet-batch", "vit"])
def test_clone_stays_cloned(name: str, rule: str, factor: int, generator: torch.Generator) -> None:
    base = BUILDERS[name](generator).double()
    clone = clone_module(base, factor, attention="heads" if rule == "sgd" else "head_dim")
    x, y = images(generator), torch.tensor([0, 1, 2, 1])
    before = {k: v.clone() for k, v in clone.module.state_dict().items()}
    train(clone.module, x, y, rule, 12)
    moved = max(float((v - before[k]).abs().max()) for k, v in clone.module.state_dict().items())
    assert moved > 1e-3
    assert worst_spread(clone, x, y) < 1e-9
    assert certify(clone.module, clone.partition).cloned


def test_a_perturbed_clone_is_caught(generator: torch.Generator) -> None:
    """Both measures see a change of 1e-6 in one tap of one kernel: the tests above can fail."""
    clone = clone_module(small_cnn(generator).double(), 2)
    x, y = images(generator), torch.tensor([0, 1, 2, 1])
    clone.module[4].weight.data[0, 0, 1, 1] += 1e-6
    report = certify(clone.module, clone.partition)
    assert not report.cloned and all("4.weight" in line for line in report.violations)
    assert report.worst == pytest.approx(1e-6, rel=1e-6)
    assert worst_spread(clone, x, y) > 1e-9
    assert "4.weight" in str(report)


@pytest.mark.parametrize("mode", ["heads", "head_dim"])
@pytest.mark.parametrize("factor", [2, 3])
def test_attention_alone(mode: str, factor: int, generator: torch.Generator) -> None:
    with seeded(generator):
        base = Attention(6, 2).double()
    incoming = Profile.repeat(6, factor)
    clone = clone_module(base, factor, incoming=incoming, keep_output=False, attention=mode)
    x = 3 * torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    assert distance(clone.module(x[..., incoming.index]), base(x)[..., clone.output.index]) < 1e-12
    assert certify(clone.module, clone.partition, incoming=incoming).cloned


def test_published_head_expansion_multiplies_logits(generator: torch.Generator) -> None:
    """Without 2^{-1/4} the logits are √2 times those of the base; the clones stay equal."""
    with seeded(generator):
        base = Attention(4, 2).double()
    x = 3 * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    wrong = clone_module(base, 2, exact=False)
    assert distance(wrong.module(x), base(x)) > 1e-3
    assert certify(wrong.module, wrong.partition).cloned
    for part in (base.q, base.k):  # the base with logits · √2 is what the unscaled clone computes
        part.weight.data *= 2**0.25
        part.bias.data *= 2**0.25
    assert distance(wrong.module(x), base(x)) < 1e-12


# -- one module at a time ------------------------------------------------------------------------------------------------


@st.composite
def profiles(draw: st.DrawFn, width: int) -> Profile:
    """Any surjection with small blocks, in any order."""
    copies = draw(st.lists(st.integers(1, 3), min_size=width, max_size=width))
    return Profile(tuple(draw(st.permutations(Profile.from_copies(copies).of))))


@given(profiles(3), profiles(2), st.integers(0, 99))
def test_linear_rule_for_any_profiles(incoming: Profile, outgoing: Profile, seed: int) -> None:
    """W'A = BW: the defining identity, for unequal and interleaved blocks; and RE as well as CE hold."""
    generator = torch.Generator().manual_seed(seed)
    with seeded(generator):
        base = nn.Linear(3, 2).double()
    clone = clone_module(base, incoming=incoming, copies=None, keep_output=True)
    assert clone.output.is_trivial
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    assert distance(clone.module(x[:, incoming.index]), base(x)) < 1e-12
    from lop_theory.module_cloning.profile import Wire
    from lop_theory.module_cloning.rules import LinearRule

    wide = LinearRule().clone(base, Wire(incoming), incoming, outgoing, True)
    assert distance(wide(x[:, incoming.index]), base(x)[:, outgoing.index]) < 1e-12
    assert max(equitable_spreads(wide.weight[..., None], incoming, outgoing)) < 1e-12


def slow_spreads(weight: Tensor, incoming: Profile, outgoing: Profile) -> tuple[float, float, float]:
    """RE, CE and BC by loops over blocks."""
    row, column, constant = [0.0], [0.0], [0.0]
    for tap in weight.unbind(-1):
        for i in range(incoming.base_width):
            for j in range(outgoing.base_width):
                block = [
                    [float(tap[v, u]) for u in range(incoming.width) if incoming.of[u] == i]
                    for v in range(outgoing.width)
                    if outgoing.of[v] == j
                ]
                sums_in = [sum(line) for line in block]
                sums_out = [sum(line) for line in zip(*block)]
                entries = [w for line in block for w in line]
                for spreads, values in ((row, sums_out), (column, sums_in), (constant, entries)):
                    spreads.append(max(values) - min(values))
    return max(row), max(column), max(constant)


@given(profiles(2), profiles(2), st.integers(0, 99))
def test_residuals_agree_with_loops(incoming: Profile, outgoing: Profile, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-4, 5, (outgoing.width, incoming.width, 2), generator=generator).double()
    assert equitable_spreads(weight, incoming, outgoing) == slow_spreads(weight, incoming, outgoing)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d])
def test_convolutions(kind: type[nn.Module], groups: int, generator: torch.Generator) -> None:
    with seeded(generator):
        base = nn.Sequential(kind(4, 8, 3, stride=2, padding=1, groups=groups), nn.ReLU(), kind(8, 4, 2, groups=groups))
    incoming = Profile.repeat(4, 3)
    clone = clone_module(base.double(), 3, incoming=incoming, keep_output=False)
    shape = (2, 4, 7) if kind is nn.Conv1d else (2, 4, 7, 7)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    assert distance(clone.module(x[:, incoming.index]), base(x)[:, clone.output.index]) < 1e-12
    assert certify(clone.module, clone.partition, incoming=incoming).cloned


def test_dense_kernel_is_the_grouped_convolution(generator: torch.Generator) -> None:
    with seeded(generator):
        conv = nn.Conv1d(4, 6, 2, groups=2, bias=False).double()
    dense, _ = dense_kernel(conv)
    x = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    assert distance(nn.functional.conv1d(x, dense), conv(x)) < 1e-13


def test_grouped_convolution_needs_biregular_blocks() -> None:
    """One channel of each group in a block whose partner lies in one group only: sums agree, degrees do not."""
    conv = nn.Conv1d(4, 2, 1, groups=2, bias=False)
    nn.init.zeros_(conv.weight)
    partition = {"": Interface(Profile((0, 0, 0, 1)), Profile((0, 0)))}
    report = certify(conv, partition, incoming=Profile((0, 0, 0, 1)))
    assert report.worst == 0 and "not biregular" in report.violations[0]


@pytest.mark.parametrize("training", [True, False])
def test_norms_copy_their_statistics(training: bool, generator: torch.Generator) -> None:
    with seeded(generator):
        base = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.GroupNorm(2, 4),
            nn.PReLU(4),
            nn.LayerNorm([4, 6, 6]),
            nn.Flatten(),
        )
        base = nn.Sequential(*base, nn.Linear(4 * 36, 4), nn.LayerNorm(4), nn.RMSNorm(4), nn.Linear(4, 2)).double()
    for p in base.parameters():
        p.data += torch.rand(p.shape, generator=generator, dtype=torch.float64)
    base[1].running_mean.copy_(torch.rand(4, generator=generator))
    base.train(training)
    clone = clone_module(base, 2)
    x = images(generator)
    assert distance(clone.module(x), base(x)) < 1e-12
    assert clone.module[1].num_features == 8 and certify(clone.module, clone.partition).cloned


def test_layernorm_over_unequal_blocks(generator: torch.Generator) -> None:
    with seeded(generator):
        base = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)).double()
    copies = {"0": [3, 2, 1]}
    with pytest.raises(NotTheBaseFunctionError, match="sizes \\[3, 2, 1\\]"):
        clone_module(base, copies=copies)
    clone = clone_module(base, copies=copies, exact=False)
    x = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    assert certify(clone.module, clone.partition).cloned
    assert worst_spread(clone, x, torch.zeros(4, dtype=torch.int64)) < 1e-14
    assert distance(clone.module(x), base(x)) > 1e-2


def test_groupnorm_with_a_split_block(generator: torch.Generator) -> None:
    """Two channels with three clones in GN(3): groups (0,0), (0,1), (1,1) normalise clones differently."""
    norm = nn.GroupNorm(3, 6)
    partition = {"": Interface(Profile.repeat(2, 3), Profile.repeat(2, 3))}
    assert "split over groups" in certify(norm, partition, incoming=Profile.repeat(2, 3)).violations[0]
    x = torch.randn(4, 2, generator=generator)[:, [0, 0, 0, 1, 1, 1]]
    assert Profile.repeat(2, 3).spread(norm(x).T) > 0.1
    interleaved = Profile(
        (0, 1, 0, 1)
    )  # every group has one of each: clones stay equal, though not equal to GN(1) of …
    assert Profile.split_block(interleaved, 2) is None


def test_embedding_and_tokens(generator: torch.Generator) -> None:
    with seeded(generator):
        base = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2)).double()
    clone = clone_module(base, 4)
    words = torch.tensor([[0, 4, 2], [1, 1, 3]])
    assert distance(clone.module(words), base(words)) < 1e-13
    assert clone.module[0].weight.shape == (5, 12)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_tied_dropout_drops_what_the_base_drops(kind: type[nn.Module], generator: torch.Generator) -> None:
    with seeded(generator):
        base = nn.Sequential(nn.Conv2d(1, 3, 3), kind(0.5), nn.Flatten(), nn.Dropout(0.3), nn.Linear(108, 2)).double()
    clone = clone_module(base, 2)
    assert isinstance(clone.module[1], TiedDropout) and certify(clone.module, clone.partition).cloned
    x = images(generator)
    outputs = []
    for net in (base, clone.module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            outputs.append(net(x))
    assert distance(*outputs) < 1e-12
    clone.module[1] = kind(0.5)
    assert "masks are not tied" in certify(clone.module, clone.partition).violations[0]


def test_tied_dropout_in_attention(generator: torch.Generator) -> None:
    with seeded(generator):
        base = nn.Sequential(nn.Linear(2, 4), Attention(4, 2, dropout=0.4), nn.Linear(4, 1)).double()
    for mode in ("heads", "head_dim"):
        clone = clone_module(base, 2, attention=mode)
        assert certify(clone.module, clone.partition).cloned
        x = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
        seen = observe(clone.module, clone.partition, x, torch.sum)
        assert max(s.forward_spread + s.backward_spread for s in seen.values()) < 1e-12
    clone = clone_module(base, 2, attention="heads")
    clone.module[1].dropout = nn.Dropout(0.4)
    assert "not tied" in certify(clone.module, clone.partition).violations[0]


def test_clone_of_a_clone(generator: torch.Generator) -> None:
    base = small_vit(generator, dropout=0.1).double().eval()
    twice = clone_module(clone_module(base, 2, attention="heads").module, 2, attention="heads")
    x = images(generator)
    assert distance(twice.module(x), base(x)) < 1e-10


def test_the_base_is_not_changed_and_shares_nothing(generator: torch.Generator) -> None:
    base = small_resnet(generator).double()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    state = torch.random.get_rng_state()
    clone = clone_module(base, 1)
    assert torch.equal(state, torch.random.get_rng_state())
    for p in clone.module.parameters():
        p.data.zero_()
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())


# -- bad input -----------------------------------------------------------------------------------------------------------


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


SHARED = nn.Linear(2, 2)
BAD = {
    "custom": (nn.Sequential(nn.Linear(2, 2), Custom()), UnsupportedModuleError, "'1' is a Custom"),
    "softmax": (nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)), UnsupportedModuleError, "Softmax"),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(1, 2, 3)), UnsupportedModuleError, "ConvTranspose2d"),
    "shared": (nn.Sequential(SHARED, nn.ReLU(), SHARED), UnsupportedModuleError, "one object"),
    "odd": (nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1)), ShapeMismatchError, "takes 4 features"),
    "flat": (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(10, 1)), ShapeMismatchError, "multiple of 3"),
    "no flatten": (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Linear(3, 1)), ShapeMismatchError, "put a Flatten"),
    "no width": (nn.Sequential(nn.ReLU()), UnsupportedModuleError, "nothing to clone"),
    "odd sum": (
        nn.Sequential(nn.Linear(2, 3), Residual(nn.Linear(3, 4)), nn.Linear(4, 1)),
        ShapeMismatchError,
        "gives 3 features and is added to 4",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_named_errors(case: str) -> None:
    module, error, text = BAD[case]
    with pytest.raises(error, match=text):
        clone_module(module, 2)


def test_bad_arguments() -> None:
    base = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for arguments, text in (
        ({"factor": 0}, "whole number"),
        ({"attention": "both"}, "attention 'both'"),
        ({"copies": {"1": [1]}}, "choose no width"),
        ({"copies": {"0": [1, 2]}}, "2 copies for the 3 features"),
        ({"copies": {"0": [1, 0, 2]}}, "whole numbers"),
        ({"copies": {"2": [2]}}, "do not match"),
        ({"copies": {"0": Profile((0, 1))}}, "2 copies for the 3 features"),
    ):
        with pytest.raises(ValueError, match=text):
            clone_module(base, **arguments)
    with pytest.raises(TypeError, match="nn.Module"):
        clone_module("net")
    with pytest.raises(ValueError, match="not onto"):
        Profile((0, 2))
    with pytest.raises(ValueError, match="no profiles for"):
        certify(base, {})


def test_branches_of_a_residual_need_one_profile() -> None:
    base = nn.Sequential(nn.Linear(2, 3), Residual(nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), nn.Tanh()))
    with pytest.raises(ProfileMismatchError, match="do not match what follows"):
        clone_module(base, copies={"0": [2, 1, 1], "1.body.1": [1, 2, 1]}, keep_output=False)
    clone = clone_module(base, 2, keep_output=False)
    wrong = dict(clone.partition)
    wrong["1.body.1"] = Interface(wrong["1.body.1"].incoming, Profile((0, 1, 2, 0, 1, 2)))
    assert any("branches" in line for line in certify(clone.module, wrong).violations)
    unequal = nn.Sequential(nn.Linear(2, 3), Residual(nn.Linear(3, 4), nn.Linear(3, 3)), nn.Linear(3, 1))
    with pytest.raises(ShapeMismatchError, match="gives 4 features and is added to 3"):
        clone_module(unequal, 2)


def test_mismatched_profiles_are_reported() -> None:
    clone = clone_module(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), 2)
    wrong = {**clone.partition, "2": Interface(Profile((0, 1, 0, 1)), Profile((0,)))}
    assert any("do not match" in line for line in certify(clone.module, wrong).violations)


# -- the metric ----------------------------------------------------------------------------------------------------------


def test_cloning_r2_of_perfect_clones_is_one(generator: torch.Generator) -> None:
    clone = clone_module(small_cnn(generator).double(), 2)
    x, y = images(generator), torch.tensor([0, 1, 2, 1])
    seen = observe(clone.module, clone.partition, x, lambda out: nn.functional.cross_entropy(out, y))
    for form in ("variance", "std"):
        values = [
            (clone_r2(s.outputs, s.profile, form), clone_r2(s.errors, s.profile, form))
            for path, s in seen.items()
            if not s.profile.is_trivial
        ]
        forward, backward = zip(*values)
        assert min(forward + backward) > 1 - 1e-9
        layers = len(forward)
        assert aggregate_clone_r2(forward, backward) == pytest.approx(1)
        assert published_clone_r2(forward, backward) == pytest.approx((2 * layers + 0.5) / (2 * layers + 1))


def test_cloning_r2_by_loops(generator: torch.Generator) -> None:
    profile = Profile((0, 1, 1, 0, 2, 2, 2))
    h = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    within = total = 0.0
    ratios = []
    for row in h.tolist():
        mean = sum(row) / 7
        total += sum((v - mean) ** 2 for v in row)
        spread = math.sqrt(sum((v - mean) ** 2 for v in row) / 6)
        for b in range(3):
            values = [v for v, j in zip(row, profile.of) if j == b]
            centre = sum(values) / len(values)
            squares = sum((v - centre) ** 2 for v in values)
            within += squares
            ratios.append(math.sqrt(squares / (len(values) - 1)) / (spread + 1e-10))
    assert clone_r2(h, profile) == pytest.approx(1 - within / total)
    assert clone_r2(h, profile, "std") == pytest.approx(1 - sum(ratios) / len(ratios))


def test_cloning_r2_undefined() -> None:
    ones = torch.ones(2, 4)
    with pytest.raises(UndefinedMetricError, match="0/0"):
        clone_r2(ones, Profile((0, 0, 1, 1)))
    assert clone_r2(ones, Profile((0, 0, 1, 1)), "std") == 1.0
    with pytest.raises(UndefinedMetricError, match="no block has two members"):
        clone_r2(ones, Profile.identity(4))
    with pytest.raises(UndefinedMetricError, match="one member only"):
        clone_r2(ones, Profile((0, 0, 0, 1)), "std")
    with pytest.raises(ValueError, match="one column per feature"):
        clone_r2(ones, Profile((0, 0)))
    with pytest.raises(ValueError, match="one of each"):
        published_clone_r2([1.0], [])
