"""The networks of official repositories, rebuilt from their layout: names, shapes, equations.

Written from the description of the layout, with nothing of timm or of this package, so that a
converter is compared with something derived separately.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_px, stride=patch_px)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def weights_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, width = tokens.shape
        per_head = width // self.heads
        q, k, v = self.qkv(tokens).split(width, dim=2)
        q, k, v = (
            x.reshape(batch, length, self.heads, per_head).transpose(1, 2) for x in (q, k, v)
        )
        return (q @ k.transpose(2, 3) / math.sqrt(per_head)).softmax(dim=3), v

    def forward(self, tokens: Tensor) -> Tensor:
        weights, values = self.weights_and_values(tokens)
        return self.proj((weights @ values).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class OfficialViT(nn.Module):
    """ViT under the names DINO, MAE and DeiT share."""

    def __init__(
        self, *, width: int = 192, depth: int = 5, heads: int = 3, patch_px: int = 8, side: int = 32
    ) -> None:
        super().__init__()
        num_patches = (side // patch_px) ** 2
        self.patch_px = patch_px
        self.patch_embed = PatchEmbed(width, patch_px)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def dino_positions(self, side: int) -> Tensor:
        """DINO's `interpolate_pos_encoding` for a square image."""
        old, new = math.isqrt(self.pos_embed.shape[1] - 1), side // self.patch_px
        if old == new:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (old, old)).movedim(3, 1)
        factor = (new + 0.1) / math.sqrt(old * old)
        grid = nn.functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def hidden(self, images: Tensor) -> list[Tensor]:
        """Tokens after every block, before the last norm."""
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = tokens + self.dino_positions(images.shape[-1])
        layers = []
        for block in self.blocks:
            tokens = block(tokens)
            layers.append(tokens)
        return layers

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens after the last norm, class token first."""
        return self.norm(self.hidden(images)[-1])


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and buffer random and non-zero, so that none can go missing unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        if name.endswith("running_var") or tensor.ndim == 1:
            tensor.abs_().add_(0.5)
    return network.eval()


@pytest.fixture
def official_vit() -> Callable[..., Any]:
    """`official_vit(width=..., depth=...)` -> an OfficialViT of random weights."""

    def build(**sizes: int) -> nn.Module:
        return randomise(OfficialViT(**sizes))

    return build


@pytest.fixture
def randomised() -> Callable[..., nn.Module]:
    """The function `randomise`."""
    return randomise


@pytest.fixture
def difference() -> Callable[[Tensor, Tensor], float]:
    """Largest difference relative to the largest expected value."""

    def measure(found: Tensor, expected: Tensor) -> float:
        assert found.shape == expected.shape
        return float((found - expected).abs().max() / expected.abs().max())

    return measure
