"""A signal is answered while the main thread is inside one long operation."""

import signal
import subprocess
import sys
import time

SCRIPT = """
import hashlib, sys, time
from ssl_vision.engine.preemption import StopSignals
signals = StopSignals()
with signals.installed():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 12_000_000)  # one call, seconds long
    print(signals.received, time.time(), flush=True)
with signals.installed():
    pass
print("left", flush=True)
"""


def test_ctrl_c_is_answered_at_once_and_acted_on_afterwards() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "ready\n"
    sent = time.time()
    child.send_signal(signal.SIGINT)
    while not (line := child.stderr.readline()).strip():
        pass
    answered = time.time()
    received, ended = child.stdout.readline().split()
    assert line == "SIGINT: finishing this update and saving; again leaves at once.\n"
    assert answered - sent < 2
    assert answered < float(ended)  # it did not wait for the operation
    assert int(received) == signal.SIGINT
    assert child.stdout.readline() == "left\n"
    assert child.wait(timeout=30) == 0
