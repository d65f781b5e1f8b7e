"""Views of clouds: each operation against its definition, and draws that depend on keys alone."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.points.clouds import unit_sphere
from ssl_vision.points.sampling import farthest_point_sample
from ssl_vision.points.views import (
    PointViewConfig,
    augment,
    choose_points,
    evaluation_point_view,
    random_rotation,
    render_view,
    rotate_about_y,
    scale_and_shift,
)

Golden = Callable[[str], dict[str, np.ndarray]]
STILL = PointViewConfig(num_points=20, is_normalized=False, scale=(1.0, 1.0), shift=0.0)


def test_scale_and_shift_equal_the_authors(golden: Golden) -> None:
    values = golden("point_downstream")
    points, scale, shift = (torch.from_numpy(values[f"aug_{k}"]) for k in ("in", "scale", "shift"))
    result = scale_and_shift(points, scale=scale, shift=shift)
    assert np.array_equal(result.numpy(), values["aug_out"])


def test_isotropic_scale_and_shift_equal_the_authors(golden: Golden) -> None:
    values = golden("point_downstream")
    scale = torch.from_numpy(values["seg_aug_scales"])[:, None].expand(-1, 3)
    shift = torch.from_numpy(values["seg_aug_shifts"])
    result = scale_and_shift(torch.from_numpy(values["seg_points"]), scale=scale, shift=shift)
    np.testing.assert_allclose(result.numpy(), values["seg_aug_out"], atol=1e-6)


def test_vertical_rotation_equals_the_authors(golden: Golden) -> None:
    values = golden("point_downstream")
    points, angle = (torch.from_numpy(values[k]) for k in ("aug_in", "rotate_y_angle"))
    np.testing.assert_allclose(
        rotate_about_y(points, angle=angle).numpy(), values["rotate_y_out"], atol=1e-6
    )


def test_views_depend_on_key_and_sample_not_on_the_batch() -> None:
    config = PointViewConfig(num_points=16, rotate="any", jitter_sigma=0.01)
    clouds = [torch.randn(m, 3) for m in (40, 16, 5)]
    ids = torch.tensor([3, 900, 4])
    together = render_view(clouds, config, key=11, ids=ids)
    for row in range(3):
        alone = render_view(clouds[row : row + 1], config, key=11, ids=ids[row : row + 1])
        assert torch.equal(alone[0], together[row])
    assert not torch.allclose(render_view(clouds, config, key=12, ids=ids), together)


def choose(cloud: Tensor, config: PointViewConfig = STILL, *, sample_id: int = 0) -> Tensor:
    """Points of one cloud."""
    return choose_points([cloud], config, key=1, ids=torch.tensor([sample_id]))[0]


def test_random_choice_takes_points_of_the_cloud_once() -> None:
    cloud = torch.randn(20, 3)
    chosen = choose(cloud)
    assert torch.equal(chosen.unique(dim=0), cloud.unique(dim=0))
    assert not torch.equal(chosen, choose(cloud, sample_id=1))


@pytest.mark.parametrize("num_available", [1, 3, 19])
def test_smaller_clouds_repeat_each_point_equally_often(num_available: int) -> None:
    chosen = choose(torch.randn(num_available, 3))
    counts = chosen.unique(dim=0, return_counts=True)[1]
    assert len(counts) == num_available
    assert counts.max() - counts.min() <= 1


def test_farthest_pool_limits_what_random_choice_sees() -> None:
    line = torch.zeros(101, 3)
    line[:, 0] = torch.arange(101)
    config = replace(STILL, num_points=2, farthest_pool=3)  # of the pool {0, 100, 50}
    seen = {float(x) for i in range(20) for x in choose(line, config, sample_id=i)[:, 0]}
    assert seen == {0.0, 50.0, 100.0}


@pytest.mark.parametrize(
    "config",
    [
        replace(STILL, num_points=5, choose="farthest"),
        replace(STILL, num_points=5, farthest_pool=9),
    ],
)
def test_farthest_points_do_not_depend_on_the_other_clouds(config: PointViewConfig) -> None:
    """Clouds of equal size are searched together."""
    clouds = [torch.randn(size, 3) for size in (12, 7, 12, 30, 5, 7, 12)]
    ids = torch.arange(10, 17)
    together = choose_points(clouds, config, key=1, ids=ids)
    for cloud, i, found in zip(clouds, ids, together, strict=True):
        assert torch.equal(choose(cloud, config, sample_id=int(i)), found)
        if config.choose == "farthest":
            assert torch.equal(cloud[farthest_point_sample(cloud[None], 5)[0]], found)


def test_evaluation_view_has_no_chance() -> None:
    view = evaluation_point_view(num_points=12)
    clouds = [torch.randn(30, 3)]
    first = render_view(clouds, view, key=1, ids=torch.tensor([0]))
    assert torch.equal(first, render_view(clouds, view, key=2, ids=torch.tensor([5])))
    assert torch.allclose(first, unit_sphere(first), atol=1e-6)


def test_scale_and_shift_fill_their_ranges_and_touch_all_points_alike() -> None:
    config = replace(STILL, scale=(0.5, 1.5), shift=0.3)
    ids = torch.arange(3000)
    moved = augment(
        torch.tensor([[[0.0] * 3, [1.0] * 3]]).expand(3000, 2, 3), config, key=5, ids=ids
    )
    shift, scale = moved[:, 0], moved[:, 1] - moved[:, 0]
    for values, low, high in ((shift, -0.3, 0.3), (scale, 0.5, 1.5)):
        assert low - 1e-6 <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high + 1e-6
    assert torch.corrcoef(torch.cat([shift, scale], dim=1).T).fill_diagonal_(0).abs().max() < 0.1
    same = augment(torch.ones(9, 1, 3), replace(config, shift=0.0, is_scale_per_axis=False), key=5,
                   ids=ids[:9])  # fmt: skip
    assert (same == same[:, :, :1]).all()


def test_any_rotation_is_proper_and_uniform() -> None:
    matrices = random_rotation(torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)))
    eye = torch.eye(3, dtype=torch.float64)
    assert (matrices @ matrices.transpose(1, 2) - eye).abs().max() < 1e-6
    assert (torch.linalg.det(matrices) - 1).abs().max() < 1e-6
    # The image of a uniform rotation has mean 0 and covariance 1/3 of the identity.
    image = matrices[:, :, 0]
    assert image.mean(dim=0).abs().max() < 5 / math.sqrt(3 * 4000)
    assert (image.T @ image / 4000 - eye / 3).abs().max() < 0.03


def test_vertical_rotation_keeps_heights_and_distances() -> None:
    points = torch.randn(2, 20, 3)
    config = replace(STILL, rotate="vertical")
    turned = augment(points, config, key=3, ids=torch.arange(2))
    assert torch.allclose(turned[:, :, 1], points[:, :, 1])
    assert torch.allclose(torch.cdist(turned, turned), torch.cdist(points, points), atol=1e-4)


def test_jitter_is_normal_and_cut() -> None:
    config = replace(STILL, jitter_sigma=0.1)
    noise = augment(torch.zeros(200, 100, 3), config, key=3, ids=torch.arange(200)) / 0.1
    assert noise.abs().max() <= 2.5 + 1e-5
    assert noise.mean().abs() < 0.02
    assert 0.94 < noise.std() < 1.0  # 0.954 for a normal cut at 2.5 sigma ... clipped to it 0.985


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_points": 0}, "num_points=0 must be 1 or more"),
        ({"farthest_pool": 10}, "farthest_pool=10 must be at least"),
        ({"farthest_pool": 2000, "choose": "farthest"}, "set it to null"),
        ({"scale": (0.0, 1.0)}, "scale="),
        ({"shift": -0.1}, "shift=-0.1"),
        ({"jitter_sigma": math.nan}, "jitter_sigma=nan"),
    ],
)
def test_unusable_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PointViewConfig(**change)


def test_clouds_with_nan_or_no_points_are_named() -> None:
    with pytest.raises(DataError, match="cloud 7 have 1 of 2 points with NaN"):
        choose(torch.tensor([[0.0, 0, math.nan], [0, 0, 0]]), sample_id=7)
    with pytest.raises(DataError, match="have 0 points"):
        choose(torch.zeros(0, 3), sample_id=7)


def test_a_view_of_few_points_is_said() -> None:
    (line,) = PointViewConfig(num_points=1).doubts("data.views.cloud.")
    assert line.startswith("data.views.cloud.num_points=1:")
    assert PointViewConfig(num_points=16).doubts("") == []
