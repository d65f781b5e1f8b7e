"""Whether the training data are those a run began with; every byte is read, beside the training."""

import os
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Literal

from ssl_vision.data.source import Source
from ssl_vision.distributed import broadcast_object
from ssl_vision.engine.resume import check_data
from ssl_vision.errors import SslVisionError

KIND = "content-1:"  # precedes fingerprints of contents; former ones (names and sizes) have none
_NICENESS = 10  # of the reading thread: loaders come first
_RESUME_WAIT_S = 3.0  # small data sets are compared before a resumed run's first update
_SAVE_WAIT_S = 600.0  # the first checkpoint waits so long at most; collectives wait for 30 min
_STOP_WAIT_S = 5.0  # where a signal's grace period runs


class DataGuard:
    """Reads the training data once in the background and compares them with the run's.

    One slow thread of the main process does it, from `start` on. The result goes into every
    checkpoint from then on; other processes take part in `expect` only.

    Args:
        source: The training data.
        policy: What happens if they are others than the run began with.
        path: As the settings name them, for messages.
        is_main: Whether this process reads.

    Attributes:
        notes: What the user should hear of, a line each; whoever prints them empties the list.
    """

    def __init__(
        self, source: Source, *, policy: Literal["refuse", "allow"], path: str, is_main: bool = True
    ) -> None:
        self._source, self._policy, self._path, self._is_main = source, policy, path, is_main
        self._found: Future[str] = Future()
        self._saved = ""  # of the run, as far as it is to be compared still
        self.notes: list[str] = []

    def start(self) -> None:
        """Begin to read, on the main process."""
        if self._is_main:
            threading.Thread(target=self._read, name="data guard", daemon=True).start()

    def expect(self, saved: str) -> None:
        """Hold the data against a checkpoint's `data_fingerprint`; a collective.

        At once where that is quick, else when the next checkpoint is saved.

        Raises:
            ConfigError: They are others, and the policy is to refuse.
        """
        error: SslVisionError | None = None
        if self._is_main:
            try:
                self._expect(saved)
            except SslVisionError as caught:
                error = caught
        error = broadcast_object(error)
        if error is not None:
            raise error

    def fingerprint(self, *, is_urgent: bool = False) -> str:
        """What a checkpoint of the main process says of its data; waits for it, within bounds.

        Args:
            is_urgent: Wait for seconds only.

        Returns:
            The kind and the digest; that of the run so far, or nothing, if reading takes longer.

        Raises:
            ConfigError: They are not the data the run began with, and the policy is to refuse.
        """
        try:
            now = self._found.result(_STOP_WAIT_S if is_urgent else _SAVE_WAIT_S)
        except NotYet:
            self.notes.append(
                f"data.path={self._path} is not read through yet; this checkpoint does not say "
                "on what data it was trained."
            )
            return self._saved
        self._compare(now)
        return now

    def _expect(self, saved: str) -> None:
        if not saved:
            self.notes.append("the checkpoint does not say on what data it was trained.")
        elif ":" not in saved:
            self.notes.append(
                "the run was saved with a fingerprint of names and sizes of the data, and is "
                "compared by them; its next checkpoints are by content."
            )
            check_data(
                saved, self._source.former_fingerprint(), policy=self._policy, path=self._path
            )
        elif not saved.startswith(KIND):
            self.notes.append(
                f"the run was saved with a fingerprint of the data ({saved}) of another version; "
                "they are not compared."
            )
        else:
            self._saved = saved
            try:
                self._compare(self._found.result(_RESUME_WAIT_S))
            except NotYet:
                self.notes.append("the data are compared with the run's by the next checkpoint.")

    def _compare(self, now: str) -> None:
        saved, self._saved = self._saved, ""
        if saved and saved != now and self._policy == "allow":
            self.notes.append(f"data.path={self._path} holds other data than the run began with.")
        check_data(saved, now, policy=self._policy, path=self._path)

    def _read(self) -> None:
        try:
            if sys.platform == "linux":  # where threads have priorities of their own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            self._found.set_result(KIND + self._source.fingerprint(num_threads=1))
        except BaseException as error:  # raised where the result is asked for
            self._found.set_exception(error)
