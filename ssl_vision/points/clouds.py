"""Checks and normalisation of point clouds."""

import torch
from torch import Tensor

from ssl_vision.errors import DataError


def check_clouds(points: Tensor, *, name: str = "point clouds", min_points: int = 1) -> None:
    """Raise DataError unless `points` are finite clouds, (..., M, 3), of enough points.

    The values are looked at on the CPU only: on an accelerator the question would make every step
    wait for the device; loaders ask it before the clouds get there.

    Args:
        points: What the caller was given.
        name: What the message calls it, e.g. a file.
        min_points: Points needed.
    """
    if points.ndim < 2 or points.shape[-1] != 3:
        raise DataError(f"{name} must have the shape (..., points, 3), got {tuple(points.shape)}.")
    if points.shape[-2] < min_points:
        raise DataError(
            f"{name} have {points.shape[-2]} points but {min_points} are needed; "
            "give larger clouds or ask for fewer points."
        )
    if points.device.type != "cpu" or torch.compiler.is_compiling():
        return
    is_bad = ~points.isfinite().all(dim=-1)
    if is_bad.any():
        raise DataError(
            f"{name} have {int(is_bad.sum())} of {is_bad.numel()} points with NaN or infinite "
            "coordinates; remove them from the files."
        )


def unit_sphere(points: Tensor) -> Tensor:
    """Centre each cloud on its mean and scale its farthest point to radius 1.

    A cloud whose points all coincide has no size: it is only centred.

    Args:
        points: (..., M, 3).

    Returns:
        Same shape.
    """
    centred = points - points.mean(dim=-2, keepdim=True)
    radius = centred.square().sum(dim=-1, keepdim=True).amax(dim=-2, keepdim=True).sqrt()
    return centred / torch.where(radius > 0, radius, torch.ones_like(radius))
