"""Photos of a scene in any order: which of them show the same, by matched local features.

SIFT features (Lowe 2004) that are each other's nearest and clearly nearer than the next, kept if
one fundamental matrix explains them (RANSAC). Needs OpenCV.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.files import FilesSource
from ssl_vision.errors import ConfigError

_MAX_SIDE_PX = 640  # photos are matched at this size at most
_NUM_FEATURES = 2000
_RATIO = 0.8  # of the distances to the nearest and the next: Lowe's
_ERROR_PX = 1.5  # off the epipolar line
_CONFIDENCE = 0.999

Points = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Described:
    """Local features of a photo.

    Attributes:
        points: Where they are, px of the photo as it was matched, (n, 2).
        descriptors: What they look like, (n, 128).
        size: Height and width at which it was matched.
        shape: Height and width of the photo.
    """

    points: Points
    descriptors: NDArray[np.float32]
    size: tuple[int, int]
    shape: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What two photos have in common.

    Attributes:
        num: Features that one geometry explains.
        share: Of the area of either photo that lies between them; the smaller of the two.
    """

    num: int
    share: float


NOTHING = Matched(num=0, share=0.0)


def opencv() -> Any:
    """The library.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "pairs of photos are found with OpenCV; pip install 'ssl-vision[pairs]'."
        ) from error
    return cv2


def describe(path: Path, decoder: Decoder) -> Described:
    """Local features of a photo.

    Raises:
        DataError: It cannot be read.
    """
    cv2 = opencv()
    pixels = FilesSource([path]).sample(0, decoder)
    shape = pixels.shape[:2]
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, _MAX_SIDE_PX / max(shape))
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found, descriptors = cv2.SIFT_create(nfeatures=_NUM_FEATURES).detectAndCompute(gray, None)
    return Described(
        points=np.array([each.pt for each in found], np.float32).reshape(-1, 2),
        descriptors=np.zeros((0, 128), np.float32) if descriptors is None else descriptors,
        size=gray.shape,
        shape=shape,
    )


def match(first: Described, second: Described) -> Matched:
    """What two photos have in common; the same draws of RANSAC each time."""
    cv2 = opencv()
    rows, others = _mutual(first.descriptors, second.descriptors)
    if len(rows) < 8:  # of which a fundamental matrix is made
        return NOTHING
    a, b = first.points[rows], second.points[others]
    cv2.setRNGSeed(0)
    _, mask = cv2.findFundamentalMat(a, b, cv2.FM_RANSAC, _ERROR_PX, _CONFIDENCE)
    if mask is None:
        return NOTHING
    kept = mask.ravel().astype(bool)
    shares = [
        cv2.contourArea(cv2.convexHull(points[kept])) / (size[0] * size[1]) if kept.any() else 0.0
        for points, size in ((a, first.size), (b, second.size))
    ]
    return Matched(num=int(kept.sum()), share=min(shares))


def _mutual(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows that are each other's nearest, and clearly nearer than the next."""
    if len(first) < 2 or len(second) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    nearest, rows = squares.argmin(axis=1), np.arange(len(first))
    two = np.sqrt(np.maximum(np.partition(squares, 1, axis=1)[:, :2], 0))
    is_kept = (two[:, 0] < _RATIO * two[:, 1]) & (squares.argmin(axis=0)[nearest] == rows)
    return rows[is_kept], nearest[is_kept]
