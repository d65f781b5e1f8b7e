"""Fine-tuning: where it starts, what it trains, and that it learns."""

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.finetune import (
    FinetuneConfig,
    finetune,
    layer_groups,
    start_network,
)
from ssl_vision.types import Batch

TINY = {"patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 3}


def _pretrained(name: str = "vit_tiny_patch16_224", **args: Any) -> Backbone:
    torch.manual_seed(0)
    config = BackboneConfig(name=name, args=(TINY if name.startswith("vit") else {}) | args)
    return build_backbone(config, input_size=16).eval()


def _batches(num_batches: int) -> list[Batch]:
    """Images whose bright channel is their class; of the fourth class none is bright."""
    generator = torch.Generator().manual_seed(num_batches)
    batches = []
    for number in range(num_batches):
        labels = torch.randint(4, (16,), generator=generator)
        images = torch.randint(0, 60, (16, 3, 16, 16), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[label : label + 1] += 150
        batches.append(
            Batch(
                views={"image": images.to(torch.uint8)},
                index=torch.arange(16) + 16 * number,
                label=labels,
            )
        )
    return batches


def _normalize(images: Tensor) -> Tensor:
    return images.float() / 128 - 1


def _finetune(backbone: Backbone, **settings: Any) -> Any:
    defaults = {"epochs": 6, "batch_size": 16, "base_lr": 3e-2, "warmup_epochs": 1.0}
    config = FinetuneConfig(
        **defaults
        | {"rand_augment": None, "erase_prob": 0.0}
        | {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
        | settings
    )
    return finetune(
        backbone,
        _batches(8),
        _batches(4),
        num_classes=4,
        config=config,
        normalize=_normalize,
        input_size=16,
    )


def test_it_starts_at_timms_own_logits() -> None:
    backbone = _pretrained()
    config = FinetuneConfig(global_pool=None, head_init_std=0.02)
    network = start_network(backbone, 4, config, input_size=16).eval()
    plain = timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=16, dynamic_img_size=True, **TINY
    ).eval()
    plain.load_state_dict(backbone.model.state_dict(), strict=False)
    plain.head.load_state_dict(network.model.head.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        logits = network.model.get_classifier()(network(images).pooled)
        assert torch.equal(logits, plain(images))
        assert torch.equal(network.model(images), plain(images))


def test_layer_decay_is_timms_own() -> None:
    # With the class token timm counts the last norm as a layer of its own; MAE, and we, do not.
    config = FinetuneConfig(layer_decay=0.65, global_pool="avg")
    network = start_network(_pretrained(), 4, config, input_size=16)
    expected = {}
    names = {id(p): n for n, p in network.model.named_parameters()}
    for group in param_groups_layer_decay(
        network.model, weight_decay=0.05, layer_decay=0.65,
        no_weight_decay_list=network.model.no_weight_decay(),
    ):  # fmt: skip
        for parameter in group["params"]:
            expected[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"] > 0)
    found = {
        name.removeprefix("model."): (group["lr_scale"], group["weight_decay_scale"] > 0)
        for group in layer_groups(network, config.optim())
        for name in group["names"]
    }
    assert found.keys() == expected.keys()
    for name, (scale, is_decayed) in expected.items():
        assert found[name] == (pytest.approx(scale), is_decayed), name


def test_it_learns_and_leaves_the_given_network_alone() -> None:
    backbone = _pretrained()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    result = _finetune(backbone, drop_path=0.0, layer_decay=1.0, epochs=8)
    assert result.losses[-1] < 0.7 * result.losses[0]
    assert result.report.top1.value > 0.8
    assert result.report.num_samples == 64
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_equal_seeds_give_equal_results() -> None:
    first, second = (
        _finetune(_pretrained(), epochs=2, mixup_alpha=0.8, cutmix_alpha=1.0) for _ in range(2)
    )
    assert first.losses == second.losses
    assert first.report == second.report


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_head_only_trains_nothing_else(name: str) -> None:
    backbone = _pretrained(name)
    result = _finetune(backbone, tune="head", epochs=2, head_init_std=0.02)
    own = backbone.model.state_dict()
    tuned = result.network.model.state_dict()
    assert all(torch.equal(tuned[k], v) for k, v in own.items())
    assert tuned.keys() - own.keys() == {key for key in tuned if key.startswith(("head.", "fc."))}


def test_random_start_is_the_same_network_without_the_weights() -> None:
    config = FinetuneConfig(start="random", global_pool=None)
    backbone = _pretrained()
    network = start_network(backbone, 4, config, input_size=16)
    own, given = network.model.state_dict(), backbone.model.state_dict()
    assert given.keys() <= own.keys()
    assert not torch.equal(own["blocks.0.attn.qkv.weight"], given["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "finetune.epochs=0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"mixup_alpha": -1.0}, "must be 0 or more"),
        ({"erase_prob": 2.0}, "erase_prob=2.0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FinetuneConfig(**settings)
