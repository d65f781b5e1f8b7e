"""The task `retrieval`: mAP and recall among images of the same class."""

import torch

from ssl_vision.errors import DataError
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.retrieval import retrieval_scores
from ssl_vision.evaluation.settings import RetrievalConfig
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task


def run_retrieval(run: EvalRun) -> TaskResult:
    """Mean average precision and recall@k among images of the same class."""
    config = run.config.settings(RetrievalConfig)
    queries, wanted = run.features("val", "pooled"), run.labels("val")
    gallery, labels, ids = run.features("train", "pooled"), run.labels("train"), None
    if config.gallery == "test":
        gallery, labels, ids = queries, wanted, torch.arange(len(queries))
    found = retrieval_scores(
        gallery,
        labels,
        queries,
        wanted,
        k=config.k,
        gallery_ids=ids,
        query_ids=ids,
        device=run.device,
    )
    measurements = [Measurement(name="mAP", value=found.mean_average_precision)]
    for k in config.k:
        measurements.append(Measurement(name=f"recall@{k}", value=found.recall_at[k]))
        measurements.append(Measurement(name=f"precision@{k}", value=found.precision_at[k]))
    measurements.append(Measurement(name="R-precision", value=found.r_precision))
    warnings = [f"{found.num_without} queries have nothing to find and are left out."]
    warnings = warnings if found.num_without else []
    if max(config.k) > len(gallery):
        warnings.append(f"k={max(config.k)} is above the {len(gallery)} samples of the gallery.")
    return TaskResult(
        task="retrieval",
        protocol=f"retrieval-cosine-gallery_{config.gallery}/1",
        headline="mAP",
        measurements=tuple(measurements),
        details=found._asdict(),
        warnings=tuple(warnings),
    )


def _check(run: EvalRun) -> None:
    """Something to find: classes that queries and gallery share."""
    gallery = run.config.settings(RetrievalConfig).gallery
    if gallery == "train" and not set(run.labels("train").tolist()) & set(
        run.labels("val").tolist()
    ):
        raise DataError(
            "tasks=retrieval: no test sample shares its class with a training sample; use "
            "retrieval.gallery=test, or name the classes alike."
        )


TASK = Task(
    run=run_retrieval,
    settings={"retrieval": RetrievalConfig},
    check=_check,
)
