"""The same place in two views, by the nearest patch: a test of features without any training.

Each patch of the first view whose centre is seen in the second is matched to the patch of the
second that is nearest by cosine. Distances are in pixels of the network's input, to which both
views are scaled, between the centre of the match and the true place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from ssl_vision.bounds import check_bounds, check_some
from ssl_vision.data.images.two_views import Correspondence, Geometry, Points
from ssl_vision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CorrespondConfig:
    """Nearest patches across two views."""

    pairs: str | None = (
        None  # table (.csv) with the columns first, second, geometry, or a folder in
    )
    # HPatches' layout; None: test images beside themselves under random homographies
    within_px: tuple[float, ...] = (
        8,
        16,
        32,
    )  # distances that count as right, of the input's pixels
    reported_px: float | None = None  # the one that is quoted; None: 16, or the first
    max_pairs: int = 1000  # of images under homographies, a fixed draw
    warp: float = 0.3  # of homographies: most that a corner is moved inwards, share of a side

    def __post_init__(self) -> None:
        check_some("correspond.within_px", self.within_px)
        check_bounds("correspond.within_px", self.within_px, above=0)
        if self.reported_px is not None and self.reported_px not in self.within_px:
            raise ConfigError(
                f"correspond.reported_px={self.reported_px:g} is not in correspond.within_px="
                f"{list(self.within_px)}."
            )
        check_bounds("correspond.max_pairs", self.max_pairs, least=1)
        check_bounds("correspond.warp", self.warp, above=0, most=0.45)

    @property
    def quoted_px(self) -> float:
        """The distance whose share is the result."""
        return self.reported_px or (16 if 16 in self.within_px else self.within_px[0])


class View(NamedTuple):
    """Patches of a view.

    Attributes:
        patches: (side^2, D), row-major.
        size: Height and width of the image.
    """

    patches: Tensor
    size: tuple[int, int]

    @property
    def side(self) -> int:
        """Patches along a side."""
        return round(len(self.patches) ** 0.5)


class Matches(NamedTuple):
    """Where places of a first view were found in the second.

    Attributes:
        first: The places that are seen in both, (n, 2), in pixels of the first image.
        second: Where they are in the second image, (n, 2).
        found: Centres of the matched patches, (n, 2), in pixels of the second image.
        errors_px: From `found` to `second`, in pixels of the network's input, (n,).
        still_px: The same if all had stayed at their share of the image.
        centers_px: From every patch's centre to `second`, (n, side^2): of guesses, and the best.
    """

    first: Points
    second: Points
    found: Points
    errors_px: NDArray[np.float64]
    still_px: NDArray[np.float64]
    centers_px: NDArray[np.float64]


def patch_centers(side: int, size: tuple[int, int]) -> Points:
    """Centres of the patches of an image of a size (H, W), row-major, (side^2, 2), x and y."""
    y, x = (((np.arange(side) + 0.5) / side) * length for length in size)
    return np.stack([np.tile(x, side), np.repeat(y, side)], axis=1)


def match_views(first: View, second: View, geometry: Geometry, *, size_px: int) -> Matches:
    """Match the centres of the first view's patches, or the points that a geometry has."""
    places = geometry.at(patch_centers(first.side, first.size))
    return match_places(first, second, places, size_px=size_px)


def match_places(first: View, second: View, places: Correspondence, *, size_px: int) -> Matches:
    """Match each place of the first view that is seen in the second.

    Args:
        first: Patches of the first view.
        second: Of the second.
        places: In both images; NaN, or outside an image, where a place is not seen.
        size_px: Side of the network's input.
    """
    is_seen = _is_inside(places.first, first.size) & _is_inside(places.second, second.size)
    start, end = places.first[is_seen], places.second[is_seen]
    scale = np.array([size_px / second.size[1], size_px / second.size[0]])
    centers = patch_centers(second.side, second.size)
    columns, rows = (start / [first.size[1], first.size[0]] * first.side).astype(int).T
    queries = first.patches[torch.from_numpy(rows * first.side + columns)]
    cosines = normalize(queries.double(), dim=1) @ normalize(second.patches.double(), dim=1).T
    found = centers[cosines.argmax(dim=1).cpu().numpy()]
    still = start / [first.size[1], first.size[0]] * [second.size[1], second.size[0]]
    return Matches(
        first=start,
        second=end,
        found=found,
        errors_px=_distance(found, end, scale),
        still_px=_distance(still, end, scale),
        centers_px=_distance(centers[None], end[:, None], scale),
    )


def _is_inside(places: Points, size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    is_within = (places >= 0) & (places < [width, height])  # NaN is nowhere
    return is_within[:, 0] & is_within[:, 1]


def _distance(a: Points, b: Points, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.linalg.norm((a - b) * scale, axis=-1)
    return found


class Shares(NamedTuple):
    """Shares of a pair's places within each distance, (distances,).

    Attributes:
        found: Of the matches.
        still: If nothing had moved.
        chance: Expected of patches drawn at random.
        best: Of the nearest centres of patches: no match can be better.
    """

    found: NDArray[np.float64]
    still: NDArray[np.float64]
    chance: NDArray[np.float64]
    best: NDArray[np.float64]


def shares_within(matches: Matches, within_px: Sequence[float]) -> Shares:
    """Shares of a pair's places within each distance."""

    def share(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([(distances <= limit).mean() for limit in within_px])

    return Shares(
        found=share(matches.errors_px),
        still=share(matches.still_px),
        chance=share(matches.centers_px),
        best=share(matches.centers_px.min(axis=1)),
    )
