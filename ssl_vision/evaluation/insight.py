"""What a network attends to in images, and what its patches say, as pictures side by side."""

from collections.abc import Sequence
from math import isqrt

import torch
from PIL import Image
from torch import Tensor

from ssl_vision.backbones.attention import check_attention, class_attention, forward_with_attention
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.pictures import (
    as_image,
    largest_mass,
    overlay,
    principal_colors,
    spotlight,
)

_MASS = 0.6  # of attention, in the spotlight: DINO's figures
_MIN_PATCHES = 4  # below there is nothing to tell apart

Row = dict[str, Image.Image]
"""Pictures of one image by name, all of one size."""


@torch.no_grad()
def attention_rows(
    backbone: Backbone, images: Tensor, pictures: Sequence[Image.Image], *, has_heads: bool = True
) -> list[Row]:
    """Per image: itself, the mean map of the last block, its spotlight, and each head.

    Args:
        backbone: The network.
        images: As it takes them, (B, C, S, S).
        pictures: The same to look at, square.
        has_heads: Whether single heads are shown.

    Raises:
        ConfigError: The network has no attention between tokens.
    """
    has_class = getattr(backbone.model, "cls_token", None) is not None
    check_attention(backbone, queries="class" if has_class else "patches")
    if has_class:
        heads = class_attention(backbone, images)  # (B, heads, N)
    else:
        attention = forward_with_attention(backbone, images).attention
        assert attention is not None
        heads = attention[:, None]
    side = _side(heads.shape[-1])
    rows = []
    for picture, maps in zip(pictures, heads.cpu(), strict=True):
        mean = maps.mean(dim=0)
        most = largest_mass(mean, fraction=_MASS).reshape(side, side)
        row = {
            "image": picture,
            "attention": overlay(picture, mean.reshape(side, side)),
            f"{_MASS:.0%} of it": spotlight(picture, most),
        }
        if has_heads and len(maps) > 1:
            row |= {
                f"head {i + 1}": overlay(picture, head.reshape(side, side))
                for i, head in enumerate(maps)
            }
        rows.append(row)
    return rows


@torch.no_grad()
def feature_rows(backbone: Backbone, images: Tensor, pictures: Sequence[Image.Image]) -> list[Row]:
    """Per image: itself, and its patch features' principal components as colours.

    Args:
        backbone: The network.
        images: As it takes them, (B, C, S, S).
        pictures: The same to look at, square.

    Raises:
        ConfigError: The network has no patch features, or too few patches.
    """
    patches = backbone(images).patches
    if patches is None or patches.shape[1] < _MIN_PATCHES:
        raise ConfigError(
            f"{backbone.architecture} has {0 if patches is None else patches.shape[1]} patches at "
            f"{images.shape[-1]} px"
        )
    side = _side(patches.shape[1])
    grids = principal_colors(patches.cpu()).unflatten(1, (side, side))
    return [
        {"image": picture, "features": as_image(grid, size_px=picture.width)}
        for picture, grid in zip(pictures, grids, strict=True)
    ]


def reconstruction_rows(
    images: Tensor,
    masked: Tensor,
    predicted: Tensor,
    pasted: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size_px: int,
) -> list[Row]:
    """Per image: itself, what was shown of it, what was predicted, and the two together.

    No loss is on patches that were shown, so predictions there mean nothing. With normalised
    targets, mean and contrast of each hidden patch are the image's own; structure is predicted.

    Args:
        images: Normalised, (B, 3, S, S); the others likewise.
        masked: The images, hidden patches at 0, which is drawn grey.
        predicted: Every patch as predicted.
        pasted: Seen patches of the image, hidden ones as predicted.
        mean: That was subtracted.
        std: That was divided by.
        size_px: Side of one picture.
    """
    shift, scale = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    is_shown = (masked != 0).any(dim=1, keepdim=True)
    columns = {
        "image": images,
        "shown": torch.where(is_shown, masked, (0.5 - shift) / scale),
        "predicted": predicted,
        "together": pasted,
    }
    pictures = {
        name: [as_image(p.permute(1, 2, 0), size_px=size_px) for p in batch * scale + shift]
        for name, batch in columns.items()
    }
    return [{name: p[i] for name, p in pictures.items()} for i in range(len(images))]


def _side(num_patches: int) -> int:
    side = isqrt(num_patches)
    assert side * side == num_patches, "inputs are square"
    return side
