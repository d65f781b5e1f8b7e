"""Files that are either the old or the new one, whenever the writer dies."""

import os
from pathlib import Path


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

    A sibling, because renaming across file systems copies, and a copy can be half done.

    Raises:
        OSError: The folder cannot be written; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(data)
        fsync_path(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)
