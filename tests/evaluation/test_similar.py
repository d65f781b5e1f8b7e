"""Pairs and groups are those of a plain double loop."""

import numpy as np
import pytest

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.similar import Pair, groups_of, similar_pairs


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
