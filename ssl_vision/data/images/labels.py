"""Classes as data sets of all kinds give them -> numbers and names."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_vision.data.source import class_name


class Classes(NamedTuple):
    """Classes of samples.

    Attributes:
        labels: Class of each sample, int64, (n,); -1 where none is given. None: not one has any.
        names: Name of each class.
        problem: Why there are no labels though something was given; else empty.
    """

    labels: np.ndarray | None
    names: list[str]
    problem: str = ""


def classes_of(values: Iterable[object], names: Sequence[str] | None = None) -> Classes:
    """Numbers and names of classes given as numbers or texts.

    Texts are numbered by name, as class folders are. Numbers stay what they are where they are
    0, 1, ... without a gap, or where names are given; else they are numbered by size, and named by
    themselves. Missing values (None, NaN, empty texts) and negative numbers are no class.

    Args:
        values: One per sample.
        names: Of the classes 0, 1, ...
    """
    plain = [_plain(value) for value in values]
    known = [value for value in plain if value is not None]
    if not known:
        return Classes(None, [])
    wrong = next((value for value in known if not isinstance(value, int | str)), None)
    if wrong is not None:
        return Classes(None, [], f"{str(wrong)[:60]!r} is neither a number nor the name of a class")
    if all(isinstance(value, int) for value in known):
        return _of_numbers(plain, names)
    texts = [None if value is None else class_name(str(value)) for value in plain]
    order = sorted({text for text in texts if text is not None})
    number: dict[str | None, int] = {text: i for i, text in enumerate(order)} | {None: -1}
    return Classes(np.array([number[text] for text in texts], np.int64), order)


def _of_numbers(plain: Sequence[Any], names: Sequence[str] | None) -> Classes:
    labels = np.array([-1 if value is None or value < 0 else value for value in plain], np.int64)
    found = np.unique(labels[labels >= 0])
    if len(found) == 0:
        return Classes(None, [])
    if names is not None and len(names) > found[-1]:
        return Classes(labels, [class_name(str(name)) for name in names])
    if found[-1] == len(found) - 1:
        return Classes(labels, [str(number) for number in found])
    ranks = np.searchsorted(found, labels)
    return Classes(np.where(labels < 0, -1, ranks), [str(number) for number in found])


def _plain(value: object) -> object:
    """A label as int or str; None where it is missing; anything else as it is."""
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        try:
            value = value.item()  # of NumPy or torch, if it is a single number
        except (ValueError, RuntimeError):
            return value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return (value.strip() or None) if isinstance(value, str) else value
