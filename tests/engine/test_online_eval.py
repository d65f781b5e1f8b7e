import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.backbones.classifier import classify
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.data.module import DataModule
from ssl_vision.engine.saved_method import untrained_backbone
from ssl_vision.engine.train import train
from ssl_vision.evaluation.features import extract_features
from ssl_vision.evaluation.knn import knn_accuracy
from ssl_vision.methods.distill import Distill
from ssl_vision.nn.batch_norm import with_fitted_batch_norms
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.zoo.weights import resolve_weights
from tests.runs import bars_of

RECIPE = Path(__file__).parents[2] / "configs" / "point_mae" / "tiny_cpu.yaml"


def test_training_is_compared_with_the_better_of_two_untrained_networks(tmp_path: Path) -> None:
    """Batch norms as drawn or fitted to the data: of this network the second."""
    config = load_train_config(
        [RECIPE],
        [
            *("data.path=shapes", "data.views.cloud.num_points=64", "trainer.max_steps=1"),
            "backbone.args={embed_dim: 24, depth: 2, num_heads: 3, num_groups: 8, group_size: 8,"
            " patch_hidden: 32}",
            f"run_dir={tmp_path}",
        ],
    )
    train(config)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    data = DataModule(config.data, seed=config.seed)
    drawn = untrained_backbone(tmp_path)
    shuffled = (b.views["cloud"] for b in data.train_bank_loader(shuffle=True))
    scores = []
    for network in (drawn, with_fitted_batch_norms(drawn, shuffled)):
        loaders = (data.train_bank_loader(), data.val_loader())
        bank, queries = (extract_features(network, each, normalize=None) for each in loaders)
        found = knn_accuracy(
            bank.features["pooled"],
            bank.labels,
            queries.features["pooled"],
            queries.labels,
            k=[config.online_eval.k],
            temperature=config.online_eval.temperature,
        )
        scores.append(found[config.online_eval.k].top1)
    assert scores[1] > scores[0]
    assert first["step"] == 0
    assert first["eval/knn_top1"] == pytest.approx(scores[1])


def scored(run: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl with a verdict."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "eval/verdict" in line]


def test_the_inputs_themselves_are_scored_once_as_evaluate_scores_them(
    recipe: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = recipe("mae", "online_eval.every_epochs=1", "trainer.max_steps=5")
    run = train(config).run_dir
    first, last = scored(run)
    vote = {"k": [config.online_eval.k], "temperature": 0.07, "features": "pooled"}
    found = evaluate(
        run, tasks=["knn"], data="digits", out=tmp_path, baselines=True, knn=vote,
        cache={"mode": "off"},
    )  # fmt: skip
    (raw,) = (each.value for each in found["knn"].measurements if "raw pixels" in each.name)
    assert first["eval/raw_knn_top1"] == pytest.approx(raw)
    assert "eval/raw_knn_top1" not in last
    assert f"not better than raw pixels ({100 * raw:.1f} %)" in last["eval/verdict"]
    # An interrupted run remembers it.
    again = recipe("mae", "online_eval.every_epochs=1", "trainer.max_steps=10")
    assert f"({100 * raw:.1f} %)" in scored(train(again).run_dir)[-1]["eval/verdict"]


def test_the_majority_class_is_told_in_terminal_and_report(
    recipe: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for split, name, num in (
        *(("train", "a", 30), ("train", "b", 10), ("val", "a", 13), ("val", "b", 7)),
    ):
        folder = tmp_path / "set" / split / name
        folder.mkdir(parents=True)
        for i in range(num):
            pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    config = recipe(
        "mae",
        f"data.path={tmp_path / 'set'}",
        *("data.global_batch_size=8", "online_eval.every_epochs=1", "trainer.max_steps=5"),
    )
    run = train(config).run_dir
    assert [line["eval/majority_class"] for line in scored(run)] == [13 / 20] * 2
    assert capsys.readouterr().out.count("majority class 65.00%") == 2
    page = (run / "report.html").read_text()
    assert bars_of(page)["majority class"] == ("65.00 %", 0.65)
    assert "<th>majority" not in page


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_student_of_classes_is_scored_where_the_labels_are_called_the_same(
    recipe: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_renamed: bool,
) -> None:
    """By the exported network's own forward pass."""
    epochs = 1 if is_renamed else 8  # long enough to be better than chance, where it matters
    long = (f"trainer.epochs={epochs}", "data.global_batch_size=64", "optim.base_lr=2e-2")
    train(recipe("supervised", *long, run="teacher"))
    if is_renamed:
        others = tuple(f"not {each}" for each in range(10))
        monkeypatch.setattr(Distill, "class_names", property(lambda self: others))
    config = recipe(
        "distill",
        f"method.teachers.one.weights={tmp_path / 'teacher'}",
        *long,
        f"online_eval.every_epochs={epochs}",
        run="student",
    )
    train(config)
    last = scored(tmp_path / "student")[-1]
    if is_renamed:
        assert "eval/top1" not in last
        return
    student = resolve_weights(str(tmp_path / "student"), with_classifier=True).backbone.eval()
    data = DataModule(config.data, seed=config.seed)
    right = [
        classify(student, student(images).pooled).argmax(dim=1) == batch.label
        for batch in map(data.normalize, data.val_loader())
        for images in batch.views.values()
    ]
    accuracy = float(torch.cat(right).double().mean())
    assert accuracy > 0.15  # better than chance, or the order of classes could be any
    assert last["eval/top1"] == pytest.approx(accuracy)
