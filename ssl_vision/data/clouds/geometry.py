"""What a geometry file holds, and what its readers share: bounded lines of text, polygons cut."""

import io
from array import array
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

MAX_TEXT_CLOUD_BYTES = 512 << 20  # of a text file: numbers take up to 12 times its room in memory
MAX_TRIANGLES = 1 << 25  # of a mesh: 0.8 GB of indices, some 5 GB while their areas are taken
MAX_COORDINATE = 1e18  # beyond it float32 overflows where distances are squared
_WINDOW_BYTES = 1 << 20


class Geometry(NamedTuple):
    """What a file holds.

    Attributes:
        vertices: float32, (V, 3).
        faces: Triangles as vertex indices, int64, (F, 3); polygons are cut into fans. Empty: a
            cloud.
    """

    vertices: np.ndarray
    faces: np.ndarray


def as_text(file: BinaryIO, *, errors: str = "strict") -> io.TextIOWrapper:
    """A file from where it stands as UTF-8 text, none of whose lines takes unbounded memory.

    Raises:
        ValueError: Too large for text, or a line of more than 1 MiB.
    """
    start = file.tell()
    size = file.seek(0, io.SEEK_END)
    if size > MAX_TEXT_CLOUD_BYTES:
        raise ValueError(f"{size:,} bytes of text are more than {MAX_TEXT_CLOUD_BYTES:,}")
    file.seek(start)
    while len(window := file.read(_WINDOW_BYTES)) == _WINDOW_BYTES:
        if b"\n" not in window and b"\r" not in window:
            raise ValueError("it has a line of more than 1 MiB")
    file.seek(start)
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors)  # a mark is no number


def word_lines(file: BinaryIO) -> Iterator[list[str]]:
    """Words of each line that has any, without comments."""
    for line in as_text(file, errors="replace"):
        words = line.partition("#")[0].split()
        if words:
            yield words


def whole_number(word: str, *, what: str) -> int:
    """A count of zero or more.

    Raises:
        ValueError: It is none.
    """
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise ValueError(f"{what} is {word[:20]!r} instead of a whole number")
    return int(word)


def coordinates(values: "array[float] | np.ndarray") -> np.ndarray:
    """Numbers, three per vertex -> float32, (V, 3); what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32).reshape(-1, 3)


def fans(corners: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Polygons -> triangles, those of a polygon in a row around its first corner.

    Args:
        corners: Vertex indices of all polygons, int64, (sum of lengths,).
        lengths: Corners of each polygon, int64, (P,); fewer than three give nothing.

    Returns:
        int64, (F, 3).

    Raises:
        ValueError: More than `MAX_TRIANGLES`.
    """
    counts = np.maximum(lengths - 2, 0)
    total = check_number_of_triangles(int(counts.sum()))
    if (lengths == 3).all():
        return corners.reshape(-1, 3)
    first = np.repeat(np.cumsum(lengths) - lengths, counts)
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([corners[first], corners[first + within + 1], corners[first + within + 2]], 1)


def check_number_of_triangles(total: int) -> int:
    """The number, if a mesh may have so many.

    Raises:
        ValueError: It may not.
    """
    if total > MAX_TRIANGLES:
        raise ValueError(f"{total:,} triangles are more than {MAX_TRIANGLES:,}")
    return total
