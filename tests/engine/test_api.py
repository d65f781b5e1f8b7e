"""Training from a program: objects as data and network, callbacks, stopping and going on."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset

import ssl_vision
from ssl_vision.backbones.backbone import OwnClass
from ssl_vision.backbones.own import wrap
from ssl_vision.config import load_train_config
from ssl_vision.engine.api import train
from ssl_vision.engine.callbacks import Callbacks, Progress
from ssl_vision.engine.train import train as train_as
from ssl_vision.errors import CheckpointError, ConfigError, DataError
from ssl_vision.zoo.own import how_to_build
from tests.runs import write_recipe

_NUM = 96
_FAST = {
    "data.global_batch_size": 32,
    "trainer.epochs": 2,
    "trainer.log_every_steps": 1,
    "optim.warmup_epochs": 0,
}


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (_NUM, 20, 20, 3), dtype=np.uint8)


def _labels() -> np.ndarray:
    return np.arange(_NUM) % 3


class Net(nn.Module):
    """Images -> map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.stem(images)).relu()


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """`recipe("dino")` -> file; `run("name", "dino", **settings)` trains."""

    class Runs:
        def file(self, method: str = "barlow_twins") -> Path:
            return write_recipe(tmp_path / f"{method}.yaml", method)

        def __call__(self, name: str, method: str = "barlow_twins", **given: Any) -> Any:
            given = {"data": (_images(), _labels()), "is_quiet": True} | _FAST | given
            return train(self.file(method), run_dir=tmp_path / name, **given)

    return Runs()


def test_objects_are_trained_on_and_the_run_is_told_of(recipe: Any) -> None:
    steps, scored = [], []

    def note(progress: Progress) -> None:
        steps.append(progress.step)
        assert progress.loss == pytest.approx(progress.metrics["train/loss"])
        assert progress.epoch == progress.step / 3

    result = recipe(
        "run",
        callbacks=Callbacks(
            on_update=note, on_score=lambda p: scored.append((p.step, p.metrics["eval/knn_top1"]))
        ),
        online_eval={"every_epochs": 1},
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in scored] == [0, 3, 6]
    assert scored[-1][1] == result.scores["knn_top1"]
    network = result.load_backbone()
    exported = timm.create_model(f"local-dir:{result.export}", pretrained=True).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images), exported(images))
    assert (
        "path: object:ndarray[96,20,20,3]+labels\n" in (result.run_dir / "config.yaml").read_text()
    )


@pytest.mark.parametrize("way", ["signal", "stop", "thread"])
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(recipe: Any, way: str) -> None:
    whole = recipe("whole", "dino").load_backbone().state_dict()

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT) if way == "signal" else progress.stop()

    def run() -> None:
        with pytest.raises(KeyboardInterrupt, match=r"after update [23]"):
            recipe("parts", "dino", callbacks=Callbacks(on_update=stop))

    handler = signal.getsignal(signal.SIGINT)
    if way == "thread":
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    assert signal.getsignal(signal.SIGINT) is handler
    again = recipe("parts", "dino", resume="must").load_backbone().state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_run_goes_on_only_with_its_objects(recipe: Any) -> None:
    def stop(progress: Progress) -> None:
        progress.stop()

    with pytest.raises(KeyboardInterrupt):
        recipe("run", callbacks=Callbacks(on_update=stop), backbone=Net())
    folder = recipe.file().parent / "run"
    config = load_train_config([folder / "config.yaml"])
    with pytest.raises(ConfigError, match=r"resume there, by ssl_vision.train\(..., backbone=NET"):
        train_as(config)
    plain = {**_FAST, "backbone": Net(), "run_dir": folder, "is_quiet": True}
    with pytest.raises(DataError, match=r"resume there, by ssl_vision.train\(..., data=OBJECT"):
        train(recipe.file(), data=config.data.path, **plain)
    with pytest.raises(ConfigError, match="other data than the run began with"):
        recipe("run", backbone=Net(), data=(255 - _images(), _labels()))
    with pytest.raises(ConfigError, match=r"backbone\.name"):
        recipe("run", backbone="resnet10t")


def test_an_own_network_is_trained_exported_and_loaded(recipe: Any) -> None:
    own = Net()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    result = recipe("run", "dino", backbone=wrap(own, width=16, kwargs={"width": 16}))
    assert all(torch.equal(own.state_dict()[name], value) for name, value in before.items())
    trained = result.load_backbone()
    assert type(trained) is Net
    assert not torch.equal(trained.stem.weight, own.stem.weight)
    loaded = ssl_vision.load_backbone(result.run_dir, into=Net())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(images), trained(images))
    config = json.loads((result.export / "config.json").read_text())
    assert config["own"]["kwargs"] == {"width": 16}
    assert config["own"]["class"].endswith("test_api.Net")
    text = (result.export / "README.md").read_text()
    assert "import Net\nmodel = Net(width=16)\n" in text
    assert "timm" not in text
    weights = safetensors.torch.load_file(result.export / "model.safetensors")
    assert weights.keys() == Net().state_dict().keys()
    with pytest.raises(CheckpointError, match="into=NETWORK"):
        ssl_vision.load_backbone(result.run_dir)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("mae", {}, "has no patch tokens to leave out"),
        ("dino", {"method.patch_weight": 1.0}, "has no patch tokens"),
        ("barlow_twins", {"optim.layer_decay": 0.9}, "optim.layer_decay=0.9 needs to know"),
    ],
)
def test_what_a_method_needs_of_a_network_is_told_before_training(
    recipe: Any, method: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe("run", method, backbone=Net(), **settings)


def test_a_model_of_timm_is_trained_from_its_weights(recipe: Any) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1)
    with pytest.raises(ConfigError, match="wrap"):  # depth cannot be told
        recipe("deep", backbone=model)
    args = {"img_size": 16, "patch_size": 4, "depth": 1}
    result = recipe("run", backbone=wrap(model, kwargs=args), **{"optim.base_lr": 1e-9})
    exported = timm.create_model(f"local-dir:{result.export}", pretrained=True)
    for name in ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"):
        found, start = exported.state_dict()[name], model.state_dict()[name]
        torch.testing.assert_close(found, start, atol=1e-5, rtol=0)
    assert model.num_classes == 0  # wrapped, it has no classifier


def test_weights_of_a_network_that_is_handed_over_are_the_start_of_every_method(
    recipe: Any,
) -> None:
    """MAE draws its encoder anew, DINO's teacher is a copy: both must begin from them."""
    args = {"img_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 24, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args)
    still = {"optim.base_lr": 1e-9, "trainer.epochs": 1}
    with pytest.raises(ConfigError, match="dynamic_img_size=True"):
        recipe("one_size", "dino", backbone=wrap(model, kwargs=args))
    args["dynamic_img_size"] = True  # DINO's views have two sizes
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args)
    for method in ("mae", "dino"):
        found = recipe(method, method, backbone=wrap(model, kwargs=args), **still).load_backbone()
        start, end = model.blocks[0].mlp.fc1.weight, found.blocks[0].mlp.fc1.weight
        torch.testing.assert_close(end, start, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"backbone\.drop_path: the network is handed over"):
        recipe("x", backbone=Net(), **{"backbone.drop_path": 0.1})


def test_how_an_own_network_is_built_is_python() -> None:
    found = how_to_build(OwnClass("collections.abc.Net", {"width": 8, "name": "a"}))
    assert found == "from collections.abc import Net\nmodel = Net(width=8, name='a')"
    assert how_to_build(OwnClass("a.Net", None)).endswith("Net(...)")


def test_settings_of_all_forms(recipe: Any, tmp_path: Path) -> None:
    """By name with a backbone by name; nested and dotted; a configuration; typos are told."""
    config = load_train_config([recipe.file()], [f"run_dir={tmp_path / 'a'}"])
    first = train(config, data={"path": "digits", "train_fraction": 0.1}, backbone="resnet10t",
                  is_quiet=True, trainer={"max_steps": 1},
                  **{"data.global_batch_size": 64, "data.views.a.size_px": 32,
                     "data.views.b.size_px": 32})  # fmt: skip
    saved = load_train_config([first.run_dir / "config.yaml"])
    assert (saved.backbone.name, saved.backbone.args) == ("resnet10t", {})
    assert (saved.trainer.max_steps, saved.data.train_fraction) == (1, 0.1)
    with pytest.raises(ConfigError, match="epochs"):
        train("dino/tiny_cpu", **{"trainer.epoch": 3})
    with pytest.raises(ConfigError, match="dino/tiny_cpu"):
        train("dino/tiny_cpuu")
    with pytest.raises(ConfigError, match="backbone of type int"):
        train("dino/tiny_cpu", backbone=3)


def test_a_map_style_data_set_and_a_second_ctrl_c(recipe: Any) -> None:
    data = TensorDataset(torch.from_numpy(_images()).permute(0, 3, 1, 2), torch.arange(_NUM) % 3)

    def twice(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="at once"):
        recipe("run", data=data, callbacks=Callbacks(on_update=twice))
    assert recipe("run", data=data).steps == 6
