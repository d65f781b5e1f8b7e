"""Settings of an evaluation that belong to no single task."""

from dataclasses import dataclass, field
from typing import Literal

from ssl_vision.data.levels import DecodeConfig
from ssl_vision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvalDataConfig:
    """The images; how they are shown follows from the weights where nothing is said."""

    path: str  # folder, .beton file, or name of a data set; its train split is the bank
    val_path: str | None = None  # default: the val split of `path`, else a fixed fifth of it
    name: str | None = None  # for published numbers, e.g. imagenet1k; default: from the path
    download: bool = False
    batch_size: int = 256
    num_threads: int = 0  # 0: the cores this process may use
    on_error: Literal["raise", "substitute"] = "raise"
    size_px: int | None = None  # None: the weights' own, as for all below
    num_points: int | None = None  # of point clouds, instead of size_px
    num_groups: int | None = None  # of point clouds: patches each is cut into
    is_normalized: bool = True  # of point clouds: into the unit sphere; ScanObjectNN's: false
    center_fraction: float | None = None  # size_px / resized shorter side; DINO's protocol: 0.875
    interpolation: Literal["bicubic", "bilinear"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    decode: DecodeConfig = field(default_factory=DecodeConfig)  # transparency, deep levels
    max_train: int | None = None  # a fixed draw of the training images, for first looks
    max_val: int | None = None

    def __post_init__(self) -> None:
        for key in ("batch_size", "size_px", "num_points", "num_groups", "max_train", "max_val"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"data.{key}={value} must be 1 or more.")


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
