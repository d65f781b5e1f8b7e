import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.packed import can_pack, forward_packed

SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
NETWORKS = {
    "plain": ("vit_tiny_patch16_224", SMALL),
    "registers, layer scale": ("vit_small_patch14_reg4_dinov2", {**SMALL, "init_values": 0.3}),
    "qk norm": ("vit_tiny_patch16_224", {**SMALL, "qk_norm": True}),
}


def build(name, args, **settings):
    torch.manual_seed(0)
    config = BackboneConfig(name=name, args=args, **settings)
    backbone = build_backbone(config, image_size_px=32)
    backbone.add_mask_token()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return backbone


def crops():
    generator = torch.Generator().manual_seed(1)
    large = torch.randn(3, 3, 32, 32, generator=generator)
    small = torch.randn(5, 3, 16, 16, generator=generator)
    mask = torch.rand(3, 16, generator=generator) < 0.4
    return [large, small], [mask, None]


def gradients(backbone, outputs):
    total = sum((o.pooled.square().sum() + o.patches.sin().sum()) for o in outputs)
    backbone.zero_grad()
    total.backward()
    return {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_one_pass_equals_separate_passes(kind, is_checkpointed):
    """Values and gradients, to 1e-5 of their scale in float32."""
    backbone = build(*NETWORKS[kind], is_checkpointed=is_checkpointed).train()
    groups, masks = crops()
    separate = [backbone(x, mask=mask) for x, mask in zip(groups, masks, strict=True)]
    expected = gradients(backbone, separate)
    packed = forward_packed(backbone, groups, masks=masks)
    found = gradients(backbone, packed)
    for a, b in zip(separate, packed, strict=True):
        torch.testing.assert_close(a.pooled, b.pooled, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.patches, b.patches, rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 1e-5 * scale, name


def test_stochastic_depth_drops_whole_crops():
    backbone = build("vit_tiny_patch16_224", SMALL, drop_path=0.5).train()
    groups, masks = crops()
    torch.manual_seed(0)
    first = forward_packed(backbone, groups, masks=masks)
    again = forward_packed(backbone, groups, masks=masks)
    torch.manual_seed(0)
    repeated = forward_packed(backbone, groups, masks=masks)
    assert torch.equal(first[1].pooled, repeated[1].pooled)
    assert not torch.equal(first[1].pooled, again[1].pooled)


def test_setting_chooses_the_pass_and_other_blocks_refuse():
    backbone = build("vit_tiny_patch16_224", SMALL, is_packed=True)
    assert backbone.is_packed
    assert can_pack(backbone)
    groups, masks = crops()
    backbone.eval()
    packed = backbone.forward_groups(groups, masks=masks)
    backbone.is_packed = False
    separate = backbone.forward_groups(groups, masks=masks)
    torch.testing.assert_close(packed[0].pooled, separate[0].pooled, rtol=1e-5, atol=1e-5)
    parallel = build_backbone(
        BackboneConfig(name="vit_base_patch16_xp_224", args=SMALL), image_size_px=32
    )
    assert not can_pack(parallel)
