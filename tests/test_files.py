import os
from pathlib import Path

import pytest

from ssl_vision.files import fsync_path, write_atomically


def test_files_and_folders_are_synced_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(os.fstat(number).st_ino))
    file = tmp_path / "file"
    file.write_text("x")
    fsync_path(file)
    fsync_path(tmp_path)
    assert synced == [file.stat().st_ino, tmp_path.stat().st_ino]


def test_content_is_synced_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    seen: list[tuple[bool, str]] = []

    def fsync(number: int) -> None:
        is_folder = os.fstat(number).st_ino == tmp_path.stat().st_ino
        seen.append((is_folder, file.read_text()))

    monkeypatch.setattr("os.fsync", fsync)
    write_atomically(file, "new")
    assert seen == [(False, "old"), (True, "new")]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
