"""`export` takes any WEIGHTS to a verified folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from ssl_vision.backbones.classifier import add_classifier, add_head_layers
from ssl_vision.commands.export import export
from ssl_vision.commands.main import main
from ssl_vision.errors import ConfigError
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.exported import read_card, read_config
from ssl_vision.zoo.formats import FORMATS
from ssl_vision.zoo.verify import outputs_of
from ssl_vision.zoo.weights import resolve_weights

TINY = "timm:vit_tiny_patch16_224?pretrained=false&img_size=32&patch_size=8&depth=1"
INPUT = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "interpolation": "bilinear", "size_px": 32}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """An export as a run leaves it."""
    card = ModelCard(method="dino", data="mnist5k", license="cc0-1.0", steps=10)
    export_backbone(resolve_weights(TINY).backbone, tmp_path / "run/export", **INPUT, card=card)
    return tmp_path / "run"


@pytest.fixture
def reload_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reload timm's form in this process; new ones are tests/zoo/test_formats.py's business."""

    def reload(folder: Path, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        return outputs_of(timm.create_model(f"local-dir:{folder}", pretrained=True), images)

    monkeypatch.setitem(FORMATS, "timm", replace(FORMATS["timm"], write_and_reload=reload))


def test_command_writes_and_verifies(
    reload_here: None, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), str(tmp_path / "out"), "title=Mine"]) == 0
    out = capsys.readouterr().out
    assert "timm alone, new process: largest relative difference" in out
    images = torch.randn(2, 3, 32, 32)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        expected = resolve_weights(trained).backbone(images).pooled
        assert torch.equal(model(images), expected)


def test_what_is_known_of_the_weights_goes_along(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "out", formats=(), license="mit")
    card = read_card(read_config(tmp_path / "out"))
    assert (card.method, card.data, card.license, card.steps) == ("dino", "mnist5k", "mit", 10)
    config = read_config(tmp_path / "out")["pretrained_cfg"]
    assert (config["mean"], config["interpolation"]) == ([0.1] * 3, "bilinear")


def test_half_precision_is_smaller(trained: Path, tmp_path: Path) -> None:
    full = export(trained, tmp_path / "full", formats=())
    half = export(trained, tmp_path / "half", formats=(), dtype="bfloat16")
    assert half.num_bytes < 0.6 * full.num_bytes


def test_mistakes(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="dtype=int8 must be one of float32"):
        export(trained, tmp_path / "out", dtype="int8")
    assert main(["export", str(trained)]) == 2
    assert "usage: ssl-vision export WEIGHTS OUT" in capsys.readouterr().err
    assert main(["export", str(trained), str(tmp_path / "out"), "formats=coreml"]) == 2
    assert "formats=coreml is unknown" in capsys.readouterr().err


def test_a_projection_head_goes_along_also_with_exports_of_exports(tmp_path: Path) -> None:
    heads = {"projector.layers.0.0.weight": torch.randn(3, 4)}
    export_backbone(resolve_weights(TINY).backbone, tmp_path / "a/export", **INPUT, heads=heads)
    for source, out in (("a", "b"), ("b", "c")):
        export(tmp_path / source, tmp_path / out, formats=())
    found = load_file(tmp_path / "c/heads.safetensors")
    assert found.keys() == heads.keys()
    assert torch.equal(found["projector.layers.0.0.weight"], heads["projector.layers.0.0.weight"])


@pytest.mark.parametrize("is_kept", [True, False])
def test_logits_of_a_classifier_on_head_layers_leave_by_torch_export(
    tmp_path: Path, is_kept: bool
) -> None:
    backbone = resolve_weights(TINY).backbone
    add_classifier(backbone, num_classes=3, std=0.5)
    add_head_layers(backbone, num_layers=1)
    backbone.eval()
    names = ("ant", "bee", "cat")
    export_backbone(backbone, tmp_path / "run", **INPUT, class_names=names)
    export(tmp_path / "run", tmp_path / "out", formats=("torch_export",), classifier=is_kept)
    extra = {"class_names": ""}
    program = torch.export.load(tmp_path / "out/model.pt2", extra_files=extra)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        pooled = backbone(images).pooled
        assert backbone.head_layers is not None
        scores = backbone.model.get_classifier()(backbone.head_layers(pooled))
        found = program.module()(images)
    torch.testing.assert_close(found, scores if is_kept else pooled, rtol=1e-4, atol=1e-5)
    assert json.loads(extra["class_names"]) == (list(names) if is_kept else None)
    assert (tmp_path / "out/heads.safetensors").is_file() == is_kept
