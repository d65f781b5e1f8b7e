"""RandAugment and erasing: each operation is Pillow's, strengths are timm's, draws are keyed."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as theirs

from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.kernels import policy
from ssl_vision.data.kernels.draws import view_key
from ssl_vision.errors import ConfigError
from ssl_vision.views import EraseConfig, RandAugmentConfig, ViewConfig

SIDE = 48
FILL = (124, 116, 104)
TIMM = {
    "auto_contrast": theirs.auto_contrast,
    "equalize": theirs.equalize,
    "invert": theirs.invert,
    "rotate": theirs.rotate,
    "posterize": theirs.posterize,
    "solarize": theirs.solarize,
    "solarize_add": theirs.solarize_add,
    "color": theirs.color,
    "contrast": theirs.contrast,
    "brightness": theirs.brightness,
    "sharpness": theirs.sharpness,
    "shear_x": theirs.shear_x,
    "shear_y": theirs.shear_y,
    "translate_x": theirs.translate_x_rel,
    "translate_y": theirs.translate_y_rel,
}
LEVELS: dict[str, Callable[..., tuple[float, ...]]] = {
    "rotate": theirs._rotate_level_to_arg,
    "posterize": theirs._posterize_increasing_level_to_arg,
    "solarize": theirs._solarize_increasing_level_to_arg,
    "solarize_add": theirs._solarize_add_level_to_arg,
    "color": theirs._enhance_increasing_level_to_arg,
    "contrast": theirs._enhance_increasing_level_to_arg,
    "brightness": theirs._enhance_increasing_level_to_arg,
    "sharpness": theirs._enhance_increasing_level_to_arg,
    "shear_x": theirs._shear_level_to_arg,
    "shear_y": theirs._shear_level_to_arg,
    "translate_x": theirs._translate_rel_level_to_arg,
    "translate_y": theirs._translate_rel_level_to_arg,
}


def _image(seed: int = 0) -> np.ndarray:
    """Smooth and noisy parts, not the full range: (3, S, S)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    smooth = np.stack([120 * x + 40, 90 * y + 60, 60 * x * y + 90])
    smooth[:, : SIDE // 2] += rng.normal(0, 25, (3, SIDE // 2, SIDE))
    return np.clip(smooth, 20, 230).astype(np.uint8)


def _table(interpolation: str = "bilinear", **settings: object) -> np.ndarray:
    view = ViewConfig(
        size_px=SIDE,
        interpolation=interpolation,  # type: ignore[arg-type]
        rand_augment=RandAugmentConfig(**settings),  # type: ignore[arg-type]
    )
    table = policy.policy_table(view)
    assert table is not None
    return table


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("magnitude", [3.0, 9.3])
@pytest.mark.parametrize("name", policy.NAMES)
def test_operation_is_pillows(name: str, magnitude: float, interpolation: str) -> None:
    number = policy.NAMES.index(name)
    for is_negative in (False, True):
        argument = policy.argument_of(number, magnitude, is_negative)
        image = _image()
        original = Image.fromarray(image.transpose(1, 2, 0))
        resample = getattr(Image.Resampling, interpolation.upper())
        arguments = [argument] if name in LEVELS else []
        if name in ("posterize", "solarize", "solarize_add"):
            arguments = [int(argument)]
        expected = TIMM[name](original, *arguments, resample=resample, fillcolor=FILL)
        policy.apply_operation(image, number, argument, _table(interpolation))
        difference = np.abs(image.astype(int) - np.asarray(expected).transpose(2, 0, 1).astype(int))
        assert difference.max() <= 1, (name, is_negative)
        assert (difference > 0).mean() < 0.02, (name, is_negative)


@pytest.mark.parametrize("name", LEVELS)
def test_strengths_are_timms(name: str) -> None:
    number = policy.NAMES.index(name)
    for magnitude in (0.0, 0.7, 5.0, 9.0, 10.0):
        found = {policy.argument_of(number, magnitude, s) for s in (False, True)}
        # timm draws the sign itself; a few calls show both
        expected = {float(LEVELS[name](magnitude, {})[0]) for _ in range(40)}
        assert sorted(found) == pytest.approx(sorted(expected))


def _key(sample: int) -> np.uint64:
    return np.uint64(view_key(np.uint64(7), 3, sample, 0))


def _augmented(table: np.ndarray, num_images: int, first_sample: int = 0) -> np.ndarray:
    out = np.stack([_image()] * num_images)[None]
    samples = np.arange(first_sample, first_sample + num_images)
    policy.policy_rows(out, 0, samples, table, np.uint64(7), 3)
    return out[0]


def test_draws_depend_on_the_sample_alone() -> None:
    table = _table()
    together = _augmented(table, 12)
    alone = np.concatenate([_augmented(table, 1, sample) for sample in range(12)])
    np.testing.assert_array_equal(together, alone)
    assert len({image.tobytes() for image in together}) > 6


def test_operations_are_applied_as_often_as_asked() -> None:
    for prob in (0.0, 0.5, 1.0):
        table = _table(num_ops=1, op_prob=prob)
        changed = (_augmented(table, 400) != _image()).any(axis=(1, 2, 3)).mean()
        assert changed == pytest.approx(prob, abs=0.1)


def test_magnitude_varies_with_its_deviation_and_stays_within_ten() -> None:
    magnitudes = [
        9.0 + 0.5 * policy._normal(_key(sample), policy._FIRST_OP + 2) for sample in range(2000)
    ]
    assert np.mean(magnitudes) == pytest.approx(9.0, abs=0.05)
    assert np.std(magnitudes) == pytest.approx(0.5, abs=0.05)


def _erased(prob: float, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    table = policy.policy_table(ViewConfig(size_px=SIDE, erase=EraseConfig(prob=prob)))
    images = np.zeros((1, num_images, 3, SIDE, SIDE), np.uint8)
    policy.policy_rows(images, 0, np.arange(num_images), table, np.uint64(7), 3)
    return images[0], (images[0] > 0).any(axis=1)


def test_erased_parts_are_rectangles_of_the_asked_area() -> None:
    _, is_erased = _erased(1.0, 300)
    areas = []
    for mask in is_erased:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() >= 0.9 * height * width  # noise may hit level 0 in all channels
        areas.append(height * width / SIDE**2)
        assert 0.25 < height / width < 4
    assert 0.01 < min(areas) < 0.05
    assert 0.3 < max(areas) < 0.36
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)


def test_noise_has_the_asked_mean_and_deviation() -> None:
    images, is_erased = _erased(1.0, 200)
    for channel, (mean, std) in enumerate(
        zip(EraseConfig().noise_mean, EraseConfig().noise_std, strict=True)
    ):
        values = images[:, channel][is_erased] / 255
        assert values.mean() == pytest.approx(mean, abs=0.01)
        assert values.std() == pytest.approx(std, abs=0.02)


def test_erasing_happens_as_often_as_asked() -> None:
    _, is_erased = _erased(0.25, 400)
    share = is_erased.any(axis=(1, 2)).mean()
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 400))


def test_views_without_them_cost_nothing() -> None:
    assert policy.policy_table(ViewConfig()) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandAugmentConfig(num_ops=0), "num_ops=0"),
        (lambda: RandAugmentConfig(magnitude=11.0), "rand_augment.magnitude"),
        (lambda: RandAugmentConfig(fill=(0, 0, 256)), "rand_augment.fill"),
        (lambda: EraseConfig(prob=2.0), "erase.prob=2.0"),
        (lambda: EraseConfig(area=(0.5, 0.2)), "erase.area"),
    ],
)
def test_settings_out_of_range_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_loader_augments_each_sample_alike_on_any_number_of_threads() -> None:
    view = {"size_px": 16, "flip_prob": 0.0, "crop": "center", "center_fraction": 1.0}
    plain = ViewConfig(**view)
    drawn = ViewConfig(**view, rand_augment=RandAugmentConfig(), erase=EraseConfig())

    def images(config: ViewConfig, num_threads: int) -> np.ndarray:
        loader = MultiViewLoader(
            build_source("digits", split="val"),
            {"train": config},
            batch_size=60,
            seed=0,
            num_threads=num_threads,
            shuffle=False,
        )
        return np.concatenate([batch.views["train"].numpy().copy() for batch in loader])

    one, three, untouched = images(drawn, 1), images(drawn, 3), images(plain, 1)
    np.testing.assert_array_equal(one, three)
    changed = (one != untouched).any(axis=(1, 2, 3)).mean()
    assert 0.5 < changed < 0.9  # 1 - 0.75 * 0.25 of all, fewer where an operation changes nothing


def test_policies_are_refused_where_colours_come_after_them() -> None:
    views = {"train": ViewConfig(rand_augment=RandAugmentConfig())}
    with pytest.raises(ConfigError, match=r"data\.views\.train\.rand_augment runs on the CPU"):
        ImageData(path="digits", views=views, augment_on="device")
