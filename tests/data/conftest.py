"""Small image folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(seed: int, height: int = 40, width: int = 52) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """24 JPEGs of several sizes in two class folders."""
    root = tmp_path / "images"
    for number in range(24):
        path = root / ("cat", "dog")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        subsampling = ("4:2:0", "4:4:4")[number % 3 == 0]
        image = picture(number, 30 + number, 60 - number)
        image.save(path, quality=85 + number % 10, subsampling=subsampling)
    return root
