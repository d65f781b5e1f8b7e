"""Features that cost nothing: pixels of images, hand-made statistics of clouds."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.evaluation.features import FeatureSet, joined
from ssl_vision.points.pictures import raw_statistics
from ssl_vision.types import Batch, Features

_SIDE_PX = 32
_MAX_KEPT = 5000  # samples of a data set, whose inputs are held against a network's features


class Pixels(Backbone):
    """Features are the pixels themselves, averaged down to 32 px."""

    def __init__(self) -> None:
        model: Any = nn.Identity()
        model.num_features = 3 * _SIDE_PX**2
        super().__init__(model, architecture="raw pixels", model_args={})

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Flattened images, (B, C * 32 * 32) or smaller where the images are."""
        if images.ndim == 4 and images.shape[-1] > _SIDE_PX:
            images = nn.functional.adaptive_avg_pool2d(images, _SIDE_PX)
        return Features(pooled=images.flatten(1))


class CloudStatistics(Backbone):
    """Features are spreads and profiles of a cloud."""

    modality = "points"

    def __init__(self) -> None:
        model: Any = nn.Identity()
        model.num_features = 40
        super().__init__(model, architecture="raw statistics", model_args={})

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Statistics of clouds, (B, 40); see `raw_statistics`."""
        return Features(pooled=torch.from_numpy(raw_statistics(images.cpu().numpy())))


def raw_inputs(modality: str) -> Backbone:
    """The inputs of a network as features: `image` or `points`, as in `Backbone.modality`."""
    return CloudStatistics() if modality == "points" else Pixels()


class KeptInputs:
    """Keeps the inputs themselves, of at most so many samples, while a network looks at them."""

    def __init__(self, modality: str, *, num_samples: int) -> None:
        self._raw = raw_inputs(modality)
        self._every = -(-num_samples // _MAX_KEPT)  # evenly: folders are sorted by class
        self._parts: list[FeatureSet] = []

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, of one view each."""
        for batch in batches:
            (view,) = batch.views.values()
            rows = (batch.index % self._every == 0).nonzero().flatten()
            self._parts.append(
                FeatureSet(
                    features={"pooled": self._raw(view[rows]).pooled.float().cpu()},
                    labels=None if batch.label is None else batch.label[rows].cpu(),
                    index=batch.index[rows].cpu(),
                )
            )
            yield batch

    def features(self) -> FeatureSet:
        """What was kept, each sample once."""
        return joined(self._parts)
