"""Pictures of furnished rooms by VTK, offscreen and on a CPU: colours, depth and what is seen.

All surfaces are opaque and matt, so that depth, class and colour of a pixel are of one thing and a
place has one colour from wherever it is seen; panes that a model has as glass are left out.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyvista as pv
from numpy.random import Generator
from PIL import Image
from rooms.catalogue import Catalogue, Piece
from rooms.furnish import Furnished
from vtkmodules.vtkCommonCore import vtkObject
from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper

from ssl_vision.data.pairs.scenes import FOV, Camera, Rendered, pixel_rays

_MAX_FACES = 40_000
_GLASS = 0.6  # parts of less opacity are left out
_CLIP = (0.05, 20.0)  # metres that are seen
_FINER = 2  # colours are means of so many pixels squared


class Part(NamedTuple):
    """Some faces of one material."""

    mesh: Any
    color: tuple[float, float, float]
    texture: Any


class Model(NamedTuple):
    """Parts, and the matrix from their axes to the unit box: width, height, depth -1/2 to 1/2."""

    parts: list[Part]
    to_unit: np.ndarray


class Models:
    """Models of a catalogue, each read once."""

    def __init__(self, catalogue: Catalogue) -> None:
        vtkObject.GlobalWarningDisplayOff()  # what cannot be read is left out below
        self._catalogue = catalogue
        self._known: dict[str, Model] = {}

    def model(self, piece: Piece) -> Model:
        """Its parts; none where it cannot be read, has too many faces or holes by transparency."""
        if piece.model not in self._known:
            self._known[piece.model] = self._read(piece)
        return self._known[piece.model]

    def can_use(self, piece: Piece) -> bool:
        """Whether there is anything of it to be seen."""
        return bool(self.model(piece).parts)

    def _read(self, piece: Piece) -> Model:
        path = self._catalogue.unpacked(piece.library, piece.model)
        material = path.with_suffix(".mtl")
        if not _is_sound(material):
            return Model([], np.eye(4))
        scratch = pv.Plotter(off_screen=True, window_size=(8, 8))
        scratch.import_obj(path, material)
        actors = [
            actor
            for actor in scratch.renderer.GetActors()
            if actor.GetProperty().GetOpacity() >= _GLASS and actor.GetMapper().GetInput()
        ]
        parts = [_part(actor) for actor in actors]
        has_holes = any(part.texture and part.texture.IsTranslucent() for part in parts)
        scratch.close()
        num = sum(part.mesh.n_cells for part in parts)
        if has_holes or not 12 <= num <= _MAX_FACES:
            return Model([], np.eye(4))
        rotation = np.array(piece.rotation).reshape(3, 3)
        points = np.concatenate([part.mesh.points for part in parts]) @ rotation.T
        low, high = points.min(axis=0), points.max(axis=0)
        to_unit = np.eye(4)
        scale = 1 / np.maximum(high - low, 1e-6)
        to_unit[:3, :3], to_unit[:3, 3] = scale[:, None] * rotation, -scale * (low + high) / 2
        return Model(parts, to_unit)


def _is_sound(material: Path) -> bool:
    """Whether no value stands before the first material is named: VTK's importer dies of it."""
    if not material.exists():
        return False
    lines = (line.split() for line in material.read_text("latin-1").splitlines())
    words = (line[0] for line in lines if line and not line[0].startswith("#"))
    return next(words, "") == "newmtl"


def _part(actor: Any) -> Part:
    mesh = pv.wrap(actor.GetMapper().GetInput()).copy(deep=True)
    texture, color = actor.GetTexture(), actor.GetProperty().GetDiffuseColor()
    if texture is not None:
        texture.Update()
        pixels = texture.GetInput()
        texture = None if pixels is None else _texture(pv.wrap(pixels).copy(deep=True))
    if texture is not None and max(color) < 0.2:
        color = (1.0, 1.0, 1.0)  # it would blacken the picture
    return Part(mesh, color, texture)


def _texture(pixels: Any) -> Any:
    """One that repeats, and that belongs to no window yet."""
    texture = pv.Texture(pixels)
    texture.repeat, texture.interpolate, texture.mipmap = True, True, True
    return texture


class RoomRenderer:
    """Renders one room after the other, from any camera.

    Args:
        models: Of the catalogue whose pieces furnish the rooms.
        size_px: Side of the pictures.
    """

    def __init__(self, models: Models, catalogue: Catalogue, *, size_px: int) -> None:
        self._models, self._catalogue, self._size_px = models, catalogue, size_px
        self._colors, self._numbers = (_plotter(size_px * finer) for finer in (_FINER, 1))

    def open(self, room: Furnished, random: Generator) -> None:
        """Set a room up; `random` chooses colours of its walls and its light."""
        for plotter in (self._colors, self._numbers):
            plotter.clear_actors()
            plotter.remove_all_lights()
        for part in _shell(room, self._catalogue, random):
            self._add(part, 0, np.eye(4))
        for box, number in enumerate(room.pieces, start=1):
            center, half, axes = (each[box] for each in room.boxes)
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = axes.T * (2 * half), center
            model = self._models.model(self._catalogue.pieces[number])
            for part in model.parts:
                self._add(part, box, matrix @ model.to_unit)
        for light in _lights(room.boxes.halves[0], random):
            self._colors.add_light(light)

    def render(self, camera: Camera) -> Rendered:
        """What a camera sees of the room that is open."""
        size = self._size_px
        for plotter in (self._colors, self._numbers):
            _look(plotter, camera)
        fine = np.asarray(self._colors.image)[..., :3].astype(np.float64)
        image = fine.reshape(size, _FINER, size, _FINER, 3).mean(axis=(1, 3))
        boxes = np.asarray(self._numbers.image)[..., 0].astype(np.int64)
        depth = -np.asarray(self._numbers.get_image_depth(fill_value=None), np.float64)
        rays = pixel_rays(size).reshape(size, size, 3)
        points = camera.position + (rays / rays[..., 2:] * depth[..., None]) @ camera.axes
        return Rendered(image.round().astype(np.uint8), points, boxes)

    def close(self) -> None:
        """Give the windows back."""
        self._colors.close()
        self._numbers.close()

    def _add(self, part: Part, number: int, matrix: np.ndarray) -> None:
        """A part in both windows: in its colours, and in a colour that is its box's number."""
        seen = _actor(part.mesh, matrix)
        seen.GetProperty().SetColor(part.color)
        seen.GetProperty().SetAmbient(0.4)
        seen.GetProperty().SetDiffuse(0.6)
        if part.texture is not None:
            seen.SetTexture(part.texture)
        self._colors.renderer.AddActor(seen)
        told = _actor(part.mesh, matrix)
        told.GetProperty().SetColor(number / 255, 0, 0)
        told.GetProperty().LightingOff()
        self._numbers.renderer.AddActor(told)


def _plotter(side: int) -> Any:
    plotter = pv.Plotter(off_screen=True, window_size=(side, side), lighting="none")
    plotter.disable_anti_aliasing()
    plotter.set_background("black")
    plotter.show(auto_close=False)
    return plotter


def _actor(mesh: Any, matrix: np.ndarray) -> Any:
    mapper = vtkPolyDataMapper()
    mapper.SetInputData(mesh)
    mapper.ScalarVisibilityOff()
    actor = vtkActor()
    actor.SetMapper(mapper)
    actor.SetUserMatrix(pv.vtkmatrix_from_array(matrix))
    actor.ForceOpaqueOn()
    return actor


def _look(plotter: Any, camera: Camera) -> None:
    seen = plotter.camera
    seen.position = tuple(camera.position)
    seen.focal_point = tuple(camera.position + camera.axes[2])
    seen.up = tuple(camera.axes[1])
    seen.view_angle = math.degrees(FOV)
    seen.clipping_range = _CLIP
    plotter.render_window.Render()


def _shell(room: Furnished, catalogue: Catalogue, random: Generator) -> list[Part]:
    """Floor, ceiling and walls, with pictures of materials in tiles of 0.5 to 2 m."""
    half = room.boxes.halves[0]
    sides = [(axis, sign) for axis in (1, 0, 2) for sign in (-1, 1)]
    wallpaper, parts = _material(catalogue, random, share=0.5), []
    for axis, sign in sides:
        material = wallpaper if axis != 1 else _material(
            catalogue, random, share=0.9 if sign < 0 else 0.2
        )  # fmt: skip
        normal = np.zeros(3)
        normal[axis] = -sign
        center = np.array([0, half[1], 0]) - normal * half
        across, up = ((2, 1), (0, 2), (0, 1))[axis]
        mesh = pv.PolyData(_corners(center, half, across, up), faces=[4, 0, 1, 2, 3])
        tile = random.uniform(0.5, 2.0)
        ends = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * 2 * half[[across, up]] / tile
        mesh.active_texture_coordinates = ends.astype(np.float32)
        parts.append(Part(mesh, (1.0, 1.0, 1.0), material))
    return parts


def _corners(center: np.ndarray, half: np.ndarray, across: int, up: int) -> np.ndarray:
    corners = np.repeat(center[None], 4, axis=0)
    corners[:, across] += np.array([-1, 1, 1, -1]) * half[across]
    corners[:, up] += np.array([-1, -1, 1, 1]) * half[up]
    return corners


def _material(catalogue: Catalogue, random: Generator, *, share: float) -> Any:
    """A picture of a material, mixed with one light colour."""
    library, name = catalogue.textures[int(random.integers(len(catalogue.textures)))]
    tint = random.uniform(0.45, 1.0, 3) * 255
    path: Path = catalogue.unpacked(library, name)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((256, 256)), np.float64)
    pixels = share * pixels + (1 - share) * tint
    return _texture(pixels.round().astype(np.uint8))


def _lights(half: np.ndarray, random: Generator) -> list[Any]:
    """A lamp under the ceiling, and dim light from two sides that tells surfaces apart."""
    lamp = np.array([*random.uniform(-0.5, 0.5, 2) * half[::2], 2 * half[1] - 0.3])[[0, 2, 1]]
    found = [pv.Light(position=tuple(lamp), intensity=0.6, light_type="scene light")]
    found[0].positional, found[0].cone_angle = True, 180
    for sign in (-1, 1):
        from_there = sign * np.array([random.uniform(1, 3), random.uniform(-1, 1), 1.0])
        intensity = random.uniform(0.4, 0.8)
        found.append(
            pv.Light(position=tuple(from_there), intensity=intensity, light_type="scene light")
        )
        found[-1].positional = False
    return found
