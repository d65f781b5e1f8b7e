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
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_vision import schedules
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import set_drop_path
from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.losses.distillation import (
    centered_targets,
    cross_view_entropy,
    entropy,
    masked_patch_entropy,
    sinkhorn,
)
from ssl_vision.losses.koleo import koleo
from ssl_vision.masking import PatchMasks
from ssl_vision.methods.base import TrainPlan, detached, feature_std
from ssl_vision.methods.self_distillation import (
    NUM_GLOBAL,
    SelfDistillation,
    SelfDistillationConfig,
)
from ssl_vision.nn.centering import Center
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.heads import PrototypeHead
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch, Features, LossOutput


@dataclass(frozen=True, kw_only=True)
class DinoConfig(SelfDistillationConfig):
    """Defaults are those of the authors' code (its "vanilla" recipe); the options are off."""

    name: Literal["dino"] = "dino"
    # Head
    num_prototypes: int = 65536  # K
    has_head_batch_norm: bool = False
    is_gain_frozen: bool = True  # norm_last_layer; the authors advise false for ViT-S
    freeze_last_layer_epochs: int = 1  # whole epochs, as in the authors' code
    # Teacher
    teacher_temperature: float = 0.04  # tau_t after its warm-up; 0.07 in the boosted recipe
    teacher_temperature_epochs: int = 0  # warm-up, linear by epoch; 30 in the boosted recipe
    center_momentum: float = 0.9
    # Options of DINOv2
    centering: Literal["center", "sinkhorn"] = "center"
    koleo_weight: float = 0.0  # 0.1 in DINOv2; per global crop
    patch_weight: float = 0.0  # iBOT's loss; 1.0 in DINOv2
    is_patch_head_shared: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("method.center_momentum", self.center_momentum, least=0, most=1)
        check_bounds("method.num_prototypes", self.num_prototypes, least=2)
        for name in ("koleo_weight", "patch_weight"):
            check_bounds(f"method.{name}", getattr(self, name), least=0)
        if self.patch_weight:
            self.check_masks(way_out="method.patch_weight=0")


class Dino(SelfDistillation):
    """Student and teacher, each a backbone and a head."""

    reading = (
        "The loss is a cross-entropy over K prototypes and starts near ln K. It may fall, rise and "
        "fall again, since the teacher moves: the curve alone proves nothing. Stuck at exactly "
        "ln K, the student answers every image alike. <code>teacher_entropy</code> should settle "
        "between 0 and ln K: at ln K the teacher is uniform, at 0 with "
        "<code>teacher_marginal_entropy</code> near 0 all images share one prototype. Watch kNN "
        "and the effective rank (<code>centred_rank</code>)."
    )

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
                    "timm or method.patch_weight=0."
                )
            backbone.add_mask_token()
        self.head = _head(config, backbone.width)
        self.teacher = EmaTeacher(backbone)
        self.teacher_head = EmaTeacher(self.head)
        set_drop_path(self.teacher, 0.0)
        self.center = Center(config.num_prototypes, momentum=config.center_momentum)
        self.patch_head: PrototypeHead | None = None
        self.teacher_patch_head: EmaTeacher[PrototypeHead] | None = None
        if self.has_patch_loss:
            self.patch_center = Center(config.num_prototypes, momentum=config.center_momentum)
            if not config.is_patch_head_shared:
                self.patch_head = _head(config, backbone.width)
                self.teacher_patch_head = EmaTeacher(self.patch_head)

    # The algorithm -----------------------------------------------------------------------

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Cross-entropy between teacher and student over pairs of different crops."""
        crops = self.global_crops(batch)
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
                f"({error}) Give it the size of data.views.global_1.size_px, or "
                "build the network with dynamic_img_size=True (a ViT of timm)."
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
        """Temperature tau_t of the teacher's outputs, constant within an epoch."""
        return schedules.ramp(
            step // self.plan.steps_per_epoch,
            start=self.config.teacher_temperature_start,
            end=self.config.teacher_temperature,
            num=self.config.teacher_temperature_epochs,
        )

    def _heads(self) -> list[PrototypeHead]:
        return [self.head] if self.patch_head is None else [self.head, self.patch_head]

    def _teachers(self) -> list[tuple[EmaTeacher[nn.Module], nn.Module]]:
        pairs: list[tuple[EmaTeacher[nn.Module], nn.Module]] = [
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
