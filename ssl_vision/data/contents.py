"""Digests of what files hold, so that a cache or a run can tell data sets apart.

Every byte is read. Sizes and times cannot stand for content: copies keep both, `touch` sets times,
and a kept list of (inode, change time) -> hash is wrong after a clock step, on file systems that
keep no change time, and in images of disks. Only within one object, between two questions of one
process, does an unchanged status (inode, size, both times) spare the second reading; and not for
files changed so shortly before that a later change might have the same time.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ssl_vision.distributed import usable_cores
from ssl_vision.files import open_regular

_PIECE_BYTES = 16 << 20  # large files are hashed in pieces, side by side
_SETTLED_NS = 2_000_000_000  # twice the coarsest clock of a file system
_FILES_PER_TASK = 64
_KEY_BYTES = 16

_Status = tuple[int, int, int, int, int]


class FileContents:
    """Files whose content is asked for, maybe again.

    Args:
        paths: Files in an order that matters; links are followed.

    Attributes:
        keys: Of the content of each file as of the last digest, S16, (n,), empty where a file is
            empty or cannot be read; None before the first.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        self.keys: NDArray[np.bytes_] | None = None
        self._known: tuple[list[_Status | None], str] | None = None

    def digest(self, *, num_threads: int | None = None) -> str:
        """Hex digest of all bytes of all files; what cannot be read counts as its error."""
        before = [_status(path) for path in self.paths]
        if self._known is not None and self._known[0] == before:
            return self._known[1]
        started = time.time_ns()
        found, self.keys = _hash_and_keys(self.paths, num_threads=num_threads)
        newest = max((max(s[3], s[4]) for s in before if s is not None), default=0)
        is_settled = None not in before and newest + _SETTLED_NS < started
        self._known = (before, found) if is_settled else None
        return found


def hash_files(paths: Sequence[str], *, num_threads: int | None = None) -> str:
    """SHA-256 of the SHA-256 of each file, in hexadecimal; by one thread per core, or so many."""
    return _hash_and_keys(paths, num_threads=num_threads)[0]


def _hash_and_keys(
    paths: Sequence[str], *, num_threads: int | None
) -> tuple[str, NDArray[np.bytes_]]:
    """Digest of all files, and a key of each."""
    whole, keys = hashlib.sha256(), np.zeros(len(paths), f"S{_KEY_BYTES}")
    row = 0
    batches = [paths[i : i + _FILES_PER_TASK] for i in range(0, len(paths), _FILES_PER_TASK)]
    with ThreadPoolExecutor(num_threads or usable_cores()) as pool:
        for digests in pool.map(lambda batch: [_hash_start(path) for path in batch], batches):
            for digest, size in digests:
                whole.update(digest)
                if size > _PIECE_BYTES:
                    starts, path = range(_PIECE_BYTES, size, _PIECE_BYTES), paths[row]
                    rest = pool.map(lambda at, path=path: _hash_piece(path, at), starts)
                    pieces = b"".join(rest)
                    whole.update(pieces)
                    digest = hashlib.sha256(digest + pieces).digest()
                keys[row] = digest[:_KEY_BYTES] if size else b""
                row += 1
    return whole.hexdigest(), keys


def _hash_start(path: str) -> tuple[bytes, int]:
    """Digest of the size and the first piece, and the size."""
    try:
        with open_regular(path) as file:
            data = os.pread(file.fileno(), _PIECE_BYTES, 0)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return hashlib.sha256(b"unreadable %d" % (error.errno or 0)).digest(), 0
    return hashlib.sha256(b"%d:" % size + data).digest(), size


def _hash_piece(path: str, start: int) -> bytes:
    try:
        with open_regular(path) as file:
            return hashlib.sha256(os.pread(file.fileno(), _PIECE_BYTES, start)).digest()
    except OSError as error:
        return hashlib.sha256(b"unreadable %d" % (error.errno or 0)).digest()


def _status(path: str) -> _Status | None:
    try:
        s = os.stat(path)
    except OSError:
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
