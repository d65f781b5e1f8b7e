"""What a data set is to the loader, and the door that finds one by path or name."""

import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.splits import VAL_NAMES, NotSplitError, NoValSplitError, find_splits
from ssl_vision.errors import DataError
from ssl_vision.files import open_regular

_PACKED = ".beton"
Split = Literal["train", "val"]


class RawBlock(NamedTuple):
    """Decoded images as they lie in memory, for the kernels.

    Attributes:
        addresses: First byte of each image (interleaved RGB, uint8), int64, (n,).
        heights: In pixels, int64, (n,).
        widths: In pixels, int64, (n,).
    """

    addresses: np.ndarray
    heights: np.ndarray
    widths: np.ndarray


class Source(ABC):
    """Numbered images with optional labels; reading is safe from many threads.

    Attributes:
        labels: Class of each sample, int64, (n,); None where there are none.
        class_names: Name of each class; empty without labels.
        notes: What was chosen, or left out, when it was opened: a line each.
        no_labels_because: Why there are no labels where there seem to be classes; else empty.
        only_class: Name of the one folder all samples lie in; a class, if others hold that it is.
    """

    labels: np.ndarray | None = None
    class_names: list[str]
    notes: tuple[str, ...] = ()
    no_labels_because: str = ""
    only_class: str | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a sample in messages: its path where it has one."""

    @abstractmethod
    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest that changes when the data set does.

        Args:
            num_threads: That read files; by default one per core.
        """

    def former_fingerprint(self) -> str:
        """Digest by the rule before contents counted; for runs that were saved with it."""
        return self.fingerprint()

    @abstractmethod
    def pixels(self, index: int, decoder: Decoder) -> np.ndarray:
        """One image, uint8, (H, W, 3), contiguous; valid until the decoder's next image.

        Raises:
            DataError: With the reason, if the sample cannot be read.
        """

    def encoded(self, index: int) -> bytes | None:
        """The bytes of a sample's image file, where there is one.

        Raises:
            DataError: With the reason, if they cannot be read.
        """
        return None

    def file(self, index: int) -> str | None:
        """Path of the file that holds this sample alone, where there is one."""
        return None

    def num_bytes(self, index: int) -> int | None:
        """Bytes of a sample as it is stored; None where it is not, or is not there."""
        path = self.file(index)
        try:
            return None if path is None else os.stat(path).st_size
        except OSError:
            return None

    def stored(self, index: int, start: int, stop: int) -> bytes:
        """Some of the bytes of a sample as it is stored, where `num_bytes` counts them.

        Raises:
            DataError: If they cannot be read.
        """
        path = self.file(index)
        if path is None:
            raise DataError(f"{self.name(index)} is not stored.")
        try:
            with open_regular(path) as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error

    def cloud(self, index: int) -> np.ndarray:
        """One point cloud, float32, (M, 3), of a source that has them.

        Raises:
            DataError: With the reason, if there is none.
        """
        raise DataError(f"{self.name(index)} is an image, not a point cloud.")

    def raw_block(self, indices: np.ndarray) -> RawBlock | None:
        """The images in memory, where they need no decoding; else None.

        Whoever reads them asks `is_intact` afterwards.
        """
        return None

    def is_intact(self) -> bool:
        """Whether the memory of all blocks so far held the images; else what was read is void."""
        return True

    def read_ahead(self, indices: np.ndarray) -> None:
        """Hint that these samples are wanted soon; nothing, unless a source knows how."""
        return


class SubsetSource(Source):
    """Some samples of another source, renumbered from 0."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.labels = None if source.labels is None else source.labels[self.indices]
        self.class_names = source.class_names
        self.notes, self.only_class = source.notes, source.only_class
        self.no_labels_because = source.no_labels_because

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Name in the whole source."""
        return self.source.name(int(self.indices[index]))

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of the whole source and of the choice."""
        return digest(self.source.fingerprint(num_threads=num_threads), self.indices)

    def former_fingerprint(self) -> str:
        """Likewise by the former rule."""
        return digest(self.source.former_fingerprint(), self.indices)

    def pixels(self, index: int, decoder: Decoder) -> np.ndarray:
        """One image of the whole source."""
        return self.source.pixels(int(self.indices[index]), decoder)

    def encoded(self, index: int) -> bytes | None:
        """File bytes in the whole source."""
        return self.source.encoded(int(self.indices[index]))

    def file(self, index: int) -> str | None:
        """File in the whole source."""
        return self.source.file(int(self.indices[index]))

    def num_bytes(self, index: int) -> int | None:
        """Bytes in the whole source."""
        return self.source.num_bytes(int(self.indices[index]))

    def stored(self, index: int, start: int, stop: int) -> bytes:
        """Bytes in the whole source."""
        return self.source.stored(int(self.indices[index]), start, stop)

    def cloud(self, index: int) -> np.ndarray:
        """One cloud of the whole source."""
        return self.source.cloud(int(self.indices[index]))

    def raw_block(self, indices: np.ndarray) -> RawBlock | None:
        """The images in memory, where the whole source has them there."""
        return self.source.raw_block(self.indices[indices])

    def is_intact(self) -> bool:
        """Of the whole source."""
        return self.source.is_intact()

    def read_ahead(self, indices: np.ndarray) -> None:
        """Pass the hint on."""
        self.source.read_ahead(self.indices[indices])


def digest(*parts: str | np.ndarray) -> str:
    """Short hex digest of strings and arrays."""
    state = hashlib.sha256()
    for part in parts:
        # Names of files may hold bytes that are no UTF-8; they stand in strings as surrogates.
        text = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else None
        state.update(np.ascontiguousarray(part).data if text is None else text)
        state.update(b"\x00")
    return state.hexdigest()[:16]


def build_source(
    path: str, *, split: Split = "train", download: bool = False, decode: DecodeConfig = DEFAULT
) -> Source:
    """The data set at a path, or of a name.

    Args:
        path: `digits` or `mnist5k` (built in); a torchvision name (cifar10, cifar100, stl10,
            imagenette, flowers102); a .beton file; or a folder. A folder that holds `train` and
            `val` folders (or train.beton and val.beton) is entered by `split`; see `find_splits`.
        split: Which part.
        download: Whether a named data set may be fetched.
        decode: What image files mean where their format leaves it open; a .beton file holds what
            was decided when it was packed.

    Raises:
        DataError: If there is nothing of that name, or no such split; NoValSplitError if there is
            only a training split, NotSplitError if it holds one whole.
    """
    from ssl_vision.data.images.arrays import BUILTIN
    from ssl_vision.data.images.torchvision_sets import NAMES, load_torchvision

    if path in BUILTIN:
        return BUILTIN[path](split)
    if path in NAMES:
        return load_torchvision(path, split=split, download=download, decode=decode)
    return _from_disk(Path(path).expanduser(), split, decode)


def _from_disk(path: Path, split: Split, decode: DecodeConfig) -> Source:
    from ssl_vision.data.images.arrays import BUILTIN
    from ssl_vision.data.images.folder import FolderSource, holds_images
    from ssl_vision.data.images.torchvision_sets import NAMES

    if not path.exists():
        names = ", ".join([*BUILTIN, *NAMES])
        raise DataError(
            f"data path {str(path)!r} does not exist; give a folder of images, a .beton file, "
            f"or one of {names}."
        )
    if path.is_file():
        return _from_file(path, split)
    splits = find_splits(path, holds=holds_images, suffixes=(_PACKED,))
    part = splits.train if split == "train" else splits.val
    if part is None:
        kind = NotSplitError if splits.train == path else NoValSplitError
        others = "', '".join(VAL_NAMES[1:])
        raise kind(f"{path} has no folder '{VAL_NAMES[0]}' (or '{others}') or val{_PACKED}.")
    source = _from_file(part, "train") if part.is_file() else FolderSource(part, decode=decode)
    if split == "train":
        source.notes = (*splits.notes, *source.notes)
    return source


def _from_file(path: Path, split: Split) -> Source:
    if path.suffix.lower() != _PACKED:
        raise DataError(f"{path} is neither a folder of images nor a .beton file.")
    if split != "train":
        raise NotSplitError(f"{path} is one split; give the other as data.val_path.")
    from ssl_vision.data.images.beton import BetonSource

    return BetonSource(path)
