"""Images as they are typed or handed over: files, folders, packed files, sets, as one source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.find import PACKED, build_source
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.objects import is_list_of_files, source_of
from ssl_vision.data.images.table import SUFFIXES
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.source import Source, digest
from ssl_vision.errors import DataError

_SETS = (PACKED, *SUFFIXES)  # files that are data sets


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


def images_at(images: Any, *, download: bool = False, decode: DecodeConfig = DEFAULT) -> Source:
    """All images at paths: every image file below a folder, whatever its folders mean.

    Args:
        images: One or several image files, folders, .beton files, tables, names of data sets (their
            training images); or an object, see `objects.source_of`.
        download: Whether a named data set may be fetched.
        decode: What files mean where their format leaves it open.

    Raises:
        DataError: A path holds no images.
    """
    paths = [images] if isinstance(images, str | Path) else images
    if not is_list_of_files(paths):
        return source_of(images, decode=decode)
    parts: list[Source] = []
    files: list[str] = []  # neighbouring files become one source
    for given in [*paths, None]:
        path = None if given is None else Path(given).expanduser()
        if path is not None and path.is_file() and path.suffix.lower() not in _SETS:
            files.append(str(path))
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
