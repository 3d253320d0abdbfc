r"""Small image networks as trees of ``nn.Module``: a CNN, a ResNet and a ViT, and the parts that torch lacks.

Every forward pass is told by the tree: ``nn.Sequential`` chains, :class:`Residual` adds, and each other module maps
features to features. Nothing happens between modules, so a rule for each kind of module is a rule for the network
(:mod:`lop_theory.modules`). Features live on dim 1 of images [B, C, H, W] and on the last dim of vectors [B, D] and
tokens [B, N, D].

The architectures follow *Barriers for Learning in an Evolving World* (arXiv 2510.00304), App. B, made small: a CNN with
pooling and one hidden linear layer, basic residual blocks, a pre-norm ViT with a class token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NORMS = ("none", "batch", "layer")


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """torch's own initialisers draw from a seed taken from ``generator``; the global state is left as it was.

    >>> with seeded(torch.Generator().manual_seed(0)):
    ...     a = nn.Linear(2, 1).weight
    >>> with seeded(torch.Generator().manual_seed(0)):
    ...     torch.equal(a, nn.Linear(2, 1).weight)
    True
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# -- parts -----------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """shortcut(x) + body(x); the shortcut is the identity unless given."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.body(x)
        return out


class Attention(nn.Module):
    r"""Multi-head self-attention on tokens [B, N, D] → [B, N, D]:

        o_h = softmax(q_h k_hᵀ / √head_dim) v_h,     output = W_o (o_1, …, o_heads) + b_o.

    ``dropout`` acts on the attention maps [B, heads, N, N].
    """

    def __init__(self, dim: int, heads: int, head_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if head_dim is None and dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}; choose such a dim, or give head_dim")
        self.heads, self.head_dim = heads, dim // heads if head_dim is None else head_dim
        inner = self.heads * self.head_dim
        self.q, self.k, self.v = (nn.Linear(dim, inner) for _ in range(3))
        self.out = nn.Linear(inner, dim)
        self.dropout: nn.Module = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            f(x).reshape(batch, tokens, self.heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = self.dropout((q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)).softmax(dim=-1))
        output: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
        return output


class ToTokens(nn.Module):
    """[B, C, H, W] → [B, H·W, C]: every position of an image becomes a token."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class ClassToken(nn.Module):
    """[B, N, D] → [B, N + 1, D]: a learned token in front."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.weight.expand(x.shape[0], 1, -1), x], dim=1)


class PositionalEmbedding(nn.Module):
    """[B, N, D] → [B, N, D]: adds a learned vector to each token."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(tokens, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class TakeToken(nn.Module):
    """[B, N, D] → [B, D]: one token (the class token by default)."""

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]


class MeanTokens(nn.Module):
    """[B, N, D] → [B, D]: the mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


# -- networks --------------------------------------------------------------------------------------------------------


def _image_norm(norm: str, channels: int) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(channels),
        "layer": lambda: nn.GroupNorm(1, channels),
    }
    if norm not in makers:
        raise ValueError(f"norm {norm!r} is not known; use one of {', '.join(NORMS)}")
    return makers[norm]()


def small_cnn(
    generator: torch.Generator,
    channels: Sequence[int] = (4, 6),
    hidden: int = 8,
    classes: int = 3,
    image: int = 8,
    inputs: int = 1,
    norm: str = "batch",
    dropout: float = 0.0,
) -> nn.Sequential:
    """conv 3×3 – norm – ReLU – max pool 2 for each number of channels, then flatten – linear – ReLU – linear.

    Images are [B, inputs, image, image]; each pooling halves the side. Raises ``ValueError`` if the side vanishes.

    >>> net = small_cnn(torch.Generator().manual_seed(0))
    >>> net(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """
    side = image >> len(channels)
    if side < 1:
        raise ValueError(f"image {image} is too small for {len(channels)} poolings; use at least {2 ** len(channels)}")
    with seeded(generator):
        layers: list[nn.Module] = []
        width = inputs
        for c in channels:
            layers += [nn.Conv2d(width, c, 3, padding=1), _image_norm(norm, c), nn.ReLU(), nn.MaxPool2d(2)]
            width = c
        layers += [nn.Flatten(), nn.Linear(width * side * side, hidden), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(hidden, classes))


def residual_block(inputs: int, channels: int, stride: int = 1, norm: str = "batch") -> nn.Sequential:
    """Basic block: ReLU(shortcut(x) + norm(conv(ReLU(norm(conv(x)))))), with a 1×1 shortcut where the shape changes."""
    body = nn.Sequential(
        nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=norm == "none"),
        _image_norm(norm, channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"),
        _image_norm(norm, channels),
    )
    same = stride == 1 and inputs == channels
    shortcut = None if same else nn.Sequential(nn.Conv2d(inputs, channels, 1, stride), _image_norm(norm, channels))
    return nn.Sequential(Residual(body, shortcut), nn.ReLU())


def small_resnet(
    generator: torch.Generator,
    channels: Sequence[int] = (4, 6),
    blocks: int = 1,
    classes: int = 3,
    inputs: int = 1,
    norm: str = "batch",
) -> nn.Sequential:
    """Stem conv, then ``blocks`` residual blocks for each number of channels (stride 2 between), mean pool, linear.

    >>> net = small_resnet(torch.Generator().manual_seed(0))
    >>> net(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """
    with seeded(generator):
        width = channels[0]
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), _image_norm(norm, width), nn.ReLU()]
        for stage, c in enumerate(channels):
            for block in range(blocks):
                layers.append(residual_block(width, c, 2 if stage and not block else 1, norm))
                width = c
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def small_vit(
    generator: torch.Generator,
    dim: int = 8,
    depth: int = 2,
    heads: int = 2,
    classes: int = 3,
    image: int = 8,
    patch: int = 4,
    inputs: int = 1,
    expansion: int = 2,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Patches – class token – positions – ``depth`` pre-norm blocks (attention, MLP with GELU) – norm – class token – linear.

    >>> net = small_vit(torch.Generator().manual_seed(0))
    >>> net(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """
    if image % patch:
        raise ValueError(f"image {image} is not a multiple of patch {patch}; choose such an image")
    with seeded(generator):
        layers: list[nn.Module] = [nn.Conv2d(inputs, dim, patch, patch), ToTokens(), ClassToken(dim)]
        layers += [PositionalEmbedding((image // patch) ** 2 + 1, dim), nn.Dropout(dropout)]
        for _ in range(depth):
            attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads), nn.Dropout(dropout))
            hidden = expansion * dim
            mlp = nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
            )
            layers += [Residual(attention), Residual(mlp)]
        return nn.Sequential(*layers, nn.LayerNorm(dim), TakeToken(), nn.Linear(dim, classes))
