"""stable-pretraining's own model class in a plain Lightning module; for `step.py`."""

from typing import Any

import lightning as L
import torch
from stable_pretraining.methods.barlow_twins import BarlowTwins
from torch import Tensor, nn

from ssl_vision.config import TrainConfig
from ssl_vision.methods.base import Method
from ssl_vision.types import Batch

NAMES = ("barlow_twins",)


class _Pooled(nn.Module):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.backbone(images).pooled
        return pooled


class _Module(L.LightningModule):
    def __init__(self, config: TrainConfig, method: Method) -> None:
        super().__init__()
        dims = config.method.projector_dims  # type: ignore[attr-defined]
        self.model = BarlowTwins(_Pooled(method.backbone), projector_dims=dims)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss: Tensor = self.model(batch.views["a"], batch.views["b"]).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def build(config: TrainConfig, method: Method) -> L.LightningModule:
    """Their Barlow Twins around the backbone of ours."""
    return _Module(config, method)
