import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.dino import Dino, DinoConfig
from ssl_vision.optim import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

SIZES = {"global_1": 32, "global_2": 32, "local": (16, 3)}
RECIPE = OptimConfig(
    base_lr=0.05,
    weight_decay=0.04,
    weight_decay_end=0.4,
    warmup_epochs=1,
    is_peak_in_warmup=True,
    end_lr=1e-6,
    clip_norm=0.02,
    clip_mode="per_tensor",
)
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
RESNET = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}


def _method(*, name="vit_tiny_patch16_224", args=None, optim=RECIPE, drop_path=0.0, **settings):
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(name=name, args=VIT if args is None else args, drop_path=drop_path),
        input_size=32,
    )
    small = {"num_prototypes": 20, "hidden_dim": 16, "bottleneck_dim": 8, "teacher_momentum": 0.9,
             "teacher_temperature": 0.07, "teacher_temperature_epochs": 2}  # fmt: skip
    plan = TrainPlan(steps_per_epoch=3, epochs=3, global_batch_size=4, input_size=32)
    return Dino(DinoConfig(**{**small, **settings}), backbone, optim=optim, plan=plan)


# The authors' loop, written from the paper's algorithm 1 and section 3 ---------------------------


def _schedule(base, final, *, epochs, steps_per_epoch, warmup_epochs=0):
    """Values of all steps: a line to the base, endpoint included, then half a cosine."""
    num_warm = warmup_epochs * steps_per_epoch
    steps = np.arange(epochs * steps_per_epoch - num_warm)
    falling = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))
    return np.concatenate([np.linspace(0, base, num_warm), falling])


class _TextbookHead(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.mlp = copy.deepcopy(head.mlp)
        self.last = nn.Parameter(head.last_layer.weight_v.detach().clone())

    def forward(self, x):
        x = self.mlp(x)
        x = x / x.norm(dim=-1, keepdim=True)
        rows = self.last / self.last.norm(dim=-1, keepdim=True)
        return x @ rows.T


class _TextbookNetwork(nn.Module):
    def __init__(self, method):
        super().__init__()
        self.backbone = copy.deepcopy(method.backbone.model)
        self.head = _TextbookHead(method.head)

    def forward(self, crops):
        return [self.head(self.backbone(crop)) for crop in crops]


def _textbook_loss(student, teacher, center, temperature):
    total, num_terms = 0.0, 0
    for i, t in enumerate(teacher):
        p = torch.softmax((t - center) / temperature, dim=-1).detach()
        for v, s in enumerate(student):
            if v == i:
                continue
            total = total + (-(p * torch.log_softmax(s / 0.1, dim=-1)).sum(dim=-1)).mean()
            num_terms += 1
    return total / num_terms


def _crops(batch):
    views = batch.views
    return [views["global_1"], views["global_2"], *views["local"].chunk(3)]


def _textbook_training(method, batches, *, epochs=3, steps_per_epoch=3):
    student, teacher = _TextbookNetwork(method), _TextbookNetwork(method).requires_grad_(False)
    rates = _schedule(
        0.05 * 4 / 256, 1e-6, epochs=epochs, steps_per_epoch=steps_per_epoch, warmup_epochs=1
    )
    decays = _schedule(0.04, 0.4, epochs=epochs, steps_per_epoch=steps_per_epoch)
    momenta = _schedule(0.9, 1.0, epochs=epochs, steps_per_epoch=steps_per_epoch)
    temperatures = [0.04, 0.07, 0.07]  # linspace over 2 epochs, then constant
    center = torch.zeros(1, 20, dtype=torch.float64)
    named = list(student.named_parameters())
    regularised = [p for n, p in named if not (n.endswith(".bias") or p.ndim == 1)]
    others = [p for n, p in named if n.endswith(".bias") or p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": regularised}, {"params": others, "weight_decay": 0.0}]
    )
    for step in range(epochs * steps_per_epoch):
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] = rates[step]
            if i == 0:
                group["weight_decay"] = decays[step]
        crops = _crops(batches[step % steps_per_epoch])
        targets = teacher(crops[:2])
        loss = _textbook_loss(
            student(crops), targets, center, temperatures[step // steps_per_epoch]
        )
        center = 0.9 * center + 0.1 * torch.cat(targets).mean(dim=0, keepdim=True)
        optimizer.zero_grad()
        loss.backward()
        for p in student.parameters():
            p.grad.mul_(min(1.0, 0.02 / (p.grad.norm().item() + 1e-6)))
        if step < steps_per_epoch:
            student.head.last.grad = None
        optimizer.step()
        for q, k in zip(student.parameters(), teacher.parameters(), strict=True):
            k.data = momenta[step] * k.data + (1 - momenta[step]) * q.data
    return student, teacher, center


def _parameters(backbone, head):
    """Weights by name, without the keys' biases: their gradient is 0, and Adam swells its noise."""
    weights = dict(backbone.named_parameters()) | {
        f"head.{name}": p for name, p in head.mlp.named_parameters()
    }
    for name, value in list(weights.items()):
        if name.endswith("qkv.bias"):
            third = len(value) // 3
            weights[name] = torch.cat([value[:third], value[-third:]])
    return weights


def test_training_equals_the_authors_loop(fit, random_views):
    method = _method().double()
    batches = [random_views(SIZES, num=4, seed=s, dtype=torch.float64) for s in range(3)]
    start = copy.deepcopy(method)
    fit(method, batches, epochs=3)
    student, teacher, center = _textbook_training(start, batches)

    assert method.step == 9
    torch.testing.assert_close(method.center.center, center, rtol=1e-7, atol=1e-12)
    for ours, our_head, theirs in (
        (method.backbone.model, method.head, student),
        (method.teacher.network.model, method.teacher_head.network, teacher),
    ):
        torch.testing.assert_close(
            our_head.last_layer.weight_v, theirs.head.last, rtol=1e-6, atol=1e-9
        )
        expected = _parameters(theirs.backbone, theirs.head)
        for name, value in _parameters(ours, our_head).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8, msg=name)
    moved = (method.head.last_layer.weight_v - start.head.last_layer.weight_v).abs().max()
    assert moved > 0
    assert torch.equal(method.head.last_layer.weight_g, torch.ones(20, 1, dtype=torch.float64))


def test_accumulated_batches_equal_one_large_batch(fit, random_views):
    large = random_views(SIZES, num=4, dtype=torch.float64)
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        views = {
            name: torch.cat([crop[rows] for crop in view.chunk(len(view) // 4)])
            for name, view in large.views.items()
        }
        parts.append(Batch(views=views, index=large.index[rows]))
    whole, accumulated = _method().double(), _method().double()
    fit(whole, [large] * 3, epochs=2)
    fit(accumulated, parts * 3, epochs=2, accumulate=2)
    assert accumulated.step == whole.step == 6
    torch.testing.assert_close(whole.center.center, accumulated.center.center)
    ours = _parameters(accumulated.teacher.network.model, accumulated.teacher_head.network)
    for name, value in _parameters(whole.teacher.network.model, whole.teacher_head.network).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("network", [{}, {"name": "resnet18", "args": RESNET}])
def test_a_batch_that_is_not_finite_moves_nothing(fit, random_views, network):
    method = _method(**network)
    good, bad = random_views(SIZES, num=4), random_views(SIZES, num=4, seed=1)
    fit(method, [good])
    before = copy.deepcopy(method.state_dict())
    bad.views["local"][0] = torch.nan
    with pytest.warns(UserWarning, match="update 2: a loss or gradient was not finite; skipped"):
        fit(method, [bad])
    assert method.step == 2
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name
    fit(method, [good])
    assert all(v.isfinite().all() for v in method.state_dict().values())


# Parts ----------------------------------------------------------------------------------------


def test_the_last_layer_is_frozen_at_first_and_only_then(fit, random_views):
    method = _method(freeze_last_layer_epochs=1)
    start = method.head.last_layer.weight_v.detach().clone()
    batches = [random_views(SIZES, num=4, seed=s) for s in range(3)]
    fit(method, batches)
    assert torch.equal(method.head.last_layer.weight_v, start)  # no decay either
    assert not torch.equal(method.head.mlp[0].weight, method.teacher_head.network.mlp[0].weight)
    fit(method, batches)
    assert not torch.equal(method.head.last_layer.weight_v, start)


def test_temperature_changes_by_epoch_and_momentum_by_step():
    method = _method(teacher_temperature_epochs=2)
    temperatures = [method.teacher_temperature(step) for step in range(9)]
    np.testing.assert_allclose(temperatures, [0.04] * 3 + [0.07] * 6)
    momenta = [method.teacher_momentum(step) for step in range(9)]
    np.testing.assert_allclose(momenta, _schedule(0.9, 1.0, epochs=3, steps_per_epoch=3))


def test_drop_path_is_the_students_alone():
    method = _method(drop_path=0.3)
    rates = lambda net: [m.drop_prob for m in net.modules() if hasattr(m, "drop_prob")]  # noqa: E731
    assert max(rates(method.backbone)) == pytest.approx(0.3)
    assert max(rates(method.teacher), default=0.0) == 0.0


def test_crops_of_one_size_are_one_batch(random_views):
    """A batch norm tells: its statistics are those of the joined crops."""
    method = _method(name="resnet18", args=RESNET)
    sizes = []
    method.backbone.register_forward_hook(lambda m, args, out: sizes.append(args[0].shape))
    method.compute_loss(random_views({**SIZES, "local": (32, 3)}, num=4))
    assert sizes == [(20, 3, 32, 32)]
    sizes.clear()
    method.compute_loss(random_views(SIZES, num=4))
    assert sizes == [(8, 3, 32, 32), (12, 3, 16, 16)]


def test_the_teacher_sees_the_global_crops_only(random_views):
    method = _method()
    sizes = []
    method.teacher.network.register_forward_hook(lambda m, args, out: sizes.append(args[0].shape))
    method.compute_loss(random_views(SIZES, num=4))
    assert sizes == [(8, 3, 32, 32)]


def test_local_crops_are_optional(random_views):
    loss = _method().compute_loss(random_views({"global_1": 32, "global_2": 32}, num=4)).loss
    assert loss.isfinite()


def test_positions_follow_dinos_rule_on_request(random_views):
    batch = random_views(SIZES, num=4)
    losses = [
        _method(position_rule=rule).compute_loss(batch).loss.item() for rule in ("timm", "dino")
    ]
    assert losses[0] != losses[1]
    same_size = random_views({"global_1": 32, "global_2": 32}, num=4)
    losses = [
        _method(position_rule=rule).compute_loss(same_size).loss.item() for rule in ("timm", "dino")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("args", [{}, {"no_embed_class": True, "reg_tokens": 2}, {"reg_tokens": 4}])
def test_dinos_positions_reach_patches_and_prefix_as_timms_do(args):
    """With timm's table in place of DINO's, the long way round gives timm's tokens."""
    method = _method(position_rule="dino", args={**VIT, **args})
    model, images = method.backbone.model, torch.randn(2, 3, 16, 16)
    ours = method.backbone.embed(images)
    patches = ours[:, method.backbone.num_prefix :] - model.patch_embed(images).flatten(1, 2)
    torch.testing.assert_close(patches[0], patches[1])
    method.backbone.set_position_rule("timm")
    theirs = method.backbone.embed(images)
    assert ours.shape == theirs.shape
    num_prefix = method.backbone.num_prefix
    torch.testing.assert_close(ours[:, :num_prefix], theirs[:, :num_prefix])


def test_dinos_positions_need_positions():
    with pytest.raises(ConfigError, match="position_rule=dino"):
        _method(name="resnet18", args=RESNET, position_rule="dino")


# Options ----------------------------------------------------------------------------------------


def test_masked_patches_are_matched_to_the_teachers_whole_view(random_views):
    """The patch loss by loops over crops and patches."""
    method = _method(patch_weight=0.7, mask_ratio=(0.2, 0.6)).double()
    batch = random_views(SIZES, num=4, dtype=torch.float64)
    output = method.compute_loss(batch)
    masks = method.masks(batch, size_px=32)
    crops = torch.cat([batch.views["global_1"], batch.views["global_2"]])
    student = method.backbone(crops, mask=masks.mask).patches
    teacher = method.teacher(crops).patches
    total = 0.0
    for crop in range(8):
        terms = []
        for patch in range(16):
            if masks.mask[crop, patch]:
                p = torch.softmax(method.teacher_head(teacher[crop, patch]) / 0.04, dim=-1)
                s = torch.log_softmax(method.head(student[crop, patch]) / 0.1, dim=-1)
                terms.append(-(p * s).sum().item())
        total += sum(terms) / len(terms) if terms else 0.0
    assert (masks.mask.sum(1) > 0).sum() == 4  # half of the crops
    assert output.metrics["patch"].item() == pytest.approx(total / 8, rel=1e-6)
    expected = output.metrics["cross_view"] + 0.7 * output.metrics["patch"]
    torch.testing.assert_close(output.loss.detach(), expected)


def test_the_patch_loss_sets_in_later_and_its_token_is_in_the_graph_before(random_views):
    method = _method(patch_weight=1.0, patch_start_epochs=1)
    batch = random_views(SIZES, num=4)
    output = method.compute_loss(batch)
    assert "patch" not in output.metrics
    output.loss.backward()
    assert method.backbone.mask_token.grad is not None
    method.step = 3
    assert "patch" in method.compute_loss(batch).metrics


def test_sinkhorn_targets_give_each_prototype_its_share(random_views, fit):
    method = _method(centering="sinkhorn", patch_weight=1.0, is_patch_head_shared=False)
    batch = random_views(SIZES, num=16)
    logits = method.teacher_head(
        method.teacher(torch.cat([batch.views["global_1"], batch.views["global_2"]])).pooled
    )
    targets = method.targets(logits, method.center)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(32))
    assert targets.sum(dim=0).std() < 0.2
    fit(method, [batch])
    assert torch.equal(method.center.center, torch.zeros(1, 20))


def test_koleo_is_per_global_crop(random_views):
    batch = random_views(SIZES, num=4)
    plain = _method().compute_loss(batch).loss
    output = _method(koleo_weight=0.1).compute_loss(batch)
    torch.testing.assert_close(output.loss, plain + 0.1 * output.metrics["koleo"])


def test_every_trained_parameter_gets_a_gradient_and_the_teacher_none(random_views):
    own_head = {"patch_weight": 1.0, "is_patch_head_shared": False}
    for settings in ({}, own_head, {**own_head, "patch_start_epochs": 1}):
        method = _method(**settings)
        method.compute_loss(random_views(SIZES, num=4)).loss.backward()
        for name, p in method.named_parameters():
            assert (p.grad is not None) == p.requires_grad, name
            assert name.startswith("teacher") == (not p.requires_grad) or "weight_g" in name


def test_metrics_tell_a_collapse(random_views):
    metrics = _method().compute_loss(random_views(SIZES, num=4)).metrics
    assert metrics["ln_k"].item() == pytest.approx(math.log(20))
    assert 0 <= metrics["teacher_entropy"] <= metrics["teacher_marginal_entropy"] + 1e-5
    assert metrics["teacher_marginal_entropy"] <= math.log(20) + 1e-5
    assert 0 <= metrics["student_entropy"] <= math.log(20) + 1e-5


def test_uniform_answers_have_the_cross_view_loss_ln_k_whatever_is_added(random_views):
    method = _method(koleo_weight=0.1, patch_weight=1.0)
    method.head.forward = lambda rows: rows.new_zeros(len(rows), 20) + 0 * rows.sum()
    output = method.compute_loss(random_views(SIZES, num=4))
    assert output.metrics["cross_view"].item() == pytest.approx(math.log(20), rel=1e-5)
    assert output.loss.item() != pytest.approx(math.log(20), rel=0.05)


def test_teachers_restart_from_loaded_weights():
    method = _method()
    method.backbone.model.cls_token.data.fill_(3.0)
    method.on_weights_loaded()
    assert (method.export_backbone().model.cls_token == 3.0).all()


def test_the_export_is_the_teacher():
    method = _method()
    assert method.export_backbone() is method.teacher.network


@pytest.mark.parametrize("name", ["beit_base_patch16_224"])
def test_networks_of_one_size_say_so(random_views, name):
    args = {"depth": 1, "embed_dim": 24, "num_heads": 3}
    with pytest.raises(ConfigError, match=r"local.size_px=16: .* one size only"):
        _method(name=name, args=args).compute_loss(random_views(SIZES, num=2))


# Mistakes -------------------------------------------------------------------------------------


def test_masking_patches_needs_tokens():
    with pytest.raises(ConfigError, match=r"patch_weight=1.0 .*resnet18 has no patch tokens"):
        _method(name="resnet18", args=RESNET, patch_weight=1.0)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"global_1": ViewConfig()}, "data.views.global_2 is missing"),
        ({"global_1": ViewConfig(), "global_2": ViewConfig(size_px=96)}, "must be equal"),
        (
            {"global_1": ViewConfig(), "global_2": ViewConfig(), "locals": ViewConfig()},
            "Did you mean 'local'",
        ),
    ],
)
def test_views_are_checked(views, words):
    with pytest.raises(ConfigError, match=words):
        DinoConfig().check_views(views)


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher_momentum": 1.5},
        {"student_temperature": 0.0},
        {"num_prototypes": 0},
        {"mask_ratio": (0.5, 0.1)},
    ],
)
def test_impossible_settings_name_the_key(settings):
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        DinoConfig(**settings)
