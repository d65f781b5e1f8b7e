from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_vision.backbones import elastic
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.convert import build_converted, detect_converter
from ssl_vision.zoo.convert_poa import convert_poa, matches_poa, poa_parent
from ssl_vision.zoo.converted import ConvertOptions


@pytest.fixture
def vit_file(golden: Callable[[str], dict[str, np.ndarray]]) -> dict[str, dict[str, Tensor]]:
    """The golden teacher as the official code saves one: chunked blocks, heads beside it."""
    weights: dict[str, Tensor] = {}
    for name, value in golden("poa_loss").items():
        if not name.startswith("teacher."):
            continue
        name = name.removeprefix("teacher.")
        if ".blocks." in name:
            index = int(name.split(".")[2])
            name = name.replace(f"blocks.{index}.", f"blocks.{index // 3}.{index}.")
        weights[name] = torch.from_numpy(value).float()
    return {"teacher": weights}


def test_a_teacher_file_becomes_the_intact_network(vit_file: dict) -> None:
    assert matches_poa(vit_file)
    assert detect_converter(vit_file) == "poa"
    converted = convert_poa(vit_file, ConvertOptions(num_heads=4))
    backbone = build_converted(converted)
    assert (backbone.width, len(backbone.model.blocks)) == (32, 6)
    official = vit_file["teacher"]["backbone.blocks.1.4.attn.qkv.linear.weight"]
    assert torch.equal(backbone.model.blocks[4].attn.qkv.weight, official)
    assert {name.split(".")[0] for name in converted.heads} == {"dino_head"}


def test_a_size_can_be_asked_for(vit_file: dict) -> None:
    converted = convert_poa(vit_file, ConvertOptions(num_heads=4, width=16, depth=3))
    backbone = build_converted(converted)
    parent = poa_parent(vit_file, num_heads=4)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = elastic.forward(parent, image, (16, 3)).pooled
        assert torch.equal(backbone(image).pooled, expected)
    assert converted.heads == {}  # they belong to the full width


# Swin and ResNet: a network of ours under the official names must come back as it was -----------


def official_swin(backbone: Backbone) -> dict[str, Tensor]:
    """Names and group order of the official code, from a timm Swin."""
    weights: dict[str, Tensor] = {"mask_token": backbone.mask_token.detach().flatten(0, 1)}
    for name, value in backbone.model.state_dict().items():
        stage = int(name.split(".")[1]) if name.startswith("layers.") else 0
        name = name.replace("layers.", "stages.").replace("mlp.", "ffn.")
        if ".downsample." in name:
            name = name.replace(f"stages.{stage}.", f"stages.{stage - 1}.")
            groups = value.chunk(4, dim=-1)
            value = torch.cat([groups[i] for i in (0, 2, 1, 3)], dim=-1)
        if name.startswith("norm."):
            name = name.replace("norm.", "norm3.")
        for layer in ("fc1", "fc2", "qkv", "proj", "reduction"):
            if "patch_embed" not in name:
                name = name.replace(f".{layer}.", f".{layer}.linear.")
        for layer in ("norm1", "norm2", "norm3", "patch_embed.norm", "downsample.norm"):
            name = name.replace(f"{layer}.", f"{layer}.norm.")
        weights[f"backbone.{name.replace('.attn.', '.attn.w_msa.')}"] = value
    weights["backbone.mask_token"] = weights.pop("mask_token")
    weights["backbone.norm0.norm.weight"] = torch.ones(3)
    weights["dino_head.last_layer0.weight_g"] = torch.ones(4, 1)
    return weights


def test_swins_come_back() -> None:
    args = {
        "embed_dim": 16,
        "num_heads": (2, 4, 8, 16),
        "depths": (1, 1, 3, 1),
        "patch_size": 2,
        "window_size": 3,
        "always_partition": True,
    }
    config = BackboneConfig(name="swin_base_patch4_window7_224", args=args)
    own = build_backbone(config, input_size=48).eval()
    own.add_mask_token()
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    content = {"teacher": official_swin(own)}
    assert matches_poa(content)
    parent = poa_parent(content, num_heads=2)
    assert torch.equal(parent.mask_token, own.mask_token)
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(parent(image).pooled, own(image).pooled)
    convert_poa(content, ConvertOptions(num_heads=2, width=16, depth=3))
    with pytest.raises(ConfigError, match="official POA Swins convert at their full size"):
        convert_poa(content, ConvertOptions(num_heads=2, depth=2))


def test_official_swin_tensors_fit(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    """The tool's "tiny" of width 4: each official tensor has its place in a timm Swin."""
    weights = {
        name.removeprefix("swin.tiny."): torch.from_numpy(value)
        for name, value in golden("poa_extract").items()
        if name.startswith("swin.tiny.")
    }
    parent = poa_parent(weights, num_heads=1)
    assert elastic.sizes(parent)[-1][0] == 4


def test_resnets_come_back_whole_and_in_part() -> None:
    args = {"base_width": 96, "layers": (1, 4, 7, 1), "norm_layer": "groupnorm"}
    config = BackboneConfig(name="resnet152", args=args)
    own = build_backbone(config, input_size=32).eval()
    state = own.model.state_dict()
    weights: dict[str, Tensor] = {"backbone.mask_token": torch.ones(1, 64, 1, 1)}
    for name, value in state.items():
        name = name.replace("bn", "norm")
        if name.startswith("layer"):
            stage, block, rest = name.split(".", 2)
            if rest.startswith("conv"):
                rest = rest.replace(".", ".conv.", 1)
            name = f"{stage}.layers.{block}.{rest}"
        weights[f"backbone.{name}"] = value
    parent = poa_parent({"teacher": weights})
    assert matches_poa({"teacher": weights})
    assert all(torch.equal(v, state[n]) for n, v in parent.model.state_dict().items())
    assert elastic.sizes(parent)[-1] == (96, 4, 7)
    small = build_converted(convert_poa({"teacher": weights}, ConvertOptions(width=64, depth=50)))
    assert (len(small.model.layer2), len(small.model.layer3)) == (4, 6)
    with pytest.raises(ConfigError, match="50, 101 or 152"):
        convert_poa({"teacher": weights}, ConvertOptions(depth=34))


def test_other_files_are_refused() -> None:
    assert not matches_poa({"model": {"cls_token": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="no checkpoint of the official POA code"):
        poa_parent({"conv1.weight": torch.zeros(1)})
