"""Settings of an evaluation that belong to no single task."""

from dataclasses import dataclass
from typing import Literal

from ssl_vision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Features on disk, shared by all tasks and later evaluations."""

    mode: Literal["write", "read", "off"] = "write"  # read: use what is there, add nothing
    folder: str | None = None  # default: $SSL_VISION_HOME/features or ~/.cache/ssl_vision/features
    dtype: Literal["float16", "float32"] = "float32"
    max_gb: float = 50.0  # the longest unused go first


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Label-free metrics."""

    max_rows: int = 25_600  # RankMe's sample; more rows change little
    lidar_images: int = 1000  # of the task lidar; wants more than the width of the features
    lidar_views: int = 10


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """n labelled images per class, drawn several times."""

    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 5
    c: float = 100.0  # of the logistic regression on features of length 1: they need a large one

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or self.draws < 1:
            raise ConfigError("few_shot.shots and few_shot.draws need values of 1 or more.")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Ranking the training images for each test image."""

    k: tuple[int, ...] = (1, 5, 10)
    gallery: Literal["train", "test"] = "train"  # test: among the test images, without the query


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """The features in the plane."""

    projection: Literal["auto", "pca", "umap"] = "auto"
    num_points: int = 1500
    num_pictures: int = 150
