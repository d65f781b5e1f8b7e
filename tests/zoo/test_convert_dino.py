"""DINO's files give timm networks of equal outputs."""

import argparse
from typing import Any

import pytest
import timm
import torch
import torchvision

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.convert import build_converted, convert_content, detect_converter
from ssl_vision.zoo.convert_dino import convert_dino, convert_linear_head, head_features
from ssl_vision.zoo.converted import ConvertOptions

TOLERANCE = 1e-5
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def prefixed(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in tensors.items()}


@torch.inference_mode()
@pytest.mark.parametrize(
    ("width", "heads", "patch_px"), [(192, 3, 8), (192, 3, 16), (384, 6, 8), (96, 2, 4)]
)
def test_vit_backbone_file(
    official_vit: Any, difference: Any, width: int, heads: int, patch_px: int
) -> None:
    official = official_vit(width=width, heads=heads, patch_px=patch_px)
    options = ConvertOptions(num_heads=heads)
    name, converted = convert_content(dict(official.state_dict()), options=options)
    assert name == "dino"
    backbone = build_converted(converted)
    expected = official.tokens(IMAGES)
    features = backbone(IMAGES)
    assert difference(features.pooled, expected[:, 0]) < TOLERANCE
    assert difference(features.patches, expected[:, 1:]) < TOLERANCE


@torch.inference_mode()
def test_attention_of_the_last_block(official_vit: Any, difference: Any) -> None:
    official = official_vit()
    model = build_converted(convert_dino(official.state_dict(), ConvertOptions())).model
    before = official.hidden(IMAGES)[-2]
    last = official.blocks[-1]
    expected, _ = last.attn.weights_and_values(last.norm1(before))

    attention = model.blocks[-1].attn
    tokens = model.blocks[-1].norm1(before)
    q, k, _ = attention.qkv(tokens).unflatten(2, (3, attention.num_heads, -1)).unbind(2)
    found = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * attention.scale).softmax(dim=-1)
    assert difference(found, expected) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(("key", "prefix"), [("teacher", "backbone."), ("student", "")])
def test_full_checkpoint(official_vit: Any, difference: Any, key: str, prefix: str) -> None:
    teacher, student = official_vit(), official_vit(depth=6)
    head = {"head.last_layer.weight_g": torch.ones(7, 1)}
    content = {
        "student": prefixed(prefixed(student.state_dict(), "backbone.") | head, "module."),
        "teacher": prefixed(teacher.state_dict(), "backbone.") | head,
        "optimizer": {},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_tiny"),
        "dino_loss": {"center": torch.zeros(1, 7)},
    }
    assert detect_converter(content) == "dino"
    converted = convert_dino(content, ConvertOptions(key=key))
    assert list(converted.heads) == ["head.last_layer.weight_g"]
    expected = {"teacher": teacher, "student": student}[key].tokens(IMAGES)[:, 0]
    assert difference(build_converted(converted)(IMAGES).pooled, expected) < TOLERANCE
    by_default = convert_dino(content, ConvertOptions())
    assert torch.equal(by_default.weights["cls_token"], teacher.cls_token)


@torch.inference_mode()
@pytest.mark.parametrize("side", [16, 48, 64])
def test_other_sizes_follow_dinos_rule_or_timms(
    official_vit: Any, difference: Any, side: int
) -> None:
    official = official_vit()
    images = torch.randn(2, 3, side, side)
    content = dict(official.state_dict())
    expected = official.tokens(images)
    exact = convert_dino(content, ConvertOptions(size_px=side))
    assert exact.size_px == side
    assert difference(build_converted(exact)(images).pooled, expected[:, 0]) < TOLERANCE
    loose = build_converted(convert_dino(content, ConvertOptions(size_px=side, pos_interp="timm")))
    assert difference(loose(images).pooled, expected[:, 0]) > 1e-4  # timm antialiases
    assert difference(loose(IMAGES).pooled, official.tokens(IMAGES)[:, 0]) < TOLERANCE


@torch.inference_mode()
def test_resnet_backbone_and_full_checkpoint(randomised: Any, difference: Any) -> None:
    blocks = [1, 2, 1, 1]
    official = randomised(
        torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, blocks, num_classes=4)
    )
    official.fc = torch.nn.Identity()
    bare = dict(official.state_dict())
    # Networks with batch norm keep `module.` in the teacher, too.
    full = {
        "student": prefixed(bare, "module.backbone."),
        "teacher": prefixed(bare, "module.backbone."),
        "dino_loss": {},
    }
    for content in (bare, full):
        model = build_converted(convert_dino(content, ConvertOptions())).model
        assert difference(model(IMAGES), official(IMAGES)) < TOLERANCE


@torch.inference_mode()
def test_linear_heads_of_four_blocks_and_of_class_token_with_mean(
    official_vit: Any, difference: Any
) -> None:
    official = official_vit(width=96, heads=3)
    backbone = build_converted(convert_dino(official.state_dict(), ConvertOptions(num_heads=3)))
    layers = [official.norm(tokens) for tokens in official.hidden(IMAGES)]
    linear = torch.nn.Linear(4 * 96, 5)
    released = {"state_dict": prefixed(linear.state_dict(), "module.linear.")}
    head = convert_linear_head(released, features="cls4")
    features = head_features(backbone.model, IMAGES, features="cls4")
    expected = linear(torch.cat([tokens[:, 0] for tokens in layers[-4:]], dim=-1))
    found = torch.nn.functional.linear(features, head["linear.weight"], head["linear.bias"])
    assert difference(found, expected) < TOLERANCE

    # ViT-B: [CLS] and mean patch are stacked on a new last axis, which flattening interleaves.
    linear = torch.nn.Linear(2 * 96, 5)
    released = {"state_dict": prefixed(linear.state_dict(), "module.linear.")}
    last = layers[-1]
    stacked = torch.cat([last[:, 0, :, None], last[:, 1:].mean(dim=1)[:, :, None]], dim=-1)
    expected = linear(stacked.flatten(1))
    head = convert_linear_head(released, features="cls_mean")
    features = head_features(backbone.model, IMAGES, features="cls_mean")
    found = torch.nn.functional.linear(features, head["linear.weight"], head["linear.bias"])
    assert difference(found, expected) < 2e-5
    naive = torch.nn.functional.linear(features, linear.weight, linear.bias)
    assert difference(naive, expected) > 0.1  # what concatenating without the repair gives


@pytest.mark.parametrize(
    ("width", "depth", "patch_px", "name"),
    [
        (384, 12, 16, "vit_small_patch16_224"),
        (384, 12, 8, "vit_small_patch8_224"),
        (768, 12, 16, "vit_base_patch16_224"),
        (768, 12, 8, "vit_base_patch8_224"),
    ],
)
def test_released_sizes_are_plain_timm_names(
    width: int, depth: int, patch_px: int, name: str
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    weights = model.state_dict()
    assert weights["patch_embed.proj.weight"].shape == (width, 3, patch_px, patch_px)
    converted = convert_dino(weights, ConvertOptions())
    assert converted.architecture == name
    assert converted.model_args == {"img_size": 224, "dynamic_img_size": True}
    assert len(model.blocks) == depth


def test_wrong_requests_are_explained(official_vit: Any) -> None:
    content = dict(official_vit().state_dict())
    with pytest.raises(ConfigError, match="key=student"):
        convert_dino(content, ConvertOptions(key="student"))
    with pytest.raises(ConfigError, match="size_px=30"):
        convert_dino(content, ConvertOptions(size_px=30))
    with pytest.raises(ConfigError, match="num_heads=5"):
        convert_dino(content, ConvertOptions(num_heads=5))
    with pytest.raises(CheckpointError, match="no 'nobody'"):
        convert_dino({"teacher": {}, "student": {}}, ConvertOptions(key="nobody"))
    with pytest.raises(CheckpointError, match="not a linear head"):
        convert_linear_head({"state_dict": {"a": torch.ones(1)}}, features="cls4")
    with pytest.raises(ConfigError, match="width has no effect"):
        convert_content(content, options=ConvertOptions(width=3))
