"""Checks and normalisation of clouds."""

import pytest
import torch

from ssl_vision.errors import DataError
from ssl_vision.points.clouds import check_clouds, unit_sphere


def test_normalised_clouds_have_mean_zero_and_radius_one() -> None:
    points = torch.randn(3, 50, 3) * 7 + 4
    unit = unit_sphere(points)
    assert unit.mean(dim=1).abs().max() < 1e-6
    assert torch.allclose(unit.norm(dim=2).amax(dim=1), torch.ones(3))


def test_normalising_undoes_shift_and_size() -> None:
    points = torch.randn(2, 50, 3)
    assert torch.allclose(unit_sphere(points), unit_sphere(points * 5 + 3), atol=1e-5)


def test_clouds_without_size_are_only_centred() -> None:
    assert torch.equal(unit_sphere(torch.full((1, 4, 3), 2.0)), torch.zeros(1, 4, 3))
    assert torch.equal(unit_sphere(torch.tensor([[1.0, 2.0, 3.0]])), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(3), "shape"),
        (torch.zeros(2, 5, 4), "shape"),
        (torch.zeros(2, 0, 3), "have 0 points but 1 are needed"),
        (torch.tensor([[[0.0, float("nan"), 0.0], [0.0, 0.0, 0.0]]]), "1 of 2 points with NaN"),
    ],
)
def test_unusable_clouds_are_named(points: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_clouds(points)
