"""The map equals the one read from a network with no fused attention at all."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_vision.backbones.attention import (
    class_attention,
    forward_with_attention,
)
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError

GLOBAL = [  # one map over the whole image: name, arguments, prefix tokens in the last block
    ("vit_tiny_patch16_224", {"depth": 2}, 1),
    ("vit_tiny_patch16_224", {"depth": 2, "global_pool": "avg", "qk_norm": True}, 1),
    ("deit_tiny_distilled_patch16_224", {"depth": 2}, 2),
    ("vit_small_patch14_reg4_dinov2", {"depth": 2, "embed_dim": 96}, 5),
    ("vit_small_patch16_dinov3", {"depth": 2, "embed_dim": 96, "num_heads": 3}, 5),
    ("eva02_tiny_patch14_224", {"depth": 2}, 1),
    ("beit_base_patch16_224", {"depth": 2, "embed_dim": 96, "num_heads": 3}, 1),
    ("pvt_v2_b0", {"depths": (1, 1, 1, 2)}, 0),
]


def _network(name: str, args: dict[str, Any], *, size_px: int) -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name=name, args=args), input_size=size_px)
    with torch.no_grad():  # maps of fresh networks are almost flat: make them count
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone.eval()


def _unfused_maps(backbone: Backbone, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Pooled features, and what enters every attention dropout, with nothing fused."""
    maps: list[Tensor] = []
    for module in backbone.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if isinstance(getattr(module, "attn_drop", None), nn.Module):
            module.attn_drop.register_forward_hook(lambda m, args, out: maps.append(args[0]))
    return backbone(images).pooled, maps


@pytest.mark.parametrize(("name", "args", "num_prefix"), GLOBAL)
def test_map_is_that_of_the_unfused_network(
    name: str, args: dict[str, Any], num_prefix: int
) -> None:
    backbone = _network(name, args, size_px=112)
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        plain = backbone(images)
        features = forward_with_attention(backbone, images)
        pooled, maps = _unfused_maps(backbone, images)
    expected = torch.zeros(2, features.patches.shape[1])
    for query in range(num_prefix, maps[-1].shape[2]):
        expected += maps[-1][:, :, query, num_prefix:].mean(dim=1)
    expected /= maps[-1].shape[2] - num_prefix
    assert features.attention.shape == expected.shape
    torch.testing.assert_close(features.attention, expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-4  # not the flat map every network agrees on
    torch.testing.assert_close(features.pooled, plain.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-4, atol=1e-4)


def test_cait_patch_map_is_the_softmax_of_the_last_talking_heads_block() -> None:
    backbone = _network("cait_xxs24_224", {"depth": 2}, size_px=64)
    images = torch.randn(2, 3, 64, 64)
    attention = backbone.model.blocks[-1].attn
    seen: list[Tensor] = []
    attention.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        features = forward_with_attention(backbone, images)
        tokens = seen[0]
        q, k, _ = attention.qkv(tokens).reshape(2, 16, 3, 4, -1).permute(2, 0, 3, 1, 4)
        scores = torch.zeros(2, 4, 16, 16)
        raw = (q * attention.scale) @ k.transpose(-2, -1)
        for head in range(4):
            for other in range(4):
                scores[:, head] += attention.proj_l.weight[head, other] * raw[:, other]
            scores[:, head] += attention.proj_l.bias[head]
        expected = scores.softmax(-1).mean(dim=(1, 2))
    torch.testing.assert_close(features.attention, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size_px", "name"), [(224, "swin"), (256, "swin"), (256, "swinv2")])
def test_swin_map_follows_windows_padding_and_shift(size_px: int, name: str) -> None:
    full = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}[name]
    args = {"depths": (1, 1, 1, 2), "embed_dim": 24}
    backbone = _network(full, args, size_px=size_px)
    images = torch.randn(2, 3, size_px, size_px)
    block = backbone.model.layers[-1].blocks[-1]
    side = size_px // 32
    with torch.no_grad():
        features = forward_with_attention(backbone, images)
        _, maps = _unfused_maps(backbone, images)
    (window, _), (shift, _) = block.window_size, block.shift_size
    per_axis = -(-side // window)
    scores = maps[-1].mean(dim=1)  # (B*windows, n, n)
    expected = torch.zeros(2, side, side)

    def place(row: int, column: int) -> tuple[int, int]:
        """Window and position in it of a cell of the unshifted image."""
        row, column = (row - shift) % side, (column - shift) % side
        number = (row // window) * per_axis + column // window
        return number, (row % window) * window + column % window

    cells = [(row, column) for row in range(side) for column in range(side)]
    for key in cells:
        key_window, key_place = place(*key)
        for query in cells:
            query_window, query_place = place(*query)
            if query_window == key_window:
                rows = scores[torch.arange(2) * per_axis**2 + key_window]
                expected[:, key[0], key[1]] += rows[:, query_place, key_place] / side**2
    torch.testing.assert_close(features.attention, expected.flatten(1), rtol=0, atol=1e-6)


def test_long_sequences_are_reduced_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = _network("vit_tiny_patch16_224", {"depth": 1}, size_px=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = forward_with_attention(backbone, images).attention
        monkeypatch.setattr("ssl_vision.backbones.attention._MAX_ENTRIES", 2 * 3 * 17 * 5)
        sliced = forward_with_attention(backbone, images).attention
    torch.testing.assert_close(sliced, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cait_xxs24_224"])
def test_class_row_is_the_class_tokens(name: str) -> None:
    backbone = _network(name, {"depth": 2}, size_px=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        heads = class_attention(backbone, images)
        mean = forward_with_attention(backbone, images, queries="class").attention
        _, maps = _unfused_maps(backbone, images)
    torch.testing.assert_close(heads, maps[-1][:, :, 0, 1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(mean, heads.mean(dim=1))


def test_no_hook_or_switch_stays_behind() -> None:
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        backbone = _network(name, {}, size_px=224)
        before = [getattr(m, "fused_attn", None) for m in backbone.modules()]
        with torch.no_grad():
            forward_with_attention(backbone, torch.randn(1, 3, 224, 224))
        assert [getattr(m, "fused_attn", None) for m in backbone.modules()] == before
        assert not any(m._forward_pre_hooks for m in backbone.modules())


@pytest.mark.parametrize(
    ("name", "queries", "words"),
    [
        ("resnet18", "patches", "no attention between tokens"),
        ("pvt_v2_b0", "class", "no class token"),
        ("pvt_v2_b2_li", "patches", "reduces its keys"),
        ("xcit_nano_12_p16_224", "patches", "no attention between tokens"),
    ],
)
def test_networks_without_such_a_map_are_refused(name: str, queries: Any, words: str) -> None:
    backbone = build_backbone(BackboneConfig(name=name), input_size=64).eval()
    with torch.no_grad(), pytest.raises(ConfigError, match=words):
        forward_with_attention(backbone, torch.randn(1, 3, 64, 64), queries=queries)
