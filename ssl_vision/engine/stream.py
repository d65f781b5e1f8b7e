"""All batches of a run as one stream, whose position is a function of the step.

The trainer below sees a single long epoch. Lightning's own notion of epochs cannot be resumed
exactly (its loop repeats or loses batches, depending on where it was stopped); with one stream
there is nothing to restore but a number.
"""

import time
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, Protocol

from ssl_vision.types import Batch

_ENDLESS = 1 << 40  # batches; the stream ends by itself, Lightning only needs some length


class EpochLoader(Protocol):
    """What the stream needs of a loader; `data.loader.MultiViewLoader` is one."""

    def __len__(self) -> int:
        """Batches of this process per epoch."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The batches that remain of the epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Position: `epoch`, and `samples_consumed` of it over all processes; and constants."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        ...


class BatchStream:
    """Batches from update `step` to the end of the run.

    Attributes:
        step: Updates whose batches have been consumed.
        data_offset: Updates' worth of data left out so far, by rollbacks.
        waited_s: Seconds spent waiting for the loader, in total.
        first: The first batch handed out, for pictures of the views.
    """

    def __init__(
        self,
        loader: EpochLoader,
        *,
        seed: int,
        steps_per_epoch: int,
        accumulate: int,
        global_batch_size: int,
        stop_step: int,
    ) -> None:
        self._loader = loader
        self._seed = seed
        self._steps_per_epoch = steps_per_epoch
        self._accumulate = accumulate
        self._global_batch_size = global_batch_size
        self._stop_step = stop_step
        self._jumps = 0
        self.step = 0
        self.data_offset = 0
        self.waited_s = 0.0
        self.first: Batch | None = None

    def __len__(self) -> int:
        """An upper bound: a rollback makes the stream longer."""
        return _ENDLESS

    def seek(self, *, step: int, data_offset: int) -> None:
        """Go on from an update; takes effect at the next batch."""
        self.step, self.data_offset = step, data_offset
        self._jumps += 1

    def state(self, *, step: int) -> dict[str, int]:
        """Where the data of update `step` begins, in words any number of processes understands."""
        epoch, step = divmod(step + self.data_offset, self._steps_per_epoch)
        return {
            "seed": self._seed,
            "epoch": epoch,
            "samples_consumed": step * self._global_batch_size,
            "data_offset": self.data_offset,
        }

    def __iter__(self) -> Iterator[Batch]:
        """Batches of this process, epoch after epoch."""
        while self.step < self._stop_step:
            state = self.state(step=self.step)
            position = {k: state[k] for k in ("epoch", "samples_consumed")}
            self._loader.load_state_dict(self._loader.state_dict() | position)
            steps_done = state["samples_consumed"] // self._global_batch_size
            steps_left = self._steps_per_epoch - steps_done
            yield from self._epoch(min(steps_left, self._stop_step - self.step))

    def _epoch(self, num_steps: int) -> Iterator[Batch]:
        """Batches of the next `num_steps` updates; an incomplete update at the end is left out."""
        jumps = self._jumps
        batches = self._timed(islice(iter(self._loader), num_steps * self._accumulate))
        try:
            for number, batch in enumerate(batches, start=1):
                self.first = self.first or batch
                yield batch
                # Here the batch has been trained on: the generator is asked for the next one.
                if self._jumps != jumps:
                    return
                if number % self._accumulate == 0:
                    self.step += 1
        finally:
            batches.close()

    def _timed(self, batches: Iterator[Batch]) -> Generator[Batch, None, None]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch
