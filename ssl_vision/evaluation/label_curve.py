"""Accuracy by the number of labels, and how many labels one curve saves against another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.accuracy import Interval, wilson_interval


@dataclass(frozen=True, kw_only=True)
class LabelCurveConfig:
    """Logistic regression on n labelled images per class, for rising n."""

    labels_per_class: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    draws: int = 5  # of the labelled images, for each n
    c: float = 100.0  # of the logistic regression on features of length 1

    def __post_init__(self) -> None:
        numbers = self.labels_per_class
        if not numbers or numbers[0] < 1 or any(a >= b for a, b in pairwise(numbers)):
            raise ConfigError(
                f"label_curve.labels_per_class={list(numbers)} must be rising numbers from 1 on."
            )
        if self.draws < 2:
            raise ConfigError(
                f"label_curve.draws={self.draws} must be 2 or more: one draw has no spread."
            )
        if self.c <= 0:
            raise ConfigError(f"label_curve.c={self.c} must be above 0.")


class CurvePoint(NamedTuple):
    """Accuracy with one number of labels.

    Attributes:
        labels: Per class.
        values: Accuracy of each draw of the labelled images.
        num_test: Test images behind each of them.
        num_labelled: Labelled images of a draw, over all classes.
    """

    labels: int
    values: tuple[float, ...]
    num_test: int
    num_labelled: int = 0

    @property
    def mean(self) -> float:
        """Over the draws."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> Interval:
        """95 % interval: other labelled images and other test images; two draws or more.

        Student's interval of the mean over draws and Wilson's of the test images, which all draws
        share, are independent: their distances from the mean add up as squares, on either side.
        """
        num, mean = len(self.values), self.mean
        half = student.ppf(0.975, num - 1) * float(np.std(self.values, ddof=1)) / math.sqrt(num)
        low, high = wilson_interval(mean, self.num_test)
        return Interval(
            max(0.0, mean - math.hypot(half, mean - low)),
            min(1.0, mean + math.hypot(half, high - mean)),
        )


def labels_needed(curve: Sequence[CurvePoint], accuracy: float) -> float:
    """Labels per class with which a curve first reaches an accuracy.

    Between its points the curve is a line over the logarithm of the number. Where the first point
    is above the accuracy already, its number; where none reaches it, infinity.

    Args:
        curve: Points of rising numbers.
        accuracy: In [0, 1].
    """
    if curve[0].mean >= accuracy:
        return float(curve[0].labels)
    for below, above in pairwise(curve):
        if above.mean >= accuracy:
            share = (accuracy - below.mean) / (above.mean - below.mean)
            return float(below.labels * (above.labels / below.labels) ** share)
    return math.inf
