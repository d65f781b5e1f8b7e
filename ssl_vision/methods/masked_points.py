"""What masked autoencoders of point clouds share: masks, the encoder's part, pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.point_vit import PointViT, take_tokens
from ssl_vision.bounds import MAX_LAYERS, check_bounds
from ssl_vision.data.config import View
from ssl_vision.errors import ConfigError
from ssl_vision.losses.chamfer import chamfer_distance
from ssl_vision.methods.base import Method, MethodConfig, Picture, TrainPlan
from ssl_vision.nn.point_decoder import DecodedPatches, PointDecoder
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.points.grouping import PointPatches
from ssl_vision.points.masks import block_mask, draw_seed_index, random_mask, split_indices_at
from ssl_vision.points.pictures import completion
from ssl_vision.points.sampling import take_points
from ssl_vision.randomness import derive_key, keyed_uniform

MaskKind = Literal["random", "block"]


@dataclass(frozen=True, kw_only=True)
class PointMaskConfig(MethodConfig):
    """What masked point modelling has in common; defaults follow section 4.1 of Point-MAE."""

    mask_ratio: float = 0.6  # m: int(m * G) patches are hidden
    mask: MaskKind = "random"  # block: one patch and its nearest ones
    decoder_depth: int = 4
    decoder_heads: int = 6
    decoder_drop_path: float = 0.1
    chamfer_power: int = 2  # 2: squared distances (equation 5); 1: distances

    def __post_init__(self) -> None:
        check_bounds("method.mask_ratio", self.mask_ratio, above=0, below=1)
        if self.chamfer_power not in (1, 2):
            raise ConfigError(f"method.chamfer_power={self.chamfer_power} must be 1 or 2.")
        check_bounds("method.decoder_depth", self.decoder_depth, least=1, most=MAX_LAYERS)
        check_bounds("method.decoder_heads", self.decoder_heads, least=1)
        check_bounds("method.decoder_drop_path", self.decoder_drop_path, least=0, below=1)

    def check_views(self, views: Mapping[str, View]) -> None:
        """Raise ConfigError unless there is one view of the cloud, drawn once."""
        if len(views) != 1:
            got = ", ".join(f"data.views.{name}" for name in views) or "none"
            raise ConfigError(
                f"method.name={self.name} needs exactly one view of the clouds, as "
                f"data.views.cloud; got {got}."
            )
        for name, view in views.items():
            if view.count != 1:
                raise ConfigError(
                    f"data.views.{name}.count={view.count} must be 1 for method.name={self.name}."
                )


class Reconstruction(NamedTuple):
    """A cloud as the method sees and completes it, for pictures.

    Attributes:
        visible: Points of the visible patches, (B, v * k, 3).
        predicted: Points predicted for the hidden patches, (B, h * k, 3).
    """

    visible: Tensor
    predicted: Tensor


class MaskedPoints(Method):
    """Base of Point-MAE and Point-CMAE."""

    config: PointMaskConfig

    def __init__(
        self, config: PointMaskConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__(config, backbone, optim=optim, plan=plan)
        network = _require_points(backbone, name=config.name)
        self.num_masked = _count_masked(config.mask_ratio, network)

    @property
    def network(self) -> PointViT:
        """The backbone, which the constructor has found to be a point transformer."""
        assert isinstance(self.backbone, PointViT)
        return self.backbone

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Decay as everywhere, but class and mask tokens are exempt (their positions are not)."""
        return super().decays(name, parameter) and "token" not in name

    def draw_mask(self, centers: Tensor, index: Tensor, *, purpose: str) -> Tensor:
        """Mask of each cloud of the batch, bool, (B, G), for keys of (seed, step, sample)."""
        return self._mask(centers, index, key=self.key(purpose))

    def encode_visible(
        self,
        tokens: Tensor,
        positions: Tensor,
        visible: Tensor,
        *,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Encode the visible patches.

        Args:
            tokens: Embedded patches, (B, G, D).
            positions: Their position embeddings, (B, G, D).
            visible: Indices int64, (B, v).
            prefix: A further token and its position, each (1, 1, D), that the patches may attend
                to; it is dropped from the result.

        Returns:
            Normed tokens, (B, v, D).
        """
        tokens, positions = take_tokens(tokens, visible), take_tokens(positions, visible)
        if prefix is None:
            return self.network.model.encode(tokens, positions)
        token, position = (p.to(tokens.dtype).expand(len(tokens), -1, -1) for p in prefix)
        tokens = torch.cat([token, tokens], dim=1)
        return self.network.model.encode(tokens, torch.cat([position, positions], dim=1))[:, 1:]

    def split(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of visible and hidden patches of a mask with `num_masked` in every row."""
        return split_indices_at(mask, num_masked=self.num_masked)

    def patch_loss(self, decoded: DecodedPatches, patches: PointPatches, hidden: Tensor) -> Tensor:
        """Chamfer distance of the hidden patches, each relative to its centre (equation 5)."""
        target = take_points(patches.neighbors.flatten(2), hidden).view_as(decoded.points)
        return chamfer_distance(
            decoded.points.flatten(0, 1), target.flatten(0, 1), power=self.config.chamfer_power
        )

    def decode(self, patches: PointPatches, mask: Tensor) -> DecodedPatches:
        """Reconstruction of the patches that a mask, bool, (B, G), hides."""
        raise NotImplementedError

    @torch.no_grad()
    def reconstruct(self, points: Tensor, *, seed: int) -> Reconstruction:
        """Hide patches of clouds (B, M, 3) and complete them, for looking at.

        Run in evaluation mode; row i gets the same mask for the same seed and i.
        """
        patches = self.network.model.group(points)
        index = torch.arange(len(points), device=points.device)
        mask = self._mask(patches.centers, index, key=derive_key(seed, "picture"))
        visible, hidden = self.split(mask)
        predicted = self.decode(patches, mask).points
        predicted = predicted.float() + take_points(patches.centers, hidden)[:, :, None]
        whole = (patches.neighbors + patches.centers[:, :, None]).flatten(2)
        seen = take_points(whole, visible).unflatten(2, (-1, 3))
        return Reconstruction(visible=seen.flatten(1, 2), predicted=predicted.flatten(1, 2))

    def picture(self, views: Mapping[str, Tensor]) -> Picture:
        """Clouds of the one view, completed in evaluation mode; the mode is put back."""
        (points,) = views.values()
        was_training = self.training
        self.eval()
        found = self.reconstruct(points.to(self.device), seed=0)
        self.train(was_training)
        clouds = (each.cpu().numpy() for each in (points, *found))
        return Picture(
            completion(*clouds),
            title="Completion",
            caption="Clouds from turning angles: the input, the patches the encoder sees, and "
            "these in grey with what is predicted for the hidden ones in colour.",
            alt="completed clouds",
        )

    def _mask(self, centers: Tensor, index: Tensor, *, key: int) -> Tensor:
        noise = keyed_uniform(key, index, centers.shape[1])
        if self.config.mask == "random":
            return random_mask(noise, num_masked=self.num_masked)
        seed_index = draw_seed_index(noise[:, 0], centers.shape[1])
        return block_mask(centers, seed_index, num_masked=self.num_masked)


def _require_points(backbone: Backbone, *, name: str) -> PointViT:
    """The backbone as a point transformer without a class token, or a ConfigError."""
    if not isinstance(backbone, PointViT):
        raise ConfigError(
            f"method.name={name} needs a point transformer, not backbone.name="
            f"{backbone.architecture}; use point_vit_small or point_vit_tiny."
        )
    if backbone.num_prefix:
        raise ConfigError(
            f"method.name={name} trains without the backbone's class token; remove class_token "
            "from backbone.args (fine-tuning adds it)."
        )
    return backbone


def _count_masked(ratio: float, network: PointViT) -> int:
    """int(ratio * G), refused where it leaves nothing to see or nothing to predict."""
    num_groups = network.model.num_groups
    num_masked = int(ratio * num_groups)
    if not 0 < num_masked < num_groups:
        raise ConfigError(
            f"method.mask_ratio={ratio} hides {num_masked} of {num_groups} patches; "
            "choose a ratio that hides some and leaves some."
        )
    return num_masked


def build_decoder(config: PointMaskConfig, network: PointViT) -> PointDecoder:
    """Decoder of the encoder's width, as the papers have it."""
    if network.token_width % config.decoder_heads:
        raise ConfigError(
            f"method.decoder_heads={config.decoder_heads} does not divide the width "
            f"{network.token_width} of {network.architecture}."
        )
    return PointDecoder(
        width=network.token_width,
        depth=config.decoder_depth,
        num_heads=config.decoder_heads,
        group_size=network.model.group_size,
        drop_path=config.decoder_drop_path,
    )
