"""Blocks of patches to predict and a context to predict them from (I-JEPA)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.randomness import derive_key, keyed_uniform


class MultiBlockMasks(NamedTuple):
    """Patches that are seen, and blocks of patches that are predicted from them (I-JEPA).

    Attributes:
        context: Patches seen, in raster order, int64, (B, n).
        targets: Patches of each block, in raster order, int64, (B, M, m).
    """

    context: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class MultiBlockConfig:
    """Blocks of I-JEPA; defaults are the paper's, of all its ImageNet runs."""

    num_targets: int = 4  # M, blocks to predict
    target_scale: tuple[float, float] = (0.15, 0.2)  # fraction of the patches in one of them
    target_aspect: tuple[float, float] = (0.75, 1.5)  # height / width
    context_scale: tuple[float, float] = (0.85, 1.0)  # of the square block the targets are cut from
    min_keep: int = 10  # a context has more patches than this, or gives up sparing a target

    def __post_init__(self) -> None:
        check_bounds("method.blocks.num_targets", self.num_targets, least=1)
        check_bounds("method.blocks.min_keep", self.min_keep, least=0)
        for name in ("target_scale", "context_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ConfigError(
                    f"method.blocks.{name}={[low, high]} must rise from above 0 to at most 1."
                )
        if not 0 < self.target_aspect[0] <= self.target_aspect[1]:
            raise ConfigError(
                f"method.blocks.target_aspect={list(self.target_aspect)} must rise from above 0."
            )


class BlockSizes(NamedTuple):
    """Height and width, in patches, of all blocks of one update."""

    target: tuple[int, int]
    context: tuple[int, int]


def block_sizes(
    config: MultiBlockConfig, *, grid: tuple[int, int], draws: tuple[float, float]
) -> BlockSizes:
    """Sizes of an update's blocks, as I-JEPA's collator finds them.

    One number gives a block's area and its shape, so that large targets are tall ones. Blocks are
    smaller than the grid in both directions.

    Args:
        config: Ranges of areas and shapes.
        grid: Rows and columns of patches.
        draws: Uniform numbers of the targets and of the context.
    """

    def size(draw: float, scale: tuple[float, float], aspect: tuple[float, float]) -> list[int]:
        num = int(math.prod(grid) * (scale[0] + draw * (scale[1] - scale[0])))
        ratio = aspect[0] + draw * (aspect[1] - aspect[0])
        sides = round(math.sqrt(num * ratio)), round(math.sqrt(num / ratio))
        return [max(1, min(side, most - 1)) for side, most in zip(sides, grid, strict=True)]

    height, width = size(draws[0], config.target_scale, config.target_aspect)
    rows, columns = size(draws[1], config.context_scale, (1.0, 1.0))
    return BlockSizes((height, width), (rows, columns))


def multi_block_masks(
    ids: Tensor, *, key: int, grid: tuple[int, int], config: MultiBlockConfig
) -> MultiBlockMasks:
    """I-JEPA's blocks (section 3 of the paper), each image's from its own key.

    Sizes are the update's; where the blocks lie depends on (key, sample) alone. So the number of
    patches seen must, too: the collator cuts all images of a batch down to the poorest one's; here
    it is the poorest of 64 imagined images, the real ones that have fewer are drawn anew, and
    which of the others' patches are left out is drawn, not always the last rows. Blocks reach all
    patches, the collator's never the last row and column.

    Where `min_keep` cannot be met beside all targets, fewer are spared: see `room.block_room`.

    Args:
        ids: Sample ids, int64, (B,); the masks come back on their device.
        key: Key of this update's draws.
        grid: Rows and columns of patches, 2 or more each.
        config: Number, areas and shapes of the blocks.
    """
    first, second = keyed_uniform(derive_key(key, "sizes"), torch.zeros(1).long(), 2)[0].tolist()
    sizes = block_sizes(config, grid=grid, draws=(first, second))
    imagined, _ = _draw_blocks(
        torch.arange(_NUM_IMAGINED), derive_key(key, "imagined"), grid, sizes, config.num_targets
    )
    least = min(config.min_keep + 1, math.prod(sizes.context))
    num_keep = max(int(imagined.sum(dim=1).min()), least)
    on_cpu = ids.cpu()
    context, targets = _enough_context(on_cpu, key, grid, sizes, config.num_targets, num_keep)
    noise = keyed_uniform(derive_key(key, "left out"), on_cpu, math.prod(grid))
    kept = noise.masked_fill(~context, 2.0).argsort(dim=1, stable=True)[:, :num_keep]
    masks = MultiBlockMasks(kept.sort(dim=1).values, targets)
    return MultiBlockMasks(*(part.to(ids.device, non_blocking=True) for part in masks))


def collator_masks(
    num: int,
    *,
    size_seed: int,
    generator: torch.Generator,
    grid: tuple[int, int],
    config: MultiBlockConfig,
) -> MultiBlockMasks:
    """Masks of a batch as the authors' collator draws them, number for number.

    All images see as many patches as the one with the fewest: the first ones in raster order.

    Args:
        num: Images B.
        size_seed: The iteration, from 0, which their workers share: blocks have its sizes.
        generator: Where blocks lie; theirs is torch's global one.
        grid: Rows and columns of patches, 2 or more each.
        config: Number, areas and shapes of the blocks.
    """
    shared = torch.Generator().manual_seed(size_seed)
    first, second = (torch.rand(1, generator=shared).item() for _ in range(2))
    sizes = block_sizes(config, grid=grid, draws=(first, second))
    contexts, targets = [], []
    for _ in range(num):
        blocks = [_collated_block(sizes.target, grid, generator) for _ in range(config.num_targets)]
        contexts.append(_collated_context(blocks, sizes.context, grid, generator, config.min_keep))
        targets.append(torch.stack([block.flatten().nonzero().squeeze(1) for block in blocks]))
    shortest = min(map(len, contexts))
    return MultiBlockMasks(
        torch.stack([context[:shortest] for context in contexts]), torch.stack(targets)
    )


TRIES_CONTEXT = 20  # before a context may overlap one more target
_NUM_IMAGINED = 64  # images whose poorest context says how many patches are seen


def _collated_block(
    size: tuple[int, int], grid: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """A block on the grid, bool, never in its last row and column."""
    top, left = (
        int(torch.randint(num_corners(side, most, is_collated=True), (1,), generator=generator))
        for side, most in zip(size, grid, strict=True)
    )
    block = torch.zeros(grid, dtype=torch.bool)
    block[top : top + size[0], left : left + size[1]] = True
    return block


def _collated_context(
    targets: Sequence[Tensor],
    size: tuple[int, int],
    grid: tuple[int, int],
    generator: torch.Generator,
    min_keep: int,
) -> Tensor:
    """Patches of a block outside the targets; of fewer targets after every 20 tries."""
    for num_spared in range(len(targets), -1, -1):
        for _ in range(TRIES_CONTEXT):
            block = _collated_block(size, grid, generator)
            for target in targets[:num_spared]:
                block &= ~target
            kept = block.flatten().nonzero().squeeze(1)
            if len(kept) > min_keep:
                return kept
    return kept  # the grid itself is too small for min_keep


def _enough_context(
    ids: Tensor,
    key: int,
    grid: tuple[int, int],
    sizes: BlockSizes,
    num_targets: int,
    num_keep: int,
) -> tuple[Tensor, Tensor]:
    """Contexts of at least `num_keep` patches, bool (B, N), and targets, (B, M, m)."""
    context, targets = _draw_blocks(ids, derive_key(key, 0), grid, sizes, num_targets)
    for attempt in range(1, TRIES_CONTEXT * (num_targets + 1)):
        poor = (context.sum(dim=1) < num_keep).nonzero().squeeze(1)
        if not len(poor):
            break
        context[poor], targets[poor] = _draw_blocks(
            ids[poor],
            derive_key(key, attempt),
            grid,
            sizes,
            num_targets,
            num_spared=num_targets - attempt // TRIES_CONTEXT,
        )
    return context, targets


def _draw_blocks(
    ids: Tensor,
    key: int,
    grid: tuple[int, int],
    sizes: BlockSizes,
    num_targets: int,
    *,
    num_spared: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Contexts, bool (B, N), and targets, int64 (B, M, m), of samples drawn by one key."""
    draws = keyed_uniform(key, ids, 2 * (num_targets + 1)).unflatten(1, (-1, 2))
    targets = place(draws[:, :-1], sizes.target, grid)
    context = place(draws[:, -1:], sizes.context, grid).squeeze(1)
    spared = targets[:, :num_spared].any(dim=1)
    rows = targets.nonzero()[:, 2].unflatten(0, (len(ids), num_targets, -1))
    return context & ~spared, rows


def num_corners(side: int, most: int, *, is_collated: bool = False) -> int:
    """Places for a block's corner along an axis of `most` patches.

    The authors' upper bound is exclusive, so that their blocks never reach the last row or column.
    """
    return most - side if is_collated else most - side + 1


def place(
    draws: Tensor, size: tuple[int, int], grid: tuple[int, int], *, is_collated: bool = False
) -> Tensor:
    """Blocks of a size with their corners at uniform numbers, (..., 2) -> bool (..., N)."""
    inside = []
    for axis, (side, most) in enumerate(zip(size, grid, strict=True)):
        num = num_corners(side, most, is_collated=is_collated)
        corner = (draws[..., axis, None] * num).long()
        line = torch.arange(most)
        inside.append((line >= corner) & (line < corner + side))
    return (inside[0][..., :, None] & inside[1][..., None, :]).flatten(-2)
