"""The loop of a training run: what happens in an update, in order; then the watchers, in theirs.

Devices, processes and precision are Lightning Fabric's business (see `strategy`), the steps of an
update are `Method`'s. Under Lightning's Trainer the same functions run as hooks, see
`methods/base.py`: whoever changes the order here changes it there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import lightning as L
from lightning.fabric.wrappers import _FabricModule
from torch.optim import Optimizer

from ssl_vision.engine.run import Run
from ssl_vision.engine.stream import BatchStream
from ssl_vision.engine.watchers import Update, Watcher
from ssl_vision.methods.base import Method
from ssl_vision.types import Batch, LossOutput


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Trains a method update by update.

    Attributes:
        fabric: Launched.
        model: The method as Fabric set it up, wrapped in DDP or sharded.
        method: The method.
        optimizer: Its optimizer.
        stream: The batches from here on, on the device.
        prepare: Makes of such a batch what the method takes: normalised floats.
        accumulate: Batches per update.
        is_stop_asked: Whether this process got a signal.
    """

    fabric: L.Fabric
    model: _FabricModule
    method: Method
    optimizer: Optimizer
    stream: BatchStream
    prepare: Callable[[Batch], Batch]
    accumulate: int
    is_stop_asked: Callable[[], bool]

    def run(self, run: Run, watchers: Sequence[Watcher]) -> None:
        """Train to the end of the run; a rollback moves `method.step`, and the stream, back."""
        while self.method.step < run.stop_step:
            update = self.update()
            for watcher in watchers:
                watcher.after_update(run, self.method, update)

    def update(self) -> Update:
        """One update: losses and gradients, finite everywhere? clip, step, teacher, counters."""
        method, optimizer = self.method, self.optimizer
        method.begin_update(optimizer)
        optimizer.zero_grad(set_to_none=True)
        outputs, index = [], []
        for number in range(self.accumulate):
            batch = self.prepare(next(self.stream))
            # Processes exchange gradients once, in the backward of the last batch.
            with self.fabric.no_backward_sync(self.model, enabled=number + 1 < self.accumulate):
                output = self._forward(batch)
                self.fabric.backward(output.loss / self.accumulate)
            self.stream.prefetch()  # while the device is busy with what was just queued
            outputs.append(LossOutput(output.loss.detach(), output.metrics))
            index.append(batch.index)
        self.fabric.strategy.precision.unscale_gradients(optimizer)  # fp16's loss scale
        outcome = method.judge_update(optimizer, is_stop_asked=self.is_stop_asked())
        self.fabric.strategy.optimizer_step(optimizer)
        method.end_update(outcome)
        return Update(outputs, index, outcome)

    def _forward(self, batch: Batch) -> LossOutput:
        # What the wrapper's own call does for float32 and autocast, without the walk over outputs
        # that looks for tensors whose backward goes past Fabric: 0.3 ms.
        with self.fabric.strategy.precision.forward_context():
            output: LossOutput = self.model._forward_module(batch)
        return output
