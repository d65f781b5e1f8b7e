"""The task `retrieval`: mAP and recall among images of the same class."""

import torch

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
    warnings: tuple[str, ...] = ()
    if found.num_without:
        warnings = (f"{found.num_without} queries have nothing to find and are left out.",)
    return TaskResult(
        task="retrieval",
        protocol=f"retrieval-cosine-gallery_{config.gallery}/1",
        headline="mAP",
        measurements=tuple(measurements),
        details=found._asdict(),
        warnings=warnings,
    )


TASK = Task(
    run=run_retrieval,
    settings={"retrieval": RetrievalConfig},
)
