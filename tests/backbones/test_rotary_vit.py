"""ViTs with rotary positions: the package's interface, timm's names, and what positions promise."""

import pytest
import timm
import torch

from ssl_vision.backbones.attention import forward_with_attention
from ssl_vision.backbones.build import BackboneConfig, build_backbone, build_from_config
from ssl_vision.backbones.rotary_vit import RotaryTransformer, RotaryViT
from ssl_vision.errors import ConfigError
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.weights import load_backbone

SIZES = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def make(**changes: object) -> RotaryViT:
    torch.manual_seed(0)
    config = BackboneConfig(name="rotary_vit_tiny", args={**SIZES, **changes})
    backbone = build_backbone(config, input_size=32)
    assert isinstance(backbone, RotaryViT)
    for parameter in backbone.parameters():  # a start at which attention is not flat
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return backbone.eval()


def test_sizes_are_those_of_timms_vits_without_positions_and_class_token() -> None:
    for name, tokens in (("tiny", 192), ("small", 384), ("base", 768)):
        with torch.device("meta"):
            ours = timm.create_model(f"rotary_vit_{name}", num_classes=0)
            theirs = timm.create_model(f"vit_{name}_patch16_224", num_classes=0)
        num = sum(p.numel() for p in ours.parameters())
        assert num + 198 * tokens == sum(p.numel() for p in theirs.parameters())
        assert ours.state_dict().keys() < theirs.state_dict().keys()


def test_kept_patches_keep_their_places() -> None:
    """In whatever order they are given, each is what it is in the whole image."""
    backbone, images = make(), torch.randn(2, 3, 32, 32)
    everything = torch.arange(16).expand(2, -1)
    whole = backbone(images)
    torch.testing.assert_close(backbone.forward_visible(images, keep=everything), whole.patches)
    mixed = torch.stack([torch.randperm(16), torch.randperm(16)])
    found = backbone.forward_visible(images, keep=mixed)
    for row, (tokens, keep) in enumerate(zip(found, mixed, strict=True)):
        torch.testing.assert_close(tokens, whole.patches[row, keep], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.pooled, whole.patches.mean(dim=1))


def test_features_move_with_the_patches_whatever_lies_left_of_them() -> None:
    """Rows 8 px further down see the same patches at the same distances."""
    backbone, images = make(), torch.randn(1, 3, 32, 32)
    keep = torch.tensor([[1, 4, 6]])
    moved = torch.zeros(1, 3, 32, 32)
    moved[:, :, 8:] = images[:, :, :24]
    found = backbone.forward_visible(moved, keep=keep + 4)
    expected = backbone.forward_visible(images, keep=keep)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_places_matter() -> None:
    backbone, images = make(), torch.randn(1, 3, 32, 32)
    rolled = backbone(images.roll(8, dims=3)).pooled
    assert (rolled - backbone(images).pooled).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (64, 16)])
def test_any_grid_is_taken_by_the_backbone_and_the_plain_model(shape: tuple[int, int]) -> None:
    backbone, images = make(), torch.randn(2, 3, *shape)
    found = backbone(images)
    assert found.patches is not None
    assert found.patches.shape[1] == shape[0] * shape[1] // 64
    torch.testing.assert_close(backbone.model(images), found.pooled)


def test_checkpointing_recomputes_the_same_rotation() -> None:
    """Two passes with other patches each, before one backward pass."""
    images, gradients = torch.randn(2, 3, 32, 32), []
    for is_checkpointed in (False, True):
        backbone = make()
        backbone.model.set_grad_checkpointing(is_checkpointed)
        seen = backbone.forward_visible(images, keep=torch.tensor([[0, 5], [9, 3]]))
        (seen.square().sum() + backbone(images).pooled.square().sum()).backward()
        gradients.append(backbone.model.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


def test_attention_maps_are_of_turned_queries_and_keys() -> None:
    backbone, images = make(depth=1), torch.randn(2, 3, 32, 32)
    found = forward_with_attention(backbone, images).attention
    block = backbone.model.blocks[0]
    tokens = block.norm1(backbone.embed(images))
    rotation = backbone.model.rotation(backbone.places(images))
    taken: list[torch.Tensor] = []

    def look(q, k, v, dropout_p):
        taken.append(torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1))
        return taken[0] @ v

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_vision.nn.rotary.F.scaled_dot_product_attention", look)
        block.attn(tokens, rotation=rotation)
    torch.testing.assert_close(found, taken[0].mean(dim=(1, 2)), rtol=1e-4, atol=1e-6)


def test_exports_load_again_by_this_package(tmp_path) -> None:
    backbone = make(rotary_base=30.0)
    export_backbone(
        backbone, tmp_path / "export", mean=(0.5,) * 3, std=(0.5,) * 3,
        interpolation="bicubic", size_px=32,
    )  # fmt: skip
    again = load_backbone(tmp_path / "export").eval()
    assert isinstance(again, RotaryTransformer)
    assert again.rotary_base == 30.0
    images = torch.randn(2, 3, 40, 40)
    assert torch.equal(again(images), backbone(images).pooled)
    assert "load_backbone" in (tmp_path / "export" / "README.md").read_text()


def test_arguments_rebuild_the_same_network() -> None:
    backbone = make()
    config = {"architecture": backbone.architecture, "model_args": backbone.model_args}
    again = build_from_config(config).eval()
    again.model.load_state_dict(backbone.model.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(images).pooled, backbone(images).pooled)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"class_token": True}, "class_token"),
        ({"reg_tokens": 2}, "reg_tokens"),
        ({"rotary_base": 0.5}, "rotary_base=0.5"),
        ({"embed_dim": 12, "num_heads": 2}, "divisible by 4"),
        ({"rotary_bass": 3}, "rotary_base"),
    ],
)
def test_what_cannot_be_is_refused(args: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**args)


def test_it_has_no_weights_in_timm() -> None:
    with pytest.raises(ConfigError, match="no weights in timm"):
        timm.create_model("rotary_vit_tiny", pretrained=True)
