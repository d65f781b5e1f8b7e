"""Pictures of clouds have a row per thing and leave the method alone."""

import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.engine.point_pictures import completion_png, draw_completion
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.point_mae import PointMae, PointMaeConfig
from ssl_vision.optim.recipe import OptimConfig


def make() -> PointMae:
    args = {"embed_dim": 24, "depth": 1, "num_heads": 3, "num_groups": 8, "group_size": 8}
    backbone = build_backbone(BackboneConfig(name="point_vit_tiny", args=args), input_size=0)
    return PointMae(
        PointMaeConfig(decoder_depth=1, decoder_heads=3), backbone, optim=OptimConfig(),
        plan=TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=2),
    )  # fmt: skip


def test_completions_have_three_rows_per_cloud() -> None:
    method = make().train()
    before = {n: v.clone() for n, v in method.state_dict().items()}
    image = draw_completion(method, torch.randn(2, 40, 3), num_angles=2, size_px=32)
    assert image.size == (90 + 2 * 32, 6 * 32 + 5 * 4)
    assert method.training
    assert all(torch.equal(method.state_dict()[n], v) for n, v in before.items())


def test_only_methods_of_clouds_have_completions() -> None:
    method = make()
    png = completion_png(method, {"cloud": torch.randn(3, 40, 3)})
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert completion_png(method, None) is None
