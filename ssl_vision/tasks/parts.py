"""The task `parts`: part segmentation of clouds."""

from ssl_vision.data.clouds.source import PartSource
from ssl_vision.errors import DataError
from ssl_vision.evaluation.points_parts import PartsConfig, finetune_parts
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.points import point_network
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task, no_features


def run_parts(run: EvalRun) -> TaskResult:
    """Part segmentation, last epoch: instance and class mIoU."""
    config = run.config.settings(PartsConfig)
    train, test = _with_parts(run)
    scores = finetune_parts(
        point_network(run),
        train,
        test,
        config=run.config.settings(PartsConfig),
        seed=run.config.seed,
    )
    values = {
        "instance mIoU": scores.instance_miou,
        "class mIoU": scores.class_miou,
        "point accuracy": scores.accuracy,
    }
    by_class: dict[str, object] = {
        test.class_names[kind]: value for kind, value in scores.by_class.items()
    }
    return TaskResult(
        task="parts",
        protocol=f"parts-{config.tuning.epochs}ep/1",
        headline="instance mIoU",
        measurements=tuple(Measurement(name=n, value=v) for n, v in values.items()),
        details={"by_class": by_class},
    )


def _with_parts(run: EvalRun) -> tuple[PartSource, PartSource]:
    """Training and test clouds, if the network takes clouds and they have parts.

    Raises:
        ConfigError: The network takes images.
        DataError: The data have no parts.
    """
    point_network(run)
    train, test = run.source("train"), run.source("val")
    if not (isinstance(train, PartSource) and isinstance(test, PartSource)):
        raise DataError(
            f"data.path={run.config.data.path} has no parts; use ShapeNetPart's layout or the "
            "built-in shape_parts (without data.max_train and data.max_val)."
        )
    return train, test


def _check(run: EvalRun) -> None:
    _with_parts(run)


TASK = Task(
    run=run_parts,
    settings={"parts": PartsConfig},
    feature_sets=no_features,
    check=_check,
)
