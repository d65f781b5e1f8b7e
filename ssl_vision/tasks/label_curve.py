"""The task `label_curve`: accuracy by number of labels, and how many labels the weights save."""

import math

from torch.nn.functional import normalize

from ssl_vision.evaluation.label_curve import CurvePoint, LabelCurveConfig, labels_needed
from ssl_vision.evaluation.logreg import fit_logistic
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.baselines import baselines, warn_of_chance
from ssl_vision.tasks.few_shot import draw_shots
from ssl_vision.tasks.run import ACCURACY, EvalRun
from ssl_vision.tasks.task import Task

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
            note=f"mean of {config.draws} draws of the labels, and the 95 % interval of it",
        )
        for point in own
    ]
    for name, curve in curves.items():
        measurements += _savings(own, name, curve)
    left_out = [n for n in config.labels_per_class if n not in numbers]
    warnings = (f"no class has {left_out[0]} images: left out.",) if left_out else ()
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
        warnings=(*warnings, *warn_of_chance(own[-1].mean, run.num_classes)),
    )


def _within_the_data(run: EvalRun, numbers: tuple[int, ...]) -> list[int]:
    """Numbers of labels that some class has; the smallest in any case."""
    most = int(run.labels("train").bincount().max())
    return [n for n in numbers if n <= most] or [numbers[0]]


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
        curve.append(CurvePoint(number, tuple(values)))
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


TASK = Task(
    run=run_label_curve,
    settings={"label_curve": LabelCurveConfig},
)
