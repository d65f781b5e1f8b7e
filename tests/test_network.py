"""SSL_VISION_OFFLINE=1: no socket is opened on any path to weights or data; nor unless asked."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_vision.data.images.find import build_source
from ssl_vision.errors import CheckpointError, DataError, SslVisionError
from ssl_vision.network import is_offline
from ssl_vision.zoo.weights import resolve_weights


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What wanted to use the network; empty caches everywhere."""
    seen: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        seen.append(arguments)
        raise OSError("a test opened a socket")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("SSL_VISION_HOME", "SSL_VISION_DATA", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return seen


WEIGHTS = [
    "timm:resnet18",  # on the hub
    "timm:xcit_nano_12_p8_224.fb_in1k",
    "timm:inception_v3.tv_in1k",
    "timm:tf_efficientnet_b0.in1k",
    "hf-hub:timm/resnet18.a1_in1k",
    "hf_hub:timm/resnet18.a1_in1k",
    "timm:hf-hub:timm/resnet18.a1_in1k",
    "zoo:dino_vits16",
]
SETS = ["cifar10", "cifar100", "stl10", "imagenette", "flowers102"]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_are_not_fetched_offline(
    weights: str, calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_VISION_OFFLINE", "1")
    with pytest.raises(SslVisionError) as caught:
        resolve_weights(weights)
    assert "\n" not in str(caught.value).strip()
    assert calls == []


def test_weights_by_address_are_not_fetched_offline(
    calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm.models._builder._resolve_pretrained_source",
                        lambda cfg: ("url", "https://example.org/resnet18.pth"))  # fmt: skip
    with pytest.raises(CheckpointError, match="cannot be had here"):
        resolve_weights("timm:resnet18")
    assert calls  # the guard of this test sees what is fetched
    calls.clear()
    monkeypatch.setenv("SSL_VISION_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="SSL_VISION_OFFLINE is set"):
        resolve_weights("timm:resnet18")
    assert calls == []


@pytest.mark.parametrize("name", SETS)
def test_data_are_fetched_only_when_asked_and_allowed(
    name: str, calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"use data\.download=true"):
        build_source(name)
    assert calls == []
    monkeypatch.setenv("SSL_VISION_OFFLINE", "1")
    with pytest.raises(DataError, match="SSL_VISION_OFFLINE is set"):
        build_source(name, download=True)
    assert calls == []


def test_random_weights_need_no_network(calls: list[object]) -> None:
    resolve_weights("timm:resnet18?pretrained=false")
    assert calls == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("yes", True), ("true", True), ("0", False), ("", False), ("No", False)],
)
def test_what_the_variable_says(text: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_OFFLINE", text)
    assert is_offline() is expected


_TRAIN_GUARDED = """
import socket, sys
def refuse(*a, **k): raise SystemExit("a socket was opened")
for name in ("connect", "connect_ex"): setattr(socket.socket, name, refuse)
socket.create_connection = socket.getaddrinfo = refuse
from ssl_vision.config import load_train_config
from ssl_vision.engine.train import train
train(load_train_config([sys.argv[1]], [f"run_dir={sys.argv[2]}", "trainer.max_steps=1"]))
"""


def test_training_touches_no_network(recipe: Callable[..., object], tmp_path: Path) -> None:
    recipe("barlow_twins")
    words = [str(tmp_path / "barlow_twins.yaml"), str(tmp_path / "r")]
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN_GUARDED, *words],
        capture_output=True, text=True, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
