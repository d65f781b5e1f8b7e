"""WEIGHTS, wherever a command or function takes them: one string -> a ready backbone.

| string | is |
|---|---|
| `runs/dino` | a run folder: its export/, or its newest complete checkpoint |
| `runs/dino/export` | an export folder (or any `local-dir:` folder of timm) |
| `zoo:NAME` | an entry of model_zoo/index.yaml; `zoo:NAME?pos_interp=timm` sets its options |
| `timm:NAME` | timm's model and weights; `timm:NAME?pretrained=false&seed=1&img_size=32` random |
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import load_timm
from ssl_vision.backbones.classifier import join_head_layers, names_of_timm
from ssl_vision.backbones.own import as_backbone
from ssl_vision.data.config import InputSpec
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.errors import CheckpointError, ConfigError, SslVisionWarning, no_weights
from ssl_vision.files import read_json
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.exported import (
    CONFIG_NAME,
    HEADS_NAME,
    WEIGHTS_NAME,
    build_and_load,
    check_config,
    load_weights,
    read_card,
    read_decode,
    read_export,
)
from ssl_vision.zoo.fetch import fetch_export
from ssl_vision.zoo.safe_load import safe_load, sha256_of_tensors
from ssl_vision.zoo.transforms import TransformLike, spec_of_transform

CHECKPOINT_BACKBONE_NAME = "backbone.json"
STATE_NAME = "state.pt"
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class LoadedBackbone:
    """A network with all that its input needs.

    Attributes:
        backbone: In evaluation mode, on the CPU.
        spec: How samples are to be shown.
        card: What is known of the weights.
        class_names: What the classifier's outputs mean, in their order; empty where the network
            came without one, or nobody named them.
        folder: Export folder it was read from, heads.safetensors beside it; None for others.
        checkpoint: Folder of the checkpoint it was read from; None for others.
        source: What was asked for, in full.
        sha256: Of the tensors; equal weights have equal values in any file.
    """

    backbone: Backbone
    spec: InputSpec
    card: ModelCard
    folder: Path | None
    source: str
    sha256: str
    class_names: tuple[str, ...] = ()
    checkpoint: Path | None = None

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 without one."""
        return int(getattr(self.backbone.model, "num_classes", 0) or 0)

    @property
    def input_size(self) -> int:
        """Side of the input; for clouds, their number of points."""
        return self.spec.size

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of images scaled to [0, 1]."""
        return self.spec.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Likewise."""
        return self.spec.std

    @property
    def interpolation(self) -> str:
        """Bicubic or bilinear."""
        return self.spec.interpolation

    @property
    def crop_pct(self) -> float:
        """Centre crop's side / resized shorter side."""
        return self.spec.crop_pct

    @property
    def decode(self) -> DecodeConfig:
        """What image files meant in training where their format leaves it open."""
        return self.spec.decode


def heads_of(loaded: LoadedBackbone) -> dict[str, Tensor]:
    """What was trained beside the network, by the names its method gave it; empty if nothing came.

    Raises:
        CheckpointError: It cannot be read.
    """
    if loaded.checkpoint is not None:
        return dict(safe_load(loaded.checkpoint / STATE_NAME)["state_dict"])
    path = None if loaded.folder is None else loaded.folder / HEADS_NAME
    return dict(safe_load(path)) if path is not None and path.is_file() else {}


def sha256_of_backbone(backbone: Backbone) -> str:
    """Of all tensors that its features and scores are made with."""
    tensors = dict(backbone.model.state_dict())
    if backbone.head_layers is not None:
        tensors |= {f"head_layers.{n}": v for n, v in backbone.head_layers.state_dict().items()}
    return sha256_of_tensors(tensors)


def load_backbone(weights: str | Path, *, into: nn.Module | None = None) -> nn.Module:
    """Plain timm model of WEIGHTS, in evaluation mode: images (B, C, S, S) -> features (B, D).

    Args:
        weights: A run or export folder, `zoo:name` or `timm:name`; see the module's table.
        into: A module to be given the weights, where they are of an own network.

    Raises:
        ConfigError: The string names nothing.
        CheckpointError: What it names cannot be read, or does not fit the module.
    """
    if into is not None:
        folder = Path(weights).expanduser()
        folder = folder / "export" if (folder / "export").is_dir() else folder
        load_weights(into, safe_load(folder / WEIGHTS_NAME), source=folder / WEIGHTS_NAME)
        return into.eval()
    return resolve_weights(weights).backbone.standalone()


def resolve_weights(weights: str | Path, *, with_classifier: bool = False) -> LoadedBackbone:
    """Backbone and input description of WEIGHTS.

    Args:
        weights: A run or export folder, `zoo:name` or `timm:name`; see the module's table.
        with_classifier: Keep the classifier, where there is one. Features are the same.

    Raises:
        ConfigError: The string names nothing, or its options are unknown.
        CheckpointError: What it names cannot be read.
    """
    text = str(weights)
    scheme, _, rest = text.partition(":")
    if scheme == "zoo":
        return _from_zoo(rest, source=text, with_classifier=with_classifier)
    if scheme == "timm":
        return _from_timm(rest, source=text, with_classifier=with_classifier)
    if scheme in ("hf-hub", "hf_hub"):
        return _from_timm(text, source=text, with_classifier=with_classifier)
    folder = Path(rest if scheme == "local-dir" else text).expanduser()
    if not folder.is_dir():
        raise ConfigError(no_weights(text))
    return _from_folder(folder, source=text, with_classifier=with_classifier)


def resolve_network(
    model: str | Path | nn.Module,
    *,
    transform: TransformLike = None,
    with_classifier: bool = False,
) -> LoadedBackbone:
    """As `resolve_weights`, also of a network itself; of a module a copy is made.

    Args:
        model: WEIGHTS, a model of timm, a module, or what `ssl_vision.backbones.wrap` made.
        transform: How a network wants its images; see `spec_of_transform`. Weights know.
        with_classifier: Keep the classifier of WEIGHTS, where there is one.

    Raises:
        ConfigError: A module without transform, or a transform beside weights.
    """
    if not isinstance(model, nn.Module):
        if transform is not None:
            raise ConfigError(
                f"transform: {model} says itself how its images are shown; settings of data "
                "(size_px, mean, std, ...) change it."
            )
        return resolve_weights(model, with_classifier=with_classifier)
    spec = spec_of_transform(transform, model)
    backbone = as_backbone(model, size_px=spec.size, is_built_again=False).cpu().eval()
    return LoadedBackbone(
        backbone=backbone,
        spec=spec,
        card=ModelCard(title=f"{type(model).__name__}"),
        folder=None,
        source=f"object:{backbone.architecture.removeprefix('object:')}",
        sha256=sha256_of_backbone(backbone),
    )


def _from_folder(folder: Path, *, source: str, with_classifier: bool) -> LoadedBackbone:
    """Export folder, else run folder with an export, else newest complete checkpoint."""
    for candidate in (folder, folder / "export"):
        if (candidate / CONFIG_NAME).is_file() and (candidate / WEIGHTS_NAME).is_file():
            return _from_export(candidate, source=source, with_classifier=with_classifier)
    if (folder / CHECKPOINT_BACKBONE_NAME).is_file():
        return _from_checkpoint(folder, source=source, with_classifier=with_classifier)
    for checkpoint in reversed(_complete_checkpoints(folder)):
        warnings.warn(
            f"{folder} has no complete export/; the weights are those of its newest complete "
            f"checkpoint, {checkpoint.name}.",
            SslVisionWarning,
            stacklevel=2,
        )
        of_run = f"{source} ({checkpoint.name})"
        return _from_checkpoint(checkpoint, source=of_run, with_classifier=with_classifier)
    raise CheckpointError(
        f"{folder} holds no weights: neither {CONFIG_NAME} and {WEIGHTS_NAME} (an export), nor "
        "export/, nor a complete checkpoint in checkpoints/."
    )


def _complete_checkpoints(run: Path) -> list[Path]:
    """Folders of checkpoints that name their backbone, oldest first; manifests come last."""
    wanted = (MANIFEST_NAME, STATE_NAME, CHECKPOINT_BACKBONE_NAME)
    complete = (
        folder
        for folder in run.glob("checkpoints/step_*")
        if all((folder / name).is_file() for name in wanted)
        and folder.name.partition("_")[2].isdecimal()
    )
    return sorted(complete, key=lambda folder: int(folder.name.partition("_")[2]))


def _from_checkpoint(folder: Path, *, source: str, with_classifier: bool) -> LoadedBackbone:
    """Exported network out of a training checkpoint, by the names its backbone.json gives.

    backbone.json is an export's config.json with one more key, `prefix`: what precedes the
    network's own names in the checkpoint's `state_dict`, e.g. "teacher.backbone.model.".
    """
    path = folder / CHECKPOINT_BACKBONE_NAME
    config = check_config(read_json(path, error=CheckpointError), path)
    prefix = config.get("prefix")
    if not isinstance(prefix, str):
        raise CheckpointError(f"{path} lacks the text prefix; write the checkpoint again.")
    state = safe_load(folder / STATE_NAME).get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{folder / STATE_NAME} has no state_dict of tensors.")
    weights = {
        n.removeprefix(prefix): value for n, value in state.items() if str(n).startswith(prefix)
    }
    backbone = build_and_load(
        config,
        weights,
        with_classifier=with_classifier,
        path=path,
        source=folder / STATE_NAME,
    )
    if with_classifier and (num_layers := config.get("num_head_layers")):
        before = prefix.removesuffix("model.")
        layers = {n.removeprefix(before): v for n, v in state.items() if str(n).startswith(before)}
        join_head_layers(backbone, layers, num_layers=num_layers)
    return _describe(backbone, config, source=source, checkpoint=folder)


def _from_timm(name: str, *, source: str, with_classifier: bool) -> LoadedBackbone:
    name, options = split_options(name)
    is_pretrained = _boolean(options.pop("pretrained", True), key=f"{source}: pretrained")
    seed = options.pop("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError(f"{source}: seed={seed!r} must be a whole number.")
    with seeded(derive_key(seed, "random timm weights")):
        backbone = load_timm(
            name,
            is_pretrained=is_pretrained,
            args=options,
            with_classifier=with_classifier and is_pretrained,  # a random one says nothing
        )
    config = {
        "pretrained_cfg": backbone.model.pretrained_cfg,
        "label_names": names_of_timm(backbone) if with_classifier else (),
    }
    return _describe(backbone.eval(), config, source=source)


def _from_zoo(name: str, *, source: str, with_classifier: bool) -> LoadedBackbone:
    name, options = split_options(name)
    folder = fetch_export(name, options)
    return _from_export(folder, source=source, with_classifier=with_classifier)


def _from_export(folder: Path, *, source: str, with_classifier: bool) -> LoadedBackbone:
    backbone, config = read_export(folder, with_classifier=with_classifier)
    return _describe(backbone, config, source=source, folder=folder)


def _describe(
    backbone: Backbone,
    config: dict[str, Any],
    *,
    source: str,
    folder: Path | None = None,
    checkpoint: Path | None = None,
) -> LoadedBackbone:
    """LoadedBackbone of a network and its timm config."""
    given = config["pretrained_cfg"]
    size = backbone.model_args.get("img_size", given.get("input_size", (3, 224, 224))[1:])
    if "architecture" in config:  # an export says which size it is for; args say how it was built
        size = given["input_size"][1:]
    size = backbone.own_input_size or size
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if len(set(sides)) > 1:
        raise (CheckpointError if folder or checkpoint else ConfigError)(
            f"{source}: its network takes images of {sides[0]} x {sides[1]} px, which are not "
            "square; images are shown square here. Give weights whose input_size is [3, S, S]."
        )
    names = config.get("label_names") or config.get("head_label_names")
    has_classifier = bool(getattr(backbone.model, "num_classes", 0))
    return LoadedBackbone(
        backbone=backbone,
        spec=InputSpec(
            size=int(sides[-1]),
            mean=tuple(given.get("mean", (0.485, 0.456, 0.406))),
            std=tuple(given.get("std", (0.229, 0.224, 0.225))),
            interpolation=str(given.get("interpolation", "bicubic")),
            crop_pct=float(given.get("crop_pct") or 0.875),
            decode=read_decode(config),
        ),
        card=read_card(config),
        folder=folder,
        checkpoint=checkpoint,
        source=source,
        sha256=sha256_of_backbone(backbone),
        class_names=tuple(names or ()) if has_classifier else (),
    )


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """`name?a=1&b=false` -> name, {a: 1, b: False}; values are read as JSON, else as text.

    Raises:
        ConfigError: An option without a value, or given twice.
    """
    name, _, query = text.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ConfigError(f"{text!r}: options are written ?key=value&key=value.") from error
    options: dict[str, Any] = {}
    for key, value in pairs:
        if key in options or not value:
            raise ConfigError(f"{text!r}: option {key} needs one value, once.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return name, options


def _boolean(value: Any, *, key: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={value!r} must be true or false.")
    return value
