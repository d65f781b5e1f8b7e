"""Pairs and groups are those of a plain double loop."""

import re

import numpy as np
import pytest

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.similar import (
    Pair,
    doubts_of_groups,
    groups_of,
    nearest_similarities,
    similar_pairs,
)


@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("num", [2, 15, 90])
def test_pairs_are_those_of_a_double_loop(num: int, threshold: float) -> None:
    random = np.random.default_rng(num)
    features = random.normal(size=(num, 3)).astype(np.float32)  # few dimensions: large groups
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = [
        (i, j) for i in range(num) for j in range(i + 1, num) if unit[i] @ unit[j] >= threshold
    ]
    found = similar_pairs(features, threshold=threshold)
    assert [(pair.first, pair.second) for pair in found] == expected
    scores = [unit[i] @ unit[j] for i, j in expected]
    np.testing.assert_allclose([pair.similarity for pair in found], scores, atol=1e-6)


def test_more_equal_rows_than_are_asked_for_at_first_are_all_found() -> None:
    features = np.ones((70, 4), np.float32) * np.linspace(1, 3, 70, dtype=np.float32)[:, None]
    assert len(similar_pairs(features, threshold=1.0)) == 70 * 69 // 2


def test_groups_are_chains() -> None:
    pairs = [Pair(0, 3, 0.9), Pair(3, 5, 0.9), Pair(1, 2, 0.9), Pair(6, 7, 0.9), Pair(0, 7, 0.9)]
    assert groups_of(pairs, 9) == [[0, 3, 5, 6, 7], [1, 2]]
    assert groups_of([], 9) == []


def test_groups_are_the_connected_parts_of_any_graph() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        edges = [sorted(random.choice(20, 2, replace=False).tolist()) for _ in range(12)]
        sets = [{i} for i in range(20)]
        for a, b in edges:  # merge until nothing changes
            (first,) = (s for s in sets if a in s)
            (second,) = (s for s in sets if b in s)
            if first is not second:
                sets = [s for s in sets if s is not second]
                first |= second
        expected = sorted(
            (sorted(s) for s in sets if len(s) > 1), key=lambda group: (-len(group), group[0])
        )
        assert groups_of([Pair(a, b, 1.0) for a, b in edges], 20) == expected


def test_thresholds_that_cannot_be_are_refused() -> None:
    for threshold in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="threshold="):
            similar_pairs(np.eye(3), threshold=threshold)


@pytest.mark.parametrize("num_equal", [1, 2, 4])
def test_nearest_similarities_are_those_of_a_plain_loop(num_equal: int) -> None:
    features = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    features[:num_equal] = features[0]
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = [max(unit[i] @ unit[j] for j in range(12) if j != i) for i in range(12)]
    np.testing.assert_allclose(nearest_similarities(features), expected, atol=1e-6)


def _on_a_circle(degrees: np.ndarray) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _doubts(features: np.ndarray, threshold: float) -> str:
    groups = groups_of(similar_pairs(features, threshold=threshold), len(features))
    return doubts_of_groups(features, groups, threshold=threshold)


def test_a_long_chain_is_doubted_by_its_ends() -> None:
    chain = _on_a_circle(np.arange(12) * 5.0)
    lonely = _on_a_circle(100 + np.arange(60) * 4.0)  # 12 of 72: no large share
    text = _doubts(np.concatenate([chain, lonely[::4]]), threshold=0.996)
    assert f"of 12, an image is only {np.cos(np.deg2rad(55)):.4f} like the first" in text


def test_the_suggested_threshold_groups_what_it_says() -> None:
    gaps = np.random.default_rng(0).uniform(0.5, 3, 100)
    features = _on_a_circle(np.cumsum(gaps))
    text = _doubts(features, threshold=0.95)
    assert text.startswith("100 % of the images are grouped at threshold=0.95. Groups are chains")
    ((better, share),) = re.findall(r"threshold=(\S+) would group (\S+) %", text)
    groups = groups_of(similar_pairs(features, threshold=float(better)), 100)
    assert 0.95 < float(better) < 1
    assert sum(map(len, groups)) == float(share) <= 5


def test_few_groups_are_not_doubted_and_equal_images_are_told() -> None:
    apart = _on_a_circle(np.arange(20) * 15.0)
    assert _doubts(apart, threshold=0.99) == ""
    assert _doubts(np.concatenate([apart, apart[:2]]), threshold=0.99) == ""
    twice = _doubts(np.concatenate([apart, apart]), threshold=1.0)
    assert twice.endswith("100 % have an equal one: look at some groups.")
