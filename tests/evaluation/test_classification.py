"""Counts against loops and scikit-learn, intervals against their defining equation."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from torch import Tensor

from ssl_vision.errors import DataError
from ssl_vision.evaluation.classification import (
    as_markdown,
    calibrate,
    classification_report,
    confusion_picture,
    ranks_of_labels,
    write_report,
)


def _scores(num_samples: int, num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_samples)
    logits = torch.randn(num_samples, num_classes, generator=generator)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    logits[torch.arange(num_samples), labels] += 1.5
    return logits, labels


@pytest.mark.parametrize("right", [0, 1, 3])
def test_interval_ends_are_z_standard_errors_from_the_share(right: int) -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    predicted = [0] * right + [1] * (3 - right)
    interval = classification_report(torch.eye(2)[predicted], labels).top1
    assert interval.low <= interval.value <= interval.high
    for end in {interval.low, interval.high} - {0.0, 1.0}:  # Wilson's interval solves this for p
        z = (right / 3 - end) / math.sqrt(end * (1 - end) / 3)
        assert abs(z) == pytest.approx(1.959964, abs=1e-5)


def test_report_agrees_with_scikit_learn() -> None:
    logits, labels = _scores(400, 7)
    report = classification_report(logits, labels)
    assert report.top1.value == pytest.approx(top_k_accuracy_score(labels, logits, k=1))
    assert report.top5.value == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    expected = confusion_matrix(labels, logits.argmax(dim=1))
    np.testing.assert_array_equal(report.confusion, expected)
    recall = expected.diagonal() / expected.sum(axis=1)
    assert report.mean_per_class == pytest.approx(recall.mean())
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert report.cross_entropy == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(
        [row.precision for row in report.classes], expected.diagonal() / expected.sum(axis=0)
    )


def test_calibration_error_equals_the_loop() -> None:
    logits, labels = _scores(300, 4)
    probabilities = logits.softmax(dim=1)
    expected, counts = 0.0, []
    for number in range(10):
        members = [
            i
            for i in range(300)
            if number / 10 < float(probabilities[i].max().double()) <= (number + 1) / 10
        ]
        counts.append(len(members))
        gap = sum(
            float(probabilities[i].max()) - float(probabilities[i].argmax() == labels[i])
            for i in members
        )
        expected += abs(gap) / 300
    found = calibrate(probabilities, labels, num_bins=10)
    assert found.ece == pytest.approx(expected, abs=1e-6)
    assert found.num_samples == counts


def test_confidence_that_equals_accuracy_is_calibrated() -> None:
    probabilities = torch.tensor([[0.75, 0.25]]).repeat(8, 1)
    labels = torch.tensor([0, 0, 0, 1] * 2)
    assert calibrate(probabilities, labels, num_bins=15).ece == pytest.approx(0, abs=1e-12)
    assert calibrate(probabilities, 1 - labels, num_bins=15).ece == pytest.approx(0.5)


def test_equal_scores_go_to_the_lower_class() -> None:
    labels = torch.tensor([0, 1, 2])
    assert ranks_of_labels(torch.zeros(3, 3), labels).tolist() == [0, 1, 2]
    report = classification_report(torch.zeros(3, 3), labels)
    assert report.top1.value == pytest.approx(1 / 3)
    assert [row[0] for row in report.confusion] == [1, 1, 1]


def test_absent_classes_have_no_recall_and_do_not_lower_the_mean() -> None:
    logits = torch.eye(3)[[0, 0, 1]] * 9
    report = classification_report(logits, torch.tensor([0, 0, 0]), class_names=["a", "b", "c"])
    assert [row.recall is None for row in report.classes] == [False, True, True]
    assert report.mean_per_class == pytest.approx(2 / 3)
    assert report.classes[0].confused_with == "b"
    assert report.classes[2].precision is None


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "no labelled samples"),
        (torch.full((2, 3), float("nan")), torch.tensor([0, 1]), "not finite"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "from 0 to 3 but the classifier has 3"),
    ],
)
def test_what_cannot_be_counted_is_refused(logits: Tensor, labels: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        classification_report(logits, labels)


def test_files_hold_the_numbers(tmp_path: Path) -> None:
    logits, labels = _scores(100, 5)
    report = classification_report(logits, labels, class_names=["ant", "bee", "cat", "dog", "eel"])
    paths = write_report(report, tmp_path / "new")
    assert {p.name for p in paths} == {
        "classification.json",
        "classification.md",
        "confusion.png",
    }
    stored = json.loads(paths[0].read_text())
    assert stored["top1"]["value"] == report.top1.value
    assert stored["confusion"] == report.confusion
    assert f"| top-1 | {report.top1} |" in paths[1].read_text()
    assert "| bee |" in as_markdown(report)


@pytest.mark.parametrize("num_classes", [3, 60, 300])
def test_picture_is_dark_on_the_diagonal_of_a_perfect_classifier(num_classes: int) -> None:
    logits, labels = torch.eye(num_classes) * 9, torch.arange(num_classes)
    picture = confusion_picture(classification_report(logits, labels)).convert("L")
    pixels = np.asarray(picture)
    side = max(1, min(28, 1000 // num_classes))
    cells = pixels[-num_classes * side :, -num_classes * side :]
    is_dark = cells[side // 2 :: side, side // 2 :: side] < 128
    np.testing.assert_array_equal(is_dark, np.eye(num_classes, dtype=bool))


def test_names_of_classes_that_are_no_text_are_escaped_in_every_file(tmp_path: Path) -> None:
    names = [os.fsdecode(b"bad\xff\xfe"), "two\nlines", "b\u00e4r"]
    logits, labels = _scores(30, 3)
    written = write_report(classification_report(logits, labels, class_names=names), tmp_path)
    assert written[2].stat().st_size > 0
    told = ["bad\\udcff\\udcfe", "two\\nlines", "b\u00e4r"]
    rows = json.loads(written[0].read_text("utf-8"))["classes"]
    assert [row["name"] for row in rows] == told
    page = written[1].read_text("utf-8")
    assert all(f"| {name} |" in page for name in told)
