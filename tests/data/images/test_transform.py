"""The views as a transform for people's own data sets."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import ssl_vision
from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.images.normalize import normalize
from ssl_vision.data.images.transform import transform
from ssl_vision.types import Batch
from ssl_vision.views import JitterConfig, ViewConfig

_VIEWS = {
    "a": ViewConfig(size_px=12, crop_area=(0.2, 1.0), jitter=JitterConfig(), flip_prob=0.5),
    "b": ViewConfig(size_px=8, count=2, crop_area=(0.2, 0.5)),
}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 20, 23, 3), dtype=np.uint8)


class _Own(Dataset):
    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.views = ssl_vision.views.transform(_VIEWS, seed=5, mean=None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return index, self.views(Image.fromarray(self.images[index]), index=index)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_views_of_an_own_data_set_are_the_loaders_bit_for_bit(
    images: np.ndarray, num_workers: int
) -> None:
    (expected,) = MultiViewLoader(
        ArraySource(images), _VIEWS, batch_size=6, seed=5, shuffle=False, num_threads=1
    )
    (found,) = DataLoader(
        _Own(images), batch_size=6, collate_fn=Batch.collate, num_workers=num_workers
    )
    assert torch.equal(found.index, expected.index)
    for name in _VIEWS:
        assert torch.equal(found.views[name], expected.views[name])


def test_values_are_normalised_and_kinds_of_images_alike(images: np.ndarray) -> None:
    view, image = _VIEWS["a"], images[0]
    plain = transform(view, mean=None)(image, index=3)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    found = transform(view, mean=mean.tolist(), std=std.tolist())
    expected = normalize(plain[None], mean=mean, std=std)[0]
    channels_first = torch.from_numpy(image).permute(2, 0, 1)
    for given in (image, Image.fromarray(image), channels_first, channels_first / 255):
        assert torch.equal(found(given, index=3), expected)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again(image, index=3), expected)
    assert not torch.equal(found(image, index=4), expected)
    assert not torch.equal(found(image, index=3, epoch=1), expected)


def test_without_a_key_draws_follow_torchs_generator(images: np.ndarray) -> None:
    draw = transform(_VIEWS["a"])
    torch.manual_seed(0)
    first, second = draw(images[0]), draw(images[0])
    torch.manual_seed(0)
    assert torch.equal(draw(images[0]), first)
    assert not torch.equal(first, second)
