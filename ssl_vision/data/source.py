"""The contract of every data set: numbered samples with optional labels."""

import hashlib
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.data.levels import Decided
from ssl_vision.errors import DataError
from ssl_vision.files import open_regular

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
    """Numbered samples with optional labels; reading is safe from many threads.

    Attributes:
        modality: What the samples are: a key of `MODALITIES`.
        labels: Class of each sample, int64, (n,); None where there are none.
        class_names: Name of each class; empty without labels.
        notes: What was chosen, or left out, when it was opened: a line each.
        no_labels_because: Why there are no labels where there seem to be classes; else empty.
        decided: What was decided when the samples were packed, where that is known.
        only_class: Name of the one folder all samples lie in; a class, if others hold that it is.
        is_identified: Whether the fingerprint tells any other content, so that caches may trust it.
    """

    modality: str = "images"
    labels: np.ndarray | None = None
    class_names: list[str]
    notes: tuple[str, ...] = ()
    no_labels_because: str = ""
    decided: Decided | None = None
    only_class: str | None = None
    is_identified: bool = True

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
    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One sample, contiguous: an image, uint8, (H, W, 3), or a cloud, float32, (M, 3).

        Args:
            index: Its number.
            decoder: Of image files; a thread that reads many has one of its own, and the image is
                valid until its next one. None makes one. Other samples need none.

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

    def content_keys(self) -> np.ndarray | None:
        """What tells the files of samples apart by content, S16, (n,), empty for an empty file.

        None before a fingerprint read them, and where a sample has no file of its own.
        """
        return None

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
        self.modality = source.modality
        self.labels = None if source.labels is None else source.labels[self.indices]
        self.class_names = source.class_names
        self.notes, self.only_class = source.notes, source.only_class
        self.no_labels_because, self.decided = source.no_labels_because, source.decided
        self.is_identified = source.is_identified

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

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One sample of the whole source."""
        return self.source.sample(int(self.indices[index]), decoder)

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

    def content_keys(self) -> np.ndarray | None:
        """Of the whole source, where it has them."""
        keys = self.source.content_keys()
        return None if keys is None else keys[self.indices]

    def raw_block(self, indices: np.ndarray) -> RawBlock | None:
        """The images in memory, where the whole source has them there."""
        return self.source.raw_block(self.indices[indices])

    def is_intact(self) -> bool:
        """Of the whole source."""
        return self.source.is_intact()

    def read_ahead(self, indices: np.ndarray) -> None:
        """Pass the hint on."""
        self.source.read_ahead(self.indices[indices])


class JoinedSource(Source):
    """Samples of several sources, one source behind the other; without labels."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts, self.class_names = list(parts), []
        self.modality = self.parts[0].modality
        self.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        return part, index - int(self._ends[number]) + len(part)

    def name(self, index: int) -> str:
        """Name in its own source."""
        part, row = self._at(index)
        return part.name(row)

    def file(self, index: int) -> str | None:
        """File in its own source."""
        part, row = self._at(index)
        return part.file(row)

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of all parts."""
        return digest(*(part.fingerprint(num_threads=num_threads) for part in self.parts))

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One sample of its own source."""
        part, row = self._at(index)
        return part.sample(row, decoder)


def digest(*parts: str | np.ndarray) -> str:
    """Short hex digest of strings and arrays."""
    state = hashlib.sha256()
    for part in parts:
        # Names of files may hold bytes that are no UTF-8; they stand in strings as surrogates.
        text = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else None
        state.update(np.ascontiguousarray(part).data if text is None else text)
        state.update(b"\x00")
    return state.hexdigest()[:16]


def class_name(text: str) -> str:
    """A class's name as it is compared: composed (NFC), however a file system wrote it."""
    return unicodedata.normalize("NFC", text)
