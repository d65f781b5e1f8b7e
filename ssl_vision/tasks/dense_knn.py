"""The task `dense_knn`: segmentation by the nearest patches of a memory, without training."""

from ssl_vision.evaluation.dense_knn import DenseKnnConfig, nearest_scores, remember
from ssl_vision.evaluation.neighbours import check_search
from ssl_vision.evaluation.results import TaskResult
from ssl_vision.tasks.dense import patch_maps
from ssl_vision.tasks.masked import ScoresOf, check_masks, masked_images, masks_result
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task, no_features


def run_dense_knn(run: EvalRun) -> TaskResult:
    """Shares of classes among the nearest training patches, scored at every pixel."""
    config = run.config.settings(DenseKnnConfig)
    images = masked_images(run, task="dense_knn")

    def fit(other: EvalRun) -> ScoresOf:
        memory = remember(
            patch_maps(other, "train"),
            images.targets.classes,
            images.num_classes,
            max_patches=config.max_patches,
            seed=run.config.seed,
        )
        return nearest_scores(memory, config=config, device=run.device)

    memory = f"m{config.max_patches}"
    return masks_result(
        images,
        fit(images.run),
        fit,
        task="dense_knn",
        protocol=f"dense_knn-k{config.k}-t{config.temperature:g}-{memory}{images.run.mark}/1",
    )


def _check(run: EvalRun) -> None:
    check_masks(run, task="dense_knn")
    check_search(run.config.settings(DenseKnnConfig).search, device=run.device)


TASK = Task(
    run=run_dense_knn,
    settings={"dense_knn": DenseKnnConfig},
    needs_labels=False,
    feature_sets=no_features,
    check=_check,
)
