import json

import pytest
import timm
import torch

from ssl_vision.engine.checkpoint import list_checkpoints, load_state
from ssl_vision.engine.train import train


@pytest.mark.parametrize("method", ["barlow_twins", "mae", "dino"])
def test_run_leaves_an_export_that_plain_timm_loads_and_the_files_promised(recipe, method):
    config = recipe(method, "online_eval.every_epochs=1", "trainer.epochs=1")
    result = train(config)
    model = timm.create_model(f"local-dir:{result.export}", pretrained=True).eval()
    state = load_state(list_checkpoints(result.run_dir / "checkpoints")[-1])
    prefix = json.loads(
        (list_checkpoints(result.run_dir / "checkpoints")[-1].path / "backbone.json").read_text()
    )["prefix"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state["state_dict"][prefix + name]), name
    assert result.steps == 1497 // 256
    assert 0 < result.metrics["eval/knn_top1"] <= 1
    report = (result.run_dir / "report.html").read_text()
    assert "effective rank" in report
    assert "http" not in report.split("<h2>Machine")[0]  # self-contained
    assert json.loads((result.run_dir / "environment.json").read_text())["sessions"][0]["versions"]
