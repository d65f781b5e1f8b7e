"""Votes equal the formula, whatever the search; golden values of DINO's evaluation."""

import math

import numpy as np
import pytest
import torch

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.knn import knn_accuracy, knn_classify, rank_classes
from ssl_vision.evaluation.neighbours import Neighbours, find_neighbours, has_faiss

SEARCHES = [
    "torch",
    pytest.param("faiss", marks=pytest.mark.skipif(not has_faiss(), reason="no faiss")),
]


def brute_force(bank, labels, queries, k, temperature):  # type: ignore[no-untyped-def]
    """Cosine, the k best by (score, place), exp(s / T) summed per class, lower class wins."""
    # Among equal neighbours of one query all of the bank's rows stand in one order.
    everything = find_neighbours(np.ones_like(bank), queries[:1], k=len(bank), ties="mixed")
    place = {row: i for i, row in enumerate(everything.rows[0].tolist())}
    answers = []
    for query in queries:
        scores = [
            float(np.float32(np.dot(row, query) / np.linalg.norm(row) / np.linalg.norm(query)))
            for row in bank
        ]
        nearest = sorted(range(len(bank)), key=lambda i: (-scores[i], place[i]))[:k]
        votes: dict[int, list[float]] = {}
        for i in nearest:
            votes.setdefault(int(labels[i]), []).append(math.exp(scores[i] / temperature))
        totals = {label: math.fsum(vote) for label, vote in votes.items()}
        answers.append(min(totals, key=lambda label: (-totals[label], label)))
    return answers


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", ["random", "ties", "missing classes"])
def test_votes_equal_a_brute_force_for_every_k(search: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(80, 16)), rng.normal(size=(40, 16))
    labels = rng.integers(0, 5, 80)
    if kind == "ties":
        bank = rng.choice([-1.0, 1.0], (80, 16))
        queries = rng.choice([-1.0, 1.0], (40, 16))
    if kind == "missing classes":
        labels = np.where(labels % 2 == 0, 90, 3)
    ks = [1, 2, 5, 20, 80]
    found = knn_classify(bank, labels, queries, k=ks, temperature=0.07, search=search)
    for k in ks:
        assert found[k].tolist() == brute_force(bank, labels, queries, k, 0.07), k
        alone = knn_classify(bank, labels, queries, k=k, temperature=0.07, search=search)
        assert torch.equal(alone, found[k])


@pytest.mark.parametrize("search", SEARCHES)
def test_more_neighbours_than_rows_warns_and_lets_all_vote(search: str) -> None:
    rng = np.random.default_rng(1)
    bank, queries, labels = rng.normal(size=(9, 4)), rng.normal(size=(5, 4)), np.arange(9) % 3
    with pytest.warns(UserWarning, match="above the 9 rows"):
        found = knn_classify(bank, labels, queries, k=20, temperature=0.1, search=search)
    assert found.tolist() == brute_force(bank, labels, queries, 9, 0.1)


def test_tied_votes_go_to_the_lower_class() -> None:
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert knn_classify(bank, torch.tensor([4, 2]), bank[:1], k=2, temperature=0.07).item() == 2
    assert knn_classify(bank, torch.tensor([2, 4]), bank[:1], k=2, temperature=0.07).item() == 2


def test_a_tiny_temperature_does_not_overflow() -> None:
    rng = np.random.default_rng(2)
    bank, labels = rng.normal(size=(50, 8)), np.arange(50)
    found = knn_classify(bank, labels, bank, k=10, temperature=1e-6)
    assert found.tolist() == list(range(50))  # the nearest, itself, takes all


def test_leave_one_out_differs_from_finding_oneself() -> None:
    rng = np.random.default_rng(3)
    bank, labels, ids = rng.normal(size=(40, 8)), rng.integers(0, 4, 40), torch.arange(40)
    kept = knn_classify(bank, labels, bank, k=1, temperature=0.07)
    assert kept.tolist() == labels.tolist()
    out = knn_classify(bank, labels, bank, k=1, temperature=0.07, bank_ids=ids, query_ids=ids)
    for i in range(40):
        others = np.delete(np.arange(40), i)
        assert out[i] == brute_force(bank[others], labels[others], bank[i : i + 1], 1, 0.07)[0]


def test_accuracy_counts_classes_the_bank_lacks_as_wrong() -> None:
    bank = torch.eye(3)
    found = knn_accuracy(bank, [0, 1, 2], bank, [0, 1, 9], k=[1], temperature=0.07)
    assert found[1].top1 == pytest.approx(2 / 3)


def test_float16_banks_give_the_votes_of_their_values() -> None:
    rng = np.random.default_rng(4)
    bank = rng.normal(size=(60, 8)).astype(np.float16)
    labels = rng.integers(0, 3, 60)
    assert torch.equal(
        knn_classify(bank, labels, bank, k=5, temperature=0.07),
        knn_classify(
            bank.astype(np.float32), labels, bank.astype(np.float32), k=5, temperature=0.07
        ),
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_official_evaluation_of_dino(golden, search: str) -> None:  # type: ignore[no-untyped-def]
    values = golden("dino")
    found = knn_accuracy(
        values["knn_train_features"],
        values["knn_train_labels"],
        values["knn_test_features"],
        values["knn_test_labels"],
        k=(1, 5, 10, 20),
        temperature=float(values["knn_T"]),
        num_classes=int(values["knn_num_classes"]),
        search=search,
    )
    for k in (1, 5, 10, 20):
        assert 100 * found[k].top1 == pytest.approx(float(values[f"knn_k{k}_top1"]), abs=1e-9)
    # With few voters fifth places hold no votes; which class stands there is no property of kNN.
    for k in (10, 20):
        assert 100 * found[k].top5 == pytest.approx(float(values[f"knn_k{k}_top5"]), abs=1e-9)


def test_wrong_settings_are_named() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 2])
    with pytest.raises(ConfigError, match=r"knn\.temperature=0"):
        knn_classify(bank, labels, bank, k=1, temperature=0)
    with pytest.raises(ConfigError, match=r"knn\.k=\[0\]"):
        knn_classify(bank, labels, bank, k=0, temperature=0.07)
    with pytest.raises(DataError, match="class of 0 or above"):
        knn_classify(bank, torch.tensor([0, -1, 2]), bank, k=1, temperature=0.07)
    with pytest.raises(DataError, match="label 2 does not fit num_classes=2"):
        knn_classify(bank, labels, bank, k=1, temperature=0.07, num_classes=2)


def test_empty_places_do_not_vote() -> None:
    neighbours = Neighbours(scores=torch.tensor([[0.5, -torch.inf]]), rows=torch.tensor([[1, -1]]))
    ranked = rank_classes(neighbours, torch.tensor([0, 3]), k=[2], temperature=0.07, num_classes=4)
    assert ranked[2][0].tolist() == [3, -1, -1, -1]


@pytest.mark.parametrize("temperature", [0.07, 1e-4])
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_k_voters_name_at_most_k_classes(k: int, temperature: float) -> None:
    rng = np.random.default_rng(4)
    bank, queries = rng.normal(size=(60, 8)), rng.normal(size=(50, 8))
    labels, truth = rng.integers(0, 12, 60), rng.integers(0, 12, 50)
    found = knn_accuracy(bank, labels, queries, truth, k=[k], temperature=temperature)[k]
    in_five = []
    for query, own in zip(queries, truth, strict=True):
        scores = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-scores)[:k]
        logs = scores[nearest] / temperature  # compared without exp: nothing can vanish
        total = {c: np.logaddexp.reduce(logs[labels[nearest] == c]) for c in labels[nearest]}
        in_five.append(own in sorted(total, key=lambda c: -total[c])[:5])
    assert found.top5 == pytest.approx(np.mean(in_five))
    if k == 1:
        assert found.top5 == found.top1


def test_classes_without_a_vote_are_minus_one_and_never_right() -> None:
    bank, labels = torch.eye(4), torch.tensor([7, 7, 2, 7])
    ranked = rank_classes(
        Neighbours(scores=torch.tensor([[0.9, 0.8, 0.7]]), rows=torch.tensor([[0, 2, -1]])),
        labels,
        k=[1, 3],
        temperature=0.07,
    )
    assert ranked[1].tolist() == [[7, -1, -1, -1, -1]]
    assert ranked[3].tolist() == [[7, 2, -1, -1, -1]]
    alone = knn_classify(
        bank[:1], labels[:1], bank[:1], k=1, temperature=0.07, bank_ids=[0], query_ids=[0]
    )
    assert alone.tolist() == [-1]  # nobody but itself could have voted


@pytest.mark.parametrize("search", SEARCHES)
def test_a_collapsed_network_does_not_name_the_first_folder(search: str) -> None:
    """Rows stand class by class; with equal features each class has its share of the voters."""
    labels = torch.arange(8).repeat_interleave(500)
    bank, query = torch.ones(4000, 6), torch.ones(1, 6)
    neighbours = find_neighbours(bank, query, k=400, search=search, ties="mixed")
    voters = labels[neighbours.rows[0]].bincount(minlength=8)
    # Drawn without replacement: 50 each, standard deviation 6.3.
    assert int((voters - 50).abs().max()) < 4 * 6.3
    named = {
        int(knn_classify(bank[:n], labels[:n], query, k=1, temperature=0.07, search=search)[0])
        for n in range(500, 4001, 500)
    }
    assert len(named) > 1
