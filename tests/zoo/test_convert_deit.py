"""SMMix's DeiT checkpoints give timm classifiers of equal logits."""

import argparse
from typing import Any

import pytest
import torch
from torch import nn

from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.convert import build_converted, convert_content
from ssl_vision.zoo.converted import ConvertOptions

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_training_checkpoint_without_its_token_head(official_vit: Any, difference: Any) -> None:
    official, head, token_head = official_vit(), nn.Linear(192, 10), nn.Linear(192, 10)
    model = {
        **official.state_dict(),
        **{f"head.{n}": v for n, v in head.state_dict().items()},
        **{f"token_head.{n}": v for n, v in token_head.state_dict().items()},
    }
    content = {"model": model, "epoch": 299, "args": argparse.Namespace(model="deit_tiny")}
    name, converted = convert_content(content)
    assert (name, converted.architecture) == ("deit", "deit_tiny_patch16_224")
    assert sorted(converted.heads) == ["token_head.bias", "token_head.weight"]
    backbone, expected = build_converted(converted), official.tokens(IMAGES)[:, 0]
    assert difference(backbone.model(IMAGES), head(expected)) < 1e-5
    assert difference(backbone(IMAGES).pooled, expected) < 1e-5


def test_networks_timm_lacks_are_named() -> None:
    pvt = {"cls_token": torch.ones(1), "patch_embed1.proj.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match="PVT v1"):
        convert_content({"model": {**pvt, "head.weight": torch.ones(1)}})


def test_distilled_networks_are_named(official_vit: Any) -> None:
    model = {**official_vit().state_dict(), "head.weight": torch.ones(10, 192)}
    with pytest.raises(CheckpointError, match="dist_token"):
        convert_content({"model": {**model, "dist_token": torch.ones(1, 1, 192)}})


def test_logits_of_the_authors_own_code(golden: Any, difference: Any) -> None:
    values = {n: torch.from_numpy(v) for n, v in golden("smmix").items() if n.startswith("step_")}
    state = {n.removeprefix("step_state_"): v.float() for n, v in values.items() if "_state_" in n}
    name, converted = convert_content({"model": state}, options=ConvertOptions(num_heads=3))
    assert name == "deit"
    with torch.inference_mode():
        found = build_converted(converted).model(values["step_images"].float())
    assert difference(found, values["step_unmixed_logits"].float()) < 1e-5
