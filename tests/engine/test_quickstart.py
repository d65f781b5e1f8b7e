from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl_vision.config import TrainConfig
from ssl_vision.data.module import DataModule
from ssl_vision.engine.quickstart import RawPixels, compare, knn_score
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError


def test_raw_pixels_score_is_the_textbook_vote(recipe: Callable[..., TrainConfig]) -> None:
    config = recipe("mae")
    data = DataModule(config.data, seed=0)
    score = knn_score(RawPixels(3 * 16 * 16), data, config)

    def rows(loader: object) -> tuple[np.ndarray, np.ndarray]:
        batches = list(loader)
        pixels = np.concatenate([b.views["image"].flatten(1).numpy() for b in batches]) / 255.0
        mean, std = np.repeat(config.data.mean, 256), np.repeat(config.data.std, 256)
        features = (pixels - mean) / std
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        return features, np.concatenate([b.label.numpy() for b in batches])

    bank, bank_labels = rows(data.train_bank_loader())
    queries, labels = rows(data.val_loader())
    right = 0
    for query, label in zip(queries, labels, strict=True):
        similarity = bank @ query
        nearest = np.argsort(-similarity)[: config.online_eval.k]
        votes = np.zeros(10)
        for i in nearest:
            votes[bank_labels[i]] += np.exp(similarity[i] / config.online_eval.temperature)
        right += int(votes.argmax() == label)
    assert score == pytest.approx(right / len(labels), abs=1 / len(labels))


def test_the_three_scores_of_a_run(recipe: Callable[..., TrainConfig]) -> None:
    config = recipe("mae", "trainer.max_steps=1")
    scores = compare(config, trained=train(config).run_dir)
    assert list(scores) == ["raw pixels", "untrained backbone", "trained backbone"]
    assert all(0.1 < score <= 1 for score in scores.values())


def test_images_without_classes_have_no_score(
    recipe: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (20, 20), (i * 40, 0, 0)).save(tmp_path / f"{i}.png")
    config = recipe("mae", f"data.path={tmp_path}")
    with pytest.raises(ConfigError, match="no class folders"):
        knn_score(RawPixels(3), DataModule(config.data, seed=0), config)
