"""DINO: a student's every crop matches what its own average made of another, larger crop.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin 2021, arXiv 2104.14294, algorithm 1 and
section 3. Authors' code: facebookresearch/dino, main_dino.py. Options of DINOv2 (Oquab et al.
2023, arXiv 2304.07193; facebookresearch/dinov2): iBOT's loss on masked patches (Zhou et al. 2022),
KoLeo, and Sinkhorn targets instead of centring.

Where we differ:
* Positions of crops of another size are resampled by timm (by size, with antialiasing);
  `position_rule: dino` gives the authors' (by a scale factor, without).
* Class tokens start as timm's, N(0, 1e-6); theirs from N(0, 0.02). Recipes train in bf16, theirs in
  fp16 with loss scaling: rounding moves the teacher's targets by 2e-5 to 3e-5 nats.
* The centre moves once per optimizer update, by all teacher outputs of it, so that accumulated
  batches equal one large batch; a skipped update leaves it as it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_vision import schedules
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import set_drop_path
from ssl_vision.errors import ConfigError
from ssl_vision.losses.distillation import (
    centered_targets,
    cross_view_entropy,
    entropy,
    masked_patch_entropy,
    sinkhorn,
)
from ssl_vision.losses.koleo import koleo
from ssl_vision.masking import PatchMasks, crop_masks
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    TrainPlan,
    check_view_names,
    detached,
    feature_std,
)
from ssl_vision.nn.centering import Center
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.heads import PrototypeHead
from ssl_vision.optim.recipe import OptimConfig, stretched_steps
from ssl_vision.types import Batch, Features, LossOutput
from ssl_vision.views import ViewConfig

NUM_GLOBAL = 2  # crops the teacher sees


@dataclass(frozen=True, kw_only=True)
class DinoConfig(MethodConfig):
    """Defaults are those of the authors' code (its "vanilla" recipe); the options are off."""

    name: Literal["dino"] = "dino"
    # Head
    num_prototypes: int = 65536  # K
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    num_head_layers: int = 3
    has_head_batch_norm: bool = False
    is_gain_frozen: bool = True  # norm_last_layer; the authors advise false for ViT-S
    freeze_last_layer_epochs: int = 1
    # Teacher
    teacher_momentum: float = 0.996  # cosine to teacher_momentum_end
    teacher_momentum_end: float = 1.0
    student_temperature: float = 0.1  # tau_s
    teacher_temperature: float = 0.04  # tau_t after its warm-up; 0.07 in the boosted recipe
    teacher_temperature_start: float = 0.04
    teacher_temperature_epochs: int = 0  # warm-up, linear by epoch; 30 in the boosted recipe
    center_momentum: float = 0.9
    # Options of DINOv2
    centering: Literal["center", "sinkhorn"] = "center"
    sinkhorn_iterations: int = 3
    koleo_weight: float = 0.0  # 0.1 in DINOv2; per global crop
    patch_weight: float = 0.0  # iBOT's loss; 1.0 in DINOv2
    patch_start_epochs: float = 0.0  # epochs before iBOT's loss and its masks set in
    mask_fraction: float = 0.5  # of the global crops
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # spread over the masked crops
    is_patch_head_shared: bool = True
    position_rule: Literal["timm", "dino"] = "timm"

    def __post_init__(self) -> None:
        for name in ("teacher_momentum", "teacher_momentum_end", "center_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"method.{name}={getattr(self, name)} must be from 0 to 1.")
        for name in ("student_temperature", "teacher_temperature", "teacher_temperature_start"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"method.{name}={getattr(self, name)} must be above 0.")
        for name in ("num_prototypes", "hidden_dim", "bottleneck_dim", "num_head_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.{name}={getattr(self, name)} must be 1 or more.")
        if not 0 <= self.mask_ratio[0] <= self.mask_ratio[1] < 1:
            raise ConfigError(
                f"method.mask_ratio={list(self.mask_ratio)} must rise from 0 to below 1."
            )

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Two global crops of one size and, optionally, a `local` view of k drawings."""
        check_view_names(
            views, required=("global_1", "global_2"), repeatable=("local",), method=self.name
        )
        sizes = views["global_1"].size_px, views["global_2"].size_px
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"data.views.global_1.size_px={sizes[0]} and global_2.size_px={sizes[1]} must be "
                "equal: the teacher sees both in one batch."
            )


class Dino(Method):
    """Student and teacher, each a backbone and a head."""

    config: DinoConfig

    def __init__(
        self, config: DinoConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        self.has_patch_loss = config.patch_weight > 0
        if self.has_patch_loss:
            if not backbone.has_tokens:
                raise ConfigError(
                    f"method.patch_weight={config.patch_weight} masks patches, and "
                    f"backbone.name={backbone.architecture} has no patch tokens; use a ViT of "
                    "timm or patch_weight=0."
                )
            backbone.add_mask_token()
        if config.position_rule != "timm":
            backbone.set_position_rule(config.position_rule)
        self.head = _head(config, backbone.width)
        self.teacher = EmaTeacher(backbone)
        self.teacher_head = EmaTeacher(self.head)
        set_drop_path(self.teacher, 0.0)
        self.center = Center(config.num_prototypes, momentum=config.center_momentum)
        self.patch_head: PrototypeHead | None = None
        self.teacher_patch_head: EmaTeacher | None = None
        if self.has_patch_loss:
            self.patch_center = Center(config.num_prototypes, momentum=config.center_momentum)
            if not config.is_patch_head_shared:
                self.patch_head = _head(config, backbone.width)
                self.teacher_patch_head = EmaTeacher(self.patch_head)

    # The algorithm -----------------------------------------------------------------------

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Cross-entropy between teacher and student over pairs of different crops."""
        crops = torch.cat([batch.views["global_1"], batch.views["global_2"]])  # (2B, C, S, S)
        masks = self.masks(batch, size_px=crops.shape[-1]) if self.has_patch_loss else None
        teacher: Features = self.teacher(crops)
        targets = self.targets(self.teacher_head(teacher.pooled), self.center)  # (2B, K)
        student, pooled = self._student(crops, batch.views.get("local"), masks)
        logits = self.head(pooled)  # (V * B, K), crop by crop
        loss = cross_view_entropy(
            logits.unflatten(0, (-1, batch.num_samples)),
            targets.unflatten(0, (NUM_GLOBAL, -1)),
            temperature=self.config.student_temperature,
        )
        metrics = {"cross_view": loss, **self._observe(teacher, targets, logits)}
        if self.config.koleo_weight:
            per_crop = [koleo(crop) for crop in student.pooled.chunk(NUM_GLOBAL)]
            metrics["koleo"] = torch.stack(per_crop).sum()
            loss = loss + self.config.koleo_weight * metrics["koleo"]
        if masks is not None and self.is_patch_loss_on:
            metrics["patch"] = self._patch_loss(student, teacher, masks)
            loss = loss + self.config.patch_weight * metrics["patch"]
        elif self.patch_head is not None and student.patches is not None:
            # No rows, a sum of 0: DDP waits for a gradient of every parameter.
            loss = loss + self.patch_head(student.patches.flatten(0, 1)[:0]).sum()
        return LossOutput(loss=loss, metrics=detached(**metrics))

    def _student(
        self, crops: Tensor, local: Tensor | None, masks: PatchMasks | None
    ) -> tuple[Features, Tensor]:
        """Features of the global crops, and pooled features of all crops.

        Crops of one size are one batch, as in the authors' code: batch norms see them together.
        """
        mask = None if masks is None else masks.mask
        if local is None:
            student = self.backbone(crops, mask=mask)
            return student, student.pooled
        if local.shape[-1] == crops.shape[-1] and mask is None:
            student = self.backbone(torch.cat([crops, local]))
            num = len(crops)
            patches = None if student.patches is None else student.patches[:num]
            return Features(student.pooled[:num], patches), student.pooled
        student, small = self._by_size(crops, local, mask)
        return student, torch.cat([student.pooled, small.pooled])

    def _by_size(self, crops: Tensor, local: Tensor, mask: Tensor | None) -> list[Features]:
        """Features of the global and of the local crops."""
        try:
            return self.backbone.forward_groups([crops, local], masks=[mask, None])
        except AssertionError as error:  # timm's check of the input size
            raise ConfigError(
                f"data.views.local.size_px={local.shape[-1]}: "
                f"backbone.name={self.backbone.architecture} takes images of one size only "
                f"({error}) Give the local view the size of the global ones."
            ) from error

    def _patch_loss(self, student: Features, teacher: Features, masks: PatchMasks) -> Tensor:
        """Cross-entropy on masked patches: iBOT's equation 2, weighted as DINOv2."""
        assert student.patches is not None
        assert teacher.patches is not None
        head = self.patch_head or self.head
        teacher_head = self.teacher_patch_head or self.teacher_head
        logits = teacher_head(teacher.patches.flatten(0, 1)[masks.rows])  # (M, K)
        return masked_patch_entropy(
            head(student.patches.flatten(0, 1)[masks.rows]),
            self.targets(logits, self.patch_center),
            temperature=self.config.student_temperature,
            weight=masks.weight,
            num_images=len(masks.mask),
        )

    def targets(self, logits: Tensor, center: Center) -> Tensor:
        """Teacher's distributions, with the centre as it was before this batch."""
        temperature = self.teacher_temperature(self.step)
        if self.config.centering == "sinkhorn":
            return sinkhorn(
                logits, temperature=temperature, iterations=self.config.sinkhorn_iterations
            )
        center.collect(logits)
        return centered_targets(logits, center=center.center, temperature=temperature)

    def masks(self, batch: Batch, *, size_px: int) -> PatchMasks:
        """Blocks on some of the global crops; none before iBOT's loss sets in.

        An empty mask is passed then, so that the mask token is part of the graph on all processes.
        """
        grid = math.isqrt(self.backbone.num_patches(size_px))
        return crop_masks(
            batch.index,
            key=self.key("mask"),
            num_crops=NUM_GLOBAL,
            grid=grid,
            masked_fraction=self.config.mask_fraction if self.is_patch_loss_on else 0.0,
            ratio_range=self.config.mask_ratio,
        )

    @property
    def is_patch_loss_on(self) -> bool:
        """Whether iBOT's loss has set in."""
        start = self.config.patch_start_epochs * self.plan.steps_per_epoch
        return self.has_patch_loss and self.step >= start

    @torch.no_grad()
    def _observe(self, teacher: Features, targets: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """What tells a collapse: entropies near 0 or ln K, features without spread."""
        student = (logits[: len(targets)].float() / self.config.student_temperature).softmax(-1)
        return {
            "teacher_entropy": entropy(targets),
            "teacher_marginal_entropy": entropy(targets.mean(dim=0)),  # 0: one prototype for all
            "student_entropy": entropy(student),
            "ln_k": targets.new_full((), math.log(self.config.num_prototypes)),
            "feature_std": feature_std(teacher.pooled),
        }

    # Around an update --------------------------------------------------------------------

    def teacher_temperature(self, step: int) -> float:
        """tau_t of an update; constant within an epoch."""
        return schedules.ramp(
            step // self.plan.steps_per_epoch,
            start=self.config.teacher_temperature_start,
            end=self.config.teacher_temperature,
            num=self.config.teacher_temperature_epochs,
        )

    def teacher_momentum(self, step: int) -> float:
        """Momentum m of an update."""
        return schedules.cosine(
            step,
            start=self.config.teacher_momentum,
            end=self.config.teacher_momentum_end,
            total_steps=stretched_steps(self.optim, plan=self.plan),
        )

    def before_update(self, step: int) -> None:
        """Clip, then drop the gradients of the last layer in the first epochs."""
        super().before_update(step)
        if step < self.config.freeze_last_layer_epochs * self.plan.steps_per_epoch:
            for head in self._heads():
                for parameter in head.last_layer.parameters():
                    parameter.grad = None  # no decay and no moments either

    def after_update(self, step: int) -> None:
        """Teacher follows the student, then the centre moves."""
        momentum = self.teacher_momentum(step)
        for teacher, student in self._teachers():
            teacher.update(student, momentum=momentum)
        for center in self._centers():
            center.update()

    def after_skip(self, step: int) -> None:
        """Outputs of a skipped update must not reach the centre."""
        for center in self._centers():
            center.discard()

    def on_weights_loaded(self) -> None:
        """Teacher starts from the student's new weights."""
        for teacher, student in self._teachers():
            teacher.restart(student)

    def export_backbone(self) -> Backbone:
        """The teacher's."""
        network: Any = self.teacher.network
        assert isinstance(network, Backbone)
        return network

    def _heads(self) -> list[PrototypeHead]:
        return [self.head] if self.patch_head is None else [self.head, self.patch_head]

    def _teachers(self) -> list[tuple[EmaTeacher, nn.Module]]:
        pairs: list[tuple[EmaTeacher, nn.Module]] = [
            (self.teacher, self.backbone),
            (self.teacher_head, self.head),
        ]
        if self.teacher_patch_head is not None and self.patch_head is not None:
            pairs.append((self.teacher_patch_head, self.patch_head))
        return pairs

    def _centers(self) -> list[Center]:
        if self.config.centering != "center":
            return []
        return [self.center, self.patch_center] if self.has_patch_loss else [self.center]


def _head(config: DinoConfig, width: int) -> PrototypeHead:
    return PrototypeHead(
        width,
        config.num_prototypes,
        hidden_dim=config.hidden_dim,
        bottleneck_dim=config.bottleneck_dim,
        num_layers=config.num_head_layers,
        has_batch_norm=config.has_head_batch_norm,
        is_gain_frozen=config.is_gain_frozen,
    )
