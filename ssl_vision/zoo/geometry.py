"""Sizes of a network read off the shapes of its weights, and the timm name that has them."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.converted import ConvertOptions, Weights

PositionRule = Literal["dino", "plain", "timm"]

# width -> (timm's size word, depth, heads); huge is the only one whose heads are not width / 64.
_VIT_SIZES = {
    192: ("tiny", 12, 3),
    384: ("small", 12, 6),
    768: ("base", 12, 12),
    1024: ("large", 24, 16),
    1280: ("huge", 32, 16),
}
# Pairs of size and patch side that timm has at 224 px; other patches become an argument.
_VIT_PATCHES = {"tiny": 16, "small": 16, "base": 16, "large": 16, "huge": 14}
_VIT_OTHER_PATCHES = {("small", 8), ("base", 8), ("small", 32), ("base", 32), ("large", 14)}

# (has bottlenecks, blocks per stage) -> timm name.
_RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}


def vit_architecture(
    weights: Mapping[str, Tensor], options: ConvertOptions, *, family: str = "vit"
) -> tuple[str, dict[str, object], int]:
    """Name in timm, arguments and native side in pixels of a plain ViT's weights.

    Args:
        weights: Under the names official code and timm share.
        options: `num_heads` where width / 64 is wrong.
        family: vit or deit; timm has the same class under both.

    Raises:
        CheckpointError: The weights are not a square-input ViT with a class token.
    """
    try:
        width, in_chans, patch_px, _ = weights["patch_embed.proj.weight"].shape
        num_tokens = weights["pos_embed"].shape[1] - weights["cls_token"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"this is not a ViT of the official layout: no {error}.") from error
    if "dist_token" in weights:
        raise CheckpointError("distilled DeiT (dist_token) is not among the converters.")
    grid = round(num_tokens**0.5)
    if grid * grid != num_tokens:
        raise CheckpointError(f"{num_tokens} positions are not a square grid of patches.")
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    word, usual_depth, usual_heads = _VIT_SIZES.get(width, ("small", 12, max(1, width // 64)))
    name, args = _vit_name(family, word, patch_px)
    heads = options.num_heads or usual_heads
    if width % heads:
        raise ConfigError(f"num_heads={heads} does not divide the width {width}.")
    if width not in _VIT_SIZES:
        args |= {"embed_dim": width, "num_heads": heads}
    elif heads != usual_heads:
        args["num_heads"] = heads
    if depth != usual_depth:
        args["depth"] = depth
    if in_chans != 3:
        args["in_chans"] = in_chans
    if (mlp_ratio := weights["blocks.0.mlp.fc1.weight"].shape[0] / width) != 4:
        args["mlp_ratio"] = mlp_ratio
    if "blocks.0.attn.qkv.bias" not in weights:
        args["qkv_bias"] = False
    return name, args, grid * patch_px


def _vit_name(family: str, word: str, patch_px: int) -> tuple[str, dict[str, object]]:
    usual = _VIT_PATCHES[word]
    if patch_px == usual or (family == "vit" and (word, patch_px) in _VIT_OTHER_PATCHES):
        return f"{family}_{word}_patch{patch_px}_224", {}
    return f"{family}_{word}_patch{usual}_224", {"patch_size": patch_px}


def resnet_architecture(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, object], int]:
    """Name in timm, arguments and number of classes of a ResNet under torchvision's names.

    Raises:
        CheckpointError: The weights are not a ResNet.
    """
    if "conv1.weight" not in weights or "layer4.0.conv1.weight" not in weights:
        raise CheckpointError("this is not a ResNet of torchvision's layout: no conv1, layer4.")
    blocks = [
        1 + max(int(n.split(".")[1]) for n in weights if n.startswith(f"layer{stage}."))
        for stage in (1, 2, 3, 4)
    ]
    is_bottleneck = "layer1.0.conv3.weight" in weights
    name = _RESNETS.get((is_bottleneck, tuple(blocks)))
    args: dict[str, object] = {} if name else {"layers": blocks}
    base_width = weights["layer1.0.conv1.weight"].shape[0]
    if is_bottleneck and base_width != 64:
        args["base_width"] = base_width
    if (in_chans := weights["conv1.weight"].shape[1]) != 3:
        args["in_chans"] = in_chans
    num_classes = weights["fc.weight"].shape[0] if "fc.weight" in weights else 0
    return name or ("resnet50" if is_bottleneck else "resnet18"), args, num_classes


def fit_positions(
    weights: Weights, options: ConvertOptions, *, native_px: int, authors_rule: PositionRule
) -> tuple[Weights, dict[str, object], int]:
    """Weights, timm arguments and side for the image size the user wants.

    Under the authors' rule the positions of the wanted size are computed here, and the network has
    that size. Under `pos_interp=timm` it keeps its own, and timm resamples (bicubic, antialiased)
    whenever an image has another size; at 96 px that changes DINO's features by 2e-2.

    Args:
        weights: Of a ViT.
        options: `size_px` and `pos_interp` are used.
        native_px: Side the weights are for.
        authors_rule: Used where the user named none.

    Raises:
        ConfigError: `size_px` is not a multiple of the patch.
    """
    patch_px = weights["patch_embed.proj.weight"].shape[-1]
    size_px, rule = options.size_px or native_px, options.pos_interp or authors_rule
    if size_px % patch_px:
        raise ConfigError(f"size_px={size_px} is not a multiple of the patch, {patch_px} pixels.")
    if size_px == native_px or rule == "timm":
        return weights, {"img_size": native_px, "dynamic_img_size": True}, size_px
    positions = resample_positions(weights["pos_embed"], grid=size_px // patch_px, rule=rule)
    return {**weights, "pos_embed": positions}, {"img_size": size_px}, size_px


def resample_positions(positions: Tensor, *, grid: int, rule: PositionRule) -> Tensor:
    """Position embeddings for another grid of patches, bicubic without antialiasing.

    dino: at the scale (grid + 0.1) / old grid. The authors add the 0.1 against rounding, and
        PyTorch samples at the scale it is told (vision_transformer.py, interpolate_pos_encoding).
    plain: at the scale of the sizes (MAE's and DeiT's util/pos_embed.py).

    Args:
        positions: Class token first, then row-major patches, (1, 1 + N, D).
        grid: Patches per side wanted.
        rule: dino or plain.

    Returns:
        (1, 1 + grid^2, D).
    """
    assert rule in ("dino", "plain"), rule
    num_old, width = positions.shape[1] - 1, positions.shape[2]
    old = round(num_old**0.5)
    if old == grid:
        return positions
    patches = positions[:, 1:].float().reshape(1, old, old, width).permute(0, 3, 1, 2)
    if rule == "dino":
        scale = (grid + 0.1) / old
        patches = nn.functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    else:
        patches = nn.functional.interpolate(patches, size=(grid, grid), mode="bicubic")
    patches = patches.permute(0, 2, 3, 1).reshape(1, grid * grid, width)
    return torch.cat([positions[:, :1], patches.to(positions.dtype)], dim=1)
