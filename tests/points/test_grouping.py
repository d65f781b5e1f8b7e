"""Patches against brute force, the authors' values, and their invariances."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_vision.errors import DataError
from ssl_vision.points import grouping
from ssl_vision.points.grouping import group_points, interpolation_weights, nearest_neighbors

Golden = Callable[[str], dict[str, np.ndarray]]


def test_neighbors_equal_a_full_sort() -> None:
    queries, points = torch.randn(2, 5, 3), torch.randn(2, 20, 3)
    found = nearest_neighbors(queries, points, 6)
    for b in range(2):
        for q in range(5):
            distances = [float((queries[b, q] - p).square().sum()) for p in points[b]]
            assert found[b, q].tolist() == sorted(range(20), key=distances.__getitem__)[:6]


def test_chunks_do_not_change_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, points = torch.randn(3, 7, 3), torch.randn(3, 20, 3)
    whole = nearest_neighbors(queries, points, 4)
    for chunk in (1, 45, 150, 300):
        monkeypatch.setattr(grouping, "_CPU_CHUNK", chunk)
        assert torch.equal(nearest_neighbors(queries, points, 4), whole)


def test_patches_equal_the_authors(golden: Golden) -> None:
    values = golden("point")
    points = torch.from_numpy(values["fps_points"])
    patches = group_points(points, num_groups=16, group_size=8, skip_squared_norm=1e-3)
    assert np.array_equal(patches.centers.numpy(), values["group_center_16"])
    assert np.array_equal(patches.neighbors.numpy(), values["group_neighborhood_16x8"])
    index = nearest_neighbors(patches.centers, points, 8)
    assert np.array_equal(index.numpy(), values["group_rederived_knn_index"])


def test_patches_start_with_their_centre_and_shifts_move_centres_only() -> None:
    points = torch.randn(2, 60, 3)
    patches = group_points(points, num_groups=5, group_size=9)
    assert (patches.neighbors[:, :, 0] == 0).all()
    moved = group_points(points + 2.0, num_groups=5, group_size=9)
    assert torch.allclose(moved.neighbors, patches.neighbors, atol=1e-5)
    assert torch.allclose(moved.centers, patches.centers + 2.0)


def test_patches_turn_with_the_cloud() -> None:
    points = torch.randn(1, 60, 3)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3))
    patches = group_points(points, num_groups=5, group_size=9)
    turned = group_points(points @ rotation, num_groups=5, group_size=9)
    assert torch.allclose(turned.neighbors, patches.neighbors @ rotation, atol=1e-5)


def test_duplicated_points_make_patches_of_duplicates() -> None:
    points = torch.randn(1, 4, 3).repeat_interleave(8, dim=1)
    patches = group_points(points, num_groups=4, group_size=8)
    assert (patches.neighbors == 0).all()
    assert torch.equal(patches.centers.unique(dim=1), points.unique(dim=1))


def test_too_small_clouds_are_refused_and_a_single_point_is_a_patch() -> None:
    with pytest.raises(DataError, match="clouds of 7 points cannot give patches of 8"):
        group_points(torch.zeros(1, 7, 3), num_groups=2, group_size=8)
    patches = group_points(torch.ones(1, 1, 3), num_groups=3, group_size=1)
    assert torch.equal(patches.centers, torch.ones(1, 3, 3))


def test_interpolation_mixes_the_three_nearest_by_inverse_squared_distance() -> None:
    centers = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [9, 0, 0]]])
    index, weights = interpolation_weights(torch.tensor([[[2.0, 0, 0], [0, 0, 0]]]), centers)
    assert set(index[0, 0].tolist()) == {0, 1, 2}
    by_center = dict(zip(index[0, 0].tolist(), weights[0, 0].tolist(), strict=True))
    assert by_center[0] == pytest.approx(0.25 / 2.25)
    assert by_center[1] == pytest.approx(1 / 2.25)
    assert weights[0, 1].max() == pytest.approx(1.0)  # a query on a centre takes it alone
