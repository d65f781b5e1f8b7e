"""The `export` command: any WEIGHTS as a folder for others, in the forms they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from ssl_vision.bounds import check_bounds
from ssl_vision.commands.arguments import parse
from ssl_vision.errors import ConfigError
from ssl_vision.files import check_output, check_replaceable
from ssl_vision.zoo.export import OUTPUT, ExportResult, check_target, export_backbone
from ssl_vision.zoo.formats import check_formats
from ssl_vision.zoo.transforms import TransformLike
from ssl_vision.zoo.weights import LoadedBackbone, heads_of, resolve_network

_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of `export`."""

    formats: tuple[str, ...] = ()  # timm, onnx, torch_export; default: timm, which clouds have not
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # the latter halve the file
    size_px: int | None = None  # side of forms of fixed size (ONNX, torch.export); default: its own
    title: str | None = None  # of the card
    license: str | None = None  # SPDX name for the card
    classifier: bool = True  # keep the classifier of fine-tuned weights; false: the backbone alone


def run_export(arguments: Sequence[str]) -> int:
    """`export WEIGHTS OUT [formats=...] ...`."""
    given = parse("export", arguments, num_words=(2, 2))
    settings = given.settings(ExportSettings)
    weights, out = given.words
    replaced = check_replaceable(Path(out), OUTPUT)
    result = export(
        weights,
        Path(out),
        formats=settings.formats or None,
        dtype=settings.dtype,
        size_px=settings.size_px,
        title=settings.title,
        license=settings.license,
        classifier=settings.classifier,
    )
    console = Console()
    if replaced:
        console.print(replaced, soft_wrap=True, markup=False, highlight=False)
    for check, outcome in result.checks.items():
        console.print(f"{check}: {outcome}")
    console.print(f"{result.num_bytes / 2**20:.2f} MiB, sha256 {result.sha256}", soft_wrap=True)
    folder = result.folder.resolve()
    line = f'timm.create_model("local-dir:{folder}", pretrained=True).eval()'
    console.print(line, soft_wrap=True)
    return 0


def export(
    weights: str | Path | nn.Module,
    folder: str | Path,
    *,
    transform: TransformLike = None,
    formats: Sequence[str] | None = None,
    dtype: str = "float32",
    size_px: int | None = None,
    title: str | None = None,
    license: str | None = None,
    classifier: bool = True,
) -> ExportResult:
    """Write WEIGHTS as a timm folder and in further forms, each verified in a new process.

    Args:
        weights: Run or export folder, `zoo:name` or `timm:name`; or a network.
        folder: Where to.
        transform: How a network wants its images; weights know.
        formats: Entries of `FORMATS`; by default timm's, which clouds do not have.
        dtype: float32 keeps what the weights have; float16 and bfloat16 halve the file.
        size_px: Side the forms of fixed size (ONNX, torch.export) are made for; the weights' own
            by default.
        title: Of the card; the weights' own by default.
        license: SPDX name for the card; the weights' own by default.
        classifier: Keep a classifier the weights have, with the names of its classes.

    Raises:
        ConfigError: Unknown format or dtype, or a package is missing.
        CheckpointError: The weights cannot be read, or an output differs.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype={dtype} must be one of {', '.join(_DTYPES)}.")
    check_formats(formats or ())
    folder = Path(folder)
    check_target(folder)
    check_bounds("size_px", size_px, least=1)
    loaded = resolve_network(weights, transform=transform, with_classifier=classifier)
    card = loaded.card
    check_output(folder, key="OUT", data=[card.data])
    if formats is None:
        formats = ("timm",) if loaded.backbone.is_in_timm else ()
    return export_backbone(
        loaded.backbone,
        folder,
        mean=loaded.mean,
        std=loaded.std,
        interpolation=loaded.interpolation,
        size_px=size_px or loaded.input_size,
        crop_pct=loaded.crop_pct,
        decode=loaded.decode,
        class_names=loaded.class_names,
        card=replace(card, title=title or card.title, license=license or card.license),
        heads=_heads_beside(loaded),
        dtype=_DTYPES[dtype],
        formats=formats,
    )


def _heads_beside(loaded: LoadedBackbone) -> dict[str, Tensor]:
    """What an export has beside its network (a projection head), so that it can go on from there.

    The layers and the classifier of a fine-tuned network are written from the network itself, or
    left out with its classifier. A checkpoint's other tensors are its training's.
    """
    if loaded.checkpoint is not None:
        return {}
    parts = ("head_layers.", "classifier.")
    return {n: value for n, value in heads_of(loaded).items() if not n.startswith(parts)}
