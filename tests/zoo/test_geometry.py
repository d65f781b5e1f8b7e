"""Names and arguments read off shapes build the network the shapes came from."""

from typing import Any

import pytest
import timm
import torch

from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.converted import ConvertOptions
from ssl_vision.zoo.geometry import resample_positions, resnet_architecture, vit_architecture


def shapes(name: str, **args: Any) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0, **args).state_dict()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_base_patch16_224", {}),
        ("vit_large_patch16_224", {}),
        ("vit_large_patch14_224", {}),
        ("vit_huge_patch14_224", {}),
        ("vit_base_patch8_224", {}),
        ("vit_small_patch16_224", {"patch_size": 4, "img_size": 32, "depth": 3}),
        ("vit_tiny_patch16_224", {"mlp_ratio": 2.0, "qkv_bias": False}),
        ("vit_small_patch16_224", {"embed_dim": 128, "num_heads": 2, "in_chans": 1}),
    ],
)
def test_vit_shapes_round_trip(name: str, args: dict[str, Any]) -> None:
    weights = shapes(name, **args)
    found, found_args, native_px = vit_architecture(weights, ConvertOptions())
    assert found == name
    assert native_px == args.get("img_size", 224)
    rebuilt = shapes(found, **found_args, img_size=native_px)
    assert {n: v.shape for n, v in rebuilt.items()} == {n: v.shape for n, v in weights.items()}


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"]
)
def test_resnet_shapes_round_trip(name: str) -> None:
    weights = shapes(name)
    found, args, num_classes = resnet_architecture(weights)
    assert num_classes == 0
    rebuilt = shapes(found, **args)
    assert {n: v.shape for n, v in rebuilt.items()} == {n: v.shape for n, v in weights.items()}


def test_positions_of_the_same_grid_are_untouched_and_constants_stay_constant() -> None:
    positions = torch.randn(1, 17, 8)
    assert torch.equal(resample_positions(positions, grid=4, rule="dino"), positions)
    flat = torch.full((1, 17, 8), 0.25)
    for rule in ("dino", "plain"):
        larger = resample_positions(flat, grid=7, rule=rule)  # type: ignore[arg-type]
        assert larger.shape == (1, 50, 8)
        torch.testing.assert_close(larger, torch.full((1, 50, 8), 0.25))


def test_plain_rule_keeps_the_centre_of_symmetric_positions_and_dino_shifts_it() -> None:
    ramp = torch.linspace(-1, 1, 4)
    positions = torch.cat([torch.zeros(1), ramp.repeat(4)]).reshape(1, 17, 1)
    row = resample_positions(positions, grid=8, rule="plain")[0, 1:9, 0]
    torch.testing.assert_close(row, -row.flip(0))
    shifted = resample_positions(positions, grid=8, rule="dino")[0, 1:9, 0]
    assert float((shifted + shifted.flip(0)).abs().max()) > 1e-3


def test_grids_that_are_not_square_are_refused() -> None:
    weights = shapes("vit_tiny_patch16_224", img_size=(32, 64))
    with pytest.raises(CheckpointError, match="8 positions"):
        vit_architecture(weights, ConvertOptions())
