"""Overlap of renders, against projections and brute force; poses and depth from their files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from ssl_vision.data.pairs.posed import Seen, overlap, read_frames, seen_by
from ssl_vision.data.pairs.scenes import Camera, make_cameras, make_scene, render
from ssl_vision.errors import DataError

SIZE = 32
FOCAL = SIZE / 2 / math.tan(math.radians(30))


def write_scene(root: Path, seed: int, *, as_png: bool = False) -> list[np.ndarray]:
    """Two renders of a built-in room with depth and poses; the places they show."""
    random = np.random.default_rng(seed)
    scene = make_scene(random)
    frames, points = [], []
    for number, camera in enumerate(make_cameras(scene.boxes, random)):
        found = render(scene, camera, size_px=SIZE)
        depth = ((found.points - camera.position) @ camera.axes[2]).astype(np.float32)
        Image.fromarray(found.image).save(root / f"{number}.png")
        if as_png:
            Image.fromarray((depth * 1000).round().astype(np.uint16)).save(root / f"d{number}.png")
        else:
            np.save(root / f"d{number}.npy", depth)
        frames.append({
            "file_path": f"{number}.png",
            "depth_file_path": f"d{number}.{'png' if as_png else 'npy'}",
            "transform_matrix": pose_of(camera).tolist(),
        })  # fmt: skip
        points.append(found.points.reshape(-1, 3))
    common = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE / 2, "cy": SIZE / 2}
    (root / "transforms.json").write_text(json.dumps({**common, "frames": frames}))
    return points


def pose_of(camera: Camera) -> np.ndarray:
    """Columns are the camera's right, up and backwards, and where it is."""
    pose = np.eye(4)
    pose[:3, :3] = (camera.axes * np.array([[1], [1], [-1]])).T
    pose[:3, 3] = camera.position
    return pose


@pytest.mark.parametrize("as_png", [False, True])
def test_places_are_those_that_were_rendered(tmp_path: Path, as_png: bool) -> None:
    truth = write_scene(tmp_path, 0, as_png=as_png)
    for frame, points in zip(read_frames(tmp_path), truth, strict=True):
        seen = seen_by(frame, tmp_path, depth_scale=0.001)
        np.testing.assert_allclose(seen.points, points, atol=2e-3 if as_png else 1e-4)
        assert seen.share_valid == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_overlap_is_the_brute_force_share_and_symmetric(tmp_path: Path, seed: int) -> None:
    a, b = write_scene(tmp_path, seed)
    first, second = (seen_by(f, tmp_path, depth_scale=1.0) for f in read_frames(tmp_path))
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    expected = min((distance.min(axis=k) < 0.05).mean() for k in (0, 1))
    assert overlap(first, second, distance_m=0.05) == pytest.approx(expected, abs=2e-3)
    assert overlap(second, first, distance_m=0.05) == overlap(first, second, distance_m=0.05)


def _seen(points: np.ndarray) -> Seen:
    return Seen(points=points, tree=cKDTree(points), share_valid=1.0)


def test_large_views_are_asked_for_evenly_spread_points() -> None:
    grid = np.stack(np.meshgrid(np.arange(200.0), np.arange(100.0)), axis=-1).reshape(-1, 2)
    points = np.concatenate([grid, np.zeros((20_000, 1))], axis=1)
    moved = points + np.array([50.0, 0.0, 0.0])  # three quarters of the columns are there, too
    assert overlap(_seen(points), _seen(moved), distance_m=0.1) == pytest.approx(0.75, abs=0.02)
    part = points[:5000]  # all of it is in the whole, a quarter of the whole in it
    assert overlap(_seen(points), _seen(part), distance_m=0.1) == pytest.approx(0.25, abs=0.02)


def test_pixels_without_depth_show_nothing(tmp_path: Path) -> None:
    write_scene(tmp_path, 1)
    depth = np.load(tmp_path / "d0.npy")
    depth[: SIZE // 4] = 0
    np.save(tmp_path / "d0.npy", depth)
    seen = seen_by(read_frames(tmp_path)[0], tmp_path, depth_scale=1.0)
    assert seen.share_valid == 0.75
    assert len(seen.points) == SIZE * SIZE * 3 // 4


FRAME = {"file_path": "a.png", "depth_file_path": "d.npy", "transform_matrix": np.eye(4).tolist(),
         "fl_x": 9, "fl_y": 9, "cx": 4, "cy": 4}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no `frames`"),
        ({"frames": []}, "has no `frames`"),
        ({"frames": [3]}, "frame 0 is no object"),
        ({"frames": [FRAME, {**FRAME, "depth_file_path": None}]}, "frame 1 has no depth_file_path"),
        ({"frames": [{k: v for k, v in FRAME.items() if k != "fl_y"}]}, "frame 0 lacks fl_x"),
        ({"frames": [{**FRAME, "cx": "x"}]}, "frame 0 lacks fl_x"),
        ({"frames": [{**FRAME, "transform_matrix": [[1, 2], [3]]}]}, "frame 0 lacks"),
        ({"frames": [{**FRAME, "transform_matrix": [[1, 2], [3, 4]]}]}, "4 x 4"),
        ({"frames": [{**FRAME, "fl_x": -3}]}, "focal length"),
    ],
)
def test_a_file_of_poses_that_is_none_is_a_line(
    tmp_path: Path, content: object, message: str
) -> None:
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        read_frames(tmp_path)
    assert "\n" not in str(caught.value)
