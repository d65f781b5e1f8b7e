"""POA: one run trains a network together with all the smaller networks inside it.

Zhang, Guo, Fu, Yang, Cao, Guo, Wang, Luo, Liu, Chen 2024, arXiv 2408.01031, section 3. Authors'
code: alipay/POA at 00d9074. Each update, a teacher (the average of the student) teaches the intact
student and one of its sub-networks, drawn anew; the intact student also teaches the sub-network.
Afterwards `backbones.elastic.extract` takes networks of any size out of the teacher.

Where paper and code disagree we follow the code: pairs of crops pooled in one mean, KoLeo halved,
Sinkhorn without a softmax after it, the intact network not drawn. `crop_pooling: separate` is the
paper's. Where we differ from the code:
* Swin keeps pairs of blocks, `backbones.elastic_grid`, and normalises narrow patch embeddings over
  their own channels; so its parts are plain Swins.
* The order of sizes is a function of (seed, rank, step), not a generator's state; a resumed run
  goes on where it was. All batches of an accumulated update train one size.
* Stochastic depth drops each sample by itself; the code's ViT keeps exactly int(0.8 B) of a batch
  where the rate is above 0.1 (its Swin drops as we do).
* Norms of a ResNet's downsampling are not decayed; the code overlooks their names.
* Networks run under autocast, KoLeo in float32; the code runs whole modules in half (FSDP).
* While the last layers are frozen they collect no moments; the code trains them at rate 0.
* Updates are skipped on all processes if a loss or gradient is not finite on one; the code decides
  per process.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssl_vision.backbones import elastic
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import level_drop_path, set_drop_path
from ssl_vision.backbones.elastic_families import extent_of
from ssl_vision.backbones.elastic_grid import ElasticConfig, Size, candidates, draw
from ssl_vision.bounds import check_bounds, check_some
from ssl_vision.distributed import rank
from ssl_vision.errors import ConfigError
from ssl_vision.losses.distillation import sinkhorn
from ssl_vision.losses.koleo import koleo
from ssl_vision.losses.poa import Logits, PoaTerms, Targets, poa_loss, poa_terms
from ssl_vision.masking import PatchMasks
from ssl_vision.methods.base import TrainPlan, detached, feature_std
from ssl_vision.methods.self_distillation import (
    NUM_GLOBAL,
    SelfDistillation,
    SelfDistillationConfig,
)
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.heads import PrototypeHead
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch, Features, LossOutput

# Norms after the last block of timm's ViTs and Swins, and of its ConvNeXts.
_LAST_NORMS = ("backbone.model.norm.", "backbone.model.fc_norm.", "backbone.model.head.norm.")


@dataclass(frozen=True, kw_only=True)
class PoaConfig(SelfDistillationConfig):
    """Defaults are the authors' ViT-L/16 recipe (vit_ee1200.yaml)."""

    name: Literal["poa"] = "poa"
    # Sub-networks
    elastic: ElasticConfig = field(default_factory=ElasticConfig)  # sizes; alpha: is_rescaled
    width_bias: float = 3.0  # S for widths: the smallest is drawn S times as often as the largest
    depth_bias: float = 3.0  # S for depths; Swin 2 and 2, ResNet 1 and 2
    draw_per: Literal["process", "update"] = "process"  # a size per process, or one for all
    # Loss
    intact_weight: float = 0.8  # lambda; the elastic student weighs 1 - lambda
    has_cross_view: bool = True  # teacher -> elastic student
    has_same_view: bool = True  # intact -> elastic student
    crop_pooling: Literal["pooled", "separate"] = "pooled"
    koleo_weight: float = 0.1  # gamma; halved, per global crop and student
    # Masked patches (iBOT)
    has_patch_loss: bool = True
    patch_start_epochs: float = 30.0  # epochs before it and its masks set in
    pyramid_scale: int = 2  # patch tokens of Swin, ResNet and ConvNeXt: last map, enlarged
    # Heads
    num_prototypes: tuple[int, ...] = (8192, 16384, 32768, 65536)  # K of each head
    patch_embed_lr_factor: float = 0.2
    # Teacher
    teacher_momentum: float = 0.992  # cosine to teacher_momentum_end
    teacher_momentum_end: float = 0.9999
    teacher_temperature: float = 0.07
    teacher_temperature_epochs: float = 30.0  # linear warm-up, by update
    is_drop_path_uniform: bool = False  # backbone.drop_path in every block; the code's ViT

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("method.intact_weight", self.intact_weight, least=0, most=1)
        for name in ("width_bias", "depth_bias", "pyramid_scale"):
            check_bounds(f"method.{name}", getattr(self, name), least=1)
        for name in ("koleo_weight", "patch_embed_lr_factor"):
            check_bounds(f"method.{name}", getattr(self, name), least=0)
        check_some("method.num_prototypes", self.num_prototypes)
        check_bounds("method.num_prototypes", self.num_prototypes, least=2)
        if self.has_patch_loss:
            self.check_masks(way_out="method.has_patch_loss=false")
        if not (self.has_cross_view or self.has_same_view) and self.intact_weight < 1:
            raise ConfigError(
                "method.has_cross_view and method.has_same_view are both false: nothing would "
                "teach the elastic student. Switch one on, or train the network alone with "
                "method.name=dino."
            )


class Tokens(NamedTuple):
    """What one network makes of a batch, in the shape the heads take.

    Attributes:
        rows: Class tokens crop by crop, then masked patch tokens, (V * B + M, D).
        num_crop_rows: V * B.
        global_pooled: Class tokens of the global crops, (2 B, D).
    """

    rows: Tensor
    num_crop_rows: int
    global_pooled: Tensor


class Poa(SelfDistillation):
    """Student and teacher, each a backbone and several heads."""

    reading = (
        "As for DINO, with one curve per student: the intact one and the elastic one drawn anew at "
        "every step, whose loss is noisier because its size changes. The two should fall together."
    )

    is_shardable = False  # a sub-network is slices of whole parameters
    config: PoaConfig

    def __init__(
        self, config: PoaConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        self.has_patch_loss = config.has_patch_loss
        if self.has_patch_loss:
            backbone.add_mask_token(std=0.0)
        if config.is_drop_path_uniform:
            level_drop_path(backbone)
        self.drawn_sizes = candidates(
            extent_of(backbone.model, config.elastic),
            width_bias=config.width_bias,
            depth_bias=config.depth_bias,
        )
        self.heads = nn.ModuleList(
            PrototypeHead(
                backbone.width,
                num_prototypes,
                hidden_dim=config.hidden_dim,
                bottleneck_dim=config.bottleneck_dim,
                num_layers=config.num_head_layers,
                is_gain_frozen=False,
            )
            for num_prototypes in config.num_prototypes
        )
        self._has_last_norm = any(n.startswith(_LAST_NORMS) for n, _ in self.named_parameters())
        self.teacher = EmaTeacher(backbone)
        self.teacher_heads = EmaTeacher(self.heads)
        set_drop_path(self.teacher, 0.0)

    # The algorithm -----------------------------------------------------------------------

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Teacher to both students across crops, and student to student on each crop."""
        crops = self.global_crops(batch)
        local = batch.views.get("local")
        masks = self.masks(batch, size_px=crops.shape[-1]) if self.has_patch_loss else None
        teacher = self.tokens(self.teacher, crops, None, masks, is_masked=False)
        intact = self.tokens(self.backbone, crops, local, masks)
        size = self.draw_size()
        # Cut once: both calls share the slices, and their gradients meet in the parent.
        network = elastic.cut(self.backbone, size, self.config.elastic)
        narrow = self.tokens(network, crops, local, masks)
        terms = [
            self._head_terms(head, teacher_head, (teacher, intact, narrow), masks, batch)
            for head, teacher_head in zip(self.heads, self.teacher_heads.network, strict=True)
        ]
        loss = torch.stack([self._weighted(term) for term in terms]).mean()
        spread = self._koleo(intact) + self._koleo(narrow)
        loss = loss + self.config.koleo_weight / 2 * spread
        means = {
            name: torch.stack([getattr(term, name) for term in terms]).mean()
            for name in PoaTerms._fields
        }
        return LossOutput(
            loss=loss,
            metrics=detached(
                **means,
                **self._pinned(means["cross_intact"], has_local=local is not None),
                koleo=spread,
                feature_std=feature_std(teacher.global_pooled),
                elastic_width=loss.new_tensor(float(size[0])),
                elastic_depth=loss.new_tensor(float(sum(size[1:]))),
            ),
        )

    def tokens(
        self,
        network: Any,
        crops: Tensor,
        local: Tensor | None,
        masks: PatchMasks | None,
        *,
        is_masked: bool = True,
    ) -> Tokens:
        """Run a network on the global and local crops.

        Args:
            network: Backbone, teacher or sub-network.
            crops: Global crops, (2B, C, S, S).
            local: Local crops, (V' * B, C, s, s).
            masks: Which patches are learned from; none of them once no patch is.
            is_masked: Whether the network sees the mask token in their place; the teacher does not.
        """
        mask = masks.mask if masks is not None and is_masked else None
        features: Features = network(crops, mask=mask)
        pooled = [features.pooled] if local is None else [features.pooled, network(local).pooled]
        num_crop_rows = sum(len(part) for part in pooled)
        if masks is not None and self.is_patch_loss_on:
            pooled.append(self._patch_tokens(features, masks))
        return Tokens(torch.cat(pooled), num_crop_rows, features.pooled)

    def _patch_tokens(self, features: Features, masks: PatchMasks) -> Tensor:
        """Masked patch tokens, (M, D); a pyramid's last map is enlarged to the grid of masks."""
        assert features.patches is not None
        patches = features.patches
        if not self.backbone.has_tokens:
            scale, side = self.config.pyramid_scale, math.isqrt(patches.shape[1])
            grid = patches.unflatten(1, (side, side))
            grid = grid.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
            patches = grid.flatten(1, 2)
        return patches.flatten(0, 1)[masks.rows]

    def _head_terms(
        self,
        head: nn.Module,
        teacher_head: nn.Module,
        networks: tuple[Tokens, Tokens, Tokens],
        masks: PatchMasks | None,
        batch: Batch,
    ) -> PoaTerms:
        """Terms of one head on what teacher, intact and elastic student made of the batch."""
        teacher, intact, narrow = networks
        with torch.no_grad():
            targets = self.targets(
                self._split(teacher_head(teacher.rows), teacher, batch.num_samples)
            )
        if masks is not None:
            targets = targets._replace(patch_weight=masks.weight)
        return poa_terms(
            targets,
            self._split(head(intact.rows), intact, batch.num_samples),
            self._split(
                elastic.forward_head(head, narrow.rows, self.config.elastic),
                narrow,
                batch.num_samples,
            ),
            temperature=self.config.student_temperature,
            pooling=self.config.crop_pooling,
        )

    def _split(self, logits: Tensor, tokens: Tokens, num_samples: int) -> Logits:
        """Rows of logits -> those of crops, (V, B, K), and those of patches, (M, K)."""
        crops = logits[: tokens.num_crop_rows].unflatten(0, (-1, num_samples))
        return Logits(crops, logits[tokens.num_crop_rows :] if self.is_patch_loss_on else None)

    def targets(self, logits: Logits) -> Targets:
        """Teacher's distributions, balanced over all processes; crops and patches separately."""
        temperature = self.teacher_temperature(self.step)
        iterations = self.config.sinkhorn_iterations

        def balance(rows: Tensor) -> Tensor:
            return sinkhorn(rows, temperature=temperature, iterations=iterations)

        crops = balance(logits.crops.flatten(0, 1)).unflatten(0, (NUM_GLOBAL, -1))
        return Targets(crops, None if logits.patches is None else balance(logits.patches))

    def _weighted(self, terms: PoaTerms) -> Tensor:
        return poa_loss(
            terms,
            intact_weight=self.config.intact_weight,
            has_cross_view=self.config.has_cross_view,
            has_same_view=self.config.has_same_view,
        )

    def _pinned(self, cross_intact: Tensor, *, has_local: bool) -> dict[str, Tensor]:
        """Loss of a pair of crops, and what it is while all answers are uniform."""
        num_means = 2 if self.config.crop_pooling == "separate" and has_local else 1
        ln_k = sum(map(math.log, self.config.num_prototypes)) / len(self.config.num_prototypes)
        return {"cross_view": cross_intact / num_means, "ln_k": cross_intact.new_full((), ln_k)}

    def _koleo(self, tokens: Tokens) -> Tensor:
        return torch.stack([koleo(crop) for crop in tokens.global_pooled.chunk(NUM_GLOBAL)]).sum()

    # What a step draws -------------------------------------------------------------------

    def draw_size(self) -> Size:
        """Size of this update's elastic student, a function of (seed, rank, step)."""
        process = rank() if self.config.draw_per == "process" else 0
        return draw(self.drawn_sizes, step=self.step, key=(self.plan.seed, "size", process))

    def mask_grid(self, size_px: int) -> int:
        """Grid of the masks; that of a pyramid is what its last map is enlarged to."""
        side = super().mask_grid(size_px)
        return side if self.backbone.has_tokens else side * self.config.pyramid_scale

    # Parameters --------------------------------------------------------------------------

    def layer_id(self, name: str) -> int | None:
        """Depth at which the last layer of the backbone is not slowed, as in the authors' code.

        That layer is the norm after the last block, or a ResNet's last block: it has no such norm.
        """
        depth = super().layer_id(name)
        if depth is None or not self._has_last_norm:
            return None if depth is None else depth + 1
        return self.backbone.num_layers if name.startswith(_LAST_NORMS) else depth

    def lr_factor(self, name: str) -> float:
        """Patch embeddings learn slower, by `patch_embed_lr_factor`."""
        return self.config.patch_embed_lr_factor if ".patch_embed." in name else 1.0

    def _heads(self) -> Iterator[PrototypeHead]:
        for head in self.heads:
            assert isinstance(head, PrototypeHead)
            yield head

    def _teachers(self) -> list[tuple[EmaTeacher[nn.Module], nn.Module]]:
        # The elastic student is part of the whole one.
        return [(self.teacher, self.backbone), (self.teacher_heads, self.heads)]
