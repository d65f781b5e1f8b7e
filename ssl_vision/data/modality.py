"""What a modality states, once: its data, its views, its numbers and its pictures.

Nobody outside a modality's folder asks which one it is; `modalities.MODALITIES` lists them all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image
from torch import Tensor

from ssl_vision.data.config import DataConfig, EvalDataConfig, InputSpec
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.loader import EpochLoader
from ssl_vision.data.source import Source, Split
from ssl_vision.errors import ConfigError
from ssl_vision.types import Batch

if TYPE_CHECKING:
    from ssl_vision.data.images.pack import PackConfig, PackReport, Progress

Normalize = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How the samples of an evaluation are shown.

    Attributes:
        view: Drawn of each by the loader; nothing about it is random.
        normalize: From the view's values to what the network takes.
        transform: The same for a report, as JSON values.
        key: What beside the view changes features, as JSON values.
        mark: What of it belongs into a protocol's name.
        num_groups: Patches that the network cuts a sample into; None for its own number.
        decode: What image files mean where their format leaves it open.
        note: What of it the user should hear of, a line; else empty.
    """

    view: Any
    normalize: Normalize
    transform: dict[str, Any]
    key: dict[str, Any] = field(default_factory=dict)
    mark: str = ""
    num_groups: int | None = None
    decode: DecodeConfig = DEFAULT
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RawFeatures:
    """Features that need no network: what training has to beat.

    Attributes:
        name: In reports, behind "raw".
        width: At most so many numbers, D.
        of: Views as the network takes them, (B, ...) -> features, (B, D).
    """

    name: str
    width: int
    of: Callable[[Tensor], Tensor]


class Modality(ABC):
    """One kind of sample.

    Attributes:
        name: Key of the table; what sources, loaders and networks of it call theirs.
        settings: Schema of a recipe's `data`.
        eval_settings: Schema of an evaluation's `data`.
        loader: Draws views of its sources.
        view_name: Of the one view of an evaluation.
        raw: Features without a network.
        finetune: Section of an evaluation's settings by which the task `finetune` trains.
        pictures: Kinds of pictures that `visualize` draws of a network of it.
        has_pixels: Whether a sample is a picture, whose patches lie on a grid.
        asked_to_pack: Settings of `prepare` that say how its samples are read.
    """

    name: ClassVar[str]
    settings: ClassVar[type[DataConfig]]
    eval_settings: ClassVar[type[EvalDataConfig]]
    loader: ClassVar[type[EpochLoader[Any]]]
    view_name: ClassVar[str]
    raw: ClassVar[RawFeatures]
    finetune: ClassVar[str]
    pictures: ClassVar[tuple[str, ...]]
    has_pixels: ClassVar[bool] = True
    asked_to_pack: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def open(self, path: str, *, split: Split, config: DataConfig) -> Source:
        """The data set at a path, or of a name.

        Raises:
            DataError: Nothing is there, or not that split (see `data.splits`).
        """

    def open_object(self, data: Any, *, split: Split, config: DataConfig) -> Source:
        """The data set that an object of a program is; `data.find` has the kinds.

        Raises:
            ConfigError: Such samples are given by path only.
            DataError: The object is of no kind that is read, or has not that split.
        """
        raise ConfigError(
            f"data of type {type(data).__name__}: {self.name} are given as a path or a name."
        )

    def to_pack(self, path: str, asked: Mapping[str, Any]) -> DataConfig:
        """Settings by which samples are read that will be packed into one file.

        Args:
            path: Of the data set.
            asked: Settings of the names in `asked_to_pack`.

        Raises:
            ConfigError: They are not packed.
        """
        raise ConfigError(f"modality={self.name}: {self.name} are read as they are; train on them.")

    def pack(
        self, source: Source, out: str | Path, config: "PackConfig", *, progress: "Progress | None"
    ) -> "PackReport":
        """Pack a source that was opened by the settings of `to_pack`; see `images.pack.pack`."""
        raise NotImplementedError

    @abstractmethod
    def single(self, path: Path, config: DataConfig) -> Source | None:
        """The one sample in a file; None where a file of its kind is a data set.

        Raises:
            DataError: It cannot be read.
        """

    @abstractmethod
    def show(self, asked: EvalDataConfig, spec: InputSpec) -> Shown:
        """How an evaluation shows samples: as asked, else as the network was trained.

        Args:
            asked: Settings; None follows the network.
            spec: The network's.
        """

    def data_of(self, asked: EvalDataConfig, shown: Shown) -> DataConfig:
        """Settings of the data of an evaluation."""
        return self.settings(
            path=asked.path,
            val_path=asked.val_path,
            download=asked.download,
            views={self.view_name: shown.view},
        )

    @abstractmethod
    def augmented(self, view: Any, *, count: int) -> Any:
        """An augmented view of which `count` drawings tell samples apart (LiDAR's).

        Raises:
            ConfigError: No such view is agreed on.
        """

    @abstractmethod
    def cropped(
        self,
        view: Any,
        *,
        count: int,
        area: tuple[float, float],
        flip_prob: float,
        interpolation: Literal["bicubic", "bilinear"] | None,
    ) -> Any:
        """A view of random crops, to train a linear probe on.

        Raises:
            ConfigError: Such samples are not cropped.
        """

    def pictured(self, view: Any) -> dict[str, Any]:
        """Views that a method's picture of samples is made of: name -> the evaluation's view."""
        return {self.view_name: view}

    def normalizer(self, config: DataConfig) -> Normalize:
        """From a training view's values to what the network takes; views come normalised."""
        return as_is

    def on_device(self, batch: Batch, config: DataConfig, *, seed: int) -> Batch:
        """The part of the augmentation that the settings leave to the device; none."""
        return batch

    def small(self, view: Any) -> Any:
        """A view that is enough for thumbnails."""
        return view

    @abstractmethod
    def thumbnails(self, views: Tensor, *, size_px: int) -> Any:
        """Pictures of un-normalised views, uint8, (B, S, S, 3), of at most or about that side."""

    @abstractmethod
    def sheet(
        self, views: Mapping[str, Tensor], *, num_samples: int, tile_px: int
    ) -> Image.Image | None:
        """One row of pictures per sample, its views side by side; None where nothing can be shown.

        Args:
            views: Name -> un-normalised views, (k*B, ...).
            num_samples: B.
            tile_px: Side of one picture.
        """


def as_is(views: Tensor) -> Tensor:
    """What is normalised already."""
    return views
