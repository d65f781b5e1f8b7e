"""Do features fall into the classes by themselves: k-means against labels (iBOT, POA).

k-means++ with several starts on features of length 1, in torch (any device); NMI, adjusted Rand,
Fowlkes-Mallows and Hungarian accuracy against the labels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.bounds import check_bounds
from ssl_vision.errors import DataError
from ssl_vision.evaluation.arrays import Array, as_tensor, check_finite
from ssl_vision.randomness import keyed_generator


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """Settings of k-means."""

    num_clusters: int | None = None  # default: the number of classes
    num_starts: int = 5  # the start of the smallest inertia wins
    max_iterations: int = 100
    is_normalized: bool = True  # features of length 1: spherical distances

    def __post_init__(self) -> None:
        check_bounds("clustering.num_clusters", self.num_clusters, least=2)
        for name in ("num_starts", "max_iterations"):
            check_bounds(f"clustering.{name}", getattr(self, name), least=1)


class Clusters(NamedTuple):
    """Outcome of k-means.

    Attributes:
        assignment: Cluster of each row, int64, (N,).
        centers: (C, D).
        inertia: Sum of squared distances to the centres.
        num_iterations: Of the winning start.
    """

    assignment: Tensor
    centers: Tensor
    inertia: float
    num_iterations: int


class ClusterScores(NamedTuple):
    """Agreement of clusters and labels, each 1 when they are the same partition.

    Attributes:
        nmi: Normalised mutual information (arithmetic mean of the entropies).
        ari: Adjusted Rand index, 0 for a random partition.
        fmi: Fowlkes-Mallows index.
        accuracy: Share of images right under the best matching of clusters to classes (Hungarian).
        num: Number of images.
    """

    nmi: float
    ari: float
    fmi: float
    accuracy: float
    num: int


def kmeans(
    features: Array,
    *,
    num_clusters: int,
    config: ClusteringConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Clusters:
    """Lloyd's algorithm from k-means++ starts; the best of several.

    Args:
        features: (N, D).
        num_clusters: C, at most N.
        config: Starts and iterations.
        seed: Of the starts.
        device: Where it runs.

    Raises:
        DataError: Fewer rows than clusters, or features that are not finite.
    """
    config = config or ClusteringConfig()
    check_finite(features)
    rows = as_tensor(features).to(device).float()
    if len(rows) < num_clusters:
        raise DataError(f"{len(rows)} images cannot form {num_clusters} clusters.")
    if config.is_normalized:
        rows = torch.nn.functional.normalize(rows, dim=1)
    starts = [
        _lloyd(rows, num_clusters, config, keyed_generator(seed, "k-means", start))
        for start in range(config.num_starts)
    ]
    return min(starts, key=lambda clusters: clusters.inertia)


def _lloyd(
    rows: Tensor, num_clusters: int, config: ClusteringConfig, generator: torch.Generator
) -> Clusters:
    centers = _plus_plus(rows, num_clusters, generator)
    assignment = torch.full((len(rows),), -1, device=rows.device)
    num_iterations = 0
    while num_iterations < config.max_iterations:
        num_iterations += 1
        distance, nearest = _nearest(rows, centers)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        counts = torch.bincount(assignment, minlength=num_clusters)
        sums = torch.zeros_like(centers).index_add_(0, assignment, rows)
        centers = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        if len(empty):  # an empty cluster starts again at the rows worst served
            centers[empty] = rows[distance.topk(len(empty)).indices]
    distance, assignment = _nearest(rows, centers)
    return Clusters(assignment.cpu(), centers.cpu(), float(distance.double().sum()), num_iterations)


def _plus_plus(rows: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Centres drawn with probability proportional to the squared distance to the nearest one."""
    draws = torch.rand(num_clusters, generator=generator, dtype=torch.float64)
    chosen = [int(draws[0] * len(rows))]
    distance = torch.full((len(rows),), torch.inf, device=rows.device)
    for draw in draws[1:].tolist():
        distance = torch.minimum(distance, (rows - rows[chosen[-1]]).square().sum(dim=1))
        cumulative = distance.double().cumsum(0)
        if float(cumulative[-1]) == 0:  # fewer distinct rows than clusters
            chosen.append(int(draw * len(rows)))
            continue
        place = torch.searchsorted(cumulative, draw * cumulative[-1], right=True)
        chosen.append(min(int(place), len(rows) - 1))
    return rows[torch.tensor(chosen, device=rows.device)].clone()


def _nearest(rows: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to, and number of, the nearest centre of each row."""
    offset = centers.square().sum(dim=1)
    parts = [
        torch.addmm(offset, part, centers.T, alpha=-2).min(dim=1) for part in rows.split(16_384)
    ]
    squared = torch.cat([part.values for part in parts]) + rows.square().sum(dim=1)
    return squared.clamp(min=0), torch.cat([part.indices for part in parts])


def cluster_scores(assignment: Array, labels: Array) -> ClusterScores:
    """Agreement of a partition with the labels.

    Args:
        assignment: Cluster of each image, int64, (N,).
        labels: Class of each image, int64, (N,).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn import metrics

    clusters, classes = as_tensor(assignment).cpu().numpy(), as_tensor(labels).cpu().numpy()
    table = metrics.cluster.contingency_matrix(classes, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return ClusterScores(
        nmi=float(metrics.normalized_mutual_info_score(classes, clusters)),
        ari=float(metrics.adjusted_rand_score(classes, clusters)),
        fmi=float(metrics.fowlkes_mallows_score(classes, clusters)),
        accuracy=float(table[rows, columns].sum() / len(classes)),
        num=len(classes),
    )
