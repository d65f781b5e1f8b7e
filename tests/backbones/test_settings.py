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
