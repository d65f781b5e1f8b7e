"""Losses and speeds of a run: every n steps into files, often enough onto the terminal."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.optim import Optimizer

from ssl_vision.data.loader import EpochLoader
from ssl_vision.distributed import all_gather_object, all_reduce_mean
from ssl_vision.engine.run import Run
from ssl_vision.engine.watchers import Update
from ssl_vision.methods.base import Method
from ssl_vision.types import LossOutput

_REFRESH_S = 0.5  # between two updates of the terminal's line
_PLAIN_EVERY_S = 30.0  # between two lines where the output is not a terminal


class MetricsLog:
    """Writes `metrics.jsonl` every n steps, at the first and at the last."""

    def __init__(self, optimizer: Optimizer, *, every_steps: int) -> None:
        self._optimizer = optimizer
        self._every_steps = every_steps

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Average over the batches of the update and over processes; write."""
        step = method.step
        if step % self._every_steps and step not in (1, run.stop_step):
            return
        groups = self._optimizer.param_groups
        group = max(groups, key=lambda g: g["lr"])
        values = {f"train/{name}": value for name, value in average(update.outputs).items()}
        values["optim/lr"] = float(group["lr"])
        values["optim/weight_decay"] = max(float(g.get("weight_decay", 0.0)) for g in groups)
        run.record(step, {"epoch": round(step / method.plan.steps_per_epoch, 6), **values})


def average(outputs: Sequence[LossOutput]) -> dict[str, float]:
    """Loss and metrics of an update, the mean over batches and processes; syncs the device."""
    rows = [{"loss": output.loss, **output.metrics} for output in outputs]
    names = sorted(rows[0])
    table = torch.stack([torch.stack([row[n].float() for n in names]) for row in rows])
    return dict(zip(names, all_reduce_mean(table.mean(dim=0)).tolist(), strict=True))


class UnreadableLog:
    """Counts training samples that could not be read and were substituted, every n steps."""

    def __init__(self, loader: EpochLoader[Any], *, every_steps: int) -> None:
        self._loader, self._every_steps = loader, every_steps
        self._num_said = 0

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Write the count over all processes; name the first sample when there are more."""
        step = method.step
        if self._loader.on_error == "raise" or (step % self._every_steps and step != run.stop_step):
            return
        parts = all_gather_object(dict(self._loader.bad_samples))
        bad = {index: reason for part in parts for index, reason in part.items()}
        run.record(step, {"train/unreadable": len(bad)})
        run.note_unreadable({self._loader.source.name(i): bad[i] for i in sorted(bad)})
        if len(bad) > self._num_said:
            first = min(bad)
            run.warn(
                f"{len(bad)} training samples could not be read so far and others took their "
                f"place, first {self._loader.source.name(first)}: {bad[first]}"
            )
        self._num_said = len(bad)


class SpeedMeter:
    """Writes `speed.jsonl` and shows the run: loss, images/s, waiting for data, time left."""

    def __init__(self, *, every_steps: int) -> None:
        self._every_steps = every_steps
        self._window_start: tuple[float, int, float] | None = None
        self._last_shown = 0.0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._text = ""
        self._began: tuple[float, int] = (0.0, 0)  # when, after which update
        self._warm: tuple[float, int] | None = None  # when the first update was done, and which

    def start(self, run: Run, method: Method) -> None:
        """Begin timing; draw the bar where one can be drawn."""
        self._window_start = (time.perf_counter(), method.step, run.stream.waited_s)
        self._last_shown = time.perf_counter()
        self._began = (self._last_shown, method.step)
        if run.shows_bar:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn(f"{{task.completed:.0f}}{run.of_end}"),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("<"),
                TimeRemainingColumn(),
                console=run.console,
                refresh_per_second=1 / _REFRESH_S,
                speed_estimate_period=120,
            )
            self._task = self._progress.add_task(
                "training",
                total=run.stop_step if run.has_end else None,
                completed=method.step,
                text="",
            )
            self._progress.start()

    def stop(self) -> None:
        """Take the bar off the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Refresh the terminal twice a second at most, the file every n steps."""
        step = method.step
        now = time.perf_counter()
        self._warm = self._warm or (now, step)
        if step % self._every_steps == 0 or step == run.stop_step:
            self._write(run, method, now)
        if not run.is_main:
            return
        if self._progress is not None and self._task is not None:
            if now - self._last_shown >= _REFRESH_S or self._is_edge(run, step):
                text = self._describe(run, step, now)
                self._progress.update(self._task, completed=step, text=text)
                self._last_shown = now
        elif now - self._last_shown >= _PLAIN_EVERY_S or self._is_edge(run, step):
            run.say(f"step {step}{run.of_end} {self._describe(run, step, now)}")
            self._last_shown = now

    def _is_edge(self, run: Run, step: int) -> bool:
        """Whether it is the first update since the start, or the last."""
        return step in (self._began[1] + 1, run.stop_step)

    def _write(self, run: Run, method: Method, now: float) -> None:
        assert self._window_start is not None
        start, first_step, waited = self._window_start
        seconds = max(now - start, 1e-9)
        steps = method.step - first_step
        if steps <= 0:
            return
        images_per_s = steps * method.plan.global_batch_size / seconds
        wait_share = min(1.0, (run.stream.waited_s - waited) / seconds)
        record: dict[str, object] = {
            "step": method.step,
            "images_per_s": round(images_per_s, 2),
            "seconds_per_step": round(seconds / steps, 6),
            "data_wait_share": round(wait_share, 4),
        }
        if torch.cuda.is_available() and method.device.type == "cuda":
            record["peak_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
        if run.is_main:
            run.folder.append("speed.jsonl", record)
        self._text = f"{images_per_s:,.0f} images/s, waiting for data {wait_share:.0%}"
        if run.has_end:
            left_s = (run.stop_step - method.step) * seconds / steps
            self._text += f", {duration(left_s)} left"
        self._window_start = (now, method.step, run.stream.waited_s)

    def _describe(self, run: Run, step: int, now: float) -> str:
        loss = run.metrics.get("train/loss", math.nan)
        epoch = run.metrics.get("epoch", 0.0)
        text = self._text or self._first_guess(run, step, now)
        return f"epoch {epoch:.2f} loss {loss:.4f} {text}"

    def _first_guess(self, run: Run, step: int, now: float) -> str:
        """Time left by the updates after the first, which compiles, until a window is full."""
        if self._warm is None or not run.has_end or step <= self._warm[1]:
            return ""
        left_s = (now - self._warm[0]) / (step - self._warm[1]) * (run.stop_step - step)
        return f"about {duration(left_s)} left"


def duration(seconds: float) -> str:
    """A time in words, in the unit that fits."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
