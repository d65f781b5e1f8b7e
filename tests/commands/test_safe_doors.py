"""A malicious pickle comes in by no door: refused by name, nothing run, one line, exit 74."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssl_vision.commands.main import main
from ssl_vision.config import TrainConfig, to_yaml
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.index import load_index


class Malicious:
    """Unpickled naively, creates a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.victim}",)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A weight file that looks like DINO's and runs a command."""
    content = {"cls_token": torch.ones(1), "pos_embed": torch.ones(1)}
    torch.save({**content, "extra": Malicious(tmp_path / "ran")}, tmp_path / "evil.pth")
    return tmp_path / "evil.pth"


@pytest.fixture
def doors(
    evil: Path, tmp_path: Path, recipe: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[str]]:
    """Every command that reads weights, with the file in its way."""
    config = recipe("mae")
    run = _run_folder(config, evil)
    _zoo_with(evil, tmp_path, monkeypatch)
    good = tmp_path / "good.pth"
    torch.save({"cls_token": torch.ones(1), "pos_embed": torch.ones(1)}, good)
    out, weights = str(tmp_path / "out"), str(run)
    train = ["train", str(tmp_path / "mae.yaml")]
    return {
        "converting a file": ["zoo", "convert", str(evil), out],
        "a linear head beside it": [
            *("zoo", "convert", str(good), out, f"head={evil}", "head_features=cls4")
        ],
        "an entry of the zoo": ["export", "zoo:evil", out],
        "export": ["export", weights, out],
        "visualize": ["visualize", weights, "digits", out],
        "evaluate": ["evaluate", weights, "data.path=digits", "tasks=knn", f"out={out}"],
        "embed": ["embed", weights, "data.path=digits", out],
        "init_from": [*train, f"run_dir={tmp_path / 'new'}", f"init_from={weights}"],
        "resume": [*train, f"run_dir={run}", "resume=must"],
    }


def _run_folder(config: TrainConfig, evil: Path) -> Path:
    """A run whose only checkpoint is the file, with a manifest that vouches for it."""
    folder = config.run_path / "checkpoints/step_000001"
    folder.mkdir(parents=True)
    (config.run_path / "config.yaml").write_text(to_yaml(config))
    (folder / "state.pt").write_bytes(evil.read_bytes())
    entry = {"bytes": evil.stat().st_size, "sha256": sha256_of(evil)}
    manifest = {"schema": 1, "step": 1, "files": {"state.pt": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "backbone.json").write_text(
        json.dumps({"architecture": "resnet18", "pretrained_cfg": {}, "prefix": "a."})
    )
    return config.run_path


def _zoo_with(evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index whose entry `evil` is the file, on a mirror that is a folder."""
    (tmp_path / "mirror/example.org").mkdir(parents=True)
    (tmp_path / "mirror/example.org/a.pth").write_bytes(evil.read_bytes())
    entry = {
        "method": "dino",
        "backbone": {"timm": "vit_tiny_patch16_224"},
        "files": {"backbone": {"url": "https://example.org/a.pth", "converter": "dino"}},
        "input": {},
        "license": "mit",
        "origin": {"repo": "a/b"},
        "data": "none",
        "status": "verified_layout",
    }
    (tmp_path / "index.yaml").write_text(yaml.safe_dump({"schema": 1, "models": {"evil": entry}}))
    monkeypatch.setenv("SSL_VISION_ZOO_INDEX", str(tmp_path / "index.yaml"))
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SSL_VISION_MIRROR", (tmp_path / "mirror").as_uri())
    load_index.cache_clear()


def test_no_door_runs_it(
    doors: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for door, arguments in doors.items():
        code = main(arguments)
        error = capsys.readouterr().err.strip().splitlines()
        assert code == 74, (door, error)
        assert "posix.system" in error[-1], door
        assert error[-1].startswith("error: "), door
        assert not (tmp_path / "ran").exists(), door
    load_index.cache_clear()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the file was indeed armed
    assert (tmp_path / "ran").exists()
