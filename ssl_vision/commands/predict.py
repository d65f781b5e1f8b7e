"""The `predict` command: classes and probabilities of images, by a trained classifier."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ssl_vision.bounds import check_bounds
from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.commands.tables import write_csv
from ssl_vision.data.find import DataLike
from ssl_vision.data.images.several import images_at
from ssl_vision.data.source import Source
from ssl_vision.errors import ConfigError, keys_renamed
from ssl_vision.evaluation.accuracy import wilson_interval
from ssl_vision.tasks.frozen_pass import AS_TYPED, PassSettings, pass_over
from ssl_vision.zoo.weights import LoadedBackbone, resolve_weights


@dataclass(frozen=True, kw_only=True)
class PredictSettings(PassSettings):
    """Settings of `predict`."""

    top: int = 3  # classes per image in the table, the most probable first
    download: bool = False  # whether a named data set may be fetched

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("top", self.top, least=1)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a classifier says of images.

    Attributes:
        names: Of the images that could be read, N.
        class_names: C, in the order of the classifier's outputs.
        logits: Its outputs, float32, (N, C).
        unreadable: Images that could not be read, name -> reason.
        notes: What a reader should know, a line each.
    """

    names: list[str]
    class_names: tuple[str, ...]
    logits: NDArray[np.float32]
    unreadable: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax of the logits, (N, C)."""
        powers = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return shares

    @property
    def classes(self) -> list[str]:
        """Name of the most probable class of each image, N."""
        return [self.class_names[i] for i in self.logits.argmax(axis=1)]

    def to_csv(self, path: str | Path, *, top: int = 3) -> None:
        """Write name, class, probability, class_2, probability_2, ..., error; a line per image.

        Args:
            path: The file.
            top: Classes per image.

        Raises:
            CheckpointError: It cannot be written.
        """
        num = min(top, len(self.class_names))
        header = ["name", "class", "probability"]
        header += [f"{each}_{i}" for i in range(2, num + 1) for each in ("class", "probability")]
        shares = self.probabilities
        best = np.argsort(-shares, axis=1, kind="stable")[:, :num]
        rows: list[list[object]] = [[*header, "error"]]
        for name, own, order in zip(self.names, shares, best, strict=True):
            cells = [cell for i in order for cell in (self.class_names[i], f"{own[i]:.6f}")]
            rows.append([name, *cells, ""])
        empty = [""] * (len(header) - 1)
        rows += [[name, *empty, reason] for name, reason in self.unreadable.items()]
        write_csv(path, rows)


def run_predict(arguments: Sequence[str]) -> int:
    """`predict WEIGHTS IMAGES [IMAGES ...] OUT.csv [top=3] [key=value ...]`."""
    given = parse("predict", arguments, num_words=(3, None))
    settings = given.settings(PredictSettings)
    weights, *images, out = given.words
    if Path(out).suffix.lower() != ".csv":
        raise ConfigError(f"the last word, {out!r}, must be the .csv file to write.")
    found = predict_as(weights, images, settings)
    found.to_csv(out, top=settings.top)
    console = Console()
    for line in found.notes:
        say(console, line)
    num = len(found.names)
    line = f"{num} images, {len(found.class_names)} classes: {out}"
    say(console, line)
    return 0


def predict(
    weights: str | Path,
    images: DataLike,
    *,
    batch_size: int = 128,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Predictions:
    """Classes and probabilities of images.

    Args:
        weights: A supervised or fine-tuned run, its export, or timm:NAME with its classifier.
        images: A folder, image file, .beton file or name of a data set, or several of these; or an
            object, as `ssl_vision.train` takes for data.
        batch_size: Images at once.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: The weights have no classifier.
        DataError: No image can be read.
        CheckpointError: The weights cannot be read.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device={device} must be auto, cpu or cuda.")
    return predict_as(weights, images, PredictSettings(batch_size=batch_size, device=device))


def predict_as(weights: str | Path, images: DataLike, settings: PredictSettings) -> Predictions:
    """As `predict`, with all settings."""
    loaded = resolve_weights(weights, with_classifier=True)
    if not loaded.num_classes:
        raise ConfigError(
            f"weights={str(weights)!r} have no classifier; train one on them: ssl-vision train "
            f"supervised/tiny_cpu {shlex.quote(f'init_from={weights}')} data.path=DIR."
        )
    decode = settings.decode.over(loaded.decode)
    with keys_renamed({"data.download=true": "download=true"} | AS_TYPED):
        source = images_at(images, download=settings.download, decode=decode)
    passed = pass_over(loaded, source, settings, of="logits", progress=Console(stderr=True))
    names = loaded.class_names or tuple(str(i) for i in range(loaded.num_classes))
    return Predictions(
        names=[source.name(int(row)) for row in passed.rows],
        class_names=names,
        logits=passed.values,
        unreadable=passed.unreadable,
        notes=tuple(_notes(loaded, source, passed.rows, passed.values, passed.unreadable)),
    )


def _notes(
    loaded: LoadedBackbone,
    source: Source,
    rows: NDArray[np.int64],
    logits: NDArray[np.float32],
    unreadable: dict[str, str],
) -> list[str]:
    notes = list(source.notes)
    if not loaded.class_names:
        notes.append(f"{loaded.source} does not say what its classes are called: numbers are given")
    if unreadable:
        name, reason = next(iter(unreadable.items()))
        notes.append(
            f"{len(unreadable)} of {len(source)} images cannot be read, first {name}: {reason}; "
            "they stand at the end of the table, with the reason"
        )
    if source.labels is not None and set(source.class_names) <= set(loaded.class_names):
        number = {name: i for i, name in enumerate(loaded.class_names)}
        wanted = np.array([number[name] for name in source.class_names])[source.labels[rows]]
        num = int((logits.argmax(axis=1) == wanted).sum())
        low, high = wilson_interval(num / len(rows), len(rows))
        notes.append(
            f"the images lie in folders named as the classes: {num} of {len(rows)} are taken for "
            f"their folder's, {num / len(rows):.1%} [{low:.1%}, {high:.1%}]"
        )
    return notes
