"""Readers of geometry files: .off, .obj, .ply meshes; .ply, .npy, .txt clouds.

Files may come from strangers: only plain files are opened, and what a header claims is held against
the file's length before memory is taken for it.
"""

import math
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from ssl_vision.data.clouds.geometry import (
    MAX_COORDINATE,
    Geometry,
    as_text,
    coordinates,
    fans,
    whole_number,
    word_lines,
)
from ssl_vision.data.clouds.ply import read_ply
from ssl_vision.errors import DataError
from ssl_vision.files import MAX_CLOUD_BYTES, open_regular, shown

_T = TypeVar("_T")
_Found = Geometry | np.ndarray  # a table: rows are points, columns coordinates and more
_MAX_COLUMNS = 12  # of a cloud: coordinates, normals, colours, a part and some more


def read_geometry(path: Path) -> Geometry:
    """A mesh or cloud, by the file's suffix (see `READERS`).

    Raises:
        DataError: Naming the file: unknown suffix, no plain file, too large, unreadable,
            malformed, empty, coordinates that are not finite or beyond 1e18, or faces that use
            vertices the file does not have.
    """
    return read_remarked(path)[0]


def read_remarked(path: Path) -> tuple[Geometry, tuple[str, ...]]:
    """As `read_geometry`, and what the user should hear of it: names of `Notes`."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{shown(path)}: clouds are read from {', '.join(READERS)}.")
    found = _read(path, reader)
    if isinstance(found, Geometry):
        geometry, remarks = found, tuple[str, ...]()
    else:
        geometry, remarks = _cloud(found), table_remarks(found.shape)
    _check(path, geometry)
    return geometry, remarks


def table_remarks(shape: tuple[int, ...]) -> tuple[str, ...]:
    """What is decided about a table of points that its rows and columns leave open."""
    rows, columns = shape
    found = ("columns",) if columns > 3 else ()
    return (*found, "square") if (rows, columns) == (3, 3) else found


def read_table(path: Path) -> np.ndarray:
    """All columns of a text file of numbers, float32, (rows, columns).

    Raises:
        DataError: Naming the file: unreadable or not a table of numbers, a row per point.
    """
    return _read(path, _upright_table)


def _read(path: Path, reader: Callable[[BinaryIO], _T]) -> _T:
    with open_regular(path, max_bytes=MAX_CLOUD_BYTES, error=DataError) as file:
        try:
            return reader(file)
        except OSError as error:
            raise DataError(f"{shown(path)} cannot be read: {error.strerror or error}.") from error
        except MemoryError as error:
            raise DataError(f"{shown(path)} needs more memory than there is.") from error
        except Exception as error:  # a stranger's file brings NumPy and Python to any of theirs
            reason = (str(error) or "it ends too early").splitlines()[0]
            raise DataError(f"{shown(path)} is malformed: {reason}.") from error


def _check(path: Path, geometry: Geometry) -> None:
    vertices, faces = geometry
    if len(vertices) == 0:
        raise DataError(f"{shown(path)} holds no points.")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise DataError(
            f"{shown(path)}: a face uses a vertex outside 0..{len(vertices) - 1} "
            f"(from {faces.min()} to {faces.max()})."
        )
    is_used = np.full(len(vertices), not len(faces))
    is_used[faces] = True
    # Vertices of no face may be anything: nothing reads them.
    bad = int((~(np.abs(vertices) <= MAX_COORDINATE)).any(axis=1)[is_used].sum())
    if bad:
        raise DataError(
            f"{shown(path)}: {bad} of {is_used.sum()} points have NaN or infinite coordinates, or "
            f"such beyond {MAX_COORDINATE:g}."
        )


# Arrays ----------------------------------------------------------------------------------

_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_npy(file: BinaryIO) -> np.ndarray:
    """NumPy's format, without its pickles; the array is read only if it is a cloud."""
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version} of .npy holds no plain numbers")
    shape, is_fortran, dtype = _NPY_HEADERS[version](file)
    _check_is_cloud(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    left = os.fstat(file.fileno()).st_size - file.tell()
    if size > left:
        raise ValueError(f"it ends too early: an array of shape {shape} takes {size:,} bytes")
    values = np.frombuffer(file.read(size), dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")


def _read_text(file: BinaryIO) -> np.ndarray:
    """Numbers in columns, separated by commas or spaces; further columns are not coordinates."""
    table = _table(file)
    _check_is_cloud(table.shape, table.dtype)
    return table


def _table(file: BinaryIO) -> np.ndarray:
    text = as_text(file)
    lines = ((i, line.partition("#")[0].partition("//")[0].strip()) for i, line in enumerate(text))
    filled = ((i, line) for i, line in lines if line)
    (at, first), (_, second) = next(filled, (0, "")), next(filled, (0, ""))
    # .pts of scanners begin with the number of points.
    count = int(first) if first.isascii() and first.isdigit() and len(first) < 19 else None
    if not (first if count is None else second):
        raise ValueError("it holds no points")
    text.seek(0)
    try:
        table = np.loadtxt(
            text,
            delimiter="," if "," in (first if count is None else second) else None,
            dtype=np.float32,
            ndmin=2,
            comments=("#", "//"),
            skiprows=0 if count is None else at + 1,
        )
    except ValueError as error:
        raise ValueError(str(error).partition("; use `usecols`")[0].rstrip(".")) from error
    if count is not None and count != len(table):
        raise ValueError(f"its first line is {count}, but {len(table)} points follow")
    return table


def _upright_table(file: BinaryIO) -> np.ndarray:
    table = _table(file)
    check_is_upright(table.shape)
    return table


def check_is_upright(shape: tuple[int, ...]) -> None:
    """Refuse clouds that lie: a row per coordinate and a column per point.

    Args:
        shape: Rows and columns. Columns beyond coordinates, normals, colours and parts are points.

    Raises:
        ValueError: They look transposed.
    """
    rows, columns = shape
    if rows < columns and (rows == 3 or columns > _MAX_COLUMNS):
        raise ValueError(
            f"an array of shape {(rows, columns)} looks transposed; a row must be a point, "
            f"{(columns, rows)}"
        )


def _check_is_cloud(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 2 or min(shape) < 0 or shape[1] < 3 or dtype.kind not in "fiu":
        raise ValueError(f"an array of {dtype} of shape {shape} is no cloud; (points, >= 3) is")
    check_is_upright(shape)


def _cloud(values: np.ndarray) -> Geometry:
    with np.errstate(over="ignore"):
        vertices = np.ascontiguousarray(values[:, :3], np.float32)
    return Geometry(vertices, np.empty((0, 3), np.int64))


# OFF -------------------------------------------------------------------------------------


def _read_off(file: BinaryIO) -> Geometry:
    """Object File Format, also with ModelNet's header that lacks a line break."""
    lines = word_lines(file)
    header = next(lines)
    word = header[0]
    if "BINARY" in header:
        raise ValueError("binary OFF is not supported; save it as text")
    if word.lstrip("STCN").startswith(("4OFF", "nOFF", "4nOFF")):
        raise ValueError(f"{word[:8]} has other than three coordinates; save it as plain OFF")
    if not word.lstrip("STCN").startswith("OFF"):
        raise ValueError(f"it starts with {word[:20]!r} instead of OFF")
    counts = [w for w in (word[word.index("OFF") + 3 :], *header[1:]) if w] or next(lines)
    if len(counts) < 2:
        raise ValueError("it lacks the numbers of vertices and faces")
    num_vertices = whole_number(counts[0], what="the number of vertices")
    num_faces = whole_number(counts[1], what="the number of faces")
    vertices, corners, lengths = array("d"), array("q"), array("q")
    for _ in range(num_vertices):
        _append_vertex(vertices, next(lines))
    for _ in range(num_faces):
        row = next(lines)  # n i_1 ... i_n (colours)
        length = whole_number(row[0], what="the number of corners of a face")
        if len(row) <= length:
            raise ValueError(f"a face of {length} corners lists {len(row) - 1}")
        corners.extend(map(int, row[1 : 1 + length]))
        lengths.append(length)
    return _mesh(vertices, corners, lengths)


def _append_vertex(vertices: "array[float]", words: list[str]) -> None:
    if len(words) < 3:
        raise ValueError(f"a vertex has {len(words)} coordinates instead of 3")
    vertices.extend(map(float, words[:3]))


def _mesh(vertices: "array[float]", corners: "array[int]", lengths: "array[int]") -> Geometry:
    faces = fans(np.asarray(corners, np.int64), np.asarray(lengths, np.int64))
    return Geometry(coordinates(vertices), faces)


# OBJ -------------------------------------------------------------------------------------


def _read_obj(file: BinaryIO) -> Geometry:
    """Wavefront: `v` and `f` lines; negative indices count back from the last vertex so far."""
    vertices, corners, lengths = array("d"), array("q"), array("q")
    for words in _joined_lines(word_lines(file)):
        if words[0] == "v":
            _append_vertex(vertices, words[1:])
        elif words[0] == "f":
            numbers = [int(word.partition("/")[0]) for word in words[1:]]
            if 0 in numbers:
                raise ValueError("a face uses vertex 0; OBJ counts from 1")
            so_far = len(vertices) // 3
            corners.extend(n - 1 if n > 0 else so_far + n for n in numbers)
            lengths.append(len(numbers))
    return _mesh(vertices, corners, lengths)


def _joined_lines(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """Lines that end in a backslash joined to the next; none is empty."""
    pending: list[str] = []
    for words in lines:
        is_continued = words[-1].endswith("\\")
        pending += [*words[:-1], words[-1].rstrip("\\")] if is_continued else words
        if len(pending) > 1 << 20:
            raise ValueError("it joins more than a million words to one line")
        if not is_continued:
            yield [word for word in pending if word]
            pending = []
    if joined := [word for word in pending if word]:
        yield joined


READERS: dict[str, Callable[[BinaryIO], _Found]] = {
    ".npy": _read_npy,
    ".txt": _read_text,
    ".xyz": _read_text,
    ".pts": _read_text,
    ".ply": read_ply,
    ".off": _read_off,
    ".obj": _read_obj,
}
"""Suffix of a file -> its reader."""
