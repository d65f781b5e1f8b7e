import errno
import json
import os
import pickle
import random
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_vision.engine import checkpoint as store
from ssl_vision.engine.checkpoint import (
    CheckpointWriter,
    find_defect,
    list_checkpoints,
    load_state,
    newest_complete,
    remove_checkpoint,
    remove_temporaries,
    write_checkpoint,
)
from ssl_vision.errors import CheckpointError

NUM_KILLS = int(os.environ.get("SSL_VISION_NUM_KILLS", "5"))  # per file system


def state(value: float = 1.0, *, numel: int = 1000):
    return {"schema": 1, "step": int(value), "state_dict": {"w": torch.full((numel,), value)}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def silent(message: str) -> None:
    pass


def test_what_was_written_is_read_back_and_loads_without_pickle(folder):
    content = state(3.0) | {"nested": {"a": [1, (2.5, None, True)], "name": "x"}, "epoch": 4}
    written = write_checkpoint(folder, content, step=3, texts={"note.json": "{}"})
    assert find_defect(written) is None
    loaded = load_state(written)
    assert torch.equal(loaded["state_dict"]["w"], content["state_dict"]["w"])
    assert {k: v for k, v in loaded.items() if k != "state_dict"} == {
        k: v for k, v in content.items() if k != "state_dict"
    }
    assert (written.path / "note.json").read_text() == "{}"
    assert not list(folder.glob(".tmp*"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: (p / "state.pt").write_bytes((p / "state.pt").read_bytes()[:-7]),
        lambda p: _flip(p / "state.pt"),
        lambda p: (p / "state.pt").unlink(),
        lambda p: (p / "manifest.json").unlink(),
        lambda p: (p / "manifest.json").write_text("{"),
        lambda p: (p / "manifest.json").write_text("[]"),
        lambda p: shutil.copy(p.parent / "step_000001" / "manifest.json", p / "manifest.json"),
    ],
    ids=["truncated", "flipped bit", "no state", "no manifest", "torn", "other json", "foreign"],
)
def test_a_spoilt_checkpoint_is_passed_over_with_a_warning(folder, spoil):
    write_checkpoint(folder, state(1.0), step=1)
    spoil(write_checkpoint(folder, state(2.0), step=2).path)
    warnings = []
    found = newest_complete(folder, warn=warnings.append)
    assert found is not None
    assert found.step == 1
    assert "step_000002" in warnings[0]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _save_for_ever(folder: Path, started: Path) -> None:
    started.touch()
    for step in range(1, 10_000):
        write_checkpoint(folder, state(step, numel=2_000_000), step=step)
        for old in list_checkpoints(folder)[:-2]:
            remove_checkpoint(old)


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_killed_writers_leave_only_readable_checkpoints(tmp_path, place, monkeypatch):
    memory = Path("/dev/shm") / f"ssl-vision-test-{os.getpid()}"
    if place == "memory" and not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm")
    folder = (tmp_path if place == "disk" else memory) / "checkpoints"
    # The other file system is where a writer through $TMPDIR would put its temporary file.
    other = memory if place == "disk" else tmp_path
    other.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(other))
    rng = random.Random(0)
    try:
        for _ in range(NUM_KILLS):
            started = tmp_path / "started"
            started.unlink(missing_ok=True)
            pid = os.fork()
            if pid == 0:
                _save_for_ever(folder, started)
                os._exit(0)
            while not started.exists():
                time.sleep(0.001)
            time.sleep(0.02 + 0.15 * rng.random())
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for found in list_checkpoints(folder):
                assert find_defect(found) is None
                assert load_state(found)["step"] == found.step
            assert remove_temporaries(folder) <= 2  # one half written, one half removed
            assert not list(folder.glob(".tmp*"))
    finally:
        shutil.rmtree(memory, ignore_errors=True)


def test_one_write_at_a_time_in_order_of_weights_at_the_call(folder, monkeypatch):
    running, most = 0, 0
    lock, original = threading.Lock(), store.write_checkpoint

    def slow(*args, **kwargs):
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
        time.sleep(0.02)
        written = original(*args, **kwargs)
        with lock:
            running -= 1
        return written

    monkeypatch.setattr(store, "write_checkpoint", slow)
    writer = CheckpointWriter(folder, keep=2)
    for step in range(1, 6):
        writer.submit(state(step), step=step)
    writer.wait()
    assert most == 1
    assert [c.step for c in list_checkpoints(folder)] == [4, 5]


def test_a_spared_checkpoint_stays_beside_the_last_ones(folder):
    writer = CheckpointWriter(folder, keep=2)
    for step, spared in ((1, None), (2, 2), (3, 2), (4, 2), (5, 2), (6, 5), (7, 5), (8, 5)):
        writer.submit(state(step), step=step, spared=spared)
        writer.wait()
        kept = {1: [1], 2: [1, 2], 4: [2, 3, 4], 5: [2, 4, 5], 6: [5, 6], 8: [5, 7, 8]}
        if step in kept:
            assert [c.step for c in list_checkpoints(folder)] == kept[step]


def test_old_checkpoints_stay_until_the_new_one_is_complete(folder, monkeypatch):
    writer = CheckpointWriter(folder, keep=1)
    writer.submit(state(1), step=1)
    writer.wait()

    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_write_state", fail)
    writer.submit(state(2), step=2)
    with pytest.raises(CheckpointError, match=r"step_000002.*No space left.*needs 0\.0 MB.*free"):
        writer.wait()
    found = newest_complete(folder, warn=silent)
    assert found is not None
    assert found.step == 1
    writer.wait()  # an error is raised once


def test_too_little_space_is_noticed_before_writing(folder, monkeypatch):
    write_checkpoint(folder, state(1), step=1)
    monkeypatch.setattr(store, "_free_bytes", lambda path: 10_000)
    with pytest.raises(CheckpointError, match="not enough space on the disk"):
        write_checkpoint(folder, state(2), step=2)
    assert [c.step for c in list_checkpoints(folder)] == [1]


def test_a_full_disk_leaves_the_previous_checkpoint(folder):
    write_checkpoint(folder, state(1), step=1)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
        with pytest.raises(CheckpointError, match="step_000002"):
            write_checkpoint(folder, state(2, numel=1_000_000), step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert [c.step for c in list_checkpoints(folder)] == [1]
    assert not list(folder.glob(".tmp*"))


class _Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/ssl-vision-was-here",))


def test_code_in_a_checkpoint_is_refused_and_not_run(folder):
    written = write_checkpoint(folder, state(1), step=1)
    with (written.path / "state.pt").open("wb") as file:
        pickle.dump({"schema": 1, "x": _Evil()}, file)
    with pytest.raises(CheckpointError, match="refused"):
        load_state(written)
    torch.save({"schema": 1, "x": _Evil()}, written.path / "state.pt")
    with pytest.raises(CheckpointError, match=r"refused.*system"):
        load_state(written)
    assert not Path("/tmp/ssl-vision-was-here").exists()


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), Path("x"), {1, 2}, object()])
def test_what_weights_only_would_refuse_is_not_written(folder, value):
    with pytest.raises(CheckpointError, match=r"state\.a\[0\]"):
        write_checkpoint(folder, {"a": [value]}, step=1)
    assert not list_checkpoints(folder)


def test_states_of_older_schemas_are_migrated_and_newer_ones_refused(folder, monkeypatch):
    written = write_checkpoint(folder, {"schema": 1, "old_name": 5}, step=1)
    monkeypatch.setattr(store, "SCHEMA", 3)
    with pytest.raises(CheckpointError, match="schema 1 has no migration"):
        load_state(written)
    rename = {
        1: lambda s: {"schema": 2, "name": s["old_name"]},
        2: lambda s: {**s, "schema": 3, "name": s["name"] + 1},
    }
    monkeypatch.setattr(store, "MIGRATIONS", rename)
    assert load_state(written) == {"schema": 3, "name": 6}
    monkeypatch.setattr(store, "SCHEMA", 0)
    with pytest.raises(CheckpointError, match="newer version"):
        load_state(written)


def test_a_checkpoint_of_schema_1_still_loads():
    """A run of the first version, kept as a file of KBs."""
    folder = Path(__file__).parent / "fixtures" / "schema_1"
    (found,) = list_checkpoints(folder)
    assert find_defect(found) is None
    loaded = load_state(found)
    assert {"state_dict", "optimizer", "method", "loader", "config"} <= loaded.keys()
    assert json.loads((found.path / "backbone.json").read_text())["prefix"]
