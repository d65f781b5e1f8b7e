"""k-means finds separated clusters; scores equal their definitions."""

import itertools

import numpy as np
import pytest
import torch

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.clustering import ClusteringConfig, cluster_scores, kmeans


def blobs(num: int = 300, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(classes, 16, generator=generator) * 4
    labels = torch.arange(num) % classes
    return centers[labels] + torch.randn(num, 16, generator=generator) * 0.3, labels


def test_separated_clusters_are_found() -> None:
    rows, labels = blobs()
    scores = cluster_scores(kmeans(rows, num_clusters=5).assignment, labels)
    assert (scores.nmi, scores.ari, scores.fmi, scores.accuracy) == pytest.approx((1, 1, 1, 1))


def test_the_result_is_a_fixed_point_and_no_worse_than_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    rows = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    config = ClusteringConfig(is_normalized=False, num_starts=10)
    found = kmeans(rows, num_clusters=6, config=config)
    for cluster in range(6):
        own = rows[found.assignment == cluster]
        torch.testing.assert_close(found.centers[cluster], own.mean(dim=0), rtol=1e-4, atol=1e-5)
    distance = torch.cdist(rows, found.centers)
    assert torch.equal(distance.argmin(dim=1), found.assignment)
    assert found.inertia == pytest.approx(
        float(distance.min(dim=1).values.square().sum()), rel=1e-4
    )
    theirs = KMeans(6, n_init=10, random_state=0).fit(rows.numpy()).inertia_
    assert found.inertia < 1.02 * theirs


def test_the_same_seed_gives_the_same_clusters() -> None:
    rows, _ = blobs()
    one, other = kmeans(rows, num_clusters=7, seed=3), kmeans(rows, num_clusters=7, seed=3)
    assert torch.equal(one.assignment, other.assignment)


def test_hungarian_accuracy_equals_trying_every_matching() -> None:
    rng = np.random.default_rng(0)
    clusters, labels = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    best = max(
        np.mean(np.array(names)[clusters] == labels) for names in itertools.permutations(range(4))
    )
    assert cluster_scores(clusters, labels).accuracy == pytest.approx(best)


def test_fewer_distinct_rows_than_clusters_do_no_harm() -> None:
    rows = torch.eye(3).repeat(5, 1)
    found = kmeans(rows, num_clusters=6)
    assert found.inertia == pytest.approx(0, abs=1e-5)
    with pytest.raises(DataError, match="3 images cannot form 4"):
        kmeans(torch.eye(3), num_clusters=4)
    with pytest.raises(ConfigError, match="num_clusters=1"):
        ClusteringConfig(num_clusters=1)
