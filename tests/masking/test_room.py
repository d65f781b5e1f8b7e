"""Room for blocks: what is left at best by brute force, shares by counting drawn masks."""

from itertools import product

import pytest
import torch

from ssl_vision.masking import (
    RARE,
    MultiBlockConfig,
    block_room,
    block_sizes,
    collator_masks,
    multi_block_masks,
)  # fmt: skip


def _most_left(target, context, side, reach):
    def block(size, corner):
        rows, columns = (range(c, c + s) for c, s in zip(corner, size, strict=True))
        return set(product(rows, columns))

    def places(size):
        return product(*(range(side - s + reach) for s in size))

    return max(
        len(block(context, a) - block(target, b))
        for a in places(context) for b in places(target)
    )  # fmt: skip


@pytest.mark.parametrize("is_collated", [False, True])
@pytest.mark.parametrize("side", [2, 3, 4, 5, 7])
def test_what_is_left_at_best_is_that_of_all_places(side, is_collated):
    config = MultiBlockConfig(target_scale=(0.15, 0.5))
    draws = [(i + 0.5) / 256 for i in range(256)]
    sizes = [block_sizes(config, grid=(side, side), draws=(d, d)) for d in draws]
    pairs = set(product({s.target for s in sizes}, {s.context for s in sizes}))
    expected = min(_most_left(t, c, side, int(not is_collated)) for t, c in pairs)
    assert block_room(config, grid=(side, side), is_collated=is_collated).most_left == expected


def _share_seen(config, side, is_collated):
    seen = []
    for key in range(12):
        if is_collated:
            generator = torch.Generator().manual_seed(key)
            masks = collator_masks(
                64, size_seed=key, generator=generator, grid=(side, side), config=config
            )
        else:
            masks = multi_block_masks(torch.arange(64), key=key, grid=(side, side), config=config)
        context = torch.zeros(64, side**2, dtype=torch.bool).scatter_(1, masks.context, True)
        seen.append(context.gather(1, masks.targets.flatten(1)).any(dim=1).float().mean())
    return float(torch.stack(seen).mean())


@pytest.mark.parametrize("is_collated", [False, True])
@pytest.mark.parametrize("side", [4, 5, 7])
def test_no_image_sees_its_targets_with_the_min_keep_that_is_proposed(side, is_collated):
    room = block_room(MultiBlockConfig(), grid=(side, side), is_collated=is_collated)
    assert (room.share > RARE) == (side < 7 or is_collated)
    config = MultiBlockConfig(min_keep=room.min_keep)
    assert block_room(config, grid=(side, side), is_collated=is_collated).share <= RARE
    assert _share_seen(config, side, is_collated) < 2 * RARE
    if room.share > RARE:
        assert _share_seen(MultiBlockConfig(), side, is_collated) > RARE


def test_every_patch_is_sometimes_a_target_and_sometimes_seen():
    for side in (4, 14):
        config = MultiBlockConfig(min_keep=3)
        drawn = [
            multi_block_masks(torch.arange(64), key=key, grid=(side, side), config=config)
            for key in range(8)
        ]
        for part in ("targets", "context"):
            values = torch.cat([getattr(each, part).flatten() for each in drawn])
            assert len(values.unique()) == side**2
