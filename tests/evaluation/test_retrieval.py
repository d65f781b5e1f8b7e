"""Rankings scored by loops."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.retrieval import retrieval_scores, revisited_scores


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_scores_equal_loops_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(40, 6)), rng.normal(size=(15, 6))
    labels, wanted = rng.integers(0, 4, 40), rng.integers(0, 5, 15)  # class 4 is not in the gallery
    found = retrieval_scores(gallery, labels, queries, wanted, k=(1, 5))
    averages, recalls, precisions, at_total = [], [], [], []
    for query, label in zip(unit(queries), wanted, strict=True):
        scores = unit(gallery) @ query
        hits = (labels == label)[np.argsort(-scores)]
        if not hits.any():
            continue
        averages.append(average_precision_score(labels == label, scores))
        recalls.append([hits[:1].any(), hits[:5].any()])
        precisions.append([hits[:1].mean(), hits[:5].mean()])
        at_total.append(hits[: hits.sum()].mean())
    assert found.mean_average_precision == pytest.approx(np.mean(averages), abs=1e-9)
    assert list(found.recall_at.values()) == pytest.approx(np.mean(recalls, axis=0).tolist())
    assert list(found.precision_at.values()) == pytest.approx(np.mean(precisions, axis=0).tolist())
    assert found.r_precision == pytest.approx(np.mean(at_total))
    assert found.num_queries == len(averages)
    assert found.num_without == int((wanted == 4).sum()) > 0


def test_a_query_does_not_find_itself() -> None:
    rng = np.random.default_rng(1)
    images, labels, ids = rng.normal(size=(20, 4)), np.arange(20) // 2, np.arange(20) + 7
    found = retrieval_scores(images, labels, images, labels, gallery_ids=ids, query_ids=ids)
    ranks = []
    for i in range(20):
        order = [j for j in np.argsort(-(unit(images) @ unit(images)[i])) if j != i]
        ranks.append(order.index(i ^ 1) + 1)
    assert found.mean_average_precision == pytest.approx(np.mean([1 / rank for rank in ranks]))
    alone = retrieval_scores(images, labels, images, labels)
    assert alone.recall_at[1] == 1.0


def test_chunks_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rows, labels = torch.from_numpy(rng.normal(size=(30, 4))), rng.integers(0, 3, 30)
    whole = retrieval_scores(rows, labels, rows, labels)
    monkeypatch.setattr("ssl_vision.evaluation.retrieval._CHUNK_BYTES", 30 * 8 * 4)
    assert retrieval_scores(rows, labels, rows, labels) == whole


def test_revisited_protocol_by_hand() -> None:
    angles = np.deg2rad([0, 10, 20, 30, 40, 50])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # ranked 0, 1, 2, 3, 4, 5
    truth = [{"easy": [1], "hard": [4], "junk": [0, 2]}]
    query = np.array([[1.0, 0.0]])
    # Medium: junk 0 and 2 removed -> 1 3 4 5, positives at places 0 and 2.
    medium = revisited_scores(gallery, query, truth, difficulty="medium", k=(1, 5))
    expected = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert medium.mean_average_precision == pytest.approx(expected)
    assert medium.precision_at == pytest.approx({1: 1.0, 5: 2 / 3})
    # Hard: easy is junk too -> 3 4 5, positive at place 1.
    hard = revisited_scores(gallery, query, truth, difficulty="hard", k=(1,))
    assert hard.mean_average_precision == pytest.approx((0 / 1 + 1 / 2) / 2)
    assert hard.precision_at == {1: 0.0}
    easy = revisited_scores(gallery, query, truth, difficulty="easy")
    assert easy.mean_average_precision == 1.0


def test_what_cannot_be_scored_is_said() -> None:
    rows = np.eye(3)
    with pytest.raises(DataError, match="no query shares"):
        retrieval_scores(rows, [0, 0, 0], rows, [1, 1, 1])
    with pytest.raises(ConfigError, match=r"retrieval\.k"):
        retrieval_scores(rows, [0, 0, 0], rows, [0, 0, 0], k=(0,))
    with pytest.raises(ConfigError, match="difficulty"):
        revisited_scores(rows, rows, [], difficulty="extreme")


@pytest.mark.parametrize("seed", range(4))
def test_equal_similarities_score_as_the_mean_over_all_their_orders(seed: int) -> None:
    """Every order of a small gallery, scored by the plain ranking of distinct similarities."""
    rng = np.random.default_rng(seed)
    directions = rng.choice([0, 1, 2], 6)
    gallery = np.eye(3)[directions] + 0.0
    labels, query, k = rng.integers(0, 2, 6), np.array([[3.0, 2.0, 1.0]]), (1, 2, 3, 10)
    found = retrieval_scores(gallery, labels, query, [1], k=k)
    level = {0: 3, 1: 2, 2: 1}
    every = []
    for order in itertools.permutations(range(6)):
        if any(level[directions[a]] < level[directions[b]] for a, b in itertools.pairwise(order)):
            continue  # not an order by falling similarity
        hits = labels[list(order)] == 1
        ranks = np.flatnonzero(hits) + 1
        average = np.mean([(i + 1) / rank for i, rank in enumerate(ranks)])
        at = [hits[:each].sum() / each for each in k]
        any_of = [float(hits[:each].any()) for each in k]
        every.append([average, hits[: hits.sum()].mean(), *any_of, *at])
    mean = np.mean(every, axis=0)
    assert found.mean_average_precision == pytest.approx(mean[0])
    assert found.r_precision == pytest.approx(mean[1])
    assert list(found.recall_at.values()) == pytest.approx(mean[2:6].tolist())
    assert list(found.precision_at.values()) == pytest.approx(mean[6:].tolist())


def test_a_collapsed_network_scores_the_same_however_the_gallery_is_sorted() -> None:
    rows, labels = np.ones((50, 4)), np.repeat([0, 1], [45, 5])
    one = retrieval_scores(rows, labels, rows, labels, k=(1,))
    other = retrieval_scores(rows, labels[::-1].copy(), rows, labels, k=(1,))
    assert one == other
    assert one.recall_at[1] == pytest.approx(0.9 * 0.9 + 0.1 * 0.1)  # as chance has it


@pytest.mark.parametrize("side", ["gallery", "queries"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(side: str, value: float) -> None:
    rows = {"gallery": np.ones((5, 3)), "queries": np.ones((4, 3))}
    rows[side][2, 1] = value
    with pytest.raises(DataError, match=f"1 of {len(rows[side])} rows of the {side}"):
        retrieval_scores(rows["gallery"], np.zeros(5, int), rows["queries"], np.zeros(4, int))
