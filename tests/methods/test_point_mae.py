"""Point-MAE: the authors' loss and gradients, masks by keys, and that it learns."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.losses.chamfer import chamfer_distance, nearest_squared
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.point_mae import PointMae, PointMaeConfig
from ssl_vision.optim.recipe import OptimConfig, learning_rate
from ssl_vision.points.views import PointViewConfig
from ssl_vision.types import Batch

PLAN = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=4)
SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_groups": 16, "group_size": 8}


def make(*, args: dict[str, object] | None = None, **settings: object) -> PointMae:
    backbone = build_backbone(
        BackboneConfig(name="point_vit_tiny", args={**SIZES, **(args or {})}), input_size=0
    )
    config = PointMaeConfig(
        **{"decoder_depth": 1, "decoder_heads": 3, "decoder_drop_path": 0.0, **settings}
    )
    return PointMae(config, backbone, optim=OptimConfig(), plan=PLAN)


def clouds(num: int = 4, start: int = 0) -> Batch:
    points = torch.randn(num, 64, 3, generator=torch.Generator().manual_seed(start))
    return Batch(views={"cloud": points}, index=torch.arange(start, start + num))


def test_loss_and_gradients_equal_the_authors(
    golden: Callable[[str], dict[str, np.ndarray]], official_weights: Callable[..., object]
) -> None:
    values = golden("point")
    method = make(args={"patch_hidden": 512, "skips_near_origin": True})
    official_weights(method, [str(n) for n in values["pointmae_param_names"]])
    patches = method.network.model.group(torch.from_numpy(values["pointmae_points"]))
    loss = method.reconstruction_loss(patches, torch.from_numpy(values["pointmae_mask"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(values["pointmae_loss_cdl2"]), rel=1e-6)
    found = {
        "mask_token": method.decoder.mask_token.grad,
        "first_conv_weight": method.network.model.patch_embed.first_conv[0].weight.grad[..., None],
        "increase_dim_bias": method.decoder.head.bias.grad,
    }
    for name, gradient in found.items():
        expected = values[f"pointmae_grad_{name}"]
        error = np.abs(gradient.numpy() - expected).max() / np.abs(expected).max()
        assert error < 1e-5, name


def test_loss_is_the_chamfer_distance_of_each_hidden_patch() -> None:
    method = make().eval()
    patches = method.network.model.group(clouds().views["cloud"])
    mask = method.draw_mask(patches.centers, torch.arange(4), purpose="mask")
    decoded = method.decode(patches, mask)
    terms = []
    for b in range(4):
        hidden = mask[b].nonzero()[:, 0]
        for slot, patch in enumerate(hidden):
            pair = decoded.points[b : b + 1, slot], patches.neighbors[b : b + 1, patch]
            terms.append(chamfer_distance(*pair, power=2))
    expected = torch.stack(terms).mean()
    assert torch.allclose(method.reconstruction_loss(patches, mask), expected, rtol=1e-5)


@pytest.mark.parametrize("mask", ["random", "block"])
def test_masks_depend_on_seed_step_and_sample_only(mask: str) -> None:
    method = make(mask=mask)
    centers = method.network.model.group(clouds().views["cloud"]).centers
    index = torch.tensor([5, 6, 7, 8])
    first = method.draw_mask(centers, index, purpose="mask")
    assert (first.sum(dim=1) == int(0.6 * 16)).all()
    alone = method.draw_mask(centers[2:3], index[2:3], purpose="mask")
    assert torch.equal(alone[0], first[2])
    method.step = 1
    assert not torch.equal(method.draw_mask(centers, index, purpose="mask"), first)


def test_every_parameter_is_trained_and_the_loss_is_repeatable() -> None:
    method = make()
    loss = method(clouds()).loss
    loss.backward()
    assert [n for n, p in method.named_parameters() if p.grad is None] == []
    again = make()
    again.load_state_dict(method.state_dict())
    assert torch.equal(again(clouds()).loss, loss)


def test_four_clouds_can_be_learned() -> None:
    method = make()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    batch = clouds()
    losses = []
    for step in range(60):
        method.step = step % 2  # two masks
        optimizer.zero_grad()
        loss = method.compute_loss(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_pictures_split_the_cloud_and_put_predictions_in_place() -> None:
    method = make().eval()
    points = clouds(2).views["cloud"]
    seen, predicted = method.reconstruct(points, seed=3)
    assert seen.shape == (2, 7 * 8, 3)
    assert predicted.shape == (2, 9 * 8, 3)
    assert nearest_squared(seen, points)[0].max() < 1e-10  # visible points are points of the cloud
    with torch.no_grad():
        method.decoder.head.weight.zero_()
        method.decoder.head.bias.zero_()
    _, at_centers = method.reconstruct(points, seed=3)
    centers = method.network.model.group(points).centers
    assert nearest_squared(at_centers, centers)[0].max() < 1e-10


def test_weight_decay_spares_tokens_biases_and_norms() -> None:
    method = make()
    decayed = {n for n, p in method.named_parameters() if method.decays(n, p)}
    assert "decoder.mask_token" not in decayed
    assert "backbone.model.norm.weight" not in decayed
    assert "backbone.model.patch_embed.first_conv.0.weight" in decayed
    assert not any(name.endswith(".bias") for name in decayed)


def test_rates_per_epoch_equal_the_authors(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    expected = golden("point")["lr_per_epoch_used_301"]
    optim = OptimConfig(
        base_lr=1e-3, lr_scaling="none", schedule="timm_cosine", warmup_epochs=10,
        warmup_start_lr=1e-6, end_lr=1e-6, schedule_stretch=300 / 301,
    )  # fmt: skip
    plan = TrainPlan(steps_per_epoch=3, epochs=301, global_batch_size=128)
    rates = [learning_rate(optim, plan=plan, step=3 * epoch + 2) for epoch in range(301)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.0}, "method.mask_ratio=1.0"),
        ({"mask_ratio": 0.01}, "hides 0 of 16"),
        ({"chamfer_power": 3}, "method.chamfer_power=3"),
        ({"decoder_heads": 5}, "decoder_heads=5 does not divide"),
        ({"decoder_depth": 0}, "decoder_depth"),
        ({"decoder_drop_path": 1.0}, "decoder_drop_path=1.0"),
        ({"args": {"class_token": True}}, "remove class_token"),
    ],
)
def test_unusable_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_image_networks_and_views_are_refused() -> None:
    backbone = build_backbone(BackboneConfig(name="resnet10t"), input_size=32)
    with pytest.raises(ConfigError, match="use point_vit_small"):
        PointMae(PointMaeConfig(), backbone, optim=OptimConfig(), plan=PLAN)
    config = PointMaeConfig()
    config.check_views({"cloud": PointViewConfig()})
    one, two = PointViewConfig(), PointViewConfig(count=2)
    for views, words in (
        ({}, "exactly one view.* got none"),
        ({"a": one, "b": one}, r"exactly one view.* got data\.views\.a, data\.views\.b"),
        ({"a": two}, r"data\.views\.a\.count=2 must be 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            config.check_views(views)
