"""The task `clustering`: k-means of the test features against the classes."""

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.clustering import ClusteringConfig, cluster_scores, kmeans
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task


def run_clustering(run: EvalRun) -> TaskResult:
    """k-means of the test features against the classes."""
    config = run.config.settings(ClusteringConfig)
    truth = run.labels("val")
    num_clusters = config.num_clusters or len(truth.unique())
    clusters = kmeans(
        run.features("val", "pooled"),
        num_clusters=num_clusters,
        config=config,
        seed=run.config.seed,
        device=run.device,
    )
    scores = cluster_scores(clusters.assignment, truth)
    measurements = (
        Measurement(name="NMI", value=scores.nmi),
        Measurement(name="ARI", value=scores.ari),
        Measurement(name="FMI", value=scores.fmi),
        Measurement(
            name="accuracy", value=scores.accuracy, note="best matching of clusters to classes"
        ),
    )
    return TaskResult(
        task="clustering",
        protocol=f"clustering-kmeans{num_clusters}-{config.num_starts}starts/1",
        headline="NMI",
        measurements=measurements,
        details={"inertia": clusters.inertia, "num_iterations": clusters.num_iterations},
    )


def _check(run: EvalRun) -> None:
    num = run.config.settings(ClusteringConfig).num_clusters
    if num is not None and num > len(run.source("val")):
        raise ConfigError(
            f"clustering.num_clusters={num} is above the {len(run.source('val'))} test samples; "
            "lower it."
        )


TASK = Task(
    run=run_clustering,
    settings={"clustering": ClusteringConfig},
    check=_check,
)
