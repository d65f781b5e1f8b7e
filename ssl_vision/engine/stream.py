"""All batches of a run as one stream, whose position is a function of the step.

Epochs are the loader's business; to the loop there is only the next batch. So there is nothing to
restore but a number.
"""

import time
from collections.abc import Generator
from typing import Protocol, Self

import torch

from ssl_vision.types import Batch


class PositionedLoader(Protocol):
    """What the stream needs of a loader; `data.loader.EpochLoader` is one."""

    def __len__(self) -> int:
        """Batches of this process per epoch."""
        ...

    def __iter__(self) -> Generator[Batch, None, None]:
        """The batches that remain of the epoch."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Position: `epoch`, and `samples_consumed` of it over all processes; and constants."""
        ...

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position that `state_dict` gave."""
        ...


class BatchStream:
    """Batches from one update to the end of the run; an incomplete one ends an epoch unused.

    Args:
        loader: An epoch's batches, in page-locked memory where `device` is a GPU.
        seed: Key of the run, for the record.
        steps_per_epoch: Updates.
        accumulate: Batches per update.
        global_batch_size: Samples per update, over all processes.
        stop_step: Updates after which the stream ends.
        device: Where batches are wanted.

    Attributes:
        data_offset: Updates' worth of data left out so far, by rollbacks.
        waited_s: Seconds spent waiting for the loader, in total.
        first: The first batch read, where the loader put it, for pictures of the views.
    """

    def __init__(
        self,
        loader: PositionedLoader,
        *,
        seed: int,
        steps_per_epoch: int,
        accumulate: int,
        global_batch_size: int,
        stop_step: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._loader = loader
        self._seed = seed
        self._steps_per_epoch = steps_per_epoch
        self._accumulate = accumulate
        self._global_batch_size = global_batch_size
        self._stop_step = stop_step
        self._copier = Copier(torch.device(device))
        self._epoch: Generator[Batch, None, None] | None = None  # the pass under way
        self._epoch_left = 0  # batches to take from it
        self._num_read = 0  # batches, of all updates up to now
        self._ahead: Batch | None = None  # read, and its copy begun, before it was asked for
        self.data_offset = 0
        self.waited_s = 0.0
        self.first: Batch | None = None

    def seek(self, *, step: int, data_offset: int) -> None:
        """Go on from an update; what was read ahead is dropped."""
        self.close()
        self._num_read, self.data_offset = step * self._accumulate, data_offset

    def state(self, *, step: int) -> dict[str, int]:
        """Where the data of update `step` begins, in words any number of processes understands."""
        epoch, step = divmod(step + self.data_offset, self._steps_per_epoch)
        return {
            "seed": self._seed,
            "epoch": epoch,
            "samples_consumed": step * self._global_batch_size,
            "data_offset": self.data_offset,
        }

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """The next batch of this process, on its device."""
        batch, self._ahead = self._ahead or self._read(), None
        if batch is None:
            raise StopIteration
        return self._copier.finish(batch)

    def prefetch(self) -> None:
        """Read the next batch now, and begin its copy to the device, where that is another one.

        Called while the device works, the copy runs beside that work. On the CPU there is no copy;
        the loader's threads are ahead by themselves.
        """
        if self._copier.is_needed and self._ahead is None:
            self._ahead = self._read()

    def close(self) -> None:
        """End the pass over the loader, and its threads."""
        self._ahead = None
        self._end_epoch()

    def _read(self) -> Batch | None:
        """The next batch, its copy begun; None at the end of the run."""
        start = time.perf_counter()
        if self._epoch is None and not self._begin_epoch():
            return None
        assert self._epoch is not None
        batch = next(self._epoch)
        self._num_read += 1
        self._epoch_left -= 1
        self.first = self.first or batch
        if self._epoch_left == 0:
            self._end_epoch()
        self.waited_s += time.perf_counter() - start
        return self._copier.begin(batch)

    def _begin_epoch(self) -> bool:
        """Start the pass that update is in; False after the last update."""
        step = self._num_read // self._accumulate
        if step >= self._stop_step:
            return False
        state = self.state(step=step)
        position = {k: state[k] for k in ("epoch", "samples_consumed")}
        self._loader.load_state_dict(self._loader.state_dict() | position)
        steps_left = self._steps_per_epoch - state["samples_consumed"] // self._global_batch_size
        self._epoch_left = min(steps_left, self._stop_step - step) * self._accumulate
        self._epoch = iter(self._loader)
        return True

    def _end_epoch(self) -> None:
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None


class Copier:
    """Copies batches to a GPU on a stream of its own, beside the work of the compute stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None  # made in the process that copies

    @property
    def is_needed(self) -> bool:
        """Whether batches lie elsewhere than where they are wanted."""
        return self._device.type == "cuda"

    def begin(self, batch: Batch) -> Batch:
        """Queue the copy; its tensors may be used after `finish`."""
        if not self.is_needed:
            return batch
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):
            return batch.to(self._device, non_blocking=True)

    def finish(self, batch: Batch) -> Batch:
        """Let what is queued on the compute stream from here on wait for the copy."""
        if self._stream is not None:
            compute = torch.cuda.current_stream(self._device)
            compute.wait_stream(self._stream)
            for tensor in (*batch.views.values(), batch.index, batch.label):
                if tensor is not None:  # its memory belongs to the copy stream: keep it until used
                    tensor.record_stream(compute)
        return batch
