"""The narrow transformer that predicts hidden blocks in the space of features (I-JEPA)."""

import torch
from torch import Tensor, nn

from ssl_vision.nn.decoder import layer_norm, vit_blocks
from ssl_vision.nn.patches import sincos_2d, take_blocks


class BlockPredictor(nn.Module):
    """Tokens of the patches seen -> tokens of blocks of hidden patches, each block by itself.

    Args:
        dim: Width of the encoder, D.
        grid: Patches per side.
        width: Own width, divisible by 4 and by the heads.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, as a multiple of the width.
    """

    pos_embed: Tensor

    def __init__(
        self,
        dim: int,
        *,
        grid: int,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sincos_2d(width, grid=grid)[None])
        self.blocks = vit_blocks(width, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        self.norm = layer_norm(width)
        self.proj = nn.Linear(width, dim)
        init_as_ijepa(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, *, context: Tensor, targets: Tensor) -> Tensor:
        """Predict all blocks.

        Args:
            tokens: Of the patches seen, (B, n, D).
            context: Which patches these are, int64, (B, n).
            targets: Patches of each block, int64, (B, M, m).

        Returns:
            (M * B, m, D), the first block of all images first.
        """
        seen = self.embed(tokens)
        positions = self.pos_embed.to(seen.dtype).expand(len(seen), -1, -1)
        seen = seen + take_blocks(positions, context[:, None])
        asked = self.mask_token.to(seen.dtype) + take_blocks(positions, targets)
        seen = seen.repeat(targets.shape[1], 1, 1)  # as often as there are blocks
        predicted = self.norm(self.blocks(torch.cat([seen, asked], dim=1)))
        return self.proj(predicted[:, -asked.shape[1] :])


def init_as_ijepa(module: nn.Module) -> None:
    """I-JEPA's initialisation: N(0, 0.02) cut at 2, zero biases, norms at 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
