import copy
import math

import pytest
import torch
import torch.nn.functional as F

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.simclr import Simclr, SimclrConfig
from ssl_vision.optim import OptimConfig
from ssl_vision.views import ViewConfig

RECIPE = OptimConfig(
    name="lars", base_lr=0.1, lr_scaling="sqrt", lr_reference_batch=1, weight_decay=1e-2,
    is_lr_in_momentum=True, warmup_epochs=1,
)  # fmt: skip
PLAN = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=8, input_size=32)


def _method(*, plan=PLAN, **settings):
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}),
        input_size=32,
    )
    return Simclr(SimclrConfig(projection_dim=6, **settings), backbone, optim=RECIPE, plan=plan)


def _batches(random_views, dtype=torch.float64):
    return [random_views({"a": 32, "b": 32}, num=8, seed=s, dtype=dtype) for s in range(3)]


def _authors_lr(step):
    """0.1 sqrt(B), linear over the first 3 updates, then a cosine over the 3 that are left."""
    peak = 0.1 * math.sqrt(8)
    return peak * step / 3 if step < 3 else peak * 0.5 * (1 + math.cos(math.pi * (step - 3) / 3))


def _authors_loss(rows, temperature):
    """Sum of the two directions' means, from logits with the self logits lowered by 1e9."""
    a, b = F.normalize(rows, dim=1).chunk(2)
    mask = torch.eye(len(a)).to(a) * 1e9
    target = torch.arange(len(a))
    to_b = torch.cat([a @ b.T, a @ a.T - mask * temperature], dim=1) / temperature
    to_a = torch.cat([b @ a.T, b @ b.T - mask * temperature], dim=1) / temperature
    return F.cross_entropy(to_b, target) + F.cross_entropy(to_a, target)


def _classic_lars(parameters, momenta, *, lr):
    """The authors' optimizer: the rate enters the momentum; no adaptation of norms."""
    for p in parameters:
        step = p.grad.clone()
        if p.ndim > 1:
            step = step + 1e-2 * p.detach()
            step = step * 0.001 * p.detach().norm() / step.norm()
        momenta[p] = 0.9 * momenta[p] + lr * step
        p.data -= momenta[p]


def test_training_equals_the_authors_loop(fit, random_views):
    method = _method().double()
    network, head = copy.deepcopy(method.backbone.model), copy.deepcopy(method.projector.layers)
    batches = _batches(random_views)
    fit(method, batches, epochs=2)

    parameters = [p for p in (*network.parameters(), *head.parameters()) if p.requires_grad]
    momenta = {p: torch.zeros_like(p) for p in parameters}
    network.train()
    for step in range(6):
        views = batches[step % 3].views
        rows = network(torch.cat([views["a"], views["b"]]))
        for layer in head:
            rows = layer(rows)
        loss = _authors_loss(rows, 0.1)
        for p in parameters:
            p.grad = None
        loss.backward()
        _classic_lars(parameters, momenta, lr=_authors_lr(step))

    assert method.step == 6
    trained = [p for p in method.parameters() if p.requires_grad]
    for ours, theirs in zip(trained, parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("directions", ["sum", "mean"])
def test_the_two_directions_are_added_or_averaged(random_views, directions):
    output = _method(directions=directions).compute_loss(_batches(random_views, torch.float32)[0])
    factor = {"sum": 2, "mean": 1}[directions]
    torch.testing.assert_close(output.loss.detach(), factor * output.metrics["contrast"])
    assert set(output.metrics) == {"contrast", "contrast_accuracy", "feature_std"}
    assert not any(value.requires_grad for value in output.metrics.values())


def test_batch_norms_see_both_views_together(random_views):
    """Statistics of the first batch norm are those of 2B images, not of one view after another."""
    method = _method()
    batch = _batches(random_views, torch.float32)[0]
    method.compute_loss(batch)
    images = torch.cat([batch.views["a"], batch.views["b"]])
    mean = method.backbone.model.conv1(images).mean(dim=(0, 2, 3))
    torch.testing.assert_close(method.backbone.model.bn1.running_mean, 0.1 * mean)


def test_a_learned_temperature_starts_as_set_learns_and_may_not_run_away(random_views):
    method = _method(is_temperature_learned=True)
    assert method.temperature().item() == pytest.approx(0.1)
    output = method.compute_loss(_batches(random_views, torch.float32)[0])
    output.loss.backward()
    assert method.log_scale.grad.abs() > 0
    assert output.metrics["temperature"].item() == pytest.approx(0.1)
    fixed = _method().compute_loss(_batches(random_views, torch.float32)[0])
    torch.testing.assert_close(output.loss, fixed.loss)
    with torch.no_grad():
        method.log_scale.fill_(20.0)
    assert method.temperature().item() == pytest.approx(0.01)


def test_the_memory_holds_view_b_by_the_average_and_adds_negatives(fit, random_views):
    method = _method(memory_size=12, memory_momentum=0.5)
    batches = _batches(random_views, torch.float32)
    alone = _method().compute_loss(batches[0]).loss.item()
    assert method.compute_loss(batches[0]).loss.item() == pytest.approx(alone)  # still empty
    method.memory.discard()

    before = copy.deepcopy(method.memory_backbone), copy.deepcopy(method.memory_projector)
    start = method.backbone.model.conv1.weight.detach().clone()
    fit(method, batches[:1])
    with torch.no_grad():
        keys = before[1](before[0](batches[0].views["b"]).pooled)
    assert method.memory.num_filled == 8
    torch.testing.assert_close(method.memory.rows[:8], F.normalize(keys, dim=1))
    expected = (start + method.backbone.model.conv1.weight) / 2
    torch.testing.assert_close(method.memory_backbone.network.model.conv1.weight, expected)

    with_memory = method.compute_loss(batches[1]).loss
    method.memory.num_filled.zero_()
    assert with_memory > method.compute_loss(batches[1]).loss  # more to be told apart from


def test_a_skipped_update_leaves_the_memory_as_it_is(fit, random_views):
    method = _method(memory_size=12)
    batch = _batches(random_views, torch.float32)[0]
    bad = copy.deepcopy(batch)
    bad.views["a"][0] = float("nan")
    with pytest.warns(UserWarning, match="not finite"):
        fit(method, [bad, batch])
    assert method.memory.num_filled == 8
    assert method.memory.rows.isfinite().all()


def test_the_head_leaves_with_the_network():
    heads = _method().export_heads()
    assert heads["projector.layers.0.0.weight"].shape == (8, 8)
    assert heads["projector.layers.2.0.weight"].shape == (6, 8)
    assert not heads["projector.layers.2.1.bias"].any()


def test_a_batch_of_one_is_refused_before_training():
    plan = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=1)
    with pytest.raises(ConfigError, match=r"data.global_batch_size=1.*2 or more"):
        _method(plan=plan)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"a": ViewConfig()}, "data.views.b is missing"),
        ({"a": ViewConfig(), "b": ViewConfig(), "c": ViewConfig()}, "data.views.c is not used"),
        ({"a": ViewConfig(), "b": ViewConfig(count=2)}, "data.views.b.count=2 must be 1"),
        ({"a": ViewConfig(), "b": ViewConfig(size_px=96)}, "b.size_px=96.*must be equal"),
    ],
)
def test_views_are_checked(views, words):
    with pytest.raises(ConfigError, match=words):
        SimclrConfig().check_views(views)


@pytest.mark.parametrize(
    "settings",
    [
        {"projection_dim": 0},
        {"num_head_layers": 0},
        {"temperature": 0.0},
        {"memory_size": -1},
        {"memory_momentum": 1.5},
    ],
)
def test_impossible_settings_name_the_key(settings):
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        SimclrConfig(**settings)
