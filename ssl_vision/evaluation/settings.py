"""Settings of an evaluation that belong to no single task."""

from dataclasses import dataclass
from typing import Literal

from ssl_vision.bounds import MAX_NEIGHBOURS, check_bounds, check_some
from ssl_vision.data.images.masks import MasksConfig
from ssl_vision.errors import ConfigError, keys_renamed


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Features on disk, shared by all tasks and later evaluations."""

    mode: Literal["write", "read", "off"] = "write"  # read: use what is there, add nothing
    folder: str | None = None  # default: $SSL_VISION_HOME/features or ~/.cache/ssl_vision/features
    dtype: Literal["float16", "float32"] = "float32"
    max_gb: float = 50.0  # the longest unused go first

    def __post_init__(self) -> None:
        check_bounds("cache.max_gb", self.max_gb, least=0)


@dataclass(frozen=True, kw_only=True)
class OnlineDenseConfig(MasksConfig):
    """Scores of patches during training, off by default: of masks, and of the same place twice."""

    images: str | None = None  # folder of images, whose masks are in `path`; None: no such score
    max_train: int = 500  # of its training images, evenly over all; their patches are the memory
    max_val: int = 200  # of its test images
    max_patches: int = 20_000  # of the memory
    correspond_images: int = 0  # test images (of `images`, or the run's) beside themselves under
    # homographies; 0: no such score

    def __post_init__(self) -> None:
        with keys_renamed({"masks.": "online_eval.dense."}):
            super().__post_init__()
        for name in ("max_train", "max_val", "max_patches"):
            check_bounds(f"online_eval.dense.{name}", getattr(self, name), least=1)
        check_bounds("online_eval.dense.correspond_images", self.correspond_images, least=0)
        if (self.images is None) != (self.path is None):
            raise ConfigError(
                f"online_eval.dense.images={self.images} and online_eval.dense.path={self.path} "
                "belong together: a folder of images, and one of their masks; give both or none."
            )


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Label-free metrics."""

    max_rows: int = 25_600  # RankMe's sample; more rows change little
    lidar_images: int = 1000  # of the task lidar; wants more than the width of the features
    lidar_views: int = 10

    def __post_init__(self) -> None:
        check_bounds("metrics.max_rows", self.max_rows, least=2)
        check_bounds("metrics.lidar_images", self.lidar_images, least=2)
        check_bounds("metrics.lidar_views", self.lidar_views, least=2, most=1000)


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """n labelled images per class, drawn several times."""

    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 5
    c: float = 100.0  # of the logistic regression on features of length 1: they need a large one

    def __post_init__(self) -> None:
        check_some("few_shot.shots", self.shots)
        check_bounds("few_shot.shots", self.shots, least=1)
        check_bounds("few_shot.draws", self.draws, least=1, most=1000)
        check_bounds("few_shot.c", self.c, above=0)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Ranking the training images for each test image."""

    k: tuple[int, ...] = (1, 5, 10)
    gallery: Literal["train", "test"] = "train"  # test: among the test images, without the query

    def __post_init__(self) -> None:
        check_some("retrieval.k", self.k)
        check_bounds("retrieval.k", self.k, least=1, most=MAX_NEIGHBOURS)


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """The features in the plane."""

    projection: Literal["auto", "pca", "umap"] = "auto"
    num_points: int = 1500
    num_pictures: int = 150

    def __post_init__(self) -> None:
        check_bounds("map.num_points", self.num_points, least=3)
        check_bounds("map.num_pictures", self.num_pictures, least=0)
