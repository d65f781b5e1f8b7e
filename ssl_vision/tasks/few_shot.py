"""The task `few_shot`: kNN and logistic regression on n labelled images per class."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ssl_vision.evaluation.knn import knn_accuracy
from ssl_vision.evaluation.logreg import fit_logistic
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.settings import FewShotConfig
from ssl_vision.randomness import keyed_generator
from ssl_vision.tasks.baselines import warn_of_chance
from ssl_vision.tasks.run import ACCURACY, EvalRun
from ssl_vision.tasks.task import Task, check_classes

_SHOWN_CLASSES = 5


def run_few_shot(run: EvalRun) -> TaskResult:
    """Accuracy of kNN and logistic regression on n labelled images per class, several draws."""
    config = run.config.settings(FewShotConfig)
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
    headline = f"logistic regression, {max(config.shots)} shots"
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
    main = next(each for each in measurements if each.name == headline)
    return TaskResult(
        task="few_shot",
        protocol=f"few_shot-pooled-c{config.c:g}-{config.draws}draws/1",
        headline=headline,
        measurements=tuple(measurements),
        details=scores,
        plots=(plot,),
        warnings=(
            *warn_of_chance(main.value, run.num_classes),
            *warn_of_fewer(labels, config.shots, run.class_names),
        ),
    )


def draw_shots(labels: Tensor, shots: int, *, seed: int, draw: int) -> Tensor:
    """Rows of `shots` images of each class (fewer where a class has fewer), rising."""
    generator = keyed_generator(seed, "shots", shots, draw)
    order = torch.randperm(len(labels), generator=generator)
    rows = [order[labels[order] == each][:shots] for each in labels.unique()]
    return torch.cat(rows).sort().values


def warn_of_fewer(
    labels: Tensor, shots: Sequence[int], class_names: Sequence[str], *, what: str = "shots"
) -> Iterator[str]:
    """A line for each number of images per class that some classes have not."""
    found = {each: int((labels == each).sum()) for each in labels.unique().tolist()}
    for num in shots:
        fewer = sorted((count, class_names[each]) for each, count in found.items() if count < num)
        if fewer:
            shown = ", ".join(f"{name} {count}" for count, name in fewer[:_SHOWN_CLASSES])
            more = f" and {len(fewer) - _SHOWN_CLASSES} more" * (len(fewer) > _SHOWN_CLASSES)
            yield (
                f"{num} {what}: {len(fewer)} of {len(found)} classes have fewer training images, "
                f"all of which are used ({shown}{more})."
            )


def _share(guess: Tensor, truth: Tensor) -> float:
    return float((guess.cpu() == truth).double().mean())


TASK = Task(
    run=run_few_shot,
    settings={"few_shot": FewShotConfig},
    check=lambda run: check_classes(run, task="few_shot"),
)
