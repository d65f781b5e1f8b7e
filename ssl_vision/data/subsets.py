"""Parts of a training set by file list (1 % and 10 % protocols) or share, and equal classes."""

from pathlib import Path

import numpy as np
import torch

from ssl_vision.data.sources import Source
from ssl_vision.errors import DataError
from ssl_vision.randomness import derive_key, keyed_uniform


def rows_of_list(source: Source, path: Path) -> np.ndarray:
    """Samples of a source that a text file names, in the order of the source, int64, (n,).

    A line is a sample's path, its end, or its bare file name where that is unique; SimCLR's lists
    `imagenet_subsets/1percent.txt` and `10percent.txt` are of the last kind. Empty lines and lines
    that begin with # are skipped.

    Raises:
        DataError: The file cannot be read, names nothing, names a sample twice, or names one that
            the source lacks or has twice.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.train_list={path} cannot be read: {error}") from error
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not wanted:
        raise DataError(f"data.train_list={path} names no image.")
    rows_by_end = _rows_by_file_name(source)
    rows, missing = [], []
    for name in wanted:
        candidates = rows_by_end.get(name.rpartition("/")[2], [])
        found = [row for row in candidates if _ends_with(source.name(row), name)]
        if len(found) > 1:
            raise DataError(
                f"data.train_list={path}: {name} names several images, {source.name(found[0])} and "
                f"{source.name(found[1])}; write more of their paths."
            )
        rows.extend(found)
        if not found:
            missing.append(name)
    if missing:
        raise DataError(
            f"data.train_list={path}: {len(missing)} of {len(wanted)} images are not in the data, "
            f"{missing[0]} first; is it the list of another data set?"
        )
    unique = np.unique(np.array(rows, dtype=np.int64))
    if len(unique) != len(rows):
        raise DataError(f"data.train_list={path} names {len(rows) - len(unique)} images twice.")
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


def with_classes_of(train: Source, val: Source, *, must_fit: bool) -> Source:
    """The validation source, its labels numbered by the training classes where they hold all.

    Folders number their classes alphabetically; a class without validation images would shift all
    behind it.

    Raises:
        DataError: `must_fit`, and the validation set has a class the training set lacks.
    """
    if train.labels is None or val.labels is None or val.class_names == train.class_names:
        return val
    unknown = sorted(set(val.class_names) - set(train.class_names))
    if unknown and not must_fit:
        return val
    if unknown:
        raise DataError(
            f"the validation data has classes the training data lacks ({', '.join(unknown[:3])}); "
            "class folders must have the same names in both."
        )
    number = [train.class_names.index(name) for name in val.class_names]
    val.labels = np.array(number, np.int64)[val.labels]
    val.class_names = train.class_names
    return val


def _rows_by_file_name(source: Source) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row in range(len(source)):
        rows.setdefault(source.name(row).rpartition("/")[2], []).append(row)
    return rows


def _ends_with(path: str, end: str) -> bool:
    """Whether whole parts of a path are its end."""
    return path == end or path.endswith("/" + end.lstrip("/"))
