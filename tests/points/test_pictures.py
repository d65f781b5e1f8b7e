"""Projections show what they should, from where they should."""

import math

import numpy as np

from ssl_vision.points.pictures import (
    completion,
    draw_cloud,
    raw_statistics,
    rotating_row,
    stack_rows,
)


def ink(picture: np.ndarray) -> np.ndarray:
    """Rows and columns that are not white."""
    return np.argwhere((picture < 255).any(axis=2))


def test_an_empty_cloud_is_white_and_a_point_at_the_origin_is_in_the_middle() -> None:
    assert (draw_cloud(np.empty((0, 3), np.float32), angle=0, size_px=32) == 255).all()
    marks = ink(draw_cloud(np.zeros((1, 3), np.float32), angle=1.0, size_px=33))
    assert np.abs(marks - 16).max() <= 1


def test_up_is_up_and_right_is_right() -> None:
    low_right = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    first, second = (ink(draw_cloud(low_right[i : i + 1], angle=0, size_px=64)) for i in (0, 1))
    assert first[:, 1].mean() > 55
    assert second[:, 0].mean() < 10


def test_half_a_turn_mirrors() -> None:
    point = np.array([[1, 0, 0]], np.float32)
    front, back = (draw_cloud(point, angle=a, size_px=64) for a in (0, math.pi))
    assert ink(front)[:, 1].mean() > 55
    assert ink(back)[:, 1].mean() < 8


def test_near_points_cover_far_ones() -> None:
    # Behind each other on the tilted camera's line of sight.
    towards = np.array([0, math.sin(math.radians(20)), math.cos(math.radians(20))])
    pair = np.stack([towards, -towards]).astype(np.float32)
    picture = draw_cloud(pair, angle=0, size_px=65, color=(0, 0, 0))
    middle = picture[32, 32]
    assert (middle < 60).all()  # the near one is dark
    assert (draw_cloud(pair[::-1], angle=0, size_px=65, color=(0, 0, 0))[32, 32] == middle).all()


def test_rows_hold_their_pictures_side_by_side() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    row = rotating_row(points, num_angles=3, size_px=40)
    assert row.shape == (40, 120, 3)
    second = draw_cloud(points, angle=2 * math.pi / 3, size_px=40)
    assert np.array_equal(row[:, 40:80], second)
    assert stack_rows([row, row]).shape == (84, 120, 3)


def test_completions_show_input_what_is_seen_and_both_parts_together() -> None:
    generator = np.random.default_rng(0)
    cloud = generator.normal(size=(1, 60, 3)).astype(np.float32)
    image = completion(cloud, cloud[:, :30], cloud[:, 30:], num_angles=2, size_px=32)
    pixels = np.asarray(image)[:, 90:]  # beside the words
    whole, seen, both = (pixels[i * 36 : i * 36 + 32] for i in range(3))
    assert pixels.shape == (3 * 32 + 2 * 4, 2 * 32, 3)
    is_inked = (both < 255).any(axis=2)
    assert (is_inked == (whole < 255).any(axis=2)).mean() > 0.99
    assert not (is_inked[..., None] & (seen < 255)).all()
    is_grey = (seen == seen[..., :1]).all(axis=2)
    assert is_grey.all()
    assert not (both == both[..., :1]).all()  # what is predicted has a colour


def test_statistics_ignore_order_and_turns_about_the_height_axis() -> None:
    points = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    plain = raw_statistics(points)
    assert plain.shape == (2, 40)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(raw_statistics(points[:, order]), plain, atol=1e-5)
    turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)
    turned = raw_statistics(points @ turn)
    np.testing.assert_allclose(turned[:, 3:], plain[:, 3:], atol=1e-5)
