"""VICReg: two views agree, every dimension varies, and no two dimensions tell the same.

Bardes, Ponce, LeCun 2021, arXiv 2105.04906, equations 1 to 6. Authors' code:
facebookresearch/vicreg, main_vicreg.py.

Where we differ:
* Where paper and code disagree we follow the code; see `losses.vicreg`.
* Linear layers before a batch norm have no bias, which would do nothing; theirs have.
* Variances and covariances are in float32; under their autocast in float16.
* The last, short batch of an epoch is left out; theirs is used, its covariance divided by the
  configured batch size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.losses.vicreg import vicreg_terms
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    TrainPlan,
    detached,
    feature_std,
)
from ssl_vision.methods.checks import check_batch, check_projector, check_view_names, check_weights
from ssl_vision.nn.heads import projector
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch, LossOutput
from ssl_vision.views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class VicregConfig(MethodConfig):
    """Defaults are those of the authors' ImageNet run."""

    name: Literal["vicreg"] = "vicreg"
    projector_dims: tuple[int, ...] = (8192, 8192, 8192)  # after the backbone's width
    invariance_weight: float = 25.0  # lambda
    variance_weight: float = 25.0  # mu
    covariance_weight: float = 1.0  # nu

    def __post_init__(self) -> None:
        check_projector(self.projector_dims)
        check_weights(self, "invariance_weight", "variance_weight", "covariance_weight")

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless there are two views, called `a` and `b`, each drawn once."""
        check_view_names(views, required=("a", "b"), method=self.name)


class Vicreg(Method):
    """Backbone and projector; both views pass them one after the other."""

    reading = (
        "The loss is 25 times the squared difference of two views, plus 25 times the variance "
        "term, plus the covariance term. <code>variance</code> is what forbids the constant "
        "solution: it starts near 1 and should go to a few hundredths; stuck high, the features "
        "are collapsing and the invariance near 0 is no success. <code>covariance</code> rises "
        "first, while dimensions spread, then falls. Levels depend on the projector's width."
    )

    config: VicregConfig

    def __init__(
        self, config: VicregConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        check_batch(
            plan,
            why="VICReg takes variances over a batch",
            advice=" (the paper uses 2048, and 256 still works)",
        )
        self.projector = projector((backbone.width, *config.projector_dims))

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Invariance, variance and covariance of the views' projections."""
        config = self.config
        # Separate forwards: batch norms take their statistics from one view at a time.
        features_a = self.backbone(batch.views["a"]).pooled
        z_a = self.projector(features_a)
        z_b = self.projector(self.backbone(batch.views["b"]).pooled)
        terms = vicreg_terms(z_a, z_b)
        loss = terms.total(
            invariance_weight=config.invariance_weight,
            variance_weight=config.variance_weight,
            covariance_weight=config.covariance_weight,
        )
        metrics = detached(**terms._asdict(), feature_std=feature_std(features_a))
        return LossOutput(loss=loss, metrics=metrics)
