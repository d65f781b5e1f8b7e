"""Depth as files: metres from .npy, or from pictures of 16 bits by a scale that is stated."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_vision.data.decode import upright_size
from ssl_vision.data.images.partners import Kind, opened
from ssl_vision.errors import DataError
from ssl_vision.files import open_regular, shown

_FORMATS = ("PNG", "TIFF")


def depth_size(path: Path) -> tuple[int, int]:
    """Height and width of a depth map, from its header.

    Raises:
        DataError: It cannot be read.
    """
    if path.suffix.lower() != ".npy":
        return upright_size(path)
    height, width = _plane(_load(path), path).shape
    return height, width


DEPTHS = Kind(
    word="depth map", key="depth", suffixes=(".npy", ".png", ".tif", ".tiff"), size=depth_size
)


def read_depth(path: Path, *, scale: float) -> NDArray[np.float32]:
    """Depth in metres, (H, W); NaN where nothing was measured (0, below, or not finite).

    Args:
        path: A .npy of (H, W), or a picture of one band.
        scale: Metres of one unit of whole numbers; floating-point numbers are metres.

    Raises:
        DataError: It cannot be read, or has no depth at all.
    """
    values = _load(path) if path.suffix.lower() == ".npy" else _picture(path)
    values = _plane(values, path)
    unit = 1.0 if values.dtype.kind == "f" else scale
    depth = values.astype(np.float32) * np.float32(unit)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    if np.isnan(depth).all():
        raise DataError(
            f"{shown(str(path))} has no depth: all its values are 0, below, or not finite; leave "
            "its image out."
        )
    return depth


def _load(path: Path) -> NDArray[np.generic]:
    try:
        with open_regular(path) as file:
            found: NDArray[np.generic] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{shown(str(path))} cannot be read as depth: {reason}.") from error
    return found


def _picture(path: Path) -> NDArray[np.generic]:
    with opened(path, formats=_FORMATS, wanted="depth") as image:
        if image.mode not in ("I", "F", "L") and not image.mode.startswith("I;16"):
            raise DataError(
                f"{shown(str(path))} is a picture of colours ({image.mode}), no depth; wanted "
                "is one band of 16 bits, or .npy in metres."
            )
        return np.asarray(image)


def _plane(values: NDArray[np.generic], path: Path) -> NDArray[np.generic]:
    """(H, W) of (H, W), (H, W, 1) or (1, H, W)."""
    plane = values
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        plane = values[..., 0] if values.shape[2] == 1 else values[0]
    if plane.ndim != 2 or plane.dtype.kind not in "fiu" or plane.size == 0:
        raise DataError(
            f"{shown(str(path))} has {values.dtype} of shape {values.shape}; depth is numbers of "
            "(H, W)."
        )
    return plane
