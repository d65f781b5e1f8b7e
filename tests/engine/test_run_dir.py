import json
import math
import os
import resource

import pytest

from ssl_vision.engine.run_dir import (
    RunFolder,
    describe_environment,
    git_state,
    lines_left_out,
    read_jsonl,
)
from ssl_vision.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open()
    yield run
    run.close()


def test_lines_after_the_resumed_step_and_a_torn_line_go(folder):
    for step in (1, 2, 3, 3):
        folder.append("metrics.jsonl", {"step": step, "loss": 0.1 * step})
    path = folder.path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 4, "lo')
    assert [r["step"] for r in read_jsonl(path)[0]] == [1, 2, 3, 3]
    folder.truncate("metrics.jsonl", step=3)
    assert path.read_text() == whole  # floats survive the round trip digit by digit
    folder.truncate("metrics.jsonl", step=2)
    assert [r["step"] for r in read_jsonl(path)[0]] == [1, 2]


def test_a_line_without_its_end_is_torn_even_if_it_is_json(folder):
    path = folder.path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert read_jsonl(path) == ([{"step": 1}], [2])


def test_damage_before_the_end_is_not_hidden(folder):
    path = folder.path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    records, damaged = read_jsonl(path)
    assert ([each["step"] for each in records], damaged) == ([1, 3], [2])
    assert "line 2 is no JSON record" in lines_left_out(damaged)
    assert "lines 1, 2, 3, 4, 5, 6, 7, 8 and 4 more" in lines_left_out(range(1, 13))


def test_values_that_json_lacks_become_null(folder):
    folder.append("metrics.jsonl", {"step": 1, "loss": math.nan, "other": math.inf})
    assert json.loads((folder.path / "metrics.jsonl").read_text())["loss"] is None


def test_two_runs_cannot_share_a_folder(folder):
    with pytest.raises(CheckpointError, match="in use by another run"):
        RunFolder(folder.path).open()
    folder.close()
    second = RunFolder(folder.path)
    second.open()
    second.close()


@pytest.mark.skipif(os.geteuid() != 0 and not os.path.exists("/proc"), reason="needs /proc")
def test_an_unwritable_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"run_dir=/proc/nothing.*cannot be written"):
        RunFolder(type(tmp_path)("/proc/nothing/run")).open()


def test_a_log_that_cannot_be_written_says_so(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl.*No space left.*intact"):
        folder.append("metrics.jsonl", {"step": 1})


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_short_write_is_noticed_and_leaves_whole_lines(folder, monkeypatch, room):
    folder.append("metrics.jsonl", {"step": 1, "loss": 0.5})
    path = folder.path / "metrics.jsonl"
    whole, write = path.read_text(), os.write
    line = '{"step": 2, "loss": 0.25, "more": "words"}\n'
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:room]))
    with pytest.raises(CheckpointError, match=rf"{room} of {len(line)} bytes were written"):
        folder.append("metrics.jsonl", {"step": 2, "loss": 0.25, "more": "words"})
    monkeypatch.undo()
    assert path.read_text() == whole
    folder.append("metrics.jsonl", {"step": 2, "loss": 0.25})
    assert [r["step"] for r in read_jsonl(path)[0]] == [1, 2]


def append_many(folder):
    for step in range(100):
        folder.append("metrics.jsonl", {"step": step})


def test_a_file_at_its_limit_keeps_whole_lines(folder):
    path = folder.path / "metrics.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written"):
            append_many(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text().endswith("}\n")
    assert [r["step"] for r in read_jsonl(path)[0]] == list(range(len(read_jsonl(path)[0])))
    assert len(read_jsonl(path)[0]) >= 7


def test_damaged_lines_of_every_kind_are_left_out_at_a_resume(folder):
    path = folder.path / "metrics.jsonl"
    bad = [b'{"st', b"\xff\xfe", b"[1]", b"3", b'{"step": "x"}', b"[" * 100_000, b""]
    path.write_bytes(b'{"step": 1}\n' + b"\n".join(bad) + b'\n{"step": 2}\n{"step": 3}')
    numbers = [*range(2, 2 + len(bad)), 3 + len(bad)]  # the last has no end
    assert read_jsonl(path)[1] == numbers
    assert folder.truncate("metrics.jsonl", step=9) == numbers
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert folder.truncate("absent.jsonl", step=9) == []


def test_environment_says_what_it_ran_on(tmp_path):
    found = describe_environment(world_size=2, device="cpu")
    assert found["versions"]["torch"]
    assert found["world_size"] == 2
    assert git_state(tmp_path) is None
    json.dumps(found)
