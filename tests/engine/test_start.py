"""A start that fails before the first update leaves the run folder as it was, byte for byte."""

import os
from pathlib import Path

import pytest

from ssl_vision.engine.checkpoint import list_checkpoints
from ssl_vision.engine.online_eval import OnlineEval
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError, DataError


def snapshot(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file but the lock, folders with nothing in them included."""
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


@pytest.fixture
def fails_late(monkeypatch):
    """The first scores cannot be computed: after everything is built, before an update."""

    def start(self: OnlineEval, method: object) -> None:
        self._run.folder.append("metrics.jsonl", {"step": 0, "eval/x": 1.0})
        raise DataError("no scores")

    monkeypatch.setattr(OnlineEval, "start", start)


def test_a_start_on_bad_data_makes_no_folder(recipe, tmp_path):
    config = recipe("mae", f"run_dir={tmp_path}/new/deep/run", "data.path=nowhere")
    with pytest.raises(DataError):
        train(config)
    assert not (tmp_path / "new").exists()


def test_a_late_failure_makes_no_folder_either(recipe, tmp_path, fails_late):
    with pytest.raises(DataError, match="no scores"):
        train(recipe("mae", f"run_dir={tmp_path}/new/run"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_an_earlier_run_is_as_it_was(recipe, monkeypatch, resume, capfd):
    config = recipe("mae", "trainer.max_steps=2")
    train(config)
    (config.run_path / "notes.txt").write_text("mine")
    before = snapshot(config.run_path)
    broken = recipe("mae", "trainer.max_steps=4", f"resume={resume}")
    bad = recipe("mae", "trainer.max_steps=4", f"resume={resume}", "data.val_path=nowhere")
    with monkeypatch.context() as patch:
        patch.setattr(OnlineEval, "start", _raise)
        for _ in range(3):  # none of them stacks up
            with pytest.raises(DataError):
                train(broken)
            with pytest.raises(DataError):
                train(bad)
    assert snapshot(config.run_path) == before
    assert ("again" in capfd.readouterr().err) == (resume == "never")
    train(broken)
    assert [c.step for c in list_checkpoints(config.run_path / "checkpoints")][-1] == 4


def _raise(self: OnlineEval, method: object) -> None:
    raise DataError("no scores")


def test_a_failure_after_the_first_update_keeps_what_there_is(recipe, monkeypatch):
    config = recipe("mae", "trainer.max_steps=3")

    def after_update(self: OnlineEval, run: object, method: object, update: object) -> None:
        raise DataError("later")

    monkeypatch.setattr(OnlineEval, "after_update", after_update)
    with pytest.raises(DataError, match="later"):
        train(config)
    assert (config.run_path / "config.yaml").exists()


def test_names_that_are_no_utf8_and_folders_inside_the_data_are_refused(recipe, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")
    with pytest.raises(ConfigError, match=r"run_dir=.*\\udcff.*not UTF-8"):
        train(recipe("mae", f"run_dir={odd}"))
    data = tmp_path / "photos"
    data.mkdir()
    with pytest.raises(ConfigError, match=r"run_dir=.* is inside the data folder"):
        train(recipe("mae", f"run_dir={data}/runs/a", f"data.path={data}"))
    assert list(data.iterdir()) == []
    assert not Path(odd).exists()
