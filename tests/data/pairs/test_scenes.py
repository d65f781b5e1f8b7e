"""Built-in rooms: geometry against projections and marched rays, and what pairs share."""

import math

import numpy as np
import pytest

from ssl_vision.data.pairs.scenes import (
    PAIRS_PER_ROOM,
    ROOMS,
    Camera,
    Scene,
    blocks,
    make_cameras,
    make_scene,
    render,
)


def scene_and_cameras(seed: int) -> tuple[Scene, Camera, Camera]:
    random = np.random.default_rng(seed)
    scene = make_scene(random)
    return scene, *make_cameras(scene.boxes, random)


def project(points: np.ndarray, camera: Camera, size_px: int) -> np.ndarray:
    """Pixel coordinates (row, column) of points, and their depth along the axis."""
    local = (points - camera.position) @ camera.axes.T
    reach = math.tan(math.radians(30))
    column = (local[..., 0] / local[..., 2] / reach + 1) / 2 * size_px - 0.5
    row = (1 - local[..., 1] / local[..., 2] / reach) / 2 * size_px - 0.5
    return np.stack([row, column, local[..., 2]], axis=-1)


def test_a_point_lies_behind_its_own_pixel() -> None:
    scene, camera, _ = scene_and_cameras(0)
    points = render(scene, camera, size_px=24).points
    found = project(points, camera, 24)
    rows, columns = np.mgrid[:24, :24]
    np.testing.assert_allclose(found[..., 0], rows, atol=1e-6)
    np.testing.assert_allclose(found[..., 1], columns, atol=1e-6)
    assert (found[..., 2] > 0).all()


def _is_solid(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Whether points are in a block or outside the room."""
    solid = np.zeros(len(points), bool)
    for i, (center, half, axes) in enumerate(zip(*scene.boxes, strict=True)):
        inside = (np.abs((points - center) @ axes.T) <= half).all(axis=1)
        solid |= ~inside if i == 0 else inside
    return solid


@pytest.mark.parametrize("seed", range(4))
def test_rays_end_where_marching_along_them_first_meets_something(seed: int) -> None:
    scene, camera, _ = scene_and_cameras(seed)
    points = render(scene, camera, size_px=12).points.reshape(-1, 3)
    for point in points[::7]:
        reach = np.linalg.norm(point - camera.position)
        ray = (point - camera.position) / reach
        steps = np.arange(0.0, reach - 1e-3, 2e-3)[:, None]
        assert not _is_solid(scene, camera.position + steps * ray).any()
        assert _is_solid(scene, (camera.position + (reach + 1e-4) * ray)[None]).all()


def test_colours_belong_to_places_not_to_cameras() -> None:
    """A place both see has one colour, but for how far apart the pixels' places are."""
    differences, chance = [], []
    for seed in range(6):
        scene, first, second = scene_and_cameras(seed)
        a, b = (render(scene, camera, size_px=64) for camera in (first, second))
        row, column, depth = np.moveaxis(project(a.points, second, 64), -1, 0)
        inside = (depth > 0) & (np.abs(row - 31.5) < 31) & (np.abs(column - 31.5) < 31)
        at = np.round(row[inside]).astype(int), np.round(column[inside]).astype(int)
        near = np.linalg.norm(b.points[at] - a.points[inside], axis=-1) < 0.03
        colors = b.image[at][near].astype(int)
        differences.append(np.abs(a.image[inside][near].astype(int) - colors).mean())
        chance.append(np.abs(np.roll(colors, len(colors) // 2, axis=0) - colors).mean())
    assert np.mean(differences) < 0.25 * np.mean(chance)


def test_pairs_share_much_and_not_all() -> None:
    """CroCo's share of pixels whose point the other view has, too, within 5 cm (or a pixel)."""
    shares = []
    for seed in range(30):
        scene, first, second = scene_and_cameras(seed)
        a, b = (render(scene, camera, size_px=32).points.reshape(-1, 3)
                for camera in (first, second))  # fmt: skip
        distance = np.linalg.norm(a[:, None] - b[None], axis=2).min(axis=1)
        pixel = np.linalg.norm(a - first.position, axis=1) * 2 * math.tan(math.radians(30)) / 32
        shares.append((distance < np.maximum(0.05, pixel)).mean())
    assert 0.5 < np.mean(shares) < 0.95
    assert np.mean(np.array(shares) > 0.3) > 0.8


def test_the_set_is_the_same_every_time_and_its_splits_are_other_rooms() -> None:
    train, val = blocks("train"), blocks("val")
    assert len(train) == PAIRS_PER_ROOM * ROOMS["train"]
    assert train.fingerprint() == blocks("train").fingerprint() != val.fingerprint()
    assert np.array_equal(train.sample(9), blocks("train").sample(9))
    assert not np.array_equal(train.sample(0), val.sample(0))
    assert train.sample(3).shape == (2, 64, 64, 3)
    assert train.labels is None
    assert train.name(8) == "blocks/train/room 1, picture 0 and blocks/train/room 1, picture 1"
