"""One door to all data: a path, a name or an object -> its source.

Whatever takes `data` (training, evaluation, embedding, packing) takes all of them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ssl_vision.data.config import DataConfig
from ssl_vision.data.modalities import modality_of
from ssl_vision.data.source import Source, Split
from ssl_vision.data.splits import TRAIN_NAMES, VAL_NAMES, NotSplitError
from ssl_vision.errors import ConfigError, DataError

# A path or name; or an object: a list of files, an array or tensor, (images, labels), a data frame,
# a torch or Hugging Face data set; or a dictionary of the two splits. No type says all of these.
DataLike: TypeAlias = Any

_NOT_GIVEN = "???"  # in a recipe, what whoever uses it has to say
SCHEME = "object:"  # begins what settings say of an object


def find_source(data: DataLike, *, split: Split, config: DataConfig) -> Source:
    """The source of a split.

    Args:
        data: Path, name or object; a dictionary `{"train": ..., "val": ...}` of either.
        split: Which part.
        config: Settings of the data; their class says of which modality.

    Raises:
        ConfigError: A recipe's path was left open.
        DataError: Nothing is there, or it is of no kind that is read; NotSplitError,
            NoValSplitError as in `data.splits`.
    """
    if isinstance(data, str | os.PathLike):
        path = os.fspath(data)
        if path == _NOT_GIVEN:
            raise ConfigError(
                "data.path is not given: the recipe is for data of your own; add data.path=DIR, or "
                "a name that has a data set."
            )
        if path.startswith(SCHEME):
            raise _gone(path)
        return modality_of(config).open(path, split=split, config=config)
    if is_splits(data):
        return _of_splits(data, split, config)
    return modality_of(config).open_object(data, split=split, config=config)


def _gone(path: str) -> DataError:
    return DataError(
        f"data.path={path} is an object of the Python program that began the run; resume there, by "
        "ssl_vision.train(..., data=OBJECT), or give data.path=FOLDER of the same images and "
        "trainer.on_data_change=allow."
    )


def is_settings(data: object) -> bool:
    """Whether it is settings of `data` (`{"path": "photos", "global_batch_size": 64}`)."""
    return isinstance(data, Mapping) and isinstance(data.get("path"), str | os.PathLike)


def settings_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Such settings, their path as a text."""
    return {**data, "path": os.fspath(data["path"])}


def is_splits(data: object) -> bool:
    """Whether it is a dictionary of splits, such as a `datasets.DatasetDict`."""
    known = {*TRAIN_NAMES, *VAL_NAMES}
    return isinstance(data, Mapping) and any(str(name).lower() in known for name in data)


def _of_splits(data: Mapping[str, Any], split: Split, config: DataConfig) -> Source:
    by_name = {str(name).lower(): name for name in data}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    val = next((by_name[name] for name in VAL_NAMES if name in by_name), None)
    if train is None:
        raise DataError(f"data has {', '.join(map(str, data))} and no {TRAIN_NAMES[0]!r}.")
    chosen = train if split == "train" else val
    if chosen is None:
        raise NotSplitError(f"data has no {VAL_NAMES[0]!r} beside {train!r}.")
    source = find_source(data[chosen], split="train", config=config)
    unread = [str(name) for name in data if name not in (train, val)]
    if unread and split == "train":
        shown = " and ".join(str(name) for name in (train, val) if name is not None)
        source.notes = (*source.notes, f"data: {', '.join(unread)} not read; splits are {shown}.")
    return source


@dataclass(frozen=True)
class Given:
    """Data as someone handed them over.

    Attributes:
        path: What settings say: the path or name, or `object:...`.
        data: What is opened.
    """

    path: str
    data: DataLike


def given(data: DataLike) -> Given:
    """Data with what settings say of them."""
    if isinstance(data, str | os.PathLike):
        return Given(os.fspath(data), os.fspath(data))
    return Given(f"{SCHEME}{describe(data)}", data)


def describe(data: DataLike) -> str:
    """An object in a word or two, for settings and reports: "ndarray[200,32,32,3]"."""
    if is_splits(data):
        return "{" + ",".join(f"{name}:{describe(each)}" for name, each in data.items()) + "}"
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    name, shape = type(data).__name__, getattr(data, "shape", None)
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str | os.PathLike):
        return f"{describe(data[0])}+labels"
    if shape is not None:
        return f"{name}[{','.join(map(str, shape))}]"
    return f"{name}[{len(data)}]" if hasattr(data, "__len__") else name
