"""Readers of geometry files: .off, .obj, .ply meshes; .ply, .npy, .txt clouds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_vision.errors import DataError

Rows = list[list[str]]
_MAX_COLUMNS = 12  # of a cloud: coordinates, normals, colours, a part and some more


class Geometry(NamedTuple):
    """What a file holds.

    Attributes:
        vertices: float32, (V, 3).
        faces: Triangles as vertex indices, int64, (F, 3); polygons are cut into fans. Empty: a
            cloud.
    """

    vertices: np.ndarray
    faces: np.ndarray


def read_geometry(path: Path) -> Geometry:
    """A mesh or cloud, by the file's suffix (see `READERS`).

    Raises:
        DataError: Naming the file: unknown suffix, unreadable, malformed, empty, not finite, or
            faces that use vertices the file does not have.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: clouds are read from {', '.join(READERS)}.")
    try:
        geometry = reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (ValueError, IndexError, StopIteration) as error:
        raise DataError(f"{path} is malformed: {str(error) or 'it ends too early'}") from error
    _check(path, geometry)
    return geometry


def _check(path: Path, geometry: Geometry) -> None:
    vertices, faces = geometry
    if len(vertices) == 0:
        raise DataError(f"{path} holds no points.")
    used = np.unique(faces) if len(faces) else np.arange(len(vertices))
    if used[0] < 0 or used[-1] >= len(vertices):
        raise DataError(f"{path}: a face uses a vertex outside 0..{len(vertices) - 1}.")
    bad = int((~np.isfinite(vertices[used])).any(axis=1).sum())
    if bad:
        raise DataError(f"{path}: {bad} of {len(used)} points have NaN or infinite coordinates.")


# Arrays ----------------------------------------------------------------------------------


def _read_npy(path: Path) -> Geometry:
    return _cloud(np.load(path, allow_pickle=False))


def _read_text(path: Path) -> Geometry:
    """Numbers in columns, separated by commas or spaces; further columns are not coordinates."""
    return _cloud(read_table(path))


def read_table(path: Path) -> np.ndarray:
    """All columns of a text file of numbers, float32, (rows, columns).

    Raises:
        ValueError: Not a table of numbers.
    """
    with path.open() as file:
        separator = "," if "," in file.readline() else None
    return np.loadtxt(path, delimiter=separator, dtype=np.float32, ndmin=2, comments=("#", "//"))


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


def _cloud(values: np.ndarray) -> Geometry:
    if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "fiu":
        raise ValueError(f"an array of shape {values.shape} is no cloud; it needs (points, >= 3)")
    check_is_upright(values.shape)
    return Geometry(np.ascontiguousarray(values[:, :3], np.float32), np.empty((0, 3), np.int64))


# OFF -------------------------------------------------------------------------------------


def _read_off(path: Path) -> Geometry:
    """Object File Format, also with ModelNet's header that lacks a line break."""
    lines = _lines(path)
    header = next(lines)
    word = header[0]
    if "BINARY" in header:
        raise ValueError("binary OFF is not supported; save it as text")
    if not word.lstrip("STCN4n").startswith("OFF"):
        raise ValueError(f"it starts with {word!r} instead of OFF")
    rest = [word[word.index("OFF") + 3 :], *header[1:]]
    counts = [w for w in rest if w] or next(lines)
    num_vertices, num_faces = int(counts[0]), int(counts[1])
    vertices = [next(lines) for _ in range(num_vertices)]
    faces = [next(lines) for _ in range(num_faces)]
    return Geometry(_coordinates(vertices), _polygons(faces))


def _lines(path: Path) -> Iterator[list[str]]:
    """Words of each line that has any, without comments."""
    with path.open(errors="replace") as file:
        for line in file:
            words = line.partition("#")[0].split()
            if words:
                yield words


def _coordinates(rows: Rows) -> np.ndarray:
    if not rows:
        return np.empty((0, 3), np.float32)
    return np.array([row[:3] for row in rows], np.float64).astype(np.float32).reshape(-1, 3)


def _polygons(rows: Rows) -> np.ndarray:
    """Rows `n i_1 ... i_n (colours)` -> triangles."""
    triangles: list[list[str]] = []
    for row in rows:
        corners = row[1 : 1 + int(row[0])]
        if len(corners) < int(row[0]):
            raise ValueError(f"a face of {row[0]} corners lists {len(corners)}")
        triangles.extend(_fan(corners))
    return np.array(triangles, np.int64).reshape(-1, 3)


def _fan(corners: list[str]) -> list[list[str]]:
    return [[corners[0], corners[i], corners[i + 1]] for i in range(1, len(corners) - 1)]


# OBJ -------------------------------------------------------------------------------------


def _read_obj(path: Path) -> Geometry:
    """Wavefront: `v` and `f` lines; negative indices count back from the last vertex so far."""
    vertices: Rows = []
    triangles: list[list[int]] = []
    for words in _joined_lines(path):
        if words[0] == "v":
            vertices.append(words[1:])
        elif words[0] == "f":
            corners = [int(word.partition("/")[0]) for word in words[1:]]
            if 0 in corners:
                raise ValueError("a face uses vertex 0; OBJ counts from 1")
            known = [c - 1 if c > 0 else len(vertices) + c for c in corners]
            triangles.extend([known[0], known[i], known[i + 1]] for i in range(1, len(known) - 1))
    return Geometry(_coordinates(vertices), np.array(triangles, np.int64).reshape(-1, 3))


def _joined_lines(path: Path) -> Iterator[list[str]]:
    """As `_lines`, with lines that end in a backslash joined to the next."""
    pending: list[str] = []
    for words in _lines(path):
        is_continued = words[-1].endswith("\\")
        pending += [*words[:-1], words[-1].rstrip("\\")] if is_continued else words
        if not is_continued:
            yield [word for word in pending if word]
            pending = []


# PLY -------------------------------------------------------------------------------------

_PLY_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}


class _Property(NamedTuple):
    name: str
    kind: str  # of the values
    count_kind: str | None  # of the length, for lists


class _Element(NamedTuple):
    name: str
    size: int
    properties: list[_Property]


def _read_ply(path: Path) -> Geometry:
    """Stanford's format, text or binary, with polygons or triangle strips, or points alone."""
    content = path.read_bytes()
    style, elements, start = _ply_header(content)
    if style == "ascii":
        words = content[start:].split()
        columns = _ply_text(words, elements)
    else:
        order = "<" if style == "binary_little_endian" else ">"
        columns = _ply_binary(content, start, elements, order)
    vertex = columns.get("vertex")
    if vertex is None or not {"x", "y", "z"} <= vertex.keys():
        raise ValueError("it has no vertices with x, y and z")
    vertices = np.stack([np.asarray(vertex[axis], np.float32) for axis in "xyz"], axis=1)
    return Geometry(vertices, _ply_faces(columns))


def _ply_header(content: bytes) -> tuple[str, list[_Element], int]:
    end = content.find(b"end_header")
    if not content.startswith(b"ply") or end < 0:
        raise ValueError("it has no PLY header")
    start = content.index(b"\n", end) + 1
    style, elements = "", list[_Element]()
    for line in content[:end].decode("ascii", "replace").splitlines():
        match line.split():
            case ["format", style, *_]:
                pass
            case ["element", name, size]:
                elements.append(_Element(name, int(size), []))
            case ["property", "list", count, kind, name]:
                elements[-1].properties.append(_Property(name, _kind(kind), _kind(count)))
            case ["property", kind, name]:
                elements[-1].properties.append(_Property(name, _kind(kind), None))
    if style not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"format {style!r} is unknown")
    return style, elements, start


def _kind(word: str) -> str:
    if word not in _PLY_TYPES:
        raise ValueError(f"property type {word!r} is unknown")
    return _PLY_TYPES[word]


# Name of an element -> name of a property -> its values: an array, or one array per list.
_Columns = dict[str, dict[str, np.ndarray | list[np.ndarray]]]


def _ply_text(words: list[bytes], elements: list[_Element]) -> _Columns:
    columns: _Columns = {}
    at = 0
    for element in elements:
        width = len(element.properties)
        if all(p.count_kind is None for p in element.properties):
            table = np.array(words[at : at + element.size * width], np.float64)
            table = table.reshape(element.size, width)
            at += table.size
            columns[element.name] = {p.name: table[:, i] for i, p in enumerate(element.properties)}
            continue
        found: dict[str, list[np.ndarray]] = {p.name: [] for p in element.properties}
        for _ in range(element.size):
            for p in element.properties:
                length = int(words[at]) if p.count_kind else 1
                at += p.count_kind is not None
                found[p.name].append(np.array(words[at : at + length], np.float64))
                at += length
        columns[element.name] = dict(found)
    if at > len(words):
        raise ValueError("it ends too early")
    return columns


def _ply_binary(content: bytes, at: int, elements: list[_Element], order: str) -> _Columns:
    columns: _Columns = {}
    for element in elements:
        uniform = _uniform_type(content, at, element, order)
        if uniform is not None:
            table = np.frombuffer(content, uniform, element.size, at)
            at += table.nbytes
            columns[element.name] = {p.name: table[p.name] for p in element.properties}
            continue
        found: dict[str, list[np.ndarray]] = {p.name: [] for p in element.properties}
        for _ in range(element.size):
            for p in element.properties:
                length = 1
                if p.count_kind:
                    length = int(np.frombuffer(content, order + p.count_kind, 1, at)[0])
                    at += np.dtype(p.count_kind).itemsize
                values = np.frombuffer(content, order + p.kind, length, at)
                found[p.name].append(values)
                at += values.nbytes
        columns[element.name] = dict(found)
    return columns


def _uniform_type(content: bytes, at: int, element: _Element, order: str) -> np.dtype | None:
    """Record type of an element whose lists all have the length of the first; else None."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    where = at
    lengths = {}
    for p in element.properties:
        if p.count_kind is None:
            fields.append((p.name, order + p.kind))
        elif element.size:
            length = int(np.frombuffer(content, order + p.count_kind, 1, where)[0])
            lengths[f"{p.name} length"] = length
            fields.append((f"{p.name} length", order + p.count_kind))
            fields.append((p.name, order + p.kind, (length,)))
        where = at + np.dtype(fields).itemsize
    kind = np.dtype(fields)
    if at + element.size * kind.itemsize > len(content):
        if not lengths:
            raise ValueError("it ends too early")
        return None
    table = np.frombuffer(content, kind, element.size, at)
    is_uniform = all((table[name] == length).all() for name, length in lengths.items())
    return kind if is_uniform else None


def _ply_faces(columns: _Columns) -> np.ndarray:
    face = columns.get("face", {})
    polygons = face.get("vertex_indices", face.get("vertex_index"))
    if isinstance(polygons, np.ndarray) and polygons.ndim == 2:
        n = polygons.shape[1]
        fans = [polygons[:, [0, i, i + 1]] for i in range(1, n - 1)]
        return np.concatenate(fans).astype(np.int64) if fans else np.empty((0, 3), np.int64)
    triangles: list[np.ndarray] = []
    for corners in polygons if polygons is not None else []:
        triangles.extend(corners[[0, i, i + 1]] for i in range(1, len(corners) - 1))
    strips = columns.get("tristrips", {}).get("vertex_indices", [])
    for strip in strips:
        triangles.extend(_strip_triangles(np.asarray(strip).astype(np.int64)))
    return np.array(triangles, np.int64).reshape(-1, 3)


def _strip_triangles(strip: np.ndarray) -> list[np.ndarray]:
    """Triangles of a strip; -1 begins another."""
    windows = [strip[i : i + 3] for i in range(len(strip) - 2)]
    return [w for w in windows if (w >= 0).all()]


READERS: dict[str, Callable[[Path], Geometry]] = {
    ".npy": _read_npy,
    ".txt": _read_text,
    ".xyz": _read_text,
    ".pts": _read_text,
    ".ply": _read_ply,
    ".off": _read_off,
    ".obj": _read_obj,
}
"""Suffix of a file -> its reader."""
