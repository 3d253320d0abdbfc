"""Bit flipping the slow way: a stream of Python integers, and one learner at a time in torch.nn and torch.optim, batch 1.

Written from the papers and from what the public code does (Dohare et al. 2306.13812; 2510.00304), not from the kernels.
Only the random numbers must be the same, so SplitMix64 is written down again, as the sequential generator that it is. The
learners are also what ``benchmarks/bench_online.py`` calls the field's recipe.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASK = 2**64 - 1
TARGET, SLOW, FAST, INIT, RESET, PROBE = range(6)
GAINS = {"relu": ("relu", None), "leaky-relu": ("leaky_relu", 0.01), "tanh": ("tanh", None), "elu": ("relu", None),
         "swish": ("relu", None), "sigmoid": ("sigmoid", None), "linear": ("linear", None)}  # fmt: skip
MODULES = {"relu": nn.ReLU, "leaky-relu": nn.LeakyReLU, "tanh": nn.Tanh, "elu": nn.ELU, "swish": nn.SiLU,
           "sigmoid": nn.Sigmoid, "linear": nn.Identity}  # fmt: skip


class SplitMix64:
    """The generator of Steele, Lea & Flood (2014): a counter that is stepped by a constant and hashed."""

    def __init__(self, state: int) -> None:
        self.state = state

    def word(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def high(self, bits: int) -> int:
        return self.word() >> (64 - bits)

    def unit(self) -> float:
        return self.high(53) / 2**53


def source(seed: int, purpose: int) -> SplitMix64:
    """The numbers for one purpose start at number ``purpose`` of the generator started at the seed."""
    generator = SplitMix64(seed)
    for _ in range(purpose + 1):
        start = generator.word()
    return SplitMix64(start)


def bits_of(word: int, count: int) -> list[float]:
    return [float((word >> j) & 1) for j in range(count)]


def target_net(seed: int, bits: int, units: int, beta: float, sigma: int):
    """w [U, m] and b [U], v [U] and c of ±1, θ [U], as the papers print them (S counts negative input weights)."""
    numbers = source(seed, TARGET)
    w = 2 * torch.tensor([bits_of(numbers.high(bits), bits) for _ in range(units)]) - 1
    b, v = (2 * torch.tensor([float(numbers.high(1)) for _ in range(units)]) - 1 for _ in range(2))
    c = 2.0 * numbers.high(1) - 1
    theta = beta * (bits + 1) - ((w < 0).sum(1) + sigma * b / 2)
    return w, b, v, c, theta


def examples(config, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """Inputs [N, I] and targets [N, 1] of the first ``steps`` examples (float32; both are small whole numbers)."""
    sigma = -1 if config.stream == "bit-flipping" else 1
    w, b, v, c, theta = target_net(seed, config.bits, config.target_units, config.beta, sigma)
    flips, fast = source(seed, SLOW), source(seed, FAST)
    slow = bits_of(flips.high(config.slow), config.slow)
    rows = []
    for t in range(steps):
        if t > 0 and t % config.flip_period == 0:
            if config.flip == "all":
                slow = bits_of(flips.high(config.slow), config.slow)
            else:
                j = flips.word() % config.slow
                slow[j] = 1 - slow[j]
        rows.append(slow + bits_of(fast.high(config.bits - config.slow), config.bits - config.slow))
    x = torch.tensor(rows)
    y = ((x @ w.T + b > theta).float() @ v + c).unsqueeze(1)
    if config.stream == "bit-flipping":
        x = torch.cat([x, torch.ones(steps, 1)], dim=1)
    return x, y


def gain_of(activation: str) -> float:
    return nn.init.calculate_gain(*GAINS[activation])


class Net(nn.Module):
    """One hidden layer, Kaiming-uniform weights, zero biases; "linear" has no hidden layer."""

    def __init__(self, config, seed: int) -> None:
        super().__init__()
        inputs = config.bits + (config.stream == "bit-flipping")
        numbers, dtype = source(seed, INIT), getattr(torch, config.dtype)
        self.linear = config.activation == "linear"
        self.fc1 = nn.Linear(inputs, 1 if self.linear else config.hidden)
        self.act = MODULES[config.activation]()
        self.fc2 = nn.Identity() if self.linear else nn.Linear(config.hidden, 1)
        for layer, gain in ((self.fc1, gain_of(config.activation)), (self.fc2, 1.0)):
            if isinstance(layer, nn.Linear):
                bound = gain * math.sqrt(3 / layer.in_features)
                drawn = [bound * (2 * numbers.unit() - 1) for _ in range(layer.weight.numel())]
                self.to(dtype)
                layer.weight.data = torch.tensor(drawn, dtype=dtype).reshape(layer.weight.shape)
                layer.bias.data.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.fc1(x))
        return self.fc2(h), h


class ElementwiseAdam:
    """Adam with its own step counter for each weight, so that the history of a replaced unit can be erased."""

    def __init__(self, params, lr: float, weight_decay: float) -> None:
        self.params, self.lr, self.weight_decay = list(params), lr, weight_decay
        self.state = [[torch.zeros_like(p, dtype=torch.float64) for _ in range(3)] for p in self.params]

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for p, (m, v, t) in zip(self.params, self.state):
            grad = p.grad + self.weight_decay * p
            t += 1
            m += 0.1 * (grad - m)
            v += 0.001 * (grad**2 - v)
            p -= self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    def erase(self, k: int) -> None:
        """Parameters are W_1, b_1, w_2, b_2."""
        for part in zip(*self.state):
            part[0][k, :] = 0
            part[1][k] = 0
            part[2][:, k] = 0


class Backprop:
    """The field's recipe: one example, one backward pass, one optimiser step."""

    def __init__(self, net: Net, config) -> None:
        self.net, self.config = net, config
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        self.opt = kinds[config.optimizer](
            net.parameters(), lr=config.step_size, weight_decay=config.weight_decay or 0.0
        )

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        self.opt.zero_grad()
        output, self.features = self.net(x)
        loss = F.mse_loss(output, y)
        loss.backward()
        self.opt.step()
        return loss.detach()


class ContinualBackprop(Backprop):
    """Continual backprop by its algorithm box, and by the published bit-flipping script (``published=True``)."""

    def __init__(self, net: Net, config, seed: int, published: bool = False, start: int = 0) -> None:
        super().__init__(net, config)
        if config.optimizer == "adam" and not published:
            self.opt = ElementwiseAdam(net.parameters(), config.step_size, config.weight_decay or 0.0)
        self.published, self.start, self.t = published, start, 0
        self.numbers = source(seed, RESET)
        zeros = torch.zeros(config.hidden, dtype=net.fc1.weight.dtype)
        self.age, self.mean, self.util = zeros.clone(), zeros.clone(), zeros.clone()
        self.due, self.replaced = 0.0, 0

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        loss = super().learn(x, y)
        if self.t >= self.start:
            with torch.no_grad():
                self.test_units(self.net(x)[1][0] if self.published else self.features[0])
        self.t += 1
        return loss

    def test_units(self, h: Tensor) -> None:
        eta, config = self.config.decay, self.config
        self.age += 1
        self.mean = eta * self.mean + (1 - eta) * h
        expected = self.mean / (1 - eta**self.age)
        outgoing, incoming = self.net.fc2.weight.abs().sum(0), self.net.fc1.weight.abs().sum(1)
        self.util = eta * self.util + (1 - eta) * (h - expected).abs() * outgoing / (incoming + 1e-10)
        eligible = (self.age > config.maturity).nonzero().flatten()
        if len(eligible) == 0:
            return
        if self.published:
            count = max(1, int(config.hidden * config.replacement_rate))
        else:
            self.due += config.replacement_rate * len(eligible)
            count = math.floor(self.due)
            self.due -= count
        if count == 0:
            return
        ranked = (self.util / (1 - eta**self.age))[eligible]
        for k in eligible[torch.sort(ranked, stable=True).indices[:count]].tolist():
            self.replace(k, expected[k])

    def replace(self, k: int, expected: Tensor) -> None:
        fc1, fc2 = self.net.fc1, self.net.fc2
        if self.published:  # the drawn weights go to a copy; zeros_ hits all biases
            fc1.bias.zero_()
        else:
            bound = gain_of(self.config.activation) * math.sqrt(3 / fc1.in_features)
            drawn = [bound * (2 * self.numbers.unit() - 1) for _ in range(fc1.in_features)]
            fc1.weight[k] = torch.tensor(drawn, dtype=fc1.weight.dtype)
            fc1.bias[k] = 0
            if isinstance(self.opt, ElementwiseAdam):
                self.opt.erase(k)
        fc2.bias += fc2.weight[:, k] * expected
        fc2.weight[:, k] = 0
        self.age[k] = self.mean[k] = self.util[k] = 0
        self.replaced += 1


def learner(config, seed: int) -> Backprop:
    net = Net(config, seed)
    if not config.replaces:
        return Backprop(net, config)
    published = config.algorithm == "cbp-published-bitflip"
    asked = math.floor(config.switch * config.steps) + 1 if published else math.ceil(config.switch * config.steps)
    return ContinualBackprop(net, config, seed, published, asked)
