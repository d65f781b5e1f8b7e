import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from ssl_vision.config import TrainConfig
from ssl_vision.engine.exporter import Exporter
from ssl_vision.engine.run import Run
from ssl_vision.engine.train import build_method
from ssl_vision.methods.base import Method, TrainPlan


@pytest.fixture
def method(recipe: Callable[..., TrainConfig]) -> Method:
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=8, input_size=16)
    return build_method(recipe("dino"), plan)


@pytest.fixture
def exporter(recipe: Callable[..., TrainConfig], method: Method) -> Exporter:
    run = SimpleNamespace(config=recipe("dino"), metrics={})
    return Exporter(cast(Run, run), method)


def test_the_copy_follows_training_only_when_it_is_refreshed(
    exporter: Exporter, method: Method
) -> None:
    trained = method.export_backbone()
    before = [value.clone() for value in exporter.backbone.state_dict().values()]
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    untouched = exporter.backbone.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, untouched, strict=True))
    refreshed = exporter.refresh(method).state_dict()
    assert all(torch.equal(refreshed[n], v) for n, v in trained.state_dict().items())


def test_a_checkpoint_says_where_in_its_state_the_exported_network_is(
    exporter: Exporter, method: Method
) -> None:
    text = exporter.describe(method)
    assert text is not None
    prefix = json.loads(text)["prefix"]
    state, exported = method.state_dict(), method.export_backbone().model.state_dict()
    found = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    assert found.keys() == exported.keys()
    assert all(torch.equal(found[name], exported[name]) for name in exported)
