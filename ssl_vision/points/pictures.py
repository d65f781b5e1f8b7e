"""Pictures of point clouds: shaded projections from a camera that walks around, as arrays."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
_Picture = NDArray[np.uint8]
NEAR: Color = (20, 60, 130)
"""Colour of the nearest points; the farthest fade towards the background."""

_VISIBLE: Color = (70, 70, 70)
_PREDICTED: Color = (190, 60, 20)
_GREY: Color = (150, 150, 150)
_MARGIN_PX = 90  # for the words beside the rows
_TILT = math.radians(20)  # the camera looks down a little


def draw_cloud(
    points: NDArray[np.float32],
    *,
    angle: float,
    size_px: int,
    color: Color = NEAR,
    radius: float | None = None,
) -> NDArray[np.uint8]:
    """Parallel projection of a cloud, y up, near points in front.

    Args:
        points: (M, 3); drawn around the origin.
        angle: Of the camera about the vertical axis, radians.
        size_px: Side of the picture.
        color: Of the nearest points.
        radius: What fills half the picture; by default the farthest point.

    Returns:
        uint8, (size_px, size_px, 3).
    """
    picture = np.full((size_px, size_px, 3), 255, np.uint8)
    if len(points) == 0:
        return picture
    radius = radius or float(np.linalg.norm(points, axis=1).max()) or 1.0
    x, y, depth = _camera(points.astype(np.float64) / radius, angle)
    dot = max(1, size_px // 64)
    column = np.round((0.5 + 0.46 * x) * (size_px - dot)).astype(int)
    row = np.round((0.5 - 0.46 * y) * (size_px - dot)).astype(int)
    light = np.clip(0.45 - 0.4 * depth, 0.05, 0.85)[:, None]  # 0 the colour itself, 1 white
    shades = (np.array(color) * (1 - light) + 255 * light).astype(np.uint8)
    inside = (row >= 0) & (row <= size_px - dot) & (column >= 0) & (column <= size_px - dot)
    for i in np.argsort(depth):  # far to near, so that near points cover far ones
        if inside[i]:
            picture[row[i] : row[i] + dot, column[i] : column[i] + dot] = shades[i]
    return picture


def rotating_row(
    points: NDArray[np.float32],
    *,
    num_angles: int,
    size_px: int,
    color: Color = NEAR,
    radius: float | None = None,
) -> NDArray[np.uint8]:
    """Projections from equally spaced angles side by side, (size_px, num_angles * size_px, 3)."""
    angles = [2 * math.pi * i / num_angles for i in range(num_angles)]
    pictures = [
        draw_cloud(points, angle=a, size_px=size_px, color=color, radius=radius) for a in angles
    ]
    return np.concatenate(pictures, axis=1)


def stack_rows(rows: Sequence[NDArray[np.uint8]], *, gap_px: int = 4) -> NDArray[np.uint8]:
    """Rows of equal width one above the other, with a grey line between."""
    line = np.full((gap_px, rows[0].shape[1], 3), 210, np.uint8)
    parts: list[NDArray[np.uint8]] = []
    for row in rows:
        parts += [line, row] if parts else [row]
    return np.concatenate(parts)


def completion(
    clouds: NDArray[np.float32],
    visible: NDArray[np.float32],
    predicted: NDArray[np.float32],
    *,
    num_angles: int = 6,
    size_px: int = 160,
) -> Image.Image:
    """Per cloud three rows from rotating angles: input, visible patches, reconstruction.

    The reconstruction shows visible patches in grey and what was predicted for hidden ones in
    colour.

    Args:
        clouds: As the network takes them, (B, M, 3).
        visible: Points that it sees, (B, V, 3).
        predicted: Points that it predicts, (B, H, 3).
        num_angles: Columns.
        size_px: Side of one projection.
    """
    rows, words = [], []
    for cloud, seen, guess in zip(clouds, visible, predicted, strict=True):
        radius = float(np.linalg.norm(cloud, axis=1).max()) or 1.0

        def row(points: NDArray[np.float32], color: Color, radius: float = radius) -> _Picture:
            return rotating_row(
                points, num_angles=num_angles, size_px=size_px, color=color, radius=radius
            )

        rows += [row(cloud, NEAR), row(seen, _VISIBLE)]
        rows.append(np.minimum(row(seen, _GREY), row(guess, _PREDICTED)))
        words += ["input", "visible", "completed"]
    return _with_words(stack_rows(rows), words, size_px=size_px)


def raw_statistics(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hand-made features that any network has to beat: spreads and profiles of a cloud.

    Standard deviations, the covariance's eigenvalues, and 17 quantiles each of the distance from
    the origin and of the height.

    Args:
        points: Clouds in the unit sphere, (B, M, 3).

    Returns:
        (B, 40).
    """
    steps = np.linspace(0, 1, 17)
    covariance = np.einsum("bmi,bmj->bij", points, points) / points.shape[1]
    parts = [
        points.std(axis=1),
        np.linalg.eigvalsh(covariance),
        np.quantile(np.linalg.norm(points, axis=2), steps, axis=1).T,
        np.quantile(points[:, :, 1], steps, axis=1).T,
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _camera(
    points: NDArray[np.float64], angle: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Axes of a camera: to the right, up, and towards the viewer."""
    cos, sin = math.cos(angle), math.sin(angle)
    right = cos * points[:, 0] - sin * points[:, 2]
    back = sin * points[:, 0] + cos * points[:, 2]
    up = math.cos(_TILT) * points[:, 1] - math.sin(_TILT) * back
    towards = math.sin(_TILT) * points[:, 1] + math.cos(_TILT) * back
    return right, up, towards


def _with_words(picture: _Picture, words: list[str], *, size_px: int) -> Image.Image:
    """The picture with a word before each row."""
    image = Image.new("RGB", (picture.shape[1] + _MARGIN_PX, picture.shape[0]), "white")
    image.paste(Image.fromarray(picture), (_MARGIN_PX, 0))
    draw = ImageDraw.Draw(image)
    for i, word in enumerate(words):
        top = i * (size_px + 4) + size_px // 2
        draw.text((6, top), word, fill=(60, 60, 60))
    return image
