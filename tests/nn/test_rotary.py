"""Rotary positions against complex numbers, and what they promise: only distances count."""

import cmath

import numpy as np
import pytest
import torch
from timm.layers.attention import Attention

from ssl_vision.nn.rotary import (
    CrossAttention,
    RotaryAttention,
    RotaryBlock,
    grid_positions,
    rotate,
    rotation_of,
)


def test_positions_go_row_by_row():
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_rotation_equals_the_authors(golden):
    values = golden("croco")
    rotation = rotation_of(torch.tensor(values["rope_pos"]), head_dim=8, base=100.0)
    turned = rotate(torch.tensor(values["rope_in"]), rotation)
    np.testing.assert_allclose(turned, values["rope_out"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head_dim", [4, 12, 64])
def test_channel_pairs_turn_as_complex_numbers(head_dim):
    tokens = torch.randn(1, 1, 6, head_dim, dtype=torch.float64)
    positions = grid_positions(2, 3)
    turned = rotate(tokens, rotation_of(positions, head_dim=head_dim, base=100.0))[0, 0]
    quarter, half = head_dim // 4, head_dim // 2
    for token, place in enumerate(positions.tolist()):
        for part, position in enumerate(place):  # the row's half, then the column's
            for i in range(quarter):
                first, second = part * half + i, part * half + i + quarter
                value = complex(*tokens[0, 0, token, [first, second]].tolist())
                expected = value * cmath.exp(1j * position * 100.0 ** (-i / quarter))
                found = complex(*turned[token, [first, second]].tolist())
                assert abs(found - expected) < 1e-5


def test_attention_depends_on_distances_alone():
    torch.manual_seed(0)
    attention = RotaryAttention(32, 2, qkv_bias=True).eval()
    tokens, places = torch.randn(2, 5, 32), torch.randint(0, 9, (2, 5, 2))
    near = attention(tokens, rotation=rotation_of(places, head_dim=16, base=100.0))
    far = attention(tokens, rotation=rotation_of(places + 40, head_dim=16, base=100.0))
    other = attention(tokens, rotation=rotation_of(2 * places, head_dim=16, base=100.0))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)
    assert (near - other).abs().max() > 1e-3


def test_without_rotation_it_is_timms_attention():
    ours, theirs = RotaryAttention(24, 3, qkv_bias=True), Attention(24, 3, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 7, 24)
    at_origin = rotation_of(torch.zeros(7, 2), head_dim=8, base=100.0)
    torch.testing.assert_close(ours(tokens), theirs(tokens))
    torch.testing.assert_close(ours(tokens, rotation=at_origin), theirs(tokens))


def test_each_image_may_have_places_of_its_own():
    block = RotaryBlock(24, 3, attn_layer=RotaryAttention).eval()
    tokens, places = torch.randn(3, 5, 24), torch.randint(0, 6, (3, 5, 2))
    together = block(tokens, rotation=rotation_of(places, head_dim=8, base=50.0))
    for i in range(3):
        alone = block(tokens[i : i + 1], rotation=rotation_of(places[i], head_dim=8, base=50.0))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_cross_attention_is_softmax_of_products():
    torch.manual_seed(0)
    layer = CrossAttention(8, num_heads=2).double()
    tokens, memory = torch.randn(1, 3, 8).double(), torch.randn(1, 5, 8).double()
    q, k, v = layer.projq(tokens)[0], layer.projk(memory)[0], layer.projv(memory)[0]
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[:, part] @ k[:, part].T / 2.0, dim=1)  # sqrt(4) channels
        heads.append(weights @ v[:, part])
    expected = layer.proj(torch.cat(heads, dim=1))
    torch.testing.assert_close(layer(tokens, memory, None, None)[0], expected)


def test_half_precision_turns_by_exact_angles():
    tokens = torch.randn(1, 1, 4, 64)
    rotation = rotation_of(torch.tensor([[300, 7]] * 4), head_dim=64, base=100.0)
    low = rotate(tokens.bfloat16(), rotation)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), rotate(tokens, rotation), rtol=0.02, atol=0.02)
