"""Layout of .beton files (FFCV format, version 2), read and written without ffcv.

A file is: header, field descriptions, one metadata record per sample, zeros up to a page, pages of
sample data, allocation table. A sample's data never crosses a page; a table of (sample, pointer,
size) at the end gives the sizes. Everything is little-endian.
"""

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ssl_vision.errors import DataError
from ssl_vision.files import open_regular

VERSION = 2
MIN_PAGE = 1 << 21
MAX_PAGE = 1 << 31
MAX_SIDE_PX = 65535  # width and height are 16-bit
_RECORDS_AT_ONCE = 1 << 16

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype(
    [("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True
)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])

JPG, RAW = 0, 1  # values of IMAGE["mode"]
TYPE_INT, TYPE_IMAGE = 1, 2
_RECORDS = {
    0: np.dtype("<f8"),
    TYPE_INT: np.dtype("<i8"),
    TYPE_IMAGE: IMAGE,
    3: _BYTES,
    4: np.dtype("<u8"),  # array: pointer
    5: _BYTES,  # JSON
    6: np.dtype("<u8"),  # tensor: pointer
}


def record_type(type_ids: list[int]) -> np.dtype:
    """Metadata record of one sample, as ffcv packs it."""
    return np.dtype([("", _RECORDS[type_id]) for type_id in type_ids], align=True)


def data_start(num_fields: int, record_bytes: int) -> int:
    """First byte after the metadata."""
    return HEADER.itemsize + num_fields * FIELD.itemsize + record_bytes


class BetonIndex(NamedTuple):
    """What a .beton file says about its samples.

    Attributes:
        images: Mode, width, height, pointer of each image, IMAGE records, (n,).
        sizes: Bytes of each image as stored, int64, (n,).
        labels: Integers of the field `label`, or of the first integer field, (n,); or None.
        page_size: In bytes.
    """

    images: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray | None
    page_size: int


def read_index(path: Path) -> BetonIndex:
    """Read and check everything but the pages.

    Every number in the file is taken as unsigned and held against the file's length, so that what
    this returns points at bytes the file had when it was opened.

    Raises:
        DataError: If the file is no .beton, is cut off, or points outside itself.
    """
    try:
        with open_regular(path) as file:
            return _read_index(path, file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{path} has more samples than there is memory for.") from error


def _read_index(path: Path, file: BinaryIO) -> BetonIndex:
    num_bytes = os.fstat(file.fileno()).st_size
    header, fields = _read_head(path, file)
    names = [bytes(name).split(b"\x00")[0].decode("ascii", "replace") for name in fields["name"]]
    type_ids = fields["type_id"].tolist()
    unknown = [n for n, t in zip(names, type_ids, strict=True) if t not in _RECORDS]
    if unknown or TYPE_IMAGE not in type_ids:
        problem = f"a custom field {unknown[0]!r}" if unknown else "no image field"
        raise DataError(f"{path} has {problem}; only ffcv's own fields with an image are read.")
    record, num_samples = record_type(type_ids), int(header["num_samples"])
    table_start, page_size = int(header["alloc_table_ptr"]), int(header["page_size"])
    start = data_start(len(fields), num_samples * record.itemsize)
    if start > table_start or table_start > num_bytes:
        raise DataError(
            f"{path} is cut off: {num_bytes} bytes, but its table of samples would be at byte "
            f"{table_start}; write it again."
        )
    num_entries, rest = divmod(num_bytes - table_start, ALLOCATION.itemsize)
    if rest or num_entries > num_samples * len(fields):
        raise DataError(
            f"{path}: {num_bytes - table_start} bytes follow its pages, which is no table of "
            f"{num_samples} samples; write it again."
        )
    which = f"f{_pick(names, type_ids, TYPE_IMAGE, 'image')}"
    records = _read_records(path, file, record, num_samples, image_field=which)
    file.seek(table_start)
    table = np.fromfile(file, ALLOCATION, num_entries)
    images = records[which]
    sizes = _sizes(path, images, table, start=start, end=table_start, page_size=page_size)
    label_field = _pick(names, type_ids, TYPE_INT, "label")
    labels = None if label_field is None else np.ascontiguousarray(records[f"f{label_field}"])
    return BetonIndex(images, sizes, labels, page_size)


def _read_head(path: Path, file: BinaryIO) -> tuple[np.void, np.ndarray]:
    header = np.fromfile(file, HEADER, 1)
    if len(header) == 0:
        raise DataError(f"{path} is no .beton file: it is shorter than the header of one.")
    page_size = int(header[0]["page_size"])
    is_page_fine = page_size >= MIN_PAGE and page_size & (page_size - 1) == 0
    if int(header[0]["version"]) != VERSION or not is_page_fine:
        raise DataError(
            f"{path} is no .beton file of version {VERSION}, or was not written to its end."
        )
    num_fields = int(header[0]["num_fields"])
    fields = np.fromfile(file, FIELD, num_fields)
    if len(fields) != num_fields or int(header[0]["num_samples"]) == 0:
        raise DataError(f"{path} holds no samples, or is cut off; write it again.")
    return header[0], fields


def _read_records(
    path: Path, file: BinaryIO, record: np.dtype, num_samples: int, *, image_field: str
) -> np.ndarray:
    """Records of all samples, looked at piece by piece.

    The holes of a sparse file read as images without pixels: they end it before memory is full.
    """
    pieces: list[np.ndarray] = []
    for first in range(0, num_samples, _RECORDS_AT_ONCE):
        wanted = min(_RECORDS_AT_ONCE, num_samples - first)
        piece = np.fromfile(file, record, wanted)
        if len(piece) != wanted:
            raise DataError(f"{path} is cut off in its records; write it again.")
        images = piece[image_field]
        if np.any((images["mode"] != JPG) & (images["mode"] != RAW)):
            raise DataError(f"{path}: some images are neither JPEG nor raw; write it again.")
        if np.any((images["height"] == 0) | (images["width"] == 0)):
            raise DataError(f"{path}: some images have a side of 0 pixels; write it again.")
        pieces.append(piece)
    return np.concatenate(pieces)


def _pick(names: list[str], type_ids: list[int], type_id: int, name: str) -> int | None:
    """Number of the field of a type with a name, else of the first of that type."""
    of_type = [i for i, t in enumerate(type_ids) if t == type_id]
    named = [i for i in of_type if names[i] == name]
    found = named or of_type
    return found[0] if found else None


def _sizes(
    path: Path, images: np.ndarray, table: np.ndarray, *, start: int, end: int, page_size: int
) -> np.ndarray:
    """Bytes of each image, int64, (n,); every one lies in [start, end).

    All comparisons are of unsigned numbers, and none of sums: those could wrap around.
    """
    pointers, sizes = table["ptr"], table["size"]
    if np.any(pointers[1:] < pointers[:-1]):
        order = np.argsort(pointers, kind="stable")
        pointers, sizes = pointers[order], sizes[order]
    wanted = np.ascontiguousarray(images["data_ptr"])
    place = np.minimum(np.searchsorted(pointers, wanted), max(len(pointers) - 1, 0))
    if len(pointers) == 0 or not np.array_equal(pointers[place], wanted):
        raise DataError(f"{path}: some images have no entry in its table; write it again.")
    found = sizes[place]
    first, last = np.uint64(start), np.uint64(end)
    if np.any((wanted < first) | (wanted > last)) or np.any(found > last - wanted):
        raise DataError(f"{path}: some images lie outside the file; write it again.")
    if np.any(found > np.uint64(page_size)) or not np.all(found):
        raise DataError(f"{path}: some images are empty or larger than a page; write it again.")
    raw = images["mode"] == RAW
    expected = images["height"].astype(np.uint64) * images["width"] * np.uint64(3)
    if np.any(found[raw] != expected[raw]):
        raise DataError(f"{path}: some raw images have a size other than H * W * 3.")
    return found.astype(np.int64)
