import pytest
import timm
import torch
from timm.layers import DropPath

from ssl_vision.backbones.build import BackboneConfig, build_backbone, set_drop_path, wrap_model
from ssl_vision.backbones.timm_vit import TimmViT
from ssl_vision.errors import ConfigError

# One of each kind timm has: plain, distilled-style, registers, class attention, rotary, windows,
# pyramids with and without attention, convolutions of four generations, MLPs.
ARCHITECTURES = [
    ("vit_tiny_patch16_224", {"depth": 2}, 32),
    ("vit_small_patch14_reg4_dinov2", {"depth": 2}, 28),
    ("deit3_small_patch16_224", {"depth": 2}, 32),
    ("vit_base_patch16_rope_reg1_gap_256", {"depth": 2, "embed_dim": 96, "num_heads": 3}, 32),
    ("beit_base_patch16_224", {"depth": 2, "embed_dim": 96, "num_heads": 3}, 32),
    ("cait_xxs24_224", {"depth": 2}, 32),
    ("xcit_nano_12_p16_224", {}, 32),
    ("swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (1, 1, 2, 1)}, 56),
    ("pvt_v2_b0", {}, 32),
    ("resnet18", {}, 32),
    ("convnext_atto", {}, 32),
    ("efficientnet_b0", {}, 32),
    ("mobilenetv3_small_100", {}, 32),
    ("regnetx_002", {}, 32),
    ("mixer_s32_224", {}, 64),
]


@pytest.mark.parametrize(
    ("name", "args", "size_px"), ARCHITECTURES, ids=[a[0] for a in ARCHITECTURES]
)
def test_features_of_every_family(name: str, args: dict, size_px: int) -> None:
    backbone = build_backbone(BackboneConfig(name=name, args=args), input_size=size_px).eval()
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, size_px, size_px))
    assert features.pooled.shape == (2, backbone.width)
    assert features.patches.shape[:2] == (2, backbone.num_patches(size_px))
    assert features.pooled.isfinite().all()
    ids = [backbone.layer_id(n) for n, _ in backbone.named_parameters()]
    assert min(ids) == 0
    assert max(ids) <= backbone.num_layers
    # The recorded arguments rebuild the same network: exports rely on it.
    again = timm.create_model(name, num_classes=0, **backbone.model_args)
    again.load_state_dict(backbone.model.state_dict())


def tiny_vit(**args: object) -> TimmViT:
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
    config = BackboneConfig(name="vit_tiny_patch16_224", args={**sizes, **args})
    backbone = build_backbone(config, input_size=32)
    assert isinstance(backbone, TimmViT)
    return backbone.eval()


@pytest.mark.parametrize(
    "args", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}]
)
def test_features_are_timms_own(args: dict) -> None:
    backbone, images = tiny_vit(**args), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone(images).pooled, backbone.model(images))
        tokens = backbone.model.forward_features(images)
    assert torch.equal(backbone(images).patches, tokens[:, backbone.num_prefix :])


def test_a_mask_of_nothing_changes_nothing_but_keeps_the_token_in_the_graph() -> None:
    backbone, images = tiny_vit(), torch.randn(2, 3, 32, 32)
    plain = backbone(images).pooled
    backbone.add_mask_token()
    masked = backbone(images, mask=torch.zeros(2, 16, dtype=torch.bool)).pooled
    assert torch.equal(plain, masked)
    masked.sum().backward()
    assert backbone.mask_token.grad is not None
    assert not backbone.mask_token.grad.any()


def test_masked_patches_do_not_reach_the_features() -> None:
    backbone = tiny_vit()
    backbone.add_mask_token()
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True  # row 1, column 1 of the 4x4 grid: pixels 8..15 in both directions
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 8:16, 8:16] = 7.0
    with torch.no_grad():
        assert torch.equal(backbone(images, mask=mask).pooled, backbone(changed, mask=mask).pooled)
        assert not torch.equal(backbone(images).pooled, backbone(changed).pooled)


def test_visible_patches_only_equals_attention_restricted_to_them() -> None:
    backbone, images = tiny_vit(), torch.randn(2, 3, 32, 32)
    every = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        all_tokens = backbone.forward_visible(images, keep=every)
        torch.testing.assert_close(all_tokens, backbone.model.forward_features(images))
        # A transformer without positions in its blocks is equivariant to the order of tokens.
        order = torch.randperm(16)
        shuffled = backbone.forward_visible(images, keep=order.expand(2, -1))
    torch.testing.assert_close(shuffled[:, 1:], all_tokens[:, 1:][:, order], atol=1e-5, rtol=1e-5)


def test_the_cost_of_the_visible_forward_falls_with_the_mask() -> None:
    backbone, images = tiny_vit(), torch.randn(1, 3, 32, 32)
    seen: list[int] = []
    backbone.model.blocks[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    backbone.forward_visible(images, keep=torch.tensor([[3, 1, 9, 0]]))
    assert seen == [1 + 4]


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    images, gradients = torch.randn(2, 3, 32, 32), []
    for is_checkpointed in (False, True):
        backbone = tiny_vit()
        backbone.model.set_grad_checkpointing(is_checkpointed)
        backbone(images).pooled.square().sum().backward()
        gradients.append([p.grad for p in backbone.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_layer_ids_are_those_of_mae() -> None:
    backbone = tiny_vit()
    ids = {name: backbone.layer_id(name) for name, _ in backbone.named_parameters()}
    assert backbone.num_layers == 4
    assert (
        ids["model.cls_token"] == ids["model.pos_embed"] == ids["model.patch_embed.proj.bias"] == 0
    )
    assert ids["model.blocks.0.attn.qkv.weight"] == 1
    assert ids["model.blocks.2.mlp.fc2.bias"] == 3
    assert ids["model.norm.weight"] == 4


def test_drop_path_can_be_taken_out() -> None:
    config = BackboneConfig(name="vit_tiny_patch16_224", args={"depth": 3}, drop_path=0.3)
    backbone = build_backbone(config, input_size=32)
    assert "drop_path_rate" not in backbone.model_args
    set_drop_path(backbone, 0.0)
    rates = [m.drop_prob for m in backbone.modules() if isinstance(m, DropPath)]
    assert rates
    assert set(rates) == {0.0}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            BackboneConfig(name="vit_smal_patch16_224"),
            ["vit_smal_patch16_224", "vit_small_patch16_224"],
        ),
        (BackboneConfig(name="resnet18", args={"depht": 3}), ["depht", "resnet18"]),
        (
            BackboneConfig(name="vit_tiny_patch16_224", args={"num_heads": 5}),
            ["num_heads", "vit_tiny"],
        ),
    ],
)
def test_a_network_that_cannot_be_built_says_why(config: BackboneConfig, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_backbone(config, input_size=32)
    assert all(word in str(caught.value) for word in words)


def test_a_model_without_pooled_features_is_refused() -> None:
    with pytest.raises(ConfigError, match="no pooled features"):
        wrap_model(torch.nn.Linear(2, 2), architecture="linear")
