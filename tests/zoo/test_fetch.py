"""`zoo:name` works wherever WEIGHTS is taken: fetched, checked, converted, cached."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.fetch import fetch_export, fetch_file
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.index import find_entry, load_index
from ssl_vision.zoo.weights import resolve_weights

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def official(official_vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A network published as zoo entries, on a mirror that is a folder; no network anywhere."""
    network, teacher = official_vit(), official_vit(depth=6)
    mirror = tmp_path / "mirror/example.org"
    mirror.mkdir(parents=True)
    torch.save(network.state_dict(), mirror / "a.pth")
    names = {"backbone." + n: v for n, v in teacher.state_dict().items()}
    torch.save({"teacher": names, "student": names, "dino_loss": {}}, mirror / "full.pth")
    entry = {
        "method": "dino",
        "backbone": {"timm": "vit_tiny_patch16_224"},
        "files": {
            "backbone": {"url": "https://example.org/a.pth", "converter": "dino"},
            "full": {"url": "https://example.org/full.pth", "converter": "dino", "key": "teacher"},
        },
        "input": {},
        "license": "cc-by-nc-4.0",
        "origin": {"repo": "a/b"},
        "data": "nothing",
        "status": "verified_layout",
        "metrics": {"d": {"knn": 1.0, "source": "README"}},
    }
    pinned = {**entry, "files": {"backbone": {**entry["files"]["backbone"], "sha256": "0" * 64}}}
    models = {"a_model": entry, "pinned": pinned, "no": {**entry, "status": "unsupported"}}
    index = tmp_path / "index.yaml"
    index.write_text(yaml.safe_dump({"schema": 1, "models": models}))
    monkeypatch.setenv("SSL_VISION_ZOO_INDEX", str(index))
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SSL_VISION_MIRROR", (tmp_path / "mirror").as_uri())
    monkeypatch.setenv("SSL_VISION_OFFLINE", "1")
    load_index.cache_clear()
    yield network, teacher
    load_index.cache_clear()


@torch.inference_mode()
def test_name_to_backbone(official: Any, difference: Any) -> None:
    network, teacher = official
    loaded = resolve_weights("zoo:a_model")
    assert difference(loaded.backbone(IMAGES).pooled, network.tokens(IMAGES)[:, 0]) < 1e-5
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.source == "zoo:a_model"
    full = resolve_weights("zoo:a_model?file=full")
    assert difference(full.backbone(IMAGES).pooled, teacher.tokens(IMAGES)[:, 0]) < 1e-5
    larger = resolve_weights("zoo:a_model?size_px=48")
    assert larger.input_size == 48
    images = torch.randn(1, 3, 48, 48)
    assert difference(larger.backbone(images).pooled, network.tokens(images)[:, 0]) < 1e-5


def test_conversions_are_cached_by_content_and_options(
    official: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fetch_export("a_model", {})
    assert "cc-by-nc-4.0" in (first / "README.md").read_text()
    assert "is trusted and remembered" in caplog.text
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert fetch_export("a_model", {}) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert fetch_export("a_model", {"size_px": 48}) != first


def test_mistakes_are_explained(official: Any) -> None:
    with pytest.raises(ConfigError, match="no file=linear; it has backbone, full"):
        resolve_weights("zoo:a_model?file=linear")
    with pytest.raises(ConfigError, match="size is not an option; known are key, size_px"):
        resolve_weights("zoo:a_model?size=48")
    with pytest.raises(ConfigError, match="cannot be converted"):
        resolve_weights("zoo:no")
    with pytest.raises(ConfigError, match="Did you mean 'a_model'"):
        resolve_weights("zoo:a_modle")
    with pytest.raises(CheckpointError, match="instead of 000"):
        resolve_weights("zoo:pinned")


def test_weights_of_the_repository_are_checked_by_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    backbone = resolve_weights(
        "timm:vit_tiny_patch16_224?pretrained=false&img_size=32&depth=1"
    ).backbone
    export_backbone(
        backbone, folder, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", size_px=32
    )
    entry = {
        "method": "mae",
        "backbone": {"timm": "vit_tiny_patch16_224"},
        "files": {
            "backbone": {
                "path": "own",
                "format": "timm_folder",
                "sha256": sha256_of(folder / "model.safetensors"),
            }
        },
        "input": {},
        "license": "cc0-1.0",
        "origin": {"recipe": "configs/mae/tiny_cpu.yaml"},
        "data": "mnist5k",
        "status": "own",
    }
    (tmp_path / "index.yaml").write_text(yaml.safe_dump({"schema": 1, "models": {"own": entry}}))
    monkeypatch.setenv("SSL_VISION_ZOO_INDEX", str(tmp_path / "index.yaml"))
    load_index.cache_clear()
    assert resolve_weights("zoo:own").input_size == 32
    with pytest.raises(ConfigError, match="takes no options"):
        resolve_weights("zoo:own?size_px=48")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="the index says"):
        fetch_file(find_entry("own"))
    load_index.cache_clear()
