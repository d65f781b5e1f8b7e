import itertools

import pytest
import torch

from ssl_vision.backbones.attention import (
    has_variable_length_attention,
    variable_length_attention,
)
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.packed import Group, can_pack, sequence_bounds

SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
NETWORKS = {
    "plain": ("vit_tiny_patch16_224", SMALL),
    "registers, layer scale": ("vit_small_patch14_reg4_dinov2", {**SMALL, "init_values": 0.3}),
    "qk norm": ("vit_tiny_patch16_224", {**SMALL, "qk_norm": True}),
}


def build(name, args, **settings):
    torch.manual_seed(0)
    config = BackboneConfig(name=name, args=args, **settings)
    backbone = build_backbone(config, input_size=32)
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
    backbone = build(*NETWORKS[kind], is_checkpointed=is_checkpointed, is_packed=True).train()
    groups, masks = crops()
    separate = [backbone(x, mask=mask) for x, mask in zip(groups, masks, strict=True)]
    expected = gradients(backbone, separate)
    packed = backbone.forward_groups(groups, masks=masks)
    found = gradients(backbone, packed)
    for a, b in zip(separate, packed, strict=True):
        torch.testing.assert_close(a.pooled, b.pooled, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.patches, b.patches, rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 1e-5 * scale, name


def test_stochastic_depth_drops_whole_crops():
    backbone = build("vit_tiny_patch16_224", SMALL, drop_path=0.5, is_packed=True).train()
    groups, masks = crops()
    torch.manual_seed(0)
    first = backbone.forward_groups(groups, masks=masks)
    again = backbone.forward_groups(groups, masks=masks)
    torch.manual_seed(0)
    repeated = backbone.forward_groups(groups, masks=masks)
    assert torch.equal(first[1].pooled, repeated[1].pooled)
    assert not torch.equal(first[1].pooled, again[1].pooled)


def test_setting_chooses_the_pass_and_other_blocks_refuse():
    backbone = build("vit_tiny_patch16_224", SMALL, is_packed=True)
    assert backbone.is_packed
    assert can_pack(backbone.model)
    groups, masks = crops()
    backbone.eval()
    packed = backbone.forward_groups(groups, masks=masks)
    backbone.is_packed = False
    separate = backbone.forward_groups(groups, masks=masks)
    torch.testing.assert_close(packed[0].pooled, separate[0].pooled, rtol=1e-5, atol=1e-5)
    parallel = build_backbone(
        BackboneConfig(name="vit_base_patch16_xp_224", args=SMALL), input_size=32
    )
    assert not can_pack(parallel.model)


def test_bounds_are_the_running_sums_of_the_lengths():
    layout = [Group(num=3, length=17), Group(num=1, length=2), Group(num=2, length=5)]
    bounds = sequence_bounds(layout, device=torch.device("cpu"))
    assert bounds.dtype == torch.int32
    assert bounds.tolist() == [0, 17, 34, 51, 53, 58, 63]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_packed_kernel_is_not_for_cpus(dtype):
    q = torch.zeros(4, 2, 8, dtype=dtype)
    assert not has_variable_length_attention(q, q, q, dropout=0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torchs_packed_kernel_equals_attention_crop_by_crop(dtype):
    layout = [Group(num=3, length=17), Group(num=5, length=6)]
    device = torch.device("cuda")
    total = sum(group.num * group.length for group in layout)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(total, 3, 4, 32, generator=generator).to(device)
    q, k, v = qkv.to(dtype).requires_grad_().unbind(1)  # strided, as a block's projection is
    if not has_variable_length_attention(q, k, v, dropout=0.0):
        pytest.skip("this torch or GPU has no kernel for packed sequences")
    assert not has_variable_length_attention(q, k, v, dropout=0.1)
    assert not has_variable_length_attention(q.float(), k.float(), v.float(), dropout=0.0)
    bounds = sequence_bounds(layout, device=device)
    found = variable_length_attention(q, k, v, bounds=bounds, longest=17)
    exact = [part.detach().double().requires_grad_() for part in (q, k, v)]
    expected = torch.cat(
        [
            torch.einsum(
                "hqk,khd->qhd",
                (torch.einsum("qhd,khd->hqk", eq, ek) / 32**0.5).softmax(dim=-1),
                ev,
            )
            for eq, ek, ev in (
                [part[first:last] for part in exact]
                for first, last in itertools.pairwise(bounds.tolist())
            )
        ]
    )
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=4 * tolerance)
    weight = torch.randn(found.shape, generator=generator).to(device)
    gradients_found = torch.autograd.grad((found * weight).sum(), (q, k, v))
    gradients_exact = torch.autograd.grad((expected * weight).sum(), exact)
    for mine, true in zip(gradients_found, gradients_exact, strict=True):
        assert float((mine.double() - true).abs().max()) < 8 * tolerance * float(true.abs().max())
