"""What happens at the end of an update, in one order: guard, log, score, save, stop.

Lightning calls hooks per batch and offers no order by purpose. One callback (`StepEdge`) turns its
batches into updates and asks the watchers, one after the other. Between the steps they name, the
watchers touch no tensor, so that the device never waits for them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import lightning as L
from rich.console import Console

from ssl_vision.config import TrainConfig
from ssl_vision.engine.run_dir import RunFolder, read_jsonl
from ssl_vision.engine.stream import BatchStream
from ssl_vision.methods.base import Method

Outputs = dict[str, Any]  # of `Method.training_step`: loss, metrics, index


@dataclass(kw_only=True)
class Run:
    """A run in progress: what the watchers share."""

    config: TrainConfig
    folder: RunFolder
    stream: BatchStream
    trainer: L.Trainer
    console: Console
    data_fingerprint: str = ""
    is_main: bool = True  # the process that writes
    stop_step: int = 0  # updates after which the run ends
    metrics: dict[str, float] = field(default_factory=dict)  # latest value of each
    untrained: dict[str, float] | None = None  # signs of collapse before the first update

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl and remember the numbers."""
        self.metrics |= {k: v for k, v in values.items() if isinstance(v, float | int)}
        if self.is_main:
            self.folder.append("metrics.jsonl", {"step": step, **values})
            numbers = {k: v for k, v in values.items() if isinstance(v, float | int)}
            for logger in self.trainer.loggers:
                logger.log_metrics(numbers, step)

    def recall(self, step: int) -> None:
        """Take over what the lines of an interrupted run say, up to `step`."""
        path = self.folder.path / "metrics.jsonl"
        if not path.exists():
            return
        for line in read_jsonl(path):
            if line.get("step", 0) > step:
                continue
            numbers = {k: math.nan if v is None else v for k, v in line.items()}
            self.metrics |= {k: v for k, v in numbers.items() if isinstance(v, float | int)}
            if line.get("step") == 0:
                signs = {k: v for k, v in line.items() if k.startswith("eval/")}
                self.untrained = {
                    k.removeprefix("eval/"): v for k, v in signs.items() if isinstance(v, float)
                }

    def say(self, message: str, *, style: str | None = None) -> None:
        """Print a line, on the main process only."""
        if self.is_main:
            self.console.print(message, style=style, highlight=False, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning, on the main process only."""
        self.say(f"warning: {message}", style="yellow")


class Watcher(Protocol):
    """Does something at the end of updates."""

    def after_update(self, run: Run, method: Method, outputs: Sequence[Outputs]) -> None:
        """Called once per update, on every process.

        Args:
            run: The run.
            method: The method; `method.step` updates are done.
            outputs: What `training_step` returned for each batch of the update.
        """
        ...


class StepEdge(L.Callback):
    """Calls the watchers once per update, in order.

    Args:
        run: The run.
        watchers: In the order they are asked.
        restore: Called once weights and optimizer are where they train.
        begin: Called right before the first batch.
    """

    def __init__(
        self,
        run: Run,
        watchers: Sequence[Watcher],
        *,
        restore: Callable[[], None],
        begin: Callable[[], None],
    ) -> None:
        self._run = run
        self._watchers = watchers
        self._restore = restore
        self._begin = begin
        self._outputs: list[Outputs] = []
        self._step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore."""
        self._restore()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin, and remember where."""
        assert isinstance(pl_module, Method)
        self._begin()
        self._step = pl_module.step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Collect the batches of an update; at its end, ask the watchers."""
        assert isinstance(pl_module, Method)
        self._outputs.append(outputs)
        if pl_module.step == self._step:
            return
        for watcher in self._watchers:
            watcher.after_update(self._run, pl_module, self._outputs)
        self._step = pl_module.step  # a rollback may have moved it
        self._outputs = []
