"""A run whose checkpoints are all damaged is not begun anew over itself."""

from collections.abc import Callable

import pytest

from ssl_vision.config import TrainConfig
from ssl_vision.engine.train import train
from ssl_vision.errors import CheckpointError


def test_all_checkpoints_damaged_are_refused_and_nothing_is_touched(
    recipe: Callable[..., TrainConfig],
) -> None:
    settings = ("trainer.max_steps=2", "trainer.checkpoint_every_steps=1")
    train(recipe("mae", *settings))
    config = recipe("mae", "trainer.max_steps=3", "trainer.checkpoint_every_steps=1")
    states = sorted((config.run_path / "checkpoints").glob("step_*/state.pt"))
    assert states
    for path in states:
        path.write_bytes(path.read_bytes()[:-9])
    metrics = (config.run_path / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"none of them can be read; resume=never"):
        train(config)
    assert sorted((config.run_path / "checkpoints").glob("step_*/state.pt")) == states
    assert (config.run_path / "metrics.jsonl").read_bytes() == metrics
