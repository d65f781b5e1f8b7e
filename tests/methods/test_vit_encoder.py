"""Which networks have patches to hide, and the fixed positions they get."""

import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.vit_encoder import check_patches_only, check_tokens, fix_positions
from ssl_vision.nn.patches import sincos_2d

SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}


def _vit(**args):
    config = BackboneConfig(name="vit_tiny_patch16_224", args={**SMALL, **args})
    return build_backbone(config, input_size=32)


@pytest.mark.parametrize(
    ("args", "num_prefix"),
    [({}, 1), ({"class_token": False, "global_pool": "avg"}, 0), ({"reg_tokens": 2}, 3),
     ({"reg_tokens": 2, "no_embed_class": True}, 0)],
)  # fmt: skip
def test_positions_are_fixed_behind_prefix_tokens(args, num_prefix):
    backbone = _vit(**args)
    fix_positions(backbone, method="x")
    positions = backbone.model.pos_embed
    assert not positions.requires_grad
    assert torch.equal(positions[0, num_prefix:], sincos_2d(24, grid=4))
    assert not positions[0, :num_prefix].any()


def test_rotary_positions_stay():
    backbone = build_backbone(BackboneConfig(name="rotary_vit_tiny", args=SMALL), input_size=32)
    fix_positions(backbone, method="x")
    assert backbone.model.pos_embed is None
    assert check_patches_only(backbone, method="x") == 8


def test_what_has_no_patches_to_hide_or_more_than_patches_is_told_by_the_methods_name():
    resnet = build_backbone(BackboneConfig(name="resnet10t"), input_size=32)
    with pytest.raises(ConfigError, match=r"method\.name=x hides patches.*resnet10t"):
        check_tokens(resnet, method="x")
    assert check_tokens(_vit(), method="x") == 8
    with pytest.raises(ConfigError, match=r"method\.name=x has no class token"):
        check_patches_only(_vit(), method="x")
    with pytest.raises(ConfigError, match=r"width 26 must be divisible by 4.*method\.name=x"):
        fix_positions(_vit(embed_dim=26, num_heads=2), method="x")
