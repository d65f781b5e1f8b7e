"""The task `knn`: a weighted vote of the nearest training images."""

import warnings

import torch

from ssl_vision.evaluation.accuracy import Accuracy
from ssl_vision.evaluation.features import FeatureSet
from ssl_vision.evaluation.knn import KNN_PRESETS, KnnConfig, score_knn
from ssl_vision.evaluation.neighbours import check_search
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import Measurement, TaskResult, accuracy_measurements
from ssl_vision.tasks.baselines import compare_with_baselines, top1_of
from ssl_vision.tasks.run import ACCURACY, EvalRun, Split
from ssl_vision.tasks.task import Task


def run_knn(run: EvalRun) -> TaskResult:
    """Weighted kNN vote for every k."""
    config = run.config.settings(KnnConfig)
    scores = _knn(run, config)
    quoted = scores[config.quoted_k]
    best = max(scores, key=lambda k: scores[k].top1)
    details: dict[str, object] = {
        "k": {k: score._asdict() for k, score in scores.items()},
        "best_k": {"k": best, "top1": scores[best].top1, "selected_on_test": True},
    }
    measurements = list(accuracy_measurements(quoted))
    for k, score in scores.items():
        measurements.append(
            Measurement(name=f"top1 k={k}", value=score.top1, interval=score.interval)
        )

    def vote(other: EvalRun) -> Measurement:
        return top1_of(_knn(other, config)[config.quoted_k])

    compared, problems = compare_with_baselines(run, top1_of(quoted), vote)
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
        protocol=f"knn-{config.features}-k{config.quoted_k}-t{config.temperature:g}{loo}{run.mark}/3",
        headline="top1",
        measurements=tuple(measurements),
        details=details,
        plots=(plot,),
        warnings=tuple(problems),
    )


def _knn(run: EvalRun, config: KnnConfig) -> dict[int, Accuracy]:
    """Accuracy of each k."""
    bank = _labelled(run, "train", config.features)
    queries = bank if config.is_leave_one_out else _labelled(run, "val", config.features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a k above the bank is a warning of the result
        return score_knn(
            bank,
            queries,
            k=config.k,
            temperature=config.temperature,
            feature=config.features,
            num_classes=run.num_classes,
            search=config.search,
            device=run.device,
        )


def _labelled(run: EvalRun, split: Split, name: str) -> FeatureSet:
    features = run.features(split, name)  # first: what cannot be read leaves the labels, too
    return FeatureSet(
        features={name: features}, labels=run.labels(split), index=torch.arange(len(features))
    )


TASK = Task(
    run=run_knn,
    settings={"knn": KnnConfig},
    presets={"knn": KNN_PRESETS},
    check=lambda run: check_search(run.config.settings(KnnConfig).search, device=run.device),
    feature_sets=lambda run: (run.config.settings(KnnConfig).features,),
)
