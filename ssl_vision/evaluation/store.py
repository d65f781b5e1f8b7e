"""Features on disk: written once per network and data, read by every task.

A store is one folder per (weights, data, transform, precision): whatever changes a feature changes
the folder, and nothing expires by time. A column is one memory-mapped file:

    meta.json                     the key in full, and which columns there are
    cls_-1.npy                    a complete column, (N, D)
    cls_-1.partial.npy            a column being written
    cls_-1.done.npy               which of its rows are written, uint8, (N,)

A process that dies leaves a partial column; the next one writes the rows that are missing. With
several processes each writes its own rows of the same file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.distributed import (
    all_gather_object,
    barrier,
    broadcast_object,
    is_distributed,
    rank,
)
from ssl_vision.errors import CheckpointError, DataError
from ssl_vision.evaluation.arrays import as_tensor
from ssl_vision.evaluation.features import FeatureSpec, forward_batches
from ssl_vision.files import cache_home, plain_text
from ssl_vision.types import Batch

SCHEMA = 1
_FLUSH_BATCHES = 50  # rows count as done once they are flushed
Dtype = Literal["float16", "float32"]


def cache_folder() -> Path:
    """Where stores are kept by default: $SSL_VISION_HOME, or the user's cache."""
    return cache_home() / "features"


class FeatureStore:
    """Columns of features of N samples.

    Attributes:
        folder: Where they lie.
        num_rows: N.
        dtype: Of the values on disk.
    """

    def __init__(
        self, root: Path, *, key: Mapping[str, object], num_rows: int, dtype: Dtype
    ) -> None:
        """Open the store of a key, or begin it.

        Args:
            root: Folder of all stores.
            key: Everything that decides the features, of JSON values.
            num_rows: Samples of the data set.
            dtype: float16 halves the space; kNN and probes do not notice.

        Raises:
            CheckpointError: The folder cannot be written, or is of another key.
        """
        self.num_rows, self.dtype = num_rows, dtype
        full = {"schema": SCHEMA, "num_rows": num_rows, "dtype": dtype, **key}
        text = json.dumps(full, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:24]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_meta(full)
        except OSError as error:
            raise CheckpointError(
                f"features cannot be kept in {root} ({error.strerror}); set cache.folder= to a "
                "folder that can be written, or cache.mode=off."
            ) from error

    def _check_meta(self, full: dict[str, object]) -> None:
        path, text = self.folder / "meta.json", json.dumps(full, indent=1, sort_keys=True)
        if path.exists():
            if plain_text(path) != text:
                raise CheckpointError(f"{self.folder} holds features of another key; delete it.")
            os.utime(path)  # the time of the last use, for eviction
            return
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text)
        os.replace(temporary, path)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Names of the columns that are not complete."""
        return [name for name in names if not self._path(name).exists()]

    def rows(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Rows that all of these columns have, int64, rising: all but those nobody could read."""
        return np.setdiff1d(np.arange(self.num_rows), self.pending_rows(names))

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The `rows` of these columns, (n, D) each: memory-mapped where all of them are there."""
        rows = self.rows(names)
        found = {}
        for name in names:
            state = None if self._path(name).exists() else "partial"
            column = np.load(self._path(name, state), mmap_mode="r")
            found[name] = as_tensor(column if len(rows) == len(column) else column[rows])
        return found

    def pending_rows(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Rows that at least one of the columns lacks, int64, rising."""
        is_done = np.ones(self.num_rows, dtype=bool)
        for name in names:
            if self._path(name).exists():
                continue
            done = self._path(name, "done")
            if not done.exists() or not self._path(name, "partial").exists():
                return np.arange(self.num_rows)
            is_done &= np.load(done).astype(bool)
        return np.flatnonzero(~is_done)

    def _path(self, name: str, state: str | None = None) -> Path:
        return self.folder / (f"{name}.{state}.npy" if state else f"{name}.npy")

    def delete(self) -> None:
        """Forget everything; a collective."""
        barrier()
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    # Writing -------------------------------------------------------------------------------

    def begin(self, widths: Mapping[str, int]) -> None:
        """Make the partial columns that do not exist; a collective."""
        if rank() == 0:
            for name, width in widths.items():
                done, partial = self._path(name, "done"), self._path(name, "partial")
                if done.exists() and partial.exists():
                    continue
                _create(partial, np.dtype(self.dtype), (self.num_rows, width))
                _create(done, np.dtype(np.uint8), (self.num_rows,))
        barrier()
        self._columns = {
            name: (
                np.lib.format.open_memmap(self._path(name, "partial"), mode="r+"),
                np.lib.format.open_memmap(self._path(name, "done"), mode="r+"),
            )
            for name in widths
        }
        self._written: list[NDArray[np.int64]] = []

    def write(self, rows: NDArray[np.int64], features: Mapping[str, Tensor]) -> None:
        """Put features (B, D) of the rows (B,) into their columns.

        Raises:
            DataError: Values that are not finite, or too large for float16.
        """
        for name, value in features.items():
            stored = value.to("cpu", getattr(torch, self.dtype))
            if not bool(torch.isfinite(stored).all()):
                raise DataError(
                    f"feature {name} has values that are not finite in {self.dtype}; the network "
                    "is broken, or use cache.dtype=float32."
                )
            self._columns[name][0][rows] = stored.numpy()
        self._written.append(rows)
        if len(self._written) >= _FLUSH_BATCHES:
            self.flush()

    def flush(self) -> None:
        """Bring what was written to disk, then count it as done, in this order."""
        for features, done in self._columns.values():
            features.flush()
            for rows in self._written:
                done[rows] = 1
            done.flush()
        self._written = []

    def finish(self, names: Sequence[str], *, may_lack: bool = False) -> None:
        """Turn full partial columns into complete ones; a collective.

        Args:
            names: Columns that were begun.
            may_lack: Whether rows may be missing; their column stays partial, and the next command
                tries them again.

        Raises:
            CheckpointError: Rows are missing that may not.
        """
        self.flush()
        del self._columns
        barrier()
        if rank() == 0:
            for name in names:
                if not self._path(name).exists():
                    lacking = int((np.load(self._path(name, "done")) == 0).sum())
                    if lacking and may_lack:
                        continue
                    if lacking:
                        raise CheckpointError(
                            f"{lacking} of {self.num_rows} rows of {name} were never delivered by "
                            "the loader."
                        )
                    os.replace(self._path(name, "partial"), self._path(name))
                    self._path(name, "done").unlink()
        barrier()


def fill_store(
    store: FeatureStore,
    backbone: Backbone,
    batches: Callable[[NDArray[np.int64]], Iterable[Batch]],
    *,
    normalize: Callable[[Tensor], Tensor] | None,
    spec: FeatureSpec,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    may_lack: bool = False,
) -> int:
    """Write the columns of the spec that the store lacks; one forward of the rows not yet done.

    Args:
        store: What to fill.
        backbone: Network to read.
        batches: Rows -> batches of these samples, with `index` the row in the data set. On several
            processes each yields its own share.
        normalize: As in `extract_features`.
        spec: Which features.
        device: Where the network runs.
        autocast: Precision of the forward.
        may_lack: Whether the batches may leave out samples that cannot be read.

    Returns:
        Number of rows that had to be computed (over all processes).

    Raises:
        DataError: Not one sample could be read.
    """
    with _lock(store.folder):
        names = store.missing(spec.names)
        rows = broadcast_object(store.pending_rows(names))
        if not names:
            return 0
        stream = forward_batches(
            backbone,
            batches(rows) if len(rows) else [],
            normalize=normalize,
            spec=spec,
            device=device,
            autocast=autocast,
        )
        first = next(stream, None)
        widths = None if first is None else {name: first[1][name].shape[1] for name in names}
        widths = next((each for each in all_gather_object(widths) if each is not None), None)
        if widths is None and len(rows) == store.num_rows:
            raise DataError(f"not one of the {len(rows)} samples could be read.")
        store.begin(widths or {name: 0 for name in names})
        for batch, features in _chain(first, stream):
            store.write(batch.index.cpu().numpy(), {name: features[name] for name in names})
        store.finish(names, may_lack=may_lack)
    return len(rows)


def _chain(
    first: tuple[Batch, dict[str, Tensor]] | None, rest: Iterator[tuple[Batch, dict[str, Tensor]]]
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    if first is not None:
        yield first
        yield from rest


def _create(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """An array file of zeros, visible under its name only once it is whole."""
    temporary = path.with_suffix(".tmp")
    size = int(np.prod(shape)) * dtype.itemsize
    try:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape).flush()
        with open(temporary, "r+b") as file:
            # A map over a file with holes would kill the process once the disk is full.
            _allocate(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} needs {size / 2**20:.0f} MiB ({error.strerror}); set cache.folder= to a disk "
            "with room, or cache.mode=off."
        ) from error
    os.replace(temporary, path)


def _allocate(file: BinaryIO) -> None:
    """Give every byte of a file its place on the disk."""
    size = os.fstat(file.fileno()).st_size
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    start = len(file.read(4096))  # which holds the header
    for place in range(start, size, 1 << 20):
        file.seek(place)
        file.write(bytes(min(1 << 20, size - place)))


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One command at a time fills a store; ranks of one command share the lock of rank 0."""
    import fcntl

    if rank() != 0:
        yield
        return
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def evict(root: Path, *, max_bytes: int, keep: Sequence[Path] = ()) -> list[Path]:
    """Delete the stores that were used longest ago until the rest fits.

    Args:
        root: Folder of all stores.
        max_bytes: What may remain.
        keep: Stores in use.

    Returns:
        What was deleted.
    """
    if is_distributed() and rank() != 0:
        return []
    stores = sorted(root.glob("*/meta.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    used, deleted = 0, []
    for meta in stores:
        folder = meta.parent
        used += sum(file.stat().st_size for file in folder.iterdir())
        if used > max_bytes and folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)
            deleted.append(folder)
    return deleted
