"""POA (Zhang et al. 2024, arXiv 2408.01031): the intact network, or any sub-network of it.

Layouts of the authors' code (github.com/alipay/POA at 00d9074): a `teacher_checkpoint.pth`,
{"teacher": {"backbone.": ..., "dino_head.": ...}}, or the backbone's tensors alone.

Their own extraction tool loses the ViT's final norm and knows no ResNets; this one has both. Their
Swins can be converted at full width and depth only: narrow ones normalise the patch embedding over
all channels, of which they own a part, and shallow ones shift other windows than a Swin does; no
stand-alone network computes either. Not taken over: Swin's norm0 to norm2, never trained.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_vision.backbones import elastic
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import build_from_config
from ssl_vision.backbones.elastic_grid import ElasticConfig, Size
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.converted import Converted, ConvertOptions, Weights, strip_prefix, tensors_of
from ssl_vision.zoo.exported import load_weights

# The official code's block choice; a ViT's and a ResNet's are the same either way.
_OFFICIAL = ElasticConfig(block_choice="paper")
# Blocks of the second and third stage by the number of layers in a ResNet's name.
_RESNET_DEPTHS = {50: (4, 6), 101: (4, 23), 152: (8, 36)}


def matches_poa(content: Mapping[str, object]) -> bool:
    """A file of the official POA code: its elastic layers hold their tensors one level deeper."""
    tensors = content.get("teacher", content)
    if not isinstance(tensors, Mapping):
        return False
    return any(
        re.search(r"(qkv\.linear|fc1\.linear|conv2\.conv)\.weight$", str(name)) for name in tensors
    )


def convert_poa(content: Mapping[str, object], options: ConvertOptions) -> Converted:
    """The intact network, or the sub-network of `width` and `depth`.

    Width is a ViT's, or a ResNet's base width (64, 96, 128); depth is a ViT's number of blocks, or
    50, 101 or 152 for a ResNet.

    Raises:
        CheckpointError: Not a POA checkpoint.
        ConfigError: A size the network does not have.
    """
    parent = poa_parent(content, num_heads=options.num_heads)
    size = _wanted_size(parent, options)
    network = elastic.extract(parent, size, _OFFICIAL)
    tensors = content.get("teacher")
    named = tensors if isinstance(tensors, Mapping) else {}
    heads = {n: v for n, v in named.items() if str(n).startswith("dino_head.")}
    return Converted(
        architecture=network.architecture,
        weights=network.model.state_dict(),
        model_args=network.model_args,
        heads=heads if size == elastic.sizes(parent)[-1] else {},
        size_px=int(network.model_args.get("img_size", 224)),
    )


def poa_parent(content: Mapping[str, object], *, num_heads: int | None = None) -> Backbone:
    """Intact network with its mask token, for `backbones.elastic`.

    Args:
        content: Of the file.
        num_heads: Attention heads (of a Swin's first stage), which no tensor tells; None is the
            official number, one per 64 channels of a ViT and per 16 of a Swin.

    Raises:
        CheckpointError: Not a POA checkpoint.
    """
    weights = tensors_of(content, key="teacher" if "teacher" in content else None)
    weights = strip_prefix(weights, "backbone.") or weights
    if "pos_embed" in weights:
        return _vit(weights, num_heads=num_heads)
    if "patch_embed.proj.weight" in weights:
        return _swin(weights, num_heads=num_heads)
    if "layer1.layers.0.conv2.conv.weight" in weights:
        return _resnet(weights)
    raise CheckpointError(
        "this is no checkpoint of the official POA code: it holds neither its ViT (pos_embed) nor "
        "its Swin (patch_embed.proj.weight) nor its ResNet (layer1.layers.0.conv2.conv.weight)."
    )


def _wanted_size(parent: Backbone, options: ConvertOptions) -> Size:
    largest = elastic.sizes(parent)[-1]
    size = [options.width or largest[0], *largest[1:]]
    if options.depth is not None and len(largest) == 2:
        size[1] = options.depth
    elif options.depth is not None:
        if options.depth not in _RESNET_DEPTHS:
            raise ConfigError(f"depth={options.depth} must be 50, 101 or 152 for a ResNet of POA.")
        size[1:] = _RESNET_DEPTHS[options.depth]
    if parent.architecture.startswith("swin") and tuple(size) != largest:
        raise ConfigError(
            f"width={size[0]} and depth={size[1]}: official POA Swins convert at their full size "
            f"only ({largest[0]} and {largest[1]}); no plain Swin computes what their parts do."
        )
    return tuple(size)


def _finish(
    architecture: str, args: dict[str, object], weights: Weights, mask_token: Tensor | None
) -> Backbone:
    """Network with the converted tensors."""
    backbone = build_from_config({"architecture": architecture, "model_args": args})
    load_weights(backbone.model, weights, source="the POA checkpoint")
    if mask_token is not None:
        backbone.add_mask_token()
        assert backbone.mask_token is not None
        with torch.no_grad():
            backbone.mask_token.copy_(mask_token.reshape(1, 1, -1))
    return backbone.eval()


def _vit(weights: Weights, *, num_heads: int | None) -> Backbone:
    mask_token = weights.pop("mask_token", None)
    # Training wraps layers ("qkv.linear", "norm1.norm") and may chunk blocks ("blocks.2.17.").
    named = {
        re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        .replace(".linear.", ".")
        .replace(".norm.", "."): value
        for name, value in weights.items()
    }
    named = {name.replace("norm.norm", "norm"): value for name, value in named.items()}
    width = named["pos_embed"].shape[-1]
    patch = named["patch_embed.proj.weight"].shape[-1]
    side = round((named["pos_embed"].shape[1] - 1) ** 0.5)
    args: dict[str, object] = {
        "embed_dim": width,
        "depth": 1 + max(int(n.split(".")[1]) for n in named if n.startswith("blocks.")),
        "num_heads": num_heads or width // 64,
        "patch_size": patch,
        "img_size": side * patch,
        "dynamic_img_size": True,
    }
    if "blocks.0.ls1.gamma" in named:
        args["init_values"] = 1e-5
    return _finish("vit_large_patch16_224", args, named, mask_token)


def _swin(weights: Weights, *, num_heads: int | None) -> Backbone:
    mask_token = weights.pop("mask_token", None)
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    named: Weights = {}
    for name, value in weights.items():
        if re.match(r"norm[0-2]\.", name) or name.endswith("relative_position_index"):
            continue
        named[_swin_name(name)] = _swin_value(name, value)
    table = named["layers.0.blocks.0.attn.relative_position_bias_table"]
    window = (round(len(table) ** 0.5) + 1) // 2
    blocks = [re.match(r"layers\.(\d)\.blocks\.(\d+)\.", name) for name in named]
    depths = [0, 0, 0, 0]
    for match in filter(None, blocks):
        stage, block = int(match[1]), int(match[2])
        depths[stage] = max(depths[stage], block + 1)
    args = {
        "embed_dim": width,
        "depths": tuple(depths),
        "num_heads": tuple((num_heads or width // 16) * 2**stage for stage in range(4)),
        "patch_size": patch,
        "window_size": window,
        # Official Swins shift windows also where one window covers the map.
        "always_partition": True,
        "strict_img_size": False,
    }
    return _finish("swin_base_patch4_window7_224", args, named, mask_token)


def _swin_name(name: str) -> str:
    """Timm's name of an official one; timm counts a merging to the stage after it."""
    name = name.replace(".linear.", ".").replace(".norm.", ".").replace(".w_msa.", ".")
    name = re.sub(r"^norm3\.", "norm.", name).replace("ffn.", "mlp.")
    merging = re.match(r"stages\.(\d)\.downsample\.(norm|reduction)\.?(.*)", name)
    if merging:
        leaf = ".".join(filter(None, (merging[2], merging[3])))
        return f"layers.{int(merging[1]) + 1}.downsample.{leaf}"
    return name.replace("stages.", "layers.")


def _swin_value(name: str, value: Tensor) -> Tensor:
    """Merging stacks four neighbours; the official code goes by rows, timm by columns."""
    if ".downsample." not in name:
        return value
    dim = value.ndim - 1
    first, second, third, fourth = value.chunk(4, dim=dim)
    return torch.cat([first, third, second, fourth], dim=dim)


def _resnet(weights: Weights) -> Backbone:
    mask_token = weights.pop("mask_token", None)
    named = {_resnet_name(name): value for name, value in weights.items()}
    planes = named["layer1.0.conv3.weight"].shape[0] // 4
    middle = named["layer1.0.conv2.weight"].shape[0]
    args = {
        "layers": tuple(
            1 + max(int(n.split(".")[1]) for n in named if n.startswith(f"layer{stage}."))
            for stage in range(1, 5)
        ),
        "base_width": middle * 64 // planes,
        "norm_layer": "groupnorm",
    }
    return _finish("resnet152", args, named, mask_token)


def _resnet_name(name: str) -> str:
    """layer2.layers.3.conv1.conv.weight -> layer2.3.conv1.weight; norm1 -> bn1."""
    name = name.replace(".layers.", ".").replace(".conv.", ".")
    return re.sub(r"(^|\.)norm(\d)\.(?:norm\.)?", r"\1bn\2.", name)
