"""Evaluate weights: one frozen pass, any number of tasks, one report.

`evaluate` is the Python door, `commands.evaluate` the shell's. A report folder has `results.json`,
`report.md` and `report.html`; an earlier results.json is kept under its time.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from ssl_vision.config import EvalConfig, to_yaml
from ssl_vision.data.find import DataLike, given, is_settings, settings_of
from ssl_vision.data.levels import each_told_once
from ssl_vision.distributed import rank, world_size
from ssl_vision.engine.run_dir import describe_environment
from ssl_vision.engine.saved_config import is_run, run_settings
from ssl_vision.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SslVisionError,
    did_you_mean,
    memory_explained,
)
from ssl_vision.evaluation.anchors import known_data_name, published
from ssl_vision.evaluation.report import (
    data_warnings,
    to_html,
    to_markdown,
)
from ssl_vision.evaluation.results import Evaluation, Measurement, TaskResult, plain
from ssl_vision.files import (
    check_output,
    check_report_folder,
    report_folder_made,
    write_atomically,
)
from ssl_vision.methods import METHODS
from ssl_vision.tasks import TASKS
from ssl_vision.tasks.baselines import beside_majority, majority_of
from ssl_vision.tasks.run import EvalRun, data_digest
from ssl_vision.tasks.settings import make_settings
from ssl_vision.zoo.transforms import TransformLike
from ssl_vision.zoo.weights import (
    LoadedBackbone,
    resolve_network,
    resolve_weights,
    sha256_of_backbone,
)


def evaluate(
    weights: str | Path | nn.Module | EvalConfig,
    *,
    tasks: Sequence[str] = (),
    data: DataLike = None,
    transform: TransformLike = None,
    out: str | Path | None = None,
    is_quiet: bool = True,
    **settings: Any,
) -> Evaluation:
    """Measure frozen weights on a data set and write a report.

    Args:
        weights: A run folder, an export folder, `zoo:name` or `timm:name`; a network (a model of
            timm, or any module of images -> a vector or a map); or a whole EvalConfig.
        tasks: Names from TASKS; by default knn, linear and metrics, as far as there are labels.
        data: Folder or name of the images; an object (see `ssl_vision.train`); or settings of
            `data` as a mapping.
        transform: How a network wants its images, as in `zoo.transforms`; weights know.
        out: Folder of the report; by default evaluation/ in the weights' folder, or here.
        is_quiet: Whether nothing is printed.
        settings: Further settings of EvalConfig, by full name, `**{"knn.k": [5]}`, or nested,
            `knn={"k": [5]}`.

    Raises:
        ConfigError: An unknown task or setting.
        DataError: The images cannot be used for a task.
        CheckpointError: The weights cannot be read, or the report cannot be written.
    """
    console = Console(quiet=is_quiet, stderr=True)
    if isinstance(weights, EvalConfig):
        return evaluate_as(weights, console)
    if data is None:
        raise ConfigError("data.path: no value; add data=PATH.")
    loaded = None
    if isinstance(weights, nn.Module):
        loaded = resolve_network(weights, transform=transform)
    asked: dict[str, object] = {"weights": str(weights) if loaded is None else loaded.source}
    handed = None if is_settings(data) else given(data)
    asked["data"] = settings_of(data) if handed is None else {"path": handed.path}
    if tasks:
        asked["tasks"] = list(tasks)
    if out is not None:
        asked["out"] = str(out)
    asked |= settings  # last: `data.size_px` is more than what `data` says
    objects = None if handed is None else handed.data
    return evaluate_as(make_settings(asked), console, loaded=loaded, data=objects)


@each_told_once()
def evaluate_as(
    config: EvalConfig,
    console: Console,
    *,
    loaded: LoadedBackbone | None = None,
    data: DataLike = None,
) -> Evaluation:
    """As `evaluate`, from a configuration; progress and scores go to the console.

    Args:
        config: What to do.
        console: Where progress goes.
        loaded: The network, where it is there already.
        data: The data, where they are an object.
    """
    start = time.perf_counter()
    check_tasks(config.tasks)
    check_method(config.method)
    paths = (
        () if config.out is None or data is not None else (config.data.path, config.data.val_path)
    )
    check_output(report_folder(config), key="out", data=paths)
    check_report_folder(report_folder(config))
    method = config.method or method_of(config.weights)
    loaded = loaded or resolve_weights(config.weights)
    run = EvalRun(config, loaded, say=lambda text: console.print(f"[dim]{text}[/dim]"), given=data)
    for line in run.notes:
        console.print(f"[dim]{escape(line)}[/dim]", soft_wrap=True)
    names = _choose_tasks(config, run)
    with memory_explained(_LESS_MEMORY):
        _prepare(run, names)
    results, failures = _run_tasks(run, names, console)
    _check_frozen(loaded)
    results = warn_of_weak_probe(results)
    evaluation = Evaluation(
        weights=_describe_weights(loaded, method),
        data=_describe_data(run.config, run),
        tasks=results,
        config=yaml.safe_load(to_yaml(run.config)),
        environment=plain(describe_environment(world_size=1, device=str(run.device))),
        command=shlex.join(sys.argv),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=time.perf_counter() - start,
        failures={name: str(error) for name, error in failures.items()},
    )
    folder = report_folder(config)
    if rank() == 0:
        write_report(evaluation, folder)
        _print(evaluation, folder, console)
    _raise_first(failures, folder)
    return evaluation


def _run_tasks(
    run: EvalRun, names: Sequence[str], console: Console
) -> tuple[dict[str, TaskResult], dict[str, Exception]]:
    """Results, and errors of the tasks that gave none.

    Raises:
        Exception: Of a task, where no other gave a result, or on several processes, of which the
            others may wait in the middle of the task.
    """
    results: dict[str, TaskResult] = {}
    failures: dict[str, Exception] = {}
    for name in names:
        console.print(f"[dim]{name} ...[/dim]")
        began = time.perf_counter()
        try:
            with memory_explained(_LESS_MEMORY):
                result = beside_majority(run, TASKS[name].run(run))
        except Exception as error:
            if world_size() > 1:
                raise
            failures[name] = error
            continue
        results[name] = replace(result, seconds=time.perf_counter() - began)
    if not results:
        raise next(iter(failures.values()))
    return results, failures


def _raise_first(failures: Mapping[str, Exception], folder: Path) -> None:
    """End with the status of the first failure, once what there is lies in the report."""
    for error in failures.values():
        if not isinstance(error, SslVisionError):
            raise error
    for name, error in failures.items():
        others = "" if len(failures) == 1 else f" ({len(failures)} tasks failed)"
        raise type(error)(f"task {name}: {error} The other results are in {folder}{others}.")


def check_tasks(names: Sequence[str]) -> None:
    """Raise ConfigError for a task that does not exist, with the nearest one that does."""
    for name in names:
        if name not in TASKS:
            raise ConfigError(
                f"tasks={','.join(names)}: {name!r} is unknown; choose from {', '.join(TASKS)}."
                f"{did_you_mean(name, TASKS)}"
            )
        if names.count(name) > 1:
            raise ConfigError(f"tasks={','.join(names)}: {name} is given twice; name it once.")


_LESS_MEMORY = "lower data.batch_size, data.size_px or data.max_train"


def check_method(name: str | None) -> None:
    """Raise ConfigError for a method of which there are no published numbers and no runs."""
    known = sorted({*METHODS, *(anchor.method for anchor in published())})
    if name is not None and name not in known:
        raise ConfigError(
            f"method={name} is unknown; choose from {', '.join(known)}, or leave it out."
            f"{did_you_mean(name, known)}"
        )


def _choose_tasks(config: EvalConfig, run: EvalRun) -> list[str]:
    """The tasks asked for; without any, what the data allow."""
    if not config.tasks:
        return ["knn", "linear", "metrics"] if run.has_labels else ["metrics", "map"]
    for name in config.tasks:
        if TASKS[name].needs_labels and not run.has_labels:
            raise DataError(
                f"task {name} needs labelled training and test images, which "
                f"data.path={config.data.path} has not: {_no_labels(run)} Or "
                f"use tasks={','.join(each for each in TASKS if not TASKS[each].needs_labels)}."
            )
        TASKS[name].check(run)
    return list(config.tasks)


def _no_labels(run: EvalRun) -> str:
    """Why there are no labels, with the way out."""
    return " ".join(run.warnings) or "put images into one folder per class."


def warn_of_weak_probe(results: dict[str, TaskResult]) -> dict[str, TaskResult]:
    """The results, with a warning where a linear probe is below what needs no training."""
    if "linear" not in results:
        return results
    linear = results["linear"]
    lines = [
        f"the probe's {100 * linear.main.value:.1f} % is below the {100 * found:.1f} % of {name}: "
        "it may not be trained enough (linear.min_updates, linear.epochs), or its rates are wrong; "
        "tasks=logreg gives the optimum on the same features."
        for name in ("knn", "logreg")
        if name in results and (found := results[name].main.value) > linear.main.value
    ]
    return results | {"linear": replace(linear, warnings=(*linear.warnings, *lines))}


def _prepare(run: EvalRun, names: Sequence[str]) -> None:
    """One pass per split for the features of all tasks."""
    sets = [(name, each) for name in names for each in TASKS[name].feature_sets(run)]
    run.prepare("train", (column for _, each in sets for column in run.columns(each)))
    val = [each for name, each in sets if TASKS[name].needs_val]
    if run.val_source is not None:
        run.prepare("val", (column for each in val for column in run.columns(each)))


def _check_frozen(loaded: LoadedBackbone) -> None:
    """A frozen evaluation leaves weights and buffers (batch norm statistics) bit for bit."""
    if sha256_of_backbone(loaded.backbone) != loaded.sha256:
        raise CheckpointError(
            f"{loaded.source}: the network changed while it was evaluated; its results are void. "
            "A layer of it updates buffers in eval mode."
        )


# What was evaluated ----------------------------------------------------------------------------


def _describe_weights(loaded: LoadedBackbone, method: str | None) -> dict[str, object]:
    parameters = loaded.backbone.model.parameters()
    return {
        "source": loaded.source,
        "sha256": loaded.sha256,
        "architecture": loaded.backbone.architecture,
        "model_args": plain(loaded.backbone.model_args),
        "width": loaded.backbone.width,
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "method": method,
    }


def method_of(weights: str) -> str | None:
    """Pretraining method of WEIGHTS, from the zoo's index or the run's config; None if unknown.

    Raises:
        CheckpointError: The run's config is damaged.
    """
    if weights.startswith("zoo:"):
        from ssl_vision.zoo.index import find_entry

        return find_entry(weights.removeprefix("zoo:").partition("?")[0]).method
    folder = Path(weights.removeprefix("local-dir:"))
    run = next((each for each in (folder, folder.parent) if is_run(each)), None)
    return None if run is None else run_settings(run)["method"].get("name")


def _describe_data(config: EvalConfig, run: EvalRun) -> dict[str, object]:
    val = run.val_source
    return {
        "path": config.data.path,
        "name": config.data.name or known_data_name(config.data.path),
        "num_train": len(run.bank_source),
        "num_val": None if val is None else len(val),
        "num_classes": run.num_classes if run.has_labels else None,
        "majority_class": majority_of(run).top1 if run.has_labels else None,
        "fingerprints": {
            "train": data_digest(run.bank_source),
            "val": None if val is None else data_digest(val),
        },
        "transform": run.shown.transform,
        "num_computed": run.num_computed,
        "notes": run.notes,
        "warnings": run.warnings,
        "unreadable": run.unreadable(),
    }


# Files -----------------------------------------------------------------------------------------


def report_folder(config: EvalConfig) -> Path:
    """Where the report of an evaluation goes."""
    if config.out is not None:
        return Path(config.out).expanduser()
    folder = Path(config.weights.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        is_export = folder.name == "export" and (folder.parent / "config.yaml").exists()
        return (folder.parent if is_export else folder) / "evaluation"
    return Path("evaluation") / slug(config.weights)


def write_report(evaluation: Evaluation, folder: Path) -> Path:
    """Write results.json, report.md and report.html; earlier results stay under their time.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    with report_folder_made(folder):
        results = folder / "results.json"
        if results.exists():
            when = datetime.fromtimestamp(results.stat().st_mtime).strftime("%Y%m%d_%H%M%S")
            results.replace(_unused(folder / f"results_{when}.json"))
        write_atomically(results, json.dumps(evaluation.to_json(), indent=1))
        write_atomically(folder / "report.md", to_markdown(evaluation))
        write_atomically(folder / "report.html", to_html(evaluation))
    return folder


def _unused(path: Path) -> Path:
    """The path, or the same with a number, whichever does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free


def slug(weights: str) -> str:
    """A folder name that tells weights apart."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in weights)
    return kept.strip("_.") or "weights"


def _differs(each: Measurement, result: TaskResult) -> bool:
    """Whether it is the mean of the classes, which is not top-1 where they are of unequal size."""
    if each.name != "mean_per_class" or result.headline != "top1":
        return False
    return f"{100 * each.value:.1f}" != f"{100 * result.main.value:.1f}"


def _print(evaluation: Evaluation, folder: Path, console: Console) -> None:
    table = Table("task", "measure", "value", title=evaluation.weights["source"])
    for result in evaluation.tasks.values():
        for each in result.measurements:
            is_headline = each.name == result.headline
            if (
                is_headline
                or each.name.startswith(f"{result.headline} of ")
                or _differs(each, result)
            ):
                table.add_row(result.task, each.name, str(each))
    console.print(table)
    is_beside = any(result.headline == "top1" for result in evaluation.tasks.values())
    if evaluation.data.get("majority_class") is not None and not is_beside:
        console.print(f"majority class {100 * evaluation.data['majority_class']:.2f} %")
    if is_beside and not evaluation.config.get("baselines"):
        beside = "raw pixels and an untrained network beside these scores: baselines=true"
        console.print(f"[dim]{beside}[/dim]", soft_wrap=True)
    for line in data_warnings(evaluation):
        console.print(f"[yellow]data: {escape(line)}[/yellow]", soft_wrap=True)
    for result in evaluation.tasks.values():
        for warning in result.warnings:
            console.print(f"[yellow]{result.task}: {warning}[/yellow]")
    console.print(f"report  {folder / 'report.html'}", soft_wrap=True)
