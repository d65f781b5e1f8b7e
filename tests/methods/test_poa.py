"""POA against the official training step, its ablations, and what a step draws."""

import copy
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_vision import schedules
from ssl_vision.backbones import elastic
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.elastic_families import extent_of
from ssl_vision.backbones.elastic_grid import ElasticConfig, candidates
from ssl_vision.config import load_train_config
from ssl_vision.errors import ConfigError
from ssl_vision.losses.poa import Logits, Targets
from ssl_vision.masking import PatchMasks, patch_weights
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.poa import Poa, PoaConfig
from ssl_vision.optim.recipe import (
    OptimConfig,
    learning_rate,
    stretched_steps,
    weight_decay,
)
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "poa"
PLAN = TrainPlan(steps_per_epoch=10, epochs=10, global_batch_size=4, input_size=32)
SMALL_HEADS: dict[str, Any] = {
    "num_prototypes": (12, 20),
    "hidden_dim": 24,
    "bottleneck_dim": 8,
    "patch_start_epochs": 0,
    "freeze_last_layer_epochs": 0,
}
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (
        "vit_tiny_patch16_224",
        {"embed_dim": 32, "depth": 6, "num_heads": 4, "patch_size": 8, "init_values": 1.0},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "embed_dim": 16,
            "depths": (1, 1, 4, 1),
            "num_heads": (2, 4, 8, 16),
            "patch_size": 2,
            "window_size": 4,
        },
    ),
    "resnet": (
        "resnet50",
        {
            "base_width": 128,
            "layers": (1, 2, 3, 1),
            "channels": (64, 64, 64, 64),
            "norm_layer": "groupnorm",
        },
    ),
}


def build(kind: str = "vit", *, drop_path: float = 0.0, **config: Any) -> Poa:
    torch.manual_seed(0)
    name, args = BACKBONES[kind]
    backbone = build_backbone(
        BackboneConfig(name=name, args=args, drop_path=drop_path), input_size=32
    )
    return Poa(
        PoaConfig(**SMALL_HEADS | config), backbone, optim=OptimConfig(warmup_epochs=0), plan=PLAN
    )


def make_batch(*, num: int = 4, num_local: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def images(count: int, side: int) -> Tensor:
        return torch.randn(count * num, 3, side, side, generator=generator)

    views = {"global_1": images(1, 32), "global_2": images(1, 32), "local": images(num_local, 16)}
    return Batch(views=views, index=torch.arange(num) + 100 * seed)


# The official code --------------------------------------------------------------------------


def official_step(
    arrays: dict[str, np.ndarray], run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Poa:
    """Our method with the weights, masks and size of a dumped step, after its backward."""
    method = build(position_rule="dino", has_patch_loss=True)
    names = dict(method.named_parameters())
    for name, value in arrays.items():
        for student, mine in (("student.", ""), ("teacher.", "teacher.")):
            if name.startswith(student):
                target = names[our_name(name.removeprefix(student), teacher=mine)]
                target.data.copy_(torch.from_numpy(value).float().reshape(target.shape))
    mask = torch.from_numpy(arrays["in.masks"])
    if not run["ibot"]:
        mask = torch.zeros_like(mask)
        monkeypatch.setattr(Poa, "is_patch_loss_on", property(lambda self: False))
    masks = PatchMasks(mask, mask.flatten().nonzero().squeeze(1), patch_weights(mask))
    monkeypatch.setattr(method, "masks", lambda batch, *, size_px: masks)
    monkeypatch.setattr(method, "draw_size", lambda: (run["width"], run["depth"]))
    monkeypatch.setattr(method, "teacher_temperature", lambda step: run["teacher_temp"])
    first, second = torch.from_numpy(arrays["in.global"]).chunk(2)
    views = {
        "global_1": first,
        "global_2": second,
        "local": torch.from_numpy(arrays["in.local"]),
    }
    output = method.compute_loss(Batch(views=views, index=torch.arange(4)))
    output.loss.backward()
    assert float(output.loss.detach()) == pytest.approx(run["total"], rel=1e-6)
    return method


def our_name(official: str, *, teacher: str) -> str:
    """Official parameter name -> ours; `teacher` is empty or "teacher."."""
    if official.startswith("dino_head."):
        rest = official.removeprefix("dino_head.").replace(".linear", "")
        part, _, leaf = rest.partition(".")
        index, part = part[-1], part[:-1]
        owner = "teacher_heads.network" if teacher else "heads"
        return f"{owner}.{index}.{part}.{leaf}"
    rest = official.removeprefix("backbone.").replace(".linear", "")
    rest = rest.replace("norm.norm.", "norm.").replace(".norm.", ".")
    owner = "teacher.network" if teacher else "backbone"
    return f"{owner}.{rest}" if rest == "mask_token" else f"{owner}.model.{rest}"


@pytest.mark.parametrize("tag", ["a", "b", "c"])
def test_official_steps_total_and_every_gradient_norm(
    tag: str,
    golden: Callable[[str], dict[str, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays = golden("poa_loss")
    (run,) = [r for r in json.loads(str(arrays["meta"]))["runs"] if r["tag"] == tag]
    method = official_step(arrays, run, monkeypatch)
    own = dict(method.named_parameters())
    prefix = f"run.{tag}.gradnorm."
    expected = {n.removeprefix(prefix): float(v) for n, v in arrays.items() if prefix in n}
    assert len(expected) == sum(p.requires_grad for p in own.values())
    for name, norm in expected.items():
        gradient = own[our_name(name, teacher="")].grad
        found = 0.0 if gradient is None else float(gradient.norm())
        assert found == pytest.approx(norm, rel=2e-4, abs=1e-6), name


# What reaches what ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "swin", "resnet"])
@pytest.mark.parametrize("patch_start_epochs", [0, 100])
def test_every_trainable_parameter_gets_a_gradient_and_the_teacher_none(
    kind: str, patch_start_epochs: int
) -> None:
    method = build(kind, patch_start_epochs=patch_start_epochs).train()
    output = method.compute_loss(make_batch())
    output.loss.backward()
    assert output.loss.isfinite()
    for name, parameter in method.named_parameters():
        is_teacher = name.startswith("teacher")
        assert (parameter.grad is None) == is_teacher, name
        assert parameter.requires_grad != is_teacher, name
    mask_gradient = method.backbone.mask_token.grad.abs().sum()
    assert (mask_gradient > 0) == (patch_start_epochs == 0)


def test_patch_tokens_of_a_pyramid_are_its_last_map_enlarged() -> None:
    method = build("resnet")
    crops = torch.randn(2, 3, 64, 64)  # last map 2 x 2, masks on 4 x 4
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 6] = mask[1, 8] = True  # rows 1 and 2, columns 2 and 0
    masks = PatchMasks(mask, mask.flatten().nonzero().squeeze(1), torch.ones(2))
    with torch.no_grad():
        tokens = method.tokens(method.backbone, crops, None, masks, is_masked=False)
        patches = method.backbone(crops).patches
    assert torch.equal(tokens.rows[2:], torch.stack([patches[0, 1], patches[1, 2]]))


def test_the_loss_depends_on_seed_step_and_sample_alone() -> None:
    batch = make_batch()
    method = build()
    first = method.compute_loss(batch).loss
    assert torch.equal(first, method.compute_loss(batch).loss)
    again = build()
    assert torch.equal(first, again.compute_loss(batch).loss)
    again.step = 5
    assert not torch.equal(first, again.compute_loss(batch).loss)


@pytest.mark.parametrize(
    "change",
    [
        {"has_same_view": False},
        {"has_cross_view": False},
        {"intact_weight": 0.6},
        {"crop_pooling": "separate"},
        {"koleo_weight": 0.0},
        {"num_prototypes": (12,)},
        {"elastic": ElasticConfig(is_rescaled=False)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_ablation_changes_the_loss(change: dict[str, Any]) -> None:
    batch = make_batch()
    losses = []
    for method in (build(), build(**change)):
        method.drawn_sizes = [(16, 3)]
        losses.append(method.compute_loss(batch).loss)
    assert not torch.isclose(*losses)


@pytest.mark.parametrize("pooling", ["pooled", "separate"])
@pytest.mark.parametrize("num_local", [0, 3])
def test_a_student_of_uniform_answers_has_the_cross_view_loss_ln_k(
    pooling: str, num_local: int
) -> None:
    method = build(crop_pooling=pooling, koleo_weight=0.1)
    for head in method.heads:
        nn.init.zeros_(head.last_layer.weight_g)
    batch = make_batch(num_local=max(num_local, 1))
    if not num_local:
        del batch.views["local"]
    output = method.compute_loss(batch)
    expected = (math.log(12) + math.log(20)) / 2
    assert output.metrics["ln_k"].item() == pytest.approx(expected)
    assert output.metrics["cross_view"].item() == pytest.approx(expected, rel=1e-4)
    assert output.loss.item() != pytest.approx(expected, rel=0.01)


def test_the_intact_student_does_not_learn_from_the_elastic_one() -> None:
    """Without weight on the elastic student only its KoLeo is left to move shared parameters."""
    method = build(intact_weight=1.0, koleo_weight=0.0)
    monitored = method.backbone.model.blocks[0].attn.qkv.weight
    method.compute_loss(make_batch()).loss.backward()
    alone = monitored.grad.clone()
    other = build(intact_weight=1.0, koleo_weight=0.0)
    other.drawn_sizes = [(16, 3)]
    other.compute_loss(make_batch()).loss.backward()
    assert torch.equal(alone, other.backbone.model.blocks[0].attn.qkv.weight.grad)


# Around an update ----------------------------------------------------------------------------


def test_a_step_moves_the_teacher_by_the_momentum_and_export_is_the_teacher() -> None:
    method = build(teacher_momentum=0.9, teacher_momentum_end=0.9)
    before = method.teacher.network.model.cls_token.clone()
    with torch.no_grad():
        method.backbone.model.cls_token += 1.0
    method.after_update(0)
    moved = method.teacher.network.model.cls_token
    assert torch.allclose(moved, 0.9 * before + 0.1 * method.backbone.model.cls_token)
    assert method.export_backbone() is method.teacher.network
    small = elastic.extract(method.export_backbone(), (16, 3), method.config.elastic)
    assert (small.width, len(small.model.blocks)) == (16, 3)


def test_last_layers_are_frozen_first_and_patch_embeddings_learn_slower() -> None:
    method = build(freeze_last_layer_epochs=1)
    method.compute_loss(make_batch()).loss.backward()
    method.before_update(9)
    frozen = [n for n, p in method.heads.named_parameters() if p.grad is None]
    assert frozen == [f"{i}.last_layer.weight_{part}" for i in (0, 1) for part in "gv"]
    method.compute_loss(make_batch()).loss.backward()
    method.before_update(10)
    assert all(p.grad is not None for p in method.heads.parameters())
    factors = {n: method.lr_factor(n) for n, _ in method.named_parameters()}
    slow = {n for n, factor in factors.items() if factor == 0.2}
    assert {"backbone.model.patch_embed.proj.weight"} == {
        n for n in slow if "weight" in n and "teacher" not in n
    }


def test_schedules_of_the_teacher() -> None:
    method = build(teacher_temperature_epochs=3)
    assert method.teacher_temperature(0) == 0.04
    assert method.teacher_temperature(29) == pytest.approx(0.07)
    assert method.teacher_temperature(99) == 0.07
    assert method.teacher_momentum(0) == 0.992
    assert method.teacher_momentum(99) == pytest.approx(0.9999, abs=1e-5)


def test_drop_path_is_the_students_alone() -> None:
    method = build(drop_path=0.9).train()
    batch = make_batch()
    crops = torch.cat([batch.views["global_1"], batch.views["global_2"]])
    with torch.no_grad():
        teacher = [method.teacher(crops).pooled for _ in range(2)]
        student = [method.backbone(crops).pooled for _ in range(2)]
        narrow = [elastic.forward(method.backbone, crops, (16, 6)).pooled for _ in range(2)]
    assert torch.equal(*teacher)
    assert not torch.equal(*student)
    assert not torch.equal(*narrow)


def test_four_images_can_be_learned() -> None:
    method = build(drop_path=0.0, koleo_weight=0.0, has_patch_loss=False)
    batch = make_batch()
    optimizer = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0
    )
    losses = []
    for step in range(20):
        method.step = step
        optimizer.zero_grad()
        loss = method.compute_loss(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_uniform_drop_path_levels_the_rates() -> None:
    rising, level = (
        [
            m.drop_prob
            for m in build(drop_path=0.3, is_drop_path_uniform=u).backbone.modules()
            if type(m).__name__ == "DropPath"
        ]
        for u in (False, True)
    )
    assert rising[0] < rising[-1] == pytest.approx(0.3)
    assert level == [rising[-1]] * 12  # two per block, in the first as well


def test_uniform_drop_path_reaches_the_first_block_of_both_students() -> None:
    method = build(drop_path=0.6, is_drop_path_uniform=True).train()
    images = make_batch(num=64).views["global_1"]
    with torch.no_grad():
        tokens = method.backbone.embed(images)
        block = elastic.cut(method.backbone, (16, 6), method.config.elastic)
        first = method.backbone.model.blocks[0]
        kept = (first(tokens) - tokens).flatten(1).abs().amax(dim=1) > 0
        assert method.teacher.network.model.blocks[0].drop_path1.drop_prob == 0
    assert 0.4 < kept.float().mean() < 0.9  # 1 - 0.6^2 of the images pass one of the two at least
    assert block(images).pooled.shape == (64, 16)


def test_mask_tokens_start_at_zero_as_the_authors() -> None:
    assert not build().backbone.mask_token.any()


# The recipes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "key", "num_sizes", "num_drawn"),
    [
        ("vit_l16", "vit", 143, 572),
        ("swin_b", "swin", 39, 88),
        ("resnet152", "resnet", 465, 698),
    ],
)
def test_recipes_have_the_official_schedules_and_sizes(
    recipe: str,
    key: str,
    num_sizes: int,
    num_drawn: int,
    golden: Callable[[str], dict[str, np.ndarray]],
) -> None:
    config = load_train_config([CONFIGS / f"{recipe}_imagenet1k.yaml"], ["data.path=imagenet"])
    method = config.method
    assert isinstance(method, PoaConfig)
    plan = TrainPlan(
        steps_per_epoch={"vit": 800, "swin": 625, "resnet": 1000}[key],
        epochs=config.trainer.epochs,
        global_batch_size=config.data.global_batch_size,
    )
    with torch.device("meta"):
        backbone = build_backbone(config.backbone, input_size=224)
    extent = extent_of(backbone.model, method.elastic)
    assert len(extent.sizes) == num_sizes
    drawn = candidates(extent, width_bias=method.width_bias, depth_bias=method.depth_bias)
    assert len(drawn) == num_drawn

    arrays = golden("poa_loss")
    for i, step in enumerate(arrays[f"sched.{key}.iters"].tolist()):
        expected = [arrays[f"sched.{key}.{name}"][i] for name in ("lr", "wd", "mom")]
        found = [
            learning_rate(config.optim, plan=plan, step=step),
            weight_decay(config.optim, plan=plan, step=step),
            schedules.cosine(
                step,
                start=method.teacher_momentum,
                end=method.teacher_momentum_end,
                total_steps=stretched_steps(
                    config.optim, plan=plan, key="schedule", way_out="give an end"
                ),
            ),
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=f"step {step}")


@pytest.mark.parametrize(("recipe", "num_sizes"), [("", 12), ("_swin", 8), ("_resnet", 12)])
def test_tiny_recipes_load_and_train_a_step(recipe: str, num_sizes: int) -> None:
    config = load_train_config([CONFIGS / f"tiny_cpu{recipe}.yaml"])
    size_px, local = config.data.input_size, config.data.views["local"]
    plan = replace(PLAN, input_size=size_px)
    backbone = build_backbone(config.backbone, input_size=size_px)
    method = Poa(config.method, backbone, optim=config.optim, plan=plan)
    assert isinstance(config.method, PoaConfig)
    assert len(elastic.sizes(backbone, config.method.elastic)) == num_sizes
    views = {
        "global_1": torch.randn(2, 3, size_px, size_px),
        "global_2": torch.randn(2, 3, size_px, size_px),
        "local": torch.randn(2 * local.count, 3, local.size_px, local.size_px),
    }
    method.step = 5 * PLAN.steps_per_epoch  # masks are on
    method.compute_loss(Batch(views=views, index=torch.arange(2))).loss.backward()
    assert method.backbone.mask_token.grad.abs().sum() > 0


# Draws ---------------------------------------------------------------------------------------


def test_sizes_are_walked_without_replacement_and_resumed_by_step() -> None:
    method = build(elastic=ElasticConfig(min_width=16, min_depth=(3,)))
    drawn = []
    for step in range(len(method.drawn_sizes)):
        method.step = step
        drawn.append(method.draw_size())
    assert Counter(drawn) == Counter(method.drawn_sizes)
    assert (32, 6) not in drawn
    resumed = copy.deepcopy(method)
    resumed.step = 7
    assert resumed.draw_size() == drawn[7]


def test_processes_draw_their_own_sizes_or_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for draw_per, num_walks in (("process", 2), ("update", 1)):
        method = build(draw_per=draw_per)
        walks = set()
        for process in (0, 1):
            monkeypatch.setattr("ssl_vision.methods.poa.rank", lambda process=process: process)
            walk = []
            for step in range(10):
                method.step = step
                walk.append(method.draw_size())
            walks.add(tuple(walk))
        assert len(walks) == num_walks


def test_half_of_the_crops_are_masked_within_the_ratios() -> None:
    method = build(mask_ratio=(0.3, 0.6))
    masks = method.masks(make_batch(num=8), size_px=32)
    counts = masks.mask.sum(1)
    assert masks.mask.shape == (16, 16)
    assert (counts > 0).sum() == 8
    assert counts.max() <= 0.6 * 16
    assert len(masks.rows) == len(masks.weight) == counts.sum()


# Two processes -------------------------------------------------------------------------------


class FixedTargets(Poa):
    """Targets of each row by itself, so that a process's loss is its own affair."""

    def targets(self, logits: Logits) -> Targets:
        crops = (logits.crops / 0.05).softmax(-1)
        patches = None if logits.patches is None else (logits.patches / 0.05).softmax(-1)
        return Targets(crops, patches)


def gradients(process: int) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """Size and gradients of one process's batch, under DDP where a group is up."""
    method = build(patch_start_epochs=0.2)
    method.__class__ = FixedTargets
    batch = make_batch(seed=process)
    if not torch.distributed.is_initialized():
        own = method.draw_size
        method.draw_size = lambda: own_size(own, process)
    module: nn.Module = method
    if torch.distributed.is_initialized():
        module = DistributedDataParallel(method)  # no search for unused parameters
    for step in (1, 2):  # the patch loss and its masks set in at the second
        method.step = step
        method.zero_grad()
        module(batch).loss.backward()
    trained = {n: p.grad.numpy() for n, p in method.named_parameters() if p.requires_grad}
    return method.draw_size(), trained


def own_size(draw_size: Callable[[], Any], process: int) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_vision.methods.poa.rank", lambda: process)
        return draw_size()


def of_this_rank() -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    return gradients(torch.distributed.get_rank())


@pytest.mark.distributed
def test_processes_of_different_sizes_agree_on_the_mean_gradient(
    run_distributed: Callable[..., list[Any]],
) -> None:
    first, second = run_distributed(of_this_rank)
    alone = [gradients(process) for process in (0, 1)]
    assert [first[0], second[0]] == [alone[0][0], alone[1][0]]
    assert first[0] != second[0]
    for name, gradient in first[1].items():
        assert np.array_equal(gradient, second[1][name]), name
        mean = (alone[0][1][name] + alone[1][1][name]) / 2
        np.testing.assert_allclose(gradient, mean, rtol=1e-4, atol=1e-6, err_msg=name)


# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"intact_weight": 1.5}, r"method.intact_weight=1.5 must be 0 or more and 1 or less"),
        ({"num_prototypes": ()}, r"method.num_prototypes=\[\] must hold one"),
        ({"width_bias": 0.5}, r"method.width_bias=0.5 must be 1 or more"),
        ({"has_same_view": False, "has_cross_view": False}, "nothing would teach the elastic"),
        ({"mask_ratio": (0.5, 0.1)}, r"method.mask_ratio=\[0.5, 0.1\] must rise"),
    ],
)
def test_mistakes_are_explained(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PoaConfig(**change)


def test_views_are_checked() -> None:
    config = PoaConfig()
    views = {"global_1": ViewConfig(), "global_2": ViewConfig(), "local": ViewConfig(count=8)}
    config.check_views(views)
    with pytest.raises(ConfigError, match="must be equal"):
        config.check_views(views | {"global_2": replace(ViewConfig(), size_px=96)})
