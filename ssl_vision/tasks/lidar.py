"""The task `lidar`: how far views of an image stay together, without labels."""

from ssl_vision.evaluation import representation as rep
from ssl_vision.evaluation.features import extract_views
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.settings import MetricsConfig
from ssl_vision.tasks.run import EvalRun, at_least, spread
from ssl_vision.tasks.task import Task, no_features


def run_lidar(run: EvalRun) -> TaskResult:
    """LiDAR on augmented views of training images."""
    config = run.config.settings(MetricsConfig)
    _check(run)
    rows = spread(len(run.bank_source), config.lidar_images, seed=run.config.seed, name="lidar")
    view = run.modality.augmented(run.view, count=config.lidar_views)
    source = run.subset(rows)
    _, views = extract_views(
        run.loaded.backbone,
        run.loader(
            source, view, batch_size=max(1, run.config.data.batch_size // config.lidar_views)
        ),
        num_views=config.lidar_views,
        normalize=run.normalize,
        device=run.device,
        autocast=run.autocast,
    )
    found = rep.lidar(views)
    warnings = ["LiDAR measures the shape of a spectrum: read tr(Sb)/tr(Sw) beside it."]
    if len(rows) <= views.shape[2]:
        warnings.append(f"{len(rows)} images for {views.shape[2]} dimensions: LiDAR wants more.")
    if config.lidar_views < 10:
        warnings.append(f"{config.lidar_views} views per image: LiDAR wants 10 or more.")
    return TaskResult(
        task="lidar",
        protocol=f"lidar-n{len(rows)}-q{config.lidar_views}-d{views.shape[2]}/1",
        headline="LiDAR",
        measurements=(
            Measurement(name="LiDAR", value=found.rank, is_share=False, note="1 to D"),
            Measurement(name="tr(Sb)/tr(Sw)", value=found.signal_to_noise, is_share=False),
        ),
        warnings=tuple(warnings),
    )


def _check(run: EvalRun) -> None:
    at_least(run, run.bank_source, 2, task="lidar")
    run.modality.augmented(run.view, count=2)


TASK = Task(
    run=run_lidar,
    needs_labels=False,
    needs_val=False,
    feature_sets=no_features,
    check=_check,
)
