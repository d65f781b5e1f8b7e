import errno
import os
import socket
import time
from pathlib import Path

import pytest

from ssl_vision import files
from ssl_vision.config import load_train_config
from ssl_vision.data.images.torchvision_sets import data_root
from ssl_vision.engine.report import write_report
from ssl_vision.errors import CheckpointError, ConfigError, DataError, SslVisionError
from ssl_vision.evaluation.report import load_evaluation
from ssl_vision.evaluation.store import cache_folder
from ssl_vision.files import (
    Output,
    UnfitFileError,
    cache_home,
    check_output,
    check_replaceable,
    fsync_path,
    open_regular,
    read_json,
    read_regular,
    read_text,
    remove_stale,
    shown,
    write_atomically,
)
from ssl_vision.tasks.comparison import compare
from ssl_vision.tasks.image_index import ImageIndex


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


def test_a_plain_file_is_read_whole_through_links_and_up_to_the_limit(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "empty").touch()
    for name in ("a", "link"):
        assert read_regular(tmp_path / name, max_bytes=len(content)) == content
        with open_regular(tmp_path / name) as file:
            assert file.read() == content
    assert read_regular(tmp_path / "empty", max_bytes=0) == b""


def special_files(folder: Path) -> dict[str, str]:
    """Name -> word of the reason, of everything that is no plain file of at most 1,000 bytes."""
    os.mkfifo(folder / "pipe")
    (folder / "link to pipe").symlink_to("pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    with (folder / "sparse").open("wb") as file:
        file.truncate(50 << 30)
    (folder / "large").write_bytes(bytes(1001))
    return {
        "pipe": "named pipe", "link to pipe": "named pipe", "zero": "device", "loop": "symbolic",
        "dangling": "No such file", "folder": "folder", "socket": "(?i)socket|no such device",
        "sparse": "53,687,091,200 bytes", "large": "1,001 bytes.*1,000", "a\0b": "null byte",
    }  # fmt: skip


def test_whatever_is_no_plain_file_is_one_line_at_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 bytes
    began = time.monotonic()
    for name, words in special_files(Path()).items():
        for read in (
            lambda name, error: read_regular(name, max_bytes=1000, error=error),
            lambda name, error: open_regular(name, max_bytes=1000, error=error).close(),
            lambda name, error: read_text(name, max_bytes=1000, error=error),
        ):
            with pytest.raises(DataError, match=words) as caught:
                read(name, DataError)
            assert str(caught.value).startswith(f"{shown(name)} cannot be read: ")
            assert "\n" not in str(caught.value)
        with pytest.raises(OSError, match=words):
            read_regular(name, max_bytes=1000)
    assert time.monotonic() - began < 2


def test_a_file_that_hides_its_size_stops_at_the_limit() -> None:
    with pytest.raises(UnfitFileError, match="1,001 bytes"):  # /proc says 0 bytes
        read_regular("/proc/self/smaps", max_bytes=1000)
    whole = read_regular("/proc/self/limits", max_bytes=1 << 20)
    assert whole == Path("/proc/self/limits").read_bytes()


def test_a_file_that_grows_while_it_is_read_stops_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "a", os.read
    path.write_bytes(bytes(1000))

    def growing(descriptor: int, length: int) -> bytes:
        if path.stat().st_size < 2000:
            path.write_bytes(bytes(path.stat().st_size + 100))
        return read(descriptor, length)

    monkeypatch.setattr("os.read", growing)
    with pytest.raises(UnfitFileError):
        read_regular(path, max_bytes=1000)
    assert len(read_regular(path, max_bytes=1 << 20)) == path.stat().st_size == 2000


def test_descriptors_are_given_back_on_every_way_out(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for name in special_files(Path()):
        with pytest.raises(DataError):
            open_regular(name, max_bytes=1000, error=DataError)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no usable JSON"),
        (b"{'a': 1}", "no usable JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 10_000, "no usable JSON.*digits"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": "\x80"}', "not UTF-8.*byte 7"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
    ],
)
def test_json_of_any_shape_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_json(path, error=CheckpointError)


def test_text_has_one_kind_of_line_end_and_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes("\ufeffä\r\nb\rc\n".encode())
    assert read_text(path, error=DataError) == "ä\nb\nc\n"


def test_names_are_shown_as_one_printable_line() -> None:
    assert shown("plain ä 漢.png") == "plain ä 漢.png"
    assert shown("a\nb\x1b[31m") == r"a\nb\x1b[31m"
    assert shown(os.fsdecode(b"caf\xe9.png")) == r"caf\udce9.png"
    shown(os.fsdecode(b"caf\xe9")).encode()


def test_shipped_data_lies_inside_an_installed_package_and_beside_a_checkout(tmp_path, monkeypatch):
    package = tmp_path / "site" / "ssl_vision"
    (tmp_path / "site" / "model_zoo").mkdir(parents=True)  # in a checkout; or another package's
    package.mkdir()
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    assert files.shipped_folder("model_zoo") == tmp_path / "site" / "model_zoo"
    (package / "model_zoo").mkdir()
    assert files.shipped_folder("model_zoo") == package / "model_zoo"


def test_a_folder_that_cannot_be_written_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    with files.report_folder_made(tmp_path / "a/b") as nothing:
        assert nothing is None
        assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/inside"):
        with (
            pytest.raises(CheckpointError, match=r"cannot be written \(.+\); give another .* out="),
            files.report_folder_made(folder),
        ):
            pytest.fail("not reached")
    with (
        pytest.raises(CheckpointError, match=r"No space left on device"),
        files.report_folder_made(tmp_path / "a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


_OUTPUT = Output(command="embed", marks=("meta.json",), names=("meta.json", "*.npy"))


def test_output_folders_are_new_empty_or_left_by_the_same_command(tmp_path):
    assert check_replaceable(tmp_path / "new", _OUTPUT) == ""
    assert check_replaceable(tmp_path, _OUTPUT) == ""
    (tmp_path / "a.npy").touch()
    with pytest.raises(ConfigError, match="is not empty"):  # arrays of anybody's
        check_replaceable(tmp_path, _OUTPUT)
    (tmp_path / "meta.json").touch()
    assert "replaced" in check_replaceable(tmp_path, _OUTPUT)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"OUT=.*'thesis\.tex', which embed did not write"):
        check_replaceable(tmp_path, _OUTPUT)
    with pytest.raises(ConfigError, match="is a file"):
        check_replaceable(tmp_path / "a.npy", _OUTPUT)


def test_only_stale_files_of_the_output_are_removed(tmp_path):
    for name in ("old.npy", "new.npy", "meta.json", "notes.txt"):
        (tmp_path / name).touch()
    remove_stale(tmp_path, {"new.npy", "meta.json"}, _OUTPUT)
    assert {path.name for path in tmp_path.iterdir()} == {"new.npy", "meta.json", "notes.txt"}


def test_outputs_inside_the_data_are_refused_however_they_are_named(tmp_path, monkeypatch):
    data = tmp_path / "photos"
    (data / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    monkeypatch.chdir(data)
    for out in (data, data / "sub" / "x", tmp_path / "link" / "x", Path("x"), Path("sub/../y")):
        with pytest.raises(ConfigError, match=r"OUT=.* is inside the data folder"):
            check_output(out, key="OUT", data=[None, str(data)])
    check_output(tmp_path / "photos2", key="OUT", data=[str(data), "digits", None])
    check_output(Path("../x"), key="OUT", data=["."])


def test_one_home_of_all_caches(tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_VISION_DATA", raising=False)
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path))
    assert cache_home() == tmp_path
    assert (cache_folder(), data_root()) == (tmp_path / "features", tmp_path / "data")
    monkeypatch.setenv("SSL_VISION_DATA", str(tmp_path / "elsewhere"))
    assert data_root() == tmp_path / "elsewhere"


def test_a_report_that_could_not_be_written_is_refused_before(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "new", tmp_path / "new/deep"):
        files.check_report_folder(folder)
    assert not (tmp_path / "new").exists()
    for folder in (tmp_path / "file", tmp_path / "file/inside/deep"):
        with pytest.raises(CheckpointError, match=r"file is a file\); give another .* out="):
            files.check_report_folder(folder)


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: load_train_config([folder / "config.yaml"]),
        lambda folder: load_evaluation(folder / "config.yaml"),
        lambda folder: write_report(folder),
        lambda folder: ImageIndex.load(folder),
        lambda folder: compare(folder, folder),
    ],
    ids=["recipe", "results", "report", "index", "compare"],
)
def test_a_pipe_under_the_name_of_a_text_is_refused_at_once(tmp_path, read):
    for name in ("config.yaml", "index.json", "metrics.jsonl", "environment.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(SslVisionError):
        read(tmp_path)
