"""Files: read only where they are plain files of a bounded size, written whole or not at all."""

import errno
import io
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ssl_vision.errors import CheckpointError, ConfigError, SslVisionError

StrPath = str | os.PathLike[str]

MAX_IMAGE_BYTES = 1 << 30  # an image file
MAX_CLOUD_BYTES = 4 << 30  # a point cloud or mesh
MAX_TEXT_BYTES = 64 << 20  # settings, manifests, lists of names
MAX_LOG_BYTES = 2 << 30  # a run's log, lists of millions of names
_CHUNK_BYTES = 16 << 20


class UnfitFileError(OSError):
    """Something under a file's name that no reader should start on; `strerror` says what."""


def open_regular(
    path: StrPath, *, max_bytes: int | None = None, error: type[SslVisionError] | None = None
) -> BinaryIO:
    """Open a plain file to read, whatever a stranger put under its name; never waits.

    Args:
        path: Links are followed.
        max_bytes: Largest size that is accepted; None where a reader takes what it needs (maps).
        error: Raise this with the name and the reason instead of OSError.

    Raises:
        OSError: With the reason in `strerror`: missing, looped, a folder, a pipe, a device, a
            socket (`UnfitFileError`), or larger than `max_bytes` (`UnfitFileError`).
    """
    try:
        return os.fdopen(_open(path, max_bytes), "rb")
    except OSError as caught:
        raise _as(error, caught, path) from caught


def read_regular(
    path: StrPath, *, max_bytes: int, error: type[SslVisionError] | None = None
) -> bytes:
    """Content of a plain file; arguments and errors as of `open_regular`.

    A file that says it is small and is not (those of /proc, one that grows meanwhile) is refused
    at `max_bytes` too, and memory stays within twice of that.
    """
    try:
        descriptor = _open(path, max_bytes)
        try:
            return _read(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except OSError as caught:
        raise _as(error, caught, path) from caught


def read_text(
    path: StrPath, *, error: type[SslVisionError], max_bytes: int = MAX_TEXT_BYTES
) -> str:
    """Content of a UTF-8 text file, line ends as line feeds; a mark of byte order is left out.

    Raises:
        error: With name and reason, if it cannot be read or is not UTF-8.
    """
    try:
        return plain_text(path, max_bytes=max_bytes)
    except UnicodeDecodeError as caught:
        raise error(f"{shown(path)} is not UTF-8 text (byte {caught.start}).") from caught
    except OSError as caught:
        raise _as(error, caught, path) from caught


def plain_text(path: StrPath, *, max_bytes: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """As `read_text`, for callers that know what a failure means.

    Raises:
        OSError: As of `open_regular`.
        UnicodeDecodeError: It is not UTF-8, unless `errors` says otherwise.
    """
    text = read_regular(path, max_bytes=max_bytes).decode("utf-8-sig", errors)
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)


def read_json(
    path: StrPath, *, error: type[SslVisionError], max_bytes: int = MAX_TEXT_BYTES
) -> object:
    """Content of a JSON file; the caller checks its shape.

    Raises:
        error: With name and reason, if it cannot be read or is no JSON (nested too deeply,
            numbers of thousands of digits, keys that stand twice included).
    """
    text = read_text(path, error=error, max_bytes=max_bytes)
    try:
        content: object = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as caught:
        raise error(f"{shown(path)} is no usable JSON: it is nested too deeply.") from caught
    except ValueError as caught:
        raise error(f"{shown(path)} is no usable JSON: {caught}.") from caught
    return content


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; of two values under one name readers would take either."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return content


def shown(path: StrPath) -> str:
    """A name as one printable line: bytes that are no UTF-8, line ends and controls escaped."""
    text = os.fspath(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _open(path: StrPath, max_bytes: int | None) -> int:
    """Descriptor of a plain file. Non-blocking: opening a pipe without a writer would wait."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as caught:  # a zero byte in the name
        raise UnfitFileError(errno.EINVAL, str(caught), shown(path)) from caught
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no plain file")
            raise UnfitFileError(errno.EINVAL, f"it is {kind}, not a file", shown(path))
        if max_bytes is not None and status.st_size > max_bytes:
            raise _too_large(status.st_size, max_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def _read(descriptor: int, max_bytes: int) -> bytes:
    """All bytes up to the end; one byte more than the size is asked for, to meet the end."""
    size = os.fstat(descriptor).st_size
    data = os.read(descriptor, size + 1)
    if len(data) == size and size:
        return data
    parts, total = [data], len(data)
    while parts[-1] and total <= max_bytes:
        parts.append(os.read(descriptor, min(_CHUNK_BYTES, max_bytes + 1 - total)))
        total += len(parts[-1])
    if total > max_bytes:
        raise _too_large(total, max_bytes)
    return b"".join(parts)


def _too_large(size: int, max_bytes: int) -> UnfitFileError:
    text = f"it has {size:,} bytes, more than the {max_bytes:,} that are read of such a file"
    return UnfitFileError(errno.EFBIG, text)


def _as(error: type[SslVisionError] | None, caught: OSError, path: StrPath) -> Exception:
    if error is None:
        return caught
    return error(f"{shown(path)} cannot be read: {caught.strerror or caught}.")


def fsync_path(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut.

    A file must be closed or flushed: what Python still holds is not the system's to write.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file in one step: a sibling is written, synced and renamed over it.

    A sibling, because renaming across file systems copies, and a copy can be half done. A text
    is written as UTF-8; bytes of a file's name that are none stand in it escaped, as `shown` does.

    Raises:
        OSError: The folder cannot be written; the old file is untouched.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(data)
        fsync_path(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def check_report_folder(folder: Path, *, way_out: str = "another folder as out=") -> None:
    """Refuse a folder of a report that could not be made, before there is anything to report.

    Args:
        folder: Where something is to be written.
        way_out: What the user may give in its place.

    Raises:
        CheckpointError: A file is in its place or above it, or nothing may be written there.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "may not be written to" if there.is_dir() else "is a file"
        raise CheckpointError(f"{folder} cannot be written ({there} {reason}); give {way_out}.")


@contextmanager
def report_folder_made(folder: Path) -> Iterator[None]:
    """Make the folder of a report, which is then written inside.

    Raises:
        CheckpointError: The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}); give another folder as out=."
        ) from error


class Output(NamedTuple):
    """What a command leaves in the folder it is given, by which it knows its own again.

    Attributes:
        command: Its name.
        marks: Patterns of names of which one is always there.
        names: Patterns of all names it writes, those of `marks` among them.
    """

    command: str
    marks: tuple[str, ...]
    names: tuple[str, ...]


def check_output(path: StrPath, *, key: str, data: Iterable[str | None] = ()) -> None:
    """Refuse, before work is done, a place whose files would be lost or would become data.

    Args:
        path: Where something is to be written.
        key: What the user called it: a setting, or OUT.
        data: Paths (or names) of the data that are read.

    Raises:
        ConfigError: The name is no UTF-8, which the formats written there cannot hold, or the
            place is a folder of the data, or inside one.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{key}={shown(path)}: the name is not UTF-8 text; rename the folder, or give another."
        ) from error
    own = Path(path).expanduser().resolve()
    for each in data:
        folder = Path(each or "").expanduser()
        if each and folder.is_dir() and own.is_relative_to(folder.resolve()):
            raise ConfigError(
                f"{key}={path} is inside the data folder {each}, where its files would be taken "
                f"for data; give {key} a folder outside of it."
            )


def check_replaceable(folder: Path, output: Output, *, key: str = "OUT") -> str:
    """The one rule of output folders: new, empty, or left by the same command; else refused.

    Args:
        folder: Where something is to be written.
        output: What is going to be.
        key: What the user called the folder.

    Returns:
        A line that says that an earlier output is replaced; empty where there is none.

    Raises:
        ConfigError: The folder is a file, or holds something that the command did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{key}={folder} is a file; name a folder.")
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if not there:
        return ""
    foreign = [name for name in there if not any(fnmatch(name, each) for each in output.names)]
    if foreign or not any(fnmatch(name, mark) for name in there for mark in output.marks):
        what = f"{shown(foreign[0])!r}" if foreign else "files"
        raise ConfigError(
            f"{key}={folder} is not empty and holds {what}, which {output.command} did not write; "
            "name another folder, or empty this one."
        )
    return f"{folder}: the output of an earlier {output.command} is replaced."


def remove_stale(folder: Path, written: Collection[str], output: Output) -> None:
    """Remove what an earlier output left in a folder and this one did not write."""
    for entry in folder.iterdir():
        is_own = any(fnmatch(entry.name, each) for each in output.names)
        if is_own and entry.name not in written and entry.is_file():
            entry.unlink()


def cache_home() -> Path:
    """Folder of everything this package caches: weights, features, data sets by name."""
    if home := os.environ.get("SSL_VISION_HOME"):
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ssl_vision"


def shipped_folder(name: str) -> Path:
    """A folder of data shipped with the package: inside it, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
