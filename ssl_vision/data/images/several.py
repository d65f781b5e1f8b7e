"""Images as they are typed or handed over: files, folders, packed files, sets, as one source."""

from pathlib import Path
from typing import Any

from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.find import PACKED, build_source
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.objects import is_list_of_files, source_of
from ssl_vision.data.images.table import SUFFIXES
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.source import JoinedSource, Source
from ssl_vision.errors import DataError

_SETS = (PACKED, *SUFFIXES)  # files that are data sets


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
