"""Parts of a training set by file list, by share or held out, and classes that meet by name."""

import os
from pathlib import Path

import numpy as np
import torch

from ssl_vision.data.source import Source, SubsetSource, class_name
from ssl_vision.errors import DataError
from ssl_vision.files import MAX_LOG_BYTES, plain_text
from ssl_vision.randomness import derive_key, keyed_uniform


def rows_of_list(source: Source, path: Path, *, key: str = "data.train_list") -> np.ndarray:
    """Samples of a source that a text file names, in the order of the source, int64, (n,).

    A line is a sample's path, its end, or its bare file name where that is unique, with its suffix
    (SimCLR's lists `imagenet_subsets/1percent.txt` and `10percent.txt`) or without (VOC's
    `ImageSets/Segmentation/train.txt`). Empty lines and lines that begin with # are skipped.

    Args:
        source: The samples.
        path: The file.
        key: The setting that named it.

    Raises:
        DataError: The file cannot be read, names nothing, names a sample twice, or names one that
            the source lacks or has twice.
    """
    try:
        lines = [line.strip() for line in plain_text(path, max_bytes=MAX_LOG_BYTES).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key}={path} cannot be read: {error}") from error
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not wanted:
        raise DataError(f"{key}={path} names no image.")
    rows_by_end = _rows_by_file_name(source)
    rows, missing = [], []
    for name in wanted:
        candidates = rows_by_end.get(name.rpartition("/")[2], [])
        found = [row for row in candidates if _is_named(source.name(row), name)]
        if len(found) > 1:
            raise DataError(
                f"{key}={path}: {name} names several images, {source.name(found[0])} and "
                f"{source.name(found[1])}; write more of their paths."
            )
        rows.extend(found)
        if not found:
            missing.append(name)
    if missing:
        raise DataError(
            f"{key}={path}: {len(missing)} of {len(wanted)} images are not in the data, "
            f"{missing[0]} first; is it the list of another data set?"
        )
    unique = np.unique(np.array(rows, dtype=np.int64))
    if len(unique) != len(rows):
        raise DataError(f"{key}={path} names {len(rows) - len(unique)} images twice.")
    return unique


def fraction_rows(num_samples: int, labels: np.ndarray | None, *, fraction: float) -> np.ndarray:
    """A share of each class, at least one sample of it, in the order of the data, int64, (n,).

    The choice depends on the sample numbers alone, and a smaller share is part of a larger one.

    Args:
        num_samples: Samples of the whole set.
        labels: Class of each, int64, (num_samples,); None takes a share of all.
        fraction: Above 0, up to 1.
    """
    ids = torch.arange(num_samples)
    order = keyed_uniform(derive_key("train fraction"), ids, 1)[:, 0].argsort(stable=True).numpy()
    groups = np.zeros(num_samples, np.int64) if labels is None else labels
    rows = []
    for group in np.unique(groups):
        members = order[groups[order] == group]
        rows.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(rows))


def held_out_rows(
    labels: np.ndarray, *, share: float, key: int, may_hold: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(Rows to learn from, rows to score), each rising: a share of each class is scored.

    At least one sample of each class stays to learn from, and one is scored where there are two.

    Args:
        labels: Classes, int64, (n,).
        share: Of each class, from 0 to 1.
        key: Decides which rows; the same key gives the same rows.
        may_hold: Whether a row may be scored, bool, (n,). In place of those that may not come the
            next of their class, as far as there are.
    """
    score = np.random.Generator(np.random.Philox(key)).random(len(labels))
    is_held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        num = min(max(1, round(share * len(rows))), len(rows) - 1)
        order = rows[np.argsort(score[rows], kind="stable")]
        is_held[order[:num] if may_hold is None else order[may_hold[order]][:num]] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def are_among(source: Source, whole: Source, rows: np.ndarray) -> np.ndarray:
    """Whether each sample of a part of `whole` is one of its `rows`, bool, (len(source),)."""
    is_named = np.zeros(len(whole), bool)
    is_named[rows] = True
    own = np.arange(len(source))
    while source is not whole:
        assert isinstance(source, SubsetSource)
        own, source = source.indices[own], source.source
    return is_named[own]


def with_classes_of(train: Source, val: Source, *, must_fit: bool) -> Source:
    """The test source, its labels numbered by the training classes, its further classes behind.

    Folders number their classes alphabetically; a class that one of the two lacks would shift all
    behind it. Names meet in composed Unicode (NFC). Test samples that all lie in one folder have
    its label, if it is the name of a training class.

    Raises:
        DataError: `must_fit`, and the test set has a class the training set lacks.
    """
    if train.labels is None:
        return val
    names = [class_name(name) for name in train.class_names]
    own = [class_name(name) for name in val.class_names]
    if val.labels is None:
        if val.only_class not in names:
            return val
        own, val.labels = [val.only_class], np.zeros(len(val), np.int64)
    unknown = sorted(set(own) - set(names))
    if unknown and must_fit:
        raise DataError(
            f"the validation data has classes the training data lacks ({', '.join(unknown[:3])}); "
            "class folders must have the same names in both."
        )
    number = {name: label for label, name in enumerate([*names, *unknown])}
    table = np.array([*(number[name] for name in own), -1], np.int64)  # a label of -1 stays
    val.labels, val.class_names = table[val.labels], [*train.class_names, *unknown]
    return val


def _rows_by_file_name(source: Source) -> dict[str, list[int]]:
    """Rows by the file name, and by the same without its suffix."""
    rows: dict[str, list[int]] = {}
    for row in range(len(source)):
        name = source.name(row).rpartition("/")[2]
        for each in {name, os.path.splitext(name)[0]}:
            rows.setdefault(each, []).append(row)
    return rows


def _is_named(path: str, end: str) -> bool:
    """Whether a line means a path, with or without its suffix."""
    return _ends_with(path, end) or _ends_with(os.path.splitext(path)[0], end)


def _ends_with(path: str, end: str) -> bool:
    """Whether whole parts of a path are its end."""
    return path == end or path.endswith("/" + end.lstrip("/"))
