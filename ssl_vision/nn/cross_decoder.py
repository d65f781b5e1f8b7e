"""The decoder that completes one view while it reads another (CroCo, section 3)."""

from typing import NamedTuple

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from ssl_vision.nn.decoder import init_as_mae, layer_norm
from ssl_vision.nn.patches import sincos_2d
from ssl_vision.nn.rotary import CrossAttention, RotaryAttention, grid_positions, rotation_of


class CrossDecoded(NamedTuple):
    """What the decoder makes of a view.

    Attributes:
        tokens: After the last norm, (B, N, W).
        layers: After each block, not normed, (B, N, W) each.
    """

    tokens: Tensor
    layers: tuple[Tensor, ...]


class CrossBlock(nn.Module):
    """Self-attention, attention to the other view, MLP; each behind a norm.

    The memory is normed in every block by a norm of that block, and never changed.
    """

    def __init__(self, width: int, *, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm_y = (layer_norm(width) for _ in range(4))
        self.attn = RotaryAttention(width, num_heads, qkv_bias=True)
        self.cross_attn = CrossAttention(width, num_heads=num_heads)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor, memory: Tensor, rotation: Tensor | None) -> Tensor:
        """Tokens (B, N, W) and memory (B, N, W) of two views of one size -> tokens."""
        tokens = tokens + self.attn(self.norm1(tokens), rotation=rotation)
        asked = self.cross_attn(self.norm2(tokens), self.norm_y(memory), rotation, rotation)
        tokens = tokens + asked
        return tokens + self.mlp(self.norm3(tokens))


class CrossDecoder(nn.Module):
    """Seen tokens of a view and all of another -> predicted values of every patch of the first.

    Args:
        in_dim: Width of the encoder, D.
        out_dim: Values of a patch, P.
        grid: Patches per side.
        width: Width of the decoder W, divisible by 4 and by the heads.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, as a multiple of the width.
        rotary_base: Of rotary positions; None adds fixed sine-cosine ones instead.
    """

    pos_embed: Tensor | None

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        grid: int,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        rotary_base: float | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.head_dim, self.rotary_base = grid, width // num_heads, rotary_base
        self.embed = nn.Linear(in_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        added = sincos_2d(width, grid=grid)[None] if rotary_base is None else None
        self.register_buffer("pos_embed", added, persistent=False)
        self.blocks = nn.ModuleList(
            CrossBlock(width, num_heads=num_heads, mlp_ratio=mlp_ratio) for _ in range(depth)
        )
        self.norm = layer_norm(width)
        self.pred = nn.Linear(width, out_dim)
        init_as_mae(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tensor, memory: Tensor, *, mask: Tensor) -> Tensor:
        """Predict all patches of the first view.

        Args:
            seen: Its tokens that were seen, in raster order, (B, n, D).
            memory: All tokens of the second view, (B, N, D).
            mask: Which patches of the first were hidden, bool, (B, N).

        Returns:
            (B, N, P).
        """
        return self.pred(self.decode(seen, memory, mask=mask).tokens)

    def decode(self, seen: Tensor, memory: Tensor, *, mask: Tensor | None = None) -> CrossDecoded:
        """Decoded tokens of the first view; as `forward`, without a mask all are seen."""
        tokens, memory = self.embed(seen), self.embed(memory)
        if mask is not None:
            tokens = _filled(tokens, self.mask_token.to(tokens.dtype), mask)
        if self.pos_embed is not None:
            tokens, memory = tokens + self.pos_embed, memory + self.pos_embed
        rotation, layers = self._rotation(tokens.device), []
        for block in self.blocks:
            tokens = block(tokens, memory, rotation)
            layers.append(tokens)
        return CrossDecoded(self.norm(tokens), tuple(layers))

    def _rotation(self, device: torch.device) -> Tensor | None:
        if self.rotary_base is None:
            return None
        positions = grid_positions(self.grid, self.grid, device=device)
        return rotation_of(positions, head_dim=self.head_dim, base=self.rotary_base)


def _filled(seen: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
    """Seen tokens at their places, in raster order, the hidden one's at all others."""
    rank = ((~mask).cumsum(dim=1) - 1).clamp_min(0)  # of a seen patch among the seen ones
    placed = seen.gather(1, rank[:, :, None].expand(-1, -1, seen.shape[-1]))
    return torch.where(mask[:, :, None], hidden, placed)
