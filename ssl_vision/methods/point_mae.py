"""Point-MAE: masked autoencoders for point clouds.

Pang, Wang, Tay, Liu, Tian, Yuan 2022, arXiv 2203.06604; authors' code: Pang-Yatian/Point-MAE.
Section 3.1 (patches), 3.2 (masking, encoder), 3.3 (decoder), equation 5 (chamfer distance).

Where we differ:
    * Centres are chosen among all points; the authors' CUDA kernel overlooks points near the origin
      (`backbone.args={skips_near_origin: true}` restores that).
    * Masks come from keys of (seed, step, sample), not from NumPy's global generator.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.methods.base import TrainPlan, detached
from ssl_vision.methods.masked_points import MaskedPoints, PointMaskConfig, build_decoder
from ssl_vision.nn.point_decoder import DecodedPatches
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.points.grouping import PointPatches
from ssl_vision.types import Batch, LossOutput


@dataclass(frozen=True, kw_only=True)
class PointMaeConfig(PointMaskConfig):
    """Point-MAE needs the common settings only."""

    name: Literal["point_mae"] = "point_mae"


class PointMae(MaskedPoints):
    """Hide most patches, encode the rest, reconstruct the points of the hidden ones."""

    reading = (
        "The loss is the Chamfer distance of hidden groups of points, in squared units of the "
        "group's own scale. It falls steeply in the first epochs and flattens; judge by a linear "
        "SVM or fine-tuning."
    )

    config: PointMaeConfig

    def __init__(
        self, config: PointMaeConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        self.decoder = build_decoder(config, self.network)

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Chamfer distance of the hidden patches (equation 5)."""
        (points,) = batch.views.values()
        patches = self.network.model.group(points)
        mask = self.draw_mask(patches.centers, batch.index, purpose="mask")
        loss = self.reconstruction_loss(patches, mask)
        return LossOutput(loss=loss, metrics=detached(chamfer=loss))

    def reconstruction_loss(self, patches: PointPatches, mask: Tensor) -> Tensor:
        """Loss for given patches and mask, bool, (B, G)."""
        _, hidden = self.split(mask)
        return self.patch_loss(self.decode(patches, mask), patches, hidden)

    def decode(self, patches: PointPatches, mask: Tensor) -> DecodedPatches:
        """Reconstruction of the patches a mask hides."""
        visible, hidden = self.split(mask)
        encoded = self.encode_visible(*self.network.model.embed(patches), visible)
        return self.decoder(encoded, patches.centers, visible=visible, hidden=hidden)
