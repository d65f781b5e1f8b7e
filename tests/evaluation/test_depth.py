"""Errors of depth against loops; heads that find what patches say."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.dense import PatchMaps
from ssl_vision.evaluation.depth import (
    BinnedDepth,
    DepthConfig,
    SmallDpt,
    depth_at,
    depth_errors,
    scale_invariant_loss,
    train_depth,
    within,
)


def test_errors_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 8, (6, 7)).astype(np.float32)
    found = (truth * rng.uniform(0.6, 1.6, truth.shape)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.3] = np.nan
    right = num = 0
    squares = relative = 0.0
    for t, p in zip(truth.flat, found.flat, strict=True):
        if math.isnan(t):
            continue
        num += 1
        right += max(t / p, p / t) < 1.25
        squares += (float(p) - float(t)) ** 2
        relative += abs(float(p) - float(t)) / float(t)
    errors = depth_errors(truth, found)
    assert 0 < right < num < truth.size
    assert errors == pytest.approx((right / num, math.sqrt(squares / num), relative / num))
    assert depth_errors(truth, truth) == (1, 0, 0)


def test_depth_out_of_range_counts_nowhere():
    found = within(np.array([[0.5, 1.0, 2.0, 2.5, np.nan]], np.float32), 1.0, 2.0)
    assert np.isnan(found[0]).tolist() == [True, False, False, True, True]


def test_the_loss_is_that_of_a_loop_and_forgives_most_of_a_common_factor():
    torch.manual_seed(0)
    found, truth = torch.rand(2, 1, 3, 3) + 0.5, torch.rand(2, 6, 6) + 0.5
    truth[0, 2, 2] = torch.nan
    enlarged = interpolate(found, (6, 6), mode="bilinear")[:, 0]
    gaps = [
        math.log(p) - math.log(t)
        for p, t in zip(enlarged.flatten().tolist(), truth.flatten().tolist(), strict=True)
        if not math.isnan(t)
    ]
    square, mean = sum(g * g for g in gaps) / len(gaps), sum(gaps) / len(gaps)
    assert float(scale_invariant_loss(found, truth)) == pytest.approx(
        math.sqrt(square - 0.85 * mean**2), rel=1e-4
    )
    flat = torch.full((1, 4, 4), 2.0)
    factor = scale_invariant_loss(torch.full((1, 1, 2, 2), 4.0), flat)
    assert float(factor) == pytest.approx(math.log(2) * math.sqrt(0.15), rel=1e-4)
    nothing = scale_invariant_loss(found.requires_grad_(), torch.full((2, 4, 4), torch.nan))
    nothing.backward()
    assert nothing.item() == 0


def test_bins_reach_from_the_least_to_the_largest_depth():
    depth = BinnedDepth(0.5, 10.0, 5)
    scores = torch.zeros(1, 5, 1, 2)
    scores[0, 4, 0, 1] = 50.0
    assert depth(scores).flatten().tolist() == pytest.approx([5.25, 10.0])


def example(num_layers: int) -> tuple[PatchMaps, np.ndarray, np.ndarray]:
    """Patches whose first numbers say the depth."""
    rng = np.random.default_rng(0)
    num, side = 32, 4
    depth = rng.uniform(1, 5, (num, side, side)).astype(np.float32)
    parts = []
    for _ in range(num_layers):
        patches = rng.normal(size=(num, side, side, 6)).astype(np.float32)
        patches[..., 0] = depth
        parts.append(torch.from_numpy(patches.reshape(num, -1)))
    return PatchMaps(*parts, side=side), depth, np.kron(depth, np.ones((1, 4, 4), np.float32))


@pytest.mark.parametrize(("head", "num_layers"), [("linear", 1), ("dpt", 4), ("dpt", 1)])
def test_heads_find_the_depth_that_patches_say(head, num_layers):
    maps, depth, targets = example(num_layers)
    targets[:, :2] = np.nan
    rates = {"updates": 400, "lr": 0.02} if head == "linear" else {"updates": 300, "lr": 0.004}
    config = DepthConfig(head=head, bins=32, **rates)
    fitted, losses = train_depth(maps, targets, low=0.5, high=6.0, config=config, seed=0)
    with torch.no_grad():
        found = fitted(maps.take(torch.arange(32)))
    assert np.mean(losses[-20:]) < 0.5 * losses[0]
    assert found.shape[2:] == ((16, 16) if head == "dpt" else (4, 4))
    at_patches = np.stack([depth_at(each, (20, 12)) for each in found])[:, 2::5, 1::3]
    assert np.corrcoef(at_patches.ravel(), depth.ravel())[0, 1] > 0.9
    assert np.abs(at_patches - depth).mean() < 0.5


def test_the_small_dpt_reads_every_block():
    maps, _, _ = example(4)
    net = SmallDpt(maps, 3)
    images = maps.take(torch.arange(2)).requires_grad_()
    net(images).sum().backward()
    parts = images.grad.split(maps.widths, dim=1)
    assert all(float(part.abs().max()) > 0 for part in parts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scale": 0.0}, "depth.scale=0"),
        ({"min_m": 0.0}, "depth.min_m=0"),
        ({"min_m": 2.0, "max_m": 1.0}, "depth.max_m=1 must be above depth.min_m=2"),
        ({"bins": 1}, "depth.bins=1"),
        ({"updates": 0}, "depth.updates=0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        DepthConfig(**settings)
