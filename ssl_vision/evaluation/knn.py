"""Weighted k-nearest-neighbour classification of frozen features.

The protocol of Wu et al. 2018 (InstDisc) as DINO uses it: cosine similarity, votes weighted by
exp(similarity / T). One search at the largest k serves every k, since the neighbours of a smaller
k are the first ones. Bank rows of equal similarity come in a mixed order: they stand by class
in the bank, and a collapsed network would else name the first one.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack, overload

import torch
from torch import Tensor

from ssl_vision.bounds import MAX_NEIGHBOURS, check_bounds, check_some
from ssl_vision.errors import ConfigError, DataError, SslVisionWarning
from ssl_vision.evaluation.accuracy import Accuracy, score_ranking
from ssl_vision.evaluation.arrays import Array
from ssl_vision.evaluation.features import FeatureSet, parse_feature_set
from ssl_vision.evaluation.neighbours import Neighbours, Search, SearchOptions, find_neighbours

_CHUNK_VALUES = 16 * 2**20  # float64 votes held at once: 128 MiB
_LEAST_VOTE = 1e-300  # above 0 in float64


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """Settings of the kNN vote; the defaults are those of DINO's `eval_knn.py`."""

    preset: str = "dino"  # where the other values come from; see KNN_PRESETS
    features: str = "pooled"  # see parse_feature_set
    k: tuple[int, ...] = (10, 20, 100, 200)
    # Fixed before looking: the best k of the test set is no result. None: 20, or the first of k.
    reported_k: int | None = None
    temperature: float = 0.07
    search: Search = "auto"  # auto | faiss | torch
    is_leave_one_out: bool = False  # bank and queries are the same images

    def __post_init__(self) -> None:
        check_some("knn.k", self.k)
        check_bounds("knn.k", self.k, least=1, most=MAX_NEIGHBOURS)
        parse_feature_set(self.features, depth=12)
        if self.reported_k is not None and self.reported_k not in self.k:
            raise ConfigError(f"knn.reported_k={self.reported_k} is not in knn.k={list(self.k)}.")
        check_bounds("knn.temperature", self.temperature, above=0)
        if self.search not in ("auto", "faiss", "torch"):
            raise ConfigError(f"knn.search={self.search!r} must be auto, faiss or torch.")

    @property
    def quoted_k(self) -> int:
        """The k whose accuracy is the result."""
        return self.reported_k or (20 if 20 in self.k else self.k[0])


KNN_PRESETS = {
    "dino": KnnConfig(),
    # Lightly's benchmarks follow InstDisc (their release of 2023 changed T from 0.1 for DINO).
    "lightly": KnnConfig(preset="lightly", k=(200,), temperature=0.1),
}


@overload
def knn_classify(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    *,
    k: int,
    temperature: float,
    num_classes: int | None = None,
    **options: Unpack[SearchOptions],
) -> Tensor: ...


@overload
def knn_classify(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    *,
    k: Sequence[int],
    temperature: float,
    num_classes: int | None = None,
    **options: Unpack[SearchOptions],
) -> dict[int, Tensor]: ...


def knn_classify(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    *,
    k: int | Sequence[int],
    temperature: float,
    num_classes: int | None = None,
    **options: Unpack[SearchOptions],
) -> Tensor | dict[int, Tensor]:
    """Class of each query by the weighted vote of its k nearest bank rows.

    Args:
        bank: Features with known classes, (N, D); normalised inside.
        bank_labels: Their classes, int64, (N,), 0 or above.
        queries: Features to classify, (Q, D).
        k: Number of voters, or several.
        temperature: T of the weights exp(cosine / T).
        num_classes: Number of classes; by default one more than the largest label.
        options: Further arguments of `find_neighbours`: `search`, `bank_ids` and `query_ids` for
            leave-one-out, `device`, `block_bytes`.

    Returns:
        Classes, int64, (Q,); for several k a dict of them. Tied classes: the lower one.

    Raises:
        ConfigError: k or temperature out of range.
        DataError: Labels that do not fit the bank, or non-finite features.
    """
    ks = [k] if isinstance(k, int) else list(k)
    options.setdefault("ties", "mixed")
    neighbours = find_neighbours(bank, queries, k=clamp_k(ks, len(bank)), **options)
    ranked = rank_classes(
        neighbours, bank_labels, k=ks, temperature=temperature, num_classes=num_classes, top=1
    )
    if isinstance(k, int):
        return ranked[k][:, 0]
    return {each: classes[:, 0] for each, classes in ranked.items()}


def knn_accuracy(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    query_labels: Array,
    *,
    k: Sequence[int],
    temperature: float,
    num_classes: int | None = None,
    **options: Unpack[SearchOptions],
) -> dict[int, Accuracy]:
    """Accuracy of `knn_classify` for each k.

    Args:
        bank: (N, D).
        bank_labels: (N,).
        queries: (Q, D).
        query_labels: (Q,); may hold classes the bank lacks (they count as wrong).
        k: Numbers of voters.
        temperature: T of the weights exp(cosine / T).
        num_classes: By default from the union of both sets of labels.
        options: As in `knn_classify`.
    """
    truth = torch.as_tensor(query_labels).long().cpu()
    if num_classes is None:
        num_classes = int(max(torch.as_tensor(bank_labels).max(), truth.max())) + 1
    options.setdefault("ties", "mixed")
    neighbours = find_neighbours(bank, queries, k=clamp_k(k, len(bank)), **options)
    ranked = rank_classes(
        neighbours, bank_labels, k=k, temperature=temperature, num_classes=num_classes
    )
    return {each: score_ranking(classes, truth) for each, classes in ranked.items()}


def score_knn(
    bank: FeatureSet,
    queries: FeatureSet | None,
    *,
    k: Sequence[int],
    temperature: float,
    feature: str = "pooled",
    num_classes: int | None = None,
    search: Search = "auto",
    device: torch.device | str = "cpu",
) -> dict[int, Accuracy]:
    """Accuracy of a vote between features with labels for each k; empty where one has no labels.

    Args:
        bank: Samples that vote.
        queries: Samples to classify; the bank itself for leave-one-out.
        k: Numbers of voters.
        temperature: T of the weights exp(cosine / T).
        feature: Which of their features.
        num_classes: By default from the union of both sets of labels.
        search: See `find_neighbours`.
        device: Where to search.
    """
    if bank.labels is None or queries is None or queries.labels is None:
        return {}
    ids = bank.index if queries is bank else None
    return knn_accuracy(
        bank.features[feature],
        bank.labels,
        queries.features[feature],
        queries.labels,
        k=k,
        temperature=temperature,
        bank_ids=ids,
        query_ids=ids,
        num_classes=num_classes,
        search=search,
        device=device,
    )


def rank_classes(
    neighbours: Neighbours,
    bank_labels: Array,
    *,
    k: Sequence[int],
    temperature: float,
    num_classes: int | None = None,
    top: int = 5,
) -> dict[int, Tensor]:
    """The `top` classes by votes, best first, for each k.

    Votes are exp((s - s_top) / T): the factor exp(-s_top / T) is common to a query and keeps the
    sum finite for any T. Classes of equal votes stand in order of their number, as DINO's do: such
    classes have voters of equal similarities (copies, a collapsed network), so that the nearest
    neighbour would decide by the order of equals, too. A class that nobody votes for is not among
    them.

    Args:
        neighbours: Of Q queries, at least max(k) columns or the whole bank.
        bank_labels: (N,).
        k: Numbers of voters.
        temperature: T.
        num_classes: Number of classes; by default one more than the largest label.
        top: Classes wanted per query (fewer when there are fewer classes).

    Returns:
        k -> classes, int64, (Q, min(top, num_classes)); -1 where fewer classes have votes.
    """
    if temperature <= 0:
        raise ConfigError(f"knn.temperature={temperature} must be above 0.")
    labels = _check_labels(bank_labels, num_classes)
    num_classes = num_classes or int(labels.max()) + 1
    best = neighbours.scores[:, :1].double()
    weights = torch.exp((neighbours.scores.double() - best) / temperature)
    weights = weights.clamp(min=_LEAST_VOTE)  # a voter far away under a small T still names a class
    # A query without any neighbour (a bank of its own id only) votes for nothing.
    weights = weights.masked_fill(neighbours.rows < 0, 0.0)
    voters = labels[neighbours.rows.clamp(min=0)]
    chunk = max(1, _CHUNK_VALUES // num_classes)
    parts: dict[int, list[Tensor]] = {each: [] for each in k}
    for weight, voter in zip(weights.split(chunk), voters.split(chunk), strict=True):
        votes = torch.zeros((len(weight), num_classes), dtype=torch.float64)
        start = 0
        for each in sorted(set(k)):
            votes.scatter_add_(1, voter[:, start:each], weight[:, start:each])
            parts[each].append(_first_classes(votes, min(top, num_classes)))
            start = each
    return {each: torch.cat(classes) for each, classes in parts.items()}


def _first_classes(votes: Tensor, top: int) -> Tensor:
    """Classes of the most votes, (Q, top), -1 for want of votes; of equals the lower number."""
    votes = votes.clone()
    columns = []
    for _ in range(top):
        count, winner = votes.max(dim=1, keepdim=True)
        columns.append(winner.masked_fill(count <= 0, -1))
        votes.scatter_(1, winner, 0.0)
    return torch.cat(columns, dim=1)


def clamp_k(k: Sequence[int], num_rows: int) -> int:
    """Neighbours to search for; warns when a k asks for more voters than there are.

    Raises:
        ConfigError: A k below 1.
    """
    if not k or min(k) < 1:
        raise ConfigError(f"knn.k={list(k)} must hold numbers of 1 or more.")
    if max(k) > num_rows:
        warnings.warn(
            f"knn.k={max(k)} is above the {num_rows} rows of the bank; all of them vote.",
            SslVisionWarning,
            stacklevel=3,
        )
    return min(max(k), num_rows)


def _check_labels(bank_labels: Array, num_classes: int | None) -> Tensor:
    labels = torch.as_tensor(bank_labels).long().cpu()
    if len(labels) == 0 or int(labels.min()) < 0:
        raise DataError("kNN needs a class of 0 or above for every row of the bank.")
    if num_classes is not None and int(labels.max()) >= num_classes:
        raise DataError(f"label {int(labels.max())} does not fit num_classes={num_classes}.")
    return labels
