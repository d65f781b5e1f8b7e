"""The folder of a run: what was asked for, on what it ran, and what came out, step by step."""

import errno
import fcntl
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from ssl_vision.engine.checkpoint import checkpoint_path
from ssl_vision.errors import CheckpointError
from ssl_vision.files import MAX_LOG_BYTES, fsync_path, plain_text, write_atomically

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "omegaconf", "numba", "ffcv")

# A line of metrics.jsonl or of its kind.
Record: TypeAlias = dict[str, Any]

_SHOWN_LINES = 8
BEST_FOLDER, BEST_NAME = "export_best", "best.json"  # the export that scored best, and its score
UNREADABLE_NAME = "unreadable.json"  # samples that could not be read: name -> reason


class RunFolder:
    """One run's files; only rank 0 writes.

    `metrics.jsonl` holds what the training computes and is, like the weights, the same bit for bit
    whether or not a run was interrupted; clocks and memory go to `speed.jsonl`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """Folder of the backbone as a plain timm model."""
        return self.path / "export"

    def open(self) -> None:
        """Create the folder and claim it for this process.

        Raises:
            CheckpointError: Not writable, or another process trains in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise CheckpointError(
                f"run_dir={self.path} cannot be written ({error.strerror}); set run_dir to a "
                "folder you may write to."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"run_dir={self.path} is in use by another run; wait for it, or choose another "
                "run_dir."
            ) from None
        except OSError:
            pass  # a file system without locks; the claim is a courtesy, not a need

    def close(self) -> None:
        """Let go of the folder's lock, so that another process may take it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write(self, name: str, content: str) -> None:
        """Replace a text file of the folder atomically.

        Raises:
            CheckpointError: It cannot be written.
        """
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            raise _unwritable(self.path / name, error) from error

    def read_json(self, name: str) -> Any:
        """Content of a JSON file of the folder; None if it is not there or not whole."""
        try:
            return json.loads(plain_text(self.path / name))
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, content: object) -> None:
        """Replace a JSON file of the folder atomically."""
        self.write(name, json.dumps(content, indent=1) + "\n")

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add one JSON line, in one write; a reader never sees a line change.

        Raises:
            CheckpointError: It cannot be written.
        """
        path = self.path / name
        # JSON has no NaN or infinity; null is what readers of curves expect there.
        finite = {k: None if _is_nonfinite(v) else v for k, v in record.items()}
        line = json.dumps(finite, allow_nan=False) + "\n"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                _write_line(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unwritable(path, error) from error

    def truncate(self, name: str, *, step: int) -> list[int]:
        """Drop lines of later steps than `step`, and what is no whole line; for resuming.

        Returns:
            Numbers of the damaged lines, from 1. A log is no reason not to go on.
        """
        path = self.path / name
        if not path.exists():
            return []
        records, damaged = _parse_lines(path)
        kept = [record for record in records if record.get("step", 0) <= step]
        self.write(name, "".join(json.dumps(record) + "\n" for record in kept))
        return damaged

    def sync(self, name: str) -> None:
        """Make the lines written so far survive a power cut."""
        path = self.path / name
        if path.exists():
            fsync_path(path)


class Best(NamedTuple):
    """The best score of a run so far.

    Attributes:
        step: Updates that were done.
        score: Its name.
        value: From 0 to 1.
    """

    step: int
    score: str
    value: float


def read_best(folder: RunFolder) -> Best | None:
    """What best.json of a run says; None where it is not there or damaged."""
    content = folder.read_json(BEST_NAME)
    try:
        return Best(int(content["step"]), str(content["score"]), float(content["value"]))
    except (TypeError, KeyError, ValueError):
        return None


def best_sentence(folder: RunFolder, *, last_step: int) -> str | None:
    """Which export is the best and which is the last."""
    best = read_best(folder)
    if best is None:
        return None
    name = f"{best.score.replace('_', ' ')} {best.value:.2%}"
    if best.step == last_step:
        return (
            f"the last update, {last_step}, scored best of those exported ({name}): export/ and "
            f"{BEST_FOLDER}/"
        )
    whole = checkpoint_path(folder.checkpoints, best.step)
    beside = f" (whole state: checkpoints/{whole.name}/)" if whole.is_dir() else ""
    return (
        f"best by {name} is update {best.step} in {BEST_FOLDER}/{beside}; export/ is the last, "
        f"update {last_step}"
    )


def read_jsonl(path: Path) -> tuple[list[Record], list[int]]:
    """Records of a JSON-lines file, and numbers of the lines, from 1, that are none.

    A reader tells its user of the latter: see `lines_left_out`.
    """
    return _parse_lines(path)


def lines_left_out(numbers: Sequence[int]) -> str:
    """Words on damaged lines: how many and where."""
    shown = ", ".join(map(str, numbers[:_SHOWN_LINES]))
    more = f" and {len(numbers) - _SHOWN_LINES} more" if len(numbers) > _SHOWN_LINES else ""
    is_one = len(numbers) == 1
    return (
        f"{'line' if is_one else 'lines'} {shown}{more} {'is no' if is_one else 'are no'} JSON "
        f"{'record' if is_one else 'records'} (damaged, or cut short) and left out."
    )


def _parse_lines(path: Path) -> tuple[list[Record], list[int]]:
    """See `read_jsonl`.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        text = plain_text(path, max_bytes=MAX_LOG_BYTES, errors="replace")
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{path} cannot be read ({reason}); move it away.") from error
    *lines, torn = text.split("\n")
    # What follows the last line's end is torn, even if complete by chance.
    records = [_parse_line(line) for line in lines] + ([None] if torn else [])
    damaged = [number for number, record in enumerate(records, start=1) if record is None]
    return [record for record in records if record is not None], damaged


def _parse_line(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get("step", 0)) is int
    return record if is_record else None


def describe_environment(*, world_size: int, device: str) -> dict[str, object]:
    """Versions, machine and git state, for `environment.json`."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "versions": versions,
        "git": git_state(Path(__file__).parent),
        "world_size": world_size,
        "device": device,
        "cpus": os.cpu_count(),
    }


def git_state(folder: Path) -> dict[str, object] | None:
    """Commit and whether files differ from it; None outside a checkout or without git."""
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", str(folder), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "is_dirty": bool(status)}


def _write_line(descriptor: int, line: bytes) -> None:
    """Append the whole line, or nothing of it if the disk is full."""
    size = os.fstat(descriptor).st_size
    written = os.write(descriptor, line)
    if written != len(line):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes were written, disk full?")


def _is_nonfinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be written ({error.strerror}); earlier checkpoints are intact. Make room "
        "or set run_dir to another disk, then start again with resume=auto."
    )
