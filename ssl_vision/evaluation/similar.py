"""Similar images: an index of features that is saved and loaded, and groups of near-duplicates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.neighbours import find_neighbours

_FIRST_K = 16  # neighbours asked for at first; more where a group is larger
_MANY = 0.25  # share of the images in groups from which on the threshold is doubted
_LONG = 10  # images of a group from which on it is looked at for being a chain
_WANTED = 0.05  # share of the images that a suggested threshold groups
_EQUAL = 1 - 1e-5  # similarity from which on images count as equal: no threshold tells them apart
_SHOWN = (0.1, 0.5, 0.9, 0.95)  # quantiles that are told


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


def nearest_similarities(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine similarity of each row to the other one that is most alike, (N,).

    Args:
        features: (N, D), two rows or more; need not be of length 1.
    """
    found = find_neighbours(features, features, k=2)
    scores, rows = found.scores.double().numpy(), found.rows.numpy()
    is_itself = rows[:, 0] == np.arange(len(rows))  # not where more than two are equal
    return np.minimum(1.0, np.where(is_itself, scores[:, 1], scores[:, 0]))


def doubts_of_groups(
    features: NDArray[np.floating], groups: Sequence[Sequence[int]], *, threshold: float
) -> str:
    """A line where groups say little: much is grouped, or a long group is no group but a chain.

    Args:
        features: (N, D), of length 1.
        groups: Of `groups_of`, the largest first.
        threshold: They were made with.

    Returns:
        How similar images are, with a threshold that groups few; empty where nothing is doubted.
    """
    if not groups:
        return ""
    share = sum(map(len, groups)) / len(features)
    largest = groups[0]
    least = float((features[largest] @ features[largest[0]]).min())
    is_chain = len(largest) >= _LONG and least < threshold
    if share < _MANY and not is_chain:
        return ""
    chain = (
        f": in the largest, of {len(largest)}, an image is only {max(least, -1.0):.4f} like the "
        "first"
        if least < threshold
        else ""
    )
    nearest = nearest_similarities(features)
    levels = "; ".join(
        f"{value:.4f} of {100 * part:.0f} %"
        for part, value in zip(_SHOWN, np.quantile(nearest, _SHOWN), strict=True)
    )
    return (
        f"{100 * share:.0f} % of the images are grouped at threshold={threshold:g}. Groups are "
        f"chains, each image like at least one other of its group{chain}. The nearest other image "
        f"is at most this similar: {levels} of the images. {_advice(nearest, threshold)}"
    )


def _advice(nearest: NDArray[np.float64], threshold: float) -> str:
    """A higher threshold that groups few images, where there is one."""
    equal = float((nearest >= _EQUAL).mean())
    wanted = float(np.quantile(nearest, 1 - _WANTED))
    if equal > _WANTED:
        wanted = _EQUAL
    digits = max(2, 1 + int(np.ceil(-np.log10(max(1 - wanted, 1e-6)))))
    better = min(1.0, float(np.ceil(wanted * 10**digits) / 10**digits))
    if better >= 1.0:
        better = 0.99999
    if better <= threshold:
        return f"{100 * equal:.0f} % have an equal one: look at some groups."
    grouped = float((nearest >= better).mean())
    return f"threshold={better:g} would group {100 * grouped:.1f} %."
