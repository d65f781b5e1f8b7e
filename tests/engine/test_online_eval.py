import json
from pathlib import Path

import pytest

from ssl_vision.config import load_train_config
from ssl_vision.data.module import DataModule
from ssl_vision.engine.saved_method import untrained_backbone
from ssl_vision.engine.train import train
from ssl_vision.evaluation.features import extract_features
from ssl_vision.evaluation.knn import knn_accuracy
from ssl_vision.nn.batch_norm import with_fitted_batch_norms

RECIPE = Path(__file__).parents[2] / "configs" / "point_mae" / "tiny_cpu.yaml"


def test_training_is_compared_with_the_better_of_two_untrained_networks(tmp_path: Path) -> None:
    """Batch norms as drawn or fitted to the data: of this network the second."""
    config = load_train_config(
        [RECIPE],
        [
            *("data.path=shapes", "data.point_views.cloud.num_points=64", "trainer.max_steps=1"),
            "backbone.args={embed_dim: 24, depth: 2, num_heads: 3, num_groups: 8, group_size: 8,"
            " patch_hidden: 32}",
            f"run_dir={tmp_path}",
        ],
    )
    train(config)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    data = DataModule(config.data, seed=config.seed)
    drawn = untrained_backbone(tmp_path)
    shuffled = (b.views["cloud"] for b in data.train_bank_loader(shuffle=True))
    scores = []
    for network in (drawn, with_fitted_batch_norms(drawn, shuffled)):
        loaders = (data.train_bank_loader(), data.val_loader())
        bank, queries = (extract_features(network, each, normalize=None) for each in loaders)
        found = knn_accuracy(
            bank.features["pooled"],
            bank.labels,
            queries.features["pooled"],
            queries.labels,
            k=[config.online_eval.k],
            temperature=config.online_eval.temperature,
        )
        scores.append(found[config.online_eval.k].top1)
    assert scores[1] > scores[0]
    assert first["step"] == 0
    assert first["eval/knn_top1"] == pytest.approx(scores[1])
