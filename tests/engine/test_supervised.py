"""Supervised runs from recipe to classifier: starting weights, held-out scores, exports."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.engine.train import train
from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.weights import load_backbone, resolve_weights

CONFIGS = Path(__file__).parents[2] / "configs" / "supervised"
NETWORK = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}


def _config(run_dir: Path, *overrides: str) -> TrainConfig:
    return load_train_config(
        [CONFIGS / "tiny_cpu.yaml"],
        [
            f"run_dir={run_dir}",
            "data.path=digits",
            "data.num_threads=1",
            "trainer.accelerator=cpu",
            "trainer.epochs=2",
            "optim.warmup_epochs=1",
            "online_eval.every_epochs=1",
            "method.mixing.name=none",
            *(f"backbone.args.{key}={value}" for key, value in NETWORK.items()),
            *overrides,
        ],
    )


def _pretrained(folder: Path, **args: int) -> Path:
    torch.manual_seed(1)
    config = BackboneConfig(name="vit_tiny_patch16_224", args=NETWORK | args)
    backbone = build_backbone(config, input_size=28)
    mean, std = (0.1307,) * 3, (0.3081,) * 3
    export_backbone(backbone, folder, mean=mean, std=std, interpolation="bilinear", size_px=28)
    return folder


def test_a_run_scores_its_classifier_and_exports_it(tmp_path: Path) -> None:
    weights = _pretrained(tmp_path / "pretrained")
    whole = ("data.views.train.crop=center", "data.views.train.center_fraction=1.0")
    fast = ("optim.base_lr=4e-2", "data.global_batch_size=16", "trainer.epochs=3")
    result = train(_config(tmp_path / "run", f"init_from={weights}", *whole, *fast))
    text = (tmp_path / "run/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    scores = {line["step"]: line["eval/top1"] for line in lines if "eval/top1" in line}
    assert scores[0] < 0.3
    assert scores[max(scores)] > scores[0] + 0.1
    report = json.loads((tmp_path / "run/classification/classification.json").read_text())
    assert report["num_samples"] == 300  # the held-out digits
    assert report["top1"]["value"] == result.metrics["eval/top1"]
    classifier = timm.create_model(f"local-dir:{result.export}", pretrained=True).eval()
    assert classifier(torch.zeros(1, 3, 28, 28)).shape == (1, 10)
    assert load_backbone(result.export)(torch.zeros(1, 3, 28, 28)).shape == (1, 24)
    assert classifier.pretrained_cfg["label_names"] == [str(digit) for digit in range(10)]
    of_export = resolve_weights(result.run_dir, with_classifier=True)
    shutil.rmtree(result.export)  # a run that has not ended has checkpoints alone
    of_checkpoint = resolve_weights(result.run_dir, with_classifier=True)
    assert of_checkpoint.class_names == of_export.class_names
    assert of_checkpoint.sha256 == of_export.sha256
    assert resolve_weights(result.run_dir).num_classes == 0


def test_the_first_scores_are_those_of_the_given_weights(tmp_path: Path) -> None:
    weights = _pretrained(tmp_path / "pretrained")
    overrides = (f"init_from={weights}", "method.tune=head", "trainer.max_steps=1")
    result = train(_config(tmp_path / "run", *overrides))
    given = timm.create_model(f"local-dir:{weights}", pretrained=True).eval()
    tuned = load_backbone(result.export).eval()
    images = torch.randn(4, 3, 28, 28)
    with torch.no_grad():  # only the classifier was trained: features are the given ones
        torch.testing.assert_close(tuned(images), given(images), rtol=0, atol=0)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = _pretrained(tmp_path / "pretrained", depth=3)
    with pytest.raises(CheckpointError, match=r"set backbone\.name and backbone\.args"):
        train(_config(tmp_path / "run", f"init_from={weights}"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    config = load_train_config(
        [path], ["data.path=somewhere", "data.train_list=list.txt", "data.train_fraction=1"]
    )
    assert config.method.name == "supervised"
    assert len(config.data.views) == 1


def test_recipes_exist() -> None:
    assert len(list(CONFIGS.glob("*.yaml"))) >= 8
