"""The task `logreg`: logistic regression at its optimum."""

from ssl_vision.evaluation.logreg import LogregConfig, edge_warning, logistic_probe
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import TaskResult, accuracy_measurements
from ssl_vision.tasks.run import ACCURACY, EvalRun
from ssl_vision.tasks.task import Task, check_classes


def run_logreg(run: EvalRun) -> TaskResult:
    """Logistic regression at its optimum, C chosen on held-out training images."""
    config = run.config.settings(LogregConfig)
    found = logistic_probe(
        run.features("train", config.features),
        run.labels("train"),
        run.features("val", config.features),
        run.labels("val"),
        config=config,
        num_classes=run.num_classes,
        seed=run.config.seed,
        device=run.device,
    )
    plots: tuple[str, ...] = ()
    if found.selection:
        series = {"held-out training images": sorted(found.selection.items())}
        plots = (
            line_chart("Logistic regression by C", series, x=Axis("C", is_log=True), y=ACCURACY),
        )
    return TaskResult(
        task="logreg",
        protocol=f"logreg-{config.features}-{len(config.cs)}c{run.mark}/2",
        headline="top1",
        measurements=accuracy_measurements(found.accuracy),
        details={"c": found.c, "selection": found.selection},
        plots=plots,
        warnings=edge_warning(found),
    )


TASK = Task(
    run=run_logreg,
    settings={"logreg": LogregConfig},
    check=lambda run: check_classes(run, task="logreg"),
    feature_sets=lambda run: (run.config.settings(LogregConfig).features,),
)
