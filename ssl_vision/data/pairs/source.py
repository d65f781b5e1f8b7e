"""Pairs of images as a data set: two rows of a source of images each."""

import numpy as np

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.two_views import WarpedSource
from ssl_vision.data.source import JoinedSource, Source, digest
from ssl_vision.errors import DataError
from ssl_vision.randomness import derive_key


class PairSource(Source):
    """Numbered pairs; a sample is both images, uint8, (2, H, W, 3).

    Args:
        images: All images.
        pairs: Rows of the first and second image of each pair, int64, (n, 2).
        notes: What was chosen when they were found, a line each.
        left_out: What is no pair, as its partner is missing: names, and reasons.
    """

    modality = "pairs"

    def __init__(
        self,
        images: Source,
        pairs: np.ndarray,
        *,
        notes: tuple[str, ...] = (),
        left_out: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.images, self.pairs = images, np.asarray(pairs, np.int64)
        self.left_out = left_out
        self.notes, self.class_names = (*images.notes, *notes), []
        self.decided, self.is_identified = images.decided, images.is_identified

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Names of both images."""
        first, second = self.pairs[index].tolist()
        return f"{self.images.name(first)} and {self.images.name(second)}"

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of all images and of which belong together."""
        return digest(self.images.fingerprint(num_threads=num_threads), self.pairs)

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """Both images of a pair, uint8, (2, H, W, 3).

        Raises:
            DataError: With the reason: one cannot be read, they differ in size, or they are one.
        """
        decoder = decoder or Decoder()
        first, second = self.pairs[index].tolist()
        pixels = self._image(first, decoder).copy()  # a decoder's memory is the next image's
        others = self._image(second, decoder)
        if pixels.shape != others.shape:
            raise DataError(
                f"its images are of {_size(pixels)} and {_size(others)} px; a pair has one size"
            )
        if np.array_equal(pixels, others):
            raise DataError("its images are the same picture twice")
        return np.stack([pixels, others])

    def read_ahead(self, indices: np.ndarray) -> None:
        """Pass the hint on."""
        self.images.read_ahead(self.pairs[indices].ravel())

    def _image(self, row: int, decoder: Decoder) -> np.ndarray:
        try:
            return self.images.sample(row, decoder)
        except DataError as error:
            raise DataError(f"{self.images.name(row)}: {error}") from error


def warped_pairs(images: Source, *, warp: float) -> PairSource:
    """Single images beside themselves under a fixed homography each: a smoke test, no geometry.

    Args:
        images: The images.
        warp: How far each corner of the view may move, as a share of its sides.
    """
    warped = WarpedSource(images, strength=warp, key=derive_key("smoke test"))
    rows = np.arange(len(images))
    note = (
        f"data.smoke_test_warp={warp:g}: pairs are {len(images)} images beside themselves under "
        "homographies. That tries the method; it teaches no geometry."
    )
    pairs = np.stack([rows, rows + len(images)], axis=1)
    return PairSource(JoinedSource([images, warped]), pairs, notes=(note,))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
