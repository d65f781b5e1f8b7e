"""Accuracy and how far to trust it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution


class Interval(NamedTuple):
    """Ends of a confidence interval, in [0, 1]."""

    low: float
    high: float


class Accuracy(NamedTuple):
    """Shares of correct answers, in [0, 1].

    Attributes:
        top1: The first class is right.
        top5: The right class is among the first five.
        mean_per_class: Mean of the classes' own top-1, as reported for Flowers, Pets and others.
        num: Number of images behind the shares.
    """

    top1: float
    top5: float
    mean_per_class: float
    num: int

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of `top1`: the images drawn again, not the network trained again."""
        return wilson_interval(self.top1, self.num)


def score_ranking(ranked: Tensor, labels: Tensor) -> Accuracy:
    """Accuracy of ranked classes.

    Args:
        ranked: Classes, best first, int64, (Q, 1 or more).
        labels: True classes, int64, (Q,).
    """
    hits = ranked == labels[:, None]
    first = hits[:, 0].double()
    classes = labels.unique()
    per_class = torch.stack([first[labels == each].mean() for each in classes])
    return Accuracy(
        top1=float(first.mean()),
        top5=float(hits[:, :5].any(dim=1).double().mean()),
        mean_per_class=float(per_class.mean()),
        num=len(labels),
    )


def majority_class(bank_labels: Tensor, labels: Tensor) -> Accuracy:
    """Accuracy of one answer for all images: the classes by their number of training images.

    Of classes with equally many, the one with more test images comes first: no constant answer that
    knows the training images can be better. With balanced classes this is chance.

    Args:
        bank_labels: Classes of the training images, int64, (N,).
        labels: True classes of the test images, int64, (Q,).
    """
    num = int(max(bank_labels.max(), labels.max())) + 1
    trained, tested = (part.bincount(minlength=num) for part in (bank_labels, labels))
    ranked = (trained * (len(labels) + 1) + tested).argsort(descending=True, stable=True)
    return score_ranking(ranked[:5].expand(len(labels), -1), labels)


def wilson_interval(share: float, num: int) -> Interval:
    """95 % interval of a share seen in `num` draws (Wilson 1927); sound near 0 and 1."""
    if num == 0:
        return Interval(0.0, 1.0)
    spread = _Z_95**2 / num
    centre = (share + spread / 2) / (1 + spread)
    half = _Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / num + spread / (4 * num))
    # At shares of 0 and 1 rounding would leave the share outside.
    return Interval(min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))
