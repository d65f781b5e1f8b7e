"""Write a backbone so that plain timm loads it: config.json, model.safetensors, README.md.

`timm.create_model("local-dir:FOLDER", pretrained=True)` needs nothing of this package. What timm
would fill in by itself (its default tag, mean and std of 0.5, another licence) is always written.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ssl_vision import __version__
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.classifier import ScoredNetwork, split_classifier
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.files import Output, check_output, check_replaceable, fsync_path
from ssl_vision.zoo.card import ModelCard, render_card
from ssl_vision.zoo.exported import CONFIG_NAME, HEADS_NAME, WEIGHTS_NAME, read_export
from ssl_vision.zoo.formats import FORMATS, ONNX_NAME, TORCH_EXPORT_NAME, check_formats
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.own import reloaded_copy, usage_of_own
from ssl_vision.zoo.verify import judge, outputs_of, probe_batch

CARD_NAME = "README.md"
OUTPUT = Output(
    command="export",
    marks=(CONFIG_NAME,),
    names=(CONFIG_NAME, WEIGHTS_NAME, HEADS_NAME, CARD_NAME, ONNX_NAME, TORCH_EXPORT_NAME),
)


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Where an export lies and how far its outputs are from the network's.

    Attributes:
        folder: The export folder.
        sha256: Of model.safetensors.
        num_bytes: Of model.safetensors.
        checks: Name of a verification -> its outcome in words.
    """

    folder: Path
    sha256: str
    num_bytes: int
    checks: dict[str, str]


def export_backbone(
    backbone: Backbone,
    folder: str | Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    size_px: int,
    crop_pct: float = 0.875,
    decode: DecodeConfig = DEFAULT,
    class_names: Sequence[str] = (),
    card: ModelCard | None = None,
    heads: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    formats: Sequence[str] = (),
) -> ExportResult:
    """Write `backbone.model` as a folder that timm loads, verified by reloading.

    The folder appears under its name only when complete and verified; an export that was there
    before is replaced.

    Args:
        backbone: Network to write; it is left as it is, on its device.
        folder: Where to.
        mean: Per channel, of images scaled to [0, 1], as the network was trained with.
        std: Likewise.
        interpolation: bicubic or bilinear, of the resize before the network.
        size_px: Side of the images features are taken from.
        crop_pct: Centre crop's side / resized shorter side.
        decode: What image files meant in training where their format leaves it open.
        class_names: Of a network with classifier, in the order of its outputs.
        card: What the README says; a plain one by default.
        heads: Further tensors (projection heads, centres) for heads.safetensors.
        dtype: torch.float16 or bfloat16 halve the file; None keeps the weights' own.
        formats: Entries of `FORMATS` to write beside the timm folder, each verified in a new
            process without this package (seconds each).

    Raises:
        CheckpointError: The folder cannot be written, or its outputs differ.
        ConfigError: The folder holds something that is not an export, or a format is unknown or
            needs a package that is not installed.
    """
    folder, card = Path(folder), card or ModelCard()
    check_target(folder)
    check_formats(formats, is_in_timm=backbone.is_in_timm)
    own: dict[str, Any] = {}
    scored_by: Backbone | None = None  # what gives logits where timm has no place for their layers
    if (layers := backbone.head_layers) is not None:
        scored_by = backbone
        backbone, scored = split_classifier(backbone)
        heads = {**(heads or {}), **scored}
        own = {
            "num_head_layers": len(list(layers.children())),
            "head_label_names": list(class_names),
        }
        class_names = ()  # the plain network has no classes
    config = describe_backbone(
        backbone,
        mean=mean,
        std=std,
        interpolation=interpolation,
        size_px=size_px,
        crop_pct=crop_pct,
        decode=decode,
        class_names=class_names,
        card=card,
    )
    config |= own
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _remove_stale(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        checks = _write_and_verify(
            backbone, partial, config, card, heads or {}, dtype, formats, scored_by
        )
        replace_folder(partial, folder)
    except OSError as error:
        raise CheckpointError(f"cannot write the export {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    weights = folder / WEIGHTS_NAME
    return ExportResult(
        folder=folder,
        sha256=sha256_of(weights),
        num_bytes=weights.stat().st_size,
        checks=checks,
    )


def describe_backbone(
    backbone: Backbone,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    size_px: int,
    crop_pct: float = 0.875,
    decode: DecodeConfig = DEFAULT,
    class_names: Sequence[str] = (),
    card: ModelCard | None = None,
) -> dict[str, Any]:
    """Content of an export's config.json; with the weights, all that rebuilds the network.

    Raises:
        ConfigError: The backbone was built with arguments that cannot be written down, or the
            classes named are not as many as its classifier has.
    """
    card = card or ModelCard()
    model, args = plain_model(backbone), backbone.model_args
    try:
        json.dumps(args)
    except TypeError as error:
        raise ConfigError(f"backbone.args={args} cannot be exported: {error}") from error
    num_classes = int(getattr(model, "num_classes", 0) or 0)
    if class_names and len(class_names) != num_classes:
        raise ConfigError(
            f"{len(class_names)} classes are named, the classifier has {num_classes} outputs."
        )
    known: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    pretrained_cfg = {
        "tag": card.tag,
        "custom_load": False,
        "input_size": backbone.sample_shape(size_px),
        "fixed_input_size": bool(known.get("fixed_input_size", False)),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "crop_mode": "center",
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "num_classes": num_classes,
        "pool_size": known.get("pool_size"),
        "first_conv": known.get("first_conv"),
        "classifier": known.get("classifier"),
        "license": card.license,
        "origin_url": card.source,
        "notes": [f"ssl_vision {__version__}", *([card.method] if card.method else [])],
    }
    rule = getattr(backbone, "position_rule", "timm")
    own: dict[str, Any] = {} if rule == "timm" else {"position_rule": rule}  # timm ignores it
    if backbone.own is not None:
        own["own"] = {"class": backbone.own.name, "kwargs": backbone.own.kwargs}
    own |= {} if decode == DEFAULT else {"decode": decode.to_json()}
    if backbone.head_layers is not None:  # in a checkpoint; exports have them apart
        own["num_head_layers"] = len(list(backbone.head_layers.children()))
    return {
        "architecture": backbone.architecture,
        "num_classes": num_classes,
        "num_features": backbone.width,
        **({"label_names": list(class_names)} if class_names else {}),  # where timm looks for it
        "global_pool": pool
        if isinstance(pool := getattr(model, "global_pool", ""), str)
        else "avg",
        "model_args": args,
        "pretrained_cfg": pretrained_cfg,
        "card": asdict(card),
        **own,
    }


def plain_model(backbone: Backbone) -> Any:
    """The timm model itself, also where torch.compile has wrapped it."""
    return getattr(backbone.model, "_orig_mod", backbone.model)


def check_target(folder: Path) -> None:
    """Raise ConfigError if writing an export here would destroy something else."""
    check_output(folder, key="OUT")
    check_replaceable(folder, OUTPUT)


def replace_folder(new: Path, folder: Path) -> None:
    """Move a finished folder to its name, the old one aside first; both on one file system."""
    mode = 0o666 & ~_umask()
    for path in sorted(new.iterdir()):
        path.chmod(mode)  # safetensors writes files only their owner can read
        fsync_path(path)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    had_old = folder.exists()
    if had_old:
        folder.rename(aside)
    new.rename(folder)
    if had_old:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    """The process's mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_and_verify(
    backbone: Backbone,
    folder: Path,
    config: dict[str, Any],
    card: ModelCard,
    heads: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    formats: Sequence[str],
    scored_by: Backbone | None,
) -> dict[str, str]:
    """Fill `folder`; return what was checked."""
    model = plain_model(backbone)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    header = {"format": "pt", "producer": f"ssl_vision {__version__}", "tag": card.tag}
    if card.steps is not None:
        header["step"] = str(card.steps)
    _save(_portable(model.state_dict(), dtype), folder / WEIGHTS_NAME, header=header)
    if heads:
        _save(_portable(heads, dtype), folder / HEADS_NAME, header=header)
    is_half, images = dtype is not None, probe_batch(config)
    expected = outputs_of(model, images)
    if backbone.own is not None:
        reloaded: nn.Module = reloaded_copy(backbone, folder / WEIGHTS_NAME)
    else:
        has_classifier = "num_head_layers" not in config
        reloaded = read_export(folder, with_classifier=has_classifier)[0].model
    found = outputs_of(reloaded, images)
    checks = {"reloaded": judge(found, expected, is_half=is_half, what="the reloaded export")}
    images = probe_batch(config, num_images=3)  # another batch size than while writing
    expected = outputs_of(model, images)
    for name in formats:
        if scored_by is None or FORMATS[name].is_timm:
            written, wanted = reloaded, expected
        else:
            written = ScoredNetwork(read_export(folder, with_classifier=True)[0])
            wanted = outputs_of(ScoredNetwork(scored_by), images)
        checks[FORMATS[name].about] = judge(
            FORMATS[name].write_and_reload(folder, written, images),
            wanted,
            is_half=is_half,
            tolerance=FORMATS[name].tolerance,
            what=f"the export as {name}",
        )
    preprocessing = config["pretrained_cfg"]
    shown = ("input_size", "mean", "std", "interpolation", "crop_pct")
    readme = render_card(
        card,
        architecture=config["architecture"],
        num_features=config["num_features"],
        num_parameters=sum(p.numel() for p in model.parameters()),
        preprocessing={name: preprocessing[name] for name in shown} | _position_note(config),
        checks=checks,
        hub_task="image-classification" if config["num_classes"] else backbone.hub_task,
        is_in_timm=backbone.is_in_timm,
        num_classes=config["num_classes"],
        class_names=config.get("label_names", ()),
        own_usage=None if backbone.own is None else usage_of_own(backbone.own),
    )
    (folder / CARD_NAME).write_text(readme)
    return checks


def _save(tensors: dict[str, Tensor], path: Path, *, header: Mapping[str, str]) -> None:
    """Write tensors so that equal ones make equal files: safetensors draws its metadata's order."""
    data = safetensors.torch.save(tensors, metadata=dict(header))
    size = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + size])
    content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(data)[8 + size :])


def _remove_stale(folder: Path) -> None:
    """Remove what processes that were killed in the middle of this export left beside it.

    An old export that was moved aside goes back to its name if no new one came there.
    """
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.([0-9]+)\.(partial|old)")
    beside = list(folder.parent.iterdir()) if folder.parent.is_dir() else []
    for path in beside:
        found = pattern.fullmatch(path.name)
        if found is None or _is_alive(int(found[1])):
            continue
        if found[2] == "old" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _position_note(config: Mapping[str, Any]) -> dict[str, str]:
    """A line of the card where plain timm differs at other sizes."""
    if "position_rule" not in config:
        return {}
    return {
        "position_rule": f"{config['position_rule']}: images of another size get positions as in "
        "training from `ssl_vision.load_backbone`; plain timm resamples them in its own way"
    }


def _portable(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Contiguous copies on the CPU (safetensors refuses shared storage), floats cast to `dtype`."""
    return {
        name: value.detach()
        .to(device="cpu", dtype=dtype if dtype and value.is_floating_point() else value.dtype)
        .clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
