"""From patches that have read a second view to a value at every pixel: flow, stereo."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssl_vision.nn.patches import unpatchify


class BinocularHead(nn.Module):
    """One linear map of several blocks' patches to their pixels; it begins at a constant.

    Args:
        widths: Of the patches of each block.
        patch_px: Side of a patch.
        constant: What it says before training, of each channel.
        scale: By what its outputs are multiplied, of each channel: the spread of the targets.
    """

    def __init__(
        self, widths: Sequence[int], *, patch_px: int, constant: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.read = nn.Linear(sum(widths), patch_px**2 * len(constant))
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)
        self.register_buffer("constant", constant.view(1, -1, 1, 1))
        self.register_buffer("scale", scale.view(1, -1, 1, 1))

    constant: Tensor
    scale: Tensor

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """Patches of each block, (B, N, W_i) -> values at the pixels, (B, C, S, S)."""
        normed = [norm(each) for norm, each in zip(self.norms, blocks, strict=True)]
        values = unpatchify(self.read(torch.cat(normed, dim=2)), patch_px=self.patch_px)
        return self.constant + self.scale * values
