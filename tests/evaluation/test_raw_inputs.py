"""Pixels of patches as features, against a loop."""

import pytest
import torch

from ssl_vision.evaluation.raw_inputs import patch_pixels, raw_inputs


@pytest.mark.parametrize(("size_px", "side", "cells"), [(32, 4, 8), (64, 4, 8), (12, 4, 3)])
def test_patches_are_their_pixels_averaged_to_8_by_8(size_px: int, side: int, cells: int) -> None:
    images = torch.randn(2, 3, size_px, size_px)
    found = patch_pixels(images, side)
    assert found.shape == (2, side**2, 3 * cells**2)
    step, block = size_px // side, size_px // side // cells
    for row in range(side):
        for column in range(side):
            patch = images[:, :, row * step :, column * step :][:, :, :step, :step]
            blocks = patch.unfold(2, block, block).unfold(3, block, block).mean(dim=(4, 5))
            torch.testing.assert_close(found[:, row * side + column], blocks.flatten(1))


def test_raw_inputs_have_patches_where_they_are_asked() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert raw_inputs("images")(images).patches is None
    backbone = raw_inputs("images", patch_side=4)
    torch.testing.assert_close(backbone(images).patches, patch_pixels(images, 4))
    odd = raw_inputs("images", patch_side=5)(images).patches
    assert odd is not None
    assert odd.shape == (2, 25, 3 * 36)
