"""A table with a column of paths, maybe of labels and splits: CSV, parquet or a data frame."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssl_vision.data.images.files import FilesSource, as_path, check_files
from ssl_vision.data.images.folder import EXTENSIONS
from ssl_vision.data.images.labels import Classes, classes_of
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.data.source import Split
from ssl_vision.data.splits import TRAIN_NAMES, VAL_NAMES, NotSplitError, NoValSplitError
from ssl_vision.errors import DataError
from ssl_vision.files import read_text

SUFFIXES = (".csv", ".tsv", ".parquet")
Columns = Mapping[str, Sequence[Any]]

PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image",
              "image_path", "img", "img_path", "image_file")  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "class_name", "classname", "target", "category",
               "fine_label", "y")  # fmt: skip
SPLIT_NAMES = ("split", "subset", "partition", "set")
_MAX_TABLE_BYTES = 4 << 30
_LOOK_MISSING = ("nan", "na", "n/a", "none", "null", "nil", "-", "?")  # as names of classes
_MAX_LOOKED_AT = 100  # values of a column


class _Chosen(NamedTuple):
    """Names of the columns that are read; those after the first may be absent."""

    path: str
    label: str | None
    split: str | None


def read_table(path: Path) -> dict[str, list[Any]]:
    """Columns of a .csv, .tsv or .parquet file, by name.

    Raises:
        DataError: It cannot be read, has no header, or rows of several lengths.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    text = read_text(path, error=DataError, max_bytes=_MAX_TABLE_BYTES)
    first = text.split("\n", 1)[0]
    mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=mark, strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error
    if not rows:
        raise DataError(f"{path} is empty; its first line names the columns, as path,label.")
    header = [name.strip() for name in rows[0]]
    if any(_is_image(name) for name in header):
        raise DataError(
            f"{path}: its first line has an image ({first[:60]!r}) and no names of columns; put a "
            "line path,label above it."
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: two columns are named {twice!r}; rename one.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number} has {len(row)} values, the first line names {len(header)} "
                "columns; put values that hold commas into quotes."
            )
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{path}: parquet files are read by the package pyarrow: pip install pyarrow, or "
            "save the table as .csv."
        ) from error
    try:
        return dict(parquet.read_table(path).to_pydict())
    except Exception as error:  # of pyarrow, which has many
        raise DataError(f"{path} cannot be read as parquet: {str(error)[:200]}.") from error


def is_frame(data: object) -> bool:
    """Whether it is a data frame, of pandas or polars."""
    return hasattr(data, "columns") and hasattr(data, "dtypes") and hasattr(data, "__getitem__")


def columns_of(frame: Any) -> dict[str, list[Any]]:
    """Columns of a data frame, by name."""
    return {str(name): list(frame[name]) for name in frame.columns}


def table_source(
    columns: Columns,
    *,
    split: Split,
    what: str,
    root: str | Path = "",
    decode: DecodeConfig,
) -> FilesSource:
    """The image files a table names, with their labels; which columns were taken is a note.

    Args:
        columns: Name -> values.
        split: Which rows, where a column says it.
        what: What messages call the table.
        root: Folder that relative paths start from.
        decode: What files mean where their format leaves it open.

    Raises:
        DataError: No column holds paths, or files are not there; NotSplitError or NoValSplitError
            if `val` is asked of a table without it.
    """
    chosen = _choose(columns, what=what)
    wanted, note = _rows(columns, chosen, split, what)
    paths = [as_path(columns[chosen.path][row]) for row in wanted]
    missing = [row for row, path in zip(wanted, paths, strict=True) if not path]
    if missing:
        raise DataError(
            f"{what}: {len(missing)} rows have no path in column {chosen.path!r}, first row "
            f"{missing[0]}; remove them."
        )
    values = [] if chosen.label is None else [columns[chosen.label][row] for row in wanted]
    classes = classes_of(values)
    source = FilesSource(
        [path for path in paths if path],
        root=root,
        labels=classes.labels,
        class_names=classes.names,
        decode=decode,
    )
    source.notes = (f"{what}: {_said(columns, chosen, len(classes.names))}{note}",)
    source.notes += tuple(f"{what}: {line}" for line in _doubts(values, classes))
    if classes.problem:
        source.no_labels_because = f"{what}: column {chosen.label!r} has {classes.problem}."
    check_files(source, what=what)
    return source


def _doubts(values: Sequence[object], classes: Classes) -> list[str]:
    """What is odd about the classes of the rows, in lines."""
    lines = []
    without = 0 if classes.labels is None else int((classes.labels < 0).sum())
    if without:
        lines.append(f"{without} of {len(values)} rows have no class and take no part in scores.")
    lines += [
        f"{name!r} is taken for the name of a class; leave the cell empty where there is none."
        for name in classes.names
        if name.lower() in _LOOK_MISSING
    ]
    return lines


def _choose(columns: Columns, *, what: str) -> _Chosen:
    names = {name.strip().lower(): name for name in reversed(list(columns))}
    path = next(
        (names[n] for n in PATH_NAMES if n in names and _are_paths(columns[names[n]])), None
    )
    path = path or next((name for name in columns if _are_images(columns[name])), None)
    if path is None:
        raise DataError(
            f"{what} has the columns {', '.join(columns) or '(none)'}, and none that holds "
            f"paths of image files; name it {PATH_NAMES[0]!r}."
        )
    others = [n for n in names if names[n] != path]
    label = next((names[n] for n in LABEL_NAMES if n in others), None)
    split = next((names[n] for n in SPLIT_NAMES if n in others), None)
    return _Chosen(path, label, split)


def _are_paths(values: Sequence[Any]) -> bool:
    found = [v for v in values[:_MAX_LOOKED_AT] if v is not None and v == v]  # nor NaN
    return bool(found) and all(as_path(value) is not None for value in found)


def _are_images(values: Sequence[Any]) -> bool:
    return _are_paths(values) and all(_is_image(str(v)) for v in values[:_MAX_LOOKED_AT])


def _is_image(text: str) -> bool:
    return Path(text).suffix.lower() in EXTENSIONS


def _rows(columns: Columns, chosen: _Chosen, split: Split, what: str) -> tuple[list[int], str]:
    """Rows of a split, and what a note says of the others."""
    count = len(columns[chosen.path])
    if chosen.split is None:
        if split != "train":
            raise NotSplitError(f"{what} has no column of splits; give the test images apart.")
        return list(range(count)), ""
    stated = [str(value).strip().lower() for value in columns[chosen.split]]
    names = TRAIN_NAMES if split == "train" else VAL_NAMES
    found = next((name for name in names if name in stated), None)
    if found is None:
        given = ", ".join(sorted(set(stated))[:5])
        if split != "train":
            raise NoValSplitError(f"{what}: no row of column {chosen.split!r} is {names[0]}.")
        raise DataError(
            f"{what}: no row of column {chosen.split!r} is {names[0]} (there are: {given}); write "
            f"{TRAIN_NAMES[0]} and {VAL_NAMES[0]}."
        )
    rows = [row for row, value in enumerate(stated) if value == found]
    val = next((name for name in VAL_NAMES if name in stated), None)
    unread = sorted(set(stated) - {found, val}) if split == "train" else []
    return rows, f"; rows of {', '.join(unread[:3])} not read" if unread else ""


def _said(columns: Columns, chosen: _Chosen, num_classes: int) -> str:
    said = [f"paths are column {chosen.path!r}"]
    if chosen.label is not None and num_classes:
        said.append(f"labels column {chosen.label!r} ({num_classes} classes)")
    if chosen.split is not None:
        said.append(f"splits column {chosen.split!r}")
    unread = [name for name in columns if name not in chosen]
    rest = f"; {', '.join(unread[:4])}{', ...' if len(unread) > 4 else ''} not read"
    return ", ".join(said) + (rest if unread else "")
