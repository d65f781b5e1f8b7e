"""Flow of two views and its errors, against loops over pixels."""

import math

import numpy as np
import pytest
import torch

from ssl_vision.data.images.two_views import Correspondence, Geometry
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.flow import (
    BinocularConfig,
    flow_at_input,
    flow_errors,
    flow_loss,
    flow_of,
    flow_of_image,
)

SIZE, OTHER = (5, 7), (6, 8)


def test_a_homography_moves_the_centres_of_pixels() -> None:
    matrix = np.array([[1.1, 0.05, -1.2], [-0.1, 0.9, 0.4], [0.01, -0.02, 1.0]])
    flow = flow_of(Geometry(homography=matrix), SIZE, OTHER)
    seen = 0
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            x, y, w = matrix @ [column + 0.5, row + 0.5, 1.0]
            x, y = x / w, y / w
            if 0 <= x <= OTHER[1] and 0 <= y <= OTHER[0]:
                seen += 1
                expected = (x - column - 0.5, y - row - 0.5)
                np.testing.assert_allclose(flow[row, column], expected, rtol=1e-5)
            else:
                assert np.isnan(flow[row, column]).all()
    assert 0 < seen < SIZE[0] * SIZE[1]


def test_a_flow_stays_itself_where_it_stays_within_the_view() -> None:
    given = np.random.default_rng(0).uniform(-3, 3, (*SIZE, 2))
    given[2, 3] = np.nan
    flow = flow_of(Geometry(flow=given), SIZE, SIZE)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            x, y = np.array([column, row]) + 0.5 + given[row, column]
            is_in = 0 <= x <= SIZE[1] and 0 <= y <= SIZE[0]
            expected = given[row, column] if is_in else np.full(2, np.nan)
            np.testing.assert_allclose(flow[row, column], expected, rtol=1e-5, atol=1e-6)


def test_points_are_known_at_their_own_pixels_alone() -> None:
    first = np.array([[0.5, 0.5], [6.9, 4.2], [-1.0, 2.0], [3.0, 3.0]])
    second = np.array([[2.5, 1.0], [7.9, 5.9], [1.0, 1.0], [8.5, 1.0]])
    geometry = Geometry(points=Correspondence(first, second))
    flow = flow_of(geometry, SIZE, OTHER)
    assert np.argwhere(~np.isnan(flow[..., 0])).tolist() == [[0, 0], [4, 6]]
    np.testing.assert_allclose(flow[4, 6], (1.0, 1.7), rtol=1e-5)


def test_a_constant_flow_is_scaled_to_the_input_and_back() -> None:
    flow = np.tile(np.float32([4.0, -2.0]), (*SIZE, 1))
    small = flow_at_input(flow, 3)
    np.testing.assert_allclose(small, np.tile([4 * 3 / 7, -2 * 3 / 5], (3, 3, 1)), rtol=1e-6)
    back = flow_of_image(torch.from_numpy(small).permute(2, 0, 1), SIZE)
    np.testing.assert_allclose(back, flow, rtol=1e-5)


def test_errors_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    truth, found = rng.normal(0, 3, (2, *SIZE, 2)).astype(np.float32)
    truth[1, :3] = np.nan
    distances = [
        math.dist(truth[r, c].tolist(), found[r, c].tolist())
        for r in range(SIZE[0])
        for c in range(SIZE[1])
        if not math.isnan(truth[r, c, 0])
    ]
    errors = flow_errors(truth, found, (1.0, 4.0))
    assert len(distances) == 32
    assert errors.end_point == pytest.approx(sum(distances) / 32, rel=1e-6)
    assert errors.within == tuple(sum(d <= px for d in distances) / 32 for px in (1, 4))
    assert 0 < errors.within[0] < errors.within[1] < 1


def test_the_loss_is_that_of_a_loop_and_skips_what_is_not_known() -> None:
    torch.manual_seed(0)
    found, truth = torch.randn(2, 2, 3, 3), 2 * torch.randn(2, 3, 3, 2)
    truth[0, 1] = torch.nan
    scale, values = (2.0, 0.5), []
    for image in range(2):
        for row in range(3):
            for column in range(3):
                for channel in range(2):
                    target = float(truth[image, row, column, channel])
                    if math.isnan(target):
                        continue
                    gap = abs(float(found[image, channel, row, column]) - target) / scale[channel]
                    values.append(gap**2 / 2 if gap < 1 else gap - 0.5)
    loss = flow_loss(found.requires_grad_(), truth, torch.tensor(scale))
    assert loss.item() == pytest.approx(sum(values) / len(values), rel=1e-5)
    loss.backward()
    assert found.grad is not None
    assert found.grad.isfinite().all()
    assert float(flow_loss(found, torch.full_like(truth, torch.nan), torch.tensor(scale))) == 0


def test_distances_of_the_report_are_checked() -> None:
    assert BinocularConfig().quoted_px == 3
    assert BinocularConfig(within_px=(2.0, 8.0)).quoted_px == 2
    with pytest.raises(ConfigError, match=r"binocular.reported_px=2.0 is not in"):
        BinocularConfig(reported_px=2.0)
    with pytest.raises(ConfigError, match=r"binocular\.within_px"):
        BinocularConfig(within_px=(0.0,))
