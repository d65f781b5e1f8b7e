import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.config import load_train_config, to_yaml
from ssl_vision.engine.saved_method import untrained_backbone
from ssl_vision.engine.train import build_method, train
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.methods.base import TrainPlan
from ssl_vision.tasks.baselines import FITTED, UNTRAINED, baselines, beside_majority, warn_of_chance
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.settings import make_settings
from ssl_vision.zoo.weights import resolve_weights

VOTE = {"k": [20], "temperature": 0.07, "features": "pooled"}
TIMM = "timm:vit_tiny_patch16_224?pretrained=false&img_size=16&patch_size=4&embed_dim=24&depth=1"


def untrained_score(weights, out) -> tuple[float, str]:
    found = evaluate(
        weights,
        tasks=["knn"],
        data="digits",
        out=out,
        baselines=True,
        knn=VOTE,
        cache={"mode": "off"},
    )
    (score,) = (m for m in found["knn"].measurements if "untrained" in m.name)
    return score.value, score.note


def test_a_runs_untrained_baseline_is_the_network_its_training_started_from(recipe, tmp_path):
    config = recipe("mae", "online_eval.every_epochs=1", "trainer.max_steps=1", "seed=3")
    run = train(config).run_dir
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    value, note = untrained_score(run, tmp_path / "a")
    assert first["step"] == 0
    assert value == pytest.approx(first["eval/knn_top1"])
    assert note.endswith("as the run's method drew it")
    # An export does not say what it started from: another draw, in timm's way.
    value, note = untrained_score(run / "export", tmp_path / "b")
    assert value != pytest.approx(first["eval/knn_top1"])
    assert note.endswith("as timm draws it")


@pytest.mark.parametrize("method", ["barlow_twins", "mae", "supervised"])
def test_it_is_drawn_as_by_the_trainer_whatever_the_length_of_the_run(method, tmp_path):
    path = Path(__file__).parents[2] / "configs" / method / "tiny_cpu.yaml"
    config = load_train_config([path], ["seed=5", "data.path=digits"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    plan = TrainPlan(
        steps_per_epoch=7,
        epochs=3,
        global_batch_size=config.data.global_batch_size,
        input_size=config.data.input_size,
        num_classes=10,
        seed=5,
    )
    expected = build_method(config, plan).export_backbone().state_dict()
    torch.rand(3)  # what was drawn before does not matter
    found = untrained_backbone(tmp_path).state_dict()
    assert found.keys() == expected.keys()
    # A classifier's size is the data's business; no feature depends on it.
    shared = [name for name in expected if not name.startswith("model.head.")]
    assert len(shared) >= len(expected) - 2
    assert all(torch.equal(found[name], expected[name]) for name in shared)


def test_other_weights_are_compared_to_timms_own_draw(tmp_path):
    assert untrained_score(TIMM, tmp_path)[1].endswith("as timm draws it")


def eval_run(weights: str, **data: int) -> EvalRun:
    config = make_settings(
        {
            "weights": weights,
            "data": {"path": "digits", "size_px": 32, "batch_size": 16, **data},
            "cache": {"mode": "off"},
            "device": "cpu",
        }
    )
    return EvalRun(config, resolve_weights(weights), say=lambda text: None)


def test_fitted_batch_norms_have_the_statistics_of_the_data():
    found = baselines(eval_run("timm:resnet18?pretrained=false", max_train=64))
    assert list(found) == ["raw pixels", UNTRAINED, FITTED]
    drawn, fitted = (found[name].loaded.backbone.model for name in (UNTRAINED, FITTED))
    weights = [dict(model.named_parameters()) for model in (drawn, fitted)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    run = found[FITTED]
    images = torch.cat([b.views["image"] for b in run.loader(run.bank_source, run.view)])
    with torch.no_grad():
        first = drawn.conv1(run.normalize(images))
    assert torch.allclose(fitted.bn1.running_mean, first.mean(dim=(0, 2, 3)), atol=1e-6)
    assert not torch.allclose(drawn.bn1.running_mean, fitted.bn1.running_mean, atol=1e-3)
    assert not fitted.training


def test_a_network_without_batch_norm_has_nothing_to_fit():
    assert FITTED not in baselines(eval_run(TIMM, size_px=16))


def noise(root: Path, train: dict[str, int], val: dict[str, int]) -> Path:
    """Pictures that say nothing of their classes."""
    rng = np.random.default_rng(0)
    for split, classes in (("train", train), ("val", val)):
        for name, num in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def test_the_majority_class_stands_in_every_report_and_a_result_below_it_is_said(tmp_path, capsys):
    path = noise(tmp_path / "set", {"a": 12, "b": 10, "c": 10}, {"a": 31, "b": 35, "c": 34})
    weights = TIMM
    settings = {"data": {"path": str(path), "size_px": 16}, "is_quiet": False}
    logreg = {"cs": [1.0]}
    names = ["knn", "logreg", "svm"]
    found = evaluate(
        weights, tasks=names, out=tmp_path / "o", knn=VOTE | {"k": [1], "reported_k": 1},
        logreg=logreg, cache={"mode": "off"}, **settings,
    )  # fmt: skip
    shown = capsys.readouterr().err
    for name in names:
        (line,) = (each for each in found[name].measurements if "majority" in each.name)
        assert line.value == 0.31
        is_said = any("majority class, 31.0 %" in warning for warning in found[name].warnings)
        assert is_said == (found[name].main.value <= 0.31)
    assert shown.count("top1 of the majority class") == len(names)
    for report in ("report.md", "report.html"):
        text = (tmp_path / "o" / report).read_text()
        assert "majority class 31.00 %" in text
        assert text.count("top1 of the majority class") == len(names)
    evaluate(weights, tasks=["metrics"], out=tmp_path / "m", cache={"mode": "off"}, **settings)
    assert "majority class 31.00 %" in capsys.readouterr().err
    stored = json.loads((tmp_path / "m" / "results.json").read_text())
    assert stored["data"]["majority_class"] == 0.31


def test_a_constant_network_is_said_to_be_no_better_than_the_majority_class(tmp_path):
    path = noise(tmp_path / "set", {"a": 4, "b": 9}, {"a": 4, "b": 6})
    run = EvalRun(
        make_settings({"weights": TIMM, "data": {"path": str(path), "size_px": 16}}),
        resolve_weights(TIMM),
        say=print,
    )
    for own, is_said in ((0.4, True), (0.6, True), (0.7, False)):
        line = Measurement(name="top1", value=own)
        result = TaskResult(task="svm", protocol="p", headline="top1", measurements=(line,))
        found = beside_majority(run, result)
        assert found.measurements[1].value == 0.6
        assert bool(found.warnings) == is_said
    other = TaskResult(task="x", protocol="p", headline="mAP", measurements=(line,))
    assert beside_majority(run, other) == other
    assert warn_of_chance(0.2, 5)
    assert not warn_of_chance(0.21, 5)
