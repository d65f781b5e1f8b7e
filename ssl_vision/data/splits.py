"""Which part of a folder holds a split, and what is said where that had to be guessed."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_vision.errors import DataError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test", "testing")  # the first that exists is scored
_KNOWN = frozenset([*TRAIN_NAMES, *VAL_NAMES])


class NoValSplitError(DataError):
    """There are training samples at a path, and no others that are told apart from them."""


class NotSplitError(NoValSplitError):
    """Training and test samples were not told apart at a path: it holds one whole."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The parts of a folder.

    Attributes:
        train: Folder or .beton file of the training samples; the whole folder if it is not split.
        val: Of the test samples; None where there are none of their own.
        notes: What was chosen or left out, a line each.
    """

    train: Path
    val: Path | None
    notes: tuple[str, ...] = ()


def find_splits(folder: Path, *, holds: Callable[[Path], bool], suffixes: Sequence[str]) -> Splits:
    """The splits of a folder, by the usual names in any case.

    A lone split beside other folders with samples is a class that happens to have that name.

    Args:
        folder: Where to look.
        holds: Whether a folder has samples anywhere in it.
        suffixes: Of files that hold a whole split, as ".beton".

    Raises:
        DataError: It has test samples and no training samples, or cannot be read.
    """
    train, val, others = named_parts(folder, suffixes)
    if not train and not val:
        return Splits(train=folder, val=None)
    beside = [path for path in others if holds(path)]
    is_class = beside and all(path.is_dir() for path in train + val)
    if is_class and len(train) + len(val) == 1:
        name, rest = (train + val)[0].name, _listed(beside)
        note = f"{folder}: {name} is read as a class beside {rest}; to read it alone give its path."
        return Splits(train=folder, val=None, notes=(note,))
    if not train:
        raise DataError(
            f"{folder} has {_listed(val)} and no training samples (a folder {TRAIN_NAMES[0]}); "
            f"give the path of the part to use, as {val[0]}."
        )
    chosen, unread = [*train[:1], *val[:1]], [*train[1:], *val[1:], *beside]
    note = f"{folder}: {_listed(unread)} not read; the splits are {_listed(chosen)}."
    return Splits(train=train[0], val=val[0] if val else None, notes=(note,) if unread else ())


def named_parts(
    folder: Path, suffixes: Sequence[str] = ()
) -> tuple[list[Path], list[Path], list[Path]]:
    """What is named as a training split, as a test split (best first), and all other folders."""
    found: dict[str, list[Path]] = {}
    entries = _entries(folder)
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name.lower())
        if stem not in _KNOWN:
            continue
        if suffix in suffixes or (not suffix and entry.is_dir()):
            found.setdefault(stem, []).append(folder / entry.name)
    if not found:
        return [], [], []
    for paths in found.values():  # `train` before `train.beton` before `Train`
        paths.sort(key=lambda path: (path.name != path.name.lower(), len(path.name), path.name))
    taken = {path.name for paths in found.values() for path in paths}
    others = (entry.name for entry in entries if entry.name not in taken and entry.is_dir())
    train = [path for name in TRAIN_NAMES for path in found.get(name, ())]
    val = [path for name in VAL_NAMES for path in found.get(name, ())]
    return train, val, [folder / name for name in sorted(others)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read as a folder: {error.strerror}.") from error


def _listed(paths: Iterable[Path], most: int = 3) -> str:
    names = [path.name for path in paths]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
