"""The task `knn`: a weighted vote of the nearest training images."""

import warnings
from typing import Any

import torch

from ssl_vision.evaluation.accuracy import Accuracy
from ssl_vision.evaluation.knn import KNN_PRESETS, KnnConfig, knn_accuracy
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import Measurement, TaskResult, accuracy_measurements
from ssl_vision.tasks.baselines import compare_with_baselines
from ssl_vision.tasks.run import ACCURACY, EvalRun
from ssl_vision.tasks.task import Task


def run_knn(run: EvalRun) -> TaskResult:
    """Weighted kNN vote for every k."""
    config = run.config.settings(KnnConfig)
    scores = _knn(run, config)
    quoted = scores[config.quoted_k]
    best = max(scores, key=lambda k: scores[k].top1)
    details: dict[str, Any] = {
        "k": {k: score._asdict() for k, score in scores.items()},
        "best_k": {"k": best, "top1": scores[best].top1, "selected_on_test": True},
    }
    measurements = list(accuracy_measurements(quoted))
    for k, score in scores.items():
        measurements.append(
            Measurement(name=f"top1 k={k}", value=score.top1, interval=score.interval)
        )

    def vote(other: EvalRun) -> Accuracy:
        return _knn(other, config)[config.quoted_k]

    compared, problems = compare_with_baselines(run, quoted, vote)
    measurements += compared
    plot = line_chart(
        "kNN accuracy by number of neighbours",
        {"top-1": [(k, score.top1) for k, score in scores.items()]},
        x=Axis("k", is_log=True),
        y=ACCURACY,
        bars={"top-1": [score.interval for score in scores.values()]},
    )
    num_bank = len(run.bank_source)
    if max(config.k) > num_bank:
        problems.append(f"truncated_bank: k={max(config.k)} is above the {num_bank} bank images.")
    loo = "-loo" if config.is_leave_one_out else ""
    return TaskResult(
        task="knn",
        protocol=f"knn-{config.features}-k{config.quoted_k}-t{config.temperature:g}{loo}{run.shown}/2",
        headline="top1",
        measurements=tuple(measurements),
        details=details,
        plots=(plot,),
        warnings=tuple(problems),
    )


def _knn(run: EvalRun, config: KnnConfig) -> dict[int, Accuracy]:
    """Accuracy of each k."""
    bank = run.features("train", config.features)
    queries = bank if config.is_leave_one_out else run.features("val", config.features)
    labels = run.labels("train")
    ids = torch.arange(len(bank)) if config.is_leave_one_out else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a k above the bank is a warning of the result
        return knn_accuracy(
            bank,
            labels,
            queries,
            labels if config.is_leave_one_out else run.labels("val"),
            k=config.k,
            temperature=config.temperature,
            num_classes=run.num_classes,
            search=config.search,
            bank_ids=ids,
            query_ids=ids,
            device=run.device,
        )


TASK = Task(
    run=run_knn,
    settings={"knn": KnnConfig},
    presets={"knn": KNN_PRESETS},
    feature_sets=lambda run: (run.config.settings(KnnConfig).features,),
)
