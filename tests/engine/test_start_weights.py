"""A run folder knows the weights it started from."""

import json
import shutil

import pytest
import torch

from ssl_vision.backbones.classifier import classify
from ssl_vision.engine.train import train
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.export import read_export
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
