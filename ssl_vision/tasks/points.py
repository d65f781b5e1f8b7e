"""Tasks of point clouds: linear SVM, n-way k-shot folds, fine-tuning, part segmentation."""

from dataclasses import replace

from ssl_vision.backbones.point_vit import PointViT
from ssl_vision.data.clouds.config import cloud_settings
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.accuracy import wilson_interval
from ssl_vision.evaluation.points_classification import (
    PointFinetuneConfig,
    finetune_classifier,
)
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.run import EvalRun, Split


def run_point_finetune(run: EvalRun) -> TaskResult:
    """Fine-tuned classification of clouds, last epoch, with and without voting."""
    config = as_shown(run, run.config.settings(PointFinetuneConfig))
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
        f"{patches_and_units(config)}/2",
        headline="top1",
        measurements=tuple(
            Measurement(name=name, value=value, interval=wilson_interval(value, result.num_test))
            for name, value in scores.items()
        ),
        details={"last_loss": result.last_loss, "num_test": result.num_test},
    )


def as_shown(run: EvalRun, config: PointFinetuneConfig) -> PointFinetuneConfig:
    """The settings, completed by how the evaluation shows clouds where they say nothing."""
    data = cloud_settings(run.config.data)
    is_normalized = data.is_normalized if config.is_normalized is None else config.is_normalized
    return replace(
        config, num_points=config.num_points or data.num_points, is_normalized=is_normalized
    )


def patches_and_units(config: PointFinetuneConfig) -> str:
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


def leave_out_unreadable(run: EvalRun, *splits: Split) -> None:
    """One pass finds the clouds that cannot be read, where the settings ask to go on without."""
    if run.config.data.on_error != "raise":
        for split in splits:
            run.prepare(split, ["pooled"])
