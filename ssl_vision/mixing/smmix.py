"""SMMix: paste where one image is looked at most over where its partner is looked at least.

Chen et al. 2022, arXiv 2212.12977, section 3.2; authors' code github.com/ChenMnZ/SMMix. The
partner of image i is image B-1-i (the batch reversed), as in timm's Mixup. Regions are squares of
whole patches, one side per batch, so that every output token belongs to exactly one image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Regions(NamedTuple):
    """Top-left patches of the two squares of each image, (row, column), int64, (B, 2).

    Attributes:
        target: Square of image i that is covered: least attention received.
        source: Square of its partner that covers it: most attention received.
    """

    target: Tensor
    source: Tensor


class MixedImages(NamedTuple):
    """Images after pasting, and whose each patch is.

    Attributes:
        images: (B, C, S, S).
        is_source: Patches that came from the partner, bool, (B, N), row-major.
        target_area: Share of patches that stayed the image's own (lambda of the paper).
    """

    images: Tensor
    is_source: Tensor
    target_area: float


def region_sides(grid_side: int, *, min_side: float, max_side: float) -> range:
    """Sides, in patches, a region may have: all whole numbers of the range, both ends included.

    Args:
        grid_side: Patches per image side.
        min_side: Smallest side as a fraction of the grid's (0.25 in the authors' code).
        max_side: Largest side as a fraction of the grid's (0.75 in the authors' code).
    """
    smallest = max(1, int(min_side * grid_side))
    return range(smallest, max(smallest, int(max_side * grid_side)) + 1)


def draw_region_side(
    grid_side: int, *, min_side: float, max_side: float, generator: torch.Generator
) -> int:
    """One side of `region_sides`, all equally likely."""
    sides = region_sides(grid_side, min_side=min_side, max_side=max_side)
    return sides[int(torch.randint(len(sides), (), generator=generator))]


def max_min_regions(attention: Tensor, *, side: int) -> Regions:
    """Squares of least attention in each image and of most attention in its partner.

    Args:
        attention: Attention received by each patch, row-major, (B, N) with N a square number.
        side: Side of the square in patches.

    Returns:
        The first square in row-major order where several have the same score.
    """
    grid_side = square_side(attention.shape[1])
    grid = attention.detach().reshape(-1, 1, grid_side, grid_side).float()
    # The mean over a square orders squares as their sum does.
    scores = F.avg_pool2d(grid, kernel_size=side, stride=1)  # (B, 1, V, V), V places per axis
    num_places = scores.shape[-1]
    scores = scores.flatten(1)
    partner_scores = scores.flip(0)

    def corners(flat: Tensor) -> Tensor:
        return torch.stack([flat // num_places, flat % num_places], dim=1)

    return Regions(corners(_first(-scores)), corners(_first(partner_scores)))


def paste_regions(images: Tensor, regions: Regions, *, side: int, grid_side: int) -> MixedImages:
    """Cover each image's target square with its partner's source square.

    Args:
        images: (B, C, S, S); left as they are.
        regions: From `max_min_regions`.
        side: Side of the squares in patches.
        grid_side: Patches per image side; must divide S.
    """
    size_px = images.shape[-1]
    assert size_px % grid_side == 0, (size_px, grid_side)
    patch_px = size_px // grid_side
    rows, columns = _square(regions.target * patch_px, side * patch_px)
    source_rows, source_columns = _square(regions.source * patch_px, side * patch_px)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    mixed = images.clone()
    # Indexing by three (B, side, side) arrays around the channel axis gives (B, side, side, C).
    mixed[batch, :, rows, columns] = images.flip(0)[batch, :, source_rows, source_columns]
    is_source = torch.zeros(
        len(images), grid_side, grid_side, dtype=torch.bool, device=images.device
    )
    patch_rows, patch_columns = _square(regions.target, side)
    is_source[batch, patch_rows, patch_columns] = True
    return MixedImages(mixed, is_source.flatten(1), 1.0 - side**2 / grid_side**2)


def square_side(num_patches: int) -> int:
    """Side of a square grid of that many patches.

    Raises:
        ValueError: The number is not a square.
    """
    side = round(num_patches**0.5)
    if side * side != num_patches:
        raise ValueError(
            f"SMMix needs a square grid of patches, got {num_patches} patches; use square images "
            "whose side is a multiple of the network's patch size."
        )
    return side


def _first(scores: Tensor) -> Tensor:
    """Index of each row's largest value, the first where several are equal, (B, V) -> (B,)."""
    # `argmax` leaves open which of several equal values it names.
    is_best = scores == scores.amax(dim=1, keepdim=True)
    index = torch.arange(scores.shape[1], device=scores.device)
    return torch.where(is_best, index, scores.shape[1]).amin(dim=1)


def _square(corner: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of squares at (B, 2) corners, broadcastable to (B, side, side)."""
    offset = torch.arange(side, device=corner.device)
    return corner[:, 0, None, None] + offset[:, None], corner[:, 1, None, None] + offset
