"""A file of official layout becomes a folder that timm opens."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.convert import CONVERTERS, convert_file
from ssl_vision.zoo.converted import ConvertOptions
from ssl_vision.zoo.weights import load_backbone, resolve_weights

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_file_to_folder_with_a_linear_head(
    official_vit: Any, difference: Any, tmp_path: Path
) -> None:
    official, linear = official_vit(), nn.Linear(4 * 192, 5)
    torch.save(official.state_dict(), tmp_path / "dino.pth")
    head = {f"module.linear.{n}": v for n, v in linear.state_dict().items()}
    torch.save({"state_dict": head}, tmp_path / "linear.pth")
    convert_file(
        tmp_path / "dino.pth",
        tmp_path / "out",
        head=tmp_path / "linear.pth",
        head_features="cls4",
    )
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert difference(model(IMAGES), official.tokens(IMAGES)[:, 0]) < 1e-5
    data = timm.data.resolve_model_data_config(model)
    assert tuple(data["mean"]) == (0.485, 0.456, 0.406)
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", 0.875)
    assert load_file(tmp_path / "out/heads.safetensors")["linear.weight"].shape == (5, 768)
    assert "sha256" in (tmp_path / "out/README.md").read_text()


@torch.inference_mode()
def test_classifiers_stay_for_timm_and_leave_backbones(
    official_vit: Any, difference: Any, tmp_path: Path
) -> None:
    official, head = official_vit(), nn.Linear(192, 10)
    model = {**official.state_dict(), **{f"head.{n}": v for n, v in head.state_dict().items()}}
    content = {"model": model, "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "deit.pth", _use_new_zipfile_serialization=False)
    convert_file(tmp_path / "deit.pth", tmp_path / "out")
    pooled = official.tokens(IMAGES)[:, 0]
    classifier = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert difference(classifier(IMAGES), head(pooled)) < 1e-5
    assert difference(load_backbone(tmp_path / "out")(IMAGES), pooled) < 1e-5
    assert resolve_weights(tmp_path / "out").input_size == 32


def test_malicious_files_are_not_converted(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"cls_token": torch.ones(1), "x": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        convert_file(tmp_path / "evil.pth", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


def test_mistakes_are_explained(official_vit: Any, tmp_path: Path) -> None:
    weights = official_vit().state_dict()
    torch.save(weights, tmp_path / "dino.pth")
    torch.save({k: v for k, v in weights.items() if "norm1" not in k}, tmp_path / "part.pth")
    with pytest.raises(ConfigError, match=r"must be auto or one of poa, .*dino, mae"):
        convert_file(tmp_path / "dino.pth", tmp_path / "out", converter="dyno")
    with pytest.raises(ConfigError, match="go together"):
        convert_file(tmp_path / "dino.pth", tmp_path / "out", head=tmp_path / "dino.pth")
    with pytest.raises(ConfigError, match="pos_interp"):
        ConvertOptions(pos_interp="cubic")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"10 missing \(blocks\.0\.norm1\.bias"):
        convert_file(tmp_path / "part.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_converter_says_what_it_is_for() -> None:
    for entry in CONVERTERS.values():
        assert entry.about
        ConvertOptions()
        assert all(hasattr(ConvertOptions(), name) for name in entry.options)
