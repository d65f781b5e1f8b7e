"""Settings say what is wrong with a value."""

from dataclasses import replace
from typing import Any

import pytest

from ssl_vision.data.clouds.config import CloudEvalData
from ssl_vision.data.images.config import ImageEvalData
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.features import parse_feature_set, spec_of
from ssl_vision.evaluation.knn import KNN_PRESETS, KnnConfig
from ssl_vision.evaluation.linear_config import PRESETS, LinearConfig
from ssl_vision.evaluation.settings import FewShotConfig


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (ImageEvalData, {"path": "x", "size_px": 0}, r"data\.size_px=0"),
        (ImageEvalData, {"path": "x", "max_val": -1}, r"data\.max_val=-1"),
        (CloudEvalData, {"path": "x", "num_groups": 0}, r"data\.num_groups=0"),
        (CloudEvalData, {"path": "x", "num_points": 0}, r"data\.num_points=0"),
        (CloudEvalData, {"path": "x", "batch_size": 0}, r"data\.batch_size=0"),
        (FewShotConfig, {"shots": ()}, r"few_shot\.shots"),
        (LinearConfig, {"epochs": 0}, r"linear\.epochs=0"),
        (LinearConfig, {"base_lrs": ()}, r"linear\.base_lrs"),
        (LinearConfig, {"feature_sets": ("cls4+max",)}, "cls4.max"),
        (KnnConfig, {"search": "hnsw"}, r"knn\.search='hnsw'"),
        (KnnConfig, {"k": (5,), "reported_k": 20}, r"knn\.reported_k=20"),
    ],
)
def test_a_wrong_value_is_named(kind: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kind(**values)


def test_presets_know_their_names() -> None:
    for table in (KNN_PRESETS, PRESETS):
        assert all(name == config.preset for name, config in table.items())
    assert KnnConfig().quoted_k == 20
    assert KnnConfig(k=(5, 7)).quoted_k == 5
    assert KNN_PRESETS["lightly"].quoted_k == 200


def test_a_protocol_tells_what_differs_from_its_preset() -> None:
    assert PRESETS["mae"].protocol == "linear-mae"
    changed = replace(PRESETS["dinov2"], steps_per_epoch=100, base_lrs=(0.1, 1e-4))
    assert changed.protocol == "linear-dinov2-base_lrs=0.1,0.0001-steps_per_epoch=100"


def test_feature_sets_are_read_oldest_block_first() -> None:
    assert parse_feature_set("cls4", depth=12) == ("cls_-4", "cls_-3", "cls_-2", "cls_-1")
    assert parse_feature_set("cls4+mean", depth=2) == ("cls_-2", "cls_-1", "mean_-1")
    assert parse_feature_set("cls4+mean", depth=None) == ("pooled",)
    assert parse_feature_set("pooled+mean", depth=3) == ("pooled", "mean_-1")
    spec = spec_of(["mean_-1", "cls_-3", "pooled"])
    assert (set(spec.pools), spec.num_layers) == ({"pooled", "cls", "mean"}, 3)
