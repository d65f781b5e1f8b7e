"""The loader of images: every view of an image from one decode, by compiled kernels."""

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from ssl_vision.data.decode import Decoder
from ssl_vision.data.kernels.color import color_table, has_color, recolor_rows, scratch_size
from ssl_vision.data.kernels.crop import crop_kernel, crop_table
from ssl_vision.data.kernels.draws import view_stream
from ssl_vision.data.kernels.policy import policy_rows, policy_table
from ssl_vision.data.levels import Notes
from ssl_vision.data.loader import BATCHES_AHEAD, EpochLoader, Job
from ssl_vision.data.source import RawBlock
from ssl_vision.views import ViewConfig


class PreparedView(NamedTuple):
    """A view with its kernels and tables."""

    size_px: int
    stream: np.uint64
    crop_stream: np.uint64  # of crop and flip: its own, unless it is cut as another view is
    crop: Callable[..., None]  # the kernel of its interpolation
    crop_table: np.ndarray
    color: np.ndarray | None  # table of jitter, grayscale, blur, solarize; None: all are off
    policy: np.ndarray | None  # table of RandAugment and erasing; None: both are off

    def draw(
        self,
        block: RawBlock,
        samples: np.ndarray,
        out: np.ndarray,
        row: int,
        epoch: int,
        scratch: np.ndarray,
    ) -> None:
        """Every drawing of the view of some images, into rows of `out` (k, B, 3, S, S)."""
        self.crop(*block, samples, out, row, self.crop_table, self.crop_stream, epoch)
        if self.color is not None:
            recolor_rows(out, row, samples, self.color, self.stream, epoch, scratch)
        if self.policy is not None:
            policy_rows(out, row, samples, self.policy, self.stream, epoch)


def prepared_views(views: Mapping[str, ViewConfig], *, seed: int) -> dict[str, PreparedView]:
    """Tables and keys of views, their kernels compiled."""
    found = {}
    pixel, one = np.zeros(3, np.uint8), np.ones(1, np.int64)
    block = RawBlock(one * pixel.ctypes.data, one, one)
    out, scratch = np.empty((1, 1, 3, 1, 1), np.uint8), np.empty(scratch_size(1), np.float32)
    for name, view in views.items():
        stream = view_stream(seed, name)
        color = color_table(view) if has_color(view) else None
        tables = crop_table(view), color, policy_table(view)
        found[name] = PreparedView(view.size_px, stream, stream, crop_kernel(view), *tables)
        found[name].draw(block, one, out, 0, 0, scratch)
    return found


def scratch_of(views: Mapping[str, ViewConfig]) -> np.ndarray:
    """Memory that drawing any of the views needs; of one thread."""
    return np.empty(scratch_size(max(view.size_px for view in views.values())), np.float32)


class ViewTools:
    """What a thread needs for itself."""

    def __init__(self, views: Mapping[str, ViewConfig], notes: Notes) -> None:
        self.decoder = Decoder(notes)
        self.scratch = scratch_of(views)


class _Buffers:
    """Memory of earlier batches, used again once nobody holds a tensor of it.

    A tensor made by `torch.from_numpy` keeps its array alive, so the array's reference count
    tells whether any tensor still shares the memory.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        kept = self._arrays.setdefault(shape, [])
        for place in range(len(kept)):
            if sys.getrefcount(kept[place]) == 2:  # the list's and the argument's
                return kept[place]
        array = np.empty(shape, np.uint8)
        if len(kept) < 2 * BATCHES_AHEAD:
            kept.append(array)
        return array


class MultiViewLoader(EpochLoader[ViewConfig]):
    """Batches of uint8 views of images, on the CPU; one decode serves all views of an image.

    See `EpochLoader` for the arguments and the position.
    """

    modality: ClassVar[str] = "images"

    @cached_property
    def _buffers(self) -> _Buffers:
        return _Buffers()

    def _bytes_of(self, view: ViewConfig) -> int:
        return view.count * 3 * view.size_px**2

    def _prepare(self) -> dict[str, PreparedView]:
        """Tables and keys of the views; also compiles their kernels, here and not in a thread."""
        return prepared_views(self.views, seed=self.seed)

    def _new_job(self, epoch: int, indices: np.ndarray) -> Job:
        images, tensors = {}, {}
        for name, view in self.views.items():
            shape = (view.count, len(indices), 3, view.size_px, view.size_px)
            if self.pin_memory:  # torch keeps a ring of page-locked blocks, safe across streams
                tensors[name] = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
                images[name] = tensors[name].numpy()
            else:
                images[name] = self._buffers.take(shape)
                tensors[name] = torch.from_numpy(images[name])
        return Job(epoch, indices.copy(), images, tensors, rows_left=len(indices))

    # One sample --------------------------------------------------------------------------

    def _render(
        self, job: Job, start: int, stop: int, views: dict[str, PreparedView], tools: ViewTools
    ) -> None:
        """Fill rows [start, stop) of a job."""
        indices = job.indices[start:stop]
        block = self.source.raw_block(indices)
        if block is not None:
            self._draw_views(job, start, block, indices, views, tools)
            if self.source.is_intact():
                return  # else one by one, to say which sample is gone or to replace it
        for row in range(start, stop):
            original = job.indices[row : row + 1].copy()  # keys the views, also of a substitute
            pixels = self._pixels(job, row, tools.decoder)
            if pixels is not None:
                self._draw_sample(job, row, pixels, original, views, tools)

    def _draw_sample(
        self,
        job: Job,
        row: int,
        pixels: np.ndarray,
        sample: np.ndarray,
        views: dict[str, PreparedView],
        tools: ViewTools,
    ) -> None:
        """Every view of one decoded image, (H, W, 3), into a row; `sample` is its id, (1,)."""
        address, (height, width, _) = np.array([pixels.ctypes.data]), pixels.shape
        block = RawBlock(address, np.array([height]), np.array([width]))
        self._draw_views(job, row, block, sample, views, tools)

    def _draw_views(
        self,
        job: Job,
        row: int,
        block: RawBlock,
        samples: np.ndarray,
        views: dict[str, PreparedView],
        tools: ViewTools,
    ) -> None:
        """Every view of some decoded images, into the rows from `row` on."""
        for name, view in views.items():
            view.draw(block, samples, job.images[name], row, job.epoch, tools.scratch)

    def _make_tools(self, views: dict[str, PreparedView]) -> ViewTools:
        """What one thread needs for itself."""
        return ViewTools(self.views, self.notes)

    def _pixels(self, job: Job, row: int, decoder: Decoder) -> np.ndarray | None:
        """Pixels of a row's sample, or of its substitute."""
        return self._read_row(job, row, lambda index: self.source.sample(index, decoder))
