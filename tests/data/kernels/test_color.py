"""Colour against torchvision's float functionals."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as F

from ssl_vision.data.kernels import color
from ssl_vision.data.kernels.draws import draw, view_key
from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig

SIZE = 33


def planes_of(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    planes = generator.uniform(0, 255, (3, SIZE * SIZE)).astype(np.float32)
    planes[:, :40] = planes[:1, :40]  # gray pixels: hue is undefined there
    planes[:, 40:60], planes[:, 60:80] = 0, 255
    planes[0, 80:120] = planes[1, 80:120]  # two channels share the maximum or minimum
    return planes


def as_image(planes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(planes.reshape(3, SIZE, SIZE)) / 255


OPERATIONS = {
    "brightness": (lambda p, x: color.adjust_brightness(p, x), F.adjust_brightness, (0.0, 2.0)),
    "contrast": (lambda p, x: color.adjust_contrast(p, x, SIZE), F.adjust_contrast, (0.0, 2.0)),
    "saturation": (lambda p, x: color.adjust_saturation(p, x), F.adjust_saturation, (0.0, 2.0)),
    "hue": (lambda p, x: color.adjust_hue(p, x), F.adjust_hue, (-0.5, 0.5)),
    "gray": (lambda p, x: color.to_gray(p), lambda i, x: F.rgb_to_grayscale(i, 3), (0, 1)),
    "blur": (
        lambda p, x: color.blur(p, x, SIZE, np.empty(SIZE * SIZE, np.float32), 0),
        lambda i, x: F.gaussian_blur(i, [2 * min(int(np.ceil(4 * x)), SIZE - 1) + 1] * 2, [x] * 2),
        (0.1, 4.0),
    ),
    "blur of 9": (  # torchvision's own form: a kernel of fixed side, whatever sigma
        lambda p, x: color.blur(p, x, SIZE, np.empty(SIZE * SIZE, np.float32), 9),
        lambda i, x: F.gaussian_blur(i, [9, 9], [x, x]),
        (0.1, 4.0),
    ),
    "solarize": (
        lambda p, x: color.solarize(p, x * 255),
        lambda i, x: F.solarize(i, x),
        (0.0, 1.0),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(share=st.floats(0, 1), seed=st.integers(0, 5))
def test_colour_is_torchvisions_float_functional(name, share, seed) -> None:
    ours, theirs, (low, high) = OPERATIONS[name]
    amount = float(np.float32(low + share * (high - low)))
    planes = planes_of(seed)
    if name == "solarize":  # a value within rounding of the threshold may go either way
        planes[np.abs(planes - amount * 255) < 1e-3] += 0.01
    expected = theirs(as_image(planes), amount)
    ours(planes, amount)
    assert (as_image(planes) - expected).abs().max() <= 1e-4


def test_jitter_draws_every_order() -> None:
    table = color.color_table(ViewConfig(jitter=JitterConfig(prob=1)))
    start = planes_of(0)
    operations = {
        0: lambda p, k: color.adjust_brightness(p, 0.6 + 0.8 * draw(k, 43)),
        1: lambda p, k: color.adjust_contrast(p, 0.6 + 0.8 * draw(k, 44), SIZE),
        2: lambda p, k: color.adjust_saturation(p, 0.8 + 0.4 * draw(k, 45)),
        3: lambda p, k: color.adjust_hue(p, -0.1 + 0.2 * draw(k, 46)),
    }
    seen = set()
    for sample in range(150):
        key = np.uint64(view_key(np.uint64(1), 0, sample, 0))
        result = start.copy()
        color._jitter(result, SIZE, table, key, result[0])
        for order in itertools.permutations(range(4)):
            expected = start.copy()
            for operation in order:
                operations[operation](expected, key)
            if np.abs(result - expected).max() < 1e-2:
                seen.add(order)
                break
        else:
            pytest.fail("no order of the four operations gives this result")
    assert len(seen) == 24


@pytest.mark.parametrize("kernel", [1, 3, 9])
def test_a_recipes_kernel_reaches_the_view(kernel) -> None:
    image = np.zeros((3, SIZE, SIZE), np.uint8)
    image[:, SIZE // 2, SIZE // 2] = 255
    view = ViewConfig(blur=BlurConfig(prob=1, sigma_px=(50, 50), kernel_px=kernel))
    scratch = np.empty(color.scratch_size(SIZE), np.float32)
    color.recolor(image, color.color_table(view), np.uint64(1), scratch)
    assert (image[0] > 0).sum() == kernel**2  # so wide a Gaussian is level over its kernel


def test_recolour_off_leaves_levels_and_on_rounds_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
    scratch = np.empty(color.scratch_size(SIZE), np.float32)
    kept = image.copy()
    color.recolor(kept, color.color_table(ViewConfig()), np.uint64(1), scratch)
    assert np.array_equal(kept, image)
    view = ViewConfig(solarize=SolarizeConfig(prob=1, threshold=128), blur=BlurConfig(prob=0))
    color.recolor(kept, color.color_table(view), np.uint64(1), scratch)
    assert np.array_equal(kept, np.where(image >= 128, 255 - image, image))


def test_a_view_of_one_pixel_works() -> None:
    view = ViewConfig(size_px=1, blur=BlurConfig(prob=1), jitter=JitterConfig(prob=1))
    image = np.full((3, 1, 1), 100, np.uint8)
    color.recolor(image, color.color_table(view), np.uint64(1), np.empty(4, np.float32))
    assert image.any()


def test_rows_are_keyed_by_sample_and_drawing_and_others_are_left() -> None:
    view = ViewConfig(size_px=SIZE, count=2, jitter=JitterConfig(), blur=BlurConfig())
    before = np.random.default_rng(0).integers(0, 256, (2, 4, 3, SIZE, SIZE), dtype=np.uint8)
    after, scratch = before.copy(), np.empty(color.scratch_size(SIZE), np.float32)
    table, stream, samples = color.color_table(view), np.uint64(3), np.array([6, 2])
    color.recolor_rows(after, 1, samples, table, stream, 4, scratch)
    assert np.array_equal(after[:, [0, 3]], before[:, [0, 3]])
    for row, sample in enumerate(samples, start=1):
        for drawing in range(2):
            alone = before[drawing, row].copy()
            key = np.uint64(view_key(stream, 4, sample, drawing))
            color.recolor(alone, table, key, scratch)
            assert np.array_equal(after[drawing, row], alone)


@pytest.mark.parametrize(
    "settings",
    [
        {"jitter": JitterConfig()}, {"gray_prob": 0.1}, {"blur": BlurConfig()},
        {"solarize": SolarizeConfig()},
    ],
)  # fmt: skip
def test_a_view_with_any_operation_has_colour(settings) -> None:
    assert color.has_color(ViewConfig(**settings))
    assert not color.has_color(ViewConfig())
