"""Tensors to pictures: maps as colours over an image, features as colours, labelled sheets.

Pure functions of tensors and Pillow images; no plotting library.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont
from torch import Tensor

# Dark blue over violet and orange to light yellow; readable without colour vision, rising in
# lightness throughout.
_COLORS = torch.tensor(
    [[4, 6, 30], [66, 16, 112], [143, 38, 110], [212, 73, 66], [250, 150, 30], [252, 250, 180]]
)
_MARGIN_PX = 6
_TEXT_PX = 14


def colorize(values: Tensor) -> Tensor:
    """Values scaled from their own smallest to largest, as colours.

    Args:
        values: (H, W).

    Returns:
        uint8, (H, W, 3); a constant map has the lowest colour everywhere.
    """
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    position = scaled.float() * (len(_COLORS) - 1)
    index = position.long().clamp(max=len(_COLORS) - 2)
    share = (position - index)[..., None]
    colors = _COLORS.float()
    return (colors[index] * (1 - share) + colors[index + 1] * share).round().to(torch.uint8)


def principal_colors(patches: Tensor) -> Tensor:
    """First three principal components of patch features, as red, green and blue.

    One basis for all images, so that a colour means the same thing in each. Components are
    oriented to have positive skew (their sign is arbitrary) and scaled from their 1st to 99th
    percentile.

    Args:
        patches: (B, N, D).

    Returns:
        (B, N, 3), from 0 to 1; components the features do not have are 0.5.
    """
    rows = patches.flatten(0, 1).double()
    centered = rows - rows.mean(dim=0)
    _, singular, basis = torch.linalg.svd(centered, full_matrices=False)
    num = min(3, int((singular > singular[0] * 1e-9).sum())) if float(singular[0]) > 0 else 0
    scores = torch.full((len(rows), 3), 0.5, dtype=torch.float64)
    for k in range(num):
        score = centered @ basis[k]
        score = score * (1 if float((score**3).sum()) >= 0 else -1)
        low, high = torch.quantile(score, torch.tensor([0.01, 0.99], dtype=torch.float64))
        scores[:, k] = ((score - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return scores.float().reshape(*patches.shape[:2], 3)


def largest_mass(attention: Tensor, *, fraction: float) -> Tensor:
    """Fewest patches that together receive a fraction of the attention, bool, (N,).

    Args:
        attention: Non-negative, (N,).
        fraction: 0 to 1; DINO's figures use 0.6.
    """
    order = attention.argsort(descending=True)
    shares = attention[order].cumsum(0) / attention.sum()
    num = int((shares < fraction).sum()) + 1
    kept = torch.zeros_like(attention, dtype=torch.bool)
    kept[order[:num]] = True
    return kept


def as_image(pixels: Tensor, *, size_px: int) -> Image.Image:
    """Picture of a tensor, each value a square.

    Args:
        pixels: uint8 or 0..1, (H, W, 3).
        size_px: Side of the picture.
    """
    if pixels.is_floating_point():
        pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    array = np.ascontiguousarray(pixels.cpu().numpy())
    is_enlarged = size_px >= max(array.shape[:2])
    resample = Image.Resampling.NEAREST if is_enlarged else Image.Resampling.BOX
    return Image.fromarray(array).resize((size_px, size_px), resample)


def overlay(image: Image.Image, values: Tensor, *, strength: float = 0.6) -> Image.Image:
    """A map of patches in colours over a grey image.

    Args:
        image: Square.
        values: (side, side), one per patch.
        strength: Weight of the colours, 0 to 1.
    """
    colors = as_image(colorize(values), size_px=image.width)
    grey = image.convert("L").convert("RGB")
    return Image.blend(grey, colors, strength)


def spotlight(image: Image.Image, kept: Tensor) -> Image.Image:
    """The image with patches outside a mask darkened.

    Args:
        image: Square.
        kept: bool, (side, side).
    """
    brightness = torch.where(kept, 1.0, 0.25)[..., None].expand(-1, -1, 3)
    light = as_image(brightness, size_px=image.width)
    return ImageChops.multiply(image, light)


def sheet(rows: Sequence[Mapping[str, Image.Image]]) -> Image.Image:
    """Rows of pictures of equal size with their names above the first row.

    Args:
        rows: Name -> picture; every row has the same names.
    """
    names, first = list(rows[0]), next(iter(rows[0].values()))
    step_x, step_y = first.width + _MARGIN_PX, first.height + _MARGIN_PX
    size = (len(names) * step_x + _MARGIN_PX, len(rows) * step_y + _MARGIN_PX + _TEXT_PX)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for column, name in enumerate(names):
        left = _MARGIN_PX + column * step_x
        draw.text((left, 4), name, fill="black", font=font)
        for line, row in enumerate(rows):
            canvas.paste(row[name], (left, _MARGIN_PX + _TEXT_PX + line * step_y))
    return canvas
