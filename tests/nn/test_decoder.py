import pytest
import torch

from ssl_vision.masking import random_mask
from ssl_vision.nn.decoder import MaskedDecoder
from ssl_vision.randomness import keyed_uniform


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_predicts_every_patch_whatever_stands_in_front(num_prefix):
    decoder = MaskedDecoder(12, 48, grid=4, num_prefix=num_prefix, width=16, depth=1, num_heads=2)
    split = random_mask(keyed_uniform(0, torch.arange(3), 16), num_keep=4)
    out = decoder(torch.randn(3, num_prefix + 4, 12), restore=split.restore)
    assert out.shape == (3, 16, 48)


def test_kept_patches_land_at_their_places():
    torch.manual_seed(0)
    decoder = MaskedDecoder(8, 8, grid=4, num_prefix=0, width=8, depth=0, num_heads=2)
    decoder.embed.weight.data.copy_(torch.eye(8))
    decoder.pos_embed.zero_()
    decoder.norm = torch.nn.Identity()
    decoder.pred = torch.nn.Identity()
    split = random_mask(keyed_uniform(0, torch.arange(2), 16), num_keep=4)
    patches = torch.randn(2, 16, 8)
    visible = patches.gather(1, split.keep[:, :, None].expand(-1, -1, 8))
    out = decoder(visible, restore=split.restore)
    torch.testing.assert_close(out[~split.mask], patches[~split.mask])
    hidden = out[split.mask]
    torch.testing.assert_close(hidden, decoder.mask_token[0].expand_as(hidden))


def test_initialisation_is_maes():
    torch.manual_seed(0)
    decoder = MaskedDecoder(64, 48, grid=4, width=64, depth=1, num_heads=2)
    bound = (6 / (64 + 64)) ** 0.5
    assert 0.9 * bound < decoder.embed.weight.abs().max() <= bound
    assert decoder.embed.bias.abs().max() == 0
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert not decoder.pos_embed.requires_grad
    assert decoder.pos_embed[0, 0].abs().max() == 0
