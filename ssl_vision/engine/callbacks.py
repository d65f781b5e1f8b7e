"""What a program hears of a run while it runs, and how it stops one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ssl_vision.engine.preemption import StopSignals
from ssl_vision.engine.run import Run
from ssl_vision.engine.watchers import Update
from ssl_vision.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run as a callback sees it.

    Attributes:
        step: Updates done.
        stop_step: Updates after which the run ends; None: when it is stopped.
        epoch: Epochs done, with their fraction.
        metrics: Latest value of all that was logged or scored, by name ("train/loss",
            "eval/knn_top1").
        run_dir: Folder of the run.
        method: The method, to look at; whoever changes it changes the run.
    """

    step: int
    stop_step: int | None
    epoch: float
    metrics: Mapping[str, float]
    run_dir: Path
    method: Method
    _update: Update | None
    _signals: StopSignals

    @property
    def loss(self) -> float:
        """Mean loss of the update's batches on this process; waits for the device."""
        outputs = () if self._update is None else self._update.outputs
        return sum(float(output.loss) for output in outputs) / max(1, len(outputs))

    def stop(self) -> None:
        """End the run after its next update, as Ctrl-C does: saved, and resumable."""
        self._signals.ask()


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What to call, on the main process, in the thread that trains.

    Attributes:
        on_update: After each update.
        on_score: After each scoring (`online_eval`), the one before any update included.
    """

    on_update: Callable[[Progress], object] | None = None
    on_score: Callable[[Progress], object] | None = None


class CallbackWatcher:
    """Calls the callbacks of a program.

    Args:
        callbacks: What to call.
        signals: Of the run.
    """

    def __init__(self, callbacks: Callbacks, signals: StopSignals) -> None:
        self._callbacks, self._signals = callbacks, signals

    def start(self, run: Run, method: Method) -> None:
        """Tell of the scores before the first update."""
        self._score(run, method, None)

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Tell of an update, and of scores where it was scored."""
        if self._callbacks.on_update is not None and run.is_main:
            self._callbacks.on_update(self._progress(run, method, update))
        self._score(run, method, update)

    def _score(self, run: Run, method: Method, update: Update | None) -> None:
        is_due = run.is_main and run.scored_step == method.step
        if is_due and self._callbacks.on_score is not None:
            self._callbacks.on_score(self._progress(run, method, update))

    def _progress(self, run: Run, method: Method, update: Update | None) -> Progress:
        return Progress(
            step=method.step,
            stop_step=run.stop_step if run.has_end else None,
            epoch=method.step / max(1, method.plan.steps_per_epoch),
            metrics=dict(run.metrics),
            run_dir=run.folder.path,
            method=method,
            _update=update,
            _signals=self._signals,
        )
