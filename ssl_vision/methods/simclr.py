"""SimCLR: the two views of a sample find each other among the views of all other samples.

Chen, Kornblith, Norouzi, Hinton 2020, arXiv 2002.05709 (SimCLR), equation 1; Chen, Kornblith,
Swersky, Norouzi, Hinton 2020, arXiv 2006.10029 (SimCLRv2), whose deeper head is the default and
whose fine-tuning starts inside it (`supervised`, `method.from_head_layer`). Authors' code:
google-research/simclr, tf2/.

Where we differ:
* An epoch's last, short batch is left out, and schedules count epochs of whole batches; theirs run
  on, over n * epochs // B + 1 updates.
* Colours: contrast and saturation blend with gray as torchvision's; theirs with the channels' own
  means, and in HSV. Levels are rounded once, theirs clipped after each operation.
* Blur draws its sigma per image; theirs one per batch.
* The memory (`memory_size`) is in the paper and not in their code: keys of view b by an average of
  the networks, as MoCo's, beside the negatives of the batch.
* `is_temperature_learned` is an option of ours.
* Negatives are those of a batch of all processes: accumulated batches do not see one another.
* The loss is in float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import set_drop_path
from ssl_vision.bounds import MAX_LAYERS, check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.losses.ntxent import nt_xent_loss
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    TrainPlan,
    detached,
    feature_std,
)
from ssl_vision.methods.checks import check_batch, check_view_names
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.heads import ContrastiveHead
from ssl_vision.nn.queue import FeatureQueue
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch, LossOutput, at_least_float32
from ssl_vision.views import ViewConfig

MAX_SCALE = 100.0  # of logits, where the temperature is learned: it may not run away


@dataclass(frozen=True, kw_only=True)
class SimclrConfig(MethodConfig):
    """Defaults are those of SimCLRv2's ImageNet runs, without the memory."""

    name: Literal["simclr"] = "simclr"
    projection_dim: int = 128
    num_head_layers: int = 3  # 2 in SimCLR (v1)
    temperature: float = 0.1
    is_temperature_learned: bool = False  # then `temperature` is the start
    directions: Literal["sum", "mean"] = "sum"  # the authors' code sums a to b and b to a
    memory_size: int = 0  # further negatives out of earlier batches; 65536 in SimCLRv2
    memory_momentum: float = 0.999  # of the networks that make them

    def __post_init__(self) -> None:
        # In one dimension embeddings of unit length are 1 or -1, and have no gradient.
        check_bounds("method.projection_dim", self.projection_dim, least=2)
        check_bounds("method.num_head_layers", self.num_head_layers, least=1, most=MAX_LAYERS)
        check_bounds("method.temperature", self.temperature, above=0)
        check_bounds("method.memory_size", self.memory_size, least=0)
        check_bounds("method.memory_momentum", self.memory_momentum, least=0, most=1)

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless there are two views, called `a` and `b`, each drawn once."""
        check_view_names(views, required=("a", "b"), method=self.name)
        sizes = views["a"].size_px, views["b"].size_px
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"data.views.a.size_px={sizes[0]} and data.views.b.size_px={sizes[1]} must "
                "be equal: SimCLR sends both views through the network as one batch."
            )


class Simclr(Method):
    """Backbone and head; both views pass them as one batch, as in the authors' code."""

    reading = (
        "The loss is the cross-entropy of finding a sample's other view among the other views "
        "of the batch, in both directions: it starts at twice ln(2B - 1), falls steeply in the "
        "first epochs and then slowly, and depends on the batch size and the temperature: "
        "compare it only between runs of the same recipe. <code>contrast_accuracy</code> says "
        "how often the other view is the nearest; near 1 from early on the task is too easy: "
        "strengthen the colour distortion or enlarge the batch."
    )

    config: SimclrConfig

    def __init__(
        self, config: SimclrConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        # With a memory one sample has others to be told from.
        alone = replace(plan, accumulate=1) if config.memory_size else plan
        check_batch(
            alone,
            why="SimCLR tells the samples of a batch apart",
            advice=" (the paper uses 4096, and 256 still works)",
        )
        self.projector = ContrastiveHead(
            backbone.width, config.projection_dim, num_layers=config.num_head_layers
        )
        self.log_scale: nn.Parameter | None = None
        if config.is_temperature_learned:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.memory: FeatureQueue | None = None
        if config.memory_size:
            self.memory = FeatureQueue(config.memory_size, config.projection_dim)
            self.memory_backbone = EmaTeacher(backbone)
            self.memory_projector = EmaTeacher(self.projector)
            set_drop_path(self.memory_backbone, 0.0)

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Cross-entropy of finding the other view, in both directions."""
        # One forward: batch norms take their statistics from both views together.
        features = self.backbone(torch.cat([batch.views["a"], batch.views["b"]])).pooled
        z_a, z_b = self.projector(features).chunk(2)
        temperature = self.temperature()
        result = nt_xent_loss(
            z_a,
            z_b,
            temperature=temperature,
            negatives=None if self.memory is None else self.memory.rows,
            is_negative=None if self.memory is None else self.memory.is_filled,
        )
        if self.memory is not None:
            self.memory.collect(self._keys(batch.views["b"]))
        factor = 2.0 if self.config.directions == "sum" else 1.0
        metrics = {
            "contrast": result.loss,
            "contrast_accuracy": result.accuracy,
            "feature_std": feature_std(features),
        }
        if isinstance(temperature, Tensor):
            metrics["temperature"] = temperature
        return LossOutput(loss=factor * result.loss, metrics=detached(**metrics))

    def temperature(self) -> float | Tensor:
        """tau, a tensor where it is learned."""
        if self.log_scale is None:
            return self.config.temperature
        return 1 / self.log_scale.exp().clamp(max=MAX_SCALE)

    def _keys(self, images: Tensor) -> Tensor:
        """What the averaged networks make of images, of unit length, (B, E)."""
        pooled = self.memory_backbone(images).pooled
        return F.normalize(at_least_float32(self.memory_projector(pooled)), dim=-1)

    def export_heads(self) -> dict[str, Tensor]:
        """The head: fine-tuning may start from its first layers."""
        return {f"projector.{name}": value for name, value in self.projector.state_dict().items()}

    # Around an update --------------------------------------------------------------------

    def after_update(self, step: int) -> None:
        """The memory takes the batch in, and its networks follow."""
        if self.memory is None:
            return
        momentum = self.config.memory_momentum
        self.memory_backbone.update(self.backbone, momentum=momentum)
        self.memory_projector.update(self.projector, momentum=momentum)
        self.memory.update()

    def after_skip(self, step: int) -> None:
        """Outputs of a skipped update must not reach the memory."""
        if self.memory is not None:
            self.memory.discard()

    def on_weights_loaded(self) -> None:
        """The memory's networks start from the new weights."""
        if self.memory is not None:
            self.memory_backbone.restart(self.backbone)
            self.memory_projector.restart(self.projector)
