"""What was trained comes back whole: of a run, and of official MAE files that hold a decoder."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.config import load_train_config, to_yaml
from ssl_vision.engine.saved_method import load_method, mae_of_export, untrained_backbone
from ssl_vision.engine.train import build_method, train
from ssl_vision.errors import CheckpointError, ConfigError, SslVisionWarning
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.zoo.convert import convert_file
from ssl_vision.zoo.converted import ConvertOptions
from ssl_vision.zoo.weights import resolve_weights

CONFIGS = Path(__file__).parents[2] / "configs"


def test_whole_method_is_read_back(mae_run: Path) -> None:
    first, again = load_method(mae_run).state_dict(), load_method(mae_run).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    (mae_run / "checkpoints/step_000001/manifest.json").unlink()
    told = pytest.warns(SslVisionWarning, match="not usable, manifest.json is missing")
    with told, pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_method(mae_run)


def test_a_classifier_has_nothing_to_read_back(tmp_path: Path) -> None:
    config = load_train_config([CONFIGS / "supervised" / "tiny_cpu.yaml"], [])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(ConfigError, match=r"method\.name=supervised, which trains a classifier"):
        load_method(tmp_path)


def test_a_students_start_is_known_without_its_teachers(tmp_path: Path, monkeypatch: Any) -> None:
    config = load_train_config([CONFIGS / "distill" / "tiny_cpu.yaml"], [])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=1, input_size=28)
    drawn = build_method(config, plan).backbone.model.state_dict()
    monkeypatch.setattr("ssl_vision.methods.teachers.resolve_weights", None)  # they are gone
    found = untrained_backbone(tmp_path).model.state_dict()
    assert all(torch.equal(value, drawn[name]) for name, value in found.items())


def test_a_second_stage_goes_on_exactly_and_is_read_back_without_the_first(
    recipe: Any, tmp_path: Path
) -> None:
    small = ("data.train_fraction=0.1", "data.global_batch_size=32", "trainer.epochs=2")
    start = train(recipe("mae", *small, run="start")).run_dir
    first = train(recipe("mae", *small, f"init_from={start}", run="first")).run_dir
    second = (*small, f"init_from={start}", f"method.match_teacher={first}")
    whole = train(recipe("mae", *second, run="whole")).run_dir
    train(recipe("mae", *second, "trainer.max_steps=3", run="parts"))
    parts = train(recipe("mae", *second, run="parts")).run_dir
    shutil.rmtree(first)
    states = [load_method(run).state_dict() for run in (whole, parts)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert untrained_backbone(whole).width == 24


def test_official_file_with_a_decoder_reconstructs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3}
    backbone = build_backbone(BackboneConfig(name="vit_tiny_patch16_224", args=args), input_size=16)
    config = MaeConfig(
        is_target_normalized=False, decoder_width=64, decoder_depth=1, decoder_num_heads=2
    )
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=1, input_size=16)
    trained = Mae(config, backbone, optim=OptimConfig(), plan=plan).eval()
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    official = dict(trained.backbone.model.state_dict())  # the authors' names
    for name, value in trained.decoder.state_dict().items():
        official[name if name == "mask_token" else f"decoder_{name}"] = value
    torch.save({"model": official}, tmp_path / "mae_visualize.pth")
    convert_file(
        tmp_path / "mae_visualize.pth", tmp_path / "out", options=ConvertOptions(num_heads=3)
    )
    method = mae_of_export(resolve_weights(tmp_path / "out"))
    assert method is not None
    images = torch.randn(2, 3, 16, 16)
    for found, expected in zip(
        method.reconstruct(images), trained.reconstruct(images), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_weights_without_a_decoder_have_no_method(tmp_path: Path) -> None:
    loaded = resolve_weights("timm:vit_tiny_patch16_224?pretrained=false&img_size=32&depth=1")
    assert mae_of_export(loaded) is None
