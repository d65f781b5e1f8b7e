"""A digest of contents changes with the bytes, whatever sizes and times say."""

import hashlib
import os
import shutil
import struct
from pathlib import Path

import numpy as np

from ssl_vision.data.contents import FileContents, hash_files
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.source import SubsetSource


def test_other_bytes_of_the_same_size_and_time_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(b"x" * 100)
    contents = FileContents([str(path)])
    before, times = contents.digest(), path.stat()
    path.write_bytes(b"y" * 100)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert contents.digest() != before
    path.write_bytes(b"x" * 100)
    assert contents.digest() == before
    copy = Path(shutil.copy2(path, tmp_path / "b.bmp"))
    link = tmp_path / "c.bmp"
    link.symlink_to(copy)
    assert hash_files([str(copy)]) == hash_files([str(link)]) == before


def test_every_byte_of_a_large_file_and_the_order_count(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(bytes(40 << 20))
    other.write_bytes(b"1")
    found = {hash_files([str(path), str(other)]), hash_files([str(other), str(path)])}
    for place in (0, (16 << 20) - 1, 16 << 20, (40 << 20) - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"1")
        found.add(hash_files([str(path), str(other)]))
    assert len(found) == 6


def test_pipes_and_missing_files_count_as_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert hash_files([str(tmp_path / "pipe")]) != hash_files([str(tmp_path / "absent")])


def test_the_former_rule_is_that_of_saved_runs(tmp_path: Path) -> None:
    """Written out by hand: names, and sizes as 64-bit integers; the first 16 digits of SHA-256."""
    for name, size in (("a/x.png", 3), ("b/y.png", 500)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(size))
    parts = b"a/x.png\nb/y.png\0" + struct.pack("<2q", 3, 500) + b"\0"
    expected = hashlib.sha256(parts).hexdigest()[:16]
    whole = FolderSource(tmp_path)
    assert whole.former_fingerprint() == expected
    chosen = SubsetSource(whole, np.array([1]))
    parts = expected.encode() + b"\0" + struct.pack("<q", 1) + b"\0"
    assert chosen.former_fingerprint() == hashlib.sha256(parts).hexdigest()[:16]
    assert chosen.fingerprint() not in (whole.fingerprint(), chosen.former_fingerprint())


def test_keys_tell_contents_apart_and_leave_out_what_holds_nothing(tmp_path: Path) -> None:
    large = b"x" * ((16 << 20) + 5)
    contents = [b"a", b"b", b"", b"a", large, large[:-1] + b"y", large]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    files = FileContents([str(tmp_path / str(i)) for i in range(len(contents))] + ["/absent"])
    assert files.keys is None
    files.digest()
    assert files.keys is not None
    keys = files.keys.tolist()
    assert keys[2] == keys[-1] == b""
    assert keys[0] == keys[3]
    assert keys[4] == keys[6]
    assert len({*keys}) == 5  # a, b, nothing, and the two large ones
