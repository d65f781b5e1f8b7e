"""Both resizes of a box, cut off its result, against Pillow's."""

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.kernels.bicubic import resize_bicubic
from ssl_vision.data.kernels.bilinear import resize_bilinear

KERNELS = {
    "bilinear": (resize_bilinear, Image.Resampling.BILINEAR, 1),
    "bicubic": (resize_bicubic, Image.Resampling.BICUBIC, 0),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("box", "full"),
    [((3, 5, 31, 22), (40, 24)), ((0, 0, 60, 20), (21, 19)), ((8, 9, 50, 40), (16, 16))],
)
def test_a_square_of_a_resized_box_is_pillows(name, box, full) -> None:
    resize, filter_, allowed = KERNELS[name]
    image = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (60, 50, 3))
    top, left, height, width = box
    part = Image.fromarray(image).crop((left, top, left + width, top + height))
    whole = np.asarray(part.resize((full[1], full[0]), filter_)).transpose(2, 0, 1).astype(int)
    size, shift = 16, ((full[0] - 16) // 2, (full[1] - 16) // 2)
    expected = whole[:, shift[0] : shift[0] + size, shift[1] : shift[1] + size]
    for is_flipped in (False, True):
        out = np.empty((3, size, size), np.uint8)
        resize(image.reshape(-1), 50, box, full, shift, is_flipped, out)
        ours = out[:, :, ::-1] if is_flipped else out
        assert np.abs(ours.astype(int) - expected).max() <= allowed
