"""MAE: reconstruct the pixels of hidden patches from the few that are seen.

He, Chen, Xie, Li, Dollár, Girshick 2021, arXiv 2111.06377, sections 3 and A.1. Authors' code:
facebookresearch/mae, models_mae.py and engine_pretrain.py.

The encoder is a plain timm ViT whose positions are set to the fixed sine-cosine table, so what is
exported needs nothing of this file.

With `match_teacher` it is the second stage of self-distillation for further pre-training: Lee,
Kang, Lee, Hwang, Kawaguchi 2023, arXiv 2210.02871; authors' code: seanie12/self-distillation. From
the weights that stage 1, plain MAE on the target images, began with, the network learns the same
task and stays close to what stage 1 made of whole images: to its class token, or, in networks that
pool their patches, to the mean of these, a variant of ours. The sum is one backward pass.

Where we differ: none known in the arithmetic. Noise comes from keys of (seed, step, sample), not
from a device's generator. Recipes train in bf16, theirs in fp16 with loss scaling.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.bounds import MAX_LAYERS, check_bounds
from ssl_vision.data.config import InputSpec
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.insight import reconstruction_rows
from ssl_vision.evaluation.pictures import sheet
from ssl_vision.losses.distill import squared_distance
from ssl_vision.losses.reconstruction import (
    denormalize_patches,
    masked_patch_loss,
)
from ssl_vision.masking import MaskSplit, num_kept, random_mask
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    Picture,
    TrainPlan,
    detached,
    feature_std,
)
from ssl_vision.methods.checks import check_view_names
from ssl_vision.methods.teachers import FrozenTeacher, TeacherConfig, load_teacher
from ssl_vision.methods.vit_encoder import check_tokens, init_as_mae_encoder, pixel_targets
from ssl_vision.nn.decoder import MaskedDecoder
from ssl_vision.nn.patches import patchify, unpatchify
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.randomness import keyed_uniform
from ssl_vision.types import Batch, LossOutput
from ssl_vision.views import ViewConfig

_PICTURE_PX = 160  # side of one picture of a reconstruction


@dataclass(frozen=True, kw_only=True)
class MaeConfig(MethodConfig):
    """Defaults are the paper's, of its ImageNet runs."""

    name: Literal["mae"] = "mae"
    mask_ratio: float = 0.75  # fraction of the patches hidden from the encoder
    is_target_normalized: bool = True  # per patch; the paper's best variant, the released weights'
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    # Self-distillation, from init_from: the network that stage 1 made of it
    match_teacher: str | None = None  # its run or export folder, zoo:NAME or timm:NAME
    match_weight: float = 1.0  # of the squared distance of features of whole images

    def __post_init__(self) -> None:
        check_bounds("method.match_weight", self.match_weight, above=0)
        check_bounds("method.mask_ratio", self.mask_ratio, above=0, below=1)
        # Without a block no hidden patch would learn of a seen one: all would be predicted alike.
        check_bounds("method.decoder_depth", self.decoder_depth, least=1, most=MAX_LAYERS)
        for name in ("decoder_width", "decoder_num_heads"):
            check_bounds(f"method.{name}", getattr(self, name), least=1)
        if self.decoder_width % 4 or self.decoder_width % self.decoder_num_heads:
            raise ConfigError(
                f"method.decoder_width={self.decoder_width} must be divisible by 4 and by "
                f"method.decoder_num_heads={self.decoder_num_heads}."
            )

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless there is one view, called `view`, drawn once."""
        check_view_names(views, required=("view",), method=self.name)

    def alone(self) -> Self:
        """Without the network of stage 1."""
        return replace(self, match_teacher=None)


class Reconstruction(NamedTuple):
    """Pictures of what the network makes of hidden patches, each (B, C, S, S), as normalised input.

    Attributes:
        masked: The image, hidden patches at 0.
        predicted: Every patch as predicted.
        pasted: Seen patches of the image, hidden ones as predicted.
    """

    masked: Tensor
    predicted: Tensor
    pasted: Tensor


class Mae(Method):
    """ViT encoder on the visible patches, light decoder on all."""

    reading = (
        "The loss is the squared error of the hidden patches, each normalised to variance 1: 1.0 "
        "is the answer 'always the mean'. It falls below 1 within the first epochs and then "
        "slowly; 0.4 to 0.6 is usual on photographs. It says little about the features: MAE's kNN "
        "accuracy is low by nature and rises late; fine-tune or use a linear probe to judge. With "
        "<code>match_teacher</code> it is <code>reconstruction</code> plus <code>match</code>."
    )

    config: MaeConfig

    def __init__(
        self, config: MaeConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        self.patch_px = check_tokens(backbone, method="mae")
        num_patches = backbone.num_patches(plan.input_size)
        self.num_keep = num_kept(num_patches, mask_ratio=config.mask_ratio)
        if not 0 < self.num_keep < num_patches:
            raise ConfigError(
                f"method.mask_ratio={config.mask_ratio} leaves {self.num_keep} of {num_patches} "
                "patches; at least one must be seen and one hidden."
            )
        init_as_mae_encoder(backbone, method="mae")
        num_channels = backbone.model.patch_embed.proj.weight.shape[1]
        self.decoder = MaskedDecoder(
            backbone.width,
            self.patch_px**2 * num_channels,
            grid=isqrt(num_patches),
            num_prefix=backbone.model.num_prefix_tokens,
            width=config.decoder_width,
            depth=config.decoder_depth,
            num_heads=config.decoder_num_heads,
        )
        self.match_teacher = self._load_teacher()

    def _load_teacher(self) -> FrozenTeacher | None:
        weights = self.config.match_teacher
        if weights is None:
            return None
        config = TeacherConfig(weights=weights, match="features", size_px=self.plan.input_size)
        teacher = load_teacher(config, modality=self.backbone.modality, key="method.match_teacher")
        if teacher.backbone.width != self.backbone.width:
            raise ConfigError(
                f"method.match_teacher={weights} has features of {teacher.backbone.width} numbers "
                f"and {self.backbone.architecture} of {self.backbone.width}; stage 1 trains the "
                "same network."
            )
        return teacher

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Error of the predicted hidden patches, and distance from the teacher's features."""
        images = batch.views["view"]
        split = self.split(images, batch.index)
        tokens = self.backbone.forward_visible(images, keep=split.keep)
        predicted = self.decoder(tokens, restore=split.restore)
        loss = masked_patch_loss(predicted, self.target(images), split.mask)
        metrics = {"feature_std": feature_std(tokens.mean(dim=1))}
        if self.match_teacher is not None:
            whole = self.backbone(images).pooled
            matched = self.match_teacher(images, shown_as=self.plan.input_spec).pooled
            metrics |= {"reconstruction": loss, "match": squared_distance(whole, matched)}
            loss = loss + self.config.match_weight * metrics["match"]
        return LossOutput(loss=loss, metrics=detached(**metrics))

    def notes(self) -> tuple[str, ...]:
        """What is matched."""
        if self.match_teacher is None:
            return ()
        is_token = getattr(self.backbone.model, "global_pool", "token") == "token"
        what = "the class token" if is_token else "the mean of the patches (not the paper's token)"
        return (
            f"self-distillation: {what} of whole images stays close to that of "
            f"{self.config.match_teacher}; init_from should be what that one started from",
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the teacher's weights hash to, not the weights."""
        super().on_save_checkpoint(checkpoint)
        if self.match_teacher is not None:
            checkpoint["match_teacher"] = self.match_teacher.sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another teacher.

        Raises:
            CheckpointError: Its weights are not those the run began with.
        """
        super().on_load_checkpoint(checkpoint)
        if self.match_teacher is not None:
            self.match_teacher.check_same(checkpoint.get("match_teacher"))

    def split(self, images: Tensor, index: Tensor) -> MaskSplit:
        """Patches to see and to hide, for samples of these ids."""
        noise = keyed_uniform(self.key("mask"), index, self.backbone.num_patches(images.shape[-1]))
        return random_mask(noise, num_keep=self.num_keep)

    def target(self, images: Tensor) -> Tensor:
        """Patches as the decoder should predict them, (B, N, P)."""
        is_normalized = self.config.is_target_normalized
        return pixel_targets(images, patch_px=self.patch_px, is_normalized=is_normalized)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, *, index: Tensor | None = None) -> Reconstruction:
        """Hide patches of normalised images and fill them in.

        Args:
            images: (B, C, S, S), of the training size.
            index: Ids that choose the patches; 0, 1, ... by default.
        """
        if index is None:
            index = torch.arange(len(images), device=images.device)
        split = self.split(images, index)
        tokens = self.backbone.forward_visible(images, keep=split.keep)
        predicted = self.decoder(tokens, restore=split.restore)
        return filled_in(
            images,
            predicted.float(),
            split.mask,
            patch_px=self.patch_px,
            is_normalized=self.config.is_target_normalized,
        )

    def picture(self, views: Mapping[str, Tensor]) -> Picture:
        """Images with hidden patches filled in, in evaluation mode; the mode is put back."""
        (images,) = views.values()
        was_training = self.training
        self.eval()
        found = self.reconstruct(images.to(self.device))
        self.train(was_training)
        spec = self.plan.input_spec or InputSpec(size=self.plan.input_size)
        side = images.shape[-1]
        rows = reconstruction_rows(
            images.cpu(),
            *(each.cpu() for each in found),
            mean=spec.mean,
            std=spec.std,
            size_px=side * max(1, round(_PICTURE_PX / side)),
        )
        return Picture(
            sheet(rows),
            title="Reconstruction",
            caption="Images, the patches the encoder sees, what is predicted for all of them "
            "(only the hidden ones are trained), and the two together.",
            alt="reconstructed images",
        )


def filled_in(
    images: Tensor, predicted: Tensor, mask: Tensor, *, patch_px: int, is_normalized: bool
) -> Reconstruction:
    """Images with hidden patches, and what was predicted of them.

    Args:
        images: Normalised, (B, C, S, S).
        predicted: Of all patches, (B, N, P).
        mask: Which were hidden, bool, (B, N).
        patch_px: Side of a patch.
        is_normalized: Whether each patch was predicted at mean 0 and variance 1; mean and contrast
            are then the image's own.
    """
    patches = patchify(images, patch_px=patch_px)
    if is_normalized:
        predicted = denormalize_patches(predicted, patches)
    is_hidden = mask[:, :, None]
    return Reconstruction(
        *(
            unpatchify(picture, patch_px=patch_px)
            for picture in (
                patches.masked_fill(is_hidden, 0),
                predicted,
                torch.where(is_hidden, predicted, patches),
            )
        )
    )
