"""Semantic segmentation from frozen patches: a linear head, intersection over union.

The protocol of DINOv2's linear head without its augmentation: each patch is classified by one
linear map, class scores are enlarged bilinearly, first to 16 values per patch for training, in the
end to each mask's own size, where every pixel counts. Mean IoU is over the classes that occur in
the test masks or in predictions of them, from the pixels of all images together (as mmsegmentation
counts).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_vision.data.images.masks import IGNORED, Classes, LabelTable, read_mask
from ssl_vision.errors import DataError
from ssl_vision.evaluation.accuracy import Interval
from ssl_vision.evaluation.dense import (
    BLOCK,
    CELLS,
    HeadConfig,
    PatchMaps,
    bootstrap,
    fit_head,
    linear_head,
    sample_nearest,
)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(HeadConfig):
    """Linear head on frozen patches."""

    section: ClassVar[str] = "segment"


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """How well masks were predicted.

    Attributes:
        miou: Mean IoU of the classes that occur.
        interval: Its 95 % interval, images drawn again.
        iou: Of each class, (C,); NaN where it occurs neither in masks nor in predictions.
        recall: Share of a class's pixels that were found, (C,); NaN where it has none.
        share: Of all pixels that are of the class, (C,).
        accuracy: Share of pixels that are right.
        majority: Mean IoU of the class of most training pixels as the answer for every pixel.
        num: Test images.
    """

    miou: float
    interval: Interval
    iou: NDArray[np.float64]
    recall: NDArray[np.float64]
    share: NDArray[np.float64]
    accuracy: float
    majority: float
    num: int

    @property
    def occurs(self) -> NDArray[np.bool_]:
        """Whether test masks have the class, (C,)."""
        return self.share > 0

    @property
    def mean_recall(self) -> float:
        """Mean over the classes that masks have."""
        return float(np.nanmean(self.recall))


class Counts(NamedTuple):
    """Pixels of each class, (C,) or (images, C)."""

    hits: NDArray[np.float64]
    of_class: NDArray[np.float64]
    as_class: NDArray[np.float64]


def count_pixels(truth: NDArray[np.integer], found: NDArray[np.integer], num: int) -> Counts:
    """Pixels that were right, that are of a class, and that were called it; ignored ones not.

    Args:
        truth: Classes, (H, W); IGNORED where a pixel counts nowhere.
        found: Predicted classes, (H, W).
        num: Number of classes C.
    """
    counts = truth != IGNORED
    truth, found = truth[counts], found[counts]
    parts = truth[truth == found], truth, found
    return Counts(*(np.bincount(part, minlength=num).astype(np.float64) for part in parts))


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union of each class; NaN of those that occur nowhere."""
    union = counts.of_class + counts.as_class - counts.hits
    with np.errstate(invalid="ignore"):
        return counts.hits / np.where(union > 0, union, np.nan)


class Targets(NamedTuple):
    """Masks of training images.

    Attributes:
        classes: At the centres of a grid of cells, int16, (n, T, T); IGNORED where there is none.
        pixels: Of each class in the whole masks, (C,).
    """

    classes: Classes
    pixels: NDArray[np.int64]


def read_targets(masks: Sequence[Path], table: LabelTable, *, side: int) -> Targets:
    """Classes that patches are trained with, and how many pixels are of each.

    Args:
        masks: Of the training images.
        table: What their values mean.
        side: Patches along a side of an image.

    Raises:
        DataError: A mask cannot be read, or none has a class.
    """
    classes = np.empty((len(masks), CELLS * side, CELLS * side), np.int16)
    pixels = np.zeros(len(table.names), np.int64)
    for row, path in enumerate(masks):
        mask = read_mask(path, table)
        classes[row] = sample_nearest(mask, CELLS * side)
        pixels += np.bincount(mask[mask != IGNORED], minlength=len(pixels))
    if not pixels.any():
        raise DataError(
            f"no pixel of the training masks has one of the {len(pixels)} classes; set "
            "masks.labels or masks.ignore."
        )
    return Targets(classes, pixels)


def score_masks(
    scores_of: Callable[[Tensor], Tensor],
    maps: PatchMaps,
    masks: Sequence[Path],
    table: LabelTable,
    *,
    trained: NDArray[np.int64],
    seed: int,
) -> Segmentation:
    """Scores of predictions at every pixel of test masks.

    Args:
        scores_of: Maps (B, D, h, w) -> class scores, (B, C, h, w).
        maps: Of the test images.
        masks: Of the same.
        table: What their values mean.
        trained: Training pixels of each class, (C,).
        seed: Of the interval's draws.

    Raises:
        DataError: A mask cannot be read, or no pixel of any has a class.
    """
    counts = []
    for path, scores in zip(masks, class_scores(scores_of, maps), strict=True):
        truth = read_mask(path, table)
        counts.append(count_pixels(truth, classes_at(scores, truth.shape), len(table.names)))
    if not any(each.of_class.any() for each in counts):
        raise DataError("no pixel of the test masks has a class; set masks.labels or masks.ignore.")
    return score_pixels(counts, trained, seed=seed)


def score_pixels(
    images: Sequence[Counts], trained: NDArray[np.int64], *, seed: int
) -> Segmentation:
    """Scores of test images.

    Args:
        images: Counts of each.
        trained: Training pixels of each class, (C,).
        seed: Of the interval's draws.
    """
    each = Counts(*(np.stack([getattr(c, name) for c in images]) for name in Counts._fields))
    total = Counts(*(part.sum(axis=0) for part in each))

    def miou_of(draws: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = Counts(*(draws @ part for part in each))
        return np.nanmean(class_iou(drawn), axis=1)

    num_pixels = max(1, int(total.of_class.sum()))
    share = total.of_class / num_pixels
    with np.errstate(invalid="ignore"):
        recall = total.hits / np.where(total.of_class > 0, total.of_class, np.nan)
    iou, largest = class_iou(total), int(trained.argmax())
    present = (total.of_class > 0).sum() + (total.of_class[largest] == 0)
    return Segmentation(
        miou=float(np.nanmean(iou)),
        interval=bootstrap(miou_of, len(images), seed=seed),
        iou=iou,
        recall=recall,
        share=share,
        accuracy=float(total.hits.sum() / num_pixels),
        majority=float(share[largest] / present),
        num=len(images),
    )


def enlarge(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Class scores of patches at every pixel, bilinearly, (B, C, h, w) -> (B, C, H, W)."""
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)


def train_segmenter(
    maps: PatchMaps,
    targets: NDArray[np.int16],
    num_classes: int,
    *,
    config: SegmentConfig,
    seed: int,
) -> tuple[nn.Module, list[float]]:
    """A linear head of training patches, and the loss of every update.

    Args:
        maps: Of the training images.
        targets: Classes at a grid of the image, (n, T, T); IGNORED where there is none.
        num_classes: C.
        config: How it is trained.
        seed: Of its start and of the order of the images.
    """
    head = linear_head(maps, num_classes, seed=seed)
    truth = torch.from_numpy(targets)

    def loss_of(scores: Tensor, rows: Tensor) -> Tensor:
        wanted = truth[rows].long().to(scores.device)
        enlarged = enlarge(scores, (wanted.shape[1], wanted.shape[2]))
        total = F.cross_entropy(enlarged, wanted, ignore_index=IGNORED, reduction="sum")
        return total / (wanted != IGNORED).sum().clamp(min=1)  # all of a batch may be ignored

    return head, fit_head(head, maps, loss_of, config=config, seed=seed)


def class_scores(
    scores_of: Callable[[Tensor], Tensor], maps: PatchMaps, rows: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """Class scores of each image's patches, (C, h, w).

    Args:
        scores_of: Maps (B, D, h, w) -> class scores, (B, C, h, w).
        maps: Of the images.
        rows: Which images; by default all.
    """
    wanted = torch.arange(len(maps)) if rows is None else torch.tensor(rows)
    for block in wanted.split(BLOCK):
        with torch.inference_mode():
            found = scores_of(maps.take(block))
        yield from found


def classes_at(scores: Tensor, size: tuple[int, int]) -> NDArray[np.int64]:
    """Class of every pixel, (H, W), of the scores of an image's patches, (C, h, w)."""
    with torch.inference_mode():
        found: NDArray[np.int64] = enlarge(scores[None], size)[0].argmax(dim=0).cpu().numpy()
    return found
