"""MAE's pre-trained and fine-tuned files give timm networks of equal outputs."""

from typing import Any

import pytest
import torch
from torch import nn

from ssl_vision.zoo.convert import build_converted, convert_content
from ssl_vision.zoo.convert_mae import convert_mae
from ssl_vision.zoo.converted import ConvertOptions

TOLERANCE = 1e-5
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DECODER = {
    "mask_token": torch.ones(1, 1, 8),
    "decoder_embed.weight": torch.ones(8, 192),
    "decoder_pos_embed": torch.ones(1, 17, 8),
    "decoder_blocks.0.norm1.weight": torch.ones(8),
}


@torch.inference_mode()
@pytest.mark.parametrize("decoder", [{}, DECODER], ids=["released", "with decoder"])
def test_pretrained_encoder(official_vit: Any, difference: Any, decoder: dict[str, Any]) -> None:
    official = official_vit()
    name, converted = convert_content({"model": {**official.state_dict(), **decoder}})
    assert name == "mae"
    assert converted.heads.keys() == decoder.keys()
    features, expected = build_converted(converted)(IMAGES), official.tokens(IMAGES)
    assert difference(features.pooled, expected[:, 0]) < TOLERANCE
    assert difference(features.patches, expected[:, 1:]) < TOLERANCE


@torch.inference_mode()
def test_huge_has_patches_of_14_and_heads_of_80(official_vit: Any, difference: Any) -> None:
    official = official_vit(width=1280, heads=16, depth=1, patch_px=14, side=28)
    converted = convert_mae({"model": official.state_dict()}, ConvertOptions())
    assert converted.architecture == "vit_huge_patch14_224"
    images = torch.randn(1, 3, 28, 28)
    found = build_converted(converted)(images).pooled
    assert difference(found, official.tokens(images)[:, 0]) < TOLERANCE


@torch.inference_mode()
def test_finetuned_on_mean_patches(official_vit: Any, difference: Any) -> None:
    official = official_vit()
    norm, head = nn.LayerNorm(192, eps=1e-6), nn.Linear(192, 10)
    nn.init.normal_(norm.weight)
    content = {name: v for name, v in official.state_dict().items() if not name.startswith("norm")}
    content |= {f"fc_norm.{n}": v for n, v in norm.state_dict().items()}
    content |= {f"head.{n}": v for n, v in head.state_dict().items()}
    name, converted = convert_content({"model": content})
    assert (name, converted.num_classes) == ("mae", 10)
    backbone = build_converted(converted)
    pooled = norm(official.hidden(IMAGES)[-1][:, 1:].mean(dim=1))
    assert difference(backbone(IMAGES).pooled, pooled) < TOLERANCE
    assert difference(backbone.model(IMAGES), head(pooled)) < TOLERANCE


@torch.inference_mode()
def test_finetuned_on_the_class_token(official_vit: Any, difference: Any) -> None:
    official, head = official_vit(), nn.Linear(192, 10)
    content = {**official.state_dict(), **{f"head.{n}": v for n, v in head.state_dict().items()}}
    backbone = build_converted(convert_mae({"model": content}, ConvertOptions()))
    expected = head(official.tokens(IMAGES)[:, 0])
    assert difference(backbone.model(IMAGES), expected) < TOLERANCE


@torch.inference_mode()
def test_other_sizes_follow_maes_own_rule(official_vit: Any, difference: Any) -> None:
    official = official_vit()
    converted = convert_mae({"model": official.state_dict()}, ConvertOptions(size_px=48))
    # MAE resamples the file's positions to the new grid, then uses the network at that size.
    grid = official.pos_embed[:, 1:].unflatten(1, (4, 4)).movedim(3, 1)
    grid = nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)
    positions = torch.cat([official.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    larger = official_vit(side=48)
    larger.load_state_dict({**official.state_dict(), "pos_embed": positions})
    images = torch.randn(2, 3, 48, 48)
    found = build_converted(converted)(images).pooled
    assert difference(found, larger.tokens(images)[:, 0]) < TOLERANCE


def test_outputs_of_the_authors_own_code(golden: Any, difference: Any) -> None:
    values = golden("mae")
    state = {
        name.removeprefix("full_state_"): torch.from_numpy(value).float()
        for name, value in values.items()
        if name.startswith("full_state_")
    }
    converted = convert_mae({"model": state}, ConvertOptions(num_heads=3))
    assert "decoder_pred.weight" in converted.heads
    backbone = build_converted(converted)
    # The encoder sees a quarter of the patches, those of lowest noise in that order.
    keep = torch.from_numpy(values["mask_noise"]).argsort(dim=1)[:, :4]
    images = torch.from_numpy(values["image"]).float()
    with torch.inference_mode():
        found = backbone.forward_visible(images, keep=keep)
    assert difference(found, torch.from_numpy(values["full_latent"]).float()) < TOLERANCE
