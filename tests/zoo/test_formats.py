"""Every form of an export gives the network's features in a process without this package."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.exported import read_export
from ssl_vision.zoo.formats import FORMATS, check_formats
from ssl_vision.zoo.verify import outputs_of

HAS_ONNX = all(importlib.util.find_spec(name) for name in FORMATS["onnx"].packages)
INPUT = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "interpolation": "bicubic", "size_px": 32}


@pytest.mark.slow
def test_all_forms_agree_and_the_card_has_the_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = {"patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 2}
    backbone = build_backbone(BackboneConfig(name="vit_tiny_patch16_224", args=args), input_size=32)
    formats = [name for name in FORMATS if name != "onnx" or HAS_ONNX]
    result = export_backbone(backbone, tmp_path / "export", **INPUT, formats=formats)
    assert len(result.checks) == 1 + len(formats)
    readme = (tmp_path / "export/README.md").read_text()
    for name in formats:
        assert FORMATS[name].about in readme
    assert readme.count("largest relative difference") == 1 + len(formats)
    assert (tmp_path / "export/model.pt2").exists()
    assert (tmp_path / "export/model.onnx").exists() == HAS_ONNX
    assert not list(tmp_path.glob(".*"))


def test_a_form_that_differs_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = build_backbone(BackboneConfig(name="resnet18"), input_size=32)

    def altered(folder: Path, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        return outputs_of(read_export(folder)[0].model, images) * 1.001

    altered_format = type(FORMATS["timm"])(altered, "altered")
    monkeypatch.setitem(FORMATS, "timm", altered_format)
    with pytest.raises(CheckpointError, match="as timm differs"):
        export_backbone(backbone, tmp_path / "export", **INPUT, formats=["timm"])
    assert list(tmp_path.iterdir()) == []


def test_unknown_forms_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="formats=tflite is unknown; known are timm"):
        check_formats(["timm", "tflite"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnxruntime; pip install 'ssl-vision\[onnx\]'"):
        check_formats(["onnx"])
