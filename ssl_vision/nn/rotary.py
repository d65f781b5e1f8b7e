"""Rotary positions of patches: queries and keys turned by where they lie.

Su, Lu, Pan, Murtadha, Wen, Liu 2021, arXiv 2104.09864, in two dimensions as CroCo v2 has it
(Weinzaepfel et al. 2022, arXiv 2211.10408): one half of a head's channels turns with the row, the
other with the column, so that attention depends on how far patches lie apart.
"""

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def grid_positions(rows: int, columns: int, *, device: torch.device | None = None) -> Tensor:
    """Row and column of each patch of a grid, int64, (rows * columns, 2), row by row."""
    grid = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    return torch.stack(grid, dim=-1).flatten(0, 1)


def rotation_of(positions: Tensor, *, head_dim: int, base: float) -> Tensor:
    """Cosines and sines by which the channels of a head turn.

    Channel pairs (i, i + q) of each half, q = head_dim / 4, turn by position * base^(-i / q).

    Args:
        positions: Row and column of each token, (N, 2) or (B, N, 2).
        head_dim: Channels of a head, divisible by 4.
        base: Of the frequencies.

    Returns:
        float32, (2, 1 or B, 1, N, head_dim), as `rotate` takes them.
    """
    quarter = head_dim // 4
    steps = torch.arange(quarter, dtype=torch.float32, device=positions.device)
    angles = positions.float()[..., None] * base ** (-steps / quarter)  # (..., N, 2, q)
    angles = torch.cat([angles, angles], dim=-1).flatten(-2)  # both of a pair turn alike
    if angles.ndim == 2:
        angles = angles[None]
    return torch.stack([angles.cos(), angles.sin()])[:, :, None]


def rotate(tokens: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys of heads, turned; (B, heads, N, d) -> the same shape and type."""
    cos, sin = rotation
    pairs = tokens.unflatten(-1, (2, 2, -1))  # half of the head, first and second of a pair, q
    turned = torch.stack([-pairs[..., 1, :], pairs[..., 0, :]], dim=-2).flatten(-3)
    return (tokens * cos + turned * sin).type_as(tokens)


class RotaryAttention(Attention):
    """timm's attention, its queries and keys turned; without a rotation it is timm's.

    Its parameters bear timm's names.
    """

    def forward(  # type: ignore[override]  # timm's takes a mask in this place
        self, x: Tensor, rotation: Tensor | None = None
    ) -> Tensor:
        """Attend, (B, N, D) -> the same; `rotation` is of `rotation_of`."""
        if rotation is None:
            attended: Tensor = super().forward(x)
            return attended
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation)
        dropout = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class CrossAttention(nn.Module):
    """Tokens ask a memory: queries of the one, keys and values of the other."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projq, self.projk, self.projv, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        rotation: Tensor | None,
        memory_rotation: Tensor | None,
    ) -> Tensor:
        """What tokens (B, N, D) read from a memory (B, M, D), (B, N, D)."""
        q, k, v = (
            proj(each).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj, each in ((self.projq, tokens), (self.projk, memory), (self.projv, memory))
        )
        if rotation is not None and memory_rotation is not None:
            q, k = rotate(q, rotation), rotate(k, memory_rotation)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class RotaryBlock(Block):
    """timm's pre-norm block around a `RotaryAttention`."""

    attn: RotaryAttention

    def forward(  # type: ignore[override]  # timm's takes a mask in this place
        self, x: Tensor, rotation: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, N, D) -> the same."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), rotation=rotation)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
