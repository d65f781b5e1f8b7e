"""The linear SVM on problems whose answer is known."""

import numpy as np
import pytest

from ssl_vision.data.subsets import held_out_rows
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.svm import SvmConfig, linear_svm


def blobs(num: int, *, seed: int, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    centers = np.eye(3, 5) * 2
    return (centers[labels] + random.normal(0, spread, (num, 5))).astype(np.float32), labels


def test_separable_classes_are_separated() -> None:
    train, test = blobs(60, seed=0), blobs(90, seed=1)
    result = linear_svm(*train, *test)
    assert result.top1 == 1.0
    assert np.array_equal(result.predictions, test[1])
    assert set(result.held_out) == {0.001, 0.01, 0.1, 1.0}


def test_labels_without_relation_are_at_chance() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(900, 5)).astype(np.float32)
    labels = random.integers(0, 3, 900)
    top1 = linear_svm(features[:450], labels[:450], features[450:], labels[450:]).top1
    assert abs(top1 - 1 / 3) < 0.1


def test_scale_of_the_features_does_not_matter() -> None:
    (train, labels), (test, truth) = blobs(60, seed=0, spread=0.8), blobs(90, seed=1, spread=0.8)
    factor = np.array([1e-3, 1, 1e3, 10, 0.1], np.float32)
    plain = linear_svm(train, labels, test, truth)
    scaled = linear_svm(train * factor + 5, labels, test * factor + 5, truth)
    assert abs(plain.top1 - scaled.top1) <= 0.03


def test_one_c_is_used_as_it_is_and_constant_dimensions_are_harmless() -> None:
    (train, labels), test = blobs(60, seed=0), blobs(30, seed=1)
    train[:, 4] = test[0][:, 4] = 7.0
    result = linear_svm(train, labels, *test, config=SvmConfig(cs=(0.5,)))
    assert result.c == 0.5
    assert result.held_out == {}
    assert result.top1 == 1.0


def test_held_out_rows_are_of_every_class_and_leave_one() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2])
    fit, score = held_out_rows(labels, share=0.2, key=1)
    assert sorted([*fit, *score]) == list(range(13))
    assert np.bincount(labels[score], minlength=3).tolist() == [2, 1, 0]


def test_unusable_input_is_named() -> None:
    features, labels = blobs(6, seed=0)
    with pytest.raises(DataError, match="two or more classes"):
        linear_svm(features, labels * 0, features, labels)
    with pytest.raises(DataError, match="NaN"):
        linear_svm(features * np.nan, labels, features, labels)
    with pytest.raises(ConfigError, match=r"svm\.cs"):
        SvmConfig(cs=())
