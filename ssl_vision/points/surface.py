"""Points on the surface of a triangle mesh."""

import torch
from torch import Tensor

from ssl_vision.errors import DataError


def triangle_areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area of each triangle, float64, (F,), from vertices (V, 3) and indices (F, 3)."""
    a, b, c = vertices.double()[faces].unbind(dim=1)
    return 0.5 * torch.linalg.cross(b - a, c - a).norm(dim=1)


def sample_surface(vertices: Tensor, faces: Tensor, uniform: Tensor) -> Tensor:
    """Points spread evenly over a surface.

    A triangle is drawn with probability proportional to its area, a point in it uniformly. Nothing
    is asked of the mesh: it may be open, non-manifold, inconsistently oriented or intersect itself;
    triangles without area are never drawn.

    Args:
        vertices: (V, 3), finite where faces use them.
        faces: Vertex indices of triangles, int64, (F, 3).
        uniform: Independent uniform numbers in [0, 1), (n, 3), three per point.

    Returns:
        float32, (n, 3).

    Raises:
        DataError: Faces without any area, or that use missing or non-finite vertices.
    """
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= len(vertices)):
        raise DataError(
            f"a face uses vertex {int(faces.max())} (or a negative one), the mesh has "
            f"{len(vertices)} vertices."
        )
    areas = triangle_areas(vertices, faces)
    total = float(areas.sum())
    if not total < torch.inf:
        raise DataError("a face uses a vertex with NaN or infinite coordinates.")
    if total <= 0:
        raise DataError(f"the surface has no area: all {len(faces)} faces are degenerate.")
    steps = areas.cumsum(dim=0)
    draw = uniform.double()
    chosen = torch.searchsorted(steps, draw[:, 0] * steps[-1], right=True)
    a, b, c = vertices.double()[faces[chosen.clamp(max=len(faces) - 1)]].unbind(dim=1)
    # The square root spreads points evenly: a strip near the edge bc is longer than one near a.
    across, along = draw[:, 1:2].sqrt(), draw[:, 2:3]
    points = (1 - across) * a + across * (1 - along) * b + across * along * c
    return points.float()
