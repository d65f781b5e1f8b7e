import numpy as np
import pytest
import torch

from ssl_vision.errors import ConfigError
from ssl_vision.masking import (
    MultiBlockConfig,
    block_sizes,
    collator_masks,
    multi_block_masks,
)

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


@pytest.mark.parametrize(("name", "reach"), [("keyed", 1), ("collator", 0)])
def test_a_patch_is_a_target_as_often_as_places_of_a_block_hold_it(name, reach):
    """Ours reach all places; the authors' never the last row and column, a quirk that is kept."""
    often, expected = torch.zeros(14, 14), torch.zeros(14, 14)
    for it in range(60):
        if name == "keyed":
            masks = multi_block_masks(torch.arange(64), key=it, grid=(14, 14), config=PAPER)
        else:
            generator = torch.Generator().manual_seed(it)
            masks = collator_masks(
                64, size_seed=it, generator=generator, grid=(14, 14), config=PAPER
            )
        counts = torch.bincount(masks.targets.flatten(), minlength=196).view(14, 14)
        often += counts / masks.targets.shape[:2].numel() / 60
        block = masks.targets[0, 0]
        height, width = _side(block // 14), _side(block % 14)
        places = [(r, c) for r in range(14 - height + reach) for c in range(14 - width + reach)]
        for row, column in places:
            expected[row : row + height, column : column + width] += 1 / len(places) / 60
    assert (often - expected).abs().max() < 0.02
    assert bool(often.min() > 0) == (name == "keyed")
    if name == "collator":
        assert often[-1].max() == often[:, -1].max() == 0


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
