"""The task `parts`: part segmentation of clouds."""

from ssl_vision.data.clouds.source import PartSource
from ssl_vision.data.source import Source, SubsetSource
from ssl_vision.errors import DataError
from ssl_vision.evaluation.points_parts import PartsConfig, finetune_parts
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.points import leave_out_unreadable, point_network
from ssl_vision.tasks.run import EvalRun, Split
from ssl_vision.tasks.task import Task, no_features


def run_parts(run: EvalRun) -> TaskResult:
    """Part segmentation, last epoch: instance and class mIoU."""
    config = run.config.settings(PartsConfig)
    network = point_network(run)
    leave_out_unreadable(run, "train", "val")
    train, test = _with_parts(run, "train"), _with_parts(run, "val")
    scores = finetune_parts(
        network,
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


def _check(run: EvalRun) -> None:
    """Before a pass over the data: the network takes clouds, and they have parts."""
    point_network(run)
    _with_parts(run, "train"), _with_parts(run, "val")


def _with_parts(run: EvalRun, split: Split) -> PartSource:
    """Clouds of a split whose points know their parts.

    Raises:
        DataError: They don't.
    """
    found = _parts_of(run.source(split))
    if found is None:
        raise DataError(
            f"data.path={run.config.data.path} has no parts; use ShapeNetPart's layout or the "
            "built-in shape_parts."
        )
    return found


def _parts_of(source: Source) -> PartSource | None:
    """The source itself, or what a choice of its rows is; None without parts."""
    if isinstance(source, SubsetSource):
        whole = _parts_of(source.source)
        return None if whole is None else whole.some(source.indices)
    return source if isinstance(source, PartSource) else None


TASK = Task(
    run=run_parts,
    settings={"parts": PartsConfig},
    feature_sets=no_features,
    check=_check,
)
