"""Rendered rooms: where things stand, what files say of a place, and that others can read them."""

import importlib.util
import json
import math
import subprocess
import sys
from filecmp import dircmp
from pathlib import Path

import numpy as np
import pytest
import render_rooms
from PIL import Image
from rooms.catalogue import FURNITURE, KINDS, Piece, _kind
from rooms.command import blocks
from rooms.furnish import furnish
from rooms.output import Plan, Room, classes_of, flow_between, write_rooms

from ssl_vision.data.decode import Decoder
from ssl_vision.data.find import find_source
from ssl_vision.data.images.depth import read_depth
from ssl_vision.data.images.two_views import read_geometry, read_pairs
from ssl_vision.data.pairs.config import PairData
from ssl_vision.data.pairs.posed import overlap, read_frames, seen_by
from ssl_vision.data.pairs.scenes import Boxes, Camera, make_cameras, make_scene, render, turned

TOOL = Path(render_rooms.__file__)


def _piece(kind: str, size: tuple[float, float, float], elevation: float = 0.0) -> Piece:
    return Piece(
        library=Path("none"), model=f"{kind}.obj", name=kind, kind=kind, size=size,
        elevation=elevation, top=size[1], rotation=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )  # fmt: skip


PIECES = [
    _piece("table", (1.4, 0.7, 0.8)),
    _piece("chair", (0.5, 0.9, 0.6)),
    _piece("cabinet", (1.0, 2.0, 0.4)),
    _piece("lamp", (0.4, 0.6, 0.4), 2.0),
    _piece("window", (1.2, 1.2, 0.1), 0.9),
    _piece("thing", (0.2, 0.3, 0.2)),
]


def _corners(boxes: Boxes, box: int) -> np.ndarray:
    signs = np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3)
    found: np.ndarray = boxes.centers[box] + (signs * boxes.halves[box]) @ boxes.axes[box]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_furniture_is_in_its_room_and_in_no_other_piece(seed: int) -> None:
    room = furnish(PIECES, np.random.default_rng(seed), can_use=lambda piece: True)
    boxes = room.boxes
    assert len(room.kinds) == len(boxes.centers) == len(room.pieces) + 1 > 6
    inner = np.random.default_rng(seed).uniform(-0.98, 0.98, (400, 3))
    for i in range(1, len(boxes.centers)):
        corners = _corners(boxes, i)
        assert (np.abs(corners - boxes.centers[0]) <= boxes.halves[0] + 1e-6).all()
        places = boxes.centers[i] + (inner * boxes.halves[i]) @ boxes.axes[i]
        for j in range(1, len(boxes.centers)):
            if j != i:
                local = np.abs((places - boxes.centers[j]) @ boxes.axes[j].T)
                assert not (local < boxes.halves[j] * 0.99).all(axis=1).any()


@pytest.mark.parametrize("seed", range(4))
def test_pieces_stand_where_their_kind_does(seed: int) -> None:
    room = furnish(PIECES, np.random.default_rng(seed), can_use=lambda piece: True)
    half = room.boxes.halves[0]
    for i, kind in enumerate(room.kinds[1:], start=1):
        corners = _corners(room.boxes, i)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if kind in ("table", "chair", "cabinet"):
            assert low[1] == pytest.approx(0, abs=1e-9)
        elif kind == "lamp":
            assert high[1] == pytest.approx(2 * half[1])
        elif kind == "window":  # its back at a wall, and it looks into the room
            front = room.boxes.axes[i][2]
            assert front @ (room.boxes.centers[i] * [1, 0, 1]) < 0
            assert min(np.abs(half[[0, 2]] - np.abs(corners[:, [0, 2]]).max(axis=0))) < 0.03
        else:
            assert low[1] > 0.5


def test_what_cannot_be_used_is_not_taken() -> None:
    room = furnish(PIECES, np.random.default_rng(0), can_use=lambda piece: piece.kind != "table")
    assert "table" not in room.kinds
    assert "cabinet" in room.kinds


@pytest.mark.parametrize(
    ("name", "category", "kind"),
    [
        ("Coffee table", "Living room", "table"),
        ("Table with tablecloth", "Living room", "table"),
        ("Sofa 3 seats", "Living room", "sofa"),
        ("Convertible sofa BZ", "Bedroom", "sofa"),
        ("Bedside table", "Bedroom", "table"),
        ("TV 16:9", "Living room", "appliance"),
        ("TV stand", "Living room", "cabinet"),
        ("Desk lamp", "Lights", "lamp"),
        ("Double window 3 panes", "Doors and windows", "window"),
        ("Exterior door", "Doors and windows", "door"),
        ("Washbasin", "Bathroom", "bathroom"),
        ("Rubik's cube", "Bedroom", "thing"),
    ],
)
def test_kinds_follow_from_names(name: str, category: str, kind: str) -> None:
    assert _kind(name, category) == kind in KINDS


# Blocks, which need no library -------------------------------------------------------------------


def _views(seed: int, size_px: int = 32):
    random = np.random.default_rng(seed)
    scene = make_scene(random)
    cameras = make_cameras(scene.boxes, random)
    return scene, cameras, [render(scene, camera, size_px=size_px) for camera in cameras]


@pytest.mark.parametrize("seed", range(4))
def test_flow_ends_at_the_place_it_started_from(seed: int) -> None:
    _, cameras, (first, second) = _views(seed)
    flow = flow_between(first, second, cameras[1])
    rows, columns = np.mgrid[:32, :32]
    seen = np.isfinite(flow).all(axis=-1)
    assert 0.2 < seen.mean() < 1
    ends = np.stack([columns, rows], axis=-1)[seen] + 0.5 + flow[seen]
    rays = [(x / 16 - 1, 1 - y / 16) for x, y in ends]
    reach = math.tan(math.radians(30))
    for (x, y), place in zip(rays[::9], first.points[seen][::9], strict=True):
        ray = np.array([reach * x, reach * y, 1.0]) @ cameras[1].axes
        toward = place - cameras[1].position
        assert np.cross(ray / np.linalg.norm(ray), toward / np.linalg.norm(toward)) == (
            pytest.approx(np.zeros(3), abs=1e-5)
        )
    # What is not seen has no place of the second view near it, or is behind its edge.
    gap = np.linalg.norm(first.points[:, :, None] - second.points.reshape(-1, 3), axis=-1).min(-1)
    assert (gap[seen] < 0.4).all()
    assert np.median(gap[~seen]) > 3 * np.median(gap[seen])


def test_classes_are_of_the_surfaces_a_ray_meets() -> None:
    scene, _, _ = _views(0)
    room = Room(scene.boxes, ["", *["table"] * (len(scene.boxes.centers) - 1)], None)
    middle = np.array([0.0, 1.5, 0.0])
    for ahead, kind in (([0, -1, 0.01], "floor"), ([0, 1, 0.01], "ceiling"), ([1, 0.3, 0], "wall")):
        forward = np.array(ahead) / np.linalg.norm(ahead)
        right = np.cross(forward, [0, 1, 0])
        right /= np.linalg.norm(right)
        camera = Camera(middle, np.stack([right, np.cross(right, forward), forward]))
        found = render(scene, camera, size_px=9)
        number = classes_of(found, room)[4, 4]
        assert KINDS[number] == ("table" if found.boxes[4, 4] else kind)
    assert turned(0.0) == pytest.approx(np.eye(3))


# The tool -----------------------------------------------------------------------------------------


def _rendered(out: Path, *words: str) -> Path:
    done = subprocess.run(
        [sys.executable, str(TOOL), str(out), "rooms=2", "val_rooms=1", "size_px=48", *words],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def _check_readers(out: Path) -> None:
    """Depth, poses, classes, flow and lists agree with one another, by what reads them."""
    for split in ("train", "val"):
        frames = read_frames(out / "images" / split)
        seen = [seen_by(frame, out / "images" / split, depth_scale=0.001) for frame in frames]
        for frame, places in zip(frames, seen, strict=True):
            mask = np.asarray(Image.open(out / "masks" / split / frame.image))
            assert places.share_valid == 1
            height = places.points.reshape(48, 48, 3)[..., 1]
            assert np.abs(height[mask == KINDS.index("floor")]).max(initial=0) < 0.015
            assert (height[mask != KINDS.index("floor")] > -0.005).all()
        kept = {tuple(line.split("\t")) for line in (out / f"{split}.txt").read_text().splitlines()}
        names = [f"images/{split}/{frame.image}" for frame in frames]
        for i, first in enumerate(seen):
            for j in range(i + 1, len(seen)):
                is_pair = overlap(first, seen[j], distance_m=0.05) >= 0.5
                assert ((names[i], names[j]) in kept) == is_pair
                assert not is_pair or names[i].split("_")[0] == names[j].split("_")[0]
    source = find_source(str(out), split="val", config=PairData(path=str(out)))
    assert source.sample(0, Decoder()).shape == (2, 48, 48, 3)


def _check_flow(out: Path) -> None:
    """Points of the first view, by its depth and pose, are where the flow says, by the second's."""
    frames = {frame.image: frame for frame in read_frames(out / "images/val")}
    for pair in read_pairs(out / "correspond.csv"):
        flow = read_geometry(pair).flow
        a, b = (frames[Path(name).name] for name in (pair.first, pair.second))
        points = seen_by(a, out / "images/val", depth_scale=0.001).points.reshape(48, 48, 3)
        local = (points - b.pose[:3, 3]) @ b.pose[:3, :3]
        fx, fy, cx, cy = b.intrinsics
        rows, columns = np.mgrid[:48, :48] + 0.5
        x, y = cx - fx * local[..., 0] / local[..., 2], cy + fy * local[..., 1] / local[..., 2]
        moved = np.stack([x - columns, y - rows], axis=-1)
        is_seen = np.isfinite(flow).all(axis=-1)
        assert is_seen.any()
        assert np.abs(moved - flow)[is_seen].max() < 0.2
        depth = read_depth(out / "depth/val" / b.image, scale=0.001)
        at = tuple(np.stack([y, x])[:, is_seen].astype(int))
        is_there = np.abs(depth[at] + local[..., 2][is_seen]) < 0.2
        assert is_there.mean() > 0.99  # at edges a millimetre of depth decides on the pixel


def _is_same(a: Path, b: Path) -> bool:
    found, folders = dircmp(a, b), []
    folders.append(found)
    while folders:
        each = folders.pop()
        if each.left_only or each.right_only:
            return False
        for name in each.common_files:
            if (Path(each.left) / name).read_bytes() != (Path(each.right) / name).read_bytes():
                return False
        folders += each.subdirs.values()
    return True


def test_blocks_are_written_for_all_who_read_them(tmp_path: Path) -> None:
    out = _rendered(tmp_path / "a", "kind=blocks", "pairs=2")
    _check_readers(out)
    _check_flow(out)
    for name, seed in (("b", 0), ("c", 1)):
        plan = Plan(rooms=2, val_rooms=1, pairs=2, size_px=48, seed=seed)
        write_rooms(tmp_path / name, plan, blocks(plan))
        assert _is_same(out / "images", tmp_path / name / "images") == (seed == 0)
    poses = json.loads((out / "images/train/transforms.json").read_text())
    assert len(poses["frames"]) == 2 * 2 * 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyvista") is None, reason="pyvista is not installed")
@pytest.mark.skipif(
    not list(FURNITURE.glob("*.sh3f")), reason="sweethome3d-furniture is not installed"
)
def test_furnished_rooms_likewise(tmp_path: Path) -> None:
    out = _rendered(tmp_path / "a", "pairs=2")
    _check_readers(out)
    _check_flow(out)
    masks = [np.asarray(Image.open(path)) for path in (out / "masks/train").glob("*.png")]
    assert len(np.unique(masks)) > 5
    images = np.stack(
        [np.asarray(Image.open(path)) for path in (out / "images/train").glob("*.png")]
    )
    assert images.std() > 25
    assert _is_same(out, _rendered(tmp_path / "b", "pairs=2"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kind=stones"], "kind=stones must be furniture or blocks"),
        (["kind=furniture", "furniture=nowhere"], "nowhere holds no .sh3f libraries"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tmp_path: Path, words: list[str], told: str) -> None:
    if "kind=furniture" in words and importlib.util.find_spec("pyvista") is None:
        pytest.skip("pyvista is not installed")
    done = subprocess.run(
        [sys.executable, str(TOOL), str(tmp_path / "out"), *words], capture_output=True, text=True
    )
    assert done.returncode in (2, 65)
    line = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    assert len(line) == 1
    assert told in line[0]


def test_a_folder_that_is_not_empty_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = subprocess.run(
        [sys.executable, str(TOOL), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr
