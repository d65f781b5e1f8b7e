"""Pictures of clouds for `visualize` and report.html: input, visible patches, reconstruction."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ssl_vision.data.clouds.find import build_point_source
from ssl_vision.data.clouds.layouts import read_cloud
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.methods.base import Method
from ssl_vision.methods.masked_points import MaskedPoints
from ssl_vision.points.pictures import rotating_row, stack_rows
from ssl_vision.points.views import evaluation_point_view, render_view

_INPUT, _VISIBLE, _PREDICTED = (20, 60, 130), (70, 70, 70), (190, 60, 20)
_MARGIN_PX = 90  # for the words beside the rows


def draw_completion(
    method: MaskedPoints, points: Tensor, *, num_angles: int = 6, size_px: int = 160
) -> Image.Image:
    """Per cloud three rows from rotating angles: input, visible patches, reconstruction.

    The reconstruction shows visible patches in grey and what was predicted for hidden ones in
    colour.

    Args:
        method: Point-MAE or Point-CMAE; its mode is put back.
        points: Clouds as the network takes them, (B, M, 3).
        num_angles: Columns.
        size_px: Side of one projection.
    """
    was_training = method.training
    method.eval()
    found = method.reconstruct(points.to(method.device), seed=0)
    method.train(was_training)
    rows, words = [], []
    for cloud, seen, predicted in zip(
        points.cpu().numpy(),
        found.visible.cpu().numpy(),
        found.predicted.cpu().numpy(),
        strict=True,
    ):
        radius = float(np.linalg.norm(cloud, axis=1).max()) or 1.0
        look = {"num_angles": num_angles, "size_px": size_px}
        rows.append(rotating_row(cloud, **look, color=_INPUT, radius=radius))
        rows.append(rotating_row(seen, **look, color=_VISIBLE, radius=radius))
        grey = rotating_row(seen, **look, color=(150, 150, 150), radius=radius)
        rows.append(
            np.minimum(grey, rotating_row(predicted, **look, color=_PREDICTED, radius=radius))
        )
        words += ["input", "visible", "completed"]
    return _with_words(stack_rows(rows), words, size_px=size_px)


def completion_png(method: Method, views: Mapping[str, Tensor] | None) -> bytes | None:
    """PNG of two completed clouds of a training batch; None for methods of images."""
    if views is None or not isinstance(method, MaskedPoints):
        return None
    (points,) = views.values()
    buffer = io.BytesIO()
    draw_completion(method, points[:2]).save(buffer, format="PNG")
    return buffer.getvalue()


def read_clouds(given: list[str], *, num_points: int, count: int) -> Tensor:
    """Clouds of files, folders or built-in sets as the network takes them, (B, num_points, 3).

    Args:
        given: Files, folders, or names of built-in sets; `count` of each of the latter two.
        num_points: Points of a cloud.
        count: Clouds of a folder.

    Raises:
        DataError: A file or folder cannot be read.
    """
    clouds = []
    for name in given:
        path = Path(name).expanduser()
        if path.is_file():
            clouds.append(read_cloud(path))
            continue
        source = build_point_source(name)
        chosen = np.linspace(0, len(source) - 1, min(count, len(source)))
        clouds += [source.sample(int(row)) for row in chosen]
    if not clouds:
        raise DataError("no cloud was given.")
    return render_view(
        [torch.from_numpy(np.ascontiguousarray(cloud)) for cloud in clouds],
        evaluation_point_view(num_points=num_points),
        key=0,
        ids=torch.arange(len(clouds)),
    )


def visualize_clouds(
    method: Method | None, given: list[str], out: Path, *, num_points: int, count: int
) -> list[Path]:
    """Write reconstruction.png; see `draw_completion`.

    Raises:
        ConfigError: The weights are not of a run of Point-MAE or Point-CMAE.
    """
    if not isinstance(method, MaskedPoints):
        raise ConfigError(
            "pictures of clouds are reconstructions; they need the run folder of a point_mae or "
            "point_cmae run."
        )
    points = read_clouds(given, num_points=num_points, count=count)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "reconstruction.png"
    draw_completion(method, points).save(path)
    return [path]


def _with_words(picture: np.ndarray, words: list[str], *, size_px: int) -> Image.Image:
    """The picture with a word before each row."""
    image = Image.new("RGB", (picture.shape[1] + _MARGIN_PX, picture.shape[0]), "white")
    image.paste(Image.fromarray(picture), (_MARGIN_PX, 0))
    draw = ImageDraw.Draw(image)
    for i, word in enumerate(words):
        top = i * (size_px + 4) + size_px // 2
        draw.text((6, top), word, fill=(60, 60, 60))
    return image
