import copy

import pytest
import torch
from torch import nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.lejepa import Lejepa, LejepaConfig
from ssl_vision.optim import OptimConfig
from ssl_vision.views import ViewConfig

PLAN = TrainPlan(steps_per_epoch=3, epochs=1, global_batch_size=8, input_size=32)


def _method(*, plan=PLAN, **settings):
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}),
        input_size=32,
    )
    config = LejepaConfig(projector_dims=(12, 6), num_directions=5, **settings)
    optim = OptimConfig(name="sgd", base_lr=0.01, momentum=0, weight_decay=0, schedule="constant",
                        warmup_epochs=0, lr_scaling="none")  # fmt: skip
    return Lejepa(config, backbone, optim=optim, plan=plan)


def _epps_pulley(x):
    """Of one sample of numbers, over the whole axis, with complex exponentials."""
    t = torch.linspace(-3, 3, 33, dtype=torch.float64)
    normal = torch.exp(-(t**2) / 2)
    empirical = torch.exp(1j * x[:, None] * t).mean(dim=0)
    return len(x) * torch.trapezoid((empirical - normal).abs() ** 2 * normal, t)


def _textbook(views, directions, *, num_global, weight):
    """Of a list of views' projections."""
    centre = torch.stack(views[:num_global]).mean(dim=0)
    prediction = torch.stack([(z - centre) ** 2 for z in views]).mean()
    per_view = [torch.stack([_epps_pulley(z @ d) for d in directions.T]).mean() for z in views]
    return (1 - weight) * prediction + weight * torch.stack(per_view).mean()


@pytest.mark.parametrize("sizes", [{"global": (32, 3)}, {"global": (32, 2), "local": (16, 2)}])
def test_training_equals_a_loop_by_hand(fit, random_views, sizes):
    method = _method().double()
    network = nn.Sequential(
        copy.deepcopy(method.backbone.model), copy.deepcopy(method.projector)
    ).train()
    batches = [random_views(sizes, num=8, seed=s, dtype=torch.float64) for s in range(3)]
    directions = []

    def drawn_and_kept():
        directions.append(Lejepa.directions(method))
        return directions[-1]

    method.directions = drawn_and_kept
    fit(method, batches)
    assert len({tuple(d.flatten().tolist()) for d in directions}) == 3  # drawn anew every time
    for batch, drawn in zip(batches, directions, strict=True):
        features = torch.cat([network[0](images) for images in batch.views.values()])
        views = list(network[1](features).chunk(len(features) // 8))
        loss = _textbook(views, drawn.double(), num_global=sizes["global"][1], weight=0.05)
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
    output = _method(sigreg_weight=0.2).compute_loss(random_views({"global": (32, 2)}, num=8))
    m = output.metrics
    torch.testing.assert_close(output.loss.detach(), 0.8 * m["prediction"] + 0.2 * m["sigreg"])
    assert set(m) == {"prediction", "sigreg", "feature_std"}
    assert not any(value.requires_grad for value in m.values())


def test_directions_are_equal_for_all_batches_of_an_update_and_new_at_the_next():
    method = _method()
    first = method.directions()
    method.micro_step += 1
    assert torch.equal(method.directions(), first)
    method.step += 1
    assert not torch.equal(method.directions(), first)


def test_local_views_of_the_size_of_the_global_ones_pass_with_them(random_views):
    method = _method().eval()
    batch = random_views({"local": (32, 1), "global": (32, 2)}, num=4)
    expected = torch.cat([method.backbone(batch.views[n]).pooled for n in ("global", "local")])
    torch.testing.assert_close(method._features(batch), expected)


def test_a_batch_of_one_is_refused_before_training():
    plan = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=1)
    with pytest.raises(ConfigError, match=r"data.global_batch_size=1.*2 or more"):
        _method(plan=plan)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"local": ViewConfig(count=2)}, "data.views.global is missing"),
        ({"global": ViewConfig(count=2), "a": ViewConfig()}, "data.views.a is not used"),
        ({"global": ViewConfig()}, "data.views.global.count=1.*two drawings"),
    ],
)
def test_views_are_checked(views, words):
    with pytest.raises(ConfigError, match=words):
        LejepaConfig().check_views(views)


def test_any_two_drawings_will_do():
    LejepaConfig().check_views({"global": ViewConfig(count=2)})
    LejepaConfig().check_views({"global": ViewConfig(), "local": ViewConfig(size_px=96)})


@pytest.mark.parametrize(
    "settings",
    [
        {"projector_dims": ()},
        {"sigreg_weight": 1.5},
        {"num_directions": 0},
        {"num_points": 1},
        {"t_max": 0.0},
    ],
)
def test_impossible_settings_name_the_key(settings):
    with pytest.raises(ConfigError, match=f"method.{next(iter(settings))}"):
        LejepaConfig(**settings)
