"""A folder of image files, with or without class folders."""

import os
from pathlib import Path

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.data.sources import Source, digest
from ssl_vision.errors import DataError

_COMMON = [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"]
EXTENSIONS = frozenset([*_COMMON, ".ppm", ".pgm", ".pbm", ".pnm"])
_MAX_STATS = 10_000  # files whose sizes enter the fingerprint


class FolderSource(Source):
    """Every image file below a folder, in sorted order.

    Labels are the names of the first-level folders if there are at least two of them with images
    and no image lies beside them; otherwise the data set is unlabelled. Names that start with a
    dot are skipped. Links are followed, each real folder once.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.paths = list_images(self.root)
        if not self.paths:
            raise DataError(
                f"{self.root} holds no image files ({', '.join(sorted(EXTENSIONS))}); "
                f"check data.path."
            )
        self.class_names, self.labels = _labels(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.root / self.paths[index])

    def fingerprint(self) -> str:
        """Digest of names, and of file sizes (of evenly spaced files where there are many)."""
        step = -(-len(self.paths) // _MAX_STATS)
        sizes = [_size(os.path.join(self.root, path)) for path in self.paths[::step]]
        return digest("\n".join(self.paths), np.array(sizes, np.int64))

    def encoded(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            DataError: If it cannot be read.
        """
        try:
            with open(os.path.join(self.root, self.paths[index]), "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error

    def pixels(self, index: int, decoder: Decoder) -> np.ndarray:
        """One decoded image."""
        return decoder.decode(self.encoded(index))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a dangling link, say; reading it will name it
        return -1


def list_images(root: Path) -> list[str]:
    """Paths of the image files below a folder, relative to it, sorted."""
    found: list[str] = []
    pending, seen = [""], {os.path.realpath(root)}
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError as error:
            raise DataError(f"folder {root / folder} cannot be read: {error.strerror}.") from error
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if real not in seen:
                    seen.add(real)
                    pending.append(path)
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                found.append(path)
    return sorted(found)


def _labels(paths: list[str]) -> tuple[list[str], np.ndarray | None]:
    tops = [path.split("/", 1)[0] if "/" in path else "" for path in paths]
    names = sorted(set(tops))
    if "" in names or len(names) < 2:
        return [], None
    number = {name: label for label, name in enumerate(names)}
    return names, np.array([number[top] for top in tops], np.int64)
