"""Random, paired and block masks of patches."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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
