"""What a transform says of a network's input."""

import math
from typing import Any

import pytest
import timm
from torch import nn
from torchvision import transforms as T
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from ssl_vision.data.config import InputSpec
from ssl_vision.errors import ConfigError
from ssl_vision.zoo.transforms import spec_of_transform

_MEAN, _STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
_NORMALIZE = T.Normalize(_MEAN, _STD)
_RESNET = timm.create_model("resnet10t")
_BICUBIC = T.InterpolationMode.BICUBIC


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"size": 32, "mean": _MEAN, "std": _STD}, InputSpec(32, _MEAN, _STD, "bicubic", 0.875)),
        (
            {"input_size": (3, 64, 64), "mean": _MEAN, "std": _STD, "interpolation": "bilinear",
             "crop_pct": 0.9},
            InputSpec(64, _MEAN, _STD, "bilinear", 0.9),
        ),
        (
            T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), _NORMALIZE]),
            InputSpec(224, _MEAN, _STD, "bilinear", 0.875),
        ),
        (
            v2.Compose([v2.PILToTensor(), v2.Resize((40, 40), interpolation=_BICUBIC),
                        v2.Normalize(_MEAN, _STD)]),
            InputSpec(40, _MEAN, _STD, "bicubic", 1.0),
        ),
        (
            ResNet18_Weights.DEFAULT.transforms(),
            InputSpec(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 224 / 256),
        ),
        (InputSpec(8), InputSpec(8)),
        (None, InputSpec(176, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.95)),
    ],
)  # fmt: skip
def test_size_crop_and_statistics(transform: Any, expected: InputSpec) -> None:
    found = spec_of_transform(transform, _RESNET)
    given = _RESNET.pretrained_cfg
    if transform is None:
        expected = InputSpec(given["input_size"][-1], given["mean"], given["std"],
                             given["interpolation"], given["crop_pct"])  # fmt: skip
    assert found == expected


def test_what_timm_makes_of_its_own_config_reads_as_that_config() -> None:
    config = timm.data.resolve_model_data_config(_RESNET)
    transform = timm.data.create_transform(**config, is_training=False)
    found, plain = spec_of_transform(transform, _RESNET), spec_of_transform(config, _RESNET)
    assert (found.size, found.interpolation) == (plain.size, plain.interpolation)
    assert found.mean == pytest.approx(plain.mean)
    assert found.std == pytest.approx(plain.std)
    assert found.crop_pct == pytest.approx(plain.crop_pct, abs=0.005)  # by whole pixels


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (None, "does not say its own"),
        ({"mean": _MEAN}, "has no size"),
        ({"size": 8, "means": _MEAN}, "transform.means is unknown"),
        (lambda image: image, "function is not understood"),
        (T.Compose([T.Resize(8), T.RandomCrop(8), _NORMALIZE]), "RandomCrop is not understood"),
        (T.Compose([T.Resize(8)]), "is not understood"),
        *[({"size": size}, r"transform\.size=.* must be a side")
          for size in ("big", -1, 0, 8.5, True, [], [8, 0], {}, float("nan"))],
        ({"input_size": (3, 8, "x")}, r"transform\.input_size="),
        *[({key: size}, rf"transform\.{key}=.* must be square")
          for key, size in (("size", [8, 9]), ("size", (9, 8)), ("input_size", (3, 8, 9)))],
        (T.Compose([T.Resize(8), T.CenterCrop((8, 9)), _NORMALIZE]), "must be square"),
        (InputSpec(-1), r"transform\.size=-1"),
        *[({"size": 8, key: value}, rf"transform\.{key}=.* must be")
          for key in ("mean", "std")
          for value in ("abc", "123", 0.5, [], [0.1, 0.2], ["a", "b", "c"], [0.1, 0.2, math.nan])],
        ({"size": 8, "std": [0.1, 0.0, 0.1]}, r"transform\.std=.* above 0"),
        ({"size": 8, "interpolation": "cubic"}, r"transform\.interpolation='cubic' must be bi"),
        ({"size": 8, "interpolation": 3}, r"transform\.interpolation="),
        *[({"size": 8, "crop_pct": value}, r"transform\.crop_pct=") for value in ("x", 0, -1, [1])],
        (T.Compose([T.Resize(8, T.InterpolationMode.NEAREST), T.ToTensor(), _NORMALIZE]),
         r"transform\.interpolation='nearest'"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_refused(transform: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        spec_of_transform(transform, nn.Linear(1, 1))
