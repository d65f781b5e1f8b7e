"""LeJEPA: all views predict the mean of the global ones; embeddings fill an isotropic normal law.

Balestriero, LeCun 2025, arXiv 2511.08544; no teacher, no stop-gradient, no predictor. Written from
the paper's formulas (the authors' repository, rbalestr-lab/lejepa, is CC BY-NC; nothing of it is
used).

Where we differ:
* The integral is taken on [0, 3] with 17 points and doubled, as the authors' later example does;
  the paper's listing has [-5, 5]. Random directions are keyed by seed and update: equal on all
  processes and for all batches of an update.
* Linear layers before a batch norm have no bias, which would do nothing.
* Views of one size pass the network as one batch, global and local ones apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.losses.sigreg import lejepa_terms, random_directions
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    TrainPlan,
    detached,
    feature_std,
)
from ssl_vision.methods.checks import check_batch, check_projector, check_view_names
from ssl_vision.nn.heads import projector
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch, LossOutput
from ssl_vision.views import ViewConfig

# Of the integral: below it any two laws agree, and beyond this step the sum misses exp(-t^2).
_LEAST_T, _WIDEST_STEP = 0.1, 1.0


@dataclass(frozen=True, kw_only=True)
class LejepaConfig(MethodConfig):
    """Its one weight is lambda; projector and number of directions are of published examples."""

    name: Literal["lejepa"] = "lejepa"
    projector_dims: tuple[int, ...] = (2048, 2048, 64)  # after the backbone's width
    sigreg_weight: float = 0.05  # lambda: (1 - lambda) prediction + lambda SIGReg
    num_directions: int = 1024  # drawn anew at every update
    num_points: int = 17  # of the integral over a characteristic function
    t_max: float = 3.0  # where it is cut off

    def __post_init__(self) -> None:
        check_projector(self.projector_dims)
        check_bounds("method.sigreg_weight", self.sigreg_weight, least=0, most=1)
        check_bounds("method.num_directions", self.num_directions, least=1)
        check_bounds("method.num_points", self.num_points, least=2)
        check_bounds("method.t_max", self.t_max, least=_LEAST_T)
        most = _WIDEST_STEP * (self.num_points - 1)
        if self.t_max > most:
            raise ConfigError(
                f"method.t_max={self.t_max} with method.num_points={self.num_points} samples the "
                f"integral too far apart; lower t_max to {most:g} or less (the examples: 3), or "
                "raise num_points."
            )

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """One view `global`, drawn once or more, and optionally `local`: two drawings in all."""
        check_view_names(
            views, required=("global",), repeatable=("global", "local"), method=self.name
        )
        if sum(view.count for view in views.values()) < 2:
            raise ConfigError(
                f"data.views.global.count={views['global'].count}: method.name={self.name} needs "
                "two drawings of each image or more; raise it, or add data.views.local."
            )


class Lejepa(Method):
    """Backbone and projector."""

    reading = (
        "The loss weighs the squared distance of the views from their centre "
        "(<code>prediction</code>) against SIGReg, which is 1.06 for normal embeddings and as "
        "large as the batch for constant ones: it should fall to a few units and stay. The two "
        "go down together in a sound run, and the paper finds the loss to go with the accuracy "
        "of a probe. SIGReg that stays high means too small a <code>sigreg_weight</code> or too "
        "high a rate."
    )

    config: LejepaConfig

    def __init__(
        self, config: LejepaConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        check_batch(
            plan,
            why="LeJEPA holds the distribution of a batch against a normal law",
            advice=", better hundreds",
        )
        self.projector = projector((backbone.width, *config.projector_dims), has_last_bias=True)

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Distance of all views from the mean of the global ones, and SIGReg of each view."""
        config = self.config
        features = self._features(batch)  # (V * B, D), the global views first
        z = self.projector(features).unflatten(0, (-1, batch.num_samples))  # (V, B, E)
        terms = lejepa_terms(
            z,
            self.directions(),
            num_global=len(batch.views["global"]) // batch.num_samples,
            num_points=config.num_points,
            t_max=config.t_max,
        )
        metrics = detached(
            **terms._asdict(), feature_std=feature_std(features[: batch.num_samples])
        )
        return LossOutput(loss=terms.total(config.sigreg_weight), metrics=metrics)

    def directions(self) -> Tensor:
        """This update's unit vectors, (E, S)."""
        config = self.config
        return random_directions(
            self.key("directions"), width=config.projector_dims[-1], num=config.num_directions
        )

    def _features(self, batch: Batch) -> Tensor:
        views = [batch.views[name] for name in ("global", "local") if name in batch.views]
        if len(views) == 2 and views[0].shape[1:] == views[1].shape[1:]:
            views = [torch.cat(views)]
        return torch.cat([self.backbone(images).pooled for images in views])
