"""Points on meshes: on the surface, spread by area, whatever the mesh."""

import pytest
import torch

from ssl_vision.errors import DataError
from ssl_vision.points.surface import sample_surface, triangle_areas

TRIANGLES = torch.tensor([[0, 1, 2], [1, 2, 3]])
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 4]])


def uniform(num: int) -> torch.Tensor:
    return torch.rand(num, 3, generator=torch.Generator().manual_seed(4))


def test_areas_are_half_the_cross_product() -> None:
    areas = triangle_areas(CORNERS, TRIANGLES)
    assert areas[0] == pytest.approx(0.5)
    # Edges (-1, 1, 0) and (0, 1, 4) of the second triangle span |(4, 4, -1)| / 2.
    assert areas[1] == pytest.approx(33**0.5 / 2)


def test_points_lie_in_the_triangles_and_are_drawn_by_area() -> None:
    points = sample_surface(CORNERS, TRIANGLES, uniform(20_000))
    in_first = points[:, 2] < 1e-6
    share = 0.5 / (0.5 + 33**0.5 / 2)
    assert abs(in_first.float().mean() - share) < 5 * (share * (1 - share) / 20_000) ** 0.5
    first = points[in_first]
    assert (first[:, :2] >= 0).all()
    assert (first[:, :2].sum(dim=1) <= 1 + 1e-6).all()


def test_points_of_a_triangle_are_uniform() -> None:
    points = sample_surface(CORNERS, TRIANGLES[:1], uniform(20_000))
    assert torch.allclose(points.mean(dim=0)[:2], torch.full((2,), 1 / 3), atol=0.01)
    # A quarter of the triangle lies in each of its four halves-size copies.
    assert abs(((points[:, 0] > 0.5).float().mean()) - 0.25) < 0.02


def test_degenerate_and_doubled_faces_do_not_disturb() -> None:
    # A point, a line, a face three times (non-manifold), a flipped one.
    faces = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 1, 2], [0, 1, 2], [2, 1, 0]])
    points = sample_surface(CORNERS, faces, uniform(500))
    assert points.isfinite().all()
    assert (points[:, 2] == 0).all()
    assert (points[:, :2].sum(dim=1) <= 1 + 1e-6).all()


def test_extreme_numbers_stay_in_range() -> None:
    edge = torch.tensor([[0.0, 0, 0], [1 - 2**-24, 1 - 2**-24, 1 - 2**-24]])
    assert sample_surface(CORNERS, TRIANGLES, edge).isfinite().all()


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (CORNERS, torch.tensor([[0, 1, 9]]), "uses vertex 9"),
        (CORNERS, torch.tensor([[0, 1, -1]]), "or a negative one"),
        (CORNERS, torch.tensor([[0, 0, 1]]), "no area: all 1 faces are degenerate"),
        (CORNERS, torch.empty(0, 3, dtype=torch.int64), "no area: all 0"),
        (CORNERS * torch.nan, TRIANGLES, "NaN"),
    ],
)
def test_meshes_without_a_surface_are_refused(
    vertices: torch.Tensor, faces: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        sample_surface(vertices, faces, uniform(4))
