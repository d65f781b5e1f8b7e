import json

import pytest
import timm
import torch

from ssl_vision.engine.checkpoint import list_checkpoints, load_state
from ssl_vision.engine.train import train
from tests.runs import bars_of


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
    assert bars_of(report)["majority class"] == ("10.00 %", 0.1)
    assert all(name in report for name in ("centred_rank", "knn_top1"))
    assert "http" not in report.split("<h2>Machine")[0]  # self-contained
    assert json.loads((result.run_dir / "environment.json").read_text())["sessions"][0]["versions"]


def test_layout_and_compilation_change_speed_only(recipe, monkeypatch):
    """Same losses in channels_last; blocks are compiled in place, under their own names."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    plain = train(recipe("mae", "trainer.max_steps=3", run="plain"))
    fast = train(
        recipe(
            "mae",
            "trainer.max_steps=3",
            "trainer.channels_last=true",
            "trainer.compile=true",
            run="fast",
        )
    )
    assert plain.metrics["train/loss"] == pytest.approx(fast.metrics["train/loss"], rel=1e-5)
    names = [
        set(load_state(list_checkpoints(r.run_dir / "checkpoints")[-1])["state_dict"])
        for r in (plain, fast)
    ]
    assert names[0] == names[1]
    assert len([m for m in compiled if hasattr(m, "attn")]) == 3  # two of encoder, one of decoder
