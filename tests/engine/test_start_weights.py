"""A run folder knows the weights it started from."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ssl_vision
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.classifier import classify
from ssl_vision.config import TrainConfig
from ssl_vision.engine.start_weights import with_network_of_start
from ssl_vision.engine.train import train
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.exported import read_export
from ssl_vision.zoo.weights import resolve_weights

ONE, TWO = "trainer.max_steps=1", "trainer.max_steps=2"


@pytest.fixture
def others(recipe):
    """Exports of two runs of other seeds."""
    return [
        train(recipe("barlow_twins", ONE, f"seed={seed}", run=f"other{seed}")).export
        for seed in (1, 2)
    ]


def test_another_start_in_an_old_run_folder_is_refused(recipe, others):
    first, second = others
    train(recipe("barlow_twins", ONE, f"init_from={first}"))
    for now in (f"init_from={second}", "seed=0"):
        with pytest.raises(ConfigError, match=rf"init_from={first} \(now .*resume=never"):
            train(recipe("barlow_twins", TWO, now))
    assert train(recipe("barlow_twins", TWO, f"init_from={first}")).steps == 2
    plain = recipe("barlow_twins", ONE, run="plain")
    train(plain)
    with pytest.raises(ConfigError, match=r"init_from=null \(now "):
        train(recipe("barlow_twins", TWO, f"init_from={first}", run="plain"))


def test_other_weights_under_the_same_name_are_said(recipe, others, tmp_path, capsys):
    first, second = others
    config = recipe("barlow_twins", ONE, f"init_from={tmp_path / 'start'}")
    shutil.copytree(first, tmp_path / "start")
    train(config)
    record = json.loads((config.run_path / "start.json").read_text())
    assert record == {
        "init_from": str(tmp_path / "start"),
        "sha256": resolve_weights(first).sha256,
    }
    capsys.readouterr()
    train(config)
    assert "other weights" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "start")
    shutil.copytree(second, tmp_path / "start")
    assert train(recipe("barlow_twins", TWO, f"init_from={tmp_path / 'start'}")).steps == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "holds other weights than the run started from" in shown
    assert record["sha256"][:12] in shown
    shutil.rmtree(tmp_path / "start")  # gone, as on a cleared scratch disk: the run can do without
    train(recipe("barlow_twins", TWO, f"init_from={tmp_path / 'start'}"))
    (tmp_path / "start").mkdir()
    train(recipe("barlow_twins", TWO, f"init_from={tmp_path / 'start'}"))
    assert "is not compared" in capsys.readouterr().out


def test_a_fine_tuning_starts_inside_the_head_of_an_export_or_of_a_checkpoint(recipe):
    first = train(recipe("simclr", ONE, run="first")).run_dir
    inside = ("method.from_head_layer=1", f"init_from={first}", ONE)
    tuned = train(recipe("supervised", *inside, run="tuned"))
    backbone, _ = read_export(tuned.export, with_classifier=True)
    assert backbone.head_layers is not None
    seen = []
    for folder in ("tuned_2", "tuned_3"):
        run = recipe("supervised", *inside, "optim.base_lr=1e-30", run=folder)
        seen.append(read_export(train(run).export, with_classifier=True)[0])
        shutil.rmtree(first / "export", ignore_errors=True)  # then its checkpoint
    for one, two in zip(*(b.head_layers.state_dict().values() for b in seen), strict=True):
        assert torch.equal(one, two)
    images = torch.randn(4, 3, 16, 16)
    scores = []
    for _ in range(2):  # of the export, then of the checkpoint
        loaded = resolve_weights(tuned.run_dir, with_classifier=True)
        assert loaded.class_names == tuple(map(str, range(10)))
        with torch.no_grad():
            scores.append(classify(loaded.backbone, loaded.backbone(images).pooled))
        shutil.rmtree(tuned.export, ignore_errors=True)
    torch.testing.assert_close(*scores)
    plain = train(recipe("barlow_twins", ONE, run="plain")).export
    with pytest.raises(CheckpointError, match=r"from_head_layer=1.*has no head of SimCLR"):
        train(recipe("supervised", inside[0], f"init_from={plain}", run="refused"))


def test_layers_of_a_head_need_weights_to_come_from(recipe: Callable[..., TrainConfig]) -> None:
    config = recipe("supervised", "method.from_head_layer=1", ONE)
    with pytest.raises(ConfigError, match=r"method\.from_head_layer=1 .*init_from=null.*simclr"):
        train(config)
    assert not config.run_path.exists()


def _exported(folder: Path, **args: int) -> Path:
    backbone = build_backbone(BackboneConfig(name="vit_tiny_patch16_224", args=args), input_size=16)
    mean = (0.5,) * 3
    export_backbone(backbone, folder, mean=mean, std=mean, interpolation="bicubic", size_px=16)
    return folder


def test_the_network_is_that_of_the_weights_unless_it_was_asked_for(
    recipe: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    args = {"patch_size": 4, "embed_dim": 36, "depth": 3, "num_heads": 3}
    weights = _exported(tmp_path / "some # weights", **args)
    config = recipe("barlow_twins", f"init_from={weights}")
    taken, line = with_network_of_start(config, ["init_from"])
    assert taken.backbone.args == args
    assert taken.backbone.drop_path == config.backbone.drop_path  # the recipe's, as it trains
    assert str(weights) in str(line)
    assert with_network_of_start(taken) == (taken, None)
    assert with_network_of_start(config, ["backbone.args.depth"]) == (config, None)
    result = train(replace(taken, trainer=replace(taken.trainer, max_steps=1)))
    again, _ = with_network_of_start(config, ["init_from"])
    assert again == taken
    shutil.rmtree(weights)  # a run that began needs them no more
    assert with_network_of_start(config, ["init_from"])[0] == taken
    assert resolve_weights(result.run_dir).backbone.width == 36


def test_pooling_stays_the_recipes(recipe: Callable[..., TrainConfig], tmp_path: Path) -> None:
    weights = _exported(tmp_path / "weights", patch_size=4, embed_dim=36, depth=1, num_heads=3)
    config = recipe("barlow_twins", f"init_from={weights}", "backbone.args.global_pool=avg")
    taken, _ = with_network_of_start(config)
    assert taken.backbone.args["global_pool"] == "avg"
    assert taken.backbone.args["embed_dim"] == 36


def test_python_takes_the_network_from_the_weights_too(
    recipe: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    weights = _exported(tmp_path / "weights", patch_size=4, embed_dim=36, depth=1, num_heads=3)
    config = recipe("barlow_twins", ONE, f"init_from={weights}")
    result = ssl_vision.train(config)
    assert resolve_weights(result.run_dir).backbone.width == 36
