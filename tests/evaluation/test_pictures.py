"""Pictures show what the tensors say, where they say it."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.evaluation.pictures import (
    as_image,
    colorize,
    largest_mass,
    overlay,
    principal_colors,
    sheet,
    spotlight,
)


def lightness(colors: torch.Tensor) -> torch.Tensor:
    return (colors.float() * torch.tensor([0.299, 0.587, 0.114])).sum(dim=-1)


def test_colours_rise_in_lightness_with_the_value() -> None:
    found = lightness(colorize(torch.linspace(-3, 5, 64)[None]))[0]
    assert bool((found.diff() > -1).all())  # rounding to whole levels
    assert found[-1] - found[0] > 200
    assert colorize(torch.full((3, 3), 7.0)).unique(dim=0).shape[0] == 1


def test_components_tell_groups_of_patches_apart_and_mean_the_same_in_every_image() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = 5 * torch.randn(3, 32, generator=generator)
    groups = torch.arange(3).repeat(2, 12)  # (B=2, N=36), the same arrangement in both
    patches = centers[groups] + 0.01 * torch.randn(2, 36, 32, generator=generator)
    colors = principal_colors(patches)
    assert colors.shape == (2, 36, 3)
    assert 0 <= float(colors.min()) <= float(colors.max()) <= 1
    means = torch.stack([colors[groups == g].mean(dim=0) for g in range(3)])
    spread = max(float(colors[groups == g].std(dim=0).max()) for g in range(2))
    assert float(torch.pdist(means).min()) > 0.5
    assert spread < 0.4  # the third component is noise; the first two are not
    torch.testing.assert_close(colors[0, :, :2], colors[1, :, :2], atol=0.05, rtol=0)


def test_components_do_not_depend_on_signs_of_the_basis() -> None:
    patches = torch.rand(1, 50, 8) ** 3
    flipped = patches * torch.tensor([1, -1, 1, -1, 1, -1, 1, -1.0])
    torch.testing.assert_close(principal_colors(patches), principal_colors(flipped))


def test_features_of_low_rank_have_grey_components() -> None:
    line = torch.linspace(0, 1, 20)[None, :, None] * torch.ones(4)
    colors = principal_colors(line)
    assert torch.equal(colors[..., 1:], torch.full((1, 20, 2), 0.5))
    assert torch.equal(principal_colors(torch.ones(1, 9, 4)), torch.full((1, 9, 3), 0.5))


def test_mass_is_kept_by_the_fewest_patches() -> None:
    attention = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2])
    assert largest_mass(attention, fraction=0.6).nonzero()[:, 0].tolist() == [1, 3]
    assert largest_mass(attention, fraction=0.7).nonzero()[:, 0].tolist() == [1, 3, 4]
    assert largest_mass(attention, fraction=0.0).sum() == 1
    assert largest_mass(attention, fraction=1.0).all()


def test_maps_lie_over_the_patches_they_belong_to() -> None:
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    values = torch.zeros(4, 4)
    values[1, 2] = 1.0  # second row, third column
    shown = np.asarray(overlay(image, values).convert("L"), dtype=float)
    is_bright = shown > shown.mean() + 40
    assert is_bright[16:32, 32:48].all()
    assert is_bright.sum() == 16 * 16
    lit = np.asarray(spotlight(image, values > 0))
    assert (lit[16:32, 32:48] == 128).all()
    assert lit[0, 0].max() < 40


def test_images_keep_their_values_when_enlarged() -> None:
    pixels = torch.tensor([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], dtype=torch.uint8)
    large = np.asarray(as_image(pixels, size_px=8))
    assert (large[:4, :4] == (255, 0, 0)).all()
    assert (large[4:, 4:] == 9).all()
    assert np.asarray(as_image(pixels.float() / 255, size_px=8)).tolist() == large.tolist()


@pytest.mark.parametrize("num_rows", [1, 3])
def test_sheets_hold_every_picture(num_rows: int) -> None:
    row = {"a": Image.new("RGB", (20, 20), "red"), "b": Image.new("RGB", (20, 20), "blue")}
    pixels = np.asarray(sheet([row] * num_rows)).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(axis=1).sum() == num_rows * 400
    assert (pixels == (0, 0, 255)).all(axis=1).sum() == num_rows * 400
