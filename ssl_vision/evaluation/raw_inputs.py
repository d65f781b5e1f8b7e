"""Features that cost nothing: pixels of images, hand-made statistics of clouds."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, unfold

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.data.modalities import MODALITIES
from ssl_vision.data.modality import Modality
from ssl_vision.evaluation.features import FeatureSet, joined
from ssl_vision.types import Batch, Features

_PATCH_PX = 8  # side of the pixels that stand for a patch
_MAX_KEPT = 5000  # samples of a data set, whose inputs are held against a network's features


class RawInputs(Backbone):
    """A modality's features without a network; see `Modality.raw`.

    Args:
        modality: Of the samples.
        patch_side: Patches along a side of an image, whose pixels are its patch tokens; None for
            none.
    """

    def __init__(self, modality: Modality, *, patch_side: int | None = None) -> None:
        model: Any = nn.Identity()
        model.num_features = modality.raw.width
        super().__init__(model, architecture=f"raw {modality.raw.name}", model_args={})
        self.modality, self._of = modality.name, modality.raw.of
        self._patch_side = patch_side

    def set_num_groups(self, num_groups: int) -> None:
        """Nothing is cut into patches."""

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Of samples as networks take them, (B, D)."""
        side = self._patch_side
        patches = None if side is None else patch_pixels(images, side)
        return Features(pooled=self._of(images), patches=patches)


def patch_pixels(images: Tensor, side: int) -> Tensor:
    """Pixels of each patch, averaged down to 8 x 8 or fewer, (B, C, S, S) -> (B, side^2, D)."""
    cells = max(1, min(_PATCH_PX, images.shape[-1] // side))
    if images.shape[-1] != side * cells:
        images = adaptive_avg_pool2d(images, side * cells)
    return unfold(images, cells, stride=cells).transpose(1, 2)


def raw_inputs(modality: str, *, patch_side: int | None = None) -> Backbone:
    """The inputs of a network as features; of `Backbone.modality`."""
    return RawInputs(MODALITIES[modality], patch_side=patch_side)


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
        """What was kept, each sample once; empty where there was nothing."""
        return joined(self._parts) if self._parts else FeatureSet.empty()
