"""Features as plain .npy files with an index, for whatever comes next."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.evaluate import split_files
from ssl_vision.commands.tables import csv_text
from ssl_vision.config import EvalConfig
from ssl_vision.data.source import Source
from ssl_vision.errors import CheckpointError, ConfigError, DataError
from ssl_vision.evaluation.features import frozen
from ssl_vision.files import (
    Output,
    check_output,
    check_replaceable,
    remove_stale,
    write_atomically,
)
from ssl_vision.tasks.bar import with_bar
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.settings import load_settings
from ssl_vision.zoo.weights import resolve_weights

OUTPUT = Output(
    command="embed",
    marks=("meta.json",),
    names=("meta.json", "index.csv", "pooled.npy", "patches.npy", ".*.partial.npy"),
)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What `embed` wrote.

    Attributes:
        folder: Where.
        files: Name -> shape.
        notes: What a reader of the files should know, a line each.
    """

    folder: Path
    files: dict[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """Settings of `embed` beside those of an evaluation's data."""

    patches: bool = False  # write patch tokens, too
    split: Literal["train", "val"] = "train"  # which images; a folder without splits is all train
    dtype: Literal["float16", "float32"] = "float32"  # of the arrays


def run_embed(arguments: Sequence[str]) -> int:
    """`embed WEIGHTS data.path=DIR OUT [patches=true] [split=train|val] [key=value ...]`."""
    given = parse("embed", arguments, num_words=(2, None))
    settings, overrides = given.take(EmbedSettings)
    files, named = split_files(given.words)
    if len(named) != 2:
        raise ConfigError("embed takes two words: embed WEIGHTS data.path=DIR OUT.")
    config = load_settings(files, [*overrides, f"weights={named[0]}"])
    console = Console()
    made = embed(
        config,
        named[1],
        has_patches=settings.patches,
        split=settings.split,
        dtype=settings.dtype,
        progress=Console(stderr=True),
    )
    for line in made.notes:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    for name, shape in made.files.items():
        console.print(f"{made.folder / name}  {' x '.join(map(str, shape))}", soft_wrap=True)
    return 0


def embed(
    config: EvalConfig,
    out: str | Path,
    *,
    has_patches: bool = False,
    split: Literal["train", "val"] = "train",
    dtype: str = "float32",
    progress: Console | None = None,
) -> Embedding:
    """Write features of every image: pooled.npy (N, D), patches.npy (N, P, D), index.csv.

    Row i of every array is line i of index.csv (row, name, label, class); labels are empty where
    there are none. Samples that cannot be read (data.on_error=substitute) have neither. meta.json
    says of which weights and how the images were shown.

    Args:
        config: Weights and data.
        out: Folder, made if needed.
        has_patches: Write patch tokens, too.
        split: Which images; a folder that is not split is all `train`, and its `val` are those of
            them that `evaluate` scores.
        dtype: float16 or float32.
        progress: Terminal that a bar is shown on; none by default.

    Raises:
        ConfigError: Patch tokens are asked for and the network has none.
        CheckpointError: The folder cannot be written.
    """
    folder = Path(out).expanduser()
    check_output(folder, key="OUT", data=(config.data.path, config.data.val_path))
    replaced = check_replaceable(folder, OUTPUT)
    loaded = resolve_weights(config.weights)
    run = EvalRun(config, loaded, say=lambda text: None)
    source = run.train_source if split == "train" else run.source("val")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rows, shapes = _write_arrays(
            run, source, folder, has_patches=has_patches, dtype=dtype, progress=progress
        )
        write_atomically(folder / "index.csv", _index(source, rows))
        meta = {
            "weights": loaded.source,
            "sha256": loaded.sha256,
            "architecture": loaded.backbone.architecture,
            "data": asdict(run.config.data),
            "split": split,
            "precision": config.precision,
            "fingerprint": source.fingerprint(),
            "unreadable": run.unreadable(),
            "transform": run.shown.transform,
            "files": {name: list(shape) for name, shape in shapes.items()},
        }
        write_atomically(folder / "meta.json", json.dumps(meta, indent=1))
        remove_stale(folder, {*shapes, "index.csv", "meta.json"}, OUTPUT)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error.strerror}).") from error
    told = [run.shown.note] if run.shown.note else []
    said = [*told, *source.notes] if split == "train" else run.notes
    notes = [*filter(None, [replaced]), *said, *_left_out(run, source, split)]
    return Embedding(folder=folder, files=shapes, notes=tuple(notes))


def _left_out(run: EvalRun, source: Source, split: str) -> Iterator[str]:
    """Lines on samples that are not among the features."""
    unreadable = run.unreadable()
    if unreadable:
        name, reason = next(iter(unreadable.items()))
        yield (
            f"{len(unreadable)} of {len(source)} samples cannot be read and are left out, first "
            f"{name}: {reason}"
        )
    if split == "train" and run.has_val_split and run.val_source is not None:
        yield f"{len(run.val_source)} test samples are not embedded; split=val embeds them."


def _write_arrays(
    run: EvalRun,
    source: Source,
    folder: Path,
    *,
    has_patches: bool,
    dtype: str,
    progress: Console | None,
) -> tuple[list[int], dict[str, tuple[int, ...]]]:
    """Rows that could be read, and shapes; arrays appear under their names when they are whole."""
    rows: list[int] = []
    maps: dict[str, Any] = {}
    backbone, half = run.loaded.backbone, run.autocast
    with frozen(backbone), torch.no_grad():
        backbone.to(run.device)
        for batch in with_bar(run.loader(source, run.view), len(source), console=progress):
            (samples,) = batch.views.values()
            with torch.autocast(run.device.type, dtype=half, enabled=half is not None):
                features = backbone(run.normalize(samples.to(run.device)))
            found: dict[str, Tensor | None] = {"pooled": features.pooled}
            if has_patches:
                found["patches"] = features.patches
            for name, value in found.items():
                if value is None:
                    raise ConfigError(
                        f"{backbone.architecture} has no patch tokens; leave out patches=true."
                    )
                if name not in maps:
                    maps[name] = np.lib.format.open_memmap(
                        folder / f".{name}.partial.npy",
                        mode="w+",
                        dtype=np.dtype(dtype),
                        shape=(len(source), *value.shape[1:]),
                    )
                values = value.cpu().float().numpy().astype(dtype)
                maps[name][len(rows) : len(rows) + len(values)] = values
            rows += batch.index.tolist()
    if not rows:
        raise DataError(f"not one of the {len(source)} samples could be read.")
    shapes = {}
    for name, array in maps.items():
        array.flush()
        partial = folder / f".{name}.partial.npy"
        if len(rows) < len(array):
            array = array[: len(rows)]
            np.save(partial, array.copy())
        partial.replace(folder / f"{name}.npy")
        shapes[f"{name}.npy"] = tuple(array.shape)
    return rows, shapes


def _index(source: Source, rows: Sequence[int]) -> str:
    """Lines row, name, label, class; without the last two where there is no label."""
    labels = [-1] * len(source) if source.labels is None else source.labels.tolist()
    lines: list[list[object]] = [["row", "name", "label", "class"]]
    for line, row in enumerate(rows):
        label = labels[row]
        known = ["", ""] if label < 0 else [label, source.class_names[label]]
        lines.append([line, source.name(row), *known])
    return csv_text(lines)
