"""What methods that hide patches ask of a timm ViT, and how MAE's start it."""

from math import isqrt

from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.errors import ConfigError
from ssl_vision.losses.reconstruction import normalize_patches
from ssl_vision.nn.decoder import init_as_mae
from ssl_vision.nn.patches import patchify, sincos_2d


def check_tokens(backbone: Backbone, *, method: str) -> int:
    """Pixels of a patch's side.

    Raises:
        ConfigError: The network is no ViT, which has patches to hide.
    """
    if not backbone.has_tokens or backbone.patch_px is None:
        raise ConfigError(
            f"method.name={method} hides patches from the network, and "
            f"backbone.name={backbone.architecture} has no patch tokens to leave out; use a ViT of "
            "timm, for example vit_base_patch16_224."
        )
    return backbone.patch_px


def check_patches_only(backbone: Backbone, *, method: str) -> int:
    """Likewise, of a ViT of nothing but patches.

    Raises:
        ConfigError: It has a class token or registers.
    """
    patch_px = check_tokens(backbone, method=method)
    if backbone.model.num_prefix_tokens or backbone.model.global_pool != "avg":
        raise ConfigError(
            f"method.name={method} has no class token, and backbone.name={backbone.architecture} "
            "pools one or has registers; set backbone.args={class_token: false, global_pool: avg, "
            "fc_norm: false}."
        )
    return patch_px


def init_as_mae_encoder(backbone: Backbone, *, method: str) -> None:
    """MAE's start and fixed positions, in a timm ViT; a family's other positions stay.

    Raises:
        ConfigError: The width does not divide into sines and cosines.
    """
    model = backbone.model
    init_as_mae(model)
    weight = model.patch_embed.proj.weight
    nn.init.xavier_uniform_(weight.view(len(weight), -1))  # like a linear layer
    for token in (model.cls_token, getattr(model, "reg_token", None)):
        if token is not None:
            nn.init.normal_(token, std=0.02)
    for parameter in model.fc_norm.parameters():  # after pooling, which training does not do
        parameter.requires_grad_(False)
    fix_positions(backbone, method=method)


def fix_positions(backbone: Backbone, *, method: str) -> None:
    """Sine-cosine positions in place of learned ones, where there are such.

    Raises:
        ConfigError: The width does not divide into sines and cosines.
    """
    model = backbone.model
    if model.pos_embed is None:  # the family has other positions, and keeps them
        return
    num_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    width = model.pos_embed.shape[-1]
    if width % 4:
        raise ConfigError(
            f"backbone: the width {width} must be divisible by 4 for the sine-cosine positions of "
            f"method.name={method}."
        )
    grid = isqrt(model.pos_embed.shape[1] - num_prefix)
    model.pos_embed.data.copy_(sincos_2d(width, grid=grid, num_prefix=num_prefix)[None])
    model.pos_embed.requires_grad_(False)


def pixel_targets(images: Tensor, *, patch_px: int, is_normalized: bool) -> Tensor:
    """Patches as a decoder of pixels should predict them, (B, N, P), of images (B, C, S, S)."""
    patches = patchify(images, patch_px=patch_px)
    return normalize_patches(patches) if is_normalized else patches
