"""Light decoder of masked point modelling: visible tokens and mask tokens -> points."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_vision.nn.point_blocks import PositionedBlocks, position_mlp


class DecodedPatches(NamedTuple):
    """What a decoder returns.

    Attributes:
        points: Predicted points of the hidden patches relative to their centres, (B, h, k, 3).
        tokens: Last block's tokens before the last norm, visible patches first, (B, G, D).
        normed: The same after the last norm, (B, G, D).
        order: Patch that each token stands for, int64, (B, G).
    """

    points: Tensor
    tokens: Tensor
    normed: Tensor
    order: Tensor


class PointDecoder(nn.Module):
    """Transformer decoder of Point-MAE (section 3.3) with its own mask token and positions.

    Linear layers start from Xavier's uniform distribution and zero biases, the mask token from
    N(0, 0.02); the position embedding and the head keep torch's own start, as in the authors' code.
    """

    def __init__(
        self, *, width: int, depth: int, num_heads: int, group_size: int, drop_path: float
    ) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = position_mlp(width)
        self.blocks = PositionedBlocks(
            width=width, depth=depth, num_heads=num_heads, mlp_ratio=4.0, drop_path=drop_path
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3 * group_size)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(
        self, visible_tokens: Tensor, centers: Tensor, *, visible: Tensor, hidden: Tensor
    ) -> DecodedPatches:
        """Reconstruct the hidden patches.

        Args:
            visible_tokens: Encoder's tokens in the order of `visible`, (B, v, D).
            centers: Of all patches, (B, G, 3).
            visible: Indices of the patches the encoder saw, int64, (B, v).
            hidden: Indices of the others, int64, (B, h).
        """
        order = torch.cat([visible, hidden], dim=1)  # (B, G); attention does not mind the order
        num_clouds, num_hidden = hidden.shape
        masks = self.mask_token.to(visible_tokens.dtype).expand(num_clouds, num_hidden, -1)
        positions = self.pos_embed(centers.gather(1, order[:, :, None].expand(-1, -1, 3)))
        decoded = self.blocks(torch.cat([visible_tokens, masks], dim=1), positions)
        normed = self.norm(decoded)
        points = self.head(normed[:, order.shape[1] - num_hidden :])
        return DecodedPatches(
            points=points.view(num_clouds, num_hidden, -1, 3),
            tokens=decoded,
            normed=normed,
            order=order,
        )


def in_patch_order(tokens: Tensor, order: Tensor) -> Tensor:
    """Undo a reordering: tokens (B, G, D) of the patches `order` (B, G) -> patch order."""
    return tokens.gather(1, order.argsort(dim=1)[:, :, None].expand_as(tokens))
