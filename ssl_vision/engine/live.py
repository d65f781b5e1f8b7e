"""A run in a thread of its own, and the handle by which a program looks at it and stops it."""

import html
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ssl_vision.engine.callbacks import Callbacks, Progress
from ssl_vision.engine.preemption import StopSignals
from ssl_vision.engine.train import RunResult
from ssl_vision.errors import Preempted

_NONE: Mapping[str, float] = MappingProxyType({})


class LiveCallbacks:
    """Keeps the latest progress of a run, and calls what its program wants to be called.

    Args:
        asked: The program's.
    """

    def __init__(self, asked: Callbacks | None) -> None:
        self.progress: Progress | None = None
        self._asked = asked or Callbacks()
        self.callbacks = Callbacks(on_update=self._on_update, on_score=self._on_score)

    def _on_update(self, progress: Progress) -> None:
        self.progress = progress
        if self._asked.on_update is not None:
            self._asked.on_update(progress)

    def _on_score(self, progress: Progress) -> None:
        self.progress = progress
        if self._asked.on_score is not None:
            self._asked.on_score(progress)


class LiveRun:
    """A run that goes on in a thread while the program does other things; see `ssl_vision.start`.

    As the last line of a notebook's cell it says where the run is.

    Args:
        train: What trains.
        live: What is told of it.
        signals: By which it is stopped.
        run_dir: Folder of the run.
    """

    def __init__(
        self,
        train: Callable[[], RunResult],
        live: LiveCallbacks,
        signals: StopSignals,
        run_dir: Path,
    ) -> None:
        self.run_dir = run_dir
        self._live, self._signals = live, signals
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        # A daemon: a program that ends does not wait for hours; the last checkpoint stays.
        self._thread = threading.Thread(target=self._run, args=(train,), daemon=True)
        self._thread.start()

    def _run(self, train: Callable[[], RunResult]) -> None:
        try:
            self._result = train()
        except BaseException as error:  # whatever it is, `wait` raises it where someone looks
            self._error = error

    @property
    def state(self) -> str:
        """running, stopping, stopped (resumable), failed or done."""
        if self._thread.is_alive():
            return "running" if self._signals.received is None else "stopping"
        if self._error is None:
            return "done"
        return "stopped" if isinstance(self._error, Preempted) else "failed"

    @property
    def step(self) -> int:
        """Updates done."""
        return 0 if self._live.progress is None else self._live.progress.step

    @property
    def metrics(self) -> Mapping[str, float]:
        """Latest value of all that was logged or scored ("train/loss", "eval/knn_top1")."""
        return _NONE if self._live.progress is None else self._live.progress.metrics

    def stop(self, *, timeout_s: float | None = None) -> None:
        """End the run after the update under way, saved and resumable; wait for that.

        Args:
            timeout_s: Wait at most so long, then return; the run ends all the same.
        """
        self._signals.ask()
        self._thread.join(timeout_s)

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """Wait for the end of the run. A notebook's stop button ends the wait, not the run.

        Args:
            timeout_s: Wait at most so long.

        Raises:
            TimeoutError: The run goes on.
            KeyboardInterrupt: It was stopped, or the wait was.
            SslVisionError: It failed.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"{self!r} goes on.")
        if isinstance(self._error, Preempted) and self._signals.received == signal.SIGINT:
            raise KeyboardInterrupt(str(self._error)) from None
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def __repr__(self) -> str:
        progress = self._live.progress
        text = f"{self.run_dir}: {self.state}"
        if progress is not None:
            end = "" if progress.stop_step is None else f" of {progress.stop_step}"
            text += f", update {progress.step}{end}, epoch {progress.epoch:.1f}"
            shown = ("train/loss", *(name for name in progress.metrics if name.startswith("eval/")))
            found = [(name, progress.metrics[name]) for name in shown if name in progress.metrics]
            text += "".join(f", {name.partition('/')[2]} {value:.4g}" for name, value in found[:4])
        return f"{text} ({self._error})" if self.state == "failed" else text

    def _repr_html_(self) -> str:
        progress = self._live.progress
        bar = ""
        if progress is not None and progress.stop_step is not None:
            bar = f'<progress value="{progress.step}" max="{progress.stop_step}"></progress> '
        return f"<p>{bar}{html.escape(repr(self))}</p>"
