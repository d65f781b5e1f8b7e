"""What makes loaders and normalised batches of the settings of the data."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ssl_vision.data.checks import pair_warnings
from ssl_vision.data.config import DataConfig, keys_of_size
from ssl_vision.data.find import DataLike, find_source
from ssl_vision.data.loader import EpochLoader, OnError
from ssl_vision.data.modalities import modality_of
from ssl_vision.data.source import Source, Split, SubsetSource
from ssl_vision.data.splits import NotSplitError, NoValSplitError
from ssl_vision.data.subsets import (
    are_among,
    fraction_rows,
    held_out_rows,
    rows_of_list,
    with_classes_of,
)
from ssl_vision.errors import ConfigError, DataError, keys_renamed
from ssl_vision.randomness import derive_key
from ssl_vision.types import Batch

_HELD_OUT_SHARE = 0.2  # of the training images, where labels but no val split exist


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
        data: The data as an object (see `data.find`); by default what `config.path` names.

    Attributes:
        train_source: Training images.
        bank_source: Images whose features labelled kNN searches.
        val_source: Labelled images that are classified; None without labels. Without a val split
            a fixed fifth of each class of the labelled training images, which are then not in the
            bank.
        modality: What the samples are.
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
        data: DataLike = None,
    ) -> None:
        self._data = config.path if data is None else data
        self.config, self.data_seed = config, seed
        self.modality = modality_of(config)
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.batch_size = per_process_batch(
            config.global_batch_size, world_size=world_size, accumulate=accumulate
        )
        self._own_notes: list[str] = []
        self.has_val_split = True
        self.train_source = self._build(self._data, "train")
        self._is_supervised = is_supervised
        self._whole, self._listed = self.train_source, listed_rows(self.train_source, config)
        self.bank_source, self.val_source = self._evaluation_sources()
        if is_supervised and self.train_source.labels is not None:
            self.train_source = self.bank_source
        self._num_before = len(self.train_source)
        self.train_source = self._chosen(self.train_source)
        self._say_share()
        self.bank_source = self._chosen(self.bank_source)
        self._check_listed()
        self._train_loader: EpochLoader[Any] | None = None
        self._normalize = self.modality.normalizer(config)

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
        """What makes a run or its scores doubtful, a line each; reads files.

        Views of next to nothing, classes that do not meet, leaks.
        """
        return [*self.config.doubts(), *pair_warnings(self.bank_source, self.val_source)]

    def _build(self, data: DataLike, split: Split) -> Source:
        return find_source(data, split=split, config=self.config)

    def _build_val(self) -> Source | None:
        """The test samples; None where the training samples have none beside them.

        At a path of their own: its val split, or all where it is not split.
        """
        path = self.config.val_path
        own = {} if path is None else {"data.path": "data.val_path", "data path": "data.val_path"}
        try:
            with keys_renamed(own):
                return self._build(path or self._data, "val")
        except NotSplitError:
            with keys_renamed(own):
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
        labels, path = np.asarray(bank.labels), self.config.path
        is_listed = None if self._listed is None else are_among(bank, self._whole, self._listed)
        kept, held = held_out_rows(
            labels,
            share=_HELD_OUT_SHARE,
            key=derive_key("held out"),
            may_hold=None if is_listed is None else ~is_listed,
        )
        if len(held) == 0:
            reason = (
                "no class has two samples"
                if is_listed is None
                else f"data.train_list={self.config.train_list} names all that could be"
            )
            self._own_notes.append(
                f"{path}: {reason}, so none are held out to be scored; data.val_path has others."
            )
            return bank, None
        whole = len(np.unique(labels)) - len(np.unique(labels[held]))
        kind = "of one sample" if is_listed is None else "of one sample, or listed whole,"
        stay = f"1 class {kind} stays" if whole == 1 else f"{whole} classes {kind} stay"
        rest = f"; {stay} whole" if whole else ""
        listed = "" if is_listed is None else ", none of them listed in data.train_list"
        self._own_notes.append(
            f"{path} has no val split: {len(held)} of {len(labels)} samples, a fifth of each "
            f"class{listed}, are held out to be scored{rest}."
        )
        return SubsetSource(bank, kept), SubsetSource(bank, held)

    def _chosen(self, source: Source) -> Source:
        """The part of (a part of) the training samples that the settings name."""
        if self._listed is None:
            return chosen_samples(source, self.config)
        return SubsetSource(source, np.flatnonzero(are_among(source, self._whole, self._listed)))

    def _check_listed(self) -> None:
        """Say what of a list has no label, and score nothing where none has.

        Raises:
            DataError: None has, and labels are what is learned from.
        """
        if self._listed is None or self.train_source.labels is None:
            return
        num, labelled = len(self._listed), len(self.bank_source)
        named = f"data.train_list={self.config.train_list}"
        if labelled == 0 and self._is_supervised:
            raise DataError(f"{named}: none of the {num} images it names has a label.")
        if labelled == 0:
            self.bank_source, self.val_source = self.train_source, None
        if labelled < num:
            unused = "left out" if self._is_supervised else "not in the bank of the scores"
            self._own_notes.append(
                f"{named}: {num - labelled} of {num} images have no label and are {unused}."
            )

    def _say_share(self) -> None:
        """Note a share so small that it is one sample a class, which is more."""
        share, num = self.config.train_fraction, len(self.train_source)
        if num >= 2 * share * self._num_before:
            least = "one stays" if self.train_source.labels is None else "one of each class stays"
            self._own_notes.append(
                f"data.train_fraction={share:g}: {num:,} of {self._num_before:,} samples are used, "
                f"as at least {least}."
            )

    def _check_chosen(self) -> None:
        """Raise DataError if it is the choice of samples that leaves too few for an update."""
        config, num = self.config, len(self.train_source)
        if not config.drop_last or num >= config.global_batch_size or num == self._num_before:
            return
        if config.train_list is None:
            chosen, more = f"data.train_fraction={config.train_fraction:g}", "raise it"
        else:
            chosen, more = f"data.train_list={config.train_list}", "name more samples"
        raise DataError(
            f"{chosen} leaves {num:,} of {self._num_before:,} samples, fewer than one update of "
            f"data.global_batch_size={config.global_batch_size}; {more}, or lower "
            "data.global_batch_size."
        )

    # Loaders -----------------------------------------------------------------------------

    def train_loader(self) -> EpochLoader[Any]:
        """Augmented views, shuffled; the same object at every call, as it holds the position."""
        if self._train_loader is None:
            self._check_chosen()
            self._train_loader = self._loader(
                self.train_source,
                self.config.loaded_views(),
                batch_size=self.batch_size,
                accumulate=self.accumulate,
                drop_last=self.config.drop_last,
                on_error=self.config.on_error,
            )
        return self._train_loader

    def train_bank_loader(
        self, *, max_samples: int | None = None, shuffle: bool = False
    ) -> EpochLoader[Any]:
        """Labelled training samples, un-augmented, one view, every sample once.

        Args:
            max_samples: Take at most so many, evenly over all: folders are sorted by class.
            shuffle: Mix the classes.
        """
        return self._plain_loader(_evenly(self.bank_source, max_samples), shuffle=shuffle)

    def val_loader(self) -> EpochLoader[Any] | None:
        """Samples to classify, un-augmented, one view; None without labels."""
        return None if self.val_source is None else self._plain_loader(self.val_source)

    def shown_loader(self, num_samples: int) -> EpochLoader[Any]:
        """At most so many of the samples to classify, without labels of the others, to look at.

        Un-augmented, one view, all of them on this process, which others need not wait for.
        """
        source = self.bank_source if self.val_source is None else self.val_source
        return self._plain_loader(_evenly(source, num_samples), rank=0, world_size=1)

    def _plain_loader(
        self,
        source: Source,
        *,
        shuffle: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> EpochLoader[Any]:
        config = self.config
        return self._loader(
            source,
            {self.modality.view_name: config.evaluation_view()},
            batch_size=-(-config.eval_batch_size // self.world_size),
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            drop_last=False,
            # Where classes are mixed nobody counts samples, and processes agree in batches.
            on_error=config.on_error if shuffle else on_error_of_scores(config.on_error),
            lower=" or ".join([*self._keys_of_eval_size(), "data.eval_batch_size"]),
        )

    def _keys_of_eval_size(self) -> list[str]:
        names = {each.name for each in fields(self.config)}
        if "eval_size_px" in names:
            return ["data.eval_size_px"]
        return keys_of_size(self.config.views)  # scores are of the largest

    def _loader(
        self,
        source: Source,
        views: Mapping[str, Any],
        rank: int | None = None,
        world_size: int | None = None,
        **arguments: Any,
    ) -> EpochLoader[Any]:
        return self.modality.loader(
            source,
            views,
            seed=self.data_seed,
            rank=self.rank if rank is None else rank,
            world_size=world_size or self.world_size,
            num_threads=self.config.num_threads,
            pin_memory=torch.cuda.is_available(),
            **arguments,
        )

    # On the device -----------------------------------------------------------------------

    def prepare(self, batch: Batch) -> Batch:
        """A training batch as the method takes it: what is the device's part, then normalised."""
        seed = self.train_loader().seed
        return self.normalize(self.modality.on_device(batch, self.config, seed=seed))

    def normalize(self, batch: Batch) -> Batch:
        """The batch with its views as the network takes them, where they lie."""
        views = {name: self._normalize(view) for name, view in batch.views.items()}
        return replace(batch, views=views)


def listed_rows(source: Source, config: DataConfig) -> np.ndarray | None:
    """The training samples that `data.train_list` names, int64, (n,); None without one."""
    if config.train_list is None:
        return None
    return rows_of_list(source, Path(config.train_list))


def chosen_samples(source: Source, config: DataConfig) -> Source:
    """The part of a training source that the settings name."""
    rows = listed_rows(source, config)
    if rows is not None:
        return SubsetSource(source, rows)
    if config.train_fraction < 1:
        rows = fraction_rows(len(source), source.labels, fraction=config.train_fraction)
        return SubsetSource(source, rows)
    return source


def on_error_of_scores(on_error: Literal["raise", "substitute"]) -> OnError:
    """What an unreadable sample does where each counts once: no other may take its place."""
    return "raise" if on_error == "raise" else "leave_out"


def _evenly(source: Source, num_samples: int | None) -> Source:
    """At most so many samples, evenly over all: folders are sorted by class."""
    if num_samples is None or len(source) <= num_samples:
        return source
    rows = np.linspace(0, len(source) - 1, num_samples).astype(np.int64)
    return SubsetSource(source, rows)


def _labelled(source: Source) -> Source:
    """The samples with a label of 0 or more (STL-10 marks unlabelled ones -1)."""
    if source.labels is None or bool((source.labels >= 0).all()):
        return source
    return SubsetSource(source, np.flatnonzero(source.labels >= 0))
