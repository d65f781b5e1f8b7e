"""The task `segment`: a linear head on frozen patches, mean IoU over masks of classes."""

from torch import nn

from ssl_vision.data.images.masks import MasksConfig
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import TaskResult
from ssl_vision.evaluation.segmentation import SegmentConfig, train_segmenter
from ssl_vision.tasks.dense import patch_maps
from ssl_vision.tasks.masked import check_masks, masked_images, masks_result
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task, no_features


def run_segment(run: EvalRun) -> TaskResult:
    """A linear head on the patches of training images, scored at every pixel of the test masks."""
    config = run.config.settings(SegmentConfig)
    images = masked_images(run, task="segment")

    def fit(other: EvalRun) -> tuple[nn.Module, list[float]]:
        return train_segmenter(
            patch_maps(other, "train"),
            images.targets.classes,
            images.num_classes,
            config=config,
            seed=run.config.seed,
        )

    head, losses = fit(images.run)
    curve = line_chart(
        "loss of the head",
        {"loss": list(enumerate(losses, start=1))},
        x=Axis("update"),
        y=Axis("loss"),
        has_markers=False,
    )
    return masks_result(
        images,
        head,
        lambda other: fit(other)[0],
        task="segment",
        protocol=f"segment-linear-u{config.updates}-lr{config.lr:g}{images.run.mark}/1",
        plots=(curve,),
    )


TASK = Task(
    run=run_segment,
    settings={"segment": SegmentConfig, "masks": MasksConfig},
    needs_labels=False,
    feature_sets=no_features,
    check=lambda run: check_masks(run, task="segment"),
)
