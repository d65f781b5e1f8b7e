"""Mixed batches: the authors' Mixup branch, and what keys and probabilities promise."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_vision.losses.smmix import mix_labels, smooth_labels
from ssl_vision.nn.mixup import mix_batch

BOTH = {"num_classes": 5, "smoothing": 0.1, "switch_prob": 0.5, "prob": 1.0}
LABELS = torch.tensor([0, 3, 2, 4])


def test_mixup_is_the_authors_formula(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    values = golden("smmix")
    area = float(values["mixup_lam"])
    images = torch.from_numpy(values["step_images"])
    labels = smooth_labels(torch.from_numpy(values["step_targets"]), num_classes=5, smoothing=0.1)
    np.testing.assert_allclose(
        area * images + (1 - area) * images.flip(0), values["mixup_images"], atol=1e-6
    )
    np.testing.assert_allclose(mix_labels(labels, area=area), values["mixup_labels"], atol=1e-6)


def test_mixup_blends_images_and_labels_by_one_weight() -> None:
    images = torch.randn(4, 3, 8, 8)
    before = images.clone()
    mixed, targets = mix_batch(images, LABELS, mixup_alpha=0.8, cutmix_alpha=0.0, key=3, **BOTH)
    assert torch.equal(images, before)
    difference = images - images.flip(0)
    area = float(((mixed - images.flip(0)) * difference).sum() / difference.square().sum())
    assert 0 < area < 1
    torch.testing.assert_close(mixed, area * images + (1 - area) * images.flip(0))
    labels = smooth_labels(LABELS, num_classes=5, smoothing=0.1)
    torch.testing.assert_close(targets, mix_labels(labels, area=area))


def test_cutmix_labels_follow_the_pasted_area() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 32, 32)
    mixed, targets = mix_batch(images, LABELS, mixup_alpha=0.0, cutmix_alpha=1.0, key=5, **BOTH)
    own = (mixed == images).float().mean(dim=(1, 2, 3))
    assert 0 < own[0] < 1
    labels = smooth_labels(LABELS, num_classes=5, smoothing=0.1)
    torch.testing.assert_close(targets, mix_labels(labels, area=float(own[0])))


def test_equal_keys_give_equal_mixes_whatever_ran_before() -> None:
    images = torch.randn(4, 3, 8, 8)

    def mix(key: int) -> torch.Tensor:
        return mix_batch(images, LABELS, mixup_alpha=0.8, cutmix_alpha=1.0, key=key, **BOTH)[0]

    first = mix(1)
    np.random.rand(7)
    assert torch.equal(mix(1), first)
    assert len({float(mix(key)[0].sum()) for key in range(8)}) == 8


def test_global_generators_are_left_alone() -> None:
    np.random.seed(0)
    expected = np.random.rand(2)
    np.random.seed(0)
    first = np.random.rand()
    mix_batch(torch.randn(2, 3, 8, 8), LABELS[:2], mixup_alpha=1.0, cutmix_alpha=0.0, key=1, **BOTH)
    assert [first, np.random.rand()] == pytest.approx(expected)


def test_probability_zero_leaves_images_and_smooths_labels() -> None:
    images = torch.randn(4, 3, 8, 8)
    settings = {**BOTH, "prob": 0.0}
    mixed, targets = mix_batch(images, LABELS, mixup_alpha=0.8, cutmix_alpha=1.0, key=1, **settings)
    assert torch.equal(mixed, images)
    torch.testing.assert_close(targets, smooth_labels(LABELS, num_classes=5, smoothing=0.1))
