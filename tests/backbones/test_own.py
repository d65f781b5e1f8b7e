"""Modules of a program's own as backbones."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from ssl_vision.backbones.classifier import add_classifier
from ssl_vision.backbones.own import as_backbone, check_layers, check_sizes, probe, wrap
from ssl_vision.errors import ConfigError


class _Gives(nn.Module):
    """Whatever it is told to give of images."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 6)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(self.layer(images.mean(dim=(2, 3))), images)


def _vector(found: Tensor, images: Tensor) -> Tensor:
    return found


def _map(found: Tensor, images: Tensor) -> Tensor:
    return found[:, :, None, None] * images.mean(dim=1, keepdim=True)[:, :, ::4, ::4]


def test_vectors_and_maps_are_features() -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    vector = wrap(_Gives(_vector), size_px=8)
    assert vector.width == 6
    assert vector(images).patches is None
    found = wrap(module := _Gives(_map), width=6)(images)
    cells = module(images)
    for b in range(2):
        for i in range(2):
            for j in range(2):
                assert torch.equal(found.patches[b, 2 * i + j], cells[b, :, i, j])
    torch.testing.assert_close(found.pooled, found.patches.mean(dim=1))
    assert wrap(module, width=6).num_patches(8) == 4
    with pytest.raises(ConfigError, match="no patches"):
        vector.num_patches(8)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda f, x: (f,), "gives a tuple"),
        (lambda f, x: {"a": f}, "gives a dict"),
        (lambda f, x: f[:1], r"shape \(1, 6\)"),
        (lambda f, x: f[:, None], r"shape \(2, 1, 6\)"),
        (lambda f, x: f @ f, "fails on images"),
    ],
)
def test_other_outputs_are_refused(function: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        wrap(_Gives(function), size_px=8)


def test_a_wrong_width_is_told_and_arguments_must_be_plain() -> None:
    with pytest.raises(ConfigError, match=r"shape \(2, 6\); wanted is a vector \(2, 5\)"):
        wrap(_Gives(_vector), width=5)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ConfigError, match="cannot be written down"):
        wrap(_Gives(_vector), width=6, kwargs={"f": _vector})


def test_what_is_tried_and_copied_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    probe(module, in_chans=3, size_px=8)
    backbone = as_backbone(module, size_px=8)
    backbone.train()(torch.randn(4, 3, 8, 8))
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(ConfigError, match=r"layer_decay=0\.5"):
        check_layers(backbone, layer_decay=0.5)
    check_layers(backbone, layer_decay=1.0)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet10t", {}),
        ("resnet10t", {"in_chans": 1}),
        ("vit_tiny_patch16_224", {"img_size": 32}),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}),
        ("vit_tiny_patch16_224", {"img_size": 32, "dynamic_img_size": True}),
    ],
)
def test_models_of_timm_find_the_arguments_that_build_them_again(
    name: str, args: dict[str, Any]
) -> None:
    model = timm.create_model(name, num_classes=7, **args)
    found = wrap(model)
    again = timm.create_model(name, num_classes=0, **found.model_args)
    again.load_state_dict(model.state_dict())
    assert found.model_args == args
    assert found.own is None


@pytest.mark.parametrize("size_px", [8, 20, 28, 30, 42])
@pytest.mark.parametrize("args", [{}, {"dynamic_img_size": True}, {"dynamic_img_pad": True}])
def test_a_size_is_refused_exactly_where_the_network_itself_refuses_it(
    args: dict[str, bool], size_px: int
) -> None:
    sizes = {"patch_size": 7, "img_size": 28, "embed_dim": 24, "num_heads": 2, "depth": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes, **args).eval()
    backbone = wrap(model, kwargs={**sizes, **args})
    try:
        model(torch.zeros(1, 3, size_px, size_px))
    except AssertionError:
        way_out = r"NAME\.size_px=\d+.*(backbone\.args\.patch_size|backbone\.args\.img_size)"
        with pytest.raises(ConfigError, match=rf"NAME\.size_px={size_px}: .*set .*{way_out}"):
            check_sizes(backbone, {"NAME.size_px": size_px})
    else:
        check_sizes(backbone, {"NAME.size_px": size_px})


def test_an_own_network_is_given_no_classifier_and_says_what_works() -> None:
    backbone = wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), size_px=8)
    with pytest.raises(ConfigError, match=r"own network.*match=features"):
        add_classifier(backbone, num_classes=3, std=0.02)
