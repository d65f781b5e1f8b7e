"""What the tasks on masks of classes share: reading them, scores, table and pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_vision.data.images.masks import (
    IGNORED,
    MASKS,
    LabelTable,
    MasksConfig,
    read_mask,
    table_of,
)
from ssl_vision.evaluation.plots import distinct_colors, heat_map, picture_table
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.segmentation import (
    Segmentation,
    Targets,
    class_scores,
    classes_at,
    read_targets,
    score_masks,
)
from ssl_vision.tasks.baselines import MAJORITY, compare_with_baselines
from ssl_vision.tasks.dense import (
    SPLITS,
    Dense,
    open_dense,
    patch_maps,
    picture_rows,
    small_picture,
)
from ssl_vision.tasks.run import EvalRun

ScoresOf: TypeAlias = Callable[[Tensor], Tensor]  # maps (B, D, h, w) -> class scores (B, C, h, w)
_MAX_LEGEND = 24


@dataclass(frozen=True, kw_only=True)
class MaskedImages:
    """A run's images with their masks.

    Attributes:
        dense: The images, and which file is whose.
        table: What the masks' values mean.
        targets: Of the training images.
    """

    dense: Dense
    table: LabelTable
    targets: Targets

    @property
    def run(self) -> EvalRun:
        """Whose images they are."""
        return self.dense.run

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.table.names)


def check_masks(run: EvalRun, *, task: str) -> None:
    """Before a pass over the images: each has a mask, of its size."""
    open_dense(run, run.config.settings(MasksConfig), MASKS, task=task)


def masked_images(run: EvalRun, *, task: str) -> MaskedImages:
    """The images that can be read, with their masks; read once for all tasks.

    Raises:
        ConfigError: As of `open_dense`.
        DataError: As of `open_dense`, `table_of` and `read_targets`.
    """
    if "masked images" not in run.made:
        run.made["masked images"] = _read(run, task)
    images: MaskedImages = run.made["masked images"]
    return images


def _read(run: EvalRun, task: str) -> MaskedImages:
    config = run.config.settings(MasksConfig)
    dense = open_dense(run, config, MASKS, task=task)
    for split in SPLITS:
        patch_maps(dense.run, split)  # first: what cannot be read leaves the masks, too
    masks = dense.partners("train")
    table, note = table_of(config, masks)
    if note:
        run.say(note)
    assert dense.run.patch_side is not None
    targets = read_targets(masks, table, side=dense.run.patch_side)
    return MaskedImages(dense=dense, table=table, targets=targets)


def masks_result(
    images: MaskedImages,
    scores_of: ScoresOf,
    fit: Callable[[EvalRun], ScoresOf],
    *,
    task: str,
    protocol: str,
    plots: tuple[str, ...] = (),
) -> TaskResult:
    """Scores, per-class table and pictures of predictions, beside those of the baselines.

    Args:
        images: What is predicted.
        scores_of: Of the evaluated network.
        fit: Makes such a function for any network on the same images.
        task: Its name.
        protocol: What two results must have in common to compare.
        plots: Further ones.
    """
    own = _score(images, images.run, scores_of)
    compared, problems = compare_with_baselines(
        images.run,
        _miou(own),
        lambda other: _miou(_score(images, other, fit(other))),
    )
    floor = f"mIoU of {MAJORITY}"
    if own.miou <= own.majority:
        problems.append(f"not better than {MAJORITY} everywhere: {100 * own.majority:.1f} % mIoU.")
    untrained = [
        images.table.names[i] for i in np.flatnonzero((images.targets.pixels == 0) & own.occurs)
    ]
    if untrained:
        names = ", ".join(untrained[:5])
        problems.append(f"no training pixels of {names}, which the test masks have.")
    return TaskResult(
        task=task,
        protocol=protocol,
        headline="mIoU",
        measurements=(
            _miou(own),
            Measurement(name="pixel accuracy", value=own.accuracy),
            Measurement(
                name="mean accuracy", value=own.mean_recall, note="over the masks' classes"
            ),
            *compared,
            Measurement(name=floor, value=own.majority, note="one class everywhere"),
        ),
        details={
            "classes": _class_rows(images, own),
            "num_train": len(images.targets.classes),
            "num_test": own.num,
            "labels": images.table.layout,
        },
        plots=(_class_table(images, own), _pictures(images, scores_of), *plots),
        warnings=(*images.dense.warnings, *problems),
    )


def _score(images: MaskedImages, run: EvalRun, scores_of: ScoresOf) -> Segmentation:
    """Scores of a network on the test images."""
    return score_masks(
        scores_of,
        patch_maps(run, "val"),
        images.dense.partners("val"),
        images.table,
        trained=images.targets.pixels,
        seed=run.config.seed,
    )


def _miou(scores: Segmentation) -> Measurement:
    return Measurement(name="mIoU", value=scores.miou, interval=scores.interval)


def _class_rows(images: MaskedImages, scores: Segmentation) -> list[dict[str, object]]:
    columns = zip(images.table.names, scores.iou, scores.recall, scores.share, strict=True)
    return [
        {"name": name, "iou": float(iou), "accuracy": float(recall), "share": float(share)}
        for name, iou, recall, share in columns
    ]


def _class_table(images: MaskedImages, scores: Segmentation) -> str:
    return heat_map(
        "Test pixels by class, %; ×: the class occurs nowhere",
        np.stack([scores.iou, scores.recall, scores.share], axis=1).tolist(),
        rows=images.table.names,
        columns=["IoU", "accuracy", "share"],
    )


def _pictures(images: MaskedImages, scores_of: ScoresOf) -> str:
    """Test images, their masks and predictions."""
    maps, source = patch_maps(images.run, "val"), images.run.source("val")
    masks, colors, shown = images.dense.partners("val"), class_colors(images.table), set[int]()
    rows, chosen = [], picture_rows(len(maps))
    for row, scores in zip(chosen, class_scores(scores_of, maps, chosen), strict=True):
        truth = read_mask(masks[row], images.table)
        found = classes_at(scores, truth.shape)
        shown |= {*np.unique(truth).tolist(), *np.unique(found).tolist()} - {IGNORED}
        painted = [small_picture(colors[each], is_painted=True) for each in (truth, found)]
        rows.append([small_picture(source.sample(row)), *painted])
    legend = {images.table.names[i]: tuple(colors[i].tolist()) for i in sorted(shown)[:_MAX_LEGEND]}
    columns = ("image", "mask (black: ignored)", "prediction")
    return picture_table("Predictions", rows, columns=columns, legend=legend)


def class_colors(table: LabelTable) -> NDArray[np.uint8]:
    """Colour of each class, and behind them of what is ignored (the class -1): black."""
    own = distinct_colors(len(table.names)) if table.rgb is None else table.rgb
    return np.concatenate([own, np.zeros((1, 3), np.uint8)])
