"""Chamfer distances between point clouds, memory bounded by chunks.

The nearest neighbours are searched without autograd, chunk by chunk; the distances to them are
then computed again, differentiably, from the found pairs alone. That is the exact gradient (the
minimum passes its gradient to its argument) at a memory of the clouds' own size.
"""

import math

import torch
from torch import Tensor

from ssl_vision.errors import DataError

# Squared distances held at once by default: half a MiB of float32 stays in the cache of a CPU
# core (twice as fast as going through memory), 256 MiB keep a GPU busy.
_CPU_CHUNK = 1 << 17
_DEVICE_CHUNK = 1 << 26


def chamfer_distance(
    a: Tensor, b: Tensor, *, power: int, chunk_elements: int | None = None
) -> Tensor:
    """Mean distance of each point to the nearest of the other cloud, both ways.

    With d the distance to the nearest point:
        power 2: mean over a of d^2 + mean over b of d^2 (Point-MAE's `cdl2`, its equation 5);
        power 1: (mean over a of d + mean over b of d) / 2 (`cdl1`).
    Where points coincide, the distance of power 1 gets the subgradient 0.

    Args:
        a: Clouds, (B, n, 3).
        b: Clouds, (B, m, 3).
        power: 1 or 2.
        chunk_elements: Most distances held at once; None suits the device.

    Returns:
        Scalar: the mean over all points of all clouds.

    Raises:
        DataError: Shapes that are not matching batches of non-empty clouds.
        ValueError: Another power.
    """
    if power not in (1, 2):
        raise ValueError(f"power={power} must be 1 or 2.")
    squared_a, squared_b, _, _ = nearest_squared(a, b, chunk_elements=chunk_elements)
    if power == 2:
        return squared_a.mean() + squared_b.mean()
    return 0.5 * (_safe_sqrt(squared_a).mean() + _safe_sqrt(squared_b).mean())


def nearest_squared(
    a: Tensor, b: Tensor, *, chunk_elements: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Squared distance of each point to the nearest of the other cloud, and which that is.

    Args:
        a: Clouds, (B, n, 3).
        b: Clouds, (B, m, 3).
        chunk_elements: Most distances held at once; None suits the device.

    Returns:
        Squared distances a to b (B, n) and b to a (B, m), differentiable; indices into b (B, n)
        and into a (B, m), int64. The lowest index wins a tie.
    """
    _check(a, b)
    a, b = a.float(), b.float()  # half precision cannot tell close points apart
    index_a = _nearest_index(a.detach(), b.detach(), chunk_elements)
    index_b = _nearest_index(b.detach(), a.detach(), chunk_elements)
    squared_a = (a - _take(b, index_a)).square().sum(dim=-1)
    squared_b = (b - _take(a, index_b)).square().sum(dim=-1)
    return squared_a, squared_b, index_a, index_b


def _check(a: Tensor, b: Tensor) -> None:
    is_batch = a.ndim == 3 and b.ndim == 3 and a.shape[-1] == b.shape[-1] == 3
    if not is_batch or len(a) != len(b):
        raise DataError(
            f"chamfer needs clouds (B, n, 3) and (B, m, 3), got {tuple(a.shape)}, {tuple(b.shape)}."
        )
    if 0 in (*a.shape, *b.shape):
        raise DataError(
            f"chamfer has no value for empty clouds: {tuple(a.shape)}, {tuple(b.shape)}."
        )


@torch.no_grad()
def _nearest_index(queries: Tensor, points: Tensor, chunk_elements: int | None) -> Tensor:
    """Index of the nearest of `points` (B, m, 3) for each of `queries` (B, n, 3), (B, n)."""
    if chunk_elements is None:
        chunk_elements = _CPU_CHUNK if points.device.type == "cpu" else _DEVICE_CHUNK
    # Tiles of queries and points as square as their numbers allow: the minimum over a dimension
    # that is not the last runs on vectors of queries (on the CPU ten times faster, so that a pass
    # per direction is cheaper than one for both), and both sides of a tile are read often.
    side = max(1, math.isqrt(chunk_elements))
    columns = min(queries.shape[1], side)
    rows = min(points.shape[1], max(1, chunk_elements // columns))
    clouds = max(1, chunk_elements // (columns * rows))
    found = torch.empty(queries.shape[:2], dtype=torch.int64, device=queries.device)
    for first in range(0, len(queries), clouds):
        some, others = queries[first : first + clouds], points[first : first + clouds]
        for start in range(0, queries.shape[1], columns):
            part = some[:, start : start + columns]
            found[first : first + clouds, start : start + columns] = _nearest_of(part, others, rows)
    return found


def _nearest_of(queries: Tensor, points: Tensor, rows: int) -> Tensor:
    """Nearest point of each query, (B, n), looking at `rows` points at a time."""
    best, index = _squared_distances(points[:, :rows], queries).min(dim=1)
    for start in range(rows, points.shape[1], rows):
        distances = _squared_distances(points[:, start : start + rows], queries)
        value, place = distances.min(dim=1)
        is_nearer = value < best  # strictly: the lowest index keeps a tie
        best = torch.where(is_nearer, value, best)
        index = torch.where(is_nearer, place + start, index)
    return index


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, n, 3) and (B, m, 3) -> (B, n, m), from differences: dot products round too much."""
    total: Tensor | None = None
    for axis in range(3):
        step = a[:, :, axis, None] - b[:, None, :, axis]
        total = step.square_() if total is None else total.addcmul_(step, step)
    assert total is not None
    return total


def _take(points: Tensor, index: Tensor) -> Tensor:
    return points.gather(1, index[:, :, None].expand(-1, -1, 3))


def _safe_sqrt(squared: Tensor) -> Tensor:
    """Square root with gradient 0 (not infinity) at 0."""
    is_positive = squared > 0
    return torch.where(is_positive, squared, torch.ones_like(squared)).sqrt() * is_positive
