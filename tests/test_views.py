import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch

from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.recolor import BATCHED
from ssl_vision.data.kernels.color import OPERATIONS
from ssl_vision.data.kernels.policy import POLICIES
from ssl_vision.data.module import DataModule
from ssl_vision.errors import ConfigError
from ssl_vision.views import (
    BlurConfig,
    JitterConfig,
    RandAugmentConfig,
    SolarizeConfig,
    ViewConfig,
    evaluation_view,
)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ViewConfig(size_px=0), ["size_px"]),
        (lambda: ViewConfig(crop_area=(0.5, 0.1)), ["crop_area", "0.5"]),
        (lambda: ViewConfig(crop_area=(0.1, 1.5)), ["crop_area", "1.5"]),
        (lambda: ViewConfig(flip_prob=1.5), ["flip_prob=1.5"]),
        (lambda: JitterConfig(hue=0.7), ["hue=0.7", "0.5"]),
        (lambda: JitterConfig(contrast=-1), ["contrast=-1"]),
        (lambda: BlurConfig(sigma_px=(0.0, 1.0)), ["sigma_px"]),
        (lambda: BlurConfig(kernel_px=8), ["kernel_px=8", "odd"]),
        (lambda: BlurConfig(kernel_px=-1), ["kernel_px=-1"]),
        (lambda: SolarizeConfig(threshold=300), ["threshold=300"]),
        (lambda: evaluation_view(size_px=224, interpolation="area"), ["area", "bicubic"]),
    ],
)
def test_impossible_settings_name_the_field_and_the_value(build, words) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert all(word in str(caught.value) for word in words)


def test_the_evaluation_view_has_no_randomness() -> None:
    view = evaluation_view(size_px=224)
    assert view.crop == "center"
    assert view.flip_prob == view.gray_prob == 0
    assert view.jitter is view.blur is view.solarize is None


# Another value of each plain field; settings of operations are their defaults, at probability 1.
OTHER = {
    "size_px": 5, "count": 2, "crop": "center", "crop_area": (0.1, 0.2), "crop_ratio": (2.0, 3.0),
    "center_fraction": 0.5, "interpolation": "bilinear", "flip_prob": 1.0, "gray_prob": 1.0,
}  # fmt: skip


def other(field: dataclasses.Field, default: ViewConfig) -> ViewConfig:
    """The default view with another value of one field."""
    if field.name in OTHER:
        return dataclasses.replace(default, **{field.name: OTHER[field.name]})
    (kind,) = (part for part in get_args(field.type) if dataclasses.is_dataclass(part))
    certain = {"op_prob": 1.0} if kind is RandAugmentConfig else {"prob": 1.0}
    return dataclasses.replace(default, **{field.name: kind(**certain)})


def rendered(view: ViewConfig, augment_on: str) -> torch.Tensor:
    config = ImageData(
        path="digits", views={"a": view}, global_batch_size=16, augment_on=augment_on
    )
    data = DataModule(config, seed=1)
    images = data.train_source.images  # type: ignore[attr-defined]
    images[:] = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    batch = next(iter(data.train_loader()))
    return data.prepare(batch).views["a"]


@pytest.mark.parametrize("field", dataclasses.fields(ViewConfig), ids=lambda field: field.name)
def test_every_field_is_rendered_or_refused_on_cpu_and_device(field) -> None:
    crop = "center" if field.name == "center_fraction" else "random"
    default = ViewConfig(size_px=8, flip_prob=0.0, crop=crop, interpolation="bicubic")
    view = other(field, default)
    on_cpu = rendered(view, "cpu")
    plain = rendered(default, "cpu")
    assert on_cpu.shape != plain.shape or not torch.equal(on_cpu, plain)
    if field.name in POLICIES:
        with pytest.raises(ConfigError, match=field.name):
            rendered(view, "device")
        return
    std = max(ImageData(path="digits").std)  # pixels are normalised by one of about this size
    assert ((on_cpu - rendered(view, "device")).abs() * 255 * std).max() <= 1.1  # levels


def test_every_colour_operation_has_settings_that_begin_with_its_probability() -> None:
    assert BATCHED.keys() == {operation.field for operation in OPERATIONS}
    assert len({int(operation.slot) for operation in OPERATIONS}) == len(OPERATIONS)
    kinds = {field.name: get_args(field.type) for field in dataclasses.fields(ViewConfig)}
    for operation in OPERATIONS:
        assert operation.numbers(ViewConfig())[0] == 0.0
        for settings in filter(dataclasses.is_dataclass, kinds[operation.field]):
            assert dataclasses.fields(settings)[0].name == "prob"


def test_a_view_of_next_to_nothing_is_said_by_its_whole_key() -> None:
    for view, keys in [
        (ViewConfig(size_px=1), ["data.views.a.size_px=1:"]),
        (ViewConfig(size_px=7), ["data.views.a.size_px=7:"]),
        (ViewConfig(size_px=8), []),
        (ViewConfig(crop_area=(1e-6, 9e-4)), ["data.views.a.crop_area="]),
        (ViewConfig(crop_area=(1e-6, 1.0)), []),
        (ViewConfig(crop="center", crop_area=(1e-6, 1e-5)), []),
    ]:
        found = view.doubts("data.views.a.")
        assert [line.startswith(key) for line, key in zip(found, keys, strict=True)] == [
            True for _ in keys
        ]
