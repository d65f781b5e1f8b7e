"""Crops against Pillow, colour against torchvision's float functionals, draws against their law."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

from ssl_vision.data import kernels
from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig

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
    """One view by the kernels, (3, S, S)."""
    out = np.empty((3, view.size_px, view.size_px), np.uint8)
    table = kernels.view_table(view)
    kernels.crop(image.reshape(-1), *image.shape[:2], table, np.uint64(key), out)
    return out


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# Crops -------------------------------------------------------------------------------------


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
    top, left, h, w = kernels.random_box(height, width, kernels.view_table(view), np.uint64(key))
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


def test_boxes_have_torchvisions_distribution() -> None:
    area, ratio = (0.2, 0.9), (0.5, 1.5)
    view = ViewConfig(crop_area=area, crop_ratio=ratio)
    table = kernels.view_table(view)
    ours = np.array([kernels.random_box(60, 90, table, np.uint64(k * 7919)) for k in range(4000)])
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
    box = kernels.random_box(30, 30, kernels.view_table(view), np.uint64(5))
    assert box == (10, 0, 10, 30)  # the whole width at ratio 3, centred: torchvision's fallback


def test_flip_mirrors_the_crop() -> None:
    image = random_image(40, 50, 0, is_hard=False)
    for interpolation in FILTERS:
        plain = crop(image, ViewConfig(size_px=24, interpolation=interpolation, flip_prob=0), 9)
        flipped = crop(image, ViewConfig(size_px=24, interpolation=interpolation, flip_prob=1), 9)
        assert np.array_equal(flipped, plain[:, :, ::-1])


# Colour ------------------------------------------------------------------------------------

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
    "brightness": (lambda p, x: kernels.adjust_brightness(p, x), F.adjust_brightness, (0.0, 2.0)),
    "contrast": (lambda p, x: kernels.adjust_contrast(p, x, SIZE), F.adjust_contrast, (0.0, 2.0)),
    "saturation": (lambda p, x: kernels.adjust_saturation(p, x), F.adjust_saturation, (0.0, 2.0)),
    "hue": (lambda p, x: kernels.adjust_hue(p, x), F.adjust_hue, (-0.5, 0.5)),
    "gray": (lambda p, x: kernels.to_gray(p), lambda i, x: F.rgb_to_grayscale(i, 3), (0, 1)),
    "blur": (
        lambda p, x: kernels.blur(p, x, SIZE, np.empty(SIZE * SIZE, np.float32)),
        lambda i, x: F.gaussian_blur(i, [2 * min(int(np.ceil(4 * x)), SIZE - 1) + 1] * 2, [x] * 2),
        (0.1, 4.0),
    ),
    "solarize": (
        lambda p, x: kernels.solarize(p, x * 255),
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
    table = kernels.view_table(ViewConfig(jitter=JitterConfig(prob=1)))
    start = planes_of(0)
    operations = {
        0: lambda p, k: kernels.adjust_brightness(p, 0.6 + 0.8 * kernels.draw(k, 43)),
        1: lambda p, k: kernels.adjust_contrast(p, 0.6 + 0.8 * kernels.draw(k, 44), SIZE),
        2: lambda p, k: kernels.adjust_saturation(p, 0.8 + 0.4 * kernels.draw(k, 45)),
        3: lambda p, k: kernels.adjust_hue(p, -0.1 + 0.2 * kernels.draw(k, 46)),
    }
    import itertools

    seen = set()
    for sample in range(150):
        key = np.uint64(kernels.view_key(np.uint64(1), 0, sample, 0))
        result = start.copy()
        kernels._jitter(result, SIZE, table, key)
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


def test_probabilities_are_met_and_operations_draw_independently() -> None:
    slots = {"jitter": 41, "gray": 47, "blur": 48, "solarize": 50, "flip": 40}
    keys = [np.uint64(kernels.view_key(np.uint64(9), 3, sample, 1)) for sample in range(4000)]
    draws = np.array([[kernels.draw(key, slot) for slot in slots.values()] for key in keys])
    assert np.abs(draws.mean(0) - 0.5).max() < 0.02
    assert np.abs((draws < 0.2).mean(0) - 0.2).max() < 0.02
    assert np.abs(np.corrcoef(draws.T) - np.eye(len(slots))).max() < 0.06


def test_recolour_off_leaves_levels_and_on_rounds_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
    scratch = np.empty(kernels.scratch_size(SIZE), np.float32)
    kept = image.copy()
    kernels.recolor(kept, kernels.view_table(ViewConfig()), np.uint64(1), scratch)
    assert np.array_equal(kept, image)
    view = ViewConfig(solarize=SolarizeConfig(prob=1, threshold=128), blur=BlurConfig(prob=0))
    kernels.recolor(kept, kernels.view_table(view), np.uint64(1), scratch)
    assert np.array_equal(kept, np.where(image >= 128, 255 - image, image))


def test_a_view_of_one_pixel_works() -> None:
    view = ViewConfig(size_px=1, blur=BlurConfig(prob=1), jitter=JitterConfig(prob=1))
    image = random_image(3, 2, 0)
    out = crop(image, view, 1)
    kernels.recolor(out, kernels.view_table(view), np.uint64(1), np.empty(4, np.float32))
    assert out.shape == (3, 1, 1)
