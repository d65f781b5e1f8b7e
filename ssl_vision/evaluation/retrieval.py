"""Image retrieval by cosine: how high the images of the query's class stand.

Two forms. `retrieval_scores`: labels decide what is relevant (mAP, recall@k as used for CUB, SOP
and others). `revisited_scores`: the Oxford and Paris protocol of Radenovic et al. 2018, where each
query lists its easy, hard and junk images.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.arrays import Array, as_tensor, check_finite

_CHUNK_BYTES = 256 * 2**20


class RetrievalScores(NamedTuple):
    """Means over the queries that have something to find.

    Attributes:
        mean_average_precision: mAP over the whole ranking.
        recall_at: k -> share of queries with a relevant image among the first k (recall@k of
            metric learning).
        precision_at: k -> mean share of relevant images among the first k.
        r_precision: Mean share of relevant images among the first R, R their number.
        num_queries: Queries that count.
        num_without: Queries without any relevant image in the gallery; they are left out.
    """

    mean_average_precision: float
    recall_at: dict[int, float]
    precision_at: dict[int, float]
    r_precision: float
    num_queries: int
    num_without: int


class RevisitedScores(NamedTuple):
    """mAP and mP@k of one difficulty.

    Attributes:
        mean_average_precision: Trapezoidal, as in the authors' evaluation.
        precision_at: k -> mean precision at k, k cut to the number of positives' last rank.
        num_queries: Queries with at least one positive.
    """

    mean_average_precision: float
    precision_at: dict[int, float]
    num_queries: int


def retrieval_scores(
    gallery: Array,
    gallery_labels: Array,
    queries: Array,
    query_labels: Array,
    *,
    k: Sequence[int] = (1, 5, 10),
    gallery_ids: Array | None = None,
    query_ids: Array | None = None,
    device: torch.device | str = "cpu",
) -> RetrievalScores:
    """Rank the gallery for each query; relevant is what shares its label.

    Of equal similarities no order is right: scores are their mean over all orders (McSherry and
    Najork 2008), so that equal features score as chance does, however the gallery is sorted.

    Args:
        gallery: (N, D).
        gallery_labels: int64, (N,).
        queries: (Q, D).
        query_labels: int64, (Q,).
        k: Ranks of recall and precision.
        gallery_ids: Identity of gallery rows; with `query_ids`, a query does not find itself.
        query_ids: Identity of queries.
        device: Where the similarities are computed.

    Raises:
        ConfigError: A k below 1.
        DataError: No query has anything to find, or features that are not finite.
    """
    check_finite(gallery, what="the gallery's features")
    check_finite(queries, what="the queries' features")
    if not k or min(k) < 1:
        raise ConfigError(f"retrieval.k={list(k)} must hold numbers of 1 or more.")
    unit = torch.nn.functional.normalize(as_tensor(gallery).to(device).float(), dim=1)
    asked = torch.nn.functional.normalize(as_tensor(queries).to(device).float(), dim=1)
    labels = as_tensor(gallery_labels).long().to(device)
    wanted = as_tensor(query_labels).long().to(device)
    ids = own = None
    if gallery_ids is not None and query_ids is not None:
        ids, own = as_tensor(gallery_ids).to(device), as_tensor(query_ids).to(device)
    chunk = max(1, _CHUNK_BYTES // (8 * len(unit)))
    parts = []
    for rows in torch.arange(len(asked), device=device).split(chunk):
        scores = asked[rows] @ unit.T
        is_relevant = labels[None, :] == wanted[rows, None]
        if ids is not None and own is not None:
            is_self = ids[None, :] == own[rows, None]
            scores = scores.masked_fill(is_self, -torch.inf)
            is_relevant &= ~is_self
        ranked, order = scores.sort(dim=1, descending=True, stable=True)
        hits = is_relevant.gather(1, order)
        table = _score_rankings(hits, k)
        has_ties = (ranked[:, 1:] == ranked[:, :-1]).any(dim=1)
        if bool(has_ties.any()):
            table[has_ties] = _score_tied_rankings(hits[has_ties], ranked[has_ties], k)
        parts.append(table.cpu())
    table = torch.cat(parts)  # (Q, 3 + 2 * len(k)): has any, AP, R-precision, recalls, precisions
    counted = table[table[:, 0] > 0]
    if len(counted) == 0:
        raise DataError("no query shares its class with an image of the gallery.")
    means = counted.mean(dim=0).tolist()
    return RetrievalScores(
        mean_average_precision=means[1],
        recall_at=dict(zip(k, means[3 : 3 + len(k)], strict=True)),
        precision_at=dict(zip(k, means[3 + len(k) :], strict=True)),
        r_precision=means[2],
        num_queries=len(counted),
        num_without=len(table) - len(counted),
    )


def _score_rankings(hits: Tensor, k: Sequence[int]) -> Tensor:
    """Scores of rankings (Q, N), True where relevant, in float64."""
    hits = hits.double()
    found = hits.cumsum(dim=1)
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    total = found[:, -1]
    safe = total.clamp(min=1)
    average_precision = (hits * found / ranks).sum(dim=1) / safe
    at_total = found.gather(1, safe.long()[:, None] - 1).squeeze(1) / safe
    cut = [min(each, hits.shape[1]) for each in k]
    recalls = [(found[:, each - 1] > 0).double() for each in cut]
    precisions = [found[:, each - 1] / given for each, given in zip(cut, k, strict=True)]
    return torch.stack([total, average_precision, at_total, *recalls, *precisions], dim=1)


def _score_tied_rankings(hits: Tensor, scores: Tensor, k: Sequence[int]) -> Tensor:
    """As `_score_rankings`, each score its mean over all orders of equal similarities.

    A group of n equals with r relevant ones that begins after rank a, with R found before: its
    i-th place is relevant with probability r / n, and then i - 1 others of the group stand before
    it, of which (r - 1) / (n - 1) are relevant on average.
    """
    hits = hits.double()
    num = hits.shape[1]
    ranks = torch.arange(1, num + 1, device=hits.device, dtype=torch.float64).expand_as(hits)
    is_first = torch.ones_like(hits, dtype=torch.bool)
    is_first[:, 1:] = scores[:, 1:] != scores[:, :-1]
    group = is_first.long().cumsum(dim=1) - 1
    zeros = torch.zeros_like(hits)
    size = zeros.scatter_add(1, group, torch.ones_like(hits)).gather(1, group)
    relevant = zeros.scatter_add(1, group, hits).gather(1, group)
    before = (ranks - 1).where(is_first, 0.0).cummax(dim=1).values  # a
    earlier = (hits.cumsum(dim=1) - hits).where(is_first, 0.0).cummax(dim=1).values  # R
    place = ranks - before  # i
    mean_found = earlier + place * relevant / size
    among = earlier + 1 + (place - 1) * (relevant - 1) / (size - 1).clamp(min=1)
    total = hits.sum(dim=1)
    safe = total.clamp(min=1)
    average_precision = (relevant / size * among / ranks).sum(dim=1) / safe
    at_total = mean_found.gather(1, safe.long()[:, None] - 1).squeeze(1) / safe
    # None of the group's relevant ones among its first i: C(n - r, i) / C(n, i).
    others = size - relevant
    log_miss = (
        torch.lgamma(others + 1)
        - torch.lgamma((others - place).clamp(min=0) + 1)
        - torch.lgamma(size + 1)
        + torch.lgamma(size - place + 1)
    )
    hit = 1 - log_miss.exp() * ((earlier == 0) & (place <= others))
    cut = [min(each, num) for each in k]
    recalls = [hit[:, each - 1] for each in cut]
    precisions = [mean_found[:, each - 1] / given for each, given in zip(cut, k, strict=True)]
    return torch.stack([total, average_precision, at_total, *recalls, *precisions], dim=1)


def revisited_scores(
    gallery: Array,
    queries: Array,
    truth: Sequence[Mapping[str, Sequence[int]]],
    *,
    difficulty: str = "medium",
    k: Sequence[int] = (1, 5, 10),
) -> RevisitedScores:
    """ROxford and RParis: junk images are removed from a ranking before it is scored.

    Args:
        gallery: (N, D).
        queries: (Q, D), cropped to their box.
        truth: Per query the gallery rows called `easy`, `hard` and `junk`.
        difficulty: easy (easy is positive), medium (easy and hard are), or hard (hard is positive,
            easy is junk).
        k: Ranks of precision.

    Raises:
        ConfigError: Another difficulty.
        DataError: Nothing to find, or features that are not finite.
    """
    check_finite(gallery, what="the gallery's features")
    check_finite(queries, what="the queries' features")
    roles = {
        "easy": (("easy",), ("hard", "junk")),
        "medium": (("easy", "hard"), ("junk",)),
        "hard": (("hard",), ("easy", "junk")),
    }
    if difficulty not in roles:
        raise ConfigError(f"retrieval.difficulty={difficulty!r} must be one of {list(roles)}.")
    positive, ignored = roles[difficulty]
    unit = torch.nn.functional.normalize(as_tensor(gallery).double(), dim=1)
    asked = torch.nn.functional.normalize(as_tensor(queries).double(), dim=1)
    order = (asked @ unit.T).sort(dim=1, descending=True, stable=True).indices
    averages, precisions = [], []
    for ranking, lists in zip(order.tolist(), truth, strict=True):
        wanted = {row for name in positive for row in lists[name]}
        junk = {row for name in ignored for row in lists[name]}
        if not wanted:
            continue
        kept = [row for row in ranking if row not in junk]
        places = [place for place, row in enumerate(kept) if row in wanted]
        averages.append(_trapezoidal_precision(places))
        precisions.append([_precision_at(places, each) for each in k])
    if not averages:
        raise DataError(f"no query has a positive image at difficulty {difficulty!r}.")
    means = torch.tensor(precisions, dtype=torch.float64).mean(dim=0).tolist()
    return RevisitedScores(
        mean_average_precision=sum(averages) / len(averages),
        precision_at=dict(zip(k, means, strict=True)),
        num_queries=len(averages),
    )


def _trapezoidal_precision(places: Sequence[int]) -> float:
    """Area under precision over recall from the places (from 0) of the positives."""
    area = 0.0
    for found, place in enumerate(places):
        before = found / place if place else 1.0
        area += (before + (found + 1) / (place + 1)) / (2 * len(places))
    return area


def _precision_at(places: Sequence[int], k: int) -> float:
    """Positives among the first k; a list that ends earlier (its last positive) is not punished."""
    cut = min(places[-1] + 1, k)
    return sum(place < cut for place in places) / cut
