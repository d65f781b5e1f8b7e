"""The decoder keeps track of which token is which patch."""

import torch

from ssl_vision.nn.point_decoder import PointDecoder, in_patch_order
from ssl_vision.points.masks import split_indices


def make(drop_path: float = 0.0) -> PointDecoder:
    return PointDecoder(width=12, depth=2, num_heads=2, group_size=4, drop_path=drop_path).eval()


def test_patch_order_is_restored() -> None:
    order = torch.tensor([[2, 0, 3, 1], [1, 0, 2, 3]])
    tokens = order[:, :, None].float()
    assert in_patch_order(tokens, order)[:, :, 0].tolist() == [[0, 1, 2, 3]] * 2


def test_reordered_patches_give_reordered_predictions() -> None:
    decoder = make()
    centers, encoded = torch.randn(1, 6, 3), torch.randn(1, 2, 12)
    visible, hidden = torch.tensor([[0, 3]]), torch.tensor([[1, 2, 4, 5]])
    plain = decoder(encoded, centers, visible=visible, hidden=hidden)
    swapped = decoder(encoded.flip(1), centers, visible=visible.flip(1), hidden=hidden.flip(1))
    assert plain.points.shape == (1, 4, 4, 3)
    assert torch.allclose(swapped.points.flip(1), plain.points, atol=1e-5)
    assert torch.allclose(
        in_patch_order(swapped.tokens, swapped.order),
        in_patch_order(plain.tokens, plain.order),
        atol=1e-5,
    )


def test_hidden_patches_differ_by_their_positions_only() -> None:
    decoder = make()
    centers = torch.zeros(1, 4, 3)
    visible, hidden = split_indices(torch.tensor([[False, True, True, False]]))
    points = decoder(torch.randn(1, 2, 12), centers, visible=visible, hidden=hidden).points
    assert torch.allclose(points[:, 0], points[:, 1], atol=1e-6)
    centers[0, 2] = 1.0
    points = decoder(torch.randn(1, 2, 12), centers, visible=visible, hidden=hidden).points
    assert not torch.allclose(points[:, 0], points[:, 1], atol=1e-3)


def test_weights_start_as_the_authors() -> None:
    decoder = PointDecoder(width=96, depth=1, num_heads=4, group_size=8, drop_path=0.0)
    weight = decoder.blocks[0].mlp.fc1.weight
    bound = (6 / sum(weight.shape)) ** 0.5
    assert 0.98 * bound < weight.abs().max() <= bound
    assert 0.01 < decoder.mask_token.std() < 0.03
