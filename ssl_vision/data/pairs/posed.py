"""Renders or scans with depth and poses: which of them see the same places.

Poses are read from `transforms.json`, as NeRF data sets have it: `fl_x`, `fl_y`, `cx`, `cy` (for
all or of each frame) and `frames` with `file_path`, `depth_file_path` and `transform_matrix`, from
the camera's axes (right, up, backwards) to the scene's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ssl_vision.data.images.depth import read_depth
from ssl_vision.errors import DataError
from ssl_vision.files import read_json, shown

POSES = "transforms.json"
_MAX_BYTES = 1 << 30
_MAX_ASKED = 4000  # points of one view whose neighbours are sought; evenly spread, of more
_INTRINSICS = ("fl_x", "fl_y", "cx", "cy")

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image with its depth and camera.

    Attributes:
        image: Path, relative to the file of poses.
        depth: Likewise.
        intrinsics: Focal lengths and centre, px: fx, fy, cx, cy.
        pose: From the camera's axes to the scene's, (4, 4).
    """

    image: str
    depth: str
    intrinsics: tuple[float, float, float, float]
    pose: Array


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The places that a frame shows.

    Attributes:
        points: Metres, of the scene, (n, 3).
        tree: Of them.
        share_valid: Of the pixels that have a depth.
    """

    points: Array
    tree: cKDTree
    share_valid: float


def read_frames(root: Path) -> list[Frame]:
    """Frames of a folder's `transforms.json`, in its order.

    Raises:
        DataError: It cannot be read, or a frame lacks its depth, pose or intrinsics.
    """
    path = root / POSES
    found = read_json(path, error=DataError, max_bytes=_MAX_BYTES)
    frames = found.get("frames") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(frames, list) or not frames:
        raise DataError(f"{shown(path)} has no `frames`; see docs/pairs.md for its form.")
    return [_frame(each, found, f"{shown(path)}: frame {n}") for n, each in enumerate(frames)]


def _frame(frame: object, common: Mapping[str, object], where: str) -> Frame:
    if not isinstance(frame, dict):
        raise DataError(f"{where} is no object with file_path and transform_matrix.")
    for name in ("file_path", "depth_file_path"):
        if not isinstance(frame.get(name), str):
            raise DataError(f"{where} has no {name}; pairs of renders are chosen by their depth.")
    try:
        values = [float(frame.get(name, common.get(name))) for name in _INTRINSICS]
        pose = np.array(frame["transform_matrix"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} lacks {', '.join(_INTRINSICS)} or a transform_matrix of numbers."
        ) from error
    if pose.shape != (4, 4) or not np.isfinite(pose).all() or min(values[:2]) <= 0:
        raise DataError(f"{where} has no transform_matrix of 4 x 4, or a focal length below 0.")
    fx, fy, cx, cy = values
    return Frame(
        image=frame["file_path"],
        depth=frame["depth_file_path"],
        intrinsics=(fx, fy, cx, cy),
        pose=pose,
    )


def seen_by(frame: Frame, root: Path, *, depth_scale: float) -> Seen:
    """The places that a frame shows.

    Args:
        frame: The frame.
        root: Folder its paths start from.
        depth_scale: Metres of one unit of depth in whole numbers.

    Raises:
        DataError: Its depth cannot be read.
    """
    depth = read_depth(root / frame.depth, scale=depth_scale).astype(np.float64)
    fx, fy, cx, cy = frame.intrinsics
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    camera = np.stack([(columns - cx) / fx, -(rows - cy) / fy, -np.ones_like(depth)], axis=-1)
    is_valid = np.isfinite(depth)
    local = (camera * depth[..., None])[is_valid]
    points = local @ frame.pose[:3, :3].T + frame.pose[:3, 3]
    return Seen(points=points, tree=cKDTree(points), share_valid=float(is_valid.mean()))


def overlap(first: Seen, second: Seen, *, distance_m: float) -> float:
    """Share of what either view shows that the other shows, too: the smaller of the two.

    CroCo's rule (arXiv 2210.10716, section 3.3): a point is seen by the other view if a point of it
    lies within a distance, 5 cm.
    """
    return min(_share(a.points, b.tree, distance_m) for a, b in ((first, second), (second, first)))


def _share(points: Array, tree: cKDTree, distance_m: float) -> float:
    step = -(-len(points) // _MAX_ASKED)
    distance, _ = tree.query(points[::step], distance_upper_bound=distance_m)
    return float(np.isfinite(distance).mean())
