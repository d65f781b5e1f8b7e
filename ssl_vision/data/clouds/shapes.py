"""Built-in clouds: parametric solids of random proportions, with noise and hidden parts.

Every cloud is a function of (split, index). `shapes` has ten classes of solids, `shape_parts` four
classes of objects whose points know which part they lie on.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ssl_vision.points.surface import sample_surface, triangle_areas
from ssl_vision.randomness import derive_key

NUM_POINTS = 2048
_SEGMENTS = 40  # of a surface of revolution

Generator = np.random.Generator


class Mesh(NamedTuple):
    """Triangles: vertices float64 (V, 3), faces int64 (F, 3)."""

    vertices: np.ndarray
    faces: np.ndarray


def make_shape(kind: str, *, split: str, index: int, partial_views: bool = True) -> np.ndarray:
    """One cloud of `SHAPES`: float32, (n, 3), n = NUM_POINTS.

    The solid stands upright and is turned about the vertical axis y, squeezed along its axes, has
    noise of 1 % of its size, and lacks what a random plane cuts off (up to 40 % of its points).
    """
    random = np.random.Generator(np.random.Philox(derive_key("shapes", split, kind, index)))
    mesh = SHAPES[kind](random)
    points = _sample(mesh, 2 * NUM_POINTS, random)
    return _finish(points, random, hidden=random.uniform(0, 0.4) if partial_views else 0.0)[0]


def make_parts(kind: str, *, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One cloud of `PART_OBJECTS` and the part of each point: (n, 3) float32, (n,) int64."""
    random = np.random.Generator(np.random.Philox(derive_key("shape parts", split, kind, index)))
    meshes = PART_OBJECTS[kind](random)
    areas = [float(triangle_areas(*_tensors(mesh)).sum()) for mesh in meshes.values()]
    counts = np.ceil(2 * NUM_POINTS * np.array(areas) / sum(areas)).astype(int)
    points = np.concatenate(
        [_sample(mesh, n, random) for mesh, n in zip(meshes.values(), counts, strict=True)]
    )
    parts = np.repeat([PART_NAMES.index(f"{kind}/{name}") for name in meshes], counts)
    points, chosen = _finish(points, random, hidden=0.0)
    return points, parts[chosen]


def _finish(
    points: np.ndarray, random: Generator, *, hidden: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turn, add noise, cut off, thin out to NUM_POINTS; also which points were kept."""
    angle = random.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    points = points @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    size = np.abs(points - points.mean(axis=0)).max()
    points = points + random.normal(0, 0.01 * size, points.shape)
    direction = random.normal(size=3)
    height = points @ (direction / np.linalg.norm(direction))
    visible = np.flatnonzero(height <= np.quantile(height, 1 - hidden))
    chosen = random.permutation(visible)[:NUM_POINTS]
    return points[chosen].astype(np.float32), chosen


def _sample(mesh: Mesh, num_points: int, random: Generator) -> np.ndarray:
    uniform = torch.from_numpy(random.random((num_points, 3)))
    return sample_surface(*_tensors(mesh), uniform).numpy()


def _tensors(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)


# Meshes ----------------------------------------------------------------------------------


def _revolve(profile: list[tuple[float, float]]) -> Mesh:
    """Surface of a profile of (radius, height) turned about the y axis."""
    angles = np.arange(_SEGMENTS) * (2 * math.pi / _SEGMENTS)
    rings = [
        np.stack([r * np.cos(angles), np.full(_SEGMENTS, y), r * np.sin(angles)], axis=1)
        for r, y in profile
    ]
    faces = []
    for ring in range(len(profile) - 1):
        for i in range(_SEGMENTS):
            j = (i + 1) % _SEGMENTS
            a, b = ring * _SEGMENTS, (ring + 1) * _SEGMENTS
            faces += [[a + i, a + j, b + i], [a + j, b + j, b + i]]
    return Mesh(np.concatenate(rings), np.array(faces, np.int64))


def _box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    quads = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    faces = [[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)]
    vertices = np.array(low) + corners * (np.array(high) - np.array(low))
    return Mesh(vertices, np.array(faces, np.int64))


def _join(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def _squeeze(mesh: Mesh, random: Generator) -> Mesh:
    """Stretch the horizontal axes apart by up to 30 %."""
    return Mesh(mesh.vertices * np.array([random.uniform(0.7, 1), 1, 1]), mesh.faces)


def _arc(
    center: tuple[float, float], radius: float, start: float, stop: float
) -> list[tuple[float, float]]:
    angles = np.linspace(start, stop, 17)
    return [(center[0] + radius * math.cos(a), center[1] + radius * math.sin(a)) for a in angles]


# Solids ----------------------------------------------------------------------------------


def _ellipsoid(random: Generator) -> Mesh:
    height = random.uniform(0.6, 1.6)
    profile = [(r, height * y) for r, y in _arc((0, 0), 1, -math.pi / 2, math.pi / 2)]
    return _squeeze(_revolve(profile), random)


def _cuboid(random: Generator) -> Mesh:
    x, y, z = random.uniform(0.4, 1.2, 3)
    return _box((-x, -y, -z), (x, y, z))


def _cylinder(random: Generator) -> Mesh:
    height = random.uniform(0.5, 2.0)
    return _squeeze(_revolve([(0, -height), (1, -height), (1, height), (0, height)]), random)


def _cone(random: Generator) -> Mesh:
    height, top = random.uniform(0.8, 2.2), random.uniform(0, 0.25)
    return _squeeze(_revolve([(0, 0), (1, 0), (top, height), (0, height)]), random)


def _torus(random: Generator) -> Mesh:
    thickness = random.uniform(0.15, 0.45)
    return _squeeze(_revolve(_arc((1, 0), thickness, 0, 2 * math.pi)), random)


def _capsule(random: Generator) -> Mesh:
    height = random.uniform(0.6, 2.0)
    low = _arc((0, -height), 1, -math.pi / 2, 0)
    return _squeeze(_revolve([*low, *_arc((0, height), 1, 0, math.pi / 2)]), random)


def _pyramid(random: Generator) -> Mesh:
    x, z, height = random.uniform(0.7, 1.2), random.uniform(0.7, 1.2), random.uniform(0.8, 2.2)
    vertices = np.array([[-x, 0, -z], [x, 0, -z], [x, 0, z], [-x, 0, z], [0, height, 0]])
    sides = [[i, (i + 1) % 4, 4] for i in range(4)]
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3], *sides], np.int64))


def _prism(random: Generator) -> Mesh:
    length, width, height = (
        random.uniform(0.8, 1.6),
        random.uniform(0.5, 1),
        random.uniform(0.6, 1.6),
    )
    ridge = random.uniform(-width, width)
    ends = [[(-width, 0), (width, 0), (ridge, height)]] * 2
    vertices = [[s * length, y, z] for s, end in zip((-1, 1), ends, strict=True) for z, y in end]
    quads = [(0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)]
    faces = [[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)]
    return Mesh(np.array(vertices, float), np.array([[0, 1, 2], [3, 4, 5], *faces], np.int64))


def _tube(random: Generator) -> Mesh:
    height, bore = random.uniform(0.5, 2.0), random.uniform(0.5, 0.8)
    profile = [(1, -height), (1, height), (bore, height), (bore, -height), (1, -height)]
    return _squeeze(_revolve(profile), random)


def _cross(random: Generator) -> Mesh:
    arm, thick = random.uniform(0.8, 1.6), random.uniform(0.15, 0.4)
    height = random.uniform(0.8, 1.6)
    bars = [(arm, thick, thick), (thick, height, thick), (thick, thick, arm)]
    return _join(*(_box((-x, -y, -z), (x, y, z)) for x, y, z in bars))


SHAPES: dict[str, Callable[[Generator], Mesh]] = {
    "capsule": _capsule,
    "cone": _cone,
    "cross": _cross,
    "cuboid": _cuboid,
    "cylinder": _cylinder,
    "ellipsoid": _ellipsoid,
    "prism": _prism,
    "pyramid": _pyramid,
    "torus": _torus,
    "tube": _tube,
}
"""Class of the `shapes` data set -> a mesh of random proportions."""


# Objects of parts ------------------------------------------------------------------------


def _table(random: Generator) -> dict[str, Mesh]:
    x, z, height = random.uniform(0.8, 1.6), random.uniform(0.6, 1.0), random.uniform(0.7, 1.4)
    leg = random.uniform(0.06, 0.14)
    legs = [
        _box((sx * x - leg, 0, sz * z - leg), (sx * x + leg, height, sz * z + leg))
        for sx in (-0.85, 0.85)
        for sz in (-0.85, 0.85)
    ]
    return {"top": _box((-x, height, -z), (x, height + 0.1, z)), "legs": _join(*legs)}


def _lamp(random: Generator) -> dict[str, Mesh]:
    height, wide = random.uniform(1.2, 2.2), random.uniform(0.5, 0.9)
    shade = random.uniform(0.4, 0.8)
    return {
        "base": _revolve([(0, 0), (0.5, 0), (0.5, 0.1), (0, 0.1)]),
        "pole": _revolve([(0.06, 0.1), (0.06, height)]),
        "shade": _revolve([(wide, height - shade / 2), (0.4 * wide, height + shade / 2)]),
    }


def _mug(random: Generator) -> dict[str, Mesh]:
    height, radius = random.uniform(0.8, 1.5), random.uniform(0.5, 0.7)
    ring = _revolve(_arc((0.32 * height, 0), 0.07, 0, 2 * math.pi))
    # The ring stands upright (its axis along z) at the side of the body, the outer half of it.
    upright = ring.vertices[:, [0, 2, 1]] + np.array([radius, height / 2, 0])
    outer = ring.faces[(upright[ring.faces][:, :, 0] >= radius).all(axis=1)]
    return {
        "body": _revolve([(0, 0), (radius, 0), (radius, height)]),
        "handle": Mesh(upright, outer),
    }


def _rocket(random: Generator) -> dict[str, Mesh]:
    height, nose = random.uniform(1.0, 2.0), random.uniform(0.5, 1.0)
    fin, span = random.uniform(0.3, 0.6), random.uniform(0.3, 0.6)
    fins = [
        *(_box((s * 0.4, 0, -0.02), (s * (0.4 + span), fin, 0.02)) for s in (-1, 1)),
        *(_box((-0.02, 0, s * 0.4), (0.02, fin, s * (0.4 + span))) for s in (-1, 1)),
    ]
    return {
        "nose": _revolve([(0.4, height), (0, height + nose)]),
        "body": _revolve([(0, 0), (0.4, 0), (0.4, height)]),
        "fins": _join(*fins),
    }


PART_OBJECTS: dict[str, Callable[[Generator], dict[str, Mesh]]] = {
    "lamp": _lamp,
    "mug": _mug,
    "rocket": _rocket,
    "table": _table,
}
"""Class of the `shape_parts` data set -> meshes of its parts."""

PART_NAMES = [
    *("lamp/base", "lamp/pole", "lamp/shade", "mug/body", "mug/handle"),
    *("rocket/nose", "rocket/body", "rocket/fins", "table/top", "table/legs"),
]
"""Parts of all classes; the part of a point is an index into it."""
