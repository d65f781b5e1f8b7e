"""ViTs whose patches have rotary positions in two dimensions, CroCo v2's (arXiv 2211.10408).

timm lays out rotary channels in another way, so these networks are put together here of its parts:
the parameters bear timm's names, and nothing else of the network does. They are registered in
timm's table of models under the names `rotary_vit_*`, and are therefore built, exported and loaded
like any other backbone (an export needs `import ssl_vision.backbones` before timm knows the name,
or `ssl_vision.load_backbone`). Every grid of patches is taken: nothing is resampled.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssl_vision.backbones.backbone import ModelArgs
from ssl_vision.backbones.timm_vit import Places, TimmViT
from ssl_vision.errors import ConfigError
from ssl_vision.nn.rotary import RotaryAttention, RotaryBlock, grid_positions, rotation_of

_OWN: ModelArgs = {  # what makes it such a network, for timm's constructor
    "pos_embed": "none",
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
    "dynamic_img_size": True,
    "block_fn": RotaryBlock,
    "attn_layer": RotaryAttention,
}


class RotaryTransformer(VisionTransformer):
    """Plain network: images (B, C, H, W) -> mean of the patches after the last norm, (B, D).

    Args:
        rotary_base: Of the frequencies; CroCo v2's 100.
        arguments: timm's for a VisionTransformer, without those of positions and class tokens.
    """

    pretrained_cfg: dict[str, object]

    def __init__(self, *, rotary_base: float = 100.0, **arguments: Any) -> None:
        for name in (*_OWN, "reg_tokens"):
            if name in arguments:
                raise ValueError(f"{name} is fixed: patches only, with rotary positions.")
        if rotary_base <= 1:
            raise ValueError(f"rotary_base={rotary_base} must be above 1.")
        super().__init__(**arguments, **_OWN)
        self.rotary_base = rotary_base
        attention = self.blocks[0].attn
        assert isinstance(attention, RotaryAttention)
        self.head_dim = attention.head_dim
        if self.head_dim % 4:
            raise ValueError("embed_dim / num_heads must be divisible by 4 for rotary positions.")

    def rotation(self, places: Places) -> Tensor:
        """See `rotation_of`; of patches at their places."""
        positions = grid_positions(places.rows, places.columns, device=self._device())
        if places.keep is not None:
            positions = positions[places.keep]
        return rotation_of(positions, head_dim=self.head_dim, base=self.rotary_base)

    def _device(self) -> torch.device:
        device: torch.device = self.patch_embed.proj.weight.device
        return device

    def forward(  # type: ignore[override]  # timm's takes masks of attention
        self, x: Tensor
    ) -> Tensor:
        """Pooled features, or logits where there is a classifier."""
        return self.forward_head(self.forward_features(x))

    def forward_features(  # type: ignore[override]  # timm's takes masks of attention
        self, x: Tensor
    ) -> Tensor:
        """Tokens after the last norm, (B, N, D)."""
        patches = self.patch_embed(x)  # (B, rows, columns, D)
        rotation = self.rotation(Places(*patches.shape[1:3]))
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(patches)))
        for block in self.blocks:
            tokens = block(tokens, rotation=rotation)
        normed: Tensor = self.norm(tokens)
        return normed


class RotaryViT(TimmViT):
    """A `RotaryTransformer` behind the package's interface."""

    is_in_timm = False
    model: RotaryTransformer

    def blocks(self, places: Places) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, told where the patches lie."""
        rotation = self.model.rotation(places)
        return [partial(block, rotation=rotation) for block in self.model.blocks]


def _build(name: str, pretrained: bool, sizes: ModelArgs, arguments: ModelArgs) -> nn.Module:
    """Network for timm's `create_model`, which adds arguments of its own."""
    if pretrained:
        raise ConfigError(
            "rotary_vit networks have no weights in timm; use a run or export folder, or "
            "?pretrained=false for random weights."
        )
    for each in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(each, None)
    model = RotaryTransformer(**{**sizes, "num_classes": 0, **arguments})
    model.pretrained_cfg = {"architecture": name}
    return model


@register_model
def rotary_vit_tiny(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Patches of 16 px, 12 blocks of width 192; 5 M parameters."""
    sizes = {"embed_dim": 192, "depth": 12, "num_heads": 3}
    return _build("rotary_vit_tiny", pretrained, sizes, arguments)


@register_model
def rotary_vit_small(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Patches of 16 px, 12 blocks of width 384; 22 M parameters."""
    sizes = {"embed_dim": 384, "depth": 12, "num_heads": 6}
    return _build("rotary_vit_small", pretrained, sizes, arguments)


@register_model
def rotary_vit_base(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Patches of 16 px, 12 blocks of width 768; 86 M parameters."""
    sizes = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    return _build("rotary_vit_base", pretrained, sizes, arguments)


@register_model
def rotary_vit_large(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Patches of 16 px, 24 blocks of width 1024, CroCo v2's encoder; 303 M parameters."""
    sizes = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
    return _build("rotary_vit_large", pretrained, sizes, arguments)
