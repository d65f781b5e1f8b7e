"""Stacked heads equal heads trained one by one; choice, divergence, protocols."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ssl_vision.evaluation
import ssl_vision.evaluation.knn
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.data.images.normalize import normalizer
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.features import FeatureSpec, extract_features
from ssl_vision.evaluation.linear_config import PRESETS, LinearConfig
from ssl_vision.evaluation.linear_probe import (
    ProbeData,
    fit_heads,
    linear_probe,
    linear_probe_online,
)
from ssl_vision.evaluation.logreg import logistic_probe
from ssl_vision.evaluation.stacked_heads import BatchPlan, HeadSetting, head_grid
from ssl_vision.randomness import keyed_generator
from ssl_vision.types import Batch

CLASSES, WIDTH = 4, 12


def test_the_public_name_is_the_function_whatever_was_imported_before() -> None:
    assert callable(ssl_vision.evaluation.linear_probe)
    assert ssl_vision.evaluation.linear_probe is linear_probe
    for name in ssl_vision.evaluation.__all__:
        assert callable(getattr(ssl_vision.evaluation, name)), name


def clusters(num: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (num,), generator=generator)
    return centres[labels] + spread * torch.randn(num, WIDTH, generator=generator), labels


def train_alone(
    setting: HeadSetting, x: torch.Tensor, y: torch.Tensor, config: LinearConfig, seed: int
) -> torch.nn.Module:
    """One head by autograd and torch's own layers and optimizer."""
    head = torch.nn.Linear(x.shape[1], CLASSES)
    generator = keyed_generator(seed, "linear head", setting.features)
    head.weight.data = config.init_std * torch.randn(CLASSES, x.shape[1], generator=generator)
    head.bias.data.zero_()
    norm = torch.nn.BatchNorm1d(x.shape[1], affine=False, eps=1e-6)
    model = torch.nn.Sequential(norm, head) if config.has_batch_norm else torch.nn.Sequential(head)
    lr = setting.base_lr * (
        min(config.batch_size, len(x)) / 256 if config.lr_scaling == "linear" else 1
    )
    sgd = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=setting.weight_decay)
    plan = BatchPlan.of(len(x), config)
    buffers = [torch.zeros_like(p) for p in head.parameters()]
    for step, rows in enumerate(plan.batches(seed)):
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        if config.optimizer == "sgd":
            sgd.param_groups[0]["lr"] = lr * plan.lr_factor(step)
            sgd.step()
            continue
        for parameter, buffer in zip(head.parameters(), buffers, strict=True):  # LARS as MAE has it
            gradient = parameter.grad
            assert gradient is not None
            if parameter.ndim > 1:
                gradient = gradient + setting.weight_decay * parameter.data
                gradient = gradient * 0.001 * parameter.data.norm() / gradient.norm()
            buffer.mul_(0.9).add_(gradient)
            parameter.data -= lr * plan.lr_factor(step) * buffer
    return model.eval()


GRID = LinearConfig(
    base_lrs=(0.01, 0.1, 1.0),
    weight_decays=(0.0, 1e-2),
    batch_size=32,
    epochs=3,
    min_updates=0,
    warmup_epochs=1,
    has_batch_norm=False,
)
CONFIGS = {
    "sgd": GRID,
    "per epoch": replace(GRID, schedule="epoch", lr_scaling="none", warmup_epochs=0),
    "many passes": replace(GRID, steps_per_epoch=9, batch_size=50),
    "mae": replace(GRID, optimizer="lars", has_batch_norm=True, drops_last=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_stacked_heads_equal_heads_trained_alone(name: str) -> None:
    config = CONFIGS[name]
    x, y = clusters(150, 0)
    sets = {"a": (x[:, :6], x[:, 6:]), "b": (x[:, 3:],)}
    data = ProbeData.of(sets, y, sets, y, CLASSES, "cpu")
    grid = head_grid(sets, config)
    heads = fit_heads(data, grid, torch.arange(150), config, 5)
    for place, setting in enumerate(grid):
        own = torch.cat(sets[setting.features], dim=1)
        alone = train_alone(setting, own, y, config, 5)
        weight, bias = heads.as_linear(place)
        with torch.no_grad():
            torch.testing.assert_close(own @ weight.T + bias, alone(own), rtol=1e-5, atol=1e-5)
        linear = alone[-1]
        if not config.has_batch_norm:
            torch.testing.assert_close(weight, linear.weight.data, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(bias, linear.bias.data, rtol=1e-6, atol=1e-6)


def test_heads_in_turns_equal_heads_at_once() -> None:
    (x, y), (tx, ty) = clusters(120, 0), clusters(80, 1)
    whole = linear_probe(x, y, tx, ty, config=GRID)
    turns = linear_probe(x, y, tx, ty, config=replace(GRID, max_bytes=1))
    for one, other in zip(whole.heads, turns.heads, strict=True):
        assert one == other
    torch.testing.assert_close(whole.weight, turns.weight)


def test_a_diverged_head_is_named_and_harms_nobody() -> None:
    (x, y), (tx, ty) = clusters(120, 0), clusters(80, 1)
    sane = linear_probe(x, y, tx, ty, config=replace(GRID, base_lrs=(0.1,), epochs=5))
    wild = replace(GRID, base_lrs=(0.1, 1e38), epochs=5)
    found = linear_probe(x, y, tx, ty, config=wild)
    assert [head.diverged_at is None for head in found.heads] == [True, True, False, False]
    assert [w for w in found.warnings if "base_lr 1e+38" in w]
    assert found.heads[:2] == sane.heads
    assert found.chosen.base_lr == 0.1
    with pytest.raises(ConfigError, match="all 2 linear heads diverged"):
        linear_probe(x, y, tx, ty, config=replace(wild, base_lrs=(1e38,)))


def test_the_choice_is_made_on_held_out_training_images() -> None:
    (x, y), (tx, ty) = clusters(400, 0), clusters(100, 1)
    config = replace(GRID, base_lrs=(1e-7, 0.1), weight_decays=(0.0,), warmup_epochs=0)
    found = linear_probe(x, y, tx, ty, config=config)
    assert found.chosen.base_lr == 0.1
    assert [w for w in found.warnings if "0.1, stands at the edge" in w]  # of two rates the larger
    # The chosen head is trained again on everything.
    alone = train_alone(HeadSetting("features", 0.1, 0.0), x, y, config, 0)
    torch.testing.assert_close(found.weight, alone[-1].weight.data, rtol=1e-5, atol=1e-5)
    # Test labels turned around: the choice cannot notice, unless told to choose on the test.
    blind = linear_probe(x, y, tx, (ty + 1) % CLASSES, config=config)
    assert blind.chosen.base_lr == 0.1
    told = linear_probe(x, y, tx, (ty + 1) % CLASSES, config=replace(config, select_on="test"))
    assert told.warnings[0] == "selected_on_test"
    assert told.accuracy.top1 == told.oracle.top1


def test_a_single_head_needs_no_choice_and_trains_on_everything() -> None:
    (x, y), (tx, ty) = clusters(120, 0), clusters(80, 1)
    config = replace(GRID, base_lrs=(0.1,), weight_decays=(0.0,))
    found = linear_probe(x, y, tx, ty, config=config)
    alone = train_alone(HeadSetting("features", 0.1, 0.0), x, y, config, 0)
    torch.testing.assert_close(found.weight, alone[-1].weight.data, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        expected = float((alone(tx).argmax(dim=1) == ty).double().mean())
    assert found.accuracy.top1 == pytest.approx(expected)
    assert math.isnan(found.chosen.selection)


def test_memory_maps_and_half_precision_give_the_same_heads(tmp_path: Any) -> None:
    (x, y), (tx, ty) = clusters(100, 0), clusters(50, 1)
    np.save(tmp_path / "x.npy", x.half().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    config = replace(GRID, base_lrs=(0.1,))
    one = linear_probe({"f": (mapped,)}, y, {"f": (tx,)}, ty, config=config)
    other = linear_probe({"f": (x.half(),)}, y, {"f": (tx,)}, ty, config=config)
    assert torch.equal(one.weight, other.weight)


def test_every_preset_learns_separable_clusters() -> None:
    (x, y), (tx, ty) = clusters(300, 0, spread=0.5), clusters(100, 1, spread=0.5)
    for name, preset in PRESETS.items():
        short = replace(
            preset, epochs=min(preset.epochs, 20), batch_size=min(preset.batch_size, 64)
        )
        if name.startswith("mae"):  # the learning rate of its own batch size
            short = replace(short, base_lrs=(6.4,), lr_scaling="none", epochs=90)
        if short.steps_per_epoch:
            short = replace(short, steps_per_epoch=20)
        short = replace(short, min_updates=min(short.min_updates, 100))
        assert linear_probe(x, y, tx, ty, config=short).accuracy.top1 > 0.95, name


def test_what_does_not_go_together_is_said() -> None:
    x, y = clusters(10, 0)
    with pytest.raises(DataError, match="feature sets differ"):
        linear_probe({"a": (x,)}, y, {"b": (x,)}, y)
    with pytest.raises(DataError, match="differ in number"):
        linear_probe(x, y[:-1], x, y)
    with pytest.raises(DataError, match="class of 0 or above"):
        linear_probe(x, y - 5, x, y)
    with pytest.raises(ConfigError, match=r"linear\.holdout"):
        LinearConfig(holdout=1.5)


def test_the_online_form_without_augmentation_equals_the_cached_one() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name="resnet10t"), input_size=32)
    images = torch.randint(0, 256, (48, 3, 32, 32)).to(torch.uint8)
    labels = torch.arange(48) % CLASSES
    normalize = normalizer((0.5,) * 3, (0.25,) * 3)
    config = replace(GRID, base_lrs=(0.1, 0.5), batch_size=16, has_batch_norm=True)

    def epochs(epoch: int) -> list[Batch]:
        """The batches the cached form would draw from all images, in its order."""
        everything = list(BatchPlan.of(48, config).batches(0))
        return [
            Batch(views={"train": images[rows]}, index=rows, label=labels[rows])
            for rows in everything[3 * epoch : 3 * epoch + 3]
        ]

    whole = Batch(views={"eval": images}, index=torch.arange(48), label=labels)
    features = extract_features(backbone, [whole], normalize=normalize).features["pooled"]
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    online = linear_probe_online(
        backbone,
        epochs,
        {"pooled": (features,)},
        labels,
        train={"pooled": (features,)},
        train_labels=labels,
        normalize=normalize,
        spec=FeatureSpec(),
        sets={"pooled": ("pooled",)},
        steps_per_epoch=3,
        config=replace(config, select_on="test"),
    )
    cached = linear_probe(
        {"pooled": (features,)},
        labels,
        {"pooled": (features,)},
        labels,
        config=replace(config, select_on="test"),
    )
    for one, other in zip(online.heads, cached.heads, strict=True):
        assert one.test.top1 == pytest.approx(other.test.top1, abs=1e-9)
    torch.testing.assert_close(online.weight, cached.weight, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def _probe_weight() -> tuple[list[Any], list[Any]]:
    x, y = clusters(96, 0)
    config = replace(GRID, has_batch_norm=True, optimizer="lars", base_lrs=(0.5,))
    found = linear_probe(x, y, x, y, config=config)
    return found.weight.tolist(), [head.test.top1 for head in found.heads]


@pytest.mark.distributed
def test_two_processes_train_the_heads_of_one(run_distributed: Callable[..., list[Any]]) -> None:
    weight, scores = _probe_weight()
    for rank_weight, rank_scores in run_distributed(_probe_weight):
        np.testing.assert_allclose(rank_weight, weight, rtol=1e-4, atol=1e-5)
        assert rank_scores == scores


PUBLISHED = {  # images of ImageNet-1k seen, and updates, by the authors' settings
    "dino": (100 * 1_281_167, 100 * 1252),
    "mae": (90 * 78 * 16_384, 90 * 78),
    "dinov2": (12_500 * 1024, 12_500),
    "barlow": (100 * 1_281_167, 100 * 5005),
    "lightly": (90 * 1_281_167, 90 * 5005),
}


@pytest.mark.parametrize("name", PRESETS)
def test_images_seen_by_each_preset(name: str) -> None:
    config, num = PRESETS[name], 1_281_167
    plan = BatchPlan.of(num, config)
    is_published = name in PUBLISHED
    assert (config.augment == "online") == is_published
    assert (config.min_updates == 0) == is_published
    if is_published:
        seen, updates = PUBLISHED[name]
        assert plan.total_steps == updates
        # A pass has num images, a short last batch among them unless that is dropped.
        per_pass = -(-num // config.batch_size)
        short = (
            0 if config.drops_last or config.steps_per_epoch else per_pass * config.batch_size - num
        )
        assert plan.total_steps * config.batch_size - config.epochs * short == seen
    assert BatchPlan.of(1000, config).total_steps >= (0 if is_published else 2000)


def test_a_default_probe_of_few_images_reaches_the_optimum() -> None:
    """A small spread of the features and ten epochs once made 34 of what are 64 per cent."""
    (x, y), (tx, ty) = clusters(300, 0), clusters(300, 1)
    best = logistic_probe(x, y, tx, ty).accuracy.top1
    found = linear_probe(0.01 * x + 5, y, 0.01 * tx + 5, ty)
    assert found.accuracy.top1 > best - 0.02


@pytest.mark.parametrize(("min_updates", "is_said"), [(8, True), (2000, False)])
def test_accuracy_that_still_rises_at_the_end_is_said(min_updates: int, is_said: bool) -> None:
    """Many classes and small rates: eight updates are far too few, two thousand enough."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 64))
    labels = np.arange(600) % 20
    rows = (centres[labels] + 1.5 * rng.normal(size=(600, 64))).astype(np.float32)
    config = LinearConfig(
        base_lrs=(0.003, 0.01, 0.03), epochs=1, min_updates=min_updates, batch_size=256, holdout=0.3
    )
    found = linear_probe(rows, labels, rows, labels, config=config)
    assert any("still rose" in line for line in found.warnings) == is_said
