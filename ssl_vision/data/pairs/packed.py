"""Pairs in a .beton file: each image once, and beside it the table of which belong together.

Not two image fields in one record, as ffcv would have it: a frame of a video is in two pairs, a
photo in a dozen, and would lie there as often. So any reader of images takes the file, too.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssl_vision.data.images.beton import BetonSource
from ssl_vision.data.images.pack import (
    BadSample,
    PackConfig,
    PackReport,
    Progress,
    check_bad,
    check_target,
    on_disk,
    pack,
    thread_decoder,
    write_bad,
)
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.data.loader import auto_threads
from ssl_vision.data.pairs.source import PairSource
from ssl_vision.data.source import SubsetSource
from ssl_vision.errors import DataError
from ssl_vision.files import read_json, shown, write_atomically

_ROWS = 64  # pairs that a thread looks at before it reports
_MAX_BYTES = 1 << 30
_AGAIN = "pack it again: ssl-vision prepare SOURCE OUT.beton modality=pairs"


def table_path(path: Path) -> Path:
    """Sidecar of a .beton file that says which of its images are pairs."""
    return path.with_name(path.name + ".pairs")


def pack_pairs(
    source: PairSource, path: str | Path, config: PackConfig, *, progress: Progress | None = None
) -> PackReport:
    """Write pairs as a .beton file of their images with its sidecars, `<name>.pairs` among them.

    Every pair is read first: what a run could not use is in no file, but in `<name>.bad`, and so
    are images without partner.

    Args:
        source: The pairs.
        path: Target.
        config: Settings; shares and numbers of bad ones are of pairs.
        progress: Is told a stage ("check", "pack", "verify"), done and total.

    Raises:
        DataError: Too many pairs are bad, the target exists, or writing fails.
    """
    target = check_target(path, config)
    report = progress or (lambda stage, done, total: None)
    faults = dict(_faults(source, config, report))
    bad = [BadSample(*each) for each in source.left_out]
    bad += [BadSample(source.name(row), reason) for row, reason in faults.items()]
    with on_disk(target):
        check_bad(target, bad, len(source) + len(source.left_out), config)
    pairs = np.delete(source.pairs, list(faults), axis=0)
    rows, places = np.unique(pairs, return_inverse=True)
    strict = replace(config, max_bad_fraction=0.0)  # each has been read: bad is changed meanwhile
    packed = pack(SubsetSource(source.images, rows), target, strict, progress=report)
    table = {
        "fingerprint": BetonSource(target).former_fingerprint(),
        "pairs": places.reshape(-1, 2).tolist(),
    }
    with on_disk(target):
        write_atomically(table_path(target), json.dumps(table) + "\n")
        if bad:
            write_bad(target, bad)
    return packed._replace(bad=bad, num_pairs=len(pairs))


def _faults(source: PairSource, config: PackConfig, report: Progress) -> Iterator[tuple[int, str]]:
    """Rows of pairs that a run could not use, with the reason, in order."""
    total = len(source)
    pieces = [range(i, min(i + _ROWS, total)) for i in range(0, total, _ROWS)]

    def look(rows: range) -> list[tuple[int, str]]:
        return [(row, why) for row in rows if (why := _fault(source, row))]

    with ThreadPoolExecutor(config.num_threads or auto_threads(), "ssl-vision-pairs") as pool:
        for rows, found in zip(pieces, pool.map(look, pieces), strict=True):
            yield from found
            report("check", rows.stop, total)


def _fault(source: PairSource, row: int) -> str:
    try:
        source.sample(row, thread_decoder())
    except DataError as error:
        return str(error)
    return ""


def packed_pairs(path: Path, *, decode: DecodeConfig | None = None) -> PairSource:
    """The pairs of a .beton file.

    Args:
        path: The file.
        decode: What image files are asked to mean; None is whatever was meant in packing.

    Raises:
        DataError: It holds single images, or it or its table is damaged.
    """
    images, place = BetonSource(path, decode=decode), table_path(path)
    if not place.exists():
        raise DataError(f"{shown(path)} holds images and no pairs of them; {_AGAIN}.")
    content = read_json(place, error=DataError, max_bytes=_MAX_BYTES)
    fields = content if isinstance(content, dict) else {}
    pairs = _table(fields.get("pairs"), len(images))
    if pairs is None:
        raise DataError(
            f"{shown(place)} is damaged: it has no list `pairs` of two images each, numbered below "
            f"{len(images)}; {_AGAIN}."
        )
    if fields.get("fingerprint") != images.former_fingerprint():
        raise DataError(f"{shown(place)} belongs to another .beton file; {_AGAIN}.")
    return PairSource(images, pairs)


def _table(given: object, num_images: int) -> np.ndarray | None:
    """Rows of two different images, (n, 2); None of anything else."""
    try:
        pairs = np.array(given)
    except ValueError:  # rows of unequal lengths
        return None
    if pairs.dtype != np.int64 or pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        return None
    is_known = ((pairs >= 0) & (pairs < num_images)).all()
    return pairs if is_known and (pairs[:, 0] != pairs[:, 1]).all() else None
