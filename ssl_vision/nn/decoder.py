"""The light transformer that reconstructs hidden patches (MAE, section 3)."""

from functools import partial
from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_vision.nn.patches import sincos_2d


class MaskedDecoder(nn.Module):
    """Visible tokens -> predicted values of every patch.

    Args:
        in_dim: Width of the encoder, D.
        out_dim: Values of a patch, P.
        grid: Patches per side.
        num_prefix: Class tokens and registers in front; they take part and are then dropped.
        width: Width of the decoder, divisible by 4 and by the heads.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, as a multiple of the width.
    """

    pos_embed: Tensor

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        grid: int,
        num_prefix: int = 1,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.num_prefix = num_prefix
        self.embed = nn.Linear(in_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = sincos_2d(width, grid=grid, num_prefix=num_prefix)
        self.register_buffer("pos_embed", positions[None])
        self.blocks = vit_blocks(width, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        self.norm = layer_norm(width)
        self.pred = nn.Linear(width, out_dim)
        init_as_mae(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, *, restore: Tensor) -> Tensor:
        """Predict all patches.

        Args:
            tokens: Prefix tokens, then kept patches in the encoder's order,
                (B, num_prefix + n, D).
            restore: `MaskSplit.restore`, (B, N).

        Returns:
            (B, N, P).
        """
        tokens = self.embed(tokens)
        prefix, visible = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        num, num_visible, width = visible.shape
        hidden = self.mask_token.to(visible.dtype).expand(
            num, restore.shape[1] - num_visible, width
        )
        patches = torch.cat([visible, hidden], dim=1)
        patches = patches.gather(1, restore[:, :, None].expand(-1, -1, width))
        tokens = torch.cat([prefix, patches], dim=1) + self.pos_embed
        return self.pred(self.norm(self.blocks(tokens)))[:, self.num_prefix :]


def init_as_mae(module: nn.Module) -> None:
    """MAE's initialisation: xavier for linear layers, zero biases, norms at 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


layer_norm = cast(type[nn.LayerNorm], partial(nn.LayerNorm, eps=1e-6))  # as ViTs of timm have it


def vit_blocks(width: int, *, depth: int, num_heads: int, mlp_ratio: float) -> nn.Sequential:
    """Pre-norm transformer blocks as in the encoder, tokens (B, N, width) -> the same."""
    return nn.Sequential(
        *(
            Block(width, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=layer_norm)
            for _ in range(depth)
        )
    )
