"""Fine-tuning: groups and rates as published, frozen parts frozen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.point_vit import PointViT
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.points_classification import PointClassifier
from ssl_vision.evaluation.points_training import (
    TuningConfig,
    parameter_groups,
    tune_points,
    with_class_token,
)
from ssl_vision.types import Batch
from ssl_vision.zoo.convert_points import rename_encoder
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.weights import resolve_weights

SIZES = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_groups": 16, "group_size": 8,
         "patch_hidden": 512}  # fmt: skip


def make() -> PointViT:
    backbone = build_backbone(BackboneConfig(name="point_vit_small", args=SIZES), input_size=96)
    assert isinstance(backbone, PointViT)
    return backbone


def test_class_token_is_added_to_the_same_weights() -> None:
    backbone = make()
    network = with_class_token(backbone)
    assert network.cls_token is not None
    assert network.pool == "cls_max"
    own = backbone.model.state_dict()
    assert all(torch.equal(network.state_dict()[name], value) for name, value in own.items())


def test_decayed_parameters_are_the_authors(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    values = golden("point_downstream")
    model = PointClassifier(with_class_token(make()), 7, head="full")
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, weight_decay=0.05)
    for group, key in zip(groups, ("opt_decay", "opt_no_decay"), strict=True):
        official = set()
        for name in values[key].tolist():
            is_head = name.startswith("cls_head_finetune.")
            official.add(
                name.replace("cls_head_finetune.", "head.")
                if is_head
                else f"network.{rename_encoder(name)}"
            )
        assert {names[id(p)] for p in group["params"]} == official  # type: ignore[attr-defined]


def test_tuning_warms_up_clips_and_ends_low() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batch = Batch(views={}, index=torch.arange(1))
    weights = []

    def loss_of(_: Batch) -> torch.Tensor:
        weights.append(model.weight.item())
        return 1e6 * model.weight.sum()

    config = TuningConfig(epochs=6, lr=0.1, warmup_epochs=10, weight_decay=0.0)
    tune_points(
        model, lambda epoch: [batch, batch], loss_of, config=config, steps_per_epoch=2, seed=0
    )
    steps = -np.diff([*weights, model.weight.item()])
    # Adam's step is the rate: a third of the run rises, then it falls to nearly nothing.
    assert steps[0] < 1e-4
    assert np.argmax(steps) == 4
    assert steps.max() == pytest.approx(0.1, rel=1e-3)
    assert steps[-1] < 0.01


def test_unusable_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="epochs=0"):
        TuningConfig(epochs=0)
    with pytest.raises(ConfigError, match="lr=0"):
        TuningConfig(lr=0)


def test_stochastic_depth_and_patches_of_tuning_outlive_export_and_load(tmp_path: Path) -> None:
    """Pre-training's rate is not exported; tuning brings the published one, and 128 patches."""
    config = BackboneConfig(name="point_vit_small", args=SIZES, drop_path=0.3)
    trained = build_backbone(config, input_size=96)
    export_backbone(
        trained, tmp_path / "export",
        mean=[0.0] * 3, std=[1.0] * 3, interpolation="bicubic", size_px=96,
    )  # fmt: skip
    loaded = resolve_weights(tmp_path / "export").backbone
    assert isinstance(loaded, PointViT)
    tuned = with_class_token(loaded, drop_path=TuningConfig().drop_path, num_groups=24)
    rates = [
        [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
        for network in (loaded.model, tuned)
    ]
    assert rates[0] == [0.0] * 3
    assert rates[1] == pytest.approx([0.0, 0.05, 0.1])  # linear over the blocks, to 0.1
    assert tuned.group(torch.randn(2, 96, 3)).centers.shape == (2, 24, 3)
    state = trained.model.state_dict()
    assert all(torch.equal(tuned.state_dict()[name], value) for name, value in state.items())


def test_unusable_rates_are_named() -> None:
    with pytest.raises(ConfigError, match=r"drop_path=1\.0"):
        TuningConfig(drop_path=1.0)
