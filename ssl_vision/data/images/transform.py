"""A recipe's views as a transform for people's own data sets: `ssl_vision.views.transform`."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.arrays import image_of
from ssl_vision.data.images.loader import PreparedView, prepared_views, scratch_of
from ssl_vision.data.images.normalize import Normalizer
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.source import RawBlock
from ssl_vision.views import ViewConfig

Drawn: TypeAlias = Tensor | list[Tensor]  # (3, S, S), or one for each drawing

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class ViewTransform:
    """Image -> its views, drawn by the kernels that training uses; made by `transform`."""

    def __init__(
        self,
        views: Mapping[str, ViewConfig],
        *,
        is_single: bool,
        seed: int,
        mean: Sequence[float] | None,
        std: Sequence[float],
        decode: DecodeConfig,
    ) -> None:
        self.views, self.seed, self.decode = dict(views), seed, decode
        self._is_single = is_single
        self._normalize = None if mean is None else Normalizer(mean, std)
        self._prepared: dict[str, PreparedView] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled kernels: each worker of a DataLoader has its own."""
        return {**self.__dict__, "_prepared": None}

    def __call__(
        self, image: Any, *, index: int | None = None, epoch: int = 0
    ) -> Drawn | dict[str, Drawn]:
        """The views of an image.

        Args:
            image: PIL image, or array or tensor of levels.
            index: Key of the draws, with seed and epoch: a sample's row. By default it is drawn
                from torch's generator, which DataLoaders seed for each worker.
            epoch: Key of the draws.
        """
        pixels = image_of(image, self.decode, Decoder())
        key = int(torch.randint(1 << 62, ())) if index is None else index
        if self._prepared is None:
            self._prepared = prepared_views(self.views, seed=self.seed)
        drawn = {name: self._draw(name, pixels, key, epoch) for name in self.views}
        return next(iter(drawn.values())) if self._is_single else drawn

    def _draw(self, name: str, pixels: np.ndarray, index: int, epoch: int) -> Drawn:
        view = self.views[name]
        out = np.empty((view.count, 1, 3, view.size_px, view.size_px), np.uint8)
        height, width, _ = pixels.shape
        block = RawBlock(*(np.array([n], np.int64) for n in (pixels.ctypes.data, height, width)))
        assert self._prepared is not None
        self._prepared[name].draw(
            block, np.array([index], np.int64), out, 0, epoch, scratch_of(self.views)
        )
        images = torch.from_numpy(out[:, 0])
        images = images if self._normalize is None else self._normalize(images)
        return images[0] if view.count == 1 else list(images)


def transform(
    views: ViewConfig | Mapping[str, ViewConfig],
    *,
    seed: int = 0,
    mean: Sequence[float] | None = _MEAN,
    std: Sequence[float] = _STD,
    decode: DecodeConfig = DEFAULT,
) -> ViewTransform:
    """Views as a transform in the manner of torchvision's, for a data set of one's own.

        half = ViewConfig(size_px=96, crop_area=(0.2, 1.0))
        views = ssl_vision.views.transform({"a": half, "b": half})

        def __getitem__(self, index):
            return index, views(self.images[index], index=index)

    `DataLoader(..., collate_fn=Batch.collate)` makes batches of such samples that methods take.

    Args:
        views: One view -> tensors (3, S, S); several by name -> dictionaries of them. A view of a
            `count` above 1 is a list.
        seed: Key of the draws.
        mean: Per channel, of values 0..1; None leaves levels 0..255 as uint8.
        std: Per channel.
        decode: The background of transparent pixels.
    """
    is_single = isinstance(views, ViewConfig)
    named = {"view": views} if isinstance(views, ViewConfig) else views
    return ViewTransform(named, is_single=is_single, seed=seed, mean=mean, std=std, decode=decode)
