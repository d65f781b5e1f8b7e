"""Barlow Twins: two views agree, dimension by dimension, and no two dimensions tell the same.

Zbontar, Jing, Misra, LeCun, Deny 2021, arXiv 2103.03230, equations 1 and 2. Authors' code:
facebookresearch/barlowtwins, main.py.

Where we differ:
* Gradients over several processes are the true ones; the authors' are 1/W of them (their
  all-reduce is outside autograd). `gradient: authors` gives theirs. Their rate of biases and norms
  and their weight decay belong to W = 16; the recipe has those of the same updates with true ones.
* The correlation is divided by the number of samples in the batch; the authors divide by the
  configured batch size, also in a shorter last batch.
* The correlation is in float32; under their autocast in float16.
* The last, short batch of an epoch is left out; theirs is used.
* The batch statistics they keep for the projections are used nowhere, and are not kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.bounds import check_bounds
from ssl_vision.losses.barlow_twins import GradientRule, barlow_twins_terms
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


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig(MethodConfig):
    """Defaults are those of the authors' ImageNet run."""

    name: Literal["barlow_twins"] = "barlow_twins"
    projector_dims: tuple[int, ...] = (8192, 8192, 8192)  # after the backbone's width
    redundancy_weight: float = 0.0051  # lambda of eq. 1, authors' main.py; the paper says 5e-3
    gradient: GradientRule = "true"  # over several processes; see losses.barlow_twins

    def __post_init__(self) -> None:
        check_projector(self.projector_dims)
        check_bounds("method.redundancy_weight", self.redundancy_weight, least=0)

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless there are two views, called `a` and `b`, each drawn once."""
        check_view_names(views, required=("a", "b"), method=self.name)


class BarlowTwins(Method):
    """Backbone and projector; both views pass them one after the other."""

    reading = (
        "The loss is the squared distance of the correlation matrix of two views from the "
        "identity. At the start it is near the projector's width (nothing on the diagonal agrees); "
        "it falls quickly, then slowly for the whole run, and its level depends on the projector's "
        "width and the redundancy weight: compare it only between runs of the same recipe. "
        "<code>invariance</code> is the diagonal's part, <code>redundancy</code> the rest. A loss "
        "that falls while the effective rank (<code>centred_rank</code>) falls too means copies of "
        "few dimensions."
    )

    config: BarlowTwinsConfig

    def __init__(
        self,
        config: BarlowTwinsConfig,
        backbone: Backbone,
        *,
        optim: OptimConfig,
        plan: TrainPlan,
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        check_batch(
            plan,
            why="Barlow Twins compares samples within a batch",
            advice=" (the paper uses 2048, and 128 still works)",
        )
        self.projector = projector((backbone.width, *config.projector_dims))

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Cross-correlation of the views' projections against the identity."""
        # Separate forwards: batch norms take their statistics from one view at a time.
        features_a = self.backbone(batch.views["a"]).pooled
        z_a = self.projector(features_a)
        z_b = self.projector(self.backbone(batch.views["b"]).pooled)
        terms = barlow_twins_terms(z_a, z_b, gradient=self.config.gradient)
        return LossOutput(
            loss=terms.total(self.config.redundancy_weight),
            metrics=detached(
                invariance=terms.invariance,
                redundancy=terms.redundancy,
                feature_std=feature_std(features_a),
            ),
        )
