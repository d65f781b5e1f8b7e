"""Checkpoints that survive their writer: atomic, validated, written in the background.

Layout: `checkpoints/step_000123/{state.pt, manifest.json}`. A checkpoint is written beside its
final name, synced, and renamed as a folder; the name exists only for a complete one. The manifest
holds sizes and SHA-256, for what a rename cannot promise: disks that lie, copies that broke off.
Contents are tensors and plain containers, so that `torch.load(weights_only=True)` reads them.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypedDict, cast

import torch
from torch import Tensor

from ssl_vision.errors import CheckpointError
from ssl_vision.files import fsync_path, read_json, shown
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.safe_load import safe_load

SCHEMA = 1


class State(TypedDict, total=False):
    """What a checkpoint holds; see `state.capture` and `Checkpointer`."""

    schema: int
    step: int
    epoch: int
    samples_seen: int
    method: dict[str, object]  # its counters
    state_dict: dict[str, Tensor]
    optimizer: dict[str, dict[str, object]]  # moments by parameter name
    scaler: dict[str, object] | None
    loader: dict[str, int]  # place in the data
    data_fingerprint: str
    config: str  # YAML


# Version -> function that turns a state of that version into one of the next.
MIGRATIONS: dict[int, Callable[[State], State]] = {}

_STATE, _MANIFEST, _PREFIX, _TEMPORARY = "state.pt", "manifest.json", "step_", ".tmp-"
_SLACK_BYTES = 1 << 20  # of file overhead and logs, beside the tensors


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint folder found on disk; ordered by step."""

    step: int
    path: Path


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of an update is, among others in `folder`."""
    return folder / f"{_PREFIX}{step:06d}"


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """All checkpoints by name, oldest first; whether they are complete is not looked at."""
    if not folder.is_dir():
        return []
    names = (entry for entry in folder.iterdir() if entry.name.startswith(_PREFIX))
    steps = ((entry.name.removeprefix(_PREFIX), entry) for entry in names)
    return sorted(Checkpoint(int(step), entry) for step, entry in steps if step.isdecimal())


def find_defect(checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint cannot be trusted; None if every file has its size and SHA-256."""
    try:
        if not (checkpoint.path / _MANIFEST).exists():
            return f"{_MANIFEST} is missing"
        manifest: Any = read_json(checkpoint.path / _MANIFEST, error=CheckpointError)
        files = manifest["files"]
        for name, entry in files.items():
            path = checkpoint.path / name
            if Path(name).name != name or (path.exists() and not path.is_file()):
                return f"the manifest names {name!r}, which is no file of the checkpoint"
            size = path.stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size:,} of {entry['bytes']:,} bytes"
            if sha256_of(path) != entry["sha256"]:
                return f"{name} does not have the SHA-256 it was written with"
        if _STATE not in files or manifest["step"] != checkpoint.step:
            return "the manifest belongs to another checkpoint"
    except FileNotFoundError as error:
        return f"{shown(Path(error.filename).name)} is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (CheckpointError, ValueError, KeyError, TypeError, AttributeError):
        return "the manifest is not valid"
    return None


def newest_complete(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """Newest checkpoint without defect; each newer one that is passed over is warned about."""
    for checkpoint in reversed(list_checkpoints(folder)):
        defect = find_defect(checkpoint)
        if defect is None:
            return checkpoint
        warn(f"{checkpoint.path}: not usable, {defect}; looking for the one before it.")
    return None


def load_state(checkpoint: Checkpoint) -> State:
    """State of a checkpoint on the CPU, brought to today's schema.

    Raises:
        CheckpointError: Unreadable, holding more than tensors and plain containers, written by a
            newer version, or of a version without migration.
    """
    path = checkpoint.path / _STATE
    return migrate(safe_load(path), origin=path)


def migrate(content: object, *, origin: Path) -> State:
    """Apply the migrations between a state's schema and today's.

    Raises:
        CheckpointError: Not a state of ours, of the future, or too old.
    """
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise CheckpointError(f"{origin}: not a training checkpoint of this package.")
    state = cast(State, content)
    while state["schema"] < SCHEMA:
        migration = MIGRATIONS.get(state["schema"])
        if migration is None:
            raise CheckpointError(f"{origin}: schema {state['schema']} has no migration.")
        state = migration(state)
    if state["schema"] > SCHEMA:
        raise CheckpointError(
            f"{origin}: written by a newer version (schema {state['schema']}, this one reads up "
            f"to {SCHEMA}); upgrade ssl-vision."
        )
    return state


def write_checkpoint(
    folder: Path, state: Mapping[str, object], *, step: int, texts: Mapping[str, str] | None = None
) -> Checkpoint:
    """Write a checkpoint and return once it is complete and on disk.

    Args:
        folder: Where checkpoints are; created if needed.
        state: Tensors (CPU) and plain containers only.
        step: Optimizer updates done.
        texts: Small files to put beside the state, by name.

    Raises:
        CheckpointError: No space, no permission, or content that could not be loaded safely.
            Earlier checkpoints are untouched.
    """
    target = Checkpoint(step, checkpoint_path(folder, step))
    temporary = folder / f"{_TEMPORARY}{target.path.name}-{os.getpid()}"
    _check_plain(state, "state")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, need=state_bytes(state) + _SLACK_BYTES)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        files = {_STATE: _write_state(temporary / _STATE, state)}
        for name, text in (texts or {}).items():
            files[name] = _write_synced(temporary / name, text)
        manifest = {"schema": SCHEMA, "step": step, "files": files}
        _write_synced(temporary / _MANIFEST, json.dumps(manifest, indent=1))
        fsync_path(temporary)
        remove_checkpoint(target)  # only ever one that was found defective, or the same step again
        os.replace(temporary, target.path)
        fsync_path(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        free = _free_bytes(folder)
        raise CheckpointError(
            f"{target.path}: cannot be written: {_first_line(error)} (needs "
            f"{state_bytes(state) / 1e6:,.1f} MB, {free / 1e6:,.1f} MB free); earlier checkpoints "
            "are intact. Free some space or set run_dir to another disk, then start again with "
            "resume=auto."
        ) from error
    return target


def remove_checkpoint(checkpoint: Checkpoint) -> None:
    """Remove a checkpoint, if it is there, so that its name never stands for half of one.

    Raises:
        OSError: It cannot be renamed. What cannot be removed after that is left as a temporary.
    """
    doomed = checkpoint.path.with_name(f"{_TEMPORARY}{checkpoint.path.name}-{os.getpid()}-old")
    if checkpoint.path.exists():
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(checkpoint.path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_temporaries(folder: Path) -> int:
    """Remove what killed writers left; returns how many. Call only while nobody writes."""
    leftovers = [p for p in folder.glob(f"{_TEMPORARY}*") if p.is_dir()] if folder.is_dir() else []
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    return len(leftovers)


def state_bytes(state: object) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(state_bytes(value) for value in state)
    return 0


class CheckpointWriter:
    """Writes checkpoints in one background thread, at most one at a time, and keeps the last n.

    The state given to `submit` must be the caller's own copy. Older checkpoints are removed by the
    same thread, after the new one is complete; so at no moment is there none.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(
        self,
        state: Mapping[str, object],
        *,
        step: int,
        texts: Mapping[str, str] | None = None,
        spared: int | None = None,
    ) -> None:
        """Start writing; waits for the previous write first, and raises what it raised.

        Args:
            state: As `write_checkpoint` has it.
            step: Optimizer updates done.
            texts: Small files beside the state.
            spared: Step of a checkpoint that stays beside the last n.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._run,
            args=(state, step, texts, spared),
            name="checkpoint-writer",
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            CheckpointError: The write failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Let a write under way finish; its error, if any, waits for the next `wait`."""
        if self._thread is not None:
            self._thread.join()

    def _run(
        self,
        state: Mapping[str, object],
        step: int,
        texts: Mapping[str, str] | None,
        spared: int | None,
    ) -> None:
        try:
            written = write_checkpoint(self._folder, state, step=step, texts=texts)
            older = [c for c in list_checkpoints(self._folder) if c < written]
            for checkpoint in older[: max(0, len(older) - self._keep + 1)]:
                if checkpoint.step != spared:
                    remove_checkpoint(checkpoint)
        except BaseException as error:  # handed to the training thread
            self._error = error


class _HashingFile:
    """A binary file that hashes what passes; all that `torch.save` asks of a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.bytes += len(view)
        self._file.write(view)
        return len(view)

    def flush(self) -> None:
        self._file.flush()


def _write_state(path: Path, state: Mapping[str, object]) -> dict[str, object]:
    with path.open("xb") as file:
        hashing = _HashingFile(file)
        torch.save(dict(state), hashing)  # type: ignore[arg-type]
    fsync_path(path)
    return {"bytes": hashing.bytes, "sha256": hashing.sha256.hexdigest()}


def _write_synced(path: Path, text: str) -> dict[str, object]:
    data = text.encode()
    with path.open("xb") as file:
        file.write(data)
    fsync_path(path)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _check_plain(value: object, where: str) -> None:
    """Only what `weights_only=True` loads: tensors, numbers, strings, dicts, lists, tuples."""
    if type(value) is torch.Tensor or value is None or type(value) in (bool, int, float, str):
        return
    if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple) and type(value) in (list, tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    else:
        raise CheckpointError(
            f"checkpoint entry {where} is a {type(value).__name__}; only tensors and plain "
            "containers can be loaded safely."
        )


def _check_space(folder: Path, *, need: int) -> None:
    if _free_bytes(folder) < need:
        raise OSError("not enough space on the disk")


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().split("\n")[0] or type(error).__name__
