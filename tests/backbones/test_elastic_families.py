import pytest
import timm
import torch

from ssl_vision.backbones.elastic_families import extent_of, family_of, packed_groups
from ssl_vision.backbones.elastic_grid import ElasticConfig
from ssl_vision.errors import ConfigError

# Parents at the paper's scale, without storage.
PAPER = [
    ("vit_large_patch16_224", {"init_values": 1e-5}, 143, (384, 12), (1024, 24)),
    ("swin_base_patch4_window7_224", {"num_heads": (8, 16, 32, 64)}, 39, (96, 6), (128, 18)),
    (
        "resnet152",
        {"base_width": 128, "norm_layer": "groupnorm"},
        465,
        (64, 4, 6),
        (128, 8, 36),
    ),
    ("convnext_base", {}, 57, (96, 9), (128, 27)),
]


def on_meta(name: str, **args: object) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0, **args)


@pytest.mark.parametrize(("name", "args", "count", "smallest", "largest"), PAPER)
def test_parents_of_the_papers_scale_have_the_papers_grid_by_default(
    name: str, args: dict, count: int, smallest: tuple, largest: tuple
) -> None:
    extent = extent_of(on_meta(name, **args), ElasticConfig())
    assert (extent.min_size, extent.max_size) == (smallest, largest)
    assert len(extent.sizes) == count


def test_stock_swin_heads_leave_two_widths() -> None:
    extent = extent_of(on_meta("swin_base_patch4_window7_224"), ElasticConfig())
    assert extent.widths == [96, 128]  # heads of 32 channels: 112 is not a multiple


def test_a_config_overrides_each_default() -> None:
    config = ElasticConfig(min_width=64, width_step=64, min_depth=(2,), depth_step=5)
    extent = extent_of(on_meta("vit_tiny_patch16_224"), config)
    assert extent.widths == [64, 128, 192]
    assert extent.depths == [(2,), (7,), (12,)]


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("efficientnet_b0", ElasticConfig(), "no elastic rules for EfficientNet"),
        ("resnet50", ElasticConfig(), "backbone.args.norm_layer=groupnorm"),
        ("vit_tiny_patch16_224", ElasticConfig(min_width=100), "min_width=100 must be a multiple"),
        ("vit_tiny_patch16_224", ElasticConfig(width_step=10), "width_step=10 must be a multiple"),
        ("vit_tiny_patch16_224", ElasticConfig(min_depth=(2, 2)), "this network has 1"),
        ("vit_tiny_patch16_224", ElasticConfig(min_depth=(13,)), "exceeds the network itself"),
    ],
)
def test_what_does_not_fit_is_explained(name: str, config: ElasticConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        extent_of(on_meta(name), config)


def test_resnets_without_bottlenecks_are_refused() -> None:
    model = on_meta("resnet18", norm_layer="groupnorm")
    with pytest.raises(ConfigError, match="bottleneck"):
        extent_of(model, ElasticConfig())


def test_stacked_parameters_of_a_swin() -> None:
    model = on_meta("swin_tiny_patch4_window7_224")
    assert family_of(model).has_paired_blocks
    groups = packed_groups(model)
    assert groups["layers.1.downsample.reduction.weight"] == (1, 4)
    assert groups["layers.1.downsample.norm.bias"] == (0, 4)
    assert groups["layers.0.blocks.1.attn.qkv.bias"] == (0, 3)
    assert len(groups) == 3 * 3 + 12 * 2
