"""One forward gives every layer; each sample once; the network is left as it was."""

import pytest
import torch

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.timm_vit import TimmViT
from ssl_vision.data.images.normalize import normalizer
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.features import (
    FeatureSpec,
    extract_features,
    extract_views,
    parse_feature_set,
    read_features,
    spec_of,
    try_patches,
)
from ssl_vision.types import Batch, Features

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def network(name: str = "vit_tiny_patch16_224", **args: object) -> Backbone:
    torch.manual_seed(0)
    if name.startswith("vit"):
        args = {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 8, **args}
    return build_backbone(BackboneConfig(name=name, args=args), input_size=32)


def batches(rows: list[list[int]], *, with_labels: bool = True) -> list[Batch]:
    """Batches of images that depend on their row alone."""
    made = []
    for index in rows:
        images = torch.stack(
            [
                torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(row))
                for row in index
            ]
        ).to(torch.uint8)
        label = torch.tensor(index) % 3 if with_labels else None
        made.append(Batch(views={"eval": images}, index=torch.tensor(index), label=label))
    return made


def test_rows_come_in_order_and_repeats_of_a_sampler_count_once() -> None:
    net = network()
    found = extract_features(net, batches([[4, 0], [2, 4]]), normalize=normalizer(MEAN, STD))
    assert found.index.tolist() == [0, 2, 4]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 2, 1]
    images = batches([[2]])[0].views["eval"].float() / 255
    normed = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(found.features["pooled"][1:2], net(normed).pooled)


def test_unlabelled_images_have_features_too() -> None:
    rows = batches([[0, 1]], with_labels=False)
    found = extract_features(network(), rows, normalize=normalizer(MEAN, STD))
    assert found.labels is None
    assert found.features["pooled"].shape == (2, 24)


def test_no_images_is_an_error() -> None:
    with pytest.raises(DataError, match="no images"):
        extract_features(network(), [], normalize=None)


def test_the_network_is_left_as_it_was() -> None:
    net = network("resnet10t")
    net.train()
    first_norm = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    first_norm.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    extract_features(net, batches([[0, 1, 2]]), normalize=normalizer(MEAN, STD))
    assert net.training
    assert not first_norm.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("registers", [0, 2])
def test_layers_of_one_forward_equal_forwards_of_cut_networks(registers: int) -> None:
    net = network(reg_tokens=registers).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    spec = FeatureSpec(pools=("pooled", "cls", "mean"), num_layers=3)
    assert spec.names[:3] == ("pooled", "cls_-1", "mean_-1")
    with torch.no_grad():
        found = read_features(net, images, spec)
        model = net.model
        for depth in (1, 2, 3):
            tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
            for block in model.blocks[: 3 - depth + 1]:
                tokens = block(tokens)
            tokens = model.norm(tokens)
            torch.testing.assert_close(found[f"cls_-{depth}"], tokens[:, 0])
            patches = tokens[:, 1 + registers :]
            torch.testing.assert_close(found[f"mean_-{depth}"], patches.mean(dim=1))
        torch.testing.assert_close(found["pooled"], net(images).pooled)


def test_pyramids_give_pooled_features_and_refuse_blocks() -> None:
    net = network("resnet10t").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = read_features(net, images, FeatureSpec(pools=("pooled", "mean")))
    torch.testing.assert_close(found["pooled"], found["mean_-1"])
    with torch.no_grad():
        whole = read_features(net, images, FeatureSpec(pools=("patches",)))["patches_-1"]
        torch.testing.assert_close(whole, net(images).patches.flatten(1))
    with pytest.raises(ConfigError, match="no class token or blocks"):
        read_features(net, images, FeatureSpec(pools=("cls",)))


def test_patches_are_those_of_each_block_through_the_last_norm() -> None:
    net, images = network().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = read_features(net, images, FeatureSpec(pools=("patches", "mean"), num_layers=2))
        last = net(images).patches
    assert "patches_-2" in found
    torch.testing.assert_close(found["patches_-1"].view(2, *last.shape[1:]), last)
    for depth in (1, 2):
        patches = found[f"patches_{-depth}"].view(2, *last.shape[1:])
        torch.testing.assert_close(patches.mean(dim=1), found[f"mean_{-depth}"])
    assert spec_of(["patches_-2"]) == FeatureSpec(pools=("patches",), num_layers=2)
    with pytest.raises(ConfigError, match="not understood"):
        parse_feature_set("patches", depth=3)  # a set is one vector per image


def test_patches_are_counted_by_trying() -> None:
    assert try_patches(network(), 32, device="cpu") == 16
    assert try_patches(network("resnet10t"), 64, device="cpu") == 4
    with pytest.raises(ConfigError, match=r"does not take images of 40 px .*data\.size_px="):
        try_patches(
            Fixed(torch.nn.Identity(), architecture="a", model_args={}, width=1), 40, device="cpu"
        )


class Fixed(Backbone):
    """Of a fixed size, as timm says it."""

    def forward(self, images: torch.Tensor, *, mask: torch.Tensor | None = None) -> Features:
        raise AssertionError("Input height (40) doesn't match model (32).")


def test_what_a_vit_lacks_is_said() -> None:
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(ConfigError, match="above the 3 blocks"):
        read_features(network(), images, FeatureSpec(pools=("mean",), num_layers=4))
    without = network(class_token=False, global_pool="avg")
    with pytest.raises(ConfigError, match="no class token"):
        read_features(without, images, FeatureSpec(pools=("cls",)))
    with pytest.raises(ConfigError, match="must name some of"):
        FeatureSpec(pools=("max",))


def test_views_are_grouped_by_image() -> None:
    net, normalize = network().eval(), normalizer(MEAN, STD)
    first, second = (batch.views["eval"] for batch in batches([[5, 2], [7, 8]]))
    # A loader stacks drawings outermost: both images' first view, then both images' second.
    stacked = Batch(views={"eval": torch.cat([first, second])}, index=torch.tensor([5, 2]))
    rows, found = extract_views(net, [stacked], num_views=2, normalize=normalize)
    assert rows.tolist() == [2, 5]
    with torch.no_grad():
        ones, twos = net(normalize(first)).pooled, net(normalize(second)).pooled
    torch.testing.assert_close(found[0], torch.stack([ones[1], twos[1]]))  # image 2
    torch.testing.assert_close(found[1], torch.stack([ones[0], twos[0]]))  # image 5


@pytest.mark.parametrize("size", [32, 48, 16])
@pytest.mark.parametrize("rule", ["timm", "dino"])
def test_features_are_those_of_the_network_itself_at_any_size(rule: str, size: int) -> None:
    net = network(reg_tokens=1, dynamic_img_size=True).eval()
    assert isinstance(net, TimmViT)
    torch.nn.init.normal_(net.model.pos_embed)
    net.set_position_rule(rule)  # type: ignore[arg-type]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = read_features(net, images, FeatureSpec(pools=("pooled", "mean"), num_layers=2))
        own = net(images)
    assert torch.equal(found["pooled"], own.pooled)
    assert own.patches is not None
    assert torch.equal(found["mean_-1"], own.patches.mean(dim=1))


def test_views_honour_the_precision() -> None:
    net, (batch,) = network(), batches([[0, 1]])
    plain, mixed = (
        extract_views(
            net, [batch], num_views=1, normalize=normalizer(MEAN, STD), autocast=autocast
        )[1]
        for autocast in (None, torch.bfloat16)
    )
    assert mixed.dtype == torch.float32
    assert not torch.equal(plain, mixed)
    torch.testing.assert_close(plain, mixed, rtol=0.1, atol=0.1)
