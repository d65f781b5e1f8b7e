"""Scores of patches during training: segmentation by nearest patches, and the same place twice.

The quality of patches can fall while kNN of whole images rises; these curves tell.
"""

from dataclasses import replace
from math import isqrt

import numpy as np
import torch

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.data.images.masks import MASKS, LabelTable, table_of
from ssl_vision.data.images.paired import Images, Paired, pair_up
from ssl_vision.data.images.two_views import WarpedSource, size_of
from ssl_vision.data.modalities import MODALITIES
from ssl_vision.data.module import DataModule
from ssl_vision.data.source import Source, Split, SubsetSource
from ssl_vision.data.splits import NoValSplitError
from ssl_vision.errors import ConfigError, keys_renamed
from ssl_vision.evaluation.correspondence import CorrespondConfig, View, match_views
from ssl_vision.evaluation.dense import PatchMaps
from ssl_vision.evaluation.dense_knn import DenseKnnConfig, nearest_scores, remember
from ssl_vision.evaluation.features import FeatureSpec, extract_features, try_patches
from ssl_vision.evaluation.segmentation import read_targets, score_masks
from ssl_vision.evaluation.settings import OnlineDenseConfig
from ssl_vision.randomness import derive_key

_IMAGES = MODALITIES["images"]  # also where a run is of pairs of them
DENSE_MIOU = "dense_miou"
CORRESPOND = f"correspond_{CorrespondConfig().quoted_px:g}px"
_OWN_KEYS = {"masks.": "online_eval.dense.", "data.path": "online_eval.dense.images"}


class OnlineDense:
    """Scores of patches of the network in training; none unless the settings ask for them.

    Attributes:
        notes: What was chosen where the settings leave a choice, a line each.
    """

    def __init__(self, config: OnlineDenseConfig, data: DataModule, backbone: Backbone) -> None:
        """Open images and masks.

        Args:
            config: What is scored.
            data: Of the run: how images are shown, and those that are matched with themselves.
            backbone: The network.

        Raises:
            ConfigError: The run is not of images, or its network has no square map of patches.
            DataError: Images or masks cannot be used.
        """
        self._config, self._data, self.notes = config, data, list[str]()
        self._masked: tuple[Paired, LabelTable] | None = None
        self._side = 0
        if config.images is None and not config.correspond_images:
            return
        self._side = _side(backbone, data)
        if config.images is None and data.modality.name != _IMAGES.name:
            raise ConfigError(
                f"online_eval.dense.correspond_images={config.correspond_images} is of single "
                f"images; {data.config.path} holds {data.modality.name}. Give "
                "online_eval.dense.images= and path=, whose images it then takes."
            )
        if config.images is not None:
            with keys_renamed(_OWN_KEYS):
                self._masked = self._open(config.images)

    def scores(self, backbone: Backbone) -> dict[str, float]:
        """Scores by name, in [0, 1]; on one process."""
        found: dict[str, float] = {}
        if self._masked is not None:
            found |= self._miou(backbone, *self._masked)
        if self._config.correspond_images:
            found |= self._correspond(backbone)
        return found

    # Masks ----------------------------------------------------------------------------------

    def _open(self, path: str) -> tuple[Paired, LabelTable]:
        """Images with their masks, and what the masks mean."""
        config, train = self._config, self._source(path, "train")
        assert train is not None
        val = self._source(path, "val")
        images = Images(
            path=path,
            val_path=None,
            train=train,
            whole=train,
            val=val,
            has_val_split=val is not None,
            keep=lambda source, _: source,
        )
        found = pair_up(images, config, MASKS)
        paired = replace(
            found,
            train=_spread(found.train, config.max_train),
            val=_spread(found.val, config.max_val),
        )
        table, note = table_of(config, paired.of(paired.train))
        self.notes += [*paired.notes, *paired.warnings, *([note] if note else [])]
        return paired, table

    def _source(self, path: str, split: Split) -> Source | None:
        try:
            return _IMAGES.open(path, split=split, config=self._data.config)
        except NoValSplitError:
            return None

    def _miou(self, backbone: Backbone, paired: Paired, table: LabelTable) -> dict[str, float]:
        train, val = (self._patches(backbone, source) for source in (paired.train, paired.val))
        if not (_is_finite(train) and _is_finite(val)):
            return {}  # the verdict says so
        targets = read_targets(paired.of(paired.train), table, side=self._side)
        memory = remember(
            train,
            targets.classes,
            len(table.names),
            max_patches=self._config.max_patches,
            seed=self._data.data_seed,
        )
        scores = score_masks(
            nearest_scores(memory, config=DenseKnnConfig()),
            val,
            paired.of(paired.val),
            table,
            trained=targets.pixels,
            seed=self._data.data_seed,
        )
        return {DENSE_MIOU: scores.miou}

    # The same place twice -------------------------------------------------------------------

    def _correspond(self, backbone: Backbone) -> dict[str, float]:
        settings, data = CorrespondConfig(), self._data
        source = _spread(self._single_images(), self._config.correspond_images)
        key = derive_key(data.data_seed, "homographies")
        warped = WarpedSource(source, strength=settings.warp, key=key)
        maps = [self._patches(backbone, each) for each in (source, warped)]
        if not all(map(_is_finite, maps)):
            return {}
        shares = []
        for row in range(len(source)):
            size = size_of(source, row)
            first, second = (View(each.patches(torch.tensor([row]))[0], size) for each in maps)
            size_px = data.config.evaluation_view().size_px
            found = match_views(first, second, warped.geometry(row, size), size_px=size_px)
            shares.append((found.errors_px <= settings.quoted_px).mean())
        return {CORRESPOND: float(np.mean(shares))}

    def _single_images(self) -> Source:
        """Test images: those with masks, or the run's."""
        if self._masked is not None:
            return self._masked[0].val
        return self._data.val_source or self._data.bank_source

    def _patches(self, backbone: Backbone, source: Source) -> PatchMaps:
        """Patches of images that are shown whole."""
        data = self._data
        loader = _IMAGES.loader(
            source,
            {_IMAGES.view_name: replace(data.config.evaluation_view(), crop="whole")},
            batch_size=data.config.eval_batch_size,
            seed=data.data_seed,
            num_threads=data.config.num_threads,
            shuffle=False,
            drop_last=False,
            pin_memory=torch.cuda.is_available(),
        )
        device = next(backbone.parameters()).device
        batches = (data.normalize(batch.to(device)) for batch in loader)
        spec = FeatureSpec(pools=("patches",))
        found = extract_features(backbone, batches, normalize=None, spec=spec)
        return PatchMaps(found.features["patches_-1"], side=self._side)


def _side(backbone: Backbone, data: DataModule) -> int:
    """Patches along a side of the images that are shown.

    Raises:
        ConfigError: There is no square map of them.
    """
    if not data.modality.has_pixels:
        raise ConfigError(
            f"online_eval.dense is of images; {data.config.path} holds {data.modality.name}."
        )
    size_px = data.config.evaluation_view().size_px
    num = try_patches(backbone, size_px, device=next(backbone.parameters()).device)
    if num == 0 or isqrt(num) ** 2 != num:
        raise ConfigError(
            f"online_eval.dense needs a network with a square map of patches; "
            f"{backbone.architecture} gives {num} patches of {size_px} px."
        )
    return isqrt(num)


def _is_finite(maps: PatchMaps) -> bool:
    return all(bool(part.isfinite().all()) for part in maps.parts)


def _spread(source: Source, num: int) -> Source:
    """At most `num` samples, evenly over all: folders are sorted by class."""
    if num >= len(source):
        return source
    return SubsetSource(source, np.linspace(0, len(source) - 1, num).astype(np.int64))
