"""What watches a run: called once per update, in one order (guard, log, score, save, stop).

Between the steps they name, the watchers touch no tensor, so that the device never waits for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ssl_vision.engine.run import Run
from ssl_vision.methods.base import Method, UpdateOutcome
from ssl_vision.types import LossOutput


@dataclass(frozen=True)
class Update:
    """An update that was done, or skipped.

    Attributes:
        outputs: Loss and metrics of each of its batches on this process, detached.
        index: Sample ids of each of its batches, int64, (B,).
        outcome: What the processes agreed on.
    """

    outputs: Sequence[LossOutput]
    index: Sequence[Tensor]
    outcome: UpdateOutcome


class Watcher(Protocol):
    """Does something at the end of updates."""

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Called once per update, on every process.

        Args:
            run: The run.
            method: The method; `method.step` updates are done.
            update: The last of them.
        """
        ...
