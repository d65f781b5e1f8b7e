"""Which patches a network does not see: random, paired, block and multi-block masks.

Masks are made from numbers given as arguments, so that they depend on (seed, step, sample) only:
pass `randomness.keyed_uniform` rows for noise, `randomness.derive_key` values for keys.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.randomness import derive_key, keyed_uniform


class MaskSplit(NamedTuple):
    """A split of N patches into kept and hidden ones, for B images.

    Attributes:
        keep: Indices of the kept patches in the order the encoder sees them, int64, (B, n).
        restore: Position of each patch in [kept, hidden], int64, (B, N): gathering
            [kept, hidden] by it restores the original order.
        mask: Whether a patch is hidden, bool, (B, N).
    """

    keep: Tensor
    restore: Tensor
    mask: Tensor


class PairedMasks(NamedTuple):
    """Two independent splits of the same patches (Point-CMAE).

    Attributes:
        first: Split of branch 1.
        second: Split of branch 2.
        both: Patches hidden from both branches, bool, (B, N).
    """

    first: MaskSplit
    second: MaskSplit
    both: Tensor


class MultiBlockMasks(NamedTuple):
    """Patches that are seen, and blocks of patches that are predicted from them (I-JEPA).

    Attributes:
        context: Patches seen, in raster order, int64, (B, n).
        targets: Patches of each block, in raster order, int64, (B, M, m).
    """

    context: Tensor
    targets: Tensor


class PatchMasks(NamedTuple):
    """Masked patches of n crops of N patches.

    Attributes:
        mask: Whether a patch is masked, bool, (n, N).
        rows: Positions of the masked patches in (n * N), int64, (M,).
        weight: 1 / (masked patches in the crop), (M,).
    """

    mask: Tensor
    rows: Tensor
    weight: Tensor


def num_kept(num_patches: int, *, mask_ratio: float) -> int:
    """Patches the encoder keeps: int(N * (1 - ratio)), rounded down as MAE's code does."""
    return int(num_patches * (1 - mask_ratio))


def random_mask(noise: Tensor, *, num_keep: int) -> MaskSplit:
    """Keep the patches of the smallest noise, in rising order of it (MAE, section 3).

    Args:
        noise: Numbers without ties, (B, N).
        num_keep: Patches to keep, n.
    """
    shuffle = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(shuffle, dim=1)
    return MaskSplit(keep=shuffle[:, :num_keep], restore=restore, mask=restore >= num_keep)


def raster_mask(noise: Tensor, *, num_masked: int) -> MaskSplit:
    """Hide some patches; those kept stay in raster order (CroCo).

    As in the authors' code patches are compared by the places that one sort gives: which are
    hidden is as random, but it is not those of the smallest noise.

    Args:
        noise: Numbers without ties, (B, N).
        num_masked: Patches to hide.
    """
    mask = torch.argsort(noise, dim=1, stable=True) < num_masked
    order = torch.argsort(mask.to(torch.uint8), dim=1, stable=True)
    keep = order[:, : noise.shape[1] - num_masked]
    return MaskSplit(keep=keep, restore=torch.argsort(order, dim=1), mask=mask)


def paired_masks(noise_1: Tensor, noise_2: Tensor, *, num_keep: int) -> PairedMasks:
    """Two random masks of the same patches, drawn independently.

    Args:
        noise_1: Numbers of branch 1, (B, N).
        noise_2: Numbers of branch 2, (B, N).
        num_keep: Patches each branch keeps.
    """
    first = random_mask(noise_1, num_keep=num_keep)
    second = random_mask(noise_2, num_keep=num_keep)
    return PairedMasks(first=first, second=second, both=first.mask & second.mask)


def spread_ratios(
    noise: Tensor, *, masked_fraction: float, ratio_range: tuple[float, float]
) -> Tensor:
    """Mask ratio of each image of a batch: 0 for some, spread over a range for the others.

    As DINOv2 and POA: exactly int(n * masked_fraction) images are masked, and the i-th of them
    draws its ratio from the i-th of as many equal parts of the range.

    Args:
        noise: Uniform numbers: column 0 orders the images, column 1 places the ratio, (n, 2).
        masked_fraction: Fraction of the images that is masked.
        ratio_range: Smallest and largest ratio.

    Returns:
        Ratios, (n,); 0 for images that are not masked.
    """
    num_masked = int(len(noise) * masked_fraction)
    chosen = torch.argsort(noise[:, 0], stable=True)[:num_masked]
    low, high = ratio_range
    position = torch.arange(num_masked, device=noise.device) + noise[chosen, 1]
    ratios = torch.zeros(len(noise), device=noise.device)
    ratios[chosen] = low + (high - low) * position / max(num_masked, 1)
    return ratios


def block_masks(
    keys: Sequence[int], ratios: Sequence[float], *, grid: tuple[int, int], max_block: float = 0.5
) -> Tensor:
    """Masks made of rectangles of random area and shape (BEiT, as DINOv2 and POA use them).

    Args:
        keys: Key of each image's draws.
        ratios: Fraction of the patches to hide in each image, an upper bound; 0 hides none.
        grid: Rows and columns of patches.
        max_block: Largest single block, as a fraction of the grid.

    Returns:
        Whether a patch is hidden, bool, (n, rows * columns), on the CPU.
    """
    rows, columns = grid
    masks = torch.zeros(len(keys), rows, columns, dtype=torch.bool)
    for mask, key, ratio in zip(masks, keys, ratios, strict=True):
        num_masked = int(rows * columns * ratio)
        largest = max_block * rows * columns
        _fill_blocks(mask, num_masked=num_masked, largest=largest, rng=random.Random(key))
    return masks.flatten(1)


def crop_masks(
    ids: Tensor,
    *,
    key: int,
    num_crops: int,
    grid: int,
    masked_fraction: float,
    ratio_range: tuple[float, float],
) -> PatchMasks:
    """Block masks on some of the crops of a batch (iBOT, as DINOv2 and POA draw them).

    Args:
        ids: Sample ids, int64, (B,); the masks come back on their device.
        key: Key of this batch's draws.
        num_crops: Crops per sample; rows are crop by crop.
        grid: Patches per side.
        masked_fraction: Fraction of the crops that is masked; 0 masks none.
        ratio_range: Smallest and largest fraction of a masked crop's patches.
    """
    on_cpu = ids.cpu()
    noise = torch.cat([keyed_uniform(derive_key(key, i), on_cpu, 2) for i in range(num_crops)])
    ratios = spread_ratios(noise, masked_fraction=masked_fraction, ratio_range=ratio_range)
    keys = [derive_key(key, crop, i) for crop in range(num_crops) for i in on_cpu.tolist()]
    mask = block_masks(keys, ratios.tolist(), grid=(grid, grid))
    # Found here, on the CPU: on the device, the number of masked patches would be waited for.
    rows, weight = mask.flatten().nonzero().squeeze(1), patch_weights(mask)
    return PatchMasks(*(part.to(ids.device, non_blocking=True) for part in (mask, rows, weight)))


def patch_weights(mask: Tensor) -> Tensor:
    """1 / (masked patches of the crop) for every masked patch, row-major.

    Args:
        mask: Whether a patch is masked, bool, (n, N).

    Returns:
        (M,) for M masked patches.
    """
    counts = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (1.0 / counts).expand_as(mask)[mask]


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
    which of the others' patches are left out is drawn, not always the last rows.

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


_TRIES_CONTEXT = 20  # before a context may overlap one more target
_NUM_IMAGINED = 64  # images whose poorest context says how many patches are seen


def _collated_block(
    size: tuple[int, int], grid: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """A block on the grid, bool; the last row and column a corner could take are never drawn."""
    top, left = (
        int(torch.randint(0, most - side, (1,), generator=generator))
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
        for _ in range(_TRIES_CONTEXT):
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
    for attempt in range(1, _TRIES_CONTEXT * (num_targets + 1)):
        poor = (context.sum(dim=1) < num_keep).nonzero().squeeze(1)
        if not len(poor):
            break
        context[poor], targets[poor] = _draw_blocks(
            ids[poor],
            derive_key(key, attempt),
            grid,
            sizes,
            num_targets,
            num_spared=num_targets - attempt // _TRIES_CONTEXT,
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
    targets = _place(draws[:, :-1], sizes.target, grid)
    context = _place(draws[:, -1:], sizes.context, grid).squeeze(1)
    spared = targets[:, :num_spared].any(dim=1)
    rows = targets.nonzero()[:, 2].unflatten(0, (len(ids), num_targets, -1))
    return context & ~spared, rows


def _place(draws: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Blocks of a size with their corners at uniform numbers, (..., 2) -> bool (..., N)."""
    inside = []
    for axis, (side, most) in enumerate(zip(size, grid, strict=True)):
        corner = (draws[..., axis, None] * (most - side)).long()  # as theirs, never the last
        line = torch.arange(most)
        inside.append((line >= corner) & (line < corner + side))
    return (inside[0][..., :, None] & inside[1][..., None, :]).flatten(-2)


_MIN_BLOCK = 4  # patches
_MIN_ASPECT = 0.3  # height / width, and its inverse
_TRIES = 10  # rectangles drawn before a mask is left as it is


def _fill_blocks(mask: Tensor, *, num_masked: int, largest: float, rng: random.Random) -> None:
    """Add blocks to one mask, (rows, columns), until it hides `num_masked` or no block fits."""
    count = 0
    while count < num_masked:
        added = _add_block(mask, limit=min(num_masked - count, largest), rng=rng)
        if not added:
            return
        count += added


def _add_block(mask: Tensor, *, limit: float, rng: random.Random) -> int:
    """Hide one rectangle that adds from 1 to `limit` patches; how many it added, 0 if none fits."""
    rows, columns = mask.shape
    for _ in range(_TRIES):
        area = rng.uniform(_MIN_BLOCK, limit)
        aspect = math.exp(rng.uniform(math.log(_MIN_ASPECT), -math.log(_MIN_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)
        block = mask[top : top + height, left : left + width]
        num_new = height * width - int(block.sum())
        if 0 < num_new <= limit:
            block.fill_(True)
            return num_new
    return 0
