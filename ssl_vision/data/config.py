"""Settings of the data that every modality has; each adds its views and what they need."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from ssl_vision.bounds import MAX_THREADS, check_bounds
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.errors import ConfigError


class View(Protocol):
    """What every modality's views have.

    Attributes:
        size_key: Name of the setting of its size.
    """

    size_key: ClassVar[str]

    @property
    def count(self) -> int:
        """Drawings per sample."""

    def doubts(self, prefix: str) -> list[str]:
        """What is allowed and shows next to nothing, a line each, by keys with a prefix."""


def keys_of_size(views: Mapping[str, View]) -> list[str]:
    """Whole keys of what makes views large: their sizes, and drawings where there are several."""
    sizes = [f"data.views.{name}.{view.size_key}" for name, view in views.items()]
    return sizes + [f"data.views.{name}.count" for name, view in views.items() if view.count > 1]


class InputSpec(NamedTuple):
    """What a network is shown; goes with its weights wherever they are exported.

    Attributes:
        size: Side of an image in px, or points of a cloud.
        mean: Per channel, of values 0..1; 0 where nothing is subtracted.
        std: Per channel; 1 where nothing is divided.
        interpolation: bicubic or bilinear.
        crop_pct: Centre crop's side / resized shorter side.
        decode: What image files mean where their format leaves it open.
    """

    size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    decode: DecodeConfig = DEFAULT


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on, and how it is shown."""

    path: str  # folder, .beton file, table of paths (.csv), or name of a data set
    val_path: str | None = None  # default: the val split of `path`
    train_list: str | None = None  # text file of the training samples to use, one name a line
    train_fraction: float = 1.0  # of each class's (or of all) training samples; 0.01 is in 0.1
    download: bool = False  # whether a named data set may be fetched
    global_batch_size: int = 256  # samples per optimizer update, over processes and accumulation
    views: dict[str, Any] = field(default_factory=dict)  # the method says which
    on_error: Literal["raise", "substitute"] = (
        "raise"  # unreadable samples; scores leave out, not substitute
    )
    drop_last: bool = True  # leave out samples that fill no whole global batch
    num_threads: int = 0  # per process; 0: the cores it may use
    eval_batch_size: int = 256  # over processes

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "eval_batch_size"):
            check_bounds(f"data.{name}", getattr(self, name), least=1)
        check_bounds("data.train_fraction", self.train_fraction, above=0, most=1)
        if self.train_list is not None and self.train_fraction != 1:
            raise ConfigError(
                f"data.train_list={self.train_list} and data.train_fraction={self.train_fraction} "
                "both choose training samples; set one of them."
            )
        _check_threads(self.num_threads)

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Of the largest view: side of an image in px, or points of a cloud."""

    @abstractmethod
    def evaluation_view(self) -> Any:
        """The un-augmented view of kNN and feature extraction."""

    def loaded_views(self) -> dict[str, Any]:
        """The training views as the loader draws them; the device may do the rest."""
        return self.views

    def doubts(self) -> list[str]:
        """What of the views shows next to nothing of a sample, a line each."""
        views: dict[str, View] = self.views
        return [line for name, view in views.items() for line in view.doubts(f"data.views.{name}.")]

    @property
    @abstractmethod
    def input_spec(self) -> InputSpec:
        """What the trained network is shown."""

    def mismatch(self, spec: InputSpec) -> str:
        """How samples were shown to other weights, if these settings differ; else empty."""
        return ""

    @classmethod
    @abstractmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Settings of a run made before each modality had its own, as they are written now."""


@dataclass(frozen=True, kw_only=True)
class EvalDataConfig:
    """The data; each modality adds how they are shown, by default as the weights want it."""

    path: str  # folder, .beton file, or name of a data set; its train split is the bank
    val_path: str | None = None  # default: the val split of `path`, else a fixed fifth of it
    name: str | None = None  # for published numbers, e.g. imagenet1k; default: from the path
    download: bool = False
    batch_size: int = 256
    num_threads: int = 0  # 0: the cores this process may use
    on_error: Literal["raise", "substitute"] = "raise"
    max_train: int | None = None  # a fixed draw of the training images, for first looks
    max_val: int | None = None

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_train", "max_val"):
            check_bounds(f"data.{key}", getattr(self, key), least=1)
        _check_threads(self.num_threads)


def check_normalization(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Refuse what no pixel of values 0..1 can be normalised by: levels of 0..255 above all.

    Raises:
        ConfigError: A mean outside 0 to 1, or a standard deviation that is not above 0, up to 1.
    """
    check_bounds("data.mean", mean, least=0, most=1)
    check_bounds("data.std", std, above=0, most=1)


def _check_threads(num_threads: int) -> None:
    check_bounds("data.num_threads", num_threads, least=0, most=MAX_THREADS)
