"""The task `depth`: depth of every pixel by a head on frozen patches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssl_vision.data.images.depth import DEPTHS, read_depth
from ssl_vision.errors import DataError
from ssl_vision.evaluation.dense import BLOCK, CELLS, PatchMaps, bootstrap, sample_nearest
from ssl_vision.evaluation.depth import (
    DepthConfig,
    DepthErrors,
    depth_at,
    depth_errors,
    train_depth,
    within,
)
from ssl_vision.evaluation.plots import Axis, line_chart, picture_table, ramp_colors
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.files import shown
from ssl_vision.tasks.baselines import compare_with_baselines
from ssl_vision.tasks.dense import (
    SPLITS,
    Dense,
    open_dense,
    patch_maps,
    picture_rows,
    small_picture,
)
from ssl_vision.tasks.run import EvalRun, Split
from ssl_vision.tasks.task import Task, no_features


@dataclass(frozen=True, kw_only=True)
class DepthImages:
    """A run's images with their depth.

    Attributes:
        dense: The images, and which file is whose.
        targets: Depth of the training images at the centres of cells, (n, T, T); NaN for none.
        low: Depths below count nowhere.
        high: Depths above count nowhere.
        middle: Median of the training depths.
    """

    dense: Dense
    targets: NDArray[np.float32]
    low: float
    high: float
    middle: float


def run_depth(run: EvalRun) -> TaskResult:
    """Depth by a head on the patches of training images, scored at every pixel with a depth."""
    config = run.config.settings(DepthConfig)
    images = _read(run, config)
    whole = images.dense.run

    def fit(other: EvalRun) -> tuple[nn.Module, list[float]]:
        return train_depth(
            _maps(other, "train", config),
            images.targets,
            low=images.low,
            high=images.high,
            config=config,
            seed=run.config.seed,
        )

    head, losses = fit(whole)
    own = _score(images, whole, head, config)
    main = _delta1(own, run.config.seed)
    compared, problems = compare_with_baselines(
        whole,
        main,
        lambda other: _delta1(_score(images, other, fit(other)[0], config), run.config.seed),
    )
    truths = _truths(images, config)
    constant = _mean([depth_errors(each, np.full_like(each, images.middle)) for each in truths])
    if main.value <= constant.delta1:
        problems.append(f"not better than one depth everywhere: {100 * constant.delta1:.1f} %.")
    found = _mean(own)
    curve = line_chart(
        "loss of the head",
        {"loss": list(enumerate(losses, start=1))},
        x=Axis("update"),
        y=Axis("loss"),
        has_markers=False,
    )
    top = f"{images.high:.3g}m"
    return TaskResult(
        task="depth",
        protocol=f"depth-{config.head}-u{config.updates}-lr{config.lr:g}-{top}{whole.mark}/1",
        headline="delta1",
        measurements=(
            main,
            Measurement(name="RMSE", value=found.rmse, is_share=False, note="metres"),
            Measurement(name="absolute relative error", value=found.abs_rel),
            *compared,
            Measurement(
                name="delta1 of one depth",
                value=constant.delta1,
                note=f"the training median, {images.middle:.3g} m, everywhere; "
                f"RMSE {constant.rmse:.3g} m",
            ),
        ),
        details={
            "num_train": len(images.targets),
            "num_test": len(own),
            "range_m": [images.low, images.high],
            "of_one_depth": constant._asdict(),
        },
        plots=(_pictures(images, head, config), curve),
        warnings=(*images.dense.warnings, *problems),
    )


def _read(run: EvalRun, config: DepthConfig) -> DepthImages:
    """The images that can be read, with their depth.

    Raises:
        DataError: A file cannot be read or has no depth, or no training depth is in range.
    """
    dense = open_dense(run, config, DEPTHS, task="depth")
    for split in SPLITS:
        _maps(dense.run, split, config)  # first: what cannot be read leaves the depth, too
    assert dense.run.patch_side is not None
    side, files = CELLS * dense.run.patch_side, dense.partners("train")
    targets = np.empty((len(files), side, side), np.float32)
    high = 0.0
    for row, path in enumerate(files):
        depth = read_depth(path, scale=config.scale)
        targets[row] = sample_nearest(depth, side)
        high = max(high, float(np.nanmax(depth)))
    high = config.max_m or high
    targets = within(targets, config.min_m, high)
    if np.isnan(targets).all():
        raise DataError(
            f"depth.path={config.path}: no training pixel has a depth of {config.min_m:g} to "
            f"{high:g} m; are depth.scale={config.scale:g}, min_m and max_m right?"
        )
    middle = float(np.nanmedian(targets))
    run.say(
        f"whole numbers of depth are {config.scale:g} m (depth.scale), floating-point numbers "
        f"metres; depths of {config.min_m:g} to {high:.4g} m count, their median is {middle:.3g} m"
    )
    return DepthImages(dense=dense, targets=targets, low=config.min_m, high=high, middle=middle)


def _maps(run: EvalRun, split: Split, config: DepthConfig) -> PatchMaps:
    return patch_maps(run, split, num_layers=config.num_layers)


def _truths(images: DepthImages, config: DepthConfig) -> Iterator[NDArray[np.float32]]:
    """Depth of each test image, (H, W); NaN where it counts nowhere."""
    for path in images.dense.partners("val"):
        depth = within(read_depth(path, scale=config.scale), images.low, images.high)
        if np.isnan(depth).all():
            raise DataError(
                f"{shown(str(path))} has no depth of {images.low:g} to {images.high:.4g} m; set "
                "depth.max_m, or leave its image out."
            )
        yield depth


def _found(head: nn.Module, maps: PatchMaps, rows: list[int]) -> Iterator[torch.Tensor]:
    """Depth of images on the head's grid, (1, h, w)."""
    for block in torch.tensor(rows).split(BLOCK):
        with torch.inference_mode():
            found = head(maps.take(block))
        yield from found


def _score(
    images: DepthImages, run: EvalRun, head: nn.Module, config: DepthConfig
) -> list[DepthErrors]:
    """Errors of each test image."""
    maps = _maps(run, "val", config)
    found = _found(head, maps, list(range(len(maps))))
    return [
        depth_errors(truth, depth_at(depth, truth.shape))
        for truth, depth in zip(_truths(images, config), found, strict=True)
    ]


def _mean(errors: list[DepthErrors]) -> DepthErrors:
    return DepthErrors(*(float(np.mean(values)) for values in zip(*errors, strict=True)))


def _delta1(errors: list[DepthErrors], seed: int) -> Measurement:
    values = np.array([each.delta1 for each in errors])
    num = len(values)
    interval = bootstrap(lambda draws: draws @ values / num, num, seed=seed)
    return Measurement(name="delta1", value=float(values.mean()), interval=interval)


def _pictures(images: DepthImages, head: nn.Module, config: DepthConfig) -> str:
    """Test images, their depth and predictions."""
    run, maps = images.dense.run, _maps(images.dense.run, "val", config)
    rows, chosen, files = [], picture_rows(len(maps)), images.dense.partners("val")
    for row, depth in zip(chosen, _found(head, maps, chosen), strict=True):
        truth = within(read_depth(files[row], scale=config.scale), images.low, images.high)
        painted = [
            small_picture(ramp_colors(each / images.high), is_painted=True)
            for each in (truth, depth_at(depth, truth.shape))
        ]
        rows.append([small_picture(run.source("val").sample(row)), *painted])
    columns = ("image", "depth (black: none)", "prediction")
    title = f"Depth from 0 (blue) to {images.high:.3g} m (yellow)"
    return picture_table(title, rows, columns=columns)


def _check(run: EvalRun) -> None:
    """Before a pass over the images: each has a depth map, of its size."""
    open_dense(run, run.config.settings(DepthConfig), DEPTHS, task="depth")


TASK = Task(
    run=run_depth,
    settings={"depth": DepthConfig},
    needs_labels=False,
    feature_sets=no_features,
    check=_check,
)
