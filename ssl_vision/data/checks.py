"""What is wrong with a pair of training and test samples: classes that do not meet, leaks."""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

from ssl_vision.data.source import Source
from ssl_vision.errors import DataError

_MAX_BANK, _MAX_VAL = 50_000, 10_000  # samples whose bytes are compared; evenly spread, of more
_PIECE_BYTES = 4096  # the last ones are compared first: headers at the front are often alike
_MAX_PIECES = 256  # evenly spread, of samples above 1 MiB


def pair_warnings(bank: Source, val: Source | None) -> list[str]:
    """What makes scores of test samples against a bank doubtful, a line each with the way out."""
    if val is None:
        return [bank.no_labels_because] if bank.no_labels_because else []
    return [*class_warnings(bank, val), *leak_warnings(bank, val)]


# Classes ---------------------------------------------------------------------------------


def class_warnings(bank: Source, val: Source) -> list[str]:
    """Labels on one side only, classes without training samples, and test samples of one class."""
    if bank.labels is None or val.labels is None:
        return _half_labelled(bank, val)
    known, wanted = _present(bank), _present(val)
    missing = {name: count for name, count in wanted.items() if name not in known}
    if len(missing) == len(wanted):
        return [
            f"no class of the {len(val)} test samples ({_listed(wanted)}) is among the training "
            f"classes ({_listed(known)}): what is scored says nothing; give the folders the same "
            "names, or train on samples of these classes."
        ]
    found = []
    if missing:
        found.append(
            f"{sum(missing.values())} of {len(val)} test samples are of {len(missing)} classes "
            f"without training samples ({_listed(missing)}): a right answer there is luck; add "
            "training samples, or leave these out."
        )
    if len(wanted) == 1 and len(known) > 1:
        found.append(
            f"the test samples have one class, {_listed(wanted)}, of {len(known)}: the score says "
            "nothing of the others; add test samples of them."
        )
    return found


def _half_labelled(bank: Source, val: Source) -> list[str]:
    reasons = [s.no_labels_because for s in (bank, val) if s.labels is None and s.no_labels_because]
    if (bank.labels is None) == (val.labels is None):
        return list(dict.fromkeys(reasons))
    without, side, other = (bank, "training", "test")
    if val.labels is None:
        without, side, other = (val, "test", "training")
    where = f" (all in one folder, {without.only_class}/)" if without.only_class else ""
    reason = reasons[0] if reasons else "put them into one folder per class, of the same names."
    return [f"the {other} samples have labels, the {side} samples have none{where}: {reason}"]


def _present(source: Source) -> dict[str, int]:
    """Samples of each class that has any, by name."""
    assert source.labels is not None
    numbers, counts = np.unique(source.labels[source.labels >= 0], return_counts=True)
    pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
    return {source.class_names[number]: count for number, count in pairs}


def _listed(names: Sequence[str] | dict[str, int], most: int = 3) -> str:
    shown = list(names)[:most]
    return ", ".join(shown) + (", ..." if len(names) > most else "")


# Leaks -----------------------------------------------------------------------------------


def leak_warnings(bank: Source, val: Source) -> list[str]:
    """Test samples that are training samples too: the same files, or the same bytes."""
    bank_rows, val_rows = np.arange(len(bank)), np.arange(len(val))
    shared = _shared_by_key(bank, val)
    if shared is None:
        bank_rows, val_rows = _spread(len(bank), _MAX_BANK), _spread(len(val), _MAX_VAL)
        shared = shared_rows(bank, bank_rows, val, val_rows)
    if not shared:
        return []
    looked = f" of the {len(val_rows)} looked at" if len(val_rows) < len(val) else ""
    looked += f" (among {len(bank_rows)} training samples)" if len(bank_rows) < len(bank) else ""
    return [
        f"{len(shared)} of {len(val)} test samples{looked} are training samples too, the same file "
        f"or the same bytes, first {val.name(shared[0])}: scores are too high; remove them from "
        "one side."
    ]


def _shared_by_key(bank: Source, val: Source) -> list[int] | None:
    """As `shared_rows` of all, where fingerprints have read all files anyway; else None."""
    known, asked = bank.content_keys(), val.content_keys()
    if known is None or asked is None:
        return None
    rows: list[int] = np.flatnonzero(np.isin(asked, known) & (asked != b"")).tolist()
    return rows


def shared_rows(
    bank: Source, bank_rows: np.ndarray, val: Source, val_rows: np.ndarray
) -> list[int]:
    """Those of the test rows whose bytes are those of a training row, rising.

    Sizes first, then the last bytes, then all: most samples are told apart without being read.
    """
    sides = [(bank, bank_rows.tolist()), (val, val_rows.tolist())]
    for key in _KEYS:
        keys = [{row: key(source, row) for row in rows} for source, rows in sides]
        both = ({*keys[0].values()} & {*keys[1].values()}) - {None}
        sides = [
            (source, [row for row in rows if found[row] in both])
            for (source, rows), found in zip(sides, keys, strict=True)
        ]
    return sides[1][1]


def _size(source: Source, row: int) -> Hashable:
    return source.num_bytes(row) or None  # empty files are alike, and no sample


def _tail(source: Source, row: int) -> Hashable:
    return _digest(source, row, [max(0, (source.num_bytes(row) or 0) - _PIECE_BYTES)])


def _whole(source: Source, row: int) -> Hashable:
    size = source.num_bytes(row) or 0
    num = min(_MAX_PIECES, -(-size // _PIECE_BYTES))
    starts = np.linspace(0, max(0, size - _PIECE_BYTES), num).astype(np.int64)
    return _digest(source, row, starts.tolist())


def _digest(source: Source, row: int, starts: Sequence[int]) -> Hashable:
    """Digest of the size and some pieces; None where the sample cannot be read."""
    state = hashlib.sha256(str(source.num_bytes(row)).encode())
    try:
        for start in starts:
            state.update(source.stored(row, start, start + _PIECE_BYTES))
    except DataError:
        return None
    return state.digest()


_KEYS = (_size, _tail, _whole)


def _spread(num: int, most: int) -> np.ndarray:
    """At most so many rows, evenly over all: folders are sorted by class."""
    return np.linspace(0, num - 1, min(num, most)).astype(np.int64)
