"""What a pretrained network hands to the one that is fine-tuned."""

from typing import Any

import pytest
import torch

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.transfer import transfer_weights
from ssl_vision.errors import CheckpointError

VIT = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}


def _network(seed: int, *, size_px: int = 32, name: str = "", **args: Any) -> Backbone:
    torch.manual_seed(seed)
    config = BackboneConfig(name=name or "vit_tiny_patch16_224", args={} if name else VIT | args)
    return build_backbone(config, input_size=size_px).eval()


@pytest.mark.parametrize("name", ["", "resnet10t", "pvt_v2_b0"])
def test_features_are_the_sources(name: str) -> None:
    source, target = _network(0, name=name), _network(1, name=name)
    target.model.reset_classifier(7)
    classifier = target.model.get_classifier().weight.clone()
    report = transfer_weights(source, target)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(source(images).pooled, target(images).pooled)
    assert torch.equal(target.model.get_classifier().weight, classifier)
    assert len(report.fresh) == 2
    assert report.dropped == ()


def test_mean_pooling_gets_a_fresh_norm_and_the_rest() -> None:
    source, target = _network(0), _network(1, global_pool="avg")
    report = transfer_weights(source, target)
    assert report.fresh == ("fc_norm.bias", "fc_norm.weight")
    assert report.dropped == ("norm.bias", "norm.weight")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = source.model.blocks(source.embed(images))
        expected = torch.nn.functional.layer_norm(tokens[:, 1:].mean(dim=1), (24,), eps=1e-6)
        torch.testing.assert_close(target(images).pooled, expected)


def test_positions_are_resampled_to_another_image_size() -> None:
    source, target = _network(0, size_px=32), _network(1, size_px=64)
    transfer_weights(source, target)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # the source resamples its positions in the forward pass
        torch.testing.assert_close(
            source(images).pooled, target(images).pooled, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("args", [{"depth": 3}, {"embed_dim": 48}, {"qk_norm": True}])
def test_other_networks_are_refused_by_name(args: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"set backbone\.name and backbone\.args"):
        transfer_weights(_network(0), _network(1, **args))
