"""Patches of maps, heads trained on them, intervals by drawing images again."""

import numpy as np
import pytest
import torch

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.dense import (
    PatchMaps,
    Standardize,
    bootstrap,
    fit_head,
    linear_head,
    sample_nearest,
)
from ssl_vision.evaluation.segmentation import SegmentConfig


def test_maps_are_patches_row_major_of_all_parts():
    first, second = torch.randn(5, 6 * 6 * 3), torch.randn(5, 6 * 6 * 2)
    maps = PatchMaps(first, second.numpy(), side=6)
    assert (len(maps), maps.width) == (5, 5)
    found = maps.take(torch.tensor([4, 1]))
    for i, image in enumerate((4, 1)):
        for row in range(6):
            for column in range(6):
                place = row * 6 + column
                own = [first[image, place * 3 + d] for d in range(3)]
                own += [second[image, place * 2 + d] for d in range(2)]
                assert found[i, :, row, column].tolist() == pytest.approx([float(v) for v in own])


def test_channels_are_standardized_over_all_patches_and_constant_ones_stay_finite():
    rows = torch.randn(130, 4 * 3) * 5 + 2  # more images than one block
    rows.view(130, 4, 3)[:, :, 2] = 7.0
    maps = PatchMaps(rows, side=2)
    found = Standardize(maps)(maps.take(torch.arange(130)))
    whole = rows.view(-1, 3)
    expected = (whole - whole.mean(dim=0)) / whole.std(dim=0, correction=0)
    torch.testing.assert_close(
        found.permute(0, 2, 3, 1).reshape(-1, 3)[:, :2], expected[:, :2], atol=1e-4, rtol=1e-4
    )
    assert bool((found[:, 2] == 0).all())


def test_a_linear_head_comes_to_the_least_squares_solution():
    maps = PatchMaps(torch.randn(64, 4 * 3), side=2)
    wanted = maps.take(torch.arange(64)) * torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1)
    target = wanted.sum(dim=1, keepdim=True) + 3
    head = linear_head(maps, 1, seed=0)
    config = SegmentConfig(updates=600, lr=0.05, weight_decay=0.0)
    losses = fit_head(
        head, maps, lambda out, rows: (out - target[rows]).square().mean(), config=config, seed=0
    )
    assert len(losses) == 600
    assert losses[0] > 1
    torch.testing.assert_close(head(maps.take(torch.arange(64))), target, atol=1e-2, rtol=0)


def test_training_is_the_same_twice_and_a_rate_too_high_is_named():
    maps = PatchMaps(torch.randn(10, 4 * 3), side=2)
    config = SegmentConfig(updates=5)

    def trained(config: SegmentConfig) -> torch.Tensor:
        head = linear_head(maps, 2, seed=3)
        fit_head(head, maps, lambda out, _: out.square().sum().exp(), config=config, seed=3)
        return next(head.parameters()).detach()

    assert torch.equal(trained(config), trained(config))
    with pytest.raises(ConfigError, match=r"segment\.lr=1e\+06: the loss .* lower it"):
        trained(SegmentConfig(updates=5, lr=1e6))


def test_nearest_samples_are_those_of_a_loop():
    values = np.random.default_rng(0).integers(0, 99, (7, 10))
    found = sample_nearest(values, 4)
    for i in range(4):
        for j in range(4):
            assert found[i, j] == values[int((i + 0.5) * 7 / 4), int((j + 0.5) * 10 / 4)]
    assert np.array_equal(
        sample_nearest(values[:2, :2], 4), np.kron(values[:2, :2], np.ones((2, 2)))
    )


def test_an_interval_is_that_of_a_mean_over_images():
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda draws: draws @ values / 400, 400, seed=0)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.015)
    assert found.high == pytest.approx(values.mean() + half, abs=0.015)


@pytest.mark.parametrize(
    ("setting", "value"), [("updates", 0), ("batch_size", 0), ("lr", 0.0), ("weight_decay", -1.0)]
)
def test_settings_out_of_range_are_named_with_their_section(setting, value):
    with pytest.raises(ConfigError, match=rf"segment\.{setting}="):
        SegmentConfig(**{setting: value})
