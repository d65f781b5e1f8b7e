"""Nearest patches across two views, against loops over places and patches."""

import math

import numpy as np
import pytest
import torch

from ssl_vision.data.images.two_views import Correspondence
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.correspondence import (
    CorrespondConfig,
    View,
    match_places,
    patch_centers,
    shares_within,
)


def test_centres_of_patches_are_row_major():
    found = patch_centers(2, (40, 100))
    assert found.tolist() == [[25, 10], [75, 10], [25, 30], [75, 30]]


def example(seed: int = 0):
    rng = np.random.default_rng(seed)
    first = View(torch.randn(16, 5), (40, 80))
    second = View(torch.randn(9, 5), (60, 30))
    places = Correspondence(
        rng.uniform([-10, -5], [90, 45], (60, 2)), rng.uniform([-5, -9], [35, 70], (60, 2))
    )
    places.second[3] = np.nan
    return first, second, places


def test_matches_and_shares_are_those_of_loops():
    first, second, places = example()
    size_px, within = 48, (6.0, 16.0, 30.0)
    found = match_places(first, second, places, size_px=size_px)
    errors, still, chance, best = [], [], [], []
    for (x, y), (u, v) in zip(*places, strict=True):
        if not (0 <= x < 80 and 0 <= y < 40 and 0 <= u < 30 and 0 <= v < 60):
            continue
        query = first.patches[int(y / 10) * 4 + int(x / 20)]
        cosines = [float(torch.cosine_similarity(query, p, dim=0)) for p in second.patches]
        distances = []
        for row in range(3):
            for column in range(3):
                dx = (column + 0.5) * 10 - u
                dy = (row + 0.5) * 20 - v
                distances.append(math.hypot(dx * size_px / 30, dy * size_px / 60))
        errors.append(distances[int(np.argmax(cosines))])
        still.append(math.hypot((x / 80 - u / 30) * size_px, (y / 40 - v / 60) * size_px))
        chance.append([np.mean([d <= limit for d in distances]) for limit in within])
        best.append(min(distances))
    assert 5 < len(errors) < 60
    assert found.errors_px.tolist() == pytest.approx(errors)
    assert found.still_px.tolist() == pytest.approx(still)
    shares = shares_within(found, within)
    for i, limit in enumerate(within):
        assert shares.found[i] == pytest.approx(np.mean([e <= limit for e in errors]))
        assert shares.still[i] == pytest.approx(np.mean([e <= limit for e in still]))
        assert shares.chance[i] == pytest.approx(np.mean([c[i] for c in chance]))
        assert shares.best[i] == pytest.approx(np.mean([b <= limit for b in best]))
    assert (shares.found <= shares.best).all()


def test_the_same_view_twice_is_found_everywhere():
    patches = torch.randn(25, 8)
    view = View(patches, (50, 50))
    centers = patch_centers(5, (50, 50))
    found = match_places(view, view, Correspondence(centers, centers), size_px=100)
    assert found.errors_px.tolist() == [0] * 25
    moved = View(patches.view(5, 5, 8).roll(1, dims=1).reshape(25, 8), (50, 50))
    found = match_places(
        view, moved, Correspondence(centers, centers + np.array([10, 0])), size_px=100
    )
    assert len(found.errors_px) == 20  # the last column is not seen
    assert found.errors_px.max() < 1e-9
    np.testing.assert_allclose(found.still_px, 20)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"within_px": ()}, r"within_px=\[\]"),
        ({"within_px": (0.0,)}, "within_px"),
        ({"reported_px": 5.0}, "reported_px=5 is not in"),
        ({"warp": 0.5}, "warp=0.5"),
        ({"max_pairs": 0}, "max_pairs=0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        CorrespondConfig(**settings)


def test_16_px_are_quoted_or_the_first():
    assert CorrespondConfig().quoted_px == 16
    assert CorrespondConfig(within_px=(3, 5)).quoted_px == 3
    assert CorrespondConfig(within_px=(3, 5), reported_px=5).quoted_px == 5
