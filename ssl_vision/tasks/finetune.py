"""The task `finetune`: a classifier trained from the evaluated weights, scored on the test images.

It trains on one process; for several GPUs, resuming and checkpoints train the method `supervised`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssl_vision.data.source import Source, SubsetSource
from ssl_vision.data.subsets import are_among, fraction_rows, rows_of_list
from ssl_vision.distributed import world_size
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.accuracy import Interval
from ssl_vision.evaluation.classification import ClassificationReport, Proportion
from ssl_vision.evaluation.finetune import FINETUNE_PRESETS, FinetuneConfig, finetune
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.points_classification import POINT_FINETUNE_PRESETS, PointFinetuneConfig
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.points import run_point_finetune
from ssl_vision.tasks.run import AUTOCAST, EvalRun
from ssl_vision.tasks.task import Task, check_classes, no_check, no_features


def run_finetune(run: EvalRun) -> TaskResult:
    """Train, and report the last epoch; nothing is chosen on the test images."""
    return WAYS[run.modality.finetune].run(run)


def _finetune_images(run: EvalRun) -> TaskResult:
    config = run.config.settings(FinetuneConfig)
    train, test, said = _check_images(run)
    size_px, interpolation = run.view.size_px, run.view.interpolation
    view = config.view(size_px=size_px, interpolation=interpolation)
    dtype = AUTOCAST[run.config.precision]
    result = finetune(
        run.loaded.backbone,
        run.loader(
            train, view, shuffle=True, batch_size=config.batch_size, batch_key="finetune.batch_size"
        ),
        run.loader(test, run.view),
        num_classes=len(train.class_names),
        config=config,
        normalize=run.normalize,
        input_size=size_px,
        class_names=train.class_names,
        seed=run.config.seed,
        device=run.device,
        autocast=torch.autocast(run.device.type, dtype=dtype) if dtype is not None else None,
    )
    losses = list(enumerate(result.losses, start=1))
    return TaskResult(
        task="finetune",
        protocol=_protocol(config),
        headline="top1",
        measurements=_measurements(result.report),
        details={
            "num_train": len(train),
            "losses": result.losses,
            "report": result.report.to_dict(),
        },
        plots=(line_chart("training loss", {"loss": losses}, x=Axis("epoch"), y=Axis("loss")),),
        seconds=result.seconds,
        warnings=said,
    )


def _check_images(run: EvalRun) -> tuple[Source, Source, tuple[str, ...]]:
    """Training and test images, if they can be fine-tuned on, and what is to be said of them.

    Raises:
        ConfigError: On several processes.
        DataError: Training and test images have other classes.
    """
    if world_size() > 1:
        raise ConfigError(
            "tasks=finetune trains on one process; use ssl-vision train with a recipe of "
            "configs/supervised and init_from= for several."
        )
    train, test, said = _images(run, run.config.settings(FinetuneConfig))
    if test.class_names != train.class_names:  # numbers mean the same only then
        differing = sorted(set(test.class_names) ^ set(train.class_names))
        words = f"only one of them has {', '.join(differing[:3])}" if differing else "another order"
        raise DataError(f"fine-tuning needs the same classes in training and test images: {words}.")
    return train, test, said


def _listed_images(run: EvalRun, train_list: str) -> tuple[Source, Source, tuple[str, ...]]:
    """As `_images`, by a list: where test images had to be held out, what it names is trained on.

    Raises:
        ConfigError: Another setting chooses training images, too.
        DataError: An image is not there or has no label, or nothing is left to score.
    """
    key, whole, test = f"finetune.train_list={train_list}", run.train_source, run.source("val")
    if run.config.data.max_train is not None:
        raise ConfigError(
            f"{key} and data.max_train={run.config.data.max_train} both choose training images; "
            "set one of them."
        )
    rows = rows_of_list(whole, Path(train_list), key="finetune.train_list")
    if whole.labels is not None and (unlabelled := rows[whole.labels[rows] < 0]).size:
        raise DataError(
            f"{key}: {len(unlabelled)} of {len(rows)} images have no label, first "
            f"{whole.name(int(unlabelled[0]))}; leave them out."
        )
    train = SubsetSource(whole, rows)
    if run.has_val_split:
        return train, test, ()
    is_trained = are_among(test, whole, rows)
    if is_trained.all():
        raise DataError(
            f"{key} names all {len(test)} images that were held out to be scored; give "
            "data.val_path, or name fewer."
        )
    if not is_trained.any():
        return train, test, ()
    line = (
        f"{key} names {is_trained.sum()} of the {len(test)} images held out to be scored: they are "
        f"trained on, and this task scores the {(~is_trained).sum()} others."
    )
    return train, SubsetSource(test, np.flatnonzero(~is_trained)), (line,)


def _images(run: EvalRun, config: FinetuneConfig) -> tuple[Source, Source, tuple[str, ...]]:
    """Training images, or the part that the settings name; test images; what is to be said."""
    if config.train_list is not None:
        return _listed_images(run, config.train_list)
    source = run.source("train")
    if config.train_fraction < 1:
        labels = None if source.labels is None else np.asarray(source.labels)
        rows = fraction_rows(len(source), labels, fraction=config.train_fraction)
        source = SubsetSource(source, rows)
    return source, run.source("val"), ()


def _protocol(config: FinetuneConfig) -> str:
    """What has to be equal for two results to compare."""
    labels = f"-labels{config.train_fraction:g}" if config.train_fraction < 1 else ""
    labels = f"-list_{Path(config.train_list).stem}" if config.train_list else labels
    start = "" if config.start == "weights" else f"-{config.start}"
    return f"finetune-{config.preset}-{config.tune}-e{config.epochs}{labels}{start}/1"


def _measurements(report: ClassificationReport) -> tuple[Measurement, ...]:
    shares: dict[str, Proportion] = {"top1": report.top1, "top5": report.top5}
    return (
        *(
            Measurement(name=name, value=share.value, interval=Interval(share.low, share.high))
            for name, share in shares.items()
        ),
        Measurement(name="mean_per_class", value=report.mean_per_class),
        Measurement(name="calibration error", value=report.calibration.ece),
        Measurement(name="cross-entropy", value=report.cross_entropy, is_share=False),
    )


class Way(NamedTuple):
    """How samples of one kind are fine-tuned on, and what is asked before."""

    run: Callable[[EvalRun], TaskResult]
    check: Callable[[EvalRun], object] = no_check


WAYS = {  # by the section that has their settings
    "finetune": Way(_finetune_images, check=_check_images),
    "point_finetune": Way(run_point_finetune),
}


def _check(run: EvalRun) -> None:
    """What can be known before anything is trained."""
    check_classes(run, task="finetune")
    WAYS[run.modality.finetune].check(run)


TASK = Task(
    run=run_finetune,
    settings={"finetune": FinetuneConfig, "point_finetune": PointFinetuneConfig},
    presets={"finetune": FINETUNE_PRESETS, "point_finetune": POINT_FINETUNE_PRESETS},
    feature_sets=no_features,
    check=_check,
)
