"""Tasks of point clouds: linear SVM, n-way k-shot folds, fine-tuning, part segmentation."""

from dataclasses import replace
from typing import Any

import numpy as np

from ssl_vision.backbones.point_vit import PointViT
from ssl_vision.data.clouds.source import PartSource
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.accuracy import wilson_interval
from ssl_vision.evaluation.points_classification import (
    FewShotResult,
    PointFinetuneConfig,
    few_shot_finetune,
    few_shot_svm,
    finetune_classifier,
)
from ssl_vision.evaluation.points_parts import finetune_parts
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.svm import SvmResult, linear_svm
from ssl_vision.tasks.baselines import compare_with_baselines
from ssl_vision.tasks.run import EvalRun, Split


def run_svm(run: EvalRun) -> TaskResult:
    """Linear SVM on frozen features, of clouds or images."""
    config = run.config.svm
    result = _svm(run)

    own = Measurement(name="top1", value=result.top1, interval=result.interval)
    compared, problems = compare_with_baselines(run, result, _svm)
    scaling = "standardized" if config.is_standardized else "raw"
    return TaskResult(
        task="svm",
        protocol=f"svm-pooled-{scaling}-c_held_out/1" if result.held_out else "svm-pooled/1",
        headline="top1",
        measurements=(own, *compared),
        details={"c": result.c, "held_out": result.held_out},
        warnings=tuple(problems),
    )


def _svm(run: EvalRun) -> SvmResult:
    return linear_svm(
        run.features("train", "pooled").numpy(),
        run.labels("train").numpy(),
        run.features("val", "pooled").numpy(),
        run.labels("val").numpy(),
        config=run.config.svm,
        seed=run.config.seed,
    )


def run_n_way(run: EvalRun) -> TaskResult:
    """n-way k-shot over fixed folds of the test samples' classes."""
    config = run.config.n_way
    if config.by == "finetune":
        _leave_out_unreadable(run, "train")
        result = few_shot_finetune(
            point_network(run),
            run.source("train"),
            config=replace(config, finetune=_as_shown(run, config.finetune)),
            seed=run.config.seed,
        )
    else:
        result = few_shot_svm(
            run.features("train", "pooled").numpy(),
            run.labels("train").numpy(),
            config=config,
            seed=run.config.seed,
        )
    return TaskResult(
        task="n_way",
        protocol=f"{config.ways}way-{config.shots}shot-{config.by}-{config.num_folds}folds/1",
        headline="accuracy",
        measurements=(_few_shot_measurement(result),),
        details={"folds": result.folds},
    )


def run_point_finetune(run: EvalRun) -> TaskResult:
    """Fine-tuned classification of clouds, last epoch, with and without voting."""
    config = _as_shown(run, run.config.point_finetune)
    test = run.source("val")
    result = finetune_classifier(
        point_network(run),
        run.source("train"),
        test,
        config=config,
        num_classes=run.num_classes,
        seed=run.config.seed,
        num_threads=run.config.data.num_threads,
    )
    scores = {"top1": result.top1}
    if result.voted_top1 is not None:
        scores[f"top1, {config.votes} views averaged"] = result.voted_top1
    return TaskResult(
        task="finetune",
        protocol=f"points-{config.head}-{config.tuning.epochs}ep-vote{config.votes}"
        f"{_patches_and_units(config)}/2",
        headline="top1",
        measurements=tuple(
            Measurement(name=name, value=value, interval=wilson_interval(value, result.num_test))
            for name, value in scores.items()
        ),
        details={"last_loss": result.last_loss, "num_test": result.num_test},
    )


def run_parts(run: EvalRun) -> TaskResult:
    """Part segmentation, last epoch: instance and class mIoU."""
    train, test = run.source("train"), run.source("val")
    if not (isinstance(train, PartSource) and isinstance(test, PartSource)):
        raise DataError(
            f"data.path={run.config.data.path} has no parts; use ShapeNetPart's layout or the "
            "built-in shape_parts (without data.max_train and data.max_val)."
        )
    scores = finetune_parts(
        point_network(run), train, test, config=run.config.parts, seed=run.config.seed
    )
    values = {
        "instance mIoU": scores.instance_miou,
        "class mIoU": scores.class_miou,
        "point accuracy": scores.accuracy,
    }
    by_class: dict[str, Any] = {
        test.class_names[kind]: value for kind, value in scores.by_class.items()
    }
    return TaskResult(
        task="parts",
        protocol=f"parts-{run.config.parts.tuning.epochs}ep/1",
        headline="instance mIoU",
        measurements=tuple(Measurement(name=n, value=v) for n, v in values.items()),
        details={"by_class": by_class},
    )


def _as_shown(run: EvalRun, config: PointFinetuneConfig) -> PointFinetuneConfig:
    """The settings, completed by how the evaluation shows clouds where they say nothing."""
    data = run.config.data
    is_normalized = data.is_normalized if config.is_normalized is None else config.is_normalized
    return replace(
        config, num_points=config.num_points or data.num_points, is_normalized=is_normalized
    )


def _patches_and_units(config: PointFinetuneConfig) -> str:
    """What of a protocol differs from the network's own patches of normalised clouds."""
    patches = "" if config.num_groups is None else f"-{config.num_groups}patches"
    return patches + ("-raw" if config.is_normalized is False else "")


def point_network(run: EvalRun) -> PointViT:
    """The evaluated network, where it takes clouds.

    Raises:
        ConfigError: It takes images.
    """
    backbone = run.loaded.backbone
    if not isinstance(backbone, PointViT):
        raise ConfigError(
            f"this task is of point clouds; {backbone.architecture} takes images. Use "
            "tasks=knn,linear,few_shot,finetune."
        )
    return backbone.to(run.device)


def _leave_out_unreadable(run: EvalRun, *splits: Split) -> None:
    """One pass finds the clouds that cannot be read, where the settings ask to go on without."""
    if run.config.data.on_error != "raise":
        for split in splits:
            run.prepare(split, ["pooled"])


def _few_shot_measurement(result: FewShotResult) -> Measurement:
    note = f"mean of {len(result.folds)} folds, standard deviation {100 * result.std:.2f}"
    return Measurement(name="accuracy", value=float(np.mean(result.folds)), note=note)
