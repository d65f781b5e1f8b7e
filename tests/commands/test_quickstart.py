from collections.abc import Callable

import numpy as np
import pytest

from ssl_vision.commands.quickstart import score_table
from ssl_vision.config import TrainConfig
from ssl_vision.data.module import DataModule
from ssl_vision.engine.train import train
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.tasks.baselines import FITTED, UNTRAINED
from ssl_vision.tasks.evaluate import evaluate


def nearest_neighbour_vote(config: TrainConfig, k: int, temperature: float) -> float:
    """Share of validation images that a loop over raw pixels classifies right."""
    data = DataModule(config.data, seed=0)

    def rows(loader: object) -> tuple[np.ndarray, np.ndarray]:
        batches = list(loader)
        pixels = np.concatenate([b.views["image"].flatten(1).numpy() for b in batches]) / 255.0
        mean, std = (
            np.repeat(config.data.input_spec.mean, 256),
            np.repeat(config.data.input_spec.std, 256),
        )
        features = (pixels - mean) / std
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        return features, np.concatenate([b.label.numpy() for b in batches])

    bank, bank_labels = rows(data.train_bank_loader())
    queries, labels = rows(data.val_loader())
    right = 0
    for query, label in zip(queries, labels, strict=True):
        similarity = bank @ query
        votes = np.zeros(10)
        for i in np.argsort(-similarity)[:k]:
            votes[bank_labels[i]] += np.exp(similarity[i] / temperature)
        right += int(votes.argmax() == label)
    return right / len(labels)


def test_the_three_scores_of_a_run(recipe: Callable[..., TrainConfig]) -> None:
    config = recipe("mae", "trainer.max_steps=1")
    result = train(config)
    evaluation = evaluate(result.run_dir, tasks=["knn"], data="digits", baselines=True)
    measured = {each.name: each.value for each in evaluation.tasks["knn"].measurements}
    expected = nearest_neighbour_vote(config, k=20, temperature=0.07)
    assert measured["top1 of raw pixels"] == pytest.approx(expected, abs=1e-9)
    table = score_table(evaluation.tasks["knn"], title="digits")
    assert table.row_count == 3


def test_what_costs_nothing_for_clouds_is_listed_before_the_trained_network() -> None:
    names = ["top1", "top1 of raw statistics", f"top1 of {UNTRAINED}", f"top1 of {FITTED}"]
    knn = TaskResult(
        task="knn",
        protocol="knn/1",
        headline="top1",
        measurements=tuple(Measurement(name=n, value=i / 10) for i, n in enumerate(names)),
    )
    table = score_table(knn, title="shapes")
    assert list(table.columns[1].cells) == ["10.00 %", "20.00 %", "30.00 %", "0.00 %"]
