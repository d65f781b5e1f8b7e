"""What the rest of the package sees of a network: images in, `Features` out."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from timm.layers import PatchEmbed
from timm.models import group_parameters
from torch import Tensor, nn

from ssl_vision.errors import ConfigError
from ssl_vision.types import Features

# What a constructor of timm takes: values of any kind, as the YAML or config.json has them.
ModelArgs: TypeAlias = dict[str, Any]


class OwnClass(NamedTuple):
    """How a program builds a network of its own.

    Attributes:
        name: Module and class, "mine.networks.Net".
        kwargs: Arguments of its constructor; None where they are not known.
    """

    name: str
    kwargs: ModelArgs | None


class Backbone(nn.Module):
    """A timm model behind one interface; subclasses say how its family yields tokens.

    Attributes:
        model: The plain timm model (without classifier); what is exported.
        architecture: Its timm name.
        model_args: Arguments that, with the name, make timm build the same model again.
        width: Size of the pooled features, D.
        modality: What it takes, a key of `MODALITIES`: images (B, C, S, S), clouds (B, M, 3).
        is_in_timm: Whether timm alone can build it.
        hub_task: What model hubs call its task.
        patch_px: Pixels per patch side; None where patches are not the network's input.
        has_tokens: Whether hidden patches can be left out of, or masked in, the input (a ViT).
        mask_token: Learned stand-in of a masked patch, (1, 1, D); None unless asked for.
        own: Of networks that are nobody's but the user's, how they are built; else None.
        head_layers: What stands between pooled features and the classifier, (B, D) -> (B, D); None
            unless a fine-tuning starts inside the head of its pretraining.
        redraw: Builds the same network once more, of other random weights; None where it did not
            come of a recipe.
    """

    modality: str = "images"
    is_in_timm: bool = True
    hub_task: str = "image-feature-extraction"
    has_tokens: bool = False
    patch_px: int | None = None
    own: OwnClass | None = None

    def __init__(
        self,
        model: nn.Module,
        *,
        architecture: str,
        model_args: ModelArgs,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model  # timm's models share no base that names what they have
        self.architecture = architecture
        self.model_args = model_args
        anything = cast(Any, model)
        self.width: int = width or getattr(model, "head_hidden_size", None) or anything.num_features
        self.mask_token: nn.Parameter | None = None
        self.head_layers: nn.Module | None = None
        self.redraw: Callable[[], Backbone] | None = None
        self._layer_ids: dict[str, int] | None = None

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Features of normalised images, (B, C, S, S).

        Args:
            images: Any side the network takes; ViTs resample their positions.
            mask: Patches to replace by the mask token, bool, (B, N), row-major.
        """
        raise NotImplementedError

    def forward_groups(
        self, groups: Sequence[Tensor], *, masks: Sequence[Tensor | None]
    ) -> list[Features]:
        """Features of crops of several sizes, one pass each unless the network can pack them.

        Args:
            groups: Normalised images, (B_i, C, S_i, S_i).
            masks: As `mask` of `forward`, per group.
        """
        return [self(images, mask=mask) for images, mask in zip(groups, masks, strict=True)]

    def num_patches(self, size_px: int) -> int:
        """Patches N of a square image; the length of `Features.patches` and of masks."""
        raise NotImplementedError

    def misfit(self, size_px: int) -> str | None:
        """Why it does not take images of a size; None where it does, or only trying tells.

        Patch embeddings of timm check it by assertion, at the first batch; this asks the same.
        """
        embed = getattr(self.model, "patch_embed", None)
        if not isinstance(embed, PatchEmbed) or embed.img_size is None:
            return None
        if embed.strict_img_size:
            side = embed.img_size[0]
            return None if size_px == side else f"it was built for {side} px and no other size"
        patch_px = embed.patch_size[0]
        if embed.dynamic_img_pad or size_px % patch_px == 0:
            return None
        return f"{size_px} px are no whole number of its patches of {patch_px} px"

    def forward_visible(self, images: Tensor, *, keep: Tensor) -> Tensor:
        """Tokens of the kept patches only: prefix tokens, then patches in the order of `keep`.

        Args:
            images: (B, C, S, S).
            keep: Indices of the patches the network sees, int64, (B, n).

        Returns:
            Tokens after the last norm, (B, num_prefix + n, D).
        """
        raise NotImplementedError

    def add_mask_token(self, *, std: float = 0.02) -> None:
        """Give the network a mask token, drawn from N(0, std)."""
        raise NotImplementedError

    def standalone(self) -> nn.Module:
        """The timm model itself, with all that its features depend on."""
        model: nn.Module = self.model
        return model

    def set_position_rule(self, rule: Literal["timm", "dino"]) -> None:
        """How learned positions are resampled for images of another size; see `TimmViT`.

        Raises:
            ConfigError: The network has no such positions.
        """
        raise ConfigError(
            f"method.position_rule={rule}: backbone.name={self.architecture} has no learned "
            "positions per patch; use position_rule=timm."
        )

    def set_num_groups(self, num_groups: int) -> None:
        """How many patches a cloud is cut into.

        Raises:
            ConfigError: The network cuts no clouds.
        """
        raise ConfigError(
            f"data.num_groups={num_groups}: {self.architecture} cuts no point clouds into patches; "
            "leave it out."
        )

    def sample_shape(self, size: int) -> list[int]:
        """Shape of one input of a size: (C, S, S)."""
        return [int(self.model_args.get("in_chans", 3)), size, size]

    @property
    def own_input_size(self) -> int | None:
        """Size of the inputs it was built for, where no file has to say it."""
        return None

    @property
    def num_layers(self) -> int:
        """Layer id one above the last block: where final norms (and heads) stand."""
        return max(self._ids().values()) + 1

    def layer_id(self, name: str) -> int:
        """Depth of a parameter for layer-wise lr decay: 0 the embeddings, then block by block.

        Args:
            name: Name within this module, as in `named_parameters`.
        """
        return self._ids().get(name.removeprefix("model."), 0)

    def _ids(self) -> dict[str, int]:
        if self._layer_ids is None:
            self._layer_ids = group_parameters(
                self.model, self.model.group_matcher(coarse=False), reverse=True
            )
        return self._layer_ids
