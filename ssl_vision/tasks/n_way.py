"""The task `n_way`: n-way k-shot classification over fixed folds."""

from dataclasses import replace

import numpy as np

from ssl_vision.evaluation.points_classification import (
    FewShotResult,
    PointFewShotConfig,
    few_shot_finetune,
    few_shot_folds,
    few_shot_svm,
)
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.baselines import warn_of_chance
from ssl_vision.tasks.points import as_shown, leave_out_unreadable, point_network
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task


def run_n_way(run: EvalRun) -> TaskResult:
    """n-way k-shot over fixed folds of the test samples' classes."""
    config = run.config.settings(PointFewShotConfig)
    if config.by == "finetune":
        leave_out_unreadable(run, "train")
        result = few_shot_finetune(
            point_network(run),
            run.source("train"),
            config=replace(config, finetune=as_shown(run, config.finetune)),
            seed=run.config.seed,
        )
    else:
        result = few_shot_svm(
            run.features("train", "pooled").numpy(),
            run.labels("train").numpy(),
            config=config,
            seed=run.config.seed,
        )
    own = _few_shot_measurement(result)
    return TaskResult(
        task="n_way",
        protocol=f"{config.ways}way-{config.shots}shot-{config.by}-{config.num_folds}folds/1",
        headline="accuracy",
        measurements=(own,),
        details={"folds": result.folds},
        warnings=warn_of_chance(own.value, config.ways),
    )


def _few_shot_measurement(result: FewShotResult) -> Measurement:
    note = f"mean of {len(result.folds)} folds, standard deviation {100 * result.std:.2f}"
    return Measurement(name="accuracy", value=float(np.mean(result.folds)), note=note)


def _check(run: EvalRun) -> None:
    """Enough classes and samples, and a network of clouds where it is fine-tuned."""
    config = run.config.settings(PointFewShotConfig)
    if config.by == "finetune":
        point_network(run)
    few_shot_folds(run.labels("train").numpy(), config=config, seed=run.config.seed)


TASK = Task(
    run=run_n_way,
    settings={"n_way": PointFewShotConfig},
    needs_val=False,
    check=_check,
)
