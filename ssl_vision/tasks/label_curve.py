"""The task `label_curve`: accuracy by number of labels, and how many labels the weights save."""

import math
from collections.abc import Iterator

from torch.nn.functional import normalize

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.label_curve import CurvePoint, LabelCurveConfig, labels_needed
from ssl_vision.evaluation.logreg import fit_logistic
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.baselines import baselines, warn_of_chance
from ssl_vision.tasks.few_shot import draw_shots, warn_of_fewer
from ssl_vision.tasks.run import ACCURACY, EvalRun
from ssl_vision.tasks.task import Task, check_classes

OWN = "these weights"


def run_label_curve(run: EvalRun) -> TaskResult:
    """Logistic regression on n labels per class, of the weights and of what costs nothing."""
    config = run.config.settings(LabelCurveConfig)
    numbers = _within_the_data(run, config.labels_per_class)
    runs = {OWN: run} | (baselines(run) if run.config.baselines else {})
    curves = {name: _curve(each, numbers, config) for name, each in runs.items()}
    own = curves.pop(OWN)
    measurements = [
        Measurement(
            name=_name(point.labels),
            value=point.mean,
            interval=point.interval,
            note=f"mean of {config.draws} draws of {point.num_labelled:,} labelled images; 95 % "
            f"interval of the draws and of the {point.num_test:,} test images together",
        )
        for point in own
    ]
    for name, curve in curves.items():
        measurements += _savings(own, name, curve)
    return TaskResult(
        task="label_curve",
        protocol=f"label_curve-pooled-c{config.c:g}-{config.draws}draws/1",
        headline=_name(own[-1].labels),
        measurements=tuple(measurements),
        details={
            name: {point.labels: list(point.values) for point in curve}
            for name, curve in ({OWN: own} | curves).items()
        },
        plots=(_plot({OWN: own} | curves),),
        warnings=(
            *_warnings(run, config.labels_per_class, numbers),
            *warn_of_chance(own[-1].mean, run.num_classes),
        ),
    )


def _within_the_data(run: EvalRun, numbers: tuple[int, ...]) -> list[int]:
    """Numbers of labels that some class has.

    Raises:
        ConfigError: No class has as many as the smallest.
    """
    most = int(run.labels("train").bincount().max())
    if numbers[0] > most:
        raise ConfigError(
            f"label_curve.labels_per_class={list(numbers)}: the largest class has {most} training "
            f"images; take numbers from 1 to {most}."
        )
    return [n for n in numbers if n <= most]


def _warnings(run: EvalRun, wanted: tuple[int, ...], numbers: list[int]) -> Iterator[str]:
    """What was left out, and where classes have fewer labels than the name of a score says."""
    if left_out := [str(n) for n in wanted if n not in numbers]:
        yield f"no class has {' or '.join(left_out)} training images: left out."
    labels = run.labels("train")
    yield from warn_of_fewer(labels, numbers, run.class_names, what="labels per class")


def _curve(run: EvalRun, numbers: list[int], config: LabelCurveConfig) -> list[CurvePoint]:
    """One network's accuracies; the draws are the same for every network."""
    bank, queries = (normalize(run.features(s, "pooled").float(), dim=1) for s in ("train", "val"))
    labels, truth = run.labels("train"), run.labels("val")
    curve = []
    for number in numbers:
        values = []
        for draw in range(config.draws):
            rows = draw_shots(labels, number, seed=run.config.seed, draw=draw)
            classifier = fit_logistic(
                bank[rows], labels[rows], c=config.c, num_classes=run.num_classes
            )
            guess = classifier.logits(queries).argmax(dim=1).cpu()
            values.append(float((guess == truth).double().mean()))
        curve.append(CurvePoint(number, tuple(values), len(truth), len(rows)))
    return curve


def _savings(own: list[CurvePoint], name: str, curve: list[CurvePoint]) -> list[Measurement]:
    """Another curve's accuracies, and the labels it needs to be where these weights are."""
    found = [
        Measurement(name=f"{_name(p.labels)}: {name}", value=p.mean, interval=p.interval)
        for p in curve
    ]
    middle = own[len(own) // 2]
    needed = labels_needed(curve, middle.mean)
    note = f"{100 * middle.mean:.1f} %, which these weights reach with {middle.labels}"
    if math.isinf(needed):
        note += f"; it does not get there with {curve[-1].labels}"
    return [
        *found,
        Measurement(
            name=f"labels per class that {name} needs for as much as {middle.labels} here",
            value=needed,
            is_share=False,
            note=note,
        ),
    ]


def _name(number: int) -> str:
    return f"top1 with {number} label{'s' if number > 1 else ''} per class"


def _plot(curves: dict[str, list[CurvePoint]]) -> str:
    return line_chart(
        "Accuracy by labels",
        {name: [(p.labels, p.mean) for p in curve] for name, curve in curves.items()},
        x=Axis("labels per class", is_log=True),
        y=ACCURACY,
        bars={
            name: [(p.interval.low, p.interval.high) for p in curve]
            for name, curve in curves.items()
        },
    )


def _check(run: EvalRun) -> None:
    """What the classes' sizes say before any feature is computed."""
    check_classes(run, task="label_curve")
    _within_the_data(run, run.config.settings(LabelCurveConfig).labels_per_class)


TASK = Task(
    run=run_label_curve,
    settings={"label_curve": LabelCurveConfig},
    check=_check,
)
