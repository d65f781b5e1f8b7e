"""Accuracy by counting, and the Wilson interval against its defining equation."""

import math

import pytest
import torch

from ssl_vision.evaluation.accuracy import majority_class, score_ranking, wilson_interval


def test_accuracy_counts() -> None:
    ranked = torch.tensor(
        [[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 2, 3, 4, 5, 0]]
    )
    score = score_ranking(ranked, torch.tensor([0, 0, 1, 0]))
    assert score.top1 == 1 / 4
    assert score.top5 == 3 / 4
    assert score.mean_per_class == (1 / 3 + 0) / 2
    assert score.num == 4


@pytest.mark.parametrize(("hits", "num"), [(0, 10), (10, 10), (7, 20), (970, 1000)])
def test_interval_ends_solve_the_score_equation(hits: int, num: int) -> None:
    share = hits / num
    low, high = wilson_interval(share, num)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:  # |share - p| = z sqrt(p (1 - p) / n)
            z = abs(share - end) / math.sqrt(end * (1 - end) / num)
            assert z == pytest.approx(1.959964, abs=1e-5)
    assert 0 <= low <= share <= high <= 1
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("bank", "labels", "share"),
    [
        ([0, 1, 1], [0, 0, 0, 1], 1 / 4),  # the largest class of the training images decides
        ([0, 1], [0, 1, 1, 1], 3 / 4),  # of equals the one that gets more right
        ([1, 1], [0, 2], 0.0),
    ],
)
def test_the_majority_class_is_the_best_constant_answer(bank, labels, share) -> None:
    found = majority_class(torch.tensor(bank), torch.tensor(labels))
    assert found.top1 == share
    assert found.num == len(labels)


def test_with_balanced_classes_the_majority_class_is_chance() -> None:
    labels = torch.arange(12) % 4
    found = majority_class(labels, labels)
    assert (found.top1, found.top5, found.mean_per_class) == (1 / 4, 1.0, 1 / 4)
