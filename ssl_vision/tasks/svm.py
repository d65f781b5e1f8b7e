"""The task `svm`: a linear SVM on frozen features, of clouds or images."""

from ssl_vision.evaluation.results import TaskResult
from ssl_vision.evaluation.svm import SvmConfig, SvmResult, linear_svm
from ssl_vision.tasks.baselines import compare_with_baselines, top1_of
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task, check_classes


def run_svm(run: EvalRun) -> TaskResult:
    """Linear SVM on frozen features, of clouds or images."""
    config = run.config.settings(SvmConfig)
    result = _svm(run)
    own = top1_of(result)
    compared, problems = compare_with_baselines(run, own, lambda other: top1_of(_svm(other)))
    scaling = "standardized" if config.is_standardized else "raw"
    return TaskResult(
        task="svm",
        protocol=f"svm-pooled-{scaling}-c_held_out/1" if result.held_out else "svm-pooled/1",
        headline="top1",
        measurements=(own, *compared),
        details={"c": result.c, "held_out": result.held_out},
        warnings=tuple(problems),
    )


def _svm(run: EvalRun) -> SvmResult:
    return linear_svm(
        run.features("train", "pooled").numpy(),
        run.labels("train").numpy(),
        run.features("val", "pooled").numpy(),
        run.labels("val").numpy(),
        config=run.config.settings(SvmConfig),
        seed=run.config.seed,
    )


TASK = Task(
    run=run_svm,
    settings={"svm": SvmConfig},
    check=lambda run: check_classes(run, task="svm"),
)
