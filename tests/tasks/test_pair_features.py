"""Binocular features of files and arrays, against the method itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_vision
from ssl_vision.data.pairs.scenes import blocks
from ssl_vision.engine.saved_method import load_method
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError, DataError


@pytest.fixture
def run(recipe, tmp_path: Path) -> Path:
    settings = ("data.global_batch_size=8", "data.train_fraction=0.01", "trainer.max_steps=1")
    return train(recipe("croco", *settings)).run_dir


def test_features_are_the_methods_of_the_images_in_their_order(run: Path, tmp_path: Path) -> None:
    pairs = np.stack([blocks("val").sample(i) for i in range(5)])  # (5, 2, 64, 64, 3)
    found = ssl_vision.encode_pair(run, pairs[:, 0], pairs[:, 1], batch_size=2)
    method = load_method(run)
    size = 16  # 64 px -> 18 px, the middle 16 of them
    resized = [
        [np.asarray(Image.fromarray(image).resize((18, 18), Image.Resampling.BICUBIC))
         for image in pair]
        for pair in pairs
    ]  # fmt: skip
    views = torch.tensor(np.array(resized)[:, :, 1 : 1 + size, 1 : 1 + size]) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    first, second = ((views - mean) / std).permute(1, 0, 4, 2, 3)
    expected = method.encode_pair(first, second)
    for ours, theirs in zip((*found[:3], *found.layers), (*expected[:3], *expected.layers),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert found.decoded.shape == (5, 16, 16)


def test_one_image_is_a_file_or_a_picture(run: Path, tmp_path: Path) -> None:
    images = [Image.fromarray(image) for image in blocks("val").sample(3)]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    of_files = ssl_vision.encode_pair(run, *map(str, paths))
    of_pictures = ssl_vision.encode_pair(run, *images)
    assert torch.equal(of_files.decoded, of_pictures.decoded)
    assert len(of_files.decoded) == 1


@pytest.mark.parametrize(("num", "batch_size"), [((3, 2), 8), ((2, 4), 2), ((4, 1), 1)])
def test_sides_of_unequal_length_are_refused(run: Path, num: tuple, batch_size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    with pytest.raises(DataError, match=rf"not as many \(they part after {min(num)}\)"):
        ssl_vision.encode_pair(run, images[: num[0]], images[: num[1]], batch_size=batch_size)


def test_other_methods_have_no_decoder_of_pairs(mae_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"run of method\.name=mae"):
        ssl_vision.encode_pair(mae_run, "a.png", "b.png")
