"""Only a network's own settings reach timm's constructor."""

import json

import pytest
import timm

from ssl_vision.backbones.build import BackboneConfig, build_backbone, build_from_config, load_timm
from ssl_vision.backbones.settings import allowed_settings, check_model_args
from ssl_vision.errors import ConfigError

LOADERS = [
    *("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
    *("url", "file", "hf_hub_id", "custom_load", "pretrained_strict", "pretrained_filter_fn"),
    *("kwargs_filter", "feature_cfg", "model_cfg", "scriptable", "source", "state_dict"),
]


def test_no_network_of_timm_takes_a_setting_of_the_loader() -> None:
    for name in timm.list_models():
        assert not allowed_settings(name) & set(LOADERS), name


@pytest.mark.parametrize("setting", LOADERS)
def test_every_door_refuses_a_setting_of_the_loader(setting) -> None:
    name, args = "vit_tiny_patch16_224", {setting: "x"}
    with pytest.raises(ConfigError, match=setting):
        build_backbone(BackboneConfig(name=name, args=args), input_size=32)
    with pytest.raises(ConfigError, match=setting):
        build_from_config({"architecture": name, "model_args": args})
    with pytest.raises(ConfigError, match=setting):
        load_timm(name, is_pretrained=False, args=args)


@pytest.mark.parametrize(
    "value",
    [
        "/tmp/x.pth",
        "https://x",
        "a b",
        1 << 17,
        float("nan"),
        float("inf"),
        [["a/b"]],
        10**400,
        -(10**400),
        json.loads("[" * 500 + "]" * 500),
    ],
)
def test_values_are_plain_and_bounded(value) -> None:
    with pytest.raises(ConfigError, match=r"model_args\.img_size"):
        check_model_args("vit_tiny_patch16_224", {"img_size": value}, key="model_args")


def test_a_name_with_a_line_end_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"a\\nb is not a setting") as caught:
        check_model_args("resnet18", {"a\nb": 1}, key="model_args")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("vit_tiny_patch16_224", "patch_size", 0),
        ("vit_tiny_patch16_224", "patch_size", [0, 7]),
        ("vit_tiny_patch16_224", "num_heads", 0),
        ("vit_tiny_patch16_224", "embed_dim", -96),
        ("vit_tiny_patch16_224", "img_size", 0),
        ("swin_tiny_patch4_window7_224", "patch_size", -4),
        ("eva02_tiny_patch14_224", "patch_size", 0),
        ("mixer_s16_224", "patch_size", 0),
        ("resnet18", "in_chans", 0),
        ("rotary_vit_small", "num_heads", 0),
    ],
)
def test_a_size_of_nothing_is_refused_by_its_name(name: str, setting: str, value: object) -> None:
    with pytest.raises(
        ConfigError, match=rf"backbone\.args\.{setting}=.* must be (1 or more|at least 1)"
    ):
        build_backbone(BackboneConfig(name=name, args={setting: value}), input_size=28)


def test_what_only_a_constructor_refuses_is_one_line() -> None:
    args = {"cardinality": 0}  # timm divides by it
    with pytest.raises(ConfigError, match=r"backbone\.args=.*cardinality.* do not fit resnet18"):
        build_backbone(BackboneConfig(name="resnet18", args=args), input_size=28)
