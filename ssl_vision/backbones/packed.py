"""Crops of several sizes through a ViT in one pass: multi-crop without a pass per size.

Norms, projections and MLPs see the tokens of all crops as one sequence; only attention knows which
tokens belong together. It runs block-diagonally: on GPUs with xformers' kernel where that is
installed, else in half precision with torch's own for packed sequences; elsewhere as one call of
torch's attention per crop size, since crops of one size are a batch. The results are those of
separate passes; what is saved is kernel launches and small matrix products.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from ssl_vision.backbones.attention import (
    block_diagonal_attention,
    has_block_diagonal_attention,
    has_variable_length_attention,
    variable_length_attention,
)


class Group(NamedTuple):
    """Crops of one size within a packed sequence."""

    num: int  # crops
    length: int  # tokens of each


def can_pack(model: VisionTransformer) -> bool:
    """Whether every block is timm's plain one, whole on this process.

    Other blocks mix tokens in ways of their own, and FSDP2 gathers a block's parameters only when
    the block itself is called.
    """
    return isinstance(model.patch_drop, nn.Identity) and all(
        type(block) is Block
        and type(block.attn) is Attention
        and block.attn.gate is None
        and not isinstance(block, FSDPModule)
        for block in model.blocks
    )


def encode_packed(model: VisionTransformer, groups: Sequence[Tensor]) -> list[Tensor]:
    """Tokens of each group of crops after the last norm, as the blocks give them one by one.

    Args:
        model: For which `can_pack` holds.
        groups: Embedded tokens, (B_i, N_i, D).

    Returns:
        Same shapes.
    """
    embedded = [model.norm_pre(tokens) for tokens in groups]
    layout = [Group(num=len(tokens), length=tokens.shape[1]) for tokens in embedded]
    packed = torch.cat([tokens.flatten(0, 1) for tokens in embedded])  # (T, D)
    for block in model.blocks:
        assert isinstance(block, Block)
        if model.grad_checkpointing and torch.is_grad_enabled():
            packed = checkpoint(_block, block, packed, layout, use_reentrant=False)
        else:
            packed = _block(block, packed, layout)
    packed = model.norm(packed)
    parts = packed.split([group.num * group.length for group in layout])
    return [
        part.view(group.num, group.length, -1) for part, group in zip(parts, layout, strict=True)
    ]


def _block(block: Block, tokens: Tensor, layout: Sequence[Group]) -> Tensor:
    """A block of timm on a packed sequence, (T, D)."""
    assert isinstance(block.attn, Attention)
    attended = _attention(block.attn, block.norm1(tokens), layout)
    tokens = tokens + _drop_path(block.drop_path1, block.ls1(attended), layout)
    return tokens + _drop_path(block.drop_path2, block.ls2(block.mlp(block.norm2(tokens))), layout)


def _attention(attn: Attention, tokens: Tensor, layout: Sequence[Group]) -> Tensor:
    qkv = attn.qkv(tokens).view(-1, 3, attn.num_heads, attn.head_dim)  # (T, 3, H, d)
    q, k, v = qkv.unbind(1)
    q, k = attn.q_norm(q), attn.k_norm(k)
    drop = attn.attn_drop.p if attn.training else 0.0
    if has_block_diagonal_attention(tokens.device):
        lengths = [group.length for group in layout for _ in range(group.num)]
        mixed = block_diagonal_attention(q, k, v, lengths=lengths, dropout=drop)
    elif has_variable_length_attention(q, k, v, dropout=drop):
        longest = max(group.length for group in layout)
        bounds = sequence_bounds(layout, device=tokens.device)
        mixed = variable_length_attention(q, k, v, bounds=bounds, longest=longest)
    else:
        mixed = _attention_by_group(q, k, v, layout, dropout=drop)
    return attn.proj_drop(attn.proj(attn.norm(mixed.flatten(1))))


def sequence_bounds(layout: Sequence[Group], *, device: torch.device) -> Tensor:
    """Where each crop begins in the packed sequence, and its end, int32, (crops + 1,).

    Counted on the device: copying a list there would wait for it, in every block.
    """
    parts, start = [], 0
    for group in layout:
        end = start + group.num * group.length
        parts.append(torch.arange(start, end, group.length, dtype=torch.int32, device=device))
        start = end
    parts.append(torch.full((1,), start, dtype=torch.int32, device=device))
    return torch.cat(parts)


def _attention_by_group(
    q: Tensor, k: Tensor, v: Tensor, layout: Sequence[Group], *, dropout: float
) -> Tensor:
    """One call per crop size, (T, H, d) each -> (T, H, d)."""
    sizes = [group.num * group.length for group in layout]
    parts = []
    for group, *segments in zip(
        layout, q.split(sizes), k.split(sizes), v.split(sizes), strict=True
    ):
        queries, keys, values = (
            s.view(group.num, group.length, *s.shape[1:]).transpose(1, 2) for s in segments
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _drop_path(layer: nn.Module, residual: Tensor, layout: Sequence[Group]) -> Tensor:
    """Stochastic depth per crop; timm's layer would drop the whole sequence."""
    if not (isinstance(layer, DropPath) and layer.training and layer.drop_prob > 0):
        return residual
    num_crops = sum(group.num for group in layout)
    keep = 1 - layer.drop_prob
    kept = residual.new_empty(num_crops, 1).bernoulli_(keep)
    if layer.scale_by_keep and keep > 0:
        kept = kept / keep
    lengths = torch.tensor(
        [group.length for group in layout for _ in range(group.num)], device=residual.device
    )
    return residual * kept.repeat_interleave(lengths, dim=0, output_size=len(residual))
