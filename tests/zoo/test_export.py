"""An export is what stock timm makes of it: same outputs, the run's own preprocessing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.exported import read_card, read_config, read_export
from ssl_vision.zoo.hashes import sha256_of

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
INPUT = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "size_px": 32, "crop_pct": 0.9}
TINY = {
    "vit_tiny_patch16_224": {"patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 2},
    "resnet18": {},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 24,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 2,
    },
    "convnext_atto": {"depths": [1, 1, 1, 1]},
}


def tiny(name: str = "vit_tiny_patch16_224", in_chans: int = 3, **args: object) -> Backbone:
    torch.manual_seed(0)
    config = BackboneConfig(name=name, args={**TINY[name], **args}, in_chans=in_chans)
    backbone = build_backbone(config, input_size=32)
    for parameter in backbone.parameters():  # no zero-initialised branch may hide a lost weight
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


@pytest.mark.parametrize("name", TINY)
def test_timm_gives_the_same_features_and_the_runs_own_preprocessing(
    name: str, tmp_path: Path
) -> None:
    backbone = tiny(name)
    backbone.train()
    result = export_backbone(backbone, tmp_path / "export", **INPUT)
    assert backbone.training  # exporting changes nothing
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = backbone.eval()(images).pooled
        assert torch.equal(model(images), expected)
    data = timm.data.resolve_model_data_config(model)
    assert (tuple(data["mean"]), tuple(data["std"])) == (MEAN, STD)
    assert (data["interpolation"], data["crop_pct"]) == ("bilinear", 0.9)
    assert tuple(data["input_size"]) == (3, 32, 32)
    assert result.sha256 == sha256_of(tmp_path / "export/model.safetensors")
    assert "0.0e+00" in result.checks["reloaded"]


def test_users_can_add_a_head_take_feature_maps_and_other_sizes(tmp_path: Path) -> None:
    backbone = tiny().eval()
    export_backbone(backbone, tmp_path / "export", **INPUT)
    source = f"local-dir:{tmp_path / 'export'}"
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        assert timm.create_model(source, pretrained=True, num_classes=5)(images).shape == (2, 5)
        options = {"features_only": True, "out_indices": (0, 1)}
        maps = timm.create_model(source, pretrained=True, **options)(images)
        assert maps[-1].shape == (2, 64, 6, 6)
        larger = timm.create_model(source, pretrained=True, img_size=48).eval()
        assert larger(images).shape == (2, 64)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_numbers_of_channels_keep_their_first_layer(in_chans: int, tmp_path: Path) -> None:
    backbone = tiny(in_chans=in_chans).eval()
    spec = {**INPUT, "mean": [0.5] * in_chans, "std": [0.5] * in_chans}
    export_backbone(backbone, tmp_path / "export", **spec)
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    images = torch.randn(2, in_chans, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), backbone(images).pooled)


def test_the_card_and_heads_lie_beside_the_weights(tmp_path: Path) -> None:
    card = ModelCard(
        method="dino", license="cc0-1.0", metrics={"kNN": "0.9 ± 0.1"}, steps=1200, notes=("a",)
    )
    heads = {"prototypes": torch.randn(4, 8)}
    export_backbone(tiny(), tmp_path / "export", **INPUT, card=card, heads=heads)
    names = sorted(path.name for path in (tmp_path / "export").iterdir())
    assert names == ["README.md", "config.json", "heads.safetensors", "model.safetensors"]
    readme = (tmp_path / "export/README.md").read_text()
    for words in ("license: cc0-1.0", "0.9 ± 0.1", "1,200", "| reloaded |", "dino"):
        assert words in readme
    assert read_card(read_config(tmp_path / "export")) == card


def test_others_can_read_an_export(tmp_path: Path) -> None:
    export_backbone(tiny(), tmp_path / "export", **INPUT)
    mask = os.umask(0)
    os.umask(mask)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "export").iterdir()}
    assert modes == {0o666 & ~mask}


def test_masks_and_tokens_of_training_stay_out(tmp_path: Path) -> None:
    backbone = tiny()
    backbone.add_mask_token()
    export_backbone(backbone, tmp_path / "export", **INPUT)
    reloaded, _ = read_export(tmp_path / "export")
    assert reloaded.model.state_dict().keys() == backbone.model.state_dict().keys()
    assert not any("mask" in name for name in reloaded.model.state_dict())


def test_half_precision_is_judged_by_direction(tmp_path: Path) -> None:
    backbone = tiny()
    full = export_backbone(backbone, tmp_path / "full", **INPUT)
    half = export_backbone(backbone, tmp_path / "half", **INPUT, dtype=torch.float16)
    assert half.num_bytes < 0.55 * full.num_bytes
    assert "cosine" in half.checks["reloaded"]


def test_exports_replace_exports_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    first = export_backbone(tiny(), folder, **INPUT)
    second = export_backbone(tiny(depth=1), folder, **INPUT)
    assert first.sha256 != second.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["export"]  # nothing left beside it
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="which export did not write"):
        export_backbone(tiny(), tmp_path / "photos", **INPUT)


def test_a_failed_export_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    first = export_backbone(tiny(), folder, **INPUT)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        export_backbone(tiny(depth=1), folder, **INPUT)
    assert sha256_of(folder / "model.safetensors") == first.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_incomplete_or_mismatched_folders_are_explained(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export_backbone(tiny(), folder, **INPUT)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"12 missing \(blocks\.2"):
        read_export(folder)
    config["architecture"] = "vit_tinny_patch16_224"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="Did you mean 'vit_tiny_patch16_224'"):
        read_export(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no usable JSON"):
        read_export(folder)


def test_a_config_asks_for_no_more_than_its_weights_can_fill(tmp_path: Path) -> None:
    export_backbone(tiny(), tmp_path, **INPUT)
    config = json.loads((tmp_path / "config.json").read_text())
    for args in ({"embed_dim": 32768}, {"depth": 20000}, {"num_heads": 7}):
        changed = {**config, "model_args": {**config["model_args"], **args}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=r"config\.json: model_args") as caught:
            read_export(tmp_path)
        assert "\n" not in str(caught.value)


SHAPES: dict[str, object] = {
    "architecture": 7, "model_args": [1], "num_classes": -1, "card": {"metrics": []},
    "pretrained_cfg": [], "pretrained_cfg.mean": ["x"], "pretrained_cfg.std": [0.0],
    "pretrained_cfg.input_size": [3, 0, 32], "pretrained_cfg.crop_pct": "all",
    "pretrained_cfg.classifier": [1], "pretrained_cfg.license": {"a": 1}, "pretrained_cfg.tag": 3,
    "pretrained_cfg.crop_pct ": 10**400,
}  # fmt: skip


@pytest.mark.parametrize("key", list(SHAPES))
def test_values_of_other_types_in_a_config_are_named(tmp_path: Path, key: str) -> None:
    export_backbone(tiny(), tmp_path, **INPUT)
    config = json.loads((tmp_path / "config.json").read_text())
    *above, name = key.strip().split(".")
    (config[above[0]] if above else config)[name] = SHAPES[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=rf"config\.json: {key.strip()} has a value that cannot be"
    ):
        read_export(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    export_backbone(tiny(), tmp_path, **INPUT)
    weights = load_file(tmp_path / "model.safetensors")
    name = sorted(weights)[3]
    weights[name].view(-1)[-1] = value
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"1 of {len(weights)} tensors .* first {name}"):
        read_export(tmp_path)


def test_finite_weights_whose_sum_overflows_are_loaded(tmp_path: Path) -> None:
    export_backbone(tiny(), tmp_path, **INPUT)
    weights = load_file(tmp_path / "model.safetensors")
    weights["norm.weight"][:] = 3e38
    save_file(weights, tmp_path / "model.safetensors")
    backbone, _ = read_export(tmp_path)
    assert torch.equal(backbone.model.norm.weight, weights["norm.weight"])


_WRITE = """
import sys
from tests.zoo.test_export import INPUT, tiny
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.export import export_backbone
card = ModelCard(steps=7)
export_backbone(tiny(), sys.argv[1], **INPUT, card=card, heads={"h": tiny().model.norm.weight})
"""


def test_equal_weights_make_equal_files_in_any_process(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    for name in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": name, "PYTHONPATH": root}
        subprocess.run(
            [sys.executable, "-c", _WRITE, str(tmp_path / name)], env=environment, check=True
        )
    for file in ("model.safetensors", "heads.safetensors"):
        assert len({(tmp_path / name / file).read_bytes() for name in "12"}) == 1
    with safe_open(tmp_path / "1/model.safetensors", "pt") as read:  # the library's own reader
        assert read.metadata()["step"] == "7"
    wanted = tiny().model.state_dict()
    found = load_file(tmp_path / "1/model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_what_killed_exports_left_is_removed_and_what_lives_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".export.{dead.pid}.partial").mkdir()
    (tmp_path / f".export.{os.getppid()}.partial").mkdir()
    (tmp_path / f".other.{dead.pid}.partial").mkdir()
    (tmp_path / f".export.{dead.pid}.old").mkdir()
    export_backbone(tiny(), tmp_path / "export", **INPUT)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"export", f".export.{os.getppid()}.partial", f".other.{dead.pid}.partial"}
