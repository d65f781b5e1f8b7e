import copy

import pytest
import torch
from torch import nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.vicreg import Vicreg, VicregConfig
from ssl_vision.optim import OptimConfig
from ssl_vision.views import ViewConfig

PLAN = TrainPlan(steps_per_epoch=3, epochs=1, global_batch_size=8, input_size=32)


def _method(*, plan=PLAN, **settings):
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}),
        input_size=32,
    )
    config = VicregConfig(projector_dims=(12, 10), **settings)
    optim = OptimConfig(name="sgd", base_lr=0.01, momentum=0, weight_decay=0, schedule="constant",
                        warmup_epochs=0, lr_scaling="none")  # fmt: skip
    return Vicreg(config, backbone, optim=optim, plan=plan)


def _textbook(z_a, z_b):
    """The authors' arithmetic in torch's own statistics."""
    loss = 25 * (z_a - z_b).square().mean()
    for z in (z_a, z_b):
        loss = loss + 12.5 * (1 - (z.var(dim=0) + 1e-4).sqrt()).clamp(min=0).mean()
        covariance = z.T.cov()
        loss = loss + (covariance - covariance.diag().diag()).square().sum() / z.shape[1]
    return loss


def test_training_equals_a_loop_by_hand(fit, random_views):
    method = _method().double()
    network = nn.Sequential(
        copy.deepcopy(method.backbone.model), copy.deepcopy(method.projector)
    ).train()
    batches = [
        random_views({"a": 32, "b": 32}, num=8, seed=s, dtype=torch.float64) for s in range(3)
    ]
    fit(method, batches)
    for batch in batches:
        loss = _textbook(network(batch.views["a"]), network(batch.views["b"]))
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.01 * p.grad
    trained = nn.Sequential(method.backbone.model, method.projector)
    states = (module.state_dict().values() for module in (trained, network))
    for ours, theirs in zip(*states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_loss_is_the_weighted_terms(random_views):
    weights = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0}
    output = _method(**weights).compute_loss(random_views({"a": 32, "b": 32}, num=8))
    m = output.metrics
    expected = 2 * m["invariance"] + 3 * m["variance"] + 5 * m["covariance"]
    torch.testing.assert_close(output.loss.detach(), expected)
    assert set(m) == {"invariance", "variance", "covariance", "feature_std"}
    assert not any(value.requires_grad for value in m.values())


def test_a_batch_of_one_is_refused_before_training():
    plan = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=1)
    with pytest.raises(ConfigError, match=r"data.global_batch_size=1.*2 or more"):
        _method(plan=plan)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"a": ViewConfig()}, "data.views.b is missing"),
        ({"a": ViewConfig(), "b": ViewConfig(), "global": ViewConfig()}, "global is not used"),
        ({"a": ViewConfig(count=2), "b": ViewConfig()}, "data.views.a.count=2 must be 1"),
    ],
)
def test_views_are_checked(views, words):
    with pytest.raises(ConfigError, match=words):
        VicregConfig().check_views(views)


@pytest.mark.parametrize(
    "settings", [{"projector_dims": ()}, {"projector_dims": (8, 1)}, {"variance_weight": -1.0}]
)
def test_impossible_settings_name_the_key(settings):
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        VicregConfig(**settings)
