"""What a task of an evaluation is: its run, its settings, what it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ssl_vision.errors import DataError
from ssl_vision.evaluation.results import TaskResult
from ssl_vision.tasks.run import EvalRun


def pooled(run: EvalRun) -> tuple[str, ...]:
    """The pooled features alone."""
    return ("pooled",)


def no_check(run: EvalRun) -> None:
    """Nothing is known before features that could make the task fail."""


def check_classes(run: EvalRun, *, task: str) -> None:
    """Refuse a task that tells classes apart where there is one.

    Raises:
        DataError: The training samples have fewer than two classes.
    """
    num = len(run.labels("train").unique())
    if num < 2:
        raise DataError(
            f"tasks={task} needs two classes or more, the training samples of data.path="
            f"{run.config.data.path} have {num}; put them into one folder per class, or use "
            "tasks=metrics,map."
        )


def no_features(run: EvalRun) -> tuple[str, ...]:
    """Features of a task that runs the network itself: none."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: features in, a `TaskResult` out.

    Attributes:
        run: Does it.
        settings: Sections of `EvalConfig` that it owns -> their dataclass.
        presets: Section -> named values of it, chosen by `SECTION.preset`.
        needs_labels: Whether training and test images must have classes.
        needs_val: Whether test images take part.
        feature_sets: Sets it will ask for, so that one pass serves all tasks.
        check: Raises, before any feature is computed, what would make the task fail later.
    """

    run: Callable[[EvalRun], TaskResult]
    settings: Mapping[str, type] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    needs_labels: bool = True
    needs_val: bool = True
    feature_sets: Callable[[EvalRun], tuple[str, ...]] = pooled
    check: Callable[[EvalRun], None] = no_check
