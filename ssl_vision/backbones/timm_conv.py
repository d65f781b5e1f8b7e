"""timm networks whose features are a map: ResNet, ConvNeXt, Swin and every other pyramid."""

from typing import Any

from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.types import Features


class TimmPyramid(Backbone):
    """A timm network with pooled features; its last feature map gives the patch tokens."""

    def __init__(self, model: nn.Module, *, architecture: str, model_args: dict[str, Any]) -> None:
        super().__init__(model, architecture=architecture, model_args=model_args)
        self._is_channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._num_class_tokens = int(getattr(model, "cls_token", None) is not None)

    def num_patches(self, size_px: int) -> int:
        """Cells of the last feature map."""
        reduction = int(self.model.feature_info[-1]["reduction"])
        return (-(-size_px // reduction)) ** 2

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Pooled features and the last map as tokens; see `Backbone.forward`."""
        if mask is not None:
            raise NotImplementedError
        features = self.model.forward_features(images)
        pooled = self.model.forward_head(features, pre_logits=True)
        return Features(pooled=pooled.flatten(1), patches=self._as_tokens(features))

    def _as_tokens(self, features: Tensor) -> Tensor:
        """Feature map of either layout, or tokens already, -> (B, N, D) row-major."""
        if features.ndim == 3:
            return features[:, getattr(self.model, "num_prefix_tokens", self._num_class_tokens) :]
        if self._is_channels_last:
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)
