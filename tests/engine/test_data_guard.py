"""The data a run began with are recognised by content, without training waiting for it."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.source import Source
from ssl_vision.engine import data_guard
from ssl_vision.engine.checkpoint import list_checkpoints
from ssl_vision.engine.data_guard import KIND, DataGuard
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError


class Slow(Source):
    """A source whose files take until `ready` to read."""

    def __init__(self, content: str = "a", former: str = "former") -> None:
        self.content, self.former, self.ready = content, former, threading.Event()

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "x"

    def sample(self, index, decoder=None):
        raise NotImplementedError

    def fingerprint(self, *, num_threads=None):
        assert num_threads == 1
        assert self.ready.wait(30)
        return self.content

    def former_fingerprint(self):
        return self.former


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(data_guard, "_RESUME_WAIT_S", 0.05)
    monkeypatch.setattr(data_guard, "_STOP_WAIT_S", 0.05)


def guard_of(source: Source, policy="refuse") -> DataGuard:
    guard = DataGuard(source, policy=policy, path="photos")
    guard.start()
    return guard


def test_training_goes_on_while_files_are_read_and_the_first_checkpoint_waits():
    source = Slow()
    start = time.perf_counter()
    guard = guard_of(source)
    assert time.perf_counter() - start < 1
    threading.Timer(0.2, source.ready.set).start()
    assert guard.fingerprint() == f"{KIND}a"
    assert time.perf_counter() - start > 0.15
    assert guard.notes == []


def test_other_data_are_refused_at_once_where_that_is_quick():
    source = Slow("b")
    source.ready.set()
    with pytest.raises(
        ConfigError, match=r"photos holds other data .*content-1:b, was content-1:a"
    ):
        guard_of(source).expect(f"{KIND}a")


def test_other_data_are_refused_before_the_first_new_checkpoint_where_it_is_slow():
    source = Slow("b")
    guard = guard_of(source)
    guard.expect(f"{KIND}a")
    assert "compared with the run's by the next checkpoint" in guard.notes[0]
    source.ready.set()
    with pytest.raises(ConfigError, match="holds other data"):
        guard.fingerprint()


def test_a_signal_does_not_wait_and_the_comparison_is_not_lost():
    source = Slow("b")
    guard = guard_of(source)
    guard.expect(f"{KIND}a")
    assert guard.fingerprint(is_urgent=True) == f"{KIND}a"  # what the run has said so far
    source.ready.set()
    with pytest.raises(ConfigError, match="holds other data"):
        guard.fingerprint()
    assert guard_of(Slow()).fingerprint(is_urgent=True) == ""


def test_allowed_changes_are_said_and_are_the_new_state():
    source = Slow("b")
    source.ready.set()
    guard = guard_of(source, "allow")
    guard.expect(f"{KIND}a")
    assert guard.notes == ["data.path=photos holds other data than the run began with."]
    assert guard.fingerprint() == f"{KIND}b"


def test_runs_of_the_former_rule_are_compared_by_it_and_saved_by_the_new_one():
    source = Slow("a", former="0123456789abcdef")
    guard = guard_of(source)
    guard.expect("0123456789abcdef")
    assert "names and sizes" in guard.notes[0]
    source.ready.set()
    assert guard.fingerprint() == f"{KIND}a"
    with pytest.raises(ConfigError, match="holds other data"):
        guard_of(source).expect("fedcba9876543210")


def test_kinds_to_come_and_unknown_data_are_said_and_not_refused():
    guard = guard_of(Slow())
    guard.expect("content-9:a")
    guard.expect("")
    assert len(guard.notes) == 2


def test_a_failure_of_reading_reaches_the_checkpoint():
    class Broken(Slow):
        def fingerprint(self, *, num_threads=None):
            raise MemoryError("too many names")

    with pytest.raises(MemoryError, match="too many"):
        guard_of(Broken()).fingerprint()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for row in range(16):
        path = tmp_path / "photos" / "ab"[row % 2] / f"{row}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def small(recipe, photos: Path, *more: str):
    return recipe("mae", f"data.path={photos}", "data.global_batch_size=8", *more)


def test_a_picture_changed_in_place_is_seen_at_a_resume(recipe, photos, monkeypatch):
    monkeypatch.setattr(data_guard, "_RESUME_WAIT_S", 30)
    config = small(recipe, photos, "trainer.max_steps=1")
    train(config)
    picture = photos / "a" / "0.bmp"
    data = bytearray(picture.read_bytes())
    data[-1] ^= 1
    picture.write_bytes(data)  # the same name and size
    with pytest.raises(ConfigError, match=r"holds other data.*on_data_change=allow"):
        train(small(recipe, photos, "trainer.max_steps=2"))
    data[-1] ^= 1
    picture.write_bytes(data)
    assert train(small(recipe, photos, "trainer.max_steps=2")).steps == 2


def test_a_run_saved_by_the_former_rule_goes_on_and_is_checked_by_content_after(
    recipe, photos, monkeypatch, capsys
):
    monkeypatch.setattr(data_guard, "_RESUME_WAIT_S", 30)
    former = FolderSource(photos).former_fingerprint()
    assert ":" not in former
    monkeypatch.setattr(DataGuard, "fingerprint", lambda self, *, is_urgent=False: former)
    config = small(recipe, photos, "trainer.max_steps=1")
    train(config)
    monkeypatch.undo()
    capsys.readouterr()
    assert train(small(recipe, photos, "trainer.max_steps=2")).steps == 2
    assert "names and sizes" in capsys.readouterr().out
    newest = list_checkpoints(config.run_path / "checkpoints")[-1].path
    saved = torch.load(newest / "state.pt", weights_only=True)["data_fingerprint"]
    assert saved.startswith(KIND)
