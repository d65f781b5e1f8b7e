"""Make pairs of people's own images: from depth and poses, or from photos in any order."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ssl_vision.bounds import check_bounds
from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.folder import list_images
from ssl_vision.data.pairs.layouts import fits_list
from ssl_vision.data.pairs.matched import Described, describe, match, opencv
from ssl_vision.data.pairs.posed import POSES, Frame, Seen, overlap, read_frames, seen_by
from ssl_vision.errors import DataError
from ssl_vision.files import shown

_Item = TypeVar("_Item")
_View = TypeVar("_View")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which two images are a pair; defaults for depth and poses are CroCo's."""

    min_overlap: float = 0.5  # share of either that the other shows; photos: a fifth is much
    max_overlap: float = 1.0  # above it two images are nearly the same
    min_valid: float = 0.7  # share of a render's pixels that have a depth
    distance_m: float = 0.05  # between points of two renders that are one place
    depth_scale: float = 0.001  # metres of one unit of depth in whole numbers (PNG)
    min_matches: int = 30  # local features of two photos that one geometry explains
    window: int | None = None  # tries images at most so many apart in order; null: all with all

    def __post_init__(self) -> None:
        for name in ("min_overlap", "max_overlap", "min_valid"):
            check_bounds(name, getattr(self, name), least=0, most=1)
        check_bounds("distance_m", self.distance_m, above=0)
        check_bounds("depth_scale", self.depth_scale, above=0)
        check_bounds("min_matches", self.min_matches, least=8)
        check_bounds("window", self.window, least=1)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was found.

    Attributes:
        pairs: Paths of each pair, relative to the folder, and their overlap.
        num_tried: Pairs that were compared.
        left_out: Why others are none -> how many.
        how: In words, by what they were compared.
        unreadable: Images that could not be looked at -> why.
    """

    pairs: tuple[tuple[str, str, float], ...]
    num_tried: int
    left_out: Counter[str]
    how: str
    unreadable: dict[str, str]


def make_pairs(root: Path, config: PairsConfig, *, progress: Progress) -> Made:
    """Pairs of the images of a folder.

    Args:
        root: The folder; with `transforms.json` in it depth and poses decide, else local features.
        config: What a pair is.
        progress: Is told pairs done, of how many.

    Raises:
        DataError: No images, or one has a name that no list can hold.
        ConfigError: OpenCV is needed, and is not installed.
    """
    if not root.is_dir():
        raise DataError(f"SOURCE {shown(root)} is no folder; give one of images.")
    if (root / POSES).is_file():
        return _of_renders(root, config, progress)
    return _of_photos(root, config, progress)


def _of_renders(root: Path, config: PairsConfig, progress: Progress) -> Made:
    def judge(first: Seen, second: Seen) -> tuple[float, str]:
        if min(first.share_valid, second.share_valid) < config.min_valid:
            return 0.0, f"depth in less than {config.min_valid:.0%} of the pixels"
        return _judged(overlap(first, second, distance_m=config.distance_m), config)

    def look(frame: Frame) -> Seen:
        return seen_by(frame, root, depth_scale=config.depth_scale)

    frames = read_frames(root)
    names = [frame.image for frame in frames]
    return _compare(frames, names, look, judge, config, progress, how="depth and poses")


def _of_photos(root: Path, config: PairsConfig, progress: Progress) -> Made:
    opencv()  # said before work is done
    names, decoder = list_images(root), Decoder()
    if not names:
        raise DataError(f"SOURCE {shown(root)} holds no image files.")

    def judge(first: Described, second: Described) -> tuple[float, str]:
        if first.shape != second.shape:
            return 0.0, "unequal sizes"
        found = match(first, second)
        if found.num < config.min_matches:
            return 0.0, f"fewer than {config.min_matches} matches"
        return _judged(found.share, config)

    def look(name: str) -> Described:
        return describe(root / name, decoder)

    return _compare(names, names, look, judge, config, progress, how="local features")


def _judged(share: float, config: PairsConfig) -> tuple[float, str]:
    """An overlap, and why it makes no pair; else empty."""
    if share < config.min_overlap:
        return share, f"overlap below {config.min_overlap:g}"
    if share > config.max_overlap:
        return share, f"overlap above {config.max_overlap:g}"
    return share, ""


def _compare(
    items: list[_Item],
    names: list[str],
    look: Callable[[_Item], _View],
    judge: Callable[[_View, _View], tuple[float, str]],
    config: PairsConfig,
    progress: Progress,
    *,
    how: str,
) -> Made:
    """Judge all pairs within the window; a view is looked at once, and kept while it is needed."""
    odd = next((name for name in names if not fits_list(name)), None)
    if odd is not None:
        raise DataError(
            f"SOURCE has an image {shown(odd)!r}; a list of pairs holds no names with tabs, line "
            "ends, bytes that are no UTF-8, or blanks around them. Rename it."
        )
    window = min(config.window or len(items), len(items))
    total = sum(min(window, len(items) - 1 - i) for i in range(len(items)))
    views: dict[int, Any] = {}
    pairs, reasons, unreadable = [], Counter[str](), dict[str, str]()
    for done, (i, j) in enumerate(_within(len(items), window), start=1):
        for row in (i, j):
            if row not in views:
                try:
                    views[row] = look(items[row])
                except DataError as error:  # of one image; hours of others are not lost for it
                    views[row], unreadable[names[row]] = None, str(error)
        share, reason = 0.0, "of an image that cannot be read"
        if views[i] is not None and views[j] is not None:
            share, reason = judge(views[i], views[j])
        if reason:
            reasons[reason] += 1
        else:
            pairs.append((names[i], names[j], share))
        if j == min(i + window, len(items) - 1):
            views.pop(i)
        progress(done, total)
    return Made(
        pairs=tuple(pairs), num_tried=total, left_out=reasons, how=how, unreadable=unreadable
    )


def _within(num: int, window: int) -> Iterator[tuple[int, int]]:
    for i in range(num):
        for j in range(i + 1, min(i + window, num - 1) + 1):
            yield i, j
