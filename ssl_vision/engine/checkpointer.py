"""When a run saves, and how it goes back to what it saved."""

from collections.abc import Callable

from torch.optim import Optimizer

from ssl_vision.config import to_yaml
from ssl_vision.distributed import any_rank, barrier, broadcast_object
from ssl_vision.engine.checkpoint import CheckpointWriter, State, load_state, newest_complete
from ssl_vision.engine.run import Run
from ssl_vision.engine.run_dir import lines_left_out, read_best
from ssl_vision.engine.state import capture, restore
from ssl_vision.engine.strategy import loss_scaler
from ssl_vision.engine.watchers import Update
from ssl_vision.errors import CheckpointError, SslVisionError
from ssl_vision.methods.base import Method


class Checkpointer:
    """Saves every n steps, every n epochs, at the best score and at the end; restores; rolls back.

    Args:
        run: The run.
        optimizer: The method's, whose moments are saved.
        writer: Writes in the background; used on the main process only.
        describe: Text of backbone.json, from which the weights can be read without this method.
    """

    def __init__(
        self,
        run: Run,
        optimizer: Optimizer,
        writer: CheckpointWriter,
        *,
        describe: Callable[[Method], str | None],
    ) -> None:
        self._run = run
        self._optimizer = optimizer
        self._writer = writer
        self._describe = describe
        self._last_saved: int | None = None
        self._is_due = False

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Save if it is time."""
        settings, step = run.config.trainer, method.step
        every_steps = settings.checkpoint_every_steps
        epoch_steps = settings.checkpoint_every_epochs * method.plan.steps_per_epoch
        self._is_due |= step % epoch_steps == 0
        self._is_due |= every_steps is not None and step % every_steps == 0
        self._is_due |= run.best_step == step
        # A checkpoint in the middle of bad updates is not one to return to; the next good one is.
        if step == run.stop_step or (self._is_due and not update.outcome.is_skipped):
            self.save(method)

    def save(self, method: Method, *, and_wait: bool = False) -> None:
        """Copy the state and have it written; a collective.

        Args:
            method: The method.
            and_wait: Return only when the checkpoint is complete, on every process.

        Raises:
            CheckpointError: This write (with `and_wait`), or the previous one, failed.
            ConfigError: The data are not those the resumed run began with.
        """
        if self._last_saved != method.step:
            state = self._state(method)
            self._guarded(lambda: self._mark(state, is_urgent=and_wait))
            self._guarded(lambda: self._submit(state, method))
            self._last_saved, self._is_due = method.step, False
        if and_wait:
            self._guarded(self._writer.wait)
            barrier()

    def finish(self) -> None:
        """Wait for the last write.

        Raises:
            CheckpointError: It failed.
        """
        self._writer.wait()

    def restore_newest(self, method: Method) -> State | None:
        """Put the newest complete checkpoint back; its state, or None without one."""
        found = None
        if self._run.is_main:
            found = newest_complete(self._run.folder.checkpoints, warn=self._run.warn)
        found = broadcast_object(found)
        if found is None:
            return None
        state = load_state(found)
        self.restore(state, method)
        return state

    def restore(self, state: State, method: Method) -> None:
        """Put a state back, and the data stream with it."""
        run = self._run
        restore(state, method, self._optimizer, scaler=loss_scaler(run.fabric))
        run.stream.seek(step=state["step"], data_offset=state["loader"]["data_offset"])
        self._last_saved = state["step"]

    def roll_back(self, method: Method) -> int | None:
        """Return to the newest checkpoint and leave out the data since; its step, None without."""
        bad_step, offset = method.step, self._run.stream.data_offset
        self._guarded(self._writer.wait)
        barrier()  # the write is complete before any process looks for it
        state = self.restore_newest(method)
        if state is None:
            return None
        step = int(state["step"])
        self._run.stream.seek(step=step, data_offset=offset + bad_step - step)
        if self._run.is_main:
            damaged = self._run.folder.truncate("metrics.jsonl", step=step)
            if damaged:
                self._run.warn(f"metrics.jsonl: {lines_left_out(damaged)}")
        self._last_saved = None  # the same step, but another data offset: save it anew
        return step

    def _state(self, method: Method) -> State:
        run = self._run
        state = capture(method, self._optimizer, scaler=loss_scaler(run.fabric))
        state["loader"] = run.stream.state(step=method.step)
        state["samples_seen"] = method.step * method.plan.global_batch_size
        state["epoch"] = method.step // method.plan.steps_per_epoch
        state["config"] = to_yaml(run.config)
        return state

    def _mark(self, state: State, *, is_urgent: bool) -> None:
        """Say on what data the state was trained; refuses others than the run's."""
        guard = self._run.guard
        state["data_fingerprint"] = "" if guard is None else guard.fingerprint(is_urgent=is_urgent)
        self._run.say_notes()

    def _submit(self, state: State, method: Method) -> None:
        described = self._describe(method)
        texts = {} if described is None else {"backbone.json": described}
        self._run.folder.sync("metrics.jsonl")
        best = read_best(self._run.folder)
        spared = None if best is None else best.step
        self._writer.submit(state, step=method.step, texts=texts, spared=spared)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something on the main process; fail on all processes if it fails there."""
        error: SslVisionError | None = None
        if self._run.is_main:
            try:
                action()
            except SslVisionError as caught:
                error = caught
        if any_rank(error is not None, device=self._run.fabric.device):
            raise error or CheckpointError("rank 0 could not write a checkpoint; see its message.")
