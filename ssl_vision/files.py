"""Files that are either the old or the new one, whenever the writer dies."""

import os
from pathlib import Path


def fsync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
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
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
