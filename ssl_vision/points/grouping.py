"""Patches of a cloud: centres spread by farthest point sampling, and their nearest neighbours."""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.errors import DataError
from ssl_vision.points.clouds import check_clouds
from ssl_vision.points.sampling import farthest_point_sample, take_points

# Squared distances held at once: 1 MiB stays near a CPU core, 256 MiB keep a GPU busy.
_CPU_CHUNK = 1 << 18
_DEVICE_CHUNK = 1 << 26


class PointPatches(NamedTuple):
    """Patches of B clouds.

    Attributes:
        neighbors: Points of each patch relative to its centre, nearest first, (B, G, k, 3).
        centers: Centres, (B, G, 3).
    """

    neighbors: Tensor
    centers: Tensor


@torch.no_grad()
def nearest_neighbors(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """Indices of the k points nearest to each query, nearest first.

    Distances come from differences of coordinates (not from dot products, whose rounding
    reorders close neighbours), in chunks: memory does not grow with Q * M.

    Args:
        queries: (B, Q, 3).
        points: (B, M, 3).
        k: Neighbours wanted, at most M.

    Returns:
        int64, (B, Q, k).

    Raises:
        DataError: Fewer points than neighbours, or (on the CPU) not finite.
    """
    check_clouds(points, name="points", min_points=k)
    num_queries, num_points = queries.shape[1], points.shape[1]
    chunk = _CPU_CHUNK if points.device.type == "cpu" else _DEVICE_CHUNK
    clouds = max(1, chunk // max(1, num_queries * num_points))
    rows = max(1, chunk // num_points)  # queries of one cloud, where it is large
    found = []
    for some, others in zip(queries.split(clouds), points.split(clouds), strict=True):
        parts = [_nearest_of(part, others, k) for part in some.split(rows, dim=1)]
        found.append(torch.cat(parts, dim=1))
    return torch.cat(found)


def group_points(
    points: Tensor,
    *,
    num_groups: int,
    group_size: int,
    skip_squared_norm: float | None = None,
) -> PointPatches:
    """Cut clouds into overlapping patches (Point-MAE, section 3.1).

    A patch is not scaled to a radius: its size tells how dense the cloud is there.

    Args:
        points: (B, M, 3).
        num_groups: Patches G; more than M repeats patches.
        group_size: Points k of a patch, its centre among them.
        skip_squared_norm: See `farthest_point_sample`.

    Raises:
        DataError: Fewer points than a patch has.
    """
    if points.shape[-2] < group_size:
        raise DataError(
            f"clouds of {points.shape[-2]} points cannot give patches of {group_size}; "
            f"use clouds of at least {group_size} points or a smaller group_size."
        )
    index = farthest_point_sample(points, num_groups, skip_squared_norm=skip_squared_norm)
    centers = take_points(points, index)
    neighbors = take_points(points, nearest_neighbors(centers, points, group_size))
    return PointPatches(neighbors - centers[:, :, None], centers)


def interpolation_weights(
    queries: Tensor, centers: Tensor, *, k: int = 3, epsilon: float = 1e-8
) -> tuple[Tensor, Tensor]:
    """Nearest centres of each query and their inverse squared distance weights (PointNet++).

    Args:
        queries: (B, Q, 3).
        centers: (B, G, 3), G >= k.
        k: Centres to mix.
        epsilon: Added to the squared distances.

    Returns:
        Indices int64 (B, Q, k), and weights that sum to 1 over k, (B, Q, k).
    """
    index = nearest_neighbors(queries, centers, k)
    squared = (queries[:, :, None] - take_points(centers, index)).square().sum(dim=-1)
    inverse = 1.0 / (squared + epsilon)
    return index, inverse / inverse.sum(dim=-1, keepdim=True)


def _nearest_of(queries: Tensor, points: Tensor, k: int) -> Tensor:
    distances = _squared_distances(queries, points)
    return distances.topk(k, dim=-1, largest=False, sorted=True).indices


def _squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """(B, Q, 3) and (B, M, 3) -> (B, Q, M), one coordinate after the other."""
    total: Tensor | None = None
    for axis in range(3):
        step = queries[:, :, axis, None] - points[:, None, :, axis]
        total = step.square_() if total is None else total.addcmul_(step, step)
    assert total is not None
    return total
