"""Rows of pictures say what the network's own attention and patches say."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.backbones.attention import class_attention
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.insight import attention_rows, feature_rows

SIDE, PATCH = 32, 8


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    args = {"img_size": SIDE, "patch_size": PATCH, "depth": 2, "embed_dim": 48, "num_heads": 3}
    config = BackboneConfig(name="vit_tiny_patch16_224", args=args)
    return build_backbone(config, input_size=SIDE).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def pictures(num: int) -> list[Image.Image]:
    return [Image.new("RGB", (SIDE, SIDE), (200, 200, 200)) for _ in range(num)]


def test_brightest_patch_is_the_one_attended_to_most(vit, images: torch.Tensor) -> None:
    rows = attention_rows(vit, images, pictures(3))
    maps = class_attention(vit, images).detach()
    for row, heads in zip(rows, maps, strict=True):
        assert list(row) == ["image", "attention", "60% of it", "head 1", "head 2", "head 3"]
        for name, values in [("attention", heads.mean(0))] + [
            (f"head {i + 1}", head) for i, head in enumerate(heads)
        ]:
            drawn = np.asarray(row[name].convert("L"), dtype=int)[
                PATCH // 2 :: PATCH, PATCH // 2 :: PATCH
            ]
            assert drawn.ravel()[int(values.argmax())] == drawn.max()
            assert drawn.ravel()[int(values.argmin())] == drawn.min() < drawn.max()
    few = attention_rows(vit, images, pictures(3), has_heads=False)
    assert [list(row) for row in few] == [["image", "attention", "60% of it"]] * 3


def test_spotlight_holds_three_fifths_and_no_patch_too_many(vit, images: torch.Tensor) -> None:
    (row,) = attention_rows(vit, images[:1], pictures(1))
    lit = np.asarray(row["60% of it"].convert("L"))[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH] > 100
    shares = class_attention(vit, images[:1])[0].mean(0).detach()
    shares = (shares / shares.sum()).numpy()
    assert shares[lit.ravel()].sum() >= 0.6
    assert shares[lit.ravel()].sum() - shares[lit.ravel()].min() < 0.6


def test_equal_patches_have_equal_colours(vit) -> None:
    """Two images that are one: whatever the directions, their colours agree."""
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    first, second = feature_rows(vit, image.expand(2, -1, -1, -1), pictures(2))
    assert list(first) == ["image", "features"]
    assert np.array_equal(np.asarray(first["features"]), np.asarray(second["features"]))
    assert len(np.unique(np.asarray(first["features"]).reshape(-1, 3), axis=0)) > 4


def test_networks_without_say_so(images: torch.Tensor) -> None:
    network = build_backbone(BackboneConfig(name="resnet18"), input_size=SIDE).eval()
    with pytest.raises(ConfigError, match="resnet18 has 1 patches at 32 px"):
        feature_rows(network, images, pictures(3))
    with pytest.raises(ConfigError, match="resnet18"):
        attention_rows(network, images, pictures(3))
