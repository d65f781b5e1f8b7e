"""`ssl_vision.train`: the door of Python programs and notebooks to a training run."""

import os
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, cast

from rich.console import Console
from torch import nn

from ssl_vision.backbones.build import BackboneConfig
from ssl_vision.backbones.own import as_backbone
from ssl_vision.config import TrainConfig, as_run_dir, make_train_config, to_yaml
from ssl_vision.data.find import DataLike, given, is_settings, settings_of
from ssl_vision.engine.auto import Auto
from ssl_vision.engine.callbacks import Callbacks
from ssl_vision.engine.live import LiveCallbacks, LiveRun
from ssl_vision.engine.preemption import StopSignals
from ssl_vision.engine.start_weights import with_network_of_start
from ssl_vision.engine.train import Handed, RunResult
from ssl_vision.engine.train import train as train_as
from ssl_vision.errors import ConfigError, Preempted
from ssl_vision.layers import AUTO, layers_of
from ssl_vision.recipes import find_recipe
from ssl_vision.typed import read_yaml

# A name of timm, settings, a model of timm, a module, or what `ssl_vision.backbones.wrap` made.
BackboneLike: TypeAlias = str | Mapping[str, Any] | BackboneConfig | nn.Module


def train(
    recipe: str | Path | Mapping[str, Any] | TrainConfig,
    *,
    data: DataLike = None,
    backbone: BackboneLike | None = None,
    run_dir: str | Path | None = None,
    callbacks: Callbacks | None = None,
    is_quiet: bool = False,
    **overrides: Any,
) -> RunResult:
    """Train by a recipe; the same call resumes a run that was stopped.

        result = ssl_vision.train(
            "dino/tiny_cpu", data=my_dataset, run_dir="runs/mine", **{"trainer.epochs": 5}
        )
        network = result.load_backbone()

    Ctrl-C (a notebook's stop button) saves after the update under way and ends in
    KeyboardInterrupt; a second one ends at once.

    Args:
        recipe: Name of a recipe (`ssl_vision.recipes.recipe_names()` has them), file, settings as
            nested dictionaries, or a whole configuration; `auto` chooses a recipe by the images and
            the machine.
        data: Path or name; or an object: a list of image files, a uint8 array or tensor of images,
            (images, labels), a data frame with a column of paths, a map-style torch `Dataset`, a
            Hugging Face `Dataset`, or `{"train": ..., "val": ...}` of these. Or settings of `data`.
        backbone: A name of timm, settings of `backbone`, a model of timm or any module (see
            `ssl_vision.backbones.wrap`), of which a copy is trained. It replaces the recipe's.
        run_dir: Folder of the run.
        callbacks: What to call on updates and scores.
        is_quiet: Whether nothing is printed but warnings.
        overrides: Settings by full name, `**{"trainer.epochs": 5}`, or nested,
            `trainer={"epochs": 5}`; they come last. `trainer.epochs`, `data.mean` and `data.std`
            may be "auto".

    Raises:
        SslVisionError: One line that says what to do.
        KeyboardInterrupt: Stopped; the checkpoint is complete.
    """
    config, handed = _prepared(recipe, data, backbone, run_dir, callbacks, is_quiet, overrides)
    try:
        return train_as(config, handed=handed)
    except Preempted as stop:
        if handed.signals.received == signal.SIGINT:
            raise KeyboardInterrupt(str(stop)) from None
        raise


def start(
    recipe: str | Path | Mapping[str, Any] | TrainConfig,
    *,
    data: DataLike = None,
    backbone: BackboneLike | None = None,
    run_dir: str | Path | None = None,
    callbacks: Callbacks | None = None,
    is_quiet: bool = True,
    **overrides: Any,
) -> LiveRun:
    """Train in a thread of its own, and return at once: a notebook's next cells can look at it.

        run = ssl_vision.start("dino/tiny_cpu", data="photos/", run_dir="runs/mine")
        run  # where it is: updates, loss, scores
        run.stop()  # saved; the same call, or `train`, goes on
        result = run.wait()

    What other cells draw from torch's global generator meanwhile may change what the run draws.

    Args:
        recipe: As of `train`, like all the rest.
        data: What to train on.
        backbone: The network.
        run_dir: Folder of the run.
        callbacks: What to call, in the thread of the run.
        is_quiet: Whether nothing is printed but warnings.
        overrides: Settings.

    Raises:
        SslVisionError: A setting cannot be used; what fails later, `LiveRun.wait` raises.
    """
    live = LiveCallbacks(callbacks)
    config, handed = _prepared(recipe, data, backbone, run_dir, live.callbacks, is_quiet, overrides)
    return LiveRun(lambda: train_as(config, handed=handed), live, handed.signals, config.run_path)


def _prepared(
    recipe: str | Path | Mapping[str, Any] | TrainConfig,
    data: DataLike,
    backbone: BackboneLike | None,
    run_dir: str | Path | None,
    callbacks: Callbacks | None,
    is_quiet: bool,
    overrides: Mapping[str, Any],
) -> tuple[TrainConfig, Handed]:
    """Settings and objects of a run, checked as far as they can be before it starts."""
    values: dict[str, Any] = dict(overrides)
    objects: dict[str, Any] = {}
    if is_settings(data):
        values = {f"data.{name}": value for name, value in settings_of(data).items()} | values
    elif data is not None:
        handed = given(data)
        values["data.path"], objects["data"] = handed.path, handed.data
    if run_dir is not None:
        values["run_dir"] = as_run_dir(run_dir) if isinstance(run_dir, Path) else str(run_dir)
    auto = Auto(objects.get("data"))
    config = _config(recipe, _settings_of(backbone), values, auto)
    lines = []
    if backbone is None and "backbone" not in values:
        config, line = with_network_of_start(config, values)
        lines = [] if line is None else [line]
    if isinstance(backbone, nn.Module):
        _refuse_settings(values)
        own = as_backbone(backbone, size_px=config.data.input_size)
        settings = {"name": own.architecture, "args": own.model_args}
        config, objects["backbone"] = _config(recipe, settings, values, auto), own
    for line in () if is_quiet else [*auto.lines, *lines]:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    signals = StopSignals(is_program=True)
    return config, Handed(**objects, callbacks=callbacks, signals=signals, is_quiet=is_quiet)


def _refuse_settings(values: Mapping[str, Any]) -> None:
    """Settings of a network that exists already would change nothing."""
    named = [key for key in values if key.partition(".")[0] == "backbone"]
    if named:
        raise ConfigError(
            f"{named[0]}: the network is handed over as it is; set this when you build it."
        )


def _settings_of(backbone: BackboneLike | None) -> Mapping[str, Any] | None:
    """Settings of `backbone` as far as they are known before the data's; None: the recipe's."""
    if backbone is None or isinstance(backbone, Mapping):
        return backbone
    if isinstance(backbone, str):
        return {"name": backbone}
    if isinstance(backbone, BackboneConfig):
        return asdict(backbone)
    if isinstance(backbone, nn.Module):
        return {}
    raise ConfigError(
        f"backbone of type {type(backbone).__name__}: give a name of timm, settings, or a module."
    )


def _config(
    recipe: str | Path | Mapping[str, Any] | TrainConfig,
    backbone: Mapping[str, Any] | None,
    values: Mapping[str, Any],
    auto: Auto,
) -> TrainConfig:
    if recipe == AUTO:
        return auto.load(layers_of(values), backbone=backbone)
    base: Path | Mapping[str, Any]
    if isinstance(recipe, TrainConfig):
        base = cast(Mapping[str, Any], read_yaml(to_yaml(recipe)))
    else:
        base = recipe if isinstance(recipe, Mapping) else find_recipe(os.fspath(recipe))
    return make_train_config(base, values, backbone=backbone, fill=auto.fill)
