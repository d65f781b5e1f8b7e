"""The task `linear`: heads trained together on frozen features, or online with the backbone."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from ssl_vision.data.config import View
from ssl_vision.errors import DataError
from ssl_vision.evaluation.arrays import Array
from ssl_vision.evaluation.features import extract_views, spec_of
from ssl_vision.evaluation.linear_config import PRESETS, LinearConfig
from ssl_vision.evaluation.linear_probe import (
    HeadResult,
    LinearResult,
    linear_probe,
    linear_probe_online,
)
from ssl_vision.evaluation.plots import heat_map
from ssl_vision.evaluation.results import Measurement, TaskResult, accuracy_measurements
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task, check_classes
from ssl_vision.types import Batch


def run_linear(run: EvalRun) -> TaskResult:
    """Stacked linear heads by the chosen protocol."""
    config = run.config.settings(LinearConfig)
    sets = _distinct_sets(run, config.feature_sets)
    if config.augment == "online":
        found = _linear_online(run, config, sets)
    else:
        train = {name: run.parts("train", name) for name in sets}
        labels = run.labels("train")
        if config.augment == "cached":
            train, labels = _cached_views(run, config, sets)
        found = linear_probe(
            train,
            labels,
            {name: run.parts("val", name) for name in sets},
            run.labels("val"),
            config=config,
            num_classes=run.num_classes,
            seed=run.config.seed,
            device=run.device,
        )
    measurements = (
        *accuracy_measurements(found.accuracy),
        Measurement(
            name="oracle top1",
            value=found.oracle.top1,
            note="best head by the test images, trained without the holdout: not a result",
        ),
    )
    return TaskResult(
        task="linear",
        protocol=f"{config.protocol}{run.mark}/2",
        headline="top1",
        measurements=measurements,
        details={"chosen": _head(found.chosen), "heads": [_head(head) for head in found.heads]},
        plots=(_heads_plot(found),) if len(found.heads) > 1 else (),
        warnings=found.warnings,
    )


def _head(head: HeadResult) -> dict[str, object]:
    return {**head._asdict(), "test": head.test._asdict()}


def _distinct_sets(run: EvalRun, names: tuple[str, ...]) -> list[str]:
    """Sets that differ for this network: without class token all of them are `pooled`."""
    by_columns = {run.columns(name): name for name in reversed(names)}
    distinct = [name for name in names if by_columns[run.columns(name)] == name]
    return ["pooled" if run.columns(name) == ("pooled",) else name for name in distinct]


def _training_view(run: EvalRun, config: LinearConfig, count: int = 1) -> View:
    return run.modality.cropped(
        run.view,
        count=count,
        area=config.crop_area,
        flip_prob=config.flip_prob,
        interpolation=config.interpolation,
    )


def _cached_views(
    run: EvalRun, config: LinearConfig, sets: list[str]
) -> tuple[dict[str, list[Array]], Tensor]:
    """Features of several augmented views of each training image, as so many more images."""
    _check_cached(run, sets)
    rows, views = extract_views(
        run.loaded.backbone,
        run.loader(run.bank_source, _training_view(run, config, config.cached_views)),
        num_views=config.cached_views,
        normalize=run.normalize,
        device=run.device,
        autocast=run.autocast,
    )
    labels = run.labels("train")[rows].repeat_interleave(config.cached_views)
    return {name: [views.flatten(0, 1)] for name in sets}, labels


def _check_cached(run: EvalRun, sets: list[str]) -> None:
    if any(run.columns(name) != ("pooled",) for name in sets):
        raise DataError(
            "linear.augment=cached keeps pooled features only; use linear.feature_sets=[pooled], "
            "or linear.augment=online."
        )


def _linear_online(run: EvalRun, config: LinearConfig, sets: list[str]) -> LinearResult:
    run.prepare("train", (column for name in sets for column in run.columns(name)))
    loader = run.loader(
        run.bank_source,
        _training_view(run, config),
        shuffle=True,
        batch_size=config.batch_size,
        batch_key="linear.batch_size",
    )
    numbers = run.labels("train")

    def epochs(epoch: int) -> Iterator[Batch]:
        loader.set_epoch(epoch)
        for batch in loader:
            yield replace(batch, label=numbers[batch.index])

    steps = len(loader)
    if config.drops_last:
        steps = max(1, len(run.bank_source) // config.batch_size)
    columns = {name: run.columns(name) for name in sets}
    return linear_probe_online(
        run.loaded.backbone,
        epochs,
        {name: run.parts("val", name) for name in sets},
        run.labels("val"),
        train={name: run.parts("train", name) for name in sets},
        train_labels=numbers,
        normalize=run.normalize,
        spec=spec_of(name for names in columns.values() for name in names),
        sets=columns,
        steps_per_epoch=steps,
        config=config,
        num_classes=run.num_classes,
        seed=run.config.seed,
        device=run.device,
        autocast=run.autocast,
    )


def _heads_plot(found: LinearResult) -> str:
    rows = list(dict.fromkeys((head.features, head.weight_decay) for head in found.heads))
    columns = list(dict.fromkeys(head.base_lr for head in found.heads))
    values = [[float("nan")] * len(columns) for _ in rows]
    for head in found.heads:
        place = rows.index((head.features, head.weight_decay)), columns.index(head.base_lr)
        is_alive = head.diverged_at is None
        values[place[0]][place[1]] = head.test.top1 if is_alive else float("nan")
    chosen = found.chosen
    has_decay = len({decay for _, decay in rows}) > 1
    return heat_map(
        "Test top-1 of every head, %; outlined: the chosen one",
        values,
        rows=[f"{name}, wd {decay:g}" if has_decay else name for name, decay in rows],
        columns=[_short_number(lr) for lr in columns],
        marked=(
            rows.index((chosen.features, chosen.weight_decay)),
            columns.index(chosen.base_lr),
        ),
        x_label="base learning rate",
    )


def _short_number(value: float) -> str:
    text = f"{value:.0e}" if value < 0.001 else f"{value:g}"
    return text.replace("e-0", "e-")


def _check(run: EvalRun) -> None:
    """What can be known before features are computed."""
    check_classes(run, task="linear")
    config = run.config.settings(LinearConfig)
    if config.augment != "none":
        _training_view(run, config)
    if config.augment == "cached":
        _check_cached(run, _distinct_sets(run, config.feature_sets))


TASK = Task(
    run=run_linear,
    settings={"linear": LinearConfig},
    presets={"linear": PRESETS},
    check=_check,
    feature_sets=lambda run: run.config.settings(LinearConfig).feature_sets,
)
