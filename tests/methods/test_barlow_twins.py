import copy
import math

import pytest
import torch
from torch import nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from ssl_vision.methods.base import TrainPlan
from ssl_vision.optim import OptimConfig
from ssl_vision.views import ViewConfig

RECIPE = OptimConfig(
    name="lars",
    base_lr=0.2,
    bias_base_lr=0.0048,
    weight_decay=1e-2,
    warmup_epochs=1,
    end_lr_fraction=0.001,
)


def _method(*, plan, projector_dims=(12, 10), **settings):
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}),
        input_size=32,
    )
    config = BarlowTwinsConfig(projector_dims=projector_dims, **settings)
    return BarlowTwins(config, backbone, optim=RECIPE, plan=plan)


def _authors_lr(step, *, steps_per_epoch, epochs, batch_size, warmup_epochs):
    """Learning-rate rule of the paper, A.3, before the factors 0.2 and 0.0048."""
    total, warm = epochs * steps_per_epoch, warmup_epochs * steps_per_epoch
    base = batch_size / 256
    if step < warm:
        return base * step / warm
    q = 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
    return base * q + base * 0.001 * (1 - q)


def _textbook_loss(z_a, z_b, weight):
    hats = [(z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (z_a, z_b)]
    corr = hats[0].T @ hats[1] / len(z_a)
    on = sum((1 - corr[i, i]) ** 2 for i in range(len(corr)))
    off = sum(corr[i, j] ** 2 for i in range(len(corr)) for j in range(len(corr)) if i != j)
    return on + weight * off


def _textbook_lars(parameters, momenta, *, lr, weight_decay=1e-2):
    """LARS as the authors' optimizer, one tensor at a time."""
    for p in parameters:
        step, rate = p.grad.clone(), lr * 0.0048
        if p.ndim > 1:
            rate = lr * 0.2
            step = step + weight_decay * p.detach()
            norms = p.detach().norm(), step.norm()
            if norms[0] > 0 and norms[1] > 0:
                step = step * 0.001 * norms[0] / norms[1]
        momenta[p] = 0.9 * momenta[p] + step
        p.data -= rate * momenta[p]


def test_training_equals_the_authors_loop(fit, random_views):
    plan = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=8, input_size=32)
    method = _method(plan=plan).double()
    model, head = copy.deepcopy(method.backbone.model), copy.deepcopy(method.projector)
    batches = [
        random_views({"a": 32, "b": 32}, num=8, seed=s, dtype=torch.float64) for s in range(3)
    ]
    fit(method, batches, epochs=2)

    network = nn.Sequential(model, head).train()
    parameters = list(network.parameters())
    momenta = {p: torch.zeros_like(p) for p in parameters}
    for step in range(6):
        views = batches[step % 3].views
        loss = _textbook_loss(network(views["a"]), network(views["b"]), 0.0051)
        network.zero_grad()
        loss.backward()
        lr = _authors_lr(step, steps_per_epoch=3, epochs=2, batch_size=8, warmup_epochs=1)
        _textbook_lars(parameters, momenta, lr=lr)

    assert method.step == 6
    trained = nn.Sequential(method.backbone.model, method.projector)
    for (name, ours), theirs in zip(trained.named_parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9, msg=name)
    for (name, ours), theirs in zip(trained.named_buffers(), network.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9, msg=name)


def test_loss_is_the_terms_of_the_losses_room(random_views):
    plan = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=8, input_size=32)
    output = _method(plan=plan).compute_loss(random_views({"a": 32, "b": 32}, num=8))
    metrics = output.metrics
    expected = metrics["invariance"] + 0.0051 * metrics["redundancy"]
    torch.testing.assert_close(output.loss.detach(), expected)
    assert set(metrics) == {"invariance", "redundancy", "feature_std"}
    assert not any(value.requires_grad for value in metrics.values())


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
        ({}, "takes the views a, b, got none"),
    ],
)
def test_views_are_checked(views, words):
    with pytest.raises(ConfigError, match=words):
        BarlowTwinsConfig().check_views(views)


@pytest.mark.parametrize("settings", [{"projector_dims": ()}, {"redundancy_weight": -1.0}])
def test_impossible_settings_name_the_key(settings):
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        BarlowTwinsConfig(name="barlow_twins", **settings)
