"""A data set of the package `datasets` (Hugging Face), which need not be installed."""

from typing import Any

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.labels import Classes, classes_of
from ssl_vision.data.images.table import LABEL_NAMES
from ssl_vision.data.levels import DEFAULT, Decided, DecodeConfig
from ssl_vision.data.source import Source, digest
from ssl_vision.errors import DataError
from ssl_vision.files import MAX_IMAGE_BYTES, read_regular

_IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")


def is_hub_dataset(data: object) -> bool:
    """Whether it is a `datasets.Dataset` (not one that streams)."""
    return all(
        hasattr(data, name) for name in ("features", "cast_column", "_fingerprint", "__len__")
    )


class HubSource(Source):
    """The images of a `datasets.Dataset`, decoded here, as files of the same bytes are.

    Its own transforms and formats are not applied. Classes have the names of its `ClassLabel`.

    Args:
        data: Has a column of `datasets.Image`.
        decode: What files mean where their format leaves it open.

    Raises:
        DataError: No column of images, or no rows.
    """

    is_identified = True

    def __init__(self, data: Any, *, decode: DecodeConfig = DEFAULT) -> None:
        self.decode, self._fingerprint = decode, str(data._fingerprint)
        self.decided = Decided(decode=decode)
        plain = data.with_format(None)
        if len(plain) == 0:
            raise DataError("the Hugging Face data set has no rows.")
        kinds = {name: type(feature).__name__ for name, feature in plain.features.items()}
        self._column = _image_column(kinds)
        unread = plain.select_columns([self._column])
        feature = type(unread.features[self._column])(decode=False)
        self._rows = unread.cast_column(self._column, feature)
        label = _label_column(kinds)
        found = _classes(plain, label)
        self.labels, self.class_names = found.labels, found.names
        said = f"images are column {self._column!r}"
        if found.labels is not None:
            said += f", labels column {label!r} ({len(found.names)} classes)"
        self.notes = (f"Hugging Face data set of {len(self)} rows: {said}.",)
        if (getattr(data, "format", None) or {}).get("type") is not None:
            self.notes += ("its format and transform are not applied: views are drawn later.",)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """Path of the file where there is one, else column and row."""
        return self._cell(index).get("path") or f"{self._column}[{index}]"

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """The data set's own, with what files are taken to mean."""
        return digest(self._fingerprint, self.decode.key(), self._column)

    def encoded(self, index: int) -> bytes:
        """The file's bytes, from the table or from where it says they are.

        Raises:
            DataError: There are none, or they cannot be read.
        """
        cell = self._cell(index)
        data, path = cell.get("bytes"), cell.get("path")
        if data is not None:
            return bytes(data)
        if path is None:
            raise DataError("the row has no image")
        return read_regular(path, max_bytes=MAX_IMAGE_BYTES, error=DataError)

    def num_bytes(self, index: int) -> int | None:
        """Bytes of the file in the table."""
        data = self._cell(index).get("bytes")
        return super().num_bytes(index) if data is None else len(data)

    def stored(self, index: int, start: int, stop: int) -> bytes:
        """Some of the file's bytes."""
        return self.encoded(index)[start:stop]

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One decoded image."""
        return (decoder or Decoder()).decode(self.encoded(index), self.decode)

    def _cell(self, index: int) -> dict[str, Any]:
        try:
            return self._rows[int(index)][self._column] or {}
        except Exception as error:  # of arrow
            raise DataError(f"{type(error).__name__}: {error}") from error


def _image_column(kinds: dict[str, str]) -> str:
    images = [name for name, kind in kinds.items() if kind == "Image"]
    if not images:
        columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(
            f"the Hugging Face data set has no column of images, but {columns or 'none'}; "
            "data.cast_column(NAME, datasets.Image()) makes one of paths or bytes."
        )
    return next((name for name in _IMAGE_COLUMNS if name in images), images[0])


def _label_column(kinds: dict[str, str]) -> str | None:
    named = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    of_name = [name for name in LABEL_NAMES if name in kinds and kinds[name] == "Value"]
    return next((name for name in LABEL_NAMES if name in named), next(iter(named + of_name), None))


def _classes(plain: Any, label: str | None) -> Classes:
    if label is None:
        return Classes(None, [])
    feature = plain.features[label]
    return classes_of(list(plain[label]), getattr(feature, "names", None))
