"""timm networks whose features are a map: ResNet, ConvNeXt, Swin and every other pyramid."""

from typing import Any

import torch
from timm.models import ConvNeXt, ResNet, SwinTransformer, checkpoint_seq
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone, ModelArgs
from ssl_vision.errors import ConfigError
from ssl_vision.types import Features


class TimmPyramid(Backbone):
    """A timm network with pooled features; its last feature map gives the patch tokens.

    Masks work in Swin, ConvNeXt and ResNet: the mask token replaces cells of the finest map, the
    one after the patch embedding, the stem, or the ResNet's first pooling (POA).
    """

    def __init__(self, model: nn.Module, *, architecture: str, model_args: ModelArgs) -> None:
        super().__init__(model, architecture=architecture, model_args=model_args)
        self._is_channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._num_class_tokens = int(getattr(model, "cls_token", None) is not None)

    def num_patches(self, size_px: int) -> int:
        """Cells of the last feature map."""
        reduction = int(self.model.feature_info[-1]["reduction"])
        return (-(-size_px // reduction)) ** 2

    def add_mask_token(self, *, std: float = 0.02) -> None:
        """Mask token of the finest map's width; Swin, ConvNeXt and ResNet only."""
        if not isinstance(self.model, ResNet | SwinTransformer | ConvNeXt):
            raise ConfigError(
                f"backbone.name={self.architecture!r} cannot mask parts of its input; use a ViT, "
                "Swin, ConvNeXt or ResNet."
            )
        # The first feature map is the stem's in ResNets, the first stage's in the others, which
        # is as wide as their patch embedding.
        first_map: Any = self.model.feature_info[0]
        width = int(first_map["num_chs"])
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=std)

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Pooled features and the last map as tokens; see `Backbone.forward`.

        Args:
            images: (B, C, S, S).
            mask: Cells to hide, bool, (B, N), row-major on a square grid of any N that divides
                the finest map: N need not be `num_patches`, which would be coarse for masks.
        """
        if mask is None:
            features = self.model.forward_features(images)
        else:
            features = self._encode(self._hide(self._embed(images), mask))
        pooled = self.model.forward_head(features, pre_logits=True)
        return Features(pooled=pooled.flatten(1), patches=self._as_tokens(features))

    def _hide(self, features: Tensor, mask: Tensor) -> Tensor:
        """Replace masked cells of the finest map by the mask token."""
        if self.mask_token is None:
            raise RuntimeError("call add_mask_token() before passing a mask.")
        side = round(mask.shape[1] ** 0.5)
        map_side = features.shape[1 if self._is_channels_last else -1]
        if side * side != mask.shape[1] or map_side % side:
            raise ValueError(
                f"a mask of {mask.shape[1]} cells does not divide a map of {map_side} x {map_side}."
            )
        scale = map_side // side
        is_masked = mask.unflatten(1, (side, side)).repeat_interleave(scale, dim=1)
        is_masked = is_masked.repeat_interleave(scale, dim=2)
        token = self.mask_token.to(features.dtype).flatten()
        # `where` keeps the token in the graph under an all-False mask, as DDP needs.
        if self._is_channels_last:
            return torch.where(is_masked[..., None], token, features)
        return torch.where(is_masked[:, None], token[:, None, None], features)

    def _embed(self, images: Tensor) -> Tensor:
        """Images -> finest map, in the model's own layout."""
        model = self.model
        if isinstance(model, SwinTransformer):
            return model.patch_embed(images)
        if isinstance(model, ConvNeXt):
            return model.stem(images)
        return model.maxpool(model.act1(model.bn1(model.conv1(images))))

    def _encode(self, features: Tensor) -> Tensor:
        """Finest map -> last map; with `_embed`, the model's `forward_features`."""
        model = self.model
        if isinstance(model, SwinTransformer):
            return model.norm(model.layers(features))
        if isinstance(model, ConvNeXt):
            return model.norm_pre(model.stages(features))
        stages = [model.layer1, model.layer2, model.layer3, model.layer4]
        if model.grad_checkpointing:
            return checkpoint_seq(stages, features, flatten=True)
        for stage in stages:
            features = stage(features)
        return features

    def _as_tokens(self, features: Tensor) -> Tensor:
        """Feature map of either layout, or tokens already, -> (B, N, D) row-major."""
        if features.ndim == 3:
            return features[:, getattr(self.model, "num_prefix_tokens", self._num_class_tokens) :]
        if self._is_channels_last:
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)
