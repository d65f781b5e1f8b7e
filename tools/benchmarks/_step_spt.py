"""stable-pretraining's own model classes in a plain Lightning module; for `step.py`."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from stable_pretraining.methods.barlow_twins import BarlowTwins
from stable_pretraining.methods.dino import DINO
from stable_pretraining.methods.mae import MAE
from torch import Tensor, nn

from ssl_vision.config import TrainConfig
from ssl_vision.methods.base import Method
from ssl_vision.types import Batch


class _Pooled(nn.Module):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.backbone(images).pooled
        return pooled


class _Module(L.LightningModule):
    """Their model; subclasses say how it takes a batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss_of(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss_of(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-3)


class _Barlow(_Module):
    def __init__(self, method: Method, config: Any) -> None:
        super().__init__(
            BarlowTwins(_Pooled(method.backbone), projector_dims=config.projector_dims)
        )

    def loss_of(self, batch: Batch) -> Tensor:
        loss: Tensor = self.model(batch.views["a"], batch.views["b"]).loss
        return loss


class _Dino(_Module):
    """With the update of the teacher that their callback makes after each step."""

    def __init__(self, method: Method, config: Any) -> None:
        model = DINO(
            _Pooled(method.backbone),
            projector_hidden_dim=config.hidden_dim,
            projector_bottleneck_dim=config.bottleneck_dim,
            n_prototypes=config.num_prototypes,
        )
        super().__init__(model)

    def loss_of(self, batch: Batch) -> Tensor:
        views = batch.views
        local = views["local"].split(batch.num_samples) if "local" in views else ()
        loss: Tensor = self.model([views["global_1"], views["global_2"]], list(local)).loss
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        model: Any = self.model
        model.backbone.update_teacher()
        model.projector.update_teacher()


class _Mae(_Module):
    def __init__(self, method: Method, config: Any) -> None:
        model = MAE(
            method.backbone.model,
            decoder_embed_dim=config.decoder_width,
            decoder_depth=config.decoder_depth,
            decoder_num_heads=config.decoder_num_heads,
            mask_ratio=config.mask_ratio,
            norm_pix_loss=config.is_target_normalized,
        )
        super().__init__(model)

    def loss_of(self, batch: Batch) -> Tensor:
        loss: Tensor = self.model(batch.views["view"]).loss
        return loss


BUILDERS: dict[str, Callable[[Method, Any], _Module]] = {
    "barlow_twins": _Barlow,
    "dino": _Dino,
    "mae": _Mae,
}


def build(config: TrainConfig, method: Method) -> L.LightningModule:
    """Their model around the backbone of ours."""
    return BUILDERS[config.method.name](method, config.method)
