"""Settings of the data, and what makes loaders and normalised batches of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_vision.data.checks import pair_warnings
from ssl_vision.data.clouds.find import build_point_source
from ssl_vision.data.clouds.loader import PointLoader
from ssl_vision.data.images.recolor import crops_only, recolor, view_keys
from ssl_vision.data.kernels.draws import view_stream
from ssl_vision.data.kernels.policy import policies_of
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.data.loader import EpochLoader, MultiViewLoader, OnError
from ssl_vision.data.source import Source, Split, SubsetSource, build_source
from ssl_vision.data.splits import NotSplitError, NoValSplitError
from ssl_vision.data.subsets import (
    fraction_rows,
    held_out_rows,
    rows_of_list,
    with_classes_of,
)
from ssl_vision.errors import ConfigError
from ssl_vision.points.views import PointViewConfig, evaluation_point_view
from ssl_vision.randomness import derive_key
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig, evaluation_view

_CACHED_IMAGES = 4  # 224 px: 2.4 MB of floats
_HELD_OUT_SHARE = 0.2  # of the training images, where labels but no val split exist


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on, and how it is shown."""

    path: str  # folder, .beton file, or name of a data set
    val_path: str | None = None  # default: the val split of `path`
    train_list: str | None = None  # text file of the training images to use, one name a line
    train_fraction: float = 1.0  # of each class's (or of all) training images; 0.01 is in 0.1
    download: bool = False  # whether a named data set may be fetched
    global_batch_size: int = 256  # samples per optimizer update, over processes and accumulation
    views: dict[str, ViewConfig] = field(default_factory=dict)  # the method says which
    point_views: dict[str, PointViewConfig] = field(default_factory=dict)  # of point clouds
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet, values 0..1
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    decode: DecodeConfig = field(default_factory=DecodeConfig)  # transparency, deep levels
    augment_on: Literal["cpu", "device"] = "cpu"  # device: crops on CPU, colour on the device
    on_error: Literal["raise", "substitute"] = (
        "raise"  # unreadable samples; scores leave out, not substitute
    )
    drop_last: bool = True  # leave out samples that fill no whole global batch
    num_threads: int = 0  # per process; 0: the cores it may use
    eval_size_px: int | None = None  # of frozen evaluation; default: size of the largest view
    eval_num_points: int | None = None  # of frozen evaluation; default: of the largest point view
    eval_center_fraction: float = 0.875  # size_px / resized shorter side
    eval_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    eval_batch_size: int = 256  # over processes

    def __post_init__(self) -> None:
        if self.global_batch_size < 1 or self.eval_batch_size < 1:
            raise ConfigError(
                f"data.global_batch_size={self.global_batch_size} and data.eval_batch_size="
                f"{self.eval_batch_size} must be 1 or more."
            )
        if not 0 < self.train_fraction <= 1:
            raise ConfigError(
                f"data.train_fraction={self.train_fraction} must be above 0 and up to 1."
            )
        policies = [f"{name}.{field}" for name, v in self.views.items() for field in policies_of(v)]
        if self.augment_on == "device" and policies:
            raise ConfigError(
                f"data.views.{policies[0]} runs on the CPU only, after the colours; use "
                "data.augment_on=cpu, or null for it."
            )
        if self.train_list is not None and self.train_fraction != 1:
            raise ConfigError(
                f"data.train_list={self.train_list} and data.train_fraction={self.train_fraction} "
                "both choose training images; set one of them."
            )
        if self.num_threads < 0:
            raise ConfigError(f"data.num_threads={self.num_threads} must be 0 (automatic) or more.")
        if self.views and self.point_views:
            raise ConfigError(
                "data.views are of images and data.point_views of point clouds; set one of them."
            )
        if min(self.std) <= 0:
            raise ConfigError(f"data.std={list(self.std)} must be positive.")

    @property
    def is_points(self) -> bool:
        """Whether the data are point clouds."""
        return bool(self.point_views) or self.eval_num_points is not None

    @property
    def num_points(self) -> int:
        """Points of the largest view of clouds; of evaluation where there are no views."""
        sizes = [view.num_points for view in self.point_views.values()]
        return max(sizes, default=self.eval_num_points or 0)

    @property
    def size_px(self) -> int:
        """Side of the largest view; of evaluation where there are no views.

        Of point clouds, which have no side, the number of points.
        """
        if self.is_points:
            return self.num_points
        sizes = [view.size_px for view in self.views.values()]
        if not sizes and self.eval_size_px is None:
            raise ConfigError("data.views is empty; give data.views or data.eval_size_px.")
        return max(sizes, default=self.eval_size_px or 0)

    def evaluation_view(self) -> ViewConfig:
        """The un-augmented view of kNN and feature extraction."""
        return evaluation_view(
            size_px=self.eval_size_px or self.size_px,
            interpolation=self.eval_interpolation,
            center_fraction=self.eval_center_fraction,
        )

    def evaluation_point_view(self) -> PointViewConfig:
        """The un-augmented view of kNN and feature extraction, of point clouds."""
        return evaluation_point_view(num_points=self.eval_num_points or self.num_points)


def per_process_batch(global_batch_size: int, *, world_size: int, accumulate: int) -> int:
    """Samples of one forward pass of one process.

    Raises:
        ConfigError: If the global batch does not divide.
    """
    parts = world_size * accumulate
    if global_batch_size % parts:
        below = global_batch_size // parts * parts
        choices = f"{below} or {below + parts}" if below else f"{parts}"
        raise ConfigError(
            f"data.global_batch_size={global_batch_size} does not divide over {world_size} "
            f"processes times {accumulate} accumulated batches; use {choices}."
        )
    return global_batch_size // parts


def normalize(images: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 levels to normalised float32: (x / 255 - mean) / std, in one multiply-add.

    Args:
        images: uint8, (B, 3, S, S).
        mean: Per channel, values 0..1, (3,).
        std: Per channel, (3,).
    """
    scale, shift = (1 / (255 * std)).view(-1, 1, 1), (-mean / std).view(-1, 1, 1)
    if images.device.type != "cpu":
        return torch.addcmul(shift, images.float(), scale)
    out = torch.empty(images.shape)
    # A few images at a time stay in the processor's cache between the two passes.
    for levels, values in zip(images.split(_CACHED_IMAGES), out.split(_CACHED_IMAGES), strict=True):
        torch.addcmul(shift, levels.float(), scale, out=values)
    return out


class DataModule:
    """Loaders of a run: augmented for training, plain ones for kNN and features.

    Args:
        config: Settings.
        seed: Key of order and views.
        rank: Index of this process.
        world_size: Number of processes.
        accumulate: Batches per optimizer update.
        is_supervised: Whether training reads labels: it then leaves out images without label, and
            those of `val_source`.

    Attributes:
        train_source: Training images.
        bank_source: Images whose features labelled kNN searches.
        val_source: Labelled images that are classified; None without labels. Without a val split
            a fixed fifth of each class of the labelled training images, which are then not in the
            bank.
        has_val_split: Whether these are test images of their own.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        is_supervised: bool = False,
    ) -> None:
        self.config, self.data_seed = config, seed
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.batch_size = per_process_batch(
            config.global_batch_size, world_size=world_size, accumulate=accumulate
        )
        self._own_notes: list[str] = []
        self.has_val_split = True
        self.train_source = self._build(config.path, "train")
        self._is_supervised = is_supervised
        self.bank_source, self.val_source = self._evaluation_sources()
        if is_supervised and self.train_source.labels is not None:
            self.train_source = self.bank_source
        self.train_source = self._chosen(self.train_source)
        self.bank_source = self._chosen(self.bank_source)
        self._train_loader: EpochLoader[Any] | None = None
        self._statistics: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None without labels."""
        return len(self.train_source.class_names) if self.train_source.labels is not None else None

    @property
    def has_labels(self) -> bool:
        """Whether there are labelled images to classify."""
        return self.val_source is not None

    @property
    def notes(self) -> list[str]:
        """What was chosen where the paths leave a choice, a line each."""
        val = () if self.val_source is None else self.val_source.notes
        return list(dict.fromkeys([*self.train_source.notes, *val, *self._own_notes]))

    def warnings(self) -> list[str]:
        """What makes scores doubtful, a line each: classes that do not meet, leaks; reads files."""
        return pair_warnings(self.bank_source, self.val_source)

    def _build(self, path: str, split: Split) -> Source:
        if self.config.is_points:
            return build_point_source(path, split=split)
        config = self.config
        return build_source(path, split=split, download=config.download, decode=config.decode)

    def _build_val(self) -> Source | None:
        """The test samples; None where the training samples have none beside them.

        At a path of their own: its val split, or all where it is not split.
        """
        path = self.config.val_path
        try:
            return self._build(path or self.config.path, "val")
        except NotSplitError:
            return None if path is None else self._build(path, "train")
        except NoValSplitError:
            if path is not None:
                raise
            return None

    def _evaluation_sources(self) -> tuple[Source, Source | None]:
        train = self.train_source
        bank, val = _labelled(train), self._build_val()
        if val is not None:
            return bank, with_classes_of(train, val, must_fit=self._is_supervised)
        self.has_val_split = False
        if bank.labels is None:
            return bank, None
        return self._held_out(bank)

    def _held_out(self, bank: Source) -> tuple[Source, Source | None]:
        """Training samples to search and to classify, where there are no others."""
        labels = np.asarray(bank.labels)
        kept, held = held_out_rows(labels, share=_HELD_OUT_SHARE, key=derive_key("held out"))
        path = self.config.path
        if len(held) == 0:
            self._own_notes.append(f"{path}: no class has two samples, so none are held out.")
            return bank, None
        whole = len(np.unique(labels)) - len(np.unique(labels[held]))
        rest = f"; {whole} classes of one sample stay whole" if whole else ""
        self._own_notes.append(
            f"{path} has no val split: {len(held)} of {len(labels)} samples, a fifth of each "
            f"class, are held out to be scored{rest}."
        )
        return SubsetSource(bank, kept), SubsetSource(bank, held)

    def _chosen(self, source: Source) -> Source:
        """The part of a training source that the settings name."""
        if self.config.train_list is not None:
            return SubsetSource(source, rows_of_list(source, Path(self.config.train_list)))
        if self.config.train_fraction < 1:
            rows = fraction_rows(len(source), source.labels, fraction=self.config.train_fraction)
            return SubsetSource(source, rows)
        return source

    # Loaders -----------------------------------------------------------------------------

    def train_loader(self) -> EpochLoader[Any]:
        """Augmented views, shuffled; the same object at every call, as it holds the position."""
        if self._train_loader is None:
            self._train_loader = self._loader(
                self.train_source,
                self.config.point_views or self._cpu_views(),
                batch_size=self.batch_size,
                accumulate=self.accumulate,
                drop_last=self.config.drop_last,
                on_error=self.config.on_error,
            )
        return self._train_loader

    def _cpu_views(self) -> dict[str, ViewConfig]:
        """The training views as the loader renders them."""
        views = self.config.views
        if self.config.augment_on == "cpu":
            return views
        return {name: crops_only(view) for name, view in views.items()}

    def train_bank_loader(
        self, *, max_samples: int | None = None, shuffle: bool = False
    ) -> EpochLoader[Any]:
        """Labelled training samples, un-augmented, one view, every sample once.

        Args:
            max_samples: Take at most so many, evenly over all: folders are sorted by class.
            shuffle: Mix the classes.
        """
        source = self.bank_source
        if max_samples is not None and len(source) > max_samples:
            rows = np.linspace(0, len(source) - 1, max_samples).astype(np.int64)
            source = SubsetSource(source, rows)
        return self._plain_loader(source, shuffle=shuffle)

    def val_loader(self) -> EpochLoader[Any] | None:
        """Samples to classify, un-augmented, one view; None without labels."""
        return None if self.val_source is None else self._plain_loader(self.val_source)

    def _plain_loader(self, source: Source, *, shuffle: bool = False) -> EpochLoader[Any]:
        config = self.config
        return self._loader(
            source,
            {"cloud": config.evaluation_point_view()}
            if config.is_points
            else {"image": config.evaluation_view()},
            batch_size=-(-config.eval_batch_size // self.world_size),
            shuffle=shuffle,
            drop_last=False,
            on_error=on_error_of_scores(config.on_error),
        )

    def _loader(
        self, source: Source, views: Mapping[str, Any], **arguments: Any
    ) -> EpochLoader[Any]:
        kind: type[EpochLoader[Any]] = PointLoader if self.config.is_points else MultiViewLoader
        return kind(
            source,
            views,
            seed=self.data_seed,
            rank=self.rank,
            world_size=self.world_size,
            num_threads=self.config.num_threads,
            pin_memory=torch.cuda.is_available(),
            **arguments,
        )

    # On the device -----------------------------------------------------------------------

    def prepare(self, batch: Batch) -> Batch:
        """Colour training views if that is the device's part; normalise uint8 views."""
        is_ours = batch.views.keys() == self.config.views.keys()
        if self.config.augment_on == "device" and is_ours and not self.config.is_points:
            batch = replace(batch, views=self._recolored(batch))
        return self.normalize(batch)

    def _recolored(self, batch: Batch) -> dict[str, Tensor]:
        views = {}
        for name, view in self.config.views.items():
            keys = view_keys(
                int(view_stream(self.train_loader().seed, name)),
                epoch=batch.epoch,
                index=batch.index,
                count=view.count,
            )
            views[name] = recolor(batch.views[name], view, keys)
        return views

    def normalize(self, batch: Batch) -> Batch:
        """The batch with uint8 views turned into normalised floats, where they lie."""
        device = batch.index.device
        if device not in self._statistics:  # copied once: a copy per batch would be a sync
            mean, std = torch.tensor(self.config.mean), torch.tensor(self.config.std)
            self._statistics[device] = mean.to(device), std.to(device)
        mean, std = self._statistics[device]
        views = {
            name: normalize(view, mean=mean, std=std) if view.dtype == torch.uint8 else view
            for name, view in batch.views.items()
        }
        return replace(batch, views=views)


def on_error_of_scores(on_error: Literal["raise", "substitute"]) -> OnError:
    """What an unreadable sample does where each counts once: no other may take its place."""
    return "raise" if on_error == "raise" else "leave_out"


def _labelled(source: Source) -> Source:
    """The samples with a label of 0 or more (STL-10 marks unlabelled ones -1)."""
    if source.labels is None or bool((source.labels >= 0).all()):
        return source
    return SubsetSource(source, np.flatnonzero(source.labels >= 0))
