"""Reader of Stanford's .ply: text or binary, polygons, triangle strips, or points alone."""

import struct
from array import array
from typing import BinaryIO, NamedTuple

import numpy as np

from ssl_vision.data.clouds.geometry import (
    MAX_TRIANGLES,
    Geometry,
    as_text,
    check_number_of_triangles,
    coordinates,
    fans,
    whole_number,
)

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}  # of struct
_MAX_HEADER_LINES = 1000


class _Property(NamedTuple):
    name: str
    kind: str  # of the values
    count_kind: str | None  # of the length, for lists


class _Element(NamedTuple):
    name: str
    size: int
    properties: list[_Property]


class _Ragged(NamedTuple):
    """Lists of any lengths."""

    values: np.ndarray  # of all lists, one after another
    lengths: np.ndarray


# Name of an element -> name of a property -> one value each, (n,), or a list each, (n, length).
_Columns = dict[str, dict[str, np.ndarray | _Ragged]]


def read_ply(file: BinaryIO) -> Geometry:
    """Vertices and triangles of a file.

    Raises:
        ValueError: Malformed.
    """
    style, elements = _read_header(file)
    if style == "ascii":
        columns = _read_text(_numbers(file), elements)
    else:
        columns = _read_binary(file.read(), elements, "<" if "little" in style else ">")
    vertex = columns.get("vertex", {})
    axes = [vertex[axis] for axis in "xyz" if axis in vertex]
    scalars = [axis for axis in axes if isinstance(axis, np.ndarray) and axis.ndim == 1]
    if len(scalars) < 3:
        raise ValueError("it has no vertices with x, y and z")
    vertices = coordinates(np.stack(scalars, axis=1))
    faces, strips = columns.get("face", {}), columns.get("tristrips", {})
    polygons = faces.get("vertex_indices", faces.get("vertex_index"))
    triangles = [_polygon_triangles(polygons)] if polygons is not None else []
    if "vertex_indices" in strips:
        triangles.append(_strip_triangles(strips["vertex_indices"]))
    check_number_of_triangles(sum(map(len, triangles)))
    return Geometry(vertices, np.concatenate([*triangles, np.empty((0, 3), np.int64)]))


def _read_header(file: BinaryIO) -> tuple[str, list[_Element]]:
    """Style and elements; the file stands at its data then."""
    if not file.readline(100).startswith(b"ply"):
        raise ValueError("it has no PLY header")
    style, elements = "", list[_Element]()
    for _ in range(_MAX_HEADER_LINES):
        line = file.readline(4096).decode("ascii", "replace")
        match line.split():
            case ["end_header"]:
                break
            case ["format", style, *_]:
                pass
            case ["element", name, size]:
                if name in {element.name for element in elements}:
                    raise ValueError(f"element {name!r} is declared twice")
                count = whole_number(size, what=f"the number of {name!r}")
                elements.append(_Element(name, count, []))
            case ["property", *words]:
                _add_property(elements, words)
            case ["comment" | "obj_info", *_]:
                pass
            case [] if line:
                pass
            case words:
                raise ValueError(f"it has no PLY header: {' '.join(words)[:40]!r}")
    else:
        raise ValueError(f"its PLY header has more than {_MAX_HEADER_LINES} lines")
    if style not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"format {style[:20]!r} is unknown")
    return style, elements


def _add_property(elements: list[_Element], words: list[str]) -> None:
    match words:
        case ["list", count, kind, name]:
            prop = _Property(name, _kind(kind), _kind(count))
        case [kind, name]:
            prop = _Property(name, _kind(kind), None)
        case _:
            raise ValueError(f"property {' '.join(words)[:40]!r} is none")
    if not elements:
        raise ValueError(f"property {name!r} comes before any element")
    if name in {p.name for p in elements[-1].properties}:
        raise ValueError(f"property {name!r} is declared twice")
    if prop.count_kind is not None and prop.count_kind.startswith("f"):
        raise ValueError(f"the lists of {name!r} have lengths that are no whole numbers")
    elements[-1].properties.append(prop)


def _kind(word: str) -> str:
    if word not in _TYPES:
        raise ValueError(f"property type {word[:20]!r} is unknown")
    return _TYPES[word]


def _numbers(file: BinaryIO) -> "array[float]":
    """All numbers of the text after the header."""
    numbers = array("d")
    for line in as_text(file):
        numbers.extend(map(float, line.split()))
    return numbers


def _read_text(numbers: "array[float]", elements: list[_Element]) -> _Columns:
    columns: _Columns = {}
    at = 0
    for element in elements:
        width = len(element.properties)
        if element.size * width > len(numbers) - at:
            raise ValueError("it ends too early")
        if all(p.count_kind is None for p in element.properties):
            table = np.array(numbers[at : at + element.size * width]).reshape(element.size, width)
            at += table.size
            columns[element.name] = {p.name: table[:, i] for i, p in enumerate(element.properties)}
        else:
            columns[element.name], at = _text_lists(numbers, at, element)
    return columns


def _text_lists(
    numbers: "array[float]", at: int, element: _Element
) -> tuple[dict[str, np.ndarray | _Ragged], int]:
    """Columns of an element with lists, and where the next element begins."""
    values = {p.name: array("d") for p in element.properties}
    lengths = {p.name: array("q") for p in element.properties}
    for _ in range(element.size):
        for p in element.properties:
            length = 1
            if p.count_kind is not None:
                length = int(numbers[at])
                if length < 0 or length != numbers[at]:
                    raise ValueError(f"a list has the length {numbers[at]:g}")
                at += 1
            if length > len(numbers) - at:
                raise ValueError("it ends too early")
            values[p.name].extend(numbers[at : at + length])
            lengths[p.name].append(length)
            at += length
    return {p.name: _lists(p, values[p.name], lengths[p.name]) for p in element.properties}, at


def _lists(
    prop: _Property, values: "array[float] | np.ndarray", lengths: "array[int]"
) -> np.ndarray | _Ragged:
    column = np.asarray(values)
    return column if prop.count_kind is None else _Ragged(column, np.asarray(lengths, np.int64))


def _read_binary(content: bytes, elements: list[_Element], order: str) -> _Columns:
    columns: _Columns = {}
    at = 0
    for element in elements:
        if not element.properties:  # takes no byte
            continue
        if element.size > len(content) - at:
            raise ValueError("it ends too early")
        uniform = _uniform_type(content, at, element, order)
        if uniform is not None:
            table = np.frombuffer(content, uniform, element.size, at)
            at += table.nbytes
            columns[element.name] = {p.name: table[p.name] for p in element.properties}
        else:
            columns[element.name], at = _binary_lists(content, at, element, order)
    return columns


def _binary_lists(
    content: bytes, at: int, element: _Element, order: str
) -> tuple[dict[str, np.ndarray | _Ragged], int]:
    """As `_text_lists`, of bytes."""
    if element.size > MAX_TRIANGLES:
        raise ValueError(f"{element.size:,} lists are more than {MAX_TRIANGLES:,}")
    values = {p.name: bytearray() for p in element.properties}
    lengths = {p.name: array("q") for p in element.properties}
    counts = {p.name: struct.Struct(order + _CODES[p.count_kind or "u1"]) for p in
              element.properties}  # fmt: skip
    sizes = {p.name: np.dtype(p.kind).itemsize for p in element.properties}
    for _ in range(element.size):
        for p in element.properties:
            length = 1
            if p.count_kind is not None:
                length = _length(content, at, counts[p.name])
                at += counts[p.name].size
            end = at + length * sizes[p.name]
            if end > len(content):
                raise ValueError("it ends too early")
            values[p.name] += content[at:end]
            lengths[p.name].append(length)
            at = end
    found = {p.name: np.frombuffer(values[p.name], order + p.kind) for p in element.properties}
    return {p.name: _lists(p, found[p.name], lengths[p.name]) for p in element.properties}, at


def _length(content: bytes, at: int, count: struct.Struct) -> int:
    if at + count.size > len(content):
        raise ValueError("it ends too early")
    length: int = count.unpack_from(content, at)[0]
    if length < 0:
        raise ValueError(f"a list has the length {length}")
    return length


def _uniform_type(content: bytes, at: int, element: _Element, order: str) -> np.dtype | None:
    """Record type of an element whose lists all have the length of the first; else None."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    where = at
    lengths = {}
    for p in element.properties:
        if p.count_kind is None:
            fields.append((p.name, order + p.kind))
        elif element.size:
            length = _length(content, where, struct.Struct(order + _CODES[p.count_kind]))
            if length > len(content) - where:
                raise ValueError("it ends too early")
            lengths[f"{p.name} length"] = length
            fields.append((f"{p.name} length", order + p.count_kind))
            fields.append((p.name, order + p.kind, (length,)))
        else:
            fields.append((p.name, order + p.kind, (0,)))
        where = at + np.dtype(fields).itemsize
    kind = np.dtype(fields)
    if element.size * kind.itemsize > len(content) - at:
        if not lengths:
            raise ValueError("it ends too early")
        return None
    table = np.frombuffer(content, kind, element.size, at)
    is_uniform = all((table[name] == length).all() for name, length in lengths.items())
    return kind if is_uniform else None


def _polygon_triangles(polygons: np.ndarray | _Ragged) -> np.ndarray:
    if isinstance(polygons, _Ragged):
        return fans(_indices(polygons.values), polygons.lengths)
    if polygons.ndim != 2:
        raise ValueError("the vertices of faces are no lists")
    n = polygons.shape[1]
    check_number_of_triangles(len(polygons) * max(0, n - 2))
    corners = _indices(polygons)
    parts = [corners[:, [0, i, i + 1]] for i in range(1, n - 1)]
    return np.concatenate(parts) if parts else np.empty((0, 3), np.int64)


def _strip_triangles(strips: np.ndarray | _Ragged) -> np.ndarray:
    """Triangles of strips; -1 begins another."""
    if isinstance(strips, np.ndarray):
        if strips.ndim != 2:
            raise ValueError("the vertices of triangle strips are no lists")
        strips = _Ragged(strips.reshape(-1), np.full(len(strips), strips.shape[1]))
    corners = _indices(strips.values)
    check_number_of_triangles(max(0, len(corners) - 2))
    if (corners < -1).any():
        raise ValueError(f"a triangle strip uses vertex {corners.min()}")
    strip = np.repeat(np.arange(len(strips.lengths)), strips.lengths)
    starts = np.arange(max(0, len(corners) - 2))
    is_one = strip[starts] == strip[starts + 2]
    windows = corners[starts[is_one, None] + np.arange(3)]
    return windows[(windows >= 0).all(axis=1)]


def _indices(values: np.ndarray) -> np.ndarray:
    """Vertex indices as int64.

    Raises:
        ValueError: Some are no whole numbers.
    """
    if values.dtype.kind == "f" and not ((np.abs(values) < 2**53) & (values % 1 == 0)).all():
        raise ValueError("a face uses a vertex whose number is no whole number")
    return values.astype(np.int64)
