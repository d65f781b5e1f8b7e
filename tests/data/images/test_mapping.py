"""A mapped file that others cut short: the reader lives on, and is told."""

import ctypes
import os
from pathlib import Path

import pytest

from ssl_vision.data.images.mapping import guarded_map


def test_pages_that_are_gone_read_as_zeros_and_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 40_000)
    with path.open("rb") as file:
        pages = guarded_map(file.fileno(), 40_000)
        if pages is None:
            pytest.skip("maps are not guarded on this system")
        other = guarded_map(file.fileno(), 4000)
        assert other is not None
        assert ctypes.string_at(pages.address, 40_000) == b"x" * 40_000
        assert pages.is_intact()
        os.truncate(path, 8192)
        assert ctypes.string_at(pages.address + 20_000, 8) == bytes(8)
        assert ctypes.string_at(pages.address, 8192) == b"x" * 8192
        os.truncate(path, 40_000)  # whole again; what was read in between stays void
        assert not pages.is_intact()
        assert other.is_intact()
