"""Crops and flips against Pillow and torchvision."""

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from ssl_vision.data.kernels.crop import crop_bicubic, crop_kernel, crop_table, random_box
from ssl_vision.data.kernels.draws import view_key
from ssl_vision.views import ViewConfig

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MODES = {
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
}


def random_image(height: int, width: int, seed: int, *, is_hard: bool = True) -> np.ndarray:
    """Noise of levels, or of black and white: the hardest case for rounding and clipping."""
    generator = np.random.default_rng(seed)
    if is_hard:
        return generator.choice(np.array([0, 255], np.uint8), (height, width, 3))
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def crop(image: np.ndarray, view: ViewConfig, key: int) -> np.ndarray:
    """Drawing 0 of sample 0 in epoch 0 by the kernels, (3, S, S); the stream is `key`."""
    out = np.empty((1, 1, 3, view.size_px, view.size_px), np.uint8)
    address, height, width = (
        np.array([number]) for number in (image.ctypes.data, *image.shape[:2])
    )
    rows, samples = crop_kernel(view), np.zeros(1, np.int64)
    rows(address, height, width, samples, out, 0, crop_table(view), np.uint64(key), 0)
    return out[0, 0]


def drawing_key(stream: int) -> np.uint64:
    return np.uint64(view_key(np.uint64(stream), 0, 0, 0))


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(1, 130),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair))),
    ratio=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(lambda pair: tuple(sorted(pair))),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    is_hard=st.booleans(), key=st.integers(0, 2**64 - 1),
)  # fmt: skip
@example(230, 205, 190, (1.0, 1.0), (0.2, 5.0), "bicubic", True, 1)  # Pillow's vertical pass first
@example(1, 1, 64, (0.5, 1.0), (1.0, 1.0), "bicubic", True, 2)
def test_random_crops_are_pillows(
    height, width, size, area, ratio, interpolation, is_hard, key
) -> None:
    view = ViewConfig(
        size_px=size, crop_area=area, crop_ratio=ratio, interpolation=interpolation, flip_prob=0
    )
    image = random_image(height, width, key % 97, is_hard=is_hard)
    top, left, h, w = random_box(height, width, crop_table(view), drawing_key(key))
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert min(h, w) >= 1
    part = Image.fromarray(image).crop((left, top, left + w, top + h))
    expected = np.asarray(part.resize((size, size), FILTERS[interpolation])).transpose(2, 0, 1)
    allowed = 1 if interpolation == "bilinear" else 0
    assert levels_apart(crop(image, view, key), expected) <= allowed


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    height=st.integers(8, 200), width=st.integers(8, 200), size=st.integers(1, 100),
    fraction=st.floats(0.3, 1), interpolation=st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
def test_centre_crops_are_torchvisions(height, width, size, fraction, interpolation) -> None:
    view = ViewConfig(
        size_px=size, crop="center", center_fraction=fraction, interpolation=interpolation,
        flip_prob=0,
    )  # fmt: skip
    image = random_image(height, width, size)
    reference = transforms.Compose(
        [
            transforms.Resize(int(size / fraction), interpolation=MODES[interpolation]),
            transforms.CenterCrop(size),
        ]
    )
    expected = np.asarray(reference(Image.fromarray(image))).transpose(2, 0, 1)
    allowed = 1 if interpolation == "bilinear" else 0
    assert levels_apart(crop(image, view, 0), expected) <= allowed


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 70),
    key=st.integers(0, 2**31), interpolation=st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
def test_whole_images_are_pillows_resize_to_a_square(height, width, size, key, interpolation):
    view = ViewConfig(size_px=size, crop="whole", interpolation=interpolation, flip_prob=0)
    image = random_image(height, width, size)
    resized = Image.fromarray(image).resize((size, size), FILTERS[interpolation])
    allowed = 1 if interpolation == "bilinear" else 0
    assert levels_apart(crop(image, view, key), np.asarray(resized).transpose(2, 0, 1)) <= allowed


def test_boxes_have_torchvisions_distribution() -> None:
    area, ratio = (0.2, 0.9), (0.5, 1.5)
    view = ViewConfig(crop_area=area, crop_ratio=ratio)
    table = crop_table(view)
    ours = np.array([random_box(60, 90, table, np.uint64(k * 7919)) for k in range(4000)])
    torch.manual_seed(0)
    image = torch.zeros(3, 60, 90)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, area, ratio) for _ in range(4000)]
    )
    for column in range(4):  # mean and spread of top, left, height, width
        deviation = theirs[:, column].std()
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 0.09 * deviation
        assert abs(ours[:, column].std() / deviation - 1) < 0.05


def test_a_box_that_never_fits_becomes_the_central_one() -> None:
    view = ViewConfig(crop_area=(1.0, 1.0), crop_ratio=(3.0, 3.0))
    box = random_box(30, 30, crop_table(view), np.uint64(5))
    assert box == (10, 0, 10, 30)  # the whole width at ratio 3, centred: torchvision's fallback


def test_flip_mirrors_the_crop() -> None:
    image = random_image(40, 50, 0, is_hard=False)
    for interpolation in FILTERS:
        plain = crop(image, ViewConfig(size_px=24, interpolation=interpolation, flip_prob=0), 9)
        flipped = crop(image, ViewConfig(size_px=24, interpolation=interpolation, flip_prob=1), 9)
        assert np.array_equal(flipped, plain[:, :, ::-1])


def test_a_view_of_one_pixel_works() -> None:
    image = random_image(3, 2, 0)
    for interpolation in FILTERS:
        view = ViewConfig(
            size_px=1, crop_area=(1, 1), crop_ratio=(0.2, 5), interpolation=interpolation
        )
        assert crop(image, view, 1).shape == (3, 1, 1)


def test_rows_are_keyed_by_sample_and_drawing_and_others_are_left() -> None:
    images = [random_image(20 + i, 30, i) for i in range(2)]
    view = ViewConfig(size_px=8, count=2)
    numbers = [(image.ctypes.data, *image.shape[:2], 5 + i) for i, image in enumerate(images)]
    addresses, heights, widths, samples = np.array(numbers).T.copy()
    out, table, stream = np.zeros((2, 4, 3, 8, 8), np.uint8), crop_table(view), np.uint64(3)
    crop_kernel(view)(addresses, heights, widths, samples, out, 1, table, stream, 2)
    assert not out[:, [0, 3]].any()
    for row, image in enumerate(images, start=1):
        for drawing in range(2):
            alone = np.empty((3, 8, 8), np.uint8)
            key = np.uint64(view_key(stream, 2, 4 + row, drawing))
            crop_bicubic(image.reshape(-1), *image.shape[:2], table, key, alone)
            assert np.array_equal(out[drawing, row], alone)
