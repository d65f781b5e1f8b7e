"""Images as patches and back, and fixed positions of patches."""

import torch
import torch.nn.functional as F
from torch import Tensor


def patchify(images: Tensor, *, patch_px: int) -> Tensor:
    """Images -> patches, (B, C, S, S) -> (B, N, P), P = patch_px^2 * C.

    Patches row by row; within a patch rows, then columns, then channels (channel fastest).
    """
    num, channels, height, width = images.shape
    rows, columns = height // patch_px, width // patch_px
    cut = images.reshape(num, channels, rows, patch_px, columns, patch_px)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(num, rows * columns, patch_px**2 * channels)


def unpatchify(patches: Tensor, *, patch_px: int) -> Tensor:
    """Patches of square images -> images, (B, N, P) -> (B, C, S, S)."""
    num, num_patches, values = patches.shape
    side, channels = round(num_patches**0.5), values // patch_px**2
    cut = patches.reshape(num, side, side, patch_px, patch_px, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(num, channels, side * patch_px, side * patch_px)


def take_blocks(tokens: Tensor, blocks: Tensor) -> Tensor:
    """Tokens of blocks of patches, the first block of all images, then the second of all, ...

    Args:
        tokens: (B, N, D).
        blocks: Patches of each block, int64, (B, M, m).

    Returns:
        (M * B, m, D): row j * B + i is the j-th block of image i.
    """
    num, num_blocks, size = blocks.shape
    width = tokens.shape[-1]
    rows = blocks.reshape(num, num_blocks * size, 1).expand(-1, -1, width)
    taken = tokens.gather(1, rows).unflatten(1, (num_blocks, size))
    return taken.transpose(0, 1).flatten(0, 1)


def resample_tokens(tokens: Tensor, *, side: int) -> Tensor:
    """Tokens of a square grid on another one, bilinear, (B, N, D) -> (B, side^2, D)."""
    own = round(tokens.shape[1] ** 0.5)
    if own == side:
        return tokens
    grid = tokens.transpose(1, 2).unflatten(2, (own, own))
    grid = F.interpolate(grid, size=(side, side), mode="bilinear", antialias=True)
    return grid.flatten(2).transpose(1, 2)


def sincos_2d(dim: int, *, grid: int, num_prefix: int = 0) -> Tensor:
    """Sine-cosine positions of a square grid, as MAE's code computes them, float32.

    The first half of the channels encodes the column, the second the row; within a half all sines
    come before all cosines. Computed in float64.

    Args:
        dim: Channels D, divisible by 4.
        grid: Patches per side.
        num_prefix: Zero rows in front, for class tokens and registers.

    Returns:
        (num_prefix + grid^2, D).
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, got {dim}.")
    quarter = dim // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * omega  # (grid, D / 4)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, D / 2)
    columns = line[None, :, :].expand(grid, -1, -1)
    rows = line[:, None, :].expand(-1, grid, -1)
    table = torch.cat([columns, rows], dim=-1).reshape(grid * grid, dim)
    return torch.cat([table.new_zeros(num_prefix, dim), table]).float()


def dino_positions(positions: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Learned patch positions for another grid, as DINO's code resamples them.

    Bicubic by the scale factor (n + 0.1) / sqrt(N), without antialiasing: the sampling points
    differ slightly from a resize by size.

    Args:
        positions: Without prefix tokens, of a square grid, (1, N, D).
        grid: Rows and columns wanted.

    Returns:
        (1, rows * columns, D).
    """
    side = round(positions.shape[1] ** 0.5)
    square = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resampled = F.interpolate(
        square,
        scale_factor=((grid[0] + 0.1) / side, (grid[1] + 0.1) / side),
        mode="bicubic",
    )
    assert resampled.shape[-2:] == grid
    return resampled.flatten(2).transpose(1, 2)
