"""A map-style torch Dataset, or whatever else has a length and gives sample i by its number."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.arrays import image_of
from ssl_vision.data.images.labels import Classes, classes_of
from ssl_vision.data.images.layout import explained, is_array, layout_of
from ssl_vision.data.images.table import LABEL_NAMES
from ssl_vision.data.levels import DEFAULT, Decided, DecodeConfig
from ssl_vision.data.source import Source, digest
from ssl_vision.errors import DataError

_IMAGE_KEYS = ("image", "img", "images", "pixel_values", "picture", "jpg", "png", "x")
_MAX_READ_FOR_LABELS = 10_000  # samples; of more, labels must be an attribute
_MAX_HASHED = 64  # samples whose pixels stand for all in the fingerprint
_TRIED = 20  # samples of which one must be readable when the data set is opened

Place = int | str | None  # of a part in a sample: of a tuple, of a dict, the sample itself


class _Places(NamedTuple):
    image: Place
    label: Place  # None: there is none


class MapStyleSource(Source):
    """Samples by number: a PIL image, an array or a tensor, alone or in a tuple or dictionary.

    Calls come one at a time, as data sets with an open file would mix pictures up otherwise; one
    that may be called from several threads says so by an attribute `is_thread_safe = True`. Labels
    come from an attribute (`targets`, `labels`), else of up to 10,000 samples by reading them once.
    What the data are is said by an attribute `fingerprint`; by default it is of class, length,
    labels and the pixels of 64 samples.

    Args:
        data: Has `__len__` and `__getitem__`.
        classes: Of its samples, where they are known; by default its own.
        decode: What images mean where their format leaves it open.

    Raises:
        DataError: It is empty, or its samples hold no image.
    """

    def __init__(
        self, data: Any, *, classes: Classes | None = None, decode: DecodeConfig = DEFAULT
    ) -> None:
        self.data, self.decode, self.decided = data, decode, Decided(decode=decode)
        self._what = type(data).__name__
        self._lock = threading.RLock()
        self._is_thread_safe = bool(getattr(data, "is_thread_safe", False))
        if len(self) == 0:
            raise DataError(f"{self._what} has no samples.")
        row, first = self._readable()
        self._places = _places_of(first, self._what)
        notes = [self._said(first)]
        self._has_random_samples = not np.array_equal(self.sample(row).copy(), self.sample(row))
        if self._has_random_samples:
            notes.append(
                f"{self._what}: sample {row} is another at each reading, so runs cannot be resumed "
                "exactly; take random transforms out of it: views are drawn later, by keys."
            )
        found = classes or self._classes(notes)
        self.labels, self.class_names = found.labels, found.names
        if found.problem:
            self.no_labels_because = f"{self._what}: the label has {found.problem}."
        self.notes = tuple(notes)
        self.is_identified = _stated_fingerprint(data) is not None

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        """Class of the data set and row."""
        return f"{self._what}[{index}]"

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """What the data set states; else a digest of length, labels and some pixels."""
        labels = np.empty(0, np.int64) if self.labels is None else self.labels
        head = f"{self._what} {len(self)} {self.decode.key()}"
        stated = _stated_fingerprint(self.data)
        if stated is not None or self._has_random_samples:
            return digest(head, stated or "", labels)
        rows = np.linspace(0, len(self) - 1, min(len(self), _MAX_HASHED)).astype(int).tolist()
        return digest(head, labels, *(self._pixels_or_reason(row) for row in rows))

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One image."""
        value = _part(self._read(index), self._places.image)
        try:
            return image_of(value, self.decode, decoder or Decoder())
        except DataError:
            raise
        except Exception as error:  # a lazy PIL image meets its file only now
            raise DataError(f"{type(error).__name__}: {error}") from error

    def _read(self, index: int) -> Any:
        """A sample as the data set gives it, loaded: PIL images read their file late."""
        if self._is_thread_safe:
            return self._get(index)
        with self._lock:
            return self._get(index)

    def _get(self, index: int) -> Any:
        try:
            sample = self.data[index]
            for part in _parts(sample):
                if isinstance(part, Image.Image) and part.mode not in ("I", "F", "I;16"):
                    part.load()
            return sample
        except Exception as error:  # of a stranger's code
            raise DataError(f"{type(error).__name__}: {error}") from error

    def _pixels_or_reason(self, row: int) -> np.ndarray | str:
        try:
            pixels = self.sample(row)
            return np.concatenate(
                [np.array(pixels.shape, "<i4").view(np.uint8), pixels.reshape(-1)]
            )
        except DataError as error:
            return str(error)

    def _readable(self) -> tuple[int, Any]:
        """The first sample that can be read, of those tried, and its number."""
        reason = ""
        for row in range(min(_TRIED, len(self))):
            try:
                return row, self._read(row)
            except DataError as error:
                reason = reason or str(error)
        raise DataError(f"{self._what}: sample 0 cannot be read ({reason}), nor those behind it.")

    def _said(self, first: Any) -> str:
        value = _part(first, self._places.image)
        kind = type(value).__name__
        if is_array(value):
            layout = layout_of(tuple(value.shape), is_tensor=hasattr(value, "detach"), what=kind)
            kind = f"{kind} {explained(layout)}, {value.dtype}"
        parts = [f"images are {_place_in_words(self._places.image)}({kind})"]
        if self._places.label is not None:
            parts.append(f"labels {_place_in_words(self._places.label)}".rstrip())
        elif len(_parts(first)) > 1:
            parts.append("no part of them is a label")
        return f"{self._what} of {len(self)} samples: {', '.join(parts)}."

    # Labels ------------------------------------------------------------------------------

    def _classes(self, notes: list[str]) -> Classes:
        names = _class_names(self.data)
        for attribute in ("targets", "labels", "_labels"):
            values = _attribute(self.data, attribute)
            if values is not None and len(values) == len(self):
                notes.append(f"{self._what}: labels are its attribute {attribute!r}.")
                return classes_of(values, names)
        tensors: Sequence[Any] = getattr(self.data, "tensors", ())  # of a TensorDataset
        if len(tensors) == 2 and getattr(tensors[1], "ndim", 0) == 1:
            return classes_of(tensors[1].tolist(), names)
        if self._places.label is None:
            return Classes(None, [])
        if len(self) > _MAX_READ_FOR_LABELS:
            notes.append(
                f"{self._what}: labels are not read from {len(self)} samples; give it an attribute "
                "'targets' with all of them to have scores by kNN."
            )
            return Classes(None, [])
        notes.append(
            f"{self._what}: labels are read from all {len(self)} samples; an attribute 'targets' "
            "spares that."
        )
        return classes_of(self._labels_read(), names)

    def _labels_read(self) -> list[object]:
        found: list[object] = []
        for row in range(len(self)):
            try:
                found.append(_part(self._read(row), self._places.label))
            except DataError:
                found.append(None)  # its image cannot be read either
        return found


def _attribute(data: Any, name: str) -> Sequence[Any] | None:
    """A sequence with one entry per sample, through `Subset`s of torch."""
    indices, inner = getattr(data, "indices", None), getattr(data, "dataset", None)
    if indices is not None and inner is not None:
        values = _attribute(inner, name)
        return None if values is None else [values[int(i)] for i in indices]
    values = getattr(data, name, None)
    if values is None or isinstance(values, str) or not hasattr(values, "__len__"):
        return None
    return values.tolist() if hasattr(values, "tolist") else values


def _class_names(data: Any) -> Sequence[str] | None:
    """`classes` of torchvision's data sets, through `Subset`s."""
    names = getattr(data, "classes", None)
    inner = getattr(data, "dataset", None)
    if names is None and inner is not None:
        return _class_names(inner)
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return names if is_list else None


def _stated_fingerprint(data: Any) -> str | None:
    stated = getattr(data, "fingerprint", None)
    stated = stated() if callable(stated) else stated
    return None if stated is None else str(stated)


# Parts of a sample -------------------------------------------------------------------------


def _places_of(sample: Any, what: str) -> _Places:
    if _is_image(sample):
        return _Places(None, None)
    if isinstance(sample, Mapping):
        images = [key for key in (*_IMAGE_KEYS, *sample) if _is_image(sample.get(key))]
        labels = [key for key in LABEL_NAMES if _is_label(sample.get(key))]
        if images:
            return _Places(images[0], labels[0] if labels else None)
        holds = f"a dictionary of {', '.join(map(str, sample)) or 'nothing'}"
    elif isinstance(sample, tuple | list):
        places = [i for i, part in enumerate(sample) if _is_image(part)]
        if places:
            after = [i for i, part in enumerate(sample) if i != places[0] and _is_label(part)]
            return _Places(places[0], after[0] if after else None)
        holds = f"a tuple of {', '.join(type(part).__name__ for part in sample) or 'nothing'}"
    else:
        holds = type(sample).__name__
    raise DataError(
        f"{what}: a sample is {holds}, which has no image; __getitem__ returns a PIL image, an "
        "array or a tensor (H, W, C) or (C, H, W), alone, before its label, or under 'image'."
    )


def _is_image(value: object) -> bool:
    if isinstance(value, Image.Image):
        return True
    return is_array(value) and getattr(value, "ndim", 0) in (2, 3) and 0 not in value.shape  # type: ignore[attr-defined]


def _is_label(value: object) -> bool:
    if isinstance(value, int | str):
        return True
    return hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0


def _part(sample: Any, place: Place) -> Any:
    try:
        return sample if place is None else sample[place]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"the sample has no {_place_in_words(place).strip()}") from error


def _parts(sample: Any) -> Sequence[Any]:
    if isinstance(sample, Mapping):
        return list(sample.values())
    return sample if isinstance(sample, tuple | list) else [sample]


def _place_in_words(place: Place) -> str:
    if place is None:
        return "its samples "
    return f"entry {place!r} " if isinstance(place, str) else f"part {place} "
