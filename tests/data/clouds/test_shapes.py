"""Built-in clouds: repeatable, varied, and of the right geometry."""

import numpy as np
import pytest

from ssl_vision.data.clouds.shapes import (
    NUM_POINTS,
    PART_NAMES,
    PART_OBJECTS,
    SHAPES,
    make_parts,
    make_shape,
)


@pytest.mark.parametrize("kind", list(SHAPES))
def test_solids_are_repeatable_and_differ(kind: str) -> None:
    first = make_shape(kind, split="train", index=3)
    assert first.shape == (NUM_POINTS, 3)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.array_equal(first, make_shape(kind, split="train", index=3))
    assert not np.array_equal(first, make_shape(kind, split="train", index=4))
    assert not np.array_equal(first, make_shape(kind, split="val", index=3))


def test_partial_views_hide_one_side() -> None:
    whole = make_shape("ellipsoid", split="train", index=0, partial_views=False)
    spans = [
        np.ptp(make_shape("ellipsoid", split="train", index=i), axis=0).min() for i in range(8)
    ]
    assert np.abs(whole.mean(axis=0)).max() < 0.1
    assert min(spans) < 0.8 * np.ptp(whole, axis=0).min() + 1


def test_a_torus_has_its_hole() -> None:
    points = make_shape("torus", split="train", index=1, partial_views=False)
    # Squeezed along one axis by at most 0.7: nothing is nearer to the axis than 0.7 * (1 - 0.45).
    assert np.hypot(points[:, 0], points[:, 2]).min() > 0.3


@pytest.mark.parametrize("kind", list(PART_OBJECTS))
def test_points_of_objects_know_their_parts(kind: str) -> None:
    points, parts = make_parts(kind, split="train", index=0)
    assert points.shape == (NUM_POINTS, 3)
    names = {PART_NAMES[i] for i in np.unique(parts)}
    assert names == {name for name in PART_NAMES if name.startswith(f"{kind}/")}
    assert np.array_equal(parts, make_parts(kind, split="train", index=0)[1])


def test_table_tops_lie_above_their_legs() -> None:
    points, parts = make_parts("table", split="val", index=2)
    top, legs = (points[parts == PART_NAMES.index(f"table/{n}"), 1] for n in ("top", "legs"))
    assert np.median(top) > np.percentile(legs, 90)
