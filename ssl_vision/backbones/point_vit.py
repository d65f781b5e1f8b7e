"""Point transformers: clouds -> patches -> tokens (Point-MAE, arXiv 2203.06604, section 3).

timm has no point clouds, so the networks are defined here; they are registered in timm's table of
models under the names `point_vit_*`, and are therefore built, exported and loaded like any other
backbone (an export needs `import ssl_vision.backbones` before timm knows the name, or
`ssl_vision.load_backbone`).
"""

from typing import Any, Literal

import torch
from timm.models import register_model
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone, ModelArgs
from ssl_vision.errors import ConfigError
from ssl_vision.nn.point_blocks import PointPatchEmbed, PositionedBlocks, position_mlp
from ssl_vision.points.grouping import PointPatches, group_points
from ssl_vision.points.sampling import OFFICIAL_SKIP
from ssl_vision.types import Features

Pool = Literal["max_mean", "cls_max"]


class PointTransformer(nn.Module):
    """Plain network: clouds (B, M, 3) -> features (B, 2 * embed_dim).

    Args:
        embed_dim: Width of the tokens.
        depth: Transformer blocks.
        num_heads: Attention heads.
        num_groups: Patches G of a cloud.
        group_size: Points k of a patch.
        num_points: Points of the clouds it is meant for; other numbers work.
        mlp_ratio: Hidden width of the blocks' MLPs over their width.
        patch_hidden: Largest width of the mini-PointNet that embeds patches.
        drop_path_rate: Largest stochastic depth rate.
        class_token: Whether a learned token joins the patches (fine-tuning).
        pool: Features are the maximum and mean over patch tokens, or class token and maximum.
        skips_near_origin: Choose centres as the authors' kernel does, which overlooks points near
            the origin; for their released weights.

    Attributes:
        arguments: All of the above, with which the same network can be built again.
    """

    num_classes = 0
    pretrained_cfg: dict[str, object]

    def __init__(
        self,
        *,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        num_groups: int = 64,
        group_size: int = 32,
        num_points: int = 1024,
        mlp_ratio: float = 4.0,
        patch_hidden: int = 512,
        drop_path_rate: float = 0.0,
        class_token: bool = False,
        pool: Pool = "max_mean",
        skips_near_origin: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} does not divide into num_heads={num_heads}.")
        if pool == "cls_max" and not class_token:
            raise ValueError("pool=cls_max needs class_token=true.")
        if pool not in ("max_mean", "cls_max"):
            raise ValueError(f"pool={pool!r} must be max_mean or cls_max.")
        if min(num_groups, group_size, depth) < 1:
            raise ValueError("num_groups, group_size and depth must be at least 1.")
        if patch_hidden < 4 or patch_hidden % 4:
            raise ValueError(f"patch_hidden={patch_hidden} must be a multiple of 4.")
        self.arguments: ModelArgs = {
            **{"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads},
            **{"num_groups": num_groups, "group_size": group_size, "num_points": num_points},
            **{"mlp_ratio": mlp_ratio, "patch_hidden": patch_hidden, "class_token": class_token},
            **{"pool": pool, "skips_near_origin": skips_near_origin},
            "drop_path_rate": drop_path_rate,
        }
        self.embed_dim, self.num_features = embed_dim, embed_dim
        self.head_hidden_size = 2 * embed_dim
        self.num_groups, self.group_size, self.num_points = num_groups, group_size, num_points
        self.pool = pool
        self.skip_squared_norm = OFFICIAL_SKIP if skips_near_origin else None
        self.patch_embed = PointPatchEmbed(embed_dim, hidden=patch_hidden)
        self.pos_embed = position_mlp(embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.cls_pos = nn.Parameter(torch.randn(1, 1, embed_dim)) if class_token else None
        self.blocks = PositionedBlocks(
            width=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path_rate,
        )
        self.norm = nn.LayerNorm(embed_dim)
        self._init_weights()

    def forward(self, points: Tensor) -> Tensor:
        """Pooled features of clouds (B, M, 3) in a unit sphere, (B, 2 * embed_dim)."""
        return self.pool_tokens(self.forward_features(points))

    def forward_features(self, points: Tensor) -> Tensor:
        """Tokens after the last norm: the class token where there is one, then G patches."""
        patches = self.group(points)
        tokens, positions = self.embed(patches)
        return self.encode(tokens, positions)

    def group(self, points: Tensor) -> PointPatches:
        """Patches of clouds (B, M, 3); no gradient reaches the points."""
        return group_points(
            points.detach().float(),
            num_groups=self.num_groups,
            group_size=self.group_size,
            skip_squared_norm=self.skip_squared_norm,
        )

    def embed(self, patches: PointPatches) -> tuple[Tensor, Tensor]:
        """Patch tokens and their position embeddings, each (B, G, D); no class token."""
        return self.patch_embed(patches.neighbors), self.pos_embed(patches.centers)

    def encode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Any patch tokens and positions (B, n, D) -> normed, the class token first if any."""
        return self.norm(self.blocks(*self._with_class_token(tokens, positions)))

    def encode_layers(
        self, tokens: Tensor, positions: Tensor, *, layers: tuple[int, ...]
    ) -> list[Tensor]:
        """Patch tokens after several blocks, each through the same last norm (B, n, D)."""
        joined = self._with_class_token(tokens, positions)
        outputs = self.blocks.outputs_of(*joined, layers=layers)
        return [self.norm(output)[:, self.num_prefix :] for output in outputs]

    def pool_tokens(self, tokens: Tensor) -> Tensor:
        """Normed tokens (B, num_prefix + n, D) -> features (B, 2D), as `pool` says."""
        patches = tokens[:, self.num_prefix :]
        first = tokens[:, 0] if self.pool == "cls_max" else patches.mean(dim=1)
        maximum = patches.amax(dim=1)
        parts = [first, maximum] if self.pool == "cls_max" else [maximum, first]
        return torch.cat(parts, dim=1)

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches: 1 with a class token."""
        return int(self.cls_token is not None)

    def set_num_groups(self, num_groups: int) -> None:
        """Cut clouds into another number of patches; no weight depends on it."""
        self.num_groups = self.arguments["num_groups"] = num_groups

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass."""
        self.blocks.is_checkpointed = enable

    def _with_class_token(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        if self.cls_token is None or self.cls_pos is None:
            return tokens, positions
        cls, pos = (p.to(tokens.dtype).expand(len(tokens), -1, -1)
                    for p in (self.cls_token, self.cls_pos))  # fmt: skip
        return torch.cat([cls, tokens], dim=1), torch.cat([pos, positions], dim=1)

    def _init_weights(self) -> None:
        """Truncated normal of 0.02 for weights and tokens, zero biases, as the authors' encoder."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for token in (self.cls_token, self.cls_pos):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)


class PointViT(Backbone):
    """A PointTransformer behind the package's interface; `images` are clouds (B, M, 3).

    `Features.pooled` is what `PointTransformer.pool` says, (B, 2D): by default the maximum and the
    mean over the patch tokens after the last norm. `Features.patches` are those tokens, (B, G, D).

    Attributes:
        token_width: Width D of a token; `width` is 2D.
    """

    has_tokens = True
    modality = "clouds"
    is_in_timm = False
    hub_task = "point-cloud"
    model: PointTransformer

    def __init__(
        self, model: PointTransformer, *, architecture: str, model_args: ModelArgs
    ) -> None:
        super().__init__(model, architecture=architecture, model_args=model_args)
        self.token_width = model.embed_dim
        self.num_prefix = model.num_prefix

    def num_patches(self, size_px: int) -> int:
        """Patches G, whatever the number of points."""
        return self.model.num_groups

    def set_num_groups(self, num_groups: int) -> None:
        """See `PointTransformer.set_num_groups`."""
        self.model.set_num_groups(num_groups)

    def sample_shape(self, size: int) -> list[int]:
        """(M, 3), of the number of points it was built for."""
        return [int(self.model.num_points), 3]

    @property
    def own_input_size(self) -> int | None:
        """Points of a cloud."""
        return int(self.model.num_points)

    @property
    def num_layers(self) -> int:
        """Number of blocks, and one for the patch embedding."""
        return len(self.model.blocks) + 1

    def layer_id(self, name: str) -> int:
        """0 for embeddings and tokens, i + 1 for block i, blocks + 1 for the last norm."""
        parts = name.removeprefix("model.").split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        return self.num_layers if parts[0] == "norm" else 0

    def add_mask_token(self, *, std: float = 0.02) -> None:
        """Mask token in place of patch tokens; positions are added to it as to any other."""
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.token_width))
        nn.init.normal_(self.mask_token, std=std)

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Pooled features and patch tokens of clouds, (B, M, 3); see `Backbone.forward`."""
        tokens, positions = self.model.embed(self.model.group(images))
        if mask is not None:
            if self.mask_token is None:
                raise RuntimeError("call add_mask_token() before passing a mask.")
            tokens = torch.where(mask[:, :, None], self.mask_token.to(tokens.dtype), tokens)
        encoded = self.model.encode(tokens, positions)
        return Features(
            pooled=self.model.pool_tokens(encoded), patches=encoded[:, self.num_prefix :]
        )

    def forward_visible(self, images: Tensor, *, keep: Tensor) -> Tensor:
        """Encode the kept patches only; the embedding (and its batch norm) sees all of them."""
        tokens, positions = self.model.embed(self.model.group(images))
        return self.model.encode(take_tokens(tokens, keep), take_tokens(positions, keep))


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens by index: (B, G, D) and int64 (B, n) -> (B, n, D)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[-1]))


def _build(name: str, pretrained: bool, defaults: ModelArgs, arguments: ModelArgs) -> nn.Module:
    """Network for timm's `create_model`, which adds arguments of its own."""
    if pretrained:
        raise ConfigError(
            "point_vit networks have no weights in timm; use a run or export folder, or "
            "?pretrained=false for random weights."
        )
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(name, None)
    if arguments.pop("num_classes", 0):
        raise ValueError("point_vit networks have no classifier; use num_classes=0.")
    if arguments.pop("in_chans", 3) != 3:
        raise ValueError("point_vit networks take coordinates, (B, M, 3); use in_chans=3.")
    model = PointTransformer(**{**defaults, **arguments})
    # What timm attaches to its own models; clouds have no colours to normalise.
    model.pretrained_cfg = {
        "architecture": name,
        "input_size": (model.num_points, 3),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }
    return model


@register_model
def point_vit_small(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """The papers' network: 12 blocks of width 384, 64 patches of 32 points; 22 M parameters."""
    return _build("point_vit_small", pretrained, {}, arguments)


@register_model
def point_vit_tiny(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """For CPUs and tests: 4 blocks of width 96, 32 patches of 16 points; 0.5 M parameters."""
    transformer = {"embed_dim": 96, "depth": 4, "num_heads": 3}
    patches = {"num_groups": 32, "group_size": 16, "num_points": 512, "patch_hidden": 128}
    return _build("point_vit_tiny", pretrained, {**transformer, **patches}, arguments)
