import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_vision.losses.latent import latent_loss, latent_targets
from ssl_vision.nn.patches import take_blocks


def test_blocks_are_stacked_as_the_authors_stack_them(golden):
    tokens = torch.arange(10.0).view(2, 5, 1)
    blocks = torch.tensor([[[0, 1], [4, 0]], [[2, 3], [1, 2]]])  # (B, M, m)
    np.testing.assert_array_equal(take_blocks(tokens, blocks), golden("ijepa")["apply_order"])


def test_a_block_is_the_tokens_it_names():
    tokens = torch.randn(3, 9, 4)
    blocks = torch.stack([torch.randperm(9)[:6].view(2, 3) for _ in range(3)])
    taken = take_blocks(tokens, blocks)
    for i in range(3):
        for j in range(2):
            assert torch.equal(taken[j * 3 + i], tokens[i, blocks[i, j]])


def test_targets_are_normed_token_by_token_and_have_no_gradient():
    tokens = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    targets = latent_targets(tokens * 7 + 3)
    assert not targets.requires_grad
    for token, target in zip(tokens.flatten(0, 1), targets.flatten(0, 1), strict=True):
        wanted = (token - token.mean()) / (token.var(correction=0) + 1e-5 / 49).sqrt()
        torch.testing.assert_close(target, wanted.detach())
    assert latent_targets(tokens.detach().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("distance", "expected"), [(0.5, 0.125), (1.0, 0.5), (3.0, 2.5)])
def test_the_loss_bends_at_one(distance: float, expected: float):
    target: Tensor = torch.randn(4, 3, 2)
    assert latent_loss(target + distance, target).item() == pytest.approx(expected, rel=1e-5)
