"""CroCo: complete a view of a scene from the few patches seen of it and from another view.

Weinzaepfel, Leroy, Lucas, Brégier, Cabon, Arora, Antsfeld, Chidlovskii, Csurka, Revaud 2022,
arXiv 2210.10716, section 3; v2 (rotary positions, larger networks, real pairs): arXiv 2211.10408.
Authors' code: naver/croco (CC BY-NC-SA 4.0; written from the formulas, nothing of it is here).

One encoder for both views, a plain timm ViT without class token. Positions follow the network: a
ViT of timm gets fixed sine-cosine ones, in encoder and decoder (v1); a `rotary_vit_*` turns queries
and keys, and so does its decoder (v2, base 100). The encoder alone is exported.

Where we differ:
* Which patches are hidden depends on (seed, step, sample), not on a device's generator.
* Recipes train in bf16, theirs in fp16 with loss scaling.
* Views are crops of a share of the image (7/8 of its side), theirs of a number of pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.rotary_vit import RotaryViT
from ssl_vision.bounds import MAX_LAYERS, check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.losses.reconstruction import masked_patch_loss
from ssl_vision.masking import MaskSplit, raster_mask
from ssl_vision.methods.base import (
    Method,
    MethodConfig,
    Picture,
    TrainPlan,
    detached,
    feature_std,
)
from ssl_vision.methods.checks import check_view_names
from ssl_vision.methods.mae import Reconstruction, filled_in
from ssl_vision.methods.vit_encoder import check_patches_only, init_as_mae_encoder, pixel_targets
from ssl_vision.nn.cross_decoder import CrossDecoder
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.randomness import keyed_uniform
from ssl_vision.types import Batch, LossOutput
from ssl_vision.views import ViewConfig

_PICTURE_PX = 160  # side of one image of a picture
_GAP_PX = 4


@dataclass(frozen=True, kw_only=True)
class CrocoConfig(MethodConfig):
    """Defaults are the first paper's."""

    name: Literal["croco"] = "croco"
    mask_ratio: float = 0.9  # fraction of the first view's patches hidden from the encoder
    is_target_normalized: bool = True  # per patch
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16

    def __post_init__(self) -> None:
        check_bounds("method.mask_ratio", self.mask_ratio, above=0, below=1)
        check_bounds("method.decoder_depth", self.decoder_depth, least=1, most=MAX_LAYERS)
        for name in ("decoder_width", "decoder_num_heads"):
            check_bounds(f"method.{name}", getattr(self, name), least=1)
        if self.decoder_width % 4 or self.decoder_width % self.decoder_num_heads:
            raise ConfigError(
                f"method.decoder_width={self.decoder_width} must be divisible by 4 and by "
                f"decoder_num_heads={self.decoder_num_heads}."
            )

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless there are the views `first` and `second`, drawn once each."""
        check_view_names(views, required=("first", "second"), method=self.name)
        sizes = {view.size_px for view in views.values()}
        if len(sizes) > 1:
            raise ConfigError(
                f"data.views.first.size_px={views['first'].size_px} and data.views.second.size_px="
                f"{views['second'].size_px} must be equal for method.name=croco."
            )


class PairFeatures(NamedTuple):
    """What encoder and decoder make of two whole views; for heads of depth, stereo or flow.

    Attributes:
        first: Encoded patches of the first view, (B, N, D).
        second: Of the second, (B, N, D).
        decoded: Patches of the first view that have read the second, after the last norm,
            (B, N, W).
        layers: The same after each block of the decoder, not normed, (B, N, W) each.
    """

    first: Tensor
    second: Tensor
    decoded: Tensor
    layers: tuple[Tensor, ...]


class Croco(Method):
    """One encoder for both views, and a decoder that reads the second."""

    reading = (
        "The loss is the squared error of the hidden patches of the first view, each normalised to "
        "variance 1: 1.0 is the answer 'always the mean', and what the second view adds shows only "
        "beside a run without it: <code>Croco.cross_view_losses</code> measures it. kNN on classes "
        "is low by nature: CroCo learns geometry."
    )

    config: CrocoConfig

    def __init__(
        self, config: CrocoConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        self.patch_px = check_patches_only(backbone, method="croco")
        if isinstance(backbone.model.norm, nn.Identity):
            raise ConfigError(
                f"method.name=croco decodes normed patches, and backbone.name="
                f"{backbone.architecture} norms after pooling; set backbone.args.fc_norm=false."
            )
        num_patches = backbone.num_patches(plan.input_size)
        self.num_masked = int(config.mask_ratio * num_patches)
        if not 0 < self.num_masked < num_patches:
            raise ConfigError(
                f"method.mask_ratio={config.mask_ratio} hides {self.num_masked} of {num_patches} "
                "patches; at least one must be seen and one hidden."
            )
        rotary_base = backbone.model.rotary_base if isinstance(backbone, RotaryViT) else None
        if rotary_base is not None and config.decoder_width // config.decoder_num_heads % 4:
            raise ConfigError(
                f"method.decoder_width={config.decoder_width} over decoder_num_heads="
                f"{config.decoder_num_heads} must be divisible by 4 for rotary positions."
            )
        init_as_mae_encoder(backbone, method="croco")
        num_channels = backbone.model.patch_embed.proj.weight.shape[1]
        self.decoder = CrossDecoder(
            backbone.width,
            self.patch_px**2 * num_channels,
            grid=isqrt(num_patches),
            width=config.decoder_width,
            depth=config.decoder_depth,
            num_heads=config.decoder_num_heads,
            rotary_base=rotary_base,
        )

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Error of the predicted hidden patches of the first view."""
        first, second = batch.views["first"], batch.views["second"]
        split = self.split(first, batch.index)
        seen = self.backbone.forward_visible(first, keep=split.keep)
        memory = self._encode(second)
        predicted = self.decoder(seen, memory, mask=split.mask)
        return LossOutput(
            loss=masked_patch_loss(predicted, self.target(first), split.mask),
            metrics=detached(feature_std=feature_std(memory.mean(dim=1))),
        )

    def split(self, images: Tensor, index: Tensor) -> MaskSplit:
        """Patches of the first view to see and to hide, for samples of these ids."""
        noise = keyed_uniform(self.key("mask"), index, self.backbone.num_patches(images.shape[-1]))
        return raster_mask(noise, num_masked=self.num_masked)

    def target(self, images: Tensor) -> Tensor:
        """Patches as the decoder should predict them, (B, N, P)."""
        is_normalized = self.config.is_target_normalized
        return pixel_targets(images, patch_px=self.patch_px, is_normalized=is_normalized)

    def encode_pair(self, first: Tensor, second: Tensor) -> PairFeatures:
        """Features of two views, nothing hidden.

        Args:
            first: Normalised images, (B, C, S, S), of the training size.
            second: Of the same scenes, likewise.

        Raises:
            ConfigError: They have another size.
        """
        self._check_sizes(first, second)
        seen, memory = self._encode(first), self._encode(second)
        decoded = self.decoder.decode(seen, memory)
        return PairFeatures(seen, memory, decoded.tokens, decoded.layers)

    @torch.no_grad()
    def complete(self, first: Tensor, second: Tensor, *, index: Tensor) -> Reconstruction:
        """Hide patches of the first view and fill them in.

        Args:
            first: Normalised images, (B, C, S, S).
            second: Of the same scenes, likewise.
            index: Ids that choose the patches, int64, (B,).

        Raises:
            ConfigError: They have another size than in training.
        """
        self._check_sizes(first, second)
        split = self.split(first, index)
        seen = self.backbone.forward_visible(first, keep=split.keep)
        predicted = self.decoder(seen, self._encode(second), mask=split.mask)
        return filled_in(
            first,
            predicted.float(),
            split.mask,
            patch_px=self.patch_px,
            is_normalized=self.config.is_target_normalized,
        )

    @torch.no_grad()
    def cross_view_losses(self, batch: Batch) -> dict[str, float]:
        """Losses of one batch with the second views as they are, and with others in their place.

        A decoder that reads the second view does worse without it. On 64 px renders, after minutes,
        differences of 0.05 (`other`) and 0.03 (`blank`) tell such a decoder from one that does not.

        Args:
            batch: Normalised views `first` and `second`; the same patches are hidden each time.

        Returns:
            Loss with `true` second views, with those of `other` pairs, and with `blank` ones.
        """
        second = batch.views["second"]
        others = {"true": second, "other": second.roll(1, dims=0), "blank": self._black(second)}
        losses = {}
        for name, view in others.items():
            views = {"first": batch.views["first"], "second": view}
            changed = Batch(views=views, index=batch.index)
            losses[name] = float(self.compute_loss(changed).loss)
        return losses

    def picture(self, views: Mapping[str, Tensor]) -> Picture | None:
        """Pairs side by side, completed in evaluation mode; the mode is put back."""
        if not {"first", "second"} <= views.keys():
            return None
        was_training = self.training
        self.eval()
        first, second = (views[name].to(self.decoder.pred.weight) for name in ("first", "second"))
        index = torch.arange(len(first), device=first.device)
        found = self.complete(first, second, index=index)
        self.train(was_training)
        columns = [first, found.masked, found.pasted, second]
        return Picture(
            _sheet([self._as_levels(each) for each in columns]),
            title="Completion",
            caption="Each row a pair: the first view, what the encoder sees of it, the same with "
            "the hidden patches as predicted, and the second view, which the decoder reads. Mean "
            "and contrast of a predicted patch are the image's own; structure is predicted.",
            alt="first views completed from second ones",
        )

    def _check_sizes(self, first: Tensor, second: Tensor) -> None:
        """The decoder's positions are of the training size."""
        side = self.plan.input_size
        if first.shape != second.shape or first.shape[-2:] != (side, side):
            raise ConfigError(
                f"views of shapes {tuple(first.shape)} and {tuple(second.shape)}: the decoder "
                f"takes pairs of the training size, (B, C, {side}, {side}) both."
            )

    def _encode(self, images: Tensor) -> Tensor:
        patches = self.backbone(images).patches
        assert patches is not None
        return patches

    def _black(self, images: Tensor) -> Tensor:
        """Black images, normalised, of the same shape."""
        mean, std = self._statistics_of(images)
        return ((0 - mean) / std).expand_as(images)

    def _as_levels(self, images: Tensor) -> np.ndarray:
        """Normalised images as levels 0..255, (B, S, S, 3)."""
        mean, std = self._statistics_of(images)
        levels = ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()

    def _statistics_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        spec = self.plan.input_spec
        mean, std = ((0.0,) * 3, (1.0,) * 3) if spec is None else (spec.mean, spec.std)
        return images.new_tensor(mean).view(1, -1, 1, 1), images.new_tensor(std).view(1, -1, 1, 1)


def _sheet(columns: list[np.ndarray]) -> Image.Image:
    """A row per sample, columns side by side; images of any size are shown at one."""
    num, step = len(columns[0]), _PICTURE_PX + _GAP_PX
    sheet = Image.new("RGB", (len(columns) * step - _GAP_PX, num * step - _GAP_PX), "white")
    for column, images in enumerate(columns):
        for row, pixels in enumerate(images):
            tile = Image.fromarray(pixels)
            tile = tile.resize((_PICTURE_PX, _PICTURE_PX), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * step, row * step))
    return sheet
