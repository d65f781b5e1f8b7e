"""The one loader: every source, every view from one decode, in an order that is a number.

An epoch's order is a permutation keyed by (seed, epoch), cut into global batches; a process takes
its slice of each. A view is keyed by (seed, view name, epoch, sample id, drawing). So nothing
depends on threads, batch size or the number of processes, and the position in the data is the
three numbers of `state_dict`.

Python threads run serial kernels that release the GIL. They belong to one pass over the data and
end with it, also when the loop over it is left early.
"""

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch

from ssl_vision.data.config import View, keys_of_size
from ssl_vision.data.levels import Notes
from ssl_vision.data.source import Source
from ssl_vision.distributed import usable_cores, usable_memory
from ssl_vision.errors import ConfigError, DataError, DeviceMemoryError, SslVisionWarning
from ssl_vision.randomness import derive_key
from ssl_vision.types import Batch

_ViewKind = TypeVar("_ViewKind", bound=View)  # the settings of a view

OnError = Literal["raise", "substitute", "leave_out"]

BATCHES_AHEAD = 3
_MAX_SUBSTITUTES = 100  # draws of a replacement before the data set is called unreadable


def auto_threads() -> int:
    """Cores this process may use, shared among the processes of this machine."""
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, usable_cores() // local_processes)


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Permutation of an epoch, int64, (n,): ids sorted by a hash of (seed, epoch, id)."""
    key = np.uint64(derive_key(seed, "order", epoch))
    ids = np.arange(1, num_samples + 1, dtype=np.uint64)
    value = key + ids * np.uint64(0x9E3779B97F4A7C15)  # splitmix64, wraps around as it must
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(value ^ (value >> np.uint64(31)), kind="stable")


@dataclass
class Job:
    """One batch under construction."""

    epoch: int
    indices: np.ndarray
    images: dict[str, np.ndarray]  # (k, B, 3, S, S)
    tensors: dict[str, torch.Tensor]  # the same memory
    rows_left: int
    left_out: set[int] = field(default_factory=set)  # rows whose sample could not be read
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, num_rows: int, error: BaseException | None) -> None:
        """Note that some rows are done, or failed; after the last one the batch is."""
        with self.lock:
            self.error = self.error or error
            self.rows_left -= num_rows
            if self.rows_left == 0:
                self.done.set()


class EpochLoader(Generic[_ViewKind]):
    """Order, position and threads of a loader; subclasses say how a sample becomes views.

    Iterating begins an epoch: the one of a loaded state, at its position; after a whole pass, or
    one left early, the next. `len` is always that of a whole epoch.

    Args:
        source: The samples.
        views: What to draw of each.
        batch_size: Samples per batch of this process.
        seed: Key of order and views.
        rank: Index of this process.
        world_size: Number of processes; each must use the same `batch_size`.
        accumulate: Batches per optimizer update; an epoch is a whole number of updates.
        num_threads: Threads that decode and render; 0 uses the cores this process may use.
        shuffle: Whether an epoch's order is drawn; else it is 0, 1, 2, ...
        drop_last: Whether samples that fill no whole global batch are left out; else the last
            batch is shorter, and padded with its first samples so that processes agree in length.
        on_error: What an unreadable sample does: `raise` a DataError naming it, or `substitute`
            another sample, drawn by (seed, epoch, id), or `leave_out` its row, so that a batch is
            shorter and none comes where no sample can be read. The last two enter `bad_samples`.
        pin_memory: Whether batches lie in page-locked memory, for copies to a GPU.
        lower: Settings to lower where batches need more memory than there is, for the message; by
            default those of training.

    Attributes:
        epoch: Epoch of the last batch handed out, or of the next if that one ended its epoch.
        bad_samples: Reason per unreadable sample met so far by this process.
        notes: Counts of images with transparency and the like, of this process.
        num_substituted: Rows that were given to another sample so far by this process.
    """

    modality: ClassVar[str]  # of the samples that a subclass draws

    def __init__(
        self,
        source: Source,
        views: Mapping[str, _ViewKind],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        num_threads: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        on_error: OnError = "raise",
        pin_memory: bool = False,
        lower: str = "",
    ) -> None:
        if batch_size < 1 or not views:
            raise ConfigError(f"a loader needs views and batch_size >= 1, got {batch_size}.")
        if source.modality != self.modality:
            raise ConfigError(
                f"{source.name(0)} is of a data set of {source.modality}; what is asked for takes "
                f"{self.modality}: use other data, or a method and network of {source.modality}."
            )
        self.source, self.views = source, dict(views)
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.num_threads = num_threads or auto_threads()
        self.shuffle, self.drop_last = shuffle, drop_last
        self.on_error, self.pin_memory = on_error, pin_memory
        self.epoch = 0
        self.bad_samples: dict[int, str] = {}
        self.num_substituted = 0
        self.notes = Notes()
        self._has_said_notes = False
        self._consumed = 0  # samples of this epoch handed out, over all processes
        self._is_restored = False
        self._check_memory(lower)
        if len(self) == 0:
            raise DataError(
                f"the data has {len(source)} images, fewer than one global batch of "
                f"{self._global_batch * accumulate}; lower data.global_batch_size."
            )

    @property
    def _global_batch(self) -> int:
        return self.batch_size * self.world_size

    @property
    def _epoch_samples(self) -> int:
        """Samples of an epoch, over all processes."""
        if not self.drop_last:
            return len(self.source)
        update = self._global_batch * self.accumulate
        return len(self.source) // update * update

    def __len__(self) -> int:
        return -(-self._epoch_samples // self._global_batch)

    def _check_memory(self, lower: str) -> None:
        """Refuse batches that cannot lie in memory: systems promise it, and kill who uses it."""
        rows = min(self.batch_size, len(self.source))
        sizes = {name: rows * self._bytes_of(view) for name, view in self.views.items()}
        need, there = BATCHES_AHEAD * sum(sizes.values()), usable_memory()
        if need > there:
            largest = max(sizes, key=lambda name: sizes[name])
            lower = lower or " or ".join([*keys_of_size(self.views), "data.global_batch_size"])
            raise DeviceMemoryError(
                f"{BATCHES_AHEAD} batches of {rows} samples, most of each its view {largest} of "
                f"{self.views[largest]}, need {need / 2**30:,.1f} GiB of memory; this machine has "
                f"{there / 2**30:,.1f}: lower {lower}."
            )

    # Position ----------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; stays where it is inside that epoch after a restore."""
        if not (self._is_restored and epoch == self.epoch):
            self.epoch, self._consumed, self._is_restored = epoch, 0, True

    def state_dict(self) -> dict[str, int]:
        """Position after the last batch handed out, whatever was prepared ahead."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "samples_consumed": self._consumed,
            "num_samples": len(self.source),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a position, possibly written by another number of processes.

        Raises:
            DataError: If the position is not one of this data set.
        """
        if state["num_samples"] != len(self.source):
            raise DataError(
                f"the run to resume had {state['num_samples']} images, the data now has "
                f"{len(self.source)}; restore the data or start a new run."
            )
        if state["samples_consumed"] % self._global_batch:
            raise DataError(
                f"the run to resume stopped after {state['samples_consumed']} images of its "
                f"epoch, which is no multiple of the global batch of {self._global_batch}; "
                f"resume with the old data.global_batch_size."
            )
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self._consumed, self._is_restored = int(state["samples_consumed"]), True

    def _begin(self) -> tuple[int, int]:
        """Epoch and position a new pass starts from."""
        if not self._is_restored and self._consumed > 0:  # the last pass was left early
            self.epoch, self._consumed = self.epoch + 1, 0
        self._is_restored = False
        return self.epoch, self._consumed

    def _rows(self, order: np.ndarray, start: int) -> np.ndarray:
        """This process's samples of the global batch that starts at a position."""
        whole = order[start : min(start + self._global_batch, self._epoch_samples)]
        share = -(-len(whole) // self.world_size)
        padded = np.resize(whole, share * self.world_size)  # repeats from the front
        return padded[self.rank * share : (self.rank + 1) * share]

    # One pass ----------------------------------------------------------------------------

    def __iter__(self) -> Generator[Batch, None, None]:
        epoch, consumed = self._begin()
        size = len(self.source)
        order = epoch_order(size, seed=self.seed, epoch=epoch) if self.shuffle else np.arange(size)
        starts = deque(range(consumed, self._epoch_samples, self._global_batch))
        views = self._prepare()
        with _Workers(self, views) as workers:
            jobs: deque[Job] = deque()
            while starts or jobs:
                while starts and len(jobs) < BATCHES_AHEAD:
                    jobs.append(workers.submit(epoch, self._rows(order, starts.popleft())))
                job = jobs.popleft()
                job.done.wait()
                if job.error is not None:
                    raise job.error
                self._consumed += self._global_batch
                if not starts and not jobs:
                    # Rolled over before the last batch leaves: a checkpoint taken after it
                    # continues with the next epoch.
                    self.epoch, self._consumed = epoch + 1, 0
                    self._say_notes(size)
                if len(job.left_out) < len(job.indices):
                    yield self._to_batch(job)

    def _say_notes(self, size: int) -> None:
        """Warn once, after the first pass, of what was decided about some samples."""
        text = self.notes.text()
        if text and not self._has_said_notes:
            told = f"of {size:,} {self.modality}: {text}"
            warnings.warn(told, SslVisionWarning, stacklevel=2)
            self.notes.told()
        self._has_said_notes = True

    def _to_batch(self, job: Job) -> Batch:
        labels, tensors, indices = self.source.labels, job.tensors, job.indices
        if job.left_out:
            kept = [row for row in range(len(indices)) if row not in job.left_out]
            tensors = {name: tensor[:, kept] for name, tensor in tensors.items()}
            indices = indices[kept]
        index = torch.from_numpy(indices)
        label = None if labels is None else torch.from_numpy(labels[indices])
        if self.pin_memory:
            index, label = index.pin_memory(), None if label is None else label.pin_memory()
        views = {name: tensor.flatten(0, 1) for name, tensor in tensors.items()}
        return Batch(views=views, index=index, label=label, epoch=job.epoch)

    # What a subclass defines -------------------------------------------------------------

    def _bytes_of(self, view: _ViewKind) -> int:
        """Memory of a view of one sample, all its drawings."""
        raise NotImplementedError

    def _prepare(self) -> Any:
        """What the threads need to render views, made once per pass, in the iterating thread."""
        raise NotImplementedError

    def _make_tools(self, views: Any) -> Any:
        """What one thread needs for itself; `views` is what `_prepare` returned."""
        raise NotImplementedError

    def _new_job(self, epoch: int, indices: np.ndarray) -> Job:
        """Memory of a batch."""
        raise NotImplementedError

    def _render(self, job: Job, start: int, stop: int, views: Any, tools: Any) -> None:
        """Fill rows [start, stop) of a job."""
        raise NotImplementedError

    def _read_row(self, job: Job, row: int, read: Callable[[int], np.ndarray]) -> np.ndarray | None:
        """A row's sample, or its substitute, which takes over the row; None leaves the row out."""
        original = int(job.indices[row])
        index = original
        for attempt in range(_MAX_SUBSTITUTES):
            try:
                return read(index)
            except DataError as error:
                reason = str(error).rstrip(".")
            if self.on_error == "raise":
                raise DataError(
                    f"sample {index} ({self.source.name(index)}) cannot be read: {reason}. "
                    f"Remove the file, or set data.on_error=substitute."
                )
            self.bad_samples[index] = reason
            if self.on_error == "leave_out":
                job.left_out.add(row)
                return None
            key = derive_key(self.seed, "substitute", job.epoch, original, attempt)
            index = key % len(self.source)
            job.indices[row] = index
            self.num_substituted += attempt == 0
        raise DataError(
            f"{_MAX_SUBSTITUTES} samples drawn to replace sample {original} cannot be read "
            f"either, the last one for: {reason}."
        )


class _Workers:
    """Threads of one pass; a context manager that ends them."""

    def __init__(self, loader: EpochLoader[Any], views: Any) -> None:
        self._loader, self._views = loader, views
        self._tasks: SimpleQueue[tuple[Job, int, int] | None] = SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"ssl-vision-loader-{i}", daemon=True)
            for i in range(loader.num_threads)
        ]

    def __enter__(self) -> "_Workers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, epoch: int, indices: np.ndarray) -> Job:
        """Queue a batch, in pieces small enough to keep all threads busy to its end."""
        job = self._loader._new_job(epoch, indices)
        self._loader.source.read_ahead(indices)
        piece = -(-len(indices) // (4 * len(self._threads)))
        for start in range(0, len(indices), piece):
            self._tasks.put((job, start, min(start + piece, len(indices))))
        return job

    def _work(self) -> None:
        loader = self._loader
        tools = None
        while (task := self._tasks.get()) is not None:
            job, start, stop = task
            error: BaseException | None = None
            if not self._is_closed and job.error is None:
                try:
                    if tools is None:  # here: what it raises must reach who waits for the batch
                        tools = loader._make_tools(self._views)
                    loader._render(job, start, stop, self._views, tools)
                except BaseException as caught:
                    error = caught  # raised by the pass, in the thread that iterates
            job.finish(stop - start, error)
