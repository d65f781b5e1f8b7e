"""Masks hide exactly what they should."""

from collections.abc import Callable

import numpy as np
import torch

from ssl_vision.points.masks import (
    block_mask,
    draw_seed_index,
    random_mask,
    split_indices,
    split_indices_at,
)
from ssl_vision.randomness import keyed_uniform


def test_random_masks_hide_the_exact_number_uniformly() -> None:
    noise = keyed_uniform(7, torch.arange(4000), 16)
    mask = random_mask(noise, num_masked=9)
    assert (mask.sum(dim=1) == 9).all()
    # Each patch is hidden in 9/16 of the clouds; 5 sigma of the binomial.
    sigma = (9 / 16 * 7 / 16 / 4000) ** 0.5
    assert ((mask.float().mean(dim=0) - 9 / 16).abs() < 5 * sigma).all()


def test_block_masks_hide_the_seed_and_its_nearest() -> None:
    centers = torch.tensor([[[0.0, 0, 0], [5, 0, 0], [1, 0, 0], [2, 0, 0]]])
    mask = block_mask(centers, torch.tensor([0]), num_masked=3)
    assert mask.tolist() == [[True, False, True, True]]


def test_block_masks_equal_the_authors(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    values = golden("point")
    centers = torch.from_numpy(values["group_center_16"])
    seed = torch.from_numpy(values["block_mask_seed_index"])
    num_masked = int(values["block_mask"][0].sum())
    mask = block_mask(centers, seed, num_masked=num_masked)
    assert np.array_equal(mask.numpy(), values["block_mask"])


def test_indices_split_a_mask_in_order() -> None:
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    visible, hidden = split_indices(mask)
    assert visible.tolist() == [[1, 3], [0, 1]]
    assert hidden.tolist() == [[0, 2], [2, 3]]
    assert torch.equal(split_indices_at(mask, num_masked=2)[1], hidden)


def test_seed_patches_stay_in_range() -> None:
    just_below_one = torch.tensor([0.0, 1 - 2.0**-24])
    assert draw_seed_index(just_below_one, 1_000_000).tolist() == [0, 999_999]
