"""Farthest point sampling, batched, in plain torch."""

import torch
from torch import Tensor

from ssl_vision.errors import DataError
from ssl_vision.points.clouds import check_clouds

OFFICIAL_SKIP = 1e-3
"""Squared norm at or below which the CUDA kernel of the authors never chooses a point."""


@torch.no_grad()
def farthest_point_sample(
    points: Tensor, num_samples: int, *, skip_squared_norm: float | None = None
) -> Tensor:
    """Indices of points that each lie farthest from those chosen before (Gonzalez 1985).

    The first is always index 0, as in the official code of Point-MAE: shuffle the points for
    another start. Among equally far points the lowest index wins. Once every point coincides with
    a chosen one, index 0 repeats; so it does when more samples than points are asked for.

    Time is O(num_samples * M) per cloud, memory O(M); there is no synchronisation with the device.

    Args:
        points: Clouds, (B, M, 3).
        num_samples: Points to choose, n.
        skip_squared_norm: Never choose (but as the first) points of this squared norm or less;
            `OFFICIAL_SKIP` for parity with the authors' kernel, which mistakes points near the
            origin for padding. None chooses among all points.

    Returns:
        int64, (B, n).

    Raises:
        DataError: Not clouds, empty, or (on the CPU) not finite.
    """
    if points.ndim != 3:
        raise DataError(f"points must have the shape (B, M, 3), got {tuple(points.shape)}.")
    check_clouds(points, name="points")
    # Coordinates apart: three contiguous planes are several times faster than triples.
    x, y, z = points.to(torch.float32).permute(2, 0, 1).contiguous()  # each (B, M)
    distance = torch.full_like(x, torch.inf)  # to the nearest chosen point
    if skip_squared_norm is not None:
        # Below every squared distance: chosen last, and `minimum` keeps it.
        distance = distance.masked_fill(x * x + y * y + z * z <= skip_squared_norm, -1.0)
    chosen = points.new_zeros((num_samples, len(points)), dtype=torch.int64)
    for i in range(1, num_samples):
        last = chosen[i - 1][:, None]
        squared = (x - x.gather(1, last)).square_()
        for plane in (y, z):
            step = plane - plane.gather(1, last)
            squared.addcmul_(step, step)
        distance = torch.minimum(distance, squared)
        chosen[i] = distance.max(dim=1).indices
    return chosen.T.contiguous()


def take_points(points: Tensor, index: Tensor) -> Tensor:
    """Points by index: (B, M, C) and (B, ...) -> (B, ..., C)."""
    flat = index.flatten(1)[:, :, None].expand(-1, -1, points.shape[-1])
    return points.gather(1, flat).unflatten(1, index.shape[1:])
