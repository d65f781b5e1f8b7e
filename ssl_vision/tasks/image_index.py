"""An index of images by their features: saved, loaded, searched with other images."""

import filecmp
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ssl_vision.data.find import DataLike
from ssl_vision.data.images.several import images_at
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.data.source import Source
from ssl_vision.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SslVisionWarning,
    keys_renamed,
)
from ssl_vision.evaluation.neighbours import find_neighbours, load_index, save_index
from ssl_vision.evaluation.similar import doubts_of_groups, groups_of, similar_pairs
from ssl_vision.files import MAX_LOG_BYTES, plain_text, write_atomically
from ssl_vision.tasks.frozen_pass import AS_TYPED, PassSettings, pass_over
from ssl_vision.zoo.weights import LoadedBackbone, resolve_weights

INDEX_NAME, META_NAME = "index.faiss", "index.json"
_SAME = 0.999  # least similarity of an image to itself, read and computed twice


class Match(NamedTuple):
    """An image of the index, and its cosine similarity to the query."""

    name: str
    similarity: float


class Answer(NamedTuple):
    """Images like one that was asked for, best first.

    Attributes:
        matches: Of the index.
        itself: Name of the image itself in the index, where it is there and was left out.
    """

    matches: list[Match]
    itself: str | None = None


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Images that are alike, each to at least one other of them.

    Attributes:
        names: Two or more.
        nearest: Of each, the other one that is most alike.
        similarities: Cosine similarity to it.
    """

    names: list[str]
    nearest: list[str]
    similarities: list[float]


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """Features of images under their names.

    Attributes:
        weights: Whose features, as they were named.
        sha256: Of these weights.
        names: Of the images, N.
        features: Of length 1, float32, (N, D).
        unreadable: Images that are not in it, name -> reason; not saved.
        notes: What a reader should know, a line each; not saved.
        network: Of these weights, where it is loaded already; not saved.
        decode: How its images were read where their format leaves it open; None, of indices of
            former versions: as the weights were trained.
    """

    weights: str
    sha256: str
    names: list[str]
    features: NDArray[np.float32]
    unreadable: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    network: LoadedBackbone | None = field(default=None, repr=False, compare=False)
    decode: DecodeConfig | None = None

    @classmethod
    def build(
        cls,
        weights: str | Path,
        images: DataLike,
        *,
        settings: PassSettings | None = None,
        progress: Console | None = None,
    ) -> "ImageIndex":
        """Index of the images at one or several paths.

        Args:
            weights: Run or export folder, `zoo:name` or `timm:name`.
            images: Folders, image files, .beton files, names of data sets; or an object, as
                `ssl_vision.train` takes for data.
            settings: Batch size, device and so on.
            progress: Terminal that a bar is shown on; none by default.

        Raises:
            ConfigError: Weights that do not take images.
            DataError: No image can be read.
        """
        loaded, settings = resolve_weights(weights), settings or PassSettings()
        decode = settings.decode.over(loaded.decode)
        with keys_renamed(AS_TYPED):
            source = images_at(images, decode=decode)
        passed = pass_over(loaded, source, settings, progress=progress)
        norms = np.linalg.norm(passed.values, axis=1, keepdims=True)
        return cls(
            weights=str(weights),
            sha256=loaded.sha256,
            names=[source.name(int(row)) for row in passed.rows],
            features=passed.values / np.maximum(norms, 1e-30),
            unreadable=passed.unreadable,
            notes=source.notes,
            network=loaded,
            decode=decode,
        )

    def save(self, folder: str | Path) -> None:
        """Write index.faiss (a flat index of inner products) and index.json (names, weights).

        Raises:
            ConfigError: The folder holds something else.
            CheckpointError: It cannot be written.
        """
        target = Path(folder).expanduser()
        check_index_folder(target)
        meta: dict[str, object] = {"weights": self.weights, "sha256": self.sha256}
        if self.decode is not None:
            meta["decode"] = self.decode.to_json()
        meta["names"] = self.names
        try:
            target.mkdir(parents=True, exist_ok=True)
            save_index(self.features, target / INDEX_NAME)
            write_atomically(target / META_NAME, json.dumps(meta, indent=1))
        except OSError as error:
            raise CheckpointError(f"{target} cannot be written ({error.strerror}).") from error

    @classmethod
    def load(cls, folder: str | Path) -> "ImageIndex":
        """An index that was saved.

        Raises:
            DataError: It is not there, or damaged.
        """
        target = Path(folder).expanduser()
        try:
            meta = json.loads(plain_text(target / META_NAME, max_bytes=MAX_LOG_BYTES))
            names = [str(name) for name in meta["names"]]
            weights, sha256 = str(meta["weights"]), str(meta["sha256"])
            decode = DecodeConfig.of_json(meta["decode"]) if "decode" in meta else None
        except FileNotFoundError:
            raise DataError(
                f"{target} is no index ({META_NAME} is missing); make one with data.path=DIR."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{target / META_NAME} is damaged; make the index again.") from error
        features = load_index(target / INDEX_NAME)
        if len(features) != len(names):
            raise DataError(
                f"{target}: {len(features)} rows and {len(names)} names; make the index again."
            )
        return cls(weights=weights, sha256=sha256, names=names, features=features, decode=decode)

    def search(
        self,
        images: DataLike,
        *,
        k: int = 5,
        with_self: bool = False,
        settings: PassSettings | None = None,
    ) -> dict[str, list[Match]]:
        """The k most similar images of the index for each image, best first.

        Args:
            images: As of `build`, which need not be in the index.
            k: Matches per image.
            with_self: Whether an image of the index is found for itself, too.
            settings: Batch size, device and so on.

        Raises:
            ConfigError: k below 1; the weights changed since the index was made.
            DataError: No image can be read.
        """
        found = self.answers(images, k=k, with_self=with_self, settings=settings)
        return {query: answer.matches for query, answer in found.items()}

    def answers(
        self,
        images: DataLike,
        *,
        k: int = 5,
        with_self: bool = False,
        settings: PassSettings | None = None,
        progress: Console | None = None,
    ) -> dict[str, Answer]:
        """As `search`, with what was left out; `progress` is a terminal for a bar."""
        settings = settings or PassSettings()
        own = self._network.decode if self.decode is None else self.decode
        with keys_renamed(AS_TYPED):
            source = images_at(images, decode=settings.decode.over(own))
        passed = pass_over(self._network, source, settings, progress=progress)
        wanted = k if with_self or k < 1 else k + 1
        found = find_neighbours(
            self.features, passed.values, k=min(max(wanted, 0), len(self.names))
        )
        answers: dict[str, Answer] = {}
        for number, rows, scores in zip(
            passed.rows.tolist(), found.rows.tolist(), found.scores.tolist(), strict=True
        ):
            matches = [
                Match(self.names[row], min(1.0, score))
                for row, score in zip(rows, scores, strict=True)
            ]
            itself = None if with_self else _itself(source, number, matches)
            others = [match for match in matches if match is not itself]
            answers[source.name(number)] = Answer(others[:k], itself.name if itself else None)
        return answers

    def duplicates(self, *, threshold: float = 0.95) -> list[DuplicateGroup]:
        """Groups of images that are alike, the largest first.

        A group is a chain: each image is like at least one other of it. A warning says how similar
        images are where a large share is grouped, or a group is a long chain.

        Args:
            threshold: Least cosine similarity of two images; what it means depends on the weights.
        """
        pairs = similar_pairs(self.features, threshold=threshold)
        groups = groups_of(pairs, len(self.names))
        if doubts := doubts_of_groups(self.features, groups, threshold=threshold):
            warnings.warn(doubts, SslVisionWarning, stacklevel=2)
        best: dict[int, tuple[float, int]] = {}
        for first, second, score in pairs:
            for row, other in ((first, second), (second, first)):
                best[row] = max(best.get(row, (0.0, other)), (score, other))
        return [
            DuplicateGroup(
                names=[self.names[row] for row in group],
                nearest=[self.names[best[row][1]] for row in group],
                similarities=[best[row][0] for row in group],
            )
            for group in groups
        ]

    @cached_property
    def _network(self) -> LoadedBackbone:
        loaded = self.network or resolve_weights(self.weights)
        if loaded.sha256 != self.sha256:
            raise ConfigError(
                f"weights={self.weights!r} are not those the index was made with; make it again."
            )
        return loaded


def duplicates(
    weights: str | Path, images: DataLike, *, threshold: float = 0.95
) -> list[DuplicateGroup]:
    """Groups of near-duplicates among images; see `ImageIndex.duplicates`.

    Args:
        weights: Run or export folder, `zoo:name` or `timm:name`.
        images: As of `ImageIndex.build`.
        threshold: Least cosine similarity of two images.
    """
    return ImageIndex.build(weights, images).duplicates(threshold=threshold)


def _itself(source: Source, number: int, matches: Sequence[Match]) -> Match | None:
    """The match that is the image asked for: under its name, else the first of its content.

    Rows of handed-over objects have names, too, which may be those of other objects: they must look
    alike as well.
    """
    alike = [match for match in matches if match.similarity >= _SAME]
    path = source.file(number)
    if path is None:
        return next((match for match in alike if match.name == source.name(number)), None)
    own = os.path.realpath(path)
    named = (match for match in matches if os.path.realpath(match.name) == own)
    return next(named, None) or next((m for m in alike if _same_content(own, m.name)), None)


def _same_content(path: str, other: str) -> bool:
    try:
        return filecmp.cmp(path, other, shallow=False)
    except (OSError, ValueError):  # an index knows names, not whether files are still there
        return False


def check_index_folder(folder: Path) -> None:
    """Raise ConfigError if writing an index here would mix it with something else."""
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not (folder / META_NAME).is_file()
    ):
        raise ConfigError(f"{folder} is not empty and no index; name another folder.")
