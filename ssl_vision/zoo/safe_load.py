"""Read weight files without running anything that is in them.

A pickle is a program. Files are read as safetensors, or by torch's restricted unpickler, which
builds tensors and plain containers and refuses every other name. There is no way around that
refusal other than naming one of the harmless classes below, and nothing falls back to it.
"""

import argparse
import hashlib
import importlib
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch

from ssl_vision.errors import CheckpointError

# Old training scripts (DINO, DeiT, MAE) keep their command line in the checkpoint.
_ALWAYS_ALLOWED: list[Any] = [argparse.Namespace]

# What a user may allow with `allow=`: modules whose named classes hold plain values.
HARMLESS = ("numpy", "pathlib")


def safe_load(path: str | Path, *, allow: Iterable[str] = ()) -> dict[str, Any]:
    """Content of a weight file, on the CPU.

    Args:
        path: A `.safetensors` file or a file of `torch.save`, of any age.
        allow: Whose plain values the file may hold besides tensors; each one of `HARMLESS`.

    Raises:
        CheckpointError: Missing, damaged, not a weight file, or it wants to run something; the
            message names what.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file.")
    allowed = [name for entry in allow for name in _harmless(entry)]
    with path.open("rb") as file:
        head = file.read(64)
    if path.suffix == ".safetensors" or _is_safetensors(head):
        return _load_safetensors(path)
    if not (head.startswith((b"PK", b"\x80")) or _is_tar(path)):
        raise CheckpointError(f"{path} is not a weight file: {_describe(head)}.")
    return _load_torch(path, allowed)


def sha256_of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values: equal for equal weights in any file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def unsafe_globals(path: str | Path) -> list[str]:
    """Names a torch file would look up and torch's restricted loader refuses; runs nothing."""
    path = Path(path)
    if zipfile.is_zipfile(path):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    known = {"collections.OrderedDict", "argparse.Namespace"}
    names = _names_in_legacy_file(path) - known
    return sorted(name for name in names if not name.startswith(("torch.", "torch._")))


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # whatever a header of a stranger brings the library to
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); download or export it again."
        ) from error


def _load_torch(path: Path, allowed: list[Any]) -> dict[str, Any]:
    is_zip = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals([*_ALWAYS_ALLOWED, *allowed]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except Exception as error:  # a damaged pickle or archive ends in any of Python's errors
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} is damaged or cut short ({first_line}); download or write it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a dictionary of weights."
        )
    return content


def _refusal(path: Path, error: Exception) -> str:
    """One line for a refused pickle: what it wanted, and what can be done."""
    try:
        with torch.serialization.safe_globals(_ALWAYS_ALLOWED):
            names = unsafe_globals(path)
    except Exception:  # of a file that is known to be damaged
        names = []
    if not names:
        return f"{path} is damaged or not a weight file: {str(error).splitlines()[0]}"
    text = f"{path} was refused: its pickle asks for {', '.join(names)}. Nothing in it was run."
    groups = {_group_of(name) for name in names}
    if None in groups:
        return (
            f"{text} Weights need none of these; get the file from its authors as safetensors or "
            "as a plain state_dict."
        )
    return f"{text} These hold plain values; add allow={','.join(sorted(filter(None, groups)))}."


def _group_of(name: str) -> str | None:
    """Entry of `HARMLESS` that covers a global, or None."""
    if name in {f"{n}.{a}" for n in _NUMPY_CORES for a in _NUMPY_FUNCTIONS}:
        return "numpy"
    if name in ("numpy.dtype", "numpy.ndarray", "_codecs.encode"):
        return "numpy"
    return "pathlib" if name in _PATHS else None


def _harmless(name: str) -> list[Any]:
    if name == "numpy":
        return _numpy_globals()
    if name == "pathlib":
        return [(pathlib.PurePosixPath, path) for path in _PATHS]  # never touches the disk
    raise CheckpointError(f"allow={name} is not possible: only {' and '.join(HARMLESS)} are.")


# A pickle written under NumPy 1 says numpy.core, under NumPy 2 numpy._core.
_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_FUNCTIONS = ("scalar", "_reconstruct")
_PATHS = ("pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib.PurePosixPath")


def _numpy_globals() -> list[Any]:
    """NumPy's scalars and arrays under both module names, and the dtypes they may have."""
    core = importlib.import_module("numpy._core" if hasattr(np, "_core") else "numpy.core")
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSU"}
    functions = [
        (getattr(core.multiarray, function), f"{module}.{function}")
        for module in _NUMPY_CORES
        for function in _NUMPY_FUNCTIONS
    ]
    # `_codecs.encode` turns text into bytes; pickles of protocol 2 hold NumPy's bytes that way.
    encode = (importlib.import_module("_codecs").encode, "_codecs.encode")
    return [np.dtype, np.ndarray, *dtypes, *functions, encode]


def _names_in_legacy_file(path: Path) -> set[str]:
    """Every module.name in the pickles of a pre-1.6 torch file, read as text."""
    names: set[str] = set()
    with path.open("rb") as file:
        for _ in range(5):  # magic number, protocol, system, the object, storage keys
            try:
                names |= _names_in_pickle(file)
            except (ValueError, EOFError, UnicodeDecodeError):
                break  # raw storage bytes follow the pickles
    return names


def _names_in_pickle(file: IO[bytes]) -> set[str]:
    names: set[str] = set()
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
            names.add(f"{strings[-2]}.{strings[-1]}")
        elif isinstance(argument, str):
            strings.append(argument)
    return names


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: a header length, then JSON."""
    return len(head) > 9 and head[8:9] == b"{" and not head.startswith(b"PK")


def _is_tar(path: Path) -> bool:
    """Torch's format before 0.1.10; still a pickle, still restricted."""
    with path.open("rb") as file:
        file.seek(257)
        return file.read(5) == b"ustar"


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page (a log-in or error page saved under its name?)"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; run `git lfs pull`"
    return f"it starts with {head[:8]!r}"
