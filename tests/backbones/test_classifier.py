"""The classifier on a backbone is timm's own."""

import pytest
import torch

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.classifier import (
    add_classifier,
    classifier_from,
    classifier_names,
    classify,
    freeze_all_but_classifier,
)
from ssl_vision.errors import ConfigError

VIT = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
FAMILIES = ["vit_tiny_patch16_224", "resnet10t", "convnext_atto", "pvt_v2_b0"]


def _network(name: str, **args: object) -> Backbone:
    torch.manual_seed(0)
    config = BackboneConfig(name=name, args=(VIT if name.startswith("vit") else {}) | args)
    return build_backbone(config, input_size=32).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_the_timm_model_and_features_stay(name: str) -> None:
    backbone, images = _network(name), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = backbone(images).pooled
        add_classifier(backbone, num_classes=5, std=0.02)
        assert torch.equal(backbone(images).pooled, before)
        scores = classify(backbone, before)
        assert scores.shape == (2, 5)
        assert torch.equal(scores, backbone.model(images))


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_classifier_stays_trainable(name: str) -> None:
    backbone = _network(name)
    add_classifier(backbone, num_classes=5, std=0.02)
    freeze_all_but_classifier(backbone)
    trainable = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == classifier_names(backbone)
    assert len(trainable) == 2


def test_weights_start_with_the_asked_deviation() -> None:
    backbone = _network("vit_tiny_patch16_224", embed_dim=96)
    add_classifier(backbone, num_classes=100, std=2e-5)
    head = backbone.model.head
    assert head.weight.std().item() == pytest.approx(2e-5, rel=0.05)
    assert head.bias.abs().max() == 0


def test_a_classifier_from_weights_pools_as_asked() -> None:
    source = _network("vit_tiny_patch16_224")
    target = classifier_from(
        source, num_classes=5, std=0.02, drop_path=0.1, global_pool="avg", input_size=32
    )
    assert target.model.global_pool == "avg"
    assert source.model.global_pool == "token"
    assert torch.equal(target.model.pos_embed, source.model.pos_embed)


def test_two_classifiers_are_refused() -> None:
    backbone = _network("deit_tiny_distilled_patch16_224", depth=1)
    with pytest.raises(ConfigError, match="two classifiers"):
        add_classifier(backbone, num_classes=5, std=0.02)
