"""Names under which timm builds an extracted network without further arguments."""

from functools import cache
from typing import Any

import timm
import torch
from timm.layers.layer_scale import LayerScale
from torch import nn

from ssl_vision.backbones.backbone import ModelArgs

# Sizes with a name of their own; patch and image sizes complete the name.
_STOCK_NAMES = (
    "vit_tiny_patch{patch}_{image}",
    "vit_small_patch{patch}_{image}",
    "vit_base_patch{patch}_{image}",
    "vit_large_patch{patch}_{image}",
    "swin_tiny_patch4_window7_{image}",
    "swin_small_patch4_window7_{image}",
    "swin_base_patch4_window7_{image}",
    "swin_large_patch4_window7_{image}",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
    "resnet50_gn",
)
# Arguments that let a network take other image sizes and leave its parameters alone.
_SIZE_ARGS = ("dynamic_img_size", "strict_img_size")


def stock_name(model: nn.Module, architecture: str, args: ModelArgs) -> tuple[str, ModelArgs]:
    """Shortest description timm builds the same network from.

    Args:
        model: The timm model, without classifier.
        architecture: Name it was built from.
        args: Arguments it was built with.

    Returns:
        A stock name and the arguments still needed (those on image sizes), or what came in where
        no name fits.
    """
    name = find_stock_name(model, architecture, args)
    return (architecture, args) if name is None else (name, _size_args(args))


def find_stock_name(model: nn.Module, architecture: str, args: ModelArgs) -> str | None:
    """Name from which timm builds the same network without arguments, if there is one.

    Args:
        model: The timm model, without classifier; its tensors need no storage.
        architecture: Name of any network of its family.
        args: Arguments of that network; those on image sizes are read.
    """
    embed: Any = getattr(model, "patch_embed", None)
    patch = embed.patch_size[0] if embed is not None else None
    image = embed.img_size[0] if embed is not None and embed.img_size else None
    family = architecture.split("_")[0].rstrip("0123456789")
    for pattern in _STOCK_NAMES:
        name = pattern.format(patch=patch, image=image)
        if not name.startswith(family) or not timm.is_model(name):
            continue
        if _stock_text(name, tuple(_size_args(args).items())) == _text(model):
            return name
    return None


def _size_args(args: ModelArgs) -> ModelArgs:
    return {name: value for name, value in args.items() if name in _SIZE_ARGS}


@cache
def _stock_text(name: str, args: tuple[tuple[str, Any], ...]) -> object:
    """`_text` of a stock network; None where it does not take the arguments."""
    try:
        with torch.device("meta"):
            return _text(timm.create_model(name, num_classes=0, **dict(args)))
    except TypeError:
        return None


def _text(model: nn.Module) -> tuple[str, list[tuple[str, torch.Size]]]:
    """What must agree: modules with their settings, and parameters with their shapes."""
    return repr(model), [(name, value.shape) for name, value in model.named_parameters()]


def fold_layer_scale(model: nn.Module, args: ModelArgs) -> ModelArgs:
    """Multiply each LayerScale of a ViT into the projection before it, in place.

    gamma * (W x + b) = (gamma W) x + gamma b. Networks without LayerScale are left alone.

    Args:
        model: The timm model.
        args: Its constructor arguments.

    Returns:
        Arguments of the network without LayerScale.
    """
    for block in getattr(model, "blocks", ()):
        for scale, projection in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
            layer = getattr(block, scale)
            if not isinstance(layer, LayerScale):
                continue
            with torch.no_grad():
                projection.weight.mul_(layer.gamma[:, None])
                projection.bias.mul_(layer.gamma)
            setattr(block, scale, nn.Identity())
    return {name: value for name, value in args.items() if name != "init_values"}
