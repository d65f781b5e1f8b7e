"""Read an exported folder again: its config.json, every setting of it checked, and its weights.

What a stranger put there is data: names, numbers and tensors, never code.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import build_from_config
from ssl_vision.backbones.classifier import join_classifier
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.files import read_json
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.safe_load import safe_load

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
HEADS_NAME = "heads.safetensors"
_SLACK_ELEMENTS = 1 << 24


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an export folder.

    Raises:
        CheckpointError: Absent or not ours or timm's.
    """
    path = folder / CONFIG_NAME
    return check_config(read_json(path, error=CheckpointError), path)


def check_config(config: object, path: Path) -> dict[str, Any]:
    """The content of a config.json, if what this package reads of it has the right types.

    Raises:
        CheckpointError: It has not.
    """
    if not isinstance(config, dict) or not {"architecture", "pretrained_cfg"} <= config.keys():
        raise CheckpointError(
            f"{path} is not the config of a timm model: it lacks architecture or pretrained_cfg."
        )
    given, card = config["pretrained_cfg"], config.get("card") or {}
    checks = {
        "architecture": isinstance(config["architecture"], str),
        "model_args": isinstance(config.get("model_args") or {}, dict),
        "num_classes": _is_count(config.get("num_classes") or 0, least=0),
        "card": isinstance(card, dict) and _is_card(card),
        "num_head_layers": _is_count(config.get("num_head_layers") or 0, least=0),
        "head_label_names": isinstance(names := config.get("head_label_names", []), list)
        and all(isinstance(name, str) for name in names),
        "position_rule": config.get("position_rule", "timm") in ("timm", "dino"),
        "label_names": _are_names(config.get("label_names"), config.get("num_classes")),
        "pretrained_cfg": isinstance(given, dict),
        "decode": _is_decode(config.get("decode") or {}),
    }
    if isinstance(given, dict):
        size, names = given.get("input_size", [3, 1, 1]), given.get("classifier") or []
        checks |= {
            "pretrained_cfg.mean": _are_numbers(given.get("mean", [0.5])),
            "pretrained_cfg.std": _are_numbers(given.get("std", [0.5]), above_zero=True),
            "pretrained_cfg.input_size": isinstance(size, list)
            and len(size) in (2, 3)
            and all(_is_count(side, least=1) for side in size),
            "pretrained_cfg.crop_pct": _are_numbers(
                [given.get("crop_pct") or 0.875], above_zero=True
            ),
            "pretrained_cfg.classifier": isinstance(names, str)
            or (isinstance(names, list) and all(isinstance(name, str) for name in names)),
            "pretrained_cfg.license": isinstance(given.get("license") or "", str),
            "pretrained_cfg.tag": isinstance(given.get("tag") or "", str),
        }
    if bad := [name for name, is_right in checks.items() if not is_right]:
        raise CheckpointError(f"{path}: {bad[0]} has a value that cannot be; export it again.")
    return config


def _is_count(value: object, *, least: int) -> bool:
    return type(value) is int and least <= value <= 1 << 16


def _are_numbers(values: object, *, above_zero: bool = False) -> bool:
    return (
        isinstance(values, list)
        and 0 < len(values) <= 64
        and all(type(v) in (int, float) and abs(v) <= 1e30 for v in values)  # not NaN, nor 10**400
        and (not above_zero or min(values) > 0)
    )


def _are_names(names: object, num_classes: object) -> bool:
    return names is None or (
        isinstance(names, list)
        and len(names) in (0, num_classes)
        and all(isinstance(name, str) for name in names)
    )


def _is_card(card: dict[str, Any]) -> bool:
    texts = ("title", "method", "data", "recipe", "license", "tag", "source")
    return (
        all(isinstance(card.get(name) or "", str) for name in texts)
        and isinstance(card.get("notes", []), list)
        and isinstance(card.get("metrics", {}), dict)
    )


def read_card(config: Mapping[str, Any]) -> ModelCard:
    """The model card in a config of ours; of timm's own, what it says about the weights."""
    known = {field.name for field in fields(ModelCard)}
    if isinstance(saved := config.get("card"), dict) and saved.keys() <= known:
        return ModelCard(**{**saved, "notes": tuple(saved.get("notes", ()))})
    given = config["pretrained_cfg"]
    return ModelCard(license=given.get("license") or "unspecified", tag=given.get("tag") or "timm")


def _is_decode(values: object) -> bool:
    if not isinstance(values, dict) or not values.keys() <= asdict(DEFAULT).keys():
        return False
    white = values.get("white_level")
    if not isinstance(values.get("background", []), list) or not _are_numbers([white or 1.0]):
        return False
    try:
        _decode_of(values)
    except (ConfigError, TypeError, ValueError):
        return False
    return True


def _decode_of(values: Mapping[str, Any]) -> DecodeConfig:
    red, green, blue = values.get("background", DEFAULT.background)
    if not all(type(level) is int for level in (red, green, blue)):
        raise TypeError("levels are whole numbers")
    return DecodeConfig(background=(red, green, blue), white_level=values.get("white_level"))


def read_decode(config: Mapping[str, Any]) -> DecodeConfig:
    """What image files meant in training, of a checked config; the default where unstated."""
    return _decode_of(config.get("decode") or {})


def read_export(
    folder: str | Path, *, with_classifier: bool = False
) -> tuple[Backbone, dict[str, Any]]:
    """Backbone of an export folder in evaluation mode, and its config.

    Args:
        folder: Written by `export_backbone`, or any local-dir folder of timm.
        with_classifier: Whether `backbone.model` keeps the classifier a fine-tuned one has.

    Raises:
        CheckpointError: Incomplete folder, or weights that do not fit the architecture.
    """
    folder = Path(folder)
    config = read_config(folder)
    weights = safe_load(folder / WEIGHTS_NAME)
    backbone = build_and_load(
        config,
        weights,
        with_classifier=with_classifier,
        path=folder / CONFIG_NAME,
        source=folder / WEIGHTS_NAME,
    )
    if with_classifier and (num_layers := config.get("num_head_layers")):
        join_classifier(backbone, safe_load(folder / HEADS_NAME), num_layers=num_layers)
    return backbone, config


def build_and_load(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    with_classifier: bool,
    path: Path,
    source: Path,
) -> Backbone:
    """The network of an export's config with its weights, in evaluation mode.

    Args:
        config: Content of a config.json.
        weights: By the network's own names.
        with_classifier: Whether a classifier that it has is kept.
        path: Where the config is from, for messages.
        source: Where the weights are from, for messages.

    Raises:
        CheckpointError: As of `read_export`.
    """
    num_classes = int(config.get("num_classes") or 0) if with_classifier else 0
    backbone = build_for_weights(config, weights, num_classes=num_classes, path=path)
    if not num_classes:
        classifier = config["pretrained_cfg"].get("classifier") or ()
        names = [classifier] if isinstance(classifier, str) else list(classifier)
        dropped = tuple(f"{name}." for name in names)
        weights = {n: value for n, value in weights.items() if not n.startswith(dropped)}
    load_weights(backbone.model, weights, source=source)
    return backbone.eval()


def build_for_weights(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], *, num_classes: int, path: Path
) -> Backbone:
    """The network of an export's config, if it is no larger than the weights it is to get.

    Raises:
        CheckpointError: It is, or the config fits no network; the message names `path`.
    """
    # Twice: buffers that are not stored, such as the windows of Swin; and small ones of their own.
    most = 2 * sum(value.numel() for value in weights.values()) + _SLACK_ELEMENTS
    try:
        return build_from_config(config, num_classes=num_classes, max_elements=most)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: object) -> None:
    """Strict load with an error of one line.

    Raises:
        CheckpointError: Names or shapes differ; the message counts and shows a few.
    """
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": sorted(
            f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
            for name in own.keys() & weights.keys()
            if own[name].shape != weights[name].shape
        ),
    }
    if any(problems.values()):
        words = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
            for kind, names in problems.items()
            if names
        )
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {words}.")
    mixed = [n for n in own if own[n].is_floating_point() != weights[n].is_floating_point()]
    if mixed or any(value.is_complex() for value in weights.values()):
        raise CheckpointError(f"{source}: numbers of another kind than the network's: {mixed[:3]}.")
    # A sum is finite where all terms are, and cheap; where it overflows, each term is looked at.
    bad = [
        name
        for name, value in weights.items()
        if not value.float().sum().isfinite() and not value.isfinite().all()
    ]
    if bad:
        raise CheckpointError(
            f"{source}: {len(bad)} of {len(weights)} tensors hold NaN or infinity, first {bad[0]}; "
            "the training diverged: use an earlier checkpoint."
        )
    model.load_state_dict(dict(weights))
