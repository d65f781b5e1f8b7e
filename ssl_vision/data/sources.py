"""What a data set is to the loader, and the door that finds one by path or name."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.errors import DataError

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
    """

    labels: np.ndarray | None = None
    class_names: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a sample in messages: its path where it has one."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest that changes when the data set does."""

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

    def cloud(self, index: int) -> np.ndarray:
        """One point cloud, float32, (M, 3), of a source that has them.

        Raises:
            DataError: With the reason, if there is none.
        """
        raise DataError(f"{self.name(index)} is an image, not a point cloud.")

    def raw_block(self, indices: np.ndarray) -> RawBlock | None:
        """The images in memory, where they need no decoding; else None."""
        return None

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

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Name in the whole source."""
        return self.source.name(int(self.indices[index]))

    def fingerprint(self) -> str:
        """Digest of the whole source and of the choice."""
        return digest(self.source.fingerprint(), self.indices)

    def pixels(self, index: int, decoder: Decoder) -> np.ndarray:
        """One image of the whole source."""
        return self.source.pixels(int(self.indices[index]), decoder)

    def encoded(self, index: int) -> bytes | None:
        """File bytes in the whole source."""
        return self.source.encoded(int(self.indices[index]))

    def cloud(self, index: int) -> np.ndarray:
        """One cloud of the whole source."""
        return self.source.cloud(int(self.indices[index]))

    def raw_block(self, indices: np.ndarray) -> RawBlock | None:
        """The images in memory, where the whole source has them there."""
        return self.source.raw_block(self.indices[indices])

    def read_ahead(self, indices: np.ndarray) -> None:
        """Pass the hint on."""
        self.source.read_ahead(self.indices[indices])


def digest(*parts: str | np.ndarray) -> str:
    """Short hex digest of strings and arrays."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
        state.update(b"\x00")
    return state.hexdigest()[:16]


class NotSplitError(DataError):
    """Training and test samples were not told apart at a path: it holds one whole."""


def build_source(path: str, *, split: Split = "train", download: bool = False) -> Source:
    """The data set at a path, or of a name.

    Args:
        path: `digits` or `mnist5k` (built in); a torchvision name (cifar10, cifar100, stl10,
            imagenette, flowers102); a .beton file; or a folder. A folder that holds `train` and
            `val` folders (or train.beton and val.beton) is entered by `split`.
        split: Which part.
        download: Whether a named data set may be fetched.

    Raises:
        DataError: If there is nothing of that name, or no such split; NotSplitError if it holds
            one whole and split is not train.
    """
    from ssl_vision.data.arrays import BUILTIN
    from ssl_vision.data.torchvision_sets import NAMES, load_torchvision

    if path in BUILTIN:
        return BUILTIN[path](split)
    if path in NAMES:
        return load_torchvision(path, split=split, download=download)
    return _from_disk(Path(path).expanduser(), split)


def _from_disk(path: Path, split: Split) -> Source:
    from ssl_vision.data.arrays import BUILTIN
    from ssl_vision.data.folder import FolderSource
    from ssl_vision.data.torchvision_sets import NAMES

    if not path.exists():
        names = ", ".join([*BUILTIN, *NAMES])
        raise DataError(
            f"data path {str(path)!r} does not exist; give a folder of images, a .beton file, "
            f"or one of {names}."
        )
    if path.is_file():
        return _from_file(path, split)
    part = find_split(path, split)
    if part is None:
        kind = NotSplitError if find_split(path, "train") == path else DataError
        raise kind(f"{path} has no folder 'val' (or 'validation', 'test') or val.beton.")
    return _from_file(part, "train") if part.is_file() else FolderSource(part)


def _from_file(path: Path, split: Split) -> Source:
    if path.suffix != ".beton":
        raise DataError(f"{path} is neither a folder of images nor a .beton file.")
    if split != "train":
        raise NotSplitError(f"{path} is one split; give the other as data.val_path.")
    from ssl_vision.data.beton import BetonSource

    return BetonSource(path)


def find_split(path: Path, split: Split) -> Path | None:
    """The part of a folder that holds a split; the folder itself if it is not split."""
    names = ["train"] if split == "train" else ["val", "validation", "test"]
    for name in names:
        for part in (path / name, path / f"{name}.beton"):
            if part.exists():
                return part
    return path if split == "train" else None
