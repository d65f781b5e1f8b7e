"""The weights a run starts from: put in before the first update, recognised at a resume."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import yaml

from ssl_vision.backbones.transfer import transfer_weights
from ssl_vision.config import TrainConfig
from ssl_vision.engine.checkpoint import list_checkpoints
from ssl_vision.engine.run import Run
from ssl_vision.errors import SslVisionError
from ssl_vision.files import plain_text
from ssl_vision.methods.base import Method
from ssl_vision.zoo.weights import heads_of, resolve_weights

RECORD = "start.json"  # in the run folder: what it started from


# How features are read off the last block: the recipe's choice, which needs no other weights.
_OF_RECIPE = ("global_pool", "fc_norm")
# Sizes follow from the recipe's views.
_OF_SIZE = ("img_size", "dynamic_img_size", "strict_img_size", "num_points")


def with_network_of_start(
    config: TrainConfig, given: Iterable[str] = ()
) -> tuple[TrainConfig, str | None]:
    """The configuration with the network of `init_from`, whose settings need not be repeated.

    Args:
        config: Of the run.
        given: Keys that somebody asked for; `backbone.name` or `backbone.args...` keep the recipe's
            network.

    Returns:
        The configuration, and a line that says what was taken over; None where nothing was.

    Raises:
        ConfigError: `init_from` names nothing.
        CheckpointError: It cannot be read.
    """
    is_asked = any(key.startswith(("backbone.name", "backbone.args")) for key in given)
    if config.init_from is None or is_asked or config.backbone.in_chans != 3:
        return config, None
    name, args = _saved_network(config) or _network_of(config.init_from)
    own = config.backbone
    kept = {key: value for key, value in own.args.items() if key in _OF_RECIPE + _OF_SIZE}
    args = {k: v for k, v in args.items() if k not in _OF_SIZE} | kept
    if (name, args) == (own.name, own.args):
        return config, None
    line = f"network of {config.init_from}: {name} {args}, not the recipe's {own.name} {own.args}"
    return replace(config, backbone=replace(own, name=name, args=args)), line


def _network_of(weights: str) -> tuple[str, dict[str, object]]:
    backbone = resolve_weights(weights).backbone
    return backbone.architecture, dict(backbone.model_args)


def _saved_network(config: TrainConfig) -> tuple[str, dict[str, object]] | None:
    """That of a run which began before, from the same weights: they need not be there any more."""
    path = config.run_path
    if config.resume == "never" or not list_checkpoints(path / "checkpoints"):
        return None
    try:
        saved = yaml.safe_load(plain_text(path / "config.yaml"))
        if saved["init_from"] != config.init_from:
            return None
        return str(saved["backbone"]["name"]), dict(saved["backbone"]["args"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def start_from(weights: str, run: Run, method: Method) -> None:
    """Put other weights into the method's backbone before the first update.

    Raises:
        ConfigError: They name nothing.
        CheckpointError: They cannot be read, or are of another network.
    """
    loaded = resolve_weights(weights)
    report = transfer_weights(loaded.backbone, method.backbone)
    method.take_heads(heads_of(loaded), source=loaded.source)
    method.on_weights_loaded()
    if run.is_main:
        run.folder.write_json(RECORD, {"init_from": weights, "sha256": loaded.sha256})
    fresh = f"; starting fresh: {', '.join(report.fresh)}" if report.fresh else ""
    run.say(f"{report.num_loaded} tensors from {loaded.source}{fresh}")
    if other := run.config.data.mismatch(loaded.spec):
        run.warn(f"{weights} was trained with {other}")


def say_of_start(weights: str, run: Run) -> None:
    """Warn where the folder that a resumed run started from holds other weights by now.

    The run itself does not need them any more. Named weights (zoo, timm, hub) are not fetched
    again to be compared.
    """
    folder = Path(weights.removeprefix("local-dir:")).expanduser()
    record = run.folder.read_json(RECORD)
    if not run.is_main or not isinstance(record, dict) or not folder.is_dir():
        return
    try:
        now = resolve_weights(weights).sha256
    except SslVisionError as error:
        run.say(f"init_from={weights} is not compared with what the run started from: {error}")
        return
    if now != record.get("sha256"):
        run.warn(
            f"init_from={weights} holds other weights than the run started from (sha256 "
            f"{now[:12]}, was {str(record.get('sha256'))[:12]}); the run goes on from its own "
            "checkpoint. To start from the new ones, choose another run_dir or resume=never."
        )
