"""Point transformers: timm's interface, features, masking, and what they promise of clouds."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone, build_from_config
from ssl_vision.backbones.point_vit import PointTransformer, PointViT, take_tokens
from ssl_vision.errors import ConfigError, DataError

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_groups": 6, "group_size": 8}


def make(**changes: object) -> PointViT:
    config = BackboneConfig(name="point_vit_tiny", args={**SIZES, **changes})
    backbone = build_backbone(config, input_size=224)
    assert isinstance(backbone, PointViT)
    return backbone.eval()


def test_timm_builds_the_network_by_name() -> None:
    model = timm.create_model("point_vit_tiny", num_classes=0).eval()
    assert model(torch.randn(2, 512, 3)).shape == (2, 192)
    small = timm.create_model("point_vit_small", num_classes=0)
    assert sum(p.numel() for p in small.parameters()) == 21_825_024  # the papers say 22 M


def test_exported_arguments_rebuild_the_same_network() -> None:
    backbone = make()
    again = build_from_config(
        {"architecture": backbone.architecture, "model_args": backbone.model_args}
    )
    again.model.load_state_dict(backbone.model.state_dict())
    points = torch.randn(2, 40, 3)
    assert torch.equal(again.eval()(points).pooled, backbone(points).pooled)


def test_features_are_maximum_and_mean_of_the_normed_tokens() -> None:
    backbone = make()
    features = backbone(torch.randn(2, 40, 3))
    assert features.patches is not None
    assert features.patches.shape == (2, 6, 24)
    assert features.pooled.shape == (2, backbone.width) == (2, 48)
    assert torch.equal(features.pooled[:, :24], features.patches.amax(dim=1))
    assert torch.equal(features.pooled[:, 24:], features.patches.mean(dim=1))


def test_class_token_comes_first_and_is_no_patch() -> None:
    backbone = make(class_token=True, pool="cls_max")
    points = torch.randn(2, 40, 3)
    tokens = backbone.model.forward_features(points)
    features = backbone(points)
    assert tokens.shape == (2, 7, 24)
    assert torch.equal(features.patches, tokens[:, 1:])
    assert torch.equal(features.pooled, torch.cat([tokens[:, 0], tokens[:, 1:].amax(1)], dim=1))


def test_empty_mask_and_all_kept_patches_equal_the_plain_forward() -> None:
    backbone = make()
    backbone.add_mask_token()
    points = torch.randn(2, 40, 3)
    plain = backbone(points)
    assert torch.equal(
        backbone(points, mask=torch.zeros(2, 6, dtype=torch.bool)).pooled, plain.pooled
    )
    everything = torch.arange(6).expand(2, -1)
    assert torch.allclose(
        backbone.forward_visible(points, keep=everything), plain.patches, atol=1e-6
    )


def test_hidden_patches_do_not_reach_visible_ones() -> None:
    backbone = make()
    keep = torch.tensor([[0, 2, 5]])
    points = torch.randn(1, 40, 3)
    tokens, positions = backbone.model.embed(backbone.model.group(points))
    expected = backbone.model.encode(take_tokens(tokens, keep), take_tokens(positions, keep))
    tokens[:, [1, 3, 4]] = torch.nan
    again = backbone.model.encode(take_tokens(tokens, keep), take_tokens(positions, keep))
    assert torch.equal(again, expected)
    assert torch.allclose(backbone.forward_visible(points, keep=keep), expected)


def test_order_of_points_does_not_matter_beyond_the_first() -> None:
    backbone = make()
    points = torch.randn(2, 40, 3)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(39)])
    assert torch.allclose(backbone(points[:, order]).pooled, backbone(points).pooled, atol=1e-5)


def test_duplicated_points_change_nothing_with_patches_of_all_points() -> None:
    # Patches count points, so duplicates shrink them unless a patch holds all points anyway.
    points = torch.randn(1, 8, 3)
    single = make(group_size=8, num_groups=8)
    double = make(group_size=16, num_groups=8)
    double.load_state_dict(single.state_dict())
    assert torch.allclose(double(points.repeat(1, 2, 1)).pooled, single(points).pooled, atol=1e-5)


def test_parameters_know_their_depth() -> None:
    backbone = make(class_token=True)
    ids = {name: backbone.layer_id(name) for name, _ in backbone.named_parameters()}
    assert ids["model.patch_embed.first_conv.0.weight"] == ids["model.cls_token"] == 0
    assert ids["model.blocks.0.norm1.weight"] == 1
    assert ids["model.blocks.1.norm1.weight"] == 2
    assert ids["model.norm.weight"] == backbone.num_layers == 3
    assert backbone.num_patches(123) == 6


def test_deeper_features_pass_the_same_norm() -> None:
    backbone = make(class_token=True)
    patches = backbone.model.group(torch.randn(2, 40, 3))
    embedded = backbone.model.embed(patches)
    last = backbone.model.encode_layers(*embedded, layers=(0, 1))[1]
    assert torch.allclose(last, backbone.model.encode(*embedded)[:, 1:])


def test_too_small_and_non_finite_clouds_are_refused() -> None:
    backbone = make()
    with pytest.raises(DataError, match="patches of 8"):
        backbone(torch.randn(2, 7, 3))
    with pytest.raises(DataError, match="NaN"):
        backbone(torch.full((1, 40, 3), torch.nan))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_heads": 5}, "does not divide"),
        ({"pool": "cls_max"}, "needs class_token"),
        ({"pool": "median"}, "max_mean or cls_max"),
        ({"depth": 0}, "at least 1"),
        ({"patch_size": 4}, "patch_size"),
        ({"in_chans": 6}, "in_chans is not a setting"),
    ],
)
def test_unusable_arguments_are_named(args: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**args)


def test_no_pretrained_weights_are_promised() -> None:
    with pytest.raises(ConfigError, match="no weights in timm"):
        timm.create_model("point_vit_tiny", pretrained=True, num_classes=0)


def test_exported_graph_gives_the_same_numbers() -> None:
    model = PointTransformer(**SIZES).eval()
    points = torch.randn(2, 40, 3)
    exported = torch.export.export(model, (points,)).module()
    assert torch.allclose(exported(points), model(points), atol=1e-5)


def test_tokens_equal_the_authors(
    golden: Callable[[str], dict[str, np.ndarray]], official_weights: Callable[..., object]
) -> None:
    values = golden("point")
    backbone = make(num_groups=16, patch_hidden=512, skips_near_origin=True)
    official_weights(backbone.model, [str(n) for n in values["pointmae_param_names"]])
    backbone.train()  # the values were computed with batch statistics
    model = backbone.model
    tokens, positions = model.embed(model.group(torch.from_numpy(values["pointmae_points"])))
    np.testing.assert_allclose(tokens.detach().numpy(), values["pointmae_patch_tokens"], atol=2e-5)
    mask = torch.from_numpy(values["pointmae_mask"])
    keep = (~mask).nonzero()[:, 1].view(2, -1)
    encoded = model.encode(take_tokens(tokens, keep), take_tokens(positions, keep))
    np.testing.assert_allclose(
        encoded.detach().numpy(), values["pointmae_visible_latent"], atol=2e-5
    )
