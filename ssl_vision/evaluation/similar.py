"""Similar images: an index of features that is saved and loaded, and groups of near-duplicates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.neighbours import find_neighbours

_FIRST_K = 16  # neighbours asked for at first; more where a group is larger


class Pair(NamedTuple):
    """Two rows and their cosine similarity, the smaller row first."""

    first: int
    second: int
    similarity: float


def similar_pairs(features: NDArray[np.floating], *, threshold: float) -> list[Pair]:
    """All pairs of rows whose cosine similarity is at least the threshold, exactly.

    Args:
        features: (N, D); need not be of length 1.
        threshold: From above 0 to 1.

    Raises:
        ConfigError: Another threshold.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold} must be above 0 and up to 1.")
    num, k = len(features), min(_FIRST_K, len(features))
    rows = np.arange(num)
    pairs: dict[tuple[int, int], float] = {}
    # Float32 similarities of equal rows may be a little below 1.
    least = min(threshold, 1 - 1e-6)
    while len(rows):
        found = find_neighbours(features, features[rows], k=k)
        scores, others = found.scores.numpy(), found.rows.numpy()
        for row, own_scores, own in zip(rows.tolist(), scores, others, strict=True):
            for score, other in zip(own_scores.tolist(), own.tolist(), strict=True):
                if score >= least and other >= 0 and other != row:
                    pairs[min(row, other), max(row, other)] = min(1.0, score)
        # Where even the last neighbour is above the threshold, there may be more.
        rows = rows[scores[:, -1] >= least] if k < num else rows[:0]
        k = min(4 * k, num)
    return [Pair(a, b, score) for (a, b), score in sorted(pairs.items())]


def groups_of(pairs: Sequence[Pair], num: int) -> list[list[int]]:
    """Rows joined by pairs, directly or over others; groups of two and more, largest first.

    Args:
        pairs: Of rows.
        num: Number of rows.
    """
    parent = list(range(num))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for pair in pairs:
        a, b = root(pair.first), root(pair.second)
        parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for row in sorted({row for pair in pairs for row in (pair.first, pair.second)}):
        groups.setdefault(root(row), []).append(row)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))
