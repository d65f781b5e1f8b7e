"""Reading .beton files, and the multi-view decoder for people's own ffcv pipelines.

The reader needs no ffcv. `multi_view_decoder` does, and is the only place that imports it.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba.np.numpy_support import carray
from torch import Tensor

from ssl_vision.data.contents import FileContents
from ssl_vision.data.decode import ACCURATE_DCT, RGB, Decoder, turbojpeg
from ssl_vision.data.images.beton_format import JPG, RAW, read_index
from ssl_vision.data.images.mapping import GuardedMap, guarded_map
from ssl_vision.data.kernels.color import color_table, recolor, scratch_size
from ssl_vision.data.kernels.compiling import pointer64
from ssl_vision.data.kernels.crop import crop_bicubic, crop_bilinear, crop_table
from ssl_vision.data.kernels.draws import view_key, view_stream
from ssl_vision.data.kernels.policy import policies_of
from ssl_vision.data.levels import DEFAULT, Decided, DecodeConfig
from ssl_vision.data.source import RawBlock, Source, digest
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.files import open_regular, read_json, read_text
from ssl_vision.views import ViewConfig

_READ_AHEAD_BYTES = 16 << 10  # mean sample size from which hints pay
_MAX_CLASSES = 1 << 20  # of a file that does not name its classes
_MAX_NAMES_BYTES = 4 << 30  # of the sidecar with the samples' original paths


def index_path(path: Path) -> Path:
    """Sidecar with class names and totals."""
    return path.with_name(path.name + ".json")


def names_path(path: Path) -> Path:
    """Sidecar with the original path of each sample, one JSON string a line."""
    return path.with_name(path.name + ".names")


class BetonSource(Source):
    """Samples of a .beton file, written by this package or by ffcv.

    A sample that is gone, because somebody cut the file short while it is in use, is a DataError.
    """

    def __init__(self, path: str | Path, *, decode: DecodeConfig | None = None) -> None:
        """Open a file.

        Args:
            path: The file.
            decode: What image files are asked to mean; None is whatever was meant in packing.

        Raises:
            DataError: It is damaged, or was packed with other settings that decided on pixels.
        """
        self.path = Path(path)
        self._contents = FileContents([str(self.path)])
        index = read_index(self.path)
        self.page_size = index.page_size
        self._modes = index.images["mode"].copy()
        self._heights = index.images["height"].astype(np.int64)
        self._widths = index.images["width"].astype(np.int64)
        self._pointers = index.images["data_ptr"].astype(np.int64)
        self._sizes = index.sizes
        self._stored_labels = index.labels
        self._file = open_regular(self.path, error=DataError)
        self._descriptor = self._file.fileno()
        self._hints = bool(self._sizes.mean() >= _READ_AHEAD_BYTES)
        self.class_names = self._read_sidecar()
        self.labels = self._usable_labels()
        if decode is not None:
            self._check_decode(decode)

    def _check_decode(self, asked: DecodeConfig) -> None:
        """Refuse settings that the pixels contradict; say where it is not known."""
        if self.decided is None:
            if asked != DEFAULT:
                self.notes = (
                    f"{self.path} does not say how it was packed: {asked.text()} is not applied.",
                )
        elif stated := self.decided.conflict(asked):
            raise DataError(
                f"{self.path} was packed with {stated}, and {asked.text()} is asked: set "
                f"{stated.partition(' ')[0]} to use it as it is, or pack it again."
            )

    def __len__(self) -> int:
        return len(self._sizes)

    def _read_sidecar(self) -> list[str]:
        """Class names; empty without a sidecar."""
        path = index_path(self.path)
        if not path.exists():
            return []
        content = read_json(path, error=DataError)
        fields = content if isinstance(content, dict) else {}
        names = fields.get("class_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"{path} is damaged (it has no list class_names of names); delete it or pack again."
            )
        if fields.get("fingerprint") != self.former_fingerprint():
            raise DataError(f"{path} belongs to another .beton file; delete it or pack again.")
        if "decided" in fields:
            try:
                self.decided = Decided.of_json(fields["decided"])
            except ValueError as error:
                raise DataError(
                    f"{path} is damaged (its entry decided: {error}); delete it or pack again."
                ) from error
        return names

    def _usable_labels(self) -> np.ndarray | None:
        """Labels if every one stands for a class; None if none does.

        Raises:
            DataError: If some are no classes, or classes the sidecar does not name.
        """
        labels = self._stored_labels
        if labels is None or np.all(labels == -1):  # -1 stands for none
            return None
        known = self.class_names
        limit = len(known) or _MAX_CLASSES
        bad = np.flatnonzero((labels < 0) | (labels >= limit))
        if len(bad):
            raise DataError(
                f"{self.path}: {len(bad)} of {len(labels)} labels are not from 0 to {limit - 1}, "
                f"the first is {labels[bad[0]]} of sample {bad[0]}; write the file again with "
                "classes numbered from 0, or -1 for every image."
            )
        self.class_names = known or [str(label) for label in range(int(labels.max()) + 1)]
        return labels

    @cached_property
    def _names(self) -> list[str]:
        path = names_path(self.path)
        if not path.exists():
            return []
        lines = read_text(path, error=DataError, max_bytes=_MAX_NAMES_BYTES).split("\n")
        try:
            names = [json.loads(line) for line in lines if line]
        except (ValueError, RecursionError):
            names = []
        if len(names) != len(self) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"{path} is damaged: it does not hold {len(self)} names, one a line; delete it or "
                "pack again."
            )
        return names

    def name(self, index: int) -> str:
        """File and row, and the original path where the sidecar knows it."""
        original = f" = {self._names[index]}" if index < len(self._names) else ""
        return f"{self.path}[{index}]{original}"

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of every byte of the file, and of the classes' names."""
        return digest(self._contents.digest(num_threads=num_threads), "\0".join(self.class_names))

    def former_fingerprint(self) -> str:
        """Digest of sizes, places and labels of all samples; by it the sidecar knows its file."""
        labels = np.empty(0) if self._stored_labels is None else self._stored_labels
        shapes = np.stack([self._modes, self._heights, self._widths])
        return digest("beton", shapes, self._pointers, self._sizes, labels)

    def encoded(self, index: int) -> bytes | None:
        """JPEG bytes of a sample; None for a raw one.

        Raises:
            DataError: If the file cannot be read.
        """
        if self._modes[index] == RAW:
            return None
        data = bytearray(int(self._sizes[index]))
        self._read(memoryview(data), int(self._pointers[index]))
        return bytes(data)

    def _read(self, into: memoryview, start: int) -> None:
        """Fill memory from a place in the file.

        Not by way of the map: a page fault on cold data would hold the GIL.

        Raises:
            DataError: If the file cannot be read, or has become shorter.
        """
        size = len(into)
        try:
            done = os.preadv(self._descriptor, [into], start)
            while 0 < done < size:  # one call reads at most 2 GiB
                more = os.preadv(self._descriptor, [into[done:]], start + done)
                done += more
                if more == 0:
                    break
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error
        if done != size:
            raise DataError(f"{done} of {size} bytes are left in the file")

    def num_bytes(self, index: int) -> int:
        """Bytes of the sample's JPEG or pixels."""
        return int(self._sizes[index])

    def stored(self, index: int, start: int, stop: int) -> bytes:
        """Some of these bytes."""
        stop = min(stop, int(self._sizes[index]))
        try:
            return os.pread(self._descriptor, stop - start, int(self._pointers[index]) + start)
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One image; a raw one as it lies in the file."""
        data = self.encoded(index)
        height, width = int(self._heights[index]), int(self._widths[index])
        if data is None:
            pixels = np.empty((height, width, 3), np.uint8)
            self._read(pixels.reshape(-1).data, int(self._pointers[index]))
            return pixels
        pixels = (decoder or Decoder()).decode(data)
        if pixels.shape != (height, width, 3):
            raise DataError(
                f"stored as {width}x{height}, decoded as {pixels.shape[1]}x{pixels.shape[0]}"
            )
        return pixels

    @cached_property
    def _pages(self) -> GuardedMap | None:
        """The pages of the file in memory; touched by kernels only, which do not hold the GIL."""
        end = int((self._pointers + self._sizes).max())
        return guarded_map(self._descriptor, end)

    def raw_block(self, indices: np.ndarray) -> RawBlock | None:
        """Where the images lie in the mapped file, if all of them are raw."""
        if np.any(self._modes[indices] == JPG):
            return None
        pages = self._pages
        if pages is None or not pages.is_intact():
            return None  # `pixels` reads them, or says what is gone
        addresses = pages.address + self._pointers[indices]
        return RawBlock(addresses, self._heights[indices], self._widths[indices])

    def is_intact(self) -> bool:
        """Whether the file still has all of the pages that `raw_block` told of."""
        return self._pages is None or self._pages.is_intact()

    def read_ahead(self, indices: np.ndarray) -> None:
        """Ask the system to start reading these samples."""
        if self._hints and hasattr(os, "posix_fadvise"):
            for start, size in zip(self._pointers[indices], self._sizes[indices], strict=True):
                os.posix_fadvise(self._descriptor, int(start), int(size), os.POSIX_FADV_WILLNEED)


# For people's own ffcv pipelines -----------------------------------------------------------


def flat_size(views: Mapping[str, ViewConfig]) -> int:
    """Bytes of all drawings of all views of one sample."""
    return sum(view.count * 3 * view.size_px**2 for view in views.values())


def split_views(flat: Tensor, views: Mapping[str, ViewConfig]) -> dict[str, Tensor]:
    """What the ffcv decoder yields -> name -> images, (k*B, 3, S, S), as in `Batch.views`.

    Args:
        flat: uint8, (B, flat_size(views)).
        views: Those the decoder was made with.
    """
    found, start = {}, 0
    for name, view in views.items():
        shape = (len(flat), view.count, 3, view.size_px, view.size_px)
        size = math.prod(shape[1:])
        part = flat[:, start : start + size].reshape(shape)
        found[name] = part.transpose(0, 1).flatten(0, 1)
        start += size
    return found


def multi_view_decoder(views: Mapping[str, ViewConfig], *, seed: int) -> Any:
    """An ffcv Operation for image fields: one decode, all views, flat uint8 (B, flat_size).

    Use it as `pipelines={"image": [multi_view_decoder(views, seed=0), ToTensor()]}` and cut the
    result with `split_views`. The views are those `MultiViewLoader` draws, bit for bit.

    ffcv's loader brings limits this package's loader does not have:
        - It does not tell operations the epoch: call `decoder.set_epoch(e)` before each.
        - It cannot carry an error out of compiled code (it would hang): an unreadable sample is
          delivered as zeros. Call `decoder.check()` after an epoch; it raises DataError with the
          number and the id of the last one.
        - It compiles pipelines anew in every process, reuses batches as buffers, keeps a thread
          after `break`, has no position to resume from, and changes the thread counts of torch
          and numba; this function restores torch's after the import.

    Args:
        views: What to draw.
        seed: Key of the views.

    Raises:
        ImportError: Without ffcv.
        DataError: Without libturbojpeg.
        ConfigError: If a view has RandAugment or erasing, which this operation does not draw.
    """
    for name, view in views.items():
        if policies := policies_of(view):
            raise ConfigError(
                f"data.views.{name}.{policies[0]} is not drawn by the ffcv decoder; "
                "use null, or read the file with MultiViewLoader."
            )
    library = turbojpeg()
    if library is None:
        raise DataError("the ffcv decoder needs libturbojpeg: apt-get install libturbojpeg0.")
    num_threads = torch.get_num_threads()
    try:
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder
        from ffcv.pipeline.allocation_query import AllocationQuery
        from ffcv.pipeline.compiler import Compiler
    except ImportError as error:
        raise ImportError(
            "ffcv is not installed; apt-get install pkg-config libturbojpeg0-dev libopencv-dev, "
            "then pip install 'ssl-vision[ffcv]'. MultiViewLoader reads .beton without it."
        ) from error
    finally:
        torch.set_num_threads(num_threads)  # importing ffcv sets it to 1

    class MultiViewDecoder(SimpleRGBImageDecoder):
        """See `multi_view_decoder`; ffcv tells decoders by their base class."""

        def __init__(self) -> None:
            super().__init__()
            # Compiled code holds the addresses of these, so they live as long as the operation.
            self._epoch = np.zeros(1, np.int64)
            self._failures = np.zeros(2, np.int64)  # number, last sample

        def set_epoch(self, epoch: int) -> None:
            """Epoch the next batches are drawn for."""
            self._epoch[0] = epoch

        def check(self) -> None:
            """Raise DataError if samples could not be decoded since the last check."""
            number, last = self._failures.tolist()
            self._failures[:] = 0
            if number:
                raise DataError(f"{number} samples could not be decoded, the last was {last}.")

        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            """Room for the flat views."""
            shape, kind = (flat_size(views),), np.dtype("<u1")
            state = dataclasses.replace(previous_state, jit_mode=True, shape=shape, dtype=kind)
            return state, AllocationQuery(shape, kind)

        def generate_code(self) -> Any:
            """The function ffcv compiles."""
            cells = self._epoch.ctypes.data, self._failures.ctypes.data
            return _ffcv_code(
                views, seed, cells, self.memory_read, Compiler.get_iterator(), library
            )

    return MultiViewDecoder()


def _ffcv_code(
    views: Mapping[str, ViewConfig],
    seed: int,
    cells: tuple[int, int],
    read: Any,
    iterate: Any,
    library: Any,
) -> Any:
    """Compiled by ffcv: decode each image into its own scratch, then draw every view."""
    crop_tables = np.stack([crop_table(view) for view in views.values()])
    color_tables = np.stack([color_table(view) for view in views.values()])
    is_cubic = np.array([view.interpolation == "bicubic" for view in views.values()])
    streams = np.array([view_stream(seed, name) for name in views], np.uint64)
    sizes = np.array([view.size_px for view in views.values()])
    counts = np.array([view.count for view in views.values()])
    scratch_length = scratch_size(int(sizes.max()))
    epoch_cell, failure_cell = cells
    open_decoder, close_decoder = library.tjInitDecompress, library.tjDestroy
    decompress = library.tjDecompress2

    def decode(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
        epoch = carray(pointer64(epoch_cell), (1,))[0]
        for row in iterate(len(batch_indices)):
            sample = batch_indices[row]
            field = metadata[sample]
            data = read(field["data_ptr"], storage_state)
            height, width = np.int64(field["height"]), np.int64(field["width"])
            pixels = data
            if field["mode"] == JPG:
                pixels = np.empty(height * width * 3, np.uint8)
                handle = open_decoder()
                status = decompress(
                    handle, data.ctypes.data, data.size, pixels.ctypes.data,
                    width, width * 3, height, RGB, ACCURATE_DCT,
                )  # fmt: skip
                close_decoder(handle)
                if status != 0:
                    failures = carray(pointer64(failure_cell), (2,))
                    failures[0] += 1
                    failures[1] = sample
                    pixels[:] = 0
            scratch = np.empty(scratch_length, np.float32)
            start = 0
            for view in range(len(sizes)):
                size = sizes[view]
                for drawing in range(counts[view]):
                    stop = start + 3 * size * size
                    out = destination[row, start:stop].reshape((3, size, size))
                    key = view_key(streams[view], epoch, np.int64(sample), drawing)
                    if is_cubic[view]:
                        crop_bicubic(pixels, height, width, crop_tables[view], key, out)
                    else:
                        crop_bilinear(pixels, height, width, crop_tables[view], key, out)
                    recolor(out, color_tables[view], key, scratch)
                    start = stop
        return destination[: len(batch_indices)]

    decode.is_parallel = True  # type: ignore[attr-defined]
    return decode
