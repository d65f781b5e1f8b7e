import numpy as np
import pytest
import torch

from ssl_vision.masking import (
    block_masks,
    crop_masks,
    num_kept,
    paired_masks,
    random_mask,
    spread_ratios,
)
from ssl_vision.randomness import keyed_uniform


@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.6])
def test_random_mask_equals_maes(golden, ratio):
    values = golden("mae")
    noise = torch.tensor(values["mask_noise"])
    split = random_mask(noise, num_keep=num_kept(noise.shape[1], mask_ratio=ratio))
    tokens = torch.tensor(values["mask_tokens_in"])
    kept = tokens.gather(1, split.keep[:, :, None].expand(-1, -1, tokens.shape[2]))
    prefix = f"mask_ratio{ratio}_"
    np.testing.assert_array_equal(kept, values[prefix + "kept_tokens"])
    np.testing.assert_array_equal(split.mask, values[prefix + "mask"])
    np.testing.assert_array_equal(split.restore, values[prefix + "ids_restore"])


def test_restore_puts_kept_and_hidden_patches_back():
    noise = keyed_uniform(1, torch.arange(3), 10)
    split = random_mask(noise, num_keep=4)
    patches = torch.arange(10).expand(3, 10)
    kept = patches.gather(1, split.keep)
    hidden = torch.full((3, 6), -1)
    restored = torch.cat([kept, hidden], dim=1).gather(1, split.restore)
    assert torch.equal(restored, torch.where(split.mask, -1, patches))


def test_a_samples_mask_does_not_depend_on_its_batch():
    whole = random_mask(keyed_uniform(5, torch.arange(8), 16), num_keep=4)
    part = random_mask(keyed_uniform(5, torch.tensor([6, 2]), 16), num_keep=4)
    assert torch.equal(part.mask, whole.mask[[6, 2]])


def test_paired_masks_are_drawn_apart_and_overlap_by_chance():
    ids = torch.arange(500)
    pair = paired_masks(keyed_uniform(1, ids, 64), keyed_uniform(2, ids, 64), num_keep=26)
    assert (pair.first.mask.sum(1) == 38).all()
    assert (pair.second.mask.sum(1) == 38).all()
    assert torch.equal(pair.both, pair.first.mask & pair.second.mask)
    # 64 * (38 / 64)^2 = 22.6 on average; at least 2 * 38 - 64 = 12.
    assert pair.both.sum(1).float().mean().item() == pytest.approx(22.56, abs=0.5)
    assert pair.both.sum(1).min() >= 12


def test_half_the_crops_are_masked_and_their_ratios_fill_the_range():
    noise = keyed_uniform(3, torch.arange(20), 2)
    ratios = spread_ratios(noise, masked_fraction=0.5, ratio_range=(0.1, 0.5))
    masked = ratios[ratios > 0].sort().values
    assert len(masked) == 10
    edges = torch.linspace(0.1, 0.5, 11)
    assert (masked >= edges[:-1] - 1e-6).all()
    assert (masked <= edges[1:] + 1e-6).all()


@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (4, 6)])
def test_block_masks_hide_up_to_their_ratio_in_blocks(grid):
    ratios = [0.0, 0.1, 0.3, 0.5]
    masks = block_masks(range(40), ratios * 10, grid=grid)
    limits = torch.tensor([int(grid[0] * grid[1] * r) for r in ratios] * 10)
    counts = masks.sum(1)
    assert masks.shape == (40, grid[0] * grid[1])
    assert (counts <= limits).all()
    assert (counts[limits == 0] == 0).all()
    assert counts.sum() > 0.8 * limits.sum()
    # Blocks: a masked patch has masked neighbours far more often than patches drawn one by one.
    square = masks.view(-1, *grid)
    pairs = (square[:, 1:] & square[:, :-1]).sum() / square[:, 1:].sum()
    assert pairs > 1.5 * masks[limits > 0].float().mean()


def test_block_masks_depend_on_their_keys_alone():
    masks = block_masks([1, 2, 3], [0.4] * 3, grid=(14, 14))
    again = block_masks([3, 1], [0.4] * 2, grid=(14, 14))
    assert torch.equal(again, masks[[2, 0]])
    assert not torch.equal(masks[0], masks[1])


def test_crop_masks_list_their_patches_and_weigh_each_crop_alike():
    masks = crop_masks(
        torch.tensor([7, 3, 9, 4]),
        key=1,
        num_crops=2,
        grid=6,
        masked_fraction=0.5,
        ratio_range=(0.2, 0.6),
    )
    assert masks.mask.shape == (8, 36)
    assert (masks.mask.any(dim=1)).sum() == 4
    assert torch.equal(masks.mask.flatten().nonzero().squeeze(1), masks.rows)
    totals = torch.zeros(8).index_add(0, masks.rows // 36, masks.weight)
    torch.testing.assert_close(totals, masks.mask.any(dim=1).float())


def test_no_crop_is_masked_at_fraction_zero():
    masks = crop_masks(
        torch.arange(3), key=1, num_crops=2, grid=6, masked_fraction=0.0, ratio_range=(0.2, 0.6)
    )
    assert not masks.mask.any()
    assert len(masks.rows) == len(masks.weight) == 0


# Multi-block masks (I-JEPA) -------------------------------------------------------------------
