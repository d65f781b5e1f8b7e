import pytest
import timm
import torch
from torch import nn

from ssl_vision.backbones import elastic
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.elastic_grid import Size
from ssl_vision.backbones.elastic_stock import stock_name


def build(name: str, **args: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name=name, args=dict(args)), input_size=224).eval()


@pytest.mark.parametrize(
    ("parent_name", "args", "names"),
    [
        (
            "vit_small_patch16_224",
            {},
            {(192, 12): "vit_tiny_patch16_224", (384, 12): "vit_small_patch16_224"},
        ),
        ("swin_small_patch4_window7_224", {}, {(96, 6): "swin_tiny_patch4_window7_224"}),
        ("resnet101", {"norm_layer": "groupnorm"}, {(64, 4, 6): "resnet50_gn"}),
    ],
)
def test_stock_sizes_load_into_the_stock_model(
    parent_name: str, args: dict[str, object], names: dict[Size, str]
) -> None:
    parent = build(parent_name, **args)
    image = torch.randn(1, 3, 224, 224)
    for size, name in names.items():
        small = elastic.extract(parent, size)
        assert small.architecture == name
        stock = timm.create_model(name, num_classes=0).eval()  # nothing but the name
        stock.load_state_dict(small.model.state_dict())
        with torch.no_grad():
            features = elastic.forward(parent, image, size)
            assert (stock(image) - features.pooled).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("parent_name", "size", "name"),
    [
        ("vit_large_patch16_224", (768, 12), "vit_base_patch16_224"),
        ("vit_large_patch16_224", (1024, 24), "vit_large_patch16_224"),
        ("swin_base_patch4_window7_224", (96, 18), "swin_small_patch4_window7_224"),
        ("convnext_base", (96, 9), "convnext_tiny"),
        ("convnext_base", (96, 27), "convnext_small"),
    ],
)
def test_large_stock_sizes_have_their_names(parent_name: str, size: Size, name: str) -> None:
    with torch.device("meta"):
        small = elastic.skeleton_of(build(parent_name), size)
    assert stock_name(small.model, small.architecture, small.model_args)[0] == name


def test_other_sizes_keep_the_parents_name_and_say_their_arguments() -> None:
    parent = build("vit_tiny_patch16_224", depth=4)
    small = elastic.extract(parent, (128, 3))
    assert small.architecture == "vit_tiny_patch16_224"
    assert small.model_args["embed_dim"] == 128
    again = timm.create_model(small.architecture, num_classes=0, **small.model_args)
    again.load_state_dict(small.model.state_dict())


def test_settings_that_hold_no_parameters_decide_too() -> None:
    quick = timm.create_model("vit_small_patch16_224", num_classes=0, act_layer="quick_gelu")
    assert stock_name(quick, "vit_x", {"a": 1}) == ("vit_x", {"a": 1})
    plain = timm.create_model("vit_small_patch16_224", num_classes=0)
    assert stock_name(plain, "vit_x", {"a": 1}) == ("vit_small_patch16_224", {})


def test_folding_layer_scale_keeps_the_function_and_gives_a_stock_model() -> None:
    parent = build("vit_base_patch16_224", init_values=1e-5, depth=13)
    with torch.no_grad():
        for name, parameter in parent.named_parameters():
            if "gamma" in name:
                nn.init.normal_(parameter, std=0.5)
    image = torch.randn(1, 3, 224, 224)
    plain = elastic.extract(parent, (192, 12))
    folded = elastic.extract(parent, (192, 12), is_scale_folded=True)
    assert plain.architecture == "vit_base_patch16_224"
    assert folded.architecture == "vit_tiny_patch16_224"
    assert "init_values" not in folded.model_args
    with torch.no_grad():
        expected, found = plain(image).pooled, folded(image).pooled
    assert torch.allclose(expected, found, atol=1e-5)
    assert not any("gamma" in name for name, _ in folded.named_parameters())
