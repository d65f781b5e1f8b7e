"""Methods as lightly's examples assemble them, around our backbones; for `step.py`."""

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss
from lightly.models import utils
from lightly.models.modules import (
    BarlowTwinsProjectionHead,
    DINOProjectionHead,
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
)

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
        utils.deactivate_requires_grad(self.teacher)
        utils.deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=m.num_prototypes)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Each crop by itself, as their example does."""
        utils.update_momentum(self.backbone, self.teacher, m=0.99)
        utils.update_momentum(self.head, self.teacher_head, m=0.99)
        size = batch.num_samples
        crops = [batch.views["global_1"], batch.views["global_2"]]
        local = batch.views["local"].split(size) if "local" in batch.views else ()
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(crop).pooled) for crop in crops]
        answers = [self.head(self.backbone(crop).pooled) for crop in (*crops, *local)]
        loss: torch.Tensor = self.criterion(targets, answers, epoch=self.current_epoch)
        self.log("loss", loss)
        return loss


class Mae(_Base):
    """Masked timm encoder and decoder of lightly, sized as the recipe's."""

    def __init__(self, config: TrainConfig, backbone: Any) -> None:
        vit, m = backbone.model, config.method
        super().__init__(MaskedVisionTransformerTIMM(vit))
        num_patches, self.patch = vit.patch_embed.num_patches, vit.patch_embed.patch_size[0]
        self.num_tokens = num_patches + vit.num_prefix_tokens
        self.mask_ratio: float = m.mask_ratio  # type: ignore[attr-defined]
        width: int = m.decoder_width  # type: ignore[attr-defined]
        self.embed = torch.nn.Linear(vit.embed_dim, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=num_patches,
            embed_dim=width,
            depth=m.decoder_depth,  # type: ignore[attr-defined]
            num_heads=m.decoder_num_heads,  # type: ignore[attr-defined]
        )
        self.predict = torch.nn.Linear(width, 3 * self.patch**2)
        self.criterion = torch.nn.MSELoss()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Encode what is seen, decode all tokens, compare the pixels of the hidden ones."""
        images = batch.views["view"]
        shape = (len(images), self.num_tokens)
        seen, hidden = utils.random_token_mask(shape, self.mask_ratio, device=images.device)
        tokens = self.embed(self.backbone.encode(images, idx_keep=seen))
        line = utils.set_at_index(tokens.new_zeros(*shape, tokens.shape[-1]), seen, tokens)
        decoded = self.decoder(line, idx_mask=hidden)
        answer = self.predict(utils.get_at_index(decoded, hidden))
        target = utils.get_at_index(utils.patchify(images, self.patch), hidden - 1)
        loss: torch.Tensor = self.criterion(answer, target)
        self.log("loss", loss)
        return loss


BUILDERS: dict[str, Callable[[TrainConfig, Any], _Base]] = {
    "barlow_twins": BarlowTwins,
    "dino": Dino,
    "mae": Mae,
}


def build(config: TrainConfig, method: Method) -> L.LightningModule:
    """Lightly's module around the backbone of ours."""
    return BUILDERS[config.method.name](config, method.backbone)
