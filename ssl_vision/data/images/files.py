"""Image files by their paths: a list, or what a folder or table names."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_vision.data.contents import FileContents
from ssl_vision.data.decode import Decoder
from ssl_vision.data.levels import DEFAULT, Decided, DecodeConfig
from ssl_vision.data.source import Source, digest
from ssl_vision.errors import DataError
from ssl_vision.files import MAX_IMAGE_BYTES, read_regular, shown

_TRIED = 20  # files of a list that are looked for when it is opened


class FilesSource(Source):
    """Image files in a given order.

    Args:
        paths: Of the files, relative to the root or absolute.
        root: Folder that relative paths start from; by default the current one.
        labels: Class of each, int64, (n,); None where there are none.
        class_names: Name of each class.
        decode: What files mean where their format leaves it open; part of the fingerprint.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        root: str | Path = "",
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        decode: DecodeConfig = DEFAULT,
    ) -> None:
        self.root, self.paths, self.decode = Path(root), [str(path) for path in paths], decode
        self.decided = Decided(decode=decode)
        self.labels, self.class_names = labels, list(class_names)
        self._contents: FileContents | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.root / self.paths[index])

    def file(self, index: int) -> str:
        """Path of the file."""
        return self.name(index)

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of names, labels, the bytes of every file, and of what they are taken to mean."""
        labels = np.empty(0, np.int64) if self.labels is None else self.labels
        return digest(self.digest_of_files(num_threads), labels, "\0".join(self.class_names))

    def digest_of_files(self, num_threads: int | None = None) -> str:
        """Digest of names, of the bytes of every file, and of what they are taken to mean."""
        if self._contents is None:
            self._contents = FileContents([self.name(i) for i in range(len(self))])
        contents = self._contents.digest(num_threads=num_threads)
        return digest(self.decode.key(), "\0".join(self.paths), contents)

    def content_keys(self) -> np.ndarray | None:
        """Of the bytes of every file, once a fingerprint read them."""
        return None if self._contents is None else self._contents.keys

    def encoded(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            DataError: If it cannot be read.
        """
        try:
            path = os.path.join(self.root, self.paths[index])
            return read_regular(path, max_bytes=MAX_IMAGE_BYTES)
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One decoded image."""
        return (decoder or Decoder()).decode(self.encoded(index), self.decode)


def check_files(source: FilesSource, *, what: str) -> FilesSource:
    """The source, unless it is empty or no file of those tried is there.

    Args:
        source: Of a list or table.
        what: Where its paths come from, for the message.

    Raises:
        DataError: It has the first path, and from where it was looked for.
    """
    if len(source) == 0:
        raise DataError(f"{what} names no image files.")
    rows = np.linspace(0, len(source) - 1, min(_TRIED, len(source))).astype(int)
    if not any(os.path.exists(source.name(int(row))) for row in rows):
        raise DataError(
            f"{what}: no file {shown(source.name(0))!r}, nor any other of {len(rows)} tried; "
            f"relative paths start from {shown(str(source.root.absolute()))}."
        )
    return source


def as_path(value: object) -> str | None:
    """The text of a path; None of anything else."""
    return os.fsdecode(value) if isinstance(value, str | os.PathLike) else None
