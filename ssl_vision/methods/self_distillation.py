"""What methods share in which a student learns what its own average makes of other crops.

The teacher's momentum and temperature, the frozen last layers, masks on the global crops, centres,
and the order of things around an update: DINO (Caron et al. 2021), iBOT (Zhou et al. 2022),
DINOv2 (Oquab et al. 2023), POA (Zhang et al. 2024). What they compare, and with which weights,
stands in the methods themselves.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_vision import schedules
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.masking import PatchMasks, crop_masks
from ssl_vision.methods.base import Method, MethodConfig, TrainPlan
from ssl_vision.methods.checks import check_prototype_head, check_view_names
from ssl_vision.nn.centering import Center
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.heads import PrototypeHead
from ssl_vision.optim.recipe import OptimConfig, teacher_momentum
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

NUM_GLOBAL = 2  # crops the teacher sees


@dataclass(frozen=True, kw_only=True)
class SelfDistillationConfig(MethodConfig):
    """Common settings; a method states its own value where its paper has another."""

    # Head
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    num_head_layers: int = 3
    freeze_last_layer_epochs: float = 1.0
    # Teacher
    teacher_momentum: float = 0.996  # cosine to teacher_momentum_end
    teacher_momentum_end: float = 1.0
    student_temperature: float = 0.1  # tau_s
    teacher_temperature: float = 0.04  # tau_t after its warm-up
    teacher_temperature_start: float = 0.04
    teacher_temperature_epochs: float = 0.0  # linear warm-up, by update
    sinkhorn_iterations: int = 3
    # Masked patches (iBOT)
    patch_start_epochs: float = 0.0  # epochs before iBOT's loss and its masks set in
    mask_fraction: float = 0.5  # of the global crops
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # spread over the masked crops
    position_rule: Literal["timm", "dino"] = "timm"  # of a ViT's local crops; the codes have dino

    def __post_init__(self) -> None:
        for name in ("teacher_momentum", "teacher_momentum_end", "mask_fraction"):
            check_bounds(f"method.{name}", getattr(self, name), least=0, most=1)
        for name in ("student_temperature", "teacher_temperature", "teacher_temperature_start"):
            check_bounds(f"method.{name}", getattr(self, name), above=0)
        for name in ("freeze_last_layer", "teacher_temperature", "patch_start"):
            check_bounds(f"method.{name}_epochs", getattr(self, f"{name}_epochs"), least=0)
        check_bounds("method.sinkhorn_iterations", self.sinkhorn_iterations, least=1)
        check_prototype_head(self)
        if not 0 <= self.mask_ratio[0] <= self.mask_ratio[1] < 1:
            raise ConfigError(
                f"method.mask_ratio={list(self.mask_ratio)} must rise from 0 to below 1."
            )

    def check_masks(self, *, way_out: str) -> None:
        """Raise ConfigError unless patches are masked.

        Args:
            way_out: Setting without which none need be.
        """
        if not self.mask_fraction or not self.mask_ratio[1]:
            raise ConfigError(
                f"method.mask_fraction={self.mask_fraction} of the crops and method.mask_ratio="
                f"{list(self.mask_ratio)} of their patches mask nothing, and the loss on masked "
                f"patches is on; raise them, or set {way_out}."
            )

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Two global crops of one size and, optionally, a `local` view of k drawings."""
        check_view_names(
            views, required=("global_1", "global_2"), repeatable=("local",), method=self.name
        )
        sizes = views["global_1"].size_px, views["global_2"].size_px
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"data.views.global_1.size_px={sizes[0]} and data.views.global_2.size_px="
                f"{sizes[1]} must be equal: the teacher sees both in one batch."
            )


class SelfDistillation(Method):
    """Base of DINO and POA: a student, and the teacher `self.teacher` that follows it.

    Subclasses say which copies follow which networks (`_teachers`), which heads have a last layer
    to freeze (`_heads`) and which centres move with an update (`_centers`).

    Attributes:
        teacher: The backbone's average; exported.
        has_patch_loss: Whether masked patches are learned from, now or later.
    """

    has_moving_targets = True

    config: SelfDistillationConfig
    teacher: EmaTeacher[Backbone]
    has_patch_loss: bool

    def __init__(
        self,
        config: SelfDistillationConfig,
        backbone: Backbone,
        *,
        optim: OptimConfig,
        plan: TrainPlan,
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        if config.position_rule != "timm":
            backbone.set_position_rule(config.position_rule)

    # What a method defines ---------------------------------------------------------------

    def _teachers(self) -> Iterable[tuple[EmaTeacher[nn.Module], nn.Module]]:
        """Each teacher network with the student it follows."""
        raise NotImplementedError

    def _heads(self) -> Iterable[PrototypeHead]:
        """Heads whose last layer is frozen at first."""
        raise NotImplementedError

    def _centers(self) -> Iterable[Center]:
        """Centres that move once per update; none where targets are balanced by Sinkhorn."""
        return ()

    def mask_grid(self, size_px: int) -> int:
        """Side of the grid of patches that masks of crops of a side are drawn on."""
        return math.isqrt(self.backbone.num_patches(size_px))

    def notes(self) -> tuple[str, ...]:
        """What is set for a later epoch than the run has."""
        config, epochs = self.config, self.plan.epochs
        if epochs is None:
            return ()
        never = (
            ("patch_start", self.has_patch_loss, "the loss on masked patches never sets in"),
            ("freeze_last_layer", True, "the last layers of the heads are never trained"),
            (
                "teacher_temperature",
                config.teacher_temperature_start != config.teacher_temperature,
                "the teacher's temperature does not reach method.teacher_temperature",
            ),
        )
        return tuple(
            f"method.{name}_epochs={getattr(config, f'{name}_epochs'):g}, and the run has "
            f"{epochs}: {what}"
            for name, is_used, what in never
            if is_used and getattr(config, f"{name}_epochs") >= epochs
        )

    # For the loss ------------------------------------------------------------------------

    @staticmethod
    def global_crops(batch: Batch) -> Tensor:
        """What the teacher sees, crop by crop, (2 B, C, S, S)."""
        return torch.cat([batch.views["global_1"], batch.views["global_2"]])

    def masks(self, batch: Batch, *, size_px: int) -> PatchMasks:
        """Blocks on some of the global crops; none before the patch loss sets in.

        An empty mask is passed then, so that the mask token is part of the graph on all processes.
        """
        return crop_masks(
            batch.index,
            key=self.key("mask"),
            num_crops=NUM_GLOBAL,
            grid=self.mask_grid(size_px),
            masked_fraction=self.config.mask_fraction if self.is_patch_loss_on else 0.0,
            ratio_range=self.config.mask_ratio,
        )

    @property
    def is_patch_loss_on(self) -> bool:
        """Whether masked patches are learned yet."""
        start = self.config.patch_start_epochs * self.plan.steps_per_epoch
        return self.has_patch_loss and self.step >= start

    # Around an update --------------------------------------------------------------------

    def teacher_temperature(self, step: int) -> float:
        """Temperature tau_t of the teacher's outputs at an update."""
        return schedules.ramp(
            step,
            start=self.config.teacher_temperature_start,
            end=self.config.teacher_temperature,
            num=round(self.config.teacher_temperature_epochs * self.plan.steps_per_epoch),
        )

    def teacher_momentum(self, step: int) -> float:
        """Momentum m of the teacher at an update."""
        return teacher_momentum(
            self.optim, self.config, plan=self.plan, step=step, curve=schedules.cosine
        )

    def check_schedules(self) -> None:
        """The momentum's, too."""
        super().check_schedules()
        self.teacher_momentum(0)

    def before_update(self, step: int) -> None:
        """Clip, then drop the gradients of the last layers in the first epochs."""
        super().before_update(step)
        if step < self.config.freeze_last_layer_epochs * self.plan.steps_per_epoch:
            for head in self._heads():
                for parameter in head.last_layer.parameters():
                    parameter.grad = None  # no decay and no moments either

    def after_update(self, step: int) -> None:
        """Teachers follow the students, then the centres move."""
        momentum = self.teacher_momentum(step)
        for teacher, student in self._teachers():
            teacher.update(student, momentum=momentum)
        for center in self._centers():
            center.update()

    def after_skip(self, step: int) -> None:
        """Outputs of a skipped update must not reach the centres."""
        for center in self._centers():
            center.discard()

    def on_weights_loaded(self) -> None:
        """Teachers start from the students' new weights."""
        for teacher, student in self._teachers():
            teacher.restart(student)

    def export_backbone(self) -> Backbone:
        """The teacher's backbone, which is what the authors evaluate."""
        return self.teacher.network
