"""A start that fails before its first update leaves the run folder as it was."""

import shutil
import sys
from contextlib import suppress
from pathlib import Path

from ssl_vision.engine.checkpoint import Checkpoint, list_checkpoints
from ssl_vision.engine.resume import RUN_FILES, set_aside
from ssl_vision.engine.run import Run
from ssl_vision.engine.watchers import Update
from ssl_vision.files import write_atomically
from ssl_vision.methods.base import Method


class Start:
    """The start of a run: until its first update is done, a failure leaves the folder as it was.

    A context manager; among the watchers, it learns of the first update.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._missing = [each for each in (folder, *folder.parents) if not each.exists()]
        self._aside: Path | None = None
        self._kept: dict[str, bytes] | None = None  # files of a run that goes on
        self._steps: list[Checkpoint] = []
        self._is_begun = self._is_done = False

    def begin(self, *, is_resuming: bool) -> None:
        """Make the folder ready: from here on the run writes into it."""
        self._steps = list_checkpoints(self._folder / "checkpoints")
        if is_resuming:
            files = [self._folder / name for name in RUN_FILES if (self._folder / name).is_file()]
            self._kept = {path.name: path.read_bytes() for path in files}
        else:
            self._aside = set_aside(self._folder)
            self._steps = []
        self._is_begun = True

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Note that the run is under way."""
        self._is_done = True

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        has_saved = list_checkpoints(self._folder / "checkpoints") != self._steps
        if kind is None or self._is_done or (self._is_begun and has_saved):
            return
        with suppress(OSError):  # what stopped the run is the message
            if self._is_begun:
                self._undo()
            self._remove_made()

    def _undo(self) -> None:
        if self._kept is not None:
            for name, content in self._kept.items():
                write_atomically(self._folder / name, content)
            return
        for name in RUN_FILES:
            _remove(self._folder / name)
        if self._aside is not None:
            for path in self._aside.iterdir():
                shutil.move(path, self._folder / path.name)
            self._aside.rmdir()
            if not any(self._aside.parent.iterdir()):
                self._aside.parent.rmdir()
            sys.stderr.write(f"nothing was trained; the files are in {self._folder} again\n")

    def _remove_made(self) -> None:
        """Folders that this start made, as far as they are empty, and the lock in them."""
        if self._missing:
            (self._folder / ".lock").unlink(missing_ok=True)
        for folder in self._missing:
            folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
