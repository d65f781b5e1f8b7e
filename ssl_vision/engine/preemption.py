"""Signals: note them, finish the step, save, leave; leave at once when asked twice.

The handler does nothing but set a flag. Whatever else it did could run in the middle of a
collective or of a write. Processes agree on the flag in each update (`Method.judge_update`), so one
signal to one process stops all of them together.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ssl_vision.distributed import is_distributed
from ssl_vision.engine.checkpointer import Checkpointer
from ssl_vision.engine.run import Run
from ssl_vision.engine.watchers import Update
from ssl_vision.errors import Preempted
from ssl_vision.files import shown
from ssl_vision.methods.base import Method

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Which signal arrived, if any.

    Args:
        is_program: Whether the process is someone's program or notebook, which is not ended.

    Attributes:
        received: Number of the first signal; None so far.
    """

    def __init__(self, *, is_program: bool = False) -> None:
        self.received: int | None = None
        self._is_program = is_program

    def ask(self) -> None:
        """Stop as if the user had pressed Ctrl-C."""
        self.received = self.received or int(signal.SIGINT)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, so that the run can stop after its update; leave at once at a second."""
        if self.received is not None and self._is_program:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is complete.")
        if self.received is not None:
            os._exit(128 + number)  # asked twice: no cleaning up, checkpoints are whole anyway
        self.received = number

    def _answer(self, heard: int) -> None:
        """Say at once that a signal arrived; runs in a thread of its own.

        Python calls `handle` only between two instructions of the main thread, which may be seconds
        inside one operation of torch; the byte of a signal is written by C, without waiting.
        """
        while (number := os.read(heard, 1)) not in (b"", b"\0"):
            if number[0] in (int(each) for each in SIGNALS):
                name = signal.Signals(number[0]).name
                line = f"\n{name}: finishing this update and saving; again leaves at once.\n"
                with contextlib.suppress(OSError):
                    os.write(2, line.encode())
                return

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Have the first signal answered while inside."""
        heard, told = os.pipe()
        os.set_blocking(told, False)
        before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._answer, args=(heard,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.write(told, b"\0")
            thread.join()
            os.close(heard)
            os.close(told)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside; the previous handlers come back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread, whose business they stay
            return
        previous: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        for number in previous:
            signal.signal(number, self.handle)
        try:
            with self._answering():
                yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def requeue() -> str | None:
    """Ask SLURM to run this job again, if there is a job.

    Returns:
        What was done or why it failed; None outside SLURM.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if shutil.which("scontrol") is None:
        return f"SLURM job {job} was not requeued: scontrol is not on the PATH."
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"SLURM job {job} was not requeued: {error}"
    if done.returncode != 0:
        return f"SLURM job {job} was not requeued: {done.stderr.strip()}"
    return f"SLURM job {job} is requeued."


def _what_else(run: Run) -> str:
    """What may be done with a run that was stopped, beside going on."""
    folder = shown(run.folder.path)
    ways = f"; ssl-vision export {folder} OUT takes its weights of now home"
    return ways if run.has_end else f"{ways}, ssl-vision anneal {folder} a finished branch of it"


class PreemptionWatcher:
    """Saves and leaves when the processes have agreed that one of them got a signal."""

    def __init__(self, signals: StopSignals, checkpointer: Checkpointer) -> None:
        self._signals = signals
        self._checkpointer = checkpointer

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Save and raise if a stop was agreed on.

        Raises:
            Preempted: After the checkpoint is complete.
        """
        if not update.outcome.is_stop_asked or method.step == run.stop_step:
            return
        self._checkpointer.save(method, and_wait=True)
        number = self._agree_on_signal(method.device)
        done = requeue() if run.is_main else None
        name = {2: "SIGINT", 10: "SIGUSR1", 15: "SIGTERM"}.get(number, f"signal {number}")
        raise Preempted(
            f"stopped by {name} after update {method.step}; the checkpoint is complete, the same "
            f"command resumes from it{_what_else(run)}.{f' {done}' if done else ''}",
            signal_number=number,
        )

    def _agree_on_signal(self, device: torch.device) -> int:
        """One process may have got the signal; all exit with its number."""
        value = torch.tensor(self._signals.received or 0, device=device)
        if is_distributed():
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return int(value)
