"""Colour on the device equals the kernels: same draws, same result up to rounding."""

import itertools

import numpy as np
import pytest
import torch

from ssl_vision.data.images import recolor
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.kernels.draws import draw, view_key, view_stream
from ssl_vision.data.module import DataModule
from ssl_vision.errors import ConfigError
from ssl_vision.views import (
    BlurConfig,
    EraseConfig,
    JitterConfig,
    SolarizeConfig,
    ViewConfig,
)

VIEWS = {
    "a": ViewConfig(
        size_px=20, jitter=JitterConfig(hue=0.4), gray_prob=0.3, blur=BlurConfig(sigma_px=(0.1, 3))
    ),
    "b": ViewConfig(
        size_px=14, count=3, jitter=JitterConfig(prob=1, contrast=0.0), blur=BlurConfig(prob=0.9)
    ),
    "c": ViewConfig(size_px=9, blur=BlurConfig(prob=1, sigma_px=(4, 5))),  # wider than the image
    "k": ViewConfig(size_px=16, blur=BlurConfig(prob=0.9, kernel_px=9)),
    "d": ViewConfig(size_px=12, solarize=SolarizeConfig(prob=0.5)),
}


def module(where: str, device: str = "cpu") -> tuple[DataModule, list]:
    config = ImageData(
        path="mnist5k", views=VIEWS, global_batch_size=64, augment_on=where,
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    data = DataModule(config, seed=3)
    # Colour, so that every operation has something to do.
    images = data.train_source.images  # type: ignore[attr-defined]
    noise = np.random.default_rng(0).integers(0, 200, images.shape, dtype=np.uint8)
    images[:] = np.maximum(images, noise)
    loader = data.train_loader()
    loader.set_epoch(2)
    batches = []
    for batch in itertools.islice(loader, 3):
        batches.append(data.prepare(batch.to(device)).to("cpu"))
    return data, batches


def assert_equal_up_to_rounding(a: list, b: list) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.index, y.index)
        for name in VIEWS:
            levels = ((x.views[name] - y.views[name]) * 255).abs().round()
            assert levels.max() <= 1, name
            assert (levels > 0).float().mean() < 0.002, name


def test_device_form_equals_the_kernels() -> None:
    assert_equal_up_to_rounding(module("cpu")[1], module("device")[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_form_equals_the_kernels_on_a_gpu() -> None:
    assert_equal_up_to_rounding(module("cpu")[1], module("device", "cuda")[1])


def test_keys_and_draws_are_the_kernels() -> None:
    stream = view_stream(5, "a")
    index = torch.tensor([0, 7, 123456789])
    keys = recolor.view_keys(int(stream), epoch=4, index=index, count=2)
    expected = [view_key(stream, 4, int(i), j) for j in range(2) for i in index]
    assert [int(key) % 2**64 for key in keys] == expected
    draws = [draw(np.uint64(key), 41) for key in expected]
    assert recolor._draw(keys, 41).tolist() == draws


def test_orders_are_permutations_and_all_occur() -> None:
    keys = recolor.view_keys(1, epoch=0, index=torch.arange(600), count=1)
    orders = recolor._orders(keys)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(600, 4))
    assert len({tuple(order) for order in orders.tolist()}) == 24


def test_what_the_device_cannot_render_is_refused() -> None:
    views = {"a": ViewConfig(erase=EraseConfig())}
    with pytest.raises(ConfigError, match=r"augment_on=cpu"):
        ImageData(path="digits", views=views, augment_on="device")
