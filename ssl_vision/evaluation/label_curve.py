"""Accuracy by the number of labels, and how many labels one curve saves against another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.accuracy import Interval


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
    """

    labels: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the draws."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> Interval:
        """95 % interval of the mean over draws (Student), cut to [0, 1]; two draws or more."""
        num = len(self.values)
        half = student.ppf(0.975, num - 1) * float(np.std(self.values, ddof=1)) / math.sqrt(num)
        return Interval(max(0.0, self.mean - half), min(1.0, self.mean + half))


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
