"""Rooms of textured blocks, computed from two viewpoints: pairs that need no download.

Real geometry, with parallax and blocks that hide each other, and invented surfaces: to try a method
for minutes, not to train a network that is used. Cameras are chosen as CroCo's are (arXiv
2210.10716, section 3.3): at eye level, the second a few steps on, looking at what the first sees.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from ssl_vision.data.decode import Decoder
from ssl_vision.data.pairs.source import PairSource
from ssl_vision.data.source import Source, Split, digest
from ssl_vision.randomness import derive_key

SIZE_PX = 64
ROOMS: dict[Split, int] = {"train": 150, "val": 25}
PAIRS_PER_ROOM = 8
FOV = math.radians(60)  # of both sides
_CELLS = 6  # of a texture, per side; they repeat
_FACES = 6


class Boxes(NamedTuple):
    """A room and what stands in it as boxes; the room is the first, seen from inside.

    Attributes:
        centers: Of each box, metres, (n, 3), y up.
        halves: Half of its sides, (n, 3).
        axes: Its own directions as rows, (n, 3, 3).
    """

    centers: np.ndarray
    halves: np.ndarray
    axes: np.ndarray


class Scene(NamedTuple):
    """A room of textured blocks.

    Attributes:
        boxes: The room and its blocks.
        textures: Colours of each face's cells, 0..1, (n, 6, c, c, 3).
        scales: Cells per metre of each face, (n, 6).
    """

    boxes: Boxes
    textures: np.ndarray
    scales: np.ndarray


class Camera(NamedTuple):
    """Where a picture is taken from.

    Attributes:
        position: Metres, (3,).
        axes: Right, up and forward as rows, (3, 3).
    """

    position: np.ndarray
    axes: np.ndarray

    def depth_of(self, points: np.ndarray) -> np.ndarray:
        """Metres of points (..., 3) along the camera's axis, (...)."""
        depth: np.ndarray = (points - self.position) @ self.axes[2]
        return depth


class Rendered(NamedTuple):
    """A picture and what is seen in it.

    Attributes:
        image: uint8, (S, S, 3).
        points: Point of the scene in each pixel, metres, (S, S, 3).
        boxes: Number of the box it is of, (S, S); 0 is the room.
    """

    image: np.ndarray
    points: np.ndarray
    boxes: np.ndarray


class Hits(NamedTuple):
    """Where the rays of a camera end, row by row from the top left.

    Attributes:
        box: Number of the box, (P,).
        axis: Which of its directions the face is across, (P,).
        local: Place from its centre along its directions, metres, (P, 3).
        points: The same in the scene, (P, 3).
    """

    box: np.ndarray
    axis: np.ndarray
    local: np.ndarray
    points: np.ndarray


def make_scene(random: Generator) -> Scene:
    """A room of 4 to 6 m with 6 to 9 blocks on its floor."""
    num = int(random.integers(6, 10))
    room = np.array([random.uniform(4, 6), random.uniform(2.4, 3), random.uniform(4, 6)]) / 2
    halves = np.concatenate([room[None], random.uniform(0.15, 0.7, (num, 3))])
    centers = np.zeros((num + 1, 3))
    centers[0, 1] = room[1]
    centers[1:, ::2] = random.uniform(-0.85, 0.85, (num, 2)) * room[::2]
    centers[1:, 1] = halves[1:, 1]
    turns = np.concatenate([[0.0], random.uniform(0, 2 * math.pi, num)])
    textures = random.uniform(0, 1, (num + 1, _FACES, _CELLS, _CELLS, 3))
    tint = random.uniform(0, 1, (num + 1, _FACES, 1, 1, 3))
    return Scene(
        boxes=Boxes(centers, halves, np.stack([turned(angle) for angle in turns])),
        textures=0.6 * textures + 0.4 * tint,
        scales=random.uniform(1.5, 5.0, (num + 1, _FACES)),
    )


def make_cameras(boxes: Boxes, random: Generator) -> tuple[Camera, Camera]:
    """Two cameras that see much of the same."""
    first = _free_place(boxes, random)
    across = np.array([-0.5, 0.0, -0.5]) * first + random.normal((0, 1, 0), 0.6)
    ahead = _looking(first, across)
    seen = cast_rays(boxes, ahead, size_px=8).points.mean(axis=0)
    steps = np.append(random.normal(0, 0.4, 2), random.uniform(-0.15, 0.15))[[0, 2, 1]]
    second = _inside(boxes, first + steps)
    looks_at = seen + random.normal(0, 0.25, 3)
    return ahead, _looking(second, looks_at)


def cast_rays(boxes: Boxes, camera: Camera, *, size_px: int) -> Hits:
    """The nearest box along each ray of a pinhole camera of 60 degrees."""
    rays = pixel_rays(size_px) @ camera.axes  # (P, 3)
    local_rays = rays @ boxes.axes.transpose(0, 2, 1)  # (n, P, 3)
    origin = np.einsum("ni,nji->nj", camera.position - boxes.centers, boxes.axes)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = [(sign * boxes.halves[:, None] - origin) / local_rays for sign in (-1, 1)]
    near, far = np.minimum(*sides), np.maximum(*sides)  # (n, P, 3)
    enters, leaves = near.max(axis=2), far.min(axis=2)
    distance = np.where((enters > 1e-6) & (enters < leaves), enters, np.inf)
    distance[0] = leaves[0]
    box = distance.argmin(axis=0)
    pixel = np.arange(len(rays))
    distance = distance[box, pixel]
    axis = np.where(box == 0, far[0].argmin(axis=1), near[box, pixel].argmax(axis=1))
    local = origin[box, 0] + distance[:, None] * local_rays[box, pixel]
    return Hits(box, axis, local, camera.position + distance[:, None] * rays)


def render(scene: Scene, camera: Camera, *, size_px: int) -> Rendered:
    """The picture of a pinhole camera of 60 degrees."""
    hits = cast_rays(scene.boxes, camera, size_px=size_px)
    side = (size_px, size_px)
    image = _colors(scene, hits).reshape(*side, 3)
    return Rendered(image, hits.points.reshape(*side, 3), hits.box.reshape(side))


class BlockPictures(Source):
    """Pictures of the built-in rooms, a pair rendered when it is first wanted.

    Args:
        split: Whose rooms.
    """

    def __init__(self, split: Split) -> None:
        self.class_names: list[str] = []
        self._split: Split = split
        self._pairs: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return 2 * PAIRS_PER_ROOM * ROOMS[self._split]

    def name(self, index: int) -> str:
        """Split, room, and picture in it."""
        room, picture = divmod(index, 2 * PAIRS_PER_ROOM)
        return f"blocks/{self._split}/room {room}, picture {picture}"

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of the number of pictures and the first pair's pixels."""
        return digest(f"blocks/{self._split}/{len(self)}", self._pair(0))

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One picture, uint8, (S, S, 3)."""
        return self._pair(index // 2)[index % 2]

    def _pair(self, pair: int) -> np.ndarray:
        """Both pictures of a pair, uint8, (2, S, S, 3)."""
        if pair not in self._pairs:
            keys = "blocks", self._split, pair // PAIRS_PER_ROOM
            scene = make_scene(np.random.default_rng(derive_key(0, *keys)))
            random = np.random.default_rng(derive_key(0, *keys, pair % PAIRS_PER_ROOM))
            cameras = make_cameras(scene.boxes, random)
            self._pairs[pair] = np.stack([render(scene, c, size_px=SIZE_PX).image for c in cameras])
        return self._pairs[pair]


def blocks(split: Split) -> PairSource:
    """The built-in data set `blocks`; the rooms of its splits are different ones."""
    images = BlockPictures(split)
    return PairSource(images, np.arange(len(images)).reshape(-1, 2))


def turned(angle: float) -> np.ndarray:
    """Directions, as rows, of what is turned about the vertical by an angle, (3, 3)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _looking(position: np.ndarray, target: np.ndarray) -> Camera:
    forward = target - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right = right / np.linalg.norm(right)
    return Camera(position, np.stack([right, np.cross(right, forward), forward]))


def _free_place(boxes: Boxes, random: Generator) -> np.ndarray:
    """A place at eye level in no block; the room's middle where none is found."""
    for _ in range(30):
        place = random.uniform(-0.8, 0.8, 3) * boxes.halves[0]
        place[1] = random.uniform(1.2, 1.8)
        if not _blocked(boxes, place):
            return place
    return np.array([0.0, 1.6, 0.0])


def _blocked(boxes: Boxes, place: np.ndarray) -> bool:
    local = np.einsum("ni,nji->nj", place - boxes.centers, boxes.axes)
    return bool((np.abs(local[1:]) < boxes.halves[1:] + 0.1).all(axis=1).any())


def _inside(boxes: Boxes, place: np.ndarray) -> np.ndarray:
    """The place, kept 20 cm from the walls."""
    room = boxes.halves[0] - 0.2
    return np.clip(place, boxes.centers[0] - room, boxes.centers[0] + room)


def pixel_rays(size_px: int) -> np.ndarray:
    """Directions through the pixels, row by row from the top left, unit length, (P, 3)."""
    place = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    across, up = np.meshgrid(place, -place)
    reach = math.tan(FOV / 2)
    rays = np.stack([reach * across, reach * up, np.ones_like(across)], axis=-1).reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _colors(scene: Scene, hits: Hits) -> np.ndarray:
    """Colours of points on faces, their cells blended, uint8, (P, 3)."""
    box, axis, local, _ = hits
    pixel = np.arange(len(box))
    face = 2 * axis + (local[pixel, axis] > 0)
    scale = scene.scales[box, face]
    u, v = (local[pixel, (axis + k) % 3] * scale for k in (1, 2))
    left, low = np.floor(u).astype(int), np.floor(v).astype(int)
    color = np.zeros((len(box), 3))
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - (u - left)) * np.abs(1 - j - (v - low))
            cell = scene.textures[box, face, (left + i) % _CELLS, (low + j) % _CELLS]
            color += weight[:, None] * cell
    light = np.array([0.85, 0.85, 0.7, 1.0, 0.92, 0.92])[face]  # tops are bright
    return np.clip(255 * color * light[:, None], 0, 255).round().astype(np.uint8)
