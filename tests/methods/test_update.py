"""A method in a hand-written loop: `Method.update` is what the engine does."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch

from ssl_vision.config import TrainConfig
from ssl_vision.engine.train import build_data, build_method, build_plan, train
from ssl_vision.methods.base import Method


def _by_hand(config: TrainConfig) -> Method:
    fabric = L.Fabric(accelerator="cpu", devices=1)
    data = build_data(config, fabric)
    plan = build_plan(config, data)
    method = build_method(config, plan).train()
    optimizer = method.make_optimizer()
    loader, accumulate = data.train_loader(), config.trainer.accumulate
    while method.step < config.trainer.max_steps:
        parts = []
        for batch in loader:
            parts.append(data.prepare(batch))
            if len(parts) == accumulate:
                method.update(parts if accumulate > 1 else parts[0], optimizer)
                parts = []
            if method.step == config.trainer.max_steps:
                break
    return method


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mae", ()),
        ("dino", ("method.patch_weight=1",)),  # teacher, masks and centre move
        ("barlow_twins", ("trainer.accumulate=2", "optim.clip_norm=0.1")),
    ],
)
def test_a_hand_written_loop_reaches_the_weights_of_the_engine(
    recipe: Callable[..., TrainConfig], tmp_path: Path, name: str, settings: tuple[str, ...]
) -> None:
    config = recipe(name, "trainer.max_steps=7", "trainer.sync_batch_norm=false", *settings)
    method = _by_hand(config)
    expected = train(config).backbone.model.state_dict()
    found = method.export_backbone().model.state_dict()
    assert method.step == 7
    assert all(torch.equal(found[key], value) for key, value in expected.items())
