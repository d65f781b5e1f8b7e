"""Farthest point sampling against its definition, the authors' kernel, and its invariances."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_vision.errors import DataError
from ssl_vision.points.sampling import OFFICIAL_SKIP, farthest_point_sample, take_points

Golden = Callable[[str], dict[str, np.ndarray]]


def textbook(points: torch.Tensor, num: int) -> list[int]:
    """Gonzalez' greedy choice for one cloud, point by point."""
    chosen = [0]
    while len(chosen) < num:
        best, best_distance = 0, -1.0
        for i, p in enumerate(points):
            nearest = min(float((p - points[j]).square().sum()) for j in chosen)
            if nearest > best_distance:
                best, best_distance = i, nearest
        chosen.append(best)
    return chosen


def test_equals_the_greedy_definition() -> None:
    points = torch.randn(3, 24, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([textbook(cloud, 9) for cloud in points])
    assert torch.equal(farthest_point_sample(points, 9), expected)


def test_equals_the_authors_kernel(golden: Golden) -> None:
    values = golden("point")
    points = torch.from_numpy(values["fps_points"])
    index = farthest_point_sample(points, 16, skip_squared_norm=OFFICIAL_SKIP)
    assert np.array_equal(index.numpy(), values["fps_index_16"])
    assert np.array_equal(take_points(points, index).numpy(), values["fps_centers_16"])


def test_skips_points_near_the_origin_as_the_authors_kernel_does(golden: Golden) -> None:
    values = golden("point")
    points = torch.from_numpy(values["fps_near_origin_points"])
    index = farthest_point_sample(points, 32, skip_squared_norm=OFFICIAL_SKIP)
    assert np.array_equal(index.numpy(), values["fps_near_origin_index_32"])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), num_points=st.integers(1, 40), num=st.integers(1, 50))
def test_spread_shrinks_and_points_do_not_repeat_before_they_must(
    seed: int, num_points: int, num: int
) -> None:
    points = torch.randn(1, num_points, 3, generator=torch.Generator().manual_seed(seed))
    index = farthest_point_sample(points, num)[0]
    distinct = min(num, num_points)
    assert len(set(index.tolist())) == distinct
    assert (index[distinct:] == 0).all()
    spread = [
        float((points[0, index[:i]] - points[0, index[i]]).norm(dim=1).min())
        for i in range(1, distinct)
    ]
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(spread))


def test_follows_rigid_motions_and_reordering() -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(1, 40, 3, generator=generator)
    index = farthest_point_sample(points, 12)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    assert torch.equal(farthest_point_sample(points @ rotation + 3, 12), index)
    # The first point stays first (it is where the greedy choice starts), the others shuffle.
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(39)])
    shuffled = farthest_point_sample(points[:, order], 12)
    assert torch.equal(order[shuffled], index)


def test_a_cloud_is_sampled_alike_in_any_batch() -> None:
    points = torch.randn(4, 30, 3)
    together = farthest_point_sample(points, 7)
    assert torch.equal(together[2:3], farthest_point_sample(points[2:3], 7))


def test_duplicates_are_chosen_last_and_ties_go_to_the_lowest_index() -> None:
    square = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]])
    assert farthest_point_sample(square[None], 6)[0].tolist() == [0, 2, 4, 5, 0, 0]


def test_unusable_clouds_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        farthest_point_sample(torch.full((1, 4, 3), float("nan")), 2)
    with pytest.raises(DataError, match="0 points"):
        farthest_point_sample(torch.zeros(1, 0, 3), 2)
    with pytest.raises(DataError, match=r"\(B, M, 3\)"):
        farthest_point_sample(torch.zeros(4, 3), 2)
