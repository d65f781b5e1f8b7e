"""Parts of point transformers against step-by-step versions."""

import torch
from torch import nn

from ssl_vision.nn.point_blocks import PointPatchEmbed, PositionedBlocks, position_mlp


def test_positions_are_added_before_every_block() -> None:
    blocks = PositionedBlocks(width=12, depth=3, num_heads=2, mlp_ratio=2.0, drop_path=0.0).eval()
    tokens, positions = torch.randn(2, 2, 5, 12)
    expected = tokens
    for block in blocks:
        expected = block(expected + positions)
    assert torch.equal(blocks(tokens, positions), expected)


def test_several_depths_can_be_read_in_one_pass() -> None:
    blocks = PositionedBlocks(width=12, depth=3, num_heads=2, mlp_ratio=2.0, drop_path=0.0).eval()
    tokens, positions = torch.randn(2, 2, 5, 12)
    first, last = blocks.outputs_of(tokens, positions, layers=(0, 2))
    assert torch.equal(first, blocks[0](tokens + positions))
    assert torch.equal(last, blocks(tokens, positions))


def test_recomputed_activations_change_no_gradient() -> None:
    blocks = PositionedBlocks(width=12, depth=2, num_heads=2, mlp_ratio=2.0, drop_path=0.0)
    tokens, positions = torch.randn(2, 2, 5, 12)
    blocks(tokens, positions).square().sum().backward()
    kept = [p.grad.clone() for p in blocks.parameters()]
    blocks.zero_grad()
    blocks.is_checkpointed = True
    blocks(tokens, positions).square().sum().backward()
    assert all(torch.equal(p.grad, k) for p, k in zip(blocks.parameters(), kept, strict=True))


def test_stochastic_depth_rises_and_projections_have_no_bias() -> None:
    blocks = PositionedBlocks(width=12, depth=3, num_heads=2, mlp_ratio=2.0, drop_path=0.2)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates[0] == 0.0
    assert abs(rates[1] - 0.1) < 1e-6
    assert abs(rates[2] - 0.2) < 1e-6
    assert blocks[0].attn.qkv.bias is None
    assert blocks[0].norm1.eps == 1e-5


def as_convolutions(embed: PointPatchEmbed, neighbors: torch.Tensor) -> torch.Tensor:
    """The mini-PointNet as the paper draws it: 1x1 convolutions, maxima, a joined vector."""

    def convolve(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv1d(x, layer.weight[:, :, None], layer.bias)

    x = neighbors.flatten(0, 1).transpose(1, 2)  # (B*G, 3, k)
    lift, norm, _, widen = embed.first_conv
    x = convolve(widen, norm(convolve(lift, x)).relu())
    whole = x.max(dim=2, keepdim=True).values.expand_as(x)
    mix, norm, _, narrow = embed.second_conv
    x = convolve(narrow, norm(convolve(mix, torch.cat([whole, x], dim=1))).relu())
    return x.max(dim=2).values.view(*neighbors.shape[:2], -1)


def test_patch_embedding_equals_its_convolutional_form() -> None:
    embed = PointPatchEmbed(24)
    neighbors = torch.randn(2, 3, 8, 3)
    value = embed(neighbors)
    expected = as_convolutions(embed, neighbors)
    assert torch.allclose(value, expected, atol=1e-5)
    weight = embed.first_conv[0].weight
    (found,) = torch.autograd.grad(value.square().sum(), weight)
    (wanted,) = torch.autograd.grad(expected.square().sum(), weight)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    embed.eval()
    assert torch.allclose(embed(neighbors), as_convolutions(embed, neighbors), atol=1e-5)


def test_patch_embedding_ignores_the_order_and_repetition_of_points() -> None:
    embed = PointPatchEmbed(24).eval()
    neighbors = torch.randn(1, 3, 8, 3)
    tokens = embed(neighbors)
    assert torch.allclose(embed(neighbors[:, :, torch.randperm(8)]), tokens, atol=1e-6)
    assert torch.allclose(embed(neighbors.repeat(1, 1, 2, 1)), tokens, atol=1e-6)


def test_positions_of_equal_coordinates_are_equal() -> None:
    embed = position_mlp(16)
    where = torch.randn(2, 4, 3)
    assert embed(where).shape == (2, 4, 16)
    assert torch.allclose(embed(where)[0, :1], embed(where[:1, :1])[0])
