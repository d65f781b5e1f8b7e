"""The tasks of an evaluation: features in, a `TaskResult` out.

Each task is a thin layer over a pure function of `evaluation/`: it asks the run for features,
names the protocol, and draws its plots. `TASKS` is the whole list.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_vision.evaluation.accuracy import Accuracy
from ssl_vision.evaluation.clustering import cluster_scores, kmeans
from ssl_vision.evaluation.knn import KnnConfig, knn_accuracy
from ssl_vision.evaluation.logreg import fit_logistic
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import Measurement, TaskResult, accuracy_measurements
from ssl_vision.evaluation.retrieval import retrieval_scores
from ssl_vision.randomness import keyed_generator
from ssl_vision.tasks.baselines import compare_with_baselines
from ssl_vision.tasks.finetune import run_finetune
from ssl_vision.tasks.linear import run_linear, run_logreg
from ssl_vision.tasks.points import run_n_way, run_parts, run_svm
from ssl_vision.tasks.run import ACCURACY, EvalRun
from ssl_vision.tasks.unlabelled import run_lidar, run_map, run_metrics


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        run: Does it.
        needs_labels: Whether training and test images must have classes.
        feature_sets: Sets it will ask for, so that one pass serves all tasks.
        needs_val: Whether test images take part.
    """

    run: Callable[[EvalRun], TaskResult]
    needs_labels: bool
    feature_sets: Callable[[EvalRun], tuple[str, ...]]
    needs_val: bool = True


# kNN -------------------------------------------------------------------------------------------


def run_knn(run: EvalRun) -> TaskResult:
    """Weighted kNN vote for every k."""
    config = run.config.knn
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


def run_few_shot(run: EvalRun) -> TaskResult:
    """KNN and logistic regression on n labelled images per class, several draws."""
    config = run.config.few_shot
    unit = torch.nn.functional.normalize(run.features("train", "pooled").float(), dim=1)
    queries = torch.nn.functional.normalize(run.features("val", "pooled").float(), dim=1)
    labels, truth = run.labels("train"), run.labels("val")
    scores: dict[str, dict[int, list[float]]] = {"logistic regression": {}, "nearest image": {}}
    for shots in config.shots:
        for draw in range(config.draws):
            rows = draw_shots(labels, shots, seed=run.config.seed, draw=draw)
            classifier = fit_logistic(
                unit[rows], labels[rows], c=config.c, num_classes=run.num_classes
            )
            guess = classifier.logits(queries).argmax(dim=1)
            scores["logistic regression"].setdefault(shots, []).append(_share(guess, truth))
            nearest = knn_accuracy(unit[rows], labels[rows], queries, truth, k=[1], temperature=1.0)
            scores["nearest image"].setdefault(shots, []).append(nearest[1].top1)
    measurements, series, bars = [], {}, {}
    for name, by_shots in scores.items():
        means = {shots: float(np.mean(values)) for shots, values in by_shots.items()}
        stds = {shots: float(np.std(values)) for shots, values in by_shots.items()}
        series[name] = list(means.items())
        bars[name] = [(means[n] - stds[n], means[n] + stds[n]) for n in means]
        for shots, mean in means.items():
            note = f"mean of {config.draws} draws, standard deviation {100 * stds[shots]:.2f}"
            measurements.append(Measurement(name=f"{name}, {shots} shots", value=mean, note=note))
    plot = line_chart(
        "Few labels", series, x=Axis("images per class", is_log=True), y=ACCURACY, bars=bars
    )
    return TaskResult(
        task="few_shot",
        protocol=f"few_shot-pooled-c{config.c:g}-{config.draws}draws/1",
        headline=f"logistic regression, {max(config.shots)} shots",
        measurements=tuple(measurements),
        details=scores,
        plots=(plot,),
    )


def draw_shots(labels: Tensor, shots: int, *, seed: int, draw: int) -> Tensor:
    """Rows of `shots` images of each class (fewer where a class has fewer), rising."""
    generator = keyed_generator(seed, "shots", shots, draw)
    order = torch.randperm(len(labels), generator=generator)
    rows = [order[labels[order] == each][:shots] for each in labels.unique()]
    return torch.cat(rows).sort().values


def _share(guess: Tensor, truth: Tensor) -> float:
    return float((guess.cpu() == truth).double().mean())


# Structure -------------------------------------------------------------------------------------


def run_retrieval(run: EvalRun) -> TaskResult:
    """MAP and recall@k by class."""
    config = run.config.retrieval
    queries, wanted = run.features("val", "pooled"), run.labels("val")
    gallery, labels, ids = run.features("train", "pooled"), run.labels("train"), None
    if config.gallery == "test":
        gallery, labels, ids = queries, wanted, torch.arange(len(queries))
    found = retrieval_scores(
        gallery,
        labels,
        queries,
        wanted,
        k=config.k,
        gallery_ids=ids,
        query_ids=ids,
        device=run.device,
    )
    measurements = [Measurement(name="mAP", value=found.mean_average_precision)]
    for k in config.k:
        measurements.append(Measurement(name=f"recall@{k}", value=found.recall_at[k]))
        measurements.append(Measurement(name=f"precision@{k}", value=found.precision_at[k]))
    measurements.append(Measurement(name="R-precision", value=found.r_precision))
    warnings: tuple[str, ...] = ()
    if found.num_without:
        warnings = (f"{found.num_without} queries have nothing to find and are left out.",)
    return TaskResult(
        task="retrieval",
        protocol=f"retrieval-cosine-gallery_{config.gallery}/1",
        headline="mAP",
        measurements=tuple(measurements),
        details=found._asdict(),
        warnings=warnings,
    )


def run_clustering(run: EvalRun) -> TaskResult:
    """k-means of the test features against the classes."""
    config = run.config.clustering
    truth = run.labels("val")
    num_clusters = config.num_clusters or len(truth.unique())
    clusters = kmeans(
        run.features("val", "pooled"),
        num_clusters=num_clusters,
        config=config,
        seed=run.config.seed,
        device=run.device,
    )
    scores = cluster_scores(clusters.assignment, truth)
    measurements = (
        Measurement(name="NMI", value=scores.nmi),
        Measurement(name="ARI", value=scores.ari),
        Measurement(name="FMI", value=scores.fmi),
        Measurement(
            name="accuracy", value=scores.accuracy, note="best matching of clusters to classes"
        ),
    )
    return TaskResult(
        task="clustering",
        protocol=f"clustering-kmeans{num_clusters}-{config.num_starts}starts/1",
        headline="NMI",
        measurements=measurements,
        details={"inertia": clusters.inertia, "num_iterations": clusters.num_iterations},
    )


def _pooled(run: EvalRun) -> tuple[str, ...]:
    return ("pooled",)


TASKS: dict[str, Task] = {
    "knn": Task(run_knn, True, lambda run: (run.config.knn.features,)),
    "linear": Task(run_linear, True, lambda run: run.config.linear.feature_sets),
    "logreg": Task(run_logreg, True, lambda run: (run.config.logreg.features,)),
    "finetune": Task(run_finetune, True, lambda run: ()),
    "few_shot": Task(run_few_shot, True, _pooled),
    "svm": Task(run_svm, True, _pooled),
    "n_way": Task(run_n_way, True, _pooled, needs_val=False),
    "parts": Task(run_parts, True, lambda run: ()),
    "retrieval": Task(run_retrieval, True, _pooled),
    "clustering": Task(run_clustering, True, _pooled),
    "metrics": Task(run_metrics, False, _pooled, needs_val=False),
    "lidar": Task(run_lidar, False, lambda run: (), needs_val=False),
    "map": Task(run_map, False, _pooled, needs_val=False),
}
