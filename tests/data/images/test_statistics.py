"""Measured statistics are those of all pixels, each image counting alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.statistics import measure
from ssl_vision.errors import DataError


def test_mean_and_std_by_hand_and_broken_images_left_out(tmp_path: Path) -> None:
    random, first, second = np.random.default_rng(0), [], []
    for number, (height, width) in enumerate([(5, 9), (40, 30), (12, 12)]):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        scaled = pixels.reshape(-1, 3) / 255
        first.append(scaled.mean(axis=0))
        second.append((scaled**2).mean(axis=0))
    (tmp_path / "x.png").write_bytes(b"no")
    found = measure(FolderSource(tmp_path))
    np.testing.assert_allclose(found.mean, np.mean(first, axis=0), atol=6e-5)
    std = np.sqrt(np.mean(second, axis=0) - np.mean(first, axis=0) ** 2)
    np.testing.assert_allclose(found.std, std, atol=6e-5)
    assert (found.side, found.num) == (12, 3)
    assert measure(FolderSource(tmp_path), max_images=2).num == 1  # the first and the broken one


def test_one_colour_has_a_std_that_divides(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    found = measure(FolderSource(tmp_path))
    assert found.mean == (1.0, 0.0, 0.0)
    assert min(found.std) > 0


def test_nothing_to_measure(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match="none of 1 images"):
        measure(FolderSource(tmp_path))
