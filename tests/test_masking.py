import numpy as np
import pytest
import torch

from ssl_vision.errors import ConfigError
from ssl_vision.masking import (
    MultiBlockConfig,
    block_masks,
    block_sizes,
    collator_masks,
    crop_masks,
    multi_block_masks,
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

PAPER = MultiBlockConfig()


@pytest.mark.parametrize("iteration", range(6))
def test_the_collators_masks_are_the_authors_number_for_number(golden, iteration):
    values = golden("ijepa")
    masks = collator_masks(
        4,
        size_seed=iteration,
        generator=torch.Generator().manual_seed(100 + iteration),
        grid=(14, 14),
        config=PAPER,
    )
    np.testing.assert_array_equal(masks.context, values[f"mask_enc_it{iteration}"])
    np.testing.assert_array_equal(masks.targets.swapaxes(0, 1), values[f"mask_pred_it{iteration}"])


def test_sizes_of_blocks_are_the_authors(golden):
    for seed, expected in enumerate(golden("ijepa")["block_sizes_seed0_199"]):
        generator = torch.Generator().manual_seed(seed)
        first, second = (torch.rand(1, generator=generator).item() for _ in range(2))
        sizes = block_sizes(PAPER, grid=(14, 14), draws=(first, second))
        assert (*sizes.target, *sizes.context) == tuple(expected)


def _side(values):
    return int(values.max() - values.min()) + 1


@pytest.mark.parametrize("side", [3, 7, 14, 16])
def test_targets_are_rectangles_of_one_size_and_contexts_lie_beside_them(side):
    for key in range(5):
        masks = multi_block_masks(torch.arange(60), key=key, grid=(side, side), config=PAPER)
        assert masks.targets.shape[:2] == (60, 4)
        sizes = set()
        for block in masks.targets.flatten(0, 1):
            rows, columns = block // side, block % side
            assert len(block) == len(set(block.tolist())) == _side(rows) * _side(columns)
            assert (block.diff() > 0).all()  # raster order
            assert _side(rows) < side
            sizes.add((_side(rows), _side(columns)))
        assert len(sizes) == 1
        assert (masks.context.diff(dim=1) > 0).all()
        shared = [
            len(set(context.tolist()) & set(blocks.flatten().tolist()))
            for context, blocks in zip(masks.context, masks.targets, strict=True)
        ]
        if side >= 14:  # smaller grids have no room for all of it
            assert sum(shared) == 0


def test_a_samples_blocks_depend_on_neither_its_batch_nor_its_place():
    whole = multi_block_masks(torch.arange(40), key=3, grid=(8, 8), config=PAPER)
    some = torch.tensor([31, 4, 17])
    part = multi_block_masks(some, key=3, grid=(8, 8), config=PAPER)
    assert torch.equal(part.context, whole.context[some])
    assert torch.equal(part.targets, whole.targets[some])
    other = multi_block_masks(torch.arange(40), key=4, grid=(8, 8), config=PAPER)
    assert other.targets.shape != whole.targets.shape or not torch.equal(
        other.targets, whole.targets
    )
    rows = {tuple(row.tolist()) for row in whole.targets.flatten(1)}
    assert len(rows) > 35


def test_both_ways_to_draw_hide_the_same_share_of_patches_and_reach_the_same_places():
    """Same distributions, by the mean and by how often a patch is a target."""
    seen = {"keyed": [], "collator": []}
    often = {name: torch.zeros(196) for name in seen}
    for it in range(60):
        drawn = {
            "keyed": multi_block_masks(torch.arange(64), key=it, grid=(14, 14), config=PAPER),
            "collator": collator_masks(
                64,
                size_seed=it,
                generator=torch.Generator().manual_seed(it),
                grid=(14, 14),
                config=PAPER,
            ),
        }
        for name, masks in drawn.items():
            seen[name].append(masks.context.shape[1])
            often[name] += torch.bincount(masks.targets.flatten(), minlength=196) / 64 / 60
    assert np.mean(seen["keyed"]) == pytest.approx(np.mean(seen["collator"]), rel=0.05)
    assert (often["keyed"] - often["collator"]).abs().max() < 0.12
    for share in often.values():
        assert share.view(14, 14)[-1].max() == 0  # a quirk of theirs, kept
        assert share.view(14, 14)[:, -1].max() == 0


def test_which_patches_are_left_out_of_a_context_is_no_matter_of_rows():
    masks = multi_block_masks(torch.arange(400), key=0, grid=(14, 14), config=PAPER)
    rows = torch.bincount((masks.context // 14).flatten(), minlength=14).float()
    cut = collator_masks(
        400, size_seed=0, generator=torch.Generator().manual_seed(0), grid=(14, 14), config=PAPER
    )
    cut_rows = torch.bincount((cut.context // 14).flatten(), minlength=14).float()
    assert cut_rows[8:].sum() / cut_rows.sum() < 0.2  # the collator sees little below
    assert rows[8:].sum() / rows.sum() > 0.35


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_targets": 0}, "num_targets=0"),
        ({"min_keep": -1}, "min_keep=-1"),
        ({"target_scale": (0.2, 0.1)}, "target_scale"),
        ({"context_scale": (0.5, 1.1)}, "context_scale"),
        ({"target_aspect": (0.0, 1.0)}, "target_aspect"),
    ],
)
def test_blocks_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        MultiBlockConfig(**change)
