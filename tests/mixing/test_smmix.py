"""Regions, pasted images and areas: the authors' values, and loops from the paper's text."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_vision.mixing.smmix import (
    draw_region_side,
    max_min_regions,
    paste_regions,
    region_sides,
    square_side,
)
from ssl_vision.randomness import keyed_generator

Golden = Callable[[str], dict[str, np.ndarray]]
FRACTIONS = {"min_side": 0.25, "max_side": 0.75}


def _loop(images: Tensor, attention: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mixed images and pasted patches, one window and one patch at a time."""
    num_images, grid = len(images), square_side(attention.shape[1])
    patch = images.shape[-1] // grid
    mixed, is_source = images.clone(), torch.zeros(num_images, grid, grid, dtype=torch.bool)
    for i in range(num_images):
        partner = num_images - 1 - i
        least, most = (float("inf"), (0, 0)), (-float("inf"), (0, 0))
        for row in range(grid - side + 1):
            for column in range(grid - side + 1):
                window = np.s_[row : row + side, column : column + side]
                own = float(attention[i].reshape(grid, grid)[window].sum())
                other = float(attention[partner].reshape(grid, grid)[window].sum())
                least = (own, (row, column)) if own < least[0] else least
                most = (other, (row, column)) if other > most[0] else most
        for down in range(side):
            for right in range(side):
                to_row, to_column = least[1][0] + down, least[1][1] + right
                from_row, from_column = most[1][0] + down, most[1][1] + right
                is_source[i, to_row, to_column] = True
                mixed[
                    i,
                    :,
                    to_row * patch : (to_row + 1) * patch,
                    to_column * patch : (to_column + 1) * patch,
                ] = images[
                    partner,
                    :,
                    from_row * patch : (from_row + 1) * patch,
                    from_column * patch : (from_column + 1) * patch,
                ]
    return mixed, is_source.flatten(1)


@pytest.mark.parametrize(("grid", "side"), [(14, 3), (14, 6), (14, 10), (7, 1), (7, 4)])
def test_regions_and_images_are_the_authors(golden: Golden, grid: int, side: int) -> None:
    values = golden("smmix")
    images = torch.from_numpy(values[f"side{grid}_images"])
    regions = max_min_regions(torch.from_numpy(values[f"side{grid}_attention"]), side=side)
    key = f"side{grid}_r{side}"
    np.testing.assert_array_equal(regions.target, values[f"{key}_rederived_min_box_rowcol"])
    # The stored maximum is that of each image itself; its partner's is the row from the end.
    np.testing.assert_array_equal(regions.source.flip(0), values[f"{key}_rederived_max_box_rowcol"])
    mixed = paste_regions(images, regions, side=side, grid_side=grid)
    np.testing.assert_array_equal(mixed.images, values[f"{key}_mixed"])
    np.testing.assert_array_equal(mixed.is_source, values[f"{key}_source_mask"])
    np.testing.assert_array_equal(~mixed.is_source, values[f"{key}_target_mask"])
    assert mixed.target_area == pytest.approx(float(values[f"{key}_lam"]), abs=1e-15)


@pytest.mark.parametrize("grid", [14, 7])
def test_sides_are_the_authors(golden: Golden, grid: int) -> None:
    sides = region_sides(grid, **FRACTIONS)
    np.testing.assert_array_equal(list(sides), golden("smmix")[f"side{grid}_candidate_sizes"])


@pytest.mark.parametrize(("num_images", "grid", "side"), [(4, 6, 2), (5, 5, 4), (2, 4, 1)])
def test_pasting_equals_the_loop(num_images: int, grid: int, side: int) -> None:
    generator = torch.Generator().manual_seed(grid)
    images = torch.randn(num_images, 3, grid * 4, grid * 4, generator=generator)
    attention = torch.rand(num_images, grid * grid, generator=generator)
    mixed = paste_regions(images, max_min_regions(attention, side=side), side=side, grid_side=grid)
    expected_images, expected_mask = _loop(images, attention, side)
    assert torch.equal(mixed.images, expected_images)
    assert torch.equal(mixed.is_source, expected_mask)
    assert mixed.target_area == pytest.approx(float((~mixed.is_source).float().mean()))


def test_equal_scores_choose_the_first_square() -> None:
    regions = max_min_regions(torch.full((2, 16), 0.25), side=2)
    assert torch.equal(regions.target, torch.zeros(2, 2, dtype=torch.int64))
    assert torch.equal(regions.source, torch.zeros(2, 2, dtype=torch.int64))


def test_drawn_sides_depend_on_the_key_alone_and_reach_both_ends() -> None:
    def draw(step: int) -> int:
        return draw_region_side(14, **FRACTIONS, generator=keyed_generator(0, "mix", step))

    sides = [draw(step) for step in range(400)]
    assert sides == [draw(step) for step in range(400)]
    counts = np.bincount(sides, minlength=11)[3:11]
    assert sum(counts) == 400
    assert counts.min() > 25  # eight equally likely sides: 50 +- 6.6 each


def test_tiny_grids_keep_one_patch_of_each() -> None:
    assert list(region_sides(2, **FRACTIONS)) == [1]
    assert list(region_sides(4, **FRACTIONS)) == [1, 2, 3]


def test_grids_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="square grid of patches, got 12"):
        square_side(12)
