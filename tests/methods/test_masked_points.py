"""What masked point methods share: see test_point_mae and test_point_cmae for masks and losses."""

import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.masked_points import MaskedPoints
from ssl_vision.optim.recipe import OptimConfig

SIZES = {"embed_dim": 24, "depth": 1, "num_heads": 3, "num_groups": 8, "group_size": 8}


def make(name: str) -> MaskedPoints:
    backbone = build_backbone(BackboneConfig(name="point_vit_tiny", args=SIZES), input_size=0)
    entry = METHODS[name]
    method = entry.module(
        entry.config(decoder_depth=1, decoder_heads=3),  # type: ignore[call-arg]
        backbone,
        optim=OptimConfig(),
        plan=TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=2),
    )
    assert isinstance(method, MaskedPoints)
    return method.eval()


@pytest.mark.parametrize("name", ["point_mae", "point_cmae"])
def test_both_methods_take_clouds_and_complete_them(name: str) -> None:
    method = make(name)
    seen, predicted = method.reconstruct(torch.randn(3, 40, 3), seed=0)
    assert seen.shape == (3, 4 * 8, 3)
    assert predicted.shape == (3, 4 * 8, 3)
    assert predicted.isfinite().all()


@pytest.mark.parametrize("name", ["point_mae", "point_cmae"])
def test_their_picture_has_three_rows_per_cloud_and_leaves_the_method_alone(name: str) -> None:
    method = make(name).train()
    before = {n: v.clone() for n, v in method.state_dict().items()}
    picture = method.picture({"cloud": torch.randn(2, 40, 3)})
    assert picture.image.size == (90 + 6 * 160, 6 * 160 + 5 * 4)
    assert picture.title == "Completion"
    assert method.training
    assert all(torch.equal(method.state_dict()[n], v) for n, v in before.items())


def test_a_prefix_token_is_attended_to_and_dropped() -> None:
    method = make("point_mae")
    tokens, positions = torch.randn(2, 3, 8, 24)
    visible = torch.tensor([[0, 4, 5]] * 3)
    plain = method.encode_visible(tokens, positions, visible)
    prefix = (torch.randn(1, 1, 24), torch.randn(1, 1, 24))
    other = method.encode_visible(tokens, positions, visible, prefix=prefix)
    assert plain.shape == other.shape == (3, 3, 24)
    assert not torch.allclose(plain, other)


def test_the_exported_network_is_the_encoder_alone() -> None:
    method = make("point_cmae")
    exported = method.export_backbone()
    assert exported.modality == "clouds"
    assert exported(torch.randn(2, 40, 3)).pooled.shape == (2, 48)
    assert not any("decoder" in name for name, _ in exported.named_parameters())
