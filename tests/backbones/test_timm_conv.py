"""Mask tokens of pyramids."""

import pytest
import torch

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError

PYRAMIDS = {
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)},
    ),
    "resnet": (
        "resnet50",
        {"layers": (1, 1, 1, 1), "norm_layer": "groupnorm", "zero_init_last": False},
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1)}),
}


def build(kind: str) -> Backbone:
    torch.manual_seed(0)
    name, args = PYRAMIDS[kind]
    backbone = build_backbone(BackboneConfig(name=name, args=args), input_size=64)
    backbone.add_mask_token()
    return backbone.eval()


@pytest.mark.parametrize("kind", list(PYRAMIDS))
def test_an_empty_mask_changes_nothing_and_keeps_the_token_in_the_graph(kind: str) -> None:
    backbone = build(kind)
    images = torch.randn(2, 3, 64, 64)
    plain = backbone(images)
    masked = backbone(images, mask=torch.zeros(2, 16, dtype=torch.bool))
    assert torch.equal(plain.pooled, masked.pooled)
    assert torch.equal(plain.patches, masked.patches)
    masked.pooled.sum().backward()
    assert torch.equal(backbone.mask_token.grad, torch.zeros_like(backbone.mask_token))


@pytest.mark.parametrize("kind", list(PYRAMIDS))
def test_what_is_under_the_mask_is_not_seen(kind: str) -> None:
    backbone = build(kind)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True  # rows 16 to 31, columns 16 to 31 of 64 pixels
    first = torch.randn(1, 3, 64, 64)
    second = first.clone()
    # ResNet's stem looks beyond its cell; stay away from the border of the masked one.
    second[:, :, 22:26, 22:26] += 5.0
    with torch.no_grad():
        assert not torch.equal(backbone(first).pooled, backbone(second).pooled)
        a, b = backbone(first, mask=mask), backbone(second, mask=mask)
        assert not torch.equal(a.pooled, backbone(first).pooled)
        if kind != "resnet":
            assert torch.equal(a.patches, b.patches)
            return
        # Its group norm sees the whole image, so hidden pixels still shift the statistics.
        backbone.model.bn1 = torch.nn.Identity()
        a, b = backbone(first, mask=mask), backbone(second, mask=mask)
        assert torch.equal(a.patches, b.patches)


def test_cells_are_row_major_and_spread_over_the_finest_map() -> None:
    backbone = build("convnext")
    mask = torch.zeros(1, 4, dtype=torch.bool)
    mask[0, 1] = True  # top right quarter
    features = backbone._embed(torch.randn(1, 3, 64, 64))  # (1, D, 16, 16)
    hidden = backbone._hide(features, mask)
    is_changed = (hidden != features).any(dim=1)[0]
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[:8, 8:] = True
    assert torch.equal(is_changed, expected)


@pytest.mark.parametrize("num_cells", [9, 8])
def test_masks_that_do_not_divide_the_map_are_refused(num_cells: int) -> None:
    with pytest.raises(ValueError, match=f"mask of {num_cells} cells"):
        build("swin")(torch.randn(1, 3, 64, 64), mask=torch.zeros(1, num_cells, dtype=torch.bool))


def test_other_pyramids_have_no_mask_token() -> None:
    backbone = build_backbone(BackboneConfig(name="mobilenetv3_small_100"), input_size=32)
    with pytest.raises(ConfigError, match="use a ViT, Swin, ConvNeXt or ResNet"):
        backbone.add_mask_token()
