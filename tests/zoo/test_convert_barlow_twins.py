"""Barlow Twins' files give a timm ResNet of equal outputs."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.convert import build_converted, convert_content, detect_converter
from ssl_vision.zoo.convert_barlow_twins import convert_barlow_twins
from ssl_vision.zoo.converted import ConvertOptions

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class OfficialBarlowTwins(nn.Module):
    """Backbone, projector and the loss's batch norm under the authors' names."""

    def __init__(self) -> None:
        super().__init__()
        block = torchvision.models.resnet.Bottleneck
        self.backbone = torchvision.models.ResNet(block, [1, 1, 2, 1], num_classes=3)
        self.backbone.fc = nn.Identity()
        layers = [nn.Linear(2048, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 16)]
        self.projector = nn.Sequential(*layers)
        self.bn = nn.BatchNorm1d(16, affine=False)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["resnet50.pth", "checkpoint.pth"])
def test_backbone_file_and_full_checkpoint(randomised: Any, difference: Any, kind: str) -> None:
    official = randomised(OfficialBarlowTwins())
    content: dict[str, Any] = dict(official.backbone.state_dict())
    if kind == "checkpoint.pth":
        model = {f"module.{n}": v for n, v in official.state_dict().items()}
        content = {"epoch": 1000, "model": model, "optimizer": {}}
    name, converted = convert_content(content)
    assert name == "barlow_twins"
    model = build_converted(converted).model
    assert difference(model(IMAGES), official.backbone(IMAGES)) < 1e-5
    stages = model.forward_intermediates(IMAGES, intermediates_only=True)
    assert difference(stages[-1].mean(dim=(2, 3)), official.backbone(IMAGES)) < 1e-5
    expected = 0 if kind == "resnet50.pth" else 11  # 1 + 5 + 2 of the projector, 3 of the loss
    assert len(converted.heads) == expected


@torch.inference_mode()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_names_and_classifiers(name: str, randomised: Any, difference: Any) -> None:
    official = randomised(getattr(torchvision.models, name)(num_classes=7))
    converted = convert_barlow_twins(official.state_dict(), ConvertOptions())
    assert (converted.architecture, converted.num_classes) == (name, 7)
    assert converted.model_args == {}
    assert difference(build_converted(converted).model(IMAGES), official(IMAGES)) < 1e-5


def test_other_layouts_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not a ResNet"):
        convert_barlow_twins({"features.0.weight": torch.ones(1)}, ConvertOptions())
    with pytest.raises(CheckpointError, match="no converter knows"):
        detect_converter({"features.0.weight": torch.ones(1)})
