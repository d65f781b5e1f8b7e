"""Weight files are read, and nothing in them runs."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.safe_load import safe_load, sha256_of_tensors, unsafe_globals

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3)}


class Malicious:
    """Unpickled naively, runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def write(content: Any) -> Path:
        path = tmp_path / "file.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return write


def test_malicious_pickle_is_refused_by_name_and_never_runs(save: Any, tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    path = save({"model": WEIGHTS, "extra": Malicious(f"touch {victim}")})
    with pytest.raises(CheckpointError, match=r"posix\.system.*Nothing in it was run"):
        safe_load(path)
    for allow in (["numpy"], ["numpy", "pathlib"]):
        with pytest.raises(CheckpointError, match=r"posix\.system"):
            safe_load(path, allow=allow)
    assert not victim.exists()
    torch.load(path, weights_only=False)  # the file was indeed armed
    assert victim.exists()


def test_plain_weights_and_command_lines_load(save: Any) -> None:
    path = save({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1), "epoch": 3})
    content = safe_load(path)
    assert torch.equal(content["model"]["w"], WEIGHTS["w"])
    assert content["args"].lr == 0.1


def test_plain_values_of_numpy_and_pathlib_load_only_when_allowed(save: Any) -> None:
    content = {"best": np.float64(0.75), "curve": np.arange(3), "out": Path("runs/a")}
    path = save(content)
    with pytest.raises(CheckpointError, match="allow=numpy,pathlib"):
        safe_load(path)
    loaded = safe_load(path, allow=["numpy", "pathlib"])
    assert loaded["best"] == 0.75
    assert loaded["curve"].tolist() == [0, 1, 2]
    assert str(loaded["out"]) == "runs/a"


def test_only_harmless_modules_can_be_allowed(save: Any) -> None:
    with pytest.raises(CheckpointError, match="allow=posix"):
        safe_load(save(WEIGHTS), allow=["posix"])


def test_unsafe_globals_are_listed_without_running(save: Any, tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    path = save({"a": Malicious(f"touch {victim}"), "w": torch.ones(2)})
    assert unsafe_globals(path) == ["posix.system"]
    assert not victim.exists()


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(WEIGHTS, whole)
    safetensors.torch.save_file(WEIGHTS, tmp_path / "whole.safetensors")
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-4])
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html>sign in</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "lfs.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, words in {
        "cut.pth": "damaged|not a weight file",
        "cut.safetensors": "not a complete safetensors",
        "page.pth": "web page",
        "empty.pth": "empty",
        "lfs.pth": "git lfs pull",
        "list.pth": "holds a list",
        "absent.pth": "is not a file",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            safe_load(tmp_path / name)


def test_hash_of_tensors_sees_names_types_shapes_and_values() -> None:
    base = sha256_of_tensors({"a": torch.zeros(4), "b": torch.ones(2)})
    assert base == sha256_of_tensors({"b": torch.ones(2), "a": torch.zeros(4)})
    for other in (
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.zeros(4, dtype=torch.float16), "b": torch.ones(2)},
        {"c": torch.zeros(4), "b": torch.ones(2)},
        {"a": torch.tensor([0.0, 0.0, 0.0, -0.0]), "b": torch.ones(2)},
    ):
        assert sha256_of_tensors(other) != base
