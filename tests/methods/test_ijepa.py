from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.masking import MultiBlockConfig, MultiBlockMasks
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.ijepa import Ijepa, IjepaConfig
from ssl_vision.nn.patches import sincos_2d
from ssl_vision.nn.predictor import BlockPredictor
from ssl_vision.optim import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

NO_CLASS_TOKEN = {"class_token": False, "global_pool": "avg", "fc_norm": False}
SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
# Rates of the golden step: 80 updates, 20 of them warm-up, seen by schedules that count from 1.
RECIPE = OptimConfig(
    base_lr=1e-3, lr_scaling="none", warmup_start_lr=2e-4, warmup_epochs=2, end_lr=1e-6,
    weight_decay=0.04, weight_decay_end=0.4, schedule_lead=1,
)  # fmt: skip
PLAN = TrainPlan(steps_per_epoch=10, epochs=8, global_batch_size=3, input_size=48)


def _method(*, args=None, optim=RECIPE, plan=PLAN, name="vit_tiny_patch16_224", **settings):
    torch.manual_seed(0)
    args = {**SMALL, **NO_CLASS_TOKEN} if args is None else args
    backbone = build_backbone(BackboneConfig(name=name, args=args), input_size=plan.input_size)
    sizes = {"predictor_width": 16, "predictor_depth": 2, "predictor_num_heads": 2}
    return Ijepa(IjepaConfig(**{**sizes, **settings}), backbone, optim=optim, plan=plan)


def _authors_weights(values, prefix):
    return {
        name.removeprefix(prefix): torch.tensor(value)
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _golden_method(values, monkeypatch):
    """The golden networks, and the masks of the golden step instead of drawn ones."""
    method = _method()
    method.backbone.model.load_state_dict(_authors_weights(values, "enc.sd0."))
    method.teacher.network.model.load_state_dict(_authors_weights(values, "tgt.sd0."))
    method.predictor = BlockPredictor(24, grid=6, width=16, depth=2, num_heads=2, mlp_ratio=2.0)
    method.predictor.load_state_dict(
        {n.removeprefix("predictor_"): v for n, v in _authors_weights(values, "pred.sd0.").items()}
    )
    method.predictor.pos_embed.requires_grad_(False)
    masks = MultiBlockMasks(
        torch.tensor(values["step_mask_enc"]), torch.tensor(values["step_mask_pred"]).swapaxes(0, 1)
    )
    monkeypatch.setattr(Ijepa, "masks", lambda self, index: masks)
    return method, masks


def _batch(values):
    return Batch(views={"view": torch.tensor(values["img"])}, index=torch.arange(3))


def _close(ours, theirs, *, atol=2e-6):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-5, atol=atol)


def test_encoder_predictor_and_loss_equal_the_authors(golden, monkeypatch):
    values = golden("ijepa")
    method, masks = _golden_method(values, monkeypatch)
    _close(method.backbone.model.pos_embed, sincos_2d(24, grid=6)[None])
    seen = method.backbone.forward_visible(torch.tensor(values["img"]), keep=masks.context)
    _close(seen, values["context"])
    predicted = method.predictor(seen, context=masks.context, targets=masks.targets)
    _close(predicted, values["prediction"])
    whole = method.teacher(torch.tensor(values["img"])).patches
    normed = F.layer_norm(whole, (24,))
    theirs = torch.tensor(values["target"]).unflatten(0, (3, 3))  # (M, B, m, D)
    for j in range(3):
        for i in range(3):
            _close(normed[i, masks.targets[i, j]], theirs[j, i])
    assert method.compute_loss(_batch(values)).loss.item() == pytest.approx(
        float(values["loss"]), rel=1e-6
    )


def test_gradients_and_one_whole_update_equal_the_authors(golden, monkeypatch):
    values = golden("ijepa")
    method, _ = _golden_method(values, monkeypatch)
    optimizer = method.make_optimizer()
    method.begin_update(optimizer)
    (rate,) = {group["lr"] for group in optimizer.param_groups}
    assert rate == pytest.approx(float(values["lr_step1"]))
    no_decay, decay = sorted({group["weight_decay"] for group in optimizer.param_groups})
    assert no_decay == 0
    assert decay == pytest.approx(float(values["wd_step1"]))
    method(_batch(values)).loss.backward()
    for ours, name in (
        (method.backbone.model.patch_embed.proj.weight, "enc.patch_embed.proj.weight"),
        (method.backbone.model.blocks[0].attn.qkv.weight, "enc.blocks.0.attn.qkv.weight"),
        (method.backbone.model.blocks[1].mlp.fc2.bias, "enc.blocks.1.mlp.fc2.bias"),
        (method.predictor.mask_token, "pred.mask_token"),
        (method.predictor.embed.weight, "pred.predictor_embed.weight"),
        (method.predictor.proj.weight, "pred.predictor_proj.weight"),
    ):
        _close(ours.grad, values[f"grad.{name}"], atol=1e-7)
    outcome = method.judge_update(optimizer)
    optimizer.step()
    method.end_update(outcome)
    for network, prefix in ((method.backbone, "enc.sd1."), (method.teacher.network, "tgt.sd1.")):
        for name, value in _authors_weights(values, prefix).items():
            _close(network.model.state_dict()[name], value.numpy(), atol=1e-6)


def test_schedules_equal_the_authors(golden):
    values = golden("ijepa")
    method = _method()
    optimizer = method.make_optimizer()
    num = PLAN.total_steps - 1  # theirs then turn round, as a cosine does
    found = []
    for step in range(num):
        method.step = step
        method.begin_update(optimizer)
        decayed = next(g for g in optimizer.param_groups if g["weight_decay"])
        found.append((decayed["lr"], decayed["weight_decay"], method.teacher_momentum(step)))
    lr, decay, momentum = np.array(found).T
    np.testing.assert_allclose(lr, values["lr_curve"][:num], rtol=1e-9)
    np.testing.assert_allclose(decay, values["wd_curve"][:num], rtol=1e-9)
    np.testing.assert_allclose(momentum, values["ema_curve"][:num], rtol=1e-12)
    assert method.teacher_momentum(80) == values["ema_curve"][80] == 1.0


def test_a_stretched_schedule_is_the_longer_runs_cut_off():
    plan = TrainPlan(steps_per_epoch=10, epochs=4, global_batch_size=3, input_size=48)
    short = _method(plan=plan, optim=replace(RECIPE, schedule_stretch=2.0))
    long = _method()
    for step in (0, 7, 39):
        assert short.teacher_momentum(step) == long.teacher_momentum(step)


def test_the_loss_is_that_of_a_loop_over_images_and_blocks():
    """Each block is predicted by itself, from the patches seen alone."""
    method = _method(blocks=MultiBlockConfig(num_targets=3)).double().eval()
    for parameter in method.teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(4, 3, 48, 48, dtype=torch.float64)
    batch = Batch(views={"view": images}, index=torch.tensor([5, 2, 9, 0]))
    masks = method.masks(batch.index)
    model, target = method.backbone.model, method.teacher.network.model
    p, losses = method.predictor, []
    for image, context, blocks in zip(images, masks.context, masks.targets, strict=True):
        embedded = model.patch_embed(image[None]).flatten(1, 2) + model.pos_embed
        seen = model.norm(model.blocks(embedded[:, context]))
        whole = target.norm(
            target.blocks(target.patch_embed(image[None]).flatten(1, 2) + target.pos_embed)
        )[0]
        for block in blocks:
            asked = p.mask_token + p.pos_embed[:, block]
            rows = torch.cat([p.embed(seen) + p.pos_embed[:, context], asked], dim=1)
            predicted = p.proj(p.norm(p.blocks(rows)))[0, len(context) :]
            wanted = whole[block]
            wanted = (wanted - wanted.mean(1, keepdim=True)) / (
                wanted.var(1, correction=0, keepdim=True) + 1e-5
            ).sqrt()
            distance = (predicted - wanted).abs()
            losses.append(torch.where(distance < 1, distance**2 / 2, distance - 0.5))
    expected = torch.stack(losses).mean().item()
    assert method.compute_loss(batch).loss.item() == pytest.approx(expected, rel=1e-9)


def test_the_encoder_never_sees_the_blocks_to_be_predicted():
    method = _method().eval()
    images = torch.randn(2, 3, 48, 48, requires_grad=True)
    masks = method.masks(torch.arange(2))
    seen = method.backbone.forward_visible(images, keep=masks.context)
    method.predictor(seen, context=masks.context, targets=masks.targets).sum().backward()
    touched = images.grad.abs().sum(1).unfold(1, 8, 8).unfold(2, 8, 8).sum((-1, -2)).flatten(1) > 0
    for row, context, blocks in zip(touched, masks.context, masks.targets, strict=True):
        assert set(row.nonzero().flatten().tolist()) == set(context.tolist())
        assert not set(context.tolist()) & set(blocks.flatten().tolist())


def test_a_step_moves_encoder_predictor_and_then_the_teacher_which_is_exported():
    method = _method()
    start = {n: p.clone() for n, p in method.named_parameters()}
    optimizer = method.make_optimizer()
    for _ in range(2):
        method.begin_update(optimizer)
        views = {"view": torch.randn(3, 3, 48, 48)}
        method(Batch(views=views, index=torch.arange(3))).loss.backward()
        outcome = method.judge_update(optimizer)
        optimizer.step()
        method.end_update(outcome)
    still = {n for n, p in method.named_parameters() if torch.allclose(start[n], p, rtol=1e-6)}
    assert still == {"backbone.model.pos_embed", "teacher.network.model.pos_embed"}
    assert method.export_backbone() is method.teacher.network
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_drawing_as_the_collator_does_is_a_choice():
    method = _method(masks="collator", blocks=MultiBlockConfig(min_keep=1))
    first = method.masks(torch.arange(4))
    again = method.masks(torch.arange(4))
    assert torch.equal(first.context, again.context)
    assert torch.equal(first.targets, again.targets)
    method.step = 1
    method.micro_step = 1
    other = method.masks(torch.arange(4))
    assert first.targets.shape != other.targets.shape or not torch.equal(
        first.targets, other.targets
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": {**SMALL}}, "class_token: false"),
        ({"args": {**SMALL, **NO_CLASS_TOKEN, "reg_tokens": 2}}, "registers"),
        ({"args": {"layers": [1, 1, 1, 1]}, "name": "resnet18"}, "no patch tokens"),
        ({"args": {**SMALL, **NO_CLASS_TOKEN, "patch_size": 48}}, "patch_size lower"),
        ({"predictor_width": 18}, "divisible by 4"),
        ({"predictor_width": 16, "predictor_num_heads": 3}, "3 heads"),
        ({"predictor_depth": 0}, "predictor_depth=0"),
        ({"teacher_momentum": 1.5}, "teacher_momentum=1.5"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change, message):
    with pytest.raises(ConfigError, match=message):
        _method(**change)


def test_it_takes_one_view():
    with pytest.raises(ConfigError, match=r"data\.views\.view is missing"):
        IjepaConfig().check_views({"a": ViewConfig()})


@pytest.mark.parametrize("init", ["normal", "xavier"])
def test_layers_start_as_the_authors_or_as_loud_as_their_widths_want(init):
    """N(0, 0.02), or with the variance 2 / (inputs + outputs) of Glorot and Bengio 2010."""
    method = _method(args={**SMALL, "embed_dim": 96, **NO_CLASS_TOKEN}, init=init)
    layers = {name: each for name, each in method.named_modules() if isinstance(each, nn.Linear)}
    layers["patches"] = method.backbone.model.patch_embed.proj
    assert len(layers) > 16  # two encoders of 2 blocks of 4, and the predictor
    for name, layer in layers.items():
        outputs, inputs = layer.weight.flatten(1).shape
        expected = 0.02 if init == "normal" else (2 / (inputs + outputs)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1), name
        assert not layer.bias.any()
    for ours, target in zip(
        method.backbone.parameters(), method.teacher.network.parameters(), strict=True
    ):
        assert torch.equal(ours, target)
