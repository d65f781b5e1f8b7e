"""Statistics of the images themselves, where those of ImageNet do not fit."""

from typing import NamedTuple

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.data.source import Source
from ssl_vision.errors import DataError

_LEAST_STD = 1e-3  # of images of one colour: nothing may be divided by 0


class ImageStatistics(NamedTuple):
    """What was measured.

    Attributes:
        mean: Per channel, of values 0..1; every image counts alike.
        std: Likewise, of all pixels about that mean.
        side: Median of the shorter sides, px.
        num: Images that were read.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int
    num: int


def measure(source: Source, *, max_images: int = 1000) -> ImageStatistics:
    """Mean, standard deviation and size of evenly spread images; unreadable ones are left out.

    Args:
        source: Images.
        max_images: At most so many are read.

    Raises:
        DataError: None can be read.
    """
    rows = np.unique(np.linspace(0, len(source) - 1, min(max_images, len(source))).astype(np.int64))
    decoder, moments, sides = Decoder(), [], []
    for row in rows:
        try:
            image = source.sample(int(row), decoder)
        except DataError:
            continue
        sides.append(min(image.shape[-3:-1]))  # of one image or of a pair
        pixels = image.reshape(-1, 3)
        # In integers: float64 copies of large photos would take gigabytes.
        total = pixels.sum(axis=0, dtype=np.int64)
        squares = np.array([np.dot(c := pixels[:, i].astype(np.float32), c) for i in range(3)])
        moments.append(np.stack([total / 255, squares / 255**2]) / len(pixels))
    if not moments:
        raise DataError(f"none of {len(rows)} images can be read, first {source.name(0)}.")
    first, second = np.mean(moments, axis=0)
    std = np.sqrt(np.maximum(second - first**2, 0)).clip(min=_LEAST_STD)
    return ImageStatistics(_three(first), _three(std), int(np.median(sides)), len(moments))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
