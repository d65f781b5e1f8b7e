import pytest
import torch

from ssl_vision.masking import raster_mask
from ssl_vision.nn.cross_decoder import CrossBlock, CrossDecoder
from ssl_vision.randomness import keyed_uniform

SIZES = {"grid": 4, "width": 16, "depth": 2, "num_heads": 2}


def _split(num, *, num_masked=12):
    return raster_mask(keyed_uniform(0, torch.arange(num), 16), num_masked=num_masked)


@pytest.mark.parametrize("rotary_base", [None, 100.0])
def test_predicts_every_patch(rotary_base):
    decoder = CrossDecoder(12, 48, rotary_base=rotary_base, **SIZES)
    split = _split(3)
    out = decoder(torch.randn(3, 4, 12), torch.randn(3, 16, 12), mask=split.mask)
    assert out.shape == (3, 16, 48)
    decoded = decoder.decode(torch.randn(3, 16, 12), torch.randn(3, 16, 12))
    assert decoded.tokens.shape == (3, 16, 16)
    assert len(decoded.layers) == 2


@pytest.mark.parametrize("rotary_base", [None, 100.0])
def test_a_block_is_its_formula(rotary_base):
    """x + SA(LN x), + CA(LN x, LN_y y), + MLP(LN x); the memory stays as it is."""
    torch.manual_seed(0)
    decoder = CrossDecoder(16, 8, rotary_base=rotary_base, **SIZES)
    block, rotation = decoder.blocks[0], decoder._rotation(torch.device("cpu"))
    assert isinstance(block, CrossBlock)
    for norm in (block.norm1, block.norm2, block.norm3, block.norm_y):
        torch.nn.init.normal_(norm.weight)
    x, y = torch.randn(2, 16, 16), torch.randn(2, 16, 16)
    kept = y.clone()
    out = block(x, y, rotation)
    x = x + block.attn(block.norm1(x), rotation=rotation)
    x = x + block.cross_attn(block.norm2(x), block.norm_y(y), rotation, rotation)
    hidden = torch.nn.functional.gelu(block.mlp.fc1(block.norm3(x)))
    torch.testing.assert_close(out, x + block.mlp.fc2(hidden))
    assert torch.equal(y, kept)


def test_seen_patches_land_at_their_places():
    torch.manual_seed(0)
    decoder = CrossDecoder(16, 8, rotary_base=100.0, **SIZES)
    decoder.embed.weight.data.copy_(torch.eye(16))
    decoder.blocks, decoder.norm = torch.nn.ModuleList(), torch.nn.Identity()
    split, patches = _split(5), torch.randn(5, 16, 16)
    seen = torch.stack([p[~m] for p, m in zip(patches, split.mask, strict=True)])
    out = decoder.decode(seen, patches, mask=split.mask).tokens
    assert torch.equal(out[~split.mask], patches[~split.mask])
    hidden = out[split.mask]
    assert torch.equal(hidden, decoder.mask_token[0].expand_as(hidden))


@pytest.mark.parametrize("rotary_base", [None, 100.0])
def test_it_knows_places_of_both_views(rotary_base):
    """Exchanging two patches of the memory changes the answer: it is not a set."""
    torch.manual_seed(0)
    decoder = CrossDecoder(16, 8, rotary_base=rotary_base, **SIZES)
    split, seen, memory = _split(1), torch.randn(1, 4, 16), torch.randn(1, 16, 16)
    swapped = memory[:, [1, 0, *range(2, 16)]]
    plain = decoder(seen, memory, mask=split.mask)
    assert (plain - decoder(seen, swapped, mask=split.mask)).abs().max() > 1e-4


def test_the_start_is_maes_and_positions_are_no_parameters():
    torch.manual_seed(0)
    decoder = CrossDecoder(64, 48, grid=4, width=64, depth=1, num_heads=2)
    bound = (6 / (64 + 64)) ** 0.5
    assert 0.9 * bound < decoder.blocks[0].cross_attn.projq.weight.abs().max() <= bound
    assert decoder.blocks[0].cross_attn.projk.bias.abs().max() == 0
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert "pos_embed" not in decoder.state_dict()
