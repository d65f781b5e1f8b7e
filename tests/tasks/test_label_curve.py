"""Accuracy by number of labels, against fits by scikit-learn on the same rows."""

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from ssl_vision.errors import ConfigError
from ssl_vision.tasks import label_curve
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.few_shot import draw_shots

CONV = "timm:resnet10t?pretrained=false"
DATA = {"path": "digits", "max_train": 200, "max_val": 100, "size_px": 32}
CURVE = {"labels_per_class": [1, 5, 500], "draws": 3}


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    runs, original = [], label_curve._curve

    def noted(run, *rest):
        runs.append(run)
        return original(run, *rest)

    monkeypatch.setattr(label_curve, "_curve", noted)
    result = evaluate(
        CONV, tasks=["label_curve"], data=DATA, out=tmp_path / "out", baselines=True,
        label_curve=CURVE,
    )  # fmt: skip
    return result.tasks["label_curve"], runs


def test_it_is_scikit_learns_accuracy_on_the_draws_and_says_what_is_saved(found):
    result, runs = found
    values = {each.name: each for each in result.measurements}
    assert result.headline == "top1 with 5 labels per class"
    assert any("500" in warning for warning in result.warnings)
    for run, (name, curve) in zip(runs, result.details.items(), strict=True):
        bank, queries = (run.features(split, "pooled").numpy() for split in ("train", "val"))
        bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
        labels, truth = run.labels("train").numpy(), run.labels("val").numpy()
        for number in (1, 5):
            expected = []
            for draw in range(3):
                rows = draw_shots(run.labels("train"), number, seed=0, draw=draw).numpy()
                fit = LogisticRegression(C=100.0, max_iter=5000, tol=1e-8)
                fit.fit(bank[rows], labels[rows])
                expected.append(fit.score(queries, truth))
            assert list(curve.values())[(1, 5).index(number)] == pytest.approx(expected, abs=0.011)
        if name != "these weights":
            assert f"labels per class that {name} needs for as much as 5 here" in values


def _folder(root, *, train):
    rng = np.random.default_rng(0)
    for split, sizes in (("train", train), ("val", dict.fromkeys(train, 4))):
        for level, (name, num) in enumerate(sizes.items()):
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                pixels = rng.integers(0, 60, (24, 24, 3)) + 60 * level
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(root / split / name / f"{level}_{i}.png")
    return root


def test_classes_with_fewer_images_are_named_and_the_labels_used_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    data = {"path": str(_folder(tmp_path / "uneven", train={"a": 12, "b": 5, "c": 1}))}
    result = evaluate(
        CONV, tasks=["label_curve"], data={**data, "size_px": 32}, out=tmp_path / "out",
        label_curve={"labels_per_class": [1, 4, 12, 50, 60], "draws": 2},
    ).tasks["label_curve"]  # fmt: skip
    notes = {each.name: each.note for each in result.measurements}
    for number, used in ((1, 3), (4, 4 + 4 + 1), (12, 12 + 5 + 1)):
        plural = "s" * (number > 1)
        assert f" {used} labelled" in notes[f"top1 with {number} label{plural} per class"]
    assert not any("50" in name or "60" in name for name in notes)
    said = "\n".join(result.warnings)
    assert "no class has 50 or 60 training images: left out" in said
    assert "4 labels per class: 1 of 3 classes have fewer training images" in said
    assert "12 labels per class: 2 of 3 classes" in said
    assert "(c 1, b 5)" in said
    for each in result.measurements:
        assert each.interval.high - each.interval.low > 0.1  # 12 test images


def test_numbers_that_no_class_has_are_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    data = {"path": str(_folder(tmp_path / "even", train={"a": 6, "b": 6})), "size_px": 32}
    with pytest.raises(ConfigError, match=r"labels_per_class=\[1000\].*6 training.*from 1 to 6"):
        evaluate(
            CONV, tasks=["label_curve"], data=data, out=tmp_path / "out",
            label_curve={"labels_per_class": [1000]},
        )  # fmt: skip
