"""Whether a grid has room for I-JEPA's blocks: how often a context must show its targets."""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.masking.multi_block import (
    TRIES_CONTEXT,
    MultiBlockConfig,
    block_sizes,
    num_corners,
    place,
)
from ssl_vision.randomness import keyed_uniform

RARE = 0.05  # share of the images that may see targets; with more the recipe is another one
_NUM_DRAWS = 256  # of an update's two random numbers, evenly over 0 to 1
_NUM_IMAGES = 64  # imagined for each size of the targets


class BlockRoom(NamedTuple):
    """What a grid has room for.

    Attributes:
        share: Of the images whose context shows target patches, as `min_keep` asks for more
            patches than are left beside the targets; an estimate, and 0 where it cannot happen.
        most_left: Patches the context keeps beside the targets at best, at the worst sizes drawn.
        min_keep: Largest one, up to the setting, whose share is at most `RARE`; None without one.
    """

    share: float
    most_left: int
    min_keep: int | None


class _Sizes(NamedTuple):
    """Sizes that are drawn together.

    Attributes:
        prob: How often.
        most_left: Patches the context keeps beside all targets at best.
        left: The same for imagined images and all places of the context, (images, places).
    """

    prob: float
    most_left: int
    left: Tensor


def block_room(
    config: MultiBlockConfig, *, grid: tuple[int, int], is_collated: bool = False
) -> BlockRoom:
    """How often contexts will give up sparing a target.

    Args:
        config: Number, areas and shapes of the blocks.
        grid: Rows and columns of patches, 2 or more each.
        is_collated: Whether `collator_masks` draws, else `multi_block_masks`.
    """
    drawn = _all_sizes(config, grid, is_collated)
    most_left = min(sizes.most_left for sizes in drawn)
    share = _share(drawn, config.min_keep, is_collated)
    min_keep: int | None = config.min_keep
    if share > RARE:
        rare = (
            k
            for k in range(min(config.min_keep, most_left) - 1, -1, -1)
            if _share(drawn, k, is_collated) <= RARE
        )
        min_keep = next(rare, None)
    return BlockRoom(share, most_left, min_keep)


def _share(drawn: list[_Sizes], min_keep: int, is_collated: bool) -> float:
    """Of the images none of whose tries leaves enough."""
    share = 0.0
    for sizes in drawn:
        # The collator's targets stay where they are from try to try; ours are drawn anew.
        enough = (sizes.left > min_keep).double()
        prob = enough.mean(dim=1) if is_collated else enough.mean()
        share += sizes.prob * float(((1 - prob) ** TRIES_CONTEXT).mean())
    return share


def _all_sizes(config: MultiBlockConfig, grid: tuple[int, int], is_collated: bool) -> list[_Sizes]:
    draws = [(i + 0.5) / _NUM_DRAWS for i in range(_NUM_DRAWS)]
    sizes = [block_sizes(config, grid=grid, draws=(draw, draw)) for draw in draws]
    contexts = {
        context: (num / _NUM_DRAWS, _everywhere(context, grid, is_collated))
        for context, num in Counter(each.context for each in sizes).items()
    }
    drawn = []
    for target, num in Counter(each.target for each in sizes).items():
        hidden = _imagined(target, config.num_targets, grid, is_collated)
        for context, (prob, places) in contexts.items():
            left = context[0] * context[1] - hidden @ places.T
            most_left = _most_left(target, context, grid, is_collated)
            drawn.append(_Sizes(prob * num / _NUM_DRAWS, most_left, left))
    return drawn


def _most_left(
    target: tuple[int, int], context: tuple[int, int], grid: tuple[int, int], is_collated: bool
) -> int:
    """Patches of the context with all targets in one place, the corner across from it."""
    rows, columns = (
        max(0, a + b - (a + num_corners(a, side, is_collated=is_collated) - 1))
        for a, b, side in zip(context, target, grid, strict=True)
    )
    return context[0] * context[1] - rows * columns


def _imagined(size: tuple[int, int], num: int, grid: tuple[int, int], is_collated: bool) -> Tensor:
    """Patches that the targets of imagined images hide, 0 or 1, (images, N)."""
    draws = keyed_uniform(0, torch.arange(_NUM_IMAGES), 2 * num).unflatten(1, (-1, 2))
    return place(draws, size, grid, is_collated=is_collated).any(dim=1).float()


def _everywhere(size: tuple[int, int], grid: tuple[int, int], is_collated: bool) -> Tensor:
    """A block at each of its places, 0 or 1, (places, N)."""
    centres = [
        (torch.arange(num) + 0.5) / num
        for num in (
            num_corners(a, b, is_collated=is_collated) for a, b in zip(size, grid, strict=True)
        )
    ]
    return place(torch.cartesian_prod(*centres), size, grid, is_collated=is_collated).float()
