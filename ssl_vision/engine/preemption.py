"""Signals: note them, finish the step, save, leave; leave at once when asked twice.

The handler does nothing but set a flag. Whatever else it did could run in the middle of a
collective or of a write. Processes agree on the flag at the end of an update (see
`Method.on_before_optimizer_step`), so one signal to one process stops all of them together.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Which signal arrived, if any.

    Attributes:
        received: Number of the first signal; None so far.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self.received: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.received is not None:
            os._exit(128 + number)  # asked twice: no cleaning up, checkpoints are whole anyway
        self.received = number
        self._on_first()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside; the previous handlers come back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread, whose business they stay
            return
        previous: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def install(self) -> None:
        """Set the handlers (again: Lightning sets its own for SIGTERM when training starts)."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self.handle)


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
