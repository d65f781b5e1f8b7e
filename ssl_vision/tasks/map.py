"""The task `map`: the features in the plane, with thumbnails."""

from ssl_vision.evaluation.plots import picture_map
from ssl_vision.evaluation.projection import check_projection, project
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.settings import MapConfig
from ssl_vision.tasks.run import EvalRun, Split, at_least, spread
from ssl_vision.tasks.task import Task

_THUMBNAIL_PX = 48


def run_map(run: EvalRun) -> TaskResult:
    """The features in the plane, with thumbnails."""
    config = run.config.settings(MapConfig)
    split = _split(run)
    _check(run)
    run.prepare(split, ["pooled"])
    source = run.source(split)
    rows = spread(len(source), config.num_points, seed=run.config.seed, name="map")
    places, kind = project(
        run.features(split, "pooled")[rows], kind=config.projection, seed=run.config.seed
    )
    stride = max(1, len(rows) // max(1, config.num_pictures))
    shown = list(range(0, len(rows), stride))[: config.num_pictures]
    pictures = {}
    view = run.modality.small(run.view)
    for batch in run.loader(run.subset(rows[shown], split), view):
        (samples,) = batch.views.values()
        images = run.modality.thumbnails(samples, size_px=_THUMBNAIL_PX)
        pictures.update(
            {shown[int(i)]: image for i, image in zip(batch.index, images, strict=True)}
        )
    groups = None if source.labels is None else run.labels(split)[rows].tolist()
    plot = picture_map(
        f"Features in the plane ({kind})",
        places,
        groups=groups,
        group_names=run.class_names,
        pictures=pictures,
    )
    return TaskResult(
        task="map",
        protocol=f"map-{kind.split(',')[0].lower()}-n{len(rows)}/1",
        headline="points",
        measurements=(Measurement(name="points", value=len(rows), is_share=False),),
        plots=(plot,),
        warnings=("distances in the plane are not distances of features.",),
    )


def _split(run: EvalRun) -> Split:
    return "val" if run.val_source is not None else "train"


def _check(run: EvalRun) -> None:
    at_least(run, run.source(_split(run)), 3, task="map")
    check_projection(run.config.settings(MapConfig).projection)


TASK = Task(
    run=run_map,
    settings={"map": MapConfig},
    needs_labels=False,
    needs_val=False,
    check=_check,
)
