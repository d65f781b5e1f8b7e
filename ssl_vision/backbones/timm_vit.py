"""timm's VisionTransformer family: class token, patch tokens, masked and shortened inputs."""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone, ModelArgs
from ssl_vision.backbones.packed import can_pack, encode_packed
from ssl_vision.nn.patches import dino_positions
from ssl_vision.types import Features


class Places(NamedTuple):
    """Where patches lie: a grid, and which of its patches are there.

    Attributes:
        rows: Of the grid.
        columns: Of the grid.
        keep: Patches that are there, int64, (B, n); None for all of them.
    """

    rows: int
    columns: int
    keep: Tensor | None = None


class TimmViT(Backbone):
    """A timm VisionTransformer (plain, with registers, without class token, LayerScale ...)."""

    has_tokens = True
    is_packed = False  # crops of several sizes in one pass

    def __init__(self, model: nn.Module, *, architecture: str, model_args: ModelArgs) -> None:
        super().__init__(model, architecture=architecture, model_args=model_args)
        self.patch_px = int(self.model.patch_embed.patch_size[0])
        self.num_prefix: int = self.model.num_prefix_tokens
        self.position_rule: Literal["timm", "dino"] = "timm"

    def num_patches(self, size_px: int) -> int:
        """Patches of a square image: (size / patch)^2."""
        assert self.patch_px is not None
        return (size_px // self.patch_px) ** 2

    @property
    def num_layers(self) -> int:
        """Number of blocks, and one for the patch embedding (MAE's and DINOv2's counting)."""
        return len(self.model.blocks) + 1

    def layer_id(self, name: str) -> int:
        """0 for embeddings and tokens, i + 1 for block i, blocks + 1 for the last norm."""
        parts = name.removeprefix("model.").split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        return self.num_layers if parts[0] in ("norm", "fc_norm") else 0

    def set_position_rule(self, rule: Literal["timm", "dino"]) -> None:
        """How learned positions become those of another image size.

        `timm` resizes by size with antialiasing; `dino` scales as DINO's code does.
        """
        if rule == "dino" and not _num_learned(self.model):
            super().set_position_rule(rule)
        self.position_rule = rule

    def add_mask_token(self, *, std: float = 0.02) -> None:
        """Mask token after the patch embedding, before positions (iBOT, DINOv2)."""
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.model.embed_dim))
        nn.init.normal_(self.mask_token, std=std)

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Pooled features and patch tokens; see `Backbone.forward`."""
        return self.read_tokens(self.encode(self.embed(images, mask=mask), self.places(images)))

    def forward_groups(
        self, groups: Sequence[Tensor], *, masks: Sequence[Tensor | None]
    ) -> list[Features]:
        """In one pass where `is_packed` is set and the blocks allow it; see `packed`."""
        if not (self.is_packed and can_pack(self.model)):
            return super().forward_groups(groups, masks=masks)
        embedded = [self.embed(x, mask=mask) for x, mask in zip(groups, masks, strict=True)]
        return [self.read_tokens(tokens) for tokens in encode_packed(self.model, embedded)]

    def forward_visible(self, images: Tensor, *, keep: Tensor) -> Tensor:
        """Encode the kept patches only (MAE); cost falls with their number."""
        tokens = self.embed(images)
        prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        visible = patches.gather(1, keep[:, :, None].expand(-1, -1, patches.shape[-1]))
        return self.encode(torch.cat([prefix, visible], dim=1), self.places(images, keep=keep))

    def places(self, images: Tensor, *, keep: Tensor | None = None) -> Places:
        """Where the patches of images (B, C, H, W) lie, or those of them that are kept."""
        assert self.patch_px is not None
        rows, columns = (side // self.patch_px for side in images.shape[-2:])
        return Places(rows, columns, keep)

    def embed(self, images: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> prefix and patch tokens with positions, (B, num_prefix+N, D)."""
        patches = self.model.patch_embed(images)  # (B, H, W, D) where sizes are dynamic
        if mask is not None:
            if self.mask_token is None:
                raise RuntimeError("call add_mask_token() before passing a mask.")
            is_masked = mask.reshape(*patches.shape[:-1], 1)
            # `where` keeps the token in the graph under an all-False mask, as DDP needs.
            patches = torch.where(is_masked, self.mask_token.to(patches.dtype).squeeze(), patches)
        return self._add_positions(patches)

    def _add_positions(self, patches: Tensor) -> Tensor:
        """Prefix tokens and positions; (B, H, W, D) or (B, N, D) -> (B, num_prefix + N, D)."""
        if self.position_rule == "timm":
            added: Tensor = self.model._pos_embed(patches)
            return added
        return _add_positions_as_dino(self.model, patches)

    def standalone(self) -> nn.Module:
        """The timm model, which follows the position rule by itself from now on."""
        if self.position_rule == "dino":
            self.model._pos_embed = MethodType(_add_positions_as_dino, self.model)
        return self.model

    def encode(self, tokens: Tensor, places: Places) -> Tensor:
        """Embedded tokens of patches at places -> tokens after the last norm, same shape."""
        tokens = self.model.norm_pre(self.model.patch_drop(tokens))
        is_checkpointed = self.model.grad_checkpointing and torch.is_grad_enabled()
        for block in self.blocks(places):
            if is_checkpointed:
                tokens = torch.utils.checkpoint.checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.model.norm(tokens)

    def blocks(self, places: Places) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks as functions of tokens; those of timm's ViT know no places."""
        return list(self.model.blocks)

    def last_layers(self, images: Tensor, *, num: int) -> list[Tensor]:
        """Tokens after each of the last blocks and the last norm, the last block first.

        Args:
            images: (B, C, S, S).
            num: Blocks, at most as many as there are.

        Returns:
            `num` tensors (B, num_prefix + N, D); the first is what `encode` gives.
        """
        model = self.model
        tokens = model.norm_pre(model.patch_drop(self.embed(images)))
        kept = []
        blocks = self.blocks(self.places(images))
        for left, block in zip(range(len(blocks), 0, -1), blocks, strict=True):
            tokens = block(tokens)
            if left <= num:
                kept.append(tokens)
        return [model.norm(each) for each in reversed(kept)]

    def read_tokens(self, tokens: Tensor) -> Features:
        """Normed tokens -> features: the model's own pooling, and the patches."""
        pooled = self.model.forward_head(tokens, pre_logits=True)
        return Features(pooled=pooled, patches=tokens[:, self.num_prefix :])


def _add_positions_as_dino(model: Any, patches: Tensor) -> Tensor:
    """What `VisionTransformer._pos_embed` does, positions scaled as DINO's code does."""
    num_learned = _num_learned(model)
    if patches.ndim == 3 or num_learned in (0, patches.shape[1] * patches.shape[2]):
        unscaled: Tensor = type(model)._pos_embed(model, patches)
        return unscaled
    num, rows, columns = patches.shape[:3]
    positions = model.pos_embed
    num_prefix = positions.shape[1] - num_learned
    learned = dino_positions(positions[:, num_prefix:], grid=(rows, columns))
    tokens = patches.flatten(1, 2) + learned
    prefix = [t.expand(num, -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
    if prefix:
        front = torch.cat(prefix, dim=1)
        front = front + positions[:, :num_prefix] if num_prefix else front
        tokens = torch.cat([front, tokens], dim=1)
    dropped: Tensor = model.pos_drop(tokens)
    return dropped


def _num_learned(model: Any) -> int:
    """Patches the learned positions are for, 0 without learned positions."""
    if model.pos_embed is None:
        return 0
    num_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    return int(model.pos_embed.shape[1]) - num_prefix
