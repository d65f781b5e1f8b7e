"""Folders: what counts as an image, what as a class, and what the fingerprint sees."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.folder import FolderSource, list_images
from ssl_vision.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_class_folders_give_labels_in_sorted_order(tmp_path) -> None:
    source = FolderSource(touch(tmp_path, "b/1.jpg", "a/2.PNG", "a/deep/3.webp", "b/notes.txt"))
    assert source.paths == ["a/2.PNG", "a/deep/3.webp", "b/1.jpg"]
    assert source.class_names == ["a", "b"]
    assert source.labels.tolist() == [0, 0, 1]
    assert source.name(2) == str(tmp_path / "b/1.jpg")


@pytest.mark.parametrize(
    "names", [("1.jpg", "2.jpg"), ("1.jpg", "a/2.jpg", "b/3.jpg"), ("a/1.jpg", "a/2.jpg")]
)
def test_without_class_folders_there_are_no_labels(tmp_path, names) -> None:
    source = FolderSource(touch(tmp_path, *names))
    assert source.labels is None
    assert source.class_names == []


def test_hidden_files_are_skipped_and_links_followed_once(tmp_path) -> None:
    root = touch(tmp_path / "root", "a/1.jpg", ".cache/2.jpg", "a/._3.jpg")
    other = touch(tmp_path / "other", "4.jpg")
    (root / "b").symlink_to(other)
    (root / "a" / "loop").symlink_to(root)
    assert list_images(root) == ["a/1.jpg", "b/4.jpg"]


def test_a_folder_without_images_says_what_it_looked_for(tmp_path) -> None:
    with pytest.raises(DataError, match=r"holds no image files.*\.jpg"):
        FolderSource(touch(tmp_path, "notes.txt"))


def test_the_fingerprint_sees_names_and_sizes(tmp_path) -> None:
    root = touch(tmp_path, "a/1.jpg", "b/2.jpg")
    before = FolderSource(root).fingerprint()
    assert FolderSource(root).fingerprint() == before
    (root / "b/2.jpg").write_bytes(b"longer")
    changed = FolderSource(root).fingerprint()
    touch(root, "b/3.jpg")
    assert len({before, changed, FolderSource(root).fingerprint()}) == 3


def test_a_file_that_vanished_is_named(tmp_path) -> None:
    source = FolderSource(touch(tmp_path, "1.jpg", "2.jpg"))
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(DataError, match="No such file"):
        source.sample(0, Decoder())


def test_splits_are_entered_by_name(tmp_path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg")
    train, val = (build_source(str(tmp_path), split=split) for split in ("train", "val"))
    assert isinstance(train, FolderSource)
    assert isinstance(val, FolderSource)
    assert train.paths == ["a/1.jpg", "b/2.jpg"]
    assert val.paths == ["a/3.jpg", "b/4.jpg"]


def test_a_missing_split_and_a_strange_file_are_refused(tmp_path) -> None:
    root = touch(tmp_path, "1.jpg", "data.zip")
    with pytest.raises(DataError, match="no folder 'val'"):
        build_source(str(root), split="val")
    with pytest.raises(DataError, match=r"neither a folder of images nor a \.beton"):
        build_source(str(root / "data.zip"))


def test_links_give_one_data_set_however_it_is_named(tmp_path, monkeypatch) -> None:
    root = touch(tmp_path / "root", "b/1.jpg", "b/deep/2.jpg", "c/3.jpg")
    for name, target in (("a", "b"), ("z", "b/deep"), ("c/up", "..")):
        (root / name).symlink_to(root / target if name != "c/up" else root)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for name in (root, "root", "./root/", "root/../root", "link", "root/a/../../root"):
        source = FolderSource(name)
        assert source.paths == ["b/1.jpg", "b/deep/2.jpg", "c/3.jpg"]
        assert [("a is a link" in note, "z is a link" in note) for note in source.notes] == [
            (True, False),
            (False, True),
        ]


def test_names_that_are_no_utf8_or_hold_line_ends_are_read_and_fingerprinted(tmp_path):
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.save(tmp_path / "a.png")
    for name in (b"caf\xe9.png", b"two\nlines.png", "漢.png".encode()):
        shutil.copy(tmp_path / "a.png", os.fsencode(tmp_path) + b"/" + name)
    source = FolderSource(tmp_path)
    assert len(source) == 4
    assert all(source.sample(i, Decoder())[0, 0].tolist() == [1, 2, 3] for i in range(4))
    before = source.fingerprint()
    os.rename(os.fsencode(tmp_path) + b"/caf\xe9.png", os.fsencode(tmp_path) + b"/caf\xe8.png")
    assert FolderSource(tmp_path).fingerprint() != before


def test_what_is_no_plain_file_is_a_line_each_and_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(50 << 30)
    source = FolderSource(tmp_path)
    words = {"pipe": "named pipe", "zero": "device", "loop": "symbolic", "sparse": "53,687,091,200"}
    assert len(source) == len(words)
    for index in range(len(source)):
        stem = Path(source.name(index)).stem
        with pytest.raises(DataError, match=words[stem]) as caught:
            source.sample(index, Decoder())
        assert "\n" not in str(caught.value)
