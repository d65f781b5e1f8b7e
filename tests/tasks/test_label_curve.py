"""Accuracy by number of labels, against fits by scikit-learn on the same rows."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

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
