"""Rooms on the disk: views in pairs with depth, classes, poses and where places went.

| below OUT | what |
|---|---|
| `images/SPLIT/ROOM_PAIR_1.png`, `.._2.png` | two views of one room |
| `images/SPLIT/transforms.json` | poses, intrinsics and depth files; a room's scene is its own |
| `depth/SPLIT/` | 16 bits, millimetres along the camera's axis |
| `masks/SPLIT/`, `classes.csv` | class of each pixel |
| `correspond.csv`, `flow/` | of test pairs: where each pixel of the first is in the second |
"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rooms.catalogue import KINDS

from ssl_vision.data.pairs.posed import POSES
from ssl_vision.data.pairs.scenes import FOV, Boxes, Camera, Rendered, make_cameras
from ssl_vision.randomness import derive_key

DEPTH_SCALE = 0.001  # metres
_APART_M = 100.0  # between rooms, so that no two share a place
_SEEN_M = 0.05  # a place is seen if the depth there is no smaller by more, and 2 %
_MIN_SEEN = 0.1  # share of places; a pair below it tests no matching


class Room(NamedTuple):
    """Something to take pictures of.

    Attributes:
        boxes: The room and what is in it.
        kinds: Of each box, of `KINDS`; the room's own is not read.
        draw: The picture of a camera.
    """

    boxes: Boxes
    kinds: list[str]
    draw: Callable[[Camera], Rendered]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many views of how many rooms."""

    rooms: int
    val_rooms: int
    pairs: int  # of each room
    size_px: int
    seed: int


def write_rooms(out: Path, plan: Plan, room_of: Callable[[str, int], Room]) -> None:
    """Write all rooms of both splits.

    Args:
        out: Folder for them.
        plan: How many.
        room_of: The room of a split and number.
    """
    for split, num in (("train", plan.rooms), ("val", plan.val_rooms)):
        for part in ("images", "depth", "masks"):
            (out / part / split).mkdir(parents=True, exist_ok=True)
        frames: list[dict[str, object]] = []
        for number in range(num):
            frames += _write_room(out, split, number, plan, room_of(split, number))
        focal = plan.size_px / 2 / math.tan(FOV / 2)
        middle = plan.size_px / 2
        poses = {"fl_x": focal, "fl_y": focal, "cx": middle, "cy": middle, "frames": frames}
        (out / "images" / split / POSES).write_text(json.dumps(poses, indent=1) + "\n")
    _write_table(out / "classes.csv", [("name", "id"), *((k, i) for i, k in enumerate(KINDS))])
    _write_table(out / "correspond.csv", [("first", "second", "geometry"), *_test_pairs(out)])


def classes_of(found: Rendered, room: Room) -> np.ndarray:
    """Number among `KINDS` of each pixel, uint8, (S, S); the room is floor, wall or ceiling."""
    height, top = found.points[..., 1], 2 * room.boxes.halves[0, 1]
    shell = np.where(height < 0.01, "floor", np.where(height > top - 0.01, "ceiling", "wall"))
    kinds = np.where(found.boxes == 0, shell, np.array(room.kinds)[found.boxes])
    order = np.argsort(KINDS)
    places = order[np.searchsorted(np.array(KINDS)[order], kinds)]
    return places.astype(np.uint8)


def flow_between(first: Rendered, second: Rendered, camera: Camera) -> np.ndarray:
    """Pixels from each place of the first view to where the second sees it, float32, (S, S, 2).

    Args:
        first: What is to be found.
        second: Where it is looked for.
        camera: The second's.

    Returns:
        Columns and rows; NaN where the second view does not show the place.
    """
    size = len(first.image)
    local = (first.points - camera.position) @ camera.axes.T
    depth = np.where(local[..., 2] > 0, local[..., 2], np.nan)
    focal = size / 2 / math.tan(FOV / 2)
    x, y = (size / 2 + sign * focal * local[..., k] / depth for k, sign in ((0, 1), (1, -1)))
    is_inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)  # NaN is nowhere
    column, row = (np.where(is_inside, each, 0).astype(int) for each in (x, y))
    hidden_by = camera.depth_of(second.points)[row, column]
    is_seen = is_inside & (np.abs(hidden_by - depth) < _SEEN_M + 0.02 * hidden_by)
    rows, columns = np.mgrid[:size, :size] + 0.5
    flow = np.stack([x - columns, y - rows], axis=-1)
    flow[~is_seen] = np.nan
    return flow.astype(np.float32)


def _write_room(
    out: Path, split: str, number: int, plan: Plan, room: Room
) -> Iterator[dict[str, object]]:
    """Write the views of a room; its frames, as `transforms.json` has them."""
    for pair in range(plan.pairs):
        key = derive_key(plan.seed, "cameras", split, number, pair)
        cameras = make_cameras(room.boxes, np.random.default_rng(key))
        views = [room.draw(camera) for camera in cameras]
        stem = f"room{number:03d}_{pair}"
        for view, (camera, found) in enumerate(zip(cameras, views, strict=True), start=1):
            name = f"{stem}_{view}.png"
            depth = (camera.depth_of(found.points) / DEPTH_SCALE).round().astype(np.uint16)
            Image.fromarray(found.image).save(out / "images" / split / name)
            Image.fromarray(depth).save(out / "depth" / split / name)
            Image.fromarray(classes_of(found, room)).save(out / "masks" / split / name)
            yield {
                "file_path": name,
                "depth_file_path": f"../../depth/{split}/{name}",
                "transform_matrix": _pose(camera, shift=np.array([_APART_M * number, 0, 0])),
            }
        if split == "val":
            flow = flow_between(views[0], views[1], cameras[1])
            if np.isfinite(flow).all(axis=-1).mean() >= _MIN_SEEN:
                (out / "flow").mkdir(exist_ok=True)
                np.save(out / "flow" / f"{stem}.npy", flow)


def _pose(camera: Camera, *, shift: np.ndarray) -> list[list[float]]:
    """From the camera's right, up and backwards to the scene, (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3] = (camera.axes * np.array([[1], [1], [-1]])).T
    pose[:3, 3] = camera.position + shift
    matrix: list[list[float]] = pose.tolist()
    return matrix


def _test_pairs(out: Path) -> list[tuple[str, str, str]]:
    stems = sorted(path.stem for path in (out / "flow").glob("*.npy"))
    return [(f"images/val/{s}_1.png", f"images/val/{s}_2.png", f"flow/{s}.npy") for s in stems]


def _write_table(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
