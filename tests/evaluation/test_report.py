"""Results survive JSON; pages say protocol, interval, warnings and published numbers."""

import json
import math
import re
from pathlib import Path

import pytest
import timm

from ssl_vision.errors import DataError
from ssl_vision.evaluation.accuracy import Accuracy
from ssl_vision.evaluation.anchors import (
    compare,
    find_anchors,
    known_data_name,
    published,
    published_protocol,
)
from ssl_vision.evaluation.report import (
    comparison_html,
    comparison_markdown,
    comparison_table,
    load_evaluation,
    to_html,
    to_markdown,
)
from ssl_vision.evaluation.results import (
    Evaluation,
    Measurement,
    TaskResult,
    accuracy_measurements,
    plain,
)
from ssl_vision.files import shipped_folder


def knn_result(top1: float, protocol: str = "knn-pooled-k20-t0.07-crop0.875/3") -> TaskResult:
    accuracy = Accuracy(top1=top1, top5=0.9, mean_per_class=top1, num=50_000)
    return TaskResult(
        task="knn",
        protocol=protocol,
        headline="top1",
        measurements=accuracy_measurements(accuracy),
        details={"k": {20: accuracy._asdict()}},
        plots=("<svg></svg>",),
        warnings=("selected_on_test",),
    )


def evaluation(top1: float = 0.70, source: str = "zoo:x", **tasks: TaskResult) -> Evaluation:
    return Evaluation(
        weights={
            "source": source,
            "architecture": "vit_small_patch16_224",
            "num_parameters": 21_000_000,
            "method": "dino",
        },
        data={"name": "imagenet1k", "num_train": 1000, "num_val": 500, "num_classes": 10},
        tasks=tasks or {"knn": knn_result(top1)},
        command="evaluate <x>",
    )


def test_results_survive_json(tmp_path: Path) -> None:
    one = evaluation()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(one.to_json(), allow_nan=False))
    other = load_evaluation(tmp_path)
    assert other["knn"].measurements == one["knn"].measurements
    assert other["knn"].warnings == one["knn"].warnings
    assert other.to_json() == one.to_json()
    assert json.loads(path.read_text())["tasks"]["knn"]["value"] == 0.70
    path.write_text(json.dumps({**one.to_json(), "schema": 99}))
    with pytest.raises(DataError, match="schema 99"):
        load_evaluation(path)
    path.write_text("{")
    with pytest.raises(DataError, match="cannot be read as results"):
        load_evaluation(path)
    with pytest.raises(DataError, match="does not exist"):
        load_evaluation(tmp_path / "none")


def test_numbers_that_json_lacks_become_null_and_come_back() -> None:
    assert plain({1: (math.nan, math.inf, 2.0)}) == {"1": [None, None, 2.0]}
    broken = Measurement(name="alpha", value=math.nan, is_share=False)
    result = TaskResult(task="m", protocol="m/1", headline="alpha", measurements=(broken,))
    back = TaskResult.from_json(json.loads(json.dumps(result.to_json())))
    assert math.isnan(back.main.value)


def test_pages_hold_what_a_reader_needs() -> None:
    text, page = to_markdown(evaluation()), to_html(evaluation())
    for content in (text, page):
        assert "knn-pooled-k20-t0.07-crop0.875/3" in content
        assert "70.00 %" in content
        assert "[69.60, 70.40]" in content
        assert "selected_on_test" in content
        assert "70.0 is 4.5 points below the published 74.5" in content
        assert "0.7 points above the published 69.3" in content
    assert "<svg>" in page
    assert "evaluate &lt;x&gt;" in page  # text is escaped
    unknown = evaluation()
    unknown.weights["method"] = None
    assert "the method is unknown" in to_markdown(unknown)
    unknown.weights["method"] = "mae"
    unknown.data["name"] = "mine"
    assert "No published knn result is known for mae" in to_markdown(unknown)


def test_a_table_of_runs_keeps_protocols_apart() -> None:
    runs = [
        evaluation(0.5, "a"),
        evaluation(0.6, "b", knn=knn_result(0.6, "knn-pooled-k200-t0.1/1")),
        evaluation(0.7, "c"),
    ]
    header, rows = comparison_table(runs)
    assert header == [
        "weights",
        "knn (knn-pooled-k20-t0.07-crop0.875/3)",
        "knn (knn-pooled-k200-t0.1/1)",
    ]
    assert [row[0] for row in rows] == ["a", "b", "c"]
    assert rows[1][1] == ""
    assert rows[1][2].startswith("60.00 %")
    assert comparison_markdown(runs).count("\n| ") == 5 - 1 + 1
    assert comparison_html(runs).count("<circle") == 3


def test_anchors_are_sane_and_found() -> None:
    keys = [(a.method, a.architecture, a.data, a.task, a.epochs, a.source) for a in published()]
    assert len(set(keys)) == len(keys)
    assert all(0 < anchor.percent < 100 and anchor.source for anchor in published())
    found = find_anchors(
        method="dino", architecture="vit_small_patch16_224.dino", data="imagenet1k", task="knn"
    )
    assert {anchor.percent for anchor in found} == {69.3, 73.3, 74.5, 67.5}
    linear = {"architecture": "resnet50", "data": "imagenet1k"}
    assert [a.percent for a in find_anchors(method="barlow_twins", task="logreg", **linear)] == [
        73.5, 62.9, 67.2,
    ]  # fmt: skip
    assert not find_anchors(method=None, task="knn", **linear)


def test_published_numbers_are_of_known_data_and_real_architectures() -> None:
    named = ("imagenet1k", "imagenet100", "imagenette", "cifar10", "cifar100")
    for anchor in published():
        assert anchor.data in named
        assert timm.is_model(anchor.architecture), anchor
        assert anchor.epochs is None or anchor.epochs >= 100
    text = (shipped_folder("model_zoo") / "published.yaml").read_text()
    assert len(published()) == len(re.findall(r"\b(?:knn|linear|finetune): \d", text))


def test_a_comparison_says_whether_the_interval_reaches_it() -> None:
    anchor = next(a for a in published() if a.percent == 74.5)
    near = accuracy_measurements(Accuracy(0.743, 0.9, 0.7, 50_000))[0]
    far = accuracy_measurements(Accuracy(0.70, 0.9, 0.7, 50_000))[0]
    assert "inside the 95 % interval" in compare(near, anchor)
    assert "outside the 95 % interval" in compare(far, anchor)
    assert compare(Measurement(name="x", value=0.745), anchor).startswith("74.5 is equal to")


def test_names_of_data_sets_are_recognised() -> None:
    assert known_data_name("/data/ILSVRC2012/") == "imagenet1k"
    assert known_data_name("/data/imagenet-1k.beton") == "imagenet1k"
    assert known_data_name("CIFAR-10") == "cifar10"
    assert known_data_name("/my/birds") == "birds"


def test_a_result_of_another_protocol_is_not_held_against_a_published_one() -> None:
    for protocol in ("knn-pooled-k5-t0.07-crop0.875/2", "knn-pooled-k20-t0.07-crop0.9/2"):
        page = to_markdown(evaluation(knn=knn_result(0.7, protocol)))
        assert "points below the published" not in page
        assert "Not compared with the published 74.5" in page
        assert protocol.rpartition("/")[0] in page
    assert "points below the published 74.5" in to_markdown(evaluation())


def test_numbers_whose_protocol_was_not_verified_are_not_compared() -> None:
    for anchor in published():
        wanted = published_protocol(anchor)
        is_vit_of_dino = anchor.source == "README of dino" and "vit" in anchor.architecture[:3]
        if anchor.task == "knn" and "lightly" not in anchor.source:
            assert wanted == ("knn-pooled-k20-t0.07-crop0.875" if is_vit_of_dino else None), anchor
        if anchor.source == "README of dino" and not is_vit_of_dino:
            assert wanted is None, anchor
