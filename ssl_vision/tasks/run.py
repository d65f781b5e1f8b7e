"""What the tasks of an evaluation share: network, images, labels, and one frozen pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_vision.backbones.timm_vit import TimmViT
from ssl_vision.config import EvalConfig
from ssl_vision.data.checks import pair_warnings
from ssl_vision.data.find import DataLike
from ssl_vision.data.loader import EpochLoader
from ssl_vision.data.modalities import MODALITIES, data_of
from ssl_vision.data.modality import Normalize
from ssl_vision.data.module import DataModule, on_error_of_scores
from ssl_vision.data.source import Source, SubsetSource
from ssl_vision.distributed import all_gather_object, broadcast_object, rank, world_size
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.arrays import Array, as_tensor
from ssl_vision.evaluation.features import (
    extract_features,
    joined,
    parse_feature_set,
    spec_of,
)
from ssl_vision.evaluation.keys import code_digest, network_digest
from ssl_vision.evaluation.plots import Axis
from ssl_vision.evaluation.store import FeatureStore, cache_folder, evict, fill_store
from ssl_vision.randomness import keyed_generator
from ssl_vision.types import Batch
from ssl_vision.zoo.weights import LoadedBackbone

Split = Literal["train", "val"]
ACCURACY = Axis("top-1, %", is_share=True)  # of every plot of accuracies
AUTOCAST = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


class EvalRun:
    """One network on one data set.

    Attributes:
        config: What is asked for, its data as the network's modality has them.
        loaded: The network and what its input needs.
        device: Where it runs.
        modality: What the network takes.
        shown: How the samples are shown.
        baselines: What training has to beat, by name; `eval_baselines` fills it when it is asked.
        num_computed: Rows whose features had to be computed, so far; 0 when all were cached.
        say: Where progress is told.
        notes: What was chosen where the paths of the data leave a choice, a line each.
        warnings: What makes scores on these data doubtful, a line each.
        has_val_split: Whether the test samples are not training samples that were held out.
        train_source: All training samples, also those held out of the bank or without label.
        patch_side: Patches along a side that dense tasks read, of the network and its baselines;
            None where no task does.
        made: What tasks made in their checks and go on with, by a key of theirs.
    """

    def __init__(
        self,
        config: EvalConfig,
        loaded: LoadedBackbone,
        *,
        say: Callable[[str], None],
        like: "EvalRun | None" = None,
        given: DataLike = None,
    ) -> None:
        """Open the data of the settings, or use those of another run.

        Args:
            config: What is asked for.
            loaded: The network.
            say: Where progress is told.
            like: A run whose images, and whose way of showing them, are used.
            given: The data, where they are an object.
        """
        self.modality = MODALITIES[loaded.backbone.modality]
        data = data_of(config.data, self.modality)
        self.config, self.loaded, self.say = replace(config, data=data), loaded, say
        self.device = device_named(config.device)
        self.shown = self.modality.show(data, loaded.spec)
        if self.shown.num_groups is not None:
            loaded.backbone.set_num_groups(self.shown.num_groups)
        self._network = network_digest(loaded.backbone)
        self.num_computed = 0
        self.baselines: dict[str, EvalRun] = {}
        self._columns: dict[tuple[Split, str], Tensor] = {}
        self.patch_side: int | None = None
        self.made: dict[str, Any] = {}
        self.notes: list[str]
        self.warnings: list[str]
        self.has_val_split: bool
        self._loaders: list[EpochLoader[Any]]  # made so far, of this run and its baselines
        self.train_source: Source
        self.bank_source: Source
        self.val_source: Source | None
        if like is not None:
            self.modality, self.shown = like.modality, like.shown
            self.bank_source, self.val_source = like.bank_source, like.val_source
            self.train_source, self._loaders = like.train_source, like._loaders
            self.notes, self.warnings = like.notes, like.warnings
            self.has_val_split, self.patch_side = like.has_val_split, like.patch_side
            return
        module = DataModule(
            self.modality.data_of(data, self.shown),
            seed=config.seed,
            data=given,
        )
        self._loaders = []
        told = [self.shown.note] if self.shown.note else []
        self.notes, self.has_val_split = [*told, *module.notes], module.has_val_split
        self.train_source = first_of(module.train_source, data.max_train, config.seed, "bank")
        self.bank_source = first_of(module.bank_source, data.max_train, config.seed, "bank")
        self.val_source = (
            None
            if module.val_source is None
            else first_of(module.val_source, data.max_val, config.seed, "val")
        )
        self.warnings = self._pair_warnings()

    def _pair_warnings(self) -> list[str]:
        """Of rank 0, whose fingerprints have read the files that leaks are looked for in."""
        for source in (self.bank_source, self.val_source):
            if source is not None:
                data_digest(source)
        is_first = rank() == 0
        return broadcast_object(
            pair_warnings(self.bank_source, self.val_source) if is_first else []
        )

    @property
    def autocast(self) -> torch.dtype | None:
        """Precision of the frozen forward; None for the weights' own."""
        return AUTOCAST[self.config.precision]

    @property
    def view(self) -> Any:
        """The view that is drawn of each sample; of the modality's kind."""
        return self.shown.view

    @property
    def normalize(self) -> Normalize:
        """From the view's values to what the network takes."""
        return self.shown.normalize

    @property
    def mark(self) -> str:
        """How the samples are shown and drawn, for a protocol's name."""
        data = self.config.data
        draws = "".join(
            f"-{name}{num}"
            for name, num in (("train", data.max_train), ("val", data.max_val))
            if num
        )
        return self.shown.mark + draws

    # Data ------------------------------------------------------------------------------------

    def source(self, split: Split) -> Source:
        """Images of a split: train is the bank."""
        if split == "train":
            return self.bank_source
        if self.val_source is None:
            raise DataError(
                f"data.path={self.config.data.path} has no labelled test images; give "
                "data.val_path=, or ask for tasks without labels (metrics, map)."
            )
        return self.val_source

    @property
    def has_labels(self) -> bool:
        """Whether there are labelled training and test images."""
        return (
            self.bank_source.labels is not None
            and self.val_source is not None
            and self.val_source.labels is not None
        )

    def labels(self, split: Split) -> Tensor:
        """Classes of a split, int64, numbered alike in both.

        Class folders are numbered in each split by themselves: where the test images lack a class,
        the same number would mean another class. Names decide.
        """
        source = self.source(split)
        if source.labels is None:
            raise DataError(
                f"the {split} images of {self.config.data.path} have no labels; put them into one "
                "folder per class, or ask for tasks without labels (metrics, map)."
            )
        number = {name: i for i, name in enumerate(self.class_names)}
        table = [number[name] for name in source.class_names]
        return torch.tensor(table)[torch.from_numpy(np.asarray(source.labels))]

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the training classes, then those only the test images have."""
        names = list(self.bank_source.class_names)
        if self.val_source is not None:
            names += [name for name in self.val_source.class_names if name not in names]
        return names

    @property
    def num_classes(self) -> int:
        """Number of classes in both splits together."""
        return len(self.class_names)

    def loader(
        self,
        source: Source,
        view: Any,
        *,
        shuffle: bool = False,
        batch_size: int | None = None,
        batch_key: str = "data.batch_size",
    ) -> EpochLoader[Any]:
        """Batches of one view, every image (or cloud) once.

        With data.on_error=substitute an unreadable one is replaced where the order is drawn, as in
        training, and left out where it is not.

        Args:
            source: The images.
            view: Drawn of each.
            shuffle: Whether the order is drawn.
            batch_size: By default that of the data.
            batch_key: The setting it is from.
        """
        data = self.config.data
        loader = self.modality.loader(
            source,
            {self.modality.view_name: view},
            batch_size=-(-(batch_size or data.batch_size) // world_size()),
            seed=self.config.seed,
            rank=rank(),
            world_size=world_size(),
            num_threads=data.num_threads,
            shuffle=shuffle,
            drop_last=False,
            on_error=data.on_error if shuffle else on_error_of_scores(data.on_error),
            pin_memory=self.device.type == "cuda",
            lower=f"data.{view.size_key} or {batch_key}",
        )
        self._loaders.append(loader)
        return loader

    def unreadable(self) -> dict[str, str]:
        """Reason of each sample that could not be read so far, by name; a collective."""
        own = {
            loader.source.name(index): reason
            for loader in self._loaders
            for index, reason in loader.bad_samples.items()
        }
        return {name: reason for part in all_gather_object(own) for name, reason in part.items()}

    def subset(self, rows: Tensor, split: Split = "train") -> Source:
        """Some images of a split."""
        return SubsetSource(self.source(split), rows.numpy())

    # Features --------------------------------------------------------------------------------

    @property
    def depth(self) -> int | None:
        """Blocks of a ViT with class token; None for other networks."""
        backbone = self.loaded.backbone
        if isinstance(backbone, TimmViT) and getattr(backbone.model, "cls_token", None) is not None:
            return len(backbone.model.blocks)
        return None

    def columns(self, feature_set: str) -> tuple[str, ...]:
        """Names of the features that a set joins for this network."""
        return parse_feature_set(feature_set, depth=self.depth)

    def features(self, split: Split, feature_set: str) -> Tensor:
        """Features of a set, (N, D), of the stored type; a memory map where one part is cached."""
        parts = [as_tensor(part) for part in self.parts(split, feature_set)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @property
    def num_maps(self) -> int:
        """Blocks whose patches can be read; 1 for networks that are no ViT."""
        backbone = self.loaded.backbone
        return len(backbone.model.blocks) if isinstance(backbone, TimmViT) else 1

    def maps(self, split: Split, *, num_layers: int = 1) -> list[Tensor]:
        """Patches of the last blocks, the oldest first, (n, N * D) each; memory maps if cached."""
        names = [f"patches_{-i}" for i in range(min(num_layers, self.num_maps), 0, -1)]
        self.prepare(split, names)
        return [self._columns[split, name] for name in names]

    def parts(self, split: Split, feature_set: str) -> list[Array]:
        """The parts of a set, not yet joined, (N, D_i); memory maps where they are cached."""
        names = self.columns(feature_set)
        self.prepare(split, names)
        return [self._columns[split, name] for name in names]

    def prepare(self, split: Split, names: Iterable[str]) -> None:
        """Have these features ready, all from one pass over the images."""
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if (split, name) not in self._columns]
        if not missing:
            return
        source = self.source(split)
        is_known = source.is_identified and self.loaded.backbone.own is None  # by its digest
        is_kept = self.config.cache.mode != "off" and is_known
        extract = self._from_store if is_kept else self._extract
        rows, found = extract(source, missing)
        if len(rows) < len(source):
            self._leave_out_all_but(rows, split)
        self._columns.update({(split, name): found[name] for name in missing})

    def _leave_out_all_but(self, rows: Tensor, split: Split) -> None:
        """Go on with some rows of a split, in its samples, labels and features alike."""
        self.say(
            f"{len(self.source(split)) - len(rows)} of {len(self.source(split))} samples cannot be "
            "read and are left out"
        )
        part = self.subset(rows, split)
        if split == "train":
            self.bank_source = part
        else:
            self.val_source = part
        of_split = {key: value for key, value in self._columns.items() if key[0] == split}
        self._columns.update({key: value[rows] for key, value in of_split.items()})

    def _extract(self, source: Source, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows that could be read, and their features."""
        self.say(f"{len(source)} images through the network")
        self.num_computed += len(source)
        own = extract_features(
            self.loaded.backbone,
            self.loader(source, self.view),
            normalize=self.normalize,
            spec=spec_of(names),
            device=self.device,
            autocast=self.autocast,
            may_lack=self.config.data.on_error == "substitute",
        )
        found = joined(all_gather_object(own))
        return found.index, found.features

    def _from_store(self, source: Source, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows that could be read, and their features; see `_extract`."""
        cache = self.config.cache
        root = Path(cache.folder).expanduser() if cache.folder else cache_folder()
        data = data_digest(source)
        key = self._store_key(data)
        store = FeatureStore(root, key=key, num_rows=len(source), dtype=cache.dtype)
        missing = store.missing(names)
        if missing and cache.mode == "read":
            return self._extract(source, names)
        if missing:
            self.say(
                f"{len(store.pending_rows(missing))} of {len(source)} images through the network"
            )
            self.num_computed += fill_store(
                store,
                self.loaded.backbone,
                lambda rows: self._batches_of(source, rows),
                normalize=self.normalize,
                spec=spec_of(missing),
                device=self.device,
                autocast=self.autocast,
                may_lack=self.config.data.on_error == "substitute",
            )
            if data_digest(source) != data:
                store.delete()
                raise DataError(
                    f"files of data.path={self.config.data.path} changed while they were read; "
                    "start again once they are complete."
                )
            evict(root, max_bytes=int(cache.max_gb * 2**30), keep=[store.folder])
        else:
            self.say(f"features of {len(source)} images found in {store.folder}")
        return torch.from_numpy(store.rows(names)), store.read(names)

    def _store_key(self, data: str) -> dict[str, object]:
        return {
            "weights": self.loaded.sha256,
            "network": self._network,
            "code": code_digest(),
            "device": self.device.type,
            "on_error": self.config.data.on_error,
            "data": data,
            "view": asdict(self.view),
            **self.shown.key,
            "precision": self.config.precision,
            "num_groups": self.shown.num_groups,
        }

    def _batches_of(self, source: Source, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """Batches of some rows, with their index in the whole source."""
        if len(rows) == len(source):
            yield from self.loader(source, self.view)
            return
        numbers = torch.from_numpy(rows)
        for batch in self.loader(SubsetSource(source, rows), self.view):
            yield replace(batch, index=numbers[batch.index])


def at_least(run: EvalRun, source: Source, num: int, *, task: str) -> None:
    """Refuse a task for which there are too few samples.

    Raises:
        DataError: It says how many there are, and the way out.
    """
    if len(source) < num:
        raise DataError(
            f"tasks={task} needs at least {num} samples, data.path={run.config.data.path} has "
            f"{len(source)} here; leave the task out, or give more samples."
        )


def spread(num_rows: int, num_wanted: int, *, seed: int, name: str) -> Tensor:
    """A fixed draw of rows, rising; all of them where there are no more."""
    if num_wanted >= num_rows:
        return torch.arange(num_rows)
    order = torch.randperm(num_rows, generator=keyed_generator(seed, "rows", name))
    return order[:num_wanted].sort().values


def first_of(source: Source, num: int | None, seed: int, name: str) -> Source:
    """A fixed draw of a source's samples; all of them for None."""
    if num is None or num >= len(source):
        return source
    return SubsetSource(source, spread(len(source), num, seed=seed, name=name).numpy())


def data_digest(source: Source) -> str:
    """Fingerprint of a source, whose files rank 0 reads; a collective."""
    return str(broadcast_object(source.fingerprint() if rank() == 0 else None))


def device_named(name: str) -> torch.device:
    """The device of a setting; auto is the GPU where there is one.

    Raises:
        ConfigError: cuda, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no GPU can be used here; use device=cpu.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
