"""One string names weights everywhere; what it gives is what was stored."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import CheckpointError, ConfigError, SslVisionWarning
from ssl_vision.zoo.export import describe_backbone, export_backbone
from ssl_vision.zoo.weights import load_backbone, resolve_weights, split_options

INPUT: dict[str, Any] = {
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "interpolation": "bilinear",
    "size_px": 32,
}
TINY = "vit_tiny_patch16_224?pretrained=false&img_size=32&patch_size=8&depth=1"


def make_backbone(seed: int) -> Any:
    torch.manual_seed(seed)
    args = {"patch_size": 8, "depth": 1, "embed_dim": 64, "num_heads": 2}
    config = BackboneConfig(name="vit_tiny_patch16_224", args=args)
    return build_backbone(config, input_size=32)


def write_checkpoint(run: Path, step: int, seed: int, *, is_complete: bool = True) -> Any:
    """A training checkpoint that holds a student, a teacher and an optimizer."""
    student, teacher = make_backbone(seed + 100), make_backbone(seed)
    folder = run / f"checkpoints/step_{step:06d}"
    folder.mkdir(parents=True)
    prefix = "teacher.backbone.model."
    state = {f"backbone.model.{n}": v for n, v in student.model.state_dict().items()}
    state |= {f"{prefix}{n}": v for n, v in teacher.model.state_dict().items()}
    torch.save({"state_dict": state, "optimizer": {"lr": 0.1}}, folder / "state.pt")
    description = {**describe_backbone(teacher, **INPUT), "prefix": prefix}
    (folder / "backbone.json").write_text(json.dumps(description))
    if is_complete:
        (folder / "manifest.json").write_text("{}")
    return teacher


def is_same(found: Any, expected: Any) -> bool:
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        return torch.equal(found(images).pooled, expected.eval()(images).pooled)


def test_run_without_export_gives_the_newest_complete_checkpoints_teacher(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 5, seed=0)
    newest = write_checkpoint(tmp_path, 1_000_000, seed=1)
    write_checkpoint(tmp_path, 2_000_000, seed=2, is_complete=False)
    with pytest.warns(SslVisionWarning, match=r"no complete export/.*checkpoint, step_1000000\.$"):
        loaded = resolve_weights(tmp_path)
    assert is_same(loaded.backbone, newest)
    assert "step_1000000" in loaded.source
    assert (loaded.mean, loaded.std) == (INPUT["mean"], INPUT["std"])
    assert (loaded.interpolation, loaded.input_size, loaded.crop_pct) == ("bilinear", 32, 0.875)


def test_export_wins_over_checkpoints_and_hash_follows_the_tensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 5, seed=0)
    backbone = make_backbone(seed=7)
    export_backbone(backbone, tmp_path / "export", **INPUT)
    from_run, from_export = resolve_weights(tmp_path), resolve_weights(tmp_path / "export")
    assert is_same(from_run.backbone, backbone)
    assert from_run.sha256 == from_export.sha256
    assert not from_run.backbone.training
    write_checkpoint(tmp_path / "other", 5, seed=7)
    assert resolve_weights(tmp_path / "other").sha256 == from_run.sha256


def test_a_malicious_checkpoint_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 5, seed=0)

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"state_dict": {}, "x": Malicious()}, tmp_path / "checkpoints/step_000005/state.pt")
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        resolve_weights(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_random_timm_weights_are_seeded_and_sized() -> None:
    torch.manual_seed(3)
    first = resolve_weights(f"timm:{TINY}")
    torch.manual_seed(4)
    again, other = resolve_weights(f"timm:{TINY}"), resolve_weights(f"timm:{TINY}&seed=1")
    assert first.sha256 == again.sha256 != other.sha256
    assert first.input_size == 32
    assert first.mean == (0.5, 0.5, 0.5)
    assert load_backbone(f"timm:{TINY}")(torch.zeros(1, 3, 32, 32)).shape == (1, 192)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ("no/such/folder", ConfigError, "neither a folder nor zoo:NAME"),
        ("timm:vit_tinny_patch16_224", ConfigError, "Did you mean 'vit_tiny_patch16_224'"),
        ("timm:resnet18?pretrained=false&img_size=32", ConfigError, "img_size"),
        ("timm:resnet18?pretrained=maybe", ConfigError, "true or false"),
        ("timm:resnet18?pretrained", ConfigError, "key=value"),
        ("timm:resnet18?pretrained=false&seed=a", ConfigError, "whole number"),
    ],
)
def test_mistakes_are_explained(weights: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve_weights(weights)


def test_pretrained_without_network_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"\?pretrained=false"):
        resolve_weights("timm:resnet18")


def test_weights_of_a_hub_keep_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make_backbone(seed=3)
    snapshot = tmp_path / "models--me--demo/snapshots" / ("0" * 40)
    export_backbone(backbone, snapshot, **INPUT)
    (tmp_path / "models--me--demo/refs").mkdir()
    (tmp_path / "models--me--demo/refs/main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = resolve_weights("hf-hub:me/demo")
    assert is_same(loaded.backbone, backbone)
    assert loaded.mean == INPUT["mean"]
    export_backbone(loaded.backbone, tmp_path / "again", **INPUT)  # verified by rebuilding
    with pytest.raises(CheckpointError, match="hf-hub:me/absent"):
        resolve_weights("hf-hub:me/absent")
    config = json.loads((snapshot / "config.json").read_text())
    for setting in ("checkpoint_path", "cache_dir", "pretrained_cfg_overlay", "file"):
        changed = {**config, "model_args": {**config["model_args"], setting: "/etc/passwd"}}
        (snapshot / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=rf"hf-hub:me/demo: model_args\.{setting} is not a"):
            resolve_weights("hf-hub:me/demo")


def test_folder_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        resolve_weights(tmp_path)


def test_options_are_typed() -> None:
    name, options = split_options("a.b?x=1&y=false&z=dino&w=[1,2]")
    assert (name, options) == ("a.b", {"x": 1, "y": False, "z": "dino", "w": [1, 2]})
    assert split_options("plain") == ("plain", {})


@pytest.mark.parametrize("size", [32, 24, 64])
def test_positions_at_another_size_follow_the_run_wherever_it_is_read(
    size: int, tmp_path: Path
) -> None:
    backbone = make_backbone(0).eval()
    torch.nn.init.normal_(backbone.model.pos_embed)
    images = torch.randn(2, 3, size, size)
    export_backbone(backbone, tmp_path / "timm", **INPUT)
    assert "position_rule" not in (tmp_path / "timm/config.json").read_text()
    backbone.set_position_rule("dino")
    export_backbone(backbone, tmp_path / "dino", **INPUT)
    loaded = resolve_weights(tmp_path / "dino")
    with torch.inference_mode():
        expected = backbone(images).pooled
        assert torch.equal(loaded.backbone(images).pooled, expected)
        assert torch.equal(load_backbone(tmp_path / "dino")(images), expected)
        plain = timm.create_model(f"local-dir:{tmp_path / 'dino'}", pretrained=True).eval()
        by_timm = load_backbone(tmp_path / "timm")(images)
        assert torch.equal(plain(images), by_timm)
    assert torch.equal(by_timm, expected) == (size == 32)
    assert "position_rule" in (tmp_path / "dino/README.md").read_text()
    assert "position_rule" not in (tmp_path / "timm/README.md").read_text()
    # Written out once more from what was read, and copied, it still does.
    export_backbone(loaded.backbone, tmp_path / "again", **INPUT)
    copied = copy.deepcopy(load_backbone(tmp_path / "again"))
    torch.nn.init.zeros_(copied.pos_embed)  # a copy looks at its own positions
    with torch.inference_mode():
        assert torch.equal(load_backbone(tmp_path / "again")(images), expected)
        assert not torch.equal(copied(images), expected)


@pytest.mark.parametrize("rule", ["other", 3, None, ["dino"]])
def test_a_position_rule_that_cannot_be_is_an_error(rule: object, tmp_path: Path) -> None:
    export_backbone(make_backbone(0), tmp_path / "export", **INPUT)
    path = tmp_path / "export/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position_rule": rule}))
    with pytest.raises(CheckpointError, match="position_rule"):
        resolve_weights(tmp_path / "export")


@pytest.mark.parametrize("size", [[3, 24, 32], [3, 32, 24]])
def test_an_export_for_images_that_are_not_square_is_refused(tmp_path: Path, size: Any) -> None:
    export_backbone(make_backbone(seed=0), tmp_path, **INPUT)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"]["input_size"] = size
    path.write_text(json.dumps(config))
    words = rf"{size[-2]} x {size[-1]} px, which are not square"
    with pytest.raises(CheckpointError, match=words):
        resolve_weights(tmp_path)
    with pytest.raises(ConfigError, match=r"16 x 32 px, which are not square"):
        resolve_weights(f"timm:{TINY.replace('img_size=32', 'img_size=[16,32]')}")


def test_a_whole_export_is_taken_without_a_word(tmp_path: Path, recwarn: Any) -> None:
    write_checkpoint(tmp_path, 5, seed=0)
    export_backbone(make_backbone(seed=7), tmp_path / "export", **INPUT)
    resolve_weights(tmp_path)
    assert not [each for each in recwarn if issubclass(each.category, SslVisionWarning)]
