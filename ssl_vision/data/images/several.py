"""Images by paths as they are typed: files, folders, packed files and named sets, as one source."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_vision.data.contents import FileContents
from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.source import Source, digest
from ssl_vision.errors import DataError
from ssl_vision.files import MAX_IMAGE_BYTES, read_regular


class FilesSource(Source):
    """Image files, in the order they are given; without labels."""

    def __init__(self, paths: Sequence[str | Path], *, decode: DecodeConfig = DEFAULT) -> None:
        self.paths, self.decode, self.class_names = [str(path) for path in paths], decode, []

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path of the file."""
        return self.paths[index]

    def file(self, index: int) -> str:
        """Path of the file."""
        return self.paths[index]

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of names and of the bytes of every file."""
        contents = FileContents(self.paths).digest(num_threads=num_threads)
        return digest(self.decode.key(), "\0".join(self.paths), contents)

    def encoded(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            DataError: If it cannot be read.
        """
        try:
            return read_regular(self.paths[index], max_bytes=MAX_IMAGE_BYTES)
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One decoded image."""
        return (decoder or Decoder()).decode(self.encoded(index), self.decode)


class JoinedSource(Source):
    """Samples of several sources, one source behind the other; without labels."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts, self.class_names = list(parts), []
        self.notes = tuple(note for part in parts for note in part.notes)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        return part, index - int(self._ends[number]) + len(part)

    def name(self, index: int) -> str:
        """Name in its own source."""
        part, row = self._at(index)
        return part.name(row)

    def file(self, index: int) -> str | None:
        """File in its own source."""
        part, row = self._at(index)
        return part.file(row)

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of all parts."""
        return digest(*(part.fingerprint(num_threads=num_threads) for part in self.parts))

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One sample of its own source."""
        part, row = self._at(index)
        return part.sample(row, decoder)


def images_at(
    paths: Sequence[str | Path], *, download: bool = False, decode: DecodeConfig = DEFAULT
) -> Source:
    """All images at the paths: every image file below a folder, whatever its folders mean.

    Args:
        paths: Image files, folders, .beton files, names of data sets (their training images).
        download: Whether a named data set may be fetched.
        decode: What files mean where their format leaves it open.

    Raises:
        DataError: A path holds no images.
    """
    parts: list[Source] = []
    files: list[str | Path] = []  # neighbouring files become one source
    for given in [*paths, None]:
        path = None if given is None else Path(given).expanduser()
        if path is not None and path.is_file() and path.suffix.lower() != ".beton":
            files.append(path)
            continue
        if files:
            parts.append(FilesSource(files, decode=decode))
            files = []
        if path is not None and path.is_dir():
            parts.append(FolderSource(path, decode=decode))
        elif given is not None:
            parts.append(build_source(str(given), download=download, decode=decode))
    if not parts:
        raise DataError("no images are given; name files, folders, a .beton file or a data set.")
    return parts[0] if len(parts) == 1 else JoinedSource(parts)
