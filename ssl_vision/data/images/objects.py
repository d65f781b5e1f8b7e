"""Objects of a program as data sets of images: which kind one is, and the source behind it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ssl_vision.data.images.arrays import array_source
from ssl_vision.data.images.files import FilesSource, as_path, check_files
from ssl_vision.data.images.hub import HubSource, is_hub_dataset
from ssl_vision.data.images.labels import Classes, classes_of
from ssl_vision.data.images.layout import is_array
from ssl_vision.data.images.map_style import MapStyleSource
from ssl_vision.data.images.table import columns_of, is_frame, table_source
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.source import Source, Split
from ssl_vision.data.splits import NotSplitError
from ssl_vision.errors import DataError

_KINDS = (
    "a path or name, a list of image files, a uint8 array or tensor of images, (images, labels), a "
    "data frame with a column of paths, a map-style torch Dataset, or a Hugging Face Dataset"
)


def source_of(data: Any, *, split: Split = "train", decode: DecodeConfig = DEFAULT) -> Source:
    """The data set that an object is.

    Args:
        data: A list of image files; an array or tensor; either with labels, as a pair; a data frame
            (or dictionary of columns); a map-style `Dataset`; a `datasets.Dataset`; a `Source`.
        split: Only data frames with a column of splits hold a `val` one.
        decode: What images mean where their format leaves it open.

    Raises:
        DataError: It is none of these, or empty; NotSplitError if it has no `val` split.
    """
    for kind in _TABLE:
        if not isinstance(data, type) and kind.fits(data):
            if split != "train" and not kind.is_split:
                raise NotSplitError(f"{type(data).__name__} holds one split.")
            return kind.open(data, split, decode)
    raise DataError(f"data of type {type(data).__name__} is none of those that are read: {_KINDS}.")


def _refuse(data: Any, split: Split, decode: DecodeConfig) -> Source:
    raise DataError(
        f"{type(data).__name__} has no numbered samples, which keyed views and exact resuming "
        "need; give a list (of paths or images), a map-style Dataset (__len__ and __getitem__), "
        "load it without streaming, or write its images to a folder and give its path."
    )


def _is_stream(data: Any) -> bool:
    """An IterableDataset, of torch or Hugging Face, or a generator."""
    names = {base.__name__ for base in type(data).__mro__}
    has_no_rows = not (hasattr(data, "__len__") and hasattr(data, "__getitem__"))
    return "IterableDataset" in names or (
        has_no_rows and (isinstance(data, Iterator) or hasattr(data, "__iter__"))
        and not hasattr(data, "dataset")
    )  # fmt: skip


def _of_loader(data: Any, split: Split, decode: DecodeConfig) -> Source:
    raise DataError(
        f"{type(data).__name__} makes batches of its own; give the data set in it, LOADER.dataset."
    )


def _is_loader(data: Any) -> bool:
    return hasattr(data, "dataset") and hasattr(data, "batch_size") and hasattr(data, "__iter__")


def is_list_of_files(data: Any) -> bool:
    """Whether it is a list of paths, maybe an empty one."""
    is_list = isinstance(data, list | tuple)
    return is_list and (len(data) == 0 or as_path(data[0]) is not None)


def _of_files(
    data: Any, split: Split, decode: DecodeConfig, classes: Classes | None = None
) -> Source:
    paths = [as_path(each) for each in data]
    if None in paths:
        row = paths.index(None)
        raise DataError(f"entry {row} of the list of files is {data[row]!r}, not a path.")
    labels, names = (None, []) if classes is None else classes[:2]
    source = FilesSource([p for p in paths if p is not None], labels=labels, class_names=names,
                         decode=decode)  # fmt: skip
    return check_files(source, what="the list of files")


def _is_pair(data: Any) -> bool:
    """(images, labels): two that are as long, of which the second are no images."""
    if not (isinstance(data, tuple) and len(data) == 2):
        return False
    if not all(hasattr(each, "__len__") and not isinstance(each, str) for each in data):
        return False
    return getattr(data[1], "ndim", 1) == 1 and len(data[0]) > 0


def _of_pair(data: Any, split: Split, decode: DecodeConfig) -> Source:
    samples, labels = data
    if len(samples) != len(labels):
        raise DataError(f"(images, labels) has {len(samples)} images and {len(labels)} labels.")
    classes = classes_of(labels.tolist() if hasattr(labels, "tolist") else labels)
    if classes.problem:
        raise DataError(f"(images, labels): {classes.problem}.")
    if is_array(samples):
        return array_source(samples, classes, decode=decode)
    if is_list_of_files(samples):
        return _of_files(samples, split, decode, classes)
    return MapStyleSource(samples, classes=classes, decode=decode)


def _of_frame(data: Any, split: Split, decode: DecodeConfig) -> Source:
    columns = data if isinstance(data, Mapping) else columns_of(data)
    return table_source(columns, split=split, what=type(data).__name__, decode=decode)


def _is_columns(data: Any) -> bool:
    return isinstance(data, Mapping) and all(
        isinstance(each, list | tuple) for each in data.values()
    )


class _Kind(NamedTuple):
    """A kind of object.

    Attributes:
        fits: Whether an object is of it.
        open: Its source.
        is_split: Whether it may hold more splits than one.
    """

    fits: Callable[[Any], bool]
    open: Callable[[Any, Split, DecodeConfig], Source]
    is_split: bool = False


_TABLE = (  # the first that fits
    _Kind(lambda data: isinstance(data, Source), lambda data, split, decode: data),
    _Kind(is_hub_dataset, lambda data, split, decode: HubSource(data, decode=decode)),
    _Kind(lambda data: is_frame(data) or _is_columns(data), _of_frame, is_split=True),
    _Kind(  # a column of paths
        lambda data: is_array(data) and data.ndim == 1 and hasattr(data, "tolist"),
        lambda data, split, decode: source_of(data.tolist(), split=split, decode=decode),
    ),
    _Kind(is_array, lambda data, split, decode: array_source(data, decode=decode)),
    _Kind(is_list_of_files, _of_files),
    _Kind(_is_pair, _of_pair),
    _Kind(_is_stream, _refuse, is_split=True),
    _Kind(_is_loader, _of_loader, is_split=True),
    _Kind(
        lambda data: (
            hasattr(data, "__len__")
            and hasattr(data, "__getitem__")
            and not isinstance(data, Mapping | bytes)
        ),
        lambda data, split, decode: MapStyleSource(data, decode=decode),
    ),
)
