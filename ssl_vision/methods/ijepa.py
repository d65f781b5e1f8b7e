"""I-JEPA: predict the features of hidden blocks of an image from those of what is seen.

Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas 2023, arXiv 2301.08243, section 3
and appendix A. Authors' code: facebookresearch/ijepa (CC BY-NC 4.0; nothing of it is here).

The encoder is a plain timm ViT without class token, with the fixed sine-cosine positions of MAE;
the network exported is its average, the target encoder.

Where we differ:
* `masks: keyed`, the default: where blocks lie depends on (seed, step, sample) and not on the
  batch, and they reach all patches, theirs never the last row and column; see
  `masking.multi_block_masks`. `masks: collator` draws as theirs, batch by batch.
* Their encoder's scaling of residual branches by depth does not survive their own start of the
  linear layers, and is left out.
* Their schedules count an update before they are asked: `optim.schedule_lead: 1`. Past their end
  ours stay where they ended (theirs turn round, which their runs never reach).
* A run in bf16 finds targets in bf16 and norms them in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Literal

from torch import Tensor, nn

from ssl_vision import schedules
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import set_drop_path
from ssl_vision.bounds import MAX_LAYERS, check_bounds
from ssl_vision.distributed import rank
from ssl_vision.errors import ConfigError
from ssl_vision.losses.latent import latent_loss, latent_targets
from ssl_vision.masking import (
    RARE,
    MultiBlockConfig,
    MultiBlockMasks,
    block_room,
    collator_masks,
    multi_block_masks,
)
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    TrainPlan,
    detached,
    feature_std,
)
from ssl_vision.methods.checks import check_view_names
from ssl_vision.methods.vit_encoder import check_patches_only, fix_positions
from ssl_vision.nn.decoder import init_as_mae
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.patches import take_blocks
from ssl_vision.nn.predictor import BlockPredictor, init_as_ijepa
from ssl_vision.optim.recipe import OptimConfig, teacher_momentum
from ssl_vision.randomness import keyed_generator
from ssl_vision.types import Batch, LossOutput
from ssl_vision.views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class IjepaConfig(MethodConfig):
    """Defaults are the paper's, of ViT-H/14 on ImageNet."""

    name: Literal["ijepa"] = "ijepa"
    masks: Literal["keyed", "collator"] = "keyed"  # collator: the authors' draws, by the batch
    blocks: MultiBlockConfig = field(default_factory=MultiBlockConfig)
    init: Literal["normal", "xavier"] = "normal"  # of all layers; xavier is MAE's, for small nets
    predictor_width: int = 384
    predictor_depth: int = 12
    predictor_num_heads: int | None = None  # null: as many as the encoder has
    teacher_momentum: float = 0.996  # linear to teacher_momentum_end
    teacher_momentum_end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("teacher_momentum", "teacher_momentum_end"):
            check_bounds(f"method.{name}", getattr(self, name), least=0, most=1)
        check_bounds("method.predictor_depth", self.predictor_depth, least=1, most=MAX_LAYERS)
        for name in ("predictor_width", "predictor_num_heads"):
            check_bounds(f"method.{name}", getattr(self, name), least=1)

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless there is one view, called `view`, drawn once."""
        check_view_names(views, required=("view",), method=self.name)


class Ijepa(Method):
    """Encoder of the patches seen, its average as target encoder, and a predictor between them.

    Attributes:
        teacher: The target encoder; exported.
    """

    has_moving_targets = True

    reading = (
        "The loss is the smooth-L1 distance of predicted features from the target encoder's, which "
        "are normed: 0.4 to 0.5 is the answer 'always the mean'. It falls at first, then often "
        "rises while the targets grow richer: its level proves nothing. Watch "
        "<code>target_std</code>, how far the targets of different images lie apart (falling "
        "towards 0 is collapse), kNN and the effective rank (<code>centred_rank</code>)."
    )

    config: IjepaConfig

    def __init__(
        self, config: IjepaConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        check_patches_only(backbone, method="ijepa")
        self.grid = isqrt(backbone.num_patches(plan.input_size))
        if self.grid < 2:
            raise ConfigError(
                f"data.views.view.size_px={plan.input_size}: method.name=ijepa predicts some "
                f"patches from others, and such a view is {self.grid} x {self.grid} patches of "
                f"{backbone.patch_px} px; raise it, or set backbone.args.patch_size lower."
            )
        self._check_room(plan.input_size)
        num_heads = config.predictor_num_heads or int(backbone.model.blocks[0].attn.num_heads)
        if config.predictor_width % 4 or config.predictor_width % num_heads:
            raise ConfigError(
                f"method.predictor_width={config.predictor_width} must be divisible by 4 and by "
                f"its {num_heads} heads; method.predictor_num_heads sets their number."
            )
        _init_encoder(backbone, init=config.init)
        self.predictor = BlockPredictor(
            backbone.width,
            grid=self.grid,
            width=config.predictor_width,
            depth=config.predictor_depth,
            num_heads=num_heads,
        )
        if config.init == "xavier":
            init_as_mae(self.predictor)
        self.teacher = EmaTeacher(backbone)
        set_drop_path(self.teacher, 0.0)

    def _check_room(self, size_px: int) -> None:
        """Refuse blocks without room on the grid: contexts would show their targets."""
        blocks, side = self.config.blocks, self.grid
        room = block_room(blocks, grid=(side, side), is_collated=self.config.masks == "collator")
        self._room = room
        if room.share <= RARE:
            return
        less = "" if room.min_keep is None else f"min_keep={room.min_keep} or less, "
        raise ConfigError(
            f"method.blocks.min_keep={blocks.min_keep} with target_scale="
            f"{list(blocks.target_scale)} has no room on {side} x {side} patches: at best "
            f"{room.most_left} are left beside the targets, and {room.share:.0%} of the images "
            f"would see patches they predict; set {less}a lower target_scale or num_targets, or "
            f"more patches (backbone.args.patch_size, data.views.view.size_px={size_px})."
        )

    def notes(self) -> tuple[str, ...]:
        """How often a context shows targets, where that happens."""
        if self._room.share < 1e-4:
            return ()
        return (
            f"{self._room.share:.2%} of the images see patches they predict: "
            f"method.blocks.min_keep={self.config.blocks.min_keep} is tight on {self.grid} x "
            f"{self.grid} patches",
        )

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Error of the predicted features of the hidden blocks."""
        images = batch.views["view"]
        masks = self.masks(batch.index)
        whole = self.teacher(images)
        targets = take_blocks(latent_targets(whole.patches), masks.targets)  # (M * B, m, D)
        seen = self.backbone.forward_visible(images, keep=masks.context)
        predicted = self.predictor(seen, context=masks.context, targets=masks.targets)
        return LossOutput(
            loss=latent_loss(predicted, targets),
            metrics=detached(
                feature_std=feature_std(whole.pooled),
                # How much targets differ between images at a place; 0: nothing left to predict.
                target_std=targets.unflatten(0, (-1, len(images))).std(dim=1, correction=0).mean(),
            ),
        )

    def masks(self, index: Tensor) -> MultiBlockMasks:
        """Patches to see and blocks to predict, for samples of these ids."""
        grid, key = (self.grid, self.grid), self.key("mask")
        if self.config.masks == "keyed":
            return multi_block_masks(index, key=key, grid=grid, config=self.config.blocks)
        drawn = collator_masks(
            len(index),
            size_seed=self.step,
            generator=keyed_generator(key, self.micro_step, rank()),
            grid=grid,
            config=self.config.blocks,
        )
        return MultiBlockMasks(*(part.to(index.device) for part in drawn))

    # Around an update --------------------------------------------------------------------

    def teacher_momentum(self, step: int) -> float:
        """Momentum of the target encoder at an update."""
        return teacher_momentum(
            self.optim, self.config, plan=self.plan, step=step, curve=schedules.linear
        )

    def check_schedules(self) -> None:
        """The momentum's, too."""
        super().check_schedules()
        self.teacher_momentum(0)

    def after_update(self, step: int) -> None:
        """The target encoder follows."""
        self.teacher.update(self.backbone, momentum=self.teacher_momentum(step))

    def on_weights_loaded(self) -> None:
        """The target encoder starts from the encoder's new weights."""
        self.teacher.restart(self.backbone)

    def export_backbone(self) -> Backbone:
        """The target encoder, which is what the authors evaluate."""
        return self.teacher.network


def _init_encoder(backbone: Backbone, *, init: str) -> None:
    """The authors' start and fixed positions, in a timm ViT."""
    model = backbone.model
    init_as_ijepa(model)
    if init == "xavier":
        # N(0, 0.02) suits a width of 1280; at 96 it leaves the blocks a fifth as loud.
        init_as_mae(model)
        # Positions are as loud whatever the patch. N(0, 0.02) makes 14 px of three channels about
        # as loud, and 4 px a tenth of it: targets then tell places apart and hardly images.
        weight = model.patch_embed.proj.weight
        nn.init.xavier_uniform_(weight.view(len(weight), -1))
    for parameter in model.fc_norm.parameters():  # after pooling, which training does not do
        parameter.requires_grad_(False)
    fix_positions(backbone, method="ijepa")
