"""Reading .beton files, and the multi-view decoder for people's own ffcv pipelines.

The reader needs no ffcv. `multi_view_decoder` does, and is the only place that imports it.
"""

import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np

from ssl_vision.data.beton_format import JPG, RAW, read_index
from ssl_vision.data.decode import Decoder
from ssl_vision.data.sources import RawBlock, Source, digest
from ssl_vision.errors import DataError

_READ_AHEAD_BYTES = 16 << 10  # mean sample size from which hints pay


def index_path(path: Path) -> Path:
    """Sidecar with class names and totals."""
    return path.with_name(path.name + ".json")


def names_path(path: Path) -> Path:
    """Sidecar with the original path of each sample, one JSON string a line."""
    return path.with_name(path.name + ".names")


class BetonSource(Source):
    """Samples of a .beton file, written by this package or by ffcv."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        index = read_index(self.path)
        self.page_size = index.page_size
        self._modes = index.images["mode"].copy()
        self._heights = index.images["height"].astype(np.int64)
        self._widths = index.images["width"].astype(np.int64)
        self._pointers = index.images["data_ptr"].astype(np.int64)
        self._sizes = index.sizes
        self._stored_labels = index.labels
        self._map = np.memmap(self.path, np.uint8, mode="r")
        self._descriptor = os.open(self.path, os.O_RDONLY)
        self._hints = bool(self._sizes.mean() >= _READ_AHEAD_BYTES)
        self.class_names = self._read_sidecar()
        self.labels = self._usable_labels()

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self._sizes)

    def _read_sidecar(self) -> list[str]:
        """Class names; empty without a sidecar."""
        path = index_path(self.path)
        if not path.exists():
            return []
        try:
            content = json.loads(path.read_text())
            written_for, names = content["fingerprint"], list(content["class_names"])
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it or pack again.") from error
        if written_for != self.fingerprint():
            raise DataError(f"{path} belongs to another .beton file; delete it or pack again.")
        return names

    def _usable_labels(self) -> np.ndarray | None:
        labels = self._stored_labels
        if labels is None or labels.max() < 0:  # -1 stands for none
            return None
        known = self.class_names
        self.class_names = known or [str(label) for label in range(int(labels.max()) + 1)]
        return labels

    @cached_property
    def _names(self) -> list[str]:
        path = names_path(self.path)
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def name(self, index: int) -> str:
        """File and row, and the original path where the sidecar knows it."""
        original = f" = {self._names[index]}" if index < len(self._names) else ""
        return f"{self.path}[{index}]{original}"

    def fingerprint(self) -> str:
        """Digest of sizes, places and labels of all samples."""
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
        size = int(self._sizes[index])
        try:
            # pread and not the map: a page fault on cold data would hold the GIL, and a file
            # cut off meanwhile would kill the process.
            data = os.pread(self._descriptor, size, int(self._pointers[index]))
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error
        if len(data) != size:
            raise DataError(f"{len(data)} of {size} bytes are left in the file")
        return data

    def pixels(self, index: int, decoder: Decoder) -> np.ndarray:
        """One image; a raw one as it lies in the file."""
        data = self.encoded(index)
        height, width = int(self._heights[index]), int(self._widths[index])
        if data is None:
            start = int(self._pointers[index])
            return self._map[start : start + height * width * 3].reshape(height, width, 3)
        pixels = decoder.decode(data)
        if pixels.shape != (height, width, 3):
            raise DataError(
                f"stored as {width}x{height}, decoded as {pixels.shape[1]}x{pixels.shape[0]}"
            )
        return pixels

    def raw_block(self, indices: np.ndarray) -> RawBlock | None:
        """Where the images lie in the mapped file, if all of them are raw."""
        if np.any(self._modes[indices] == JPG):
            return None
        addresses = self._map.ctypes.data + self._pointers[indices]
        return RawBlock(addresses, self._heights[indices], self._widths[indices])

    def read_ahead(self, indices: np.ndarray) -> None:
        """Ask the system to start reading these samples."""
        if self._hints and hasattr(os, "posix_fadvise"):
            for start, size in zip(self._pointers[indices], self._sizes[indices], strict=True):
                os.posix_fadvise(self._descriptor, int(start), int(size), os.POSIX_FADV_WILLNEED)
