"""A run in a thread: looked at, stopped, gone on with, and its failures where someone waits."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_vision
from ssl_vision.engine.live import LiveRun
from ssl_vision.errors import ConfigError
from tests.runs import write_recipe

_SETTINGS = {
    "data.global_batch_size": 16,
    "trainer.epochs": 4,
    "trainer.log_every_steps": 1,
    "optim.warmup_epochs": 0,
    "online_eval.every_epochs": 0,
}


@pytest.fixture
def start(tmp_path: Path) -> Any:
    images = np.random.default_rng(0).integers(0, 256, (64, 20, 20, 3), dtype=np.uint8)
    recipe = write_recipe(tmp_path / "recipe.yaml", "dino")

    def start(name: str, **given: Any) -> LiveRun:
        given = {"data": images} | _SETTINGS | given
        return ssl_vision.start(recipe, run_dir=tmp_path / name, **given)

    return start


def test_a_run_is_looked_at_stopped_and_goes_on_to_the_same_weights(start: Any) -> None:
    whole = start("whole").wait().load_backbone().state_dict()
    may_go = threading.Event()
    run = start("parts", callbacks=ssl_vision.Callbacks(on_update=lambda p: may_go.wait(60)))
    while run.step < 1:
        time.sleep(0.01)
    assert run.state == "running"
    assert set(run.metrics) >= {"train/loss", "epoch"}
    assert "running, update 1 of 16, epoch 0.2, loss " in repr(run)
    assert '<progress value="1" max="16">' in run._repr_html_()
    with pytest.raises(TimeoutError, match="update 1 of 16"):
        run.wait(0.01)
    run.stop(timeout_s=0.01)  # the update under way waits for the callback
    assert run.state == "stopping"
    may_go.set()
    run.stop()
    assert (run.state, run.step) == ("stopped", 2)
    with pytest.raises(KeyboardInterrupt, match="after update 2"):
        run.wait()
    again = start("parts", resume="must")
    result = again.wait()
    assert (again.state, again.step, result.steps) == ("done", 16, 16)
    weights = result.load_backbone().state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.items())


def test_what_cannot_be_is_said_at_once_and_what_fails_later_by_wait(start: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.epoch: there is no such setting"):
        start("typo", **{"trainer.epoch": 3})

    def fail(progress: object) -> None:
        raise ZeroDivisionError("of the callback")

    run = start("failing", callbacks=ssl_vision.Callbacks(on_update=fail))
    with pytest.raises(ZeroDivisionError, match="of the callback"):
        run.wait()
    assert run.state == "failed"
    assert "failed, update 1 of 16" in repr(run)
    assert "(of the callback)" in repr(run)


def test_a_run_in_a_thread_prints_nothing_unless_asked(start: Any, capsys: Any) -> None:
    start("quiet").wait()
    assert capsys.readouterr().out == ""
    start("loud", is_quiet=False).wait()
    assert "trainable parameters" in capsys.readouterr().out
