"""Intersection over union against loops over pixels, scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score
from torchmetrics.functional.segmentation import mean_iou

from ssl_vision.data.images.masks import IGNORED
from ssl_vision.evaluation.dense import PatchMaps
from ssl_vision.evaluation.segmentation import (
    SegmentConfig,
    class_iou,
    class_scores,
    classes_at,
    count_pixels,
    score_pixels,
    train_segmenter,
)


def drawn(num_classes: int, num: int = 6, seed: int = 0):
    """Masks of unequal sizes, some pixels ignored, and predictions that are often right."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(num):
        truth = rng.integers(0, num_classes, (5 + i, 9 - i))
        found = np.where(
            rng.random(truth.shape) < 0.6, truth, rng.integers(0, num_classes, truth.shape)
        )
        truth[rng.random(truth.shape) < 0.2] = IGNORED
        pairs.append((truth, found))
    return pairs


def by_loops(pairs, num_classes: int) -> list[float]:
    ious = []
    for each in range(num_classes):
        both = either = 0
        for truth, found in pairs:
            for a, b in zip(truth.flat, found.flat, strict=True):
                if a == IGNORED:
                    continue
                both += a == each and b == each
                either += a == each or b == each
        ious.append(both / either if either else float("nan"))
    return ious


@pytest.mark.parametrize("num_classes", [2, 5])
def test_iou_is_that_of_loops_and_of_other_libraries(num_classes):
    pairs = drawn(num_classes)
    counts = [count_pixels(truth, found, num_classes) for truth, found in pairs]
    scores = score_pixels(counts, np.ones(num_classes, int), seed=0)
    expected = by_loops(pairs, num_classes)
    assert scores.iou.tolist() == pytest.approx(expected)
    assert scores.miou == pytest.approx(np.mean(expected))
    truth, found = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    kept = truth != IGNORED
    truth, found = truth[kept], found[kept]
    assert scores.iou.tolist() == pytest.approx(jaccard_score(truth, found, average=None).tolist())
    assert scores.accuracy == pytest.approx(accuracy_score(truth, found))
    theirs = mean_iou(
        torch.from_numpy(found)[None], torch.from_numpy(truth)[None], num_classes=num_classes,
        input_format="index",
    )  # fmt: skip
    assert scores.miou == pytest.approx(float(theirs.mean()))
    assert scores.interval.low < scores.miou < scores.interval.high


def test_classes_that_occur_nowhere_are_left_out_and_predicted_ones_are_not():
    truth, found = np.array([[0, 0, 1, 1]]), np.array([[0, 2, 1, 1]])
    scores = score_pixels([count_pixels(truth, found, 4)], np.array([5, 9, 0, 0]), seed=0)
    assert scores.iou[:3].tolist() == [0.5, 1.0, 0.0]
    assert np.isnan(scores.iou[3])
    assert scores.miou == pytest.approx((0.5 + 1 + 0) / 3)
    assert scores.mean_recall == pytest.approx((0.5 + 1) / 2)
    assert scores.majority == pytest.approx((2 / 4 + 0) / 2)  # class 1 everywhere


@pytest.mark.parametrize("largest", [0, 1, 3])
def test_the_largest_class_everywhere_is_scored_as_that_prediction(largest):
    pairs = [(truth, np.full_like(truth, largest)) for truth, _ in drawn(3)]
    counts = [count_pixels(truth, found, 4) for truth, found in pairs]
    scores = score_pixels(counts, np.eye(4, dtype=int)[largest], seed=0)
    assert scores.majority == pytest.approx(scores.miou)


def test_counts_of_nothing_are_nothing():
    truth = np.full((3, 3), IGNORED)
    counts = count_pixels(truth, np.zeros((3, 3), int), 2)
    assert [part.tolist() for part in counts] == [[0, 0]] * 3
    assert np.isnan(class_iou(counts)).all()


def test_a_trained_head_finds_classes_that_patches_tell_apart():
    rng = np.random.default_rng(0)
    side, num = 4, 40
    classes = rng.integers(0, 3, (num, side, side))
    patches = np.eye(3)[classes] * 4 + rng.normal(size=(num, side, side, 3))
    maps = PatchMaps(torch.from_numpy(patches.reshape(num, -1)).float(), side=side)
    targets = np.kron(classes, np.ones((4, 4), int)).astype(np.int16)
    targets[:, ::3] = IGNORED
    head, losses = train_segmenter(
        maps, targets, 3, config=SegmentConfig(updates=300, lr=0.02), seed=0
    )
    assert losses[0] == pytest.approx(np.log(3), abs=0.1)
    assert losses[-1] < 0.6
    scores = torch.stack(list(class_scores(head, maps)))
    assert (scores.argmax(dim=1).numpy() == classes).mean() > 0.95
    some = list(class_scores(head, maps, [7, 2]))
    torch.testing.assert_close(some[0], scores[7])
    # At pixels: bilinear between centres of patches, so that each centre has its patch's class.
    found = classes_at(scores[7], (side * 9, side * 5))
    assert np.array_equal(found[4::9, 2::5], scores[7].argmax(dim=0).numpy())


def test_a_batch_without_any_class_teaches_nothing():
    maps = PatchMaps(torch.randn(2, 4 * 3), side=2)
    targets = np.full((2, 8, 8), IGNORED, np.int16)
    _, losses = train_segmenter(maps, targets, 2, config=SegmentConfig(updates=3), seed=0)
    assert losses == [0.0] * 3
