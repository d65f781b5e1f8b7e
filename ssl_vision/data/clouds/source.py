"""Point clouds as a data set: numbered, labelled, kept in memory once read."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ssl_vision.data.clouds.geometry import MAX_COORDINATE
from ssl_vision.data.contents import FileContents
from ssl_vision.data.decode import Decoder
from ssl_vision.data.source import Source, digest
from ssl_vision.errors import DataError

_CACHE_BYTES = 2 << 30  # clouds kept in memory by each source


class Cloud(NamedTuple):
    """A cloud, float32, (M, 3), and what the user should hear of it: names of `Notes`."""

    points: np.ndarray
    remarks: tuple[str, ...] = ()


Reader = Callable[[int], np.ndarray | Cloud]


class PointSource(Source):
    """Numbered clouds; reading is safe from many threads, and keeps them up to 2 GiB.

    Args:
        names: What to call each cloud in messages: its path where it has one.
        read: Row -> cloud, float32, (M, 3 + anything else the subclass reads), or a `Cloud`.
        labels: Class of each cloud, or None.
        class_names: Names of the classes.
        files: What the clouds are read from, for the fingerprint.

    Attributes:
        has_files: Whether each name is the path of a file that holds this cloud alone.
    """

    modality = "clouds"
    has_files = False

    def __init__(
        self,
        names: Sequence[str],
        read: Reader,
        *,
        labels: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
        files: Sequence[str] = (),
    ) -> None:
        if not names:
            raise DataError("the data set has no clouds.")
        self._names, self._read = list(names), read
        self._contents = FileContents(files)
        self.labels = None if labels is None else np.asarray(labels, np.int64)
        self.class_names = list(class_names)
        self._cache: dict[int, np.ndarray] = {}
        self._cached_bytes = 0
        self._remarks: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Path of the cloud, or what stands for it."""
        return self._names[index]

    def file(self, index: int) -> str | None:
        """Path of the cloud's own file."""
        return self._names[index] if self.has_files else None

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of names, labels and the bytes of all files."""
        labels = np.empty(0, np.int64) if self.labels is None else self.labels
        contents = self._contents.digest(num_threads=num_threads)
        return digest("\0".join(self._names), labels, contents)

    def content_keys(self) -> np.ndarray | None:
        """Of the bytes of every file, once a fingerprint read them."""
        return self._contents.keys if self.has_files else None

    def former_fingerprint(self) -> str:
        """Digest of names, labels and file sizes."""
        labels = np.empty(0, np.int64) if self.labels is None else self.labels
        sizes = ",".join(str(os.path.getsize(path)) for path in self._contents.paths)
        return digest("\n".join(self._names), labels, sizes)

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """Coordinates of a cloud, float32, (M, 3); not to be written to.

        Args:
            index: Its number.
            decoder: In whose notes is counted what the user should hear of.

        Raises:
            DataError: With the reason, if it cannot be read.
        """
        points = self._values(index)[:, :3]
        if decoder is not None:
            for remark in self._remarks.get(index, ()):
                decoder.notes.add(remark)
        return points

    def _values(self, index: int) -> np.ndarray:
        values = self._cache.get(index)
        if values is None:
            found = self._read(index)
            if isinstance(found, Cloud):
                found, self._remarks[index] = found
            values = np.ascontiguousarray(found, np.float32)
            is_sound = np.abs(values) <= MAX_COORDINATE
            if len(values) == 0 or not is_sound.all():
                bad = int((~is_sound).any(axis=1).sum())
                raise DataError(
                    f"{self.name(index)} has {len(values)} points, {bad} of them with NaN or "
                    f"infinite coordinates, or such beyond {MAX_COORDINATE:g}."
                )
            if self._cached_bytes + values.nbytes <= _CACHE_BYTES:
                self._cache[index] = values
                self._cached_bytes += values.nbytes
        return values


class PartSource(PointSource):
    """Clouds whose points belong to parts: `read` gives (M, 4), the part in the last column.

    Attributes:
        part_names: Name of each part.
        parts_of_class: Parts that objects of each class can have.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Reader,
        *,
        labels: Sequence[int],
        class_names: Sequence[str],
        part_names: Sequence[str],
        parts_of_class: Sequence[Sequence[int]],
        files: Sequence[str] = (),
    ) -> None:
        super().__init__(names, read, labels=labels, class_names=class_names, files=files)
        self.part_names, self.parts_of_class = list(part_names), [list(p) for p in parts_of_class]

    def parts(self, index: int) -> np.ndarray:
        """Part of each point of a cloud, int64, (M,)."""
        return self._values(index)[:, 3].astype(np.int64)

    def some(self, rows: np.ndarray) -> "PartSource":
        """Some of the clouds, renumbered from 0."""
        assert self.labels is not None
        numbers = [int(row) for row in rows]
        return PartSource(
            [self.name(row) for row in numbers],
            lambda row: self._values(numbers[row]),
            labels=self.labels[rows].tolist(),
            class_names=self.class_names,
            part_names=self.part_names,
            parts_of_class=self.parts_of_class,
            files=self._contents.paths,
        )
