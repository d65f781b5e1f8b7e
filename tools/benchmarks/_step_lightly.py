"""Methods as lightly's examples assemble them, around our backbones; for `step.py`."""

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss
from lightly.models.modules import BarlowTwinsProjectionHead, DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum

from ssl_vision.config import TrainConfig
from ssl_vision.methods.base import Method
from ssl_vision.types import Batch


class _Base(L.LightningModule):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-3)


class BarlowTwins(_Base):
    """Head of the recipe's widths, lightly's loss."""

    def __init__(self, config: TrainConfig, backbone: Any) -> None:
        super().__init__(backbone)
        hidden, out = config.method.projector_dims[0], config.method.projector_dims[-1]  # type: ignore[attr-defined]
        self.head = BarlowTwinsProjectionHead(backbone.width, hidden, out)
        self.criterion = BarlowTwinsLoss()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Both views one after the other."""
        z_a, z_b = (self.head(self.backbone(batch.views[v]).pooled) for v in ("a", "b"))
        loss: torch.Tensor = self.criterion(z_a, z_b)
        self.log("loss", loss)
        return loss


class Dino(_Base):
    """Student and teacher, lightly's heads, loss and momentum update."""

    def __init__(self, config: TrainConfig, backbone: Any) -> None:
        super().__init__(backbone)
        m: Any = config.method
        dims = (backbone.width, m.hidden_dim, m.bottleneck_dim, m.num_prototypes)
        self.head = DINOProjectionHead(*dims, batch_norm=m.has_head_batch_norm, freeze_last_layer=1)
        self.teacher = copy.deepcopy(backbone)
        self.teacher_head = DINOProjectionHead(*dims, batch_norm=m.has_head_batch_norm)
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=m.num_prototypes)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Each crop by itself, as their example does."""
        update_momentum(self.backbone, self.teacher, m=0.99)
        update_momentum(self.head, self.teacher_head, m=0.99)
        size = batch.num_samples
        crops = [batch.views["global_1"], batch.views["global_2"]]
        local = batch.views["local"].split(size) if "local" in batch.views else ()
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(crop).pooled) for crop in crops]
        answers = [self.head(self.backbone(crop).pooled) for crop in (*crops, *local)]
        loss: torch.Tensor = self.criterion(targets, answers, epoch=self.current_epoch)
        self.log("loss", loss)
        return loss


BUILDERS: dict[str, Callable[[TrainConfig, Any], _Base]] = {
    "barlow_twins": BarlowTwins,
    "dino": Dino,
}


def build(config: TrainConfig, method: Method) -> L.LightningModule:
    """Lightly's module around the backbone of ours."""
    return BUILDERS[config.method.name](config, method.backbone)
