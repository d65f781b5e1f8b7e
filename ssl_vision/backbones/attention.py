"""Attention of a network's last block, read during an ordinary forward pass.

Fused attention never shows its softmax. Here only the last block pays for it: where its class is
known, queries and keys are projected a second time beside the fused block and reduced in slices,
so that memory stays bounded; elsewhere that one block runs unfused and its map is read on the way.
All other blocks, and the features that come out, are those of the plain forward pass.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention as PlainAttention
from timm.layers.attention import AttentionRope
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models import cait, pvt_v2, xcit
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.errors import ConfigError
from ssl_vision.nn.rotary import rotate
from ssl_vision.types import Features

Queries = Literal["patches", "class"]

_CHANNEL_ATTENTION = (xcit.XCA,)
_CLASS_ATTENTION = (cait.ClassAttn, AttentionPoolLatent)  # XCiT's is CaiT's
_FUSED_QKV = (PlainAttention, AttentionRope, EvaAttention)
_MAX_FLASH_DIM = 256  # of a head
_MAX_ENTRIES = 2**26  # of the maps held at a time: 256 MiB in float32
_WAY_OUT = "use a ViT, DeiT, CaiT, Swin or pvt_v2, or method.mixing.name=cutmix."
_Sink = Callable[[Tensor], None]


def forward_with_attention(
    backbone: Backbone, images: Tensor, *, queries: Queries = "patches"
) -> Features:
    """Features of normalised images, with the attention each patch received in the last block.

    Attention is averaged over heads and, for `patches`, over all patch queries (SMMix); for
    `class` it is the class token's row. It is not renormalised: keys of prefix tokens keep their
    share. Across windows (Swin) attention is zero; CaiT's patch map is its last talking-heads
    block, after the softmax and before heads are mixed again (what follows may be negative).

    Args:
        backbone: A ViT, or a pyramid whose last stage attends from patch to patch.
        images: (B, C, S, S).
        queries: Whose attention is averaged.

    Returns:
        `Features` with `attention` (B, N), float32, row-major as `patches`.

    Raises:
        ConfigError: The network has no such attention.
    """
    attention: list[Tensor] = []
    with _listening(backbone, images.shape[-1], queries, lambda m: attention.append(m.mean(1))):
        features = backbone(images)
    _check_rows(backbone, attention, num_images=len(images))
    return features._replace(attention=attention[-1])


def class_attention(backbone: Backbone, images: Tensor) -> Tensor:
    """Class token's attention to each patch in the last block, per head, (B, heads, N).

    Raises:
        ConfigError: The network has no class token or no attention.
    """
    attention: list[Tensor] = []
    with _listening(backbone, images.shape[-1], "class", attention.append):
        backbone(images)
    _check_rows(backbone, attention, num_images=len(images))
    return attention[-1]


def check_attention(backbone: Backbone, *, queries: Queries = "patches") -> None:
    """Raise ConfigError unless the network's last block has attention to read."""
    _last_attention(backbone, queries)


def _check_rows(backbone: Backbone, attention: list[Tensor], *, num_images: int) -> None:
    """Refuse maps of windows or channels, which have another number of rows."""
    if not attention or len(attention[-1]) != num_images:
        raise _no_map(backbone.model)


@contextmanager
def _listening(backbone: Backbone, size_px: int, queries: Queries, sink: _Sink) -> Iterator[None]:
    """Hand `sink` the attention each patch receives, (B, heads, N), in every pass inside."""
    num_patches = backbone.num_patches(size_px)
    module = _last_attention(backbone, queries)
    with ExitStack() as stack:
        if isinstance(module, (*_FUSED_QKV, pvt_v2.Attention)):
            stack.enter_context(_beside(module, num_patches, queries, sink))
        else:
            stack.enter_context(_unfused(backbone, module, num_patches, queries, sink))
        yield


def _last_attention(backbone: Backbone, queries: Queries) -> nn.Module:
    """Last module that attends from patch to patch, or from the class token for `class`."""
    if queries == "class" and getattr(backbone.model, "cls_token", None) is None:
        raise ConfigError(
            f"backbone.name={backbone.architecture!r} has no class token to read attention of; "
            "use the attention of its patches."
        )
    found = None
    for module in backbone.model.modules():
        if not (hasattr(module, "attn_drop") and hasattr(module, "num_heads")):
            continue
        if isinstance(module, _CHANNEL_ATTENTION):
            found = None  # what comes before it is not the last block either
        elif queries == "class" or not isinstance(module, _CLASS_ATTENTION):
            found = module
    if found is None:
        raise ConfigError(
            f"backbone.name={backbone.architecture!r} has no attention between tokens in its last "
            f"block; {_WAY_OUT}"
        )
    return found


# Known classes: recompute queries and keys beside the fused block ------------------------


@contextmanager
def _beside(module: nn.Module, num_patches: int, queries: Queries, sink: _Sink) -> Iterator[None]:
    def before(attention: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor | None]) -> None:
        if isinstance(attention, pvt_v2.Attention):
            q, k = _separate_queries_keys(attention, args[0])
        else:
            q, k = _fused_queries_keys(attention, args[0], rope=kwargs.get("rope"))
            if (rotation := kwargs.get("rotation")) is not None:
                q, k = rotate(q, rotation), rotate(k, rotation)
        num_prefix = _num_prefix(k.shape[2], num_patches, attention)
        q = q[:, :, :1] if queries == "class" else q[:, :, num_prefix:]
        sink(_mean_over_queries(q * attention.scale, k)[:, :, num_prefix:])

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _fused_queries_keys(
    attention: Any, tokens: Tensor, *, rope: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Queries and keys of timm's ViT, rotary and EVA attention, (B, heads, N, d)."""
    num_rows = attention.num_heads * attention.head_dim
    if attention.qkv is None:
        q, k = attention.q_proj(tokens), attention.k_proj(tokens)
    else:
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:  # EVA keeps the biases apart
            bias = torch.cat([attention.q_bias, attention.k_bias])
        both = F.linear(
            tokens,
            attention.qkv.weight[: 2 * num_rows],
            None if bias is None else bias[: 2 * num_rows],
        )
        q, k = both.chunk(2, dim=-1)
    q, k = (t.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for t in (q, k))
    q, k = attention.q_norm(q), attention.k_norm(k)
    if rope is not None:
        num_fixed, is_half = attention.num_prefix_tokens, attention.rotate_half
        q, k = (
            torch.cat(
                [
                    t[:, :, :num_fixed],
                    apply_rot_embed_cat(t[:, :, num_fixed:], rope, half=is_half).type_as(t),
                ],
                dim=2,
            )
            for t in (q, k)
        )
    return q, k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)


def _separate_queries_keys(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of PVTv2's last stage, (B, heads, N, d)."""
    if attention.sr is not None:
        raise ConfigError(
            "the last stage of this PVTv2 reduces its keys, so attention has no value per patch; "
            "use a pvt_v2 without `_li`."
        )
    num_rows = attention.num_heads * attention.head_dim
    bias = attention.kv.bias
    k = F.linear(tokens, attention.kv.weight[:num_rows], None if bias is None else bias[:num_rows])
    q, k = (
        t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (attention.q(tokens), k)
    )
    return q, k


def _mean_over_queries(q: Tensor, k: Tensor) -> Tensor:
    """Mean row of softmax(q k^T), (B, heads, K), without holding the whole map."""
    num_queries = q.shape[2]
    per_query = q.shape[0] * q.shape[1] * k.shape[2]
    step = max(1, min(num_queries, _MAX_ENTRIES // per_query))
    total = torch.zeros(k.shape[0], k.shape[1], k.shape[2], device=q.device)
    for part in q.split(step, dim=2):
        scores = part @ k.transpose(-2, -1)
        total = total + scores.float().softmax(dim=-1).sum(dim=2)
    return total / num_queries


# All other classes: run the one block unfused and read its map ---------------------------


@contextmanager
def _unfused(
    backbone: Backbone, module: Any, num_patches: int, queries: Queries, sink: _Sink
) -> Iterator[None]:
    """Read the softmax where it enters the dropout (or CaiT's second mixing of heads)."""
    is_talking = isinstance(module, cait.TalkingHeadAttn)
    block = _window_block(backbone, module)
    grid: list[tuple[int, int]] = []

    def before_block(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        grid[:] = [(args[0].shape[1], args[0].shape[2])]

    def before_drop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        scores = args[0].permute(0, 3, 1, 2) if is_talking else args[0]  # (B, heads, Q, K)
        if scores.ndim != 4:
            raise _no_map(module)
        if block is not None:
            sink(_merge_windows(scores.float(), block, grid[0]))
            return
        num_prefix = _num_prefix(scores.shape[3], num_patches, module)
        if queries == "class":
            scores = scores[:, :, :1]
        elif scores.shape[2] == scores.shape[3]:
            scores = scores[:, :, num_prefix:]
        else:
            raise _no_map(module)
        sink(scores.float().mean(2)[:, :, num_prefix:])

    was_fused = getattr(module, "fused_attn", None)
    drop = module.proj_w if is_talking else module.attn_drop
    handles = [drop.register_forward_pre_hook(before_drop)]
    if block is not None:
        handles.append(block.register_forward_pre_hook(before_block))
    try:
        if was_fused is not None:
            module.fused_attn = False
        yield
    finally:
        if was_fused is not None:
            module.fused_attn = was_fused
        for handle in handles:
            handle.remove()


def _window_block(backbone: Backbone, attention: nn.Module) -> Any:
    """Block of shifted windows around an attention module; None where there are no windows."""
    for module in backbone.model.modules():
        if getattr(module, "attn", None) is attention and hasattr(module, "window_area"):
            return module
    return None


def _merge_windows(scores: Tensor, block: Any, grid: tuple[int, int]) -> Tensor:
    """Mean over an image's queries, with Swin's windows, padding and shift undone.

    Args:
        scores: Maps of the windows, (B*windows, heads, n, n).
        block: The Swin block, with its `window_size` and `shift_size`.
        grid: Height and width of the feature map; windows may reach beyond it.

    Returns:
        Attention received by each cell, (B, heads, N).
    """
    (height, width), (window_h, window_w) = grid, block.window_size
    rows, columns = -(-height // window_h), -(-width // window_w)
    is_real = torch.zeros(rows * window_h, columns * window_w, device=scores.device)
    is_real[:height, :width] = 1.0  # padded cells ask, too, but are no patches
    is_query = is_real.reshape(rows, window_h, columns, window_w).transpose(1, 2).flatten(2)
    tiles = scores.unflatten(0, (-1, rows, columns))  # (B, rows, columns, heads, n, n)
    received = torch.einsum("brchqk,rcq->brchk", tiles, is_query) / (height * width)
    image = received.unflatten(-1, (window_h, window_w)).permute(0, 3, 1, 4, 2, 5)
    image = image.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
    return image.roll(shifts=tuple(block.shift_size), dims=(2, 3)).flatten(2)


def _num_prefix(num_keys: int, num_patches: int, module: nn.Module) -> int:
    """Number of leading keys that are no patches (class, register and distillation tokens)."""
    if num_keys < num_patches:
        raise _no_map(module)
    return num_keys - num_patches


def _no_map(module: nn.Module) -> ConfigError:
    return ConfigError(
        f"{type(module).__name__} has no attention from patch to patch in its last stage; "
        f"{_WAY_OUT}"
    )


@cache
def _is_installed(module: str) -> bool:
    """Whether a module can be imported; asked for in every block, looked up once."""
    return importlib.util.find_spec(module) is not None


def has_block_diagonal_attention(device: torch.device) -> bool:
    """Whether xformers' block-diagonal kernel can be used on a device."""
    return device.type == "cuda" and _is_installed("xformers")


def block_diagonal_attention(
    q: Tensor, k: Tensor, v: Tensor, *, lengths: Sequence[int], dropout: float = 0.0
) -> Tensor:
    """Attention within each of the sequences that are packed one after the other (xformers).

    Args:
        q: Queries of all sequences, (T, H, d).
        k: Keys, likewise.
        v: Values, likewise.
        lengths: Of the sequences; their sum is T.
        dropout: Of the attention weights.

    Returns:
        (T, H, d).
    """
    from xformers.ops import fmha

    mask = fmha.attn_bias.BlockDiagonalMask.from_seqlens(list(lengths))
    mixed: Tensor = fmha.memory_efficient_attention(
        q[None], k[None], v[None], attn_bias=mask, p=dropout
    )
    return mixed[0]


def has_variable_length_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float) -> bool:
    """Whether torch's own kernel for packed sequences takes these: half precision on a GPU.

    It exists from torch 2.10 on, has no dropout, and its backward adds up in any order.
    """
    is_half = q.dtype == k.dtype == v.dtype and q.dtype in (torch.float16, torch.bfloat16)
    if not (is_half and q.device.type == "cuda" and dropout == 0 and q.shape[-1] % 8 == 0):
        return False
    return (
        q.shape[-1] <= _MAX_FLASH_DIM
        and not torch.are_deterministic_algorithms_enabled()
        and torch.backends.cuda.flash_sdp_enabled()
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
        and _is_installed("torch.nn.attention.varlen")
    )


def variable_length_attention(
    q: Tensor, k: Tensor, v: Tensor, *, bounds: Tensor, longest: int
) -> Tensor:
    """Attention within each of the sequences that are packed one after the other (torch).

    Args:
        q: Queries of all sequences, (T, H, d), of half precision.
        k: Keys, likewise.
        v: Values, likewise.
        bounds: Where each sequence begins, and last T, int32, (N + 1,), on the device.
        longest: Length of the longest sequence.

    Returns:
        (T, H, d).
    """
    from torch.nn.attention.varlen import varlen_attn

    mixed = varlen_attn(q, k, v, bounds, bounds, longest, longest)
    assert isinstance(mixed, Tensor)  # a pair only where the log-sum-exp is asked for
    return mixed
