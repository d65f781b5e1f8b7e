"""Processes forked from this one: what a restart finds, without importing PyTorch again."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_vision.errors import SslVisionError


def fork(function: Callable[[], Any]) -> int:
    """Run a function in a process of its own, which has what was imported here; its id.

    It exits with what the function returned if that is a number, and as the command line would if
    it raised.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(_status_of(function))
    return pid


def wait(pid: int) -> int:
    """Exit status of a forked process once it ended, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_timed(function: Callable[[], Any], log: Path) -> tuple[int, float]:
    """Run a function in a forked process; its exit status, and its CPU seconds on all threads.

    What it prints is added to a file.
    """

    def go() -> Any:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        return function()

    _, status, usage = os.wait4(fork(go), 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def _status_of(function: Callable[[], Any]) -> int:
    status = 1
    try:
        result = function()
        status = result if isinstance(result, int) else 0
    except SslVisionError as error:
        sys.stderr.write(f"error: {error}\n")
        status = error.exit_code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status
