"""A run in progress: the record that loop and watchers share, and its voice on the terminal."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

import lightning as L
from rich.console import Console

from ssl_vision.config import TrainConfig
from ssl_vision.engine.data_guard import DataGuard
from ssl_vision.engine.run_dir import UNREADABLE_NAME, RunFolder, read_jsonl
from ssl_vision.engine.stream import BatchStream

ENDLESS = sys.maxsize  # the `stop_step` of runs that go on until they are stopped


def stop_step_of(config: TrainConfig, *, total_steps: int | None) -> int:
    """Updates after which a run ends.

    Args:
        config: Of the run.
        total_steps: Of its epochs; None where they are not limited.
    """
    if config.optim.anneal.end_step is not None:
        return config.optim.anneal.end_step
    ends = [end for end in (total_steps, config.trainer.max_steps) if end is not None]
    return min(ends, default=ENDLESS)


@dataclass(kw_only=True)
class Run:
    """A run in progress: what the watchers share."""

    config: TrainConfig
    folder: RunFolder
    stream: BatchStream
    fabric: L.Fabric
    console: Console
    guard: DataGuard | None = None  # of the training data
    is_main: bool = True  # the process that writes
    is_quiet: bool = False  # whether it prints warnings only
    stop_step: int = 0  # updates after which the run ends; ENDLESS: when it is stopped
    metrics: dict[str, float] = field(default_factory=dict)  # latest value of each
    start: dict[str, float] = field(default_factory=dict)  # scores and signs before any update
    scored_step: int = -1  # of the last scoring of this session
    best_step: int = -1  # of the best score of this session; the same on all processes

    @property
    def has_end(self) -> bool:
        """Whether it ends by itself."""
        return self.stop_step != ENDLESS

    @property
    def of_end(self) -> str:
        """What follows the number of an update: "/LAST", and nothing where none is the last."""
        return f"/{self.stop_step}" if self.has_end else ""

    @property
    def shows_bar(self) -> bool:
        """Whether progress is drawn in place: on a terminal, or in a notebook with ipywidgets."""
        if self.is_quiet or not self.is_main:
            return False
        if self.console.is_jupyter:
            return find_spec("ipywidgets") is not None  # by which rich draws there
        return self.console.is_terminal

    def record(self, step: int, values: dict[str, object]) -> None:
        """Add a line to metrics.jsonl and remember the numbers."""
        self.metrics |= {k: v for k, v in values.items() if isinstance(v, float | int)}
        if self.is_main:
            self.folder.append("metrics.jsonl", {"step": step, **values})
            numbers = {k: v for k, v in values.items() if isinstance(v, float | int)}
            self.fabric.log_dict(numbers, step)

    def recall(self, step: int) -> None:
        """Take over what the lines of an interrupted run say, up to `step`."""
        path = self.folder.path / "metrics.jsonl"
        if not path.exists():
            return
        for line in read_jsonl(path)[0]:  # truncated before, which told of damaged lines
            if line.get("step", 0) > step:
                continue
            numbers = {k: math.nan if v is None else v for k, v in line.items()}
            self.metrics |= {k: v for k, v in numbers.items() if isinstance(v, float | int)}
            if line.get("step") == 0:
                self.start |= {
                    name.removeprefix("eval/"): value
                    for name, value in line.items()
                    if name.startswith("eval/") and isinstance(value, float | int)
                }

    def note_unreadable(self, reasons: Mapping[str, str]) -> None:
        """Add samples that could not be read, name -> reason, to unreadable.json."""
        known = self.folder.read_json(UNREADABLE_NAME) or {}
        if self.is_main and not reasons.keys() <= known.keys():
            self.folder.write_json(UNREADABLE_NAME, known | dict(reasons))

    def say(self, message: str, *, style: str | None = None) -> None:
        """Print a line, on the main process only."""
        if not self.is_quiet:
            self._print(message, style)

    def _print(self, message: str, style: str | None) -> None:
        if self.is_main:
            self.console.print(message, style=style, highlight=False, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning, on the main process only."""
        self._print(f"warning: {message}", "yellow")

    def say_notes(self) -> None:
        """Print what the guard of the data has found."""
        while self.guard is not None and self.guard.notes:
            self.warn(self.guard.notes.pop(0))
